"""One training run as a frozen dataclass, read from YAML; unknown keys and contradictions are errors."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import dacite
import yaml

from seganypet._files import read_text
from seganypet.errors import SegAnyPETError, shown
from seganypet.model.config import ModelConfig
from seganypet.organs import SEEN_ORGANS
from seganypet.training.config_rules import contradictions, impossible_values


@dataclass(frozen=True)
class DataConfig:
    """Training data.

    Attributes:
        cohort: Table of real cases (see `seganypet.cohort.cohort`); those of split "train" are used, by their label
            quality: "HQ", "LQ", or blank for HQ. None: phantoms of the internal domain.
        hq: Number of phantoms with true labels.
        lq: Number of phantoms whose labels a low-quality annotator drew.
        lq_dsc: Mean DSC of those labels to the truth, 0.6 to 0.93.
        lq_annotators: Who draws them, see `seganypet.phantom.annotators`; None: all.
        clean: Whether LQ phantoms keep their true labels: the ceiling of every strategy.
        first_seed: Seed of the first phantom; the others follow. Tests and benchmarks use seeds below 10000.
        targets: Organs to learn; None: everything, with other tissue and single lesions (phantoms only).
        lesions: Whether patients of phantoms may have lesions. False: none has, so a network never sees a lesion,
            neither in a scan nor as a target.
        lesion_fraction: Fraction of windows drawn for a lesion, where everything is learned and a scan has any.
        donors: Table of bodies that lend half of the phantoms' organs, see `seganypet.cohort.donors`; None: all organs
            are painted.
        rehearsed: Number of phantoms beside these of which everything is learned, with true labels: what the network
            that training starts from knew, and would forget.
        shapes: Number of scenes of random shapes.
        shape_fraction: Fraction of samples that come from these scenes.
        windows_per_case: Number of windows of each case in an epoch, where `steps_per_epoch` does not say it.
        spacing_mm: Smallest and largest voxel size of a window; networks of the released form keep their own.
        renewed: Number of HQ phantoms that are replaced by new ones after every epoch, the oldest first. They are drawn
            by a process of their own while training goes on.
        supervoxel_fraction: Fraction of targets that are supervoxels of the image instead of labels.
        flips: Probabilities of mirroring a window along (i, j, k).
    """

    cohort: str | None = None
    hq: int = 8
    lq: int = 0
    lq_dsc: float = 0.75
    lq_annotators: tuple[str, ...] | None = None
    clean: bool = False
    first_seed: int = 10_000
    targets: tuple[str, ...] | None = SEEN_ORGANS
    lesions: bool = True
    lesion_fraction: float = 0.35
    donors: str | None = None
    rehearsed: int = 0
    shapes: int = 0
    shape_fraction: float = 0.15
    windows_per_case: int = 5
    spacing_mm: tuple[float, ...] = (1.5, 8.0)
    renewed: int = 0
    supervoxel_fraction: float = 0.0
    flips: tuple[float, ...] = (0.3, 0.1, 0.1)


@dataclass(frozen=True)
class ValidationConfig:
    """What decides which epoch is kept: mean DSC of the seen organs after `clicks` clicks, over whole volumes.

    Attributes:
        phantoms: Number of internal phantoms; with a cohort, its cases of split "val" are used instead. 0: the last
            epoch is kept.
        first_seed: Seed of the first phantom; the others follow. Benchmarks use other seeds.
        every: Number of epochs between validations; the last epoch is always validated.
        clicks: Number of clicks per target.
    """

    phantoms: int = 2
    first_seed: int = 9500
    every: int = 5
    clicks: int = 1


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes:
        name: Name of the network that is written.
        init: Name or path of the weights to start from; None: random weights.
        learned: Beginnings of the names of those parameters that learn, such as "mask_decoder"; None: all learn.
        strategy: Use of the labels. "finetune": DiceCE on all labels as given; "consistency": predictions for several
            prompts must agree, too; "cpcl": LQ labels are also rectified where predictions are uncertain.
        lq_weight: Weight of the loss on LQ labels. None: lambda(t) for cpcl, 1 for the others.
        uncertainty, threshold, quantile, rectification, consistency: Choices of CPCL, as in `seganypet.losses`.
        released_loss: Whether, in cpcl, LQ labels cost (2 L(z, y) + L(z, rectified y)) / 3, as in the release's code.
        w_max, beta, exponent: Parameters of lambda(t), see `losses.ramp_up`.
        prompts: Number K of independent first clicks on each target.
        readings: Whether the three masks for an ambiguous first click, and the predicted IoU of all, are learned.
        start_masks: Fraction of first clicks that come with a mask to start from, as where a window follows what was
            found, lies beside another, or was given a mask.
        deep: Fraction of first clicks that lie deep inside the target; the others lie anywhere in it.
        max_clicks: Largest number of clicks on a target; 2 to this many, fewer more often.
        loss_grid: Grid on which logits and labels are compared. "logits": that of the logits, whose labels are the
            fraction of target in each voxel; "window": the window's own, 8 to 64 times the work.
        epochs: Number of epochs.
        steps_per_epoch: Number of optimiser steps per epoch; None: until as many windows were seen as there are.
        batch_size: Number of windows per device and micro-step.
        lq_per_batch: Number of windows in a batch that have LQ labels.
        rehearsed_per_batch: Number of windows in a batch that come from `data.rehearsed` phantoms.
        targets_per_window: Number of targets clicked in each window, which is embedded once.
        accumulate: Number of micro-steps before each optimiser step.
        learning_rate: Learning rate of AdamW for the image encoder.
        decoder_factor: Multiple of it for prompt encoder and mask decoder.
        weight_decay: Weight decay of AdamW.
        schedule: Learning rate over time. "cosine": warm-up, then down to 0; "multistep": times gamma at milestones.
        warm_up: Number of optimiser steps of warm-up for "cosine".
        milestones: Epochs at which "multistep" lowers the learning rate.
        gamma: Factor by which "multistep" lowers it.
        ema: Decay of the running average of weights, which is what is exported; 0: no average.
        precision: "32-true", "bf16-mixed" or "16-mixed", as Lightning Fabric names them.
        seed: Seed of weights, samples and clicks.
        data: Training data.
        validation: What decides which epoch is kept.
        model: Shape of the network; None: that of `init`, or tiny.

    Raises:
        SegAnyPETError: Impossible or contradictory values.
    """

    name: str
    init: str | None = None
    learned: tuple[str, ...] | None = None
    strategy: Literal["finetune", "consistency", "cpcl"] = "finetune"
    lq_weight: float | None = None
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
    readings: bool = False
    start_masks: float = 0.0
    deep: float = 0.7
    max_clicks: int = 7
    loss_grid: Literal["logits", "window"] = "logits"
    epochs: int = 10
    steps_per_epoch: int | None = None
    batch_size: int = 6
    lq_per_batch: int = 0
    rehearsed_per_batch: int = 0
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
    seed: int = 0
    data: DataConfig = DataConfig()
    validation: ValidationConfig = ValidationConfig()
    model: ModelConfig | None = None

    def __post_init__(self) -> None:
        problems = [*impossible_values(self), *contradictions(self)]
        if problems:
            raise SegAnyPETError(f"config {self.name!r}: {'; '.join(problems)}.")

    @classmethod
    def from_yaml(cls, path: str | Path, overrides: Iterable[str] = ()) -> "TrainConfig":
        """The same as `load_config`, for notebooks, to which this class is `sap.TrainConfig`."""
        return load_config(path, overrides)


RENAMED = {
    "doubtful_weight": "lq_weight",
    "doubtful_per_batch": "lq_per_batch",
    "data.trusted": "data.hq",
    "data.doubtful": "data.lq",
    "data.doubtful_dsc": "data.lq_dsc",
    "data.shape_share": "data.shape_fraction",
    "data.supervoxel_share": "data.supervoxel_fraction",
}
REMOVED = {
    "checkpoint_minutes": "a checkpoint is written every three minutes",
    "workers": "how many processes load samples is no setting of a run but of a machine: --processes",
    "data.cache": "scans are always kept on disk",
}


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> TrainConfig:
    """Read a config file, and change some of its values.

    Args:
        path: YAML file; its keys are the fields of `TrainConfig`, and `data`, `validation` and `model` have keys of
            their own.
        overrides: Changes as "key=value", such as "learning_rate=0.001" or "data.lq=200"; the value is YAML.

    Returns:
        The config.

    Raises:
        SegAnyPETError: A file that is missing or not YAML; no name; an unknown key, with the nearest known ones; a
            value of another type; values that are impossible or contradict each other.
    """
    values = _load_yaml(read_text(path), str(path))
    if not isinstance(values, dict):
        raise SegAnyPETError(f"{path}: expected lines of `key: value`, at least `name: ...`; got {shown(values)}.")
    _check_keys(values, str(path))
    for override in overrides:
        _apply(override, values)
    try:
        return dacite.from_dict(TrainConfig, values, dacite.Config(type_hooks=_HOOKS))
    except dacite.MissingValueError as error:
        raise SegAnyPETError(f"{path}: {error.field_path} is missing; expected a line `name: ...`.") from error
    except dacite.WrongTypeError as error:
        wanted = _in_words(error.field_type)
        raise SegAnyPETError(f"{path}: {error.field_path} is {shown(error.value)}; expected {wanted}.") from error
    except SegAnyPETError as error:
        raise SegAnyPETError(f"{path}: {error}") from error


def _apply(override: str, values: dict[str, Any]) -> None:
    """Change nested `values` in place as "key=value" says."""
    key, equals, text = override.partition("=")
    if not equals:
        raise SegAnyPETError(f"{override!r}: expected key=value, such as learning_rate=0.001.")
    changes = _load_yaml(text, repr(override))
    for name in reversed(key.strip().split(".")):
        changes = {name: changes}  # "data.lq=200" -> {"data": {"lq": 200}}
    _check_keys(changes, repr(override))
    _merge(changes, values)


def _merge(changes: dict[str, Any], values: dict[str, Any]) -> None:
    for name, change in changes.items():
        if isinstance(change, dict) and isinstance(values.get(name), dict):
            _merge(change, values[name])
        else:
            values[name] = change


def _check_keys(values: dict[str, Any], source: str) -> None:
    """Raise SegAnyPETError if a key is unknown, with those that were probably meant."""
    known = list(_dotted(asdict(TrainConfig("any", model=ModelConfig()))))
    for key in _dotted(values):
        if key in RENAMED:
            raise SegAnyPETError(f"{source}: {key} is called {RENAMED[key]} now; rename it.")
        if key in REMOVED:
            raise SegAnyPETError(f"{source}: {key} was removed ({REMOVED[key]}); delete it.")
        if key not in known:
            near = get_close_matches(key, known)
            hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}."
            raise SegAnyPETError(f"{source}: unknown key {key}; {hint}")


def _dotted(values: dict[str, Any], section: str = "") -> Iterator[str]:
    """Names of all keys of a nested dict, such as "data" and "data.lq"."""
    for name, value in values.items():
        yield f"{section}{name}"
        if isinstance(value, dict):
            yield from _dotted(value, f"{section}{name}.")


def _load_yaml(text: str, source: str) -> Any:
    """The value of a YAML text; SegAnyPETError naming `source` if it is none."""
    try:
        return yaml.load(text, _Loader)
    # Of impossible dates and numbers, and of endless nesting, the library says it in Python's own exceptions.
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise SegAnyPETError(f"{source}: not a readable YAML value ({error}).") from error


class _Loader(yaml.SafeLoader):
    """YAML, with 1e-3 as a number: by the letter of YAML 1.1 it needs a dot, and is text without.

    Aliases are refused: a few lines of them stand for more values than fit into memory.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not supported; write the value again")
        return super().compose_node(parent, index)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _made_of(kind: type, *accepted: type) -> Callable[[Any], Any]:
    """A hook for dacite: `kind`, made of a value of exactly these types (True is an int to Python, not to us)."""

    def hook(value: Any) -> Any:
        if type(value) not in accepted:
            raise dacite.WrongTypeError(kind, value)
        return kind(value)

    return hook


_HOOKS = {
    int: _made_of(int, int), float: _made_of(float, int, float), tuple[int, ...]: _made_of(tuple, list),
    tuple[float, ...]: _made_of(tuple, list), tuple[str, ...]: _made_of(tuple, list),
}  # fmt: skip
_WORDS = {
    int: "a whole number", float: "a number", str: "text", bool: "true or false", tuple: "a list", NoneType: "null",
}  # fmt: skip


def _in_words(kind: Any) -> str:
    """A type, as a reader of YAML knows it."""
    for one in (kind, get_origin(kind)):  # of tuple[str, ...] the latter is tuple
        if one in _WORDS:
            return _WORDS[one]
    options = [one if isinstance(one, str) else _in_words(one) for one in get_args(kind)]  # of a Literal or a union
    return " or ".join(options) or "lines of `key: value`"
