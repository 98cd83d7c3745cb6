"""The DICOM series that masks refer to: whose slices they lie on, and which patient, study and frame they name."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import uid as uids
from pydicom.dataset import Dataset
from pydicom.uid import UID, generate_uid

from seganypet._files import as_path
from seganypet.errors import DicomError
from seganypet.pet.dicom_files import UNREADABLE, read_dataset
from seganypet.pet.grids import LPS_TO_RAS, Grid
from seganypet.pet.mask_grid import whole_voxels
from seganypet.pet.volume import Volume

_GEOMETRY = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2, "Rows": 1, "Columns": 1}
_IDENTITY = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID",
)  # fmt: skip
# What an object of the same study repeats, empty where the series lacks it.
_SHARED = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
_OTHERS = ("SpecificCharacterSet", "StudyDescription", "SliceThickness", "Modality", "SeriesDescription")


@dataclass(frozen=True)
class ReferenceSeries:
    """One image series without its pixels.

    Attributes:
        headers: Headers of its slices, in order of k, with all that derived objects repeat.
        affine: Voxel indices (column, row, slice) to RAS+ mm, shape (4, 4).
        source: Its folder.
    """

    headers: list[Dataset]
    affine: np.ndarray
    source: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of columns, rows and slices."""
        return int(self.headers[0].Columns), int(self.headers[0].Rows), len(self.headers)

    @property
    def grid(self) -> Grid:
        """The grid of its voxels."""
        return Grid(self.shape, self.affine, self.source)


def reference_series(like: Volume, folder: str | os.PathLike | None) -> ReferenceSeries:
    """The DICOM series of a volume.

    Args:
        like: Volume whose series is sought. One read by `load_dicom` knows its series, whose folder is its source, or
            `metadata["series_folder"]` if the source was named otherwise.
        folder: Folder of the series (and perhaps of others); that of `like` unless given.

    Raises:
        DicomError: The volume does not come from DICOM and no folder is given; the folder holds no such series, or
            several that could be it, or only series in another frame of reference; the series has no regular grid.
    """
    series_uid = like.metadata.get("series_uid")
    if folder is None:
        source = Path(like.metadata.get("series_folder", like.source))
        folder = source.parent if source.name.upper() == "DICOMDIR" else source
        if not series_uid or not os.path.isdir(folder):
            raise DicomError(
                f"{like.source} does not come from a DICOM folder, and a DICOM SEG or RTSTRUCT names the slices that "
                "it lies on. Give the folder of the series, reference=...; or save as .seg.nrrd or .nii.gz."
            )
    found = _series_in(as_path(folder))
    if series_uid in found:
        return _in_order(found[series_uid], folder)
    frame = like.metadata.get("frame_of_reference_uid")
    if frame and found and not any(frame == headers[0].get("FrameOfReferenceUID") for headers in found.values()):
        raise DicomError(
            f"{folder}: no series in the frame of reference of {like.source} ({frame}), so the masks would lie "
            "elsewhere in it. Give the folder of the scan that was segmented."
        )
    if not found:
        raise DicomError(f"{folder}: no DICOM series of single slices; expected that of {like.source}.")
    ordered = {uid: _in_order(headers, folder) for uid, headers in found.items()}
    fitting = {uid: series for uid, series in ordered.items() if len(found) == 1 or _has_grid_of(series, like)}
    if len(fitting) != 1:
        listed = "; ".join(
            f"{series.headers[0].get('Modality')} {series.headers[0].get('SeriesDescription', '')!r} {uid}"
            for uid, series in ordered.items()
        )
        raise DicomError(
            f"{folder} holds {len(found)} series, of which {len(fitting)} have the grid of {like.source}: {listed}. "
            "Give a folder with the one series that the masks belong to."
        )
    return next(iter(fitting.values()))


def _series_in(folder: Path) -> dict[str, list[Dataset]]:
    """Headers of the single slices in a folder tree, by SeriesInstanceUID."""
    if not folder.is_dir():
        raise DicomError(f"{folder} is {'a file' if folder.exists() else 'missing'}; expected a folder of DICOM files.")
    found: dict[str, list[Dataset]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
        header = read_header(path, [*_GEOMETRY, *_IDENTITY, *_SHARED, *_OTHERS, "InstanceNumber", "NumberOfFrames"])
        if header is None or "NumberOfFrames" in header:
            continue
        if all(numbers_or_none(header, keyword, count) is not None for keyword, count in _GEOMETRY.items()):
            found.setdefault(str(header.get("SeriesInstanceUID")), []).append(header)
    return found


def read_header(path: Path, tags: list[str]) -> Dataset | None:
    """Some tags of a DICOM file's header; None for any other file, and for a damaged one."""
    try:
        with path.open("rb") as stream, warnings.catch_warnings(action="ignore"):  # on values that no check minds
            header = read_dataset(stream, stop_before_pixels=True, specific_tags=tags)
            list(header)  # converts every value, or fails
        return header
    except UNREADABLE:
        return None


def reason_of(error: BaseException) -> str:
    """The first line of what another library says; its kind if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def numbers_or_none(header: Dataset, keyword: str, count: int) -> np.ndarray | None:
    """Finite numbers, shape (count,); None where the tag is absent, unreadable or of another length."""
    try:
        value = np.atleast_1d(np.asarray(header.get(keyword), float))
    except (TypeError, ValueError):
        return None
    return value if value.shape == (count,) and np.isfinite(value).all() else None


def _in_order(headers: list[Dataset], folder: str | os.PathLike) -> ReferenceSeries:
    """One slice for each position, sorted, completed, with the grid that they form."""
    first = headers[0]
    across, down = numbers_or_none(first, "ImageOrientationPatient", 6).reshape(2, 3)
    normal = np.cross(across, down)
    at_mm: dict[float, Dataset] = {}
    for header in headers:  # of a dynamic scan, the first frame stands for all
        if any(not np.allclose(numbers_or_none(header, key, n), numbers_or_none(first, key, n), atol=1e-3)
               for key, n in _GEOMETRY.items() if key != "ImagePositionPatient"):  # fmt: skip
            raise DicomError(f"{folder}: slices of different size or orientation in one series; it has no one grid.")
        at_mm.setdefault(round(float(numbers_or_none(header, "ImagePositionPatient", 3) @ normal), 2), header)
    ordered = [at_mm[position] for position in sorted(at_mm)]
    positions = np.array([numbers_or_none(header, "ImagePositionPatient", 3) for header in ordered])
    if len(ordered) > 1:
        step = (positions[-1] - positions[0]) / (len(ordered) - 1)
    else:
        thickness = numbers_or_none(first, "SliceThickness", 1)
        step = normal * (1.0 if thickness is None else thickness[0])
    strays = np.linalg.norm(positions - (positions[0] + np.arange(len(ordered))[:, None] * step), axis=1)
    if strays.max() > 0.1 * np.linalg.norm(step):
        raise DicomError(
            f"{folder}: slices are missing or unevenly spaced (one lies {strays.max():.2f} mm off an even stack), so "
            "masks cannot be put on them. Copy the whole series again."
        )
    down_mm, across_mm = numbers_or_none(first, "PixelSpacing", 2)
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([across * across_mm, down * down_mm, step])
    affine[:3, 3] = positions[0]
    return ReferenceSeries(_completed(ordered, step, folder), LPS_TO_RAS @ affine, str(folder))


def _completed(headers: list[Dataset], step: np.ndarray, folder: str | os.PathLike) -> list[Dataset]:
    """Copies of the headers with what an object that refers to them needs; the study as the first slice says it."""
    first = headers[0]
    missing = [key for key in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID") if not first.get(key)]
    if missing:
        raise DicomError(f"{folder}: {missing[0]} is missing; nothing can refer to such a series.")
    for key in ("StudyInstanceUID", "FrameOfReferenceUID", "SOPClassUID"):
        if len({str(header.get(key)) for header in headers}) > 1:
            raise DicomError(f"{folder}: {key} differs within the series; nothing can refer to it as a whole.")
    study = {key: first.get(key) or "" for key in _SHARED}
    if study["PatientSex"] not in ("", "M", "F", "O"):
        study["PatientSex"] = ""
    completed = []
    for number, header in enumerate(headers, 1):
        copy = Dataset()
        copy.update({element.tag: element for element in header})
        for key, value in study.items():
            setattr(copy, key, value)
        copy.SOPClassUID = header.get("SOPClassUID") or uids.PositronEmissionTomographyImageStorage
        # A series without a frame of reference gets one of its own, the same each time.
        copy.FrameOfReferenceUID = first.get("FrameOfReferenceUID") or generate_uid(
            entropy_srcs=[str(first.SeriesInstanceUID), "frame of reference"]
        )
        copy.SliceThickness = f"{np.linalg.norm(step):.8g}"
        copy.InstanceNumber = number
        completed.append(copy)
    return completed


def _has_grid_of(series: ReferenceSeries, like: Volume) -> bool:
    to_like = np.linalg.inv(like.affine) @ series.affine
    return sorted(series.shape) == sorted(like.shape) and whole_voxels(to_like, series.shape) is not None


def check_frame_of_reference(uids_in_file: Sequence[Any], like: Volume, source: str, other_frame: bool) -> None:
    """Raise DicomError if a file is known to be drawn in another frame of reference than the volume's."""
    own = like.metadata.get("frame_of_reference_uid")
    others = sorted({str(uid) for uid in uids_in_file if uid} - {own})
    if own and others and not other_frame:
        raise DicomError(
            f"{source}: drawn in frame of reference {', '.join(map(UID, others))}, but {like.source} has {own}: their "
            "millimetres need not mean the same place. If you know that the two are aligned, pass other_frame=True."
        )
