"""Objects larger than a window: further windows that overlap by half, opened where the mask meets a face.

Source: supplement Fig. 4 (b); the growth by half-overlapping windows follows the successor's description.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from seganypet.prompting.look import clicked_part
from seganypet.prompting.window import Window
from seganypet.prompting.window_decoder import WindowDecoder
from seganypet.prompting.window_logits import (
    PointMM,
    WindowLogits,
    resample_logits,
    touched_faces,
)
from seganypet.regions import bounding_box, widen_box

MAX_WINDOWS = 12  # of one object; an aorta needs three


class Grown(NamedTuple):
    """Windows of one object, and whether there would have been more than `MAX_WINDOWS`."""

    windows: tuple[WindowLogits, ...]
    is_cut: bool


def grow(decoder: WindowDecoder, windows: tuple[WindowLogits, ...], points: list[PointMM]) -> Grown:
    """Open half-overlapping windows wherever what was clicked meets a face inside the volume, until none does."""
    grown, newest = list(windows), [clicked_part(part, points) for part in windows]
    is_cut = False
    while newest and not is_cut:
        found: list[WindowLogits] = []
        faces = [(part, *face) for part in newest for face in touched_faces(part.logits)]
        for part, axis, side in faces:
            window = _window_beside(decoder, part.window, axis, side)
            known = (part.window, *(other.window for other in (*grown, *found)))
            if any(same_position(window, other) for other in known):  # that of `part` where the volume ends
                continue
            if is_cut := len(grown) + len(found) >= MAX_WINDOWS:
                break
            found.append(_continued(part, window, axis, side))
        # A window that nobody clicked continues the object that led there, and begins no other one.
        newest = [clicked_part(part, points) for part in decoder.decode_all(found, points)]
        grown += newest
    return Grown(tuple(grown), is_cut)


def drop_orphan_windows(windows: tuple[WindowLogits, ...]) -> tuple[WindowLogits, ...]:
    """Without the windows that grew out of mask that is gone.

    A background click may take back the leak that opened other windows. A window stays if a click opened it, or if
    the position it was seeded from is still inside the mask of a window that stays.
    """
    staying = [part for part in windows if not part.seeds_mm]
    grown = [part for part in windows if part.seeds_mm]
    found = grown
    while found:
        found = [part for part in grown if any(other.holds_mm(seed) for other in staying for seed in part.seeds_mm)]
        staying += found
        grown = [part for part in grown if part not in found]
    return tuple(part for part in windows if part in staying)


def same_position(one: Window, other: Window) -> bool:
    """Whether two windows lie within a voxel of each other."""
    return bool(np.abs(np.subtract(one.corner_mm, other.corner_mm)).max() < one.spacing_mm)


def _window_beside(decoder: WindowDecoder, window: Window, axis: int, side: int) -> Window:
    """The window half a window further, or as far as the volume goes."""
    centre = window.centre_mm
    centre[axis] += side * window.side_mm / 2
    return decoder.window(centre, window.spacing_mm)


def _continued(part: WindowLogits, window: Window, axis: int, side: int) -> WindowLogits:
    """What is known of an object in the window beside, with a seed where its mask is deepest in the overlap."""
    mask, size = part.mask, part.logits.shape[-1]
    half = [slice(None)] * 3
    half[axis] = slice(0, size // 2) if side > 0 else slice(size // 2, None)
    mask[tuple(half)] = False  # only what lies in the overlap
    box = widen_box(bounding_box(mask) or np.s_[:0, :0, :0], (1, 1, 1), mask.shape)
    depth = ndimage.distance_transform_edt(mask[box])
    deepest = np.unravel_index(depth.argmax(), depth.shape) + np.array([along.start for along in box])
    x, y, z = (part.affine[:3, :3] @ deepest + part.affine[:3, 3]).tolist()
    return WindowLogits(window, resample_logits(part, window), seeds_mm=((x, y, z),))
