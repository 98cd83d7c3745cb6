"""Hot balls on an awkward grid, which clicks are made on, and what tests ask of the masks."""

import numpy as np
from conftest import oblique

from seganypet.pet.volume import Volume

AFFINE = oblique((4.07, 4.07, 3.0), left_handed=True)
HOT, COLD = 8.0, 0.5
BALLS_IJK = ((20, 20, 20), (20, 45, 45), (45, 20, 60))


def away_mm(volume, ijk):
    """Distance of every voxel of a volume from one of them, in mm."""
    mm = volume.to_mm(np.stack(np.meshgrid(*[np.arange(n) for n in volume.shape], indexing="ij"), -1))
    return np.linalg.norm(mm - volume.to_mm(ijk), axis=-1)


def with_balls(radius_mm=32.0, shape=(64, 64, 84), affine=AFFINE, centres=BALLS_IJK):
    """A volume with hot balls, and the mask of each."""
    volume = Volume(np.full(shape, COLD), affine, "SUVbw", source="balls")
    balls = [away_mm(volume, ijk) <= radius_mm for ijk in centres]
    return Volume(np.where(np.any(balls, 0), HOT, COLD), affine, "SUVbw", source="balls"), balls


def dice(one, other):
    """DSC of two masks."""
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def windows_of(session):
    """Windows that the prediction of the active object consists of."""
    return [part.window for part in session._state.predictions[session.active].windows]
