"""A scan to look at and click on, in a notebook or an app.

The widget is a view: it draws what a session holds and passes on what the mouse does. Everything that the mouse can
do is a method here or of the session, so a script, or a journal that was recorded by hand, does the same without a
browser. A click that code makes on the session shows in the widget, too.
"""

import os
import warnings
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

import anywidget
import numpy as np
import traitlets

from seganypet._files import as_path, temporary_folder
from seganypet.errors import SegAnyPETError, renamed_keywords
from seganypet.pet.plausibility import doubt
from seganypet.pet.plots import usual_intensity_range
from seganypet.pet.views import ras_axes, ras_spacing, ras_to_ijk
from seganypet.pet.volume import Volume
from seganypet.prompting.base import PromptSession
from seganypet.prompting.prompts import InitialMask, Prompt, read_prompt, since_start
from seganypet.prompting.stopwatch import Stopwatch
from seganypet.widgets.actions import Actions
from seganypet.widgets.colours import OBJECT_COLOURS
from seganypet.widgets.edits import SPHERES_MM, is_sphere
from seganypet.widgets.encoding import (
    body_box,
    boxes_meet,
    checked_ct,
    coded,
    drawn_marks,
    entropy_map,
    grid_in,
    packed,
    value_at,
)
from seganypet.widgets.export import picture
from seganypet.widgets.former import replace_former
from seganypet.widgets.messages import QUERIES, PageSets, naming, read_command, showing_errors
from seganypet.widgets.methods import METHODS, SESSION
from seganypet.widgets.score import Score
from seganypet.widgets.sittings import Autosave, journal_text, key_of
from seganypet.widgets.table import measures, total
from seganypet.widgets.transport import Pieces

STATIC = Path(__file__).with_name("static")
# One module for the browser, joined in this order.
SCRIPTS = (
    "dom.js", "icons.js", "layout.js", "strokes.js", "pixels.js", "projection.js", "transport.js", "sittings.js",
    "marks.js", "slices.js", "table.js", "score.js", "controls.js", "keys.js", "click.js",
)  # fmt: skip
TOOLS = ["point", "scribble", "box", "lasso", "brush", "eraser", "sphere", "ruler", "window", "look"]
COLOUR_MAPS = ["grey", "hot", "viridis"]
NEEDED_KINDS = {
    "point": "click", "scribble": "scribble", "box": "box", "lasso": "lasso", "brush": "mask", "eraser": "mask",
    "sphere": "mask",
}  # fmt: skip
SOFT_TISSUE_HU = [-160.0, 240.0]


class ClickWidget(Actions, PageSets, anywidget.AnyWidget):
    """Axial, coronal and sagittal slices of a session's volume; a click on them is a click of the session.

    Whatever is done is kept at every step: in the browser, and with `output_dir` in a file there. When the same scan
    is opened again, it is offered.

    Args:
        session: Session of any kind: of a network, of a threshold, slice by slice.
        ct: CT of the same patient in HU, on any grid; adds a slider that blends it in.
        output_dir: Folder for the mask, journal and table that `save` writes, and for the journal that is kept at
            every step; without it the browser offers downloads only.
        name: Name of the case, which files are named after; "": they are mask.nii.gz, clicks.json and table.csv.
        intensity_range: Intensities drawn lightest and darkest, in the volume's unit. None: SUV 0 to 7, HU -160 to 240.
        stopwatch: Stopwatch of an earlier sitting, to continue.
        truth: What to aim at, for learners: masks by name of the object, or one for any object. The widget then shows
            the DSC after each step.
        goal: DSC to reach.

    Attributes:
        session: Session that is shown.
        intensity_range, ct_range, colour_map, opacity, blend, zoom, tool, foreground, method, brush_mm, sphere_mm,
            bare: Values of the sliders and buttons; set them and the browser follows. `method` says what draws the
            mask of the next prompt, see `methods.METHODS`; `bare` hides masks and marks.
        ruler: Ends of the ruler, in RAS order; [] if there is none.
        rows, all_objects: Numbers of each object and of all together, see `table.measures` and `table.total`.
        earlier: An earlier sitting with this scan that is offered; {} if there is none.
        stopwatch: Seconds of work so far, without long pauses.

    Raises:
        SegAnyPETError: `session` is not a session.
        UnitError: `ct` is not in HU.
        GeometryError: The CT does not overlap the volume, or the truth has another shape.
    """

    # Text, not paths: anywidget would watch the files, and keep every widget alive for ever.
    _esm = "\n".join((STATIC / name).read_text(encoding="utf-8") for name in SCRIPTS)
    _css = (STATIC / "click.css").read_text(encoding="utf-8")

    scan = traitlets.Dict().tag(sync=True)
    cursor = traitlets.List(traitlets.Int(), minlen=3, maxlen=3).tag(sync=True, echo_update=False)  # in RAS order
    intensity_range = traitlets.List(traitlets.Float()).tag(sync=True, echo_update=False)
    colour_map = traitlets.Enum(COLOUR_MAPS, "grey").tag(sync=True, echo_update=False)
    opacity = traitlets.Float(0.35, min=0, max=1).tag(sync=True, echo_update=False)
    blend = traitlets.Float(0.0, min=0, max=1).tag(sync=True, echo_update=False)
    zoom = traitlets.Float(1.0, min=1, max=10).tag(sync=True, echo_update=False)
    tool = traitlets.Enum(TOOLS, "point").tag(sync=True, echo_update=False)
    foreground = traitlets.Bool(True).tag(sync=True, echo_update=False)
    method = traitlets.Enum(METHODS, SESSION).tag(sync=True, echo_update=False)
    brush_mm = traitlets.Float(5.0, min=0, max=50).tag(sync=True, echo_update=False)
    sphere_mm = traitlets.Float(SPHERES_MM[0], min=1, max=200).tag(sync=True, echo_update=False)
    ct_range = traitlets.List(traitlets.Float(), SOFT_TISSUE_HU).tag(sync=True, echo_update=False)
    ruler: traitlets.List[list[float]] = traitlets.List().tag(sync=True, echo_update=False)  # its ends, in RAS order
    bare = traitlets.Bool(False).tag(sync=True, echo_update=False)
    objects: traitlets.List[dict[str, Any]] = traitlets.List().tag(sync=True)
    active = traitlets.Unicode().tag(sync=True)
    marks: traitlets.List[dict[str, Any]] = traitlets.List().tag(sync=True)
    rows: traitlets.List[dict[str, Any]] = traitlets.List().tag(sync=True)
    all_objects = traitlets.Dict().tag(sync=True)
    score = traitlets.Dict().tag(sync=True)
    uncertainty = traitlets.Dict().tag(sync=True)
    enabled = traitlets.Dict().tag(sync=True)
    effort = traitlets.Dict().tag(sync=True)
    journal = traitlets.Unicode().tag(sync=True)  # all prompts so far, for the browser to keep
    earlier = traitlets.Dict().tag(sync=True)
    question = traitlets.Unicode().tag(sync=True)  # what Save asks before it replaces files
    status = traitlets.Unicode().tag(sync=True)
    error = traitlets.Unicode().tag(sync=True)
    acknowledged = traitlets.Int(0).tag(sync=True)  # messages of the browser that were dealt with

    @renamed_keywords(window="intensity_range")
    def __init__(
        self,
        session: PromptSession,
        *,
        ct: Volume | None = None,
        output_dir: str | os.PathLike | None = None,
        name: str = "",
        intensity_range: tuple[float, float] | None = None,
        stopwatch: Stopwatch | None = None,
        truth: Mapping[str, np.ndarray] | np.ndarray | None = None,
        goal: float = 0.9,
    ):
        if not isinstance(session, PromptSession):
            raise SegAnyPETError(
                f"ClickWidget needs a session, such as Session(model, volume); got {type(session).__name__}. A new "
                "kind of session derives from PromptSession, which has all but the mask."
            )
        volume = session.volume
        self._ct = None if ct is None else checked_ct(ct, volume)
        layers = {"pet": coded(volume)} | ({} if self._ct is None else {"ct": coded(self._ct)})
        self._pieces = {layer: Pieces(one.codes) for layer, one in layers.items()}
        grids = {layer: grid_in(one, volume) for layer, one in (("pet", volume), ("ct", self._ct)) if one is not None}
        self.session, self.name = session, name
        self.output_dir = None if output_dir is None else as_path(output_dir)
        self.stopwatch = stopwatch or Stopwatch()
        self._score = None if truth is None else Score(truth, goal)
        self._from_browser = False
        self._looks: dict[str, dict[str, Any]] = {}
        self._drawn: dict[str, tuple[tuple[Prompt, ...], dict[str, Any]]] = {}
        self._fresh: dict[str, np.ndarray] = {}  # masks that are drawn already and not yet measured
        self._measured: dict[str, tuple[tuple[Prompt, ...], dict[str, Any]]] = {}
        self._versions = count()
        self._spots_seen: list[tuple[int, int, int]] = []
        self._last_step: tuple[Any, ...] | None = None
        self._written: dict[Path, int] = {}  # files of this sitting, and when they were written
        self._autosave = None if self.output_dir is None else Autosave(session, self.output_dir)
        codes = layers["pet"].codes
        super().__init__(
            scan={
                "key": key_of(session),
                "name": name or Path(volume.source).name,
                "shape": list(codes.shape),
                "spacing": list(ras_spacing(volume)),
                "unit": volume.unit,
                "method": session.journal().model["name"],
                "axes": ras_axes(volume),
                "affine": volume.affine.tolist(),
                "body": body_box(volume),
                "ct": None,
                **{layer: {"low": one.low, "high": one.high, **self._pieces[layer].layout, **grids[layer]}
                   for layer, one in layers.items()},
            },
            cursor=[size // 2 for size in codes.shape],
            intensity_range=list(
                usual_intensity_range(volume.data, volume.unit) if intensity_range is None else intensity_range
            ),
            earlier=self._autosave.earlier if self._autosave else {},
        )  # fmt: skip
        session.watchers.insert(0, self.refresh)  # before those that save: a click is seen, whatever a disk does
        self.on_msg(self._on_message)
        if session.prompts:
            self.look_at(session.prompts[-1].centre_ijk)
        self.refresh()
        if message := doubt(volume):
            self.error = f"Note: {message}"
        replace_former(self)

    @traitlets.validate("intensity_range", "ct_range")
    def _check_intensity_range(self, proposal: Any) -> list[float]:
        given = proposal["value"]
        if len(given) != 2 or not np.isfinite(given).all() or given[0] >= given[1]:
            raise SegAnyPETError(f"{proposal['trait'].name}={given}; expected two intensities, the first one lower.")
        return given

    # ---- what is shown

    def refresh(self) -> None:
        """Draw the session as it is now; called after each of its changes."""
        session = self.session
        names = [*session.objects, *[session.active] * (session.active not in session.objects)]
        self._keep_looks(names)
        self.stopwatch.tick()
        self._refreshed = perf_counter()
        total_before = self.effort.get("total", 0)
        with self.hold_sync():
            self.active = session.active
            self.objects = [{"name": name, **self._look(name), **self._mask(name)} for name in names]
            shown = [name for name in names if not self._look(name)["hidden"]]
            drawn = ((name, since_start(session.prompts_of(name))) for name in shown)
            self.marks = [mark for name, prompts in drawn for mark in drawn_marks(name, prompts, session.volume)]
            self.effort = {
                "clicks": len(session.prompts),
                "total": sum(len(session.prompts_of(name)) for name in names),
                "seconds": self.stopwatch.seconds,
            }
            if self.effort["total"] > total_before and session.prompts:
                self._follow(session.prompts[-1])
            self.enabled = {
                "undo": session.can_undo,
                "redo": session.can_redo,
                "save": self.output_dir is not None,
                "export": bool(session.objects),
                "numbers": self._has_numbers and bool(session.objects),
                "uncertainty": hasattr(session, "logits_of"),
                "dicom": bool(session.volume.metadata.get("series_uid")) and bool(session.objects),
                "suv": self._has_numbers,
                "tools": [tool for tool in TOOLS if NEEDED_KINDS.get(tool, "click") in session.accepts],
                "methods": self._has_numbers and InitialMask.kind in session.accepts,
            }  # fmt: skip
        # Slower, and not in the way of the mask, which the browser draws meanwhile.
        self.journal = journal_text(session)
        self._measure()
        if self.uncertainty.get("shown") and hasattr(session, "logits_of"):  # of the active object
            self.uncertainty = {"shown": True, **entropy_map(session.logits_of(session.active), session.volume)}
        if self._autosave is not None:
            self._autosave.save(self.journal)
            self.earlier = self._autosave.earlier

    def _measure(self) -> None:
        session, before, self._measured = self.session, self._measured, {}
        for name in session.objects:
            prompts = session.prompts_of(name)
            known = before.get(name)
            if known is None or known[0] != prompts:
                mask = self._fresh[name] if name in self._fresh else session.mask_of(name)
                known = prompts, measures(name, mask, session.volume)
            self._measured[name] = known
        self._fresh.clear()
        with self.hold_sync():
            self.rows = [{**row, "name": name} for name, (_, row) in self._measured.items()]
            meet = boxes_meet([drawn["box"] for drawn in self.objects])
            self.all_objects = total(self.rows, session.masks if meet else {}, session.volume)
            self.score = self._score.of(session) if self._score else {}

    def _follow(self, prompt: Prompt) -> None:
        """Show a new prompt, whoever gave it; the browser moved its own crosshair itself, and may have moved on."""
        if isinstance(prompt, InitialMask) and self._from_browser:
            return  # its centre takes longer than a stroke of the brush, and nobody asks for it
        if not self._from_browser:
            self.look_at(prompt.centre_ijk)
        name, sign = self.session.active, "+" if prompt.foreground else "\u2212"
        empty = "" if any(drawn["name"] == name and drawn["ml"] for drawn in self.objects) else ": an empty mask"
        told = [f"{sign} {name} at voxel {prompt.centre_ijk}{empty}", self.session.notice]
        self.status = ". ".join(filter(None, told))

    def _keep_looks(self, names: list[str]) -> None:
        """An object that was renamed, here or in code, keeps its colour; but if nothing was drawn, it is another."""
        before = [drawn["name"] for drawn in self.objects]
        gone, come = [one for one in before if one not in names], [one for one in names if one not in before]
        if len(gone) == len(come) == 1 and self._drawn[gone[0]][0] == (prompts := self.session.prompts_of(come[0])):
            self._looks[come[0]] = self._looks.pop(gone[0]) | ({} if prompts else {"hidden": False, "locked": False})
        self._looks = {name: look for name, look in self._looks.items() if name not in gone or self._drawn[name][0]}

    def close(self) -> None:
        """Stop looking at the session, and vanish from the page."""
        # Also called for a widget whose making failed, and twice.
        watchers = self.session.watchers if hasattr(self, "session") else []
        if self.refresh in watchers:
            watchers.remove(self.refresh)
            self._pieces, self._ct = {}, None  # a notebook's Out[n] goes on to hold the widget
        super().close()

    def _repr_mimebundle_(self, **arguments: Any) -> tuple[dict, dict]:
        """The live view, and for pages without one a picture of it as it is now."""
        data, metadata = super()._repr_mimebundle_(**arguments)
        shown = [name for name in self.session.objects if not self._look(name)["hidden"]]
        return {**data, "image/png": picture(self.session, shown, self.cursor_ijk, self.intensity_range[1])}, metadata

    def _look(self, name: str) -> dict[str, Any]:
        if name not in self._looks:
            used, begun = [look["colour"] for look in self._looks.values()], self.session.prompts_of(name)
            self._looks[name] = dict(colour=min(OBJECT_COLOURS, key=used.count), hidden=False, locked=is_sphere(begun))
        return self._looks[name]

    def _mask(self, name: str) -> dict[str, Any]:
        """An object's mask as the browser wants it: one bit a voxel, inside its box."""
        prompts = self.session.prompts_of(name)
        known = self._drawn.get(name)
        if known is None or known[0] != prompts:
            self._fresh[name] = self.session.mask_of(name)
            mask = packed(self._fresh[name], self.session.volume)
            known = self._drawn[name] = (prompts, {**mask, "version": next(self._versions)})
        return known[1]

    # ---- what the browser says

    def _on_message(self, _widget: Any, content: Mapping[str, Any], buffers: Sequence[memoryview]) -> None:
        """Do what a message says. Whatever goes wrong is shown in the widget; what nobody foresaw is also raised."""
        if isinstance(call := content.get("call"), str) and call in QUERIES:
            with showing_errors(lambda _: None):  # of a query nothing hangs: what cannot be answered is not
                self._answer(content)
            return
        problems: list[str] = []
        self._from_browser = True
        try:
            with showing_errors(problems.append), warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", UserWarning)
                self._call(content, buffers)
                problems += [f"Note: {warning.message}" for warning in caught]
        finally:
            self._from_browser = False
            with self.hold_sync():
                self.error = "\n".join(problems)
                self.acknowledged += 1

    def _answer(self, content: Mapping[str, Any]) -> None:
        query, fields = read_command(content)
        if query == "piece" and fields["layer"] in self._pieces:
            pieces, number = self._pieces[fields["layer"]], fields["number"]
            if 0 <= number < pieces.count:
                self.send({"piece": number, "layer": fields["layer"]}, buffers=[pieces.piece(number)])
        elif query == "probe":
            ijk = self.session.volume.check_voxel(ras_to_ijk(fields["ras"], self.session.volume))
            ct = None if self._ct is None else value_at(self._ct, self.session.volume.to_mm(ijk))
            self.send({"probe": fields["ras"], "value": float(self.session.volume.data[ijk]), "ct": ct})

    def _call(self, content: Mapping[str, Any], buffers: Sequence[memoryview]) -> None:
        call, fields = read_command(content)
        last, self._last_step = self._last_step, None
        before = self.session.active, self.session.prompts
        if call == "withdraw":  # what was done just now: a double click begins with a click
            if last == before and self.session.can_undo:
                self.undo()
        elif call == "prompt":
            self.prompt(read_prompt(fields["prompt"]))
        elif call == "load_text":
            self._load_file("clicks.json", fields["text"].encode(errors="backslashreplace"), self.load_journal)
        elif call == "load_mask":
            if len(buffers) != 1:
                raise SegAnyPETError("load_mask came without the file's content.")
            self._load_file(fields["name"], bytes(buffers[0]), self.start_from)
        else:
            getattr(self, call)(**fields)
        if call in ("prompt", "paint", "sphere") and before != (now := (self.session.active, self.session.prompts)):
            self._last_step = now

    def _load_file(self, name: str, content: bytes, load: Any) -> None:
        """Read a file that the browser chose; its name is for people and for its ending only."""
        with temporary_folder() as folder:
            path = folder / f"chosen{''.join(Path(name).suffixes[-2:])[-12:]}"
            path.write_bytes(content)
            with naming(path, "the chosen file"):
                load(path)
