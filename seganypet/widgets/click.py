"""A scan to look at and click on, in a notebook or an app.

The widget is a view: it draws what a session holds and passes on what the mouse does. Everything that the mouse can
do is a method here or of the session, so a script, or a journal that was recorded by hand, does the same without a
browser. A click that code makes on the session shows in the widget, too.
"""

import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

import anywidget
import numpy as np
import traitlets

from seganypet._files import make_folder, temporary_folder
from seganypet.errors import ClickError, SegAnyPETError, renamed_keywords
from seganypet.pet.plausibility import doubt
from seganypet.pet.plots import usual_intensity_range
from seganypet.pet.quantification import quantify
from seganypet.pet.views import COLOURS, ijk_to_ras, ras_axes, ras_spacing, ras_to_ijk, to_ras
from seganypet.pet.volume import Volume
from seganypet.prompting.base import PromptSession
from seganypet.prompting.prompts import Prompt, read_prompt, since_start
from seganypet.prompting.stopwatch import Stopwatch
from seganypet.widgets.encoding import coded, ct_on_grid, drawn_marks, entropy_map, packed
from seganypet.widgets.export import JOURNAL_FILE, MASK_FILE, TABLE_FILE, picture, write
from seganypet.widgets.messages import read_command, showing_errors

STATIC = Path(__file__).with_name("static")
SCRIPTS = ("pixels.js", "slices.js", "controls.js", "click.js")  # one module for the browser, joined in this order


class ClickWidget(anywidget.AnyWidget):
    """Axial, coronal and sagittal slices of a session's volume; a click on them is a click of the session.

    Args:
        session: Session of any kind: of a network, of a threshold, slice by slice.
        ct: CT of the same patient in HU, on any grid; adds a slider that blends it in.
        output_dir: Folder for the mask, journal and table that `save` writes; without it the browser offers downloads
            only.
        intensity_range: Intensities drawn lightest and darkest, in the volume's unit. None: SUV 0 to 7, HU -160 to 240.
        stopwatch: Stopwatch of an earlier sitting, to continue.

    Attributes:
        session: Session that is shown.
        intensity_range, opacity, blend, zoom, tool: Values of the sliders and buttons; set them and the browser
            follows.
        stopwatch: Seconds of work so far, without long pauses.

    Raises:
        SegAnyPETError: `session` is not a session.
        UnitError: `ct` is not in HU.
        GeometryError: The CT does not overlap the volume.
    """

    # Text, not paths: anywidget would watch the files, and keep every widget alive for ever.
    _esm = "\n".join((STATIC / name).read_text(encoding="utf-8") for name in SCRIPTS)
    _css = (STATIC / "click.css").read_text(encoding="utf-8")

    scan = traitlets.Dict().tag(sync=True)
    cursor = traitlets.List(traitlets.Int()).tag(sync=True, echo_update=False)  # in RAS order, see `look_at`
    intensity_range = traitlets.List(traitlets.Float()).tag(sync=True, echo_update=False)
    opacity = traitlets.Float(0.35, min=0, max=1).tag(sync=True, echo_update=False)
    blend = traitlets.Float(0.0, min=0, max=1).tag(sync=True, echo_update=False)
    zoom = traitlets.Float(1.0, min=1, max=10).tag(sync=True, echo_update=False)
    tool = traitlets.Enum(["foreground", "background", "look"], "foreground").tag(sync=True, echo_update=False)
    objects: traitlets.List[dict[str, Any]] = traitlets.List().tag(sync=True)
    active = traitlets.Unicode().tag(sync=True)
    marks: traitlets.List[dict[str, Any]] = traitlets.List().tag(sync=True)
    table: traitlets.List[list[str]] = traitlets.List().tag(sync=True)
    uncertainty = traitlets.Dict().tag(sync=True)
    enabled = traitlets.Dict().tag(sync=True)
    effort = traitlets.Dict().tag(sync=True)
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
        intensity_range: tuple[float, float] | None = None,
        stopwatch: Stopwatch | None = None,
    ):
        if not isinstance(session, PromptSession):
            raise SegAnyPETError(
                f"ClickWidget needs a session, such as Session(model, volume); got {type(session).__name__}. A new "
                "kind of session derives from PromptSession, which has all but the mask."
            )
        volume = session.volume
        ct_layer = None if ct is None else coded(ct_on_grid(ct, volume))
        self.session = session
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.stopwatch = stopwatch or Stopwatch()
        self._from_browser = False
        self._looks: dict[str, dict[str, Any]] = {}
        self._drawn: dict[str, tuple[tuple[Prompt, ...], dict[str, Any]]] = {}
        self._versions = count()
        super().__init__(
            scan={
                "shape": list(to_ras(volume.data, volume).shape),
                "spacing": list(ras_spacing(volume)),
                "unit": volume.unit,
                "axes": ras_axes(volume),
                "pet": coded(volume),
                "ct": ct_layer,
            },
            cursor=[size // 2 for size in to_ras(volume.data, volume).shape],
            intensity_range=list(
                usual_intensity_range(volume.data, volume.unit) if intensity_range is None else intensity_range
            ),
        )
        session.watchers.insert(0, self.refresh)  # before those that save: a click is seen, whatever a disk does
        self.on_msg(self._on_message)
        if session.prompts:
            self.look_at(session.prompts[-1].centre_ijk)
        self.refresh()
        if message := doubt(volume):
            self.error = f"Note: {message}"

    @traitlets.validate("intensity_range")
    def _check_intensity_range(self, proposal: Any) -> list[float]:
        given = proposal["value"]
        if len(given) != 2 or not np.isfinite(given).all() or given[0] >= given[1]:
            raise SegAnyPETError(f"intensity_range={given}; expected two intensities, the first one lower.")
        return given

    # ---- what the mouse can do

    def click(
        self, ijk: Sequence[int] | None = None, mm: Sequence[float] | None = None, foreground: bool = True
    ) -> np.ndarray:
        """Click as `session.click` does, move the crosshair there, and get the new mask."""
        return self._timed(self.session.click, ijk, mm, foreground)

    def prompt(self, prompt: Prompt) -> np.ndarray:
        """Give a prompt of any kind, as `session.add` does, and get the new mask."""
        return self._timed(self.session.add, prompt)

    def look_at(self, ijk: Sequence[int]) -> None:
        """Move the crosshair to a voxel of the volume; ClickError if it lies outside."""
        self.cursor = list(ijk_to_ras(ijk, self.session.volume))

    @property
    def cursor_ijk(self) -> tuple[int, int, int]:
        """Voxel of the volume under the crosshair."""
        return ras_to_ijk(self.cursor, self.session.volume)

    def undo(self) -> None:
        """Take back the last click, removal or reset."""
        self.session.undo()
        self.status = f"undone; clicks on {self.session.active}: {len(self.session.prompts)}"

    def redo(self) -> None:
        """Redo what was undone last."""
        self.session.redo()
        self.status = f"redone; clicks on {self.session.active}: {len(self.session.prompts)}"

    def reset(self) -> None:
        """Forget all objects; undo brings them back."""
        self.session.reset()
        self.status = "all objects forgotten; undo brings them back"

    def select(self, name: str) -> None:
        """Make an object the one that the next click belongs to."""
        self.session.select(name)
        self.status = f"the next click is on {name}"

    def add(self) -> None:
        """Begin another object under the first free name "object 1", "object 2", ..."""
        taken = {*self.session.objects, self.session.active}
        self.select(next(name for n in range(1, 1000) if (name := f"object {n}") not in taken))

    def rename(self, old: str, new: str) -> None:
        """Give an object another name; it keeps its colour."""
        self.session.rename(old, new)
        self.status = f"{old} is now {new}"

    def remove(self, name: str) -> None:
        """Forget one object; undo brings it back."""
        others = [other for other in self.session.objects if other != name]
        if name == self.session.active and name not in self.session.objects and others:
            self.session.select(others[-1])  # it was never clicked
            self.status = f"{name} removed"
        else:
            self.session.remove(name)
            self.status = f"{name} removed; undo brings it back"

    def recolour(self, name: str, colour: str) -> None:
        """Draw an object in another colour, such as "#0072B2"."""
        if not (isinstance(colour, str) and re.fullmatch("#[0-9a-fA-F]{6}", colour)):
            raise SegAnyPETError(f"colour {colour!r}; expected #rrggbb, such as '#0072B2'.")
        self._check_shown(name)
        self._look(name)["colour"] = colour
        self.refresh()

    def hide(self, name: str, hidden: bool = True) -> None:
        """Hide an object, or show it again."""
        self._check_shown(name)
        self._look(name)["hidden"] = bool(hidden)
        self.refresh()

    def show_uncertainty(self, shown: bool = True) -> None:
        """Overlay the uncertainty of the network: the entropy of the sigmoid of its logits, at most 1 bit."""
        if shown and not hasattr(self.session, "logits_of"):
            raise SegAnyPETError(f"a {type(self.session).__name__} has no logits, so no uncertainty can be shown.")
        self.uncertainty = {"shown": bool(shown)}
        self.refresh()

    def save(self, folder: str | os.PathLike | None = None) -> tuple[Path, ...]:
        """Write the mask (NIfTI on the volume's grid), the journal and, of a PET in SUVbw, the table of all objects.

        Returns:
            Their paths.

        Raises:
            ClickError: Nothing was clicked yet, or no folder is known.
            SegAnyPETError: The folder cannot be made or written.
        """
        folder = self.output_dir if folder is None else Path(folder)
        if folder is None:
            raise ClickError("no folder to save to: ClickWidget(session, output_dir=...), or save(folder).")
        if not self.session.objects:
            raise ClickError(f"nothing to save to {folder}: no object was clicked yet.")
        make_folder(folder)
        names = [MASK_FILE, JOURNAL_FILE, *[TABLE_FILE] * self._has_numbers]
        for name in names:
            write(self.session, folder / name)
        self.status = f"saved {', '.join(names)} in {folder.resolve()}"
        return tuple(folder / name for name in names)

    def download(self, what: str) -> None:
        """Offer the browser a file: "mask", "journal" or "table"."""
        files = {"mask": MASK_FILE, "journal": JOURNAL_FILE, "table": TABLE_FILE}
        if what not in files:
            raise SegAnyPETError(f"download {what!r}; there are {', '.join(files)}.")
        with temporary_folder() as folder:
            path = folder / files[what]
            write(self.session, path)
            content = path.read_bytes()
        self.send({"download": path.name}, buffers=[content])
        self.status = f"{path.name}: {len(content) / 1e6:.2g} MB handed to the browser"

    def load_journal(self, path: str | os.PathLike) -> None:
        """Replace the prompts so far by those of a journal, as `session.load_journal` does; look at the last."""
        self.session.load_journal(path)
        if self.session.prompts:
            self.look_at(self.session.prompts[-1].centre_ijk)
        self.status = f"clicks repeated: {len(self.session.journal().prompts)}"

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
            prompts = [prompt for name in shown for prompt in since_start(session.prompts_of(name))]
            self.marks = drawn_marks(prompts, session.volume)
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
            }
        # Slower, and not in the way of the mask, which the browser draws meanwhile.
        self.table = self._numbers()
        if self.uncertainty.get("shown") and hasattr(session, "logits_of"):  # of the active object
            self.uncertainty = {"shown": True, **entropy_map(session.logits_of(session.active), session.volume)}

    def _follow(self, prompt: Prompt) -> None:
        """Show a new prompt, whoever gave it; the browser moved its own crosshair itself, and may have moved on."""
        if not self._from_browser:
            self.look_at(prompt.centre_ijk)
        name, sign = self.session.active, "+" if prompt.foreground else "\u2212"
        empty = "" if any(drawn["name"] == name and drawn["ml"] for drawn in self.objects) else ": an empty mask"
        notice = f". {self.session.notice}" * bool(self.session.notice)
        self.status = f"{sign} {name} at voxel {prompt.centre_ijk}{empty}{notice}"

    def _keep_looks(self, names: list[str]) -> None:
        """An object that was renamed, here or in code, keeps its colour."""
        before = [drawn["name"] for drawn in self.objects]
        gone, come = ([name for name in one if name not in other] for one, other in ((before, names), (names, before)))
        if len(gone) == len(come) == 1 and self._drawn[gone[0]][0] == self.session.prompts_of(come[0]):
            self._looks[come[0]] = self._looks.pop(gone[0])

    def close(self) -> None:
        """Stop looking at the session, and vanish from the page."""
        # Also called for a widget whose making failed, and twice.
        watchers = self.session.watchers if hasattr(self, "session") else []
        if self.refresh in watchers:
            watchers.remove(self.refresh)
        super().close()

    def _repr_mimebundle_(self, **arguments: Any) -> tuple[dict, dict]:
        """The live view, and for pages without one a picture of it as it is now."""
        data, metadata = super()._repr_mimebundle_(**arguments)
        shown = [name for name in self.session.objects if not self._look(name)["hidden"]]
        return {**data, "image/png": picture(self.session, shown, self.cursor_ijk, self.intensity_range[1])}, metadata

    def _timed(self, act: Callable[..., np.ndarray], *arguments: Any) -> np.ndarray:
        self._look(self.session.active)["hidden"] = False  # who clicks wants to see what it does
        started = perf_counter()
        mask = act(*arguments)
        self.status += f", {1000 * (self._refreshed - started):.0f} ms"  # what comes after is drawing and measuring
        return mask

    def _look(self, name: str) -> dict[str, Any]:
        if name not in self._looks:
            used = [look["colour"] for look in self._looks.values()]
            self._looks[name] = {"colour": min(COLOURS, key=used.count), "hidden": False}
        return self._looks[name]

    def _mask(self, name: str) -> dict[str, Any]:
        """An object's mask as the browser wants it: one bit a voxel, inside its box."""
        prompts = self.session.prompts_of(name)
        known = self._drawn.get(name)
        if known is None or known[0] != prompts:
            mask = packed(self.session.mask_of(name), self.session.volume)
            known = self._drawn[name] = (prompts, {**mask, "version": next(self._versions)})
        return known[1]

    @property
    def _has_numbers(self) -> bool:
        return self.session.volume.unit == "SUVbw"

    def _check_shown(self, name: str) -> None:
        if name not in [drawn["name"] for drawn in self.objects]:
            raise ClickError(f"no object {name!r}; there are {', '.join(self.session.objects) or 'none yet'}.")

    def _numbers(self) -> list[list[str]]:
        volume, active = self.session.volume, self.session.active
        if not self._has_numbers or not any(drawn["name"] == active and drawn["ml"] for drawn in self.objects):
            return []
        rows = quantify(volume, {active: self.session.mask_of(active)})
        return [
            [row.quantity, f"{row.value:.0f}" if row.value >= 100 else f"{row.value:.3g}", row.unit]
            for row in rows.itertuples()
        ]

    # ---- what the browser says

    def _on_message(self, _widget: Any, content: Mapping[str, Any], _buffers: Any) -> None:
        """Do what a message says. Whatever goes wrong is shown in the widget; what nobody foresaw is also raised."""
        problems: list[str] = []
        self._from_browser = True
        try:
            with showing_errors(problems.append), warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", UserWarning)
                self._call(content)
                problems += [f"Note: {warning.message}" for warning in caught]
        finally:
            self._from_browser = False
            with self.hold_sync():
                self.error = "\n".join(problems)
                self.acknowledged += 1

    def _call(self, content: Mapping[str, Any]) -> None:
        call, fields = read_command(content)
        if call == "prompt":
            self.prompt(read_prompt(fields["prompt"]))
        elif call == "load_text":
            with temporary_folder() as folder:
                path = folder / JOURNAL_FILE
                path.write_text(fields["text"], encoding="utf-8", errors="backslashreplace")
                try:
                    self.load_journal(path)
                except SegAnyPETError as error:
                    raise type(error)(str(error).replace(str(path), "the chosen file")) from error
        else:
            getattr(self, call)(**fields)
