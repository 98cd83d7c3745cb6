"""The organs and lesions of a whole cohort in numbers, case after case."""

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from seganypet import __version__
from seganypet.cohort.case import Case
from seganypet.cohort.cohort import Cohort
from seganypet.cohort.labels import lesion_instances, lesion_name
from seganypet.errors import SegAnyPETError
from seganypet.pet.quantification import Rule, check_rule, quantify
from seganypet.pet.volume import Volume
from seganypet.study.kept import Kept

if TYPE_CHECKING:
    import pandas


def quantify_cohort(
    cohort: Cohort,
    *,
    threshold: Rule | None = None,
    peak: str = "global",
    output: str | os.PathLike | None = None,
    progress: bool = True,
) -> "pandas.DataFrame":
    """`quantify` for every organ and every lesion of every case.

    Args:
        cohort: Its PETs are in SUVbw. Never more than a PET and one label map are in memory.
        threshold: Narrows the lesions' masks, see `quantify`; organs are measured as drawn.
        peak: See `quantify`.
        output: CSV that is written after every case, so that a killed run goes on. Cases that stand there are not
            measured again unless their files have changed since (`<output>.json` remembers them); other cases in it
            stay.
        progress: Show a bar.

    Returns:
        The columns of `quantify` after case, patient and kind: "organ" (absent ones are left out), "lesion"
        ("lesion_01", ...: 26-connected components, the largest first) or "lesions" (all together).

    Raises:
        VolumeError: An unknown `threshold` or `peak`.
        SegAnyPETError: `output` cannot be written, holds another table, or was made with another threshold or peak.

    Warns:
        UserWarning: Cases that cannot be measured, with the reason; the others are.
    """
    import pandas
    from tqdm.auto import tqdm

    check_rule(threshold, peak)
    settings = f"threshold {threshold}, peak {peak}, seganypet {__version__}"
    tables = []
    with Kept(None if output is None else Path(output), settings, COLUMNS, set(COLUMNS) - {"value"}) as kept:
        for case in tqdm(cohort, desc="cases", disable=not progress):
            table = kept.table(case)
            if table is None:
                try:
                    table = quantify_case(case, threshold=threshold, peak=peak)
                except SegAnyPETError as error:
                    warnings.warn(f"case {case.name} is left out: {error}", stacklevel=2)
                    continue
                kept.add(case, table)
            tables.append(table)
    return pandas.concat(tables, ignore_index=True) if tables else pandas.DataFrame(columns=COLUMNS)


COLUMNS = ("case", "patient", "kind", "object", "quantity", "value", "unit", "definition", "source")


def quantify_case(
    case: Case, pet: Volume | None = None, *, threshold: Rule | None = None, peak: str = "global"
) -> "pandas.DataFrame":
    """As `quantify_cohort`, for one case, whose PET may be given if it is loaded.

    Raises:
        SegAnyPETError: Files that cannot be read, labels on another grid or of unknown meaning, a PET in Bq/mL.
    """
    import pandas

    pet = case.load_pet() if pet is None else pet
    tables = []
    if case.organs is not None:
        organs, names = case.load_organs(pet)
        there = set(np.flatnonzero(np.bincount(organs.ravel())).tolist())
        names = {label: name for label, name in names.items() if label in there}
        tables.append(quantify(pet, organs, names=names, peak=peak).assign(kind="organ"))
        del organs
    if case.lesions is not None:
        lesions = lesion_instances(case.load_lesions(pet))
        if lesions.max() > np.iinfo(np.int16).max:
            raise SegAnyPETError(f"case {case.name}: {lesions.max()} separate lesions; is {case.lesions} a mask?")
        names = {number: lesion_name(number) for number in range(1, int(lesions.max()) + 1)}
        if names:
            tables.append(quantify(pet, lesions, names=names, threshold=threshold, peak=peak).assign(kind="lesion"))
        tables.append(quantify(pet, {"lesions": lesions > 0}, threshold=threshold, peak=peak).assign(kind="lesions"))
    if not tables:
        raise SegAnyPETError(f"case {case.name}: neither organs nor lesions are drawn, so there is nothing to measure.")
    table = pandas.concat(tables, ignore_index=True).assign(case=case.name, patient=case.patient)
    return table[list(COLUMNS)]
