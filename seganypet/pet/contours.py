"""Masks of single planes as polygons, and polygons as masks.

Coordinates are in pixels, (i, j), pixel centres being whole numbers. A polygon runs halfway between the pixels inside
and their neighbours outside, so that filling it by pixel centres gives the same pixels again. A hole is joined to the
polygon around it by a channel of no width (a "keyhole", as DICOM describes it): programs that add all contours of a
plane and programs that XOR them both read that right.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from seganypet.errors import warn_caller
from seganypet.metrics import dice

_SNAP = 1 / 128  # pixels: coordinates that were written with a few digits return to where they were


def outlines(mask: np.ndarray) -> list[np.ndarray]:
    """Closed polygons around the pixels of a plane, holes joined by keyholes.

    Args:
        mask: Bool, shape (I, J).

    Returns:
        Polygons, each of shape (points, 2) without repetition of the first point; none for an empty plane.

    Source: marching squares at the level 0.5 (skimage).
    """
    from skimage.measure import find_contours

    rings = [ring[:-1] - 1 for ring in find_contours(np.pad(mask, 1).astype(np.float32), 0.5)]
    outer = [ring for ring in rings if _signed_area(ring) < 0]  # counter-clockwise around what is outside
    holes = [ring for ring in rings if _signed_area(ring) > 0]
    inside: list[list[np.ndarray]] = [[] for _ in outer]
    for hole in holes:
        around = [number for number, ring in enumerate(outer) if _contains(ring, hole)]
        inside[min(around, key=lambda number: abs(_signed_area(outer[number])))].append(hole)
    return [_without_straight_points(_keyholed(ring, own)) for ring, own in zip(outer, inside, strict=True)]


def _signed_area(ring: np.ndarray) -> float:
    i, j = ring.T
    return 0.5 * float(np.dot(i, np.roll(j, -1)) - np.dot(j, np.roll(i, -1)))


def _contains(ring: np.ndarray, other: np.ndarray) -> bool:
    from skimage.measure import points_in_poly

    return bool(points_in_poly(other[:1], ring)[0])


def _keyholed(ring: np.ndarray, holes: Sequence[np.ndarray]) -> np.ndarray:
    """A ring and the holes in it as one polygon.

    Each channel leaves a hole towards smaller i, halfway between two columns of pixel centres, and ends where it first
    meets the polygon made so far; holes on the way have been joined before.
    """

    def start(hole: np.ndarray) -> int:
        halfway = np.abs(hole[:, 1] - np.rint(hole[:, 1])) > 0.25
        return int(np.argmin(np.where(halfway, hole[:, 0], np.inf)))

    for hole in sorted(holes, key=lambda hole: hole[start(hole), 0]):
        first = start(hole)
        i, j = hole[first]
        a, b = ring, np.roll(ring, -1, axis=0)
        rise = b[:, 1] - a[:, 1]
        crosses = (rise != 0) & ((a[:, 1] - j) * (b[:, 1] - j) <= 0)
        along = np.where(crosses, (j - a[:, 1]) / np.where(crosses, rise, 1), 0)
        at_i = np.where(crosses | (a[:, 1] == j), a[:, 0] + along * (b[:, 0] - a[:, 0]), -np.inf)
        at_i[at_i >= i] = -np.inf
        edge = int(np.argmax(at_i))
        gate = np.array([[at_i[edge], j]])
        there_and_back = (gate, np.roll(hole, -first, axis=0), hole[first : first + 1], gate)
        ring = np.concatenate([ring[: edge + 1], *there_and_back, ring[edge + 1 :]])
    return ring


def _without_straight_points(ring: np.ndarray) -> np.ndarray:
    """The polygon without repeated points and points in the middle of straight lines."""
    ring = ring[np.any(ring != np.roll(ring, 1, axis=0), axis=1)]
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    turns = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    goes_on = (before * after).sum(axis=1) > 0
    return ring[~((turns == 0) & goes_on)]


def filled(
    polygons: Sequence[np.ndarray], shape: tuple[int, int], xor: bool = False, source: str = "contours"
) -> np.ndarray:
    """The pixels of a plane whose centres lie inside or on the outlines.

    A polygon that lies inside others cuts a hole, or fills one; keyholes are understood too. Polygons that overlap in
    part are added unless `xor`, and a polygon that is there twice counts once; both with a warning.

    Args:
        polygons: Coordinates, each of shape (points, 2).
        shape: Shape of the plane.
        xor: Whether what lies inside of an even number of polygons is outside, however they overlap.
        source: Whose contours they are, for messages.

    Returns:
        Bool, of that shape.
    """
    from skimage.measure import grid_points_in_poly

    plane, edges = np.zeros(shape, bool), np.zeros(shape, bool)
    snapped = [np.round(polygon / _SNAP) * _SNAP for polygon in polygons]
    distinct = {tuple(map(tuple, np.unique(polygon, axis=0))): polygon for polygon in snapped}
    if len(distinct) < len(polygons):
        warn_caller(f"{source}: a contour is there twice in one plane; it counts once.")
    for polygon in sorted(distinct.values(), key=lambda polygon: -abs(_signed_area(polygon))):
        low = np.clip(np.floor(polygon.min(axis=0)), 0, shape).astype(int)
        high = np.clip(np.ceil(polygon.max(axis=0)) + 1, low, shape).astype(int)
        if (high <= low).any():
            continue
        where = grid_points_in_poly(tuple(high - low), polygon - low, binarize=False)  # 0 outside, 1 inside, 2, 3 on it
        view = plane[low[0] : high[0], low[1] : high[1]]
        covered = where > 0
        if xor:
            view ^= where == 1
            edges[low[0] : high[0], low[1] : high[1]] |= where > 1
        elif not view[covered].any():
            view[covered] = True
        elif view[covered].all():
            view[where == 1] = False  # a hole; its outline still belongs to the object
        else:
            warn_caller(f"{source}: contours of one plane overlap in part; they are added.")
            view[covered] = True
    return plane | edges


def gaps_inside(mask: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of drawn planes along the last axis with empty planes between them, though the two look alike.

    Alike means a DSC of 0.5 and more: pieces that end and begin near each other reach far less.
    """
    drawn = np.flatnonzero(mask.any(axis=(0, 1))).tolist()
    return [(a, b) for a, b in pairwise(drawn) if b > a + 1 and dice(mask[..., [a]], mask[..., [b]]) >= 0.5]
