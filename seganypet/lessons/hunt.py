"""Masks with three mistakes in them, of kinds that really happen, for lesson 3."""

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

HUNTED = ("liver", "spleen", "heart", "kidney_left", "kidney_right")
WRONG = ("heart", "kidney_left", "kidney_right", "spleen")  # the kidneys are one mistake
DRAWN_SHARE = 0.4  # of the slices of an organ whose annotator went home


def spoilt_masks(truths: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The five organs of HUNTED, three things wrong.

    Args:
        truths: Mask of each organ, bool, all of one shape (I, J, K) with the feet at k = 0.
    """
    masks = {name: truths[name].copy() for name in HUNTED}
    masks["kidney_left"], masks["kidney_right"] = masks["kidney_right"], masks["kidney_left"]
    masks["spleen"] |= ndimage.binary_dilation(truths["kidney_left"], iterations=4)
    slices = np.flatnonzero(truths["heart"].any(axis=(0, 1)))
    masks["heart"][..., slices[: round((1 - DRAWN_SHARE) * slices.size)]] = False
    return masks
