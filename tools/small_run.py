"""The loop that the recipes of this folder share: optimiser steps, an average of weights, a log, checkpoints."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from seganypet.training.bookkeeping import (
    append_row,
    forget_rows_after,
    load_checkpoint,
    only_run,
    update_average,
    warm_up_then_cosine,
    write_whole,
)


class Recipe(Protocol):
    """What a dataclass says of a run: AdamW with warm-up and cosine, its length, and what is kept."""

    name: str
    steps: int
    learning_rate: float
    warm_up: int
    weight_decay: float
    ema: float
    checkpoint_every: int


def run(
    recipe: Recipe,
    model: nn.Module,
    losses: Callable[[int, int], Iterator[dict[str, Tensor]]],
    export: Callable[[Path, dict[str, Tensor], dict[str, Any]], None],
    output: Path,
    logged: Sequence[str],
    *,
    progress: bool = True,
    stop_at: int | None = None,
) -> dict[str, Tensor]:
    """Train a network, or resume its training.

    Files in `output`: `<name>.safetensors`, the weights; `<name>.csv`, the log; `<name>.ckpt`, the checkpoint.

    Args:
        recipe: Settings of the run.
        model: The network, with the weights that training starts from.
        losses: Function of the first step and the one after the last that gives what each step minimises, "loss", and
            other scalars to log. They depend on the step alone.
        export: Function that writes averaged weights to a path, with metadata.
        output: Folder of all files; made if missing.
        logged: Columns of the log, "step" and "seconds" among them.
        progress: Whether to show a progress bar.
        stop_at: Step to stop at, after its checkpoint; None: the last.

    Returns:
        The averaged weights.

    Raises:
        SegAnyPETError: A checkpoint of other settings, or damaged; the same run in another process; a full disk.
    """
    from tqdm.auto import tqdm

    last = min(stop_at or recipe.steps, recipe.steps)
    settings = asdict(recipe)  # type: ignore[call-overload]  # recipes are dataclasses
    optimiser = torch.optim.AdamW(model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    average = {name: value.detach().clone() for name, value in model.state_dict().items()}
    checkpoint, log, step = output / f"{recipe.name}.ckpt", output / f"{recipe.name}.csv", 0
    with only_run(output, recipe.name):
        if checkpoint.exists():
            state = load_checkpoint(checkpoint, settings)
            model.load_state_dict(state["model"])
            optimiser.load_state_dict(state["optimiser"])
            average, step = state["average"], state["step"]
        forget_rows_after(log, step)
        started = time.perf_counter()
        bar = tqdm(total=recipe.steps, initial=step, desc=recipe.name, disable=not progress)
        for logs in losses(step, last):
            factor = warm_up_then_cosine(step, recipe.steps, recipe.warm_up)
            optimiser.param_groups[0]["lr"] = recipe.learning_rate * factor
            logs["loss"].backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            step += 1
            update_average(average, model, recipe.ema, step)
            bar.update()
            if step % 10 == 0 or step == recipe.steps:
                row = {"step": step, **{name: value.item() for name, value in logs.items()}}
                append_row(log, logged, row | {"seconds": time.perf_counter() - started})
            if step % recipe.checkpoint_every == 0 or step == last:
                state = {
                    "model": model.state_dict(), "optimiser": optimiser.state_dict(), "average": average, "step": step,
                    "settings": settings,
                }  # fmt: skip
                write_whole(checkpoint, partial(torch.save, state))
                metadata = {"training": settings, "torch": torch.__version__, "step": step}
                export(output / f"{recipe.name}.safetensors", average, metadata)
        bar.close()
    return average
