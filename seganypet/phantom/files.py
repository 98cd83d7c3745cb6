"""Phantoms as files: PET, CT, organs and lesions of one case, laid out and named as AutoPET's."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np

from seganypet._files import make_folder, replace_atomically
from seganypet.phantom.scan import PhantomCase
from seganypet.regions import bounding_box

PET, CT, ORGAN_LABELS, LESIONS = "SUV.nii.gz", "CTres.nii.gz", "organs.nii.gz", "SEG.nii.gz"
_SUV_STEP, _HU_STEP, _MARGIN = 0.02, 10, 3


def write_phantom(phantom: PhantomCase, folder: Path) -> None:
    """Write `PET`, `CT`, `ORGAN_LABELS` and `LESIONS` into `folder`, which is made; the same bytes every time.

    To keep files small, the scan is cut to the body (3 voxels around it) and rounded: PET to 0.02 SUV, CT to 10 HU
    and air to -1000 HU.
    """
    make_folder(folder)
    box, affine = _body(phantom)
    pet = np.rint(phantom.pet.data[box] / _SUV_STEP).astype(np.uint16)
    ct = (np.rint(phantom.ct.data[box] / _HU_STEP) * _HU_STEP).astype(np.int16)
    ct[phantom.ct.data[box] < -940] = -1000  # noise of the air would fill half of the file
    _write(folder / CT, ct, affine)
    _write(folder / ORGAN_LABELS, phantom.organs[box], affine)
    _write(folder / LESIONS, phantom.lesions[box], affine)
    _write(folder / PET, pet, affine, _SUV_STEP)  # last: where it is, all are


def _body(phantom: PhantomCase) -> tuple[tuple[slice, ...], np.ndarray]:
    """Box of the body with a margin, and the affine of the grid cut to it."""
    body = bounding_box(phantom.anatomy > 0) or ()
    box = tuple(slice(max(part.start - _MARGIN, 0), part.stop + _MARGIN) for part in body)
    affine = phantom.pet.affine.copy()
    affine[:3, 3] = phantom.pet.to_mm([part.start for part in box])
    return box, affine


def _write(path: Path, data: np.ndarray, affine: np.ndarray, slope: float = 1) -> None:
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    raw = bytearray(image.to_bytes())
    # nibabel keeps the slope to itself while it writes, so set it in the finished header.
    header = nib.Nifti1Header(bytes(raw[: nib.Nifti1Header.sizeof_hdr]))
    header["scl_slope"], header["scl_inter"] = slope, 0
    raw[: header.sizeof_hdr] = header.binaryblock
    with replace_atomically(path) as temporary:
        temporary.write_bytes(gzip.compress(bytes(raw), 9, mtime=0))
