"""Grids of voxels: whether two are one, how one is the other turned, and labels from one to another."""

from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple, Protocol

import nibabel as nib
import numpy as np

from seganypet.errors import GeometryError, VolumeError

# A tenth of a voxel at the farthest corner. Programs round a voxel size to two or three decimals, which adds up to that
# over some hundred slices; labels of another scan are further off.
MAX_SHIFT_VOXELS = 0.1
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM's and ITK's frame to ours, and back
MAX_MM = 1e12  # larger numbers in an affine are damage, and overflow where it is used


class GridLike(Protocol):
    """Whatever has a grid: a `Grid`, a `Volume`, an `ImageFile`."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along (i, j, k)."""

    @property
    def affine(self) -> np.ndarray:
        """Map from voxel indices to RAS+ millimetres, shape (4, 4), float64."""

    @property
    def source(self) -> str:
        """Origin, for messages."""


class Grid(NamedTuple):
    """A grid of voxels without intensities."""

    shape: tuple[int, int, int]
    affine: np.ndarray
    source: str


class GridMatch(NamedTuple):
    """How the voxels of one grid are those of another, in another order of the axes.

    Attributes:
        orientation: For each axis of the one, the axis of the other and the direction (1 or -1): what
            `nibabel.orientations.apply_orientation` takes to turn an array of the one into one of the other.
        shift_voxels: How far the two place a voxel apart, in voxels, at most.
        shift_mm: The same in mm.
    """

    orientation: np.ndarray
    shift_voxels: float
    shift_mm: float

    @property
    def is_turned(self) -> bool:
        """Whether an axis differs."""
        return not np.array_equal(self.orientation, [(0, 1), (1, 1), (2, 1)])


def check_affine(affine: Any, source: str) -> np.ndarray:
    """The affine as float64; GeometryError if it is not finite, affine, and invertible."""
    affine = np.array(affine, float)
    is_finite = bool((np.abs(affine) < MAX_MM).all())
    if affine.shape != (4, 4) or not is_finite or not np.array_equal(affine[3], (0, 0, 0, 1)):
        raise GeometryError(
            f"{source}: affine must be a finite 4 x 4 matrix with last row (0, 0, 0, 1); got {affine.tolist()}."
        )
    sizes = nib.affines.voxel_sizes(affine)
    # Relative to the voxel sizes, so that the unit of length does not matter.
    if not sizes.all() or abs(np.linalg.det(affine[:3, :3] / sizes)) < 1e-6:
        raise GeometryError(
            f"{source}: singular affine {affine[:3, :3].tolist()}: two voxel axes are parallel, or one has no length, "
            "so clicks have no position. Repair the file's sform or qform."
        )
    return affine


def check_shape(shape: Sequence[int], source: str) -> tuple[int, int, int]:
    """The shape of a volume; VolumeError unless it has three axes with voxels."""
    if shape and min(shape) < 1:
        raise VolumeError(f"{source}: empty volume of shape {tuple(shape)}; every axis needs at least one voxel.")
    if len(shape) != 3:
        advice = "For a dynamic scan, choose one frame first, e.g. data[..., 0]." if len(shape) > 3 else ""
        raise VolumeError(
            f"{source}: {len(shape)}D array of shape {tuple(shape)}; expected a 3D volume (I, J, K). {advice}".rstrip()
        )
    i, j, k = (int(size) for size in shape)
    return i, j, k


def corner_shifts_mm(one: np.ndarray, other: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """From where one affine places the eight corner voxels of a grid to where another does, RAS+ mm, shape (8, 3)."""
    corners = list(product(*((0, size - 1) for size in shape)))
    return nib.affines.apply_affine(one, corners) - nib.affines.apply_affine(other, corners)


def match_grids(labels: GridLike, like: GridLike) -> GridMatch | None:
    """How the voxels of `labels` are those of `like`, to a tenth of a voxel; None if they are not.

    Axes may be in another order or run the other way, as other programs store them: (I, J, K) from right to left may be
    (K, J, I) from left to right.
    """
    to_like = np.linalg.inv(like.affine) @ labels.affine
    steps = np.rint(to_like[:3, :3])  # of one voxel along each axis of `labels`, in voxels of `like`
    if not np.array_equal(np.abs(steps) @ np.abs(steps).T, np.eye(3)):
        return None
    axes = np.abs(steps).argmax(axis=0)
    if tuple(like.shape[axis] for axis in axes) != tuple(labels.shape):
        return None
    directions = steps[axes, range(3)]
    turned = np.eye(4)
    turned[:3, :3] = steps
    turned[:3, 3] = [0 if steps[axis].sum() > 0 else like.shape[axis] - 1 for axis in range(3)]
    shifts_mm = corner_shifts_mm(labels.affine, like.affine @ turned, labels.shape)
    shifts = np.abs(shifts_mm @ np.linalg.inv(like.affine[:3, :3]).T)  # in voxels
    if shifts.max() > MAX_SHIFT_VOXELS:
        return None
    return GridMatch(
        np.column_stack([axes, directions]), float(shifts.max()), float(np.linalg.norm(shifts_mm, axis=1).max())
    )


def check_on_grid(labels: GridLike, like: GridLike, *, turned: bool = False) -> GridMatch:
    """Raise GeometryError unless the voxels of `labels` are those of `like`, to a tenth of a voxel.

    Args:
        labels, like: The grids.
        turned: Whether axes may be in another order or run the other way.
    """
    match = match_grids(labels, like)
    if match is None or (match.is_turned and not turned):
        distance = ""
        if tuple(labels.shape) == tuple(like.shape):
            apart_mm = np.linalg.norm(corner_shifts_mm(labels.affine, like.affine, like.shape), axis=1).max()
            distance = f" (corners up to {apart_mm:.3g} mm apart)"
        raise GeometryError(
            f"{labels.source}: labels of shape {tuple(labels.shape)} do not lie on the grid of {like.source}, shape "
            f"{tuple(like.shape)}{distance}: voxels of {sizes_text(labels.affine)} mm and of {sizes_text(like.affine)} "
            "mm. Resample the labels by the nearest one: load_labels(path, like, resample=True), or in a cohort "
            "Cohort.resampling_labels()."
        )
    return match


def part_of_grid(grid: GridLike, box: Sequence[slice]) -> Grid:
    """The grid of the voxels in a box."""
    affine = grid.affine.copy()
    affine[:3, 3] = nib.affines.apply_affine(affine, [part.start for part in box])
    i, j, k = (part.stop - part.start for part in box)
    return Grid((i, j, k), affine, grid.source)


def turn_onto(labels: np.ndarray, match: GridMatch) -> np.ndarray:
    """The same voxels in the order of the other grid."""
    return nib.orientations.apply_orientation(labels, match.orientation) if match.is_turned else labels


def nearest_labels(labels: np.ndarray, grid: GridLike, like: GridLike) -> np.ndarray:
    """For each voxel of `like` the label at its centre, 0 outside `grid`; shape of `like`, dtype of `labels`."""
    from scipy import ndimage

    found = np.zeros(like.shape, labels.dtype)
    # Only where both grids are: drawn parts of a scan are small.
    corners = list(product(*((-1, size) for size in grid.shape)))
    corners = nib.affines.apply_affine(np.linalg.inv(like.affine) @ grid.affine, corners)
    first = np.clip(np.floor(corners.min(axis=0)).astype(int), 0, like.shape)
    last = np.clip(np.ceil(corners.max(axis=0)).astype(int) + 1, first, like.shape)
    if (last > first).all():
        to_labels = np.linalg.inv(grid.affine) @ like.affine
        # Centres of large voxels often lie halfway between small ones; unnudged, rounding would choose at random.
        offset = nib.affines.apply_affine(to_labels, first) + 1e-6
        target = tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
        found[target] = ndimage.affine_transform(
            labels, to_labels[:3, :3], offset, tuple(last - first), order=0, mode="grid-constant"
        )
    return found


def sizes_text(sizes: np.ndarray) -> str:
    """Voxel sizes (or those of an affine) for messages, such as "4 x 4 x 3"."""
    sizes = np.asarray(sizes, float)
    return " x ".join(f"{size:.4g}" for size in (nib.affines.voxel_sizes(sizes) if sizes.ndim == 2 else sizes))
