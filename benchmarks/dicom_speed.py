"""Time to load a PET of 400 slices of 256 x 256: `python -m benchmarks.dicom_speed`.

Files are written to a temporary folder and read once before, so that the time is that of the package, not of the disk.
The same scan is loaded as classic slices, as one multi-frame file, and from a ZIP archive; `list_series` reads headers.
"""

import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from make_dicom import write_series, zip_folder
from make_multiframe import write_enhanced

from seganypet.pet.dicom import list_series, load_dicom

SHAPE = (256, 256, 400)
REPEATS = 5


def seconds(function: Callable, *args: object) -> tuple[float, float]:
    """Median wall-clock and processor time of a call, after one that is not counted, in s."""
    function(*args)
    walls, processor = [], []
    for _ in range(REPEATS):
        wall, used = time.perf_counter(), time.process_time()
        function(*args)
        walls.append(time.perf_counter() - wall)
        processor.append(time.process_time() - used)
    return statistics.median(walls), statistics.median(processor)


def main() -> None:
    generator = np.random.default_rng(1)
    stored = generator.integers(0, 9000, SHAPE)
    slopes = generator.uniform(0.5, 2.0, SHAPE[2])
    affine = np.diag([-2.04, 2.04, 2.0, 1.0])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_series(folder / "classic", stored, affine, slopes=slopes)
        write_enhanced(folder / "enhanced.dcm", stored[None], affine, slopes=slopes[None])
        zip_folder(folder / "classic", folder / "classic.zip")
        for name, function, source in (
            ("load_dicom, 400 files", load_dicom, folder / "classic"),
            ("load_dicom, one multi-frame file", load_dicom, folder / "enhanced.dcm"),
            ("load_dicom, ZIP archive", load_dicom, folder / "classic.zip"),
            ("list_series, 400 files", list_series, folder / "classic"),
        ):
            wall, used = seconds(function, source)
            print(f"{name}: {wall:.2f} s (processor {used:.2f} s), median of {REPEATS}")
    print(
        f"{os.cpu_count()} cores ({platform.machine()}), OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}; "
        f"Python {platform.python_version()}, NumPy {np.__version__}, pydicom {pydicom.__version__}"
    )


if __name__ == "__main__":
    main()
