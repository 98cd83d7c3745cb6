"""PET of Gaussian blobs whose owner is known, on awkward grids; for tests of hot organs and of suggested clicks."""

import numpy as np
from conftest import oblique

from seganypet.pet.volume import Volume

SHAPE = (40, 30, 46)
SPACING = (4.07, 4.07, 3.0)
GRIDS = {"left-handed": oblique(SPACING, left_handed=True), "right-handed": oblique(SPACING)}


def scene(*blobs, affine=GRIDS["left-handed"], shape=SHAPE) -> tuple[Volume, list[np.ndarray]]:
    """PET of blobs (SUV, centre in mm from the grid's middle, sigma in mm), and each blob alone."""
    positions = positions_mm(affine, shape)
    alone = [
        suv * np.exp(-((positions - np.array(centre)) ** 2).sum(axis=-1) / (2 * sigma**2))
        for suv, centre, sigma in blobs
    ]
    return Volume(sum(alone), affine, "SUVbw", "scan 4"), alone


def positions_mm(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Position of every voxel in mm from the grid's middle, (I, J, K, 3)."""
    ijk = np.moveaxis(np.indices(shape), 0, -1) - (np.array(shape) - 1) / 2
    return ijk @ affine[:3, :3].T
