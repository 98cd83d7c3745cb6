"""What sessions without a network share: the kinds of prompts that they take."""

from collections.abc import Sequence

from seganypet.prompting.binding_session import BindingSession
from seganypet.prompting.prompts import Box, Click, InitialMask, Lasso, Prompt, Scribble


class ClassicalSession(BindingSession):
    """A session without a network."""

    accepts = frozenset(kind.kind for kind in (Click, Scribble, Box, Lasso, InitialMask))


def growing(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Those prompts on an object that something is grown from: positive ones; a box or lasso only as the first."""
    return [
        prompt for number, prompt in enumerate(prompts) if prompt.foreground and (prompt.binds_voxels or number == 0)
    ]
