"""The supplement's Table 4 with the embedded network: `python -m benchmarks.ablation`, about 75 minutes on two cores.

`tiny-base` is fine-tuned on the five seen organs of internal phantoms, 8 with true labels and 200 with labels of a
low-quality annotator, by several strategies and seeds. Every arm sees the same windows in the same order with the same
random numbers; arms differ in the lines of `ARMS` alone. Each run is evaluated on phantoms that no run has seen, in the
domain it was trained in and in the other one, by the protocol of `seganypet.evaluate`.

A killed run goes on where it stopped: trained weights stay in `--work`, and a finished run's rows in the table.
"""

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from seganypet.errors import SegAnyPETError

HERE = Path(__file__).parent
CONFIG = HERE.parent / "seganypet" / "configs" / "tiny.yaml"
SEEDS = (0, 1, 2)
INTERNAL_SEEDS = range(400, 408)  # not those of `accuracy`: what is compared here may be chosen from
EXTERNAL_SEEDS = range(400, 404)
SCALE = {"epochs": 4, "steps_per_epoch": 20, "batch_size": 4, "doubtful_per_batch": 3, "warm_up": 10, "ema": 0.95}

# Differences from finetune. Weight of the loss on doubtful labels: 1 unless said.
ARMS = {
    "finetune": {"strategy": "finetune"},
    "consistency": {"strategy": "consistency"},
    "cpcl": {"strategy": "cpcl", "doubtful_weight": None},  # as published: lambda(t), at most 0.1
    "cpcl, weight 1": {"strategy": "cpcl", "doubtful_weight": 1.0},
    "cpcl, weight 1, flip": {"strategy": "cpcl", "doubtful_weight": 1.0, "rectification": "flip"},
    "cpcl, weight 1, ignore": {"strategy": "cpcl", "doubtful_weight": 1.0, "rectification": "ignore"},
    "hq only": {"strategy": "finetune", "doubtful_weight": 0.0},
    "clean": {"strategy": "finetune", "data": {"clean": True}},
    "finetune + supervoxels": {"strategy": "finetune", "data": {"supervoxel_share": 0.3}},
}


def run_config(arm: str, seed: int):
    """The TrainConfig of one run."""
    from seganypet.training.config import TrainConfig

    changes = dict(ARMS[arm])
    base = TrainConfig.from_yaml(CONFIG)
    data = replace(base.data, **changes.pop("data", {}))
    validation = replace(base.validation, phantoms=0)  # no arm may choose its epoch
    name = arm.replace(",", "").replace(" ", "-")
    return replace(
        base, name=f"{name}-{seed}", seed=seed, data=data, validation=validation, **SCALE,
        **{"doubtful_weight": 1.0, **changes},
    )  # fmt: skip


def run_one(arm: str, seed: int, work: Path, limit: int | None) -> None:
    """Train and evaluate one run; its rows land in `work/<name>-results.csv`."""
    from benchmarks.accuracy import LazyPhantom
    from seganypet.evaluate import evaluate
    from seganypet.model.checkpoints import load_model
    from seganypet.phantom import ORGANS
    from seganypet.train import train

    if arm == "tiny-base":
        name, model = "tiny-base", load_model("tiny-base")
    else:
        config = run_config(arm, seed)
        name, model = config.name, train(config, work, processes=1, progress=False)
    cases = [LazyPhantom(number, "internal") for number in INTERNAL_SEEDS][:limit]
    cases += [LazyPhantom(number, "external") for number in EXTERNAL_SEEDS][:limit]
    results = evaluate(cases, model, 5, targets=ORGANS, baselines=(), progress=False)
    results = results.assign(arm=arm, training_seed=seed, domain=results["case"].str.split("_").str[1])
    results.to_csv(work / f"{name}-results.csv", index=False)


def summarise(results: pd.DataFrame) -> pd.DataFrame:
    """Mean DSC over patients, and its 95 % interval over patients and training seeds.

    Patients and seeds are drawn anew together: an interval over patients alone would take one lucky run for a method.
    Beside it, the difference from finetune, by the same draws: the same patients, the same seeds.
    """
    kept = results[results["click"].isin((1, 3, 5)) & results["dsc"].notna()].copy()
    kept["group"] = kept["seen"].map({True: "seen", False: "unseen"})
    rows = []
    for (domain, group, click), cell in kept.groupby(["domain", "group", "click"]):
        table = cell.pivot_table(index="patient", columns=["arm", "training_seed"], values="dsc")
        patients = len(table)
        rng = np.random.default_rng(0)
        seeds = len(SEEDS)
        draws = [(rng.integers(patients, size=patients), rng.integers(seeds, size=seeds)) for _ in range(2000)]

        def means(arm: str, table=table, draws=draws) -> tuple[float, np.ndarray]:
            values = table[arm].to_numpy()  # (patients, seeds)
            return values.mean(), np.array([values[p][:, s % values.shape[1]].mean() for p, s in draws])

        reference = means("finetune")
        for arm in ["tiny-base", *ARMS]:
            mean, drawn = means(arm)
            row = {"domain": domain, "targets": group, "click": click, "arm": arm, "patients": patients}
            row |= {"seeds": table[arm].shape[1], "dsc": mean}
            row |= dict(zip(("dsc_low", "dsc_high"), np.quantile(drawn, (0.025, 0.975)), strict=True))
            difference = np.quantile(drawn - reference[1], (0.025, 0.975))
            row |= {"minus_finetune": mean - reference[0], "minus_low": difference[0], "minus_high": difference[1]}
            rows.append(row)
    return pd.DataFrame(rows)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation", description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/ablation"), help="folder of runs (%(default)s)")
    parser.add_argument("--parallel", type=int, default=2, help="runs at a time, one thread each (%(default)s)")
    parser.add_argument("--limit", type=int, help="evaluate on so many phantoms a domain only")
    parser.add_argument("--output", type=Path, default=HERE, help="folder of the tables")
    parser.add_argument("--one", nargs=2, metavar=("ARM", "SEED"), help="a single run; what this command starts itself")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.one:
        run_one(options.one[0], int(options.one[1]), options.work, options.limit)
        return

    from seganypet.training.samples import WindowBank

    # Supervoxels are cut into windows of their own; all other arms share theirs.
    for arm in ("finetune", "finetune + supervoxels"):
        bank = WindowBank(run_config(arm, 0).data, 64, 4.0, options.work / "windows")
        print(f"{arm}: {len(bank)} windows, {bank.fill(options.parallel)}")

    def start(run: tuple[str, int]) -> Path:
        arm, seed = run
        name = "tiny-base" if arm == "tiny-base" else run_config(arm, seed).name
        table = options.work / f"{name}-results.csv"
        if not table.exists():
            command = [sys.executable, "-m", "benchmarks.ablation", "--work", options.work, "--one", arm, str(seed)]
            limit = ["--limit", str(options.limit)] if options.limit else []
            done = subprocess.run([*map(str, command), *limit], env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True,
                                  capture_output=True)  # fmt: skip
            if done.returncode:
                raise SegAnyPETError(f"run {name} failed:\n{done.stderr[-2000:]}")
        print(name, "done", flush=True)
        return table

    runs = [("tiny-base", 0), *((arm, seed) for seed in SEEDS for arm in ARMS)]
    with ThreadPoolExecutor(options.parallel) as pool:
        results = pd.concat([pd.read_csv(table) for table in pool.map(start, runs)], ignore_index=True)
    columns = ["arm", "training_seed", "domain", "case", "patient", "target", "seen", "click", "dsc"]
    results[columns].round(4).to_csv(options.output / "ablation.csv", index=False)
    summary = summarise(results)
    summary.round(4).to_csv(options.output / "ablation_summary.csv", index=False)
    shown = summary[(summary["domain"] == "internal")]
    print(shown.pivot_table(index="arm", columns=["targets", "click"], values="dsc", sort=False).round(3).to_string())


if __name__ == "__main__":
    main()
