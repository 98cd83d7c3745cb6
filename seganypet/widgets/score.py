"""How near each object comes to its truth, for a learner who clicks."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from seganypet.errors import GeometryError, SegAnyPETError
from seganypet.metrics import dice
from seganypet.prompting.base import PromptSession


class Score:
    """DSC of each object of a session against its truth, step by step.

    Args:
        truth: Masks on the volume's grid by name of the object, or one mask for whatever object is clicked.
        goal: DSC to reach, above 0 and at most 1.

    Raises:
        SegAnyPETError: `goal` is out of range.
    """

    def __init__(self, truth: Mapping[str, np.ndarray] | np.ndarray, goal: float = 0.9):
        if not 0 < goal <= 1:
            raise SegAnyPETError(f"goal={goal}; expected a DSC above 0 and at most 1.")
        self.truth, self.goal = truth, goal
        self._curves: dict[str, list[tuple[Any, float]]] = {}  # of each object: what was prompted, and the DSC then

    def truth_of(self, name: str) -> np.ndarray | None:
        return self.truth.get(name) if isinstance(self.truth, Mapping) else self.truth

    def of(self, session: PromptSession) -> dict[str, Any]:
        """Where the active object stands: {name, goal, curve: DSC after each prompt}; {} without a truth for it.

        Raises:
            GeometryError: The truth has another shape than the volume.
        """
        name = session.active
        truth = self.truth_of(name)
        if truth is None:
            return {}
        if truth.shape != session.volume.shape:
            raise GeometryError(f"truth of {name}: shape {truth.shape}, but the volume has {session.volume.shape}.")
        prompts = session.prompts_of(name)
        curve = [step for step in self._curves.get(name, []) if step[0] == prompts[: len(step[0])]]  # undo shortens it
        if prompts and (not curve or curve[-1][0] != prompts):
            curve.append((prompts, dice(session.mask_of(name), truth)))
        self._curves[name] = curve
        return {"name": name, "goal": self.goal, "curve": [round(dsc, 3) for _, dsc in curve]}
