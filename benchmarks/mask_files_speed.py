"""Seconds to write and read masks of a whole-body PET, in each kind of file.

    python -m benchmarks.mask_files_speed

Twelve organs of 256 x 256 x 326 voxels (4.07 x 4.07 x 3 mm): a torso of ellipsoids, two of which overlap.
"""

import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

import seganypet as sap

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from conftest import oblique
from make_dicom import write_series

SHAPE = (256, 256, 326)
FILES = ("masks.nii.gz", "masks.seg.nrrd", "SEG.dcm", "RTSTRUCT.dcm", "masks.stl")


def organs() -> dict[str, np.ndarray]:
    """Twelve ellipsoids from 0.1 to 2.5 litres, from the head to the thighs."""
    i, j, k = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    masks = {}
    for number in range(12):
        centre = np.array([100 + 30 * (number % 3), 118 + 8 * (number % 4), 30 + 24 * number])
        radius = np.array([9 + number % 5 * 4, 9 + number % 4 * 3, 12 + number % 6 * 3])
        reach = sum(((x - c) / r) ** 2 for x, c, r in zip((i, j, k), centre, radius, strict=True))
        masks[f"organ {number + 1}"] = reach < 1
    return masks


def main() -> None:
    """Print one line for each kind of file."""
    masks = organs()
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings(action="ignore"):
        folder = Path(name)
        affine = oblique((4.07, 4.07, 3.0))
        write_series(folder / "pet", np.zeros(SHAPE, np.int16), affine, change=_identify)
        like = sap.Volume(np.zeros(SHAPE), affine, "SUVbw", "pet")
        for file in FILES:
            started = time.perf_counter()
            written = sap.save_masks(folder / file, masks, like, reference=folder / "pet")
            saved = time.perf_counter() - started
            megabytes = sum(path.stat().st_size for path in written) / 1e6
            line = f"{file:16} {megabytes:6.1f} MB   written in {saved:5.2f} s"
            if not file.endswith(".stl"):
                started = time.perf_counter()
                sap.load_masks(folder / file, like)
                line += f"   read in {time.perf_counter() - started:5.2f} s"
            print(line)


def _identify(header: object, _k: int) -> None:
    header.StudyInstanceUID, header.FrameOfReferenceUID = "1.2.826.0.1.1", "1.2.826.0.1.2"


if __name__ == "__main__":
    main()
