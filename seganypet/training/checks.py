"""Everything that a configuration presupposes of its cohort, looked at before the first window is cut."""

from collections.abc import Iterator

from seganypet.cohort.case import Case
from seganypet.cohort.cohort import Cohort
from seganypet.errors import SegAnyPETError
from seganypet.organs import ORGANS, SEEN_ORGANS
from seganypet.training.config import TrainConfig


def problems_of(config: TrainConfig, voxels: bool = True) -> list[tuple[str, str]]:
    """What keeps a configuration from being trained on its cohort, or makes it train on less than it says.

    Args:
        config: Settings of the run; without a cohort, nothing can be wrong.
        voxels: Whether labels are read, which takes seconds for each case.

    Returns:
        "error" or "warning", and a sentence. With an error, training would stop, or do something else than it says.

    Raises:
        SegAnyPETError: The cohort's table cannot be read.
    """
    if config.data.cohort is None:
        return []
    cohort = Cohort.from_csv(config.data.cohort)
    return [*_of_splits(config, cohort), *(_of_labels(config, cohort) if voxels else ())]


def _of_splits(config: TrainConfig, cohort: Cohort) -> Iterator[tuple[str, str]]:
    where, train = cohort.source, [case for case in cohort if case.split == "train"]
    if not train:
        yield "error", f"{where} has no case of split 'train'; Cohort.split_by_patient makes splits."
        return
    if without := [case.name for case in train if case.organs is None]:
        yield "error", f"{where}: {len(without)} cases of split 'train' have no organs, such as {without[0]}."
    lq = sum(case.quality == "LQ" for case in train)
    if config.lq_per_batch and not lq:
        yield "error", (
            f"lq_per_batch is {config.lq_per_batch}, but none of {len(train)} cases of split 'train' is of quality LQ; "
            "Cohort.with_quality marks them, or set lq_per_batch to 0."
        )
    if config.lq_per_batch < config.batch_size and lq == len(train):
        yield "error", (
            f"lq_per_batch is {config.lq_per_batch} of batch_size {config.batch_size}, but all {lq} cases of split "
            "'train' are of quality LQ, so there is none for the others."
        )
    if lq and not config.lq_per_batch:
        yield "warning", f"{lq} cases of quality LQ are not used, as lq_per_batch is 0."
    if not _validated(cohort):
        yield "warning", f"{where} has no case of split 'val' with organs: the last epoch is kept, not the best."


def _of_labels(config: TrainConfig, cohort: Cohort) -> Iterator[tuple[str, str]]:
    targets = config.data.targets or ()
    for case in cohort:
        if case.split == "train" and case.organs is not None:
            found = _organs_in(case)
            if isinstance(found, str):
                yield "error", found
            elif not found & {*targets}:
                yield "error", f"case {case.name}: none of data.targets ({', '.join(targets)}) is in its labels."
    validated = _validated(cohort)
    organs = [_organs_in(case) for case in validated]
    yield from (("error", one) for one in organs if isinstance(one, str))
    if validated and not {*SEEN_ORGANS} & {name for one in organs if not isinstance(one, str) for name in one}:
        yield "error", f"no case of split 'val' has one of {', '.join(SEEN_ORGANS)}, so no epoch can be chosen."


def _validated(cohort: Cohort) -> list[Case]:
    return [case for case in cohort if case.split == "val" and case.organs is not None]


def _organs_in(case: Case) -> set[str] | str:
    """Names of the organs that are drawn in a case, or what is wrong with its files."""
    try:
        return {name for name, mask in case.targets(only=ORGANS) if mask.any()}
    except SegAnyPETError as error:
        return f"case {case.name}: {error}"
