"""Axial slices with a target in each, as a 2D network learns them: the same phantoms, targets and clicks as in 3D."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from seganypet._files import replace_atomically
from seganypet.model.sam2d import EIGHT_BIT
from seganypet.pet.views import ras_spacing, to_ras
from seganypet.phantom import make_phantom
from seganypet.study.workers import process_pool
from seganypet.training.scans import NOT_CLICKED
from seganypet.training.scenes import scene_of_shapes

MIN_PIXELS = 8  # of a target, in the network's square
LAYERS = ("organs", "anatomy", "lesions")


class SliceBank:
    """Slices of phantoms and of random shapes, drawn at random: the same generator gives the same slice in any run.

    Args:
        seeds: Seeds of the phantoms (internal domain).
        lesions: Whether their patients may have lesions, see `make_phantom`.
        shapes: Number of scenes of random shapes.
        shape_fraction: Fraction of samples that come from these scenes.
        size: Number of pixels along each side of the network's input.
        folder: Folder where phantoms are kept as arrays.
        processes: Number of processes that make them.
    """

    def __init__(
        self, seeds: range, lesions: bool, shapes: int, shape_fraction: float, size: int, folder: Path,
        processes: int = 2,
    ):  # fmt: skip
        self.size, self.shape_fraction = size, shape_fraction if shapes else 0.0
        folder.mkdir(parents=True, exist_ok=True)
        kind = "phantom" if lesions else "healthy"
        jobs = [(kind, seed, folder) for seed in seeds] + [("shapes", number, folder) for number in range(shapes)]
        with process_pool(processes) as pool:
            paths = list(pool.map(_keep, jobs))
        self.cases, self.scenes = paths[: len(seeds)], paths[len(seeds) :]

    def sample(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """One slice and one target in it: intensities (S, S) uint8, and label (S, S) bool."""
        while True:
            from_shapes = rng.random() < self.shape_fraction
            paths = self.scenes if from_shapes else self.cases
            pet, layers, spacing = _open(paths[rng.integers(len(paths))])
            layer = 0 if from_shapes else rng.choice(3, p=[0.5, 0.2, 0.3])
            counts = layers[layer][1]  # (labels, slices)
            present = np.flatnonzero(counts.any(1))
            if not present.size:
                continue
            label = rng.choice(present)
            where = rng.choice(np.flatnonzero(counts[label]))
            target = layers[layer][0][..., where] == label
            grey, cut = self.cut(pet[..., where], target, spacing, rng)
            if cut.sum() >= MIN_PIXELS:
                return grey, cut

    def cut(
        self, pet: np.ndarray, target: np.ndarray, spacing: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """A square of a slice around or beside its target, at the network's size: the whole slice or a part of it."""
        extent_mm = spacing * pet.shape  # (x, y)
        side_mm = extent_mm.max() * (rng.uniform(0.85, 1.2) if rng.random() < 0.65 else rng.uniform(0.3, 0.85))
        inside_mm = spacing * np.argwhere(target)[rng.integers(target.sum())]
        # A part of the slice contains that position in the target. A slice that is smaller than the square lies at its
        # high end, which becomes the top left, as in `Sam2D`.
        start_mm = np.minimum(np.maximum(inside_mm - rng.uniform(0.2, 0.8, 2) * side_mm, 0), extent_mm - side_mm)
        step = side_mm / self.size / spacing  # slice pixels per network pixel
        mirror = rng.random(2) < (0.3, 0.1)
        matrix = np.where(mirror, -step, step)
        offset = start_mm / spacing + np.where(mirror, (self.size - 0.5) * step, 0.5 * step) - 0.5
        image, label = (
            ndimage.affine_transform(array.astype(np.float32), matrix, offset, (self.size,) * 2, order=1, cval=0.0)
            for array in (_smoothed(pet, step), target)
        )
        brightness = np.exp(rng.normal(0, 0.15))
        grey = np.clip(image * brightness * 255 / EIGHT_BIT["SUVbw"][1], 0, 255).round().astype(np.uint8)
        return grey.T[::-1, ::-1].copy(), (label > 0.5).T[::-1, ::-1].copy()  # front up, the patient's right at left


def _smoothed(pet: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Where network pixels are larger, blurred to their size, so that noise does not alias."""
    sigma = np.sqrt(np.maximum(step**2 - 1, 0) / (8 * np.log(2)))
    return ndimage.gaussian_filter(pet.astype(np.float32), sigma) if sigma.any() else pet


def batches(bank: SliceBank, seed: int, first_step: int, steps: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of slices (B, S, S) uint8 and labels (B, 1, S, S) float32, which depend on seed and step alone."""
    for step in range(first_step, steps):
        drawn = [bank.sample(np.random.default_rng([seed, step, position])) for position in range(size)]
        slices, labels = (np.stack(parts) for parts in zip(*drawn, strict=True))
        yield torch.from_numpy(slices), torch.from_numpy(labels)[:, None].float()


def pick_pixels(region: Tensor, label: Tensor, deep: float) -> tuple[Tensor, Tensor]:
    """One click per slice at a random position in a region; foreground or background by the label at that position.

    Args:
        region: Region to click in, (N, 1, S, S), 0 or 1, never all 0.
        label: Label of each target, 0 or 1, (N, 1, S, S).
        deep: Fraction of clicks that lie deep inside the region; the others lie anywhere in it.

    Returns:
        Points (x, y) in network pixels, (N, 1, 2) float32; labels (N, 1), 1 foreground and 0 background.
    """
    depth = F.avg_pool2d(F.avg_pool2d(region, (1, 13), 1, (0, 6)), (13, 1), 1, (6, 0))  # high where it is thick
    noise = torch.rand_like(depth)
    thick = torch.rand(len(region), 1, 1, 1) < deep
    score = torch.where(thick, depth * (0.9 + 0.1 * noise), noise) * region
    where = score.flatten(1).argmax(1)
    row, column = where // region.shape[-1], where % region.shape[-1]
    labels = label[torch.arange(len(region)), 0, row, column]
    return torch.stack([column, row], 1)[:, None].float(), labels[:, None].long()


def _keep(job: tuple[str, int, Path]) -> Path:
    """Make a phantom or a scene once, as arrays in RAS order: SUV, label maps and spacing."""
    kind, number, folder = job
    path = folder / f"{kind}_{number}.npz"
    if path.is_file():
        return path
    if kind != "shapes":
        case = make_phantom(number, "internal", lesions=kind == "phantom")
        clicked = [label for label, name in case.anatomy_names.items() if label and name not in NOT_CLICKED]
        anatomy = np.where(np.isin(case.anatomy, clicked), case.anatomy, 0)
        arrays = {name: to_ras(array, case.pet) for name, array in zip(
            ("pet", *LAYERS), (case.pet.data.astype(np.float16), case.organs, anatomy, case.lesions), strict=True
        )}  # fmt: skip
        arrays["spacing"] = np.array(ras_spacing(case.pet))
    else:
        suv, shapes = scene_of_shapes(np.random.default_rng([7, number]), 64)
        arrays = {"pet": suv.astype(np.float16), "organs": shapes, "spacing": np.full(3, 4.0)}
    with replace_atomically(path) as temporary:
        np.savez(temporary, **arrays)
    return path


_OPENED: dict[Path, tuple] = {}


def _open(path: Path) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """SUV, for each layer its labels and how many pixels each label has in each slice, in-plane spacing; kept open."""
    if path not in _OPENED:
        with np.load(path) as file:
            arrays = dict(file)
        layers = []
        for name in LAYERS:
            if name in arrays:
                labels = arrays[name]
                counts = np.stack([np.bincount(one.ravel(), minlength=256) for one in np.moveaxis(labels, -1, 0)], 1)
                counts[0] = 0  # background is no target
                layers.append((labels, counts >= 4))
        _OPENED[path] = arrays["pet"], layers, arrays["spacing"][:2]
    return _OPENED[path]
