"""Plots of tables: DSC against clicks, boxes for each organ, some cases in pictures, Bland-Altman."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from seganypet.errors import SegAnyPETError
from seganypet.pet.plots import literal
from seganypet.pet.views import COLOURS
from seganypet.pet.volume import load_labels
from seganypet.prompting.slices import slices_of
from seganypet.study.agreement import BlandAltman
from seganypet.study.saved_masks import mask_path

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

ONE_PANEL = 8  # lines, beyond which each target gets a panel of its own
MARKERS = "osD^vP*X<>hp"  # with twelve organs, colours repeat; pairs of colour and marker do not


def plot_dsc(results: pd.DataFrame, *, ax: Axes | None = None) -> Axes | np.ndarray:
    """Draw DSC against the number of clicks: mean over cases, and in a band the interquartile range.

    Up to `ONE_PANEL` lines share a panel: colour and marker by target, line style by model; for a single target, colour
    and marker are by model too. More lines get a small panel for each target, with a line for each model.

    Args:
        results: Tidy table with columns case, target, model, click, dsc.
        ax: Axes to draw in, all lines in one panel; default: a new figure.

    Returns:
        The axes; with small panels their array, of which those without a target are switched off.

    Raises:
        SegAnyPETError: A column is missing, or the table has no rows.
    """
    import matplotlib.pyplot as plt

    _check_columns(results)
    targets, models = results["target"].unique(), results["model"].unique()
    if ax is None and len(targets) > 1 and results[["target", "model"]].drop_duplicates().shape[0] > ONE_PANEL:
        figure, axes = _panels(len(targets))
        for panel, target in zip(axes.flat, targets, strict=False):
            _draw_lines(panel, results[results["target"] == target], {(target, model): model for model in models})
            panel.set_title(target, fontsize="small")
        handles = axes.flat[0].get_legend_handles_labels()
        literal(figure.legend(*handles, loc="outside lower center", ncols=4, fontsize="small"))
        figure.supxlabel("clicks", fontsize="small")
        figure.supylabel("DSC", fontsize="small")
        return axes
    if ax is None:
        _, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    _draw_lines(ax, results, {(target, model): f"{target}, {model}" for target in targets for model in models})
    ax.set(xlabel="clicks", ylabel="DSC")
    literal(ax.legend(fontsize="small"))
    return ax


def plot_boxes(results: pd.DataFrame, *, click: int | None = None, measure: str = "dsc") -> Axes:
    """Draw boxes of a measure for each organ and model: quartiles, whiskers to 1.5 of their distance, cases beyond.

    Args:
        results: Tidy table with columns case, target, model, click and the measure.
        click: Round; default: the last.
        measure: Column to draw.

    Returns:
        The axes, with one group of boxes for each target and the number of cases below its name.

    Raises:
        SegAnyPETError: A column is missing, or the table has no rows.
    """
    import matplotlib.pyplot as plt

    _check_columns(results, measure)
    at = results[results["click"] == (results["click"].max() if click is None else click)]
    at = at[at[measure].notna()]
    targets, models = list(at["target"].unique()), list(at["model"].unique())
    _, ax = plt.subplots(figsize=(max(6, 0.35 * len(targets) * (len(models) + 1)), 4), layout="constrained")
    width = 0.8 / max(len(models), 1)
    for number, (model, colour) in enumerate(zip(models, cycle(COLOURS), strict=False)):
        values = [at[(at["target"] == one) & (at["model"] == model)][measure].astype(float) for one in targets]
        places = [place - 0.4 + (number + 0.5) * width for place in range(len(targets))]
        boxes = ax.boxplot(values, positions=places, widths=0.85 * width, patch_artist=True, manage_ticks=False,
                           flierprops={"markersize": 3}, medianprops={"color": "black", "linewidth": 1.6})  # fmt: skip
        for box in boxes["boxes"]:
            box.set(facecolor=colour, alpha=0.6)
        ax.plot([], [], "s", color=colour, alpha=0.6, label=model)
    cases = [at[at["target"] == target]["case"].nunique() for target in targets]
    labels = [f"{target}\nn = {n}" for target, n in zip(targets, cases, strict=True)]
    ax.set_xticks(range(len(targets)), labels, rotation=40, ha="right", fontsize="small")
    ax.set(ylabel=measure.upper() if measure in ("dsc", "nsd") else measure.replace("_", " "))
    ax.grid(axis="y", alpha=0.3)
    literal(ax.legend(fontsize="small"))
    return ax


def plot_cases(
    cohort: Iterable[Any], masks: str | os.PathLike, models: Sequence[str], target: str, *, count: int = 4
) -> np.ndarray:
    """Draw a qualitative figure: the same slice of some cases, truth beside the masks that a study saved.

    Args:
        cohort: Cases, of which the first `count` are drawn that have the target and all masks.
        masks: Folder that a study was given as `save_masks`.
        models: Models to draw, one column each.
        target: What is drawn, such as "liver" or "lesions".
        count: Number of cases, one row each.

    Returns:
        Axes, (cases, 1 + models): the truth in the first column; each is the axial slice with most of the truth.

    Raises:
        SegAnyPETError: No case has the target and the masks.
    """
    found = []
    for case in cohort:
        paths = [mask_path(masks, case.name, model, target) for model in models]
        pet = case.load_pet()
        truth = next((mask for name, mask in case.targets(pet, [target]) if name == target and mask.any()), None)
        if truth is not None and all(path.is_file() for path in paths):
            found.append((case.name, pet, [truth, *(load_labels(path, like=pet) > 0 for path in paths)]))
        if len(found) == count:
            break
    if not found:
        raise SegAnyPETError(f"{masks} holds no case with masks of {target} by {', '.join(models)}.")
    _, axes = _panels(len(found) * (1 + len(models)), columns=1 + len(models), share=False)
    for row, (name, pet, drawn) in zip(axes, found, strict=True):
        number = int(slices_of(drawn[0], pet).sum((1, 2)).argmax())
        stack = slices_of(pet.data, pet)
        shown = stack[number]
        for ax, title, mask in zip(row, ["truth", *models], drawn, strict=True):
            ax.imshow(shown, cmap="gray_r", vmin=0, vmax=np.percentile(shown, 99.5))
            ax.contour(slices_of(mask, pet)[number], [0.5], colors=[COLOURS[1]], linewidths=1)
            ax.set_title(title, fontsize="small")
            ax.set(xticks=[], yticks=[])
        row[0].set_ylabel(f"{name}\nslice {number + 1} of {len(stack)}", fontsize="x-small")
    return axes


def _check_columns(results: pd.DataFrame, measure: str = "dsc") -> None:
    missing = {"case", "target", "model", "click", measure} - set(results.columns)
    if missing or results.empty:
        lacks = f"lacks column {', '.join(sorted(missing))}" if missing else "has no rows"
        raise SegAnyPETError(
            f"the table of results {lacks}; expected case, target, model, click and {measure}, as evaluate() returns "
            "them."
        )


def _panels(count: int, columns: int = 4, share: bool = True) -> tuple[Any, np.ndarray]:
    """A figure of small panels, (rows, columns); those beyond `count` are switched off."""
    import matplotlib.pyplot as plt

    columns = min(columns, count)
    rows = -(-count // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.4 * columns, 1.9 * rows + 0.8), layout="constrained", sharex=share, sharey=share,
        squeeze=False,
    )  # fmt: skip
    for ax in axes.flat[count:]:
        ax.set_axis_off()
    return figure, axes


def _draw_lines(ax: Axes, results: pd.DataFrame, labels: Mapping[tuple[str, str], str]) -> None:
    """A line and a band for each target and model that has values."""
    by = "target" if results["target"].nunique() > 1 else "model"
    models = list(dict.fromkeys(model for _, model in labels))
    names = list(results["target"].unique()) if by == "target" else models
    looks = dict(zip(names, zip(cycle(COLOURS), cycle(MARKERS), strict=False), strict=False))
    styles = dict(zip(models, cycle(["-", "--", ":", "-."]), strict=False))
    for (target, model), rows in results[results["dsc"].notna()].groupby(["target", "model"], sort=False):
        by_click = rows.groupby("click")["dsc"]
        mean = by_click.mean()
        colour, marker = looks[target if by == "target" else model]
        ax.plot(mean, marker + styles[model], color=colour, markersize=4, label=labels[target, model])
        ax.fill_between(mean.index, by_click.quantile(0.25), by_click.quantile(0.75), color=colour, alpha=0.12)
    ax.set(ylim=(-0.02, 1.02), xticks=sorted(results["click"].unique()))
    ax.grid(alpha=0.3)


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
