"""Training windows: what a click may mean, cut from scans and from scenes of random shapes.

A network that is to segment *what is clicked* must see more than organs. So a generalist learns from abstract scenes
(blobs, tubes, shells; hot or cold, sharp or blurred) and from windows of phantoms in which organs, other tissue and
lesions take turns as the target. A specialist sees organs alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from seganypet.errors import SegAnyPETError
from seganypet.pet.volume import Volume
from seganypet.phantom import PhantomCase
from seganypet.prompting.window import Window, sample_window, window_around

NOT_CLICKED = {"outside", "skin", "fat", "muscle"}  # nobody means these by a click
MIN_VOXELS = 16  # of a target, in its window
MAX_TRIES = 60  # windows that are drawn in the search for one that holds its target


@dataclass(frozen=True, eq=False)
class TrainingWindow:
    """One window and everything in it that can be a target.

    Attributes:
        suv: Intensities, (n, n, n) float16.
        given: Label maps as given to training: one or more layers that may overlap, (L, n, n, n) uint8.
        truth: The same layers without an annotator's errors; `given` itself if these are unknown.
        targets: Layer and label of each target, (T, 2) uint8; the window was cut around the first.
    """

    suv: np.ndarray
    given: np.ndarray
    truth: np.ndarray
    targets: np.ndarray


def window_of_anything(case: PhantomCase, size: int, spacing_mm: float, rng: np.random.Generator) -> TrainingWindow:
    """A window of a phantom around an organ, another tissue or a lesion; organs and lesions beside it are targets too.

    Args:
        case: The phantom.
        size: Number of voxels along each side.
        spacing_mm: Voxel size, in mm, before it is varied at random.
        rng: Source of random numbers.

    Raises:
        SegAnyPETError: No target was found; names the phantom.
    """
    layers = [case.organs, case.anatomy, case.lesions]
    lesions = int(case.lesions.max())
    tissues = [label for label, name in case.anatomy_names.items() if name not in NOT_CLICKED]
    for _ in range(MAX_TRIES):
        layer = rng.choice(3, p=[0.5, 0.2, 0.3] if lesions else [0.7, 0.3, 0.0])
        label = int(rng.choice((list(case.organ_names), tissues, range(1, lesions + 1))[layer]))
        # Lesions are small: mostly seen in finer windows, as a careful user would look at them. Where nobody has any,
        # other tissue teaches what fine windows look like.
        fine = layer == (2 if lesions else 1)
        spacing = rng.uniform(0.5, 1.125) if fine else rng.choice([1.0, rng.uniform(0.75, 1.25)], p=[0.7, 0.3])
        inside = np.argwhere(layers[layer] == label)
        if len(inside) < 4:
            continue
        window = _window_near(case.pet, inside, size, spacing * spacing_mm, rng)
        given = np.stack([_sample_labels(case.pet, labels, window) for labels in layers])
        found = _targets_in(given, first=(layer, label), layers=(0, 2))
        if found is not None:
            suv = sample_window(case.pet, window)[0, 0].numpy().astype(np.float16)
            return TrainingWindow(suv, given, given, found)
    raise SegAnyPETError(f"{case.pet.source}: no target of {MIN_VOXELS} voxels was found in {MAX_TRIES} windows.")


def window_of_organs(
    pet: Volume,
    given: np.ndarray,
    truth: np.ndarray,
    organs: Sequence[int],
    size: int,
    spacing_mm: float,
    rng: np.random.Generator,
) -> TrainingWindow:
    """A window of a scan around one of its organs; the other organs in it are targets too.

    Args:
        pet: The scan.
        given: Label map as given to training, shape of `pet`.
        truth: Label map without errors, shape of `pet`; `given` itself if it is unknown.
        organs: Labels that may be targets.
        size: Number of voxels along each side.
        spacing_mm: Voxel size, in mm.
        rng: Source of random numbers.

    Raises:
        SegAnyPETError: No organ of the scan is large enough; names the scan.
    """
    wanted = np.where(np.isin(given, organs), given, 0).astype(np.uint8)
    present = np.flatnonzero(np.bincount(wanted.ravel()) >= 4)[1:]
    for _ in range(MAX_TRIES if len(present) else 0):
        label = int(rng.choice(present))
        window = _window_near(pet, np.argwhere(wanted == label), size, spacing_mm, rng)
        cut = _sample_labels(pet, wanted, window)[None]
        found = _targets_in(cut, first=(0, label), layers=(0,))
        if found is not None:
            suv = sample_window(pet, window)[0, 0].numpy().astype(np.float16)
            without_errors = _sample_labels(pet, truth, window)[None]
            return TrainingWindow(suv, cut, np.where(np.isin(without_errors, organs), without_errors, 0), found)
    raise SegAnyPETError(
        f"{pet.source}: none of the labels {sorted(organs)} has {MIN_VOXELS} voxels of {spacing_mm:g} mm; "
        "take the case out of the cohort, or name other targets."
    )


def _window_near(pet: Volume, inside: np.ndarray, size: int, spacing_mm: float, rng: np.random.Generator) -> Window:
    # Near where a session would put the window (a click in the target), and a little off it.
    centre_mm = pet.to_mm(inside[rng.integers(len(inside))]) + rng.normal(0, 3 * spacing_mm, 3)
    return window_around(pet, centre_mm, size, float(spacing_mm))


def _targets_in(labels: np.ndarray, first: tuple[int, int], layers: Sequence[int]) -> np.ndarray | None:
    """Layers and labels of everything large enough, `first` first; None if that one is too small."""
    counts = np.stack([np.bincount(layer.ravel(), minlength=256) for layer in labels])
    if counts[first] < MIN_VOXELS:
        return None
    others = [
        (layer, label)
        for layer in layers
        for label in np.flatnonzero(counts[layer] >= MIN_VOXELS)
        if label and (layer, label) != first
    ]
    return np.array([first, *others], np.uint8)


def _sample_labels(grid: Volume, labels: np.ndarray, window: Window) -> np.ndarray:
    """Nearest label at each voxel of a window; 0 outside the scan."""
    to_grid = np.linalg.inv(grid.affine) @ window.affine
    shape = (window.size,) * 3
    return ndimage.affine_transform(labels.astype(np.uint8, copy=False), to_grid, output_shape=shape, order=0)


def window_of_shapes(size: int, voxel_mm: float, rng: np.random.Generator) -> TrainingWindow:
    """A scene of 2 to 9 random shapes, at least one of them large enough to be a target.

    Args:
        size: Number of voxels along each side.
        voxel_mm: Voxel size, in mm.
        rng: Source of random numbers.
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
    present = [label for label in range(1, len(counts)) if counts[label] >= MIN_VOXELS]
    if not present:  # all lie outside the window or hide each other: another scene
        return window_of_shapes(size, voxel_mm, rng)
    targets = np.array([(0, label) for label in rng.permutation(present)], np.uint8)
    return TrainingWindow(suv.astype(np.float16), labels[None], labels[None], targets)


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
