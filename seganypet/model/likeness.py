"""How much each voxel of a window looks like what was clicked."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seganypet.model.layers import PointwiseConv3d


class ClickLikeness(nn.Module):
    """Likeness to the foreground clicks, and to the background clicks, as two channels from 0 to 1.

        1 / (1 + |W f(x) - W f(click)|^2)      of the click that is most alike; 0 without a click of that sign

    Whether a voxel belongs to what was clicked is mostly a matter of looking alike. A mask token can learn that through
    attention, at length; here it is a distance between features of the image, and W what counts in it.

    Args:
        channels: Channels of the features, C.

    Source: ours; `benchmarks/pilots.md` says what it is worth.
    """

    COMPARED = 8

    def __init__(self, channels: int):
        super().__init__()
        self.compared = PointwiseConv3d(channels, self.COMPARED, bias=False)

    def forward(self, features: Tensor, where: Tensor, labels: Tensor) -> Tensor:
        """Compare.

        Args:
            features: Features of the image, (B, C, n, n, n).
            where: Positions of clicks, each coordinate from 0 to 1 through the window, (B, P, 3).
            labels: 1 foreground, 0 background, (B, P).

        Returns:
            (B, 2, n, n, n): channel 0 for foreground clicks, channel 1 for background.
        """
        batch, shape = len(features), features.shape[2:]
        if not where.shape[1]:
            return features.new_zeros(batch, 2, *shape)
        compared = self.compared(features).float()
        with torch.autocast(features.device.type, enabled=False):  # small differences of large numbers
            clicked = sample_at(compared, where)  # (B, P, c)
            everywhere = compared.flatten(2)  # (B, c, V)
            squares = everywhere.square().sum(1, keepdim=True) + clicked.square().sum(2, keepdim=True)  # (B, P, V)
            distance = torch.baddbmm(squares, clicked, everywhere, alpha=-2).clamp(min=0)
            alike = 1 / (1 + distance)
            of_sign = [(alike * (labels == sign)[..., None]).amax(1) for sign in (1, 0)]
        return torch.stack(of_sign, dim=1).unflatten(2, shape)


def sample_at(features: Tensor, where: Tensor) -> Tensor:
    """Features (B, C, n, n, n), interpolated at positions (B, P, 3) from 0 to 1; (B, P, C)."""
    # grid_sample counts from -1 to 1 across the grid, faces included, and wants the last axis first.
    grid = (2 * where - 1).flip(-1)[:, :, None, None].to(features)
    sampled = F.grid_sample(features, grid, padding_mode="border", align_corners=False)
    return sampled[..., 0, 0].transpose(1, 2)
