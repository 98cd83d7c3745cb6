"""A table of bodies that lend their organs' shapes to phantoms, see `phantom.donors`. One row each, two columns:

    labels         NIfTI label map, upright; its path is relative to the table's folder, or absolute
    organ_labels   numbers of its organs, such as "liver=5; spleen=1; kidney_left=3; kidney_right=2"

Anybody's label maps will do, such as those that TotalSegmentator (`--ml`) draws on CTs. No body comes with the package.
"""

import csv
import io
import os
from functools import lru_cache
from pathlib import Path

from seganypet._files import as_path, content_sha256, read_text
from seganypet.cohort.labels import LabelNumbers, label_numbers
from seganypet.errors import CohortError
from seganypet.organs import ORGANS
from seganypet.pet.volume import open_image
from seganypet.phantom.donors import Donor

COLUMNS = ("labels", "organ_labels")


def read_donors(table: str | os.PathLike) -> tuple[Donor, ...]:
    """The donors of a table, in its order; unchanged files are read once.

    Raises:
        CohortError: No such table, other columns, a row that cannot be understood, a file that is missing, no row.
        SegAnyPETError: A label map that cannot be read, is tilted, or holds no whole organ that can be lent.
    """
    return _read(as_path(table), tuple(donors_content(table)))


def donors_content(table: str | os.PathLike) -> list[str]:
    """What phantoms with these donors depend on: of each its bytes (SHA-256) and the meaning of its labels."""
    return [f"{content_sha256(labels)} {sorted(numbers.items())}" for labels, numbers in _rows(as_path(table))]


@lru_cache(maxsize=4)
def _read(table: Path, content: tuple[str, ...]) -> tuple[Donor, ...]:
    return tuple(_donor(labels, numbers) for labels, numbers in _rows(table))


def _donor(labels: Path, numbers: LabelNumbers) -> Donor:
    image = open_image(labels)
    image.check_geometry()
    return Donor.from_labels(image.labels(), image.affine, numbers, labels.name)


def _rows(table: Path) -> list[tuple[Path, LabelNumbers]]:
    """Label map of each donor, and the numbers of its organs."""
    reader = csv.DictReader(io.StringIO(read_text(table)))
    columns = tuple(reader.fieldnames or ())
    if set(columns) != set(COLUMNS):
        raise CohortError(f"{table}: columns {', '.join(columns) or 'none'}; expected {' and '.join(COLUMNS)}.")
    rows = []
    for line, row in enumerate(reader, start=2):
        if None in row:
            raise CohortError(f"{table}, line {line}: more cells than columns; separate organs by semicolons.")
        name, stated = ((row[column] or "").strip() for column in COLUMNS)
        path = table.parent / name
        if not name or not path.is_file():
            raise CohortError(f"{table}, line {line}: labels {name!r}, which is no file; expected a label map's path.")
        try:
            numbers = label_numbers(stated)
        except CohortError as error:
            raise CohortError(f"{table}, line {line}: {error}") from None
        if unknown := sorted(set(numbers) - set(ORGANS)):
            raise CohortError(f"{table}, line {line}: {unknown} are no organs; known are {', '.join(ORGANS)}.")
        rows.append((path, numbers))
    if not rows:
        raise CohortError(f"{table}: no donor; expected a row for each label map.")
    return rows
