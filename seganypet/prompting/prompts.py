"""Prompts of all kinds: what a user says about an object.

    Click         one voxel                                   prompt.py
    Scribble      a line along voxels                         shapes.py
    Box, Lasso    a region, drawn in a slice or in space      shapes.py
    InitialMask   a mask to start from                        initial_mask.py
    Propagation   a slice to carry to its neighbours          propagation.py
    Choice        another reading of the prompt before it     readings.py
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from seganypet.errors import ClickError
from seganypet.prompting.initial_mask import InitialMask
from seganypet.prompting.prompt import Click, Mark, Prompt, Voxel, click_at
from seganypet.prompting.propagation import Propagation
from seganypet.prompting.readings import Choice
from seganypet.prompting.shapes import Box, Lasso, Scribble

__all__ = [
    "PROMPTS", "Box", "Choice", "Click", "InitialMask", "Lasso", "Mark", "Prompt", "Propagation", "Scribble", "Voxel",
    "click_at", "constrain", "read_prompt", "signed_voxels", "since_start", "without_choices", "write_prompt",
]  # fmt: skip

PROMPTS: dict[str, type[Prompt]] = {
    kind.kind: kind for kind in (Click, Scribble, Box, Lasso, InitialMask, Propagation, Choice)
}


def signed_voxels(prompts: Iterable[Prompt]) -> list[tuple[Voxel, bool]]:
    """The points that stand for some prompts, in order, each with its sign; see `Prompt.points`."""
    return [point for prompt in prompts for point in prompt.points]


def since_start(prompts: Sequence[Prompt]) -> tuple[Prompt, ...]:
    """Those prompts on an object that count: from the last one on that starts it anew, or all."""
    starts = [number for number, prompt in enumerate(prompts) if prompt.starts_anew]
    return tuple(prompts[starts[-1] if starts else 0 :])


def without_choices(prompts: Iterable[Prompt]) -> tuple[Prompt, ...]:
    """Those prompts that say something of an object, and not which reading of them is meant."""
    return tuple(prompt for prompt in prompts if not isinstance(prompt, Choice))


def constrain(mask: np.ndarray, prompts: Iterable[Prompt]) -> None:
    """Write into a mask what prompts settle.

    What binds single voxels (clicks, scribbles) comes last, in the order given: a box or lasso never removes the voxel
    of a positive click, and of two clicks on one voxel the later counts.

    Args:
        mask: Bool, shape of the volume; changed in place.
        prompts: Prompts on one object, oldest first.
    """
    for prompt in sorted(prompts, key=lambda prompt: prompt.binds_voxels):
        prompt.constrain(mask)


def write_prompt(prompt: Prompt, affine: np.ndarray | None = None) -> dict[str, Any]:
    """A prompt for JSON; a click, as it always was, without its kind."""
    kind = {} if prompt.kind == Click.kind else {"kind": prompt.kind}
    return kind | prompt.to_json(affine)


def read_prompt(entry: Any, affine: np.ndarray | None = None) -> Prompt:
    """Read what `write_prompt` wrote.

    Raises:
        ClickError: Not a prompt, of an unknown kind, or damaged.
    """
    if not isinstance(entry, Mapping):
        raise ClickError(f"{entry!r} is no prompt; expected its fields by name.")
    kind = entry.get("kind", Click.kind)
    if not isinstance(kind, str) or kind not in PROMPTS:
        raise ClickError(f"unknown kind of prompt {kind!r}; this version knows {', '.join(PROMPTS)}. Update seganypet.")
    return PROMPTS[kind].from_json(entry, affine)
