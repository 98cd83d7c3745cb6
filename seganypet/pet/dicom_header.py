"""One DICOM header at a time: is it a slice, is it whole, and what do its tags say."""

import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from pydicom import uid as uids
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from seganypet._files import system_reason
from seganypet.errors import DicomError
from seganypet.pet.dicom_files import DICOM_SUFFIXES, UNREADABLE, DicomFile, read_dataset

CT_CLASSES = (
    uids.CTImageStorage, uids.EnhancedCTImageStorage, uids.LegacyConvertedEnhancedCTImageStorage,
)  # fmt: skip
PET_CLASSES = (
    uids.PositronEmissionTomographyImageStorage, uids.EnhancedPETImageStorage,
    uids.LegacyConvertedEnhancedPETImageStorage,
)  # fmt: skip
SCAN_CLASSES = CT_CLASSES + PET_CLASSES
MULTIFRAME = CT_CLASSES[1:] + PET_CLASSES[1:]
MAX_MM = 1e5
PIXEL_DATA = b"\xe0\x7f\x10\x00"  # (7FE0,0010), little endian


class PixelBytes(NamedTuple):
    """Where the bytes of PixelData lie in a file; length is None for compressed data."""

    offset: int
    length: int | None


class Header(NamedTuple):
    """The header of one file, pixels left where they are."""

    file: DicomFile
    tags: Dataset
    pixels: PixelBytes | None
    sop_class: uids.UID
    series_uid: str


@dataclass(frozen=True)
class Slice:
    """One image: a file, or a frame of a multi-frame file. Positions and directions are LPS+ (DICOM's frame)."""

    source: Header
    header: Dataset
    frame: int | None
    modality: str
    rows: int
    columns: int
    spacing_mm: tuple[float, float]  # between rows, then between columns
    position_mm: np.ndarray
    orientation: np.ndarray  # direction along a row, then along a column, shape (6,)
    slope: float
    intercept: float

    @property
    def name(self) -> str:
        name = self.source.file.path.name
        return name if self.frame is None else f"{name} (frame {self.frame + 1})"


def read_header(file: DicomFile) -> Header | None:
    """The header of a file; None for what is not DICOM, and for a DICOMDIR.

    Raises:
        DicomError: The file is DICOM, and damaged or cut short.
    """
    try:
        with file.open() as stream, warnings.catch_warnings(action="ignore"):
            start = stream.read(512)
            named_dicom = file.path.suffix.lower() in DICOM_SUFFIXES
            if start[128:132] != b"DICM" and not named_dicom and not _starts_like_dicom(start):
                return None
            # Old exports lack the preamble (force). pydicom warns of a truncated file; here it is an error.
            tags = read_dataset(stream, stop_before_pixels=True, force=True)
            pixels = _locate_pixels(stream, tags)
            stated = tags.get("SOPClassUID") or tags.file_meta.get("MediaStorageSOPClassUID") or ""
            sop_class = uids.UID(stated if isinstance(stated, str) else "")
            series_uid = str(tags.get("SeriesInstanceUID") or "")
    except UNREADABLE as error:
        if isinstance(error, OSError) and error.errno:  # the system's, not the file's
            raise DicomError(f"cannot read {file.path}: {system_reason(error)}") from error
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise DicomError(f"{file.path}: not a readable DICOM file, or cut short ({reason}). Copy it again.") from error
    is_scan, lacks = sop_class in SCAN_CLASSES, ""
    if not sop_class:
        lacks = "SOPClassUID"
    elif not series_uid and (is_scan or sop_class not in uids.UID_dictionary):
        lacks = "SeriesInstanceUID"  # which a DICOMDIR and other registered objects do not need
    elif is_scan and pixels is None:
        lacks = "PixelData"
    if lacks:
        raise DicomError(f"{file.path}: not a readable DICOM file, or cut short (no {lacks}). Copy it again.")
    return Header(file, tags, pixels, sop_class, series_uid) if series_uid else None


def _starts_like_dicom(start: bytes) -> bool:
    """Whether a file without preamble and suffix begins with a tag of group 0002 or 0008, as DICOM must."""
    if len(start) < 140 or start[:2] not in (b"\x02\x00", b"\x08\x00") or start[3] != 0 or start[2] > 0x20:
        return False
    explicit = start[4:6] in (b"UL", b"OB", b"UI", b"CS", b"DA", b"TM", b"SH", b"LO")
    return explicit or int.from_bytes(start[4:8], "little") <= 64


def _locate_pixels(stream: Any, tags: Dataset) -> PixelBytes | None:
    """Where PixelData lies, if the stream stands at it; None if there is none."""
    syntax = tags.file_meta.get("TransferSyntaxUID")
    if syntax == uids.DeflatedExplicitVRLittleEndian:
        return PixelBytes(0, None)  # pydicom has inflated a copy; decoding will tell whether pixels are there
    implicit, little_endian = tags.original_encoding
    start = stream.tell()
    element = stream.read(12)
    tag = PIXEL_DATA if little_endian else b"\x7f\xe0\x00\x10"
    if len(element) < 8 or element[:4] != tag:
        return None
    if not implicit and element[4:6].decode("latin-1") not in EXPLICIT_VR_LENGTH_32:
        return None
    order = "little" if little_endian else "big"
    length = int.from_bytes(element[4:8] if implicit else element[8:12], order)  # type: ignore[arg-type]
    return PixelBytes(start + (8 if implicit else 12), None if length == 0xFFFFFFFF else length)


def value_of(header: Dataset, keyword: str, source: Any) -> Any:
    """Value of a tag; None if it is absent or empty.

    Raises:
        DicomError: The value cannot be what its tag says.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            value = header.get(keyword)
    except UNREADABLE as error:
        raise DicomError(f"{source}: {keyword} {Tag(keyword)} is unreadable ({error}).") from error
    return None if value is None or (hasattr(value, "__len__") and len(value) == 0) else value


def text_of(header: Dataset, keyword: str, source: Any) -> str:
    """A text without surrounding blanks, "" if absent; several values are joined as DICOM does."""
    value = value_of(header, keyword, source)
    if value is None:
        return ""
    return "\\".join(str(one).strip() for one in ([value] if isinstance(value, str | bytes) else _as_list(value)))


def shown_text(header: Dataset, keyword: str) -> str:
    """A text that is only shown, however damaged."""
    try:
        return text_of(header, keyword, "")
    except DicomError:
        return "(unreadable)"


def numbers_of(header: Dataset, keyword: str, count: int, source: Any) -> np.ndarray | None:
    """Finite numbers, shape (count,); None if the tag is absent.

    Raises:
        DicomError: There are more or fewer values, or something that is no number.
    """
    value = value_of(header, keyword, source)
    if value is None:
        return None
    try:
        numbers = np.array([float(one) for one in _as_list(value)])
    except (ValueError, TypeError, OverflowError):
        numbers = np.array([])
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        expected = "one finite number" if count == 1 else f"{count} finite numbers"
        shown = str(value)[:60]
        raise DicomError(f"{source}: {keyword} {Tag(keyword)} is {shown!r}; expected {expected}.")
    return numbers


def number_of(header: Dataset, keyword: str, source: Any) -> float | None:
    """One finite number; None if the tag is absent."""
    numbers = numbers_of(header, keyword, 1, source)
    return None if numbers is None else float(numbers[0])


def _as_list(value: Any) -> list:
    if isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
        return [value]
    return list(value)


def frame_count(header: Header) -> int:
    """NumberOfFrames; 1 if it is absent or zero.

    Raises:
        DicomError: It is no whole number.
    """
    count = number_of(header.tags, "NumberOfFrames", header.file.path) or 1.0
    if count != int(count) or count < 1:
        raise DicomError(
            f"{header.file.path}: NumberOfFrames (0028,0008) is {count:g}; expected a whole number of images."
        )
    return int(count)


def as_slice(source: Header, tags: Dataset | None = None, frame: int | None = None) -> Slice:
    """A checked slice.

    Args:
        source: The file.
        tags: Header of one frame of a multi-frame file, with the tags of a single slice; the file's own if absent.
        frame: Index of that frame.

    Raises:
        DicomError: A tag is missing or impossible, without which the slice has no position or scale.
    """
    header, path = source.tags if tags is None else tags, source.file.path
    if frame is not None:
        path = path.with_name(f"{path.name} (frame {frame + 1})")
    if tags is None and (source.sop_class in MULTIFRAME or frame_count(source) > 1):
        raise DicomError(f"{path}: a multi-frame object without the tags of each frame; expected single slices.")

    def needed(keyword: str, count: int) -> np.ndarray:
        try:
            numbers = numbers_of(header, keyword, count, path)
        except DicomError:
            numbers = None
        if numbers is None:
            raise DicomError(
                f"{path}: {keyword} {Tag(keyword)} is missing or unreadable; the slice has no position or scale."
            )
        return numbers

    modality = value_of(header, "Modality", path)
    if not isinstance(modality, str) or not modality.strip():
        raise DicomError(
            f"{path}: Modality (0008,0060) is missing or unreadable; the slice has no position or scale."
        )
    rows, columns = (int(needed(keyword, 1)[0]) for keyword in ("Rows", "Columns"))
    if rows < 1 or columns < 1:
        raise DicomError(f"{path}: {rows} rows and {columns} columns; expected at least one of each.")
    spacing = needed("PixelSpacing", 2)
    position, orientation = needed("ImagePositionPatient", 3), needed("ImageOrientationPatient", 6)
    slope, intercept = (float(needed(keyword, 1)[0]) for keyword in ("RescaleSlope", "RescaleIntercept"))
    if max(np.abs(position).max(), spacing.max()) > MAX_MM:
        raise DicomError(
            f"{path}: ImagePositionPatient (0020,0032) is {position.tolist()}, PixelSpacing (0028,0030) "
            f"{spacing.tolist()}; expected millimetres within a scanner."
        )
    if spacing.min() <= 0:
        raise DicomError(f"{path}: PixelSpacing (0028,0030) is {spacing.tolist()}; expected positive mm.")
    if slope == 0:
        raise DicomError(f"{path}: RescaleSlope (0028,1053) is 0, which would erase every value.")
    axes = orientation.reshape(2, 3)
    if np.abs(axes).max() > 2 or not np.allclose(axes @ axes.T, np.eye(2), atol=1e-3):
        raise DicomError(
            f"{path}: ImageOrientationPatient (0020,0037) is {axes.ravel().tolist()}; expected two perpendicular unit "
            "vectors."
        )
    samples = number_of(header, "SamplesPerPixel", path) or 1
    if samples != 1:
        raise DicomError(f"{path}: a colour image (SamplesPerPixel {samples:g}); expected a grey one.")
    down_mm, across_mm = spacing.tolist()
    return Slice(
        source, header, frame, modality.strip(), rows, columns, (down_mm, across_mm), position, orientation, slope,
        intercept,
    )  # fmt: skip
