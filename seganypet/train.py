"""Train a promptable network from scratch on synthetic windows: `python -m seganypet.train CONFIG.yaml`.

One loop, read from top to bottom: a batch of windows is embedded once; a simulated user clicks in the
target, looks at the mask, clicks in its errors, and so on; the loss of the first and of the last click of
that dialogue is minimised, so that a mask appears at once and further clicks improve it.
"""

import argparse
import csv
import json
import math
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from seganypet.errors import SegAnyPETError
from seganypet.files import replace_atomically
from seganypet.losses import dice_ce
from seganypet.model.checkpoints import save_model
from seganypet.model.config import ModelConfig
from seganypet.model.sam3d import Sam3D
from seganypet.scenes import SIZE, TrainingWindow, phantom_windows, shape_window

CHECKPOINT_EVERY_S = 120


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes:
        name: Of the model that is written.
        phantoms: Number of phantom cases (internal domain) that windows are cut from.
        first_phantom_seed: Their seeds are this one and the following; tests use seeds below it.
        shape_scenes: Number of scenes of random shapes.
        phantom_share: Share of training samples that come from phantoms.
        steps: Optimiser steps.
        batch_size: Windows a step.
        learning_rate: AdamW's, after 200 steps of warm-up; falls to 0 along a cosine.
        weight_decay: AdamW's.
        max_clicks: A dialogue has 1 to this many clicks.
        ema: Decay of the running average of weights that is exported.
        seed: Of weights, batches and clicks.
        model: Fields of ModelConfig that differ from its defaults.
    """

    name: str
    phantoms: int = 100
    first_phantom_seed: int = 10_000
    shape_scenes: int = 1000
    phantom_share: float = 0.65
    steps: int = 6000
    batch_size: int = 6
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    max_clicks: int = 7
    ema: float = 0.998
    seed: int = 0
    model: ModelConfig = ModelConfig()

    @classmethod
    def from_yaml(cls, path: str | Path) -> "TrainConfig":
        """Read a config file.

        Raises:
            SegAnyPETError: Missing or not YAML; no name; a key that is no field (a typo would train something else).
        """
        try:
            fields = yaml.safe_load(Path(path).read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise SegAnyPETError(f"{path}: not a readable YAML file ({error}).") from error
        if not isinstance(fields, dict) or not isinstance(fields.get("name"), str):
            raise SegAnyPETError(f"{path}: needed are lines of `key: value`, at least `name: ...`; got {fields!r}.")
        model = fields.pop("model", {})
        for given, known in ((fields, cls.__dataclass_fields__), (model, ModelConfig.__dataclass_fields__)):
            if unknown := sorted(set(given) - set(known)):
                raise SegAnyPETError(f"{path}: unknown keys {unknown}; known are {sorted(known)}.")
        config = cls(**fields, model=ModelConfig(**model))
        if config.model.window_size != SIZE:
            raise SegAnyPETError(
                f"{path}: training windows have {SIZE} voxels a side, but model.window_size is "
                f"{config.model.window_size}; set it to {SIZE}."
            )
        return config


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m seganypet.train", description=__doc__.splitlines()[0])
    parser.add_argument("config", help="YAML file, e.g. seganypet/configs/tiny-base.yaml")
    parser.add_argument("--output", type=Path, default=Path("runs"), help="folder for everything (%(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="that make the training windows (%(default)s)")
    arguments = parser.parse_args()
    try:
        config = TrainConfig.from_yaml(arguments.config)
        arguments.output.mkdir(parents=True, exist_ok=True)
        train(config, load_windows(config, arguments.output, arguments.processes), arguments.output)
    except SegAnyPETError as error:
        raise SystemExit(f"error: {error}") from error


def train(config: TrainConfig, windows: "WindowBank", output: Path) -> Sam3D:
    """Train, log to `<name>.csv`, keep a checkpoint to resume from, and write `<name>.safetensors`.

    Returns:
        The network with averaged weights, in evaluation mode.
    """
    torch.manual_seed(config.seed)
    model = Sam3D(config.model)
    average = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.AdamW(model.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    step, checkpoint, log = 0, output / f"{config.name}.ckpt", output / f"{config.name}.csv"
    settings = json.loads(json.dumps(asdict(config)))
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if changed := sorted(key for key in settings if settings[key] != state["settings"].get(key)):
            raise SegAnyPETError(
                f"{checkpoint} was made with another {', '.join(changed)}; a run goes on with its own settings only. "
                "Put them back, give the run another name, or remove the checkpoint."
            )
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        average, step = state["average"], state["step"]
    model.train()
    started = saved = time.perf_counter()
    while step < config.steps:
        # Batch and clicks depend on seed and step alone, so a resumed run sees what an unbroken one would.
        rng = np.random.default_rng([config.seed, step])
        torch.manual_seed(config.seed * 1_000_003 + step)
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * learning_rate_factor(step, config.steps)
        window, truth = windows.batch(config, rng)
        losses = dialogue_losses(model, window, truth, clicks=2 + int(rng.triangular(0, 0, config.max_clicks - 1)))
        sum(losses).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        step += 1
        decay = min(config.ema, 1 - 1 / (step + 1))
        for name, value in model.state_dict().items():
            average[name].lerp_(value, 1 - decay)
        if step % 20 == 0:
            write_log(log, step, losses, time.perf_counter() - started)
        if time.perf_counter() - saved > CHECKPOINT_EVERY_S or step == config.steps:
            saved = time.perf_counter()
            with replace_atomically(checkpoint) as temporary:
                state = {"model": model.state_dict(), "optimiser": optimiser.state_dict()}
                torch.save({**state, "average": average, "step": step, "settings": settings}, temporary)
            exported = Sam3D(config.model)
            exported.load_state_dict(average)
            facts = {"training": settings, "step": step, "torch": torch.__version__}
            save_model(output / f"{config.name}.safetensors", exported, config.name, facts)
    model.load_state_dict(average)
    return model.eval()


def write_log(path: Path, step: int, losses: list[Tensor], seconds: float) -> None:
    """Append one row: step, loss after the first and after the last click, seconds since this run began."""
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if fresh:
            writer.writerow(["step", "loss_first_click", "loss_last_click", "seconds"])
        writer.writerow([step, *(f"{loss.item():.4f}" for loss in losses), f"{seconds:.0f}"])


def dialogue_losses(model: Sam3D, window: Tensor, truth: Tensor, clicks: int) -> list[Tensor]:
    """Losses after the first and after the last of several simulated clicks.

    The clicks between are looked at without gradient: the network learns to start from its own masks,
    and a step costs two decoder passes backward, however long the dialogue.

    Args:
        model: The network.
        window: SUV, (B, 1, n, n, n).
        truth: 1 inside the target, (B, 1, n, n, n).
        clicks: Length of the dialogue, at least 2.
    """
    embedding = model.embed(model.normalise(window))
    size = model.config.logits_size
    # Logits are compared with how full of target each of their voxels is: the same boundary, an eighth of the work.
    fullness = F.avg_pool3d(truth, truth.shape[-1] // size)
    points, labels = pick_clicks((fullness > 0).float(), truth, deep=0.7)
    logits, losses = None, []
    for click in range(clicks):
        learn = click in (0, clicks - 1)
        previous = model.no_logits(len(window)) if logits is None else logits.detach()
        with torch.set_grad_enabled(learn):
            logits, _ = model.decode(embedding, points, labels, previous)
        if learn:
            losses.append(dice_ce(logits, fullness))
        if click < clicks - 1:
            error = ((logits.detach() > 0) != (fullness > 0.5)).float()
            # A perfect mask leaves nothing to correct: the user confirms, clicking inside the target again.
            error = torch.where(error.flatten(1).any(1)[:, None, None, None, None], error, (fullness > 0).float())
            new_points, new_labels = pick_clicks(error, truth, deep=0.6)
            points, labels = torch.cat([points, new_points], 1), torch.cat([labels, new_labels], 1)
    return losses


def pick_clicks(region: Tensor, truth: Tensor, deep: float) -> tuple[Tensor, Tensor]:
    """One click per sample, somewhere in a region; its sign is what the truth says there.

    Args:
        region: Where to click, on the grid of the low-resolution logits, (B, 1, m, m, m), 0 or 1, never all 0.
        truth: (B, 1, n, n, n).
        deep: Share of clicks in the thick of the region; the rest are anywhere in it.

    Returns:
        Points in voxels of the window, (B, 1, 3) float32; labels (B, 1), 1 foreground and 0 background.
    """
    batch, size, step = len(region), region.shape[-1], truth.shape[-1] // region.shape[-1]
    depth = region  # becomes high where the region is thick: a cheap distance transform, one axis after the other
    for kernel, padding in (((7, 1, 1), (3, 0, 0)), ((1, 7, 1), (0, 3, 0)), ((1, 1, 7), (0, 0, 3))):
        depth = F.avg_pool3d(depth, kernel, 1, padding)
    noise = torch.rand_like(depth)
    thick = torch.rand(batch, 1, 1, 1, 1) < deep
    score = torch.where(thick, depth * (0.9 + 0.1 * noise), noise) * region
    where = score.flatten(1).argmax(1)
    coarse = torch.stack([where // size**2, where // size % size, where % size], dim=1)  # (B, 3)
    points = coarse * step + torch.randint(0, step, (batch, 3))
    labels = truth[torch.arange(batch), 0, points[:, 0], points[:, 1], points[:, 2]]
    return points[:, None].float(), labels[:, None].long()


def learning_rate_factor(step: int, steps: int, warm_up: int = 200) -> float:
    """Linear warm-up, then a cosine down to 0.

    >>> [round(learning_rate_factor(step, 1000), 2) for step in (0, 199, 600, 1000)]
    [0.01, 1.0, 0.5, 0.0]
    """
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up)))


class WindowBank:
    """All training windows, in two memory-mapped files, and batches drawn from them."""

    def __init__(self, folder: Path):
        self.suv = np.load(folder / "suv.npy", mmap_mode="r")  # (N, n, n, n) float16
        self.labels = np.load(folder / "labels.npy", mmap_mode="r")  # (N, 3, n, n, n) uint8
        self.target = np.load(folder / "target.npy")  # (N, 2)
        self.is_phantom = np.load(folder / "is_phantom.npy")  # (N,)

    def batch(self, config: TrainConfig, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Windows (B, 1, n, n, n) in SUV and targets of the same shape, 0 or 1; float32, augmented."""
        samples = []
        for _ in range(config.batch_size):
            kind = rng.random() < config.phantom_share
            index = int(rng.choice(np.flatnonzero(self.is_phantom == kind)))
            samples.append(self._sample(index, rng))
        suv, truth = zip(*samples, strict=True)
        return torch.from_numpy(np.stack(suv))[:, None], torch.from_numpy(np.stack(truth))[:, None]

    def _sample(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        layer, label = self.target[index]
        labels = self.labels[index]
        if rng.random() < 0.3:  # something else in the same window
            present = np.argwhere(np.stack([np.bincount(m.ravel(), minlength=256) for m in labels]) >= 64)
            present = [pair for pair in present if pair[1] > 0 and pair[0] != 1]
            layer, label = present[rng.integers(len(present))] if present else (layer, label)
        suv, truth = self.suv[index].astype(np.float32), (labels[layer] == label).astype(np.float32)
        for axis, probability in enumerate((0.3, 0.1, 0.1)):
            if rng.random() < probability:
                suv, truth = np.flip(suv, axis), np.flip(truth, axis)
        suv = suv * np.exp(rng.normal(0, 0.2))
        if rng.random() < 0.3:
            noise = rng.standard_normal(suv.shape, dtype=np.float32) * rng.uniform(0.05, 0.25)
            suv = np.clip(suv + noise * np.sqrt(np.maximum(suv, 0.02)), 0, None)
        return np.ascontiguousarray(suv, np.float32), np.ascontiguousarray(truth)


def load_windows(config: TrainConfig, output: Path, processes: int) -> WindowBank:
    """Make the training windows, or find those that a run with the same data settings has made."""
    settings = f"{config.phantoms}-{config.first_phantom_seed}-{config.shape_scenes}"
    folder = output / f"windows-{settings}"
    if not (folder / "target.npy").exists():
        folder.mkdir(exist_ok=True)
        windows: list[TrainingWindow] = []
        with ProcessPoolExecutor(processes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            phantom_seeds = range(config.first_phantom_seed, config.first_phantom_seed + config.phantoms)
            for group in pool.map(phantom_windows, phantom_seeds):
                windows += group
            phantom_count = len(windows)
            windows += pool.map(shape_window, range(config.shape_scenes), chunksize=20)
        np.save(folder / "suv.npy", np.stack([window.suv for window in windows]))
        np.save(folder / "labels.npy", np.stack([window.labels for window in windows]))
        np.save(folder / "is_phantom.npy", np.arange(len(windows)) < phantom_count)
        np.save(folder / "target.npy", np.array([window.target for window in windows]))  # last: marks the folder whole
    return WindowBank(folder)


if __name__ == "__main__":
    main()
