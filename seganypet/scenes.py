"""Training windows: what a click may mean, cut from phantoms and from scenes of random shapes.

A network that shall segment *what is clicked* must meet more than organs. So part of what it sees are abstract
scenes (blobs, tubes, shells, hot or cold, sharp or blurred), the rest are windows of phantoms in which organs,
other tissue and lesions all take their turn as the target.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from seganypet.phantom import PhantomCase, make_phantom
from seganypet.volume import Volume
from seganypet.window import Window, sample_window, window_around

SIZE = 64
NOT_CLICKED = {"outside", "skin", "fat", "muscle"}  # nobody means these by a click


@dataclass(frozen=True)
class TrainingWindow:
    """One window and everything in it that can be a target.

    Attributes:
        suv: Intensities, (n, n, n) float16.
        labels: Up to three label maps that may overlap (organs, anatomy, lesions), (3, n, n, n) uint8.
        target: Layer and label that this window was cut for.
    """

    suv: np.ndarray
    labels: np.ndarray
    target: tuple[int, int]


def phantom_windows(seed: int, per_case: int = 24) -> list[TrainingWindow]:
    """Windows around random targets of one phantom of the internal domain."""
    rng = np.random.default_rng([seed, 1])
    case = make_phantom(seed, domain="internal")
    layers = [case.organs, case.anatomy, case.lesions]
    boxes = [ndimage.find_objects(labels) for labels in layers]
    windows = [_phantom_window(case, layers, boxes, rng) for _ in range(per_case)]
    return [window for window in windows if window is not None]


def _phantom_window(case: PhantomCase, layers: list, boxes: list, rng: np.random.Generator) -> TrainingWindow | None:
    lesions = int(case.lesions.max())
    layer = rng.choice(3, p=[0.5, 0.2, 0.3] if lesions else [0.7, 0.3, 0.0])
    if layer == 1:
        names = case.anatomy_names
        choices = [label for label, name in names.items() if name not in NOT_CLICKED]
    else:
        choices = list(case.organ_names) if layer == 0 else list(range(1, lesions + 1))
    label = int(rng.choice(choices))
    if label > len(boxes[layer]) or (box := boxes[layer][label - 1]) is None:
        return None  # this organ lies outside the field of view
    inside = np.argwhere(layers[layer][box] == label) + [part.start for part in box]
    if len(inside) < 4:
        return None
    spacing_mm = rng.uniform(2.0, 4.5) if layer == 2 else rng.choice([4.0, rng.uniform(3.0, 5.0)], p=[0.7, 0.3])
    # Mostly near where a session would put the window (a click in the target), sometimes well off it.
    centre_mm = case.pet.to_mm(inside[rng.integers(len(inside))]) + rng.normal(0, 3 * spacing_mm, 3)
    window = window_around(case.pet, centre_mm, SIZE, spacing_mm)
    suv = sample_window(case.pet, window)[0, 0].numpy().astype(np.float16)
    labels = np.stack([_sample_labels(case.pet, labels, window) for labels in layers])
    if (labels[layer] == label).sum() < 8:
        return None
    return TrainingWindow(suv, labels, (int(layer), label))


def _sample_labels(grid: Volume, labels: np.ndarray, window: Window) -> np.ndarray:
    ijk = np.stack(np.meshgrid(*[np.arange(SIZE)] * 3, indexing="ij"), -1).reshape(-1, 3)
    mm = ijk * window.spacing_mm + np.array(window.corner_mm)
    nearest = np.rint(grid.to_ijk(mm)).astype(int)
    inside = np.all((nearest >= 0) & (nearest < grid.shape), axis=1)
    values = np.zeros(len(ijk), np.uint8)
    values[inside] = labels[tuple(nearest[inside].T)]
    return values.reshape(SIZE, SIZE, SIZE)


def shape_window(seed: int) -> TrainingWindow:
    """A scene of 2 to 9 random shapes at 4 mm."""
    rng = np.random.default_rng([seed, 2])
    voxel_mm = 4.0
    grid = np.stack(np.meshgrid(*[np.arange(SIZE) - (SIZE - 1) / 2] * 3, indexing="ij")).astype(np.float32) * voxel_mm
    bend = np.stack([_smooth_noise(rng, rng.uniform(3, 10)) for _ in range(3)]) * rng.uniform(2, 12)
    places = grid + bend
    suv = np.exp(rng.normal(-0.3, 0.5)) * np.exp(rng.uniform(0, 0.4) * _smooth_noise(rng, 8))
    labels = np.zeros((SIZE,) * 3, np.uint8)
    for index in range(1, rng.integers(2, 10) + 1):
        inside = _shape(places, rng)
        contrast = np.exp(rng.uniform(0.35, 2.5)) if rng.random() < 0.7 else np.exp(-rng.uniform(0.35, 2.0))
        uptake = np.exp(rng.normal(0.3, 0.5)) * contrast
        texture = np.exp(rng.choice([0.05, 0.15, 0.35]) * _smooth_noise(rng, rng.uniform(1, 4)))
        suv[inside] = (uptake * texture)[inside]
        labels[inside] = index
    suv = ndimage.gaussian_filter(suv, rng.uniform(4, 10) / 2.355 / voxel_mm)
    noise = _smooth_noise(rng, rng.uniform(0.5, 0.9)) * rng.uniform(0.03, 0.25)
    suv = np.clip(suv + noise * np.sqrt(np.maximum(suv, 0.05)) * np.sqrt(suv.mean()), 0, None)
    present = [label for label in np.unique(labels) if label and (labels == label).sum() >= 16]
    layers = np.stack([labels, np.zeros_like(labels), np.zeros_like(labels)])
    return TrainingWindow(suv.astype(np.float16), layers, (0, int(rng.choice(present))))


def _shape(places: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    centre = rng.uniform(-100, 100, 3)[:, None, None, None]
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    local = np.einsum("ab,bijk->aijk", rotation, places - centre)
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


def _smooth_noise(rng: np.random.Generator, sigma_voxels: float) -> np.ndarray:
    """Gaussian noise of standard deviation 1 and the given correlation length, (n, n, n) float32."""
    noise = ndimage.gaussian_filter(rng.standard_normal((SIZE,) * 3, dtype=np.float32), sigma_voxels, mode="wrap")
    return noise / noise.std()
