"""The README's picture: three organs of a sample from two clicks each; `python -m benchmarks.picture`."""

from pathlib import Path

import matplotlib.pyplot as plt

import seganypet as sap

SAMPLES = Path(__file__).parents[1] / "data_samples"
ORGANS = ("liver", "heart", "spleen")


def main() -> None:
    """Write data_samples/mip.png and print the DSC that it shows."""
    case = sap.Cohort.from_csv(SAMPLES / "cohort.csv")["phantom_internal_9000"]
    pet = case.load_pet()
    session = sap.Session(sap.load_model("tiny"), pet)
    for name, truth in case.targets(pet, ORGANS):
        session.select(name)
        mask = session.click(ijk=sap.first_click(truth, spacing=pet.spacing).ijk)
        first = sap.dice(mask, truth)
        correction = sap.next_click(truth, mask, spacing=pet.spacing)
        mask = session.click(ijk=correction.ijk, foreground=correction.foreground)
        print(f"{name}: DSC {first:.3f} after one click, {sap.dice(mask, truth):.3f} after two")
    figure, (bare, masked) = plt.subplots(1, 2, figsize=(7, 7), layout="constrained")
    sap.show_mip(pet, ax=bare)
    sap.show_mip(pet, session.labels, ax=masked)
    figure.savefig(SAMPLES / "mip.png", dpi=90)


if __name__ == "__main__":
    main()
