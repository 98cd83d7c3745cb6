"""Time to inspect 100 cases: `python -m benchmarks.cohort_speed`.

Internal phantoms as files, made once (three minutes) and kept. Headers alone, then every voxel; two workers.
"""

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np

import seganypet as sap


def main() -> None:
    """Command line: prints seconds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cohort_speed", description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--seed", type=int, default=9000, help="seed of the first phantom")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "seganypet_phantoms")
    options = parser.parse_args()
    cohort = sap.Cohort.from_phantoms(options.cases, options.seed, folder=options.folder)
    print(f"{os.cpu_count()} cores, {platform.machine()}, numpy {np.__version__}, {len(cohort)} cases, 2 workers")
    for what, voxels in (("headers", False), ("every voxel", True)):
        start = time.perf_counter()
        problems = cohort.validate(voxels=voxels, progress=False)
        print(f"{what:12s}{time.perf_counter() - start:6.1f} s, {len(problems)} problems")


if __name__ == "__main__":
    main()
