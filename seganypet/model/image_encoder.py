"""From a window of PET to a grid of tokens that know their surroundings: a 3D vision transformer."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seganypet.model.attention import GridAttention, ReleasedAttention, ReleasedWindowAttention
from seganypet.model.config import ModelConfig
from seganypet.model.layers import ChannelNorm, MLPBlock, PointwiseConv3d, SmallConv3d


class ImageEmbedding(NamedTuple):
    """What the mask decoder needs of a window; computed once, reused by every click.

    Attributes:
        tokens: (B, prompt_dim, g, g, g), g tokens along each side.
        half: Stem features on the grid of 4 g (every 2nd voxel), (B, C, 4g, 4g, 4g); None without fine features.
        quarter: Stem features on the grid of 2 g, (B, C, 2g, 2g, 2g); None without fine features.
    """

    tokens: Tensor
    half: Tensor | None = None
    quarter: Tensor | None = None


class ImageEncoder(nn.Module):
    """Patches -> tokens -> attention blocks -> embedding.

    Shape: (B, 1, I, J, K) -> ImageEmbedding.
    Source: supplement B.1; SAM-Med3D's `image_encoder`, whose parameter names these are.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        dim, grid = config.encoder_dim, config.grid_size
        self.fine_features = config.fine_features
        self.patch_embed: ConvStem | PatchEmbed
        if config.conv_stem:
            self.patch_embed = ConvStem(dim)
        else:
            self.patch_embed = PatchEmbed(config.patch_size, dim)
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, grid, grid, grid, dim))
        self.blocks = nn.ModuleList(Block(config, index) for index in range(config.encoder_depth))
        self.neck = nn.Sequential(
            PointwiseConv3d(dim, config.prompt_dim, bias=False),
            ChannelNorm(config.prompt_dim),
            nn.Conv3d(config.prompt_dim, config.prompt_dim, kernel_size=3, padding=1, bias=False),
            ChannelNorm(config.prompt_dim),
        )

    def forward(self, window: Tensor) -> ImageEmbedding:
        tokens, half, quarter = self.patch_embed(window)  # (B, 1, I, J, K) -> (B, g, g, g, C)
        tokens = tokens + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens)
        embedding = self.neck(tokens.movedim(-1, 1))  # (B, g, g, g, C) -> (B, prompt_dim, g, g, g)
        return ImageEmbedding(embedding, half, quarter) if self.fine_features else ImageEmbedding(embedding)


class Block(nn.Module):
    """One transformer block, attention then MLP, each on normalised tokens and added to them.

    Shape: (B, g, g, g, C) -> same.
    """

    def __init__(self, config: ModelConfig, index: int):
        super().__init__()
        dim, heads, grid = config.encoder_dim, config.encoder_heads, config.grid_size
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        if config.form == "textbook":
            self.attn = GridAttention(dim, heads, grid)
        elif index in config.global_blocks:
            self.attn = ReleasedAttention(dim, heads, grid)
        else:
            self.attn = ReleasedWindowAttention(dim, heads, config.attention_window)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLPBlock(dim, 4 * dim, nn.GELU)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class PatchEmbed(nn.Module):
    """One linear projection of each patch, (B, 1, I, J, K) -> (B, g, g, g, C)."""

    def __init__(self, patch_size: int, dim: int):
        super().__init__()
        self.proj = nn.Conv3d(1, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, window: Tensor) -> tuple[Tensor, None, None]:
        # A product of matrices: some processors have no quick convolution of this size in bfloat16.
        size = self.proj.kernel_size[0]
        patches = window.unfold(2, size, size).unfold(3, size, size).unfold(4, size, size)  # (B, 1, g, g, g, p, p, p)
        return F.linear(patches[:, 0].flatten(4), self.proj.weight.flatten(1), self.proj.bias), None, None


class ConvStem(nn.Module):
    """Tokens from convolutions of stride 2, 4 and 8; its finer grids keep edges that tokens blur.

    What trains in minutes on a laptop needs the locality that a patch projection has to learn.

    Shape: (B, 1, I, J, K) -> tokens (B, I/8, J/8, K/8, C), half (B, 16, I/2, ...), quarter (B, 32, I/4, ...).
    """

    HALF_CHANNELS = 16
    QUARTER_CHANNELS = 32

    def __init__(self, dim: int):
        super().__init__()
        self.to_half = _down(1, self.HALF_CHANNELS)
        self.to_quarter = _down(self.HALF_CHANNELS, self.QUARTER_CHANNELS)
        self.to_tokens = SmallConv3d(self.QUARTER_CHANNELS, dim, kernel_size=3, stride=2, padding=1)

    def forward(self, window: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        half = self.to_half(window)
        quarter = self.to_quarter(half)
        # In the order that attention and MLP read: else every block would copy its tokens first.
        return self.to_tokens(quarter).movedim(1, -1).contiguous(), half, quarter


def _down(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        SmallConv3d(channels_in, channels_out, kernel_size=3, stride=2, padding=1),
        nn.GroupNorm(channels_out // 8, channels_out),
        nn.ReLU(),
        SmallConv3d(channels_out, channels_out, kernel_size=3, padding=1),
        nn.GroupNorm(channels_out // 8, channels_out),
        nn.ReLU(),
    )
