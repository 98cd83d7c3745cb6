"""One training run as a frozen dataclass, read from YAML; a key that does not exist is an error."""

import types
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from seganypet.errors import SegAnyPETError
from seganypet.model.config import TINY, ModelConfig
from seganypet.organs import ORGANS, SEEN_ORGANS


@dataclass(frozen=True)
class DataConfig:
    """What is trained on.

    Attributes:
        cohort: Table of real cases (see `seganypet.cohort.cohort`); those of split "train" are used, quality "HQ" is
            trusted, "LQ" doubtful, blank trusted. None: phantoms of the internal domain.
        trusted: Number of phantoms with true labels.
        doubtful: Number of phantoms whose labels a low-quality annotator drew.
        doubtful_dsc: Mean DSC of those labels to the truth, 0.6 to 0.93.
        clean: Doubtful phantoms keep their true labels: the ceiling of every strategy.
        first_seed: Seeds of the phantoms are this one and the following; tests and benchmarks use seeds below 10000.
        targets: Organs that are learned; None: everything, with other tissue and single lesions (phantoms only).
        lesions: Patients of phantoms may have lesions. False: none has, so a network never sees one, as scan or target.
        shapes: Number of scenes of random shapes.
        shape_share: Share of samples that come from them.
        windows_per_case: Windows cut from each case.
        supervoxel_share: Share of targets that are supervoxels of the image instead of labels.
        flips: Probabilities to mirror a window along (i, j, k).
        cache: Keep windows on disk; else they are cut anew each time they are needed.
    """

    cohort: str | None = None
    trusted: int = 8
    doubtful: int = 0
    doubtful_dsc: float = 0.75
    clean: bool = False
    first_seed: int = 10_000
    targets: tuple[str, ...] | None = SEEN_ORGANS
    lesions: bool = True
    shapes: int = 0
    shape_share: float = 0.15
    windows_per_case: int = 5
    supervoxel_share: float = 0.0
    flips: tuple[float, ...] = (0.3, 0.1, 0.1)
    cache: bool = True


@dataclass(frozen=True)
class ValidationConfig:
    """What decides which epoch is kept: mean DSC of the seen organs after `clicks` clicks, over whole volumes.

    Attributes:
        phantoms: Number of internal phantoms; with a cohort its split "val" is used instead. 0: keep the last epoch.
        first_seed: Seeds of the phantoms are this one and the following; benchmarks use others.
        every: Epochs between validations; the last epoch is always validated.
        clicks: Clicks per target.
    """

    phantoms: int = 2
    first_seed: int = 9500
    every: int = 5
    clicks: int = 1


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes:
        name: Of the model that is written.
        init: Name or path of the weights to start from; None: random weights.
        strategy: "finetune": DiceCE on all labels as given; "consistency": and answers to several prompts shall
            agree; "cpcl": and doubtful labels are rectified where answers are unsure.
        doubtful_weight: Weight of the loss on doubtful labels. None: lambda(t) for cpcl, 1 for the others.
        uncertainty, threshold, quantile, rectification, consistency: As in `seganypet.losses`.
        released_loss: cpcl: doubtful labels cost (2 L(z, y) + L(z, rectified y)) / 3, as the release's code has it.
        w_max, beta, exponent: Of lambda(t), see `losses.ramp_up`.
        prompts: K, independent first clicks on each target.
        max_clicks: A dialogue has 2 to this many clicks, short ones more often.
        loss_grid: "logits": logits are compared with how full of target each of their voxels is; "window": they are
            upscaled and compared at the window's own resolution, eight to 64 times the work.
        epochs: Number of epochs.
        steps_per_epoch: Optimiser steps an epoch; None: until as many windows were seen as there are.
        batch_size: Windows a device and micro-step.
        doubtful_per_batch: How many of them have doubtful labels.
        targets_per_window: Targets clicked in each window, which is embedded once.
        accumulate: Micro-steps before each optimiser step.
        learning_rate: AdamW's, of the image encoder.
        decoder_factor: Prompt encoder and mask decoder learn at this multiple of it.
        weight_decay: AdamW's.
        schedule: "cosine": warm-up, then down to 0; "multistep": times gamma at each milestone.
        warm_up: Optimiser steps of "cosine".
        milestones: Epochs of "multistep".
        gamma: Of "multistep".
        ema: Decay of the running average of weights that is exported; 0: no average.
        precision: "32-true", "bf16-mixed" or "16-mixed", as Lightning Fabric names them.
        checkpoint_minutes: Time between checkpoints; one is also written after every epoch.
        workers: Processes that load samples; None: none on a CPU, 4 a GPU.
        seed: Of weights, samples and clicks.
        data: What is trained on.
        validation: What decides which epoch is kept.
        model: Shape of the network; None: that of `init`, or tiny.

    Raises:
        SegAnyPETError: Values that cannot be, or that contradict each other.
    """

    name: str
    init: str | None = None
    strategy: Literal["finetune", "consistency", "cpcl"] = "finetune"
    doubtful_weight: float | None = None
    uncertainty: Literal["entropy", "variance", "logit_variance"] = "entropy"
    threshold: Literal["mean", "quantile", "ramp"] = "mean"
    quantile: float = 0.9
    rectification: Literal["replace", "flip", "ignore"] = "replace"
    consistency: Literal["mse", "kl"] = "mse"
    released_loss: bool = False
    w_max: float = 0.1
    beta: float = 5.0
    exponent: float = 1.0
    prompts: int = 5
    max_clicks: int = 7
    loss_grid: Literal["logits", "window"] = "logits"
    epochs: int = 10
    steps_per_epoch: int | None = None
    batch_size: int = 6
    doubtful_per_batch: int = 0
    targets_per_window: int = 2
    accumulate: int = 1
    learning_rate: float = 1e-3
    decoder_factor: float = 1.0
    weight_decay: float = 0.05
    schedule: Literal["cosine", "multistep"] = "cosine"
    warm_up: int = 50
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    ema: float = 0.998
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    checkpoint_minutes: float = 3.0
    workers: int | None = None
    seed: int = 0
    data: DataConfig = DataConfig()
    validation: ValidationConfig = ValidationConfig()
    model: ModelConfig | None = None

    def __post_init__(self) -> None:
        data = self.data
        at_least_one = ("epochs", "batch_size", "targets_per_window", "accumulate", "prompts")
        strange = sorted(set(data.targets or ()) - set(ORGANS))
        rules = {
            **{f"{name} {getattr(self, name)} must be at least 1": getattr(self, name) >= 1 for name in at_least_one},
            f"max_clicks {self.max_clicks} must be at least 2": self.max_clicks >= 2,
            f"steps_per_epoch {self.steps_per_epoch} must be at least 1, or null": (self.steps_per_epoch or 1) >= 1,
            f"doubtful_per_batch {self.doubtful_per_batch} must lie between 0 and batch_size {self.batch_size}":
                0 <= self.doubtful_per_batch <= self.batch_size,
            f"name {self.name!r} must be a file name, without folders": self.name and Path(self.name).name == self.name,
            f"data.targets {strange} are no organs; known are {', '.join(ORGANS)}": not strange,
            "data.targets is empty; expected organs, or null for everything": data.targets is None or data.targets,
            "data.targets null (everything) needs phantoms: a cohort has no labels of other tissue":
                data.targets is not None or not data.cohort,
            "data.targets null (everything) has true labels only: set data.doubtful to 0":
                data.targets is not None or not data.doubtful,
            "data.clean needs phantoms: nobody knows the true labels of a cohort": not (data.clean and data.cohort),
            "data.shapes are for phantoms of everything (data.targets: null)": not data.shapes or data.targets is None,
            "data.lesions false needs phantoms: a cohort's patients have what they have":
                data.lesions or not data.cohort,
            "data.lesions false and data.shapes: hot blobs look like lesions; set data.shapes to 0":
                data.lesions or not data.shapes,
            f"data.flips {data.flips} must be three probabilities":
                len(data.flips) == 3 and all(0 <= p <= 1 for p in data.flips),
            f"shares {data.supervoxel_share} of supervoxels, {data.shape_share} of shapes must be from 0 to 1":
                0 <= data.supervoxel_share <= 1 and 0 <= data.shape_share <= 1,
            "consistency and cpcl compare answers to several prompts: set prompts to at least 2":
                self.strategy == "finetune" or self.prompts >= 2,
            "doubtful_per_batch needs doubtful cases: set data.doubtful, or data.cohort":
                not self.doubtful_per_batch or data.doubtful or data.cohort,
            "trusted windows in a batch need trusted cases: set data.trusted":
                self.doubtful_per_batch == self.batch_size or data.trusted or data.cohort,
            f"ema {self.ema} must lie between 0 and 1, 1 excluded": 0 <= self.ema < 1,
        }  # fmt: skip
        for rule, holds in rules.items():
            if not holds:
                raise SegAnyPETError(f"config {self.name!r}: {rule}.")

    @classmethod
    def from_yaml(cls, path: str | Path, **changes: Any) -> "TrainConfig":
        """Read a config file.

        Args:
            path: YAML; its keys are the fields of this class, `data`, `validation` and `model` hold keys of their own.
            changes: Fields that replace those of the file.

        Raises:
            SegAnyPETError: Missing or not YAML; no name; a key that is no field (a typo would train something else);
                a value of another type.
        """
        try:
            found = yaml.safe_load(Path(path).read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise SegAnyPETError(f"{path}: not a readable YAML file ({error}).") from error
        if not isinstance(found, dict) or not isinstance(found.get("name"), str):
            raise SegAnyPETError(f"{path}: expected lines of `key: value`, at least `name: ...`; got {found!r}.")
        return _read(cls, found | changes, str(path), "")

    @property
    def window_size(self) -> int | None:
        """Voxels of a side of the window; None if `init` decides."""
        if self.model is None:
            return None if self.init else TINY.window_size
        return self.model.window_size


def _read(kind: type, found: dict[str, Any], source: str, where: str) -> Any:
    """An instance of a dataclass from plain YAML values, with every name and type checked."""
    known = [field.name for field in fields(kind)]
    if unknown := sorted(set(map(str, found)) - set(known)):
        raise SegAnyPETError(f"{source}: unknown keys {[where + name for name in unknown]}; known are {sorted(known)}.")
    hints = get_type_hints(kind)
    values = {name: _value(hints[name], value, source, where + name) for name, value in found.items()}
    try:
        return kind(**values)
    except SegAnyPETError as error:
        raise SegAnyPETError(f"{source}: {error}") from error


def _value(hint: Any, value: Any, source: str, where: str) -> Any:
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if value is None and type(None) in options:
        return None
    (wanted,) = (option for option in options if option is not type(None))
    if is_dataclass(wanted):
        if isinstance(value, dict):
            return _read(wanted, value, source, f"{where}.")
    elif get_origin(wanted) is Literal:
        if value in get_args(wanted):
            return value
        wanted = " | ".join(map(repr, get_args(wanted)))
    elif get_origin(wanted) is tuple:
        item = get_args(wanted)[0]
        if isinstance(value, list | tuple):
            return tuple(_value(item, element, source, f"{where}[{n}]") for n, element in enumerate(value))
    elif wanted is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif type(value) is wanted:
        return value
    needed = getattr(wanted, "__name__", wanted)
    # YAML reads 1e-3 as text: a number in this form needs a dot.
    hint = " Write it with a dot: 1.0e-3." if wanted is float and isinstance(value, str) else ""
    raise SegAnyPETError(f"{source}: {where} is {value!r}; expected {needed}.{hint}")
