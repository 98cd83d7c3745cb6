"""A scan on its way to a browser: coarse first, then in slabs, deflated, each sent when the browser asks for it.

Voxels are no trait: a notebook that is saved would hold them all, and one message of them would block a slow line for
minutes, clicks included.
"""

import math
import zlib
from typing import Any

import numpy as np

COARSE_VOXELS = 1_000_000
SLAB_VOXELS = 1_000_000
LEVEL = 1  # of zlib; higher ones take longer than they save, even at 8 Mbit/s


class Pieces:
    """The pieces of one layer of a scan.

    Piece 0 is the whole layer, one voxel of `step` along each axis; piece n from 1 on holds the slices from
    (n - 1) * depth on, at most `depth` of them.

    Args:
        codes: 8-bit codes in RAS order, shape (X, Y, Z).
    """

    def __init__(self, codes: np.ndarray):
        self.codes = codes
        self.step = next(
            step for step in range(1, max(codes.shape) + 1)
            if math.prod(-(-size // step) for size in codes.shape) <= COARSE_VOXELS
        )  # fmt: skip
        self.depth = max(1, SLAB_VOXELS // (codes.shape[0] * codes.shape[1]))

    @property
    def count(self) -> int:
        """Number of pieces; the coarse one alone where it leaves nothing out."""
        return 1 if self.step == 1 else 1 + -(-self.codes.shape[2] // self.depth)

    @property
    def layout(self) -> dict[str, Any]:
        """What a browser must know to put them together."""
        return {"step": self.step, "depth": self.depth, "count": self.count}

    def piece(self, number: int) -> bytes:
        """One piece, deflated; its voxels in RAS order, the first axis running fastest."""
        if number == 0:
            part = self.codes[tuple(slice(min(self.step // 2, n - 1), None, self.step) for n in self.codes.shape)]
        else:
            part = self.codes[..., (number - 1) * self.depth : number * self.depth]
        return zlib.compress(part.tobytes(order="F"), LEVEL)
