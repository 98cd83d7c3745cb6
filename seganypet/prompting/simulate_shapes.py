"""Simulated prompts of every kind: a user who sees the truth and scribbles, boxes, lassos, or loads a mask.

Shapes are drawn in one slice of the array, as people draw them: that with most of the target, or, of an error, of its
largest region. `simulate` has the clicks, and says what is common to all.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.spatial.distance import cdist

from seganypet.errors import ClickError
from seganypet.prompting.prompt import as_voxels
from seganypet.prompting.prompts import Box, InitialMask, Lasso, Prompt, Scribble
from seganypet.prompting.simulate import (
    check_mask,
    check_pair,
    check_spacing,
    first_click,
    first_clicks_by_slice,
    largest_component,
    largest_region,
    next_click,
    next_clicks_by_slice,
)
from seganypet.regions import CONNECTED_26, bounding_box, deepest_voxel, depth_mm, widen_box

FIRST_PROMPTS = ("click", "scribble", "box", "box3d", "lasso", "mask")
CORRECTIONS = ("click", "scribble")

ERROR_MM, WAVE_MM = 3.0, 8.0  # by how much, and how slowly along the border, a simulated mask errs


def first_prompt(
    truth: np.ndarray,
    kind: str = "click",
    *,
    spacing: Sequence[float],
    axis_of_array: int = 2,
    strategy: str = "deepest",
    rng: np.random.Generator | None = None,
) -> Prompt:
    """The first prompt on a target that has no mask yet.

    Args:
        truth: True inside the target, shape (I, J, K), bool.
        kind: "click": as `simulate.first_click`. In the slice with most of the target: "scribble", along the centreline
            of its largest piece there; "box", the smallest that holds all of the target there, two voxels wide at
            least; "lasso", a contour one voxel outside it (of several pieces, of their convex hull). "box3d": the
            smallest 3D box. "mask": the truth with a border that errs by 3 mm (less in small targets), as another
            method might have drawn it.
        spacing: Voxel size along (i, j, k), in mm.
        axis_of_array: Axis along which slices follow each other.
        strategy: Of a click, see `simulate.first_click`; other kinds have no choice.
        rng: Random generator; needed by "mask" and by random clicks.

    Raises:
        ClickError: Empty truth, unknown kind or strategy, or no `rng` where one is needed.
        GeometryError: As `simulate.first_click`.
    """
    if kind == "click":
        return first_click(truth, strategy, spacing=spacing, rng=rng)
    box = _box_of_target(truth, spacing)
    if kind == "box3d":
        return _wide_box([part.start for part in box], [part.stop - 1 for part in box], truth.shape)
    if kind == "mask":
        return InitialMask.pack(_imprecise(truth, box, spacing, rng))
    draw = _drawing(kind)
    number = _largest_slice(truth[box], axis_of_array) + box[axis_of_array].start
    return draw(truth.take(number, axis_of_array), axis_of_array, number)


def next_prompt(
    truth: np.ndarray,
    mask: np.ndarray,
    kind: str = "click",
    *,
    spacing: Sequence[float],
    axis_of_array: int = 2,
    strategy: str = "largest_error",
    rng: np.random.Generator | None = None,
) -> Prompt | None:
    """A correction: positive in a miss, negative in a false alarm; None if the mask equals the truth.

    Args:
        truth: True inside the target, shape (I, J, K), bool. May be empty.
        mask: The mask to correct, shape of `truth`, bool.
        kind: "click": as `simulate.next_click`. "scribble": along the centreline of the largest error region (see
            there), in its largest slice.
        spacing, axis_of_array: As for `first_prompt`.
        strategy: Of a click, see `simulate.next_click`; scribbles go to the largest error.
        rng: Random generator; needed by random clicks.

    Raises:
        ClickError: Unknown kind or strategy, or no `rng` where one is needed.
        GeometryError: As `simulate.next_click`.
    """
    _check_correction(kind)
    if kind == "click":
        return next_click(truth, mask, strategy, spacing=spacing, rng=rng)
    check_pair(truth, mask)
    box = bounding_box(truth ^ mask)
    if box is None:
        return None
    region, inner = largest_region(truth[box] & ~mask[box], mask[box] & ~truth[box])
    number = _largest_slice(region, axis_of_array)
    corner = np.array([outer.start + part.start for outer, part in zip(box, inner, strict=True)])
    path = _lifted(_centreline(region.take(number, axis_of_array)), axis_of_array, number) + corner
    voxels = as_voxels(path)
    return Scribble(voxels, foreground=bool(truth[voxels[0]]))


def first_prompts_by_slice(
    truth: np.ndarray, kind: str, axis_of_array: int, spacing: Sequence[float], strategy: str = "deepest", *,
    rng: np.random.Generator | None = None,
) -> list[Prompt]:  # fmt: skip
    """One positive prompt in each slice that holds the target, in the order of slices; arguments as `first_prompt`.

    Raises:
        ClickError: As `first_prompt`; or a kind that is not drawn in one slice.
    """
    if kind == "click":
        return list(first_clicks_by_slice(truth, axis_of_array, spacing, strategy, rng=rng))
    box, draw = _box_of_target(truth, spacing), _drawing(kind)
    numbers = range(box[axis_of_array].start, box[axis_of_array].stop)
    slices = [(truth.take(number, axis_of_array), number) for number in numbers]
    return [draw(inside, axis_of_array, number) for inside, number in slices if inside.any()]


def next_prompts_by_slice(
    truth: np.ndarray, mask: np.ndarray, kind: str, axis_of_array: int, spacing: Sequence[float],
    strategy: str = "largest_error", *, rng: np.random.Generator | None = None,
) -> list[Prompt]:  # fmt: skip
    """One correction in each slice that holds the target and where the mask is wrong, as `next_prompt` makes it."""
    _check_correction(kind)
    if kind == "click":
        return list(next_clicks_by_slice(truth, mask, axis_of_array, spacing, strategy, rng=rng))
    check_pair(truth, mask)
    prompts: list[Prompt] = []
    for number in np.flatnonzero(truth.any(axis=tuple({0, 1, 2} - {axis_of_array}))).tolist():
        inside, found = truth.take(number, axis_of_array), mask.take(number, axis_of_array)
        if (inside ^ found).any():
            region, part = largest_region(inside & ~found, found & ~inside)
            path = _centreline(region) + [side.start for side in part]
            foreground = bool(inside[tuple(path[0])])
            prompts.append(Scribble(as_voxels(_lifted(path, axis_of_array, number)), foreground))
    return prompts


def _check_correction(kind: str) -> None:
    if kind not in CORRECTIONS:
        raise ClickError(f"unknown kind of correction {kind!r}; expected one of {', '.join(CORRECTIONS)}.")


def _box_of_target(truth: np.ndarray, spacing: Sequence[float]) -> tuple[slice, slice, slice]:
    check_mask(truth, "truth")
    check_spacing(spacing)
    box = bounding_box(truth)
    if box is None:
        raise ClickError(f"the truth of shape {truth.shape} is empty: there is no target to prompt. Leave it out.")
    return box


def _drawing(kind: str) -> Callable[[np.ndarray, int, int], Prompt]:
    drawings = {"scribble": _scribble, "box": _box, "lasso": _lasso}
    if kind not in drawings:
        raise ClickError(f"unknown kind of prompt {kind!r}; expected one of {', '.join(FIRST_PROMPTS)}.")
    return drawings[kind]


def _scribble(inside: np.ndarray, axis: int, number: int) -> Scribble:
    return Scribble(as_voxels(_lifted(_centreline(inside), axis, number)))


def _box(inside: np.ndarray, axis: int, number: int) -> Box:
    rows, columns = np.nonzero(inside)
    corners = np.array([(rows.min(), columns.min()), (rows.max(), columns.max())])
    low, high = _lifted(corners, axis, number)
    return _wide_box(low, high, np.insert(inside.shape, axis, 1))  # thin along the axis of slices alone


def _wide_box(low_ijk: Any, high_ijk: Any, shape: Any) -> Box:
    """A positive box; along an axis of more than one voxel, it is two voxels wide at least."""
    low, high = np.array(low_ijk), np.array(high_ijk)
    thin = (low == high) & (np.array(shape) > 1)
    at_end = high == np.array(shape) - 1
    low[thin & at_end] -= 1
    high[thin & ~at_end] += 1
    corners = as_voxels(np.array([low, high]))
    return Box(corners[0], corners[1])


def _lasso(inside: np.ndarray, axis: int, number: int) -> Lasso:
    from skimage.measure import find_contours
    from skimage.morphology import convex_hull_image

    if ndimage.label(inside, CONNECTED_26[0])[1] > 1:
        inside = convex_hull_image(inside)
    around = ndimage.binary_fill_holes(ndimage.binary_dilation(inside, CONNECTED_26[0]))
    # The contour runs half way between voxels inside and outside: of each such pair, the one inside.
    contour = max(find_contours(np.pad(around, 1).astype(float), 0.5), key=len) - 1
    low, high = np.floor(contour).astype(int), np.ceil(contour).astype(int)
    low_is_inside = np.pad(around, 1)[tuple(low.T + 1)]
    path = np.where(low_is_inside[:, None], low, high)
    turns = np.any(path != np.roll(path, 1, axis=0), axis=1)  # each voxel once
    return Lasso(as_voxels(_lifted(path[turns], axis, number)))


def _centreline(region: np.ndarray) -> np.ndarray:
    """The middle of the largest piece of a region of a slice, from end to end, pixels (n, 2).

    Source: strategy "centerline" of the autoPET V challenge: the shortest path between the two most distant pixels of
    the skeleton, without a tenth at either end if it is longer than 10 pixels. Of a piece without such a path, its
    deepest pixel (where the challenge takes the whole piece, which is no line).
    """
    from skimage.graph import route_through_array
    from skimage.morphology import skeletonize

    piece, part = largest_component(region)
    skeleton = skeletonize(np.pad(piece, 1))[1:-1, 1:-1]  # at the border of the array, too
    pieces, _ = ndimage.label(skeleton, CONNECTED_26[0])
    pixels = np.argwhere(skeleton & (pieces == np.bincount(pieces[skeleton], minlength=1).argmax()))
    if len(pixels) < 2:
        path = [deepest_voxel(piece, (1, 1))]
    else:
        distances = cdist(pixels, pixels)
        start, end = pixels[list(np.unravel_index(distances.argmax(), distances.shape))]
        costs = np.where(skeleton, 1, -1)  # negative: no way through
        path, _ = route_through_array(costs, start, end, fully_connected=True, geometric=False)
    if len(path) > 10:
        path = path[int(0.1 * len(path)) : int(0.9 * len(path))]
    return np.array(path) + [side.start for side in part]


def _imprecise(
    truth: np.ndarray, box: tuple[slice, ...], spacing: Sequence[float], rng: np.random.Generator | None
) -> np.ndarray:
    """A mask whose border lies now inside and now outside that of the truth; never empty."""
    if rng is None:
        raise ClickError("a simulated mask needs a random generator: rng=numpy.random.default_rng(seed).")
    wide = widen_box(box, np.ceil(3 * ERROR_MM / np.array(spacing)), truth.shape)
    inside = truth[wide]
    depth = np.where(inside, depth_mm(inside, spacing), -ndimage.distance_transform_edt(~inside, sampling=spacing))
    noise = ndimage.gaussian_filter(rng.standard_normal(inside.shape), WAVE_MM / np.array(spacing))
    noise *= min(ERROR_MM, depth.max() / 2) / max(noise.std(), 1e-9)
    mask = np.zeros_like(truth)
    mask[wide] = depth + noise > 0
    return mask if mask.any() else truth


def _largest_slice(region: np.ndarray, axis: int) -> int:
    return int(np.count_nonzero(np.moveaxis(region, axis, 0), axis=(1, 2)).argmax())


def _lifted(path: np.ndarray, axis: int, number: int) -> np.ndarray:
    """Pixels of a slice, (n, 2), as voxels, (n, 3)."""
    return np.insert(path, axis, number, axis=1)

