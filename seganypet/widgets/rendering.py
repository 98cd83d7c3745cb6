"""A scan in three dimensions, to turn in a notebook: a rotating MIP, or another package's renderer.

`RotatingMip` needs no graphics card, no network and no live page. NiiVue and itkwidgets render the volume itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import nibabel as nib
import numpy as np
import traitlets

from seganypet.errors import SegAnyPETError
from seganypet.pet.plots import Outline, literal, outlines_of, usual_intensity_range
from seganypet.pet.quantification import Masks
from seganypet.pet.views import COLOURS, ras_affine, ras_spacing, to_ras
from seganypet.pet.volume import Volume
from seganypet.widgets.itk_viewer import itk_frame
from seganypet.widgets.messages import PageSets

if TYPE_CHECKING:
    from ipyniivue import NiiVue
    from itkwidgets.cell_watcher import CellWatcher
    from ngff_zarr import NgffImage

ANGLES = 72  # in a full turn; half of them are computed, from behind one sees the mirror image
STEP_DEG = 360 // ANGLES
PIXELS_ALONG = 256  # the longest side: about 4 mm a pixel for a body from head to thigh
FAINT = 10  # of 255, less than SUV 0.3: need not stay in the picture while it turns
DIRECTIONS = ("R", "AR", "A", "AL", "L", "PL", "P", "PR")  # at the viewer's left, every 45 degrees
PICTURE_ANGLES = (0, 45, 90, 135)
ITK_EXTENSION = "imjoy-jupyterlab-extension"


def view3d(
    volume: Volume, mask: Masks | None = None, backend: str = "mip", *, itk_viewer: str | os.PathLike | None = None
) -> Any:
    """Show a scan in three dimensions; end a notebook cell with the call.

    Args:
        volume: Any grid: oblique, left-handed, axes in any order.
        mask: Shape of `volume`: bool; or a label map, with a colour for each label; or several bool masks by name.
        backend: Renderer.

            - "mip", maximum intensity projections from all around, turned with slider, mouse or keys. Needs
              `seganypet[notebooks]`. Works offline; runs without a page and exported pages show a picture instead.
            - "niivue", slices and a rendering that share a crosshair. Needs `seganypet[notebooks]` and a browser
              with WebGL2. Works offline, in a live page only. Of overlapping masks the last one is seen.
            - "itk", itkwidgets' renderer. Needs `seganypet[itk]`, a live JupyterLab or Notebook 7, and the internet,
              from which its viewer and the scripts of its JupyterLab extension are loaded; that extension is off
              until `make lab ITK=1` or `jupyter labextension enable imjoy-jupyterlab-extension`. Or `itk_viewer`.
              It is refused elsewhere: importing itkwidgets takes over how the kernel runs cells, which stops a run
              that no browser attends. Here it is imported on this request only, and the kernel gets its own way of
              running cells back before the call returns.

        itk_viewer: Folder `dist` of the npm package itk-vtk-viewer, for "itk": the viewer that itkwidgets shows, in a
            frame of any page, without itkwidgets and without the internet; the browser must run on this machine.

    Returns:
        The view: a `RotatingMip`, an `ipyniivue.NiiVue`, an `itkwidgets.Viewer` or, with `itk_viewer`, an `IFrame`.

    Raises:
        GeometryError: If a mask has another shape.
        SegAnyPETError: If the backend is unknown, not installed, or cannot work here; `itk_viewer` holds no viewer.
    """
    itk = partial(_itk, viewer=itk_viewer)
    backends: dict[str, Callable[..., Any]] = {"mip": RotatingMip, "niivue": _niivue, "itk": itk}
    if backend not in backends:
        raise SegAnyPETError(f"backend={backend!r}; expected one of {', '.join(map(repr, backends))}.")
    return backends[backend](volume, mask)


class RotatingMip(PageSets, anywidget.AnyWidget):
    """Maximum intensity projections from all around the patient, dark where uptake is high.

    At 0 degrees one sees the patient from the front, at 90 from the left, at 180 from behind. The turn is about the
    grid's own head-foot axis; oblique grids are not levelled.

    Args:
        volume: Any grid.
        mask: As for `view3d`; shown as tint and outline of its shadow.

    Attributes:
        angle: Degrees, 0 to 359; set it and the browser follows.
        projections: Pictures that are drawn.

    Raises:
        GeometryError: If a mask has another shape.
    """

    _esm = (Path(__file__).with_name("static") / "rotate.js").read_text(encoding="utf-8")  # text, as in ClickWidget

    scene = traitlets.Dict().tag(sync=True)
    angle = traitlets.Int(0, min=0, max=359).tag(sync=True, echo_update=False)

    def __init__(self, volume: Volume, mask: Masks | None = None):
        objects = outlines_of(mask, volume)
        self.projections = Projections(volume, objects)
        super().__init__(
            scene={
                "mips": self.projections.mips.tobytes(),
                "marks": self.projections.marks.tobytes() if objects else b"",
                "shape": self.projections.mips.shape,
                "size_mm": self.projections.size_mm,
                "dark_when_high": volume.unit != "HU",
                "colours": COLOURS,
                "legend": [{"name": name, "colour": colour} for name, colour, _ in objects if name],
                "directions": DIRECTIONS,
            }
        )

    def _repr_mimebundle_(self, **arguments: Any) -> tuple[dict, dict]:
        """The live view, and for pages without one a picture from a few sides."""
        data, metadata = super()._repr_mimebundle_(**arguments)
        return {**data, "image/png": self._picture()}, metadata

    def _picture(self) -> bytes:
        from matplotlib.colors import ListedColormap, to_rgba
        from matplotlib.figure import Figure  # without pyplot, which would choose a backend for the caller
        from matplotlib.patches import Patch

        width_mm, height_mm = self.projections.size_mm
        panel_inches = float(np.clip(4.5 * width_mm / height_mm, 1.5, 6))
        figure = Figure(figsize=(panel_inches * len(PICTURE_ANGLES), 5.2), layout="constrained")
        clear = (0, 0, 0, 0)
        overlay = ListedColormap([clear, *(to_rgba(colour, alpha) for colour in COLOURS for alpha in (0.25, 1))])
        greys = "gray_r" if self.scene["dark_when_high"] else "gray"
        ink = "black" if self.scene["dark_when_high"] else "white"
        for ax, angle in zip(figure.subplots(1, len(PICTURE_ANGLES)), PICTURE_ANGLES, strict=True):
            mip, marks = self.projections.seen_from(angle)
            layout = {"extent": (0, width_mm, 0, height_mm), "aspect": "equal"}
            ax.imshow(mip, cmap=greys, vmin=0, vmax=255, interpolation="bilinear", **layout)
            ax.imshow(marks, cmap=overlay, vmin=0, vmax=2 * len(COLOURS), interpolation="nearest", **layout)
            for x, align, turn in ((0.01, "left", 0), (0.99, "right", 4)):
                letter = DIRECTIONS[(angle // 45 + turn) % 8]
                ax.text(x, 0.5, letter, ha=align, va="center", color=ink, transform=ax.transAxes)
            ax.set(xticks=[], yticks=[], title=f"{angle}\N{DEGREE SIGN}")
        if self.scene["legend"]:
            patches = [Patch(facecolor=entry["colour"], label=entry["name"]) for entry in self.scene["legend"]]
            literal(figure.legend(handles=patches, loc="outside lower center", ncols=6, fontsize="small"))
        content = BytesIO()
        figure.savefig(content, format="png", dpi=80)
        return content.getvalue()


class Projections:
    """A volume and the shadows of its masks, seen from all around.

    Attributes:
        mips: Shape (angles, rows, columns), uint8: 0 to 255 over the usual window. Rows run from head to feet,
            columns from the viewer's left to right. Angles cover half a turn, `STEP_DEG` apart.
        marks: Same shape, uint8: 0 nothing; 2n - 1 inside, 2n on the outline of an object of the n-th colour.
        size_mm: Width and height of a picture.
    """

    def __init__(self, volume: Volume, objects: Sequence[Outline]):
        data = to_ras(volume.data, volume)
        spacing = np.array(ras_spacing(volume))
        # Neighbours are merged by their maximum, so that no peak is lost.
        block = np.maximum(1, np.rint((spacing * data.shape).max() / PIXELS_ALONG / spacing)).astype(int)
        spacing = spacing * block
        merged = _merge(data, block)  # (X, Y, Z)
        low, high = usual_intensity_range(merged.max(axis=1), volume.unit)
        codes = np.rint(255 * ((merged - low) / max(high - low, 1e-6)).clip(0, 1)).astype(np.uint8)
        inside = [_merge_mask(voxels, block, codes.shape) for *_, voxels in objects]

        # Wide enough for whatever can be seen, about its middle: scans have air around the patient.
        seen = np.any([codes.max(axis=2) > FAINT, *(one.any(axis=2) for one in inside)], axis=0)
        visible_mm = (np.argwhere(seen if seen.any() else ~seen) + 0.5) * spacing[:2]
        middle_mm = (visible_mm.min(axis=0) + visible_mm.max(axis=0)) / 2
        radius_mm = np.linalg.norm(visible_mm - middle_mm, axis=1).max() + np.linalg.norm(spacing[:2]) / 2
        pixel_mm = spacing[:2].min()
        columns = 2 * int(np.ceil(radius_mm / pixel_mm))

        self.size_mm = (float(columns * pixel_mm), float(codes.shape[2] * spacing[2]))
        self.mips = _turn(codes, spacing, middle_mm, pixel_mm, columns)
        self.marks = np.zeros_like(self.mips)
        shadows = [_turn(one, spacing, middle_mm, pixel_mm, columns) for one in inside]
        numbers = [COLOURS.index(colour) + 1 for _, colour, _ in objects]
        for number, shadow in zip(numbers, shadows, strict=True):
            self.marks[shadow] = 2 * number - 1
        for number, shadow in zip(numbers, shadows, strict=True):  # last, so that no tint covers an outline
            self.marks[shadow & ~_inner(shadow)] = 2 * number

    def seen_from(self, angle: int) -> tuple[np.ndarray, np.ndarray]:
        """MIP and marks at the computed angle nearest to `angle`, in degrees; each (rows, columns)."""
        index = round(angle / STEP_DEG) % ANGLES
        mirror = slice(None, None, 1 if index < ANGLES // 2 else -1)
        index %= ANGLES // 2
        return self.mips[index, :, mirror], self.marks[index, :, mirror]


def _merge(data: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Maximum over blocks of voxels; the last block of an axis may be cut short."""
    import torch
    from torch.nn.functional import max_pool3d

    voxels = torch.from_numpy(data.copy())[None]  # ascontiguousarray keeps a negative stride on an axis of one voxel
    return max_pool3d(voxels, tuple(block.tolist()), ceil_mode=True)[0].numpy()


def _merge_mask(voxels: np.ndarray, block: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Blocks that hold a voxel of a mask, bool."""
    merged = np.zeros(shape, bool)
    merged[tuple(index // size for index, size in zip(np.nonzero(voxels), block, strict=True))] = True
    return merged


def _turn(
    voxels: np.ndarray, spacing: np.ndarray, middle_mm: np.ndarray, pixel_mm: float, columns: int
) -> np.ndarray:
    """Largest voxel over each pixel from each angle; voxels (X, Y, Z), result (angles, rows, columns), same type.

    A voxel is over a pixel if its shadow holds the pixel's middle. A shadow is at least a pixel wide, so no voxel is
    ever lost: a spot keeps its intensity while it turns, which interpolation would not ensure.
    """
    upright = np.argwhere(voxels.any(axis=2))  # (n, 2): lines of voxels from feet to head
    lines = voxels[tuple(upright.T)][:, ::-1]  # (n, Z), head first
    x_mm, y_mm = ((upright + 0.5) * spacing[:2] - middle_mm).T
    views = np.zeros((ANGLES // 2, columns, voxels.shape[2]), voxels.dtype)
    for view, degrees in zip(views, range(0, 180, STEP_DEG), strict=True):
        cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        across = -x_mm * cos - y_mm * sin  # to the viewer's right
        half = (spacing[0] * abs(cos) + spacing[1] * abs(sin)) / 2
        # Less a little, for a pixel's middle that rounding would put on either side of an edge.
        first, after = (
            np.ceil((across + edge) / pixel_mm + columns / 2 - 0.5 - 1e-6).astype(int).clip(0, columns)
            for edge in (-half, half)
        )
        pixels = first + np.arange((after - first).max(initial=0))[:, None]  # (reach, n)
        which, line = np.nonzero(pixels < after)
        pixels = pixels[which, line]
        order = np.argsort(pixels, kind="stable")
        hit, starts = np.unique(pixels[order], return_index=True)
        if len(hit):
            view[hit] = np.maximum.reduceat(lines[line[order]], starts, axis=0)
    return np.ascontiguousarray(views.transpose(0, 2, 1))


def _inner(shadow: np.ndarray) -> np.ndarray:
    """Pixels all of whose four neighbours are in the shadow, too; (angles, rows, columns)."""
    wide = np.pad(shadow, ((0, 0), (1, 1), (1, 1)))
    return wide[:, :-2, 1:-1] & wide[:, 2:, 1:-1] & wide[:, 1:-1, :-2] & wide[:, 1:-1, 2:]


def _niivue(volume: Volume, mask: Masks | None) -> NiiVue:
    try:
        from ipyniivue import MultiplanarType, NiiVue, ShowRender, SliceType
        from ipyniivue import Volume as Layer
    except ImportError as error:
        raise SegAnyPETError(
            f"backend='niivue' needs the package ipyniivue ({error}): pip install 'seganypet[notebooks]'."
        ) from error

    objects = outlines_of(mask, volume)
    data = to_ras(volume.data, volume)
    low, high = usual_intensity_range(data.max(axis=1), volume.unit)
    is_ct = volume.unit == "HU"  # white on black; a PET is dark where uptake is high, as everywhere here
    ink, paper = ((1.0, 1.0, 1.0, 1.0), (0.0, 0.0, 0.0, 1.0))[:: 1 if is_ct else -1]
    colours = "gray" if is_ct else "inverted"
    layers = [Layer(data=_nifti(data, volume), name="scan.nii", colormap=colours, cal_min=low, cal_max=high)]
    if objects:
        layers.append(Layer(data=_nifti(_label_map(objects), volume), name="mask.nii", opacity=0.4))
        rgb = [[int(colour[at : at + 2], 16) for _, colour, _ in objects] for at in (1, 3, 5)]
        layers[1].set_colormap_label({channel: [0, *values] for channel, values in zip("RGB", rgb, strict=True)})
    viewer = NiiVue(
        height=440,
        slice_type=SliceType.MULTIPLANAR,
        multiplanar_layout=MultiplanarType.ROW,
        multiplanar_show_render=ShowRender.ALWAYS,
        is_radiological_convention=True,
        sagittal_nose_left=True,
        crosshair_color=(0.34, 0.71, 0.91, 1.0),  # red would pass for a mask
        crosshair_width=1.0,
        back_color=paper,
        font_color=ink,
    )
    viewer.scene.render_azimuth, viewer.scene.render_elevation = 180.0, 0.0  # from the front
    # Rendered, what is faint is seen through; the map "gray", inverted, would make a solid box of air.
    viewer.add_colormap("inverted", {"R": [255, 0], "G": [255, 0], "B": [255, 0], "A": [0, 128], "I": [0, 255]})
    viewer.load_volumes(layers)
    return viewer


def _nifti(ras: np.ndarray, volume: Volume) -> bytes:
    """An array in RAS order as the bytes of a NIfTI file; fractions as 16 bit with a slope, half the size."""
    image = nib.Nifti1Image(ras, ras_affine(volume))
    if ras.dtype.kind == "f":
        image.set_data_dtype(np.int16)
    image.header.set_xyzt_units("mm")
    return image.to_bytes()


def _itk(volume: Volume, mask: Masks | None, viewer: str | os.PathLike | None) -> Any:
    if viewer is not None:
        objects, data = outlines_of(mask, volume), to_ras(volume.data, volume)
        labels = _nifti(_label_map(objects), volume) if objects else None
        return itk_frame(
            viewer, _nifti(data, volume), labels, usual_intensity_range(data.max(axis=1), volume.unit)
        )
    _check_live_page()
    if find_spec("itkwidgets") is None:
        raise SegAnyPETError("backend='itk' needs the package itkwidgets: pip install 'seganypet[itk]'.")
    _check_extension()
    objects = outlines_of(mask, volume)
    data = to_ras(volume.data, volume)
    low, high = usual_intensity_range(data.max(axis=1), volume.unit)
    import itkwidgets  # from here on it runs the kernel's cells
    from itkwidgets.cell_watcher import CellWatcher

    try:
        layers = {"image": _ngff(data, volume)}
        if objects:
            layers["label_image"] = _ngff(_label_map(objects), volume)
        return itkwidgets.view(**layers, vmin=low, vmax=high, ui_collapsed=True)
    finally:
        _release(CellWatcher())


def _check_live_page() -> None:
    """Raise unless a page sent the running cell: JupyterLab and Notebook 7 name it; papermill and nbclient do not."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    request = getattr(shell, "parent_header", None) or {}
    if not request.get("metadata", {}).get("cellId"):
        raise SegAnyPETError(
            "backend='itk' needs a live JupyterLab or Notebook 7 page; this code runs in a script, in papermill, "
            "nbclient or Voila, or in another editor, where itkwidgets would hold up every later cell. "
            "Use backend='mip', which works everywhere."
        )


def _check_extension() -> None:
    """Raise if JupyterLab is configured to leave itkwidgets' extension off, as this package configures it."""
    from jupyter_server.services.config.manager import ConfigManager  # itkwidgets needs it, too

    off = ConfigManager(config_dir_name="labconfig").get("page_config").get("disabledExtensions", {})
    if off.get(ITK_EXTENSION):
        raise SegAnyPETError(
            "backend='itk' draws through itkwidgets' JupyterLab extension, which is off, because it asks the internet "
            "whenever JupyterLab opens. If it may: start by make lab ITK=1, or run jupyter labextension enable "
            f"{ITK_EXTENSION} and load the page again. Without the internet: npm install itk-vtk-viewer, then "
            "view3d(..., backend='itk', itk_viewer='node_modules/itk-vtk-viewer/dist')."
        )


def _release(watcher: CellWatcher) -> None:
    """Give the kernel back its own way of running cells.

    The watcher holds each later cell until the viewer has drawn, for ever if the viewer cannot be loaded; it is there
    for code that asks the viewer for values, which `view3d` does not.
    """
    handlers = watcher.kernel.shell_handlers
    if handlers["execute_request"] != watcher.execute_request_handler:
        handlers["execute_request"] = watcher.execute_request_handler
        watcher.shell.events.unregister("post_run_cell", watcher.post_run_cell)
    for name in watcher.viewers.not_created:  # cells caught before this call go on, too
        watcher.update_viewer_status(name, True)


def _ngff(ras: np.ndarray, volume: Volume) -> NgffImage:
    """An array in RAS order as itkwidgets expects it: LPS millimetres, last axis first."""
    from ngff_zarr import to_ngff_image

    lps = ras[::-1, ::-1]
    scale = dict(zip("xyz", ras_spacing(volume), strict=True))
    return to_ngff_image(np.ascontiguousarray(lps.transpose()), dims=("z", "y", "x"), scale=scale)


def _label_map(objects: Sequence[Outline]) -> np.ndarray:
    """Objects numbered from 1, as an array in RAS order; where they overlap, the last one."""
    labels = np.zeros(objects[0][2].shape, np.min_scalar_type(len(objects)))
    for number, (*_, voxels) in enumerate(objects, start=1):
        labels[voxels] = number
    return labels
