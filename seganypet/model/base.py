"""What a network must offer so that an existing session can drive it.

`accepts` names the kinds of prompts that a network takes itself: "click", "box", and "mask", the low-resolution mask of
the step before. Sessions translate further kinds into these. A network that offers something else needs a session of
its own, see `seganypet.prompting.network_session`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class WindowConfig(Protocol):
    """The part of `ModelConfig` that a session reads."""

    @property
    def window_size(self) -> int:
        """Voxels along each side of the window."""

    @property
    def spacing_mm(self) -> float:
        """Size of these voxels, the same along all axes."""

    @property
    def intensity(self) -> str:
        """Name of the intensities that the network was trained on."""


class ClickableNetwork(Protocol):
    """What both kinds of network offer."""

    @property
    def name(self) -> str:
        """Name in journals and tables."""

    @property
    def accepts(self) -> frozenset[str]:
        """Kinds of prompts that it takes."""

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """Weights; the first one says on which device the network computes."""

    def state_dict(self) -> dict[str, Tensor]:
        """Weights by name; their hash goes into journals."""


class PromptableNetwork(ClickableNetwork, Protocol):
    """A network for cubic windows of a scan, as `seganypet.prompting.session.Session` drives it."""

    @property
    def config(self) -> WindowConfig:
        """Voxels along each side of the window, their size in mm, and what intensities it was trained on."""

    def normalise(self, window: Tensor) -> Tensor:
        """Intensities of a window as the network was trained with, (B, 1, n, n, n) in and out."""

    def embed(self, window: Tensor) -> Any:
        """Normalised windows, (B, 1, n, n, n), to what `decode` reads; done once for each window.

        A tensor, or a NamedTuple of tensors, whose first axis counts the windows; a session takes single windows out of
        it and joins others, so that those that are decoded together need not have been embedded together."""

    def decode(
        self, embedding: Any, points_ijk: Tensor, labels: Tensor, previous_logits: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Points in voxels of the window, (B, P, 3), labels 1 foreground and 0 background, (B, P), and the logits of
        the step before to logits (B, 1, m, m, m) and predicted IoU (B, 1)."""

    def no_logits(self) -> Tensor:
        """The logits before the first click, (1, 1, m, m, m)."""


class SliceNetwork(ClickableNetwork, Protocol):
    """A network for slices, as `seganypet.prompting.slicewise.SliceSession` drives it; see `sam2d.Sam2D` for shapes."""

    def pixels(self, slices: Tensor, pixel_mm: tuple[float, float]) -> Tensor:
        """8-bit slices as the network's input."""

    def points(self, positions: Tensor, shape: tuple[int, int], pixel_mm: tuple[float, float]) -> Tensor:
        """Clicks (x, y) in pixels of a slice as points of the network."""

    def boxes(self, boxes: Tensor, shape: tuple[int, int], pixel_mm: tuple[float, float]) -> Tensor:
        """Boxes (x0, y0, x1, y1) in pixels of a slice as boxes of the network; asked of one that accepts "box"."""

    def mask_logits(self, masks: Tensor, pixel_mm: tuple[float, float]) -> Tensor:
        """Masks of slices, (N, rows, columns), as the low-resolution logits that `decode` takes, (N, m, m)."""

    def embed(self, pixels: Tensor) -> Tensor:
        """Input to embeddings, (N, C, g, g)."""

    def decode(
        self, embedding: Tensor, points: Tensor, labels: Tensor, logits: Tensor | None, boxes: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Embeddings and prompts to the logits of M masks, (N, M, m, m), and their predicted IoU, (N, M)."""

    def upscale(self, logits: Tensor, shape: tuple[int, int], pixel_mm: tuple[float, float]) -> Tensor:
        """Low-resolution logits on the pixels of the slice."""


def missing_members(network: Any, protocol: type) -> list[str]:
    """What a protocol asks for and a network lacks, by name; fields of a config as "config.window_size".

    >>> missing_members(object(), WindowConfig)
    ['intensity', 'spacing_mm', 'window_size']
    """
    names = [name for name in sorted({*protocol.__annotations__, *dir(protocol)}) if not name.startswith("_")]
    missing = [name for name in names if not hasattr(network, name)]
    if "config" in names and "config" not in missing:
        missing += [f"config.{name}" for name in missing_members(network.config, WindowConfig)]
    return missing
