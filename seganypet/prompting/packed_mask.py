"""A mask in little memory, so that every undo step and every reading can hold one."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np

from seganypet.regions import Box, bounding_box, box_within, enclosing_box


class PackedMask(NamedTuple):
    """A mask of which only the box around it is kept, eight voxels a byte.

    Attributes:
        shape: Shape of the volume that it lies on.
        box: Smallest box that holds the mask; empty if nothing is in it.
        bits: The mask within the box, packed in C order.
    """

    shape: tuple[int, int, int]
    box: Box
    bits: np.ndarray

    @classmethod
    def of(cls, mask: np.ndarray, within: Box | None = None) -> Self:
        """Pack a mask.

        Args:
            mask: Bool, 3D.
            within: A box outside which it is empty, which spares looking there.
        """
        box = bounding_box(mask, within) or (slice(0, 0),) * 3
        return cls.within(mask.shape, box, mask[box])

    @classmethod
    def within(cls, shape: Sequence[int], box: Box, inside: np.ndarray) -> Self:
        """Pack a mask on a volume of some shape of which the smallest box is known, and the mask within it, bool."""
        i, j, k = shape
        return cls((i, j, k), box, np.packbits(inside))

    def __bool__(self) -> bool:
        """Whether anything is in it."""
        return bool(self.bits.size)

    @property
    def inside(self) -> np.ndarray:
        """The mask within its box, bool, the caller's own."""
        size = tuple(part.stop - part.start for part in self.box)
        return np.unpackbits(self.bits, count=int(np.prod(size))).reshape(size).view(bool)

    @property
    def digest(self) -> bytes:
        """What tells the mask from others on its volume: SHA-256 of where its voxels are."""
        ends = np.array([(part.start, part.stop) for part in self.box])
        return hashlib.sha256(ends.tobytes() + self.bits.tobytes()).digest()

    @property
    def voxel_count(self) -> int:
        """Number of voxels in the mask."""
        return int(np.bitwise_count(self.bits).sum())

    def unpack(self) -> np.ndarray:
        """The mask, bool, shape of the volume, the caller's own."""
        mask = np.zeros(self.shape, bool)
        mask[self.box] = self.inside
        return mask

    def dice(self, other: "PackedMask") -> float:
        """DSC of two masks of one volume; 1.0 if both are empty."""
        total = self.voxel_count + other.voxel_count
        if not (self.voxel_count and other.voxel_count):
            return float(not total)
        both = enclosing_box([self.box, other.box])
        one, two = (np.zeros([part.stop - part.start for part in both], bool) for _ in range(2))
        one[box_within(self.box, both)] = self.inside
        two[box_within(other.box, both)] = other.inside
        return 2 * int(np.count_nonzero(one & two)) / total
