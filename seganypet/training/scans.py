"""Scans kept on disk as training reads them: arrays that are mapped into memory, so that a window costs what it holds.

A kept scan is known by what it was made of: settings, seeds, and the content of the files of its case. Corrected labels
or a scan that was converted again are kept anew; a folder that was only moved is not.
"""

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from seganypet import __version__
from seganypet._files import content_sha256, make_folder
from seganypet.cohort.case import Case
from seganypet.cohort.cohort import Cohort
from seganypet.cohort.donors import donors_content, read_donors
from seganypet.errors import SegAnyPETError
from seganypet.metrics import dice
from seganypet.organs import ORGANS
from seganypet.pet.volume import Volume
from seganypet.phantom import PhantomCase, make_phantom
from seganypet.phantom.annotators import DRAWING, low_quality_labels
from seganypet.study.workers import process_pool
from seganypet.training.bookkeeping import write_whole
from seganypet.training.config import DataConfig, TrainConfig
from seganypet.training.scenes import scene_of_shapes

SEEDS = {"case": 1, "shapes": 2, "annotator": 3}  # one stream for each use of chance
NOT_CLICKED = {"outside", "skin", "fat", "muscle"}  # nobody means these by a click
MIN_TARGET_VOXELS = 4
POINTS = 512  # positions of a target that are kept: clicks for windows that are placed on it
AIR_SUV = 0.1  # what a scan holds beyond the outermost voxel of more than this is cut away
MARGIN_MM = 20.0


@dataclass(frozen=True, eq=False)
class ScanSource:
    """What one scan is made of.

    Attributes:
        made_of: Everything that the kept scan depends on, as plain values.
        lq: Whether its labels are of low quality.
        case: Case of a cohort, with the paths of its files; None for phantoms and shapes.
        rehearsed: Whether everything in it is learned, so that nothing is forgotten.
        donors: Table of bodies that lend a phantom their organs' shapes; None: nobody does.
    """

    made_of: dict[str, Any]
    lq: bool = False
    case: Case | None = None
    rehearsed: bool = False
    donors: str | None = None

    @property
    def file_name(self) -> str:
        """Name of the scan's file, the same for the same `made_of`."""
        return hashlib.sha256(json.dumps(self.made_of, sort_keys=True).encode()).hexdigest()[:32] + ".pt"


class ScanBank:
    """All scans of a run.

    Args:
        data: Training data.
        folder: Folder where scans are kept; made if missing. Runs with the same data share them.
        epoch: Epoch, from 0, whose phantoms are meant; `data.renewed` of them are others in the next.

    Attributes:
        sources: What each scan is made of.
        hq, lq, rehearsed, shapes: Indices of scans with HQ labels, of those with LQ labels, of those that are learned
            whole, and of scenes of shapes.

    Raises:
        SegAnyPETError: The cohort has no case to train on, or a file that cannot be read.
    """

    def __init__(self, data: DataConfig, folder: Path, epoch: int = 0):
        self.data, self.folder = data, Path(folder)
        make_folder(self.folder)
        self.sources = list(scan_sources(data, epoch))
        self.shapes = [n for n, source in enumerate(self.sources) if source.made_of["kind"] == "shapes"]
        self.lq = [n for n, source in enumerate(self.sources) if source.lq]
        self.rehearsed = [n for n, source in enumerate(self.sources) if source.rehearsed]
        self.hq = sorted({*range(len(self.sources))} - {*self.shapes, *self.lq, *self.rehearsed})

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """A scan as `keep` wrote it; made first, if it is not on disk or damaged."""
        path = self.folder / self.sources[index].file_name
        try:
            return torch.load(path, weights_only=True, mmap=True)
        except FileNotFoundError:
            pass
        except (OSError, EOFError, RuntimeError, UnpicklingError):  # torch's words for a file that is cut or damaged
            path.unlink(missing_ok=True)
        made = make_scan(self.sources[index])
        write_whole(path, lambda temporary: torch.save(made, temporary))
        return torch.load(path, weights_only=True, mmap=True)

    def check_batches(self, config: TrainConfig) -> None:
        """Raise SegAnyPETError if batches ask for HQ or LQ windows, and no case has such labels."""
        where = f"no case of split 'train' in {self.data.cohort}" if self.data.cohort else "no phantom"
        if config.lq_per_batch and not self.lq:
            raise SegAnyPETError(
                f"config {config.name!r}: lq_per_batch is {config.lq_per_batch}, but {where} has LQ labels. Mark such "
                "cases LQ in the column 'quality', or set lq_per_batch to 0."
            )
        if config.lq_per_batch + config.rehearsed_per_batch < config.batch_size and not self.hq:
            raise SegAnyPETError(
                f"config {config.name!r}: lq_per_batch is {config.lq_per_batch} of batch_size {config.batch_size}, so "
                f"the others must be HQ, but {where} has HQ labels. Set lq_per_batch to {config.batch_size}, or mark "
                "cases HQ in the column 'quality'."
            )

    def fill(self, processes: int, progress: bool = True) -> dict[str, float]:
        """Make all scans that are not on disk yet.

        Args:
            processes: Number of processes; 1: this one.
            progress: Whether to show a progress bar.

        Returns:
            `lq_dsc`: mean DSC of LQ targets to their truth; NaN where no truth is known.

        Raises:
            SegAnyPETError: A file is missing, labels lie on another grid or are empty, ...; names the case.
        """
        from tqdm.auto import tqdm

        bar = partial(tqdm, total=len(self), desc="scans", unit="scan", disable=not progress)
        if processes == 1:
            measured = [self.lq_dsc(index) for index in bar(range(len(self)))]
        else:
            measured = list(bar(self.fill_apart(processes)))
        dsc = [one for some in measured for one in some]
        return {"lq_dsc": float(np.mean(dsc)) if dsc else float("nan")}

    def fill_apart(self, processes: int) -> Iterator[list[float]]:
        """Make all scans in other processes; as each is done, DSC of its LQ targets to their truth."""
        with process_pool(processes, prepare=_start_process, arguments=(self,)) as pool:
            for future in as_completed([pool.submit(_fill_one, index) for index in range(len(self))]):
                yield future.result()  # raises what a case raised

    def lq_dsc(self, index: int) -> list[float]:
        """DSC of a scan's LQ targets to their truth; empty where the labels are HQ or nobody knows the truth."""
        scan, source = self[index], self.sources[index]
        if not source.lq or source.made_of["kind"] != "phantom":
            return []
        given, truth = scan["given"][0].numpy(), scan["truth"][0].numpy()
        return [dice(given == label, truth == label) for _, label in scan["targets"].tolist()]


class Renewal:
    """The phantoms of the coming epoch, drawn by a process of their own while the present one goes on.

    Nothing is drawn if no phantom changes from one epoch to the next.

    Args:
        data: Training data.
        folder: Folder where scans are kept.
    """

    def __init__(self, data: DataConfig, folder: Path):
        self.data, self.folder = data, folder
        self.pool = ThreadPoolExecutor(1) if data.renewed else None
        self.coming: Future | None = None

    def bank(self, epoch: int, last: bool) -> ScanBank:
        """The scans of an epoch, all of them on disk; begins on those of the next one, unless this is the last."""
        bank = ScanBank(self.data, self.folder, epoch)
        if self.pool is None:
            return bank
        if self.coming is not None:
            self.coming.result()
        else:
            bank.fill(1, progress=False)
        for gone in {s.file_name for s in scan_sources(self.data, epoch - 2)} if epoch > 1 else ():
            if gone not in {source.file_name for source in bank.sources}:
                (self.folder / gone).unlink(missing_ok=True)
        if not last:
            self.coming = self.pool.submit(list, ScanBank(self.data, self.folder, epoch + 1).fill_apart(1))
        return bank


_process: dict[str, ScanBank] = {}  # the bank that this process fills


def _start_process(bank: ScanBank) -> None:
    _process["bank"] = bank


def _fill_one(index: int) -> list[float]:
    return _process["bank"].lq_dsc(index)


def scan_sources(data: DataConfig, epoch: int = 0) -> Iterator[ScanSource]:
    """What every scan of an epoch is made of, case after case.

    Raises:
        SegAnyPETError: A cohort without cases of split "train", or a case without organs.
    """
    common = {"made_by": __version__}
    donors = {"donors": donors_content(data.donors)} if data.donors else {}
    if data.cohort:
        yield from _cohort_sources(data, common)
    for number in () if data.cohort else range(data.hq + data.lq):
        lq = number >= data.hq
        # LQ patients keep their labels and so themselves; the others are renewed, the oldest first.
        seed = data.first_seed + number if lq else data.first_seed + _renewed(number, epoch, data)
        made_of = {"kind": "phantom", "seed": seed, "targets": data.targets, "lesions": data.lesions}
        made_of |= {"lq_dsc": data.lq_dsc if lq else None}
        if lq and data.lq_annotators is not None:
            made_of["lq_annotators"] = data.lq_annotators
        yield ScanSource(common | made_of | donors, lq, donors=data.donors)
    for number in range(data.rehearsed):
        seed = data.first_seed + data.hq + data.lq + number
        made_of = {"kind": "phantom", "seed": seed, "targets": None, "lesions": data.lesions, "lq_dsc": None}
        yield ScanSource(common | made_of | donors, rehearsed=True, donors=data.donors)
    for index in range(data.shapes):
        yield ScanSource(common | {"kind": "shapes", "index": index})


def _cohort_sources(data: DataConfig, common: dict[str, Any]) -> Iterator[ScanSource]:
    cases = list(Cohort.from_csv(cast(str, data.cohort)).filter(split="train"))
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
        yield ScanSource(made_of, case.quality == "LQ", case)


def _renewed(number: int, epoch: int, data: DataConfig) -> int:
    """Seed, counted from the first, of phantom `number` in an epoch, whose phantoms are a moving range of seeds."""
    first = epoch * data.renewed
    seed = first + (number - first) % data.hq
    # LQ and rehearsed patients have their seeds behind the first HQ ones.
    return seed if seed < data.hq else seed + data.lq + data.rehearsed


def make_scan(source: ScanSource) -> dict[str, Tensor]:
    """Everything that windows of a scan are cut from.

    Returns:
        suv (I, J, K) float16; given and truth, layers of labels that may overlap (L, I, J, K) uint8; targets, layer and
        label of each (T, 2) int64; points, voxels of each (T, POINTS, 3) int16, drawn with replacement; boxes, first
        and last voxel of each (T, 2, 3) int16; affine (4, 4) float64.
    """
    made_of = source.made_of
    kind = made_of["kind"]
    rng = np.random.default_rng([SEEDS["shapes" if kind == "shapes" else "case"], *str(_name(made_of)).encode()])
    if kind == "shapes":
        suv, layers = scene_of_shapes(rng)
        pet, given, truth = Volume(suv, np.diag([4.0, 4.0, 4.0, 1.0]), "SUVbw"), [layers], [layers]
        allowed = [set(range(1, 256))]
    elif made_of["targets"] is None:
        case = _phantom(made_of["seed"], made_of["lesions"], source.donors)
        pet, given = case.pet, [case.organs, case.anatomy, case.lesions]
        tissues = {label for label, name in case.anatomy_names.items() if name not in NOT_CLICKED}
        truth, allowed = given, [set(case.organ_names), tissues, set(range(1, 256))]
    else:
        pet, labels, without_errors = _labelled_case(source)
        allowed = [{ORGANS.index(organ) + 1 for organ in made_of["targets"]}]
        given, truth = ([np.where(np.isin(one, list(allowed[0])), one, 0)] for one in (labels, without_errors))
    box = _body(pet)
    affine = pet.affine.copy()
    affine[:3, 3] = pet.to_mm([part.start for part in box])
    kept = {"given": np.stack([one[box] for one in given]).astype(np.uint8)}
    kept["truth"] = kept["given"] if truth is given else np.stack([one[box] for one in truth]).astype(np.uint8)
    kept["targets"], kept["points"], kept["boxes"] = _targets(kept["given"], allowed, rng)
    if not len(kept["targets"]):
        raise SegAnyPETError(
            f"{pet.source}: none of the labels {sorted(allowed[0])[:12]} has {MIN_TARGET_VOXELS} voxels; take the case "
            "out of the cohort, or name other targets."
        )
    kept["suv"], kept["affine"] = pet.data[box].astype(np.float16), affine
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in kept.items()}


def _name(made_of: dict[str, Any]) -> Any:
    return made_of.get("seed", made_of.get("case", made_of.get("index")))


def _body(pet: Volume) -> tuple[slice, ...]:
    """The part of a PET that holds more than air; all of anything else."""
    if pet.unit != "SUVbw" or not (pet.data > AIR_SUV).any():
        return tuple(slice(0, size) for size in pet.shape)
    box = []
    for axis, (size, step) in enumerate(zip(pet.shape, pet.spacing, strict=True)):
        others = tuple(other for other in range(3) if other != axis)
        filled = np.flatnonzero((pet.data > AIR_SUV).any(axis=others))
        margin = int(np.ceil(MARGIN_MM / step))
        box.append(slice(max(int(filled[0]) - margin, 0), min(int(filled[-1]) + 1 + margin, size)))
    return tuple(box)


def _targets(layers: np.ndarray, allowed: list[set[int]], rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Layer and label of all that is large enough, with some of its voxels and its box."""
    targets, points, boxes = [], [], []
    for number, (layer, labels) in enumerate(zip(layers, allowed, strict=True)):
        for label, box in enumerate(ndimage.find_objects(layer), start=1):
            if box is None or label not in labels:
                continue
            inside = np.argwhere(layer[box] == label) + [part.start for part in box]
            if len(inside) < MIN_TARGET_VOXELS:
                continue
            targets.append((number, label))
            points.append(inside[rng.integers(len(inside), size=POINTS)])
            boxes.append((inside.min(0), inside.max(0)))
    shape = (len(targets), POINTS, 3), (len(targets), 2, 3)
    return (
        np.array(targets, np.int64).reshape(-1, 2), np.array(points, np.int16).reshape(shape[0]),
        np.array(boxes, np.int16).reshape(shape[1]),
    )  # fmt: skip


def _labelled_case(source: ScanSource) -> tuple[Volume, np.ndarray, np.ndarray]:
    """PET, labels as given, labels without errors."""
    made_of = source.made_of
    if source.case is not None:
        pet = source.case.load_pet()
        organs = np.zeros(pet.shape, np.uint8)
        for organ, mask in source.case.targets(pet, ORGANS):
            organs[mask] = ORGANS.index(organ) + 1
        return pet, organs, organs
    seed = made_of["seed"]
    case = _phantom(seed, made_of["lesions"], source.donors)
    if not source.lq:
        return case.pet, case.organs, case.organs
    drawn = low_quality_labels(
        case, made_of["lq_dsc"], seed=SEEDS["annotator"], organs=made_of["targets"],
        annotators=made_of.get("lq_annotators", DRAWING),
    )  # fmt: skip
    return case.pet, drawn.labels, case.organs


@lru_cache(maxsize=1)
def _phantom(seed: int, lesions: bool, donors: str | None) -> PhantomCase:
    return make_phantom(seed, "internal", lesions, read_donors(donors) if donors else ())
