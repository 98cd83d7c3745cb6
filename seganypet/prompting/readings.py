"""What an ambiguous prompt may mean: a spot, a part, the whole; and the choice of one reading.

One click in a kidney may mean its hot pelvis, the kidney, or both kidneys' neighbourhood. A session answers with what
it holds for likeliest and keeps the others as readings; a correction leaves one.

Source: SAM's several masks for one prompt, with the IoU that the network predicts. Their order is ours, see look.py:
IoU in a window says little about what reaches beyond it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

import numpy as np

from seganypet.errors import ClickError
from seganypet.pet.volume import Volume
from seganypet.prompting.packed_mask import PackedMask
from seganypet.prompting.prompt import Mark, Prompt, Voxel, check_mm, in_mm, is_voxel

MAX_READINGS = 3
SAME_DSC = 0.9  # masks that agree better than this are one reading
MIN_READING_ML = 0.5  # beside the likeliest; less is noise to PET, and to networks that learned lesions from there on

T = TypeVar("T")


class Reading(NamedTuple):
    """One mask that a prompt may mean.

    Attributes:
        packed: The mask, packed.
        quality: IoU with what is meant, as the network predicts it, 0 to 1; None where none is trained to predict it.
        volume_ml: Volume of the mask, in mL.
    """

    packed: PackedMask
    quality: float | None
    volume_ml: float

    @classmethod
    def of(cls, packed: PackedMask, volume: Volume, quality: float | None = None) -> Self:
        """A reading of a mask on a volume."""
        return cls(packed, quality, packed.voxel_count * volume.voxel_volume_ml)

    @property
    def mask(self) -> np.ndarray:
        """The mask on the volume's grid, bool, shape (I, J, K); unpacked when it is asked for, the caller's own."""
        return self.packed.unpack()


def distinct(
    candidates: Iterable[T], overlap: Callable[[T, T], float], most: int, same: float = SAME_DSC
) -> list[T]:
    """The first candidates of which no two are one reading, at most so many.

    Args:
        candidates: In order of preference; no more are drawn than needed.
        overlap: DSC of two of them.
        most: How many to keep.
        same: DSC above which two are one.
    """
    kept: list[T] = []
    for one in candidates:
        if not any(overlap(one, other) > same for other in kept):
            kept.append(one)
        if len(kept) == most:
            break
    return kept


def check_reading(name: str, reading: int, count: int) -> None:
    """Raise ClickError unless an object has so many readings that there is one of a number."""
    if not count:
        raise ClickError(f"{name}: there is no reading to choose yet; prompt it first.")
    if not 0 <= reading < count:
        known = f"there are 0 to {count - 1}" if count > 1 else "there is one, 0, as only a first prompt is ambiguous"
        raise ClickError(f"{name}: no reading {reading}; {known}. See session.readings.")


@dataclass(frozen=True)
class Choice(Prompt):
    """Another reading of the prompt before it, chosen by its number.

    Attributes:
        ijk: The voxel that was prompted, where views look.
        reading: Number among the session's readings, from 0.
        foreground: True, always.
    """

    kind: ClassVar[str] = "choice"
    binds_voxels: ClassVar[bool] = False

    ijk: Voxel
    reading: int
    foreground: bool = field(default=True, init=False)

    @property
    def voxels(self) -> np.ndarray:
        return np.array([self.ijk])

    @property
    def points(self) -> tuple[tuple[Voxel, bool], ...]:
        """None: what was prompted is known already."""
        return ()

    @property
    def marks(self) -> tuple[Mark, ...]:
        """Nothing: the mask itself is drawn."""
        return ()

    def constrain(self, mask: np.ndarray) -> None:
        """Nothing: the reading counts."""

    def checked(self, volume: Volume) -> Self:
        if isinstance(self.reading, bool) or not isinstance(self.reading, Integral):
            raise ClickError(f"reading={self.reading!r}; expected the number of a reading, a whole number from 0.")
        return type(self)(volume.check_voxel(self.ijk), int(self.reading))

    def to_json(self, affine: np.ndarray | None = None) -> dict[str, Any]:
        mm = {} if affine is None else {"mm": in_mm(self.ijk, affine)}
        return {"ijk": list(self.ijk), **mm, "reading": self.reading}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any], affine: np.ndarray | None = None) -> Self:
        ijk, reading = entry.get("ijk"), entry.get("reading")
        if not (is_voxel(ijk) and type(reading) is int):
            raise ClickError(
                f"{dict(entry)} is no choice of a reading; expected ijk with three integers, and reading, a whole "
                "number."
            )
        check_mm([ijk], [entry.get("mm")], affine)
        i, j, k = ijk
        return cls((i, j, k), reading)
