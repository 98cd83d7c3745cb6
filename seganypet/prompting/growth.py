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

MAX_WINDOWS = 12  # of one object; an aorta needs three


class Grown(NamedTuple):
    """Windows of one object, and whether there would have been more than `MAX_WINDOWS`."""

    windows: tuple[WindowLogits, ...]
    is_cut: bool


def grow(decoder: WindowDecoder, windows: tuple[WindowLogits, ...], points: list[PointMM]) -> Grown:
    """Open half-overlapping windows wherever what was clicked meets a face inside the volume, until none does."""
    grown, waiting = list(windows), list(windows)
    while waiting:
        part = clicked_part(waiting.pop(0), points)
        for axis, side in touched_faces(part.logits):
            neighbour = _neighbour(decoder, part, axis, side)
            if neighbour is None or any(same_position(neighbour.window, other.window) for other in grown):
                continue
            if len(grown) >= MAX_WINDOWS:
                return Grown(tuple(grown), True)
            # A window that nobody clicked continues the object that led there, and begins no other one.
            added = clicked_part(decoder.decode(neighbour, points), points)
            grown.append(added)
            waiting.append(added)
    return Grown(tuple(grown), False)


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


def _neighbour(decoder: WindowDecoder, part: WindowLogits, axis: int, side: int) -> WindowLogits | None:
    """The window half a window further, prompted where this mask is deepest in the overlap."""
    window, size = part.window, part.logits.shape[-1]
    centre = np.array(window.corner_mm) + (window.size - 1) / 2 * window.spacing_mm
    centre[axis] += side * window.size / 2 * window.spacing_mm
    neighbour = decoder.window(centre, window.spacing_mm)
    if same_position(neighbour, window):
        return None  # the volume ends here
    mask = part.mask
    half = [slice(None)] * 3
    half[axis] = slice(0, size // 2) if side > 0 else slice(size // 2, None)
    mask[tuple(half)] = False  # only what lies in the overlap
    deepest = np.unravel_index(ndimage.distance_transform_edt(mask).argmax(), mask.shape)
    x, y, z = (part.affine[:3, :3] @ deepest + part.affine[:3, 3]).tolist()
    return WindowLogits(neighbour, resample_logits(part, neighbour), seeds_mm=((x, y, z),))
