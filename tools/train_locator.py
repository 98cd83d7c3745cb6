"""Train the locator, which finds organs without a prompt: `python tools/train_locator.py`, or `make train-locator`.

Pieces of phantoms depend on seed and step alone, and an interrupted run resumes from its last checkpoint.
"""

import argparse
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from locator_scenes import Bank
from torch import Tensor

from seganypet.errors import SegAnyPETError
from seganypet.model.checkpoints import save_locator
from seganypet.model.locator import Locator, LocatorConfig
from seganypet.training.bookkeeping import (
    append_row,
    forget_rows_after,
    load_checkpoint,
    only_run,
    update_average,
    warm_up_then_cosine,
    write_whole,
)

LOGGED = ("step", "loss", "cross_entropy", "dice", "seconds")


@dataclass(frozen=True)
class LocatorTraining:
    """One run.

    Attributes:
        network: Shape of the network.
        name: Name of the network that is written.
        steps, batch_size: Number of optimiser steps, and of pieces in each.
        learning_rate, warm_up, weight_decay: AdamW with linear warm-up and cosine.
        ema: Decay of the running average of weights, which is what is exported.
        first_seed, phantoms: Phantoms of the internal domain that are learned from.
        size: Voxels of a piece along x, y and z.
        checkpoint_every: Number of steps between checkpoints.
        seed: Seed of weights and pieces.
    """

    network: LocatorConfig = field(default_factory=LocatorConfig)
    name: str = "locator"
    steps: int = 1200
    batch_size: int = 1
    learning_rate: float = 4e-3
    warm_up: int = 30
    weight_decay: float = 0.01
    ema: float = 0.98
    first_seed: int = 10_000
    phantoms: int = 64
    size: tuple[int, int, int] = (48, 32, 40)
    checkpoint_every: int = 50
    seed: int = 0


def label_loss(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Cross-entropy, rare labels weighing more, plus Dice loss over the labels that are there.

    Args:
        logits: Logits of the background and of each label, (B, 1 + L, X, Y, Z).
        labels: Label of each voxel, (B, X, Y, Z) int64.

    Returns:
        Scalars: loss, cross_entropy, and dice, the mean soft DSC.
    """
    counts = torch.bincount(labels.flatten(), minlength=logits.shape[1]).float()
    # Nine voxels in ten are no organ: without weights all would be called so for a long time.
    weight = (counts.sum() / counts.clamp(min=1)).sqrt()
    cross_entropy = F.cross_entropy(logits, labels, weight)
    truth = F.one_hot(labels, logits.shape[1]).movedim(-1, 1).float()
    shared, both = (part[:, 1:].sum((0, 2, 3, 4)) for part in (logits.softmax(1) * truth, logits.softmax(1) + truth))
    present = truth[:, 1:].sum((0, 2, 3, 4)) > 0
    # A label that is not there has no DSC to learn from; cross-entropy says that it is not there.
    dice = ((2 * shared + 1) / (both + 1))[present].mean() if present.any() else logits.new_ones(())
    return {"loss": cross_entropy + 1 - dice, "cross_entropy": cross_entropy.detach(), "dice": dice.detach()}


def train_locator(
    config: LocatorTraining, output: Path, *, progress: bool = True, stop_at: int | None = None
) -> Locator:
    """Train the network, or resume its training.

    Files in `output`: `<name>.safetensors`, the weights; `<name>.csv`, the log; `<name>.ckpt`, the checkpoint;
    `locator_bank/`.

    Args:
        config: Settings of the run.
        output: Folder of all files; made if missing.
        progress: Whether to show a progress bar.
        stop_at: Step to stop at, after its checkpoint; None: the last.

    Returns:
        The network with averaged weights.

    Raises:
        SegAnyPETError: A checkpoint of other settings, or damaged; the same run in another process; a full disk.
    """
    with only_run(output, config.name):
        return _train(config, output, progress, min(stop_at or config.steps, config.steps))


def _train(config: LocatorTraining, output: Path, progress: bool, last: int) -> Locator:
    from tqdm.auto import tqdm

    torch.manual_seed(config.seed)
    model = Locator(config.network).train().to(memory_format=torch.channels_last_3d)
    seeds = range(config.first_seed, config.first_seed + config.phantoms)
    bank = Bank(seeds, output / "locator_bank", config.network.labels, config.network.spacing_mm, config.size)
    optimiser = torch.optim.AdamW(model.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    average = {name: value.detach().clone() for name, value in model.state_dict().items()}
    checkpoint, log, step = output / f"{config.name}.ckpt", output / f"{config.name}.csv", 0
    if checkpoint.exists():
        state = load_checkpoint(checkpoint, asdict(config))
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        average, step = state["average"], state["step"]
    forget_rows_after(log, step)
    started = time.perf_counter()
    bar = tqdm(total=config.steps, initial=step, desc=config.name, disable=not progress)
    while step < last:
        drawn = [bank.sample(np.random.default_rng([config.seed, step, place])) for place in range(config.batch_size)]
        suv, labels = (torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True))
        optimiser.param_groups[0]["lr"] = config.learning_rate * warm_up_then_cosine(step, config.steps, config.warm_up)
        logs = label_loss(model(suv[:, None]), labels.long())
        logs["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        step += 1
        update_average(average, model, config.ema, step)
        bar.update()
        if step % 10 == 0 or step == config.steps:
            row = {"step": step, **{name: value.item() for name, value in logs.items()}}
            append_row(log, LOGGED, row | {"seconds": time.perf_counter() - started})
        if step % config.checkpoint_every == 0 or step == last:
            state = {
                "model": model.state_dict(), "optimiser": optimiser.state_dict(), "average": average, "step": step,
                "settings": asdict(config),
            }  # fmt: skip
            write_whole(checkpoint, partial(torch.save, state))
            metadata = {"training": asdict(config), "torch": torch.__version__, "step": step}
            save_locator(output / f"{config.name}.safetensors", averaged(model, average), metadata)
    bar.close()
    return averaged(model, average)


def averaged(model: Locator, average: dict[str, Tensor]) -> Locator:
    """The same network with other weights, for inference."""
    copy = Locator(model.config)
    copy.load_state_dict(average)
    return copy.eval().requires_grad_(False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python tools/train_locator.py", description="Train the locator.")
    parser.add_argument("--output", type=Path, default=Path("runs"), help="folder of weights, log and checkpoint")
    options = parser.parse_args()
    try:
        train_locator(LocatorTraining(), options.output)
    except SegAnyPETError as error:
        raise SystemExit(f"error: {error}") from error
