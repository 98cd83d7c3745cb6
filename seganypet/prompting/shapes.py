"""Prompts that are drawn: scribbles, boxes, lassos.

A box or lasso is a region. A positive one bounds the object: nothing of it lies outside, within the slice that the
region is drawn in (of a 3D box, anywhere). A negative one empties itself: nothing inside belongs to the object.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar, Self

import numpy as np
from scipy import ndimage

from seganypet.errors import ClickError
from seganypet.pet.volume import Volume
from seganypet.prompting.prompt import (
    Mark,
    Prompt,
    Voxel,
    as_voxels,
    check_mm,
    checked_sign,
    in_mm,
    is_voxel,
    voxels_on,
)
from seganypet.regions import deepest_voxel

MAX_POINTS = 8  # that stand for a scribble where a network takes points only


def joined(path_ijk: Sequence[Voxel]) -> np.ndarray:
    """The voxels on straight lines from each voxel of a path to the next, (n, 3) int, 26-connected, none twice running.

    >>> joined([(0, 0, 0), (4, 2, 0)]).tolist()
    [[0, 0, 0], [1, 1, 0], [2, 1, 0], [3, 2, 0], [4, 2, 0]]
    """
    lines = [np.array([path_ijk[0]])]
    for start, end in pairwise(np.array(path_ijk)):
        steps = np.abs(end - start).max()
        lines.append(np.floor(np.linspace(start, end, steps + 1)[1:] + 0.5).astype(int))
    return np.concatenate(lines)


@dataclass(frozen=True)
class PathPrompt(Prompt):
    """What scribbles and lassos share: a path of voxels, joined by straight lines in their order."""

    path_ijk: tuple[Voxel, ...]
    foreground: bool = True

    def checked(self, volume: Volume) -> Self:
        return type(self)(voxels_on(volume, self.kind, self.path_ijk), checked_sign(self.foreground))

    def to_json(self, affine: np.ndarray | None = None) -> dict[str, Any]:
        mm = {} if affine is None else {"path_mm": in_mm(self.path_ijk, affine)}
        return {"path_ijk": [list(voxel) for voxel in self.path_ijk], **mm, "foreground": self.foreground}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any], affine: np.ndarray | None = None) -> Self:
        path, foreground = entry.get("path_ijk"), entry.get("foreground")
        if not (isinstance(path, list) and path and all(map(is_voxel, path)) and isinstance(foreground, bool)):
            raise ClickError(
                f"{str(dict(entry))[:200]} is no {cls.kind}; expected path_ijk, a list of voxels of three integers, "
                "and foreground true or false."
            )
        check_mm(path, entry.get("path_mm"), affine)
        return cls(tuple((i, j, k) for i, j, k in path), foreground)


@dataclass(frozen=True)
class Scribble(PathPrompt):
    """A line drawn along voxels, each of which counts as if it were clicked.

    Attributes:
        path_ijk: Voxels, joined by straight lines in this order; one voxel is enough.
        foreground: True: "these belong to the object"; False: "these do not".
    """

    kind: ClassVar[str] = "scribble"

    @cached_property
    def voxels(self) -> np.ndarray:
        return joined(self.path_ijk)

    @property
    def points(self) -> tuple[tuple[Voxel, bool], ...]:
        """At most 8 of its voxels, evenly spaced, both ends included."""
        count = len(self.voxels)
        chosen = np.unique(np.linspace(0, count - 1, min(count, MAX_POINTS)).round().astype(int))
        return tuple((voxel, self.foreground) for voxel in as_voxels(self.voxels[chosen]))

    @property
    def marks(self) -> tuple[Mark, ...]:
        return (Mark(as_voxels(self.voxels), self.foreground),)


@dataclass(frozen=True)
class Box(Prompt):
    """A box along the axes of the volume's grid.

    A box one voxel thick is drawn in a slice; one that is thicker along all axes is a 3D box. A positive one must not
    be thin along several axes, because its slice would be open, unless the volume is a single slice.

    Attributes:
        low_ijk: Voxel of the corner with the lowest indices, inside the box.
        high_ijk: Voxel of the corner with the highest indices, inside the box.
        foreground: True: "in this slice (of a 3D box: anywhere) nothing of the object lies outside"; False: "nothing
            inside belongs to the object".
    """

    kind: ClassVar[str] = "box"
    binds_voxels: ClassVar[bool] = False

    low_ijk: Voxel
    high_ijk: Voxel
    foreground: bool = True

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """The box as an index of the volume's array."""
        i, j, k = (slice(low, high + 1) for low, high in zip(self.low_ijk, self.high_ijk, strict=True))
        return i, j, k

    @property
    def thin_axes(self) -> tuple[int, ...]:
        """Axes of the array along which it is one voxel thick."""
        return tuple(axis for axis in range(3) if self.low_ijk[axis] == self.high_ijk[axis])

    @property
    def voxels(self) -> np.ndarray:
        """Every voxel inside; millions of a large box, so that nothing asks for them without need."""
        return np.mgrid[self.slices].reshape(3, -1).T

    @property
    def centre_ijk(self) -> Voxel:
        i, j, k = ((low + high) // 2 for low, high in zip(self.low_ijk, self.high_ijk, strict=True))
        return i, j, k

    @property
    def points(self) -> tuple[tuple[Voxel, bool], ...]:
        """Its centre."""
        return ((self.centre_ijk, self.foreground),)

    @property
    def marks(self) -> tuple[Mark, ...]:
        """The outlines of its faces, so that every slice through the box shows a rectangle."""
        faces = []
        for axis in self.thin_axes[:1] or range(3):
            one, other = (across for across in range(3) if across != axis)
            for index in {self.low_ijk[axis], self.high_ijk[axis]}:
                corners = np.full((5, 3), index)
                corners[:, one] = np.take((self.low_ijk[one], self.high_ijk[one]), (0, 1, 1, 0, 0))
                corners[:, other] = np.take((self.low_ijk[other], self.high_ijk[other]), (0, 0, 1, 1, 0))
                faces.append(Mark(as_voxels(joined(as_voxels(corners))), self.foreground))
        return tuple(faces)

    def constrain(self, mask: np.ndarray) -> None:
        if not self.foreground:
            mask[self.slices] = False
            return
        inside = mask[self.slices].copy()
        mask[self._scope(mask.shape)] = False
        mask[self.slices] = inside

    def obeyed_by(self, mask: np.ndarray) -> bool:
        inside = np.count_nonzero(mask[self.slices])
        return inside == (np.count_nonzero(mask[self._scope(mask.shape)]) if self.foreground else 0)

    def _scope(self, shape: Sequence[int]) -> tuple[slice, ...]:
        """What it bounds, as an index of an array of this shape: its slice, or everything."""
        slice_axis = sorted(self.thin_axes, key=lambda axis: shape[axis])[:1]
        return tuple(self.slices[axis] if axis in slice_axis else slice(None) for axis in range(3))

    def checked(self, volume: Volume) -> Self:
        low, high = voxels_on(volume, "box", [self.low_ijk, self.high_ijk])
        if any(a > b for a, b in zip(low, high, strict=True)):
            raise ClickError(
                f"a box from low_ijk={low} to high_ijk={high} is inside out; expected low <= high along each axis, "
                "both corners inside the box."
            )
        box = type(self)(low, high, checked_sign(self.foreground))
        thin = box.thin_axes
        if box.foreground and len(thin) > 1 and all(volume.shape[axis] > 1 for axis in thin):
            raise ClickError(
                f"a positive box from {low} to {high} is one voxel thick along axes {list(thin)}, so that it could lie "
                "in several slices; expected one such axis at most. Make it two voxels wide, or scribble or click."
            )
        return box

    def to_json(self, affine: np.ndarray | None = None) -> dict[str, Any]:
        mm = {} if affine is None else {"corners_mm": in_mm([self.low_ijk, self.high_ijk], affine)}
        return {"low_ijk": list(self.low_ijk), "high_ijk": list(self.high_ijk), **mm, "foreground": self.foreground}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any], affine: np.ndarray | None = None) -> Self:
        corners, foreground = [entry.get("low_ijk"), entry.get("high_ijk")], entry.get("foreground")
        if not (all(map(is_voxel, corners)) and isinstance(foreground, bool)):
            raise ClickError(
                f"{dict(entry)} is no box; expected low_ijk and high_ijk with three integers each, and foreground true "
                "or false."
            )
        check_mm(corners, entry.get("corners_mm"), affine)
        low, high = ((i, j, k) for i, j, k in corners)
        return cls(low, high, foreground)


def box_on(volume: Volume, low_ijk: Any, high_ijk: Any, corners_mm: Any, foreground: bool) -> Box:
    """A box on a volume, from voxels or from two opposite corners in RAS+ millimetres.

    Raises:
        ClickError: Neither or both given, other than two points, or a corner outside the volume.
    """
    indices = None if low_ijk is None and high_ijk is None else [low_ijk, high_ijk]
    corners = voxels_on(volume, "box", indices, corners_mm)
    if len(corners) != 2:
        raise ClickError(f"a box of {len(corners)} corners; expected two opposite ones.")
    if corners_mm is not None:  # low in millimetres need not be low in indices
        corners = as_voxels(np.sort(corners, axis=0))
    low, high = corners
    return Box(low, high, foreground)


@dataclass(frozen=True)
class Lasso(PathPrompt):
    """A closed contour in one slice of the volume's grid.

    Attributes:
        path_ijk: Voxels of the contour, joined by straight lines, the last to the first; all share one index, that of
            the slice. What the contour encloses and the contour itself are inside, also where it crosses itself.
        foreground: True: "in this slice nothing of the object lies outside"; False: "nothing inside belongs to the
            object".
    """

    kind: ClassVar[str] = "lasso"
    binds_voxels: ClassVar[bool] = False

    @cached_property
    def slice_axis(self) -> int:
        """Axis of the array that is perpendicular to its slice."""
        return int(np.ptp(np.array(self.path_ijk), axis=0).argmin())

    @property
    def slice_index(self) -> int:
        """Index of its slice along `slice_axis`."""
        return self.path_ijk[0][self.slice_axis]

    @cached_property
    def _fill(self) -> tuple[tuple[int, int], np.ndarray]:
        """First row and column of the filled contour in its slice, and the fill, (rows, columns) bool."""
        outline = np.delete(joined((*self.path_ijk, self.path_ijk[0])), self.slice_axis, axis=1)
        corner = outline.min(0)
        fill = np.zeros(np.ptp(outline, axis=0) + 1, bool)
        fill[tuple((outline - corner).T)] = True
        row, column = corner.tolist()
        return (row, column), ndimage.binary_fill_holes(fill)

    @cached_property
    def voxels(self) -> np.ndarray:
        corner, fill = self._fill
        return np.insert(np.argwhere(fill) + corner, self.slice_axis, self.slice_index, axis=1)

    @property
    def centre_ijk(self) -> Voxel:
        """The voxel inside that is farthest from the contour."""
        corner, fill = self._fill
        deepest = np.add(deepest_voxel(fill, (1, 1)), corner)
        return as_voxels(np.insert(deepest, self.slice_axis, self.slice_index)[None])[0]

    @property
    def points(self) -> tuple[tuple[Voxel, bool], ...]:
        """The voxel inside that is farthest from the contour."""
        return ((self.centre_ijk, self.foreground),)

    @property
    def marks(self) -> tuple[Mark, ...]:
        return (Mark(as_voxels(joined((*self.path_ijk, self.path_ijk[0]))), self.foreground),)

    def constrain(self, mask: np.ndarray) -> None:
        (row, column), fill = self._fill
        plane = np.moveaxis(mask, self.slice_axis, 0)[self.slice_index]  # a view
        rows, columns = fill.shape
        part = np.s_[row : row + rows, column : column + columns]
        inside = plane[part] & fill
        if self.foreground:
            plane[:] = False
            plane[part] = inside
        else:
            plane[part] ^= inside

    def obeyed_by(self, mask: np.ndarray) -> bool:
        inside = np.count_nonzero(mask[tuple(self.voxels.T)])
        plane = mask.take(self.slice_index, self.slice_axis)
        return inside == (np.count_nonzero(plane) if self.foreground else 0)

    def checked(self, volume: Volume) -> Self:
        lasso = super().checked(volume)
        path = np.array(lasso.path_ijk)
        if np.linalg.matrix_rank(path - path[0]) < 2:
            raise ClickError(
                f"a lasso of {len(set(lasso.path_ijk))} different voxels on one line encloses nothing; expected a "
                "contour of at least three voxels. For a line use a scribble."
            )
        if np.ptp(path, axis=0).min() > 0:
            raise ClickError(
                f"a lasso from {tuple(path.min(0).tolist())} to {tuple(path.max(0).tolist())} does not lie in one "
                "slice; expected voxels that share their index along one axis of the volume."
            )
        return lasso
