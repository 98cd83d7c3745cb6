"""Time for a table of twelve organs on a whole-body scan: `python -m benchmarks.quantify_speed`.

The scan is a phantom of 256 x 256 x 326 voxels, 2.04 x 2.04 x 3 mm, with organs of adult size. SUVpeak is the global
one, and SUL is in the table.
"""

import os
import platform
import statistics
import time

import numpy as np
import scipy

from seganypet.pet.quantification import quantify
from seganypet.pet.volume import Volume
from seganypet.phantom import make_phantom

SHAPE = (256, 256, 326)
SEED = 3
REPEATS = 5


def middle(data: np.ndarray) -> np.ndarray:
    """The middle of an array, cut or filled with 0 to `SHAPE`."""
    for axis, size in enumerate(SHAPE):
        more = max(size - data.shape[axis], 0)
        data = np.pad(data, [(more // 2, more - more // 2) if one == axis else (0, 0) for one in range(3)])
        start = (data.shape[axis] - size) // 2
        data = data.take(range(start, start + size), axis=axis)
    return data


def main() -> None:
    case = make_phantom(SEED, "external")
    organs = middle(case.organs)
    pet = Volume(middle(case.pet.data), case.pet.affine, "SUVbw", metadata=case.pet.metadata)
    volumes_ml = np.bincount(organs.ravel(), minlength=13)[1:] * pet.voxel_volume_ml
    print(", ".join(f"{name} {ml:.0f} mL" for name, ml in zip(case.organ_names.values(), volumes_ml, strict=True)))
    seconds = []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        quantify(pet, organs, names=case.organ_names, sul="janmahasatian")
        seconds.append(time.perf_counter() - started)
    print(
        f"{len(volumes_ml)} organs, {' x '.join(map(str, SHAPE))} voxels: {statistics.median(seconds[1:]):.3f} s, "
        f"median of {REPEATS}; the first one, with imports, {seconds[0]:.2f} s"
    )
    print(
        f"{os.cpu_count()} cores ({platform.machine()}), OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}; "
        f"Python {platform.python_version()}, NumPy {np.__version__}, SciPy {scipy.__version__}"
    )


if __name__ == "__main__":
    main()
