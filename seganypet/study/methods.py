"""What can be evaluated: networks by name, path or as objects, threshold rules, and whatever opens a session."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from seganypet.errors import SegAnyPETError
from seganypet.pet.threshold_rules import current_rule_name
from seganypet.pet.volume import Volume
from seganypet.prompting import networks
from seganypet.prompting.base import PromptSession
from seganypet.prompting.thresholds import baseline_name, baseline_session

# Voxel sizes of windows on single lesions, at the first look and at most at the second: chosen with tiny-base on the
# phantoms 400 and 403 (disseminated).
LESION_MM, FINEST_MM = 2.0, 1.5
HASH_DIGITS = 16  # of SHA-256; enough to tell networks apart, short enough for a table

Opener = Callable[[Any, Volume], Any]


@dataclass(frozen=True, eq=False)
class Method:
    """One way of turning clicks into masks.

    Attributes:
        name: In tables.
        opener: Opens a session on a volume: called with `source`, the volume.
        source: Rule, name or path of a network, the network itself, or what opens sessions.
        weights: First digits of the weights' SHA-256; None of what has no weights.
        by_name: `source` names a network that each process opens for itself.
    """

    name: str
    opener: Opener
    source: Any
    weights: str | None = None
    by_name: bool = False

    def open(self, volume: Volume) -> Any:
        """A new session on a volume: something with `reset` and with `click`, or `click_slices` and `axis`."""
        source = _network(self.source, self.weights) if self.by_name else self.source
        return self.opener(source, volume)


def resolve_methods(models: Any, rules: Sequence[str], opener: Opener) -> tuple[Method, ...]:
    """What to evaluate, from what a caller may say.

    Args:
        models: None, or one or several of: name of a network or path of its weights; a threshold rule; a network; a
            factory, which is called with a volume and returns a session. A mapping gives them names.
        rules: Threshold rules to add, but for those that are among the models.
        opener: Opens a session of a network on a volume.

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
    methods = [_method(name, model, opener) for name, model in named]
    there = {method.name for method in methods}
    methods += [_rule(rule) for rule in rules if rule not in there]
    names = [method.name for method in methods]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SegAnyPETError(
            f"several models are named {', '.join(twice)}; give each a name: {{'first': model, 'second': other}}, "
            "on the command line --model first=PATH."
        )
    if not methods:
        raise SegAnyPETError("nothing to evaluate: give a model, or a threshold rule among the baselines.")
    return tuple(methods)


def named_models(said: Sequence[str]) -> dict[str, str] | list[str]:
    """Models as a command line gives them, for `resolve_methods`: NAME=PATH has a name, an existing path may hold "=".

    Raises:
        SegAnyPETError: A name that is given twice.
    """
    pairs = [(None, model) if "=" not in model or is_rule(model) or Path(model).exists() else model.split("=", 1)
             for model in said]
    if any(name for name, _ in pairs):
        names = [name or (model if is_rule(model) else Path(model).stem) for name, model in pairs]
        if len(set(names)) < len(names):
            raise SegAnyPETError(f"--model: {', '.join(names)} are names that are given twice.")
        return dict(zip(names, (model for _, model in pairs), strict=True))
    return list(said)


def forget_networks() -> None:
    """Close the networks that this process opened by name: their files may change before the next evaluation."""
    _network.cache_clear()


def open_session(model: Any, volume: Volume) -> Any:
    """A session of a network on a volume, with the session's own settings."""
    return networks.open_session(model, volume)


def open_closely(model: Any, volume: Volume) -> Any:
    """As `open_session`, for single lesions: windows finer than organs need, and finer yet where a lesion is small."""
    from seganypet.prompting.session import Session  # imports torch, which thresholds do not need

    if not Session.serves(model):
        return open_session(model, volume)
    return Session(model, volume, spacing_mm=min(model.config.spacing_mm, LESION_MM), min_spacing_mm=FINEST_MM)


def can_look_closer(model: Any) -> bool:
    """Whether `open_closely` looks more closely than `open_session`; the released networks' windows are as fine."""
    return model.config.spacing_mm > FINEST_MM


def model_name(model: Any) -> str:
    """Name of a model in tables: its attribute `name` if it has one, else its own or its class's."""
    if isinstance(model, partial):
        return model_name(model.func)
    return str(getattr(model, "name", None) or getattr(model, "__name__", None) or type(model).__name__)


def _method(name: str | None, model: Any, opener: Opener) -> Method:
    if isinstance(model, str | Path):
        if is_rule(str(model)):
            return _rule(str(model), name)
        # Another process may run in another folder.
        source = str(Path(model).resolve()) if Path(model).exists() else str(model)
        network = _network(source, None)
        return Method(name or model_name(network), opener, source, _weights(network), by_name=True)
    if callable(model) and not hasattr(model, "config") and not hasattr(model, "state_dict"):
        return Method(name or model_name(model), _call, model)
    return Method(name or model_name(model), opener, model, _weights(model))


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


def _threshold_session(rule: str, volume: Volume) -> PromptSession:
    return baseline_session(volume, rule)


def _call(factory: Callable[[Volume], Any], volume: Volume) -> Any:
    return factory(volume)


def _weights(model: Any) -> str | None:
    if not hasattr(model, "state_dict"):
        return None
    from seganypet.model.checkpoints import weights_sha256

    return weights_sha256(model)[:HASH_DIGITS]


@lru_cache(maxsize=8)
def _network(source: str, weights: str | None) -> Any:
    """A network, opened once in each process; SegAnyPETError if its weights are not those that were asked for."""
    from seganypet.model.checkpoints import load_model

    network = load_model(source)
    if weights is not None and _weights(network) != weights:
        raise SegAnyPETError(
            f"{source} holds other weights here ({_weights(network)}) than where the evaluation was started "
            f"({weights}); copy the same file to every machine, and do not change it meanwhile."
        )
    return network
