"""Sliders inside the network: positions, pads, attention. Each function returns an `Explorer`."""

from functools import cache
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from seganypet.lessons.explorer import Explorer
from seganypet.lessons.pictures_pet import DARKEST_SUV
from seganypet.model.attention import one_hot_positions, relative_rows
from seganypet.model.sam3d import Sam3D
from seganypet.pet.views import COLOURS


def relative_bias(side: int = 6) -> Explorer:
    """Which keys a query prefers by position alone, where every table says "near": textbook and released.

    Args:
        side: Tokens along each side of the grid.
    """
    near = -(torch.arange(2.0 * side - 1) - (side - 1)).abs()[:, None]  # (2 side - 1, 1 channel)
    rows = relative_rows(near, side)[..., 0].numpy()  # (side, side): for a query at [this] and a key at [that]

    def draw(figure: Figure, d: int = 4, h: int = 1, w: int = 3, key_d: int = 4) -> str:
        textbook = rows[d][key_d] + rows[h][:, None] + rows[w][None, :]  # (kh, kw)
        released = rows[d][None, :] + rows[h][None, :] + rows
        for ax, (name, bias) in zip(
            figure.subplots(1, 2), {"textbook": textbook, "released": released}.items(), strict=True
        ):
            ax.imshow(bias, cmap="viridis", vmin=-12, vmax=0)
            ax.set(title=f"{name}, keys of $k_d$ = {key_d}", xlabel="$k_w$", ylabel="$k_h$")
            if key_d == d:
                ax.plot(w, h, "o", color="white", markeredgecolor="black", markersize=9)
        return "the disc is the query's own place; yellow is where it looks"

    last = side - 1
    controls = {"d": (0, last, 1), "h": (0, last, 1), "w": (0, last, 1), "key_d": (0, last, 1)}
    return Explorer(draw, controls, (7, 3.6), {"key_d": "k_d"})


def padding() -> Explorer:
    """What it costs to fill a window of attention with empty tokens."""

    def draw(figure: Figure, tokens: int = 8, window: int = 14) -> str:
        ax = figure.subplots()
        side = max(window, tokens)
        padded, real = side**6, tokens**3 * (tokens**3 + 1)
        ax.bar(["padded", "collapsed"], [padded / 1e6, real / 1e6], color=[COLOURS[0], COLOURS[1]])
        ax.set(ylabel="pairs of query and key, millions")
        return f"{1 - (tokens / side) ** 3:.0%} of the tokens are pads; a factor of {padded / real:.1f} in pairs"

    controls = {"tokens": (4, 16, 1), "window": (4, 20, 1)}
    return Explorer(draw, controls, (5, 3), {"tokens": "tokens a side", "window": "window a side"}, {"left": 0.16})


def attention(network: Sam3D, suv: Tensor) -> Explorer:
    """Click a query, see its keys: how much each token of a block counts for one token.

    Args:
        network: Network with textbook attention.
        suv: One window of uptake, (1, 1, n, n, n).
    """
    blocks: Any = network.image_encoder.blocks
    inputs: list[Tensor] = []
    hooks = [block.attn.register_forward_pre_hook(lambda _, given: inputs.append(given[0])) for block in blocks]
    network.embed(network.normalise(suv))
    for hook in hooks:
        hook.remove()
    side = inputs[0].shape[1]
    step = suv.shape[-1] // side

    @cache
    def weights(number: int, head: int) -> np.ndarray:
        """(side, side, side) queries times (side, side, side) keys."""
        with torch.inference_mode():
            attn = blocks[number].attn
            q, k, _ = attn._split_heads(attn.qkv(inputs[number]))
            tables = (attn.rel_pos_d, attn.rel_pos_h, attn.rel_pos_w)
            bias = [torch.einsum(f"bndhwc,{axis}ec->bndhwe", q, relative_rows(table, side))
                    for axis, table in zip("dhw", tables, strict=True)]  # fmt: skip
            queries = torch.cat([attn.scale * q, *bias], -1).flatten(2, 4)
            where = one_hot_positions(side, q).expand(1, attn.heads, -1, -1)
            logits = queries @ torch.cat([k.flatten(2, 4), where], -1).transpose(2, 3)
            return logits[0, head].softmax(-1).reshape([side] * 6).numpy()

    def draw(figure: Figure, block: int = len(blocks) - 1, head: int = 0, i: int = side // 2, j: int = side // 2,
             k: int = side // 2) -> str:  # fmt: skip
        keys = weights(block, head)[i, j, k]
        seen, shown = figure.subplots(1, 2)
        plane = suv[0, 0, :, j * step + step // 2].flip(0).T.numpy()
        at = (side - 1 - i, k)
        seen.imshow(plane, origin="lower", cmap="gray_r", vmin=0, vmax=DARKEST_SUV, extent=(0, side, 0, side))
        shown.imshow(keys[:, j][::-1].T, origin="lower", cmap="magma", vmin=0, extent=(0, side, 0, side))
        for ax, title in ((seen, "uptake"), (shown, "attention to keys in this slice")):
            ax.plot(at[0] + 0.5, at[1] + 0.5, "s", markerfacecolor="none", color=COLOURS[5], markersize=16)
            ax.set(title=title, xticks=[], yticks=[])
        return f"{keys[:, j].sum():.0%} of the attention stays in this slice; the strongest key gets {keys.max():.1%}"

    last = side - 1
    controls = {"block": (0, len(blocks) - 1, 1), "head": (0, blocks[0].attn.heads - 1, 1),
                "i": (0, last, 1), "j": (0, last, 1), "k": (0, last, 1)}  # fmt: skip
    return Explorer(draw, controls, (7.4, 3.6), {"i": "query i", "j": "query j", "k": "query k"}, {"bottom": 0.05})
