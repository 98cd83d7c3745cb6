"""A volume as a stack of 8-bit pictures, the way a radiologist sees its slices."""

from numbers import Real
from typing import Any

import numpy as np

from seganypet.errors import ClickError
from seganypet.model.sam2d import EIGHT_BIT
from seganypet.pet.views import VIEWS, to_ras
from seganypet.pet.volume import Volume

WHITE_PERCENTILE = 99.5  # of a volume in Bq/mL, which has no usual range


def slices_of(data: np.ndarray, volume: Volume, axis: str = "axial") -> np.ndarray:
    """View of an array as a stack of slices as a radiologist sees them; what is written into it lands in the array.

    Args:
        data: Array of the volume's shape.
        volume: Volume whose grid is used.
        axis: Direction of the slices: "axial", "coronal" or "sagittal".

    Returns:
        (slices, rows, columns). Slices run to the head, front or right; the first row is front or head, the first
        column the patient's right, or front in sagittal ones.
    """
    stack = np.moveaxis(to_ras(data, volume), VIEWS[axis].through, 0)  # (n, across, up)
    return stack.transpose(0, 2, 1)[:, ::-1, ::-1]


def usual_intensity_range(volume: Volume) -> tuple[float, float]:
    """Intensities that become 0 and 255 by default, in the volume's unit."""
    if volume.unit in EIGHT_BIT:
        return EIGHT_BIT[volume.unit]
    white = float(np.percentile(volume.data, WHITE_PERCENTILE))
    return 0.0, white if white > 0 else 1.0


def to_eight_bit(data: np.ndarray, intensity_range: tuple[float, float]) -> np.ndarray:
    """Intensities as uint8: the ends of the range become 0 and 255.

    >>> to_eight_bit(np.array([-1.0, 3.5, 7.0, 9.0]), (0.0, 7.0)).tolist()
    [0, 128, 255, 255]
    """
    low, high = intensity_range
    return np.clip((data - low) * (255 / (high - low)), 0, 255).round().astype(np.uint8)


def checked_range(given: Any) -> tuple[float, float]:
    numbers = isinstance(given, (list, tuple)) and len(given) == 2 and all(isinstance(one, Real) for one in given)
    if not numbers or not np.isfinite(given).all() or given[0] >= given[1]:
        raise ClickError(f"intensity_range={given!r}; expected two intensities, the first one lower, or None.")
    return float(given[0]), float(given[1])
