"""Whether two models differ: paired over patients, with intervals and tests that heed how many were made."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from seganypet.errors import SegAnyPETError
from seganypet.metrics import bootstrap_interval

if TYPE_CHECKING:
    import pandas as pd


class PairedTest(NamedTuple):
    """The first less the second of a pair of models.

    Attributes:
        patients: Number of pairs.
        difference, low, high: Mean of the differences and its 95 % bootstrap interval over patients; NaN without pairs.
        p: Two-sided p of Wilcoxon's signed-rank test; 1 if all differences are 0, NaN without pairs.
    """

    patients: int
    difference: float
    low: float
    high: float
    p: float


def by_patient(values: "pd.Series", patients: "pd.Series") -> "pd.Series":
    """Mean of each patient; patients without a defined value are left out."""
    return values.astype(float).groupby(patients.astype(str).to_numpy()).mean().dropna()


def paired_test(first: "pd.Series", second: "pd.Series", seed: int = 0) -> PairedTest:
    """Compare two models on the patients that both have.

    Args:
        first, second: A value for each patient, the patient in the index, as `by_patient` returns them.
        seed: Seed of the bootstrap.

    Source: Wilcoxon's signed-rank test as SciPy has it: zero differences are left out, exact for up to 50 pairs without
    ties.
    """
    from scipy.stats import wilcoxon

    difference = (first - second).dropna()  # aligned by patient
    if difference.empty:
        return PairedTest(0, *(float("nan"),) * 4)
    interval = bootstrap_interval(difference, difference.index, seed)
    p = float(wilcoxon(difference).pvalue) if difference.any() else 1.0
    return PairedTest(len(difference), *interval, p)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """p values that hold for all tests of a family together, by Holm's step-down method; NaN stays and does not count.

    >>> holm([0.01, 0.04, 0.03, float("nan")]).round(3).tolist()
    [0.03, 0.06, 0.06, nan]
    """
    p = np.asarray(p_values, float)
    adjusted = np.full(p.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return adjusted


def compare(
    results: "pd.DataFrame", first: str, second: str, *, measure: str = "dsc", click: int | None = None, seed: int = 0
) -> "pd.DataFrame":
    """Compare two models organ by organ, over patients.

    Args:
        results: Table of `evaluate`, with both models.
        first, second: Names of the models.
        measure: Column to compare, such as "dsc", "nsd", "hd95_mm".
        click: Round; None: the last one that both have.
        seed: Seed of the bootstrap.

    Returns:
        A row for each target: target, click, patients (pairs in which both are defined), left_out (patients in which
        one of them is not), the means of both over the pairs, `PairedTest`'s difference (first less second), low, high
        and p, and p_holm, which holds for all targets together.

    Raises:
        SegAnyPETError: The table lacks a model or the measure, or they share no round.
    """
    import pandas as pd

    lacking = [f"model {name!r}" for name in (first, second) if name not in set(results["model"])]
    if lacking or measure not in results:
        lacking += [] if measure in results else [f"column {measure!r}"]
        raise SegAnyPETError(f"the table has no {' and no '.join(lacking)}; it has {sorted({*results['model']})}.")
    of_first, of_second = (results[results["model"] == name] for name in (first, second))
    common = {*of_first["click"].dropna()} & {*of_second["click"].dropna()}
    if not common or (click is not None and click not in common):
        raise SegAnyPETError(f"{first!r} and {second!r} share the rounds {sorted(common)}; expected click to be one.")
    click = max(common) if click is None else click
    rows = []
    for target in results["target"].drop_duplicates():
        pair = [one[(one["click"] == click) & (one["target"] == target)] for one in (of_first, of_second)]
        ours, theirs = (by_patient(one[measure], one["patient"]) for one in pair)
        both = ours.index.intersection(theirs.index)
        everybody = {*pair[0]["patient"], *pair[1]["patient"]}
        test = paired_test(ours, theirs, seed)
        rows.append(
            {"target": target, "click": click, "patients": test.patients, "left_out": len(everybody) - len(both),
             first: ours[both].mean(), second: theirs[both].mean()} | test._asdict()
        )  # fmt: skip
    table = pd.DataFrame(rows)
    return table.assign(p_holm=holm(table["p"]))
