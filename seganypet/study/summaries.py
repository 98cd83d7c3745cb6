"""Tables of `evaluate` in short: means over patients with intervals, clicks needed, and what a DSC costs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from seganypet.metrics import auc, bootstrap_interval, noc
from seganypet.organs import ORGANS, SEEN_ORGANS
from seganypet.study.results import WHOLE_CASE

if TYPE_CHECKING:
    import pandas as pd

NOC_THRESHOLD, NOC_ROUNDS = 0.85, 20


def summarise(results: "pd.DataFrame", clicks: Sequence[int] = (1, 3, 5), seed: int = 0) -> "pd.DataFrame":
    """Mean and 95 % bootstrap interval over patients, by protocol, model, group of targets and round.

    Groups are never mixed: "seen" and "unseen" organs, "lesions" (all of a scan together), "lesion" (one by one), and
    "(whole case)" for cases that could not be read. Seen and unseen are the paper's two groups; a network such as
    `tiny-base` may have trained on both.

    Args:
        results: Table of `evaluate`, or several of them below each other.
        clicks: Rounds to report.
        seed: Of the bootstrap.

    Returns:
        One row per protocol, model, group and round:

        - prompt: "1", "3", "5", or "N", "3N", "5N" where each slice is clicked; click: the round
        - patients and targets that count; empty targets and failed ones, which are left out
        - dsc, nsd: means, each with `_low` and `_high`
        - auc: area under DSC over all rounds (trapezoid), auc_relative: divided by its maximum; likewise with intervals
        - noc85: rounds until DSC 0.85, of at most 20, likewise; noc85_failures: share of targets that never get there;
          both NaN where fewer than 20 rounds were run. These and the areas are repeated in each of a group's rows.
    """
    import pandas as pd

    results = _grouped(results)
    summary = []
    for key, rows in results.groupby(_KEYS, sort=False):
        whole = _over_rounds(rows, seed)
        for click, at in rows[rows["click"].isin(list(clicks))].groupby("click"):
            counted, failed = at[at["dsc"].notna()], int(at["error"].notna().sum())
            row = dict(zip(_KEYS, key, strict=True)) | {"prompt": at["prompt"].iloc[0], "click": click}
            row |= {"patients": counted["patient"].nunique(), "targets": len(counted)}
            row |= {"empty": len(at) - len(counted) - failed, "failed": failed}
            for measure in ("dsc", "nsd"):
                row |= _with_interval(measure, at[measure], at["patient"], seed)
            summary.append(row | whole)
    return pd.DataFrame(summary)


def effort(results: "pd.DataFrame", seed: int = 0) -> "pd.DataFrame":
    """DSC against what it costs: for plots of models that are clicked in different ways.

    Args:
        results: Table of `evaluate`, or several of them below each other.
        seed: Of the bootstrap.

    Returns:
        One row per protocol, model, group of targets (as for `summarise`) and round: prompt, click, patients, targets;
        means over patients of total_clicks, human_seconds and model_seconds, all until that round, and seconds, which
        is both together; dsc with dsc_low and dsc_high. Empty and failed targets are left out.
    """
    import pandas as pd

    results = _grouped(results)
    curve = []
    for key, rows in results[results["dsc"].notna()].groupby([*_KEYS, "click"], sort=False):
        row = dict(zip((*_KEYS, "click"), key, strict=True)) | {"prompt": rows["prompt"].iloc[0]}
        row |= {"patients": rows["patient"].nunique(), "targets": len(rows)}
        for cost in ("total_clicks", "human_seconds", "model_seconds"):
            row[cost] = bootstrap_interval(rows[cost].astype(float), rows["patient"], draws=1).mean
        row["seconds"] = row["human_seconds"] + row["model_seconds"]
        curve.append(row | _with_interval("dsc", rows["dsc"], rows["patient"], seed))
    return pd.DataFrame(curve)


def group_of(target: str) -> str:
    """Group of a target: "seen" or "unseen" organ, "lesions", "lesion", or the name that stands for a whole case."""
    if target in ORGANS:
        return "seen" if target in SEEN_ORGANS else "unseen"
    return target if target in ("lesions", WHOLE_CASE) else "lesion"


_KEYS = ["protocol", "model", "group"]


def _grouped(results: "pd.DataFrame") -> "pd.DataFrame":
    """The table with groups, and with the columns that a table of an older version lacks."""
    import pandas as pd

    lacking = {"protocol": "", "error": pd.NA, "prompt": results["click"].astype(str)}
    results = results.assign(**{name: value for name, value in lacking.items() if name not in results})
    return results.assign(group=results["target"].map(group_of), protocol=results["protocol"].fillna(""))


def _over_rounds(rows: "pd.DataFrame", seed: int) -> dict[str, float]:
    """Means of what a whole curve of DSC over rounds says."""
    curves, patients = [], []
    for (_, patient, _), target in rows.sort_values("click").groupby(["case", "patient", "target"], sort=False):
        curves.append(target["dsc"].tolist())
        patients.append(patient)
    areas = [auc(curve) if len(curve) > 1 else (float("nan"),) * 2 for curve in curves]
    long = all(len(curve) >= NOC_ROUNDS for curve in curves)
    needed = [noc(curve, NOC_THRESHOLD, NOC_ROUNDS) if long else (float("nan"), False) for curve in curves]
    failures = [float(failed) for clicks, failed in needed if clicks == clicks]  # without NaN: empty or failed targets
    return (
        _with_interval("auc", [raw for raw, _ in areas], patients, seed)
        | _with_interval("auc_relative", [relative for _, relative in areas], patients, seed)
        | _with_interval("noc85", [clicks for clicks, _ in needed], patients, seed)
        | {"noc85_failures": sum(failures) / len(failures) if failures else float("nan")}
    )


def _with_interval(name: str, values: Any, patients: Any, seed: int) -> dict[str, float]:
    interval = bootstrap_interval(values, patients, seed)
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
