"""Resampling of one volume to the grid of another."""

import numpy as np

from seganypet.pet.volume import AIR_HU, Volume


def resample_to(volume: Volume, like: Volume) -> Volume:
    """Linear resampling to the grid of `like` by one affine, e.g. of a CT to its PET.

    Where voxels of `like` are larger, `volume` is first smoothed with a Gaussian that widens its voxels to that size
    (FWHM^2 = ratio^2 - 1, in voxels), so that fine detail does not alias. Outside `volume` (more than half a voxel
    beyond its outermost voxel centres) the result is air for HU, else 0.

    Args:
        volume: Volume to resample.
        like: Volume with the target grid.

    Returns:
        A volume on the grid of `like`, in the unit of `volume`.
    """
    from scipy import ndimage

    outside = AIR_HU if volume.unit == "HU" else 0.0
    to_source = np.linalg.inv(volume.affine) @ like.affine  # voxels of `like` -> voxels of `volume`
    matrix, offset = to_source[:3, :3], to_source[:3, 3]
    ratio = np.linalg.norm(matrix, axis=1)  # extent of one voxel of `like` along each axis of `volume`
    sigma = np.sqrt(np.maximum(ratio**2 - 1.0, 0.0) / (8.0 * np.log(2.0)))
    data = ndimage.gaussian_filter(volume.data, sigma, mode="nearest") if sigma.any() else volume.data
    data = ndimage.affine_transform(data, matrix, offset, like.shape, np.float32, order=1, mode="nearest")
    i, j, k = np.ogrid[: like.shape[0], : like.shape[1], : like.shape[2]]
    for axis, size in enumerate(volume.shape):
        along = (matrix[axis, 0] * i + offset[axis]) + matrix[axis, 1] * j + matrix[axis, 2] * k
        data[(along < -0.5) | (along > size - 0.5)] = outside
    return Volume(data, like.affine, volume.unit, volume.source, volume.metadata, like.header)
