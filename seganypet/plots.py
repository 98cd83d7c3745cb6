"""Pictures of PET: maximum intensity projection, orthogonal slices, DSC against clicks.

However a grid lies in the scanner, a picture shows the patient as radiologists expect: head up,
front up in axial slices, the patient's right on the viewer's left. The array is reordered to its
closest RAS axes for that; oblique grids are not resampled, so a picture shows voxels, not guesses.
Across and up a picture run millimetres along the voxel axes, from the edge of the first voxel.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np

from seganypet.errors import ClickError, GeometryError, SegAnyPETError
from seganypet.prompts import Click
from seganypet.volume import Volume

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# Okabe and Ito's colours, told apart with any colour vision and against grey.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osD^vP*X<>hp"  # with twelve organs colours repeat, the pair with its marker does not

# View: (axis across, axis up, letter at the left end, letter at the right end); axes of an RAS array.
# Across always runs downwards in index: the patient's right, or front, stands at the left.
_VIEWS = {"axial": (0, 1, "R", "L"), "coronal": (0, 2, "R", "L"), "sagittal": (1, 2, "A", "P")}


def show_mip(
    volume: Volume, mask: np.ndarray | None = None, *, ax: Axes | None = None, vmax: float | None = None
) -> Axes:
    """Draw the coronal maximum intensity projection, dark where uptake is high.

    Args:
        volume: Any grid: oblique, left-handed, axes in any order.
        mask: Drawn as outline and tint: bool, or a label map with a colour for each label; shape of `volume`.
        ax: Where to draw; a new figure if None.
        vmax: Intensity, in `volume.unit`, drawn darkest. None: SUV 7; HU 240; else the 99.5th percentile.

    Returns:
        The axes, in mm.

    Raises:
        GeometryError: If the mask has another shape.
    """
    mask = _checked_mask(mask, volume)
    data = _to_ras(volume.data, volume).max(axis=1)
    outlines = [(label, (_to_ras(mask, volume) == label).any(axis=1)) for label in _labels(mask)]
    ax = _draw("coronal", data, outlines, volume, ax, vmax)
    ax.set_title("maximum intensity projection")
    return ax


def show_slices(
    volume: Volume,
    mask: np.ndarray | None = None,
    *,
    at_ijk: tuple[int, int, int] | None = None,
    clicks: Sequence[Click] = (),
    axes: Sequence[Axes] | None = None,
    vmax: float | None = None,
) -> np.ndarray:
    """Draw the axial, coronal and sagittal slices through one voxel.

    Args:
        volume: Any grid.
        mask: As for `show_mip`.
        at_ijk: The voxel. None: the last click, else the middle of the mask, else of the volume.
        clicks: Marked in the slices that they lie in: disc for foreground, cross for background.
        axes: Three axes to draw in; a new figure if None.
        vmax: As for `show_mip`.

    Returns:
        The three axes, shape (3,).

    Raises:
        ClickError: If `at_ijk` or a click lies outside the volume.
        GeometryError: If the mask has another shape.
    """
    import matplotlib.pyplot as plt

    mask = _checked_mask(mask, volume)
    if at_ijk is None:
        if clicks:
            at_ijk = clicks[-1].ijk
        elif mask is not None and mask.any():
            at_ijk = tuple(int(np.median(indices)) for indices in np.nonzero(mask))
        else:
            at_ijk = tuple(size // 2 for size in volume.shape)
    at_ras = _ijk_to_ras(at_ijk, volume)
    clicks_ras = [(_ijk_to_ras(click.ijk, volume), click.foreground) for click in clicks]
    if axes is None:
        _, axes = plt.subplots(1, 3, figsize=(12, 4.5), layout="constrained")
    spacing = _ras_spacing(volume)
    for ax, (view, (across, up, *_)) in zip(axes, _VIEWS.items(), strict=True):
        through = ({0, 1, 2} - {across, up}).pop()
        data = _to_ras(volume.data, volume).take(at_ras[through], axis=through)
        labels = None if mask is None else _to_ras(mask, volume).take(at_ras[through], axis=through)
        _draw(view, data, [(label, labels == label) for label in _labels(mask)], volume, ax, vmax)
        for click_ras, foreground in clicks_ras:
            if click_ras[through] == at_ras[through]:
                place = [(click_ras[axis] + 0.5) * spacing[axis] for axis in (across, up)]
                marker, colour = ("o", "#56B4E9") if foreground else ("X", "#E69F00")
                ax.plot(*place, marker, color=colour, markeredgecolor="black", markersize=8)
        ax.set_title(view)
    return np.asarray(axes)


def plot_dsc(results: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw DSC against the number of clicks: colour and marker say the target, the line's style the model.

    Args:
        results: Tidy table with columns case, target, model, click, dsc.
        ax: Where to draw; a new figure if None.

    Returns:
        The axes. A line is the mean over cases, its band their middle half.

    Raises:
        SegAnyPETError: If a column is missing or the table has no rows.
    """
    import matplotlib.pyplot as plt

    missing = {"case", "target", "model", "click", "dsc"} - set(results.columns)
    if missing or results.empty:
        lacks = f"lacks column {', '.join(sorted(missing))}" if missing else "has no rows"
        raise SegAnyPETError(
            f"the table of results {lacks}; needed are case, target, model, click and dsc, as evaluate() returns them."
        )
    if ax is None:
        _, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    looks = dict(zip(results["target"].unique(), zip(cycle(COLOURS), cycle(MARKERS), strict=False), strict=False))
    styles = dict(zip(results["model"].unique(), cycle(["-", "--", ":", "-."]), strict=False))
    for (target, model), rows in results.groupby(["target", "model"], sort=False):
        by_click = rows.groupby("click")["dsc"]
        mean = by_click.mean()
        colour, marker = looks[target]
        ax.plot(mean, marker + styles[model], color=colour, markersize=4, label=f"{target}, {model}")
        ax.fill_between(mean.index, by_click.quantile(0.25), by_click.quantile(0.75), color=colour, alpha=0.12)
    ax.set(xlabel="clicks", ylabel="DSC", ylim=(0, 1), xticks=sorted(results["click"].unique()))
    ax.grid(alpha=0.3)
    ax.legend(fontsize="small")
    return ax


def _draw(
    view: str,
    data: np.ndarray,
    outlines: list[tuple[int, np.ndarray]],
    volume: Volume,
    ax: Axes | None,
    vmax: float | None,
) -> Axes:
    """Draw one picture, (across, up) as in `_VIEWS`, with the outlines of its masks."""
    import matplotlib.pyplot as plt
    from matplotlib.colors import ListedColormap

    across, up, left_letter, right_letter = _VIEWS[view]
    spacing = _ras_spacing(volume)
    width_mm, height_mm = data.shape[0] * spacing[across], data.shape[1] * spacing[up]
    if ax is None:
        _, ax = plt.subplots(figsize=(np.clip(6 * width_mm / height_mm, 2, 12), 6), layout="constrained")
    place = {"origin": "lower", "extent": (0, width_mm, 0, height_mm)}
    # CT is read white on black between its soft tissue limits, PET black on white from zero.
    lowest, darkest, greys = (-160, 240, "gray") if volume.unit == "HU" else (0, 7, "gray_r")
    if volume.unit == "Bq/mL":
        darkest = np.percentile(data, 99.5)
    ax.imshow(data.T, cmap=greys, vmin=lowest, vmax=darkest if vmax is None else vmax, interpolation="nearest", **place)
    for label, outline in outlines:
        if outline.any():
            colour = COLOURS[(label - 1) % len(COLOURS)]
            tint = np.ma.masked_equal(outline.T, False)
            ax.imshow(tint, cmap=ListedColormap([colour]), alpha=0.2, interpolation="nearest", **place)
            if min(outline.shape) > 1:  # matplotlib finds no contour in a single row
                ax.contour(outline.T, levels=[0.5], colors=[colour], linewidths=1.2, **place)
    ax.set(xlim=(width_mm, 0), ylim=(0, height_mm), aspect="equal", xticks=[], yticks=[])
    style = {"transform": ax.transAxes, "color": "white" if volume.unit == "HU" else "black", "va": "center"}
    ax.text(0.01, 0.5, left_letter, ha="left", **style)
    ax.text(0.99, 0.5, right_letter, ha="right", **style)
    bar_mm = next((size for size in (100, 50, 20, 10, 5, 2, 1) if size < width_mm / 3), width_mm / 3)
    bar_y = 0.03 * height_mm
    ax.plot([0.96 * width_mm, 0.96 * width_mm - bar_mm], [bar_y, bar_y], color=style["color"], linewidth=2)
    ax.text(0.04, 0.06, f"{bar_mm:g} mm", ha="left", **style)
    return ax


def _to_ras(data: np.ndarray, volume: Volume) -> np.ndarray:
    """View of an array with axes that run to the patient's right, front and head, as nearly as they can."""
    return nib.orientations.apply_orientation(data, nib.orientations.io_orientation(volume.affine))


def _ras_spacing(volume: Volume) -> np.ndarray:
    """Voxel size along the axes of `_to_ras`, in mm."""
    spacing = np.empty(3)
    spacing[nib.orientations.io_orientation(volume.affine)[:, 0].astype(int)] = volume.spacing
    return spacing


def _ijk_to_ras(ijk: tuple[int, int, int], volume: Volume) -> tuple[int, ...]:
    """Indices into `volume.data` to indices into `_to_ras(volume.data)`."""
    if not volume.contains(ijk):
        raise ClickError(
            f"ijk={tuple(ijk)} lies outside {volume.source} of shape {volume.shape}. "
            "If it is in mm, convert it with volume.to_ijk(mm)."
        )
    ras = [0, 0, 0]
    for index, size, (axis, sign) in zip(
        ijk, volume.shape, nib.orientations.io_orientation(volume.affine), strict=True
    ):
        ras[int(axis)] = round(index) if sign > 0 else size - 1 - round(index)
    return tuple(ras)


def _checked_mask(mask: np.ndarray | None, volume: Volume) -> np.ndarray | None:
    """The mask as integers, after its shape was compared with that of the volume."""
    if mask is None:
        return None
    mask = np.asarray(mask)
    if mask.shape != volume.shape:
        raise GeometryError(
            f"mask of shape {mask.shape} does not fit {volume.source} of shape {volume.shape}; "
            "draw it over the volume that it was made on."
        )
    return mask.astype(np.int16)


def _labels(mask: np.ndarray | None) -> list[int]:
    return [] if mask is None else [int(label) for label in np.unique(mask) if label]
