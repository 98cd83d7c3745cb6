"""What a session knows at one moment."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from typing import Any

from seganypet.errors import ClickError, readable_name
from seganypet.prompting.prompts import Prompt

MAX_UNDO_BYTES = 500_000_000  # of predictions that undo could bring back; the oldest steps are given up first


@dataclass(frozen=True)
class State:
    """Everything that undo must bring back. Never changed, only replaced.

    Attributes:
        prompts: Pairs (object name, prompt), oldest first.
        predictions: For every object, what the method made of its prompts; its mask follows from it.
        active: Name of the object that the next prompt belongs to.
        changed: Name of the object that the step to this state changed.
        notice: What a user must know of that step, one sentence; "" if there is nothing.
    """

    prompts: tuple[tuple[str, Prompt], ...] = ()
    predictions: Mapping[str, Any] = field(default_factory=dict)
    active: str = "object 1"
    changed: str = "object 1"
    notice: str = ""

    @cached_property
    def bytes(self) -> int:
        """Memory of what the step to this state made: the object's prediction, and its newest prompt."""
        return held_bytes((self.predictions.get(self.changed), self.prompts[-1:]))

    def renamed(self, old: str, new: str) -> "State":
        """The state in which an object has another name."""
        return replace(
            self,
            prompts=tuple((new if owner == old else owner, prompt) for owner, prompt in self.prompts),
            predictions={new if owner == old else owner: one for owner, one in self.predictions.items()},
            active=new if self.active == old else self.active,
            changed=new if self.changed == old else self.changed,
        )


def trimmed(past: list[State]) -> list[State]:
    """The newest of some steps, as many as fit into `MAX_UNDO_BYTES`, and at least one."""
    kept = sum(state.bytes for state in past)
    first = 0
    while kept > MAX_UNDO_BYTES and first < len(past) - 1:
        kept -= past[first].bytes
        first += 1
    return past[first:]


def held_bytes(value: Any) -> int:
    """Memory of the arrays, tensors and texts in a value of dataclasses, mappings and sequences."""
    if hasattr(value, "nbytes"):
        return int(value.nbytes)
    if isinstance(value, str | bytes):
        return len(value)
    if is_dataclass(value):
        return sum(held_bytes(getattr(value, part.name)) for part in fields(value))
    if isinstance(value, Mapping):
        return sum(map(held_bytes, value.values()))
    return 8 + (sum(map(held_bytes, value)) if isinstance(value, Iterable) else 0)


def checked_name(name: str) -> str:
    """The name of an object, trimmed; ClickError if it is one that the files of masks do not take."""
    if not (trimmed_name := readable_name(name)):
        raise ClickError(f"object name {name!r}; expected printable text.")
    return trimmed_name
