"""Small layers that encoders and decoder share."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a volume, (B, C, I, J, K) -> same."""

    def __init__(self, channels: int):
        super().__init__(channels, eps=1e-6)

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.movedim(1, -1)).movedim(-1, 1)


class SmallConv3d(nn.Conv3d):
    """A convolution of grids so small that PyTorch has a slow kernel for one alone on a CPU, and a quick one for two.

    So a grid that comes alone is cut into two halves, or where they cannot be cut, shown twice.

    Source: measured, torch 2.13, one core: 16 channels on 32^3 take 115 ms, or 17 ms as two grids.
    """

    def forward(self, features: Tensor) -> Tensor:
        if features.device.type != "cpu" or len(features) > 1:
            return super().forward(features)
        size = features.shape[2]
        if self.stride != (1, 1, 1) or self.kernel_size != (3, 3, 3) or size % 2:
            return super().forward(features.expand(2, -1, -1, -1, -1))[:1]
        padded = F.pad(features, (1, 1, 1, 1, 1, 1))
        halves = torch.cat([padded[:, :, : size // 2 + 2], padded[:, :, size // 2 :]])
        return torch.cat(F.conv3d(halves, self.weight, self.bias).split(1), dim=2)


class PointwiseConv3d(nn.Conv3d):
    """A convolution of kernel 1 as a product of matrices, since the CPU's own kernel is slow where channels are few.

    Source: measured, torch 2.13, one core: 19 to 12 channels on twelve grids of 32^3 take 57 ms, forth and back 220 ms;
    as a product 4 and 14 ms.
    """

    def __init__(self, channels_in: int, channels_out: int, bias: bool = True):
        super().__init__(channels_in, channels_out, kernel_size=1, bias=bias)

    def forward(self, features: Tensor) -> Tensor:
        return pointwise(features, self.weight, self.bias)


def pointwise(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Each voxel's channels times a matrix, (B, C, I, J, K) and (D, C, 1, 1, 1) -> (B, D, I, J, K)."""
    matrices = weight.flatten(1).expand(len(features), -1, -1)  # `bmm` keeps the order of voxels in memory; @ does not
    product = torch.bmm(matrices, features.flatten(2))  # (B, D, I J K)
    if bias is not None:
        product = product + bias.to(product)[:, None]
    return product.unflatten(2, features.shape[2:])


class MLPBlock(nn.Module):
    """Two linear layers with a nonlinearity between, (..., C) -> (..., C)."""

    def __init__(self, dim: int, hidden_dim: int, activation: type[nn.Module]):
        super().__init__()
        self.lin1 = nn.Linear(dim, hidden_dim)
        self.lin2 = nn.Linear(hidden_dim, dim)
        self.act = activation()

    def forward(self, tokens: Tensor) -> Tensor:
        return self.lin2(self.act(self.lin1(tokens)))


class MLP(nn.Module):
    """Three linear layers with ReLU between, (..., in_dim) -> (..., out_dim)."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int):
        super().__init__()
        sizes = (in_dim, hidden_dim, hidden_dim, out_dim)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, token: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            token = F.relu(layer(token))
        return self.layers[-1](token)
