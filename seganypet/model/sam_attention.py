"""Attention of SAM's image encoder with relative positions, without the array of all pairs.

transformers builds, for each of 12 global heads, the 4096 x 4096 biases of relative positions, and holds them several
times: 2 GB for one slice. Here queries are taken in blocks, each with its own biases, through PyTorch's fused kernel.
The arithmetic is the same; only the order of additions differs.

    bias[q, k] = q . T_h[row(q) - row(k)] + q . T_w[column(q) - column(k)]
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seganypet.model.attention import relative_rows

# Numbers of one block of biases, over all heads and slices: 64 MiB. Smaller ones are a little faster, but from 32 MiB
# down the C library keeps what is freed, and the process holds 350 MB more.
BLOCK = 2**24


class BlockedAttention(nn.Module):
    """Takes the place of transformers' `SamVisionAttention`, with its weights.

    Args:
        attention: The module whose weights are used; its parameters keep their names.

    Shape: (B, rows, columns, C) -> (B, rows, columns, C).
    """

    def __init__(self, attention: Any):
        super().__init__()
        self.heads = attention.num_attention_heads
        self.qkv, self.proj = attention.qkv, attention.proj
        self.rel_pos_h, self.rel_pos_w = attention.rel_pos_h, attention.rel_pos_w

    def forward(self, hidden_states: Tensor, output_attentions: bool = False) -> tuple[Tensor, None]:
        batch, rows, columns, _ = hidden_states.shape
        qkv = self.qkv(hidden_states).unflatten(-1, (3, self.heads, -1))  # (B, rows, columns, 3, heads, c)
        q, k, v = qkv.permute(3, 0, 4, 1, 2, 5).unbind(0)  # each (B, heads, rows, columns, c)
        k, v = k.flatten(2, 3), v.flatten(2, 3)  # (B, heads, N, c)
        by_row, by_column = relative_rows(self.rel_pos_h, rows), relative_rows(self.rel_pos_w, columns)
        step = max(1, BLOCK // (batch * self.heads * columns * rows * columns))  # rows of queries a block
        blocks = []
        for start in range(0, rows, step):
            query = q[:, :, start : start + step]  # (B, heads, r, columns, c)
            bias_h = torch.einsum("bnhwc,hkc->bnhwk", query, by_row[start : start + step])  # k: row of the key
            bias_w = torch.einsum("bnhwc,wkc->bnhwk", query, by_column)  # k: column of the key
            # Contiguous, as their sum then is: otherwise all of it would be copied once more.
            bias_h, bias_w = bias_h.contiguous(), bias_w.contiguous()
            bias = bias_h[..., :, None] + bias_w[..., None, :]  # (B, heads, r, columns, rows, columns)
            bias = bias.flatten(4, 5).flatten(2, 3)  # (B, heads, r * columns, N)
            blocks.append(F.scaled_dot_product_attention(query.flatten(2, 3), k, v, attn_mask=bias))
        out = torch.cat(blocks, 2).unflatten(2, (rows, columns))  # (B, heads, rows, columns, c)
        return self.proj(out.permute(0, 2, 3, 1, 4).flatten(3)), None


def use_blocked_attention(sam: Any) -> None:
    """Let the image encoder of a `transformers.SamModel` compute its attention in blocks; weights keep their names."""
    for layer in getattr(sam.vision_encoder, "layers", ()):
        if hasattr(layer.attn, "rel_pos_h") and not isinstance(layer.attn, BlockedAttention):
            layer.attn = BlockedAttention(layer.attn)
