"""The CSV file of a cohort: one row per scan. Columns:

    case              name of the scan, unique                                    required
    patient           patient of the scan; splits and intervals are by patient    required
    pet               NIfTI file                                                  required
    pet_unit          "SUVbw" or "Bq/mL"                                          required
    ct                NIfTI file in HU
    organs            NIfTI label map on the PET's grid
    organ_convention  meaning of its labels, a key of `ORGAN_CONVENTIONS`; blank: detected, with a warning
    lesions           NIfTI mask or label map on the PET's grid; every label above 0 is lesion
    quality           quality of the labels: "HQ" or "LQ"
    split             any name, such as "train"; one patient is in one split only
    tracer            such as "FDG"
    lesion_labels     numbers of the lesions, such as "tumour=1; nodes=2+3; other=5; ignore=4", where the last two do
                      not count; blank: every label above 0 is lesion
    organ_labels      numbers of the organs in the same form, instead of a convention
    label_grid        "resample": labels on another grid than the PET's, such as the CT's, are resampled when they are
                      read; blank: they are refused

Paths are relative to the table's folder (where it is a link, to that of the link or of the file), or absolute.
Optional cells may be blank and optional columns left out.
Reading returns cases and problems, so that a table with twenty mistakes can be corrected in one go:

    not_a_table, columns, no_cases       error    the table is unreadable
    row_length, blank, bad_value         error    the row gives no case
    missing                              error    the case names a file that does not exist
    case_twice, patient_in_two_splits    error    cases contradict each other
    patient_spelling, split_blank        warning  names that differ in case or spaces only; a split for some cases only
"""

import csv
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from seganypet._files import as_path, make_folder, read_text, replace_atomically
from seganypet.cohort.case import Case
from seganypet.cohort.inspection import PARTS, Problem
from seganypet.errors import CohortError

COLUMNS = ("case", *(field.name for field in fields(Case) if field.name != "name"))
REQUIRED = ("case", "patient", "pet", "pet_unit")
MAX_BYTES = 200_000_000  # a million cases


def read_table(path: str | os.PathLike) -> tuple[list[Case], list[Problem]]:
    """The cases of a cohort table and the problems of its rows; the contents of the file never raise.

    Args:
        path: Path of the CSV file.

    Returns:
        Cases of all readable rows, including those whose files are missing; problems in the order of the rows. Cases
        may contradict each other, see `conflicts`.

    Raises:
        CohortError: The file does not exist.
    """
    path = as_path(path)
    if not os.path.isfile(path):
        what = "is a folder; use from_autopet or from_nnunet" if os.path.isdir(path) else "no such cohort table"
        raise CohortError(f"{path}: {what}; expected a CSV file.")
    try:
        rows = list(csv.reader(io.StringIO(read_text(path, CohortError, MAX_BYTES), newline=""), strict=True))
    except (csv.Error, CohortError) as error:
        message = f"{path}: not a readable CSV table in UTF-8 ({error}). From a spreadsheet, save as 'CSV UTF-8'."
        return [], [_of_table("not_a_table", message)]
    header = [name.strip() for name in rows[0]] if rows else []
    faults = list(_faults_of_header(header))
    if faults:
        return [], [_of_table("columns", f"{path}: {fault}") for fault in faults]
    cases, problems = [], []
    for line, row in enumerate(rows[1:], start=2):
        if any(cell.strip() for cell in row):
            case, found = _case_of_row(row, header, path, line)
            cases += [] if case is None else [case]
            problems += found
    if not cases and not problems:
        problems.append(_of_table("no_cases", f"{path}: no cases; there is nothing below the header."))
    return cases, problems


def conflicts(cases: Iterable[Case], source: str) -> Iterator[Problem]:
    """Contradictions between cases; `source` is named in the messages."""
    names: set[str] = set()
    first_of: dict[str, Case] = {}
    spellings: dict[str, str] = {}
    blank, filled = [], 0
    for case in cases:
        if case.name in names:
            message = f"{source}: case {case.name} occurs twice; names of cases must be unique."
            yield Problem(case.name, case.patient, "table", "case_twice", "error", message)
        names.add(case.name)
        first = first_of.setdefault(case.patient, case)
        if case.split != first.split:
            message = (
                f"{source}: patient {case.patient} is in split {first.split!r} (case {first.name}) and in "
                f"{case.split!r} (case {case.name}), so test data would be training data. Use split_by_patient."
            )
            yield Problem(case.name, case.patient, "table", "patient_in_two_splits", "error", message)
        spelling = spellings.setdefault("".join(case.patient.casefold().split()), case.patient)
        if spelling != case.patient:
            message = f"{source}: patients {spelling!r} and {case.patient!r} differ in spelling only; is it one person?"
            yield Problem(case.name, case.patient, "table", "patient_spelling", "warning", message)
        filled += case.split is not None
        blank += [case.name] if case.split is None else []
    if filled and blank:
        message = f"{source}: {filled} cases have a split, {len(blank)} have none, such as {blank[0]}."
        yield _of_table("split_blank", message, "warning")


def write_table(path: str | os.PathLike, cases: Iterable[Case]) -> None:
    """Write the table, with paths relative to its folder, which is made; it is complete or absent."""
    path = as_path(path)
    make_folder(path.parent)
    with replace_atomically(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for case in cases:
            row = {"case": case.name} | {name: getattr(case, name) for name in COLUMNS if name != "case"}
            for name in PARTS:
                if row[name] is not None:
                    row[name] = Path(os.path.relpath(row[name], path.resolve().parent)).as_posix()
            writer.writerow(row)


def _file_of_cell(table: Path, cell: str) -> Path:
    """The file that a cell names."""
    # From the folder that `write_table` counts from: ".." after a linked folder leads elsewhere.
    beside, of_target = (Path(os.path.normpath(folder / cell)) for folder in
                         (table.parent.resolve(), table.resolve().parent))  # fmt: skip
    return of_target if os.path.exists(of_target) and not os.path.exists(beside) else beside


def _of_table(problem: str, message: str, severity: str = "error") -> Problem:
    return Problem("", "", "table", problem, severity, message)


def _faults_of_header(header: Sequence[str]) -> Iterator[str]:
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        advice = " Separate cells by commas." if len(header) == 1 else ""
        yield f"columns {missing} are missing; the table has {list(header)}.{advice}"
    unknown = [name for name in header if name not in COLUMNS]
    if unknown and not missing:  # a table with semicolons has one unknown column, which is not its fault
        yield f"unknown columns {unknown}; expected some of {list(COLUMNS)}."
    if len(set(header)) < len(header):
        yield f"a column occurs twice: {list(header)}."


def _case_of_row(
    row: Sequence[str], header: Sequence[str], table: Path, line: int
) -> tuple[Case | None, list[Problem]]:
    """The case of one row, or None; and the problems of the row."""
    if len(row) != len(header):
        message = f"{table}, line {line}: {len(row)} cells; the header has {len(header)}."
        return None, [_of_table("row_length", message)]
    # Keyword arguments of `Case`: texts, and below the paths of files.
    cells: dict[str, Any] = {name: cell.strip() or None for name, cell in zip(header, row, strict=True)}
    who = (cells["case"] or "", cells["patient"] or "")
    where = f"{table}, line {line} (case {cells['case']})"
    blank = [name for name in REQUIRED if cells[name] is None]
    if blank:
        return None, [Problem(*who, "table", "blank", "error", f"{where}: {blank} must not be blank.")]
    problems = []
    for part in PARTS:
        if cells.get(part) is not None:
            cells[part] = _file_of_cell(table, cells[part])
            if not os.path.isfile(cells[part]):
                what = "is a folder" if os.path.isdir(cells[part]) else "does not exist"
                message = f"{where}: {part} file {cells[part]} {what}."
                problems.append(Problem(*who, part, "missing", "error", message))
    try:
        return Case(cells.pop("case"), **cells), problems
    except CohortError as error:
        return None, [*problems, Problem(*who, "table", "bad_value", "error", f"{table}, line {line}: {error}")]
