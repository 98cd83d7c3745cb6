"""A 3D scan and its position in the patient: NIfTI in and out, voxels and millimetres.

Frames. A voxel has indices (i, j, k) in the order of the array, the order in which nibabel reads a file. `affine` maps
them to (x, y, z) in millimetres, RAS+: x grows towards the patient's right, y towards the front, z towards the head.
Nothing else is assumed: grids may be oblique, anisotropic or left-handed.
"""

import hashlib
import math
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np

from seganypet._files import replace_atomically
from seganypet.errors import ClickError, GeometryError, UnitError, VolumeError

UNITS = ("SUVbw", "Bq/mL", "HU")

Point = tuple[float, float, float]

# Raised by nibabel on damaged files.
_UNREADABLE = (
    nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError, nib.wrapstruct.WrapStructError, OSError,
    EOFError, ValueError, TypeError, OverflowError, MemoryError, zlib.error,
)  # fmt: skip


class Grid(NamedTuple):
    """A grid of voxels without intensities. A `Volume` has these attributes too and can be used in its place."""

    shape: tuple[int, int, int]
    affine: np.ndarray
    source: str

    @classmethod
    def of(cls, image: nib.Nifti1Pair, path: str | os.PathLike) -> "Grid":
        """The grid of an open NIfTI file."""
        i, j, k = image.shape
        return cls((i, j, k), image.affine, str(path))


@dataclass(frozen=True, eq=False)
class Volume:
    """A scalar 3D image on a grid.

    Attributes:
        data: Intensities in `unit`, shape (I, J, K), float32.
        affine: Map from voxel indices to RAS+ millimetres, shape (4, 4), float64.
        unit: Unit of the intensities, one of `UNITS`.
        source: Origin, for messages and tables.
        metadata: Provenance (scanner headers used, phantom seed, ...).
        header: NIfTI header of the file that it was read from; masks are written with it.

    Raises:
        VolumeError: `data` is not 3D, is empty, or holds NaN or infinity.
        GeometryError: `affine` is not an invertible 4 x 4 affine.
        UnitError: `unit` is not one of `UNITS`.
    """

    data: np.ndarray
    affine: np.ndarray
    unit: str
    source: str = "array"
    metadata: Mapping[str, Any] = field(default_factory=dict)
    header: nib.Nifti1Header | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_unit(self.unit, self.source)
        data = np.asarray(self.data)
        _check_shape(data.shape, self.source)
        _check_type(data.dtype, self.source)
        object.__setattr__(self, "data", np.ascontiguousarray(data, np.float32))
        object.__setattr__(self, "affine", check_affine(self.affine, self.source))
        finite = np.isfinite(self.data)
        if not finite.all():
            first = tuple(int(index) for index in np.argwhere(~finite)[0])
            raise VolumeError(
                f"{self.source}: {(~finite).sum()} of {finite.size} voxels are NaN or infinite "
                f"(the first at ijk={first}); every voxel needs a number. If they mark voxels outside "
                "the scan, replace them: numpy.nan_to_num(data)."
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along (i, j, k)."""
        i, j, k = self.data.shape
        return i, j, k

    @property
    def spacing(self) -> Point:
        """Voxel size along (i, j, k), in mm."""
        i, j, k = nib.affines.voxel_sizes(self.affine).tolist()
        return i, j, k

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel, in mL: |det(affine)| / 1000, exact for sheared grids too."""
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    def to_mm(self, ijk: Any) -> np.ndarray:
        """Convert voxel coordinates to RAS+ millimetres; shape (..., 3) in and out, float64.

        >>> Volume(np.zeros((4, 4, 4)), np.diag([2.0, 2.0, 3.0, 1.0]), "HU").to_mm((1, 0, 2)).tolist()
        [2.0, 0.0, 6.0]
        """
        return nib.affines.apply_affine(self.affine, ijk)

    def to_ijk(self, mm: Any) -> np.ndarray:
        """Convert RAS+ millimetres to (fractional) voxel coordinates; shape (..., 3) in and out, float64."""
        return nib.affines.apply_affine(np.linalg.inv(self.affine), mm)

    def contains_ijk(self, ijk: Any) -> bool:
        """Whether a voxel coordinate lies inside the grid; voxel centres are integers."""
        ijk = np.asarray(ijk, float)
        return bool(np.all(ijk >= -0.5) and np.all(ijk < np.array(self.shape) - 0.5))

    def check_voxel(self, ijk: Any) -> tuple[int, int, int]:
        """A voxel's indices as plain integers.

        Args:
            ijk: Voxel, three whole numbers.

        Raises:
            ClickError: `ijk` is not three finite whole numbers, or lies outside the volume.
        """
        index = finite_point(ijk, "ijk")
        if not self.contains_ijk(index):
            hint = ""
            if self.contains_ijk(self.to_ijk(index)):
                hint = " In millimetres it would lie inside: if you meant that, write mm= instead of ijk=."
            raise ClickError(f"{self.source}: ijk={rounded(index)} lies outside volume shape {self.shape}.{hint}")
        if not np.array_equal(index, np.rint(index)):
            raise ClickError(
                f"{self.source}: ijk={rounded(index)} is not a voxel: indices are whole numbers. "
                "Round them, or give millimetres as mm=."
            )
        i, j, k = (int(number) for number in index)
        return i, j, k

    def fingerprint(self) -> str:
        """SHA-256 of grid, unit and voxels: the same for the same image, wherever it is stored."""
        digest = hashlib.sha256()
        digest.update(repr((self.shape, self.unit)).encode())
        # float32 precision: a NIfTI file keeps its affine in no more. Adding 0 makes one zero of 0 and -0.
        digest.update(np.ascontiguousarray(self.affine + 0.0, "<f4").tobytes())
        digest.update(np.ascontiguousarray(self.data, "<f4").data)
        return digest.hexdigest()


def finite_point(given: Any, name: str) -> np.ndarray:
    """Three finite numbers, float64, shape (3,); ClickError naming the argument otherwise."""
    try:
        point = np.asarray(given, float)
    except (TypeError, ValueError, OverflowError) as error:
        raise ClickError(f"{name}={given!r} is not a point; expected three numbers.") from error
    if point.shape != (3,):
        raise ClickError(f"{name}={given!r} has shape {point.shape}; expected three numbers.")
    if not np.isfinite(point).all():
        raise ClickError(f"{name}={given!r} is not finite; expected three finite numbers.")
    return point


def rounded(point: np.ndarray) -> tuple[float, ...]:
    """A point rounded for messages."""
    return tuple(round(float(x), 2) for x in point)


def check_unit(unit: str | None, source: str) -> None:
    """Raise UnitError unless `unit` is one of `UNITS`."""
    if unit is None:
        raise UnitError(
            f"{source}: no intensity unit given, and a NIfTI file does not hold one. "
            f"Give it: unit={' | '.join(map(repr, UNITS))}."
        )
    if unit not in UNITS:
        raise UnitError(f"{source}: unknown unit {unit!r}; expected one of {', '.join(UNITS)}.")


def check_affine(affine: Any, source: str) -> np.ndarray:
    """The affine as float64; GeometryError if it is not finite, affine, and invertible."""
    affine = np.array(affine, float)
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or not np.array_equal(affine[3], (0, 0, 0, 1)):
        raise GeometryError(
            f"{source}: affine must be a finite 4 x 4 matrix with last row (0, 0, 0, 1); got {affine.tolist()}."
        )
    sizes = nib.affines.voxel_sizes(affine)
    # Relative to the voxel sizes, so that the unit of length does not matter.
    if not sizes.all() or abs(np.linalg.det(affine[:3, :3] / sizes)) < 1e-6:
        raise GeometryError(
            f"{source}: singular affine {affine[:3, :3].tolist()}: two voxel axes are parallel, or one has no length, "
            "so clicks have no position. Repair the file's sform or qform."
        )
    return affine


def _check_shape(shape: tuple[int, ...], source: str) -> None:
    if len(shape) != 3:
        raise VolumeError(
            f"{source}: {len(shape)}D array of shape {shape}; expected a 3D volume (I, J, K). "
            "For a dynamic scan, choose one frame first, e.g. data[..., 0]."
        )
    if 0 in shape:
        raise VolumeError(f"{source}: empty volume of shape {shape}; every axis needs at least one voxel.")


def _check_type(dtype: np.dtype, source: str) -> None:
    if dtype.kind not in "buif":
        raise VolumeError(f"{source}: voxels of type {dtype}; expected integers or real numbers.")


def check_on_grid(labels: Grid, like: "Grid | Volume") -> None:
    """Raise GeometryError unless shape and affine are the same, to a hundredth of a voxel."""
    same_shape = labels.shape == like.shape
    apart_mm = float(np.abs(corner_shifts_mm(labels.affine, like.affine, like.shape)).max())
    # A hundredth of a voxel is far below anything visible, and above the float32 rounding of an affine.
    if not same_shape or apart_mm > 0.01 * min(nib.affines.voxel_sizes(like.affine)):
        distance = f" (corners up to {apart_mm:.3g} mm apart)" if same_shape else ""
        raise GeometryError(
            f"{labels.source}: labels of shape {labels.shape} do not lie on the grid of {like.source}, shape "
            f"{like.shape}{distance}. Resample the labels onto that grid with nearest-neighbour interpolation."
        )


def corner_shifts_mm(one: np.ndarray, other: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """From where one affine places the eight corner voxels of a grid to where another does, RAS+ mm, shape (8, 3)."""
    corners = list(product(*((0, size - 1) for size in shape)))
    return nib.affines.apply_affine(one, corners) - nib.affines.apply_affine(other, corners)


def check_labels(data: np.ndarray, source: str) -> np.ndarray:
    """The label map as int16; VolumeError unless it holds integers from 0 to 32767."""
    if data.dtype.kind == "f" and not np.array_equal(data, np.rint(data)) or (
        data.dtype != bool and (data.min() < 0 or data.max() > np.iinfo(np.int16).max)
    ):
        raise VolumeError(
            f"{source}: values from {data.min()} to {data.max()}, perhaps with fractions; expected a label map with "
            "integers from 0 to 32767. Is it an image, or was it interpolated?"
        )
    return data.astype(np.int16)


def load_volume(path: str | os.PathLike, unit: str | None = None) -> Volume:
    """Read a 3D NIfTI file.

    Args:
        path: Path of a `.nii` or `.nii.gz` file, of any integer or float type, with or without slope.
        unit: Unit of the intensities: "SUVbw", "Bq/mL" or "HU". Required, because it is never guessed.

    Returns:
        The volume on the file's own grid and affine.

    Raises:
        VolumeError: The file is missing, unreadable, truncated or not 3D, or holds NaN or infinity.
        GeometryError: The affine is singular.
        UnitError: The unit is missing or unknown.
    """
    check_unit(unit, str(path))
    image = open_nifti(path)
    data = read_voxels(image, path).astype(np.float32)
    return Volume(data, image.affine, unit, source=str(path), header=image.header)


def load_labels(path: str | os.PathLike, like: Volume) -> np.ndarray:
    """Read a label map that lies on the grid of `like`.

    Args:
        path: Path of a `.nii` or `.nii.gz` file.
        like: Volume whose grid the labels must have.

    Returns:
        Integer labels, shape of `like`, int16.

    Raises:
        VolumeError: As `load_volume`; or the values are not integers from 0 to 32767.
        GeometryError: Shape or affine differ from those of `like`.
    """
    image = open_nifti(path)
    check_on_grid(Grid.of(image, path), like)
    return check_labels(read_voxels(image, path), str(path))


def save_mask(path: str | os.PathLike, mask: np.ndarray, like: Volume) -> None:
    """Write a mask or label map as uint8 NIfTI on the grid and affine of `like`.

    The file is complete or absent, also after a crash.

    Args:
        path: Path of the file, ending in `.nii` or `.nii.gz`.
        mask: Bool, or integers from 0 to 255, shape of `like`.
        like: Volume with the grid of the mask.

    Raises:
        VolumeError: The suffix is another, or the values do not fit.
        GeometryError: The shape differs from that of `like`.
    """
    mask = np.asarray(mask)
    if mask.shape != like.shape:
        raise GeometryError(f"mask of shape {mask.shape} does not fit {like.source} of shape {like.shape}.")
    if mask.dtype.kind not in "bui" or (mask.size and (mask.min() < 0 or mask.max() > 255)):
        raise VolumeError(
            f"mask of {mask.dtype} from {mask.min()} to {mask.max()}; expected bool or integers from 0 to 255. "
            "Threshold logits first: logits > 0."
        )
    _write_nifti(path, mask.astype(np.uint8), like)


def save_volume(path: str | os.PathLike, volume: Volume) -> None:
    """Write intensities as float32 NIfTI; the unit goes into the header's `intent_name`."""
    _write_nifti(path, volume.data, volume)


def open_nifti(path: str | os.PathLike) -> nib.Nifti1Pair:
    """Open a NIfTI file and leave its voxels on disk, see `read_voxels`.

    Raises:
        VolumeError: The file is missing, has another suffix or an unreadable header, is not 3D, or has no voxels.
        GeometryError: The affine is singular.
    """
    path = Path(path)
    if not os.path.isfile(path):  # unlike Path.is_file, also False where permission is denied
        what = "is a folder (for DICOM use load_dicom)" if os.path.isdir(path) else "does not exist"
        raise VolumeError(f"{path} {what}; expected a NIfTI file.")
    _check_suffix(path)
    try:
        image = nib.load(path)
    except PermissionError as error:
        raise VolumeError(f"{path}: permission denied; change the permissions of the file.") from error
    except _UNREADABLE as error:
        raise VolumeError(f"{path}: not a readable NIfTI file, or cut short ({error}). Copy it again.") from error
    if not isinstance(image, nib.Nifti1Pair):
        raise VolumeError(f"{path}: a {type(image).__name__}; expected a plain NIfTI volume.")
    shape = image.shape
    # A damaged header may claim more than fits into memory. gzip compresses by at most a factor of 1032.
    claimed = math.prod(map(int, shape)) * image.get_data_dtype().itemsize
    possible = path.stat().st_size * (1100 if path.name.endswith(".gz") else 1)
    if claimed > possible:
        raise VolumeError(
            f"{path}: its header claims {shape}, {claimed / 1e6:.3g} MB, more than a file of {path.stat().st_size} "
            "bytes can hold: cut short, or the header is damaged. Copy it again."
        )
    _check_shape(shape, str(path))
    check_affine(image.affine, str(path))
    return image


def read_voxels(image: nib.Nifti1Pair, path: str | os.PathLike) -> np.ndarray:
    """Voxels of an open NIfTI file, scaled by its slope, as integers or floats.

    Raises:
        VolumeError: The file is truncated or damaged, or its voxels are complex numbers or colours.
    """
    try:
        data = np.asanyarray(image.dataobj)
    except _UNREADABLE as error:
        raise VolumeError(f"{path}: not a readable NIfTI file, or cut short ({error}). Copy it again.") from error
    _check_type(data.dtype, str(path))
    return data


def _check_suffix(path: Path) -> None:
    if not path.name.endswith((".nii", ".nii.gz")):
        raise VolumeError(f"{path}: expected a file ending in .nii or .nii.gz.")


def _write_nifti(path: str | os.PathLike, data: np.ndarray, like: Volume) -> None:
    path = Path(path)
    _check_suffix(path)
    # A header of the same kind keeps the file's sform, qform and their codes bit for bit.
    is_nifti2 = isinstance(like.header, nib.Nifti2Header) or max(data.shape) >= 2**15
    image_class = nib.Nifti2Image if is_nifti2 else nib.Nifti1Image
    image = image_class(data, like.affine, header=like.header)
    if like.header is None:
        image.header.set_xyzt_units("mm")
    image.header.set_data_dtype(data.dtype)
    image.header.set_slope_inter(1, 0)
    image.header["cal_min"] = image.header["cal_max"] = 0
    image.header["intent_name"] = like.unit.encode() if data.dtype.kind == "f" else b"mask"
    with replace_atomically(path) as temporary:
        image.to_filename(temporary)
