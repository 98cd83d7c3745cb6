"""Slices to one grid: same size, same direction, even steps."""

import os
from collections.abc import Sequence

import numpy as np

from seganypet.errors import DicomError
from seganypet.pet.dicom_frames import SAME_POSITION_MM
from seganypet.pet.dicom_header import Slice, text_of
from seganypet.pet.grids import LPS_TO_RAS


def check_one_scan(slices: Sequence[Slice], source: str | os.PathLike) -> None:
    """Raise DicomError unless all slices are of one patient and lie in one frame of reference."""
    for keyword in ("PatientID", "FrameOfReferenceUID"):
        found = {text_of(one.header, keyword, one.name) for one in slices} - {""}
        if len(found) > 1:
            raise DicomError(
                f"{source}: {keyword} differs within the series ({len(found)} of them under one SeriesInstanceUID): "
                "slices of different patients or positions are mixed. Separate them into folders."
            )


def stack_slices(slices: Sequence[Slice], source: str | os.PathLike) -> tuple[list[Slice], np.ndarray]:
    """Slices in order of position, and the affine that maps (i, j, k) to RAS+ mm, shape (4, 4).

    Raises:
        DicomError: Slices are missing, unevenly spaced, or of mixed orientation, size or kind.
    """
    if len(slices) < 2:
        raise DicomError(f"{source}: a single slice ({slices[0].name}); expected at least two.")
    reference = slices[0]
    for one in slices:
        _check_alike(one, reference, source)
    across, down = reference.orientation.reshape(2, 3)
    normal = np.cross(across, down)
    slices = sorted(slices, key=lambda one: np.dot(one.position_mm, normal))
    positions = np.array([one.position_mm for one in slices])  # (K, 3), LPS+ mm
    gaps_mm = np.diff(positions @ normal)
    twice = int(np.argmin(gaps_mm))
    if gaps_mm[twice] < SAME_POSITION_MM:
        raise DicomError(f"{source}: {slices[twice].name} and {slices[twice + 1].name} lie at the same position.")
    step = (positions[-1] - positions[0]) / (len(slices) - 1)
    usual_mm = float(np.median(gaps_mm))
    widest = int(np.argmax(gaps_mm))
    # Real tables jitter by a few hundredths of a millimetre between bed positions.
    strays = np.linalg.norm(positions - (positions[0] + np.arange(len(slices))[:, None] * step), axis=1)
    if gaps_mm[widest] > 1.5 * usual_mm:
        raise DicomError(
            f"{source}: {gaps_mm[widest]:.2f} mm between {slices[widest].name} and {slices[widest + 1].name}, "
            f"{usual_mm:.2f} mm elsewhere: slices are missing. Copy the whole series again."
        )
    if strays.max() > 0.1 * usual_mm:
        raise DicomError(
            f"{source}: slices are unevenly spaced ({gaps_mm.min():.2f} to {gaps_mm.max():.2f} mm; "
            f"{slices[int(strays.argmax())].name} lies {strays.max():.2f} mm off an even stack). "
            "Resample the series onto an even grid first, or choose another reconstruction."
        )
    down_mm, across_mm = reference.spacing_mm
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([across * across_mm, down * down_mm, step])
    affine[:3, 3] = positions[0]
    return slices, LPS_TO_RAS @ affine


def _check_alike(one: Slice, reference: Slice, source: str | os.PathLike) -> None:
    for keyword, mine, other, tolerance in (
        ("Rows", one.rows, reference.rows, 0),
        ("Columns", one.columns, reference.columns, 0),
        ("PixelSpacing", one.spacing_mm, reference.spacing_mm, 1e-4),
        ("ImageOrientationPatient", one.orientation.tolist(), reference.orientation.tolist(), 1e-3),
        ("Modality", one.modality, reference.modality, None),
        ("SOPClassUID", one.source.sop_class.name, reference.source.sop_class.name, None),
    ):
        if mine == other:
            continue
        if tolerance is None or not np.allclose(mine, other, rtol=0, atol=tolerance):
            raise DicomError(
                f"{source}: {keyword} differs within the series: {mine} in {one.name}, {other} in "
                f"{reference.name}. Move such slices (a localizer?) to a separate folder."
            )
