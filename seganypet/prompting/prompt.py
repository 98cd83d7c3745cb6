"""What every prompt knows, whatever its kind, and the plainest kind: a click.

A prompt is a type. It knows the voxels it speaks of, the points that stand for it where a network takes points, what
it settles in a mask, how it reads and writes JSON, and what is drawn of it; sessions, pictures, widgets, reports and
journals ask it for these and for nothing else. A new kind is a frozen dataclass derived from `Prompt` and entered in
`prompts.PROMPTS`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import nibabel as nib
import numpy as np

from seganypet.errors import ClickError
from seganypet.pet.volume import Volume, finite_point, rounded

Voxel = tuple[int, int, int]


class Mark(NamedTuple):
    """One drawing of a prompt.

    Attributes:
        path_ijk: Voxels, joined by straight lines in this order; a single one is drawn as a disc, or, of a background
            prompt, as a cross.
        foreground: Sign of the prompt, which chooses the colour.
    """

    path_ijk: tuple[Voxel, ...]
    foreground: bool


class Prompt(ABC):
    """One thing that a user says about an object.

    Kinds are frozen dataclasses of plain Python values: prompts are compared, hashed and kept in every undo step.

    Attributes:
        kind: Name of the kind in journals, in messages of a browser and in what networks accept.
        foreground: True: "this belongs to the object"; False: "this does not".
        binds_voxels: True: each of its voxels is on the side that the user said, whatever prompts of regions say.
        starts_anew: True: prompts on the object before it no longer count.
    """

    kind: ClassVar[str]
    binds_voxels: ClassVar[bool] = True
    starts_anew: ClassVar[bool] = False
    foreground: bool

    @property
    @abstractmethod
    def voxels(self) -> np.ndarray:
        """The voxels of the volume that it speaks of, (n, 3) int, n at least 1; not to be written to."""

    @property
    def points(self) -> tuple[tuple[Voxel, bool], ...]:
        """Clicks that stand for it where a network takes points only, each with its sign: by default each voxel."""
        return tuple((voxel, self.foreground) for voxel in as_voxels(self.voxels))

    @property
    def centre_ijk(self) -> Voxel:
        """The one of its voxels that is nearest to their mean; views move there."""
        voxels = self.voxels
        nearest = np.linalg.norm(voxels - voxels.mean(0), axis=1).argmin()
        return as_voxels(voxels[[nearest]])[0]

    @property
    def marks(self) -> tuple[Mark, ...]:
        """What is drawn of it: each of its voxels, unless the kind knows better."""
        return tuple(Mark((voxel,), self.foreground) for voxel in as_voxels(self.voxels))

    def constrain(self, mask: np.ndarray) -> None:
        """Write into a mask what the prompt settles: by default, that its voxels are on the side that the user said.

        Args:
            mask: Bool, shape of the volume; changed in place.
        """
        mask[tuple(self.voxels.T)] = self.foreground

    def obeyed_by(self, mask: np.ndarray) -> bool:
        """Whether a mask, bool, shape of the volume, is as the prompt settles it, see `constrain`."""
        return bool((mask[tuple(self.voxels.T)] == self.foreground).all())

    def checked(self, volume: Volume) -> Self:
        """The prompt as a session keeps it: of plain values, and known to fit the volume.

        Raises:
            ClickError: It speaks of no voxel, or of one outside the volume.
        """
        voxels_on(volume, self.kind, self.voxels)
        return self

    @abstractmethod
    def to_json(self, affine: np.ndarray | None = None) -> dict[str, Any]:
        """Its fields for JSON, without the kind.

        Args:
            affine: Voxels to RAS+ millimetres, (4, 4); with it, positions are also written in mm, for people and as a
                check on reading.
        """

    @classmethod
    @abstractmethod
    def from_json(cls, entry: Mapping[str, Any], affine: np.ndarray | None = None) -> Self:
        """Read what `to_json` wrote; with an affine, millimetres must be there and agree with the voxels.

        Raises:
            ClickError: Fields are missing, of another type, or contradict each other.
        """


@dataclass(frozen=True)
class Click(Prompt):
    """One point.

    Attributes:
        ijk: Voxel of the volume that was clicked.
        foreground: True: "this belongs to the object"; False: "this does not".
    """

    kind: ClassVar[str] = "click"

    ijk: Voxel
    foreground: bool = True

    @property
    def voxels(self) -> np.ndarray:
        return np.array([self.ijk])

    @property
    def centre_ijk(self) -> Voxel:
        return self.ijk

    def checked(self, volume: Volume) -> Self:
        return type(self)(volume.check_voxel(self.ijk), checked_sign(self.foreground))

    def to_json(self, affine: np.ndarray | None = None) -> dict[str, Any]:
        mm = {} if affine is None else {"mm": in_mm(self.ijk, affine)}
        return {"ijk": list(self.ijk), **mm, "foreground": self.foreground}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any], affine: np.ndarray | None = None) -> Self:
        if not is_voxel(entry.get("ijk")) or not isinstance(entry.get("foreground"), bool):
            raise ClickError(
                f"{dict(entry)} is no click; expected ijk with three integers, and foreground true or false."
            )
        check_mm([entry["ijk"]], [entry.get("mm")], affine)
        return cls(tuple(entry["ijk"]), entry["foreground"])


def click_at(volume: Volume, ijk: Any = None, mm: Any = None, foreground: bool = True) -> Click:
    """A click on a volume, checked.

    Args:
        volume: Volume that is clicked.
        ijk: Voxel, three whole numbers; or
        mm: Position in RAS+ millimetres, moved to the nearest voxel.
        foreground: False: "this does not belong to the object".

    Raises:
        ClickError: Neither or both given, not three finite numbers, fractions of voxels, outside the volume;
            `foreground` neither true nor false.
    """
    foreground = checked_sign(foreground)
    if (ijk is None) == (mm is None):
        raise ClickError(f"give a click either as ijk=(i, j, k) or as mm=(x, y, z); got ijk={ijk}, mm={mm}.")
    if mm is None:
        return Click(volume.check_voxel(ijk), foreground)
    point_mm = finite_point(mm, "mm")
    voxel = volume.to_ijk(point_mm)
    if not volume.contains_ijk(voxel):
        raise ClickError(
            f"{volume.source}: mm={rounded(point_mm)} is voxel {rounded(voxel)}, outside shape {volume.shape}. Is it "
            "RAS+ (x to the right, y to the front, z to the head)? DICOM counts x and y the other way."
        )
    i, j, k = np.rint(voxel).astype(int).tolist()
    return Click((i, j, k), foreground)


def voxels_on(volume: Volume, what: str, ijk: Any = None, mm: Any = None) -> tuple[Voxel, ...]:
    """Voxels of a volume, checked.

    Args:
        volume: Volume whose voxels they are.
        what: The prompt that they belong to, for messages.
        ijk: Voxels, whole numbers, (n, 3); or
        mm: Positions in RAS+ millimetres, (n, 3), moved to the nearest voxels.

    Raises:
        ClickError: Neither or both given, no voxel, not finite numbers in threes, fractions of voxels, outside the
            volume.
    """
    if (ijk is None) == (mm is None):
        both = "neither" if ijk is None else "both"
        raise ClickError(f"give the voxels of a {what} either as voxel indices or in millimetres; got {both}.")
    given = ijk if mm is None else mm
    try:
        points = np.atleast_2d(np.asarray(given, float))
    except (TypeError, ValueError, OverflowError) as error:
        raise ClickError(f"a {what} of {str(given)[:80]}; expected points of three numbers each, (n, 3).") from error
    if not points.size:
        raise ClickError(f"a {what} without any voxel; expected at least one.")
    if points.ndim != 2 or points.shape[1] != 3:
        raise ClickError(f"a {what} of an array of shape {points.shape}; expected points of three numbers, (n, 3).")
    finite = np.isfinite(points).all(axis=1)
    voxels = np.rint(points if mm is None else volume.to_ijk(points))
    inside = finite & ((voxels >= 0) & (voxels < volume.shape)).all(axis=1)
    whole = mm is not None or (points == voxels).all(axis=1)
    for point in points[~(inside & whole)]:
        click_at(volume, **{"ijk" if mm is None else "mm": point})  # raises
    return as_voxels(voxels)


def as_voxels(voxels: np.ndarray) -> tuple[Voxel, ...]:
    """The rows of an array of voxels, (n, 3), as tuples of plain integers."""
    return tuple((i, j, k) for i, j, k in voxels.astype(int).tolist())


def checked_sign(foreground: Any) -> bool:
    """The sign of a prompt as bool; ClickError if it is neither true nor false."""
    if foreground not in (True, False):
        raise ClickError(f"foreground={foreground!r}; expected True ('belongs to the object') or False ('does not').")
    return bool(foreground)


def in_mm(voxels: Any, affine: np.ndarray) -> list:
    """Positions of voxels, (..., 3), as journals write them: RAS+ millimetres, three decimals."""
    return nib.affines.apply_affine(affine, voxels).round(3).tolist()


def is_voxel(given: Any) -> bool:
    """Whether something read from JSON is a voxel: a list of three integers."""
    return isinstance(given, list) and len(given) == 3 and all(type(n) is int and abs(n) < 1e9 for n in given)


def check_mm(voxels: Sequence[Sequence[int]], mm: Any, affine: np.ndarray | None) -> None:
    """Raise ClickError unless millimetres read from JSON are those of the voxels; without an affine, nothing is."""
    if affine is None:
        return
    given = mm if isinstance(mm, list) and len(mm) == len(voxels) else [None] * len(voxels)
    for ijk, point, expected_mm in zip(voxels, given, in_mm(voxels, affine), strict=True):
        numbers = isinstance(point, list) and len(point) == 3 and all(isinstance(n, (int, float)) for n in point)
        if not (numbers and all(abs(n) < 1e9 for n in point) and np.allclose(point, expected_mm, rtol=0, atol=0.01)):
            raise ClickError(
                f"ijk={list(ijk)} and mm={point} contradict each other: this voxel lies at mm={expected_mm}. One of "
                "them was edited: prompt again in a session and save its journal."
            )
