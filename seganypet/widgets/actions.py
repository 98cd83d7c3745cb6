"""What can be done in a ClickWidget, by mouse, by keys or in code; all of it in undo, redo, journal and replay."""

import os
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from seganypet._files import as_path, make_folder, temporary_folder
from seganypet.errors import ClickError, SegAnyPETError
from seganypet.pet.mask_files import load_masks
from seganypet.pet.views import ijk_to_ras, ras_to_ijk
from seganypet.prompting.base import PromptSession
from seganypet.prompting.initial_mask import InitialMask
from seganypet.prompting.prompts import Prompt, click_at
from seganypet.prompting.proposal import Proposal, propose
from seganypet.prompting.session import Session
from seganypet.prompting.suggest import suggest_click
from seganypet.widgets.edits import SPHERE, SPHERES_MM, ball, is_sphere, largest_piece, painted, without_holes
from seganypet.widgets.export import file_name, has_overlaps, write
from seganypet.widgets.messages import naming
from seganypet.widgets.methods import SESSION, Liver, drawn
from seganypet.widgets.sittings import Autosave

SPOT_SUV = 4.0  # from which on something is a hot spot


class Actions:
    """The calls of ClickWidget that change its session, or what is shown of it.

    Attributes:
        session: Session that is shown.
        method: What draws the mask of a prompt, one of `methods.METHODS`.
        status: What was done last, for the page.
        cursor: Voxel under the crosshair, in RAS order.
    """

    session: PromptSession
    method: Any
    status: Any
    cursor: Any
    uncertainty: Any
    objects: Any
    refresh: Callable[[], None]  # draws the session as it is now
    send: Callable[..., None]  # to the page
    output_dir: Path | None
    name: str
    earlier: Any
    question: Any
    _autosave: Autosave | None
    _written: dict[Path, int]  # files of this sitting, and when they were written
    _look: Callable[[str], dict[str, Any]]  # colour of an object, and whether it is hidden
    _refreshed: float  # when the page last got new masks, in seconds
    _spots_seen: list[tuple[int, int, int]]

    @property
    def _has_numbers(self) -> bool:
        return self.session.volume.unit == "SUVbw"

    # ---- prompts

    def click(
        self, ijk: Sequence[int] | None = None, mm: Sequence[float] | None = None, foreground: bool = True
    ) -> np.ndarray:
        """Click as `session.click` does, move the crosshair there, and get the new mask."""
        return self.prompt(click_at(self.session.volume, ijk, mm, foreground))

    def prompt(self, prompt: Prompt) -> np.ndarray:
        """Give a prompt of any kind, have it answered as `method` says, and get the new mask."""
        self._check_open()
        if self.method == SESSION:
            return self._timed(self.session.add, prompt)
        session, prompt = self.session, prompt.checked(self.session.volume)
        return self._edited(*drawn(session.volume, self.method, prompt, session.mask, self._liver))

    def _liver(self) -> Liver:
        """The object called "liver", or else the one that is found without a prompt."""
        if "liver" in self.session.objects:
            return Liver(self.session.mask_of("liver"), "as outlined here")
        found = self._proposal
        if "liver" not in found.masks:
            raise ClickError("no liver was found in this scan. Outline it as an object called 'liver', then try again.")
        return Liver(found.masks["liver"], f"proposed by {found.proposed_by}")

    @cached_property
    def _proposal(self) -> Proposal:
        model = getattr(self.session, "model", None)
        return propose(self.session.volume, model if model is not None and Session.serves(model) else "tiny")

    def next_reading(self) -> None:
        """Take the next of the masks that the first prompt on the active object may mean; after the last the first."""
        self._check_open()
        count = len(self.session.readings)
        if count < 2:
            raise ClickError(
                f"{self.session.active} has one reading: only a first prompt can mean several things. Correct it by "
                "another prompt."
            )
        number = (self.session.chosen + 1) % count
        self.session.choose(number)
        self.status = f"{self.session.active}: reading {number + 1} of {count}"

    def propose(self) -> None:
        """Start all organs that are found without a click, but none that is there already; each is a step to undo."""
        found = self._proposal
        new = [name for name in found.masks if name not in self.session.objects]
        if not new:
            raise ClickError("no organ was found that is not outlined already. Click instead.")
        active = self.session.active
        for name in new:
            self.session.select(name)
            self.session.start_from(found.labels == next(key for key, one in found.names.items() if one == name))
        self.session.select(active if active in self.session.objects else new[0])
        expected = ", ".join(f"{name} {found.confidence[name]:.2f}" for name in new)
        self.status = f"proposed, with the DSC to expect: {expected}. Correct them; each is one step to undo"

    def start_from(self, path: Any) -> None:
        """Start objects from the masks of a file (NIfTI, .seg.nrrd, DICOM), each under its name in the file."""
        masks = load_masks(path, like=self.session.volume)
        for name in masks:
            self._check_open(name)
        for name, mask in masks.items():
            self.session.select(name)
            self.session.start_from(mask)
        self.status = f"started from a file: {', '.join(masks)}"

    # ---- by hand

    def paint(
        self, path_ijk: Sequence[Sequence[int]], axis: int, radius_mm: float = 5.0, foreground: bool = True
    ) -> np.ndarray:
        """Paint on the active object's mask with a round brush, or erase, in one slice, and get the new mask.

        Args:
            path_ijk: Voxels of the stroke, (n, 3), joined by straight lines; all in one slice.
            axis: Axis of the volume's array that is perpendicular to the slice.
            radius_mm: Radius of the brush, in mm.
            foreground: False: erase.

        Raises:
            ClickError: A stroke that is none, or one that leaves nothing.
        """
        session = self.session
        mask = painted(session.mask, session.volume, path_ijk, axis, radius_mm, foreground)  # type: ignore[arg-type]
        return self._edited(mask, "brush" if foreground else "eraser")

    def fill_holes(self) -> np.ndarray:
        """Add to the active object what it encloses, and get the new mask."""
        return self._edited(without_holes(self.session.mask), "holes filled")

    def keep_largest(self) -> np.ndarray:
        """Keep only the largest piece of the active object, and get the new mask."""
        return self._edited(largest_piece(self.session.mask), "largest piece")

    def sphere(self, ijk: Sequence[int], diameter_mm: float = SPHERES_MM[0]) -> np.ndarray:
        """Measure in a sphere around a voxel: a new object, "sphere 1", "sphere 2", ..., locked; returns its mask.

        Args:
            ijk: Voxel at whose centre the sphere's lies.
            diameter_mm: Diameter, in mm; a voxel is inside if its centre is.

        Raises:
            ClickError: The voxel lies outside the volume, or the diameter is impossible.
        """
        mask = ball(self.session.volume, ijk, diameter_mm)
        name = self._free_name("sphere")
        self.session.check_accepts(InitialMask.kind)
        self.session.select(name)
        self.session.add(InitialMask.pack(mask, f"{SPHERE} {diameter_mm:g} mm around voxel {tuple(ijk)}"))
        self.lock(name)
        self.status = f"{name}: {diameter_mm:g} mm around voxel {tuple(ijk)}; locked, so that no prompt changes it"
        return mask

    def _edited(self, mask: np.ndarray, drawn_by: str) -> np.ndarray:
        self._check_open()
        session, before = self.session, self.session.mask
        if np.array_equal(mask, before):
            self.status = f"{session.active} stays as it is: nothing to change"
            return before
        if not mask.any():
            raise ClickError(f"nothing of {session.active} would be left; remove the object instead.")
        session.check_accepts(InitialMask.kind)
        change_ml = (np.count_nonzero(mask) - np.count_nonzero(before)) * session.volume.voxel_volume_ml
        new = self._timed(session.add, InitialMask.pack(mask, drawn_by))
        self.status = f"{session.active}: {change_ml:+.3g} mL, {drawn_by}"
        return new

    # ---- where to look

    def look_at(self, ijk: Sequence[int]) -> None:
        """Move the crosshair to a voxel of the volume; ClickError if it lies outside."""
        self.cursor = list(ijk_to_ras(ijk, self.session.volume))

    @property
    def cursor_ijk(self) -> tuple[int, int, int]:
        """Voxel of the volume under the crosshair."""
        return ras_to_ijk(self.cursor, self.session.volume)

    def next_spot(self) -> None:
        """Look at the hottest spot that is not outlined yet and was not looked at; after the last the first again."""
        seen = self._spots_seen
        spot = suggest_click(self.session.volume, self.session.masks, threshold=SPOT_SUV, rejected=seen)
        if spot is None:
            seen.clear()
            self.status = f"no further spot above SUV {SPOT_SUV:g} that is not outlined; what is colder is not searched"
            return
        seen.append(spot.ijk)
        self.look_at(spot.ijk)
        self.status = f"hot spot, not outlined: SUVmax {spot.suv_max:.1f}, {spot.volume_ml:.1f} mL above {SPOT_SUV:g}"

    # ---- files

    def save(self, folder: str | os.PathLike | None = None, existing: str = "replace") -> tuple[Path, ...]:
        """Write the mask (NIfTI on the volume's grid), the journal and, of a PET in SUVbw, the table of all objects.

        Where objects overlap, which a label map cannot hold, also `mask.seg.nrrd`, in which they keep all voxels.

        Args:
            folder: Folder; default: `output_dir`.
            existing: What becomes of files of another sitting: "replace", "keep" both (new ones get a number), or "ask"
                the page, and write nothing yet.

        Returns:
            Their paths; none if the page was asked.

        Raises:
            ClickError: Nothing was clicked yet, or no folder is known.
            SegAnyPETError: The folder cannot be made or written.
        """
        folder = self.output_dir if folder is None else as_path(folder)
        if folder is None:
            raise ClickError("no folder to save to: ClickWidget(session, output_dir=...), or save(folder).")
        if existing not in ("replace", "keep", "ask"):
            raise SegAnyPETError(f"existing={existing!r}; expected 'replace', 'keep' or 'ask'.")
        if not self.session.objects:
            raise ClickError(f"nothing to save to {folder}: no object was clicked yet.")
        make_folder(folder)
        kinds = ["mask", "journal", *["table"] * self._has_numbers, *["layers"] * has_overlaps(self.session)]
        paths = {kind: folder / file_name(kind, self.name) for kind in kinds}
        foreign = [path for path in paths.values() if path.exists() and _written_at(path) != self._written.get(path)]
        if foreign and existing == "ask":
            self.question = f"{folder.resolve()} holds {', '.join(path.name for path in foreign)} of another sitting."
            return ()
        if foreign and existing == "keep":
            numbered = ({kind: folder / file_name(kind, self.name, n) for kind in kinds} for n in count(2))
            paths = next(some for some in numbered if not any(path.exists() for path in some.values()))
        self.question = ""
        for kind, path in paths.items():
            write(self.session, kind, path)
            self._written[path] = _written_at(path)
        self.status = f"saved {', '.join(path.name for path in paths.values())} in {folder.resolve()}"
        return tuple(paths.values())

    def download(self, what: str) -> None:
        """Offer the browser one of `export.FILES`; a mask whose objects overlap as .seg.nrrd, which holds them all."""
        if what == "mask" and self.session.objects and has_overlaps(self.session):
            what = "layers"
        with temporary_folder() as folder:
            path = folder / file_name(what, self.name)
            with naming(path, path.name):
                write(self.session, what, path, self.name)
            content = path.read_bytes()
        self.send({"download": path.name}, buffers=[content])
        reason = "; objects overlap, which a label map cannot hold" * (what == "layers")
        self.status = f"{path.name}: {len(content) / 1e6:.2g} MB handed to the browser{reason}"

    def load_journal(self, path: str | os.PathLike) -> None:
        """Replace the prompts so far by those of a journal, as `session.load_journal` does; look at the last."""
        self.session.load_journal(path)
        if self.session.prompts:
            self.look_at(self.session.prompts[-1].centre_ijk)
        self.status = f"prompts repeated: {len(self.session.journal().prompts)}"

    def dismiss(self) -> None:
        """Offer the earlier sitting no more, and answer Save's question with no."""
        if self._autosave is not None:
            self._autosave.dismiss()
        self.earlier, self.question = {}, ""

    # ---- steps

    def undo(self) -> None:
        """Take back the last prompt, removal or reset."""
        session = self.session
        spheres = {name for name in session.objects if is_sphere(session.prompts_of(name))}
        session.undo()
        if session.active in spheres and not session.prompts:  # what is clicked next is not meant to be one
            others = [name for name in session.objects if name not in spheres]
            session.select(others[-1] if others else self._free_name("object"))
        self.status = f"undone; prompts on {self.session.active}: {len(self.session.prompts)}"

    def redo(self) -> None:
        """Redo what was undone last."""
        self.session.redo()
        self.status = f"redone; prompts on {self.session.active}: {len(self.session.prompts)}"

    def reset(self) -> None:
        """Forget all objects; undo brings them back."""
        self.session.reset()
        self.foreground = True  # what was there is gone, so nothing can be taken away
        self.status = "all objects forgotten; undo brings them back"

    # ---- objects

    def select(self, name: str) -> None:
        """Make an object the one that the next prompt belongs to, and look at it."""
        self.session.select(name)
        if prompts := self.session.prompts:
            self.look_at(prompts[-1].centre_ijk)
        self.status = f"the next click is on {name}"

    def add(self) -> None:
        """Begin another object under the first free name "object 1", "object 2", ..."""
        self.select(self._free_name("object"))

    def _free_name(self, kind: str) -> str:
        taken = {*self.session.objects, self.session.active}
        return next(name for n in count(1) if (name := f"{kind} {n}") not in taken)

    def rename(self, old: str, new: str) -> None:
        """Give an object another name; it keeps its colour."""
        self.session.rename(old, new)
        self.status = f"{old} is now {new}"

    def remove(self, name: str) -> None:
        """Forget one object; undo brings it back."""
        self._check_open(name)
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

    def lock(self, name: str, locked: bool = True) -> None:
        """Keep an object as it is, or let it be changed again; undo, redo and a reset ask no lock."""
        self._check_shown(name)
        self._look(name)["locked"] = bool(locked)
        self.refresh()

    def show_uncertainty(self, shown: bool = True) -> None:
        """Overlay the uncertainty of the network: the entropy of the sigmoid of its logits, at most 1 bit."""
        if shown and not hasattr(self.session, "logits_of"):
            raise SegAnyPETError(f"a {type(self.session).__name__} has no logits, so no uncertainty can be shown.")
        self.uncertainty = {"shown": bool(shown)}
        self.refresh()

    def _check_open(self, name: str | None = None) -> None:
        """Raise ClickError if an object, by default the active one, is locked."""
        name = self.session.active if name is None else name
        if self._look(name)["locked"]:
            raise ClickError(f"{name} is locked. Unlock it (Shift+L), choose another object, or add one (a).")

    def _check_shown(self, name: str) -> None:
        if name not in [drawn["name"] for drawn in self.objects]:
            raise ClickError(f"no object {name!r}; there are {', '.join(self.session.objects) or 'none yet'}.")

    def _timed(self, act: Callable[..., np.ndarray], *arguments: Any) -> np.ndarray:
        self._look(self.session.active)["hidden"] = False  # who prompts wants to see what it does
        started = perf_counter()
        mask = act(*arguments)
        self.status += f", {1000 * (self._refreshed - started):.0f} ms"  # what comes after is drawing and measuring
        return mask


def _written_at(path: Path) -> int:
    return path.stat().st_mtime_ns
