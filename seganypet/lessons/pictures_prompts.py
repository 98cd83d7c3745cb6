"""Sliders on clicks: windows, effort, scattered lesions. Each function returns an `Explorer`."""

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from scipy import ndimage

from seganypet.lessons.explorer import Explorer
from seganypet.lessons.pictures_pet import DARKEST_SUV
from seganypet.metrics import dice
from seganypet.pet.physiology import without_physiology
from seganypet.pet.views import COLOURS, ijk_to_ras, ras_spacing, to_ras
from seganypet.pet.volume import Volume
from seganypet.prompting.window import sample_window, window_around
from seganypet.regions import CONNECTED_26

if TYPE_CHECKING:
    import pandas as pd


def window_view(volume: Volume, centre_ijk: tuple[int, int, int], size: int, logits_size: int) -> Explorer:
    """Where a network's window lies and how coarse it is: the scan, what is seen, and the grid of the answer.

    Args:
        volume: PET in SUVbw.
        centre_ijk: Voxel that the window is centred on.
        size: Voxels along each side of the window.
        logits_size: Voxels along each side of the network's answer.
    """
    data, spacing = to_ras(volume.data, volume), ras_spacing(volume)
    here, centre_mm = ijk_to_ras(centre_ijk, volume), volume.to_mm(centre_ijk)

    def draw(figure: Figure, spacing_mm: float = 4.0, up_mm: float = 0.0) -> str:
        window = window_around(volume, centre_mm + (0, 0, up_mm), size, spacing_mm)
        seen = sample_window(volume, window)
        coarse = torch.nn.functional.avg_pool3d(seen, size // logits_size)
        middle_mm = np.asarray(window.corner_mm) + (size - 1) / 2 * spacing_mm
        scan, near, answer = figure.subplots(1, 3)
        scan.imshow(data[:, here[1]][::-1].T, origin="lower", cmap="gray_r", vmin=0, vmax=DARKEST_SUV,
                    extent=(0, data.shape[0] * spacing[0], 0, data.shape[2] * spacing[2]))  # fmt: skip
        centre = ijk_to_ras(
            np.clip(np.rint(volume.to_ijk(middle_mm)), 0, np.array(volume.shape) - 1).astype(int), volume
        )
        side = size * spacing_mm
        left = (data.shape[0] - centre[0] - 0.5) * spacing[0] - side / 2
        bottom = (centre[2] + 0.5) * spacing[2] - side / 2
        scan.add_patch(_rectangle(left, bottom, side))
        scan.set(title="the scan, and the window", xlabel="mm", ylabel="mm")
        for ax, cube, title in ((near, seen, "what is seen"), (answer, coarse, "the grid of the answer")):
            ax.imshow(
                cube[0, 0, :, cube.shape[3] // 2].flip(0).T.numpy(),
                origin="lower",
                cmap="gray_r",
                vmin=0,
                vmax=DARKEST_SUV,
            )
            ax.set(title=title, xticks=[], yticks=[])
        answer_mm = side / logits_size
        return f"{side:.0f} mm a side; an answer's voxel is {answer_mm:.1f} mm, {(answer_mm / 10) ** 3:.2f} mL"

    controls = {"spacing_mm": (1.0, 6.0, 0.5), "up_mm": (-300.0, 300.0, 10.0)}
    return Explorer(
        draw, controls, (9.5, 3.8), {"spacing_mm": "voxels of the window, mm", "up_mm": "towards the head, mm"}
    )


def effort_curves(curve: "pd.DataFrame") -> Explorer:
    """DSC against seconds, for a person who needs more or less of them for a click.

    Args:
        curve: Table of `sap.effort`.
    """
    groups = list(dict.fromkeys(curve["group"]))
    columns = ("total_clicks", "model_seconds", "dsc")
    lines = {
        key: [rows[column].to_numpy(float) for column in columns]
        for key, rows in curve.groupby(["group", "model"], sort=False)
    }
    names = list(dict.fromkeys(name for _, name in lines))

    def draw(figure: Figure, seconds_per_click: float = 2.0, group: str = groups[0], minute: bool = False) -> str:
        ax, best = figure.subplots(), {}
        for (of, name), (clicks, model_seconds, dsc) in lines.items():
            if of != group:
                continue
            seconds = clicks * seconds_per_click + model_seconds
            ax.plot(seconds, dsc, "o-", color=COLOURS[names.index(name) % len(COLOURS)], label=name)
            if (seconds <= 60).any():
                best[name] = dsc[seconds <= 60].max()
        ax.set(xlabel="seconds for a target", ylabel="DSC", ylim=(0, 1), xscale="linear" if minute else "log")
        if minute:
            ax.set_xlim(0, 60)
        ax.legend(fontsize=8, loc="lower right")
        return "best within a minute: " + ", ".join(f"{name} {dsc:.2f}" for name, dsc in best.items())

    controls = {"seconds_per_click": (0.5, 15.0, 0.5), "group": groups, "minute": False}
    return Explorer(
        draw, controls, (7, 3.4), {"seconds_per_click": "seconds per click", "minute": "only the first minute"}
    )


def best_of_many() -> Explorer:
    """A network whose clicks do not help at all, reported by its best click so far."""
    normal = np.random.default_rng(0).normal(size=(400, 30))

    def draw(figure: Figure, clicks: int = 5, spread: float = 0.08, true_dsc: float = 0.75) -> str:
        dsc = np.clip(true_dsc + spread * normal[:, :clicks], 0, 1)
        best, steps = np.maximum.accumulate(dsc, axis=1), np.arange(1, clicks + 1)
        ax = figure.subplots()
        ax.plot(steps, dsc.mean(0), "o-", color=COLOURS[1], label="DSC after this click")
        ax.plot(steps, best.mean(0), "s-", color=COLOURS[0], label="best DSC so far")
        ax.set(xlabel="clicks", ylabel="mean DSC of 400 targets", ylim=(0.4, 1))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.legend(loc="lower right")
        return f"after {clicks} clicks {dsc[:, -1].mean():.2f}, reported as {best[:, -1].mean():.2f}"

    controls = {"clicks": (1, 30, 1), "spread": (0.0, 0.2, 0.01), "true_dsc": (0.5, 0.95, 0.01)}
    return Explorer(draw, controls, (6.5, 3.2), {"spread": "spread of a click", "true_dsc": "true DSC"})


def ceiling() -> Explorer:
    """The best DSC that a perfect network can have if each click draws one lesion."""
    normal = np.sort(np.random.default_rng(0).normal(size=60))

    def draw(figure: Figure, lesions: int = 30, unevenness: float = 1.0) -> str:
        volumes = np.exp(unevenness * normal[np.linspace(0, 59, lesions).astype(int)])[::-1]
        found = np.cumsum(volumes)
        best = 2 * found / (found + volumes.sum())
        bars, curve = figure.subplots(1, 2)
        bars.bar(np.arange(1, lesions + 1), 100 * volumes / volumes.sum(), color=COLOURS[1])
        bars.set(xlabel="lesion", ylabel="% of the burden")
        curve.plot(np.arange(1, lesions + 1), best, "o-", color=COLOURS[0], markersize=3)
        curve.axhline(0.9, color="grey", linestyle="--")
        curve.set(xlabel="clicks", ylabel="best possible DSC", ylim=(0, 1.02))
        return f"one click: {best[0]:.2f}; DSC 0.9 takes {np.argmax(best >= 0.9) + 1} clicks"

    controls = {"lesions": (1, 60, 1), "unevenness": (0.0, 2.5, 0.1)}
    return Explorer(draw, controls, (9, 3.2))


def burden(volume: Volume, truth: np.ndarray, physiology: np.ndarray | None) -> Explorer:
    """A threshold on the whole scan: what it finds, what it misses, and what healthy organs add.

    Args:
        volume: PET in SUVbw.
        truth: All lesions, bool.
        physiology: Healthy hot organs, bool; None if unknown.
    """
    lesions, count = ndimage.label(truth, CONNECTED_26)
    numbers = np.arange(1, count + 1)
    projected = to_ras(volume.data, volume).max(1)
    aspect = ras_spacing(volume)[2] / ras_spacing(volume)[0]

    @cache
    def found(threshold_suv: float, no_organs: bool) -> tuple[Any, Any, str]:
        mask = volume.data >= threshold_suv
        if no_organs and physiology is not None:
            mask = without_physiology(volume, mask, physiology)
        pieces, _ = ndimage.label(mask, CONNECTED_26)
        touching = np.isin(pieces, np.unique(pieces[truth & mask])) & mask
        hit = np.asarray(ndimage.maximum(mask, lesions, numbers)).astype(bool)
        ml = volume.voxel_volume_ml
        said = (
            f"{mask.sum() * ml:.0f} mL found, {truth.sum() * ml:.0f} mL true; {hit.sum()} of {count} lesions touched; "
            f"FPV {(mask & ~touching).sum() * ml:.0f} mL; DSC {dice(mask, truth):.2f}"
        )
        right, false = (np.any(to_ras(one, volume), axis=1) for one in (mask & truth, mask & ~truth))
        return right, false, said

    def draw(figure: Figure, threshold_suv: float = 4.0, no_organs: bool = False) -> str:
        right, false, said = found(threshold_suv, no_organs)
        plain, marked = figure.subplots(1, 2)
        for ax in (plain, marked):
            ax.imshow(projected[::-1].T, origin="lower", cmap="gray_r", vmin=0, vmax=DARKEST_SUV, aspect=aspect)
            ax.set_axis_off()
        for mask, colour in ((false, COLOURS[0]), (right, COLOURS[2])):
            if mask.any():
                marked.contourf(mask[::-1].T, [0.5, 1.5], colors=colour, alpha=0.6)
        marked.set_title("green: lesions; orange: no lesion", fontsize=9)
        return said

    controls: dict = {"threshold_suv": (2.0, 10.0, 0.5), "no_organs": False}
    words = {"threshold_suv": "threshold, SUV", "no_organs": "hot organs removed"}
    return Explorer(
        draw, controls, (6.5, 5.6), words, {"left": 0.01, "right": 0.99, "bottom": 0.01, "top": 0.94, "wspace": 0.02}
    )


def limits_of_agreement() -> Explorer:
    """Bland and Altman on made-up lesions: number, bias, spread, and one leak."""
    normal = np.random.default_rng(3).normal(size=(2, 100))

    def draw(
        figure: Figure, lesions: int = 20, bias_percent: float = 10.0, spread_percent: float = 15.0, leak: bool = False
    ) -> str:
        mean_ml = 10 ** (0.8 + 0.5 * normal[0, :lesions])
        difference = bias_percent + spread_percent * normal[1, :lesions]
        if leak:
            difference[0] = 180.0
        middle, spread = difference.mean(), difference.std(ddof=1)
        ax = figure.subplots()
        ax.scatter(mean_ml, difference, color=COLOURS[1], s=18)
        for line, style in ((middle, "-"), (middle - 1.96 * spread, "--"), (middle + 1.96 * spread, "--")):
            ax.axhline(line, color=COLOURS[0], linestyle=style)
        ax.set(xscale="log", xlabel="mean of both volumes, mL", ylabel="difference, %", ylim=(-120, 200))
        low, high = middle - 1.96 * spread, middle + 1.96 * spread
        return f"bias {middle:+.0f} %, limits of agreement {low:+.0f} to {high:+.0f} %"

    controls = {
        "lesions": (3, 100, 1),
        "bias_percent": (-50.0, 50.0, 1.0),
        "spread_percent": (0.0, 50.0, 1.0),
        "leak": False,
    }
    words = {"bias_percent": "bias, %", "spread_percent": "spread, %", "leak": "one lesion leaks"}
    return Explorer(draw, controls, (7, 3.2), words, {"left": 0.1})


def _rectangle(left: float, bottom: float, side: float) -> Rectangle:
    return Rectangle((left, bottom), side, side, fill=False, color=COLOURS[0], linewidth=2)
