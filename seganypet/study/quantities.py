"""Every organ and lesion of a cohort in numbers."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from seganypet.cohort.case import Case
from seganypet.cohort.labels import lesion_instances, lesion_name
from seganypet.errors import SegAnyPETError, renamed_keywords
from seganypet.pet.quantification import Rule, check_rule, quantify
from seganypet.pet.sidecar import to_suvbw
from seganypet.pet.volume import Volume
from seganypet.study.definition import Rows, Study
from seganypet.study.engine import run_study

if TYPE_CHECKING:
    import pandas

COLUMNS: dict[str, type] = {
    "case": str, "patient": str, "kind": str, "object": str, "quantity": str, "value": float, "unit": str,
    "definition": str, "source": str, "proposed_by": str, "confidence": float, "error": str,
}  # fmt: skip


@renamed_keywords(rule="threshold")
def quantify_cohort(
    cohort: Iterable[Case],
    *,
    threshold: Rule | None = None,
    peak: str = "global",
    propose: bool = False,
    output: str | os.PathLike | None = None,
    processes: int = 1,
    cluster: str | None = None,
    threads: int | None = None,
    limit: int | None = None,
    retry_failed: bool = False,
    progress: bool = True,
) -> "pandas.DataFrame":
    """`quantify` for every organ and every lesion of every case.

    Never more than a PET and one label map are in memory.

    Args:
        cohort: Cases whose PETs are in SUVbw.
        threshold: Rule that narrows the lesions' masks, see `quantify`; organs are measured as drawn.
        peak: Which SUVpeak, see `quantify`.
        propose: Whether organs are proposed where a case has none drawn, see `seganypet.propose`.
        output, processes, cluster, threads, limit, retry_failed, progress: See `engine.run_study`.

    Returns:
        The columns of `quantify` after case, patient and kind: "organ" (absent ones are left out), "lesion"
        ("lesion_01", ...: 26-connected components, the largest first) or "lesions" (all together); then, of organs that
        nobody drew, proposed_by (the networks) and confidence (the DSC to expect); then error.

    Raises:
        VolumeError: An unknown `threshold` or `peak`.
        SegAnyPETError: What `engine.run_study` raises.
    """
    check_rule(threshold, peak)
    settings = {"threshold": None if threshold is None else str(threshold), "peak": peak, "propose": propose}
    study = Study("quantify", COLUMNS, settings, partial(_quantify, threshold))
    return run_study(
        study, cohort, output=output, processes=processes, cluster=cluster, threads=threads, limit=limit,
        retry_failed=retry_failed, progress=progress,
    )  # fmt: skip


def _quantify(
    threshold: Rule | None, case: Case, methods: Sequence[Any], settings: Mapping[str, Any]
) -> Iterator[tuple[str, Rows]]:
    table = quantify_case(case, threshold=threshold, peak=settings["peak"], propose=settings["propose"])
    yield "", table.astype(object).where(table.notna(), None).to_dict("records")


def quantify_case(
    case: Case, pet: Volume | None = None, *, threshold: Rule | None = None, peak: str = "global",
    propose: bool = False,
) -> "pandas.DataFrame":  # fmt: skip
    """`quantify` for every organ and every lesion of one case.

    Args:
        case: The case; its PET is in SUVbw, or in Bq/mL with a JSON file beside it that says what `to_suvbw` needs.
        pet: Its PET if it is loaded already.
        threshold, peak, propose: As for `quantify_cohort`.

    Returns:
        The columns of `quantify_cohort` but for error.

    Raises:
        SegAnyPETError: Files that cannot be read, labels on another grid or of unknown meaning, a PET in Bq/mL alone.
    """
    import pandas

    pet = case.load_pet() if pet is None else pet
    if pet.unit == "Bq/mL" and "dose_bq" in pet.metadata:
        pet = to_suvbw(pet)
    tables = []
    if case.organs is not None:
        organs, names = case.load_organs(pet)
        there = set(np.flatnonzero(np.bincount(organs.ravel())).tolist())
        names = {label: name for label, name in names.items() if label in there}
        tables.append(quantify(pet, organs, names=names, peak=peak).assign(kind="organ"))
        del organs
    elif propose:
        from seganypet.prompting.proposal import propose as propose_organs  # imports torch

        proposal = propose_organs(pet)
        if proposal.names:
            table = quantify(pet, proposal.labels, names=proposal.names, peak=peak)
            confidence = table["object"].map(proposal.confidence)
            tables.append(table.assign(kind="organ", proposed_by=proposal.proposed_by, confidence=confidence))
        del proposal
    if case.lesions is not None:
        lesions = lesion_instances(case.load_lesions(pet))
        if lesions.max() > np.iinfo(np.int16).max:
            raise SegAnyPETError(f"case {case.name}: {lesions.max()} separate lesions; is {case.lesions} a mask?")
        names = {number: lesion_name(number) for number in range(1, int(lesions.max()) + 1)}
        if names:
            tables.append(quantify(pet, lesions, names=names, threshold=threshold, peak=peak).assign(kind="lesion"))
        tables.append(quantify(pet, {"lesions": lesions > 0}, threshold=threshold, peak=peak).assign(kind="lesions"))
    if not tables:
        found = ", and no organ was found" if propose and case.organs is None else ""
        raise SegAnyPETError(
            f"case {case.name}: neither organs nor lesions are drawn{found}, so there is nothing to measure."
        )
    table = pandas.concat(tables, ignore_index=True).assign(case=case.name, patient=case.patient)
    table = table.reindex(columns=[name for name in COLUMNS if name != "error"])
    return table.astype({"proposed_by": "string", "confidence": float})
