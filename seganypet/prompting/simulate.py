"""Simulated clicks: a user who sees the truth and clicks the target, then the largest error.

The simulator sees the truth and the mask that it corrects, nothing else. All strategies work inside the bounding box of
what they look at, so that a click on an organ of a whole-body scan costs milliseconds.

For networks that work slice by slice there is one click in each slice that holds the target, by the same rules within
the slice. Which slices these are only the truth can tell: an oracle that 3D networks are not given.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from seganypet.errors import ClickError, GeometryError
from seganypet.pieces import Pieces
from seganypet.prompting.prompts import Click
from seganypet.regions import LARGE, bounding_box, deepest_voxel

FIRST = ("deepest", "random")
THEN = ("largest_error", "random_error")


def first_click(
    truth: np.ndarray,
    strategy: str = "deepest",
    *,
    spacing: Sequence[float],
    rng: np.random.Generator | None = None,
) -> Click:
    """Click on a target that has no mask yet.

    Args:
        truth: True inside the target, shape (I, J, K), bool.
        strategy: "deepest" clicks the voxel farthest (in mm) from the target's background; beyond the border of the
            volume is background, so an organ cut by the field of view is clicked in the middle of what is seen. Of
            equally deep voxels the one nearest to the target's centroid wins. "random": any voxel of the target.
        spacing: Voxel size along (i, j, k), in mm.
        rng: Random generator; needed by "random".

    Returns:
        A positive click inside the target.

    Raises:
        ClickError: Empty truth, unknown strategy, or "random" without `rng`.
        GeometryError: Truth that is not a 3D bool array; spacing that is not three positive numbers.
    """
    check_mask(truth, "truth")
    spacing = check_spacing(spacing)
    _check_strategy(strategy, FIRST, rng)
    box = bounding_box(truth)
    if box is None:
        raise ClickError(
            f"the truth of shape {truth.shape} is empty: there is no target to click. Leave this target out, and count "
            "it."
        )
    return Click(shifted(_in_the_target(truth[box], strategy, spacing, rng), box), foreground=True)


def next_click(
    truth: np.ndarray,
    mask: np.ndarray,
    strategy: str = "largest_error",
    *,
    spacing: Sequence[float],
    rng: np.random.Generator | None = None,
) -> Click | None:
    """Click where the mask is wrong: positive in a miss, negative in a false alarm.

    Args:
        truth: True inside the target, shape (I, J, K), bool. May be empty: every error is then a false alarm.
        mask: The mask to correct, shape of `truth`, bool.
        strategy: "largest_error" clicks the deepest voxel (as in `first_click`) of the largest error region; regions
            are 26-connected, misses and false alarms apart, and of equally large regions a miss comes first.
            "random_error" clicks any wrong voxel, as the public release does.
        spacing: Voxel size along (i, j, k), in mm.
        rng: Random generator; needed by "random_error".

    Returns:
        The click, or None if the mask equals the truth.

    Raises:
        ClickError: Unknown strategy, or "random_error" without `rng`.
        GeometryError: Arrays that are not 3D, not bool or differ in shape; bad spacing.
    """
    check_pair(truth, mask)
    spacing = check_spacing(spacing)
    _check_strategy(strategy, THEN, rng)
    error = truth ^ mask
    box = bounding_box(error)
    if box is None:
        return None
    error, truth = error[box], truth[box]
    ijk = _in_the_error(error, truth, strategy, spacing, rng)
    return Click(shifted(ijk, box), foreground=bool(truth[ijk]))


def first_clicks_by_slice(
    truth: np.ndarray,
    axis_of_array: int,
    spacing: Sequence[float],
    strategy: str = "deepest",
    *,
    rng: np.random.Generator | None = None,
) -> list[Click]:
    """One positive click in each slice that holds the target, in the order of slices.

    Args:
        truth: True inside the target, shape (I, J, K), bool.
        axis_of_array: Axis along which slices follow each other, 0, 1 or 2.
        spacing: Voxel size along (i, j, k), in mm.
        strategy: As for `first_click`, within each slice.
        rng: Random generator; needed by "random".

    Raises:
        ClickError: Empty truth, unknown strategy or axis, or "random" without `rng`.
        GeometryError: As `first_click`.
    """
    check_mask(truth, "truth")
    in_plane = _in_plane(check_spacing(spacing), axis_of_array)
    _check_strategy(strategy, FIRST, rng)
    box = bounding_box(truth)
    if box is None:
        raise ClickError(f"the truth of shape {truth.shape} is empty: no slice of it can be clicked.")
    clicks = []
    for number, (target,) in _slices_of(box, axis_of_array, truth):
        if target.any():
            crop = ndimage.find_objects(target, 1)[0]
            position = _in_the_target(target[crop], strategy, in_plane, rng)
            clicks.append(Click(_in_volume(shifted(position, crop), number, axis_of_array, box), foreground=True))
    return clicks


def next_clicks_by_slice(
    truth: np.ndarray,
    mask: np.ndarray,
    axis_of_array: int,
    spacing: Sequence[float],
    strategy: str = "largest_error",
    *,
    rng: np.random.Generator | None = None,
) -> list[Click]:
    """One click in each slice that holds the target and where the mask is wrong, in the order of slices.

    A slice whose mask is right gets no click, as `next_click` makes none; nor does a slice without target, whatever
    its mask. So the list may be empty. Arguments and errors as for `first_clicks_by_slice` and `next_click`.
    """
    check_pair(truth, mask)
    in_plane = _in_plane(check_spacing(spacing), axis_of_array)
    _check_strategy(strategy, THEN, rng)
    box = bounding_box(truth | mask)
    clicks = []
    for number, (target, found) in _slices_of(box, axis_of_array, truth, mask) if box else ():
        error = target ^ found
        if target.any() and error.any():
            crop = ndimage.find_objects(error, 1)[0]
            position = _in_the_error(error[crop], target[crop], strategy, in_plane, rng)
            foreground = bool(target[crop][position])
            clicks.append(Click(_in_volume(shifted(position, crop), number, axis_of_array, box), foreground))
    return clicks


def _in_the_target(
    target: np.ndarray, strategy: str, spacing: Sequence[float], rng: np.random.Generator | None
) -> tuple[int, ...]:
    """Where to click in a target, not empty, of a volume or a slice."""
    return deepest_voxel(target, spacing) if strategy == "deepest" else _random_voxel(target, rng)


def _in_the_error(
    error: np.ndarray, truth: np.ndarray, strategy: str, spacing: Sequence[float], rng: np.random.Generator | None
) -> tuple[int, ...]:
    """Where to click in an array of errors, not empty, of a volume or a slice."""
    if strategy == "random_error":
        return _random_voxel(error, rng)
    region, box = largest_region(error & truth, error & ~truth)
    return shifted(deepest_voxel(region, spacing), box)


def largest_region(misses: np.ndarray, alarms: np.ndarray) -> tuple[np.ndarray, tuple[slice, ...]]:
    """The largest component of either, a miss if two are equal; cropped to its box, and that box."""
    missed, alarmed = np.count_nonzero(misses), np.count_nonzero(alarms)
    # Most often one kind has a region larger than all of the other together, which then needs no labelling.
    if missed >= alarmed:
        largest = largest_component(misses)
        if alarmed <= np.count_nonzero(largest[0]):
            return largest
        other = largest_component(alarms)
    else:
        other = largest_component(alarms)
        if missed < np.count_nonzero(other[0]):
            return other
        largest = largest_component(misses)
    return max(largest, other, key=lambda found: np.count_nonzero(found[0]))


def _slices_of(box: Sequence[slice], axis: int, *arrays: np.ndarray) -> Iterator[tuple[int, tuple[np.ndarray, ...]]]:
    """Number of each slice of a box of the arrays, and these slices; copied first, so that each is contiguous."""
    cropped = [np.ascontiguousarray(np.moveaxis(array[tuple(box)], axis, 0)) for array in arrays]
    return enumerate(zip(*cropped, strict=True), start=box[axis].start)


def _in_volume(position: Sequence[int], number: int, axis: int, box: Sequence[slice]) -> tuple[Any, ...]:
    """Voxel of the volume at a position, (row, column), in a slice of its box."""
    ijk = shifted(position, [part for part_axis, part in enumerate(box) if part_axis != axis])
    return *ijk[:axis], number, *ijk[axis:]


def _in_plane(spacing: Sequence[float], axis: int) -> tuple[float, float]:
    if axis not in (0, 1, 2):
        raise ClickError(f"axis_of_array={axis!r}; expected 0, 1 or 2: the axis along which slices follow each other.")
    height, width = (size for other, size in enumerate(spacing) if other != axis)
    return height, width


def largest_component(region: np.ndarray) -> tuple[np.ndarray, tuple[slice, ...]]:
    """The largest component of a region that is not empty, cropped to its box, and that box. Corners connect."""
    if region.size > LARGE and region.ndim == 3:
        pieces = Pieces(region)
        box, component = pieces.mask_of([int(np.argmax(pieces.sizes))])
        return component, box
    labels, _ = ndimage.label(region, np.ones((3,) * region.ndim, bool))
    largest = int(np.argmax(np.bincount(labels.ravel())[1:])) + 1
    box = ndimage.find_objects(labels, largest)[-1]
    return labels[box] == largest, box


def _random_voxel(region: np.ndarray, rng: np.random.Generator) -> tuple[int, ...]:
    chosen = rng.choice(np.flatnonzero(region))
    return tuple(int(index) for index in np.unravel_index(chosen, region.shape))


def shifted(ijk: Iterable[Any], box: Sequence[slice]) -> tuple[Any, ...]:
    """Voxel of an array at a position in a box of it."""
    return tuple(int(index) + part.start for index, part in zip(ijk, box, strict=True))


def _check_strategy(strategy: str, known: Sequence[str], rng: np.random.Generator | None) -> None:
    if strategy not in known:
        raise ClickError(f"unknown click strategy {strategy!r}; expected one of {', '.join(known)}.")
    if strategy.startswith("random") and rng is None:
        raise ClickError(f"strategy {strategy!r} needs a random generator: rng=numpy.random.default_rng(seed).")


def check_mask(mask: np.ndarray, name: str) -> None:
    if not isinstance(mask, np.ndarray) or mask.ndim != 3 or mask.dtype != bool:
        what = f"{mask.dtype} array of shape {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
        raise GeometryError(
            f"{name} is a {what}; expected a bool array of shape (I, J, K). Of a label map choose one label first: "
            "organs == 1."
        )


def check_pair(truth: np.ndarray, mask: np.ndarray) -> None:
    check_mask(truth, "truth")
    check_mask(mask, "mask")
    if mask.shape != truth.shape:
        raise GeometryError(f"mask of shape {mask.shape} and truth of shape {truth.shape} must lie on the same grid.")


def check_spacing(spacing: Sequence[float]) -> tuple[float, float, float]:
    sizes = np.asarray(spacing, float)
    if sizes.shape != (3,) or not np.isfinite(sizes).all() or (sizes <= 0).any():
        raise GeometryError(f"spacing={spacing!r}: expected three positive voxel sizes along (i, j, k), in mm.")
    i, j, k = sizes.tolist()
    return i, j, k
