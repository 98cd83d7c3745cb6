"""Methods of a study: networks by name, path or as objects, threshold rules, and factories of sessions."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from operator import call
from pathlib import Path
from typing import Any

import numpy as np

from seganypet.errors import CheckpointError, SegAnyPETError
from seganypet.pet.threshold_rules import current_rule_name
from seganypet.pet.volume import Volume
from seganypet.prompting.base import PromptSession
from seganypet.prompting.binding_session import BINDING
from seganypet.prompting.network_session import open_session
from seganypet.prompting.session import Session
from seganypet.prompting.thresholds import baseline_name, baseline_session
from seganypet.prompting.window_decoder import PRECISIONS, best_precision
from seganypet.study.automatic import CT, PET, AutomaticMethod, Proposal
from seganypet.study.workers import worker_number

HASH_DIGITS = 16  # of SHA-256; enough to tell networks apart, short enough for a table

PROPOSE = "propose"

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
        device: Device of such a network, see `devices.find_device`; several GPUs are dealt to the processes of a run.
        precision: Precision of a 3D network: "auto", "float32" or "bfloat16", see `Session`.
        modality: What it looks at: `automatic.PET`, or `automatic.CT`.
    """

    name: str
    opener: Opener
    source: Any
    weights: str | None = None
    by_name: bool = False
    device: str = "cpu"
    precision: str = "auto"
    modality: str = PET

    @property
    def identity(self) -> str:
        """What tells its rows from those of another method of the same name."""
        bind = f"clicks {BINDING['clicks']}"  # rows from before they did must not mix with those of today
        if self.weights is not None:
            return f"weights {self.weights}, {bind}"
        if self.is_rule:
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
        return _network(self.source, self.weights, dealt_device(self.device)) if self.by_name else self.source

    @property
    def is_rule(self) -> bool:
        """Whether it is a classical baseline, whose sessions keep little."""
        return self.opener is _threshold_session

    def open(self, volume: Volume) -> Any:
        """A new session on a volume: something with `reset` and with `click`, or `click_slices` and `axis`."""
        network = self.network
        if network is None:
            return self.opener(self.source, volume)
        options = {"precision": self.precision} if self.precision != "auto" and _has_precision(network) else {}
        return self.opener(network, volume, **options)

    def place(self) -> dict[str, Any]:
        """Where it computes in this process: device, precision, and threads of the CPU; nothing of what is no network.

        Raises:
            SegAnyPETError: As `network`, and if there is no such device.
        """
        network = self.network
        if network is None:
            return {}
        import torch

        from seganypet.model.devices import is_small

        device = next(network.parameters()).device
        precision = best_precision(device) if self.precision == "auto" else self.precision
        return {
            "device": str(device),
            "precision": precision if _has_precision(network) else "float32",
            "threads": 1 if device.type == "cpu" and is_small(network) else torch.get_num_threads(),
        }


def dealt_device(name: str) -> str:
    """The device of this process: where "auto" or "cuda" leaves a choice, processes of a run take GPUs in turn.

    Workers of a Dask cluster take the first GPU that they see; `dask-cuda` shows each worker one of its own.

    Raises:
        SegAnyPETError: There is no such device.
    """
    import torch

    from seganypet.model.devices import find_device

    device = find_device(name)
    number = worker_number()
    fixed = name == "auto" and "SEGANYPET_DEVICE" in os.environ
    if name in ("auto", "cuda") and device.type == "cuda" and number is not None and not fixed:
        return f"cuda:{number % torch.cuda.device_count()}"
    return str(device)


def resolve_methods(
    models: Any, rules: Sequence[str] = (), device: str = "auto", precision: str = "auto",
    automatic: Sequence[AutomaticMethod] = (),
) -> tuple[Method | AutomaticMethod, ...]:  # fmt: skip
    """The methods that a caller names.

    Args:
        models: None, or one or several of: name of a network or path of its weights; a threshold rule; "propose", which
            nobody clicks; a network; a factory, which is called with a volume and returns a session. A mapping gives
            them names.
        rules: Threshold rules to add, except for those that are among the models.
        device: Device of networks that are given by name or path, see `devices.find_device`.
        precision: Precision of 3D networks, see `Session`.
        automatic: Methods without clicks to add.

    Raises:
        SegAnyPETError: Nothing to evaluate, two of one name, an unknown rule, no such device or precision.
        CheckpointError: Networks that cannot be opened, all of them.
    """
    if precision not in ("auto", *PRECISIONS):
        raise SegAnyPETError(f"precision={precision!r}; expected one of auto, {', '.join(PRECISIONS)}.")
    if models is None:
        named = []
    elif isinstance(models, Mapping):
        named = list(models.items())
    elif isinstance(models, list | tuple | set):
        named = [(None, model) for model in models]
    else:
        named = [(None, models)]
    if any(isinstance(model, str | Path) and model != PROPOSE and not is_rule(str(model)) for _, model in named):
        from seganypet.model.devices import find_device

        find_device(device)  # refused before any weights are read
    methods: list[Any] = []
    missing: list[str] = []
    for name, model in named:
        try:
            methods.append(Proposal(name or PROPOSE) if model == PROPOSE else _method(name, model))
        except CheckpointError as error:
            missing.append(str(error))
    if missing:
        several = f"{len(missing)} networks cannot be opened. " if len(missing) > 1 else ""
        raise CheckpointError(several + " ".join(missing))
    for number, method in enumerate(methods):
        if isinstance(method, Method) and method.opener is open_session:
            methods[number] = replace(method, precision=precision, device=device if method.by_name else method.device)
    present = {method.name for method in methods}
    methods += [_rule(rule) for rule in rules if rule not in present]
    methods += automatic
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


def clicked_only(methods: Sequence[Any], study: str) -> tuple[Method, ...]:
    """The methods of a study that needs clicks; SegAnyPETError if one of them takes none."""
    if automatic := [one.name for one in methods if not isinstance(one, Method)]:
        raise SegAnyPETError(f"{', '.join(automatic)}: finds organs without a click, so {study} cannot use it.")
    return tuple(methods)


def on_ct(methods: Sequence[Any]) -> tuple[Any, ...]:
    """The networks among methods, looking at the CT that is laid over the PET; their names say so."""
    networks = [one for one in methods if isinstance(one, Method) and one.opener is open_session]
    return tuple(replace(one, name=f"{one.name} on CT", modality=CT) for one in networks)


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


def _has_precision(network: Any) -> bool:
    """Whether its sessions have a choice of precision: those in windows do, those in slices compute in float32."""
    return Session.serves(network)


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

    return load_model(source, device="cpu")


@lru_cache(maxsize=8)
def _network(source: str, weights: str | None, device: str) -> Any:
    """A network whose weights are those that were asked for, on a device."""
    network = _load(source).to(device)
    if _weights(network) != weights:
        raise SegAnyPETError(
            f"{source} holds other weights here ({_weights(network)}) than where the study was started ({weights}); "
            "copy the same file to every machine, and do not change it meanwhile."
        )
    return network
