"""The released image encoder written out as released: slow, large in memory, and easy to compare with its description.

The oracle of the model's tests and the slow side of the benchmark. It shares no code with `seganypet.model`; its
functions take an encoder's parameters by their released names, so that one set of weights runs through both.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


def plain_encoder(weights: Mapping[str, Tensor], window: Tensor) -> Tensor:
    """Embed a window, (B, 1, I, J, K) -> (B, prompt_dim, g, g, g).

    Args:
        weights: Parameters of an image encoder of the released form, without the prefix `image_encoder.`.
        window: Normalised intensities.
    """
    kernel = weights["patch_embed.proj.weight"]
    tokens = F.conv3d(window, kernel, weights["patch_embed.proj.bias"], stride=kernel.shape[-1])
    tokens = tokens.permute(0, 2, 3, 4, 1) + weights["pos_embed"]  # (B, g, g, g, C)
    for index in range(1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))):
        tokens = plain_block(_below(weights, f"blocks.{index}."), tokens)
    features = F.conv3d(tokens.permute(0, 4, 1, 2, 3), weights["neck.0.weight"])
    features = _norm_channels(features, weights["neck.1.weight"], weights["neck.1.bias"])
    features = F.conv3d(features, weights["neck.2.weight"], padding=1)
    return _norm_channels(features, weights["neck.3.weight"], weights["neck.3.bias"])


def plain_block(weights: Mapping[str, Tensor], tokens: Tensor) -> Tensor:
    """One transformer block, (B, g, g, g, C) -> same."""
    dim = tokens.shape[-1:]
    normalised = F.layer_norm(tokens, dim, weights["norm1.weight"], weights["norm1.bias"], eps=1e-6)
    tokens = tokens + plain_attention(_below(weights, "attn."), normalised)
    normalised = F.layer_norm(tokens, dim, weights["norm2.weight"], weights["norm2.bias"], eps=1e-6)
    hidden = F.gelu(F.linear(normalised, weights["mlp.lin1.weight"], weights["mlp.lin1.bias"]))
    return tokens + F.linear(hidden, weights["mlp.lin2.weight"], weights["mlp.lin2.bias"])


def plain_attention(weights: Mapping[str, Tensor], tokens: Tensor) -> Tensor:
    """Attention with every logit of every pair of tokens in memory, (B, g, g, g, C) -> same.

    The tables' 2S - 1 rows tell the side S of the attended grid. The token grid is padded with zeros to that
    side, and the pads take part as queries and as keys.
    """
    batch, grid, dim = tokens.shape[0], tokens.shape[1], tokens.shape[-1]
    rows, width = weights["rel_pos_d"].shape
    side, heads = (rows + 1) // 2, dim // width
    tokens = F.pad(tokens, (0, 0) + (0, side - grid) * 3)  # (B, S, S, S, C)
    qkv = F.linear(tokens, weights["qkv.weight"], weights["qkv.bias"])
    # (B, S^3, 3, heads, c) -> 3 x (B heads, S^3, c)
    q, k, v = qkv.reshape(batch, side**3, 3, heads, width).permute(2, 0, 3, 1, 4).flatten(1, 2).unbind(0)
    logits = (q * width**-0.5) @ k.transpose(-2, -1)  # (B heads, S^3, S^3)
    logits = logits.view(-1, *[side] * 6)
    for term in released_bias(weights, q.view(-1, side, side, side, width)):
        logits = logits + term
    out = logits.view(-1, side**3, side**3).softmax(-1) @ v
    out = out.view(batch, heads, side, side, side, width).permute(0, 2, 3, 4, 1, 5).flatten(-2)
    return F.linear(out, weights["proj.weight"], weights["proj.bias"])[:, :grid, :grid, :grid]


def released_bias(weights: Mapping[str, Tensor], q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The addends q[d,h,w].T_d[d-kw+S-1], q[d,h,kd].T_h[h-kw+S-1] and q[d,h,kh].T_w[kh-kw+S-1].

    Args:
        weights: The three tables.
        q: Queries of the whole padded grid, unscaled, (B heads, S, S, S, c).

    Returns:
        Three tensors that broadcast to (B heads, d, h, w, kd, kh, kw).
    """
    side = q.shape[1]
    shift = torch.arange(side)[:, None] - torch.arange(side)[None, :] + side - 1
    by_d = torch.einsum("bdhwc,dkc->bdhwk", q, weights["rel_pos_d"][shift])  # k is kw in all three
    by_h = torch.einsum("bdhxc,hkc->bdhxk", q, weights["rel_pos_h"][shift])  # x is kd
    by_w = torch.einsum("bdhyc,ykc->bdhyk", q, weights["rel_pos_w"][shift])  # y is kh
    return by_d[:, :, :, :, None, None], by_h[:, :, :, None, :, None], by_w[:, :, :, None, None]


def _below(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def _norm_channels(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    centred = features - features.mean(1, keepdim=True)
    scaled = centred / torch.sqrt(centred.square().mean(1, keepdim=True) + 1e-6)
    return weight[:, None, None, None] * scaled + bias[:, None, None, None]
