"""Where training starts: random weights, or those of another network, also of one that could do less."""

from collections.abc import Callable

import torch
from torch import Tensor

from seganypet.errors import CheckpointError, SegAnyPETError
from seganypet.model.checkpoints import load_model
from seganypet.model.config import ModelConfig
from seganypet.model.mask_decoder import READINGS
from seganypet.model.sam3d import Sam3D
from seganypet.training.config import TrainConfig


def initial_model(config: TrainConfig, say: Callable[[str], None] = print) -> Sam3D:
    """The network that training starts from: random, or with the weights of `config.init` as far as they fit.

    A network with more inputs than `config.init` has, such as likeness, at first answers as that one does: the weights
    of what is new are zero. Readings that `config.init` was never trained for begin as its single mask.

    Args:
        config: Settings of the run.
        say: Function that prints which weights were taken.

    Raises:
        CheckpointError: `config.init` is unknown, a 2D network, or one of which no tensor fits.
    """
    if config.init is None:
        return Sam3D(config.model or ModelConfig())
    given = load_model(config.init, device="cpu")
    if not isinstance(given, Sam3D):
        raise CheckpointError(f"{config.init} is a 2D network; {config.name} needs the weights of a 3D one, or none.")
    model = Sam3D(config.model or given.config)
    ours, theirs = model.state_dict(), given.state_dict()
    taken = {name: widened(theirs[name], ours[name]) for name in ours.keys() & theirs.keys()}
    fitting = {name: value for name, value in taken.items() if value is not None}
    if not fitting:
        raise CheckpointError(f"{config.init}: none of its {len(theirs)} tensors fits the network of {config.name}.")
    model.load_state_dict(fitting, strict=False)
    if config.readings and not given.metadata.get("readings"):
        begin_readings(model)
    new, left = sorted(set(ours) - set(fitting)), sorted(set(theirs) - set(fitting))
    say(f"{config.name} starts from {config.init}: {len(fitting)} of {len(ours)} tensors.")
    if new:
        say(f"  Random instead, as it has none that fit: {', '.join(new)}.")
    if left:
        say(f"  Left out, as nothing here takes them: {', '.join(left)}.")
    return model


def begin_readings(model: Sam3D) -> None:
    """Let readings that a network was never trained for begin as its single mask, in place."""
    single, *others = model.mask_decoder.output_hypernetworks_mlps
    for reading in READINGS:
        others[reading - 1].load_state_dict(single.state_dict())


def widened(value: Tensor, like: Tensor) -> Tensor | None:
    """A tensor with zeros for inputs that it lacks, (O, I, ...) -> (O, I + new, ...); None: otherwise another shape."""
    if value.shape == like.shape:
        return value
    lengthened = value.shape[:1] + like.shape[1:2] + value.shape[2:]
    if value.ndim < 2 or lengthened != like.shape or like.shape[1] < value.shape[1]:
        return None
    new = value.new_zeros(value.shape[:1] + (like.shape[1] - value.shape[1],) + value.shape[2:])
    return torch.cat([value, new], dim=1)


def choose_learned(model: Sam3D, beginnings: tuple[str, ...] | None) -> None:
    """Let those parameters learn whose names begin so, and keep the others as they are; None: all learn.

    Raises:
        SegAnyPETError: No parameter's name begins so.
    """
    names = [name for name, _ in model.named_parameters()]
    for beginning in beginnings or ():
        if not any(name.startswith(beginning) for name in names):
            known = ", ".join(sorted({".".join(name.split(".")[:2]) for name in names}))
            raise SegAnyPETError(f"learned: no parameter's name begins with {beginning!r}; there are {known}.")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(beginnings is None or name.startswith(tuple(beginnings)))
