"""Sessions of networks: what they share, and which of them drives a network.

`open_session` asks `Session` and `SliceSession` in turn. A network with a session of its own takes two files: one with
the session, which derives from `NetworkSession`, and one with the network, whose attribute `session` is that class or
its address, such as "seganypet.prompting.session:Session".
"""

import os
import pkgutil
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from seganypet.errors import ClickError, JournalError, SegAnyPETError
from seganypet.model.base import missing_members
from seganypet.pet.volume import Volume
from seganypet.prompting.base import PromptSession
from seganypet.prompting.binding_session import BINDING
from seganypet.prompting.journal import Journal

# What a session can translate a kind of prompt into, for a network that does not take the kind itself. A mask to start
# from needs a network that takes one.
STANDS_FOR = {"scribble": "click", "box": "click", "lasso": "click", "propagation": "click"}


class NetworkSession(PromptSession):
    """A session of a network, which it asks for what it needs and for the prompts that it takes.

    Attributes:
        model: The network.
        device: Device that it computes on.
        accepts: Kinds of prompts of the session that the network takes, or something that stands for them.
        network: The protocol of `seganypet.model.base` that a network must meet.
        renamed_settings: Former names of settings, which old journals hold, and those of today.
    """

    network: ClassVar[type]
    renamed_settings: ClassVar[Mapping[str, str]] = {}

    def __init__(self, model: Any, volume: Volume):
        kind, missing = type(self).__name__, missing_members(model, self.network)
        if missing or not isinstance(volume, Volume):
            lacks = f" {type(model).__name__} lacks {', '.join(missing)}." if missing else ""
            raise SegAnyPETError(
                f"{kind}(model, volume) needs a network that offers what {self.network.__name__} lists, such as "
                f"load_model returns, and a volume; got {type(model).__name__} and {type(volume).__name__}.{lacks} "
                "open_session(model, volume) finds the session of a network."
            )
        first = next(model.parameters())
        if first.is_floating_point() and str(first.dtype) != "torch.float32":
            raise SegAnyPETError(
                f"{model.name} holds its weights as {first.dtype}; expected torch.float32: model.float(). To compute "
                'with fewer digits, Session(model, volume, precision="bfloat16") keeps exact what must be.'
            )
        super().__init__(volume)
        self.model = model
        self.device = first.device
        self.accepts = frozenset(
            kind for kind in type(self).accepts if kind in model.accepts or STANDS_FOR.get(kind) in model.accepts
        )

    @classmethod
    def serves(cls, model: Any) -> bool:
        """True if this is a session for such a network."""
        return not missing_members(model, cls.network)

    @classmethod
    def replay(cls, model: Any, volume: Volume, path: str | os.PathLike) -> Self:
        """Open a session and give the prompts of a journal again; the masks come out identical.

        Raises:
            JournalError: Damaged, or of another volume, another network or another kind of session.
        """
        try:
            settings = cls._settings_of(Journal.load(path))
            session = cls(model, volume, **{name: value for name, value in settings.items() if name not in BINDING})
        except (ClickError, TypeError) as error:
            raise JournalError(f"{path}: cannot be repeated by {cls.__name__} ({error}); was it edited?") from error
        session.load_journal(path)
        return session

    def _provenance(self) -> dict[str, str]:
        from seganypet.model.checkpoints import weights_sha256  # imports torch

        return {"name": self.model.name, "weights_sha256": weights_sha256(self.model)}

    @classmethod
    def _settings_of(cls, journal: Journal) -> dict[str, Any]:
        return {cls.renamed_settings.get(name, name): value for name, value in journal.settings.items()}


# Addresses, so that nothing is imported before it is needed.
SESSIONS = ("seganypet.prompting.session:Session", "seganypet.prompting.slicewise:SliceSession")


def open_session(model: Any, volume: Volume, **options: Any) -> NetworkSession:
    """Open the session that drives a network: the one that it names, or the first whose protocol it meets.

    Args:
        model: Network, such as `load_model` returns.
        volume: The volume to segment.
        options: Keyword arguments of that session.

    Raises:
        SegAnyPETError: No session can drive it; the message lists what is missing.
    """
    own = getattr(model, "session", None)
    if own is not None:
        return _resolve(own)(model, volume, **options)
    known = [_resolve(session) for session in SESSIONS]
    for session in known:
        if session.serves(model):
            return session(model, volume, **options)
    lacks = "; ".join(f"for {one.__name__}: {', '.join(missing_members(model, one.network))}" for one in known)
    raise SegAnyPETError(f"no session drives a {type(model).__name__}. It lacks, {lacks}.")


def _resolve(session: type[NetworkSession] | str) -> type[NetworkSession]:
    return pkgutil.resolve_name(session) if isinstance(session, str) else session
