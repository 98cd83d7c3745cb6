"""What training owes to its parts: `python -m benchmarks.ablation strategies`, or `networks`.

On two cores `strategies` takes some two hours without the arm `flip`, whose masks flood and take far longer to evaluate
(an estimate: hours for its three seeds); `networks` takes about 15 minutes.

`strategies` is the supplement's Table 4 with the embedded network. `tiny-base` is fine-tuned on the five seen organs of
internal phantoms, 8 with true labels and 200 whose labels lack slices at both ends, by several strategies and seeds.
Errors of many kinds cancel while a network learns, and no strategy could then differ from another; the arm `clean` says
what there is to win.

`networks` asks which of the three changes from the released network a small one needs to learn quickly. Each arm is
trained from random weights as `tiny-base` was, but shortly.

Every arm sees the same windows in the same order; arms differ in the lines of `arms` alone. Each run is evaluated on
phantoms that no run has seen, in the domain it was trained in and in the other one, by the protocol of
`seganypet.study.evaluation`. An interrupted run resumes: trained weights stay in `--work`, finished rows too.
"""

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from seganypet.errors import SegAnyPETError
from seganypet.metrics import dice
from seganypet.model.config import TINY
from seganypet.organs import ORGANS
from seganypet.training.config import TrainConfig, load_config
from seganypet.training.scans import ScanBank

HERE = Path(__file__).parent
CONFIGS = HERE.parent / "seganypet" / "configs"
INTERNAL_SEEDS = range(400, 408)  # not those of `accuracy`: what is compared here may be chosen from
EXTERNAL_SEEDS = range(400, 403)


@dataclass(frozen=True)
class Study:
    """Runs that are compared.

    Attributes:
        config: Config that all arms share, but for `changes` and their own; `data` and `model` hold fields to change.
        changes: To make runs short, or to begin from nothing.
        arms: Name -> what that arm changes.
        reference: The arm that others are compared with.
        untrained: A network that is evaluated as it is, beside them.
        seeds: Training seeds.
    """

    config: str
    changes: dict[str, Any]
    arms: dict[str, dict[str, Any]]
    reference: str
    untrained: str | None
    seeds: tuple[int, ...]


NO_LIKENESS = {"likeness": False, "mask_quality": False}
STUDIES = {
    "strategies": Study(
        config="tiny.yaml",
        changes={"epochs": 4, "steps_per_epoch": 100, "batch_size": 3, "lq_per_batch": 2, "targets_per_window": 1,
                 "prompts": 2, "warm_up": 30, "ema": 0.98, "learning_rate": 0.001, "strategy": "finetune",
                 "rehearsed_per_batch": 0,
                 "data": {"hq": 8, "lq": 200, "lq_dsc": 0.62, "lq_annotators": ("missed_slices",), "rehearsed": 0}},
        arms={  # weight of the loss on LQ labels: 1, but for cpcl, whose weight is lambda(t), at most 0.1
            "finetune": {},
            "consistency": {"strategy": "consistency"},
            "cpcl": {"strategy": "cpcl"},
            "cpcl, weight 1": {"strategy": "cpcl", "lq_weight": 1.0},
            "cpcl, weight 1, flip": {"strategy": "cpcl", "lq_weight": 1.0, "rectification": "flip"},
            "cpcl, weight 1, ignore": {"strategy": "cpcl", "lq_weight": 1.0, "rectification": "ignore"},
            "hq only": {"lq_weight": 0.0},
            "clean": {"data": {"clean": True}},
            "finetune + supervoxels": {"data": {"supervoxel_fraction": 0.3}},
        },
        reference="finetune",
        untrained="tiny-base",
        seeds=(0, 1, 2),
    ),
    "networks": Study(
        config="tiny-base.yaml",
        changes={"init": None, "epochs": 1, "steps_per_epoch": 120, "batch_size": 4, "learning_rate": 0.001,
                 "warm_up": 30, "ema": 0.95, "model": {"likeness": True, "mask_quality": True},
                 "data": {"hq": 24, "shapes": 120, "first_seed": 10_000, "renewed": 12, "lesion_fraction": 0.35}},
        arms={
            "whole": {},
            "no click map": {"model": {"click_map": False}},
            "no likeness": {"model": NO_LIKENESS},
            "no fine features": {"model": NO_LIKENESS | {"fine_features": False}},
            "no stem, no fine features": {"model": NO_LIKENESS | {"conv_stem": False, "fine_features": False}},
            "none of these": {
                "model": NO_LIKENESS | {"conv_stem": False, "fine_features": False, "click_map": False}
            },
        },
        reference="whole",
        untrained=None,
        seeds=(0,),
    ),
}  # fmt: skip


def run_config(study: Study, arm: str, seed: int) -> TrainConfig:
    """The config of one run."""
    base = load_config(CONFIGS / study.config)
    changes = study.changes | study.arms[arm]
    data = replace(base.data, **(study.changes.get("data", {}) | changes.pop("data", {})))
    shape = study.changes.get("model", {}) | changes.pop("model", {})
    model = replace(TINY, **shape) if changes.get("init", base.init) is None else None
    validation = replace(base.validation, phantoms=0)  # no arm may choose its epoch
    name = f"{arm.replace(',', '').replace(' ', '-')}-{seed}"
    return replace(base, name=name, seed=seed, data=data, model=model, validation=validation, **changes)


def run_one(study: Study, arm: str, seed: int, work: Path, table: Path, limit: int | None) -> None:
    """Train and evaluate one run; its rows land in `table`."""
    from benchmarks.accuracy import LazyPhantom
    from seganypet.model.checkpoints import load_model
    from seganypet.study.evaluation import evaluate
    from seganypet.training.loop import train

    if arm == study.untrained:
        model = load_model(study.untrained)
    else:
        model = train(run_config(study, arm, seed), work, processes=1, progress=False)
    cases = [LazyPhantom(number, "internal", work) for number in INTERNAL_SEEDS][:limit]
    cases += [LazyPhantom(number, "external", work) for number in EXTERNAL_SEEDS][:limit]
    results = evaluate(cases, model, 5, targets=ORGANS, rules=(), progress=False)
    results = results.assign(arm=arm, training_seed=seed, domain=results["case"].str.split("_").str[1])
    results.to_csv(table, index=False)


def label_dsc(bank: ScanBank) -> pd.Series:
    """Mean DSC of LQ labels to the truth, organ by organ, and of all."""
    rows = []
    for scan in map(bank.__getitem__, bank.lq):
        given, truth = scan["given"][0].numpy(), scan["truth"][0].numpy()
        rows += [(ORGANS[n - 1], dice(given == n, truth == n)) for n in np.unique(truth)[1:]]
    dsc = pd.DataFrame(rows, columns=["organ", "dsc"])
    return pd.concat([dsc.groupby("organ")["dsc"].mean(), pd.Series({"all": dsc["dsc"].mean()})])


def summarise(study: Study, results: pd.DataFrame, draws: int = 2000, organs: bool = False) -> pd.DataFrame:
    """Mean DSC of each arm on seen and on unseen organs, or on each organ, and its 95 % interval.

    Patients and training seeds are drawn anew together: an interval over patients alone would take one lucky run for a
    method. Beside it, the difference from the reference arm, by the same draws: the same patients, the same seeds.
    """
    kept = results[results["click"].isin((1, 3, 5)) & results["dsc"].notna()]
    kept = kept.assign(targets=kept["target"] if organs else kept["seen"].map({True: "seen", False: "unseen"}))
    rows = []
    for (domain, targets, click), cell in kept.groupby(["domain", "targets", "click"]):
        table = cell.pivot_table(index="patient", columns=["arm", "training_seed"], values="dsc")
        rng = np.random.default_rng(0)
        patients = rng.integers(len(table), size=(draws, len(table)))
        seeds = rng.integers(len(study.seeds), size=(draws, len(study.seeds)))
        means, drawn = {}, {}
        for arm in [name for name in (study.untrained, *study.arms) if name in table]:
            dsc = table[arm].to_numpy()  # (patients, seeds)
            means[arm] = dsc.mean()
            drawn[arm] = dsc[patients[:, :, None], seeds[:, None, :] % dsc.shape[1]].mean((1, 2))
        for arm, mean in means.items():
            low, high = np.quantile(drawn[arm], (0.025, 0.975))
            minus_low, minus_high = np.quantile(drawn[arm] - drawn[study.reference], (0.025, 0.975))
            rows.append({
                "domain": domain, "targets": targets, "click": click, "arm": arm, "patients": len(table),
                "seeds": table[arm].shape[1], "dsc": mean, "dsc_low": low, "dsc_high": high,
                f"minus_{study.reference}": mean - means[study.reference], "minus_low": minus_low,
                "minus_high": minus_high,
            })  # fmt: skip
    return pd.DataFrame(rows)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation", description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--work", type=Path, default=Path("runs/ablation"), help="folder of runs (%(default)s)")
    parser.add_argument("--parallel", type=int, default=2, help="runs at a time, one thread each (%(default)s)")
    parser.add_argument("--limit", type=int, help="evaluate on so many phantoms a domain only")
    parser.add_argument("--output", type=Path, default=HERE, help="folder of the tables")
    parser.add_argument("--one", nargs=3, metavar=("ARM", "SEED", "TABLE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    study, work = STUDIES[options.study], options.work
    work.mkdir(parents=True, exist_ok=True)
    if options.one:  # what this command starts itself, in processes of their own
        arm, seed, table = options.one
        run_one(study, arm, int(seed), work, Path(table), options.limit)
        return

    bank = ScanBank(run_config(study, next(iter(study.arms)), 0).data, work / "scans")  # the same for all arms
    print(f"{len(bank)} scans, {bank.fill(options.parallel)}")
    if bank.lq:
        label_dsc(bank).round(3).to_csv(options.output / "ablation_labels.csv", header=["dsc"], index_label="organ")

    def start(run: tuple[str, int]) -> Path:
        arm, seed = run
        name = arm if arm == study.untrained else run_config(study, arm, seed).name
        table = work / f"{options.study}-{name}.csv"
        if not table.exists():
            command = [sys.executable, "-m", "benchmarks.ablation", options.study, "--work", work]
            command += ["--one", arm, seed, table, *(["--limit", options.limit] if options.limit else [])]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True)
            if done.returncode:
                raise SegAnyPETError(f"run {name} failed:\n{done.stderr[-2000:]}")
        print(name, "done", flush=True)
        return table

    runs = [(study.untrained, 0)] if study.untrained else []
    runs += [(arm, seed) for seed in study.seeds for arm in study.arms]
    with ThreadPoolExecutor(options.parallel) as pool:
        results = pd.concat([pd.read_csv(table) for table in pool.map(start, runs)], ignore_index=True)
    columns = ["arm", "training_seed", "domain", "case", "patient", "target", "seen", "click", "dsc"]
    stem = "ablation" if options.study == "strategies" else options.study
    results[columns].round(4).to_csv(options.output / f"{stem}.csv", index=False)
    summary = summarise(study, results)
    summary.round(4).to_csv(options.output / f"{stem}_summary.csv", index=False)
    summarise(study, results, organs=True).round(4).to_csv(options.output / f"{stem}_organs.csv", index=False)
    shown = summary.pivot_table(index=["domain", "arm"], columns=["targets", "click"], values="dsc", sort=False)
    print(shown.round(3).to_string())


if __name__ == "__main__":
    main()
