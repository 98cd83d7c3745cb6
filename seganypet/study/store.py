"""The table of a study on disk: a CSV that people open, and beside it what each of its rows was measured on.

`results.csv` holds the rows, `results.csv.jsonl` the study's settings in its first line and then one line for each
finished unit, which is one case by one method: what the case was (hashes), and a checksum of each of its rows. Both
only grow while a study runs. The rows of a unit are appended in one piece, its line after them, so a unit without a
line, or without some of its rows, is measured again: whatever kills the process costs that unit, no more. Rows that
somebody changed are never dropped: such a table is refused. The CSV is rewritten, in one atomic step, before a run that
drops rows and after one that added some.
"""

import csv
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seganypet._files import (
    FileHashes,
    check_writable,
    make_folder,
    only_writer,
    reading,
    replace_atomically,
    write_error,
)
from seganypet.errors import SegAnyPETError

if TYPE_CHECKING:
    import pandas as pd

UnitKey = tuple[str, str]  # name of the case, name of the method ("" without methods)

_DTYPES = {str: "string", float: "float64", int: "Int64", bool: "boolean"}
_NOTES = ({"file", "sha256"}, {"case", "model", "dropped"}, {"case", "model", "rows", "inputs", "outputs", "failed"})
_CHECKSUM_DIGITS = 12  # of SHA-256, for each row


class ResultStore:
    """Rows of finished units, and the two files that they are kept in.

    To be entered (`with ResultStore(...) as store`), which reads what is there and keeps other runs from writing.

    Args:
        path: The CSV; None keeps the rows in memory only.
        study: Name of the study, for messages.
        columns: Name and type (str, float, int or bool) of each column, in order; "case" is among them.
        settings: What else the numbers depend on; values that JSON can hold.
        identities: For each method of this run, what tells it from others of the same name, in words.
        within_case: Column by whose order of appearance the rows of a case are sorted; None leaves them by method.

    Attributes:
        hashes: Hashes of files that earlier runs computed, for files that nobody has written to since.

    Raises:
        SegAnyPETError: On entering, if the file cannot be written, is another table, was made with other settings or
            methods, was edited, or is being written by another run.
    """

    def __init__(
        self,
        path: Path | None,
        study: str,
        columns: Mapping[str, type],
        settings: Mapping[str, Any],
        identities: Mapping[str, str],
        within_case: str | None = None,
    ):
        self.path, self.study, self.columns, self.identities = path, study, dict(columns), dict(identities)
        self.settings = json.loads(json.dumps(dict(settings)))  # as they come back from the file
        self.hashes = FileHashes()
        self._sort_index = None if within_case is None else list(columns).index(within_case)
        self._lines: dict[UnitKey, list[tuple[str, str]]] = {}  # CSV line, and its cell in the column `within_case`
        self._records: dict[UnitKey, dict[str, Any]] = {}
        self._must_rewrite = False
        self._open_files = ExitStack()

    def __enter__(self) -> "ResultStore":
        if self.path is None:
            return self
        make_folder(self.path.parent)
        check_writable(self.path)
        self._beside = self.path.with_name(f"{self.path.name}.jsonl")
        with ExitStack() as stack:
            stack.enter_context(only_writer(self.path))
            if self.path.exists():
                self._read(self.path)
            else:
                header = {"study": self.study, "settings": self.settings}
                with replace_atomically(self._beside) as temporary:
                    temporary.write_text(json.dumps(header) + "\n", encoding="utf-8")
                self._must_rewrite = True
            self._open_files = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._open_files.close()

    def record(self, key: UnitKey) -> Mapping[str, Any] | None:
        """What was recorded of a finished unit: `inputs`, `outputs`, whether it `failed`; None if it is unfinished."""
        return self._records.get(key)

    def forget(self, keys: Iterable[UnitKey]) -> None:
        """Drop units that will be measured again; to be called before `append`."""
        dropped = [key for key in keys if self._records.pop(key, None) is not None]
        for key in dropped:
            self._must_rewrite |= bool(self._lines.pop(key))
        if self.path is not None:  # first of all, or a kill would leave new rows beside the old record
            self._note(*({"case": case, "model": model, "dropped": True} for case, model in dropped))

    def append(self, key: UnitKey, rows: Sequence[Mapping[str, Any]], **record: Any) -> None:
        """Add all rows of one unit, and note that it is finished.

        Args:
            key: The unit.
            rows: Its rows, without columns that are missing in all of them.
            record: What `record` returns of it, values that JSON can hold.

        Raises:
            SegAnyPETError: A row with a column that the study does not declare.
        """
        lines = self._format(rows)
        record |= {"rows": [_checksum(line) for line, _ in lines], "method": self.identities.get(key[1])}
        record["failed"] = any(row.get("error") for row in rows)
        if self.path is not None:
            if self._must_rewrite:
                self._write_table(self.path, [line for unit in self._lines.values() for line in unit])
            _append(self.path, "".join(line for line, _ in lines))
            self._note({"case": key[0], "model": key[1]} | record)
        self._lines[key], self._records[key] = lines, record

    def finish(self, keys: Sequence[UnitKey]) -> "pd.DataFrame":
        """Put all rows in their final order, in the file too.

        Args:
            keys: The units that were asked for, in the order of cases and methods.

        Returns:
            Their rows: by case, within it by the column `within_case`, by method. What else the file holds stays at
            its end.
        """
        by_case: dict[str, list[tuple[str, str]]] = {}
        for key in keys:
            by_case.setdefault(key[0], []).extend(self._lines.get(key, ()))
        asked = []
        for lines in by_case.values():
            ranks = {cell: rank for rank, cell in enumerate(dict.fromkeys(cell for _, cell in lines))}
            asked += sorted(lines, key=lambda line: ranks[line[1]])
        if self.path is not None:
            known = {*keys}
            others = [line for key, unit in self._lines.items() if key not in known for line in unit]
            self._write_table(self.path, [*asked, *others])
            self._note()
        return self._table("".join(line for line, _ in asked))

    def _note(self, *notes: Mapping[str, Any]) -> None:
        """Append lines to the file beside the table, and what was hashed meanwhile."""
        new_hashes = [{"file": list(signature), "sha256": digits} for signature, digits in self.hashes.take_new()]
        _append(self._beside, "".join(f"{json.dumps(note)}\n" for note in (*new_hashes, *notes)))

    def _format(self, rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
        lines = []
        for row in rows:
            if unknown := row.keys() - self.columns.keys():
                raise SegAnyPETError(f"study {self.study}: {sorted(unknown)} in its rows are not among its columns.")
            cells = [_cell(row.get(name), kind) for name, kind in self.columns.items()]
            text = StringIO()
            csv.writer(text, lineterminator="\n").writerow(cells)
            lines.append((text.getvalue(), self._sort_cell(cells)))
        return lines

    def _sort_cell(self, cells: Sequence[str]) -> str:
        return "" if self._sort_index is None else cells[self._sort_index]

    def _table(self, lines: str) -> "pd.DataFrame":
        import pandas as pd

        # Only an empty cell is missing: a case may be called "NA". Floats are parsed from text, which is exact.
        types = {name: _DTYPES[kind] for name, kind in self.columns.items()}
        table = pd.read_csv(
            StringIO(lines), names=list(types), keep_default_na=False, na_values=[""],
            dtype={name: str if dtype == "float64" else dtype for name, dtype in types.items()},
        )  # fmt: skip
        return table.astype(types)

    def _write_table(self, path: Path, lines: Iterable[tuple[str, str]]) -> None:
        text = StringIO()
        csv.writer(text, lineterminator="\n").writerow(self.columns)
        content = (text.getvalue() + "".join(line for line, _ in lines)).encode()
        if not path.exists() or path.read_bytes() != content:
            with replace_atomically(path) as temporary:
                temporary.write_bytes(content)
        self._must_rewrite = False

    def _read(self, path: Path) -> None:
        try:
            with reading(path):
                self._read_both(path)
        except SegAnyPETError:
            raise
        except (TypeError, ValueError, LookupError, AttributeError) as error:  # of lines that somebody made up
            raise SegAnyPETError(
                f"{self._beside}: not as it was written ({error!r}). Restore a copy, or choose another output."
            ) from error

    def _read_both(self, path: Path) -> None:
        notes = self._read_notes()
        header = notes.pop(0)
        if header["study"] != self.study:
            raise SegAnyPETError(
                f"{self.path} is a table of the study {header['study']}, not of {self.study}; choose another output."
            )
        self._check_settings(header["settings"])
        for note in notes:
            if "file" in note:
                self.hashes.remember(note["file"], note["sha256"])
            else:  # the last one of a unit counts
                key = note.pop("case"), note.pop("model")
                self._records.pop(key, None)
                if not note.get("dropped"):
                    self._records[key] = note
        self._check_methods()
        rows = self._read_rows(path)
        for key, record in list(self._records.items()):
            found = {_checksum(line): (line, cell) for line, cell in rows.pop(key, [])}
            if edited := found.keys() - set(record["rows"]):
                raise SegAnyPETError(
                    f"{self.path}: {len(edited)} rows of case {key[0]!r}{f', model {key[1]!r},' if key[1] else ''} are "
                    "not as they were written. Undo the change, delete these rows (they are then measured again), or "
                    "choose another output."
                )
            if len(found) == len(set(record["rows"])):
                self._lines[key] = [found[digits] for digits in record["rows"]]  # whoever sorted the file
            else:
                del self._records[key]
                self._must_rewrite |= bool(found)
        self._must_rewrite |= bool(rows)

    def _read_notes(self) -> list[dict[str, Any]]:
        """The lines of the file beside the table; a last one that was cut by a kill is removed."""
        try:
            content = self._beside.read_bytes() if self._beside.exists() else b""
            whole = content[: content.rfind(b"\n") + 1]
            notes = [json.loads(line) for line in whole.splitlines()]
            if not notes or {"study", "settings"} - notes[0].keys() or not isinstance(notes[0]["settings"], dict):
                raise ValueError("no settings in it")
            for note in notes[1:]:
                if not any(fields <= note.keys() for fields in _NOTES):
                    raise ValueError("not its lines")
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise SegAnyPETError(
                f"{self.path} lacks its companion {self._beside.name}, which says what was measured ({error}). "
                "It is another table, or one of an earlier version of seganypet, which missed corrected labels. "
                "Choose another output; pandas still reads the old one."
            ) from None
        if len(whole) < len(content):
            os.truncate(self._beside, len(whole))
        return notes

    def _read_rows(self, path: Path) -> dict[UnitKey, list[tuple[str, str]]]:
        """CSV lines of each unit; a last line without its end was cut by a kill. Spreadsheets end lines with CRLF."""
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        self._must_rewrite |= whole != content or not whole
        rows: dict[UnitKey, list[tuple[str, str]]] = {}
        if not whole:
            return rows
        text = whole.decode("utf-8-sig", errors="replace").replace("\r\n", "\n")
        lines = [f"{line}\n" for line in text.split("\n")[:-1]]
        reader = csv.reader(lines)
        try:
            header = next(reader, [])
            if header != list(self.columns):
                differ = sorted({*header} ^ self.columns.keys()) or "their order"
                raise SegAnyPETError(
                    f"{self.path} has other columns than a table of {self.study} ({differ} differ); choose another "
                    "output."
                )
            case, model = header.index("case"), header.index("model") if "model" in header else None
            start = reader.line_num
            for cells in reader:
                line, start = "".join(lines[start : reader.line_num]), reader.line_num  # a cell may hold a line break
                if len(cells) == len(header):
                    key = cells[case], "" if model is None else cells[model]
                    rows.setdefault(key, []).append((line, self._sort_cell(cells)))
                else:
                    self._must_rewrite = True
        except csv.Error as error:
            raise SegAnyPETError(f"{self.path} is not a readable CSV ({error}); choose another output.") from error
        return rows

    def _check_settings(self, made_with: Mapping[str, Any]) -> None:
        names = [name for name in self.settings | made_with if made_with.get(name) != self.settings.get(name)]
        if names:
            before, now = (
                ", ".join(f"{name} {_words(values.get(name))}" for name in names)
                for values in (made_with, self.settings)
            )
            raise SegAnyPETError(
                f"{self.path} was made with {before}; now asked for is {now}. Choose another output, so that the two "
                "do not mix."
            )

    def _check_methods(self) -> None:
        for (_, model), record in self._records.items():
            if model in self.identities and record.get("method") != self.identities[model]:
                raise SegAnyPETError(
                    f"{self.path} holds rows of a model {model!r} with {record.get('method')}, while today's {model!r} "
                    f"is one with {self.identities[model]}; choose another output, or give the model another name."
                )


def _cell(value: Any, kind: type) -> str:
    if value is None or value != value:  # NaN differs from itself
        return ""
    if kind is float:
        return repr(float(value))
    # A lone carriage return would end the row, and a path may hold bytes that are no text.
    return str(kind(value)).replace("\r", " ").encode("utf-8", "backslashreplace").decode()


def _words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_words, value)) or "none"
    return "none" if value is None else f"{value:.15g}" if isinstance(value, float) else str(value)


def _checksum(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()[:_CHECKSUM_DIGITS]


def _append(path: Path, text: str) -> None:
    """Append a text, by one call of the system unless the disk is full."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND)
        try:
            content = text.encode()
            while content:
                content = content[os.write(handle, content) :]
        finally:
            os.close(handle)
    except OSError as error:
        raise write_error(path, error) from error
