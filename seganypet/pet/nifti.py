"""NIfTI files: their geometry from all fields of the header, their voxels checked to the last byte."""

import gzip
import io
import logging
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np

from seganypet._files import as_path, reading, replace_atomically
from seganypet.errors import GeometryError, VolumeError
from seganypet.pet.grids import check_affine, sizes_text
from seganypet.pet.image_file import (
    LENGTHS_MM,
    MAX_COMPRESSION,
    ImageFile,
    check_size,
    check_type,
    millimetres,
    scaled,
)

GEOMETRIES = ("sform", "qform", "pixdim")
MAX_HEADER_BYTES = 2**26  # extensions are read whole
# By how much voxel sizes may differ: a size rounded to two decimals is closer, scalings of a template are not.
SIZE_TOLERANCE = 0.005
_SPATIAL_UNITS = {1: "m", 2: "mm", 3: "um"}  # xyzt_units & 7
_PIECE = 2**24
_SILENT = logging.getLogger(__name__)  # of nibabel's corrections, which are judged here by the uncorrected header
_SILENT.disabled = True

# Raised by nibabel and gzip on damaged files.
_UNREADABLE = (
    nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError, nib.wrapstruct.WrapStructError, OSError,
    EOFError, ValueError, TypeError, KeyError, OverflowError, MemoryError, zlib.error,
)  # fmt: skip


def open_nifti(path: Path, geometry: str | None = None, length_unit: str | None = None) -> ImageFile:
    """Open a NIfTI file, packed or not whatever its name ends in; arguments and errors as `volume.open_image`."""
    source = str(path)
    with reading(path, VolumeError), path.open("rb"):
        pass  # what the system refuses is no damage
    try:
        header, raw = _read_header(path)
        item = header.get_data_dtype()
        claimed, begins = header.get_data_shape(), int(header["vox_offset"])
        scaling = _scaling(header, source)
    except VolumeError:
        raise
    except _UNREADABLE as error:
        raise _unreadable(source, error) from error
    # As in nibabel, a header says nothing of how its file stored the voxels: others may be written with it.
    header.set_data_offset(0)
    header.set_slope_inter(None, None)
    check_type(item, source)
    shape = check_size(claimed, item.itemsize, _largest(path) - begins, source)
    sizes = np.abs(np.array(raw["pixdim"][1:4], float))
    forms, assumptions = _forms(header, raw, sizes, source)
    affine = _chosen(forms, geometry, source)
    stated = _SPATIAL_UNITS.get(int(raw["xyzt_units"]) & 7)
    factor, contradiction = millimetres(nib.affines.voxel_sizes(affine), stated, length_unit, source)
    forms = {name: _scaled(form, factor) for name, form in forms.items()}
    if geometry is None and contradiction is None:
        contradiction = _contradiction(forms, sizes * factor, source)
    read = partial(_read_voxels, path, shape, item, begins, scaling)
    return ImageFile(
        source, shape, _scaled(affine, factor), read, header, forms,
        contradiction, assumptions, abs(scaling[0]) if item.kind in "iu" and scaling[0] != 1 else 0.0,
    )  # fmt: skip


def write_nifti(
    path: str | os.PathLike, data: np.ndarray, affine: np.ndarray, header: nib.Nifti1Header | None, intent: str
) -> None:
    """Write a NIfTI file; it is complete or absent.

    Args:
        path: Path of the file, ending in `.nii` or `.nii.gz`.
        data: Voxels, shape (I, J, K).
        affine: Map from voxel indices to RAS+ millimetres.
        header: Header of the file that the grid is from: sform, qform, their codes and units come back bit for bit
            where they say the same as `affine`.
        intent: For the header's `intent_name`.

    Raises:
        VolumeError: The suffix is another.
    """
    path = as_path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise VolumeError(f"{path}: expected a file ending in .nii or .nii.gz.")
    header = None if header is None else header.copy()
    if header is not None:
        factor = LENGTHS_MM[_SPATIAL_UNITS.get(int(header["xyzt_units"]) & 7, "mm")]
        if np.allclose(_scaled(header.get_best_affine(), factor), affine):
            affine = header.get_best_affine()
        elif factor != 1:
            header["xyzt_units"] = (int(header["xyzt_units"]) & ~7) | 2  # nibabel writes `affine` into both forms
    is_nifti2 = isinstance(header, nib.Nifti2Header) or max(data.shape) >= 2**15
    image = (nib.Nifti2Image if is_nifti2 else nib.Nifti1Image)(data, affine, header=header)
    if header is None:
        image.header.set_xyzt_units("mm")
    image.header.set_data_dtype(data.dtype)
    image.header.set_slope_inter(1, 0)
    image.header["cal_min"] = image.header["cal_max"] = 0
    image.header["intent_name"] = intent.encode()
    with replace_atomically(path) as temporary:
        image.to_filename(temporary)


def _read_header(path: Path) -> tuple[nib.Nifti1Header, nib.Nifti1Header]:
    """The header with its extensions, and the same before nibabel corrects it (a voxel size of 0 becomes 1)."""
    with _unpacked(path) as stream:
        block = stream.read(nib.Nifti2Header.sizeof_hdr)
        kind = nib.Nifti2Header if nib.Nifti2Header.may_contain_header(block) else nib.Nifti1Header
        if not kind.may_contain_header(block):
            raise _unreadable(str(path), "it does not begin with such a header")
        raw = kind(block[: kind.sizeof_hdr], check=False)
        begins = float(raw["vox_offset"])
        if raw["magic"].item() == raw.pair_magic or raw["magic"].item()[:2] != b"n+":
            raise VolumeError(
                f"{path}: the header of a pair .hdr and .img, without voxels; save it as one file: "
                "nibabel.save(nibabel.load('scan.hdr'), 'scan.nii.gz')."
            )
        if not kind.single_vox_offset <= begins <= MAX_HEADER_BYTES:
            raise VolumeError(
                f"{path}: its header says that voxels begin at byte {begins:g} (vox_offset); expected "
                f"{kind.single_vox_offset} to {MAX_HEADER_BYTES}. The header is damaged, or its extensions are too "
                "large; write the file again with the program that made it."
            )
        block += stream.read(max(int(begins) - len(block), 0))
    block = block[: int(begins)]
    _check_layout(raw, block, str(path))
    header = kind.from_fileobj(io.BytesIO(block), check=False)
    header.check_fix(logger=_SILENT)
    return header, raw


def _check_layout(raw: nib.Nifti1Header, block: bytes, source: str) -> None:
    """Raise VolumeError if what a header says of the bytes after it contradicts itself.

    Args:
        raw: Header, uncorrected.
        block: The file's bytes before the voxels.
        source: Path, for messages.
    """
    size, begins, dtype = raw.sizeof_hdr, int(raw["vox_offset"]), raw.get_data_dtype()
    if dtype.kind in "iuf" and int(raw["bitpix"]) not in (0, 8 * dtype.itemsize):
        raise VolumeError(
            f"{source}: its header says that a voxel is of type {dtype} (datatype), of "
            f"{int(raw['bitpix'])} bits (bitpix); these contradict each other, so it is damaged. Copy the file again."
        )
    order: Literal["big", "little"] = "big" if raw.endianness == ">" else "little"
    at = size + 4
    if block[size : size + 1] not in (b"", b"\0"):  # extensions follow, each with its length in front
        while any(block[at : at + 8]) and (length := int.from_bytes(block[at : at + 4], order, signed=True)) >= 8:
            at += length
        if size + 4 < at <= begins and not any(block[at : at + 8]):
            return
        raise VolumeError(
            f"{source}: its header has extensions that do not end where its voxels begin, at byte {begins} "
            "(vox_offset). The header is damaged; copy the file again."
        )


def _scaling(header: nib.Nifti1Header, source: str) -> tuple[float, float]:
    """Slope and intercept; a slope of 0 or NaN stands for none, as the standard and nibabel's own files have it."""
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or np.isnan(slope):
        return 1.0, 0.0
    if not np.isfinite([slope, inter]).all():
        raise VolumeError(
            f"{source}: its voxels are to be scaled by {slope:g} (scl_slope) and shifted by {inter:g} (scl_inter); "
            "expected finite numbers. Correct the header; without an offset scl_inter is 0."
        )
    return slope, inter


def _forms(
    header: nib.Nifti1Header, raw: nib.Nifti1Header, sizes: np.ndarray, source: str
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Every affine of the header, in its unit of length, the one that counts first; and what had to be assumed."""
    has_sizes = np.isfinite(sizes).all() and (sizes > 0).all()
    forms: dict[str, np.ndarray] = {}
    assumptions = [
        f"its {code} is {int(raw[code])}, which does not exist, so that form was not used."
        for code in ("sform_code", "qform_code") if raw[code] != header[code]
    ]  # fmt: skip
    qfac = float(raw["pixdim"][0])
    if header["sform_code"] != 0:
        forms["sform"] = header.get_sform()
    if header["qform_code"] != 0 and has_sizes and (qfac in (-1, 0, 1) or not forms):
        if qfac not in (-1, 0, 1):
            assumptions.append(f"its qfac (pixdim[0]) is {qfac:g}; 1 was assumed, so left and right are a guess.")
        try:
            forms["qform"] = header.get_qform()
        except (ValueError, nib.spatialimages.HeaderDataError) as error:
            if not forms:
                raise GeometryError(
                    f"{source}: its qform is no rotation ({error}). Repair it, or write a sform."
                ) from error
    if not forms:
        if not has_sizes:
            raise GeometryError(
                f"{source}: its header has no voxel size (pixdim {sizes.tolist()}) and no sform; write the file again "
                "with the program that made it."
            )
        forms["pixdim"] = header.get_base_affine()
        assumptions.append(
            "the header has no affine (sform_code and qform_code are 0); its axes were assumed to run to the left, to "
            "the front and up, so left and right are a guess. Write the file again with its affine."
        )
    first = next(iter(forms.values()))
    with np.errstate(all="ignore"):  # of a damaged form, which `check_affine` refuses
        lengths = nib.affines.voxel_sizes(first)
        if has_sizes and lengths.all() and "pixdim" not in forms:
            forms["pixdim"] = first @ np.diag([*(sizes / lengths), 1.0])
        mirrored = {"sform", "qform"} <= forms.keys() and (
            np.linalg.det(forms["sform"]) * np.linalg.det(forms["qform"]) < 0
        )
    if mirrored:
        assumptions.append(
            "its sform and qform are mirror images, so that left and right contradict each other; the sform was used, "
            "geometry='qform' takes the other."
        )
    return forms, tuple(assumptions)


def _chosen(forms: dict[str, np.ndarray], geometry: str | None, source: str) -> np.ndarray:
    if geometry is None:
        geometry = next(iter(forms))
    if geometry not in GEOMETRIES:
        raise GeometryError(f"geometry={geometry!r}; expected one of {', '.join(map(repr, GEOMETRIES))}.")
    if geometry not in forms:
        raise GeometryError(f"{source}: geometry={geometry!r}, but its header states only {', '.join(forms)}.")
    try:
        return check_affine(forms[geometry], source)
    except GeometryError as error:
        others = [name for name in forms if name not in (geometry, "pixdim")]
        if others:
            raise GeometryError(f"{error} Or choose the other: geometry={others[0]!r}.") from None
        raise


def _contradiction(forms: dict[str, np.ndarray], sizes: np.ndarray, source: str) -> str | None:
    """Where the voxel sizes of sform and pixdim (and so of the qform) differ; a rotation or shift may be meant."""
    if "sform" not in forms or "pixdim" not in forms:
        return None
    lengths = nib.affines.voxel_sizes(forms["sform"])
    if (np.abs(lengths / sizes - 1) <= SIZE_TOLERANCE).all():
        return None
    other, choices = ("qform and pixdim", GEOMETRIES) if "qform" in forms else ("pixdim", ("sform", "pixdim"))
    return (
        f"{source}: its sform has voxels of {sizes_text(lengths)} mm, its {other} of {sizes_text(sizes)} mm, and "
        f"volumes depend on which is right. Choose: load_volume(path, unit, geometry={' | '.join(map(repr, choices))}) "
        "('pixdim': directions of the sform, sizes of pixdim); save_volume then writes a file without contradiction."
    )


def _read_voxels(
    path: Path,
    shape: tuple[int, int, int],
    item: np.dtype,
    begins: int,
    scaling: tuple[float, float],
    scaled_as: type | None = None,
) -> np.ndarray:
    """The voxels, scaled; the stream is read to its end, where gzip's checksum stands."""
    source = str(path)
    size = int(np.prod(shape)) * item.itemsize
    try:
        with _unpacked(path) as stream:
            _skip(stream, begins)
            content = np.empty(size, np.uint8)  # takes no memory before the file fills it
            filled = 0
            while filled < size and (count := stream.readinto(content[filled : filled + _PIECE].data)):
                filled += count
            # Zeros may follow, less than a layer; else an axis of the header is too short, or voxels begin later.
            layer = size // max(shape)
            rest = stream.read(layer) if filled == size else b""
    except _UNREADABLE as error:
        raise _unreadable(source, error) from error
    if filled < size:
        raise _unreadable(source, f"{size - filled} of {size} bytes are missing")
    if len(rest) >= layer or any(rest):
        raise VolumeError(
            f"{source}: the file holds more than the voxels of shape {shape} that its header claims, so an axis of the "
            "header is too short, or they begin later. Write it again with the program that made it."
        )
    data = content.view(item).reshape(shape, order="F")
    if scaling == (1, 0):
        return data
    return scaled(data, lambda part: nib.volumeutils.apply_read_scaling(part, *scaling), scaled_as)


@contextmanager
def _unpacked(path: Path) -> Iterator[io.BufferedIOBase]:
    """The file's bytes, without gzip if its first bytes say so: names lie."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if not packed:
            yield file
            return
        with gzip.GzipFile(fileobj=file) as stream:
            yield stream


def _skip(stream: io.BufferedIOBase, size: int) -> None:
    while size and (piece := stream.read(min(size, _PIECE))):
        size -= len(piece)


def _largest(path: Path) -> int:
    """How many bytes the file can hold, unpacked."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return path.stat().st_size * (MAX_COMPRESSION if packed else 1)


def _scaled(affine: np.ndarray, factor: float) -> np.ndarray:
    return affine if factor == 1 else np.diag([factor, factor, factor, 1.0]) @ affine


def _unreadable(source: str, why: object) -> VolumeError:
    return VolumeError(f"{source}: not a readable NIfTI file, or cut short ({why}). Copy it again.")
