"""Windows kept on disk by MONAI, and the samples drawn from them.

A sample depends on the run's seed, the step and its place in the batch alone: whoever loads it, in however many
processes, after however many interruptions, gets the same one.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import PersistentDataset
from monai.transforms import Transform
from torch import Tensor
from torch.utils.data import Dataset

from seganypet import __version__
from seganypet.cohort.cohort import Cohort
from seganypet.errors import SegAnyPETError
from seganypet.organs import ORGANS
from seganypet.pet.volume import Volume
from seganypet.phantom import make_phantom
from seganypet.phantom.annotators import low_quality_labels
from seganypet.training.config import DataConfig, TrainConfig
from seganypet.training.scenes import MIN_VOXELS, window_of_anything, window_of_organs, window_of_shapes
from seganypet.training.supervoxels import supervoxels

SEEDS = {"case": 1, "shapes": 2, "annotator": 3, "supervoxels": 4}  # one stream for each use of chance

Item = dict[str, Any]  # what a window is made from; plain values, so that MONAI can name its file after them


class WindowBank:
    """All windows of a run.

    Args:
        data: What is trained on.
        size: Voxels of a side.
        spacing_mm: Voxel size.
        folder: Where windows are kept; runs with the same data share them.

    Raises:
        SegAnyPETError: The cohort has no case to train on.
    """

    def __init__(self, data: DataConfig, size: int, spacing_mm: float, folder: Path):
        self.items = list(window_items(data, size, spacing_mm))
        self.trusted = [n for n, item in enumerate(self.items) if item["trusted"] and item["kind"] != "shapes"]
        self.doubtful = [n for n, item in enumerate(self.items) if not item["trusted"]]
        self.shapes = [n for n, item in enumerate(self.items) if item["kind"] == "shapes"]
        self.windows = PersistentDataset(self.items, CutWindow(), cache_dir=folder if data.cache else None)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        try:
            return self.windows[index]
        except RuntimeError as error:  # MONAI's wrapping, which hides what is wrong with the case
            if isinstance(error.__cause__, SegAnyPETError):
                raise error.__cause__ from None
            raise

    def fill(self, processes: int, progress: bool = True) -> dict[str, float]:
        """Cut all windows that are not on disk yet, one case after the other, in several processes.

        Returns:
            `doubtful_dsc`: mean DSC of doubtful targets to their truth, over windows; NaN where no truth is known.

        Raises:
            SegAnyPETError: A file is missing, labels lie on another grid or are empty, ...; names the case.
        """
        from tqdm.auto import tqdm

        cases: dict[tuple, list[int]] = {}
        for index, item in enumerate(self.items):
            name = item["index"] // 20 if item["kind"] == "shapes" else item.get("seed", item.get("case"))
            cases.setdefault((item["kind"], name), []).append(index)
        dsc: list[float] = []
        with ProcessPoolExecutor(processes, initializer=_start_process, initargs=(self,)) as pool:
            work = pool.map(_fill_one, cases.values())
            for found in tqdm(work, total=len(cases), desc="windows", unit="case", disable=not progress):
                dsc += found
        return {"doubtful_dsc": float(np.mean(dsc)) if dsc else float("nan")}


_process: dict[str, WindowBank] = {}  # the bank that this process fills


def _start_process(bank: WindowBank) -> None:
    torch.set_num_threads(1)
    _process["bank"] = bank


def _fill_one(indices: list[int]) -> list[float]:
    """Cut the windows of one case; DSC of doubtful targets to their truth."""
    bank, dsc = _process["bank"], []
    for index in indices:
        window, item = bank[index], bank.items[index]
        if not item["trusted"] and item["kind"] == "phantom":
            layer, label = window["targets"][0].tolist()
            given, truth = window["given"][layer] == label, window["truth"][layer] == label
            dsc.append(float(2 * (given & truth).sum() / (given.sum() + truth.sum())))
    return dsc


def window_items(data: DataConfig, size: int, spacing_mm: float) -> Iterator[Item]:
    """Everything that `make_window` needs, one dict per window.

    Raises:
        SegAnyPETError: A cohort without cases of split "train".
    """
    common = {"size": size, "spacing_mm": spacing_mm, "supervoxels": data.supervoxel_share > 0, "made_by": __version__}
    draws = range(data.windows_per_case)
    if data.cohort:
        for case in Cohort.from_csv(data.cohort).filter(split="train"):
            if case.organs is None:
                raise SegAnyPETError(f"case {case.name} of {data.cohort}: no organs to learn; fill that column.")
            facts = {"kind": "cohort", "cohort": data.cohort, "case": case.name, "targets": data.targets}
            for draw in draws:
                yield common | facts | {"trusted": case.quality != "LQ", "index": draw}
        return
    for number in range(data.trusted + data.doubtful):
        facts = {"kind": "phantom", "seed": data.first_seed + number, "targets": data.targets}
        facts |= {"trusted": number < data.trusted, "doubtful_dsc": data.doubtful_dsc, "lesions": data.lesions}
        for draw in draws:
            yield common | facts | {"index": draw}
    for index in range(data.shapes):
        yield common | {"kind": "shapes", "trusted": True, "index": index}


class CutWindow(Transform):
    """`make_window` as MONAI wants it: what is no Transform counts as random, and is not kept."""

    def __call__(self, item: Item) -> dict[str, Tensor]:
        return make_window(item)


def make_window(item: Item) -> dict[str, Tensor]:
    """Cut one window: suv (n, n, n) float16, given and truth (L, n, n, n) uint8, targets (T, 2), supervoxels."""
    size, spacing_mm, index = item["size"], item["spacing_mm"], item["index"]
    if item["kind"] == "shapes":
        window = window_of_shapes(size, spacing_mm, np.random.default_rng([SEEDS["shapes"], index]))
    elif item["kind"] == "phantom" and item["targets"] is None:
        rng = np.random.default_rng([SEEDS["case"], item["seed"], index])
        window = window_of_anything(_phantom(item["seed"], item["lesions"]), size, spacing_mm, rng)
    else:
        pet, given, truth, name = _labelled_case(item)
        rng = np.random.default_rng([SEEDS["case"], *name.encode(), index])
        organs = [ORGANS.index(organ) + 1 for organ in item["targets"]]
        window = window_of_organs(pet, given, truth, organs, size, spacing_mm, rng)
    made = {name: torch.from_numpy(getattr(window, name)) for name in ("suv", "given", "truth", "targets")}
    if item["supervoxels"]:
        rng = np.random.default_rng([SEEDS["supervoxels"], index])
        made["supervoxels"] = torch.from_numpy(supervoxels(window.suv, rng))
    return made


def _labelled_case(item: Item) -> tuple[Volume, np.ndarray, np.ndarray, str]:
    """PET, labels as given, labels without errors, name."""
    if item["kind"] == "cohort":
        pet, organs = _cohort_case(item["cohort"], item["case"])
        return pet, organs, organs, item["case"]
    case = _phantom(item["seed"], item["lesions"])
    given = case.organs
    if not item["trusted"]:
        given = _doubtful_labels(item["seed"], item["lesions"], item["doubtful_dsc"], item["targets"])
    return case.pet, given, case.organs, f"phantom {item['seed']}"


# One case at a time in each process: its windows are cut one after the other.
@lru_cache(maxsize=1)
def _phantom(seed: int, lesions: bool):
    return make_phantom(seed, "internal", lesions)


@lru_cache(maxsize=1)
def _doubtful_labels(seed: int, lesions: bool, dsc: float, targets: tuple[str, ...]) -> np.ndarray:
    return low_quality_labels(_phantom(seed, lesions), dsc, seed=SEEDS["annotator"], organs=targets).labels


@lru_cache(maxsize=1)
def _cohort_case(table: str, name: str) -> tuple[Volume, np.ndarray]:
    case = _cohort(table)[name]
    pet = case.load_pet()
    organs = np.zeros(pet.shape, np.uint8)
    for organ, mask in case.targets(pet, ORGANS):
        organs[mask] = ORGANS.index(organ) + 1
    return pet, organs


@lru_cache(maxsize=1)
def _cohort(table: str) -> Cohort:
    return Cohort.from_csv(table)


class TrainingSamples(Dataset):
    """Sample number n of a run: windows with several targets each, augmented.

    Each is a dict: suv (1, n, n, n) float32; label (T, n, n, n) uint8, what training is told; doubtful, bool.
    """

    def __init__(self, config: TrainConfig, bank: WindowBank):
        self.config, self.bank = config, bank

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        config, data = self.config, self.config.data
        rng = np.random.default_rng([config.seed, number])
        doubtful = number % config.batch_size >= config.batch_size - config.doubtful_per_batch
        group = self.bank.doubtful if doubtful else self.bank.trusted
        if not doubtful and self.bank.shapes and rng.random() < data.shape_share:
            group = self.bank.shapes
        window = {name: array.numpy() for name, array in self.bank[group[rng.integers(len(group))]].items()}
        label = self._targets(window, rng)
        suv, label = augment(window["suv"].astype(np.float32), label, data.flips, rng)
        suv, label = torch.from_numpy(suv)[None], torch.from_numpy(label)
        return {"suv": suv, "label": label, "doubtful": torch.tensor(doubtful)}

    def _targets(self, window: dict[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
        data, times = self.config.data, self.config.targets_per_window
        labels = window["truth"] if data.clean else window["given"]
        masks = [labels[layer] == label for layer, label in window["targets"]]
        masks = [mask for mask in masks if np.count_nonzero(mask) >= MIN_VOXELS] or masks[:1]
        order = [0, *(1 + rng.permutation(len(masks) - 1))]
        chosen = [masks[order[n] if n < len(order) else rng.integers(len(masks))] for n in range(times)]
        if data.supervoxel_share:
            sizes = np.bincount(window["supervoxels"].ravel())
            pieces = 1 + np.flatnonzero(sizes[1:] >= MIN_VOXELS)
            for n in range(times):
                if len(pieces) and rng.random() < data.supervoxel_share:
                    chosen[n] = window["supervoxels"] == rng.choice(pieces)
        return np.stack(chosen).astype(np.uint8)


def augment(
    suv: np.ndarray, label: np.ndarray, flips: Iterable[float], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Mirror, scale uptake, add noise.

    Args:
        suv: (n, n, n).
        label: (T, n, n, n).
        flips: Probability for each axis.
        rng: Source of chance.
    """
    for axis, probability in enumerate(flips):
        if rng.random() < probability:
            suv, label = np.flip(suv, axis), np.flip(label, axis + 1)
    suv = suv * np.float32(np.exp(rng.normal(0, 0.2)))
    if rng.random() < 0.3:  # counting noise: its variance grows with uptake
        noise = rng.standard_normal(suv.shape, dtype=np.float32) * np.float32(rng.uniform(0.05, 0.25))
        suv = np.clip(suv + noise * np.sqrt(np.maximum(suv, 0.02)), 0, None)
    return np.ascontiguousarray(suv), np.ascontiguousarray(label)
