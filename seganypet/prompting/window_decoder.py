"""A network at work on windows of one volume: each is embedded once and remembered, then decoded with its points."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from seganypet.model.base import PromptableNetwork
from seganypet.pet.volume import Volume
from seganypet.prompting.window import Window, sample_window, window_around
from seganypet.prompting.window_logits import PointMM, WindowLogits

MAX_EMBEDDINGS = 64
SMALL_NETWORK = 20e6  # parameters, up to which one thread is as fast as many, and is not slowed by a busy neighbour
PRECISIONS = ("float32", "bfloat16")


class WindowDecoder:
    """A network, a volume, and the embeddings of the windows that were looked at so far.

    Attributes:
        model: Network that meets `PromptableNetwork`.
        volume: Volume that windows are sampled from.
        precision: "float32" or "bfloat16".
    """

    def __init__(self, model: PromptableNetwork, volume: Volume, precision: str):
        self.model, self.volume, self.precision = model, volume, precision
        self.device = next(model.parameters()).device
        self._one_thread = self.device.type == "cpu" and sum(map(torch.numel, model.parameters())) < SMALL_NETWORK
        self._seen: dict[Window, tuple[Any, np.ndarray]] = {}

    def compute_in(self, precision: str) -> None:
        """Compute in another precision from now on."""
        if precision != self.precision:
            self.precision = precision
            self._seen.clear()

    def window(self, centre_mm: np.ndarray, spacing_mm: float) -> Window:
        """The network's window around a position."""
        return window_around(self.volume, centre_mm, self.model.config.window_size, spacing_mm)

    def blank(self, window: Window) -> WindowLogits:
        """A window of which nothing is known yet."""
        return WindowLogits(window, self.model.no_logits())

    def decode(self, part: WindowLogits, points: list[PointMM]) -> WindowLogits:
        """The network's new prediction for one window, given the logits so far and all points that lie in it."""
        given = [*points, *((np.array(seed), True) for seed in part.seeds_mm)]
        inside = [(part.window.to_window(mm), foreground) for mm, foreground in given if part.window.contains_mm(mm)]
        positions = np.array([voxel for voxel, _ in inside]).reshape(-1, 3)
        with self.computing():
            ijk = torch.tensor(positions, dtype=torch.float32, device=self.device)
            labels = torch.tensor([int(foreground) for _, foreground in inside], device=self.device)
            embedding, _ = self._see(part.window)
            with self._autocast():
                logits, _ = self.model.decode(embedding, ijk[None], labels[None], part.logits)
        return replace(part, logits=logits.float())

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Compute without gradients, and a small network on one thread.

        Two processes whose threads outnumber the cores wait for each other at every operation: a click of a small
        network then took fifty times as long.
        """
        with _single_thread() if self._one_thread else nullcontext(), torch.inference_mode():
            yield

    def _autocast(self) -> torch.autocast:
        """The precision asked for, of the network alone: where it looks and where its logits lie stays exact."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def uptake(self, window: Window) -> np.ndarray:
        """Intensities from 0 on, means over the voxels of the logits' grid, (m, m, m)."""
        return self._see(window)[1]

    def _see(self, window: Window) -> tuple[Any, np.ndarray]:
        """Embedding and uptake of a window."""
        if window not in self._seen:
            if len(self._seen) >= MAX_EMBEDDINGS:
                del self._seen[next(iter(self._seen))]
            voxels = sample_window(self.volume, window)
            uptake = F.adaptive_avg_pool3d(voxels.clamp(min=0), self.model.no_logits().shape[-1])[0, 0].numpy()
            with self.computing(), self._autocast():
                embedding = self.model.embed(self.model.normalise(voxels.to(self.device)))
            self._seen[window] = embedding, uptake
        return self._seen[window]


def best_precision(device: torch.device) -> str:
    """The precision that is fastest on a device without being less exact for nothing."""
    # Without matrix units bfloat16 is no faster than float32 on a CPU, only less exact.
    has_units = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_amx_tile_supported()
    return "bfloat16" if has_units else "float32"


_lock = threading.Lock()
_computing: list[int] = []  # for each thread that computes, the number of PyTorch's threads before the first began
_here = threading.local()


@contextmanager
def _single_thread() -> Iterator[None]:
    """One thread of PyTorch while this thread computes, then as many as before any did: the number is the process's."""
    if getattr(_here, "computes", False):
        yield
        return
    with _lock:
        _computing.append(_computing[0] if _computing else torch.get_num_threads())
        torch.set_num_threads(1)
    _here.computes = True
    try:
        yield
    finally:
        _here.computes = False
        with _lock:
            torch.set_num_threads(_computing.pop())
