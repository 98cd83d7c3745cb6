"""How good a mask is, told from the mask: what lies inside it and what outside."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MaskQuality(nn.Module):
    """What predicted IoU gains by a look at the masks that it is predicted for.

    SAM predicts IoU from a token that saw image and prompt. A small network takes long to learn that; but a mask that
    holds what looks like the click, and leaves out what does not, whose border is sharp and that no face of the window
    cuts, is likely to be meant. Masks learn nothing from here.

    Args:
        channels: Channels of the features that masks are products with, C, and of the likeness, L, together.

    Source: ours; `benchmarks/pilots.md` says what it is worth.
    """

    SHAPE_FEATURES, HIDDEN = 4, 64

    def __init__(self, channels: int):
        super().__init__()
        self.enter = nn.Linear(2 * channels + self.SHAPE_FEATURES, self.HIDDEN)
        self.hidden = nn.Linear(self.HIDDEN, self.HIDDEN)
        self.leave = nn.Linear(self.HIDDEN, 1)
        nn.init.zeros_(self.leave.weight)  # begins with what the token says
        nn.init.zeros_(self.leave.bias)

    def forward(self, logits: Tensor, features: Tensor) -> Tensor:
        """What to add to the predicted IoU.

        Args:
            logits: Of M masks, (B, M, n, n, n).
            features: Features of the image and likeness to the clicks, (B, C + L, n, n, n).

        Returns:
            (B, M).
        """
        with torch.autocast(logits.device.type, enabled=False):  # sums over many voxels
            inside = logits.detach().float().sigmoid()
            seen = _means(inside, features.detach().float())  # (B, M, 2 (C + L))
            hidden = F.relu(self.enter(torch.cat([seen, _shape(inside)], dim=2)))
            return self.leave(F.relu(self.hidden(hidden)))[..., 0]


def _means(inside: Tensor, features: Tensor) -> Tensor:
    """Mean features inside each mask and outside it, (B, M, n, n, n) and (B, C, n, n, n) -> (B, M, 2 C)."""
    flat, values = inside.flatten(2), features.flatten(2).transpose(1, 2)  # (B, M, V), (B, V, C)
    held, size = torch.bmm(flat, values), flat.sum(2, keepdim=True)  # (B, M, C), (B, M, 1)
    rest = values.sum(1, keepdim=True) - held
    return torch.cat([held / (size + 1e-3), rest / (flat.shape[2] - size + 1e-3)], dim=2)


def _shape(inside: Tensor) -> Tensor:
    """Size, blur, roughness, and the fraction on the window's faces, of each mask; (B, M, n, n, n) -> (B, M, 4)."""
    size = inside.sum((2, 3, 4))
    blur = (inside * (1 - inside)).sum((2, 3, 4)) / (size + 1)
    surface = sum(inside.diff(dim=axis).abs().sum((2, 3, 4)) for axis in (2, 3, 4))
    faces = sum(inside.select(axis, side).sum((2, 3)) for axis in (2, 3, 4) for side in (0, -1))
    roughness = surface / (size + 1) ** (2 / 3)
    return torch.stack([(size + 1).log10(), blur, roughness.log1p(), faces / (size + 1)], dim=2)
