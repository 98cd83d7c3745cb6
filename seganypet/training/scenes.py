"""Scenes of random shapes: blobs, tubes, shells; hot or cold, sharp or blurred.

A network that is to segment *what is clicked* must see more than organs.
"""

import numpy as np
from scipy import ndimage

MIN_VOXELS = 16  # of a target, in its window


def scene_of_shapes(rng: np.random.Generator, size: int = 80, voxel_mm: float = 4.0) -> tuple[np.ndarray, np.ndarray]:
    """A scene of 2 to 9 random shapes, at least one of them large enough to be a target.

    Args:
        rng: Source of random numbers.
        size: Number of voxels along each side.
        voxel_mm: Voxel size, in mm.

    Returns:
        Uptake (n, n, n) float32, and the label map of the shapes (n, n, n) uint8.
    """
    grid = np.stack(np.meshgrid(*[np.arange(size) - (size - 1) / 2] * 3, indexing="ij")).astype(np.float32) * voxel_mm
    bend = np.stack([_smooth_noise(rng, size, rng.uniform(3, 10)) for _ in range(3)]) * rng.uniform(2, 12)
    positions = grid + bend
    suv = np.exp(rng.normal(-0.3, 0.5)) * np.exp(rng.uniform(0, 0.4) * _smooth_noise(rng, size, 8))
    labels = np.zeros((size,) * 3, np.uint8)
    for index in range(1, rng.integers(2, 10) + 1):
        inside = _shape(positions, rng)
        contrast = np.exp(rng.uniform(0.35, 2.5)) if rng.random() < 0.7 else np.exp(-rng.uniform(0.35, 2.0))
        uptake = np.exp(rng.normal(0.3, 0.5)) * contrast
        texture = np.exp(rng.choice([0.05, 0.15, 0.35]) * _smooth_noise(rng, size, rng.uniform(1, 4)))
        suv[inside] = (uptake * texture)[inside]
        labels[inside] = index
    suv = ndimage.gaussian_filter(suv, rng.uniform(4, 10) / 2.355 / voxel_mm)
    noise = _smooth_noise(rng, size, rng.uniform(0.5, 0.9)) * rng.uniform(0.03, 0.25)
    suv = np.clip(suv + noise * np.sqrt(np.maximum(suv, 0.05)) * np.sqrt(suv.mean()), 0, None)
    counts = np.bincount(labels.ravel())
    if counts[1:].max(initial=0) < MIN_VOXELS:  # all lie outside or hide each other: another scene
        return scene_of_shapes(rng, size, voxel_mm)
    return suv.astype(np.float32), labels


def _shape(positions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    centre = rng.uniform(-100, 100, 3)[:, None, None, None]
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    local = np.einsum("ab,bijk->aijk", rotation, positions - centre)
    kind = rng.choice(["ellipsoid", "tube", "shell", "box", "half"], p=[0.5, 0.2, 0.1, 0.1, 0.1])
    radius = np.exp(rng.uniform(np.log(7), np.log(60)))
    radii = radius * np.exp(rng.normal(0, 0.3, 3))[:, None, None, None]
    distance = np.sqrt(((local / radii) ** 2).sum(0))
    if kind == "tube":
        return ((local[:2] ** 2).sum(0) < min(radius, 18) ** 2) & (np.abs(local[2]) < 4 * radius)
    if kind == "shell":
        return (distance < 1) & (distance > 1 - min(0.6, 14 / radius))
    if kind == "box":
        return (np.abs(local / radii) < 0.8).all(0)
    if kind == "half":
        return (distance < 1) & (local[0] > 0)
    return distance < 1


def _smooth_noise(rng: np.random.Generator, size: int, sigma_voxels: float) -> np.ndarray:
    """Gaussian noise of standard deviation 1 and the given correlation length, (n, n, n) float32."""
    noise = ndimage.gaussian_filter(rng.standard_normal((size,) * 3, dtype=np.float32), sigma_voxels, mode="wrap")
    return noise / noise.std()
