"""Pictures of PET: maximum intensity projection, orthogonal slices, PET over CT.

The axes of a picture are millimetres along the voxel axes, from the edge of the first voxel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from seganypet.errors import GeometryError, UnitError
from seganypet.pet.quantification import Masks
from seganypet.pet.resampling import resample_to
from seganypet.pet.views import COLOURS, VIEWS, ijk_to_ras, ras_spacing, to_ras
from seganypet.pet.volume import Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage
    from matplotlib.legend import Legend

    from seganypet.prompting.prompts import Prompt

# An object drawn over a picture: name, colour, voxels along the axes of `to_ras`.
Outline = tuple[str, str, np.ndarray]


def show_mip(
    volume: Volume, mask: Masks | None = None, *, ax: Axes | None = None, vmax: float | None = None
) -> Axes:
    """Draw the coronal maximum intensity projection, dark where uptake is high.

    Args:
        volume: Volume on any grid: oblique, left-handed, axes in any order.
        mask: Objects drawn as outline and tint, shape of `volume`: a bool mask; a label map, with a colour for each
            label; or several bool masks by name, with a legend.
        ax: Axes to draw in, with the range of intensities in the title; default: a new figure with a colour bar.
        vmax: Darkest intensity, in `volume.unit`; default: SUV 7, HU 240, or the 99.5th percentile.

    Returns:
        The axes, in mm.

    Raises:
        GeometryError: The mask has another shape.
    """
    import matplotlib.pyplot as plt

    outlines = [(name, colour, np.any(voxels, axis=1)) for name, colour, voxels in outlines_of(mask, volume)]
    data = to_ras(volume.data, volume).max(axis=1)
    own_figure = ax is None
    if own_figure:
        width_mm, height_mm = np.array(data.shape) * np.array(ras_spacing(volume))[[0, 2]]
        _, ax = plt.subplots(figsize=(np.clip(6 * width_mm / height_mm, 2, 12) + 0.9, 6.4), layout="constrained")
    _draw("coronal", data, outlines, volume, ax, vmax)
    _legend(ax, outlines)
    if own_figure:
        ax.set_title("maximum intensity projection")
        _colour_bar([ax], ax.images[0], volume)
    else:
        low, high = ax.images[0].get_clim()
        ax.set_title(f"maximum intensity projection\n{volume.unit} {low:.3g} to {high:.3g}", fontsize="medium")
    return ax


def show_slices(
    volume: Volume,
    mask: Masks | None = None,
    *,
    at_ijk: tuple[int, int, int] | None = None,
    clicks: Sequence[Prompt] = (),
    axes: Sequence[Axes] | np.ndarray | None = None,
    vmax: float | None = None,
    field_mm: float | None = None,
) -> np.ndarray:
    """Draw the axial, coronal and sagittal slices through one voxel.

    Args:
        volume: Volume on any grid.
        mask: Objects, as for `show_mip`.
        at_ijk: Voxel to cut through; default: the last click, else the middle of the mask, else of the volume.
        clicks: Clicks, or prompts of other kinds. Their marks are drawn in the slices that they lie in: a disc for a
            foreground voxel, a cross for a background one, a line for several that are joined.
        axes: Three axes to draw in; default: a new figure with a colour bar.
        vmax: Darkest intensity, as for `show_mip`.
        field_mm: Width and height of the field of view around the voxel; default: the whole slice.

    Returns:
        The three axes, shape (3,).

    Raises:
        ClickError: `at_ijk` or a click lies outside the volume.
        GeometryError: The mask has another shape.
    """
    outlines = outlines_of(mask, volume)
    if at_ijk is None and clicks:
        at_ijk = clicks[-1].centre_ijk
    if at_ijk is not None:
        at_ras = ijk_to_ras(at_ijk, volume)
    elif outlines:
        inside = np.any([voxels for *_, voxels in outlines], axis=0)
        at_ras = tuple(int(np.median(indices)) for indices in np.nonzero(inside))
    else:
        at_ras = tuple(size // 2 for size in to_ras(volume.data, volume).shape)
    marks = [
        (np.array([ijk_to_ras(ijk, volume) for ijk in mark.path_ijk]), mark.foreground)
        for prompt in clicks
        for mark in prompt.marks
    ]
    spacing = np.array(ras_spacing(volume))
    own_figure = axes is None
    if own_figure:
        axes = _three_axes(volume)
    for ax, (view, (across, up, through, *_)) in zip(axes, VIEWS.items(), strict=True):
        data = to_ras(volume.data, volume).take(at_ras[through], axis=through)
        cut = [(name, colour, voxels.take(at_ras[through], axis=through)) for name, colour, voxels in outlines]
        middle_mm = [(at_ras[axis] + 0.5) * spacing[axis] for axis in (across, up)]
        _draw(view, data, cut, volume, ax, vmax, None if field_mm is None else (*middle_mm, field_mm))
        for path_ras, foreground in marks:
            path_mm = ((path_ras + 0.5) * spacing)[path_ras[:, through] == at_ras[through]]
            marker, colour = ("o", "#56B4E9") if foreground else ("X", "#E69F00")
            if len(path_mm):
                style = {"marker": marker, "markeredgecolor": "black", "markersize": 8} if len(path_mm) == 1 else {}
                ax.plot(*path_mm[:, [across, up]].T, color=colour, **style)
        ax.set_title(view)
    _legend(axes[0], outlines)
    if own_figure:
        _colour_bar(axes, axes[0].images[0], volume)
    return np.asarray(axes)


def show_fused(
    volume: Volume,
    ct: Volume,
    *,
    at_ijk: tuple[int, int, int] | None = None,
    vmax: float | None = None,
) -> np.ndarray:
    """Draw PET in colour over CT in grey: axial, coronal and sagittal slices through one voxel.

    Args:
        volume: PET on any grid.
        ct: CT in HU; resampled to the grid of `volume` if it lies on another.
        at_ijk: Voxel of `volume` to cut through; default: its middle.
        vmax: Brightest intensity of the PET, with the defaults of `show_mip`.

    Returns:
        The three axes, shape (3,).

    Raises:
        UnitError: `ct` is not in HU.
        ClickError: `at_ijk` lies outside the volume.
    """
    if ct.unit != "HU":
        raise UnitError(f"{ct.source} is in {ct.unit}; expected a CT in HU, as show_fused(pet, ct).")
    if ct.shape != volume.shape or not np.allclose(ct.affine, volume.affine, atol=1e-3):
        ct = resample_to(ct, volume)
    if at_ijk is None:
        i, j, k = volume.shape
        at_ijk = i // 2, j // 2, k // 2
    axes = show_slices(ct, at_ijk=at_ijk, axes=_three_axes(volume))
    at_ras, pet = ijk_to_ras(at_ijk, volume), to_ras(volume.data, volume)
    lowest, highest = usual_intensity_range(volume.data, volume.unit)
    highest = highest if vmax is None else vmax
    for ax, (name, view) in zip(axes, VIEWS.items(), strict=True):
        data = pet.take(at_ras[view.through], axis=view.through)
        alpha = 0.8 * np.clip(data / highest, 0, 1) ** 0.5  # transparent where there is no uptake
        image = _draw_slice(ax, name, data, volume, cmap="hot", vmin=lowest, vmax=highest, alpha=alpha.T)
    _colour_bar(axes, image, volume)
    return axes


def _three_axes(volume: Volume) -> np.ndarray:
    """A new figure for axial, coronal and sagittal slices, all at one scale."""
    import matplotlib.pyplot as plt

    size_mm = np.array(ras_spacing(volume)) * to_ras(volume.data, volume).shape
    widths_mm = size_mm[[0, 0, 1]]
    width = np.clip(5.2 * widths_mm.sum() / size_mm[1:].max() + 1.4, 7, 14)
    return plt.subplots(1, 3, figsize=(width, 5.6), width_ratios=widths_mm.tolist(), layout="constrained")[1]


def _draw(
    view: str,
    data: np.ndarray,
    outlines: list[Outline],
    volume: Volume,
    ax: Axes,
    vmax: float | None,
    field: tuple[float, float, float] | None = None,
) -> None:
    """Draw one picture, (across, up) as in `VIEWS`, with the outlines of its masks.

    `field` is the field of view in mm: its centre, across and up, and its width, which is also its height.
    """
    from matplotlib.colors import ListedColormap

    # CT is shown white on black in a soft tissue range, PET black on white from zero.
    greys = "gray" if volume.unit == "HU" else "gray_r"
    lowest, highest = usual_intensity_range(data, volume.unit)
    highest = highest if vmax is None else vmax
    extent = _draw_slice(ax, view, data, volume, cmap=greys, vmin=lowest, vmax=highest).get_extent()
    for _, colour, outline in outlines:
        if outline.any():
            tint = np.ma.masked_equal(outline, False)
            _draw_slice(ax, view, tint, volume, cmap=ListedColormap([colour]), alpha=0.2)
            if min(outline.shape) > 1:  # matplotlib finds no contour in a single row
                ax.contour(outline.T, levels=[0.5], colors=[colour], linewidths=1.2, origin="lower", extent=extent)
    low, shown_mm, bottom, tall_mm = extent
    if field is not None:
        across_mm, up_mm, shown_mm = field
        low, bottom, tall_mm = across_mm - shown_mm / 2, up_mm - shown_mm / 2, shown_mm
    ax.set(xlim=(low + shown_mm, low), ylim=(bottom, bottom + tall_mm), aspect="equal", xticks=[], yticks=[])
    ink = "white" if volume.unit == "HU" else "black"
    ax.text(0.01, 0.5, VIEWS[view].left, ha="left", va="center", color=ink, transform=ax.transAxes)
    ax.text(0.99, 0.5, VIEWS[view].right, ha="right", va="center", color=ink, transform=ax.transAxes)
    bar_mm = next((size for size in (100, 50, 20, 10, 5, 2, 1) if size < shown_mm / 3), shown_mm / 3)
    bar_x, bar_y = low + 0.96 * shown_mm, bottom + 0.03 * tall_mm
    ax.plot([bar_x, bar_x - bar_mm], [bar_y, bar_y], color=ink, linewidth=2)
    ax.annotate(f"{bar_mm:g} mm", (bar_x, bar_y), xytext=(0, 3), textcoords="offset points", color=ink)


def _draw_slice(ax: Axes, view: str, data: np.ndarray, volume: Volume, **style: Any) -> AxesImage:
    """Draw one slice, (across, up) as in `VIEWS`, in mm."""
    spacing = ras_spacing(volume)
    extent = (0, data.shape[0] * spacing[VIEWS[view].across], 0, data.shape[1] * spacing[VIEWS[view].up])
    return ax.imshow(data.T, interpolation="nearest", origin="lower", extent=extent, **style)


def _legend(ax: Axes, outlines: list[Outline]) -> None:
    """A legend of the masks that have a name, below the picture so that it covers nothing."""
    from matplotlib.patches import Patch

    named = [Patch(facecolor=colour, label=name) for name, colour, _ in outlines if name]
    if named:
        literal(ax.legend(handles=named, fontsize="small", ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.01)))


def literal(legend: Legend) -> None:
    """Show the names of a legend as they are: to matplotlib, a `$` begins a formula."""
    for text in legend.get_texts():
        text.set_parse_math(False)


def _colour_bar(axes: Sequence[Axes] | np.ndarray, image: AxesImage, volume: Volume) -> None:
    """A colour bar for `image`, shared by all axes."""
    unit = "SUVbw (g/mL)" if volume.unit == "SUVbw" else volume.unit
    bar = axes[0].figure.colorbar(image, ax=list(axes), shrink=0.6, aspect=30, pad=0.02, extend="max")
    bar.set_label(unit)


def usual_intensity_range(data: np.ndarray, unit: str) -> tuple[float, float]:
    """Lowest and highest intensity of a picture of `data`: soft tissue for HU, 0 to 7 for SUV."""
    if unit == "HU":
        return -160.0, 240.0
    return 0.0, 7.0 if unit == "SUVbw" else max(float(np.percentile(data, 99.5)), 1e-3)


def outlines_of(mask: Masks | None, volume: Volume) -> list[Outline]:
    """Every object of a mask; names are blank unless they were given.

    Raises:
        GeometryError: A mask has another shape than `volume`.
    """
    if mask is None:
        return []
    named = mask if isinstance(mask, Mapping) else {"": mask}
    outlines = []
    for number, (name, one) in enumerate(named.items()):
        one = np.asarray(one)
        if one.shape != volume.shape:
            raise GeometryError(
                f"mask {name}{' ' * bool(name)}of shape {one.shape} does not fit {volume.source} of shape "
                f"{volume.shape}; draw it over the volume that it belongs to."
            )
        one = to_ras(one, volume)
        for label in (int(label) for label in np.unique(one) if label):
            outlines.append((str(name), COLOURS[(number + label - 1) % len(COLOURS)], one == label))
    return outlines
