"""From an embedded window and encoded clicks to mask logits: two-way attention, then upscaling."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seganypet.model.config import ModelConfig
from seganypet.model.image_encoder import ConvStem, ImageEmbedding
from seganypet.model.layers import MLP, ChannelNorm, MLPBlock, PointwiseConv3d, SmallConv3d, pointwise
from seganypet.model.likeness import ClickLikeness, sample_at
from seganypet.model.mask_quality import MaskQuality
from seganypet.model.prompt_encoder import PromptEmbedding

MASK_TOKENS = 4
LIKENESS_CHANNELS = 6  # on the finest grid: two of each of three
SINGLE, READINGS, ALL = range(1), range(1, 4), range(4)  # for an unambiguous prompt; for an ambiguous first click


class MaskDecoder(nn.Module):
    """Mask tokens look at clicks and image; each then becomes a filter over the upscaled image tokens.

    Source: supplement B.1; SAM-Med3D's `mask_decoder`, whose parameter names these are.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        dim = config.prompt_dim
        self.transformer = TwoWayTransformer(dim, config.decoder_mlp_dim)
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(MASK_TOKENS, dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose3d(dim, dim // 4, kernel_size=2, stride=2),
            ChannelNorm(dim // 4),
            nn.GELU(),
            nn.ConvTranspose3d(dim // 4, dim // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(MLP(dim, dim, dim // 8) for _ in range(MASK_TOKENS))
        self.iou_prediction_head = MLP(dim, 256, MASK_TOKENS)
        if config.fine_features:
            half, quarter = ConvStem.HALF_CHANNELS, ConvStem.QUARTER_CHANNELS
            prompt_half, prompt_quarter = 3 if config.click_map else 1, 4
            if config.likeness:
                self.click_content = nn.Linear(dim, dim)
                nn.init.zeros_(self.click_content.weight)  # begins as nothing, as where a network is taken over
                nn.init.zeros_(self.click_content.bias)
                self.likeness = nn.ModuleList(ClickLikeness(channels) for channels in (dim, quarter, half))
                prompt_quarter, prompt_half = prompt_quarter + 4, prompt_half + LIKENESS_CHANNELS
            if config.mask_quality:
                self.mask_quality = MaskQuality(dim // 8 + LIKENESS_CHANNELS)
            self.fuse_quarter = FuseFine(quarter + prompt_quarter, dim // 4)
            self.fuse_half = FuseFine(half + prompt_half, dim // 8)
        self.fine_features, self.has_likeness = config.fine_features, config.likeness
        self.rates_masks = config.mask_quality

    def forward(
        self, image: ImageEmbedding, prompt: PromptEmbedding, positions: Tensor, masks: range = SINGLE
    ) -> tuple[Tensor, Tensor]:
        """Decode masks.

        Args:
            image: The embedded window.
            prompt: The encoded clicks and previous mask.
            positions: Position encoding of the image tokens, (1, C, g, g, g).
            masks: Which of the masks to decode: SINGLE, READINGS or ALL.

        Returns:
            Logits (B, M, 4g, 4g, 4g) and predicted IoU (B, M).
        """
        batch = len(prompt.sparse)
        if self.has_likeness:
            prompt = self._compared(image, prompt)
        output_tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight])  # (5, C)
        tokens = torch.cat([output_tokens.expand(batch, -1, -1), prompt.sparse], dim=1)  # (B, 5 + P, C)
        tokens, grid = self.transformer(image.tokens + prompt.dense, positions, tokens)
        fine = self._upscale(grid, image, prompt)  # (B, C, g, g, g) -> (B, C/8, 4g, 4g, 4g)

        filters = torch.stack([self.output_hypernetworks_mlps[m](tokens[:, 1 + m]) for m in masks], dim=1)
        logits = torch.bmm(filters, fine.flatten(2)).unflatten(2, fine.shape[2:])  # (B, M, 4g, 4g, 4g)
        iou = self.iou_prediction_head(tokens[:, 0])[:, masks.start : masks.stop]
        if self.rates_masks and prompt.half is not None:
            iou = iou + self.mask_quality(logits, torch.cat([fine, prompt.half[:, -LIKENESS_CHANNELS:]], dim=1))
        return logits, iou

    def _compared(self, image: ImageEmbedding, prompt: PromptEmbedding) -> PromptEmbedding:
        """The prompt with what lies under its clicks, and with the likeness of all else to that, on three grids."""
        where, labels = prompt.where, prompt.labels
        clicks = where.shape[1]
        content = self.click_content(sample_at(image.tokens, where))  # (B, P, C)
        sparse = torch.cat([prompt.sparse[:, :clicks] + content, prompt.sparse[:, clicks:]], dim=1)
        coarse, quarter, half = (
            compare(features, where, labels)
            for compare, features in zip(self.likeness, (image.tokens, image.quarter, image.half), strict=True)
        )
        quarter = torch.cat([quarter, _twice(coarse)], dim=1)
        half = torch.cat([half, _twice(quarter)], dim=1)
        return prompt._replace(
            sparse=sparse,
            quarter=torch.cat([prompt.quarter, quarter], dim=1),
            half=torch.cat([prompt.half, half], dim=1),
        )

    def _upscale(self, grid: Tensor, image: ImageEmbedding, prompt: PromptEmbedding) -> Tensor:
        up_quarter, up_half = self.output_upscaling[:3], self.output_upscaling[3:]
        if not self.fine_features:
            return up_half(up_quarter(grid))
        quarter = self.fuse_quarter(up_quarter(grid), image.quarter, prompt.quarter)
        return self.fuse_half(up_half(quarter), image.half, prompt.half)


def _twice(features: Tensor) -> Tensor:
    """Features on a grid of twice as many voxels along each axis."""
    return F.interpolate(features, scale_factor=2, mode="trilinear", align_corners=False)


class FuseFine(nn.Module):
    """Adds what the stem and the dense prompt know on a finer grid, and mixes neighbouring voxels.

    Shape: (B, C, n, n, n) and finer features of the same n -> (B, C, n, n, n).
    """

    def __init__(self, fine_channels: int, channels: int):
        super().__init__()
        self.enter = PointwiseConv3d(fine_channels, channels)
        self.mix = SmallConv3d(channels, channels, kernel_size=3, padding=1)

    def forward(self, features: Tensor, image: Tensor, prompt: Tensor) -> Tensor:
        # What `enter` makes of [image, prompt], without joining the two.
        of_image, of_prompt = self.enter.weight.split([image.shape[1], prompt.shape[1]], dim=1)
        features = features + pointwise(image, of_image, self.enter.bias) + pointwise(prompt, of_prompt)
        return features + self.mix(F.relu(features))


class TwoWayTransformer(nn.Module):
    """Two blocks of tokens attending to the image and the image attending to tokens."""

    def __init__(self, dim: int, mlp_dim: int):
        super().__init__()
        # The very first block has no content yet beside the positions, so it skips adding them.
        self.layers = nn.ModuleList(TwoWayBlock(dim, mlp_dim, first=first) for first in (True, False))
        self.final_attn_token_to_image = CrossAttention(dim, downsample=2)
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(self, image: Tensor, positions: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, g, g, g), (1, C, g, g, g), (B, T, C) -> tokens (B, T, C), image (B, C, g, g, g)."""
        shape = image.shape[2:]
        keys = image.flatten(2).transpose(1, 2)  # (B, N, C)
        key_pe = positions.flatten(2).transpose(1, 2)
        tokens = prompts
        for layer in self.layers:
            tokens, keys = layer(tokens, keys, prompts, key_pe)
        tokens = tokens + self.final_attn_token_to_image(tokens + prompts, keys + key_pe, keys)
        return self.norm_final_attn(tokens), keys.transpose(1, 2).unflatten(2, shape)


class TwoWayBlock(nn.Module):
    """Tokens among themselves, tokens to image, MLP, image to tokens; each followed by a norm."""

    def __init__(self, dim: int, mlp_dim: int, first: bool):
        super().__init__()
        self.first = first
        self.self_attn = CrossAttention(dim)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = CrossAttention(dim, downsample=2)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLPBlock(dim, mlp_dim, nn.ReLU)
        self.norm3 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = CrossAttention(dim, downsample=2)
        self.norm4 = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, keys: Tensor, token_pe: Tensor, key_pe: Tensor) -> tuple[Tensor, Tensor]:
        if self.first:
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            placed = tokens + token_pe
            tokens = tokens + self.self_attn(placed, placed, tokens)
        tokens = self.norm1(tokens)
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + token_pe, keys + key_pe, keys))
        tokens = self.norm3(tokens + self.mlp(tokens))
        keys = self.norm4(keys + self.cross_attn_image_to_token(keys + key_pe, tokens + token_pe, tokens))
        return tokens, keys


class CrossAttention(nn.Module):
    """Multi-head attention of queries (B, Q, C) on keys and values (B, K, C)."""

    HEADS = 8

    def __init__(self, dim: int, downsample: int = 1):
        super().__init__()
        inner = dim // downsample
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(dim, inner)
        self.v_proj = nn.Linear(dim, inner)
        self.out_proj = nn.Linear(inner, dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q, k, v = (self._split_heads(x) for x in (self.q_proj(query), self.k_proj(key), self.v_proj(value)))
        out = F.scaled_dot_product_attention(q, k, v)  # (B, heads, Q, c)
        return self.out_proj(out.transpose(1, 2).flatten(2))

    def _split_heads(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.HEADS, -1)).transpose(1, 2)  # (B, T, C) -> (B, heads, T, c)
