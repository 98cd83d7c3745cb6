"""Write the sample phantoms and their cohort table: `python tools/write_samples.py data_samples`."""

import argparse
from pathlib import Path

from seganypet.cohort.case import Case
from seganypet.cohort.cohort import Cohort
from seganypet.phantom import make_phantom
from seganypet.phantom.files import CT, LESIONS, ORGAN_LABELS, PET, write_phantom

# Domain, seed, lesions. Training uses seeds from 10,000.
SAMPLES = (("internal", 9000, True), ("internal", 9005, False), ("external", 9001, True))


def write_samples(folder: Path) -> None:
    """Write the sample cases and their cohort table into `folder`; the same bytes every time."""
    cases = []
    for domain, seed, lesions in SAMPLES:
        name = f"phantom_{domain}_{seed}"
        write_phantom(make_phantom(seed, domain, lesions), folder / name)
        cases.append(
            Case(
                name=name, patient=name, pet=folder / name / PET, pet_unit="SUVbw", ct=folder / name / CT,
                organs=folder / name / ORGAN_LABELS, organ_convention="seganypet", lesions=folder / name / LESIONS,
                quality="HQ", split="test", tracer="FDG",
            )
        )  # fmt: skip
    Cohort(cases).to_csv(folder / "cohort.csv")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of the case folders and of cohort.csv, such as data_samples")
    options = parser.parse_args()
    if options.folder.is_file():
        parser.error(f"{options.folder} is a file; give a folder.")
    write_samples(options.folder)
