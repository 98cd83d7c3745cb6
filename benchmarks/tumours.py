"""Scattered tumours and real ones: `python -m benchmarks.tumours`, or `make tumours`.

Disseminated disease on phantoms that no network was trained on, with every network clicked as suits it; the same
phantoms under thresholds that nobody clicks, with and without hot organs; and eight real sarcomas, where they are at
hand.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import pandas as pd
import torch

import seganypet as sap
from benchmarks.accuracy import Sarcoma, best_thresholds
from seganypet.cohort.case import InMemoryCase
from seganypet.cohort.labels import lesion_instances, lesion_name
from seganypet.metrics import bootstrap_interval, lesion_scores
from seganypet.pet.physiology import physiology_from_clicks
from seganypet.prompting.autopet_clicks import simulate_autopet_clicks
from seganypet.prompting.simulate import first_click, next_click
from seganypet.prompting.suggest import background_clicks
from seganypet.prompting.thresholds import RULES
from seganypet.study.interactive import interactive_scores, interactive_steps
from seganypet.study.lesion_clicks import PROMPTINGS_3D
from seganypet.study.methods import resolve_methods
from seganypet.study.tumour_scan import TumourScan

HERE = Path(__file__).parent
# Seeds 400 to 407 were looked at, and settings chosen by 400 and 403.
SEEDS = range(501, 509)
NETWORKS_3D, NETWORKS_2D = ("tiny-organs", "tiny-base"), ("tiny-2d-organs", "tiny-2d")
STS = [f"STS_{number:03d}" for number in range(6, 14)]


class Phantoms:
    """Disseminated disease, made one at a time."""

    def __iter__(self):
        for seed in SEEDS:
            yield InMemoryCase.from_phantom(sap.make_phantom(seed, lesions="disseminated"))


def scattered(output: Path) -> None:
    """Tables of all methods on the phantoms, their summary, and 2D less 3D."""
    table = sap.analyse_tumours(
        [sap.make_phantom(seed, lesions="disseminated") for seed in SEEDS], [*NETWORKS_3D, *NETWORKS_2D],
        clicks=5, clicks_at_once=20, rules=("41% SUVmax, from hottest", "SUV>=4, from hottest"), thresholds=(2.5, 4.0),
    )  # fmt: skip
    table.round(4).to_csv(output / "tumours.csv", index=False)
    summary = sap.summarise_tumours(table).drop(columns="healthy_fpv_ml")  # everybody has lesions
    summary.round(4).to_csv(output / "tumours_summary.csv", index=False)
    differences = pd.concat(
        sap.two_d_against_three_d(table, model_2d, model_3d, prompting).assign(
            model_2d=model_2d, model_3d=model_3d, prompting_3d=prompting
        )
        for model_2d, model_3d in zip(NETWORKS_2D, NETWORKS_3D, strict=True)
        for prompting in PROMPTINGS_3D
    )
    differences.round(4).to_csv(output / "tumours_2d_against_3d.csv", index=False)
    print(summary.round(3).to_string(index=False))
    print(differences.round(3).to_string(index=False))


def real(folder: Path, output: Path) -> None:
    """One, three and five clicks on eight real sarcomas, which nothing was chosen by."""
    cases = [Sarcoma(folder / "sts" / name) for name in STS]
    networks = {name: partial(opened, name) for name in ("tiny-base", "tiny-organs")}
    # Looking from afar first was chosen on STS_002 to _005.
    networks["tiny-base, 6 then 3 mm"] = partial(opened, "tiny-base", spacing_mm=6.0, min_spacing_mm=3.0)
    results = sap.evaluate(cases, networks, clicks=5, rules=RULES)
    results = pd.concat([results, best_thresholds(cases)], ignore_index=True)
    shown = results.loc[results["click"].isin([1, 3, 5]), ["case", "model", "click", "dsc"]]
    shown.round(4).to_csv(output / "tumours_sts.csv", index=False)
    print(shown.pivot_table(index="model", columns="click", values="dsc", sort=False).round(3).to_string())
    dsc = shown.set_index(["model", "click", "case"])["dsc"].sort_index()
    for network in networks:
        for click, threshold in ((1, "41% SUVmax, from hottest"), (5, "best threshold, hottest (oracle)")):
            other = dsc[threshold, 1]
            difference = (dsc[network, click] - other).reindex(other.index)
            interval = bootstrap_interval(difference, difference.index)
            print(f"{network}, {click} clicks, less {threshold}: {interval}")


def opened(name: str, volume: sap.Volume, **settings: float) -> sap.Session:
    """A session of an embedded network."""
    return sap.Session(sap.load_model(name), volume, **settings)


def physiology(output: Path) -> None:
    """False alarms of SUV 4 with hot organs drawn, or clicked: each by someone who knows them, or ten by chance."""
    rows = []
    for case in Phantoms():
        scan = TumourScan.of(case)
        pet, hot = scan.pet, sap.hot_mask(scan.pet, 4.0)
        known = [click.ijk for click in background_clicks(pet, scan.physiology)]
        by_chance = simulate_autopet_clicks(scan.truth, pet).background
        ways = {
            "as it is": (hot, 0),
            "organs cut out": (hot & ~scan.physiology, 0),
            "without_physiology, organs drawn": (sap.without_physiology(pet, hot, scan.physiology), 0),
        }
        for name, clicks in (("a click on each organ", known), ("autoPET's background clicks", by_chance)):
            clicked = physiology_from_clicks(pet, clicks)
            kept = sap.without_physiology(pet, hot, clicked) if clicked.any() else hot
            ways[f"without_physiology, {name}"] = (kept, len(clicks))
        for way, (mask, clicks) in ways.items():
            scores = lesion_scores(mask, scan.truth, pet.data, pet.voxel_volume_ml)
            rows.append({"case": scan.name, "SUV>=4": way, "clicks": clicks} | scores)
    table = pd.DataFrame(rows)
    table.round(4).to_csv(output / "tumours_physiology.csv", index=False)
    measures = ["clicks", "dsc", "fpv_ml", "fnv_fraction", "f1"]
    print(table.groupby("SUV>=4", sort=False)[measures].mean().round(3).to_string())


def interactive(output: Path) -> None:
    """autoPET's protocol, with an object for each lesion or one for all, and without its background clicks."""
    rows = []
    for case in Phantoms():
        scan = TumourScan.of(case)
        given = simulate_autopet_clicks(scan.truth, scan.pet)
        for method in resolve_methods(["tiny-base", "tiny-organs"], ["41% SUVmax, from hottest"]):
            for objects, background in (("per_lesion", True), ("per_lesion", False), ("single", True)):
                clicks = given if background else given._replace(background=())
                steps = interactive_steps(method.open(scan.pet), clicks, scan.truth, objects)
                row = {"case": scan.name, "model": method.name, "objects": objects, "background": background}
                rows.append(row | interactive_scores(steps)._asdict())
    table = pd.DataFrame(rows)
    table.round(4).to_csv(output / "tumours_interactive.csv", index=False)
    keys = ["model", "objects", "background"]
    print(table.drop(columns="case").groupby(keys, sort=False).mean().round(3).to_string())


def speed(model: str = "tiny-base", seed: int = 406, clicks: int = 3) -> None:
    """Seconds for all lesions of one scan, from opening the session to the last mask, on two threads."""
    torch.set_num_threads(2)
    phantom = sap.make_phantom(seed, lesions="disseminated")
    instances, network = lesion_instances(phantom.lesions), sap.load_model(model)
    count = int(instances.max())
    clicked = 0.0
    start = time.perf_counter()
    session = sap.Session(network, phantom.pet)
    for number in range(1, count + 1):
        session.select(lesion_name(number))
        lesion = instances == number
        mask = None
        for _ in range(clicks):
            spacing = phantom.pet.spacing
            click = first_click(lesion, spacing=spacing) if mask is None else next_click(lesion, mask, spacing=spacing)
            if click is None:
                break
            before = time.perf_counter()
            mask = session.click(ijk=click.ijk, foreground=click.foreground)
            clicked += time.perf_counter() - before
    whole = time.perf_counter() - start
    print(f"{model}: {count} lesions, {clicks} clicks each: {clicked:.1f} s in the session, {whole:.1f} s with user")


def main() -> None:
    """Command line: writes benchmarks/tumours*.csv and prints them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tumours", description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("scattered", "physiology", "interactive", "speed", "real"), help="one part")
    parser.add_argument("--real-data", type=Path, help="folder with sts/STS_006 .. STS_013")
    parser.add_argument("--output", type=Path, default=HERE, help="folder of the tables")
    options = parser.parse_args()
    parts = {part.__name__: partial(part, options.output) for part in (scattered, physiology, interactive)}
    parts["speed"] = speed
    if options.real_data:
        parts["real"] = partial(real, options.real_data, options.output)
    for name, part in parts.items():
        if options.only in (None, name):
            part()


if __name__ == "__main__":
    main()
