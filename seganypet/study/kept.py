"""Tables of finished cases on disk, so that a killed run over a cohort goes on where it stopped."""

import json
import os
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seganypet._files import only_writer, replace_atomically
from seganypet.errors import SegAnyPETError
from seganypet.pet.volume import Volume

if TYPE_CHECKING:
    import pandas


class Kept:
    """The tables of finished cases, in a CSV, and beside it in JSON which files they were measured on.

    To be entered (`with Kept(...) as kept`), which reads what is there and keeps other runs from writing.

    Args:
        path: Of the CSV; None: nothing is kept.
        settings: What else the numbers depend on.
        columns: Of the tables; "case" and "patient" are among them.
        words: Those columns that hold text; the others hold numbers, which may be missing.
        whole: Those columns that hold whole numbers, none missing.

    Raises:
        SegAnyPETError: On entering: no such folder, another table, other settings, or another run is writing.
    """

    def __init__(
        self, path: Path | None, settings: str, columns: Sequence[str], words: Collection[str],
        whole: Collection[str] = (),
    ):  # fmt: skip
        self.path, self.settings = path, settings
        self.tables: dict[str, pandas.DataFrame] = {}
        self.files: dict[str, list] = {}
        self.pages: dict[str, list] = {}
        self._columns = (columns, words, whole)
        self._alone = ExitStack()

    def __enter__(self) -> "Kept":
        if self.path is None:
            return self
        self.notes = self.path.with_name(f"{self.path.name}.json")
        with ExitStack() as stack:
            stack.enter_context(only_writer(self.path))
            if self.path.exists():
                table, notes = _read(self.path, self.notes, *self._columns)
                if notes["settings"] != self.settings:
                    raise SegAnyPETError(
                        f"{self.path} was made with {notes['settings']}, not {self.settings}; give another name."
                    )
                self.tables = {str(case): one.reset_index(drop=True) for case, one in table.groupby("case", sort=False)}
                self.files, self.pages = notes["files"], notes.get("pages", {})
            self._alone = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._alone.close()

    def table(self, case: Any, *more: Path | None) -> "pandas.DataFrame | None":
        """The case's rows if they were measured on the very files that it has now, and on `more` files or folders."""
        return self.tables.get(case.name) if self.files.get(case.name) == _identity(case, more) else None

    def has_page(self, case: Any, page: Path) -> bool:
        """Whether a page about the case's rows is still as it was when they were added."""
        return case.name in self.pages and self.pages[case.name] == _files(page)

    def add(self, case: Any, table: "pandas.DataFrame", *more: Path | None, page: Path | None = None) -> None:
        """Keep the rows of a case. A death between the two files costs this case's measurement, no more.

        Args:
            case: Of a cohort.
            table: Its rows.
            more: Files or folders that they depend on besides the case's own.
            page: A file that was written about them.
        """
        import pandas

        if self.path is None:
            return
        self.files.pop(case.name, None)
        self.pages.pop(case.name, None)
        self._write_notes()
        self.tables[case.name] = table
        with replace_atomically(self.path) as temporary:
            pandas.concat(self.tables.values(), ignore_index=True).to_csv(temporary, index=False)
        self.files[case.name] = _identity(case, more)
        if _files(page):
            self.pages[case.name] = _files(page)
        self._write_notes()

    def _write_notes(self) -> None:
        with replace_atomically(self.notes) as temporary:
            notes = {"settings": self.settings, "files": self.files, "pages": self.pages}
            temporary.write_text(json.dumps(notes, indent=1))


def _identity(case: Any, more: Sequence[Path | None]) -> list:
    """What tells the scan and labels of a case from others; of files where they lie, how large, how old."""
    facts = [getattr(case, name, None) for name in ("patient", "pet_unit", "organ_convention")]
    there = [*(getattr(case, name, None) for name in ("pet", "organs", "lesions")), *more]
    return facts + [one.fingerprint() if isinstance(one, Volume) else _files(one) for one in there]


def _files(path: Any) -> list | None:
    """Name, size and age of a file, or of each file of a folder; None of anything else."""
    if not isinstance(path, str | os.PathLike):
        return None
    if os.path.isdir(path):
        return [_files(one) for one in sorted(Path(path).iterdir()) if one.is_file()]
    return [os.path.abspath(path), os.path.getsize(path), os.path.getmtime(path)] if os.path.isfile(path) else None


def _read(
    path: Path, notes: Path, columns: Sequence[str], words: Collection[str], whole: Collection[str]
) -> tuple["pandas.DataFrame", dict[str, Any]]:
    import pandas

    numbers = [name for name in columns if name not in words]
    try:
        # Only numbers may be missing: a patient may be called NA.
        table = pandas.read_csv(
            path, dtype=dict.fromkeys(words, str) | dict.fromkeys(numbers, float), keep_default_na=False,
            na_values=dict.fromkeys(numbers, [""]),
        )  # fmt: skip
        if list(table.columns) != list(columns):
            raise ValueError(f"columns {list(table.columns)}")
        return table.astype(dict.fromkeys(whole, int)), json.loads(notes.read_text())
    except (OSError, ValueError, pandas.errors.ParserError) as error:
        raise SegAnyPETError(
            f"{path} with {notes.name} is no such table of finished cases ({error}); give another name."
        ) from error
