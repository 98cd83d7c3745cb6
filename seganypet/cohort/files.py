"""Files of a cohort that are there, and those that are not."""

import os
import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from seganypet.cohort.case import Case
from seganypet.errors import CohortError, warn_caller


class Found(NamedTuple):
    """What a folder holds.

    Attributes:
        cases: All cases, those whose files are missing included.
        notes: What was concluded although no file says so, one sentence each.
    """

    cases: list[Case]
    notes: list[str]


def visible_files(folder: Path, pattern: str) -> list[Path]:
    """Files that match, sorted, without hidden ones such as those of macOS."""
    found = folder.glob(pattern)
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def tell_missing(cases: Iterable[Case], source: str) -> None:
    """Warn of the cases whose files are missing; CohortError if nothing can be done with any of them."""
    cases = list(cases)
    lacking = {case.name: missing for case in cases if (missing := missing_files(case))}
    if not lacking:
        return
    listed = "; ".join(f"case {name}: {', '.join(map(str, paths))}" for name, paths in list(lacking.items())[:5])
    more = f"; and {len(lacking) - 5} more" if len(lacking) > 5 else ""
    if all({*missing_files(case)} - {case.ct} for case in cases):
        raise CohortError(f"{source}: missing: {listed}{more}. Is the download complete, with these file names?")
    warnings.warn(
        f"{source}: {len(lacking)} of {len(cases)} cases lack files ({listed}{more}); Cohort.report lists them, and "
        "studies that need these files have a row with the error.",
        stacklevel=4,
    )


def missing_files(case: Case) -> Sequence[Path]:
    """The files that a case names and that do not exist."""
    named = (case.pet, case.ct, case.organs, case.lesions)
    return [path for path in named if path is not None and not os.path.isfile(path)]


def files_by_case(cases: Iterable[Case], files: Sequence[Path], folder: Path) -> dict[str, Path]:
    """The file of each case that has one, by the case's name; see `Cohort.with_organs` for names, errors, warnings."""
    cases, named = list(cases), {path: path.name.removesuffix(".nii.gz") for path in files}
    patients = [case.patient for case in cases]
    found: dict[str, Path] = {}
    owner: dict[Path, str] = {}
    for case in cases:
        names = [case.name, *([case.patient] if patients.count(case.patient) == 1 else [])]
        fitting = [path for path, name in named.items() if name in names]  # exact matches come first
        plain = {_plain(name) for name in names}
        fitting = fitting or [path for path, name in named.items() if _plain(name) in plain]
        if len(fitting) > 1:
            raise CohortError(f"case {case.name}: {', '.join(map(str, fitting))} all match; keep one in {folder}.")
        for path in fitting:
            if (first := owner.setdefault(path, case.name)) != case.name:
                raise CohortError(f"{path} matches cases {first} and {case.name}; name it exactly as one of them.")
            found[case.name] = path
    several = {_plain(patient) for patient in patients if patients.count(patient) > 1}
    if unclear := [path.name for path, name in named.items() if path not in owner and _plain(name) in several]:
        warn_caller(
            f"{folder}: named after patients with several cases, and so left out: {', '.join(unclear[:5])}"
            f"{f' and {len(unclear) - 5} more' if len(unclear) > 5 else ''}. Name each file after its case."
        )
    return found


def _plain(name: str) -> str:
    """A name without the parts in which file systems, people and AutoPET's editions differ."""
    return re.sub(r"^(petct|fdg|psma)", "", re.sub(r"[\W_]", "", name).casefold())
