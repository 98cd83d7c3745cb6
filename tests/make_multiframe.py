"""Multi-frame (enhanced) PET and CT objects as the standard has them: no tag of a classic slice at the top."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedCTImageStorage, EnhancedPETImageStorage, ExplicitVRLittleEndian, generate_uid

INJECTED, REFERENCE = datetime(2021, 3, 4, 11), datetime(2021, 3, 4, 12)


def item(**tags) -> Sequence:
    """A sequence of one item."""
    dataset = Dataset()
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    return Sequence([dataset])


def stamp(moment: datetime) -> str:
    return moment.strftime("%Y%m%d%H%M%S.%f")


def real_world_values(slope: float, intercept: float, code: str) -> Dataset:
    mapping = Dataset()
    mapping.RealWorldValueFirstValueMapped, mapping.RealWorldValueLastValueMapped = -32768, 32767
    mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = float(slope), float(intercept)
    mapping.MeasurementUnitsCodeSequence = item(CodeValue=code, CodingSchemeDesignator="UCUM", CodeMeaning=code)
    return mapping


def write_enhanced(
    path: Path,
    volumes: np.ndarray,
    affine: np.ndarray,
    modality: str = "PT",
    slopes: np.ndarray | None = None,
    intercept: float = 0.0,
    starts_s: tuple[float, ...] = (0.0,),
    durations_s: tuple[float, ...] = (120.0,),
    scale_by: str = "rescale",
    change: Callable[[Dataset], None] | None = None,
) -> Path:
    """Write volumes as one enhanced object; its frames are in no order of place or time.

    Args:
        volumes: Integers that fit int16, shape (T, I, J, K): (time, column, row, slice).
        affine: (i, j, k) to RAS+ mm.
        slopes: Of each frame, shape (T, K); 1 if absent.
        starts_s: Start of each time frame after the decay reference, in s.
        scale_by: "rescale" writes PixelValueTransformationSequence and a real world mapping of the same scale,
            "real world" the latter only.
        change: Called on the object before writing; may spoil it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    sizes = np.linalg.norm(lps[:3, :3], axis=0)
    times, columns, rows, depth = volumes.shape
    order = np.random.default_rng(8).permutation([(t, k) for t in range(times) for k in range(depth)])
    header = Dataset()
    is_pet = modality == "PT"
    header.SOPClassUID = EnhancedPETImageStorage if is_pet else EnhancedCTImageStorage
    header.SOPInstanceUID, header.SeriesInstanceUID, header.StudyInstanceUID = (generate_uid() for _ in range(3))
    header.Modality, header.SeriesDescription = modality, "enhanced"
    header.SeriesDate, header.SeriesTime = "20210304", "130000"  # saved later than it was scanned
    header.Rows, header.Columns, header.NumberOfFrames = rows, columns, len(order)
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 1
    if is_pet:
        header.PatientWeight, header.PatientSize, header.PatientSex = "70", "1.75", "F"
        header.DecayCorrected = header.AttenuationCorrected = header.ScatterCorrected = "YES"
        header.RandomsCorrected = "NO"
        header.DecayCorrectionDateTime = stamp(REFERENCE)
        header.RadiopharmaceuticalInformationSequence = item(
            RadiopharmaceuticalStartDateTime=stamp(INJECTED), RadionuclideTotalDose="350000000",
            RadionuclideHalfLife="6586.2",
        )  # fmt: skip
    shared = Dataset()
    shared.PixelMeasuresSequence = item(
        PixelSpacing=[f"{sizes[1]:.8g}", f"{sizes[0]:.8g}"], SliceThickness=f"{sizes[2]:.8g}"
    )
    shared.PlaneOrientationSequence = item(
        ImageOrientationPatient=[f"{v:.9f}" for v in (lps[:3, :2] / sizes[:2]).T.ravel()]
    )
    header.SharedFunctionalGroupsSequence = Sequence([shared])
    groups = []
    for t, k in order:
        group = Dataset()
        group.PlanePositionSequence = item(ImagePositionPatient=[f"{v:.7f}" for v in (lps @ [0, 0, k, 1])[:3]])
        started = REFERENCE + timedelta(seconds=starts_s[t])
        group.FrameContentSequence = item(
            StackID="1", InStackPositionNumber=int(k) + 1, TemporalPositionIndex=int(t) + 1,
            FrameAcquisitionDateTime=stamp(started), FrameAcquisitionDuration=1000.0 * durations_s[t],
            FrameReferenceDateTime=stamp(started + timedelta(seconds=durations_s[t] / 2)),
        )  # fmt: skip
        slope = 1.0 if slopes is None else slopes[t, k]
        if scale_by == "rescale":
            group.PixelValueTransformationSequence = item(
                RescaleSlope=f"{slope:.10g}", RescaleIntercept=f"{intercept:g}", RescaleType="US" if is_pet else "HU"
            )
        if scale_by == "real world" or is_pet:
            mapping = real_world_values(slope, intercept, "Bq/ml" if is_pet else "[hnsf'U]")
            group.RealWorldValueMappingSequence = Sequence([mapping])
        groups.append(group)
    header.PerFrameFunctionalGroupsSequence = Sequence(groups)
    header.PixelData = b"".join(volumes[t, :, :, k].T.astype("<i2").tobytes() for t, k in order)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    dataset = FileDataset(str(path), header, file_meta=meta, preamble=b"\0" * 128)
    if change is not None:
        change(dataset)
    dataset.save_as(path, enforce_file_format=True)
    return path
