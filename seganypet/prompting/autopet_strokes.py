"""Strokes as autoPET V simulates them: one in the largest error of a slice, of one voxel's width.

Source: the challenge's simulator (Apache-2.0), written out anew; it is met to the voxel, also where it is odd: errors
are compared in slices of the third axis alone, and the sign goes to the longer stroke, not to the larger error.
"""

import random
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.spatial.distance import pdist, squareform

from seganypet.errors import ClickError
from seganypet.prompting.prompts import Voxel

STROKES = ("centerline", "random", "boundary")
ONE_SIDED = ("stroke", "none")
_SEED = 42  # the simulator seeds each stroke anew
_EIGHT = np.ones((3, 3), bool)

Pixel = tuple[int, int]


class Stroke(NamedTuple):
    """A simulated stroke: its voxels in the order in which they were drawn, and whether they say tumour."""

    path_ijk: tuple[Voxel, ...]
    foreground: bool


def simulate_stroke(mask: np.ndarray, truth: np.ndarray, strokes: str, one_sided: str = "stroke") -> Stroke | None:
    """The next stroke of a user who looks at a mask.

    Args:
        mask: The mask so far, bool, shape (I, J, K).
        truth: All lesions, bool, shape (I, J, K).
        strokes: One of `STROKES`: along the middle of the error, between two random pixels of it, or along its border.
        one_sided: What happens if only one kind of error is left: "stroke" draws it; "none" draws nothing, as the
            challenge's code, which fails there.

    Returns:
        The stroke: on missing tumour if that stroke is at least as long as the one on false tumour, which are counted
        in voxels; else on false tumour. None if nothing is wrong, or without any lesion.

    Raises:
        ClickError: An unknown strategy.
    """
    if strokes not in STROKES or one_sided not in ONE_SIDED:
        raise ClickError(f"strokes={strokes!r}, one_sided={one_sided!r}: expected one of {STROKES} and of {ONE_SIDED}.")
    if not truth.any():
        return None
    missing, false = (_stroke_in(error, strokes) for error in (truth & ~mask, mask & ~truth))
    if one_sided == "none" and not (missing and false):
        return None
    if missing and len(false) <= len(missing):
        return Stroke(missing, True)
    return Stroke(false, False) if false else None


def connected_runs(path_ijk: Sequence[Voxel]) -> list[list[Voxel]]:
    """A stroke in pieces without gaps, so that joining neighbours adds no voxel: clipped strokes and files have gaps.

    >>> connected_runs([(0, 0, 1), (1, 1, 1), (4, 1, 1)])
    [[(0, 0, 1), (1, 1, 1)], [(4, 1, 1)]]
    """
    runs: list[list[Voxel]] = []
    for voxel in path_ijk:
        near = runs and max(abs(a - b) for a, b in zip(runs[-1][-1], voxel, strict=True)) <= 1
        if near:
            runs[-1].append(voxel)
        else:
            runs.append([voxel])
    return runs


def _stroke_in(error: np.ndarray, strokes: str) -> tuple[Voxel, ...]:
    """A stroke in the largest 2D component of an error; empty without an error."""
    largest, where = np.zeros((0, 0), bool), 0
    size = 0
    for k in np.flatnonzero(error.any((0, 1))).tolist():
        pieces, _ = ndimage.label(error[:, :, k], _EIGHT)
        sizes = np.bincount(pieces.ravel())[1:]
        if sizes.max() > size:  # of equal ones the first
            size, where, largest = int(sizes.max()), k, pieces == sizes.argmax() + 1
    if not size:
        return ()
    draw = {"centerline": _centre_line, "random": _random_line, "boundary": _border_walk}[strokes]
    path = [pixel for pixel in draw(largest) if largest[pixel]] or _pixels(largest)
    return tuple((i, j, where) for i, j in dict.fromkeys(path))


def _centre_line(component: np.ndarray) -> list[Pixel]:
    """The way through the skeleton between its two most distant pixels; of a long one the middle 80 %."""
    from skimage.morphology import skeletonize

    pieces, count = ndimage.label(skeletonize(component), _EIGHT)
    if not count:
        return []
    skeleton = _pixels(pieces == np.bincount(pieces.ravel())[1:].argmax() + 1)
    if len(skeleton) < 2:
        return []
    distances = squareform(pdist(np.array(skeleton, float)))
    start, end = np.unravel_index(distances.argmax(), distances.shape)
    path = _shortest_path(skeleton, skeleton[start], skeleton[end])
    return path[int(0.1 * len(path)) : int(0.9 * len(path))] if len(path) > 10 else path


def _random_line(component: np.ndarray) -> list[Pixel]:
    """A straight line between two pixels that are drawn independently."""
    from skimage.draw import line

    pixels, rng = _pixels(component), random.Random(_SEED)
    if len(pixels) < 2:
        return []
    start, end = rng.choice(pixels), rng.choice(pixels)
    return [(int(i), int(j)) for i, j in zip(*line(*start, *end), strict=True)]


def _border_walk(component: np.ndarray) -> list[Pixel]:
    """A fifth of the border, from a random pixel on to the first unvisited neighbour each time, until a dead end."""
    border = _pixels(component & ~ndimage.binary_erosion(component))
    if len(border) < 2:
        return []
    here = random.Random(_SEED).choice(border)
    left, path = {*border} - {here}, [here]
    for _ in range(max(2, int(0.2 * len(border)))):
        ahead = [pixel for pixel in _neighbours(here) if pixel in left]
        if not ahead:
            break
        here = ahead[0]
        left.remove(here)
        path.append(here)
    return path


def _shortest_path(pixels: Sequence[Pixel], start: Pixel, end: Pixel) -> list[Pixel]:
    """Pixels from `start` to `end` over 8-neighbours, both included; empty if there is no way."""
    before: dict[Pixel, Pixel | None] = {start: None}
    known, queue = {*pixels}, deque([start])
    while queue and end not in before:
        here = queue.popleft()
        for pixel in _neighbours(here):
            if pixel in known and pixel not in before:
                before[pixel] = here
                queue.append(pixel)
    path: list[Pixel] = []
    step: Pixel | None = end if end in before else None
    while step is not None:
        path.append(step)
        step = before[step]
    return path[::-1]


def _neighbours(pixel: Pixel) -> list[Pixel]:
    """The eight neighbours, in row order."""
    i, j = pixel
    return [(i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a, b) != (0, 0)]


def _pixels(component: np.ndarray) -> list[Pixel]:
    return [(int(i), int(j)) for i, j in np.argwhere(component)]
