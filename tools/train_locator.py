"""Train the locator, which finds organs without a prompt: `python tools/train_locator.py`, or `make train-locator`.

Pieces of phantoms depend on seed and step alone, and an interrupted run resumes from its last checkpoint.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from locator_scenes import Bank
from small_run import run
from torch import Tensor

from seganypet.errors import SegAnyPETError
from seganypet.model.checkpoints import save_locator
from seganypet.model.locator import Locator, LocatorConfig

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
    steps: int = 2000
    batch_size: int = 1
    learning_rate: float = 4e-3
    warm_up: int = 30
    weight_decay: float = 0.01
    ema: float = 0.98
    first_seed: int = 10_000
    phantoms: int = 128
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
    torch.manual_seed(config.seed)
    model = Locator(config.network).train().to(memory_format=torch.channels_last_3d)
    seeds = range(config.first_seed, config.first_seed + config.phantoms)
    bank = Bank(seeds, output / "locator_bank", config.network.labels, config.network.spacing_mm, config.size)

    def losses(first: int, last: int) -> Iterator[dict[str, Tensor]]:
        for step in range(first, last):
            rngs = (np.random.default_rng([config.seed, step, place]) for place in range(config.batch_size))
            suv, labels = (torch.from_numpy(np.stack(part)) for part in zip(*map(bank.sample, rngs), strict=True))
            yield label_loss(model(suv[:, None]), labels.long())

    def export(path: Path, average: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        save_locator(path, averaged(model, average), metadata)

    return averaged(model, run(config, model, losses, export, output, LOGGED, progress=progress, stop_at=stop_at))


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
