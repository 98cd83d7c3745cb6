"""A network at work on windows of one volume: each is embedded once and remembered, then decoded with its points.

    windows -> uptake (a look at the scan alone)
            -> embeddings, of all that are new in one batch
    windows, points, logits so far -> logits, in one batch; or the three readings of a first prompt
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from seganypet.model.base import PromptableNetwork
from seganypet.model.devices import is_small, single_thread
from seganypet.pet.volume import Volume
from seganypet.prompting.window import Window, sample_window, window_around
from seganypet.prompting.window_logits import PointMM, WindowLogits

MAX_EMBEDDINGS = 64
MAX_TOGETHER = 8  # windows that a small network embeds in one batch; a large one takes gigabytes for each
PRECISIONS = ("float32", "bfloat16")


@dataclass(eq=False)
class Sight:
    """What is known of a window.

    Attributes:
        voxels: Intensities, (1, 1, n, n, n); None once they are embedded.
        uptake: Intensities from 0 on, means over the voxels of the logits' grid, (m, m, m).
        embedding: The network's embedding; None until a decoding needs it.
    """

    voxels: Tensor | None
    uptake: np.ndarray
    embedding: Any = None


class WindowDecoder:
    """A network, a volume, and the windows that were looked at so far.

    Attributes:
        model: Network that meets `PromptableNetwork`.
        volume: Volume that windows are sampled from.
        precision: "float32" or "bfloat16", of the image encoder.
        has_readings: Whether the network was trained to give three readings of a first prompt, with their IoU.
    """

    def __init__(self, model: PromptableNetwork, volume: Volume, precision: str):
        self.model, self.volume, self.precision = model, volume, precision
        self.device = next(model.parameters()).device
        # Released networks have the outputs, too, but their training used the first mask alone and no IoU.
        self.has_readings = getattr(model, "metadata", {}).get("readings") is True
        self._one_thread = self.device.type == "cpu" and is_small(model)
        self._seen: dict[Window, Sight] = {}

    def compute_in(self, precision: str) -> None:
        """Compute in another precision from now on."""
        if precision != self.precision:
            self.precision = precision
            self.forget()

    def forget(self) -> None:
        """Look at every window anew when it is next asked for."""
        self._seen.clear()

    def window(self, centre_mm: np.ndarray, spacing_mm: float) -> Window:
        """The network's window around a position."""
        return window_around(self.volume, centre_mm, self.model.config.window_size, spacing_mm)

    def blank(self, window: Window) -> WindowLogits:
        """A window of which nothing is known yet."""
        return WindowLogits(window, self.model.no_logits())

    def decode(self, part: WindowLogits, points: list[PointMM]) -> WindowLogits:
        """The network's new prediction for one window, given the logits so far and all points that lie in it."""
        return self.decode_all([part], points)[0]

    def decode_all(self, parts: Sequence[WindowLogits], points: list[PointMM]) -> list[WindowLogits]:
        """As `decode`, for several windows in one batch."""
        return [part for part, _ in self.rated(parts, points)]

    def rated(self, parts: Sequence[WindowLogits], points: list[PointMM]) -> list[tuple[WindowLogits, float]]:
        """As `decode_all`, each with its predicted IoU."""
        return [(replace(part, logits=logits[None]), float(iou)) for part, logits, iou in self._decoded(parts, points)]

    def readings(self, parts: Sequence[WindowLogits], points: list[PointMM]) -> list[tuple[WindowLogits, float]]:
        """Three predictions for each window, for a prompt that may mean several things, each with its predicted IoU.

        Only of a network that `has_readings`.
        """
        return [
            (replace(part, logits=logits[None, None]), iou)
            for part, three, ious in self._decoded(parts, points, multimask=True)
            for logits, iou in zip(three, ious.tolist(), strict=True)
        ]

    def _decoded(
        self, parts: Sequence[WindowLogits], points: list[PointMM], **options: bool
    ) -> list[tuple[WindowLogits, Tensor, Tensor]]:
        """Windows with their new logits, (M, m, m, m), and predicted IoU, (M,); those with equally many points share
        a batch."""
        alike: dict[int, list[int]] = defaultdict(list)
        inside = [self._points_in(part, points) for part in parts]
        for number, (positions, _) in enumerate(inside):
            alike[len(positions)].append(number)
        decoded: dict[int, tuple[WindowLogits, Tensor, Tensor]] = {}
        with self.computing():
            for numbers in alike.values():
                ijk = torch.tensor(np.array([inside[number][0] for number in numbers]), dtype=torch.float32)
                labels = torch.tensor([inside[number][1] for number in numbers])
                before = torch.cat([parts[number].logits for number in numbers])
                embedding = self._embedded([parts[number].window for number in numbers])
                logits, iou = self.model.decode(
                    embedding, ijk.to(self.device), labels.to(self.device), before, **options
                )
                for number, one, quality in zip(numbers, logits.float(), iou.float(), strict=True):
                    decoded[number] = parts[number], one.clone(), quality  # a view would keep the whole batch
        return [decoded[number] for number in range(len(parts))]

    def _points_in(self, part: WindowLogits, points: list[PointMM]) -> tuple[np.ndarray, list[int]]:
        """Points in voxels of a window, (P, 3), and their labels."""
        given = [*points, *((np.array(seed), True) for seed in part.seeds_mm)]
        inside = [(mm, int(foreground)) for mm, foreground in given if part.window.contains_mm(mm)]
        positions = np.array([part.window.to_window(mm) for mm, _ in inside]).reshape(-1, 3)
        return positions, [label for _, label in inside]

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Compute without gradients, and a small network on one thread, see `seganypet.model.devices`."""
        with single_thread() if self._one_thread else nullcontext(), torch.inference_mode():
            yield

    def _autocast(self) -> torch.autocast:
        """The precision asked for, of the image encoder alone; where it looks, and what prompts make of that, is exact.

        Each further prompt has other shapes, for which a CPU in bfloat16 would keep converted weights: 9 MB a click.
        """
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def uptake(self, window: Window) -> np.ndarray:
        """Intensities from 0 on, means over the voxels of the logits' grid, (m, m, m); the network is not asked."""
        return self._sight(window).uptake

    def _sight(self, window: Window) -> Sight:
        if window not in self._seen:
            if len(self._seen) >= MAX_EMBEDDINGS:
                del self._seen[next(iter(self._seen))]
            with self.computing():
                voxels = sample_window(self.volume, window)
                uptake = F.adaptive_avg_pool3d(voxels.clamp(min=0), self.model.no_logits().shape[-1])[0, 0].numpy()
            self._seen[window] = Sight(voxels, uptake)
        return self._seen[window]

    def _embedded(self, windows: Sequence[Window]) -> Any:
        """The embeddings of windows, one after the other; those that are new are embedded together."""
        sights = [self._sight(window) for window in windows]
        new = list({id(sight): sight for sight in sights if sight.embedding is None}.values())
        together = MAX_TOGETHER if self._one_thread else 1
        for group in (new[start : start + together] for start in range(0, len(new), together)):
            voxels = torch.cat([sight.voxels for sight in group]).to(self.device)
            with self._autocast():
                embedding = self.model.embed(self.model.normalise(voxels))
            for number, sight in enumerate(group):
                sight.embedding, sight.voxels = _one_of(embedding, number), None
        return _joined([sight.embedding for sight in sights])


def _one_of(embedding: Any, number: int) -> Any:
    """The embedding of one window of a batch, (1, ...), float32; a copy, as a view would keep the whole batch."""
    if isinstance(embedding, tuple):
        kind: Any = type(embedding)
        return kind(*(_one_of(part, number) for part in embedding))
    return None if embedding is None else embedding[number : number + 1].to(torch.float32, copy=True)


def _joined(embeddings: Sequence[Any]) -> Any:
    """The embeddings of single windows as that of a batch."""
    first = embeddings[0]
    if len(embeddings) == 1 or first is None:
        return first
    if isinstance(first, tuple):
        kind: Any = type(first)
        return kind(*map(_joined, zip(*embeddings, strict=True)))
    return torch.cat(list(embeddings))


def best_precision(device: torch.device) -> str:
    """The precision that is fastest on a device without being less exact for nothing."""
    # Without instructions for it bfloat16 is no faster than float32 on a CPU, only less exact.
    if device.type == "cuda":
        has_units = torch.cuda.is_bf16_supported()
    else:
        has_units = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bfloat16" if has_units else "float32"
