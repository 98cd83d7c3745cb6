"""NIfTI files as other programs write them: field by field."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np


def write_nifti(path: Path, data: np.ndarray, affine: np.ndarray, kind=nib.Nifti1Image, **fields) -> Path:
    """A file whose sform and qform are `affine`, in mm, and then other fields of the header as given, unchecked."""
    image = kind(data, affine, dtype=data.dtype)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    nib.save(image, path)
    return set_fields(path, **fields)


def set_fields(path: Path, **fields) -> Path:
    """Overwrite fields of the header, and nothing else; nibabel would correct them."""
    content = path.read_bytes()
    packed = content[:2] == b"\x1f\x8b"
    raw = bytearray(gzip.decompress(content) if packed else content)
    kind = nib.Nifti2Header if nib.Nifti2Header.may_contain_header(bytes(raw[:540])) else nib.Nifti1Header
    header = kind(bytes(raw[: kind.sizeof_hdr]), check=False)
    for name, value in fields.items():
        header[name] = value
    raw[: kind.sizeof_hdr] = header.binaryblock
    path.write_bytes(gzip.compress(bytes(raw)) if packed else raw)
    return path


def sform_fields(affine: np.ndarray) -> dict[str, np.ndarray]:
    """The three fields that hold a sform."""
    return {f"srow_{axis}": affine[row] for row, axis in enumerate("xyz")}
