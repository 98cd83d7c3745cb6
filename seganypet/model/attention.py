"""Self-attention over a cube of tokens, with relative positions: the textbook form and the released one.

A token at (d, h, w) looks at a key at (kd, kh, kw). Both forms add to the logit `scale * q . k` a bias
made of the unscaled query and three tables of relative positions, of 2S - 1 rows for a grid of side S.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GridAttention(nn.Module):
    """Multi-head attention among all tokens of a cubic grid; textbook relative positions.

        bias = q[d,h,w].T_d[d-kd+S-1] + q[d,h,w].T_h[h-kh+S-1] + q[d,h,w].T_w[w-kw+S-1]

    Each term is linear in a one-hot vector of the key's index, so the bias rides along as 3 S more
    channels of queries and keys, and no (N, N) array is ever built.

    Args:
        dim: Channels of a token.
        heads: Number of heads.
        side: S, tokens along each side of the grid that the tables describe.

    Shape: (B, S, S, S, C) -> (B, S, S, S, C).
    Source: decomposed relative positions of MViTv2 (arXiv 2112.01526, eq. 5), in 3D.
    """

    def __init__(self, dim: int, heads: int, side: int):
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_d = nn.Parameter(torch.zeros(2 * side - 1, dim // heads))
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, dim // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, dim // heads))

    def forward(self, tokens: Tensor) -> Tensor:
        batch, side = tokens.shape[:2]
        q, k, v = self._split_heads(self.qkv(tokens))  # each (B, heads, S, S, S, c)
        bias_d = torch.einsum("bndhwc,dec->bndhwe", q, relative_rows(self.rel_pos_d, side))
        bias_h = torch.einsum("bndhwc,hec->bndhwe", q, relative_rows(self.rel_pos_h, side))
        bias_w = torch.einsum("bndhwc,wec->bndhwe", q, relative_rows(self.rel_pos_w, side))
        queries = torch.cat([self.scale * q, bias_d, bias_h, bias_w], dim=-1).flatten(2, 4)  # (B, heads, N, c + 3S)
        where = one_hot_positions(side, q).expand(batch, self.heads, -1, -1)  # (B, heads, N, 3S)
        keys = torch.cat([k.flatten(2, 4), where], dim=-1)
        # The fused kernels want one width for queries, keys and values.
        values = F.pad(v.flatten(2, 4), (0, 3 * side))
        out = F.scaled_dot_product_attention(queries, keys, values, scale=1.0)[..., : v.shape[-1]]
        return self.proj(self._merge_heads(out, side))

    def _split_heads(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # (B, d, h, w, 3C) -> 3 x (B, heads, d, h, w, c)
        return qkv.unflatten(-1, (3, self.heads, -1)).permute(4, 0, 5, 1, 2, 3, 6).unbind(0)

    def _merge_heads(self, out: Tensor, side: int) -> Tensor:
        # (B, heads, N, c) -> (B, d, h, w, C)
        return out.transpose(1, 2).flatten(2).unflatten(1, (side, side, side))


class ReleasedAttention(GridAttention):
    """Global attention with the released weights' relative positions, whose axes are shifted.

        bias = q[d,h,w].T_d[d-kw+S-1] + q[d,h,kd].T_h[h-kw+S-1] + q[d,h,kh].T_w[kh-kw+S-1]

    The public implementation adds its three tables along axes one further than meant; the weights were
    trained with that, so it is reproduced here, exactly.

    Source: arithmetic of the public SAM-Med3D release; checked against its outputs.
    """

    def forward(self, tokens: Tensor) -> Tensor:
        side = tokens.shape[1]
        q, k, v = self._split_heads(self.qkv(tokens))
        by_d, by_h, by_w = self._shifted_terms(q, side)
        bias = shifted_bias(by_d, by_h, by_w)
        out = F.scaled_dot_product_attention(
            q.flatten(2, 4), k.flatten(2, 4), v.flatten(2, 4), attn_mask=bias, scale=self.scale
        )
        return self.proj(self._merge_heads(out, side))

    def _shifted_terms(self, q: Tensor, key_side: int) -> tuple[Tensor, Tensor, Tensor]:
        """The three addends of the bias for keys with kd, kh < query side and kw < key_side.

        Returns:
            by_d (B, heads, d, h, w, kw), by_h (B, heads, d, h, kd, kw), by_w (B, heads, d, h, kh, kw).
        """
        side = q.shape[2]
        rows_d = relative_rows(self.rel_pos_d, side, key_side)
        rows_h = relative_rows(self.rel_pos_h, side, key_side)
        rows_w = relative_rows(self.rel_pos_w, side, key_side)
        by_d = torch.einsum("bndhwc,dec->bndhwe", q, rows_d)
        by_h = torch.einsum("bndhxc,hec->bndhxe", q, rows_h)  # x = kd: the query at (d, h, kd) lends its vector
        by_w = torch.einsum("bndhyc,yec->bndhye", q, rows_w)  # y = kh
        # einsum leaves its axes as they suited its products; a bias summed in that order would be copied as a whole.
        return by_d.contiguous(), by_h.contiguous(), by_w.contiguous()


class ReleasedWindowAttention(ReleasedAttention):
    """The released windowed block: a grid of side 8 zero-padded to a window of side 14, pads not masked.

    A pad's query, key and value are the biases b_q, b_k, b_v of the projection. All pad keys share k = b_k
    and v = b_v, so their softmax weights add up to that of one virtual key: 512 queries meet 513 keys instead
    of 2744 x 2744. The virtual key's extra logit is the log of the summed exponentials of the pads' biases,

        pad[d,h,w] = logsumexp over kw < W of ( t1[kw] + m[kw] )
        m[kw]      = log( Apad B + A8 Bpad )    for kw <  S    (kd or kh is a pad)
        m[kw]      = log( A B )                 for kw >= S    (kw is a pad: every kd and kh counts)

    with t1 = by_d, A = A8 + Apad the sum over kd of exp(by_h), B = B8 + Bpad the sum over kh of exp(by_w).
    Only positive terms are added: a form with a difference cancels in float32.

    Args:
        window: W, side of the released window in tokens.

    Source: arithmetic of the public SAM-Med3D release; the collapse is exact, and ours.
    """

    def __init__(self, dim: int, heads: int, window: int):
        super().__init__(dim, heads, window)
        self.window = window

    def forward(self, tokens: Tensor) -> Tensor:
        batch, side = tokens.shape[:2]
        q, k, v = self._split_heads(self.qkv(tokens))
        by_d, by_h, by_w = self._shifted_terms(q, self.window)  # kw runs over the pads too
        bias = shifted_bias(*(term[..., :side] for term in (by_d, by_h, by_w)))  # (B, heads, N, N)
        pad_bias = self._pad_bias(by_d, by_h, by_w)  # (B, heads, N, 1)
        _, pad_key, pad_value = self._pad_vectors()  # (heads, 1, c)
        keys = torch.cat([k.flatten(2, 4), pad_key.expand(batch, -1, -1, -1)], dim=2)  # (B, heads, N + 1, c)
        values = torch.cat([v.flatten(2, 4), pad_value.expand(batch, -1, -1, -1)], dim=2)
        out = F.scaled_dot_product_attention(
            q.flatten(2, 4), keys, values, attn_mask=torch.cat([bias, pad_bias], dim=-1), scale=self.scale
        )
        return self.proj(self._merge_heads(out, side))

    def _pad_vectors(self) -> tuple[Tensor, Tensor, Tensor]:
        """b_q, b_k, b_v, each (heads, 1, c)."""
        return self.qkv.bias.unflatten(0, (3, self.heads, 1, -1)).unbind(0)

    def _pad_bias(self, by_d: Tensor, by_h: Tensor, by_w: Tensor) -> Tensor:
        side, window = by_d.shape[2], self.window
        if side == window:  # no pads: the virtual key must weigh nothing
            return torch.full_like(by_d[..., :1].flatten(2, 4), -math.inf)
        pad_query = self._pad_vectors()[0][:, 0]  # (heads, c)
        rows_h = relative_rows(self.rel_pos_h, side, window)
        log_a_pad = torch.einsum("nc,hec->nhe", pad_query, rows_h) + math.log(window - side)  # (heads, h, kw)
        log_a_pad = log_a_pad[:, None]  # (heads, 1, h, kw): the same for every d
        pad_rows_w = relative_rows(self.rel_pos_w, window)[side:]  # (W - S, kw, c): rows of kh = S .. W-1
        log_b_pad = torch.einsum("nc,yec->nye", pad_query, pad_rows_w).logsumexp(1)[:, None, None]  # (heads, 1, 1, kw)
        log_a_real = by_h.logsumexp(-2)  # (B, heads, d, h, kw)
        log_b_real = by_w.logsumexp(-2)
        log_b = torch.logaddexp(log_b_real, log_b_pad)
        some_pad = torch.logaddexp(log_a_pad + log_b, log_a_real + log_b_pad)
        any_key = torch.logaddexp(log_a_real, log_a_pad) + log_b
        m = torch.cat([some_pad[..., :side], any_key[..., side:]], dim=-1)  # (B, heads, d, h, kw)
        return (by_d + m[:, :, :, :, None]).logsumexp(-1).flatten(2, 4)[..., None]  # (B, heads, N, 1)


def shifted_bias(by_d: Tensor, by_h: Tensor, by_w: Tensor) -> Tensor:
    """Sum of the released form's three terms, (B, heads, N, N).

    Args:
        by_d: (B, heads, d, h, w, kw).
        by_h: (B, heads, d, h, kd, kw).
        by_w: (B, heads, d, h, kh, kw).
    """
    by_key = by_h[..., :, None, :] + by_w[..., None, :, :]  # (B, heads, d, h, kd, kh, kw)
    bias = by_d[..., :, None, None, :] + by_key[..., None, :, :, :]  # (B, heads, d, h, w, kd, kh, kw)
    return bias.flatten(5, 7).flatten(2, 4)


def relative_rows(table: Tensor, query_side: int, key_side: int | None = None) -> Tensor:
    """Rows of a relative-position table for every pair of positions along one axis.

    Args:
        table: (2S - 1, c); row S - 1 is distance 0.
        query_side: Positions of queries, 0 .. query_side - 1.
        key_side: Positions of keys; as many as queries unless given.

    Returns:
        (query_side, key_side, c), row `query - key + S - 1` at [query, key].

    >>> relative_rows(torch.arange(5.0)[:, None], 3)[:, :, 0].int().tolist()
    [[2, 1, 0], [3, 2, 1], [4, 3, 2]]
    """
    zero = (len(table) - 1) // 2
    query = torch.arange(query_side, device=table.device)[:, None]
    key = torch.arange(key_side or query_side, device=table.device)[None, :]
    return table[query - key + zero]


def one_hot_positions(side: int, like: Tensor) -> Tensor:
    """For every token of a grid, its d, h and w as three one-hot vectors, (side^3, 3 side).

    >>> one_hot_positions(2, torch.empty(0)).int()[1].tolist()  # token (0, 0, 1)
    [1, 0, 1, 0, 0, 1]
    """
    eye = torch.eye(side, device=like.device, dtype=like.dtype)
    d, h, w = torch.meshgrid(*[torch.arange(side, device=like.device)] * 3, indexing="ij")
    return torch.cat([eye[d.flatten()], eye[h.flatten()], eye[w.flatten()]], dim=-1)
