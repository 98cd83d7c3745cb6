"""Multi-frame (enhanced, legacy converted) PET and CT objects as headers of single slices, with the classic tags.

An enhanced object states what all frames share in one sequence and what differs in another; the tags that position,
scale and SUV need lie in sequences within them, some under new names. Here each frame becomes a header as a classic
slice has it, so that one code stacks and converts both.

Source: DICOM PS3.3 A.56 (Enhanced PET), A.38 (Enhanced CT), A.70 and A.72 (legacy converted), C.7.6.16 (functional
groups), C.7.6.16.2.11 (real world values).
"""

import re
from datetime import datetime, timedelta
from typing import Any

from pydicom.dataset import Dataset
from pydicom.valuerep import DT

from seganypet.errors import DicomError
from seganypet.pet.dicom_files import UNREADABLE
from seganypet.pet.dicom_header import MULTIFRAME, PET_CLASSES, Header, Slice, as_slice, frame_count, text_of, value_of

# The functional groups that hold what is read from a classic slice.
_GROUPS = (
    "UnassignedSharedConvertedAttributesSequence", "UnassignedPerFrameConvertedAttributesSequence",
    "PixelMeasuresSequence", "PlanePositionSequence", "PlaneOrientationSequence", "PixelValueTransformationSequence",
    "FrameContentSequence", "TemporalPositionSequence", "CardiacSynchronizationSequence",
    "RespiratorySynchronizationSequence", "PETFrameCorrectionFactorsSequence", "PETFrameTypeSequence",
    "CTImageFrameTypeSequence",
)  # fmt: skip
# Enhanced PET says YES or NO in a tag of its own for each correction that CorrectedImage lists.
_CORRECTIONS = {
    "DecayCorrected": "DECY", "AttenuationCorrected": "ATTN", "ScatterCorrected": "SCAT", "RandomsCorrected": "RAN",
    "DeadTimeCorrected": "DTIM", "CountLossNormalizationCorrected": "NORM", "DetectorNormalizationCorrection": "NORM",
}  # fmt: skip
# UCUM codes of measurement units in small letters, without what stands in braces: Units of a classic PET.
_UNITS = {"bq/ml": "BQML", "kbq/ml": "BQML", "g/ml": "GML", "cm2/ml": "CM2ML", "hu": "HU", "[hnsf'u]": "HU"}
# What stands in braces: SUVType.
_SUV_TYPES = {
    "suvbw": "BW", "suvlbm": "LBM", "suvibw": "IBW", "suvbsa": "BSA", "suvlbm(james)": "LBMJAMES128",
    "suvlbm(james128)": "LBMJAMES128", "suvlbm(janma)": "LBMJANMA",
}  # fmt: skip


def split_frames(source: Header) -> list[Slice]:
    """One slice for each frame of a multi-frame object, in stored order; a classic file is one slice.

    Raises:
        DicomError: Frames have no headers of their own, or a tag is missing that position or scale needs.
    """
    if source.sop_class not in MULTIFRAME:
        return [as_slice(source)]
    path = source.file.path
    per_frame = _sequence(source.tags, "PerFrameFunctionalGroupsSequence", path)
    count = frame_count(source)
    if len(per_frame) != count:
        raise DicomError(
            f"{path}: NumberOfFrames (0028,0008) is {count}, but PerFrameFunctionalGroupsSequence (5200,9230) "
            f"describes {len(per_frame)} frames. The multi-frame file is damaged, or was cut; export it again."
        )
    shared = _sequence(source.tags, "SharedFunctionalGroupsSequence", path)
    common = _own_tags(source.tags)
    for group in shared[:1]:
        common = _overlay(common, group, path)
    slices = []
    for index, group in enumerate(per_frame):
        header = Dataset()
        header.update(_overlay(dict(common), group, path))
        try:
            _add_classic_tags(header, source, f"{path} (frame {index + 1})")
        except UNREADABLE as error:
            if isinstance(error, DicomError):
                raise
            raise DicomError(f"{path}: frame {index + 1} is unreadable ({error}).") from error
        slices.append(as_slice(source, header, index))
    return slices


def _own_tags(header: Dataset) -> dict:
    """What stands outside the functional groups, as pydicom keeps it: some elements are unreadable and not needed."""
    return {tag: header.get_item(tag) for tag in header.keys() if tag not in (0x52009229, 0x52009230)}  # noqa: SIM118


def _overlay(tags: dict, group: Dataset, path: Any) -> dict:
    """`tags` with those of the functional groups in `group`."""
    for keyword in _GROUPS:
        for item in _sequence(group, keyword, path)[:1]:
            try:
                tags |= {element.tag: element for element in item}
            except UNREADABLE as error:
                raise DicomError(f"{path}: {keyword} is unreadable ({error}).") from error
    mapping = value_of(group, "RealWorldValueMappingSequence", path)
    if mapping:
        element = group["RealWorldValueMappingSequence"]
        tags[element.tag] = element
    return tags


def _sequence(header: Dataset, keyword: str, path: Any) -> list[Dataset]:
    value = value_of(header, keyword, path)
    if value is None:
        return []
    items = list(value) if hasattr(value, "__iter__") and not isinstance(value, str | bytes) else [value]
    if not all(isinstance(item, Dataset) for item in items):
        raise DicomError(f"{path}: {keyword} is {str(value)[:40]!r}; expected a sequence of items.")
    return items


def _add_classic_tags(header: Dataset, source: Header, path: str) -> None:
    if "TemporalPositionIndex" in header and "TemporalPositionIdentifier" not in header:
        header.TemporalPositionIdentifier = header.TemporalPositionIndex
    # A rescaled value of type US has no unit of its own; a mapping to real world values gives scale and unit.
    has_unit = "Units" in header or text_of(header, "RescaleType", path) == "HU"
    if "RescaleSlope" not in header or not has_unit:
        _scale_by_real_world_values(header, source, path)
    if source.sop_class not in PET_CLASSES:
        return
    _check_real_world_values(header, path)
    _check_corrections(header, path)
    if "CorrectedImage" not in header:
        corrections = [name for tag, name in _CORRECTIONS.items() if text_of(header, tag, path).upper() == "YES"]
        header.CorrectedImage = list(dict.fromkeys(corrections))
    corrected_to = _moment(header, "DecayCorrectionDateTime", path)
    if "DecayCorrection" not in header:
        header.DecayCorrection = "START" if text_of(header, "DecayCorrected", path).upper() == "YES" else "NONE"
    acquired = _moment(header, "FrameAcquisitionDateTime", path) or _moment(header, "AcquisitionDateTime", path)
    if corrected_to is not None and header.DecayCorrection != "NONE":
        # The object names the decay reference itself; a series time before acquisition is how classic PET says it.
        header.SeriesDate, header.SeriesTime = _date_and_time(corrected_to)
        acquired = max(acquired or corrected_to, corrected_to)
        header.FrameReferenceTime = f"{(acquired - corrected_to) / timedelta(milliseconds=1):.10g}"
    if acquired is not None:
        header.AcquisitionDate, header.AcquisitionTime = _date_and_time(acquired)
    if "FrameAcquisitionDuration" in header and "ActualFrameDuration" not in header:
        header.ActualFrameDuration = str(round(float(header.FrameAcquisitionDuration)))  # both in ms


def _check_corrections(header: Dataset, path: str) -> None:
    """Raise DicomError if tags of multi-frame objects and those of single slices contradict each other."""
    listed = text_of(header, "CorrectedImage", path).upper()
    for keyword, name in (("DecayCorrected", "DECY"), ("AttenuationCorrected", "ATTN")):
        if text_of(header, keyword, path).upper() == "NO" and name in listed.split("\\"):
            raise DicomError(
                f"{path}: {keyword} is NO, but CorrectedImage (0028,0051) is {listed}, with {name}; export the scan "
                "again."
            )
    correction, decayed = text_of(header, "DecayCorrection", path).upper(), text_of(header, "DecayCorrected", path)
    if decayed.upper() in ("YES", "NO") and correction and (correction == "NONE") == (decayed.upper() == "YES"):
        raise DicomError(
            f"{path}: DecayCorrected (0018,9758) is {decayed}, but DecayCorrection (0054,1102) is {correction}; "
            "export the scan again."
        )


def _mappings(header: Dataset, path: str) -> list[Dataset]:
    return _sequence(header, "RealWorldValueMappingSequence", path)


def _unit_of(mapping: Dataset, path: str) -> tuple[str, str]:
    """Unit of a mapping's values, and what its code says in braces: ("g/ml", "suvbw")."""
    for code in _sequence(mapping, "MeasurementUnitsCodeSequence", path)[:1]:
        text = text_of(code, "CodeValue", path).lower().replace(" ", "")
        return re.sub(r"\{.*?\}", "", text), "".join(re.findall(r"\{(.*?)\}", text))
    return "", ""


def _slope(mapping: Dataset, path: str) -> tuple[float, float] | None:
    """Slope and intercept, in Bq/mL where the unit is kBq/mL."""
    slope, intercept = mapping.get("RealWorldValueSlope"), mapping.get("RealWorldValueIntercept")
    times = 1000.0 if _unit_of(mapping, path)[0] == "kbq/ml" else 1.0
    return None if slope is None or intercept is None else (times * float(slope), times * float(intercept))


def _scale_by_real_world_values(header: Dataset, source: Header, path: str) -> None:
    """Take scale and unit from a mapping whose unit is known: Bq/mL before SUV, or HU."""
    is_pet = source.sop_class in PET_CLASSES
    for wanted in ("BQML", "GML", "CM2ML") if is_pet else ("HU",):
        for mapping in _mappings(header, path):
            (unit, kind), slope = _unit_of(mapping, path), _slope(mapping, path)
            if _UNITS.get(unit) != wanted or slope is None or (kind and kind not in _SUV_TYPES):
                continue
            header.add_new("RescaleSlope", "FD", slope[0])  # as floats: their own DS rounds to 16 characters
            header.add_new("RescaleIntercept", "FD", slope[1])
            header.RescaleType = "US" if is_pet else "HU"
            if is_pet:
                header.Units, header.SUVType = wanted, _SUV_TYPES.get(kind)
            return


def _same_scale(header: Dataset, mapping: Dataset, path: str) -> bool:
    scale = _slope(mapping, path)
    return scale is not None and abs(scale[0] / float(header.RescaleSlope) - 1) < 1e-4


def _check_real_world_values(header: Dataset, path: str) -> None:
    units = text_of(header, "Units", path)
    for mapping in _mappings(header, path):
        if _UNITS.get(_unit_of(mapping, path)[0]) == units == "BQML" and not _same_scale(header, mapping, path):
            raise DicomError(
                f"{path}: RescaleSlope (0028,1053) is {header.RescaleSlope} in Bq/mL, but RealWorldValueSlope "
                f"(0040,9225) is {_slope(mapping, path)} for the same unit; export the scan again."
            )


def _moment(header: Dataset, keyword: str, path: str) -> datetime | None:
    """A date with time, on the clock of the header's other dates and times; None if it is absent."""
    text = text_of(header, keyword, path)
    if not text:
        return None
    try:
        moment = DT(text)
        if len(text) < 12 or moment is None:
            raise ValueError("hour and minute are missing")
        if moment.tzinfo is not None:
            if "TimezoneOffsetFromUTC" not in header:  # the dates and times that are set here are in this zone
                header.TimezoneOffsetFromUTC = moment.strftime("%z")
            moment = moment.astimezone(DT(f"20000101{header.TimezoneOffsetFromUTC}").tzinfo)
    except UNREADABLE as error:
        raise DicomError(f"{path}: {keyword} is {text!r}, not a date and time ({error}).") from error
    return datetime.combine(moment.date(), moment.time())


def _date_and_time(moment: datetime) -> tuple[str, str]:
    return moment.strftime("%Y%m%d"), moment.strftime("%H%M%S.%f")
