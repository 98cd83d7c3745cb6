"""DICOM series to `Volume`: PET as SUVbw, CT in HU.

Frames. DICOM's millimetres are LPS+, ours RAS+: x and y change sign. The pixel in column c and row r of slice k becomes
voxel (i, j, k) = (c, r, k); slices are sorted along the normal of ImageOrientationPatient, whatever the file names.
Oblique stacks and a tilted CT gantry (slices shifted against each other by a constant step) give an oblique or sheared
affine.
"""

import os
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import pydicom
from pydicom import uid as uids
from pydicom.dataset import Dataset

from seganypet.errors import DicomError
from seganypet.pet.suv import suv_factor
from seganypet.pet.volume import Volume

if TYPE_CHECKING:
    import pandas

SLICES = (uids.CTImageStorage, uids.PositronEmissionTomographyImageStorage)
MULTIFRAME = (
    uids.EnhancedCTImageStorage,
    uids.EnhancedPETImageStorage,
    uids.LegacyConvertedEnhancedCTImageStorage,
    uids.LegacyConvertedEnhancedPETImageStorage,
)
# Tags that every slice must have, and how many values each holds.
NEEDED = {
    "Modality": 1, "Rows": 1, "Columns": 1, "PixelSpacing": 2, "ImagePositionPatient": 3, "ImageOrientationPatient": 6,
    "RescaleSlope": 1, "RescaleIntercept": 1,
}  # fmt: skip
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
# Raised by pydicom and SimpleITK on damaged files; a RuntimeError comes from missing or failing decoders.
UNREADABLE = (OSError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError)

# path and header (without pixels) of one file
Slice = tuple[Path, Dataset]


def list_series(folder: str | os.PathLike) -> "pandas.DataFrame":
    """The DICOM series in a folder and its subfolders, one row each.

    Args:
        folder: Folder to search.

    Returns:
        Columns series_uid, modality, description, kind (name of the SOP class), files. Files that are not DICOM are
        left out.

    Raises:
        DicomError: The folder does not exist, or has no DICOM file or a damaged one.
    """
    import pandas

    rows = [
        {
            "series_uid": series_uid,
            "modality": str(slices[0][1].get("Modality", "")),
            "description": str(slices[0][1].get("SeriesDescription", "")),
            "kind": _sop_class(slices[0][1]).name,
            "files": len(slices),
        }
        for series_uid, slices in _read_headers(Path(folder)).items()
    ]
    return pandas.DataFrame(rows)


def load_dicom(folder: str | os.PathLike, series_uid: str | None = None) -> Volume:
    """Read one PET or CT series from a folder and its subfolders.

    Args:
        folder: Folder of the files; names and order do not matter. Files that are not DICOM, and DICOM objects that
            are not CT or PET slices, are ignored.
        series_uid: SeriesInstanceUID, if the folder holds more than one series; see `list_series`.

    Returns:
        PET in SUVbw, CT in HU. `metadata` is de-identified, without names, IDs or dates: all of `SUVFactor` for PET
        (enough for SUL); modality, description, UID and range of slopes for both.

    Raises:
        DicomError: There is nothing to load, or several series; slices are missing, duplicate, unevenly spaced, or of
            mixed orientation or size; a file is damaged.
        SUVError: The PET headers allow no SUV; the message names the tag.

    Warns:
        UserWarning: The PET has fewer slices than its NumberOfSlices says.
    """
    folder = Path(folder)
    slices = _choose(_read_headers(folder), folder, series_uid)
    for path, header in slices:
        _check_header(path, header)
    slices, affine = _stack(slices, folder)
    headers = [header for _, header in slices]
    first = headers[0]
    slopes = [float(header.RescaleSlope) for header in headers]
    metadata = {
        "modality": str(first.Modality),
        "series_description": str(first.get("SeriesDescription", "")),
        "series_uid": str(first.SeriesInstanceUID),
        "slices": len(headers),
        "rescale_slope_range": [min(slopes), max(slopes)],
    }
    unit, factor = "HU", 1.0
    if _sop_class(first) == uids.PositronEmissionTomographyImageStorage:
        suv = suv_factor(headers, str(folder))
        unit, factor = "SUVbw", suv.suv_per_stored_unit
        metadata |= asdict(suv)
        announced = int(first.get("NumberOfSlices") or 0) * int(first.get("NumberOfTimeSlices") or 1)
        if len(headers) < announced:
            warnings.warn(
                f"{folder}: {len(headers)} slices, but NumberOfSlices (0054,0081) is {announced}; part of the scan may "
                "be missing.",
                stacklevel=2,
            )
    elif first.get("RescaleType", "HU") != "HU":
        raise DicomError(f"{folder}: RescaleType (0028,1054) is {first.RescaleType!r}; expected a CT in HU.")
    data = np.stack([(_values(path, header) * factor).astype(np.float32) for path, header in slices])
    data = data.transpose(2, 1, 0)  # (slice, row, column) -> (i, j, k)
    return Volume(data, affine, unit, source=str(folder), metadata=metadata)


def _read_headers(folder: Path) -> dict[str, list[Slice]]:
    """All DICOM files of a folder tree, by SeriesInstanceUID."""
    if not folder.is_dir():
        what = "is a file; give the folder that holds the series" if folder.exists() else "does not exist"
        raise DicomError(f"{folder} {what}.")
    found: dict[str, list[Slice]] = {}
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    for path in paths:
        header = _read_header(path)
        if header is not None and "SeriesInstanceUID" in header:  # a DICOMDIR has none
            found.setdefault(str(header.SeriesInstanceUID), []).append((path, header))
    if not found:
        raise DicomError(f"{folder}: no DICOM image among its {len(paths)} files. Is it the right folder, unpacked?")
    return found


def _read_header(path: Path) -> Dataset | None:
    """Header, pixels left on disk; None for a file that is not DICOM."""
    named_dicom = path.suffix.lower() in (".dcm", ".dicom", ".ima")
    try:
        with path.open("rb") as file:
            has_preamble = file.read(132)[128:] == b"DICM"
        if not has_preamble and not named_dicom:
            return None
        with warnings.catch_warnings(action="ignore"):  # pydicom warns of a truncated file; here it is an error
            # Large values stay on disk until they are used. Old exports lack the preamble (force), so files that are
            # named like DICOM are tried.
            header = pydicom.dcmread(path, defer_size="1 KB", force=True)
        sop_class = _sop_class(header)
    except UNREADABLE as error:
        raise DicomError(f"{path}: not a readable DICOM file, or cut short ({error}). Copy it again.") from error
    missing = [tag for tag in ("SeriesInstanceUID", "PixelData") if tag not in header]
    if not sop_class or (sop_class in SLICES + MULTIFRAME and missing):
        lacks = f"no {missing[0]}" if sop_class else "no SOPClassUID"
        raise DicomError(f"{path}: not a readable DICOM file, or cut short ({lacks}). Copy it again.")
    return header


def _sop_class(header: Dataset) -> uids.UID:
    return uids.UID(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID") or "")


def _choose(found: dict[str, list[Slice]], folder: Path, series_uid: str | None) -> list[Slice]:
    scans = {uid: [one for one in slices if _sop_class(one[1]) in SLICES + MULTIFRAME] for uid, slices in found.items()}
    scans = {uid: slices for uid, slices in scans.items() if slices}
    if not scans:
        kinds = sorted({_sop_class(slices[0][1]).name for slices in found.values()})
        raise DicomError(f"{folder}: no CT or PET slices, only {', '.join(kinds)}.")
    listed = "\n".join(
        f"  {uid}  {slices[0][1].get('Modality')}  {slices[0][1].get('SeriesDescription', '')!r}  {len(slices)} files"
        for uid, slices in scans.items()
    )
    if series_uid is not None:
        if series_uid not in scans:
            raise DicomError(f"{folder}: no CT or PET series {series_uid}; there are:\n{listed}")
        return scans[series_uid]
    if len(scans) > 1:
        raise DicomError(f"{folder} holds {len(scans)} series; choose one by series_uid=...:\n{listed}")
    return next(iter(scans.values()))


def _check_header(path: Path, header: Dataset) -> None:
    """Raise unless this is one complete header of a single grey slice."""
    if _sop_class(header) in MULTIFRAME or int(header.get("NumberOfFrames") or 1) > 1:
        raise DicomError(
            f"{path}: a multi-frame (enhanced) object; expected single slices. Export the series as classic "
            "CT or PET images, or convert it to NIfTI and use load_volume."
        )
    for keyword, count in NEEDED.items():
        try:
            value = header.get(keyword)
            if keyword == "Modality":
                usable = bool(value)
            else:
                usable = np.size(value) == count and np.isfinite(np.asarray(value, float)).all()
        except (ValueError, TypeError):
            usable = False
        if not usable:
            tag = pydicom.tag.Tag(keyword)
            raise DicomError(f"{path}: {keyword} {tag} is missing or unreadable; the slice has no position or scale.")
    if min(header.PixelSpacing) <= 0:
        raise DicomError(f"{path}: PixelSpacing (0028,0030) is {list(header.PixelSpacing)}; expected positive mm.")
    if float(header.RescaleSlope) == 0:
        raise DicomError(f"{path}: RescaleSlope (0028,1053) is 0, which would erase every value.")
    axes = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
    if not np.allclose(axes @ axes.T, np.eye(2), atol=1e-3):
        raise DicomError(
            f"{path}: ImageOrientationPatient (0020,0037) is {axes.ravel().tolist()}; expected two perpendicular unit "
            "vectors."
        )
    if int(header.get("SamplesPerPixel") or 1) != 1:
        raise DicomError(f"{path}: a colour image (SamplesPerPixel {header.SamplesPerPixel}); expected a grey one.")


def _stack(slices: list[Slice], folder: Path) -> tuple[list[Slice], np.ndarray]:
    """Slices in order of position, and the affine that maps (i, j, k) to RAS+ mm, shape (4, 4)."""
    if len(slices) < 2:
        raise DicomError(f"{folder}: a single slice ({slices[0][0].name}); expected at least two.")
    reference_path, reference = slices[0]
    for path, header in slices:
        for keyword, tolerance in (
            ("Rows", 0), ("Columns", 0), ("PixelSpacing", 1e-4), ("ImageOrientationPatient", 1e-3),
            ("Modality", None),
        ):  # fmt: skip
            one, other = header[keyword].value, reference[keyword].value
            same = one == other if tolerance is None else np.allclose(one, other, rtol=0, atol=tolerance)
            if not same:
                raise DicomError(
                    f"{folder}: {keyword} differs within the series: {one} in {path.name}, {other} in "
                    f"{reference_path.name}. Move such slices (a localizer?) to a separate folder."
                )
    across, down = np.array(reference.ImageOrientationPatient, float).reshape(2, 3)
    normal = np.cross(across, down)
    slices = sorted(slices, key=lambda item: np.dot(np.array(item[1].ImagePositionPatient, float), normal))
    positions = np.array([header.ImagePositionPatient for _, header in slices], float)  # (K, 3), LPS+ mm
    gaps_mm = np.diff(positions @ normal)
    twice = int(np.argmin(gaps_mm))
    if gaps_mm[twice] < 0.01:
        raise DicomError(
            f"{folder}: {slices[twice][0].name} and {slices[twice + 1][0].name} lie at the same position. Is it a "
            "dynamic or gated scan, or a copied file? Keep one image per position."
        )
    step = (positions[-1] - positions[0]) / (len(slices) - 1)
    usual_mm = float(np.median(gaps_mm))
    widest = int(np.argmax(gaps_mm))
    # Real tables jitter by a few hundredths of a millimetre between bed positions.
    strays = np.linalg.norm(positions - (positions[0] + np.arange(len(slices))[:, None] * step), axis=1)
    if gaps_mm[widest] > 1.5 * usual_mm:
        raise DicomError(
            f"{folder}: {gaps_mm[widest]:.2f} mm between {slices[widest][0].name} and {slices[widest + 1][0].name}, "
            f"{usual_mm:.2f} mm elsewhere: slices are missing. Copy the whole series again."
        )
    if strays.max() > 0.1 * usual_mm:
        raise DicomError(
            f"{folder}: slices are unevenly spaced ({gaps_mm.min():.2f} to {gaps_mm.max():.2f} mm; "
            f"{slices[int(strays.argmax())][0].name} lies {strays.max():.2f} mm off an even stack). "
            "Resample the series onto an even grid first, or choose another reconstruction."
        )
    down_mm, across_mm = (float(size) for size in reference.PixelSpacing)  # row spacing comes first
    affine = np.eye(4)
    affine[:3, :3] = LPS_TO_RAS @ np.column_stack([across * across_mm, down * down_mm, step])
    affine[:3, 3] = LPS_TO_RAS @ positions[0]
    return slices, affine


def _values(path: Path, header: Dataset) -> np.ndarray:
    """Stored values x RescaleSlope + RescaleIntercept of one slice, shape (rows, columns), float64."""
    try:
        whole = pydicom.dcmread(path, force=True)
        syntax = whole.file_meta.get("TransferSyntaxUID")
        if syntax is not None and syntax.is_encapsulated:
            # SimpleITK brings decoders for JPEG, JPEG-LS, JPEG 2000 and RLE; it applies the slope itself.
            import SimpleITK

            values = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))[0].astype(float)
        else:
            if syntax is None:  # a file without preamble does not state its encoding; pydicom has detected it
                implicit = whole.original_encoding[0]
                plain = uids.ImplicitVRLittleEndian if implicit else uids.ExplicitVRLittleEndian
                whole.file_meta.TransferSyntaxUID = plain
            values = whole.pixel_array * float(header.RescaleSlope) + float(header.RescaleIntercept)
    except UNREADABLE as error:
        _refuse_pixels(path, str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__)
    if values.shape != (header.Rows, header.Columns):
        _refuse_pixels(path, f"decoded to {values.shape} instead of {header.Rows} rows, {header.Columns} columns")
    return values


def _refuse_pixels(path: Path, why: str) -> NoReturn:
    raise DicomError(f"{path}: pixels cannot be read ({why}). The file may be truncated; copy it again.")
