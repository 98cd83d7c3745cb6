"""Axial, coronal and sagittal views of a grid, whichever way its axes run.

However a grid lies in the scanner, a picture shows the patient as radiologists expect: head up, front up in axial
slices, the patient's right on the viewer's left. For this, the array is reordered to its closest RAS axes; oblique
grids are not resampled, so a picture shows original voxels. Indices of the reordered array are called `ras`, those of
the file `ijk`.
"""

from collections.abc import Sequence
from numbers import Integral
from typing import NamedTuple

import nibabel as nib
import numpy as np

from seganypet.errors import ClickError, shown
from seganypet.pet.volume import Point, Volume

# Distinguishable with any colour vision and against grey (Okabe and Ito).
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


class View(NamedTuple):
    """One of the three slice directions; `across`, `up` and `through` are axes of an array in RAS order.

    From left to right, indices always decrease: the patient's right, or front, is on the left.
    """

    across: int
    up: int
    through: int
    left: str
    right: str


VIEWS = {"axial": View(0, 1, 2, "R", "L"), "coronal": View(0, 2, 1, "R", "L"), "sagittal": View(1, 2, 0, "A", "P")}


def to_ras(data: np.ndarray, volume: Volume) -> np.ndarray:
    """An array, shape of the volume, with axes that run to the patient's right, front and head; no copy."""
    return nib.orientations.apply_orientation(data, nib.orientations.io_orientation(volume.affine))


def ras_spacing(volume: Volume) -> Point:
    """Voxel size along the axes of `to_ras`, in mm."""
    spacing = {axis: mm for (axis, _), mm in zip(ras_axes(volume), volume.spacing, strict=True)}
    return spacing[0], spacing[1], spacing[2]


def ijk_to_ras(ijk: Sequence[int], volume: Volume) -> tuple[int, int, int]:
    """Indices into `volume.data` to indices into `to_ras(volume.data, volume)`.

    Raises:
        ClickError: The voxel lies outside the volume.
    """
    if not volume.contains_ijk(ijk):
        raise ClickError(
            f"ijk={tuple(ijk)} lies outside {volume.source} of shape {volume.shape}. "
            "If it is in mm, convert it with volume.to_ijk(mm)."
        )
    ras = [0, 0, 0]
    for index, size, (axis, sign) in zip(ijk, volume.shape, ras_axes(volume), strict=True):
        ras[axis] = round(index) if sign > 0 else size - 1 - round(index)
    right, front, head = ras
    return right, front, head


def ras_to_ijk(ras: Sequence[int], volume: Volume) -> tuple[int, int, int]:
    """Indices into `to_ras(volume.data, volume)` to indices into `volume.data`; the inverse of `ijk_to_ras`.

    Raises:
        ClickError: They are not three whole numbers.
    """
    if len(ras) != 3 or not all(isinstance(index, Integral) for index in ras):
        raise ClickError(f"{shown(ras)} is no voxel; expected three whole numbers.")
    i, j, k = (
        int(ras[axis]) if sign > 0 else size - 1 - int(ras[axis])
        for size, (axis, sign) in zip(volume.shape, ras_axes(volume), strict=True)
    )
    return i, j, k


def ras_affine(volume: Volume) -> np.ndarray:
    """Indices into `to_ras(volume.data, volume)` to RAS+ millimetres, (4, 4)."""
    flips = nib.orientations.inv_ornt_aff(nib.orientations.io_orientation(volume.affine), volume.shape)
    return volume.affine @ flips


def ras_axes(volume: Volume) -> list[tuple[int, int]]:
    """For each axis of the volume: the axis of the RAS array that it becomes, and 1, or -1 if it runs the other way."""
    return [(int(axis), int(sign)) for axis, sign in nib.orientations.io_orientation(volume.affine)]
