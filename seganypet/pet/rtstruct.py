"""RTSTRUCT: objects as contours on the slices of a DICOM series. They keep overlaps and names.

Written and read by pydicom and skimage. (rt-utils would bring OpenCV, whose contours run through the centres of the
outermost pixels, half a pixel inside the object, so that other programs read it too small.)
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

import nibabel as nib
import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from seganypet.errors import DicomError, warn_caller
from seganypet.pet.contours import filled, gaps_inside, outlines
from seganypet.pet.dicom_series import ReferenceSeries
from seganypet.pet.grids import LPS_TO_RAS, check_affine
from seganypet.pet.label_files import colour_of
from seganypet.pet.mask_grid import Layer, masks_on_grid, unique_names
from seganypet.pet.volume import Volume

_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_PLANE_VOXELS = 0.1  # how far a contour may leave a plane of the grid
_ONE_PLANE = 0.02  # slices: contours this near to each other lie in one plane
_REGULAR = 1.2  # planes farther apart than this many usual gaps have a gap between them
_MAX_VOXELS = 1 << 29


def rtstruct_object(masks: Mapping[str, np.ndarray], series: ReferenceSeries, version: str) -> Dataset:
    """An RTSTRUCT object; holes are keyholes.

    Args:
        masks: Name to mask (bool, shape of the series: columns, rows, slices), none empty.
        series: The series that it refers to.
        version: Version of this package.
    """
    first, now = series.headers[0], datetime.now()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = RTStructureSetStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    structures = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
    structures.SpecificCharacterSet = "ISO_IR 192"
    structures.SOPClassUID, structures.SOPInstanceUID = RTStructureSetStorage, meta.MediaStorageSOPInstanceUID
    for key in (
        "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime",
        "StudyID", "AccessionNumber", "ReferringPhysicianName", "FrameOfReferenceUID",
    ):  # fmt: skip
        setattr(structures, key, first.get(key))
    structures.Modality, structures.SeriesInstanceUID = "RTSTRUCT", generate_uid()
    structures.SeriesNumber, structures.InstanceNumber, structures.OperatorsName = 901, 1, ""
    structures.SeriesDescription = "Segmentation"
    structures.Manufacturer = structures.ManufacturerModelName = "seganypet"
    structures.SoftwareVersions = version
    structures.StructureSetLabel = "seganypet"
    structures.StructureSetDate = structures.InstanceCreationDate = now.strftime("%Y%m%d")
    structures.StructureSetTime = structures.InstanceCreationTime = now.strftime("%H%M%S")
    structures.ApprovalStatus, structures.PositionReferenceIndicator = "UNAPPROVED", ""
    structures.ReferencedFrameOfReferenceSequence = [_referenced(series)]
    structures.StructureSetROISequence, structures.ROIContourSequence = [], []
    structures.RTROIObservationsSequence = []
    for number, (name, mask) in enumerate(masks.items(), 1):
        structures.StructureSetROISequence.append(
            _item(ROINumber=number, ReferencedFrameOfReferenceUID=first.FrameOfReferenceUID, ROIName=name,
                  ROIGenerationAlgorithm="SEMIAUTOMATIC")
        )  # fmt: skip
        structures.ROIContourSequence.append(
            _item(
                ROIDisplayColor=[round(255 * part) for part in colour_of(number)],
                ContourSequence=_contours(mask, series),
                ReferencedROINumber=number,
            )
        )
        structures.RTROIObservationsSequence.append(
            _item(ObservationNumber=number, ReferencedROINumber=number, RTROIInterpretedType="", ROIInterpreter="")
        )
    return structures


def _item(**values: object) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def _image(header: Dataset) -> Dataset:
    return _item(ReferencedSOPClassUID=header.SOPClassUID, ReferencedSOPInstanceUID=header.SOPInstanceUID)


def _referenced(series: ReferenceSeries) -> Dataset:
    first = series.headers[0]
    images = [_image(header) for header in series.headers]
    own = _item(SeriesInstanceUID=first.SeriesInstanceUID, ContourImageSequence=images)
    study = _item(
        ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",  # Detached Study Management, retired; RT objects still name it
        ReferencedSOPInstanceUID=first.StudyInstanceUID,
        RTReferencedSeriesSequence=[own],
    )
    return _item(FrameOfReferenceUID=first.FrameOfReferenceUID, RTReferencedStudySequence=[study])


def _contours(mask: np.ndarray, series: ReferenceSeries) -> list[Dataset]:
    contours = []
    to_lps = LPS_TO_RAS @ series.affine
    for k in np.flatnonzero(mask.any(axis=(0, 1))).tolist():
        for polygon in outlines(mask[:, :, k]):
            points_mm = nib.affines.apply_affine(to_lps, np.column_stack([polygon, np.full(len(polygon), k)]))
            contours.append(
                _item(
                    ContourImageSequence=[_image(series.headers[k])],
                    ContourGeometricType="CLOSED_PLANAR",
                    NumberOfContourPoints=len(points_mm),
                    ContourData=[f"{number:.4f}" for number in points_mm.ravel()],
                )
            )
    return contours


def frames_of_reference(structures: Dataset) -> list[str]:
    """UIDs of the frames of reference that the contours lie in."""
    named = [item.get("ReferencedFrameOfReferenceUID") for item in structures.get("StructureSetROISequence") or ()]
    if not any(named):
        named = [item.get("FrameOfReferenceUID") for item in structures.get("ReferencedFrameOfReferenceSequence") or ()]
    return [str(uid) for uid in named if uid]


def read_rtstruct(structures: Dataset, like: Volume, source: str) -> dict[str, np.ndarray]:
    """The objects of an RTSTRUCT on the grid of a volume: voxels whose centres lie inside or on the contours.

    Contours in planes of the grid are filled there. Where their planes lie between those of the grid, or farther apart,
    each plane takes the contours nearest to it, up to half their distance. Contours in oblique planes are filled on a
    grid of their own, with half the volume's voxel size, and carried over by nearest voxel.

    Args:
        structures: The object.
        like: Volume with the target grid.
        source: Name of the file, for messages.

    Returns:
        Name to mask (bool, shape of `like`), without objects that have no contour.

    Raises:
        DicomError: Contours have impossible points, or do not lie in parallel planes.
        Exception: One of `UNREADABLE`, where the object is damaged.
        GeometryError: No object lies within `like`.

    Warns:
        UserWarning: Points or open lines were left out; planes are missing within an object; contours overlap in part.
    """
    contours_mm, xor = _closed_contours(structures, source)
    if not contours_mm:
        return {}
    everything = [polygon for polygons in contours_mm.values() for polygon in polygons]
    affine, shape, axis = _grid_for(everything, like, source)
    to_grid = np.linalg.inv(affine)
    contours = {
        name: [nib.affines.apply_affine(to_grid, polygon) for polygon in polygons]
        for name, polygons in contours_mm.items()
    }
    gap = _plane_gap([float(polygon[:, axis].mean()) for polygons in contours.values() for polygon in polygons])
    if gap > 1.05 and affine is like.affine:
        warn_caller(
            f"{source}: contours are {gap * like.spacing[axis]:.3g} mm apart, slices of {like.source} "
            f"{like.spacing[axis]:.3g} mm; each slice takes the contours nearest to it."
        )
    layers = (
        Layer(_fill(polygons, shape, axis, gap, name in xor, f"{source}, {name!r}"), {1: name})
        for name, polygons in contours.items()
    )
    return masks_on_grid(layers, affine, like, source)


def _closed_contours(structures: Dataset, source: str) -> tuple[dict[str, list[np.ndarray]], set[str]]:
    """Points of each object's closed contours, RAS+ mm, each of shape (points, 3); and the objects that say XOR."""
    rois = structures.StructureSetROISequence
    names = unique_names((item.get("ROIName") for item in rois), source)
    name_of = dict(zip((int(item.ROINumber) for item in rois), names, strict=True))
    found: dict[str, list[np.ndarray]] = {}
    xor: set[str] = set()
    for item in structures.ROIContourSequence:
        name = name_of[int(item.ReferencedROINumber)]
        skipped: dict[str, int] = {}
        for contour in item.get("ContourSequence") or ():
            kind = str(contour.get("ContourGeometricType"))
            points = np.asarray(contour.ContourData, float)
            if points.size % 3 or not np.isfinite(points).all() or np.abs(points).max(initial=0) > 1e5:
                raise DicomError(f"{source}: a contour of {name!r} has {points.size} coordinates, or impossible ones.")
            if kind not in _CLOSED or points.size < 9:
                kind = kind if kind not in _CLOSED else "of fewer than three points"
                skipped[kind] = skipped.get(kind, 0) + 1
                continue
            if kind == _CLOSED[1]:
                xor.add(name)
            found.setdefault(name, []).append(points.reshape(-1, 3) @ LPS_TO_RAS[:3, :3])
        if skipped:
            listed = ", ".join(f"{count} {kind}" for kind, count in skipped.items())
            warn_caller(f"{source}: {name!r} has contours that enclose nothing ({listed}); left out.")
    return found, xor


def _grid_for(polygons: list[np.ndarray], like: Volume, source: str) -> tuple[np.ndarray, tuple[int, int, int], int]:
    """Affine, shape and slice axis of the grid in whose planes the contours are filled: the volume's, if they allow."""
    to_ijk = np.linalg.inv(like.affine)
    spread = np.max([np.ptp(nib.affines.apply_affine(to_ijk, polygon), axis=0) for polygon in polygons], axis=0)
    if spread.min() <= _PLANE_VOXELS:
        return like.affine, like.shape, int(spread.argmin())
    largest = max(polygons, key=lambda polygon: float(np.ptp(polygon, axis=0).max()))
    _, _, axes = np.linalg.svd(largest - largest.mean(axis=0), full_matrices=False)  # two in the plane, then its normal
    leaves_mm = max(float(np.ptp(polygon @ axes[2])) for polygon in polygons)
    if leaves_mm > _PLANE_VOXELS * min(like.spacing):
        raise DicomError(
            f"{source}: contours leave a plane by {leaves_mm:.2f} mm, or lie in planes that are not parallel; expected "
            "contours of parallel planes."
        )
    heights = sorted({round(float((polygon @ axes[2]).mean()), 3) for polygon in polygons})
    gaps = np.diff(heights)
    step_mm = float(gaps[gaps > 0.05].min()) if (gaps > 0.05).any() else min(like.spacing)
    sizes = np.array([min(like.spacing) / 2, min(like.spacing) / 2, step_mm])
    points = np.concatenate(polygons) @ axes.T
    low = points.min(axis=0) - np.array([1, 1, 0]) * sizes
    shape = np.ceil((points.max(axis=0) - low) / sizes).astype(int) + 2
    if np.prod(shape.astype(float)) > _MAX_VOXELS:
        raise DicomError(f"{source}: contours would need a grid of {tuple(shape.tolist())} voxels; are they in mm?")
    affine = np.eye(4)
    affine[:3, :3] = axes.T * sizes
    affine[:3, 3] = low @ axes
    i, j, k = shape.tolist()
    return check_affine(affine, source), (i, j, k), 2


def _plane_gap(heights: list[float]) -> float:
    """Distance between neighbouring planes of contours, in slices; 1 if too few planes say it."""
    gaps = np.diff(sorted(heights))
    gaps = gaps[gaps > _ONE_PLANE]
    if not len(gaps):
        return 1.0
    alike = gaps[gaps < _REGULAR * gaps.min()]
    # Lesions that lie apart have few planes, far from each other.
    return float(alike.mean()) if gaps.min() < 1 or len(alike) >= 2 else 1.0


def _fill(
    polygons: Sequence[np.ndarray], shape: tuple[int, int, int], axis: int, gap: float, xor: bool, source: str
) -> np.ndarray:
    """The mask (bool, of that shape) of contours in planes across one axis of a grid."""
    in_plane = [number for number in range(3) if number != axis]
    by_height: dict[float, list[np.ndarray]] = {}
    for polygon in polygons:
        height = float(polygon[:, axis].mean())
        known = [other for other in by_height if abs(other - height) < _ONE_PLANE]
        by_height.setdefault(known[0] if known else height, []).append(polygon[:, in_plane])
    plane_shape = shape[in_plane[0]], shape[in_plane[1]]
    mask = np.zeros((*plane_shape, shape[axis]), bool)
    heights = np.array(sorted(by_height))
    planes: dict[float, np.ndarray] = {}
    for k, height in _nearest_planes(heights, shape[axis], gap):
        if height not in planes:
            planes[height] = filled(by_height[height], plane_shape, xor, source)
        mask[..., k] = planes[height]
    for below, above in gaps_inside(mask):
        which = f"slice {below + 1}" if above == below + 2 else f"slices {below + 1} to {above - 1}"
        warn_caller(f"{source}: no contour on {which}, between others; left empty.")
    return np.moveaxis(mask, -1, axis)


def _nearest_planes(heights: np.ndarray, n_slices: int, gap: float) -> Iterator[tuple[int, float]]:
    """For each slice within half a gap of contours, or between two, its index and the height of those nearest to it.

    Halfway between two, the lower ones, and half a gap above the last: then n planes fill n gaps, and keep the volume.
    """
    for k in range(n_slices):
        distances = np.abs(heights - k)
        nearest = float(heights[distances < distances.min() + _ONE_PLANE][0])
        below, above = heights[heights <= k], heights[heights >= k]
        between = len(below) and len(above) and above[0] - below[-1] < _REGULAR * gap
        if between or -gap / 2 < k - nearest - _ONE_PLANE < gap / 2:
            yield k, nearest
