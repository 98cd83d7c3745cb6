"""Masks of a file's own grid on the grid of a volume: turned, mirrored and cropped exactly, else by nearest voxel."""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import nibabel as nib
import numpy as np

from seganypet.errors import GeometryError, warn_caller
from seganypet.pet.grids import Grid, check_affine
from seganypet.pet.volume import Volume
from seganypet.regions import Box, bounding_box, widen_box

# Grids that other programs have rounded to a few digits still count as one grid.
_SAME_GRID_VOXELS = 0.1


class Layer(NamedTuple):
    """An array of labels, shape (I, J, K), integers or bool; and the names of its labels, 0 being the background."""

    labels: np.ndarray
    names: Mapping[int, str]


def masks_on_grid(
    layers: Iterable[Layer], affine: np.ndarray, like: Volume | Grid, source: str
) -> dict[str, np.ndarray]:
    """The objects of a file on the grid of a volume.

    A grid that is the volume's turned, mirrored, shifted by whole voxels or cropped (to a tenth of a voxel) is taken
    over voxel by voxel. On any other grid, each voxel of `like` gets what the file says at its centre.

    Args:
        layers: Arrays of labels of one shape; objects of different layers may overlap.
        affine: Voxel indices of the layers to RAS+ mm, shape (4, 4).
        like: The target grid.
        source: Name of the file, for messages.

    Returns:
        Name to mask (bool, shape of `like`), without objects that have no voxel in the file.

    Raises:
        GeometryError: No voxel of any object lies within `like`.

    Warns:
        UserWarning: Objects were resampled, or lie outside `like` in part, or have no voxel left on its grid.
    """
    affine = check_affine(affine, source)
    masks: dict[str, np.ndarray] = {}
    outside: dict[str, tuple[int, int]] = {}
    to_like = np.linalg.inv(like.affine) @ affine
    rounded: np.ndarray | None = np.eye(4, dtype=int)
    labels: np.ndarray | None = None
    for layer in layers:
        if layer.labels is not labels:
            labels = layer.labels
            rounded = whole_voxels(to_like, labels.shape)
            placed = _nearest(labels, to_like, like.shape) if rounded is None else _moved(labels, rounded, like.shape)
            boxes, placed_boxes = _boxes(labels), _boxes(placed)
        for label, name in layer.names.items():
            if label not in boxes:
                continue
            masks[name] = np.zeros(like.shape, bool)
            if label in placed_boxes:
                box = placed_boxes[label]
                masks[name][box] = placed[box] == label
            drawn = labels[boxes[label]] == label
            n_outside = _count_outside(drawn, boxes[label], to_like, like.shape)
            if n_outside:
                outside[name] = n_outside, int(np.count_nonzero(drawn))
    if masks and not any(mask.any() for mask in masks.values()):
        raise GeometryError(
            f"{source}: no voxel of {', '.join(masks)} lies within {like.source}. Is it from the same patient and "
            "scan, in one frame?"
        )
    if rounded is None:
        warn_caller(
            f"{source} lies on another grid than {like.source}: every voxel got the object at its centre, so volumes "
            "and outlines differ slightly from those in the file."
        )
    lost = [name for name, mask in masks.items() if not mask.any()]
    if lost:
        warn_caller(f"{source}: {', '.join(lost)} without a voxel on the grid of {like.source}.")
    for name, (n_outside, n_voxels) in outside.items():
        warn_caller(
            f"{source}: {n_outside} of {n_voxels} voxels of {name!r} lie outside {like.source} and are left out."
        )
    return masks


def whole_voxels(to_like: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """A map between voxel indices as whole numbers, shape (4, 4); None if it turns or shifts by fractions of a voxel.

    Args:
        to_like: Voxel indices of one grid to those of the other, shape (4, 4).
        shape: Shape of the grid that is mapped.
    """
    rounded = np.rint(to_like)
    turns = np.abs(rounded[:3, :3])
    if not (np.array_equal(turns.sum(axis=0), (1, 1, 1)) and np.array_equal(turns.sum(axis=1), (1, 1, 1))):
        return None
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(shape) - 1)
    apart = nib.affines.apply_affine(to_like, corners) - nib.affines.apply_affine(rounded, corners)
    return rounded.astype(int) if np.abs(apart).max() <= _SAME_GRID_VOXELS else None


def _moved(labels: np.ndarray, to_like: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Labels turned, mirrored and shifted by a map of whole numbers, cropped or padded with 0."""
    placed = np.zeros(shape, labels.dtype)
    box = nonzero_box(labels)  # to turn a whole array takes far longer than to find what is in it
    if box is None:
        return placed
    axes = np.abs(to_like[:3, :3]).argmax(axis=1)  # along each axis of `like`, which axis of `labels` runs
    turned = labels[box].transpose(axes)
    starts = to_like[:3, 3] + to_like[:3, :3] @ [part.start for part in box]
    for axis, source_axis in enumerate(axes):
        if to_like[axis, source_axis] < 0:
            turned = np.flip(turned, axis)
            starts[axis] -= turned.shape[axis] - 1
    first = np.maximum(starts, 0)
    last = np.minimum(starts + turned.shape, shape)
    if (last > first).all():
        here = tuple(map(slice, first, last))
        placed[here] = turned[tuple(map(slice, first - starts, last - starts))]
    return placed


def _boxes(labels: np.ndarray) -> dict[int, Box]:
    """Smallest box around each label of an array, sought in the order in which the array lies in memory."""
    from scipy import ndimage

    if labels.dtype == bool:
        box = nonzero_box(labels)
        return {} if box is None else {1: box}
    order = np.argsort([-abs(stride) for stride in labels.strides], kind="stable")
    back = np.argsort(order)
    found = enumerate(ndimage.find_objects(labels.transpose(order)), 1)
    return {label: (box[back[0]], box[back[1]], box[back[2]]) for label, box in found if box is not None}


def nonzero_box(labels: np.ndarray) -> Box | None:
    """Smallest box that contains every voxel but those of 0, sought in the order in which the array lies in memory."""
    order = np.argsort([-abs(stride) for stride in labels.strides], kind="stable")
    box = bounding_box(labels.transpose(order))
    if box is None:
        return None
    i, j, k = (box[position] for position in np.argsort(order))
    return i, j, k


def _nearest(labels: np.ndarray, to_like: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """The label at each voxel centre of another grid, 0 outside; int32."""
    from scipy import ndimage

    placed = np.zeros(shape, np.int32)
    box = nonzero_box(labels)
    if box is None:
        return placed
    target = _covering(box, to_like, shape)
    if target is None:
        return placed
    near = widen_box(box, (1, 1, 1), labels.shape)
    from_like = np.linalg.inv(to_like)
    first = np.array([part.start for part in target])
    # Centres of large voxels often lie halfway between small ones; without the nudge rounding would choose at random.
    offset = nib.affines.apply_affine(from_like, first) - [part.start for part in near] + 1e-6
    size = tuple(part.stop - part.start for part in target)
    placed[target] = ndimage.affine_transform(
        labels[near].astype(np.int32), from_like[:3, :3], offset, size, order=0, mode="grid-constant"
    )
    return placed


def _count_outside(drawn: np.ndarray, box: Box, to_like: np.ndarray, shape: tuple[int, int, int]) -> int:
    """How many voxels of a mask, which fills `box`, have their centre outside of the other grid."""

    def is_outside(ijk: np.ndarray) -> np.ndarray:
        ijk = nib.affines.apply_affine(to_like, ijk)
        reach = 0.5 + _SAME_GRID_VOXELS
        return ((ijk < -reach) | (ijk > np.array(shape) - 1 + reach)).any(axis=-1)

    corners = np.array([[(part.start, part.stop - 1)[bit] for part, bit in zip(box, bits, strict=True)]
                        for bits in np.ndindex(2, 2, 2)])  # fmt: skip
    if not is_outside(corners).any():
        return 0
    return int(is_outside(np.argwhere(drawn) + [part.start for part in box]).sum())


def _covering(
    box: Box, to_like: np.ndarray, shape: tuple[int, int, int]
) -> Box | None:
    """The box of the other grid that holds a box of this one; None if they do not meet."""
    corners = np.array([[(part.start, part.stop)[bit] - 0.5 for part, bit in zip(box, bits, strict=True)]
                        for bits in np.ndindex(2, 2, 2)])  # fmt: skip
    corners = nib.affines.apply_affine(to_like, corners)
    first = np.clip(np.floor(corners.min(axis=0)), 0, shape).astype(int)
    last = np.clip(np.ceil(corners.max(axis=0)) + 1, 0, shape).astype(int)
    if (last <= first).any():
        return None
    i, j, k = (slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
    return i, j, k


def unique_names(names: Iterable[object], source: str, unnamed: str = "object") -> Iterator[str]:
    """Names of a file's objects as they can be keys: blank ones numbered, repeated ones told apart, with a warning."""
    taken: set[str] = set()
    for number, given in enumerate(names, 1):
        name = str(given or "").strip() or f"{unnamed} {number}"
        free, copies = name, 1
        while free in taken:
            copies += 1
            free = f"{name} ({copies})"
        if free != name:
            warn_caller(f"{source} has several objects named {name!r}; this one is {free!r} here.")
        taken.add(free)
        yield free
