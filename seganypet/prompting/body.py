"""Where there is a body: a click outside it is a click on nothing."""

from functools import cached_property

import numpy as np
from scipy import ndimage

from seganypet.pet.volume import Volume
from seganypet.prompting.prompts import Voxel
from seganypet.regions import CONNECTED_6, CONNECTED_26

BLOCK_MM = 8.0  # the body is found on means over blocks of about this size, in which noise hardly counts
# Mean from which a block is body. Air is below 0.02 g/mL on the scans at hand, fat and lung above 0.15.
LOWEST_SUV = 0.06
LOWEST_HU, AIR_HU = -500.0, -950.0  # lung lies between them
LOWEST_FRACTION = 0.03  # of the 99th percentile, in units without a scale of their own
SMALLEST_ML = 50.0  # pieces below this are noise, a table, a tube


class Body:
    """The outline of whoever was scanned, holes filled: lungs and bowel gas belong to it.

    It is found when it is first asked for. Crops without any air are all body.
    """

    def __init__(self, volume: Volume):
        self._volume = volume

    def holds(self, ijk: Voxel) -> bool:
        """Whether a voxel of the volume lies in the body.

        A block at the skin may be more air than body: there the voxel itself counts.
        """
        i, j, k = at = tuple(index // size for index, size in zip(ijk, self._block, strict=True))
        if self._warm[i, j, k] or self._filled[i, j, k]:  # most clicks are on what is warm, and need no filling
            return True
        beside = tuple(slice(max(index - 1, 0), index + 2) for index in at)
        return bool(self._volume.data[tuple(ijk)] > self._lowest and self._filled[beside].any())

    @cached_property
    def _block(self) -> tuple[int, int, int]:
        i, j, k = (max(2 * int(np.rint(BLOCK_MM / size / 2)), 1) for size in self._volume.spacing)  # even, or 1
        return i, j, k

    @cached_property
    def _lowest(self) -> float:
        fixed = {"SUVbw": LOWEST_SUV, "HU": LOWEST_HU}.get(self._volume.unit)
        return LOWEST_FRACTION * float(np.percentile(self._means, 99)) if fixed is None else fixed

    @cached_property
    def _means(self) -> np.ndarray:
        """Means over the blocks."""
        # Two voxels a block along each axis are enough, and read an eighth of a fine scan.
        steps = [max(size // 2, 1) for size in self._block]
        data = self._volume.data[:: steps[0], :: steps[1], :: steps[2]]
        for axis, size in enumerate(self._block):
            if size > 1:
                data = _means_of_pairs(data, axis)
        return data

    @cached_property
    def _warm(self) -> np.ndarray:
        """Blocks of the body's larger pieces, holes not filled."""
        data = self._means
        if self._volume.unit == "HU" and data.min() > AIR_HU:
            return np.ones(data.shape, bool)  # a crop of lung
        labels, count = ndimage.label(data > self._lowest, CONNECTED_26)
        block_ml = self._volume.voxel_volume_ml * np.prod(self._block)
        sizes_ml = np.bincount(labels.ravel(), minlength=count + 1) * block_ml
        kept = sizes_ml >= min(SMALLEST_ML, sizes_ml[1:].max(initial=0.0))
        kept[0] = False
        return kept[labels]

    @cached_property
    def _filled(self) -> np.ndarray:
        """The body's blocks, with what they enclose in space or in a slice of any orientation."""
        filled = self._warm.copy()
        for axis in (None, 0, 1, 2):
            filled |= ~_open_air(self._warm, axis)
        return filled


def _means_of_pairs(data: np.ndarray, axis: int) -> np.ndarray:
    """Means of two neighbours each along an axis; a last one without a neighbour stays as it is."""
    data = np.moveaxis(data, axis, 0)
    means = data[::2].copy()
    pairs = len(data) // 2
    means[:pairs] += data[1::2]
    means[:pairs] /= 2
    return np.moveaxis(means, 0, axis)


def _open_air(body: np.ndarray, axis: int | None) -> np.ndarray:
    """What is not body and connected by faces with the border of the array, or of each slice across an axis."""
    neighbours = CONNECTED_6.copy()
    if axis is not None:
        neighbours[tuple(slice(None) if other != axis else [0, 2] for other in range(3))] = False
    air, count = ndimage.label(~body, neighbours)
    is_open = np.zeros(count + 1, bool)
    for other in {0, 1, 2} - {axis}:
        for side in (0, -1):
            is_open[air.take(side, other)] = True
    is_open[0] = False
    return is_open[air]
