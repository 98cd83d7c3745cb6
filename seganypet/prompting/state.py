"""What a session knows at one moment."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from seganypet.errors import ClickError
from seganypet.prompting.prompts import Prompt


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

    def renamed(self, old: str, new: str) -> "State":
        """The state in which an object has another name."""
        return replace(
            self,
            prompts=tuple((new if owner == old else owner, prompt) for owner, prompt in self.prompts),
            predictions={new if owner == old else owner: one for owner, one in self.predictions.items()},
            active=new if self.active == old else self.active,
            changed=new if self.changed == old else self.changed,
        )


def checked_name(name: str) -> str:
    """The name of an object; ClickError if it is blank or no file can hold it."""
    if not isinstance(name, str) or not name.strip():
        raise ClickError(f"object name {name!r}; expected some text.")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ClickError(f"object name {name!r} contains an unpaired surrogate, which no file can hold.") from error
    return name
