"""A stand-in for a network whose masks are known: every bright island that a click says yes to."""

from collections import Counter

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from seganypet.model.config import ModelConfig


class ThresholdNetwork(torch.nn.Module):
    """Meets `PromptableNetwork`.

    Its mask is made of the connected parts of the window above SUV 2.7 that hold a foreground click, without
    those that hold a background click. It counts its calls, and fails at the next one if told to.
    """

    accepts = frozenset({"click", "mask"})

    def __init__(self, size: int = 32, spacing_mm: float = 8.0):
        super().__init__()
        self.config = ModelConfig(window_size=size, spacing_mm=spacing_mm)
        self.name = "threshold"
        self.threshold = torch.nn.Parameter(torch.tensor(2.7), requires_grad=False)
        self.calls: Counter[str] = Counter()
        self.previous: list[Tensor] = []
        self.fails = False

    def no_logits(self, batch: int = 1) -> Tensor:
        return torch.zeros(batch, 1, *[self.config.logits_size] * 3)

    def normalise(self, window: Tensor) -> Tensor:
        return window.clamp(min=0).log1p()

    def embed(self, window: Tensor) -> Tensor:
        self.calls["embed"] += 1
        return torch.nn.functional.avg_pool3d(window, self.config.window_size // self.config.logits_size)

    def decode(self, embedding: Tensor, points_ijk: Tensor, labels: Tensor, previous_logits: Tensor):
        self.calls["decode"] += 1
        if self.fails:
            raise RuntimeError("out of memory")
        self.previous += previous_logits.split(1)
        windows = zip(embedding[:, 0], points_ijk, labels, strict=True)
        masks = [self.mask(*window, self.threshold.item()) for window in windows]
        return torch.from_numpy(np.stack(masks))[:, None], torch.ones(len(masks), 1)

    def mask(self, embedding: Tensor, points_ijk: Tensor, labels: Tensor, threshold: float) -> np.ndarray:
        """Logits of one window, (m, m, m)."""
        above = embedding.float().numpy() - np.log1p(threshold)
        islands, _ = ndimage.label(above > 0)
        step = self.config.window_size / self.config.logits_size
        cells = ((points_ijk.numpy() + 0.5) // step).astype(int).clip(0, self.config.logits_size - 1)
        no, yes = ({int(islands[tuple(cell)]) for cell in cells[labels.numpy() == label]} for label in (0, 1))
        mask = np.isin(islands, list(yes - no - {0}))
        # Graded at its surface, so that the mask there is finer than these voxels; else a plain no.
        around = ndimage.binary_dilation(mask, np.ones((3, 3, 3))) & ((islands == 0) | mask)
        return np.where(around, 5 * above, -5).astype(np.float32)
