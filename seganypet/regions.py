"""Regions of an array: connected pieces, bounding boxes, the deepest voxel."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from scipy import ndimage

Box = tuple[slice, slice, slice]

LARGE = 2**20  # voxels; in larger regions exact distances are taken only where they matter
ROUNDED = 1e-5  # relative error of rounded distances, with a margin
CONNECTED_26 = np.ones((3, 3, 3), bool)
CONNECTED_18 = ndimage.generate_binary_structure(3, 2)
CONNECTED_6 = ndimage.generate_binary_structure(3, 1)


def depth_mm(region: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Distance from each voxel of a region to the nearest voxel outside it; beyond the array is outside."""
    return ndimage.distance_transform_edt(np.pad(region, 1), sampling=spacing)[(slice(1, -1),) * region.ndim]


def deepest_voxel(region: np.ndarray, spacing: Sequence[float]) -> tuple[int, ...]:
    """Voxel of a non-empty region that is farthest from its border, in mm; beyond the array is outside the region.

    Args:
        region: Bool, shape (I, J, K), or a slice of shape (rows, columns).
        spacing: Voxel size along each axis, in mm.

    Returns:
        Indices of the voxel.

    Source: exact Euclidean distance transform. Ties go to the voxel nearest to the centroid, then to the first in
    array order, so that a tube is clicked in its middle and not at its end.
    """
    axes = range(region.ndim)
    candidates, depths = _deep_voxels(region, spacing)
    # The transform rounds in its last bits: depths this close are equal.
    candidates = candidates[depths >= depths.max() * (1 - 1e-9)]
    # Sums over all axes but one avoid a list of all voxels.
    centroid = [
        np.average(np.arange(size), weights=region.sum(axis=tuple({*axes} - {axis})))
        for axis, size in enumerate(region.shape)
    ]
    distance_mm = np.linalg.norm((candidates - centroid) * np.asarray(spacing), axis=1)
    return tuple(int(index) for index in candidates[np.argmin(np.round(distance_mm, 6))])


def _deep_voxels(region: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Voxels of a region, (n, ndim), and their depths in mm, (n,): the deepest are among them."""
    if region.size > LARGE and region.ndim == 3:
        outside = np.pad(~region, 1, constant_values=True)
        depth = nearest_mm(outside, spacing)
        voxels = np.argwhere(depth >= depth.max() * (1 - ROUNDED))
        margin = np.ceil(depth.max() * (1 + ROUNDED) / np.array(spacing)) + 1  # so that their background lies inside
        box = widen_box(box_of(voxels), margin, outside.shape)
        exact = ndimage.distance_transform_edt(~outside[box], sampling=spacing)
        return voxels - 1, exact[tuple((voxels - [part.start for part in box]).T)]
    return np.argwhere(region), depth_mm(region, spacing)[region]


def nearest_mm(places: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Distance from each voxel outside some places to the nearest of these, in mm, rounded; a fifth of the exact cost.

    Args:
        places: Bool, shape (I, J, K). Those without a face neighbour in the array that is none do not count.
        spacing: Voxel size along (i, j, k), in mm.

    Returns:
        float32, shape (I, J, K); right to some 0.0001 mm.
    """
    import SimpleITK as sitk  # slow to import

    image = sitk.GetImageFromArray(places.astype(np.uint8))
    image.SetSpacing([float(size) for size in reversed(spacing)])  # SimpleITK counts axes from the fastest one
    transform = sitk.SignedMaurerDistanceMapImageFilter()
    transform.SetNumberOfThreads(1)
    transform.SetSquaredDistance(False)
    transform.SetUseImageSpacing(True)
    return np.maximum(sitk.GetArrayFromImage(transform.Execute(image)), 0)


def box_of(voxels: np.ndarray) -> Box:
    """The smallest box that holds voxels, (n, 3)."""
    i, j, k = (slice(int(low), int(high) + 1) for low, high in zip(voxels.min(0), voxels.max(0), strict=True))
    return i, j, k


def bounding_box(mask: np.ndarray, within: Box | None = None) -> Box | None:
    """Smallest box that contains every True voxel; None if there is none.

    Args:
        mask: Bool, 3D.
        within: A box outside which nothing is True, which spares looking there.
    """
    if within is not None:
        inner = bounding_box(mask[within])
        return None if inner is None else box_from(inner, within)
    plane = np.any(mask, axis=2)  # the contiguous axis first, so that the rest is cheap
    i = np.flatnonzero(plane.any(axis=1))
    if not len(i):
        return None
    j = np.flatnonzero(plane.any(axis=0))
    box = slice(int(i[0]), int(i[-1]) + 1), slice(int(j[0]), int(j[-1]) + 1)
    k = np.flatnonzero(mask[box].any(axis=(0, 1)))
    return *box, slice(int(k[0]), int(k[-1]) + 1)


def overlaps(masks: Iterable[np.ndarray]) -> bool:
    """Whether two of some masks, bool, of one shape, share a voxel."""
    union: np.ndarray | None = None
    for mask in masks:
        if union is not None and (union & mask).any():
            return True
        union = mask.copy() if union is None else union | mask
    return False


def connected_pieces(mask: np.ndarray) -> Iterator[tuple[Box, np.ndarray]]:
    """The bounding box of each 26-connected piece of a mask, and the piece within it, bool."""
    outer = bounding_box(mask)
    if outer is None:
        return
    pieces, _ = ndimage.label(mask[outer], CONNECTED_26)
    for number, box in enumerate(ndimage.find_objects(pieces), start=1):
        yield box_from(box, outer), pieces[box] == number


def widen_box(box: Sequence[slice], margin: Iterable[int], shape: Sequence[int]) -> Box:
    """The box with `margin` voxels more on both sides of each axis, as far as the array goes."""
    i, j, k = (
        slice(max(part.start - int(extra), 0), min(part.stop + int(extra), size))
        for part, extra, size in zip(box, margin, shape, strict=True)
    )
    return i, j, k


def box_within(box: Sequence[slice], outer: Sequence[slice]) -> Box:
    """The box in the coordinates of another one that contains it."""
    i, j, k = (slice(a.start - b.start, a.stop - b.start) for a, b in zip(box, outer, strict=True))
    return i, j, k


def box_from(box: Sequence[slice], outer: Sequence[slice]) -> Box:
    """A box in the coordinates of another one that contains it, in those of the array; undoes `box_within`."""
    i, j, k = (slice(a.start + b.start, a.stop + b.start) for a, b in zip(box, outer, strict=True))
    return i, j, k


def box_of_both(mask: np.ndarray, truth: np.ndarray) -> Box:
    """Smallest box that holds two masks of one shape; a single voxel if both are empty."""
    boxes = [box for box in (bounding_box(mask), bounding_box(truth)) if box is not None]
    return enclosing_box(boxes) if boxes else np.s_[:1, :1, :1]


def enclosing_box(boxes: Iterable[Sequence[slice]]) -> Box:
    """Smallest box that contains all of these boxes."""
    i, j, k = (slice(min(a.start for a in axis), max(a.stop for a in axis)) for axis in zip(*boxes, strict=True))
    return i, j, k
