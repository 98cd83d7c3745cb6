"""Small DICOM series for tests, and PET headers as a Siemens scanner writes them."""

import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.fileset import FileSet
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, PositronEmissionTomographyImageStorage, generate_uid

# 70 kg, 350 MBq, 60 minutes, half-life 6586.2 s: SUVbw per Bq/mL.
FACTOR = 70_000.0 / (350e6 * 2.0 ** (-3600.0 / 6586.2))


def pet_header() -> Dataset:
    """All that an SUV needs: injected at 11:00, series and acquisition at 12:00."""
    header = Dataset()
    header.Modality = "PT"
    header.SeriesDate = header.AcquisitionDate = "20210304"
    header.SeriesTime = header.AcquisitionTime = "120000"
    header.Units = "BQML"
    header.DecayCorrection = "START"
    header.CorrectedImage = ["NORM", "ATTN", "SCAT", "DECY"]
    header.PatientWeight = "70"
    header.PatientSize = "1.75"
    header.PatientSex = "F"
    header.PatientName = "Nobody^Known"
    header.PatientID = "secret-17"
    header.ActualFrameDuration = "120000"
    header.FrameReferenceTime = "0"
    drug = Dataset()
    drug.RadiopharmaceuticalStartTime = "110000"
    drug.RadionuclideTotalDose = "350000000"
    drug.RadionuclideHalfLife = "6586.2"
    header.RadiopharmaceuticalInformationSequence = Sequence([drug])
    return header


def headers_from_json(path: Path) -> list[Dataset]:
    """Header objects of the calculate-suv test set as pydicom datasets."""
    headers = []
    for values in json.loads(path.read_text()):
        header, drug = Dataset(), Dataset()
        philips = values.pop("PhilipsPETPrivateGroup", {})
        for keyword, value in values.items():
            setattr(drug if keyword.startswith("Radi") else header, keyword, value)
        header.RadiopharmaceuticalInformationSequence = Sequence([drug])
        add_philips(header, philips.get("SUVScaleFactor"), philips.get("ActivityConcentrationScaleFactor"))
        headers.append(header)
    return headers


def add_philips(header: Dataset, suv_factor: str | None = None, activity_factor: str | None = None) -> None:
    """Put Philips' private factors (7053,1000) and (7053,1009) into a header."""
    block = header.private_block(0x7053, "Philips PET Private Group", create=True)
    for element, value in ((0x00, suv_factor), (0x09, activity_factor)):
        if value is not None:
            block.add_new(element, "DS", value)


def write_series(
    folder: Path,
    stored: np.ndarray,
    affine: np.ndarray,
    modality: str = "PT",
    slopes: np.ndarray | None = None,
    intercept: float = 0.0,
    change: Callable[[Dataset, int], None] | None = None,
    description: str = "small series",
) -> list[Path]:
    """Write stored values as one file per slice, under names that do not tell the order.

    Args:
        folder: Created if need be.
        stored: Integers that fit int16, shape (I, J, K): (column, row, slice).
        affine: (i, j, k) to RAS+ mm.
        slopes: RescaleSlope of each slice, shape (K,); 1 if absent.
        change: Called on every header with its slice index before writing; may spoil it.

    Returns:
        Paths in order of k.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    sizes = np.linalg.norm(lps[:3, :3], axis=0)
    series_uid, names = generate_uid(), list(range(stored.shape[2]))
    random.Random(3).shuffle(names)
    paths = []
    for k in range(stored.shape[2]):
        header = pet_header() if modality == "PT" else Dataset()
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        header.SOPClassUID = PositronEmissionTomographyImageStorage if modality == "PT" else CTImageStorage
        header.SOPInstanceUID = generate_uid()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
        header.SeriesInstanceUID = series_uid
        header.SeriesDescription = description
        header.Modality = modality
        header.Rows, header.Columns = stored.shape[1], stored.shape[0]
        header.PixelSpacing = [f"{sizes[1]:.8g}", f"{sizes[0]:.8g}"]  # between rows, then between columns
        header.ImageOrientationPatient = [f"{v:.9f}" for v in (lps[:3, :2] / sizes[:2]).T.ravel()]
        header.ImagePositionPatient = [f"{v:.7f}" for v in (lps @ [0, 0, k, 1])[:3]]
        header.RescaleSlope = f"{1.0 if slopes is None else slopes[k]:.10g}"
        header.RescaleIntercept = f"{intercept:g}"
        header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
        header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 1
        header.PixelData = stored[:, :, k].T.astype("<i2").tobytes()
        path = folder / f"image-{names[k]:03d}.dcm"
        dataset = FileDataset(str(path), header, file_meta=meta, preamble=b"\0" * 128)
        if change is not None:
            change(dataset, k)
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def write_dynamic(
    folder: Path,
    volumes: np.ndarray,
    affine: np.ndarray,
    change: Callable[[Dataset, int, int], None],
    slopes: np.ndarray | None = None,
) -> list[list[Path]]:
    """Write volumes of shape (T, I, J, K) as one series, each in a folder of its own; `change` gets (header, t, k)."""
    series_uid = generate_uid()

    def of_one_series(header: Dataset, t: int, k: int) -> None:
        header.SeriesInstanceUID = series_uid
        header.NumberOfSlices, header.NumberOfTimeSlices = volumes.shape[3], len(volumes)
        change(header, t, k)

    return [
        write_series(
            folder / f"{len(volumes) - t:02d}", volume, affine, slopes=None if slopes is None else slopes[t],
            change=lambda header, k, t=t: of_one_series(header, t, k),
        )
        for t, volume in enumerate(volumes)
    ]  # fmt: skip


def zip_folder(folder: Path, archive: Path) -> Path:
    """Pack a folder as a file manager does: under its own name, with its directories as entries."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for path in [folder, *sorted(folder.rglob("*"))]:
            target.write(path, path.relative_to(folder.parent))
    return archive


def write_dicomdir(disc: Path, paths: list[Path]) -> Path:
    """A file set in `disc` with the given slices, under names of the standard's; its DICOMDIR."""
    files = FileSet()
    for path in paths:
        header = dcmread(path)
        header.PatientID, header.PatientName = "anonymous", "anonymous"
        header.StudyInstanceUID, header.StudyDate, header.StudyTime, header.StudyID = "1.2.3", "20210304", "11", "1"
        header.SeriesNumber, header.InstanceNumber = 1, int(header.SOPInstanceUID[-4:])
        files.add(header)
    files.write(disc)
    return disc / "DICOMDIR"
