"""What every way of turning prompts into masks shares: objects, undo, redo, saving, and the journal."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from seganypet.errors import ClickError, JournalError
from seganypet.pet.mask_files import save_masks
from seganypet.pet.volume import Volume
from seganypet.prompting.journal import Journal, check_fits, describe_volume
from seganypet.prompting.prompt import voxels_on
from seganypet.prompting.prompts import Click, InitialMask, Lasso, Prompt, Scribble, click_at, since_start
from seganypet.prompting.shapes import box_on
from seganypet.prompting.state import State, checked_name

MAX_OBJECTS = 255  # labels of a uint8 map


class PromptSession(ABC):
    """Prompts on the objects of one volume.

    A method of segmentation says in `_predict` what it makes of an object's prompts, in `_mask_on_grid` which voxels
    that means, and in `_provenance` and `_settings` what a journal must hold so that both can be repeated.

    Attributes:
        volume: The volume that is segmented.
        accepts: Kinds of prompts that it takes.
        watchers: Functions without arguments, called after every change; a widget redraws by them.
    """

    accepts: frozenset[str] = frozenset({Click.kind})

    def __init__(self, volume: Volume):
        self.volume = volume
        self.watchers: list[Callable[[], object]] = []
        self._state = State()
        self._past: list[State] = []
        self._future: list[State] = []
        self._told: list[str] = []  # what the prompt at hand makes a method tell

    @abstractmethod
    def _predict(self, prompts: tuple[Prompt, ...], previous: Any) -> Any:
        """What the method makes of the active object's prompts.

        Args:
            prompts: All prompts on the object that count, the newest last; see `prompts.since_start`.
            previous: The prediction before the newest prompt; None if that is the first, or starts the object anew.
        """

    def _tell(self, sentence: str) -> None:
        """Called while predicting: something that the user must know, which becomes part of `notice`."""
        self._told.append(sentence)

    @abstractmethod
    def _mask_on_grid(self, prediction: Any) -> np.ndarray:
        """The mask of a prediction: bool, shape of the volume, the caller's own."""

    @abstractmethod
    def _provenance(self) -> Mapping[str, Any]:
        """What drew the masks: a name for people, and whatever must be equal for masks to be equal."""

    def _settings(self) -> Mapping[str, Any]:
        """Arguments of the constructor that change masks."""
        return {}

    @classmethod
    def _settings_of(cls, journal: Journal) -> dict[str, Any]:
        """The settings in a journal, by their names of today."""
        return dict(journal.settings)

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """Prompts on the active object, oldest first."""
        return self.prompts_of(self.active)

    @property
    def notice(self) -> str:
        """What a user must know of the last step, such as "nothing found at this click: ..."; "" if nothing."""
        return self._state.notice

    @property
    def clicks(self) -> tuple[Click, ...]:
        """Those prompts on the active object that are clicks, oldest first."""
        return self.clicks_of(self.active)

    @property
    def active(self) -> str:
        """Name of the object that the next prompt belongs to."""
        return self._state.active

    @property
    def objects(self) -> tuple[str, ...]:
        """Names of all objects that were clicked, in the order of their first prompts."""
        return tuple(self._state.predictions)

    @property
    def mask(self) -> np.ndarray:
        """Mask of the active object, bool, shape of the volume; empty before its first click."""
        return self.mask_of(self.active)

    @property
    def masks(self) -> dict[str, np.ndarray]:
        """Masks of all objects by name."""
        return {name: self.mask_of(name) for name in self.objects}

    @property
    def labels(self) -> np.ndarray:
        """All objects in one label map, uint8: 1, 2, ... in the order of `objects`; in an overlap the later wins."""
        labels = np.zeros(self.volume.shape, np.uint8)
        for label, name in enumerate(self.objects, 1):
            labels[self.mask_of(name)] = label
        return labels

    @property
    def can_undo(self) -> bool:
        """True if `undo` has something to take back."""
        return bool(self._past)

    @property
    def can_redo(self) -> bool:
        """True if `redo` has something to make again."""
        return bool(self._future)

    def prompts_of(self, name: str) -> tuple[Prompt, ...]:
        """Prompts on one object, oldest first."""
        return tuple(prompt for owner, prompt in self._state.prompts if owner == name)

    def clicks_of(self, name: str) -> tuple[Click, ...]:
        """Those prompts on one object that are clicks, oldest first."""
        return tuple(prompt for prompt in self.prompts_of(name) if isinstance(prompt, Click))

    def mask_of(self, name: str) -> np.ndarray:
        """Mask of one object, bool, shape of the volume; empty if it was never clicked."""
        if name not in self._state.predictions:
            return np.zeros(self.volume.shape, bool)
        return self._mask_on_grid(self._state.predictions[name])

    def select(self, name: str) -> None:
        """Make an object the active one; it comes into being with its first click.

        Raises:
            ClickError: The name is blank.
        """
        self._state = replace(self._state, active=checked_name(name))
        self._changed()

    def rename(self, old: str, new: str) -> None:
        """Give an object another name, also in what undo and redo bring back.

        Raises:
            ClickError: There is no such object, the new name is blank, or another object has it.
        """
        new = checked_name(new)
        states = (self._state, *self._past, *self._future)
        if old not in self.objects and old != self.active:
            raise ClickError(f"no object {old!r} to rename; there are {', '.join(self.objects) or 'none yet'}.")
        if new != old and (new in self.objects or any(new in state.predictions for state in states)):
            raise ClickError(f"cannot rename {old!r}: another object is, or before an undo was, named {new!r}.")
        self._state, *others = [state.renamed(old, new) for state in states]
        self._past, self._future = others[: len(self._past)], others[len(self._past) :]
        self._changed()

    def click(
        self, ijk: Sequence[int] | None = None, mm: Sequence[float] | None = None, foreground: bool = True
    ) -> np.ndarray:
        """Click once and get the new mask of the active object.

        Args:
            ijk: Voxel that is clicked; or
            mm: Position in RAS+ millimetres.
            foreground: False: "this does not belong to the object".

        Returns:
            Mask on the volume's grid, bool, shape (I, J, K).

        Raises:
            ClickError: Not one position, or outside the volume; a first click that is not foreground. The session is
                then as it was before.
        """
        return self.add(click_at(self.volume, ijk, mm, foreground))

    def scribble(
        self, points_ijk: Sequence[Sequence[int]] | None = None, foreground: bool = True, *,
        points_mm: Sequence[Sequence[float]] | None = None,
    ) -> np.ndarray:  # fmt: skip
        """Draw a line; every voxel on it counts as if it were clicked. Returns and errors as `click`.

        Args:
            points_ijk: Voxels, (n, 3), joined by straight lines; or
            points_mm: Positions in RAS+ millimetres, moved to the nearest voxels.
            foreground: False: "these voxels do not belong to the object".
        """
        return self.add(Scribble(voxels_on(self.volume, "scribble", points_ijk, points_mm), foreground))

    def box(
        self, low_ijk: Sequence[int] | None = None, high_ijk: Sequence[int] | None = None, foreground: bool = True, *,
        corners_mm: Sequence[Sequence[float]] | None = None,
    ) -> np.ndarray:  # fmt: skip
        """Draw a box, in a slice if it is one voxel thick, else in space. Returns and errors as `click`.

        Args:
            low_ijk, high_ijk: Corners with the lowest and the highest indices, both inside; or
            corners_mm: Two opposite corners in RAS+ millimetres, (2, 3), moved to the nearest voxels. The box runs
                along the axes of the grid, also of an oblique one.
            foreground: True: nothing of the object lies outside, in the slice or in space. False: nothing of it lies
                inside.
        """
        return self.add(box_on(self.volume, low_ijk, high_ijk, corners_mm, foreground))

    def lasso(
        self, path_ijk: Sequence[Sequence[int]] | None = None, foreground: bool = True, *,
        path_mm: Sequence[Sequence[float]] | None = None,
    ) -> np.ndarray:  # fmt: skip
        """Draw a closed contour in one slice. Returns and errors as `click`.

        Args:
            path_ijk: Voxels of one slice, (n, 3), joined by straight lines, the last to the first; or
            path_mm: Positions in RAS+ millimetres, moved to the nearest voxels.
            foreground: True: in this slice nothing of the object lies outside. False: nothing of it lies inside.
        """
        return self.add(Lasso(voxels_on(self.volume, "lasso", path_ijk, path_mm), foreground))

    def start_from(self, mask: np.ndarray | str | os.PathLike) -> np.ndarray:
        """Start the active object anew from an existing mask; prompts on it before no longer count.

        Args:
            mask: Bool, or integers with one label besides 0, shape of the volume; or the path of a NIfTI file with
                such a mask on the volume's grid.

        Returns:
            Mask of the active object, bool, shape (I, J, K): what the method makes of that start.

        Raises:
            ClickError: Another shape, nothing in it, or several labels; or this session starts from no mask.
            VolumeError: The file cannot be read, or lies on another grid.
        """
        self._check_kind(InitialMask.kind)
        return self.add(InitialMask.of(mask, self.volume))

    def add(self, prompt: Prompt) -> np.ndarray:
        """Give a prompt of any kind in `accepts`, and get the new mask of the active object; as `click`."""
        self._add(prompt)
        self._changed()
        return self.mask

    def undo(self) -> np.ndarray:
        """Take back the last click, removal or reset; returns the mask of the object that it changed.

        Raises:
            ClickError: There is nothing to take back.
        """
        if not self._past:
            raise ClickError("nothing to undo: no click was made yet.")
        changed = self._state.changed
        self._future.append(self._state)
        self._state = replace(self._past.pop(), active=changed)
        self._changed()
        return self.mask

    def redo(self) -> np.ndarray:
        """Make again what was undone last; returns the mask of the object that it changes.

        Raises:
            ClickError: There is nothing to redo.
        """
        if not self._future:
            raise ClickError("nothing to redo: nothing was undone since the last click.")
        self._past.append(self._state)
        state = self._future.pop()
        self._state = replace(state, active=state.changed)
        self._changed()
        return self.mask

    def remove(self, name: str) -> None:
        """Forget one object and its prompts; undo brings it back.

        Raises:
            ClickError: There is no such object.
        """
        if name not in self.objects:
            raise ClickError(f"no object {name!r} to remove; there are {', '.join(self.objects) or 'none yet'}.")
        prompts = tuple((owner, prompt) for owner, prompt in self._state.prompts if owner != name)
        predictions = {owner: one for owner, one in self._state.predictions.items() if owner != name}
        self._step(State(prompts, predictions, self.active, changed=name))
        self._changed()

    def reset(self) -> None:
        """Forget all objects and prompts; undo brings them back. The active object stays active."""
        self._reset()
        self._changed()

    def save(self, path: str | os.PathLike, reference: str | os.PathLike | None = None) -> None:
        """Write all objects as the name's ending says, on the volume's grid and affine; see `save_masks`.

        Args:
            path: `.nii` and `.nii.gz` are a uint8 label map; `.seg.nrrd`, `.dcm` (DICOM SEG; RTSTRUCT if the name
                begins so), `.stl` and an existing folder (a `.nii.gz` for each) keep objects that overlap.
            reference: Folder of the volume's DICOM series, for `.dcm`; default: the folder it was loaded from.

        Raises:
            ClickError: Nothing was clicked yet.
            VolumeError: The path has another ending, or the file cannot hold an object's name.
            DicomError: A `.dcm` has no DICOM series to refer to.

        Warns:
            UserWarning: Objects overlap in a label map: how many voxels of which went to which; or one is empty.
        """
        if not self.objects:
            raise ClickError(f"nothing to save to {path}: no object was clicked yet.")
        save_masks(path, self.masks, self.volume, reference)

    def journal(self) -> Journal:
        """All prompts so far, with what is needed to repeat them."""
        volume, model = self._described
        return Journal(volume=volume, model=model, settings=self._settings(), prompts=self._state.prompts)

    def save_journal(self, path: str | os.PathLike) -> None:
        """Write the journal as JSON."""
        self.journal().save(path)

    def load_journal(self, path: str | os.PathLike) -> None:
        """Replace all prompts so far by those of a journal; undo goes back through both.

        Raises:
            JournalError: Damaged, of another volume, method or settings. The session is then as it was before.
        """
        journal = Journal.load(path)
        check_fits(journal, str(path), self.journal(), self._settings_of(journal))
        before = self._state, list(self._past), list(self._future)
        try:
            self._reset()
            for name, prompt in journal.prompts:
                self._state = replace(self._state, active=checked_name(name))
                self._add(prompt)
        except BaseException as error:  # also a full memory, or an impatient user: no half of a journal stays
            self._state, self._past, self._future = before
            if isinstance(error, ClickError):
                raise JournalError(f"{path}: cannot be repeated ({error}); was the file edited?") from error
            raise
        self._changed()

    @cached_property
    def _described(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        return describe_volume(self.volume), self._provenance()  # hashing a volume takes longer than a click

    def _checked(self, prompt: Prompt) -> Prompt:
        self._told.clear()
        self._check_kind(prompt.kind if isinstance(prompt, Prompt) else type(prompt))
        return prompt.checked(self.volume)

    def _check_kind(self, kind: str | type) -> None:
        if kind not in self.accepts:
            name, known = self._provenance()["name"], ", ".join(sorted(self.accepts))
            got = kind.__name__ if isinstance(kind, type) else repr(kind)
            raise ClickError(f"a session of {name} takes prompts of kind {known}; got {got}.")

    def _add(self, prompt: Prompt) -> None:
        prompt, name = self._checked(prompt), self.active
        previous = None if prompt.starts_anew else self._state.predictions.get(name)
        self._check_room()
        if previous is None and not prompt.foreground:
            raise ClickError(f"{name}: the first {prompt.kind} on an object must be foreground.")
        self._accept((prompt,), self._predict(since_start((*self.prompts, prompt)), previous))

    def _check_room(self) -> None:
        if self.active not in self.objects and len(self.objects) == MAX_OBJECTS:
            raise ClickError(f"{self.active}: a session holds {MAX_OBJECTS} objects, no more; save, and open another.")

    def _accept(self, new: Sequence[Prompt], prediction: Any) -> None:
        """Step to the state in which the active object has these prompts, too, and this prediction."""
        name, state = self.active, self._state
        prompts = (*state.prompts, *((name, prompt) for prompt in new))
        predictions = {**state.predictions, name: prediction}
        self._step(State(prompts, predictions, name, changed=name, notice=" ".join(self._told)))

    def _reset(self) -> None:
        if self._state.prompts:
            self._step(State(active=self.active, changed=self.active))

    def _step(self, state: State) -> None:
        self._past.append(self._state)
        self._future.clear()
        self._state = state

    def _changed(self) -> None:
        """Tell all watchers, so that one that fails keeps no other from saving; then raise its error."""
        errors = []
        for watcher in list(self.watchers):
            try:
                watcher()
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]
