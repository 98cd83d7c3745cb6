"""What the scan itself suggests around a click, before the network is asked: a spot, hot against its surroundings.

It is given to a network as the logits of the step before. Ours, not published; chosen as look.py says.
"""

from dataclasses import replace

import numpy as np
import torch
from scipy import ndimage

from seganypet.prompting.binding import EDGE
from seganypet.prompting.window import Window
from seganypet.prompting.window_decoder import WindowDecoder
from seganypet.prompting.window_logits import WindowLogits

SPOT_ML = 60.0  # no small thing is larger
# A hot region: as large as a spot at most, and so much hotter than its surroundings.
HOT, HOT_FRACTIONS, HOT_PEAK_MM, HOT_SHELL_MM = 1.6, (0.42, 0.5, 0.6, 0.7), 6.0, (4.0, 14.0)
# One nested in something warm that is small itself is rarely what is meant.
FAR_SHELL_MM, NESTED = (20.0, 32.0), 1.8
START_LOGIT = 3.0  # of what is not the network's own, but given to it to start from


def hot_region(decoder: WindowDecoder, window: Window, clicked_mm: np.ndarray) -> WindowLogits | None:
    """A small hot spot at the clicked place, seen in the scan itself, as logits to start from; None if there is none.

    It is what is connected to the click above a fraction of the nearby peak, for the first fraction at which that is
    small, inside the window, and hot against what is 4 to 14 mm around it; ending at nearly half the contrast.
    """
    part = decoder.blank(window)
    size = part.logits.shape[-1]
    step_mm = window.side_mm / size
    uptake = decoder.uptake(window)
    at = np.clip(np.rint(np.linalg.solve(part.affine, [*clicked_mm, 1])[:3]).astype(int), 0, size - 1)
    reach = max(int(np.rint(HOT_PEAK_MM / step_mm)), 1)
    peak = float(uptake[tuple(slice(max(index - reach, 0), index + reach + 1) for index in at)].max())
    at = tuple(at)
    for fraction in HOT_FRACTIONS:
        labels, _ = ndimage.label(uptake >= fraction * peak)
        region = labels == labels[at]
        if not labels[at] or region.sum() * step_mm**3 / 1000 > SPOT_ML or _meets_face(region):
            continue
        away_mm = ndimage.distance_transform_edt(~region, sampling=step_mm)
        around = float(np.median(uptake[(away_mm > HOT_SHELL_MM[0]) & (away_mm <= HOT_SHELL_MM[1])]))
        inside = float(np.percentile(uptake[region], 95))
        if inside >= HOT * around:
            region &= uptake >= around + EDGE * (inside - around)
            region[at] = True
            logits = np.where(region, START_LOGIT, -START_LOGIT).astype(np.float32)
            return replace(part, logits=torch.from_numpy(logits)[None, None].to(part.logits.device))
    return None


def is_nested(decoder: WindowDecoder, hot: WindowLogits) -> bool:
    """Whether a hot region lies in something warm that is itself small, as the pelvis of a kidney does."""
    uptake = decoder.uptake(hot.window)
    away_mm = ndimage.distance_transform_edt(~hot.mask, sampling=hot.window.side_mm / len(uptake))
    near, far = (uptake[(away_mm > low) & (away_mm <= high)] for low, high in (HOT_SHELL_MM, FAR_SHELL_MM))
    return bool(far.size and np.median(near) >= NESTED * np.median(far))


def is_nested_spot(decoder: WindowDecoder, part: WindowLogits) -> bool:
    """Whether a mask is small and nested, see `is_nested`."""
    return bool(part.mask.any()) and part.volume_ml <= SPOT_ML and is_nested(decoder, part)


def _meets_face(region: np.ndarray) -> bool:
    return any(region.take(side, axis).any() for axis in range(3) for side in (0, -1))
