"""What each study costs on a scan of AutoPET's size: `python -m benchmarks.study_cost`.

A phantom on a grid of 400 x 400 x 326 voxels, with its organs and lesions. Each study runs in a process of its own, on
one thread; core-seconds are of user and system together, memory is the peak of the resident set. The last column is for
all of AutoPET, if each study costs what this one does; a second process halves the hours and doubles the memory. Linux
only: it reads /proc.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy import ndimage

import seganypet as sap
from seganypet.pet.volume import Volume, save_mask, save_volume

AUTOPET = 1014  # studies
SHAPE, SPACING = (400, 400, 326), (2.04, 2.04, 3.0)
STUDIES = {
    "evaluate, 12 organs, 5 clicks, tiny and five rules": "evaluate {cohort} --models tiny --clicks 5 --threads 1 "
    "--targets liver kidney_left kidney_right heart spleen aorta prostate lung_lower_lobe_left lung_lower_lobe_right "
    "lung_upper_lobe_left lung_upper_lobe_right lung_middle_lobe_right",
    "the same, tiny alone": "evaluate {cohort} --models tiny --clicks 5 --threads 1 --no-rules --targets liver "
    "kidney_left kidney_right heart spleen aorta prostate lung_lower_lobe_left lung_lower_lobe_right "
    "lung_upper_lobe_left lung_upper_lobe_right lung_middle_lobe_right",
    "lesions, 5 clicks, tiny-organs": "lesions {cohort} --models tiny-organs --clicks 5 --threads 1",
    "interactive V, tiny-organs": "interactive {cohort} --models tiny-organs --edition V --threads 1",
    "quantify": "quantify {cohort} --threads 1",
}
# Memory is VmHWM and not getrusage's, which a new process inherits from its parent.
PROGRAM = (
    "import json, re, resource, sys\n"
    "from seganypet.cli import main\n"
    "code = main(sys.argv[1:])\n"
    "used = resource.getrusage(resource.RUSAGE_SELF)\n"
    "peak = int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1024\n"
    "print('cost', json.dumps([code, used.ru_utime + used.ru_stime, peak]))\n"
)


def write_case(folder: Path, seed: int) -> Path:
    """A phantom on the grid of AutoPET, as a cohort of one case; returns its table."""
    made = sap.make_phantom(seed, lesions="lymphoma")  # True would leave one in four without any
    factors = np.array(SHAPE) / made.pet.shape
    affine = np.diag([*SPACING, 1.0])
    pet = Volume(ndimage.zoom(made.pet.data, factors, order=1).astype(np.float32), affine, "SUVbw", source="benchmark")
    save_volume(folder / "SUV.nii.gz", pet)
    for name, labels in (("organs", made.organs), ("lesions", made.lesions)):
        save_mask(folder / f"{name}.nii.gz", ndimage.zoom(labels.astype(np.uint8), factors, order=0), like=pet)
    case = sap.Case("benchmark", "benchmark", folder / "SUV.nii.gz", "SUVbw", organs=folder / "organs.nii.gz",
                    organ_convention="seganypet", lesions=folder / "lesions.nii.gz")  # fmt: skip
    sap.Cohort([case]).to_csv(folder / "cohort.csv")
    return folder / "cohort.csv"


def cost(command: str, folder: Path) -> tuple[float, float, float]:
    """Core-seconds, seconds, and peak memory in MB of a subcommand."""
    words = [*command.split(), "--output", str(folder / f"{command.split()[0]}-{len(command)}.csv")]
    environment, started = os.environ | {"SEGANYPET_DEVICE": "cpu"}, time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=True, env=environment
    )
    code, seconds, megabytes = json.loads(done.stdout.rsplit("cost ", 1)[1])
    if code:
        raise RuntimeError(done.stderr)
    return seconds, time.perf_counter() - started, megabytes


def cpu_name() -> str:
    """Name of the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    """Command line: prints a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study_cost", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=103, help="of the phantom (%(default)s)")
    parser.add_argument("--only", help="studies whose name holds this text")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        cohort = write_case(Path(name), options.seed)
        print(f"{cpu_name()}, {os.cpu_count()} cores, {platform.python_version()}\n")
        print(f"| study | core-seconds | seconds | peak memory, MB | core-hours for {AUTOPET} |")
        print("| --- | --- | --- | --- | --- |")
        for study, command in STUDIES.items():
            if not options.only or options.only in study:
                core_s, seconds, megabytes = cost(command.format(cohort=cohort), Path(name))
                hours = core_s * AUTOPET / 3600
                print(f"| {study} | {core_s:.0f} | {seconds:.0f} | {megabytes:.0f} | {hours:.1f} |", flush=True)


if __name__ == "__main__":
    main()
