"""What decides which epoch is kept: whole volumes under clicks, by the protocol of `seganypet.study.evaluation`."""

import warnings
from collections.abc import Iterable
from pathlib import Path

from seganypet._files import replace_atomically
from seganypet.cohort.case import InMemoryCase
from seganypet.cohort.cohort import Cohort
from seganypet.errors import SegAnyPETError
from seganypet.model.sam3d import Sam3D
from seganypet.organs import SEEN_ORGANS
from seganypet.pet.plots import show_slices
from seganypet.phantom import make_phantom
from seganypet.prompting.session import Session
from seganypet.prompting.simulate import first_click
from seganypet.study.evaluation import EvaluationCase, evaluate
from seganypet.training.config import TrainConfig


def validation_cases(config: TrainConfig) -> list[EvaluationCase]:
    """The cases that decide which epoch is kept, phantoms in memory.

    Args:
        config: Settings of the run.

    Returns:
        Labelled cases of split "val" of the cohort, if there is one; else phantoms.

    Warns:
        UserWarning: The cohort has no such case, so the best epoch cannot be found.
    """
    if config.data.cohort:
        cohort = Cohort.from_csv(config.data.cohort)
        cases: list[EvaluationCase] = [case for case in cohort if case.split == "val" and case.organs]
        if not cases:
            warnings.warn(
                f"{config.data.cohort} has no case of split 'val' with organs: nothing is validated, and the last "
                "epoch is kept. To keep the best one, set split to 'val' for some patients.",
                stacklevel=2,
            )
        return cases
    cases = []
    for seed in range(config.validation.first_seed, config.validation.first_seed + config.validation.phantoms):
        made = make_phantom(seed, "internal", config.data.lesions)
        cases.append(InMemoryCase(f"phantom {seed}", f"phantom {seed}", made.pet, made.organs))
    return cases


def validation_dsc(model: Sam3D, cases: Iterable[EvaluationCase], clicks: int) -> float:
    """Mean DSC of the seen organs after the last of `clicks` clicks, over whole volumes; protocol of `evaluate`."""
    rows = evaluate(cases, model, clicks, targets=SEEN_ORGANS, rules=(), progress=False)
    failed = rows[rows["error"].notna()]
    if len(failed):  # a mean over what is left would choose another epoch
        raise SegAnyPETError(f"validation case {failed['case'].iloc[0]} failed: {failed['error'].iloc[0]}")
    return float(rows.loc[rows["click"] == clicks, "dsc"].mean())


def draw_sample(model: Sam3D, case: EvaluationCase, path: Path) -> None:
    """A picture of one organ of a validation case, after one click."""
    from matplotlib.figure import Figure  # without pyplot, which would keep every figure

    pet = case.load_pet()
    name, truth = next((name, mask) for name, mask in case.targets(pet, SEEN_ORGANS) if mask.any())
    session = Session(model, pet)
    mask = session.click(ijk=first_click(truth, spacing=pet.spacing).ijk)
    axes = Figure(figsize=(12, 5), layout="constrained").subplots(1, 3)
    show_slices(pet, {name: mask, "truth": truth}, clicks=session.clicks, axes=axes)
    with replace_atomically(path) as temporary:
        axes[0].figure.savefig(temporary)
