"""Other images of the same window: contrasts, resolution, noise and fields of view that no scan here has."""

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F

GAIN = 0.25  # standard deviation of the logarithm
CONTRAST = 0.3  # the same, of each tissue by itself


def mirror(
    suv: np.ndarray, labels: np.ndarray, flips: Iterable[float], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Mirror a window and its labels along axes that are drawn.

    Args:
        suv: Intensities, (n, n, n).
        labels: Any label maps, (L, n, n, n).
        flips: Probability of mirroring each axis.
        rng: Source of random numbers.
    """
    for axis, probability in enumerate(flips):
        if rng.random() < probability:
            suv, labels = np.flip(suv, axis), np.flip(labels, axis + 1)
    return np.ascontiguousarray(suv), np.ascontiguousarray(labels)


def redraw_contrasts(suv: np.ndarray, tissues: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Scale the uptake of every tissue by a factor of its own, blurred where tissues meet.

    Args:
        suv: Intensities, (n, n, n) float32.
        tissues: Label map of tissues, (n, n, n) uint8.
        rng: Source of random numbers.
    """
    factors = np.exp(rng.normal(0, CONTRAST, 256)).astype(np.float32)
    field = torch.from_numpy(factors[tissues])[None, None]
    return suv * F.avg_pool3d(F.pad(field, (1,) * 6, mode="replicate"), 3, 1)[0, 0].numpy()


def degrade(suv: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw gain, resolution, noise, its grain, air, and what lies outside the field of view.

    Args:
        suv: Intensities, (n, n, n) float32, at least 0.
        rng: Source of random numbers.

    Returns:
        Intensities of the same shape, at least 0.
    """
    size = suv.shape[0]
    image = torch.from_numpy(suv)[None, None] * float(np.exp(rng.normal(0, GAIN)))
    if rng.random() < 0.25:  # a poorer resolution
        smooth = F.avg_pool3d(F.pad(image, (1,) * 6, mode="replicate"), 3, 1)
        image = torch.lerp(image, smooth, float(rng.uniform(0.2, 1.0)))
    if rng.random() < 0.5:  # counting noise, whose variance grows with uptake, in grains of one to three voxels
        grain = int(rng.integers(1, 4))
        noise = torch.from_numpy(rng.standard_normal((1, 1, *[size // grain + 1] * 3), dtype=np.float32))
        if grain > 1:
            noise = F.interpolate(noise, scale_factor=grain, mode="trilinear", align_corners=False)
        noise = noise[..., :size, :size, :size] * float(rng.uniform(0.03, 0.25) * grain**0.5)
        image = image + noise * image.clamp(min=0.02).sqrt()
    if rng.random() < 0.3:  # air is exactly 0 in many reconstructions
        image = torch.where(image < float(rng.uniform(0.02, 0.12)), 0.0, image)
    if rng.random() < 0.1:  # the scan ends in this window
        axis, depth = int(rng.integers(3)), int(rng.integers(1, size // 4 + 1))
        image.narrow(2 + axis, 0 if rng.random() < 0.5 else size - depth, depth).zero_()
    return image.clamp(min=0)[0, 0].numpy()
