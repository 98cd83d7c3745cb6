"""Write the sample cases: `python -m seganypet.samples data_samples`."""

import argparse
import gzip
from pathlib import Path

import nibabel as nib
import numpy as np

from seganypet.cohort import Case, Cohort
from seganypet.files import replace_atomically
from seganypet.phantom import PhantomCase, make_phantom

# Seeds below 10,000: training starts there.
SAMPLES = (("internal", 9000, True), ("internal", 9005, False), ("external", 9001, True))
_SUV_STEP, _HU_STEP, _MARGIN = 0.02, 5, 3


def write_samples(folder: Path) -> None:
    """Write the sample cases and their cohort table into `folder`; the same bytes every time.

    To keep a repository small, each scan is cut to the body (3 voxels around it) and rounded: PET to
    0.02 SUV, CT to 5 HU and air to -1000 HU.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cases = []
    for domain, seed, lesions in SAMPLES:
        phantom = make_phantom(seed, domain, lesions)
        name = f"phantom_{domain}_{seed}"
        (folder / name).mkdir(exist_ok=True)
        box, affine = _body(phantom)
        pet = np.rint(phantom.pet.data[box] / _SUV_STEP).astype(np.uint16)
        ct = (np.rint(phantom.ct.data[box] / _HU_STEP) * _HU_STEP).astype(np.int16)
        ct[phantom.ct.data[box] < -940] = -1000  # noise of the air would fill half of the file
        _write(folder / name / "SUV.nii.gz", pet, affine, _SUV_STEP)
        _write(folder / name / "CTres.nii.gz", ct, affine)
        _write(folder / name / "organs.nii.gz", phantom.organs[box], affine)
        _write(folder / name / "SEG.nii.gz", phantom.lesions[box], affine)
        cases.append(
            Case(
                case=name, patient=name, pet=folder / name / "SUV.nii.gz", pet_unit="SUVbw",
                ct=folder / name / "CTres.nii.gz", organs=folder / name / "organs.nii.gz",
                organ_convention="seganypet", lesions=folder / name / "SEG.nii.gz", quality="HQ", split="test",
                tracer="FDG",
            )
        )  # fmt: skip
    Cohort(cases).to_csv(folder / "cohort.csv")


def _body(phantom: PhantomCase) -> tuple[tuple[slice, ...], np.ndarray]:
    """Box of the body with a margin, and the affine of the grid cut to it."""
    inside = phantom.anatomy > 0
    box = []
    for axis, size in enumerate(inside.shape):
        found = np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis})))
        box.append(slice(max(int(found[0]) - _MARGIN, 0), min(int(found[-1]) + _MARGIN + 1, size)))
    affine = phantom.pet.affine.copy()
    affine[:3, 3] = phantom.pet.to_mm([part.start for part in box])
    return tuple(box), affine


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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m seganypet.samples", description="Write the sample cases.")
    parser.add_argument("folder", type=Path, help="where the case folders and cohort.csv go, such as data_samples")
    options = parser.parse_args()
    if options.folder.is_file():
        parser.error(f"{options.folder} is a file; give a folder.")
    write_samples(options.folder)
