"""Files of a cohort that are there, and those that are not."""

import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from seganypet.cohort.case import Case
from seganypet.errors import CohortError


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
