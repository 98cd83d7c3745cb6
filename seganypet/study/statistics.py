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


def check_columns(table: "pd.DataFrame", names: Sequence[str], study: str) -> None:
    """Raise SegAnyPETError unless a table has some columns of a study."""
    if missing := [name for name in names if name not in table]:
        raise SegAnyPETError(f"the table lacks column {', '.join(missing)}; expected a table of {study}.")


def by_patient(rows: "pd.DataFrame", measure: str) -> "pd.Series":
    """Mean of a measure for each patient; patients without a defined value are left out."""
    # In an order of their own: sums are then the same to the bit, whichever table or job a row comes from.
    values = rows[["patient", measure]].astype({"patient": str, measure: float}).dropna(subset=measure)
    return values.sort_values(measure).groupby("patient")[measure].mean()


def each_once(
    rows: "pd.DataFrame", keys: Sequence[str], measure: str, alike: Sequence[str] = ("weights", "version")
) -> "pd.DataFrame":
    """Rows of tables below each other, without those that stand in several of them.

    Args:
        rows: Rows of a study.
        keys: Columns that tell what is measured, of which those that the rows lack do not count.
        measure: Column in which such rows agree.
        alike: Columns in which all rows of a model agree, of which those that the rows lack do not count.

    Raises:
        SegAnyPETError: They do not agree, as with several seeds, or jobs with different settings.
    """
    for name in alike:
        for model, values in rows.groupby("model")[name] if name in rows else ():
            if len(found := sorted(values.dropna().astype(str).unique())) > 1:
                advice = ", or allow it: mixed_precision=True (--mixed-precision)" if name == "precision" else ""
                raise SegAnyPETError(
                    f"rows of model {model} differ in {name}: {', '.join(found)}. Their mean is of no model; put only "
                    f"tables together that were made alike{advice}."
                )
    keys = [name for name in keys if name in rows]
    once = rows.drop_duplicates([*keys, measure])
    if len(twice := once[once.duplicated(keys)]):
        first = ", ".join(str(twice.iloc[0][name]) for name in keys)
        raise SegAnyPETError(
            f"{len(twice)} rows stand in the tables twice with other numbers, first {first}. Leave one of the tables "
            "out; of several seeds, take one at a time."
        )
    return once


def all_alike(mixed_precision: bool) -> list[str]:
    """What rows of one model share where they are compared with those of another; see `each_once`."""
    return ["weights", "version", "protocol", *([] if mixed_precision else ["precision"])]


def pairs_by_patient(
    first: "pd.DataFrame", second: "pd.DataFrame", measure: str
) -> tuple["pd.Series", "pd.Series"]:
    """Means of a measure for each patient, over what both models have a defined value of.

    Args:
        first, second: Rows of two models in one round, each once, with columns patient, case, measure, and target or
            lesion; the same target of the same case is a pair, a target that only one of them has is left out.
        measure: Column to compare.
    """
    keys = [name for name in ("patient", "case", "target", "lesion") if name in first and name in second]
    one, two = (rows.set_index(keys)[measure].astype(float).dropna() for rows in (first, second))
    both = one.index.intersection(two.index)
    one, two = (values[both].reset_index() for values in (one, two))
    return by_patient(one, measure), by_patient(two, measure)


def paired_test(first: "pd.Series", second: "pd.Series", seed: int = 0) -> PairedTest:
    """Compare two models on the patients that both have.

    Args:
        first, second: A value for each patient, the patient in the index, as `pairs_by_patient` returns them.
        seed: Seed of the bootstrap.

    Source: Wilcoxon's signed-rank test as SciPy has it. Zero differences are left out first, so that it is exact where
    few others remain: up to 50 without ties, up to 13 with; the normal approximation of these gives too small a p.
    """
    from scipy.stats import wilcoxon

    # Aligned by patient; 0.8 - 0.7 and 0.9 - 0.8 are ties, though floats differ in the last bit.
    difference = (first - second).dropna().round(12)
    if difference.empty:
        return PairedTest(0, *(float("nan"),) * 4)
    interval = bootstrap_interval(difference, difference.index, seed)
    p = float(wilcoxon(difference[difference != 0]).pvalue) if difference.any() else 1.0
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
    results: "pd.DataFrame", first: str, second: str, *, measure: str = "dsc", click: int | None = None,
    mixed_precision: bool = False, seed: int = 0,
) -> "pd.DataFrame":  # fmt: skip
    """Compare two models organ by organ, over patients.

    A patient counts once, with the mean over the targets that both models have a defined value of.

    Args:
        results: Table of `evaluate`, with both models; several of them below each other, whose common rows count once.
        first, second: Names of the models.
        measure: Column to compare, such as "dsc", "nsd", "hd95_mm".
        click: Round; None: the last one that both have.
        mixed_precision: Whether rows of one network may have been computed in several precisions.
        seed: Seed of the bootstrap.

    Returns:
        A row for each target: target, click, patients (pairs in which both are defined), left_out (patients in which
        one of them is not), the means of both over the pairs, `PairedTest`'s difference (first less second), low, high
        and p, and p_holm, which holds for all targets together.

    Raises:
        SegAnyPETError: The table lacks a column or a model, or they share no round; rows of one model with other
            weights, protocols or versions, or of a case twice with other numbers.
    """
    import pandas as pd

    check_columns(results, ["case", "patient", "target", "model", "click", measure], "evaluate")
    models = {*results["model"]}
    if lacking := [repr(name) for name in (first, second) if name not in models]:
        raise SegAnyPETError(f"the table has no model {' and no '.join(lacking)}; it has {sorted(models)}.")
    keys, alike = ["case", "model", "click", "target"], all_alike(mixed_precision)
    results = each_once(results[results["model"].isin([first, second])], keys, measure, alike)
    of_first, of_second = (results[results["model"] == name] for name in (first, second))
    common = {*of_first["click"].dropna()} & {*of_second["click"].dropna()}
    if not common or (click is not None and click not in common):
        raise SegAnyPETError(f"{first!r} and {second!r} share the rounds {sorted(common)}; expected click to be one.")
    click = max(common) if click is None else click
    rows = []
    for target in results["target"].drop_duplicates():
        pair = [one[(one["click"] == click) & (one["target"] == target)] for one in (of_first, of_second)]
        ours, theirs = pairs_by_patient(pair[0], pair[1], measure)
        everybody = {*pair[0]["patient"], *pair[1]["patient"]}
        test = paired_test(ours, theirs, seed)
        rows.append(
            {"target": target, "click": click, "patients": test.patients, "left_out": len(everybody) - len(ours),
             first: ours.mean(), second: theirs.mean()} | test._asdict()
        )  # fmt: skip
    table = pd.DataFrame(rows)
    return table.assign(p_holm=holm(table["p"]))
