"""Windows kept on disk, and the samples drawn from them.

A window is known by what it was cut from: settings, seeds, and the content of the files of its case. Corrected labels
or a scan that was converted again are cut anew; a folder that was only moved is not.

A sample depends on the run's seed, the step and its position in the batch alone: whoever loads it, in however many
processes, after however many interruptions, gets the same one.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from seganypet import __version__
from seganypet._files import content_sha256
from seganypet.cohort.case import Case
from seganypet.cohort.cohort import Cohort
from seganypet.errors import SegAnyPETError
from seganypet.organs import ORGANS
from seganypet.pet.volume import Volume
from seganypet.phantom import PhantomCase, make_phantom
from seganypet.phantom.annotators import low_quality_labels
from seganypet.study.workers import process_pool
from seganypet.training.bookkeeping import write_whole
from seganypet.training.config import DataConfig, TrainConfig
from seganypet.training.scenes import MIN_VOXELS, window_of_anything, window_of_organs, window_of_shapes
from seganypet.training.supervoxels import grow_supervoxels

SEEDS = {"case": 1, "shapes": 2, "annotator": 3, "supervoxels": 4}  # one stream for each use of chance


@dataclass(frozen=True, eq=False)
class WindowSource:
    """What one window is cut from.

    Attributes:
        made_of: Everything that the window depends on, as plain values.
        lq: Whether its labels are of low quality.
        case: Case of a cohort, with the paths of its files; None for phantoms and shapes.
    """

    made_of: dict[str, Any]
    lq: bool = False
    case: Case | None = None

    @property
    def file_name(self) -> str:
        """Name of the window's file, the same for the same `made_of`."""
        return hashlib.sha256(json.dumps(self.made_of, sort_keys=True).encode()).hexdigest()[:32] + ".pt"


class WindowBank:
    """All windows of a run.

    Args:
        data: Training data.
        size: Number of voxels along each side of a window.
        spacing_mm: Voxel size of a window, in mm.
        folder: Folder where windows are kept; made if missing. Runs with the same data share them.

    Attributes:
        sources: What each window is cut from.
        hq, lq, shapes: Indices of windows with HQ labels, of those with LQ labels, and of scenes of shapes.

    Raises:
        SegAnyPETError: The cohort has no case to train on, or a file that cannot be read.
    """

    def __init__(self, data: DataConfig, size: int, spacing_mm: float, folder: Path):
        self.data, self.folder = data, Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.sources = list(window_sources(data, size, spacing_mm))
        self.shapes = [n for n, source in enumerate(self.sources) if source.made_of["kind"] == "shapes"]
        self.lq = [n for n, source in enumerate(self.sources) if source.lq]
        self.hq = sorted({*range(len(self.sources))} - {*self.shapes, *self.lq})

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        path = self.folder / self.sources[index].file_name
        try:
            return torch.load(path, weights_only=True)
        except FileNotFoundError:
            pass
        except (OSError, EOFError, RuntimeError, UnpicklingError):  # torch's words for a file that is cut or damaged
            path.unlink(missing_ok=True)
        window = make_window(self.sources[index])
        write_whole(path, lambda temporary: torch.save(window, temporary))
        return window

    def check_batches(self, config: TrainConfig) -> None:
        """Raise SegAnyPETError if batches ask for HQ or LQ windows, and no case has such labels."""
        where = f"no case of split 'train' in {self.data.cohort}" if self.data.cohort else "no phantom"
        if config.lq_per_batch and not self.lq:
            raise SegAnyPETError(
                f"config {config.name!r}: lq_per_batch is {config.lq_per_batch}, but {where} has LQ labels. Mark such "
                "cases LQ in the column 'quality', or set lq_per_batch to 0."
            )
        if config.lq_per_batch < config.batch_size and not self.hq:
            raise SegAnyPETError(
                f"config {config.name!r}: lq_per_batch is {config.lq_per_batch} of batch_size {config.batch_size}, so "
                f"the others must be HQ, but {where} has HQ labels. Set lq_per_batch to {config.batch_size}, or mark "
                "cases HQ in the column 'quality'."
            )

    def fill(self, processes: int, progress: bool = True) -> dict[str, float]:
        """Cut all windows that are not on disk yet, one case after the other, in several processes.

        Args:
            processes: Number of processes.
            progress: Whether to show a progress bar.

        Returns:
            `lq_dsc`: mean DSC of LQ targets to their truth, over windows; NaN where no truth is known.

        Raises:
            SegAnyPETError: A file is missing, labels lie on another grid or are empty, ...; names the case.
        """
        from tqdm.auto import tqdm

        cases: dict[tuple, list[int]] = {}
        for index, source in enumerate(self.sources):
            made_of = source.made_of
            name = made_of.get("seed", made_of.get("case", made_of["index"] // 20))  # or 20 scenes of shapes
            cases.setdefault((made_of["kind"], name), []).append(index)
        with process_pool(processes, prepare=_start_process, arguments=(self,)) as pool:
            work = [pool.submit(_fill_case, indices) for indices in cases.values()]
            for future in tqdm(
                as_completed(work), total=len(work), desc="windows", unit="case", disable=not progress
            ):
                future.result()  # raises what a case raised
        dsc = [one for future in work for one in future.result()]
        return {"lq_dsc": float(np.mean(dsc)) if dsc else float("nan")}


_process: dict[str, WindowBank] = {}  # the bank that this process fills


def _start_process(bank: WindowBank) -> None:
    _process["bank"] = bank


def _fill_case(indices: list[int]) -> list[float]:
    """Cut the windows of one case; DSC of LQ targets to their truth."""
    bank, dsc = _process["bank"], []
    for index in indices:
        window, source = bank[index], bank.sources[index]
        if source.lq and source.made_of["kind"] == "phantom":
            layer, label = window["targets"][0].tolist()
            given, truth = window["given"][layer] == label, window["truth"][layer] == label
            dsc.append(float(2 * (given & truth).sum() / (given.sum() + truth.sum())))
    return dsc


def window_sources(data: DataConfig, size: int, spacing_mm: float) -> Iterator[WindowSource]:
    """What every window of a run is cut from, case after case.

    Raises:
        SegAnyPETError: A cohort without cases of split "train", or a case without organs.
    """
    common = {
        "size": size, "spacing_mm": spacing_mm, "supervoxels": data.supervoxel_fraction > 0, "made_by": __version__,
    }  # fmt: skip
    draws = range(data.windows_per_case)
    if data.cohort:
        cases = list(Cohort.from_csv(data.cohort).filter(split="train"))
        for case in cases:
            if case.organs is None:
                raise SegAnyPETError(f"case {case.name} of {data.cohort}: no organs to learn; fill that column.")
        with ThreadPoolExecutor() as pool:
            hashes = pool.map(lambda case: (content_sha256(case.pet), content_sha256(case.organs)), cases)
        for case, (pet, organs) in zip(cases, hashes, strict=True):
            files = {"pet": pet, "pet_unit": case.pet_unit, "organs": organs, "organ_convention": case.organ_convention}
            stated = {"organ_labels": case.organ_labels, "label_grid": case.label_grid}
            files |= {name: value for name, value in stated.items() if value is not None}
            made_of = common | files | {"kind": "cohort", "case": case.name, "targets": data.targets}
            for draw in draws:
                yield WindowSource(made_of | {"index": draw}, case.quality == "LQ", case)
        return
    for number in range(data.hq + data.lq):
        lq = number >= data.hq
        made_of = {"kind": "phantom", "seed": data.first_seed + number, "targets": data.targets}
        made_of |= {"lesions": data.lesions, "lq_dsc": data.lq_dsc if lq else None}
        for draw in draws:
            yield WindowSource(common | made_of | {"index": draw}, lq)
    for index in range(data.shapes):
        yield WindowSource(common | {"kind": "shapes", "index": index})


def make_window(source: WindowSource) -> dict[str, Tensor]:
    """Cut one window: suv (n, n, n) float16, given and truth (L, n, n, n) uint8, targets (T, 2), supervoxels."""
    made_of = source.made_of
    size, spacing_mm, index = made_of["size"], made_of["spacing_mm"], made_of["index"]
    if made_of["kind"] == "shapes":
        window = window_of_shapes(size, spacing_mm, np.random.default_rng([SEEDS["shapes"], index]))
    elif made_of["targets"] is None:
        rng = np.random.default_rng([SEEDS["case"], made_of["seed"], index])
        window = window_of_anything(_phantom(made_of["seed"], made_of["lesions"]), size, spacing_mm, rng)
    else:
        pet, given, truth, name = _labelled_case(source)
        rng = np.random.default_rng([SEEDS["case"], *name.encode(), index])
        organs = [ORGANS.index(organ) + 1 for organ in made_of["targets"]]
        window = window_of_organs(pet, given, truth, organs, size, spacing_mm, rng)
    made = {name: torch.from_numpy(getattr(window, name)) for name in ("suv", "given", "truth", "targets")}
    if made_of["supervoxels"]:
        rng = np.random.default_rng([SEEDS["supervoxels"], index])
        made["supervoxels"] = torch.from_numpy(grow_supervoxels(window.suv, rng))
    return made


def _labelled_case(source: WindowSource) -> tuple[Volume, np.ndarray, np.ndarray, str]:
    """PET, labels as given, labels without errors, name."""
    made_of = source.made_of
    if source.case is not None:
        pet, organs = _cohort_case(source.case, made_of["pet"], made_of["organs"])
        return pet, organs, organs, source.case.name
    seed, lesions = made_of["seed"], made_of["lesions"]
    case = _phantom(seed, lesions)
    given = _lq_labels(seed, lesions, made_of["lq_dsc"], made_of["targets"]) if source.lq else case.organs
    return case.pet, given, case.organs, f"phantom {seed}"


# One case at a time in each process: its windows are cut one after the other.
@lru_cache(maxsize=1)
def _phantom(seed: int, lesions: bool) -> PhantomCase:
    return make_phantom(seed, "internal", lesions)


@lru_cache(maxsize=1)
def _lq_labels(seed: int, lesions: bool, dsc: float, targets: tuple[str, ...]) -> np.ndarray:
    return low_quality_labels(_phantom(seed, lesions), dsc, seed=SEEDS["annotator"], organs=targets).labels


@lru_cache(maxsize=1)
def _cohort_case(case: Case, *content: str) -> tuple[Volume, np.ndarray]:
    """PET and organs of a case; other `content` of the same files is another case to the cache."""
    pet = case.load_pet()
    organs = np.zeros(pet.shape, np.uint8)
    for organ, mask in case.targets(pet, ORGANS):
        organs[mask] = ORGANS.index(organ) + 1
    return pet, organs


class TrainingSamples(Dataset):
    """Sample number n of a run: a window with several targets, augmented.

    Each is a dict: suv (1, n, n, n) float32; label (T, n, n, n) uint8, the labels as given; lq, bool.

    Args:
        config: The run.
        bank: Its windows.
    """

    def __init__(self, config: TrainConfig, bank: WindowBank):
        self.config, self.bank = config, bank

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        config, data = self.config, self.config.data
        rng = np.random.default_rng([config.seed, number])
        lq = number % config.batch_size >= config.batch_size - config.lq_per_batch
        group = self.bank.lq if lq else self.bank.hq
        if not lq and self.bank.shapes and rng.random() < data.shape_fraction:
            group = self.bank.shapes
        window = {name: array.numpy() for name, array in self.bank[group[rng.integers(len(group))]].items()}
        label = self._targets(window, rng)
        suv, label = augment(window["suv"].astype(np.float32), label, data.flips, rng)
        return {"suv": torch.from_numpy(suv)[None], "label": torch.from_numpy(label), "lq": torch.tensor(lq)}

    def _targets(self, window: dict[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
        data, times = self.config.data, self.config.targets_per_window
        labels = window["truth"] if data.clean else window["given"]
        masks = [labels[layer] == label for layer, label in window["targets"]]
        masks = [mask for mask in masks if np.count_nonzero(mask) >= MIN_VOXELS] or masks[:1]
        order = [0, *(1 + rng.permutation(len(masks) - 1))]
        chosen = [masks[order[n] if n < len(order) else rng.integers(len(masks))] for n in range(times)]
        if data.supervoxel_fraction:
            sizes = np.bincount(window["supervoxels"].ravel())
            pieces = 1 + np.flatnonzero(sizes[1:] >= MIN_VOXELS)
            for n in range(times):
                if len(pieces) and rng.random() < data.supervoxel_fraction:
                    chosen[n] = window["supervoxels"] == rng.choice(pieces)
        return np.stack(chosen).astype(np.uint8)


def augment(
    suv: np.ndarray, label: np.ndarray, flips: Iterable[float], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Mirror a window, scale its uptake, add noise.

    Args:
        suv: Intensities, (n, n, n) float32.
        label: Labels of the targets, (T, n, n, n).
        flips: Probability of mirroring each axis.
        rng: Source of random numbers.

    Returns:
        Intensities and labels of the same shapes.
    """
    for axis, probability in enumerate(flips):
        if rng.random() < probability:
            suv, label = np.flip(suv, axis), np.flip(label, axis + 1)
    suv = suv * np.float32(np.exp(rng.normal(0, 0.2)))
    if rng.random() < 0.3:  # counting noise: its variance grows with uptake
        noise = rng.standard_normal(suv.shape, dtype=np.float32) * np.float32(rng.uniform(0.05, 0.25))
        suv = np.clip(suv + noise * np.sqrt(np.maximum(suv, 0.02)), 0, None)
    return np.ascontiguousarray(suv), np.ascontiguousarray(label)
