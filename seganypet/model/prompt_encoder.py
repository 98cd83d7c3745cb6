"""From clicks and a previous mask to what the mask decoder reads."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from seganypet.model.config import ModelConfig
from seganypet.model.layers import ChannelNorm, PointwiseConv3d

CLICK_SIGMA = 2.0  # standard deviation of a drawn click, in voxels of the window


class PromptEmbedding(NamedTuple):
    """Encoded prompts.

    Attributes:
        sparse: One token per click and one that says "no more", (B, P + 1, C); (B, 0, C) without clicks.
        dense: Added to the image tokens, (B, C, g, g, g).
        where: Positions of the clicks, each coordinate from 0 to 1 through the window, (B, P, 3).
        labels: 1 foreground, 0 background, (B, P).
        half: The dense prompt before it was shrunk, (B, channels, 4g, 4g, 4g).
        quarter: The same after one step, (B, 4, 2g, 2g, 2g); None if there was no mask.
    """

    sparse: Tensor
    dense: Tensor
    where: Tensor
    labels: Tensor
    half: Tensor | None = None
    quarter: Tensor | None = None


class PromptEncoder(nn.Module):
    """Clicks by Fourier features of their position, masks by convolutions.

    Source: supplement B.1; SAM-Med3D's `prompt_encoder`, whose parameter names these are.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        dim = config.prompt_dim
        self.config = config
        self.pe_layer = FourierPositions(dim)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, dim) for _ in range(2))  # background, foreground
        self.not_a_point_embed = nn.Embedding(1, dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv3d(3 if config.click_map else 1, 4, kernel_size=2, stride=2),
            ChannelNorm(4),
            nn.GELU(),
            nn.Conv3d(4, 16, kernel_size=2, stride=2),
            ChannelNorm(16),
            nn.GELU(),
            PointwiseConv3d(16, dim),
        )
        self.no_mask_embed = nn.Embedding(1, dim)

    def forward(self, points_ijk: Tensor, labels: Tensor, previous_logits: Tensor | None) -> PromptEmbedding:
        """Encode the clicks on one window.

        Args:
            points_ijk: Clicks in voxels of the window, (B, P, 3); P may be 0.
            labels: 1 foreground, 0 background, (B, P).
            previous_logits: Low-resolution logits of the click before, (B, 1, 4g, 4g, 4g); zeros on a first
                click. None: no dense prompt at all.
        """
        where = (points_ijk + 0.5) / self.config.window_size
        sparse = self._encode_points(where, labels)
        if previous_logits is None:
            grid = self.config.grid_size
            dense = self.no_mask_embed.weight[:, :, None, None, None].expand(len(sparse), -1, grid, grid, grid)
            return PromptEmbedding(sparse, dense, where, labels)
        half = previous_logits
        if self.config.click_map:
            half = torch.cat([half, draw_clicks(points_ijk, labels, self.config)], dim=1)  # (B, 3, 4g, 4g, 4g)
        quarter = self.mask_downscaling[:3](half)
        dense = self.mask_downscaling[3:](quarter)  # (B, C, g, g, g)
        return PromptEmbedding(sparse, dense, where, labels, half, quarter)

    def dense_positions(self) -> Tensor:
        """Position encoding of every token, (1, C, g, g, g)."""
        grid = self.config.grid_size
        centres = (torch.arange(grid).to(self.pe_layer.matrix) + 0.5) / grid
        i, j, k = torch.meshgrid(centres, centres, centres, indexing="ij")
        # The released weights know an encoding whose first coordinate runs along the second axis.
        first, second = (j, i) if self.config.form == "released" else (i, j)
        return self.pe_layer(torch.stack([first, second, k], dim=-1)).movedim(-1, 0)[None]

    def _encode_points(self, where: Tensor, labels: Tensor) -> Tensor:
        if where.shape[1] == 0:
            return where.new_zeros(len(where), 0, self.config.prompt_dim)
        positions = self.pe_layer(where)  # (B, P, C)
        background, foreground = (embedding.get_parameter("weight") for embedding in self.point_embeddings)
        clicks = positions + torch.where(labels[..., None] == 1, foreground, background)
        last = self.not_a_point_embed.weight.expand(len(clicks), 1, -1)
        return torch.cat([clicks, last], dim=1)  # (B, P + 1, C)


class FourierPositions(nn.Module):
    """Random Fourier features [sin, cos, sin] of a position in the unit cube, (..., 3) -> (..., C)."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(3, dim // 3))

    @property
    def matrix(self) -> Tensor:
        """Frequencies, (3, C / 3); the long name is the released checkpoints'."""
        return self.positional_encoding_gaussian_matrix

    def forward(self, positions: Tensor) -> Tensor:
        phase = 2 * math.pi * ((2 * positions - 1).to(self.matrix) @ self.matrix)
        return torch.cat([phase.sin(), phase.cos(), phase.sin()], dim=-1)


def draw_clicks(points_ijk: Tensor, labels: Tensor, config: ModelConfig) -> Tensor:
    """Clicks as soft balls, Gaussians of `CLICK_SIGMA`, on the grid of the low-resolution logits.

    Args:
        points_ijk: Clicks in voxels of the window, (B, P, 3).
        labels: 1 foreground, 0 background, (B, P).
        config: Shape of the network, for the sizes of window and logits.

    Returns:
        (B, 2, 4g, 4g, 4g): channel 0 foreground clicks, channel 1 background; 1 at a click, 0 far away.
    """
    size = config.logits_size
    step = config.window_size / size
    centres = (torch.arange(size, device=points_ijk.device, dtype=points_ijk.dtype) + 0.5) * step - 0.5
    # A Gaussian in 3D is the product of three in 1D: (B, P, 3, size).
    along = torch.exp(-0.5 * ((centres - points_ijk[..., None]) / CLICK_SIGMA) ** 2)
    if not points_ijk.shape[1]:
        return along.new_zeros(len(points_ijk), 2, size, size, size)
    maps = []
    for label in (1, 0):
        shown = along[:, :, 0] * (labels == label)[..., None]
        maps.append(torch.einsum("bpi,bpj,bpk->bpijk", shown, along[:, :, 1], along[:, :, 2]).amax(1))
    return torch.stack(maps, dim=1)
