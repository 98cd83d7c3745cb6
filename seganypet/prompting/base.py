"""What every way of turning prompts into masks shares: objects, undo, redo, saving, and the journal."""

import os
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from seganypet.errors import ClickError, JournalError
from seganypet.pet.mask_files import save_masks
from seganypet.pet.volume import Volume
from seganypet.prompting.journal import Journal, check_fits, count_voxels, describe_volume, warn_of_changes
from seganypet.prompting.packed_mask import PackedMask
from seganypet.prompting.prompt_calls import PromptCalls
from seganypet.prompting.prompts import Choice, Click, Prompt, since_start, without_choices
from seganypet.prompting.readings import Reading, check_reading
from seganypet.prompting.state import State, checked_name, trimmed

MAX_OBJECTS = 255  # labels of a uint8 map


class PromptSession(PromptCalls):
    """Prompts on the objects of one volume.

    A method of segmentation says in `_predict` what it makes of an object's prompts, in `_mask_on_grid` which voxels
    that means, and in `_provenance` and `_settings` what a journal must hold so that both can be repeated. One that
    holds a first prompt for ambiguous says in `_possible` what else it may mean.

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
        self._worked_out: tuple[Any, tuple[Any, ...]] = (None, ())  # prompts, and what they may mean

    @abstractmethod
    def _predict(self, prompts: tuple[Prompt, ...], previous: Any) -> Any:
        """What the method makes of the active object's prompts.

        Args:
            prompts: All prompts on the object that count, the newest last; see `prompts.since_start`.
            previous: The prediction before the newest prompt; None if that is the first, or starts the object anew.
        """

    def _possible(self, prompts: tuple[Prompt, ...], prediction: Any) -> Sequence[Any]:
        """Predictions for the active object that its prompts may mean, the likeliest first, no two much alike.

        Args:
            prompts: All prompts on the object that count.
            prediction: The present one.
        """
        return [prediction]

    def _reading(self, prediction: Any) -> Reading:
        """A prediction as a user sees it among others."""
        return Reading.of(PackedMask.of(self._mask_on_grid(prediction)), self.volume)

    def _tell_of(self, prediction: Any) -> None:
        """Tell what a user must know of a reading that is chosen, see `_tell`."""

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
    def readings(self) -> tuple[Reading, ...]:
        """What the first prompt on the active object may mean: at most three masks, the likeliest first.

        The session answers with the first; `choose` takes another. After a correction, and where a method sees no
        doubt, it is the present mask alone. They are worked out when first asked for, in about a first click's time.
        """
        return tuple(map(self._reading, self._alternatives())) if self.active in self.objects else ()

    @property
    def chosen(self) -> int:
        """Number of the present mask among `readings`."""
        choices = [prompt.reading for prompt in since_start(self.prompts) if isinstance(prompt, Choice)]
        return choices[-1] if choices and len(self._alternatives()) > 1 else 0

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

    def add(self, prompt: Prompt) -> np.ndarray:
        """Give a prompt of any kind in `accepts`, and get the new mask of the active object; as `click`."""
        self._add(prompt)
        self._changed()
        return self.mask

    def choose(self, reading: int) -> np.ndarray:
        """Take another reading of the first prompt on the active object as its mask; a step like a prompt.

        Args:
            reading: Number among `readings`, from 0; that of the present one changes nothing.

        Returns:
            Mask on the volume's grid, bool, shape (I, J, K).

        Raises:
            ClickError: There is no such reading: nothing was prompted yet, or a correction has settled what is meant.
                The session is then as it was before.
        """
        prompts = self.prompts
        return self.add(Choice(prompts[-1].centre_ijk if prompts else (0, 0, 0), reading))

    def undo(self) -> np.ndarray:
        """Take back the last click, choice, removal or reset; returns the mask of the object that it changed.

        Raises:
            ClickError: There is nothing to take back.
        """
        if not self._past:
            raise ClickError("nothing to undo: no click was made yet, or it is too long ago to be kept in memory.")
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
        """Write the journal as JSON, with the size of each mask, so that who repeats it learns of a difference."""
        replace(self.journal(), voxels=count_voxels(self)).save(path)

    def load_journal(self, path: str | os.PathLike) -> None:
        """Replace all prompts so far by those of a journal; undo goes back through both.

        Raises:
            JournalError: Damaged, of another volume, method or settings. The session is then as it was before.

        Warns:
            UserWarning: A mask is not as large as it was when the journal was saved.
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
        if journal.voxels:
            warn_of_changes(journal, str(path), count_voxels(self))

    @cached_property
    def _described(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        return describe_volume(self.volume), self._provenance()  # hashing a volume takes longer than a click

    def _checked(self, prompt: Prompt) -> Prompt:
        self._told.clear()
        if not isinstance(prompt, Choice):
            self.check_accepts(prompt.kind if isinstance(prompt, Prompt) else type(prompt))
        return prompt.checked(self.volume)

    def check_accepts(self, kind: str | type) -> None:
        """Raise ClickError unless the session takes prompts of a kind."""
        if kind not in self.accepts:
            name, known = self._provenance()["name"], ", ".join(sorted(self.accepts))
            got = kind.__name__ if isinstance(kind, type) else repr(kind)
            raise ClickError(f"a session of {name} takes prompts of kind {known}; got {got}.")

    def _add(self, prompt: Prompt) -> None:
        prompt, name = self._checked(prompt), self.active
        if isinstance(prompt, Choice):
            self._choose(prompt)
            return
        previous = None if prompt.starts_anew else self._state.predictions.get(name)
        self._check_room()
        if previous is None and not prompt.foreground:
            raise ClickError(f"{name}: the first {prompt.kind} on an object must be foreground.")
        counting = since_start((*without_choices(self.prompts), prompt))
        self._accept((prompt,), self._predict(counting, previous))

    def _choose(self, choice: Choice) -> None:
        alternatives = self._alternatives() if self.active in self.objects else ()
        check_reading(self.active, choice.reading, len(alternatives))
        if choice.reading != self.chosen:
            self._tell_of(alternatives[choice.reading])
            self._accept((choice,), alternatives[choice.reading])

    def _alternatives(self) -> tuple[Any, ...]:
        """What the prompts on the active object may mean, worked out once."""
        counting, prediction = since_start(without_choices(self.prompts)), self._state.predictions[self.active]
        if len(counting) > 1:
            return (prediction,)
        if self._worked_out[0] != (self.active, counting):
            self._worked_out = (self.active, counting), tuple(self._possible(counting, prediction))
        return self._worked_out[1]

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
        self._past = trimmed([*self._past, self._state])
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
