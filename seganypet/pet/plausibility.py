"""A look at a volume's numbers: can they be what its unit says?"""

import warnings
import weakref
from typing import TYPE_CHECKING

import numpy as np

from seganypet.errors import DoubtfulValuesWarning

if TYPE_CHECKING:
    from seganypet.pet.volume import Volume

LARGE_ML = 10_000.0  # more than any crop around a lesion
_SAMPLED = 2_000_000  # voxels used for a median; that of 50 million takes a second
_SAID: "weakref.WeakSet[Volume]" = weakref.WeakSet()


def implausible(volume: "Volume") -> str | None:
    """Why a volume's numbers cannot be what its unit says, in one sentence; None if they can.

    By definition the mean SUV of a body is about 1, so half a body is never above 20, nor all of a scan below 0.1, nor
    all of a large part of it below 1. Activity is not negative but for noise, and a CT shows air.
    """
    data, unit = volume.data, volume.unit
    lowest, highest = float(data.min()), float(data.max())
    extent = f"values from {lowest:.4g} to {highest:.4g}"
    if lowest == highest == 0:
        return "every voxel is 0; did the export fail?"
    if unit == "HU":
        if lowest >= 0 and highest > 100:
            return f"{extent}, none of which is air or fat (below 0 HU); is it a PET, or stored without its intercept?"
        return None
    if highest <= 0:
        return f"{extent}: activity is not negative; were the pixels read with a wrong sign?"
    if lowest <= -500 and highest < 20_000 and np.median(_sample(data)) < 100:
        return f"{extent}, as of a CT in HU; is it the PET?"
    if lowest < -0.2 * highest:
        return f"{extent}: activity is not negative; is it normalised, or were large pixel values read as negative?"
    if unit == "Bq/mL":
        return f"{extent}, very low for Bq/mL; is it an SUV, or in kBq/mL?" if highest < 200 else None
    if highest < 0.1 or highest <= 1 and data.size * volume.voxel_volume_ml > LARGE_ML:
        return f"{extent}, and the mean SUV of a body is about 1; is it normalised, a mask, or in another unit?"
    sample = _sample(data)
    middle = float(np.median(sample[sample > 0.1]))
    if middle > 20:
        return (
            f"half of the scan has an SUV above {middle:.4g}, where a body's mean is about 1; is it in Bq/mL or 8 "
            "bits, or are weight, dose or times wrong?"
        )
    return None


def doubt(volume: "Volume") -> str | None:
    """What to tell a user of an implausible volume, None of others; `warn_if_implausible` does not repeat it."""
    _SAID.add(volume)
    why = implausible(volume)
    return None if why is None else f"{volume.source}: implausible for {volume.unit}: {why}"


def warn_if_implausible(volume: "Volume") -> None:
    """Warn once of a volume whose numbers cannot be what its unit says."""
    message = None if volume in _SAID else doubt(volume)
    if message is not None:
        warnings.warn(message, DoubtfulValuesWarning, stacklevel=3)


def _sample(data: np.ndarray) -> np.ndarray:
    return data.ravel(order="K")[:: max(1, data.size // _SAMPLED)]
