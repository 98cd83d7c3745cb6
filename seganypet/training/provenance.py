"""What a run learns from, as its checkpoint says it: which cases, and which windows are cut from them.

Cases are known by content. The code that draws windows is known by what it draws: some statistics of the first windows,
compared with a tolerance. So a release that draws the same windows resumes a run, and one that draws others, or another
NumPy whose random numbers are others, does not; nobody has to remember to raise a number.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from seganypet import __version__
from seganypet.errors import CheckpointError, SegAnyPETError
from seganypet.training.samples import TrainingSamples
from seganypet.training.scans import ScanBank

PROBED_STEPS = 4  # the first and the last window of a batch in each of them are looked at
RELATIVE, ABSOLUTE = 1e-3, 1e-4  # what rounding may change, on another processor or by another build of PyTorch
NAMED = 5  # cases in a message
ADVICE = "Restore them, give the run another name, or remove the checkpoint."


def data_of_run(bank: ScanBank, samples: TrainingSamples) -> dict[str, Any]:
    """What a checkpoint says of the data, as plain values.

    Args:
        bank: The scans of the first epoch, on disk.
        samples: Windows of these scans.

    Returns:
        cases: digits of what each scan is made of, by its name; windows: see `window_statistics`; version: of this
        package.
    """
    batch = samples.config.batch_size
    numbers = sorted({step * batch + place for step in range(PROBED_STEPS) for place in (0, batch - 1)})
    drawn = ((one["suv"].numpy()[0], one["label"].numpy()) for one in map(samples.__getitem__, numbers))
    return {"cases": cases_of(bank), "windows": window_statistics(drawn), "version": __version__}


def cases_of(bank: ScanBank) -> dict[str, str]:
    """Digits of what each scan is made of and how well it is labelled, by its name; whichever version prepared it."""
    cases = {}
    for source in bank.sources:
        made_of = {name: value for name, value in source.made_of.items() if name != "made_by"} | {"lq": source.lq}
        name = made_of.get("case", f"{made_of['kind']} {made_of.get('seed', made_of.get('index'))}")
        cases[name] = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]
    return cases


def window_statistics(windows: Iterable[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    """What tells windows from others: mean, spread and centre of intensities; size and centre of each label.

    Args:
        windows: Intensities, (n, n, n), and labels of any targets, (..., n, n, n); or the same in 2D.

    Returns:
        Numbers, window after window; centres as fractions of the side.
    """
    found: list[float] = []
    for intensities, labels in windows:
        layers = labels.reshape(-1, *intensities.shape)
        found += [float(intensities.mean(dtype=float)), float(intensities.std(dtype=float))]
        found += _centre(np.abs(intensities, dtype=float))
        for layer in layers:
            found += [float(np.mean(layer, dtype=float)), *_centre(layer.astype(float))]
    return found


def _centre(weights: np.ndarray) -> list[float]:
    total = weights.sum()
    if not total:
        return [0.5] * weights.ndim
    axes = range(weights.ndim)
    along = [weights.sum(tuple(other for other in axes if other != axis)) for axis in axes]
    return [float(one @ np.arange(len(one)) / total / max(1, len(one) - 1)) for one in along]


def check_same_data(path: Path, saved: Mapping[str, Any] | None, now: Mapping[str, Any]) -> None:
    """Refuse to resume from a checkpoint that learned from other data.

    Args:
        path: Checkpoint, for the message.
        saved, now: Data of the checkpoint and of this run, see `data_of_run`.

    Raises:
        CheckpointError: The checkpoint does not say what it learned from.
        SegAnyPETError: It learned from other cases, which are named, or from other windows of the same cases.
    """
    if saved is None:
        raise CheckpointError(
            f"{path} was written by another version of seganypet, which did not say what it learned from. Finish the "
            "run with that version, give it another name, or remove the checkpoint to start from the beginning."
        )
    before, cases = saved["cases"], now["cases"]
    groups = {
        "changed": [name for name in cases if name in before and cases[name] != before[name]],
        "new": [name for name in cases if name not in before],
        "missing": [name for name in before if name not in cases],
    }
    if said := [f"{kind}: {_some(names)}" for kind, names in groups.items() if names]:
        raise SegAnyPETError(f"{path} was made from other cases ({'; '.join(said)}). {ADVICE}")
    ours, theirs = now["windows"], saved["windows"]
    if len(ours) != len(theirs) or not np.allclose(ours, theirs, RELATIVE, ABSOLUTE):
        raise SegAnyPETError(
            f"{path} was made from other windows of the same cases: it is from seganypet {saved['version']}, this is "
            f"{now['version']}, and between them the code that draws windows changed, or NumPy's random numbers. "
            "Finish the run with the versions that began it, give it another name, or remove the checkpoint."
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
