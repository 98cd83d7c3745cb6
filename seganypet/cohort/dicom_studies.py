"""The studies in a tree of DICOM files: whose they are, and what series they hold. Only headers are read."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom import uid as uids
from pydicom.dataset import Dataset

from seganypet._files import reading
from seganypet.cohort.tracers import tracer_in
from seganypet.errors import DicomError
from seganypet.pet.dicom_files import UNREADABLE, read_dataset
from seganypet.pet.dicom_header import PET_CLASSES
from seganypet.pet.dicom_series import numbers_or_none

_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID", "StudyDate", "SeriesDate",
    "Modality", "SeriesDescription", "StudyDescription", "ImageType", "SeriesType", "CorrectedImage", "NumberOfFrames",
    "FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "RadiopharmaceuticalInformationSequence",
]  # fmt: skip
_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".7z", ".rar")


@dataclass(frozen=True)
class DicomSeries:
    """One series, by its headers.

    Attributes:
        uid: SeriesInstanceUID.
        sop_class: SOPClassUID of its objects.
        modality: Modality.
        description: SeriesDescription.
        files: Its files, sorted.
        slices: Number of slices.
        corrected: Whether CorrectedImage names attenuation; None without that tag.
        kinds: Words of ImageType and SeriesType.
        frame_of_reference: FrameOfReferenceUID, or "".
        positions: ImagePositionPatient of each slice, LPS+ mm, shape (K, 3); empty if unknown.
        normal: Normal of the slices, LPS+; empty if unknown.
        tracer: Tracer that the header names.
        duplicates: Files that hold an object that another one holds, too.
    """

    uid: str
    sop_class: str
    modality: str
    description: str
    files: tuple[Path, ...]
    slices: int
    corrected: bool | None
    kinds: frozenset[str]
    frame_of_reference: str
    positions: np.ndarray = field(repr=False, compare=False)
    normal: np.ndarray = field(repr=False, compare=False)
    tracer: str | None = None
    duplicates: tuple[Path, ...] = ()

    @property
    def folder(self) -> Path:
        """The innermost folder that holds all of its files."""
        return Path(os.path.commonpath([path.parent for path in self.files]))

    def __str__(self) -> str:
        return f"{self.uid}  {self.modality}  {self.description!r}  {self.slices} slices"


@dataclass(frozen=True)
class DicomStudy:
    """One study of one patient.

    Attributes:
        patient_id: PatientID, or "".
        uid: StudyInstanceUID.
        date: StudyDate as YYYY-MM-DD, or "undated".
        description: StudyDescription.
        series: Its series.
        damaged: Damaged files beside its own, and why.
    """

    patient_id: str
    uid: str
    date: str
    description: str
    series: tuple[DicomSeries, ...]
    damaged: tuple[str, ...] = ()

    @property
    def patient(self) -> str:
        """PatientID as a file name; without one, a name of this study alone."""
        return safe_name(self.patient_id) if self.patient_id else f"unnamed-{digest(self.uid)}"

    @property
    def name(self) -> str:
        """Date, and six digits of its own: a patient may have several studies on one day."""
        return f"{self.date}-{digest(self.uid)}"

    @property
    def has_pet(self) -> bool:
        """Whether any of its series says that it is a PET."""
        return any(one.modality == "PT" or one.sop_class in PET_CLASSES for one in self.series)


def digest(text: str) -> str:
    """Six hexadecimal digits that tell texts apart."""
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def safe_name(text: str) -> str:
    """A text as the name of a folder; where that changes it, six digits keep different texts apart.

    >>> safe_name("PSMA_0a1b"), safe_name("Müller/3")
    ('PSMA_0a1b', 'Müller-3-7ffba8')
    """
    plain = re.sub(r"[^\w.-]+", "-", text).strip(".-")
    return plain if plain == text else f"{plain}-{digest(text)}"


# ---- finding


def find_studies(folder: Path) -> tuple[list[DicomStudy], list[str], list[str]]:
    """The studies in a folder and its subfolders.

    Returns:
        The studies; what is damaged and lies beside the files of none of them; archives, which are not opened. The
        last two as sentences.

    Raises:
        DicomError: The folder does not exist, or holds no DICOM file.
    """
    with reading(folder, DicomError):
        if not folder.is_dir():
            what = "is a file" if folder.exists() else "does not exist"
            raise DicomError(f"{folder} {what}; expected a folder of DICOM files.")
    headers: dict[tuple[str, str], dict[str, list[tuple[Path, Dataset]]]] = {}
    damaged: dict[Path, str] = {}
    paths = list(_walk(folder, damaged))
    archives = [path for path in paths if path.name.lower().endswith(_ARCHIVES)]
    for path in paths:
        try:
            header = _read_header(path)
        except UNREADABLE as error:
            damaged[path] = f"{path}: not a readable DICOM file, or cut short ({error}). Copy it again."
            continue
        if header is None:
            continue
        # Anonymised files may lack a study's UID; one patient's series of one day are then one study.
        key = _text(header, "PatientID"), _text(header, "StudyInstanceUID") or f"of {_date(header)}, without UID"
        headers.setdefault(key, {}).setdefault(_text(header, "SeriesInstanceUID"), []).append((path, header))
    if not headers and not damaged:
        hint = f"Unpack {archives[0]}." if archives else "Is it the right folder?"
        raise DicomError(f"{folder}: no DICOM file among its {len(paths)} files. {hint}")
    places = {key: {path.parent for found in series.values() for path, _ in found} for key, series in headers.items()}
    studies = [
        _study(key, series, [reason for path, reason in damaged.items() if path.parent in places[key]])
        for key, series in sorted(headers.items())
    ]
    alone = [reason for path, reason in damaged.items() if not any(path.parent in place for place in places.values())]
    return studies, alone, [f"{path}: an archive, which is not opened; unpack it to convert it." for path in archives]


def _walk(folder: Path, unreadable: dict[Path, str]) -> Iterator[Path]:
    """All files below a folder that are not hidden, linked ones included, each once."""

    def refuse(error: OSError) -> None:
        unreadable[Path(error.filename) / "*"] = f"{error.filename}: cannot be entered ({error.strerror})."

    seen = set()
    for at, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in ("", *sorted(names)):
            if (real := os.path.realpath(os.path.join(at, name))) in seen or name.startswith("."):
                if not name:  # the folder itself
                    folders.clear()
                    break
                continue
            seen.add(real)
            if name:
                yield Path(at) / name


def _read_header(path: Path) -> Dataset | None:
    """Header of an object of a series; None for a file that is not DICOM, or belongs to no series.

    Raises:
        What pydicom raises, or ValueError, for damaged files.
    """
    with path.open("rb") as file:
        start = file.read(132)
    surely_dicom = start[128:] == b"DICM" or path.suffix.lower() in (".dcm", ".dicom", ".ima")
    # Old exports have neither preamble nor suffix; they begin with a tag of group 0002 or 0008.
    if not surely_dicom and not (start[:2] in (b"\x02\x00", b"\x08\x00") and start[3:4] == b"\0"):
        return None
    try:
        with path.open("rb") as file:
            header = read_dataset(file, stop_before_pixels=True, specific_tags=_TAGS, force=True)
    except UNREADABLE:
        if surely_dicom:
            raise
        return None
    if not surely_dicom and not header.get("SOPClassUID"):
        return None
    if header.file_meta.get("MediaStorageSOPClassUID") == uids.MediaStorageDirectoryStorage:
        return None  # a DICOMDIR
    for tag in ("SOPClassUID", "SeriesInstanceUID"):
        if not header.get(tag):
            raise ValueError(f"no {tag}")
    return header


def _study(key: tuple[str, str], series: dict[str, list[tuple[Path, Dataset]]], damaged: list[str]) -> DicomStudy:
    first = next(iter(series.values()))[0][1]
    found = tuple(_series(uid, files) for uid, files in sorted(series.items()))
    return DicomStudy(*key, _date(first), _text(first, "StudyDescription"), found, tuple(damaged))


def _date(header: Dataset) -> str:
    date = _text(header, "StudyDate") or _text(header, "SeriesDate")
    return f"{date[:4]}-{date[4:6]}-{date[6:]}" if re.fullmatch(r"\d{8}", date) else "undated"


def _series(uid: str, files: list[tuple[Path, Dataset]]) -> DicomSeries:
    # Some archives file a report or a screenshot under the series that it belongs to.
    usual, _ = Counter(_text(header, "SOPClassUID") for _, header in files).most_common(1)[0]
    files = [(path, header) for path, header in files if _text(header, "SOPClassUID") == usual]
    first = files[0][1]
    paths_of: dict[str, list[Path]] = {}
    for path, header in files:
        paths_of.setdefault(_text(header, "SOPInstanceUID"), []).append(path)
    kinds = {word.upper() for name in ("ImageType", "SeriesType") for _, header in files[:1]
             for word in _texts(header, name)}  # fmt: skip
    corrected = _texts(first, "CorrectedImage")
    positions = [numbers_or_none(header, "ImagePositionPatient", 3) for _, header in files]
    axes = numbers_or_none(first, "ImageOrientationPatient", 6)
    known = axes is not None and all(position is not None for position in positions)
    return DicomSeries(
        uid, _text(first, "SOPClassUID"), _text(first, "Modality"), _text(first, "SeriesDescription"),
        tuple(sorted(path for path, _ in files)), sum(_count(header) for _, header in files),
        "ATTN" in corrected if corrected else None, frozenset(kinds), _text(first, "FrameOfReferenceUID"),
        np.array(positions if known else [], float).reshape(-1, 3),
        np.cross(axes[:3], axes[3:]) if known else np.zeros(0), _tracer(first),
        tuple(path for paths in paths_of.values() if len(paths) > 1 for path in paths),
    )  # fmt: skip


def _text(header: Dataset, name: str) -> str:
    return str(header.get(name) or "").strip()


def _texts(header: Dataset, name: str) -> list[str]:
    value = header.get(name)
    values = [value] if isinstance(value, str) else list(value or [])
    return [str(one).strip() for one in values]


def _count(header: Dataset) -> int:
    try:
        return max(int(header.get("NumberOfFrames") or 1), 1)
    except (ValueError, TypeError):
        return 1


def _tracer(header: Dataset) -> str | None:
    words = []
    for drug in header.get("RadiopharmaceuticalInformationSequence") or []:
        words.append(_text(drug, "Radiopharmaceutical"))
        words += [_text(code, "CodeMeaning") for code in drug.get("RadiopharmaceuticalCodeSequence") or []]
    return tracer_in(*words)
