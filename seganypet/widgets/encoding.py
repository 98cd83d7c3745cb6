"""What a browser gets to draw: voxels, masks and entropy as bytes, in RAS order, the first axis running fastest."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from seganypet.errors import GeometryError, SegAnyPETError, UnitError
from seganypet.pet.views import ijk_to_ras, ras_affine, ras_spacing, to_ras
from seganypet.pet.volume import Volume
from seganypet.prompting.prompts import Prompt
from seganypet.prompting.window import extent_mm
from seganypet.regions import bounding_box

HOTTEST_SUV = 30.0  # above it bladders and brains look alike; 8 bits are better spent below
HU_RANGE = (-1000.0, 1000.0)
BODY_SUV, BODY_HU = 0.1, -400.0
BODY_FRACTION = 0.003
BODY_MARGIN_MM = 10.0
MAX_UNCERTAIN_LOGIT = 4.5  # beyond it the entropy is below a tenth of a bit, which is not drawn

Values = TypeVar("Values", np.ndarray, np.float32)


class Coded(NamedTuple):
    """A volume as 8-bit codes, equidistant in the square root of the intensity.

    Noise of counts grows with the square root, so steps are as fine as what can be told apart.

    Attributes:
        low, high: Intensities of codes 0 and 255.
        codes: In RAS order, shape (X, Y, Z).
    """

    low: float
    high: float
    codes: np.ndarray


def coded(volume: Volume) -> Coded:
    """The codes of a volume; what is hotter than code 255 has it, too."""
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
    return Coded(low, high, codes)


def body_box(volume: Volume) -> list[list[int]]:
    """First voxel and end of what a view shows, along each axis in RAS order: the body and `BODY_MARGIN_MM` around it.

    A plane belongs to the body if at least `BODY_FRACTION` of its voxels are warm; a few hot ones outside are noise.
    """
    ras, spacing = to_ras(volume.data, volume), ras_spacing(volume)
    warm = ras > (BODY_SUV if volume.unit == "SUVbw" else BODY_HU if volume.unit == "HU" else 0.02 * ras.max())
    box = []
    for axis, size in enumerate(ras.shape):
        planes = np.flatnonzero(warm.mean(axis=tuple({0, 1, 2} - {axis})) >= BODY_FRACTION)
        margin = round(BODY_MARGIN_MM / spacing[axis])
        found = (int(planes[0]), int(planes[-1])) if len(planes) else (0, size - 1)
        box.append([max(found[0] - margin, 0), min(found[1] + margin + 1, size)])
    return box


def checked_ct(ct: Volume, volume: Volume) -> Volume:
    """A CT that can be laid under a PET; it stays on its own grid.

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
    return ct


def grid_in(layer: Volume, volume: Volume) -> dict[str, Any]:
    """Where a layer lies: its shape in RAS order, and the matrix (3, 4) from the volume's RAS indices to its own."""
    matrix = np.linalg.inv(ras_affine(layer)) @ ras_affine(volume)
    return {"shape": list(to_ras(layer.data, layer).shape), "matrix": matrix[:3].tolist()}


def value_at(volume: Volume, mm: Sequence[float] | np.ndarray) -> float | None:
    """Intensity of the voxel that holds a point, RAS+ mm; None outside."""
    ijk = tuple(np.rint(volume.to_ijk(mm)).astype(int).tolist())
    return float(volume.data[ijk]) if volume.contains_ijk(ijk) else None


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


def drawn_marks(name: str, prompts: Iterable[Prompt], volume: Volume) -> list[dict[str, Any]]:
    """What the browser draws of an object's prompts: paths of voxels in RAS order, their signs, and whose they are."""
    return [
        {"path": [list(ijk_to_ras(ijk, volume)) for ijk in mark.path_ijk], "foreground": mark.foreground, "of": name}
        for prompt in prompts
        for mark in prompt.marks
    ]


def boxes_meet(boxes: Sequence[Sequence[int]]) -> bool:
    """Whether two of some boxes, as `packed` gives them, share a voxel; empty ones share none."""
    filled = [box for box in boxes if box]
    return any(
        all(one[axis] < other[axis] + other[axis + 3] and other[axis] < one[axis] + one[axis + 3] for axis in range(3))
        for number, one in enumerate(filled)
        for other in filled[:number]
    )


def _boxed(part: np.ndarray, box: tuple[slice, slice, slice], volume: Volume) -> dict[str, Any]:
    """A part of an array on the volume's grid: where it lies in RAS order, (first, size), and its voxels."""
    corners_ijk = [[side.start for side in box], [side.stop - 1 for side in box]]
    first = np.min([ijk_to_ras(corner, volume) for corner in corners_ijk], axis=0)
    ras = to_ras(part, volume)
    return {"box": [*first.tolist(), *ras.shape], "voxels": ras.tobytes(order="F")}


def _root(values: Values) -> Values:
    return np.sign(values) * np.sqrt(np.abs(values))
