"""What training in 3D and in 2D share: schedule, average of weights, and the files from which a killed run resumes."""

import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seganypet._files import make_folder, only_writer, read_text, replace_atomically, writing
from seganypet.errors import CheckpointError, SegAnyPETError, first_line
from seganypet.model.layouts import check_archive


def warm_up_then_cosine(step: int, steps: int, warm_up: int) -> float:
    """Multiple of the learning rate: linear warm-up, then a cosine down to 0.

    >>> [round(warm_up_then_cosine(step, 1000, 200), 2) for step in (0, 199, 600, 1000)]
    [0.01, 1.0, 0.5, 0.0]
    """
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


@torch.no_grad()
def update_average(average: dict[str, Tensor], model: torch.nn.Module, decay: float, step: int) -> None:
    """Update a running average of weights in place after `step` optimiser steps; young averages forget faster."""
    decay = min(decay, 1 - 1 / (step + 1)) if decay else 0.0
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value, 1 - decay)
        else:  # a count, which has no average
            average[name].copy_(value)


def only_run(output: Path, name: str) -> AbstractContextManager[None]:
    """Keep other runs of one name out of a folder, which is made, as long as this one lives.

    Raises:
        SegAnyPETError: Another run of this name is alive there, or the folder cannot be written.
    """
    make_folder(output)
    return only_writer(output / f"{name}.ckpt")


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file that is either whole or as before.

    Args:
        path: Path of the file.
        write: Function that writes to the temporary path it is given.

    Raises:
        SegAnyPETError: It cannot be written, such as on a full disk.
    """
    try:
        with replace_atomically(path) as temporary:
            write(temporary)
    except (OSError, RuntimeError) as error:  # torch and safetensors raise RuntimeError on a full disk
        raise SegAnyPETError(
            f"cannot write {path} ({first_line(error)}). All files that were finished are whole: make room on the "
            "disk and start the same command again; it resumes."
        ) from error


def load_checkpoint(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """State of a run, if it was written with the same settings.

    Args:
        path: Checkpoint that holds "settings" among others.
        settings: Settings of the present run, plain values, dicts among them.

    Raises:
        CheckpointError: Not a checkpoint, damaged, or of a version with other settings.
        SegAnyPETError: Made with other settings, which are named.
    """
    try:
        check_archive(path)
        state = torch.load(path, weights_only=True, map_location="cpu")
        saved = dict(state["settings"])
    except Exception as error:
        raise CheckpointError(
            f"{path}: not a checkpoint of this trainer, or damaged ({first_line(error)}). Remove it to start from the "
            "beginning, or restore a copy."
        ) from error
    if set(saved) != set(settings):
        raise CheckpointError(
            f"{path} was written by another version of seganypet, whose settings have other names. Finish the run with "
            "that version, give it another name, or remove the checkpoint to start from the beginning."
        )
    if changed := sorted(_differences(settings, saved)):
        raise SegAnyPETError(
            f"{path} was made with a different {', '.join(changed)}; a run can only resume with the same settings. "
            "Restore them, give the run another name, or remove the checkpoint."
        )
    return state


def _differences(ours: Mapping[str, Any], saved: Mapping[str, Any], section: str = "") -> Iterator[str]:
    """Names of settings that differ, such as "data.lq"."""
    for name, value in ours.items():
        before = saved.get(name)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            yield from _differences(value, before, f"{section}{name}.")
        elif value != before:
            yield f"{section}{name}"


def append_row(log: Path, columns: Sequence[str], row: Mapping[str, float]) -> None:
    """Append a row to a CSV log, which begins with its header; numbers get five significant digits."""
    is_new = not log.exists()
    with writing(log), log.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        if is_new:
            writer.writeheader()
        writer.writerow({name: f"{value:.5g}" for name, value in row.items()})


def forget_rows_after(log: Path, step: int) -> None:
    """Remove the rows of a log that a resumed run will write again; the file, if none is left.

    Raises:
        SegAnyPETError: It cannot be read, or is no such log.
    """
    if not log.exists():
        return
    text = read_text(log)
    reader = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())  # a full disk may have cut the last row
    try:
        rows = [row for row in reader if int(row["step"]) <= step]
    except (LookupError, TypeError, ValueError) as error:
        raise SegAnyPETError(
            f"{log}: not a log as it was written ({error!r}). Restore a copy, or move it elsewhere and start again."
        ) from error
    if not rows:
        log.unlink()
        return
    with replace_atomically(log) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(reader.fieldnames or ()))
        writer.writeheader()
        writer.writerows(rows)
