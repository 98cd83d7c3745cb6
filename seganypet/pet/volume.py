"""A 3D scan and its position in the patient: files in and out, voxels and millimetres.

Frames. A voxel has indices (i, j, k) in the order of the array, the order in which nibabel reads a file. `affine` maps
them to (x, y, z) in millimetres, RAS+: x grows towards the patient's right, y towards the front, z towards the head.
Nothing else is assumed: grids may be oblique, anisotropic or left-handed.
"""

import hashlib
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import nibabel as nib
import numpy as np

from seganypet._files import as_path
from seganypet.errors import ClickError, GeometryError, UnitError, VolumeError
from seganypet.pet.grids import (
    Grid,
    GridLike,
    check_affine,
    check_on_grid,
    check_shape,
    match_grids,
    nearest_labels,
    part_of_grid,
    turn_onto,
)
from seganypet.pet.image_file import ImageFile, check_type, fill_outside
from seganypet.pet.itk_files import SUFFIXES, open_itk
from seganypet.pet.nifti import open_nifti, write_nifti
from seganypet.pet.plausibility import warn_if_implausible
from seganypet.pet.sidecar import described_beside
from seganypet.regions import bounding_box

UNITS = ("SUVbw", "Bq/mL", "HU")
AIR_HU = -1024.0
_OTHER_FORMATS = {
    (".hdr", ".img"): " Save a pair of files, NIfTI or Analyze, as one NIfTI file; Analyze does not say where left is.",
    (".mgz", ".mgh"): " Convert a FreeSurfer volume: mri_convert scan.mgz scan.nii.gz.",
    (".dcm", ".ima"): " For DICOM use load_dicom on the folder.",
    (".bz2", ".zst", ".xz", ".zip", ".nrrd.gz"): " Unpack it first.",
    (".v", ".ecat"): " Convert an ECAT file to NIfTI.",
}

Point = tuple[float, float, float]

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
        check_shape(data.shape, self.source)
        check_type(data.dtype, self.source)
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


def open_image(
    path: str | os.PathLike, *, geometry: str | None = None, length_unit: str | None = None
) -> ImageFile:
    """Open an image file and leave its voxels on disk: NIfTI, NRRD or MetaImage, plain or packed.

    Args:
        path: Path of a `.nii`, `.nii.gz`, `.nrrd`, `.nhdr`, `.mha` or `.mhd` file; capitals do not matter.
        geometry: Field of a NIfTI header that gives the grid: "sform", "qform", or "pixdim" (directions and origin of
            the form that counts, voxel sizes of pixdim). Default: the sform if it is coded, else the qform; see
            `ImageFile.contradiction`.
        length_unit: Unit of the header's lengths: "mm", "cm", "m" or "um"; default: what the header says, else mm.

    Raises:
        VolumeError: The file is missing, has another suffix or an unreadable header, is not 3D, or claims more voxels
            than it or this package can hold. Trailing axes of 1 do not count.
        GeometryError: The affine is singular, or `geometry` or `length_unit` does not fit the file.
    """
    path = as_path(path)
    if not os.path.isfile(path):  # unlike Path.is_file, also False where permission is denied
        what = "is a folder (for DICOM use load_dicom)" if os.path.isdir(path) else "does not exist"
        raise VolumeError(f"{path} {what}; expected a NIfTI, NRRD or MetaImage file.")
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        return open_nifti(path, geometry, length_unit)
    if name.endswith(SUFFIXES):
        if geometry is not None:
            raise GeometryError(f"{path}: geometry={geometry!r}, but only NIfTI files state their grid twice.")
        return open_itk(path, length_unit)
    advice = next((advice for endings, advice in _OTHER_FORMATS.items() if name.endswith(endings)), "")
    raise VolumeError(f"{path}: expected a file ending in .nii, .nii.gz, {', '.join(SUFFIXES)}.{advice}")


def load_volume(
    path: str | os.PathLike, unit: str | None = None, *, geometry: str | None = None, length_unit: str | None = None
) -> Volume:
    """Read a 3D scan from a NIfTI, NRRD or MetaImage file.

    NaN around the scan, with which some programs mark what the scanner did not see, become 0 (or air, in HU).

    Args:
        path: Path of the file, see `open_image`; of any integer or float type, with or without slope.
        unit: Unit of the intensities: "SUVbw", "Bq/mL" or "HU". Required, because it is never guessed.
        geometry, length_unit: Which field of a contradictory header holds, see `open_image`; noted in
            `metadata["given_by_hand"]`.

    Returns:
        The volume on the file's own grid and affine, in mm. `metadata` holds what the JSON file beside a PET says of
        weight, height, sex, dose, half-life and decay, with which `to_suvbw` converts Bq/mL.

    Raises:
        VolumeError: As `open_image`; or the file is truncated or damaged, or holds NaN or infinity.
        GeometryError: As `open_image`; or the header contradicts itself: sform and pixdim have different voxel sizes,
            or these are impossible in the header's unit of length.
        UnitError: The unit is missing or unknown, or the JSON file beside the PET says another, such as kBq/mL.

    Warns:
        DoubtfulValuesWarning: The values cannot be what the unit says, or the JSON file says another unit.
        UserWarning: The header leaves something open that was assumed, names another unit, or NaN were replaced.
    """
    check_unit(unit, str(path))
    image = open_image(path, geometry=geometry, length_unit=length_unit)
    image.check_geometry()
    _warn(image, image.assumptions)
    stored_unit = "" if image.header is None else image.header["intent_name"].item().decode("latin-1")
    if stored_unit in UNITS and stored_unit != unit:
        _warn(image, [f"its header says that it is in {stored_unit}, but it was opened as unit={unit!r}."])
    fill = AIR_HU if unit == "HU" else 0.0
    with np.errstate(over="ignore"):  # beyond float32 is infinite, which `Volume` refuses
        data, replaced = fill_outside(image.voxels(np.float32).astype(np.float32, copy=False), fill)
    if replaced:
        _warn(image, [f"{replaced} of {data.size} voxels, all around the scan, are NaN; they were read as {fill:g}."])
    given = {name: value for name, value in (("geometry", geometry), ("length_unit", length_unit)) if value is not None}
    metadata = described_beside(path, str(unit)) | ({"given_by_hand": given} if given else {})
    volume = Volume(data, image.affine, str(unit), source=str(path), metadata=metadata, header=image.header)
    warn_if_implausible(volume)
    return volume


def load_labels(path: str | os.PathLike, like: Volume, resample: bool = False) -> np.ndarray:
    """Read a label map on the grid of `like`.

    The map's axes may be in another order or run the other way, and its voxels may lie up to a tenth of a voxel aside,
    where another program rounded the grid. Labels are integers up to `image_file.LABEL_TOLERANCE`, which is more than
    what saving them as floats or with a slope adds.

    Args:
        path: Path of the file, see `open_image`.
        like: Volume whose grid the labels must have.
        resample: Whether labels on another grid, such as the CT's, are resampled: each voxel gets the label at its
            centre. Organs from TotalSegmentator are better read by `read_totalsegmentator`, which looks at the whole
            voxel.

    Returns:
        Integer labels, shape of `like`, int16.

    Raises:
        VolumeError: As `load_volume`; or the values are not integers from 0 to 32767.
        GeometryError: The grid is another than that of `like`; with `resample`, no label lies within `like`, or the
            map's header contradicts itself.

    Warns:
        UserWarning: Voxels lie more than a hundredth of a voxel aside, or labels were resampled.
    """
    image = open_image(path)
    grid: GridLike = image
    if image.contradiction is not None:  # a form that is the grid of `like` shows which of them holds
        forms = [Grid(image.shape, form, str(path)) for form in image.forms.values()]
        grid = next((form for form in forms if match_grids(form, like) is not None), image)
    if resample and match_grids(grid, like) is None:
        image.check_geometry()
        _warn(image, image.assumptions)
        return _resampled(image.labels(), image, like)
    match = check_on_grid(grid, like, turned=True)
    if match.shift_voxels > 0.01:
        _warn(image, [
            f"its voxels lie up to {match.shift_mm:.2g} mm ({match.shift_voxels:.1%} of a voxel) off those of "
            f"{like.source}; they were taken for the same."
        ])  # fmt: skip
    return np.ascontiguousarray(turn_onto(image.labels(), match))


def _resampled(labels: np.ndarray, image: ImageFile, like: Volume) -> np.ndarray:
    """Labels at the voxel centres of `like`, with a warning that says what became of them."""
    box = bounding_box(labels != 0)
    if box is None:
        return np.zeros(like.shape, np.int16)
    labels = labels[box]
    found = nearest_labels(labels, part_of_grid(image, box), like)
    before, after = np.bincount(labels.ravel()), np.bincount(found.ravel())
    if not after[1:].any():
        raise GeometryError(
            f"{image.source}: no label lies at a voxel centre of {like.source}. Is it from the same patient and scan?"
        )
    here, there = np.flatnonzero(before[1:]) + 1, np.flatnonzero(after[1:]) + 1
    lost = sorted(set(here.tolist()) - set(there.tolist()))
    voxel_ml = abs(np.linalg.det(image.affine[:3, :3])) / 1000
    _warn(image, [
        f"labels of shape {image.shape} were resampled to the grid of {like.source}, shape {like.shape}, each voxel by "
        f"the label at its centre: {before[1:].sum() * voxel_ml:.4g} mL became "
        f"{after[1:].sum() * like.voxel_volume_ml:.4g} mL" + (f"; labels {lost} have no voxel left." if lost else ".")
    ])  # fmt: skip
    return found


def _warn(image: ImageFile, sentences: Iterable[str]) -> None:
    for sentence in sentences:
        warnings.warn(f"{image.source}: {sentence}", stacklevel=3)


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
    write_nifti(path, mask.astype(np.uint8), like.affine, like.header, "mask")


def save_volume(path: str | os.PathLike, volume: Volume) -> None:
    """Write intensities as float32 NIfTI; the unit goes into the header's `intent_name`."""
    write_nifti(path, volume.data, volume.affine, volume.header, volume.unit)
