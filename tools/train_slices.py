"""Train the 2D networks of the lessons: `python -m train_slices tiny-2d`, or `make train-2d`.

A small SAM learns axial slices of the phantoms that its 3D partner learned from, from as many simulated dialogues of
clicks. Samples and clicks depend on seed and step alone, and a run that was killed goes on from its last checkpoint.
"""

import argparse
import csv
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from slice_bank import SliceBank, batches, pick_pixels
from torch import Tensor

from seganypet._files import replace_atomically
from seganypet.model.checkpoints import save_sam
from seganypet.model.sam2d import Sam2D, best_of, small_sam
from seganypet.training.loop import warm_up_then_cosine


@dataclass(frozen=True)
class SliceTraining:
    """One run.

    Attributes:
        name: Of the model that is written.
        steps, batch_size: Their product is the number of dialogues.
        learning_rate, warm_up, weight_decay, ema: Of AdamW with warm-up and cosine, and of the average of weights.
        max_clicks: A dialogue has 2 to this many clicks, short ones more often.
        iou_weight: Of the error of predicted IoU.
        first_seed, phantoms, lesions, shapes, shape_share: What is trained on, see `SliceBank`.
        image_size, patch_size, dim, depth, prompt_dim: Shape of the network, 3.7 million parameters.
        checkpoint_every: Steps between checkpoints.
        seed: Of weights, samples and clicks.
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
    shape_share: float = 0.15
    image_size: int = 128
    patch_size: int = 8
    dim: int = 192
    depth: int = 6
    prompt_dim: int = 128
    checkpoint_every: int = 200
    seed: int = 0


RECIPES = {
    # 32,760 dialogues, as many as tiny-base had.
    "tiny-2d": SliceTraining(),
    # As many as tiny-organs has, from the same patients, none of whom has a lesion.
    "tiny-2d-organs": SliceTraining("tiny-2d-organs", steps=2700, phantoms=80, lesions=False, shapes=0),
}


def dialogue_loss(model: Sam2D, slices: Tensor, label: Tensor, clicks: int, iou_weight: float) -> dict[str, Tensor]:
    """A simulated user clicks each slice's target, then its errors; DiceCE of the best of three masks.

    The loss is taken after the first and the last click; the clicks between are looked at without gradient.

    Args:
        model: The network.
        slices: (N, S, S) uint8.
        label: (N, 1, S, S), 0 or 1.
        clicks: Length of the dialogue, at least 2.
        iou_weight: Of the squared error of predicted IoU.

    Returns:
        Scalars: loss, loss_first_click, loss_last_click, iou_error.
    """
    embedding = model.embed(model.pixels(slices))
    fullness = F.adaptive_avg_pool2d(label, model.logits_size)  # (N, 1, m, m)
    points, labels = pick_pixels(label, label, deep=0.7)
    logits, told, losses = None, {}, []
    for click in range(1, clicks + 1):
        learned = click in (1, clicks)
        with torch.set_grad_enabled(torch.is_grad_enabled() and learned):
            proposed, iou = model.decode(embedding, points, labels, logits)  # (N, 3, m, m), (N, 3)
        if learned:
            each = each_dice_ce(proposed, fullness)  # (N, 3)
            inside, truth = proposed.detach() > 0, fullness > 0.5
            overlap = (inside & truth).sum((2, 3)) / (inside | truth).sum((2, 3)).clamp(min=1)
            error = F.mse_loss(iou, overlap.float())
            # Mostly the best of three, so that they may differ; a little of all, so that none is left behind.
            losses.append(0.9 * each.min(1).values.mean() + 0.1 * each.mean() + iou_weight * error)
            told["loss_first_click" if click == 1 else "loss_last_click"] = each.min(1).values.mean().detach()
            told["iou_error"] = error.detach()
        logits = best_of(proposed, iou).detach()[:, None]
        if click < clicks:
            mask = F.interpolate(logits, label.shape[-2:], mode="bilinear", align_corners=False) > 0
            wrong = (mask != (label > 0.5)).float()
            wrong = torch.where(wrong.flatten(1).any(1)[:, None, None, None], wrong, label)  # perfect: click again
            more = pick_pixels(wrong, label, deep=0.7)
            points, labels = torch.cat([points, more[0]], 1), torch.cat([labels, more[1]], 1)
    return {"loss": sum(losses) / len(losses), **told}


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
    """Run one training, or go on with it; files in `output`: <name>.safetensors, .csv (log), .ckpt, and slices/.

    Args:
        config: What to do.
        output: Folder; made if missing.
        progress: Show a bar.
        stop_at: Step to stop at, after its checkpoint; None: the last.

    Returns:
        The network with averaged weights.
    """
    from tqdm.auto import tqdm

    output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    sam = small_sam(config.image_size, config.patch_size, config.dim, config.depth, config.prompt_dim)
    model = Sam2D(sam, config.name).train()
    bank = SliceBank(
        range(config.first_seed, config.first_seed + config.phantoms), config.lesions, config.shapes,
        config.shape_share, config.image_size, output / "slices",
    )  # fmt: skip
    optimiser = torch.optim.AdamW(model.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    average = {name: value.detach().clone() for name, value in model.state_dict().items()}
    checkpoint, step = output / f"{config.name}.ckpt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        average, step = state["average"], state["step"]
    last = min(stop_at or config.steps, config.steps)
    started = time.perf_counter()
    bar = tqdm(total=config.steps, initial=step, desc=config.name, disable=not progress)
    for slices, label in batches(bank, config.seed, step, last, config.batch_size):
        clicks = 2 + int(np.random.default_rng([config.seed, step]).triangular(0, 0, config.max_clicks - 1))
        torch.manual_seed(config.seed * 1_000_003 + step)
        optimiser.param_groups[0]["lr"] = config.learning_rate * warm_up_then_cosine(step, config.steps, config.warm_up)
        told = dialogue_loss(model, slices, label, clicks, config.iou_weight)
        told["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        step += 1
        decay = min(config.ema, 1 - 1 / (step + 1))
        for name, value in model.state_dict().items():
            average[name].lerp_(value, 1 - decay)
        bar.update()
        if step % 10 == 0 or step == config.steps:
            row = {"step": step, **{name: round(value.item(), 5) for name, value in told.items()}}
            write_row(output / f"{config.name}.csv", row | {"seconds": round(time.perf_counter() - started, 1)})
        if step % config.checkpoint_every == 0 or step == last:
            state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "average": average, "step": step}
            with replace_atomically(checkpoint) as temporary:
                torch.save(state, temporary)
            facts = {"training": asdict(config), "torch": torch.__version__, "step": step}
            save_sam(output / f"{config.name}.safetensors", averaged(model, average), facts)
    bar.close()
    return averaged(model, average)


def averaged(model: Sam2D, average: dict[str, Tensor]) -> Sam2D:
    """The same network with other weights, for inference."""
    copy = Sam2D(type(model.sam)(model.sam.config), model.name)
    copy.load_state_dict(average)
    return copy.eval().requires_grad_(False)


def write_row(path: Path, row: dict[str, float]) -> None:
    """Append to the log, beginning with its header."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if new:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m train_slices", description="Train a small 2D network.")
    parser.add_argument("name", nargs="?", choices=RECIPES, default="tiny-2d", help="which (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs"), help="folder of weights, log and checkpoint")
    options = parser.parse_args()
    train_slices(RECIPES[options.name], options.output)
