"""DICOM SEG: objects as binary frames on the slices of a DICOM series. They keep overlaps and names.

Written by highdicom as a binary segmentation. Read frame by frame, so that segmentations of other programs need
neither be complete nor regular: frames without voxels may be absent, positions may lie on another grid.
"""

import math
import warnings
from collections.abc import Iterator, Mapping

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from seganypet.errors import DicomError, warn_caller
from seganypet.pet.dicom_series import ReferenceSeries
from seganypet.pet.grids import LPS_TO_RAS
from seganypet.pet.mask_grid import Layer, nonzero_box, unique_names
from seganypet.pet.volume import Volume

SEG_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # Segmentation, Label Map Segmentation
_MAX_SLICES = 20_000
_MAX_PIXELS_A_BYTE = 130  # eight where each is a bit, 64 of one value in a run


def seg_object(masks: Mapping[str, np.ndarray], series: ReferenceSeries, version: str) -> Dataset:
    """A binary DICOM SEG object.

    Args:
        masks: Name to mask (bool, shape of the series: columns, rows, slices), none empty.
        series: The series that it refers to.
        version: Version of this package.
    """
    import highdicom
    from pydicom.sr.codedict import codes

    descriptions = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=codes.SCT.Tissue,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.SEMIAUTOMATIC,
            algorithm_identification=highdicom.AlgorithmIdentificationSequence(
                "seganypet", codes.DCM.ArtificialIntelligence, version
            ),
        )
        for number, name in enumerate(masks, 1)
    ]
    columns, rows, n_slices = series.shape
    pixels = np.zeros((len(masks), n_slices, rows, columns), np.uint8)
    for segment, mask in enumerate(masks.values()):
        i, j, k = nonzero_box(mask)
        pixels[segment, k, j, i] = mask[i, j, k].transpose(2, 1, 0)
    first = series.headers[0]
    with warnings.catch_warnings(action="ignore"):  # on patients' names with one component, and the like
        return highdicom.seg.Segmentation(
            source_images=series.headers,
            pixel_array=np.moveaxis(pixels, 0, -1),  # (slice, row, column, segment)
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=descriptions,
            series_instance_uid=generate_uid(),
            series_number=900,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer="seganypet",
            manufacturer_model_name="seganypet",
            software_versions=version,
            device_serial_number="0",
            content_label="SEGMENTATION",
            series_description="Segmentation",
            pixel_measures=highdicom.PixelMeasuresSequence(
                pixel_spacing=first.PixelSpacing,
                slice_thickness=first.SliceThickness,
                spacing_between_slices=first.SliceThickness,
            ),
            specific_character_set="ISO_IR 192",
        )


def read_seg(header: Dataset, like: Volume, source: str) -> tuple[Iterator[Layer], np.ndarray]:
    """The objects of a DICOM SEG, one layer at a time, and their affine (columns, rows, slices to RAS+ mm).

    A fractional segmentation is cut at half of its maximum, with a warning.

    Args:
        header: The whole object, with its pixels.
        like: Volume whose slice spacing decides where the file leaves it open.
        source: Name of the file, for messages.

    Raises:
        DicomError: It has frames of several orientations, or no regular stack of slices.
        Exception: One of `UNREADABLE`, where the object is damaged.
    """
    claimed = math.prod(int(header.get(name) or 1) for name in ("Rows", "Columns", "NumberOfFrames"))
    if claimed > _MAX_PIXELS_A_BYTE * len(header.PixelData):
        raise DicomError(f"{source}: its header claims {claimed} pixels, more than the file can hold. Copy it again.")
    frames = header.pixel_array
    frames = frames[None] if frames.ndim == 2 else frames  # (frame, row, column)
    segments = {int(item.SegmentNumber): item.get("SegmentLabel") for item in header.SegmentSequence}
    positions, orientation, spacing, numbers, gap_mm = _frame_geometry(header, len(frames), source)
    across, down = orientation.reshape(2, 3)
    slices, step = _stack(positions, np.cross(across, down), gap_mm, like, source)
    names = dict(zip(segments, unique_names(segments.values(), source, "segment"), strict=True))
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([across * spacing[1], down * spacing[0], step])
    affine[:3, 3] = positions[np.argmin(slices)]
    if header.SegmentationType == "FRACTIONAL":
        frames = _binary(frames, header, source)
    layers = _layers(frames, numbers, slices, names)
    return layers, LPS_TO_RAS @ affine


def _binary(frames: np.ndarray, header: Dataset, source: str) -> np.ndarray:
    largest = int(header.get("MaximumFractionalValue") or 255)
    between = int(np.count_nonzero((frames > 0) & (frames < largest)))
    if between:
        kind = str(header.get("SegmentationFractionalType") or "fraction").lower()
        warn_caller(
            f"{source}: a fractional segmentation; {between} of {np.count_nonzero(frames)} voxels have a {kind} "
            "between 0 and 1. Those of one half and more are taken."
        )
    return frames * 2 >= largest if largest < 128 else frames.astype(np.int32) * 2 >= largest


def _layers(
    frames: np.ndarray, numbers: np.ndarray | None, slices: np.ndarray, names: dict[int, str]
) -> Iterator[Layer]:
    """Arrays (column, row, slice): one for all segments of a label map, else one for each segment."""
    n_slices = int(slices.max()) + 1
    if numbers is None:
        labels = np.zeros((n_slices, *frames.shape[1:]), frames.dtype)
        labels[slices] = frames
        yield Layer(labels.transpose(2, 1, 0), {number: name for number, name in names.items() if number})
        return
    for number, name in names.items():
        own = numbers == number
        labels = np.zeros((n_slices, *frames.shape[1:]), bool)
        labels[slices[own]] = frames[own] != 0
        yield Layer(labels.transpose(2, 1, 0), {1: name})


def _frame_geometry(
    header: Dataset, n_frames: int, source: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None, float | None]:
    """Positions (frames, 3), orientation (6,), pixel spacing (2,), segment of each frame (None: label map), slice gap.

    Positions are in LPS+ mm; the gap is SpacingBetweenSlices, or None.
    """
    shared = header.SharedFunctionalGroupsSequence[0]
    frames = header.PerFrameFunctionalGroupsSequence
    if len(frames) != n_frames:
        raise DicomError(f"{source}: {n_frames} frames, but {len(frames)} are described. Copy the file again.")

    def of(frame: Dataset, group: str) -> Dataset:
        for place in (frame, shared):
            if place.get(group):
                return place[group].value[0]
        raise DicomError(f"{source}: a frame has no {group}; expected the segmentation of a volume.")

    def values(group: str, keyword: str) -> np.ndarray:
        if group in shared and shared[group].value:
            return np.tile(np.asarray(of(shared, group)[keyword].value, float), (n_frames, 1))
        return np.array([of(frame, group)[keyword].value for frame in frames], float)

    positions = values("PlanePositionSequence", "ImagePositionPatient")
    orientations = values("PlaneOrientationSequence", "ImageOrientationPatient")
    spacings = values("PixelMeasuresSequence", "PixelSpacing")
    finite = all(np.isfinite(array).all() for array in (positions, orientations, spacings))
    if not finite or positions.shape[1:] != (3,) or orientations.shape[1:] != (6,) or spacings.shape[1:] != (2,):
        raise DicomError(f"{source}: a frame's position, orientation or pixel spacing is not finite numbers.")
    if np.ptp(orientations, axis=0).max() > 1e-3 or np.ptp(spacings, axis=0).max() > 1e-3:
        raise DicomError(f"{source}: frames of several orientations or pixel sizes; expected one stack of slices.")
    numbers = None
    if header.SegmentationType != "LABELMAP":
        identified = (of(frame, "SegmentIdentificationSequence") for frame in frames)
        numbers = np.array([item.ReferencedSegmentNumber for item in identified], int)
    measures = of(frames[0], "PixelMeasuresSequence")
    gap = measures.get("SpacingBetweenSlices")
    return positions, orientations[0], spacings[0], numbers, None if gap is None else float(gap)


def _stack(
    positions: np.ndarray, normal: np.ndarray, gap_mm: float | None, like: Volume, source: str
) -> tuple[np.ndarray, np.ndarray]:
    """Slice index of each frame, from 0, and the step from slice to slice, LPS+ mm, shape (3,).

    Frames without voxels may be absent, so that the smallest distance between frames can be two slices or more: the
    distance that the file states comes first, then that of the volume's slices, then the smallest.
    """
    normal = normal / np.linalg.norm(normal)
    along = positions @ normal
    along = along - along.min()
    distinct = np.unique(np.round(along, 3))
    smallest = float(np.diff(distinct).min()) if len(distinct) > 1 else None
    axes = (LPS_TO_RAS @ like.affine)[:3, :3] / like.spacing
    axis = int(np.abs(normal @ axes).argmax())
    own = float(like.spacing[axis]) if abs(normal @ axes[:, axis]) > 0.999 else None
    for step_mm in (gap_mm, own, smallest):
        if not step_mm or step_mm <= 0:
            continue
        slices = np.rint(along / step_mm)
        if slices.max() < _MAX_SLICES and np.abs(along - slices * step_mm).max() <= 0.1 * step_mm:
            break
    else:
        if smallest is None:
            step_mm, slices = 1.0, np.zeros(len(along))
        else:
            raise DicomError(
                f"{source}: frames are unevenly spaced (at {', '.join(f'{z:.2f}' for z in distinct[:6])} ... mm); "
                "expected a regular stack of slices."
            )
    step = normal * step_mm
    if slices.max() > 0:  # not along the normal if the gantry was tilted
        last, first = int(slices.argmax()), int(slices.argmin())
        step = (positions[last] - positions[first]) / slices[last]
    strays = np.linalg.norm(positions - positions[int(slices.argmin())] - slices[:, None] * step, axis=1)
    if strays.max() > 0.1 * max(float(np.linalg.norm(step)), 1e-3):
        raise DicomError(f"{source}: frames lie up to {strays.max():.2f} mm beside one stack; expected one grid.")
    return slices.astype(int), step
