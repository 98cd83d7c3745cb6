"""DICOM series to `Volume`: PET as SUVbw or Bq/mL, CT in HU.

Frames. DICOM's millimetres are LPS+, ours RAS+: x and y change sign. The pixel in column c and row r of slice k becomes
voxel (i, j, k) = (c, r, k); slices are sorted along the normal of ImageOrientationPatient, whatever the file names.
Oblique stacks and a tilted CT gantry (slices shifted against each other by a constant step) give an oblique or sheared
affine.

Classic slices and multi-frame (enhanced) objects become the same `Slice`s; a dynamic or gated series becomes one volume
for each `frame`.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seganypet.errors import DicomError, SegAnyPETError, SUVError, UnitError
from seganypet.pet.activity import activity_factor
from seganypet.pet.dicom_completeness import warn_of_missing_slices, warn_of_unknown_classes
from seganypet.pet.dicom_enhanced import split_frames
from seganypet.pet.dicom_files import UNREADABLE, DicomFile, open_files
from seganypet.pet.dicom_frames import Frame, choose_frame, find_frames
from seganypet.pet.dicom_header import (
    MULTIFRAME,
    PET_CLASSES,
    SCAN_CLASSES,
    Header,
    Slice,
    read_header,
    shown_text,
    text_of,
)
from seganypet.pet.dicom_pixels import read_values
from seganypet.pet.dicom_stack import check_one_scan, stack_slices
from seganypet.pet.given import Given
from seganypet.pet.plausibility import warn_if_implausible
from seganypet.pet.suv import suv_factor
from seganypet.pet.volume import UNITS, Volume

if TYPE_CHECKING:
    import pandas

# What to do with objects that hold no scan, by SOP class.
_ADVICE = {
    "RT Structure Set Storage": "It holds contours: open the PET or CT they were drawn on, then load_masks(path, "
    "like=volume)",
    "Segmentation Storage": "It holds masks: open the PET or CT they were drawn on, then load_masks(path, like=volume)",
    "Real World Value Mapping Storage": "It holds factors for a PET series; open that series",
    "Nuclear Medicine Image Storage": "SPECT and planar images have no SUV here; convert them to NIfTI for load_volume",
    "MR Image Storage": "Convert it to NIfTI; the package measures PET and CT",
    "Secondary Capture Image Storage": "A screenshot has neither position nor unit; ask for the original series",
    "RT Dose Storage": "It holds a dose distribution; open the PET or CT it was planned on",
}


def list_series(folder: str | os.PathLike) -> "pandas.DataFrame":
    """The DICOM series in a folder and its subfolders, one row each.

    Args:
        folder: Folder to search; or a DICOMDIR, a ZIP archive, or a multi-frame file.

    Returns:
        Columns series_uid, modality, description, kind (name of the SOP class), files; frames (volumes in the series:
        time frames, gates, stacks; 0 if none can be made), frames_by (the tags that tell them apart), frame_start_s
        (start of each after the first, in s; None if unknown) and frame_duration_s (in s). Files that are not DICOM are
        left out.

    Raises:
        DicomError: The folder does not exist, or has no DICOM file or a damaged one.
    """
    import pandas

    rows = []
    with open_files(folder) as files:
        for series_uid, headers in _read_headers(files, folder).items():
            first = headers[0]
            frames = _frames_if_any(headers, folder)
            rows.append(
                {
                    "series_uid": series_uid,
                    "modality": shown_text(first.tags, "Modality"),
                    "description": shown_text(first.tags, "SeriesDescription"),
                    "kind": first.sop_class.name,
                    "files": len(headers),
                    "frames": len(frames),
                    "frames_by": frames[0].by if frames else "",
                    "frame_start_s": [frame.start_s for frame in frames],
                    "frame_duration_s": [frame.duration_s for frame in frames],
                }
            )
    return pandas.DataFrame(rows)


def load_dicom(
    folder: str | os.PathLike, series_uid: str | None = None, *, frame: int | None = None, unit: str | None = None,
    **given: Any,
) -> Volume:  # fmt: skip
    """Read one PET or CT series from a folder and its subfolders.

    Args:
        folder: Folder of the files; names and order do not matter. Files that are not DICOM, and DICOM objects that
            are not CT or PET slices, are ignored. A DICOMDIR, a ZIP archive (read in place) and a multi-frame file
            serve as well.
        series_uid: SeriesInstanceUID, if there is more than one series; see `list_series`.
        frame: Number of the volume, from 1, if the series holds several (dynamic, gated); see `list_series`.
        unit: "Bq/mL" opens a PET without computing an SUV. By default PET is given in "SUVbw", CT in "HU". It decides
            too where Modality and SOP class contradict each other.
        **given: What the header of a PET lacks or has wrong, see `suv.Given`: `weight_kg`, `height_m`, `sex`,
            `dose_bq`, `injection_time` ("09:00:00"), `half_life_s`, `decay_reference_time`, `suv_factor`. It goes
            before the header, and is kept in `metadata["given_by_hand"]`.

    Returns:
        PET in SUVbw or Bq/mL, CT in HU. `metadata` is de-identified, without names, IDs or dates: all of `SUVFactor`
        for PET (enough for SUL); modality, description, UID and range of slopes for both; of several volumes the
        frame, frames, frame_start_s and frame_duration_s.

    Raises:
        DicomError: There is nothing to load, or several series or frames; slices are missing, duplicate, unevenly
            spaced, or of mixed orientation or size; a file is damaged; it is unclear whether it is a PET.
        SUVError: The PET headers allow no SUV; the message names the tag, and what to give.
        UnitError: The unit is unknown, or not one of the modality.

    Warns:
        UserWarning: The PET has fewer slices than its NumberOfSlices says (the message tells what this does to the
            SUV); DICOM files that are hidden, or of the series and of an unknown class, are left out.
        DoubtfulValuesWarning: What `suv_factor` doubts; or the values cannot be what their unit says.
    """
    if unit is not None and unit not in UNITS:
        raise UnitError(f"{folder}: unknown unit {unit!r}; expected one of {', '.join(map(repr, UNITS))}, or none.")
    by_hand = Given.of(given, "load_dicom")
    with open_files(folder) as files:
        every = _read_headers(files, folder)
        found = _choose(every, folder, series_uid)
        warn_of_unknown_classes(every[found[0].series_uid], folder)
        series = _slices(found)
        check_one_scan(series, folder)
        frames = find_frames(series, folder)
        chosen = choose_frame(frames, frame, folder)
        slices, affine = stack_slices(chosen.slices, folder)
        unit = _unit(slices, unit, folder)
        # All volumes of a dynamic scan share the decay reference, which the first of them may tell.
        acquired_together = series if chosen.shares_decay_reference else chosen.slices
        factors, facts = _factors(unit, slices, acquired_together, folder, by_hand)
        metadata = _metadata(slices, frames, chosen) | facts
        if unit != "HU":
            warn_of_missing_slices(chosen, frames, facts, folder)
        data = read_values(slices, factors)
    volume = Volume(data, affine, unit, source=str(folder), metadata=metadata)
    warn_if_implausible(volume)
    return volume


def _read_headers(files: Sequence[DicomFile], folder: str | os.PathLike) -> dict[str, list[Header]]:
    """All DICOM files, by SeriesInstanceUID."""
    found: dict[str, list[Header]] = {}
    for file in files:
        header = read_header(file)
        if header is not None:
            found.setdefault(header.series_uid, []).append(header)
    if not found:
        archives = [file.path.name for file in files if file.path.suffix.lower() in (".zip", ".gz", ".tar", ".7z")]
        if len(files) == 1 and files[0].path == Path(folder):
            raise DicomError(f"{folder} is a file, and not DICOM; give the folder that holds the series.")
        hint = "Is it the right folder, unpacked?"
        if archives:
            hint = f"Unpack {archives[0]}, or give a ZIP archive itself."
        raise DicomError(f"{folder}: no DICOM image among its {len(files)} files. {hint}")
    return found


def _choose(found: dict[str, list[Header]], folder: str | os.PathLike, series_uid: str | None) -> list[Header]:
    scans = {uid: [one for one in headers if one.sop_class in SCAN_CLASSES] for uid, headers in found.items()}
    scans = {uid: headers for uid, headers in scans.items() if headers}
    if not scans:
        kinds = sorted({header.sop_class.name for headers in found.values() for header in headers})
        advice = " ".join(f"{_ADVICE[kind]}." for kind in kinds if kind in _ADVICE)
        raise DicomError(f"{folder}: no CT or PET slices, only {', '.join(kinds)}. {advice}".rstrip())
    listed = "\n".join(
        f"  {uid}  {shown_text(headers[0].tags, 'Modality')}  {shown_text(headers[0].tags, 'SeriesDescription')!r}  "
        f"{len(headers)} files"
        for uid, headers in scans.items()
    )
    if series_uid is not None:
        if series_uid not in scans:
            raise DicomError(f"{folder}: no CT or PET series {series_uid}; there are:\n{listed}")
        return scans[series_uid]
    if len(scans) > 1:
        raise DicomError(f"{folder} holds {len(scans)} series; choose one by series_uid=...:\n{listed}")
    (headers,) = scans.values()
    if len(headers) == 1 and headers[0].file.path == Path(folder) and headers[0].sop_class not in MULTIFRAME:
        raise DicomError(f"{folder} is a file; give the folder that holds the series.")
    return headers


def _slices(headers: Sequence[Header]) -> list[Slice]:
    return [one for header in headers for one in split_frames(header)]


def _frames_if_any(headers: Sequence[Header], folder: str | os.PathLike) -> list[Frame]:
    """The volumes of a series; [] if its slices have no position, or it is no scan."""
    scans = [header for header in headers if header.sop_class in SCAN_CLASSES]
    try:
        return find_frames(_slices(scans), folder) if scans else []
    except DicomError:
        return []


def _unit(slices: Sequence[Slice], unit: str | None, folder: str | os.PathLike) -> str:
    """Unit of the volume, from what the object says that it is, unless its statements contradict each other."""
    first = slices[0]
    is_pet = first.source.sop_class in PET_CLASSES
    signs = {f"SOP class {first.source.sop_class.name}": is_pet}
    modality = first.modality.upper()
    signs[f"Modality (0008,0060) {first.modality}"] = modality == "PT" if is_pet else modality != "CT"
    if not is_pet:
        for keyword in ("Units", "DecayCorrection"):
            if keyword in first.header:
                signs[f"{keyword}, a tag of PET"] = True
    if unit is None and len(set(signs.values())) > 1:
        raise DicomError(
            f"{folder}: PET or CT? Its headers contradict each other: {'; '.join(signs)}. Say which it is by "
            "unit='SUVbw', 'Bq/mL' or 'HU', or export the original series."
        )
    if len(set(signs.values())) > 1:
        is_pet = unit != "HU"
    if unit is not None and is_pet == (unit == "HU"):
        raise UnitError(f"{folder}: a {'PET' if is_pet else 'CT'} has no values in {unit}; leave out unit=.")
    if is_pet and min(one.slope for one in slices) < 0:
        raise DicomError(f"{folder}: RescaleSlope (0028,1053) is negative, which would turn activity upside down.")
    if is_pet and "REPROJECTION" in text_of(first.header, "SeriesType", first.name):
        raise DicomError(
            f"{folder}: SeriesType (0054,1000) is REPROJECTION, a rotating projection of a scan; expected its slices."
        )
    for one in slices if not is_pet else ():
        kind = text_of(one.header, "RescaleType", one.name) or "HU"
        if kind not in ("HU", "HU_MOD"):
            raise DicomError(f"{folder}: RescaleType (0028,1054) is {kind!r}; expected a CT in HU.")
    return unit or ("SUVbw" if is_pet else "HU")


def _factors(
    unit: str, slices: Sequence[Slice], acquired_together: Sequence[Slice], folder: str | os.PathLike, given: Given
) -> tuple[list[float], dict[str, Any]]:
    """Unit per (stored value x slope + intercept) of each slice, and what is to be known of it."""
    if unit != "SUVbw" and given != Given():
        advice = " Give it to to_suvbw, which converts the volume." if unit == "Bq/mL" else ""
        raise SUVError(f"{folder}: in {unit}, {', '.join(given.by_name())} changes nothing; leave it out.{advice}")
    if unit == "HU":
        return [1.0] * len(slices), {}
    try:
        if unit == "Bq/mL":
            factor, facts = activity_factor([one.header for one in slices], folder)
            return [factor] * len(slices), facts
        headers = [one.header for one in acquired_together]
        first, known = headers[0], given.decay_reference_time is not None or given.suv_factor is not None
        if shown_text(first, "DecayCorrected") == "YES" and "DecayCorrectionDateTime" not in first and not known:
            raise SUVError(
                f"{folder}: no SUV: DecayCorrected (0018,9758) is YES, but to which time is unknown: "
                "DecayCorrectionDateTime (0018,9701) is missing. Give decay_reference_time=... if you know it."
            )
        suv = suv_factor(headers, str(folder), given)
    except SegAnyPETError:
        raise
    except UNREADABLE as error:
        raise SUVError(f"{folder}: no SUV: a tag of the PET headers is unreadable ({error}).") from error
    facts = asdict(suv)
    if "DecayCorrectionDateTime" in slices[0].header and facts["decay_reference"] == "series time":
        facts["decay_reference"] = "decay correction time"  # of a multi-frame object, which was put in its place
        facts["how"] = facts["how"].partition(";")[0] + "; DecayCorrectionDateTime (0018,9701) is there"
    if suv.per_slice is None:
        return [suv.suv_per_stored_unit] * len(slices), facts
    by_header = dict(zip(map(id, headers), suv.per_slice, strict=True))
    factors = [by_header[id(one.header)] for one in slices]
    return factors, facts | {"suv_per_stored_unit": factors[0], "per_slice": tuple(factors)}


def _metadata(slices: Sequence[Slice], frames: Sequence[Frame], chosen: Frame) -> dict[str, Any]:
    first = slices[0]
    slopes = [one.slope for one in slices]
    metadata: dict[str, Any] = {
        "modality": first.modality,
        "series_description": shown_text(first.header, "SeriesDescription"),
        "series_uid": first.source.series_uid,
        "frame_of_reference_uid": shown_text(first.header, "FrameOfReferenceUID"),
        "slices": len(slices),
        "rescale_slope_range": [min(slopes), max(slopes)],
    }
    if len(frames) > 1:
        metadata |= {
            "frame": frames.index(chosen) + 1,
            "frames": len(frames),
            "frame_start_s": chosen.start_s,
            "frame_duration_s": chosen.duration_s,
        }
    return metadata


