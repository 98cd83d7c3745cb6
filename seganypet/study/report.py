"""One page for one scan: what was segmented, by which clicks, and what it measures. Self-contained HTML.

The page asks no host and runs no script: pictures are in it. It can be mailed, printed and archived.
"""

import base64
import datetime
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seganypet._files import replace_atomically
from seganypet.errors import ClickError
from seganypet.metrics import lesion_scores
from seganypet.pet.plots import show_mip, show_slices
from seganypet.pet.quantification import quantify
from seganypet.pet.volume import Volume
from seganypet.prompting.base import PromptSession
from seganypet.regions import bounding_box

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

NOT_FOR_CLINICAL_USE = "For research and teaching. Not a medical device, not for clinical use."
MAX_PICTURES = 6  # of single objects, the largest
NARROWEST_MM = 100.0  # what is shown around a small one; of a large one twice its extent
DIGITS = {"MTV": 1, "TLG": 1}  # behind the point; all others have 2

STYLE = """
:root { color-scheme: light dark; --line: #8886; --accent: #0072b2; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; color: var(--accent); }
.note { color: #b35900; font-weight: 600; } .facts, footer, figcaption { font-size: .85rem; opacity: .85; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; background: #fff; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-size: .85rem; padding-bottom: .3rem; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } tr.sum td { font-weight: 600; border-top: 2px solid var(--line); }
dl { font-size: .85rem; } dt { font-weight: 600; } dd { margin: 0 0 .3rem 1.2rem; overflow-wrap: anywhere; }
@media (prefers-color-scheme: dark) { :root { --accent: #56b4e9; } .note { color: #e69f00; } }
@media print { body { margin: 0; max-width: none; font-size: 11px; } h2, figure, tr { break-inside: avoid; } }
"""


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

    It holds a maximum intensity projection with all objects, slices through the largest, their SUV table and its sums,
    every click, and what made it: network and digest of its weights, settings, versions, digest of the scan. Nothing
    of a patient is in it but what the caller gives and the scan's file name.

    Args:
        path: Of the page; written whole or not at all.
        session: With at least one object.
        title: Of the page; default the scan's file name.
        notes: Sentences below the title.
        tables: More tables, by caption.
        truth: True inside all lesions, bool, shape of the volume: drawn, and scores are told.

    Returns:
        `path`.

    Raises:
        ClickError: Nothing was clicked yet.
        GeometryError: A truth of another shape.
        SegAnyPETError: The place cannot be written.
    """
    if not session.objects:
        raise ClickError(f"{session.volume.source}: no object was clicked yet, so there is nothing to report.")
    path, volume, journal = Path(path), session.volume, session.journal()
    title = title or journal.volume["source"]
    # One object at a time: all masks of a scan with many lesions are gigabytes.
    everything, voxels, measured = np.zeros(volume.shape, bool), {}, []
    for name in session.objects:
        mask = session.mask_of(name)
        everything |= mask
        voxels[name] = np.count_nonzero(mask)
        if volume.unit == "SUVbw":
            measured.append(quantify(volume, {name: mask}))
    largest = [name for name in sorted(voxels, key=lambda name: -voxels[name]) if voxels[name]]
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="note">{NOT_FOR_CLINICAL_USE}</p>',
        *(f"<p>{escape(note)}</p>" for note in notes),
        _overview(volume, everything, len(largest), truth),
        _quantities(session, measured),
        *(_table(caption, table.columns, table.itertuples(index=False)) for caption, table in (tables or {}).items()),
        _pictures(session, largest),
        _clicks(session),
        _origin(session),
        f'<footer><p class="note">{NOT_FOR_CLINICAL_USE}</p></footer>',
    ]
    page = (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{STYLE}</style></head>\n<body>\n'
    )
    with replace_atomically(path) as temporary:
        temporary.write_text(page + "\n".join(parts) + "\n</body>\n</html>\n", encoding="utf-8")
    return path


def _overview(volume: Volume, everything: np.ndarray, objects: int, truth: np.ndarray | None) -> str:
    """The scan alone and with everything drawn on it, side by side; scores if there is a truth."""
    from matplotlib.figure import Figure

    shown = {"segmented": everything} | ({} if truth is None else {"truth": truth})
    axes = Figure(figsize=(9, 7.5), layout="constrained").subplots(1, 2)
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
    return "<h2>Overview</h2>" + _figure(
        axes, "Coronal projections of the scan, without and with what was drawn", caption
    )


def _quantities(session: PromptSession, tables: Sequence["pandas.DataFrame"]) -> str:
    """The SUV table, one row for each object, and sums of what can be summed."""
    import pandas

    if not tables:
        return f"<h2>Quantities</h2><p>No SUV: the scan is in {escape(session.volume.unit)}, not in SUVbw.</p>"
    measured, objects = pandas.concat(tables, ignore_index=True), session.objects
    wide = measured.pivot(index="object", columns="quantity", values="value").loc[list(objects)]
    facts = measured.drop_duplicates("quantity").set_index("quantity")
    names = list(facts.index)
    rows = [
        [name, len(session.prompts_of(name)), *(_number(wide.loc[name, one], one) for one in names)] for name in objects
    ]
    sums = [_number(wide[one].sum(), one) if one in DIGITS else "" for one in names]
    heads = ["object", "clicks", *(f"{one} ({facts.loc[one, 'unit']})" for one in names)]
    total = ["sum", sum(len(session.prompts_of(name)) for name in objects), *sums]
    meanings = "".join(f"<dt>{escape(one)}</dt><dd>{escape(facts.loc[one, 'definition'])}</dd>" for one in names)
    table = _table("Each object as drawn. Objects that overlap are counted twice in a sum.", heads, rows, total)
    return f"<h2>Quantities</h2>{table}<dl>{meanings}</dl>"


def _pictures(session: PromptSession, largest: Sequence[str]) -> str:
    """Slices through the largest objects."""
    from matplotlib.figure import Figure

    figures = []
    for name in largest[:MAX_PICTURES]:
        mask = session.mask_of(name)
        axes = Figure(figsize=(9, 3.6), layout="constrained").subplots(1, 3)
        prompts, spacing = session.prompts_of(name), session.volume.spacing
        extents_mm = [
            (part.stop - part.start) * size for part, size in zip(bounding_box(mask), spacing, strict=True)
        ]
        field_mm = max(NARROWEST_MM, 2 * max(extents_mm))
        show_slices(session.volume, mask, clicks=prompts, at_ijk=prompts[0].centre_ijk, axes=axes, field_mm=field_mm)
        figures.append(
            _figure(axes, f"Axial, coronal and sagittal slices through {name}", f"{name}, at its first click")
        )
    left = len(largest[MAX_PICTURES:])
    rest = f"<p>Smaller objects, not shown: {left}.</p>" if left else ""
    return "<h2>Slices</h2>" + "".join(figures) + rest


def _clicks(session: PromptSession) -> str:
    rows = [
        [
            name,
            "this" if prompt.foreground else "not this",
            *prompt.centre_ijk,
            *(f"{mm:.1f}" for mm in session.volume.to_mm(prompt.centre_ijk)),
        ]
        for name in session.objects
        for prompt in session.prompts_of(name)
    ]
    heads = ["object", "said", "i", "j", "k", "x (mm)", "y (mm)", "z (mm)"]
    return "<h2>Clicks</h2>" + _table("In voxels, and in RAS+ millimetres.", heads, rows)


def _origin(session: PromptSession) -> str:
    """What made the masks."""
    journal = session.journal()
    facts = {"scan": journal.volume["source"], "SHA-256 of the scan": journal.volume["fingerprint"]}
    facts |= {"grid": f"{' x '.join(map(str, session.volume.shape))} voxels of "
              f"{' x '.join(f'{size:.2f}' for size in session.volume.spacing)} mm"}  # fmt: skip
    facts |= {f"model, {key}": value for key, value in journal.model.items()}
    facts |= {f"setting, {key}": value for key, value in journal.settings.items()}
    facts |= {f"version, {key}": value for key, value in journal.versions.items()}
    facts["written"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    items = "".join(f"<dt>{escape(key)}</dt><dd>{escape(str(value))}</dd>" for key, value in facts.items())
    return f"<h2>How it was made</h2><dl>{items}</dl>"


def _figure(axes: Sequence["Axes"], alt: str, caption: str) -> str:
    content = BytesIO()
    axes[0].figure.savefig(content, format="png", dpi=80, bbox_inches="tight")
    picture = base64.b64encode(content.getvalue()).decode()
    source = f'<img alt="{escape(alt)}" src="data:image/png;base64,{picture}">'
    return f"<figure>{source}<figcaption>{escape(caption)}</figcaption></figure>"


def _table(caption: str, heads: Iterable[Any], rows: Iterable[Iterable[Any]], total: Sequence[Any] = ()) -> str:
    def line(cells: Iterable[Any], tag: str, kind: str = "") -> str:
        return f"<tr{kind}>" + "".join(f"<{tag}>{escape(_text(cell))}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(line(row, "td") for row in rows) + (line(total, "td", ' class="sum"') if total else "")
    return (
        f'<div class="scroll"><table><caption>{escape(caption)}</caption><thead>{line(heads, "th")}</thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _text(cell: Any) -> str:
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def _number(value: float, quantity: str) -> str:
    return "none" if np.isnan(value) else f"{value:.{DIGITS.get(quantity, 2)}f}"
