"""Connected pieces of a mask, found by its runs: what lies between two changes along the last axis.

A body has a hundred times fewer runs than voxels, so that its pieces, their sizes and each piece's mask cost a third of
an array of labels, and hardly any memory.
"""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from seganypet.regions import Box


class Pieces:
    """The 26-connected pieces of a mask, numbered from 0 in the order of their first voxels.

    Args:
        mask: Bool, shape (I, J, K).

    Attributes:
        sizes: Number of voxels of each piece, (n,).
    """

    def __init__(self, mask: np.ndarray) -> None:
        self._shape = mask.shape
        # A line more along j, and two voxels along k, keep runs of different lines apart, whatever is added to them.
        padded = np.zeros(np.add(mask.shape, (0, 1, 2)), bool)
        padded[:, :-1, 1:-1] = mask
        line = padded.ravel()
        changes = np.flatnonzero(line[1:] != line[:-1])
        self._starts, self._stops, self._line = changes[::2], changes[1::2], mask.shape[2] + 2
        self._numbers = self._connected()
        lengths = self._stops - self._starts
        self.sizes = np.bincount(self._numbers, weights=lengths).astype(int)

    def at(self, voxels: np.ndarray) -> np.ndarray:
        """The numbers of the pieces that hold some of these voxels, (n, 3); others are left out."""
        voxels = voxels[((voxels >= 0) & (voxels < self._shape)).all(axis=1)]
        places = self._place(*voxels.T)
        runs = np.searchsorted(self._starts, places, "right") - 1
        inside = (runs >= 0) & (places < self._stops[runs]) if len(self._starts) else np.zeros(len(places), bool)
        return np.unique(self._numbers[runs[inside]])

    def mask_of(self, numbers: Sequence[int] | np.ndarray) -> tuple[Box, np.ndarray]:
        """The smallest box that holds some pieces, and these within it, bool."""
        is_wanted = np.zeros(len(self.sizes), bool)
        is_wanted[np.asarray(numbers, int)] = True
        runs = is_wanted[self._numbers]
        if not runs.any():
            return (slice(0, 0),) * 3, np.zeros((0, 0, 0), bool)
        lines, first = np.divmod(self._starts[runs], self._line)
        after = first + self._stops[runs] - self._starts[runs]
        i, j = np.divmod(lines, self._shape[1] + 1)
        low = [int(along.min()) for along in (i, j, first)]
        size = np.array([i.max() + 1, j.max() + 1, after.max()]) - low
        ends = np.zeros(int(np.prod(size)) + 1, np.int8)
        line = ((i - low[0]) * size[1] + j - low[1]) * size[2] - low[2]
        ends[line + first] += 1  # no two runs begin at one voxel, nor end there
        ends[line + after] -= 1
        inside = np.cumsum(ends[:-1], dtype=np.int8).view(bool).reshape(size)
        i, j, k = (slice(start, start + int(length)) for start, length in zip(low, size, strict=True))
        return (i, j, k), inside

    def _place(self, i: np.ndarray, j: np.ndarray, k: np.ndarray) -> np.ndarray:
        """Place of voxels in one line through all voxels, with the gaps between lines."""
        return (i * (self._shape[1] + 1) + j) * self._line + k

    def _connected(self) -> np.ndarray:
        """Number of the piece of each run."""
        numbers, count = np.arange(len(self._starts)), len(self._starts)
        slab = (self._shape[1] + 1) * self._line
        for away in (self._line, slab - self._line, slab, slab + self._line):  # to the lines beside and behind
            first = np.searchsorted(self._stops, self._starts + away, "left")
            touched = np.maximum(np.searchsorted(self._starts, self._stops + away, "right") - first, 0)
            runs = np.repeat(np.arange(len(numbers)), touched)
            others = np.arange(len(runs)) + np.repeat(first - np.cumsum(touched) + touched, touched)
            touching = csr_array((np.ones(len(runs), bool), (numbers[runs], numbers[others])), (count, count))
            count, merged = connected_components(touching, directed=False)
            numbers = merged[numbers]
        return numbers
