"""Activity concentration from PET headers, for scans that allow no SUV: phantoms, missing weights or doses."""

import os
import warnings
from collections.abc import Sequence
from typing import Any

from pydicom.dataset import Dataset

from seganypet.errors import SUVError
from seganypet.pet.dicom_header import text_of


def activity_factor(headers: Sequence[Dataset], source: str | os.PathLike) -> tuple[float, dict[str, Any]]:
    """The factor from a PET series' pixel values to Bq/mL.

    Args:
        headers: Headers of all slices of one series, without pixels.
        source: Name of the series, for errors.

    Returns:
        Bq/mL per unit of (stored value x RescaleSlope + RescaleIntercept), and the facts behind it: units,
        decay_correction, corrections.

    Raises:
        SUVError: The pixel values are no activity concentration, and no factor makes them one.

    Warns:
        UserWarning: The scan is not corrected for attenuation.

    Source: DICOM PS3.3 C.8.9.1; Philips' private activity factor (7053,1009).
    """
    facts = {}
    tags = {"Units": "units", "DecayCorrection": "decay_correction", "CorrectedImage": "corrections"}
    for keyword, name in tags.items():
        found = {text_of(header, keyword, source) for header in headers}
        if len(found) > 1:
            raise SUVError(f"{source}: {keyword} differs between slices: {sorted(found)}; load one of them at a time.")
        facts[name] = found.pop()
    factor = 1.0
    if facts["units"] == "CNTS":
        factors = {_philips_activity_factor(header, source) for header in headers}
        factor = factors.pop()
        if factors or not factor > 0:
            raise SUVError(
                f"{source}: Units (0054,1001) is CNTS, and Philips' activity factor (7053,1009) is not one positive "
                "number for all slices (anonymisation may have removed it). Export the series with this tag."
            )
    elif facts["units"] != "BQML":
        hint = " Load it without unit=: it is an SUV already." if facts["units"] == "GML" else ""
        raise SUVError(
            f"{source}: Units (0054,1001) is {facts['units'] or 'missing'}; expected BQML, or Philips CNTS with their "
            f"activity factor, for a volume in Bq/mL.{hint}"
        )
    if "ATTN" not in facts["corrections"].split("\\"):
        warnings.warn(
            f"{source}: CorrectedImage (0028,0051) is {facts['corrections'] or 'missing'}: without ATTN, attenuation "
            "is not corrected, and the numbers are not the activity in the patient.",
            stacklevel=4,
        )
    return factor, facts


def _philips_activity_factor(header: Dataset, source: str | os.PathLike) -> float:
    """Philips' factor, even if anonymisation has removed the creator but kept the element; 0.0 if absent."""
    element = header.get((0x7053, 0x1009))
    creator = header.get((0x7053, 0x0010))
    if creator is not None and "philips" not in str(creator.value).lower():
        return 0.0
    try:
        return float(element.value) if element is not None else 0.0
    except (ValueError, TypeError):
        return 0.0
