"""The samples that training draws: windows of kept scans, each with several targets.

A sample depends on the run's seed, the step and its position in the batch alone: whoever loads it, in however many
processes, after however many interruptions, gets the same one.
"""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from seganypet.model.config import ModelConfig
from seganypet.training.augment import degrade, mirror, redraw_contrasts
from seganypet.training.config import TrainConfig
from seganypet.training.scans import ScanBank
from seganypet.training.scenes import MIN_VOXELS
from seganypet.training.supervoxels import grow_supervoxels
from seganypet.training.windows import cut_labels, cut_uptake, place

ORGAN_LAYER, TISSUE_LAYER, LESION_LAYER = range(3)  # of a phantom that is learned whole
ORGANS_AND_TISSUES = np.array((0.7, 0.3, 0.0))  # how often each gives the target, where it is no lesion
REDRAWN = 0.5  # of windows get other contrasts
MAX_TRIES = 30  # windows that are drawn in the search for one that holds its target


class TrainingSamples(Dataset):
    """Sample number n of a run: a window with several targets, augmented.

    Each is a dict: suv (1, n, n, n) float32; label (T, n, n, n) uint8, the labels as given; lq, bool.

    Args:
        config: The run.
        shape: Size and voxel size of its windows.
        bank: The scans of the present epoch; may be replaced by those of the next.
    """

    def __init__(self, config: TrainConfig, shape: ModelConfig, bank: ScanBank):
        self.config, self.shape, self.bank = config, shape, bank

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        config, data = self.config, self.config.data
        rng = np.random.default_rng([config.seed, number])
        place_in_batch = number % config.batch_size
        rehearsed = place_in_batch < config.rehearsed_per_batch
        lq = place_in_batch >= config.batch_size - config.lq_per_batch
        group = self.bank.rehearsed if rehearsed else self.bank.lq if lq else self.bank.hq
        if not lq and self.bank.shapes and rng.random() < data.shape_fraction:
            group = self.bank.shapes
        index = group[rng.integers(len(group))]
        scan = self.bank[index]
        suv, layers, first = self._window(scan, group is self.bank.shapes, rng)
        suv, layers = mirror(suv, layers, data.flips, rng)
        masks = self._targets(suv, layers, first, scan["targets"].numpy(), rng)
        if len(layers) > TISSUE_LAYER and rng.random() < REDRAWN:
            suv = redraw_contrasts(suv, layers[TISSUE_LAYER], rng)
        suv = degrade(suv, rng)
        return {"suv": torch.from_numpy(suv)[None], "label": torch.from_numpy(masks), "lq": torch.tensor(lq)}

    def _window(
        self, scan: dict[str, Tensor], shapes: bool, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
        """Intensities, layers of labels, and the target that the window was drawn for."""
        data, size = self.config.data, self.shape.window_size
        targets = scan["targets"].numpy()
        released = self.shape.form == "released"  # keeps the voxel size that such weights know
        spacing_mm = (self.shape.spacing_mm,) * 2 if released else data.spacing_mm
        for _ in range(MAX_TRIES):
            which = self._choose(targets, rng)
            layer, label = targets[which]
            points, box, affine = (scan[name].numpy() for name in ("points", "boxes", "affine"))
            geometry = place(points[which], box[which].astype(float), affine, size, spacing_mm, not shapes, rng)
            positions = geometry.positions()
            layers = cut_labels(scan["given"], positions)
            if np.count_nonzero(layers[layer] == label) >= MIN_VOXELS:
                break
        if data.clean:  # in the windows that the labels as given would have: arms of an ablation see the same scans
            layers = cut_labels(scan["truth"], positions)
        return cut_uptake(scan["suv"], geometry, positions), layers, (layer, label)

    def _choose(self, targets: np.ndarray, rng: np.random.Generator) -> int:
        """Index of a target: the layer first, so that twenty lesions do not crowd out the organs."""
        present = np.unique(targets[:, 0])
        if len(present) > 1:
            odds = ORGANS_AND_TISSUES * (1 - self.config.data.lesion_fraction)
            odds[LESION_LAYER] = self.config.data.lesion_fraction
            odds = odds[present] / odds[present].sum()
            return int(rng.choice(np.flatnonzero(targets[:, 0] == rng.choice(present, p=odds))))
        return int(rng.integers(len(targets)))

    def _targets(
        self, suv: np.ndarray, layers: np.ndarray, first: tuple[int, int], targets: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Masks of the first target and of others in the window, organs and lesions, (T, n, n, n) uint8."""
        counts = [np.bincount(layer.ravel(), minlength=256) for layer in layers]
        others = [
            (layer, label) for layer, label in targets.tolist()
            if layer != TISSUE_LAYER and counts[layer][label] >= MIN_VOXELS and (layer, label) != tuple(first)
        ]  # fmt: skip
        times = self.config.targets_per_window
        chosen = [tuple(first), *(others[n] for n in rng.permutation(len(others))[: times - 1])]
        masks = [layers[layer] == label for layer, label in chosen]
        masks += [masks[rng.integers(len(masks))] for _ in range(times - len(masks))]
        for n in range(times):
            if rng.random() < self.config.data.supervoxel_fraction:
                pieces = grow_supervoxels(suv, rng)
                large = 1 + np.flatnonzero(np.bincount(pieces.ravel())[1:] >= MIN_VOXELS)
                if len(large):
                    masks[n] = pieces == rng.choice(large)
        return np.stack(masks).astype(np.uint8)
