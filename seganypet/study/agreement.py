"""Tables of `quantify` compared: two sets of masks (Bland-Altman), and one case's organs with those of others.

    bland_altman(by_hand, by_model, quantity="MTV").text  # how far two ways of drawing agree
    compare_suvmax(organs_of_all_cases)                   # which organ is hotter than in other patients

Tables of several cases are those of single ones, each with a column `case`, one below the other.
"""

import re
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from seganypet.errors import SegAnyPETError, UnitError

if TYPE_CHECKING:
    import pandas

# Below, a spread is a guess, and so is every distance measured in it.
MIN_REFERENCES = 5
# MAD of normal numbers x this = their SD.
MAD_TO_SD = 1.4826
# What `pandas.merge` calls a row, and why it is no pair.
UNMATCHED = {"left_only": "not in the second table", "right_only": "not in the first table", "both": ""}


@dataclass(frozen=True, eq=False)
class BlandAltman:
    """Agreement of two measurements of the same things.

    Attributes:
        quantity: What was measured.
        unit: Of the quantity; bias, SD and limits are in `difference_unit`.
        relative: Differences are in % of the pair's mean.
        level: Of the limits and of the intervals, 0.95 as a rule.
        n: Pairs, or patients if averaged.
        bias: Mean of first - second.
        sd: Standard deviation of the differences (divisor n - 1).
        lower, upper: Limits of agreement: bias -/+ 1.96 SD (at level 0.95).
        bias_interval, lower_interval, upper_interval: Confidence intervals, (low, high).
        pairs: One row per pair: what names it, first, second, mean, difference.
        left_out: One row per measurement without a pair: what names it, first, second, why.
    """

    quantity: str
    unit: str
    relative: bool
    level: float
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
            f"{100 * self.level:g} % intervals; n = {self.n}; left out: {left_out}."
        )


def bland_altman(
    first: "pandas.DataFrame",
    second: "pandas.DataFrame",
    *,
    quantity: str,
    relative: bool = False,
    level: float = 0.95,
    by_patient: bool = False,
) -> BlandAltman:
    """Agreement of two tables of `quantify`, made with two sets of masks.

    Several objects of one patient are not independent: pooled, they make the intervals too narrow. `by_patient`
    averages them first; the limits are then those of a patient's average, narrower than those of a single object.

    Args:
        first: Tidy, with columns object, quantity, value, unit; rows are matched by `object`, and by `case` too where
            the tables have that column.
        second: The same.
        quantity: E.g. "SUVmax", "MTV", "SULpeak_james".
        relative: Differences in % of each pair's mean; a pair with mean 0 is left out.
        level: Of limits and intervals.
        by_patient: Average the pairs of each `patient` (a column of both tables).

    Raises:
        SegAnyPETError: A column or the quantity is missing, an object is there twice, fewer than 3 pairs remain, or
            `level` is not between 0 and 1.
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
    return _agreement(both, why, keys, quantity, unit, relative, level, by_patient)


def bland_altman_of(
    values_a: ArrayLike,
    values_b: ArrayLike,
    *,
    quantity: str = "value",
    unit: str = "",
    relative: bool = False,
    level: float = 0.95,
) -> BlandAltman:
    """Agreement of two measurements of the same things, a - b.

    Args:
        values_a: Shape (N,).
        values_b: Shape (N,), in the same order. A pair with NaN or infinity is left out.
        quantity: Its name, for text and plot.
        unit: Its unit.
        relative: As for `bland_altman`.
        level: As for `bland_altman`.

    Raises:
        SegAnyPETError: Other shapes, fewer than 3 pairs, or `level` not between 0 and 1.

    Source: Bland and Altman, Stat Methods Med Res 1999. The interval of the bias is Student's; that of a limit uses
        t and the standard error SD x sqrt(1/n + z^2 / (2 (n - 1))), which is their approximation. All of it takes
        differences for normal, and for as large among small values as among large ones: look at the plot.

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
    return _agreement(both, why, [], quantity, unit, relative, level, by_patient=False)


def compare_suvmax(
    table: "pandas.DataFrame",
    *,
    quantity: str = "SUVmax",
    reference: "pandas.DataFrame | None" = None,
    liver: str = "liver",
) -> "pandas.DataFrame":
    """How unusual the uptake of each organ is: among other cases, against the liver, left against right.

    Args:
        table: Tables of `quantify` with the same organs of many cases, told apart by a column `case`.
        quantity: What is compared.
        reference: The same of cases taken for normal; None: those of `table`. A case is never compared with itself,
            that is, with the rows of its name.
        liver: Name of the organ that others are divided by.

    Returns:
        One row per case and organ: case, object, quantity, value, unit;
        ratio_to_liver: value / that of the same case's liver;
        reference_median, reference_q25, reference_q75: of the reference cases' values of this organ;
        percentile: % of them that are lower, ties counted half;
        robust_z: (value - median) / (1.4826 x median absolute deviation); NaN if that deviation is 0, or with
        fewer than 5 reference cases, which say little about a spread;
        n_reference: how many reference cases have a value;
        asymmetry_percent: of organs with `left` or `right` in their name, (this - other side) / mean of both, in %.
        What cannot be said is NaN.

    Raises:
        SegAnyPETError: A column or the quantity is missing, or a case has an organ twice.
        UnitError: The quantity has several units.

    Source: the purpose is that of the paper's supplement, section A: differences of SUVmax between organs help to find
        malignancy. The statistics are this package's choice, and no diagnosis: organs differ for many reasons.
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
        normal = same_organ["value"].to_numpy()[same_organ["case"].to_numpy() != case]
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


def _among(value: float, normal: np.ndarray) -> dict[str, float]:
    """Where a value lies among others."""
    if not len(normal):
        nothing = dict.fromkeys(
            ("reference_median", "reference_q25", "reference_q75", "percentile", "robust_z"), float("nan")
        )
        return {**nothing, "n_reference": 0}
    q25, median, q75 = np.percentile(normal, (25, 50, 75))
    spread = MAD_TO_SD * np.median(np.abs(normal - median))
    known = len(normal) >= MIN_REFERENCES and spread > 0
    below = np.mean(normal < value) + 0.5 * np.mean(normal == value)
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
            f"the {what} lacks column {', '.join(sorted(missing))}; expected a table of quantify(). Which case or "
            "patient it is of, add yourself: table.assign(case='...')."
        )
    rows = table[table["quantity"] == quantity]
    if rows.empty:
        known = ", ".join(map(str, table["quantity"].unique())) or "nothing"
        raise SegAnyPETError(f"the {what} has no quantity {quantity!r}; it has {known}.")
    units = list(rows["unit"].unique())
    if len(units) > 1:
        raise UnitError(f"{quantity} is in {' and '.join(map(str, units))} in the {what}; convert to one unit.")
    # A CSV turns case "7" into the number; a case or patient that is not there has no name.
    rows = rows.assign(**{key: rows[key].where(rows[key].isna(), rows[key].astype(str)) for key in keys})
    again = rows[rows.duplicated(keys)]
    if len(again):
        first = ", ".join(f"{key} {again.iloc[0][key]}" for key in keys)
        raise SegAnyPETError(f"the {what} has {quantity} of {first} twice; each object of a case may be there once.")
    try:
        return rows[[*keys, "value"]].astype({"value": float}), units[0]
    except (ValueError, TypeError) as error:
        raise SegAnyPETError(f"the {what} has values of {quantity} that are no numbers ({error}).") from error


def _agreement(
    both: "pandas.DataFrame",
    why: "pandas.Series",
    keys: list[str],
    quantity: str,
    unit: str,
    relative: bool,
    level: float,
    by_patient: bool,
) -> BlandAltman:
    from scipy import stats

    if not isinstance(level, Real) or not 0 < level < 1:
        raise SegAnyPETError(f"level={level!r}; expected a share between 0 and 1, such as 0.95.")
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
            "limits of agreement need at least 3. Do object and case have the same names in both tables?"
        )
    bias, sd = float(pairs["difference"].mean()), float(pairs["difference"].std(ddof=1))
    z = stats.norm.ppf((1 + level) / 2)
    t = stats.t.ppf((1 + level) / 2, n - 1)
    lower, upper = bias - z * sd, bias + z * sd
    around_bias, around_limit = t * sd / np.sqrt(n), t * sd * np.sqrt(1 / n + z**2 / (2 * (n - 1)))
    intervals = [
        (float(middle - half), float(middle + half))
        for middle, half in ((bias, around_bias), (lower, around_limit), (upper, around_limit))
    ]
    return BlandAltman(
        quantity, unit, relative, level, n, bias, sd, float(lower), float(upper), *intervals, pairs, left_out
    )
