"""Values of a configuration that are impossible by themselves, or contradict each other."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from seganypet.organs import ORGANS

if TYPE_CHECKING:
    from seganypet.training.config import TrainConfig

_MOST = 1e9
_RANGES = {
    "": {
        "quantile": (0, 1), "w_max": (0, _MOST), "beta": (0, _MOST), "exponent": (0, _MOST),
        "learning_rate": (0, _MOST), "decoder_factor": (0, _MOST), "weight_decay": (0, _MOST), "warm_up": (0, _MOST),
        "gamma": (0, _MOST), "seed": (0, 2**32 - 1), "start_masks": (0, 1), "deep": (0, 1),
    },
    "data": {
        "hq": (0, _MOST), "lq": (0, _MOST), "lq_dsc": (0, 1), "first_seed": (0, 2**32 - 1), "shapes": (0, _MOST),
        "rehearsed": (0, _MOST), "shape_fraction": (0, 1), "lesion_fraction": (0, 1),
        "windows_per_case": (1, _MOST), "supervoxel_fraction": (0, 1),
    },
    "validation": {"phantoms": (0, _MOST), "first_seed": (0, 2**32 - 1), "every": (1, _MOST), "clicks": (1, _MOST)},
}  # fmt: skip


def impossible_values(config: "TrainConfig") -> Iterator[str]:
    """Values that are wrong by themselves, each in words."""
    data = config.data
    for field in ("epochs", "batch_size", "targets_per_window", "accumulate", "prompts"):
        if getattr(config, field) < 1:
            yield f"{field} {getattr(config, field)} must be at least 1"
    if config.max_clicks < 2:
        yield f"max_clicks {config.max_clicks} must be at least 2"
    if config.steps_per_epoch is not None and config.steps_per_epoch < 1:
        yield f"steps_per_epoch {config.steps_per_epoch} must be at least 1, or null"
    for field in ("lq_per_batch", "rehearsed_per_batch"):
        if not 0 <= getattr(config, field) <= config.batch_size:
            yield f"{field} {getattr(config, field)} must lie between 0 and batch_size {config.batch_size}"
    if not 0 <= config.ema < 1:
        yield f"ema {config.ema} must be at least 0 and less than 1"
    if config.lq_weight is not None and not 0 <= config.lq_weight <= _MOST:
        yield f"lq_weight {config.lq_weight} must be at least 0, and finite; or null"
    if not config.name or Path(config.name).name != config.name or not config.name.isprintable():
        yield f"name {config.name!r} must be a file name, without folders"
    if unknown := sorted(set(data.targets or ()) - set(ORGANS)):
        yield f"data.targets {unknown} are no organs; known are {', '.join(ORGANS)}"
    if data.lq_annotators is not None:
        from seganypet.phantom.annotators import DRAWING  # loads SciPy, which few configurations need

        if not data.lq_annotators or set(data.lq_annotators) - set(DRAWING):
            yield f"data.lq_annotators {data.lq_annotators} must be some of {', '.join(DRAWING)}; or null for all"
    if data.targets is not None and not data.targets:
        yield "data.targets is empty; expected organs, or null for everything"
    if len(data.flips) != 3 or not all(0 <= probability <= 1 for probability in data.flips):
        yield f"data.flips {data.flips} must be three probabilities"
    if len(data.spacing_mm) != 2 or not 0 < data.spacing_mm[0] <= data.spacing_mm[1]:
        yield f"data.spacing_mm {data.spacing_mm} must be the smallest and the largest voxel size"
    if not 0 <= data.renewed <= data.hq:
        yield f"data.renewed {data.renewed} must lie between 0 and data.hq {data.hq}"
    for section, ranges in _RANGES.items():
        values = getattr(config, section) if section else config
        for field, (lowest, highest) in ranges.items():
            if not lowest <= (value := getattr(values, field)) <= highest:  # NaN lies nowhere
                name = f"{section}.{field}" if section else field
                to = f"lie between {lowest} and {highest}" if highest < _MOST else f"be at least {lowest}, and finite"
                yield f"{name} {value} must {to}"


def contradictions(config: "TrainConfig") -> Iterator[str]:
    """Values that do not go together, each pair in words."""
    data, everything = config.data, config.data.targets is None
    if everything and data.cohort:
        yield "data.targets null (everything) needs phantoms: a cohort has no labels of other tissue"
    if everything and data.lq:
        yield "data.targets null (everything) has true labels only: set data.lq to 0"
    if data.clean and data.cohort:
        yield "data.clean needs phantoms: nobody knows the true labels of a cohort"
    if data.cohort and data.renewed:
        yield "data.renewed needs phantoms: a cohort has no others"
    if data.shapes and not everything:
        yield "data.shapes are for phantoms of everything (data.targets: null)"
    if data.cohort and data.donors:
        yield "data.donors need phantoms: a cohort's patients have their own organs"
    if data.cohort and not data.lesions:
        yield "data.lesions false needs phantoms: whether a cohort's patients have lesions cannot be chosen"
    if data.shapes and not data.lesions:
        yield "data.lesions false and data.shapes: hot blobs look like lesions; set data.shapes to 0"
    if config.strategy != "finetune" and config.prompts < 2:
        yield "consistency and cpcl compare predictions for several prompts: set prompts to at least 2"
    if config.lq_per_batch and not (data.lq or data.cohort):
        yield "lq_per_batch needs LQ cases: set data.lq, or data.cohort"
    apart = config.lq_per_batch + config.rehearsed_per_batch
    if apart > config.batch_size:
        yield f"lq_per_batch and rehearsed_per_batch are {apart} together, more than batch_size {config.batch_size}"
    if apart < config.batch_size and not (data.hq or data.cohort):
        yield "HQ windows in a batch need HQ cases: set data.hq"
    if bool(data.rehearsed) != bool(config.rehearsed_per_batch):
        yield "data.rehearsed and rehearsed_per_batch need each other"
    if data.rehearsed and everything:
        yield "data.rehearsed is for training on some organs: with data.targets null all is learned anyway"
