"""An open image file, whatever its format: its grid, what is doubtful about it, and its voxels still on disk."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import nibabel as nib
import numpy as np
from scipy import ndimage

from seganypet.errors import GeometryError, VolumeError
from seganypet.pet.grids import check_affine, check_shape, sizes_text

# 512 x 512 x 2048 voxels; total-body scanners give half of that.
MAX_VOXELS = 2**29
# zlib compresses by at most a factor of 1032.
MAX_COMPRESSION = 1100
# Voxels of scanners for people and animals; beyond, the unit of length is another.
PLAUSIBLE_MM = (0.01, 100.0)
LENGTHS_MM = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 0.001}
# How far a label may lie from an integer: what saving through float32 or a rounded slope adds is smaller, and among the
# fractions of an interpolated map some are larger.
LABEL_TOLERANCE = 0.01


@dataclass(frozen=True)
class ImageFile:
    """An open image file; usable wherever a `Grid` is expected.

    Attributes:
        source: Path, for messages.
        shape: Number of voxels along (i, j, k).
        affine: Map from voxel indices to RAS+ millimetres, shape (4, 4), float64.
        header: NIfTI header; None of other formats.
        forms: Every affine that the file states, in RAS+ mm, by name ("sform", "qform", "pixdim").
        contradiction: What in the header contradicts itself or cannot be, and how to choose; None if nothing does. A
            number that depends on voxel sizes is not to be given then.
        assumptions: What the header leaves open, and what was assumed, in sentences.
        step: Distance of two neighbouring stored values where integers were stored with a slope, else 0.
        read: Function that reads the voxels; its argument as that of `voxels`.
    """

    source: str
    shape: tuple[int, int, int]
    affine: np.ndarray
    read: Callable[[type | None], np.ndarray] = field(repr=False)
    header: nib.Nifti1Header | None = field(default=None, repr=False)
    forms: Mapping[str, np.ndarray] = field(default_factory=dict)
    contradiction: str | None = None
    assumptions: tuple[str, ...] = ()
    step: float = 0.0

    def __post_init__(self) -> None:
        check_affine(self.affine, self.source)

    def voxels(self, scaled_as: type | None = None) -> np.ndarray:
        """Read the voxels: integers or floats, scaled by the file's slope, shape `shape`.

        Args:
            scaled_as: Type of what has to be scaled; default: as precise as the stored type needs, often float64.

        Raises:
            VolumeError: The file is cut short or damaged, or changed since it was opened.
        """
        return self.read(scaled_as)

    def labels(self) -> np.ndarray:
        """Read the voxels as a label map, int16; VolumeError as `voxels`, or if they are not integers to 32767."""
        return check_labels(self.voxels(), self.source, self.step)

    def check_geometry(self) -> None:
        """Raise GeometryError if the header contradicts itself."""
        if self.contradiction is not None:
            raise GeometryError(self.contradiction)


def scaled(data: np.ndarray, scale: Callable[[np.ndarray], np.ndarray], dtype: type | None) -> np.ndarray:
    """Stored voxels, (I, J, K), after a function of each; with a `dtype` slice by slice, which takes no more memory."""
    if dtype is None:
        return scale(data)
    result: np.ndarray = np.empty(data.shape, dtype, order="F")
    for k in range(data.shape[2]):
        result[..., k] = scale(data[..., k])
    return result


def check_labels(data: np.ndarray, source: str, step: float = 0.0) -> np.ndarray:
    """The label map as int16.

    Args:
        data: Labels, integers or floats within `LABEL_TOLERANCE` of them.
        source: Origin, for messages.
        step: Distance of two neighbouring values that the file can hold. Integers up to 117 saved as bytes with a slope
            of 117 / 255 come back up to half of such a step aside, which is less than half of 1.

    Raises:
        VolumeError: There are fractions, or labels outside 0 to 32767.
    """
    data = np.asarray(data)
    nearest = np.rint(data) if data.dtype.kind == "f" else data
    tolerance = LABEL_TOLERANCE + (step / 2 if step <= 0.5 else 0.0)
    fractions = data.dtype.kind == "f" and not np.allclose(data, nearest, rtol=0, atol=tolerance)
    if fractions or (data.dtype != bool and (nearest.min() < 0 or nearest.max() > np.iinfo(np.int16).max)):
        what, cause = f"values from {data.min():g} to {data.max():g}", "Is it an image"
        if fractions:
            what = "NaN" if np.isnan(data).any() else f"{what}, with fractions"
            cause += ", or was it interpolated"
        raise VolumeError(f"{source}: {what}; expected a label map with integers from 0 to 32767. {cause}?")
    return nearest.astype(np.int16)


def check_type(dtype: np.dtype, source: str) -> None:
    """Raise VolumeError unless voxels of this type are integers or real numbers."""
    if dtype.kind not in "buif":
        raise VolumeError(f"{source}: voxels of type {dtype}; expected integers or real numbers.")


def check_size(shape: Sequence[int], itemsize: int, possible_bytes: float, source: str) -> tuple[int, int, int]:
    """The shape without trailing axes of 1, checked before anything is allocated.

    Args:
        shape: Shape that the header claims.
        itemsize: Bytes of a voxel.
        possible_bytes: How many bytes the file can hold, unpacked.
        source: Path, for messages.

    Raises:
        VolumeError: The voxels are more than the file or this package can hold, or are not a volume.
    """
    sizes = [int(size) for size in shape]
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    voxels = int(np.prod([float(size) for size in sizes])) if sizes else 0
    if voxels * itemsize > possible_bytes:
        raise VolumeError(
            f"{source}: its header claims {tuple(sizes)}, {voxels * itemsize / 1e6:.3g} MB, more than the file can "
            "hold: its header is damaged, or it was cut short. Copy it again."
        )
    checked = check_shape(sizes, source)
    if voxels > MAX_VOXELS:
        raise VolumeError(
            f"{source}: {' x '.join(map(str, sizes))} voxels; at most {MAX_VOXELS / 1e6:.0f} million are read. Crop or "
            "resample it."
        )
    return checked


def millimetres(
    sizes: np.ndarray, stated: str | None, length_unit: str | None, source: str
) -> tuple[float, str | None]:
    """What to multiply a file's lengths with, and what is implausible about the result.

    Args:
        sizes: Voxel sizes in the file's unit of length, shape (3,).
        stated: The unit of length that its header names; None if it names none, which nearly always means mm.
        length_unit: The unit that the user names instead, a key of `LENGTHS_MM`; it is not doubted.
        source: Path, for messages.

    Raises:
        GeometryError: `length_unit` is unknown.
    """
    if length_unit is not None:
        if length_unit not in LENGTHS_MM:
            raise GeometryError(f"length_unit={length_unit!r}; expected one of {', '.join(map(repr, LENGTHS_MM))}.")
        return LENGTHS_MM[length_unit], None
    said = f"says {stated!r}" if stated else "names no unit of length"
    if stated is not None and stated not in LENGTHS_MM:
        return 1.0, (
            f"{source}: its header {said} for lengths; expected one of {', '.join(LENGTHS_MM)}. Name the unit that it "
            "means: load_volume(path, unit, length_unit='mm')."
        )
    factor = LENGTHS_MM[stated or "mm"]
    if PLAUSIBLE_MM[0] <= sizes.min() * factor and sizes.max() * factor <= PLAUSIBLE_MM[1]:
        return factor, None
    others = [
        f"{name!r} ({sizes_text(sizes * mm)} mm)" for name, mm in LENGTHS_MM.items()
        if sizes.min() * mm >= 0.1 and sizes.max() * mm <= 30
    ]  # fmt: skip
    choices = f"plausible would be {' or '.join(others)}" if others else "no unit makes them plausible"
    return factor, (
        f"{source}: voxels of {sizes_text(sizes * factor)} mm (its header {said}), which no scanner has; {choices}. "
        "Name the unit of its lengths, load_volume(path, unit, length_unit=...), or correct its header."
    )


def fill_outside(data: np.ndarray, fill: float) -> tuple[np.ndarray, int]:
    """Replace NaN around a scan, as some programs mark what the scanner did not see; NaN inside stays.

    Args:
        data: Voxels, shape (I, J, K).
        fill: Value to replace them with.

    Returns:
        The voxels, and how many were replaced: those NaN that are connected with a face of the grid (by faces of
        voxels). None are where a NaN lies inside.
    """
    if data.dtype.kind != "f" or not np.isnan(data).any():
        return data, 0
    missing = np.isnan(data)
    regions, count = ndimage.label(missing)
    at_faces = set()
    for axis in range(3):
        for end in (0, -1):
            at_faces |= set(np.unique(regions.take(end, axis=axis)).tolist())
    if len(at_faces - {0}) < count or missing.all():
        return data, 0
    return np.where(missing, np.asarray(fill, data.dtype), data), int(missing.sum())
