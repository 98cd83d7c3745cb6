"""What a browser gets to draw: voxels, masks and entropy as bytes, in RAS order, the first axis running fastest."""

from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np

from seganypet.errors import GeometryError, SegAnyPETError, UnitError
from seganypet.pet.resampling import resample_to
from seganypet.pet.views import ijk_to_ras, to_ras
from seganypet.pet.volume import Volume
from seganypet.prompting.prompts import Prompt
from seganypet.prompting.window import extent_mm
from seganypet.regions import bounding_box

HOTTEST_SUV = 30.0  # above it bladders and brains look alike; 8 bits are better spent below
HU_RANGE = (-1000.0, 1000.0)
MAX_UNCERTAIN_LOGIT = 4.5  # beyond it the entropy is below a tenth of a bit, which is not drawn

Values = TypeVar("Values", np.ndarray, np.float32)


def coded(volume: Volume) -> dict[str, Any]:
    """A volume as 8-bit codes, equidistant in the square root of the intensity.

    Noise of counts grows with the square root, so steps are as fine as what can be told apart.

    Returns:
        low and high: the intensities of codes 0 and 255; voxels: codes in RAS order, the first axis running fastest.
    """
    low, high = HU_RANGE
    if volume.unit != "HU":
        peak = float(volume.data.max())
        low, high = 0.0, max(min(peak, HOTTEST_SUV) if volume.unit == "SUVbw" else peak, 1e-3)
    span = _root(np.float32(high)) - _root(np.float32(low))
    ras = to_ras(volume.data, volume)
    codes = np.empty(ras.shape, np.uint8, order="F")
    for k in range(ras.shape[2]):  # at once, it would take five times the memory of the scan
        part = _root(np.clip(ras[..., k], low, high))
        part -= _root(np.float32(low))
        part *= 255 / span
        codes[..., k] = np.rint(part)
    return {"low": low, "high": high, "voxels": codes.tobytes(order="F")}


def ct_on_grid(ct: Volume, volume: Volume) -> Volume:
    """A CT on the grid of a PET.

    Raises:
        SegAnyPETError: This is no volume.
        UnitError: It is not in HU.
        GeometryError: The two do not overlap.
    """
    if not isinstance(ct, Volume):
        raise SegAnyPETError(f"ct is a {type(ct).__name__}; expected a Volume, such as load_volume returns.")
    if ct.unit != "HU":
        raise UnitError(f"ct={ct.source} is in {ct.unit}; the CT layer needs HU.")
    (ct_low, ct_high), (low, high) = extent_mm(ct), extent_mm(volume)
    if (np.minimum(ct_high, high) <= np.maximum(ct_low, low)).any():
        raise GeometryError(
            f"ct={ct.source} (from {ct_low.round()} to {ct_high.round()} mm) does not overlap {volume.source} (from "
            f"{low.round()} to {high.round()} mm). Is it of the same patient and examination?"
        )
    return resample_to(ct, volume)


def packed(mask: np.ndarray, volume: Volume) -> dict[str, Any]:
    """A mask as bits inside its box, in the order of `coded`, and its volume in mL; no bits if it is empty."""
    box = bounding_box(mask)
    if box is None:
        return {"bits": None, "box": [], "ml": None}
    boxed = _boxed(mask[box], box, volume)
    boxed["bits"] = np.packbits(np.frombuffer(boxed.pop("voxels"), np.uint8)).tobytes()
    return {**boxed, "ml": float(np.count_nonzero(mask[box]) * volume.voxel_volume_ml)}


def entropy_map(logits: np.ndarray, volume: Volume) -> dict[str, Any]:
    """Uncertainty of a network: entropy of the sigmoid of its logits, 255 for one bit, inside a box.

    Args:
        logits: Logits on the volume's grid, float; exactly 0 outside all windows.
        volume: Volume of that grid.

    Returns:
        box and voxels as `packed`, or nothing if the network is certain everywhere.
    """
    box = bounding_box((np.abs(logits) < MAX_UNCERTAIN_LOGIT) & (logits != 0))
    if box is None:
        return {}
    p = 1 / (1 + np.exp(-logits[box].astype(np.float64)))
    bits = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
    return _boxed(np.where(logits[box] == 0, 0, np.rint(255 * bits)).astype(np.uint8), box, volume)


def drawn_marks(prompts: Iterable[Prompt], volume: Volume) -> list[dict[str, Any]]:
    """What the browser draws of prompts: paths of voxels in RAS order, and their signs."""
    return [
        {"path": [list(ijk_to_ras(ijk, volume)) for ijk in mark.path_ijk], "foreground": mark.foreground}
        for prompt in prompts
        for mark in prompt.marks
    ]


def _boxed(part: np.ndarray, box: tuple[slice, slice, slice], volume: Volume) -> dict[str, Any]:
    """A part of an array on the volume's grid: where it lies in RAS order, (first, size), and its voxels."""
    corners_ijk = [[side.start for side in box], [side.stop - 1 for side in box]]
    first = np.min([ijk_to_ras(corner, volume) for corner in corners_ijk], axis=0)
    ras = to_ras(part, volume)
    return {"box": [*first.tolist(), *ras.shape], "voxels": ras.tobytes(order="F")}


def _root(values: Values) -> Values:
    return np.sign(values) * np.sqrt(np.abs(values))
