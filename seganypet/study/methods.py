"""Methods of a study: networks by name, path or as objects, threshold rules, and factories of sessions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from operator import call
from pathlib import Path
from typing import Any

import numpy as np

from seganypet.errors import SegAnyPETError
from seganypet.pet.threshold_rules import current_rule_name
from seganypet.pet.volume import Volume
from seganypet.prompting.base import PromptSession
from seganypet.prompting.binding_session import BINDING
from seganypet.prompting.network_session import open_session
from seganypet.prompting.thresholds import baseline_name, baseline_session

HASH_DIGITS = 16  # of SHA-256; enough to tell networks apart, short enough for a table

Opener = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Method:
    """One way of turning clicks into masks.

    Attributes:
        name: Name in tables.
        opener: Opens a session: called with `source`, for a network with the network itself, and a volume.
        source: Threshold rule, name or path of a network, the network itself, or a factory of sessions.
        weights: First digits of the weights' SHA-256; None of what has no weights.
        by_name: Whether `source` names a network that each process opens for itself.
    """

    name: str
    opener: Opener
    source: Any
    weights: str | None = None
    by_name: bool = False

    @property
    def identity(self) -> str:
        """What tells its rows from those of another method of the same name."""
        bind = f"clicks {BINDING['clicks']}"  # rows from before they did must not mix with those of today
        if self.weights is not None:
            return f"weights {self.weights}, {bind}"
        if self.opener is _threshold_session:
            return f"rule {self.source}, {bind}"
        return f"factory {_qualified_name(self.source)}"

    @property
    def network(self) -> Any:
        """The network; None of rules and factories.

        Raises:
            SegAnyPETError: The file that it is named after holds other weights by now.
        """
        if self.opener is not open_session:
            return None
        return _network(self.source, self.weights) if self.by_name else self.source

    def open(self, volume: Volume) -> Any:
        """A new session on a volume: something with `reset` and with `click`, or `click_slices` and `axis`."""
        network = self.network
        return self.opener(self.source if network is None else network, volume)


def resolve_methods(models: Any, rules: Sequence[str] = ()) -> tuple[Method, ...]:
    """The methods that a caller names.

    Args:
        models: None, or one or several of: name of a network or path of its weights; a threshold rule; a network; a
            factory, which is called with a volume and returns a session. A mapping gives them names.
        rules: Threshold rules to add, except for those that are among the models.

    Raises:
        SegAnyPETError: Nothing to evaluate, two of one name, an unknown rule; a network that cannot be opened.
    """
    if models is None:
        named = []
    elif isinstance(models, Mapping):
        named = list(models.items())
    elif isinstance(models, list | tuple | set):
        named = [(None, model) for model in models]
    else:
        named = [(None, models)]
    methods = [_method(name, model) for name, model in named]
    present = {method.name for method in methods}
    methods += [_rule(rule) for rule in rules if rule not in present]
    names = [method.name for method in methods]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SegAnyPETError(
            f"several models are named {', '.join(twice)}; give each a name: {{'first': model, 'second': other}}, "
            "on the command line --models first=PATH second=PATH."
        )
    if not methods:
        raise SegAnyPETError("nothing to evaluate: give a model or a threshold rule.")
    return tuple(methods)


def named_models(arguments: Sequence[str]) -> dict[str, str] | list[str]:
    """Models from a command line, for `resolve_methods`.

    Args:
        arguments: Names of networks, paths or rules; NAME=PATH gives one a name, unless there is a file of that name.

    Raises:
        SegAnyPETError: A name that is given twice.
    """
    pairs = [
        (None, model) if "=" not in model or is_rule(model) or Path(model).exists() else model.split("=", 1)
        for model in arguments
    ]
    if any(name for name, _ in pairs):
        names = [name or (model if is_rule(model) else Path(model).stem) for name, model in pairs]
        if len(set(names)) < len(names):
            raise SegAnyPETError(f"--models: duplicate names among {', '.join(names)}; name each model: NAME=PATH.")
        return dict(zip(names, (model for _, model in pairs), strict=True))
    return list(arguments)


def forget_networks() -> None:
    """Close the networks that this process opened by name: their files may change before the next study."""
    _network.cache_clear()
    _load.cache_clear()


def is_3d_network(method: Any) -> bool:
    """Whether a method is a network whose sessions take clicks in the volume, not in each slice."""
    network = getattr(method, "network", None)
    return network is not None and not hasattr(method.open(_ONE_VOXEL), "click_slices")


def model_name(model: Any) -> str:
    """Name of a model in tables: its attribute `name` if it has one, else its own or its class's."""
    if isinstance(model, partial):
        return model_name(model.func)
    return str(getattr(model, "name", None) or getattr(model, "__name__", None) or type(model).__name__)


def _method(name: str | None, model: Any) -> Method:
    if isinstance(model, str | Path):
        if is_rule(str(model)):
            return _rule(str(model), name)
        # Another process may run in another folder.
        source = str(Path(model).resolve()) if Path(model).exists() else str(model)
        network = _load(source)
        return Method(name or model_name(network), open_session, source, _weights(network), by_name=True)
    if callable(model) and not hasattr(model, "config") and not hasattr(model, "state_dict"):
        return Method(name or model_name(model), call, model)
    return Method(name or model_name(model), open_session, model, _weights(model))


def _rule(rule: str, name: str | None = None) -> Method:
    rule = baseline_name(rule)
    return Method(name or rule, _threshold_session, rule)


def is_rule(name: str) -> bool:
    """Whether this names a baseline; also true of a rule's old name, which `baseline_name` refuses in words."""
    try:
        baseline_name(current_rule_name(name))
    except SegAnyPETError:
        return False
    return True


_ONE_VOXEL = Volume(np.ones((1, 1, 1), np.float32), np.eye(4), "SUVbw", source="one voxel")


def _threshold_session(rule: str, volume: Volume) -> PromptSession:
    return baseline_session(volume, rule)


def _qualified_name(factory: Any) -> str:
    if isinstance(factory, partial):
        plain = [*factory.args, *factory.keywords.items()]
        return f"{_qualified_name(factory.func)} {[one for one in plain if isinstance(one, str | int | float | tuple)]}"
    kind = factory if hasattr(factory, "__qualname__") else type(factory)
    return f"{kind.__module__}.{kind.__qualname__}"


def _weights(model: Any) -> str | None:
    if not hasattr(model, "state_dict"):
        return None
    from seganypet.model.checkpoints import weights_sha256

    return weights_sha256(model)[:HASH_DIGITS]


@lru_cache(maxsize=8)
def _load(source: str) -> Any:
    """A network, opened once in each process."""
    from seganypet.model.checkpoints import load_model

    return load_model(source)


@lru_cache(maxsize=8)
def _network(source: str, weights: str | None) -> Any:
    """A network whose weights are those that were asked for."""
    network = _load(source)
    if _weights(network) != weights:
        raise SegAnyPETError(
            f"{source} holds other weights here ({_weights(network)}) than where the study was started ({weights}); "
            "copy the same file to every machine, and do not change it meanwhile."
        )
    return network
