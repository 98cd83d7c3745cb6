"""Regions of an array: connected pieces, bounding boxes, the deepest voxel."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from scipy import ndimage

Box = tuple[slice, slice, slice]

LARGE = 2**20  # voxels; in larger regions exact distances are taken only where they matter
BLOCK = 2**18  # voxels whose distances are computed at once
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
    candidates, depths = _deep_voxels(region, spacing)
    # The transform rounds in its last bits: depths this close are equal.
    candidates = candidates[depths >= depths.max() * (1 - 1e-9)]
    centroid = [np.average(np.arange(len(counts)), weights=counts) for counts in _counts_along(region)]
    distance_mm = np.linalg.norm((candidates - centroid) * np.asarray(spacing), axis=1)
    return tuple(int(index) for index in candidates[np.argmin(np.round(distance_mm, 6))])


def _counts_along(region: np.ndarray) -> list[np.ndarray]:
    """Number of voxels of a region in each of its planes (or lines), axis by axis; without a list of all voxels."""
    counts = []
    while region.ndim > 1:
        counts.append(np.array([np.count_nonzero(plane) if region.dtype == bool else plane.sum() for plane in region]))
        region = region.sum(axis=0, dtype=np.int32)
    return [*counts, region]


def _deep_voxels(region: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Voxels of a region, (n, ndim), and their depths in mm, (n,): the deepest are among them.

    Of a large region, exact distances are taken where rounded ones leave it open, and these where blocks of voxels do,
    each in boxes with a margin that holds the background next to their candidates.
    """
    if region.size <= LARGE or region.ndim != 3:
        return np.argwhere(region), depth_mm(region, spacing)[region]
    region = np.pad(region, 1)  # beyond the array is outside
    box, candidates, highest_mm = _deep_blocks(region, spacing)
    for distances, error in ((nearest_mm, ROUNDED), (exact_mm, 0.0)):
        margin = np.ceil(highest_mm / np.array(spacing)) + 1
        depth = np.zeros(candidates.shape)
        for part in _parts_of(candidates, margin):
            here = box_from(part, box)
            around = widen_box(here, margin, region.shape)
            depth[part] = distances(~region[around], spacing)[box_within(here, around)]
        depth *= candidates
        deepest = depth.max()
        highest_mm, candidates = float(deepest) * (1 + error), depth >= deepest * (1 - 2 * error)
        inner = bounding_box(candidates)
        box, candidates, depth = box_from(inner, box), candidates[inner], depth[inner]
    return np.argwhere(candidates) + [part.start - 1 for part in box], depth[candidates]


def _parts_of(candidates: np.ndarray, margin: np.ndarray) -> list[Box]:
    """Boxes of the pieces of candidates; one box of all where it and its margin have fewer voxels than theirs."""
    boxes = ndimage.find_objects(ndimage.label(candidates, CONNECTED_26)[0])
    sizes = [np.prod([part.stop - part.start for part in box] + 2 * margin) for box in boxes]
    if sum(sizes) < np.prod(candidates.shape + 2 * margin):
        return boxes
    i, j, k = (slice(0, size) for size in candidates.shape)
    return [(i, j, k)]


def _deep_blocks(region: np.ndarray, spacing: Sequence[float]) -> tuple[Box, np.ndarray, float]:
    """Where the deepest voxels of a region may be, from blocks of 2 x 2 x 2 voxels.

    The distance of two voxels differs by a block's diagonal at most from that of their blocks' centres.

    Args:
        region: Bool, shape (I, J, K), not empty; its border is background.
        spacing: Voxel size along (i, j, k), in mm.

    Returns:
        A box of the region, the candidates in it, bool, and a depth that none exceeds, in mm.
    """
    full = np.pad(region, [(0, size % 2) for size in region.shape])
    for axis in range(3):
        before = (slice(None),) * axis
        full = full[(*before, slice(None, None, 2))] & full[(*before, slice(1, None, 2))]
    depth = nearest_mm(~full, [2 * size for size in spacing]) if full.any() else np.zeros(full.shape, np.float32)
    deepest, diagonal = float(depth.max()), float(np.linalg.norm(spacing))
    wanted = depth >= deepest * (1 - 4 * ROUNDED) - 2 * diagonal
    blocks = bounding_box(wanted)
    i, j, k = (slice(2 * part.start, min(2 * part.stop, size)) for part, size in zip(blocks, region.shape, strict=True))
    inside = region[i, j, k]
    candidates = wanted[blocks].repeat(2, 0).repeat(2, 1).repeat(2, 2)[tuple(map(slice, inside.shape))] & inside
    return (i, j, k), candidates, deepest * (1 + 2 * ROUNDED) + diagonal


def exact_mm(places: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Distance from each voxel to the nearest of some places, in mm; SciPy's to the bit, in half of its memory.

    Args:
        places: Bool, shape (I, J, K).
        spacing: Voxel size along (i, j, k), in mm.

    Returns:
        float64, shape (I, J, K).
    """
    nearest = ndimage.distance_transform_edt(
        ~places, sampling=spacing, return_distances=False, return_indices=True
    )  # (3, I, J, K)
    distances, scale = np.empty(places.shape), np.reshape(spacing, (-1, *[1] * places.ndim))
    step = max(1, BLOCK * len(places) // places.size)
    for first in range(0, len(places), step):
        block = nearest[:, first : first + step]
        away = block - np.indices(block.shape[1:], dtype=block.dtype)
        away[0] -= first
        away_mm = away * scale
        away_mm *= away_mm
        np.sqrt(np.add.reduce(away_mm, axis=0), out=distances[first : first + step])
    return distances


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
    distances = transform.Execute(image)
    return np.maximum(sitk.GetArrayViewFromImage(distances), 0)


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


def label_sizes(labels: np.ndarray) -> np.ndarray:
    """Number of voxels of each label of a map, (largest label + 1,).

    Args:
        labels: Integers from 0 on, 3D. Counted plane by plane, as counting takes eight bytes for each voxel.
    """
    counts = [np.bincount(plane.ravel()) for plane in labels]
    sizes = np.zeros(max(map(len, counts)), int)
    for count in counts:
        sizes[: len(count)] += count
    return sizes


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
