"""Comparison of `quantify` tables: of two sets of masks (Bland-Altman), and of a case's organs with other cases.

    bland_altman(by_hand, by_model, quantity="MTV").text  # how well two ways of drawing agree
    compare_suvmax(organs_of_all_cases)                   # which organ is hotter than in other patients

A table of several cases is a concatenation of tables of single ones, each with a column `case`.
"""

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from seganypet.errors import SegAnyPETError, UnitError
from seganypet.metrics import LEVEL

if TYPE_CHECKING:
    import pandas

# With fewer reference cases, a spread is a guess, and so are distances in units of it.
MIN_REFERENCES = 5
# SD of normally distributed numbers / their MAD.
MAD_TO_SD = 1.4826
# The indicator of `pandas.merge`, and why the row is not a pair.
UNMATCHED = {"left_only": "not in the second table", "right_only": "not in the first table", "both": ""}


@dataclass(frozen=True, eq=False)
class BlandAltman:
    """Agreement of two measurements of the same things.

    Attributes:
        quantity: What was measured.
        unit: Unit of the quantity; bias, SD and limits are in `difference_unit`.
        relative: Whether differences are in % of the pair's mean.
        n: Number of pairs, or of patients if averaged.
        bias: Mean of first - second.
        sd: Standard deviation of the differences (divisor n - 1).
        lower, upper: Limits of agreement: bias -/+ 1.96 SD.
        bias_interval, lower_interval, upper_interval: 95 % confidence intervals, (low, high).
        pairs: One row per pair: its names (case, object), first, second, mean, difference.
        left_out: One row per measurement without a pair: its names, first, second, why.
    """

    quantity: str
    unit: str
    relative: bool
    n: int
    bias: float
    sd: float
    lower: float
    upper: float
    bias_interval: tuple[float, float]
    lower_interval: tuple[float, float]
    upper_interval: tuple[float, float]
    pairs: "pandas.DataFrame" = field(repr=False)
    left_out: "pandas.DataFrame" = field(repr=False)

    @property
    def difference_unit(self) -> str:
        """Unit of the differences, and so of bias, SD and limits."""
        return "%" if self.relative else self.unit

    @property
    def text(self) -> str:
        """The result in a sentence, with what was left out."""
        bias, lower, upper = (
            f"{value:.3g} {self.difference_unit} ({low:.3g} to {high:.3g})"
            for value, (low, high) in (
                (self.bias, self.bias_interval), (self.lower, self.lower_interval), (self.upper, self.upper_interval),
            )
        )  # fmt: skip
        why = self.left_out["why"].value_counts()
        left_out = ", ".join(f"{count} ({reason})" for reason, count in why.items()) or "none"
        return (
            f"{self.quantity}, first - second: bias {bias}, limits of agreement {lower} and {upper}; in brackets "
            f"{100 * LEVEL:g} % intervals; n = {self.n}; left out: {left_out}."
        )


def bland_altman(
    first: "pandas.DataFrame",
    second: "pandas.DataFrame",
    *,
    quantity: str,
    relative: bool = False,
    by_patient: bool = False,
) -> BlandAltman:
    """Agreement of two tables of `quantify`, made with two sets of masks.

    Several objects of one patient are not independent: pooled, they make the intervals too narrow. With `by_patient`
    they are averaged first; the limits are then those of a patient's average, narrower than those of a single object.

    Args:
        first: Tidy table with columns object, quantity, value, unit. Rows are matched by `object`, and by `case` too
            where the tables have that column.
        second: Table of the same form.
        quantity: Quantity to compare, e.g. "SUVmax", "MTV", "SULpeak_james".
        relative: Whether differences are in % of each pair's mean; a pair with mean 0 is left out.
        by_patient: Whether to average the pairs of each `patient` (a column of both tables).

    Returns:
        Bias, limits of agreement and their 95 % intervals, with the pairs.

    Raises:
        SegAnyPETError: A column or the quantity is missing, an object occurs twice, or fewer than 3 pairs remain.
        UnitError: The quantity has several units.

    Source: Bland and Altman, Lancet 1986 and Stat Methods Med Res 1999, see `bland_altman_of`.
    """
    keys = ["patient"] * by_patient + ["case"] * ("case" in first or "case" in second) + ["object"]
    one, unit = _rows(first, quantity, keys, "first table")
    two, other_unit = _rows(second, quantity, keys, "second table")
    if unit != other_unit:
        raise UnitError(f"{quantity} is in {unit} in the first table, in {other_unit} in the second; convert one.")
    both = one.rename(columns={"value": "first"}).merge(
        two.rename(columns={"value": "second"}), on=keys, how="outer", indicator="found"
    )
    why = both.pop("found").astype(str).map(UNMATCHED)
    return _agreement(both, why, keys, quantity, unit, relative, by_patient)


def bland_altman_of(
    values_a: ArrayLike,
    values_b: ArrayLike,
    *,
    quantity: str = "value",
    unit: str = "",
    relative: bool = False,
) -> BlandAltman:
    """Agreement of two measurements of the same things, a - b.

    Args:
        values_a: First measurements, shape (N,).
        values_b: Second measurements in the same order, shape (N,). A pair with NaN or infinity is left out.
        quantity: Name of the quantity, for text and plot.
        unit: Unit of the quantity.
        relative: Whether differences are in % of each pair's mean; a pair with mean 0 is left out.

    Returns:
        Bias, limits of agreement and their 95 % intervals, with the pairs.

    Raises:
        SegAnyPETError: The shapes differ, or fewer than 3 pairs remain.

    Source: Bland and Altman, Stat Methods Med Res 1999. The interval of the bias is Student's; that of a limit uses
        t and the standard error SD x sqrt(1/n + z^2 / (2 (n - 1))), which is their approximation. The method assumes
        that differences are normal and do not grow with the values: look at the plot.

    >>> agreement = bland_altman_of([1.0, 2.0, 3.0, 6.0], [1.0, 1.0, 4.0, 2.0], quantity="SUVmax", unit="g/mL")
    >>> agreement.bias, round(agreement.sd, 3), round(agreement.lower, 2), round(agreement.upper, 2)
    (1.0, 2.16, -3.23, 5.23)
    """
    import pandas

    a, b = np.asarray(values_a, float), np.asarray(values_b, float)
    if a.ndim != 1 or a.shape != b.shape:
        raise SegAnyPETError(f"values of shapes {a.shape} and {b.shape}; expected two lists of the same length.")
    both = pandas.DataFrame({"first": a, "second": b})
    why = pandas.Series("", index=both.index)
    return _agreement(both, why, [], quantity, unit, relative, by_patient=False)


def compare_suvmax(
    table: "pandas.DataFrame",
    *,
    quantity: str = "SUVmax",
    reference: "pandas.DataFrame | None" = None,
    liver: str = "liver",
) -> "pandas.DataFrame":
    """How unusual the uptake of each organ is: compared with other cases, with the liver, and left with right.

    Args:
        table: Tables of `quantify` with the same organs of many cases, distinguished by a column `case`.
        quantity: Quantity to compare.
        reference: Table of the same form, of cases considered normal; default: `table`. A case is never compared with
            rows of its own name.
        liver: Name of the organ that the others are divided by.

    Returns:
        One row per case and organ: case, object, quantity, value, unit;
        ratio_to_liver: value / value of the same case's liver;
        reference_median, reference_q25, reference_q75: quartiles of this organ in the reference cases;
        percentile: % of the reference cases that are lower, ties counted half;
        robust_z: (value - median) / (1.4826 x median absolute deviation); NaN if that deviation is 0, or with
        fewer than 5 reference cases, whose spread is uncertain;
        n_reference: number of reference cases with a value;
        asymmetry_percent: for organs with `left` or `right` in their name, (this - other side) / mean of both, in %.
        What is unknown is NaN.

    Raises:
        SegAnyPETError: A column or the quantity is missing, or a case has an organ twice.
        UnitError: The quantity has several units.

    Source: the paper's supplement, section A, for the purpose: differences of SUVmax between organs help to find
        malignancy. The statistics are this package's choice, and not a diagnosis: organs differ for many reasons.
    """
    import pandas

    keys = ["case", "object"]
    rows, unit = _rows(table, quantity, keys, "table")
    others = rows
    if reference is not None:
        others, other_unit = _rows(reference, quantity, keys, "reference")
        if unit != other_unit:
            raise UnitError(f"{quantity} is in {unit} in the table, in {other_unit} in the reference; convert one.")
    others = dict(iter(others[np.isfinite(others["value"])].groupby("object")))
    values = rows.set_index(keys)["value"].to_dict()
    compared = []
    for (case, organ), value in values.items():
        same_organ = others.get(organ, rows[:0])
        normal = same_organ.loc[same_organ["case"] != case, "value"]
        by_liver = values.get((case, liver), np.nan)
        mirrored = re.sub("left|right", lambda side: {"left": "right", "right": "left"}[side[0]], organ)
        other_side = values.get((case, mirrored), np.nan) if mirrored != organ else np.nan
        compared.append({
            "case": case, "object": organ, "quantity": quantity, "value": value, "unit": unit,
            "ratio_to_liver": value / by_liver if by_liver > 0 else np.nan,
            **_among(value, normal),
            "asymmetry_percent": _relative_percent(value, other_side),
        })  # fmt: skip
    return pandas.DataFrame(compared)


def _among(value: float, normal: "pandas.Series") -> dict[str, float]:
    """The position of a value among others; NaN where there are none."""
    q25, median, q75 = normal.quantile([0.25, 0.5, 0.75])
    spread = MAD_TO_SD * (normal - median).abs().median()
    known = len(normal) >= MIN_REFERENCES and spread > 0
    below = (normal < value).mean() + 0.5 * (normal == value).mean()
    return {
        "reference_median": median, "reference_q25": q25, "reference_q75": q75,
        "percentile": 100.0 * below if np.isfinite(value) else np.nan,
        "robust_z": (value - median) / spread if known else np.nan,
        "n_reference": len(normal),
    }  # fmt: skip


def _relative_percent(one: ArrayLike, other: ArrayLike) -> np.ndarray:
    """100 x (one - other) / mean of both; NaN if that mean is 0."""
    one, other = np.asarray(one, float), np.asarray(other, float)
    mean = (one + other) / 2.0
    return 100.0 * (one - other) / np.where(mean == 0, np.nan, mean)


def _rows(table: "pandas.DataFrame", quantity: str, keys: list[str], what: str) -> tuple["pandas.DataFrame", str]:
    """Keys and value of one quantity, and its unit."""
    missing = {*keys, "quantity", "value", "unit"} - set(table.columns)
    if missing:
        raise SegAnyPETError(
            f"the {what} lacks column {', '.join(sorted(missing))}; expected a table of quantify(). Add case and "
            "patient yourself: table.assign(case='...')."
        )
    rows = table[table["quantity"] == quantity]
    if rows.empty:
        known = ", ".join(map(str, table["quantity"].unique())) or "nothing"
        raise SegAnyPETError(f"the {what} has no quantity {quantity!r}; it has {known}.")
    units = list(rows["unit"].unique())
    if len(units) > 1:
        raise UnitError(f"{quantity} is in {' and '.join(map(str, units))} in the {what}; convert to one unit.")
    # A CSV turns case "7" into a number; a missing case or patient stays missing.
    rows = rows.assign(**{key: rows[key].where(rows[key].isna(), rows[key].astype(str)) for key in keys})
    again = rows[rows.duplicated(keys)]
    if len(again):
        first = ", ".join(f"{key} {again.iloc[0][key]}" for key in keys)
        raise SegAnyPETError(f"the {what} has {quantity} of {first} twice; expected each object of a case once.")
    try:
        return rows[[*keys, "value"]].astype({"value": float}), units[0]
    except (ValueError, TypeError) as error:
        raise SegAnyPETError(f"the {what} has values of {quantity} that are not numbers ({error}).") from error


def _agreement(
    both: "pandas.DataFrame",
    why: "pandas.Series",
    keys: list[str],
    quantity: str,
    unit: str,
    relative: bool,
    by_patient: bool,
) -> BlandAltman:
    from scipy import stats

    both["mean"] = both[["first", "second"]].mean(axis=1, skipna=False)
    both["difference"] = both["first"] - both["second"]
    if relative:
        both["difference"] = _relative_percent(both["first"], both["second"])
    unknown = ~np.isfinite(both[["first", "second"]]).all(axis=1)
    why = why.mask((why == "") & unknown, "not a number").mask((why == "") & (both["mean"] == 0) & relative, "mean 0")
    if by_patient:
        why = why.mask((why == "") & both["patient"].isna(), "no patient")
    pairs = both[why == ""].reset_index(drop=True)
    left_out = both[[*keys, "first", "second"]].assign(why=why)[why != ""].reset_index(drop=True)
    if by_patient:
        pairs = pairs.groupby("patient", as_index=False)[["first", "second", "mean", "difference"]].mean()
    n = len(pairs)
    if n < 3:
        raise SegAnyPETError(
            f"{quantity}: {n} {'patients' if by_patient else 'pairs'} to compare, {len(left_out)} rows left out; "
            "expected at least 3 for limits of agreement. Do object and case have the same names in both tables?"
        )
    bias, sd = float(pairs["difference"].mean()), float(pairs["difference"].std(ddof=1))
    z = stats.norm.ppf((1 + LEVEL) / 2)
    t = stats.t.ppf((1 + LEVEL) / 2, n - 1)
    lower, upper = bias - z * sd, bias + z * sd
    around_bias, around_limit = t * sd / np.sqrt(n), t * sd * np.sqrt(1 / n + z**2 / (2 * (n - 1)))
    return BlandAltman(
        quantity, unit, relative, n, bias, sd, float(lower), float(upper), _interval(bias, around_bias),
        _interval(lower, around_limit), _interval(upper, around_limit), pairs, left_out,
    )  # fmt: skip


def _interval(middle: float, half: float) -> tuple[float, float]:
    return float(middle - half), float(middle + half)
