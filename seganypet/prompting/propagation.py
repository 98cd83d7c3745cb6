"""Carrying a finished slice to its neighbours: the prompt that asks for it, and where it ends.

    mask of a slice -> prompts and prior of the next slice -> its mask -> ... until the object ends
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from seganypet.errors import ClickError
from seganypet.pet.volume import Volume
from seganypet.prompting.prompt import Mark, Prompt, Voxel, check_mm, in_mm, is_voxel

MAX_AREA_RATIO = 1.6  # of the next slice's mask to this one's
MIN_AREA_RATIO = 0.4
NECK = 0.75  # of the largest area; what narrows to less and widens again is another object
MIN_OVERLAP = 0.6  # of the smaller of the two masks
MAX_DEVIATION = 1.5  # of mean grey levels, in standard deviations within the object
MIN_SD = 12.0  # grey levels; a saturated object has none


@dataclass(frozen=True)
class Propagation(Prompt):
    """A finished slice, to be carried to its neighbours.

    Attributes:
        ijk: A voxel of the object in that slice.
        slices: How many slices to go on each side, at most; None: until the object ends.
        foreground: True, always.
    """

    kind: ClassVar[str] = "propagation"
    binds_voxels: ClassVar[bool] = False

    ijk: Voxel
    slices: int | None = None
    foreground: bool = field(default=True, init=False)

    @property
    def voxels(self) -> np.ndarray:
        return np.array([self.ijk])

    @property
    def marks(self) -> tuple[Mark, ...]:
        """Nothing: the masks themselves are drawn."""
        return ()

    def constrain(self, mask: np.ndarray) -> None:
        """Nothing: what the network makes of it counts."""

    def checked(self, volume: Volume) -> Self:
        if self.slices is not None and not (type(self.slices) is int and self.slices > 0):
            raise ClickError(f"slices={self.slices!r}; expected a whole number of slices above 0, or None.")
        return type(self)(volume.check_voxel(self.ijk), self.slices)

    def to_json(self, affine: np.ndarray | None = None) -> dict[str, Any]:
        mm = {} if affine is None else {"mm": in_mm(self.ijk, affine)}
        return {"ijk": list(self.ijk), **mm, "slices": self.slices}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any], affine: np.ndarray | None = None) -> Self:
        ijk, slices = entry.get("ijk"), entry.get("slices")
        if not (is_voxel(ijk) and (slices is None or type(slices) is int)):
            raise ClickError(
                f"{dict(entry)} is no propagation; expected ijk with three integers, and slices, a whole number or "
                "null."
            )
        check_mm([ijk], [entry.get("mm")], affine)
        i, j, k = ijk
        return cls((i, j, k), slices)


class ObjectLook(NamedTuple):
    """Mean and spread of the grey levels of an object in the slice that is carried."""

    mean: float
    sd: float

    @classmethod
    def of(cls, picture: np.ndarray, mask: np.ndarray) -> Self:
        """From a slice, (rows, columns) uint8, and the mask in it, bool, not empty."""
        return cls(float(picture[mask].mean()), float(picture[mask].std()))


def end_of_object(
    look: ObjectLook, areas: Sequence[int], before: np.ndarray, after: np.ndarray, picture: np.ndarray
) -> str:
    """Why a mask that was carried to the next slice is not the object any more; "" if it is.

    Asked to go on, a network draws something in any slice: beyond the dome of a liver, lung. So the grey levels decide,
    and they are compared with those of the slice that a person has seen, as a change from slice to slice is small.

    Args:
        look: Grey levels of the object.
        areas: Pixels of its masks so far, from the slice that is carried on; the last one is that of `before`.
        before: Mask of a slice, (rows, columns) bool, not empty.
        after: What it became in the next one.
        picture: The next slice, (rows, columns) uint8.
    """
    area, next_area, peak = areas[-1], int(after.sum()), int(np.argmax(areas))
    if not next_area:
        return "the mask is empty"
    if not MIN_AREA_RATIO <= next_area / area <= MAX_AREA_RATIO:
        return f"its area would change from {area} to {next_area} pixels"
    neck = min(areas[peak:])
    if neck < NECK * areas[peak] and next_area > MAX_AREA_RATIO * neck:
        return f"it would widen again, from {neck} to {next_area} pixels"
    if np.count_nonzero(before & after) < MIN_OVERLAP * min(area, next_area):
        return "it would lie elsewhere"
    if abs(picture[after].mean() - look.mean) > MAX_DEVIATION * max(look.sd, MIN_SD):
        return "it would be much " + ("darker" if picture[after].mean() < look.mean else "brighter")
    return ""
