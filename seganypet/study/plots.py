"""Plots of tables: DSC against clicks, Bland-Altman."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING

from seganypet.errors import SegAnyPETError
from seganypet.pet.views import COLOURS
from seganypet.study.agreement import BlandAltman

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

MARKERS = "osD^vP*X<>hp"  # with twelve organs, colours repeat; pairs of colour and marker do not


def plot_dsc(results: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw DSC against the number of clicks: colour and marker by target, line style by model.

    For a single target, colour and marker are by model too. A line is the mean over cases, its band the interquartile
    range.

    Args:
        results: Tidy table with columns case, target, model, click, dsc.
        ax: Axes to draw in; default: a new figure.

    Returns:
        The axes.

    Raises:
        SegAnyPETError: A column is missing, or the table has no rows.
    """
    import matplotlib.pyplot as plt

    missing = {"case", "target", "model", "click", "dsc"} - set(results.columns)
    if missing or results.empty:
        lacks = f"lacks column {', '.join(sorted(missing))}" if missing else "has no rows"
        raise SegAnyPETError(
            f"the table of results {lacks}; expected case, target, model, click and dsc, as evaluate() returns them."
        )
    if ax is None:
        _, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    by = "target" if results["target"].nunique() > 1 else "model"
    looks = dict(zip(results[by].unique(), zip(cycle(COLOURS), cycle(MARKERS), strict=False), strict=False))
    styles = dict(zip(results["model"].unique(), cycle(["-", "--", ":", "-."]), strict=False))
    for (target, model), rows in results[results["dsc"].notna()].groupby(["target", "model"], sort=False):
        by_click = rows.groupby("click")["dsc"]
        mean = by_click.mean()
        colour, marker = looks[target if by == "target" else model]
        ax.plot(mean, marker + styles[model], color=colour, markersize=4, label=f"{target}, {model}")
        ax.fill_between(mean.index, by_click.quantile(0.25), by_click.quantile(0.75), color=colour, alpha=0.12)
    ax.set(xlabel="clicks", ylabel="DSC", ylim=(-0.02, 1.02), xticks=sorted(results["click"].unique()))
    ax.grid(alpha=0.3)
    ax.legend(fontsize="small")
    return ax


def plot_bland_altman(agreement: BlandAltman, *, ax: Axes | None = None) -> Axes:
    """Draw the difference of each pair against its mean, with bias and limits of agreement.

    Bands are confidence intervals of the bias and of the limits.

    Args:
        agreement: Result of `bland_altman` or `bland_altman_of`.
        ax: Axes to draw in; default: a new figure.

    Returns:
        The axes.
    """
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    ax.plot(agreement.pairs["mean"], agreement.pairs["difference"], "o", color=COLOURS[1], markersize=4, zorder=3)
    for name, value, interval, style in (
        ("upper limit", agreement.upper, agreement.upper_interval, "--"),
        ("bias", agreement.bias, agreement.bias_interval, "-"),
        ("lower limit", agreement.lower, agreement.lower_interval, "--"),
    ):
        ax.axhline(value, linestyle=style, color="black", linewidth=1.2)
        ax.axhspan(*interval, color="grey", alpha=0.18, linewidth=0)
        ax.annotate(
            f"{name} {value:.3g}", (0.99, value), xycoords=("axes fraction", "data"), xytext=(0, 3),
            textcoords="offset points", ha="right", fontsize="small",
        )  # fmt: skip
    ax.axhline(0.0, linestyle=":", color="grey", linewidth=1)
    ax.set(
        xlabel=f"mean {agreement.quantity} ({agreement.unit})",
        ylabel=f"first - second ({agreement.difference_unit}), n = {agreement.n}",
        title=f"left out: {len(agreement.left_out)}" if len(agreement.left_out) else "",
    )
    return ax
