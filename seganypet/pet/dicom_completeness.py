"""Slices that are not there, or may not be: what headers announce, and what is left out; what that does to the SUV."""

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from pydicom.uid import UID_dictionary

from seganypet.errors import DicomError, shown
from seganypet.pet.dicom_frames import Frame
from seganypet.pet.dicom_header import Header, Slice, number_of, shown_text


def warn_of_missing_slices(
    chosen: Frame, frames: Sequence[Frame], facts: Mapping[str, Any], source: str | os.PathLike
) -> None:
    """Warn if a PET has fewer slices or frames than its header says.

    Args:
        chosen: The volume that is loaded.
        frames: All volumes of the series.
        facts: What the SUV rests on (`SUVFactor`), or the activity; only an SUV has a decay_reference.
    """
    problems: list[str] = []
    first = chosen.slices[0]
    slices = _count(first, "NumberOfSlices", problems)
    times = _count(first, "NumberOfTimeSlices", problems)
    missing = []
    # Some scanners write the number of beds there for a static scan, for which the standard has no meaning.
    is_dynamic = len(frames) > 1 or shown_text(first.header, "SeriesType").startswith("DYNAMIC")
    if is_dynamic and len(frames) < times:
        missing.append(f"{len(frames)} time frames, but NumberOfTimeSlices (0054,0101) is {times}")
    if len(chosen.slices) < slices:
        missing.append(
            f"{len(chosen.slices)} slices, but NumberOfSlices (0054,0081) is {slices}; part of the scan may be missing"
        )
    if missing and "decay_reference" in facts:
        missing.append(_effect_on_suv(facts["decay_reference"]))
    if missing or problems:
        warnings.warn(f"{source}: {'. '.join(missing + problems)}.", stacklevel=3)


def warn_of_unknown_classes(headers: Sequence[Header], source: str | os.PathLike) -> None:
    """Warn if files of a series have a class that DICOM does not know: they may be slices, and are left out."""
    unknown = [header for header in headers if header.sop_class not in UID_dictionary]
    if unknown:
        names = f"{len(unknown)} files of the series, such as {unknown[0].file.path.name},"
        warnings.warn(
            f"{source}: {names} are of the unknown class {shown(str(unknown[0].sop_class))} and left out; slices may "
            "be missing.",
            stacklevel=3,
        )


def _count(first: Slice, keyword: str, problems: list[str]) -> int:
    """A count, 0 if it is absent; one that cannot be read is added to `problems`."""
    try:
        return int(number_of(first.header, keyword, first.name) or 0)
    except DicomError as error:
        problems.append(f"Whether slices are missing is unknown: {str(error).rstrip('.')}")
        return 0


def _effect_on_suv(reference: str) -> str:
    if reference == "earliest acquisition time":
        return (
            "The SUV rests on the earliest acquisition among the slices that are there: if the scan began before it, "
            "every SUV is too high"
        )
    return f"The SUV of the slices that are there rests on {reference}, which missing slices do not change"
