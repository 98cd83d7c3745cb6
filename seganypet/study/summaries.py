"""Tables of studies in short: means over patients with intervals, clicks needed, what a DSC costs, 2D against 3D."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from seganypet.errors import SegAnyPETError
from seganypet.metrics import METRICS, auc, bootstrap_interval, noc
from seganypet.organs import ORGANS, SEEN_ORGANS
from seganypet.study.evaluation import WHOLE_CASE
from seganypet.study.lesion_clicks import ALL, PER_SLICE
from seganypet.study.protocol import prompt_name
from seganypet.study.statistics import check_columns, each_once

if TYPE_CHECKING:
    import pandas as pd

NOC_THRESHOLD, NOC_ROUNDS = 0.85, 20
MIN_VOLUME_ML = 3.0  # smaller lesions are a matter of the scanner's resolution
PAIRED = ("clicks_2d", "clicks_3d", "dsc_2d", "dsc_3d")


def summarise(results: "pd.DataFrame", clicks: Sequence[int] = (1, 3, 5), seed: int = 0) -> "pd.DataFrame":
    """Mean and 95 % bootstrap interval over patients, by protocol, model, group of targets and round.

    Groups are never mixed: "seen" and "unseen" organs, "lesions" (all of a scan together), "lesion" (one by one), and
    "(whole case)" for cases that could not be read. Seen and unseen are the paper's two groups; a network such as
    `tiny-base` may have trained on both.

    Args:
        results: Table of `evaluate`, or several of them below each other.
        clicks: Rounds to report.
        seed: Seed of the bootstrap.

    Returns:
        One row per protocol, model, group and round:

        - prompt: "1", "3", "5", or "N", "3N", "5N" where each slice is clicked; click: the round
        - patients and targets that count; empty targets and failed ones, which are left out; no_mask, targets without
          a mask, which have a DSC of 0 and no distance
        - disobeyed: fraction of all prompts up to this round that the mask contradicted right afterwards; NaN of tables
          that do not say
        - dsc, nsd and what else is in `metrics.METRICS`: means, each with `_low` and `_high`
        - best_of_three_dsc: likewise, for the best reading of the first prompt; NaN in later rounds, and of tables that
          do not say
        - auc: area under DSC over all rounds (trapezoid), auc_relative: divided by its maximum; likewise with intervals
        - noc85: rounds until DSC 0.85, of at most 20, likewise; noc85_failures: fraction of targets that never get
          there; both NaN where fewer than 20 rounds were run. These and the areas are repeated in each of a group's
          rows.

    Raises:
        SegAnyPETError: Another study's table; rows of one model with other weights or versions, or of a case twice with
            other numbers.
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
            row |= {"no_mask": int(counted["hd95_mm"].isna().sum())} if "hd95_mm" in at else {}
            disobeyed = rows.loc[rows["click"] <= click, "disobeyed"].astype(float).sum(min_count=1)
            row["disobeyed"] = disobeyed / (at["total_clicks"].astype(float).sum() or float("nan"))
            for measure in (name for name in (*METRICS, "best_of_three_dsc") if name in at):
                row |= with_interval(measure, at[measure].astype(float), at["patient"], seed)
            summary.append(row | whole)
    return pd.DataFrame(summary)


def effort(results: "pd.DataFrame", seed: int = 0) -> "pd.DataFrame":
    """DSC against what it costs: for plots of models that are clicked in different ways.

    Args:
        results: Table of `evaluate`, or several of them below each other.
        seed: Seed of the bootstrap.

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
        curve.append(row | with_interval("dsc", rows["dsc"], rows["patient"], seed))
    return pd.DataFrame(curve)


def summarise_tumours(table: "pd.DataFrame", *, min_volume_ml: float = MIN_VOLUME_ML, seed: int = 0) -> "pd.DataFrame":
    """Means over patients and 95 % bootstrap intervals, by model, prompting and round.

    Args:
        table: Table of `analyse_tumours`.
        min_volume_ml: Lesions that count in `lesion_dsc` have at least this volume.
        seed: Seed of the bootstrap.

    Returns:
        One row per model, prompting and click. All but the last column are of scans with lesions, so that
        methods which need a lesion to click are compared with the others on the same scans:

        - lesions_in_training, patients; total_clicks and model_seconds, means for a scan
        - dsc (all lesions together), with dsc_low and dsc_high; likewise fpv_ml, fnv_fraction and f1
        - lesion_dsc, single lesions one by one, each patient counted once, with its interval; `counted`, how many
        - healthy_fpv_ml, false positive volume of scans without lesions, mean over their patients

    Raises:
        SegAnyPETError: Another study's table, or an older version's, with each network in two kinds of windows; rows
            that do not belong together, as for `summarise`.
    """
    import pandas as pd

    keys = ["model", "lesions_in_training", "prompting", "click"]
    _check_windows(table)
    table, rows = each_once(without_failures(table), ["case", *keys, "lesion"], "dsc"), []
    for key, every in table.groupby(keys, sort=False, dropna=False):
        whole, healthy = (every[(every["lesion"] == ALL) & (every["lesions"] > 0).eq(sick)] for sick in (True, False))
        single = every[(every["lesion"] != ALL) & (every["volume_ml"] >= min_volume_ml)]
        row = dict(zip(keys, key, strict=True)) | {"patients": whole["patient"].nunique()}
        row |= {name: whole[name].mean() for name in ("total_clicks", "model_seconds")}
        for name in ("dsc", "fpv_ml", "fnv_fraction", "f1"):
            row |= with_interval(name, whole[name], whole["patient"], seed)
        row |= with_interval("lesion_dsc", single["dsc"], single["patient"], seed) | {"counted": len(single)}
        false_ml, *_ = bootstrap_interval(healthy["fpv_ml"], healthy["patient"], seed)
        rows.append(row | {"healthy_fpv_ml": false_ml})
    return pd.DataFrame(rows)


def two_d_against_three_d(
    table: "pd.DataFrame", model_2d: str, model_3d: str, prompting_3d: str, *, seed: int = 0
) -> "pd.DataFrame":
    """DSC of all lesions in 2D less that in 3D, patient by patient.

    Args:
        table: Table of `analyse_tumours`, with both models.
        model_2d: Name of the model that is clicked per slice.
        model_3d: Name of the other one.
        prompting_3d: How the other one is clicked, one of `PROMPTINGS_3D`.
        seed: Seed of the bootstrap.

    Returns:
        Two rows for each round of the 2D model, N, 2N, ...: `matched` "rounds", the same round of the 3D model; and
        "clicks", its last round that took no more clicks than the 2D model did (patients whose first round took more
        are left out). Columns: prompt_2d, matched, patients; clicks_2d, clicks_3d, dsc_2d, dsc_3d, means over patients;
        difference with its 95 % bootstrap interval, low and high. Positive: 2D is better.

    Raises:
        SegAnyPETError: The table has no such rows; or as for `summarise_tumours`.
    """
    import pandas as pd

    _check_windows(table)
    rows_2d = _whole_scans(table, model_2d, PER_SLICE)
    rows_3d = _whole_scans(table, model_3d, prompting_3d)
    out = []
    for click, at in rows_2d.groupby("click"):
        for matched in ("rounds", "clicks"):
            pairs = []  # of scans
            for one in at.itertuples():
                other = rows_3d[rows_3d["case"] == one.case].sort_values("click")
                equal = other["click"] == click if matched == "rounds" else other["total_clicks"] <= one.total_clicks
                if equal.any():
                    last = other[equal].iloc[-1]
                    pairs.append((one.patient, one.total_clicks, last["total_clicks"], one.dsc, last["dsc"]))
            found = pd.DataFrame(pairs, columns=["patient", *PAIRED]).groupby("patient").mean()
            interval = bootstrap_interval(found["dsc_2d"] - found["dsc_3d"], found.index, seed)
            row = {"prompt_2d": prompt_name(int(click), per_slice=True), "matched": matched, "patients": len(found)}
            out.append(row | dict(found.mean()) | dict(zip(("difference", "low", "high"), interval, strict=True)))
    return pd.DataFrame(out)


def _whole_scans(table: "pd.DataFrame", model: str, prompting: str) -> "pd.DataFrame":
    table = without_failures(table)
    found = table[(table["model"] == model) & (table["prompting"] == prompting)]
    found = found[(found["lesion"] == ALL) & found["dsc"].notna()]
    if found.empty:
        present = sorted({*zip(table["model"], table["prompting"], strict=True)})
        raise SegAnyPETError(f"the table has no scan of {model!r}, {prompting!r}; it has {present}.")
    return found


def _check_windows(table: "pd.DataFrame") -> None:
    """Refuse the table of another study, and one with the same clicks in two kinds of windows, which have no mean."""
    needed = ["case", "patient", "model", "prompting", "click", "lesion", "lesions", "dsc"]
    check_columns(table, needed, "analyse_tumours (seganypet lesions)")
    if "auto_zoom" in table and table["auto_zoom"].nunique() > 1:
        raise SegAnyPETError(
            "the table is an older version's, with each network in two kinds of windows (auto_zoom); expected one row "
            "for a click. Keep one kind: table[table['auto_zoom']] or table[~table['auto_zoom']]."
        )


def without_failures(table: "pd.DataFrame") -> "pd.DataFrame":
    """The rows of a study's table that are no failures."""
    return table[table["error"].isna()] if "error" in table else table


def group_of(target: str) -> str:
    """Group of a target: "seen" or "unseen" organ, "lesions", "lesion", or the name that stands for a whole case."""
    if target in ORGANS:
        return "seen" if target in SEEN_ORGANS else "unseen"
    return target if target in ("lesions", WHOLE_CASE) else "lesion"


_KEYS = ["protocol", "model", "group"]


def _grouped(results: "pd.DataFrame") -> "pd.DataFrame":
    """The table with groups, and with the columns that a table of an older version lacks."""
    import pandas as pd

    check_columns(results, ["case", "patient", "target", "model", "click", "dsc"], "evaluate")
    lacking = {"protocol": "", "error": pd.NA, "prompt": results["click"].astype(str)}
    lacking |= dict.fromkeys(("disobeyed", "total_clicks", "best_of_three_dsc"), float("nan"))
    results = results.assign(**{name: value for name, value in lacking.items() if name not in results})
    results = results.assign(group=results["target"].map(group_of), protocol=results["protocol"].fillna(""))
    return each_once(results, ["case", "target", "protocol", "model", "click"], "dsc")


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
        with_interval("auc", [raw for raw, _ in areas], patients, seed)
        | with_interval("auc_relative", [relative for _, relative in areas], patients, seed)
        | with_interval("noc85", [clicks for clicks, _ in needed], patients, seed)
        | {"noc85_failures": sum(failures) / len(failures) if failures else float("nan")}
    )


def with_interval(name: str, values: Any, patients: Any, seed: int) -> dict[str, float]:
    """Cells of a mean over patients and its 95 % bootstrap interval: `name`, `name`_low and `name`_high."""
    interval = bootstrap_interval(values, patients, seed)
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
