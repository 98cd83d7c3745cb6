"""One page for one scan: what was segmented, with which clicks, and its measurements. Self-contained HTML.

The page contacts no host and runs no script: pictures are embedded. It can be mailed, printed and archived. Its layout
is `report.html.jinja`, beside this file.
"""

import base64
import datetime
import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seganypet._files import as_path, replace_atomically
from seganypet.errors import ClickError
from seganypet.metrics import lesion_scores
from seganypet.pet.plots import show_mip, show_slices
from seganypet.pet.quantification import quantify
from seganypet.pet.volume import Volume
from seganypet.prompting.base import PromptSession
from seganypet.prompting.prompts import InitialMask, Prompt, since_start
from seganypet.regions import bounding_box

if TYPE_CHECKING:
    import jinja2
    import pandas
    from matplotlib.figure import Figure

DISCLAIMER = "For research and teaching. Not a medical device, not for clinical use."
MAX_PICTURES = 6  # of single objects, the largest
MIN_FIELD_MM = 100.0  # field of view around a small object; around a large one it is twice the object's extent
DECIMALS = {"MTV": 1, "TLG": 1}  # all others have 2
CLICK_COLUMNS = ("object", "label", "i", "j", "k", "x (mm)", "y (mm)", "z (mm)")


def write_report(
    path: str | os.PathLike,
    session: PromptSession,
    *,
    title: str | None = None,
    notes: Sequence[str] = (),
    tables: Mapping[str, "pandas.DataFrame"] | None = None,
    truth: np.ndarray | None = None,
) -> Path:
    """Write a page about the objects of a session.

    It shows a maximum intensity projection with all objects, slices through the largest, the SUV table and its sums,
    every click, and the provenance: network and digest of its weights, settings, versions, digest of the scan. It says
    nothing about the patient beyond what the caller passes and the scan's file name.

    Args:
        path: Path of the page; it is written whole or not at all.
        session: Session with at least one object.
        title: Title of the page; default: the scan's file name.
        notes: Sentences below the title.
        tables: Further tables, by caption.
        truth: Mask of all lesions, bool, shape of the volume; adds an outline and scores.

    Returns:
        `path`.

    Raises:
        ClickError: Nothing was clicked yet.
        GeometryError: The truth has another shape.
        SegAnyPETError: The page cannot be written there.
    """
    if not session.objects:
        raise ClickError(f"{session.volume.source}: no object was clicked yet, so there is nothing to report.")
    path, volume, journal = as_path(path), session.volume, session.journal()
    # One object at a time: the masks of a scan with many lesions would fill gigabytes.
    everything, voxels, measured = np.zeros(volume.shape, bool), {}, []
    for name in session.objects:
        mask = session.mask_of(name)
        everything |= mask
        voxels[name] = np.count_nonzero(mask)
        if volume.unit == "SUVbw":
            measured.append(quantify(volume, {name: mask}))
    largest = [name for name in sorted(voxels, key=lambda name: -voxels[name]) if voxels[name]]
    page = _template().render(
        title=title or journal.volume["source"],
        disclaimer=DISCLAIMER,
        notes=notes,
        overview=_overview(volume, everything, len(largest), truth),
        unit=volume.unit,
        quantities=_quantities(session, measured) if measured else None,
        tables=tables or {},
        slices=[_slices(session, name) for name in largest[:MAX_PICTURES]],
        left_out=len(largest[MAX_PICTURES:]),
        click_columns=CLICK_COLUMNS,
        clicks=_clicks(session),
        origin=_origin(session),
    )
    with replace_atomically(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _template() -> "jinja2.Template":
    import jinja2

    folder = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=folder, autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    environment.filters["short"] = lambda cell: f"{cell:.4g}" if isinstance(cell, float) else cell
    return environment.get_template("report.html.jinja")


def _overview(volume: Volume, everything: np.ndarray, objects: int, truth: np.ndarray | None) -> dict[str, str]:
    """The scan without and with all outlines, side by side; scores if there is a truth."""
    from matplotlib.figure import Figure

    shown = {"segmented": everything} | ({} if truth is None else {"truth": truth})
    figure = Figure(figsize=(9, 7.5), layout="constrained")
    axes = figure.subplots(1, 2)
    show_mip(volume, ax=axes[0])
    show_mip(volume, shown, ax=axes[1])
    size_ml = volume.voxel_volume_ml
    caption = f"{objects} objects, {np.count_nonzero(everything) * size_ml:.1f} mL together."
    if truth is not None:
        scores = lesion_scores(everything, truth, volume.data, volume.voxel_volume_ml)
        caption += (
            f" Against the truth: DSC {scores['dsc']:.2f}, false positive volume {scores['fpv_ml']:.1f} mL, "
            f"false negative volume {scores['fnv_ml']:.1f} mL, detection F1 {scores['f1']:.2f}."
        )
    return _picture(figure, "Coronal projections of the scan, without and with outlines", caption)


def _quantities(session: PromptSession, tables: Sequence["pandas.DataFrame"]) -> dict[str, Any]:
    """The SUV table, one row for each object, with sums of what can be summed; and the definitions."""
    import pandas

    measured, objects = pandas.concat(tables, ignore_index=True), session.objects
    wide = measured.pivot(index="object", columns="quantity", values="value").loc[list(objects)]
    metadata = measured.drop_duplicates("quantity").set_index("quantity")
    names = list(metadata.index)
    clicks = [len(session.prompts_of(name)) for name in objects]
    table = {
        "caption": "Each object as drawn. Objects that overlap are counted twice in a sum.",
        "heads": ["object", "clicks", *(f"{one} ({metadata.loc[one, 'unit']})" for one in names)],
        "rows": [
            [name, count, *(_number(wide.loc[name, one], one) for one in names)]
            for name, count in zip(objects, clicks, strict=True)
        ],
        "total": ["sum", sum(clicks), *(_number(wide[one].sum(), one) if one in DECIMALS else "" for one in names)],
    }
    return {"table": table, "definitions": metadata["definition"].to_dict()}


def _slices(session: PromptSession, name: str) -> dict[str, str]:
    """Three slices through an object, at its first click."""
    from matplotlib.figure import Figure

    mask, prompts, spacing = session.mask_of(name), since_start(session.prompts_of(name)), session.volume.spacing
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 3)
    extents_mm = [(part.stop - part.start) * size for part, size in zip(bounding_box(mask), spacing, strict=True)]
    field_mm = max(MIN_FIELD_MM, 2 * max(extents_mm))
    show_slices(session.volume, mask, clicks=prompts, at_ijk=prompts[0].centre_ijk, axes=axes, field_mm=field_mm)
    return _picture(figure, f"Axial, coronal and sagittal slices through {name}", f"{name}, at its first click")


def _clicks(session: PromptSession) -> list[list[Any]]:
    """Rows of CLICK_COLUMNS."""
    return [
        [
            name,
            _said(prompt),
            *prompt.centre_ijk,
            *(f"{mm:.1f}" for mm in session.volume.to_mm(prompt.centre_ijk)),
        ]
        for name in session.objects
        for prompt in session.prompts_of(name)
    ]


def _said(prompt: Prompt) -> str:
    """What a prompt said, in words."""
    sign, kind = "foreground" if prompt.foreground else "background", f" {prompt.kind}" * (prompt.kind != "click")
    drawn_by = f" ({prompt.drawn_by})" if isinstance(prompt, InitialMask) and prompt.drawn_by else ""
    return sign + kind + drawn_by


def _origin(session: PromptSession) -> dict[str, Any]:
    """How the masks were made."""
    journal, volume = session.journal(), session.volume
    grid = " x ".join(map(str, volume.shape)), " x ".join(f"{size:.2f}" for size in volume.spacing)
    origin = {
        "scan": journal.volume["source"],
        "SHA-256 of the scan": journal.volume["fingerprint"],
        "grid": f"{grid[0]} voxels of {grid[1]} mm",
    }
    origin |= {f"model, {key}": value for key, value in journal.model.items()}
    origin |= {f"setting, {key}": value for key, value in journal.settings.items()}
    origin |= {f"version, {key}": value for key, value in journal.versions.items()}
    return origin | {"written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}


def _picture(figure: "Figure", alt: str, caption: str) -> dict[str, str]:
    content = BytesIO()
    figure.savefig(content, format="png", dpi=80, bbox_inches="tight")
    return {"png": base64.b64encode(content.getvalue()).decode(), "alt": alt, "caption": caption}


def _number(value: float, quantity: str) -> str:
    return "none" if np.isnan(value) else f"{value:.{DECIMALS.get(quantity, 2)}f}"
