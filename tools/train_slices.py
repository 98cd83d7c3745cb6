"""Train the 2D networks of the lessons: `python tools/train_slices.py tiny-2d`, or `make train-2d`.

A small SAM learns axial slices of the phantoms that its 3D partner learned from, from as many simulated interactions.
Samples and clicks depend on seed and step alone, and an interrupted run resumes from its last checkpoint.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from slice_bank import SliceBank, batches, pick_pixels
from small_run import run
from torch import Tensor

from seganypet.errors import SegAnyPETError
from seganypet.model.checkpoints import save_sam
from seganypet.model.sam2d import CLICK_PROMPTS, Sam2D, best_of, small_sam

LOGGED = ("step", "loss", "loss_first_click", "iou_error", "loss_last_click", "seconds")


@dataclass(frozen=True)
class SliceTraining:
    """One run.

    Attributes:
        name: Name of the network that is written.
        steps, batch_size: Number of optimiser steps, and of slices in each; their product is the number of
            interactions.
        learning_rate, warm_up, weight_decay: AdamW with linear warm-up and cosine.
        ema: Decay of the running average of weights, which is what is exported.
        max_clicks: Largest number of clicks on a target; 2 to this many, fewer more often.
        iou_weight: Weight of the error of predicted IoU.
        first_seed, phantoms, lesions, shapes, shape_fraction: Training data, see `SliceBank`.
        image_size, patch_size, dim, depth, prompt_dim: Shape of the network; by default 3.7 million parameters.
        checkpoint_every: Number of steps between checkpoints.
        seed: Seed of weights, samples and clicks.
    """

    name: str = "tiny-2d"
    steps: int = 4095
    batch_size: int = 8
    learning_rate: float = 8e-4
    warm_up: int = 200
    weight_decay: float = 0.05
    ema: float = 0.998
    max_clicks: int = 6
    iou_weight: float = 0.5
    first_seed: int = 10_000
    phantoms: int = 120
    lesions: bool = True
    shapes: int = 120
    shape_fraction: float = 0.15
    image_size: int = 128
    patch_size: int = 8
    dim: int = 192
    depth: int = 6
    prompt_dim: int = 128
    checkpoint_every: int = 200
    seed: int = 0


RECIPES = {
    # 32,760 interactions, as many as tiny-base had.
    "tiny-2d": SliceTraining(),
    # As many as tiny-organs has, from the same patients, none of whom has a lesion.
    "tiny-2d-organs": SliceTraining("tiny-2d-organs", steps=2700, phantoms=80, lesions=False, shapes=0),
}


def interaction_loss(model: Sam2D, slices: Tensor, label: Tensor, clicks: int, iou_weight: float) -> dict[str, Tensor]:
    """A simulated user clicks each slice's target, then its errors; DiceCE of the best of three masks.

    The loss is taken after the first and the last click; the clicks between are predicted without gradient.

    Args:
        model: Network to train.
        slices: Slices, (N, S, S) uint8.
        label: Label of the target in each slice, 0 or 1, (N, 1, S, S).
        clicks: Number of clicks on each target, at least 2.
        iou_weight: Weight of the squared error of predicted IoU.

    Returns:
        Scalars: loss, loss_first_click, loss_last_click, iou_error.
    """
    embedding = model.embed(model.pixels(slices))
    soft_label = F.adaptive_avg_pool2d(label, model.logits_size)  # (N, 1, m, m)
    points, labels = pick_pixels(label, label, deep=0.7)
    logits, logs, losses = None, {}, []
    for click in range(1, clicks + 1):
        learned = click in (1, clicks)
        with torch.set_grad_enabled(torch.is_grad_enabled() and learned):
            proposed, iou = model.decode(embedding, points, labels, logits)  # (N, 3, m, m), (N, 3)
        if learned:
            each = each_dice_ce(proposed, soft_label)  # (N, 3)
            inside, truth = proposed.detach() > 0, soft_label > 0.5
            overlap = (inside & truth).sum((2, 3)) / (inside | truth).sum((2, 3)).clamp(min=1)
            error = F.mse_loss(iou, overlap.float())
            # Mostly the best of three, so that they may differ; a little of all, so that none is left behind.
            losses.append(0.9 * each.min(1).values.mean() + 0.1 * each.mean() + iou_weight * error)
            logs["loss_first_click" if click == 1 else "loss_last_click"] = each.min(1).values.mean().detach()
            logs["iou_error"] = error.detach()
        logits = best_of(proposed, iou).detach()[:, None]
        if click < clicks:
            mask = F.interpolate(logits, label.shape[-2:], mode="bilinear", align_corners=False) > 0
            wrong = (mask != (label > 0.5)).float()
            wrong = torch.where(wrong.flatten(1).any(1)[:, None, None, None], wrong, label)  # perfect: click again
            more = pick_pixels(wrong, label, deep=0.7)
            points, labels = torch.cat([points, more[0]], 1), torch.cat([labels, more[1]], 1)
    return {"loss": sum(losses) / len(losses), **logs}


def each_dice_ce(logits: Tensor, label: Tensor) -> Tensor:
    """Dice loss plus cross-entropy of each mask by itself: (N, M, m, m) and (N, 1, m, m) -> (N, M)."""
    label = label.expand_as(logits)
    probability = logits.sigmoid()
    shared, both = (probability * label).sum((2, 3)), (probability + label).sum((2, 3))
    cross_entropy = F.binary_cross_entropy_with_logits(logits, label, reduction="none").mean((2, 3))
    return 1 - (2 * shared + 1e-5) / (both + 1e-5) + cross_entropy


def train_slices(
    config: SliceTraining, output: Path, *, progress: bool = True, stop_at: int | None = None
) -> Sam2D:
    """Train a network, or resume its training.

    Files in `output`: `<name>.safetensors`, the weights; `<name>.csv`, the log; `<name>.ckpt`, the checkpoint;
    `slices/`.

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
    sam = small_sam(config.image_size, config.patch_size, config.dim, config.depth, config.prompt_dim)
    model = Sam2D(sam, config.name, CLICK_PROMPTS).train()
    bank = SliceBank(
        range(config.first_seed, config.first_seed + config.phantoms), config.lesions, config.shapes,
        config.shape_fraction, config.image_size, output / "slices",
    )  # fmt: skip

    def losses(first: int, last: int) -> Iterator[dict[str, Tensor]]:
        drawn = batches(bank, config.seed, first, last, config.batch_size)
        for step, (slices, label) in enumerate(drawn, start=first):
            clicks = 2 + int(np.random.default_rng([config.seed, step]).triangular(0, 0, config.max_clicks - 1))
            torch.manual_seed(config.seed * 1_000_003 + step)
            yield interaction_loss(model, slices, label, clicks, config.iou_weight)

    def export(path: Path, average: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        save_sam(path, averaged(model, average), metadata)

    return averaged(model, run(config, model, losses, export, output, LOGGED, progress=progress, stop_at=stop_at))


def averaged(model: Sam2D, average: dict[str, Tensor]) -> Sam2D:
    """The same network with other weights, for inference."""
    copy = Sam2D(type(model.sam)(model.sam.config), model.name, model.accepts)
    copy.load_state_dict(average)
    return copy.eval().requires_grad_(False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python tools/train_slices.py", description="Train a small 2D network.")
    parser.add_argument("name", nargs="?", choices=RECIPES, default="tiny-2d", help="which (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs"), help="folder of weights, log and checkpoint")
    options = parser.parse_args()
    try:
        train_slices(RECIPES[options.name], options.output)
    except SegAnyPETError as error:
        raise SystemExit(f"error: {error}") from error
