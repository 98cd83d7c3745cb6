"""Organs without a prompt: `python -m benchmarks.propose`, into propose.csv and propose.md.

Of each organ the DSC of the coarse look, of what the prompted network makes of it, and of the proposal, in which organs
do not overlap. Phantoms 300 to 311 calibrated the confidence; phantoms 600 to 607 and external 650 to 653, and the real
liver, are for reporting.
"""

import argparse
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

import seganypet as sap
from benchmarks.run import markdown
from benchmarks.sessions import real_liver
from seganypet.metrics import dice
from seganypet.model.checkpoints import load_locator
from seganypet.organs import ORGANS, SEEN_ORGANS
from seganypet.pet.volume import Volume
from seganypet.prompting.proposal import locate, prompted_mask
from seganypet.prompting.window_decoder import WindowDecoder, best_precision

HERE = Path(__file__).parent
SETS = {"choosing": ("internal", range(300, 312)), "internal": ("internal", range(600, 608)),
        "external": ("external", range(650, 654))}  # fmt: skip
VISIBLE_ML = 10.0  # of an organ must lie in the field of view for a DSC
Case = tuple[str, Volume, Mapping[str, np.ndarray]]


def phantoms(domain: str, seeds: range) -> Iterator[Case]:
    """Phantoms and their organs."""
    for seed in seeds:
        made = sap.make_phantom(seed, domain)
        yield f"{domain}_{seed}", made.pet, {name: made.organs == label for label, name in enumerate(ORGANS, 1)}


def measured(source: str, cases: Iterator[Case]) -> Iterator[dict]:
    """One row for each organ of each case."""
    locator, model = load_locator(), sap.load_model("tiny")
    for case, pet, truths in cases:
        decoder = WindowDecoder(model, pet, best_precision(next(model.parameters()).device))
        places = locate(pet, locator)
        started = time.process_time()
        proposal = sap.propose(pet)
        seconds = time.process_time() - started
        masks = proposal.masks
        for name, truth in truths.items():
            row = {"source": source, "case": case, "organ": name, "truth_ml": truth.sum() * pet.voxel_volume_ml}
            row |= {"found": name in masks, "seconds": seconds}
            if name in places:
                with decoder.computing():
                    coarse = places[name].on_grid(pet)
                    prompted = prompted_mask(decoder, coarse)
                row |= {"coarse": dice(coarse, truth), "prompted": dice(prompted, truth),
                        "expected": places[name].expected_dsc, "agreement": dice(prompted, coarse)}  # fmt: skip
            if name in masks:
                row |= {"proposed": dice(masks[name], truth), "confidence": proposal.confidence[name]}
            yield row


def report(table: pd.DataFrame) -> str:
    """The tables of propose.md."""
    visible = table[table["truth_ml"] >= VISIBLE_ML]
    scores = visible.fillna({"coarse": 0.0, "prompted": 0.0, "proposed": 0.0})
    columns = ["coarse", "prompted", "proposed", "confidence", "found"]
    parts = ["# Organs without a prompt", "", "Mean DSC of organs of which 10 mL and more are in view; 0 where one is "
             "not found. `confidence` is the DSC that the proposal promises."]  # fmt: skip
    for source, rows in scores.groupby("source", sort=False):
        means = rows.groupby("organ", sort=False)[columns].mean().round(2)
        seen = rows[rows["organ"].isin(SEEN_ORGANS)][columns].mean().round(2)
        all_rows = pd.concat([means, pd.DataFrame({"mean of the five seen organs": seen}).T])
        parts += ["", f"## {source}", "", markdown(all_rows.reset_index(names="organ").map(str))]
    absent = table[table["truth_ml"] < 1]
    parts += ["", f"Organs of which less than 1 mL is in view: {len(absent)}; proposed all the same: "
              f"{int(absent['found'].sum())}."]  # fmt: skip
    if (choosing := visible[visible["source"] == "choosing"]).size:
        parts += ["", calibration(choosing)]
    known = visible.dropna(subset=["proposed"])
    off = (known["confidence"] - known["proposed"]).abs().groupby(known["source"], sort=False).mean()
    parts += ["", "Mean difference of confidence and DSC: " + ", ".join(f"{k} {v:.3f}" for k, v in off.items()) + "."]
    spent = table.drop_duplicates("case")["seconds"]
    parts += [
        "",
        f"CPU seconds of `propose` a scan, one thread: median {spent.median():.1f}, largest {spent.max():.1f}.",
    ]
    return "\n".join(parts) + "\n"


def calibration(rows: pd.DataFrame) -> str:
    """What `REACHED` would be by these rows."""
    means = rows.dropna(subset=["prompted"]).groupby("organ", sort=False)[["prompted", "expected", "agreement"]].mean()
    factors = means["prompted"] / means[["expected", "agreement"]].mean(axis=1)
    return f"Calibration by the choosing phantoms: `REACHED` = {factors.round(2).to_dict()}."


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.propose", description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--real-data", type=Path, help="folder with acrin042")
    parser.add_argument("--output", type=Path, default=HERE / "propose.csv")
    options = parser.parse_args()
    rows = [row for name in options.sets for row in measured(name, phantoms(*SETS[name]))]
    if options.real_data is not None:
        folder = options.real_data / "acrin042"
        rows += measured("acrin042", ((case, pet, dict(targets)) for case, pet, targets in real_liver(folder)))
    table = pd.DataFrame(rows).round(4)
    table.to_csv(options.output, index=False)
    options.output.with_suffix(".md").write_text(report(table))
    print(report(table))
