"""A network that says where the organs of a whole scan are, without any prompt: a small 3D U-Net on 10 mm voxels.

    SUV --log--> level 1 (10 mm) -> level 2 (20 mm) -> level 3 (40 mm) -> level 4 (80 mm)
                    |                 |                  |                  |
    logits <----- level 1 <--------- level 2 <-------- level 3 <-----------+

It sees the patient in RAS order, so that left and right differ by where they are. Sessions cannot click on it;
`seganypet.propose` asks it where to click.
"""

from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seganypet.errors import CheckpointError
from seganypet.organs import ORGANS


@dataclass(frozen=True)
class LocatorConfig:
    """Shape of the network and of what it sees.

    Attributes:
        labels: Name of each label, from 1; 0 is everything else.
        spacing_mm: Voxel size along x, y and z.
        widths: Channels of each level, the finest first.

    Raises:
        CheckpointError: If these cannot form a network.
    """

    labels: tuple[str, ...] = (*ORGANS, "bladder", "brain")
    spacing_mm: float = 10.0
    widths: tuple[int, ...] = (8, 16, 48, 80)

    def __post_init__(self) -> None:
        for name in ("labels", "widths"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.labels or not self.widths or min(self.widths) < 1 or not self.spacing_mm > 0:
            values = ", ".join(f"{field.name}={getattr(self, field.name)!r}" for field in fields(self))
            raise CheckpointError(f"impossible locator: {values}.")

    @property
    def step(self) -> int:
        """Voxels of the finest level along each side of one of the coarsest: sizes must be multiples of it."""
        return 2 ** (len(self.widths) - 1)


class Locator(nn.Module):
    """Scan to logits of each label.

    Args:
        config: Shape of the network.

    Source: U-Net, Ronneberger et al. 2015, with sums in place of concatenations, which halves the decoder's weights.
    """

    name: str
    metadata: dict[str, Any]

    def __init__(self, config: LocatorConfig | None = None):
        super().__init__()
        self.config = config or LocatorConfig()
        widths = self.config.widths
        # One convolution at the finest level, where voxels are many and one says little; two at the others.
        self.down = nn.ModuleList(
            nn.Sequential(_convolution(a, b), *([_convolution(b, b)] if level else []))
            for level, (a, b) in enumerate(zip((1, *widths[:-1]), widths, strict=True))
        )
        self.narrow = nn.ModuleList(nn.Conv3d(b, a, 1) for a, b in zip(widths[:-1], widths[1:], strict=True))
        self.up = nn.ModuleList(_convolution(a, a) for a in widths[:-1])
        self.head = nn.Conv3d(widths[0], len(self.config.labels) + 1, 1)

    def forward(self, suv: Tensor) -> Tensor:
        """SUVbw in RAS order, (B, 1, X, Y, Z), sizes multiples of `config.step`, to logits (B, 1 + labels, X, Y, Z)."""
        x = torch.log1p(suv.clamp(0, 50))
        levels = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool3d(x, 2) if level else x)  # (B, widths[level], X / 2^level, ...)
            levels.append(x)
        for level in reversed(range(len(self.up))):
            x = F.interpolate(self.narrow[level](x), scale_factor=2, mode="trilinear", align_corners=False)
            x = self.up[level](x + levels[level])
        return self.head(x)


def _convolution(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(channels_in, channels_out, 3, padding=1, bias=False), nn.BatchNorm3d(channels_out), nn.ReLU()
    )
