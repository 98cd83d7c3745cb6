"""Sessions in which prompts bind: the mask is at last as they settle it."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from seganypet.prompting.base import PromptSession
from seganypet.prompting.journal import Journal
from seganypet.prompting.prompts import Prompt, constrain

BINDING = {"clicks": "bind"}  # among the settings in a journal


class BindingSession(PromptSession):
    """A session whose masks are as all its prompts settle them, see `prompts.constrain`.

    Journals from before clicks were binding are repeated as they were, by a session without a past.
    """

    _binds = True

    def load_journal(self, path: str | os.PathLike) -> None:
        before = self._binds
        if not (self.can_undo or self.can_redo):
            self._binds = BINDING.items() <= Journal.load(path).settings.items()
        try:
            super().load_journal(path)
        except BaseException:
            self._binds = before
            raise

    def _constrain(self, mask: np.ndarray, prompts: Sequence[Prompt]) -> None:
        """Write into a mask, bool, shape of the volume, what prompts settle."""
        constrain(mask, [prompt for prompt in prompts if self._binds or not prompt.binds_voxels])

    def _settings(self) -> Mapping[str, Any]:
        return {**super()._settings(), **(BINDING if self._binds else {})}
