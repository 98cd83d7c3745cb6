"""The table of an evaluation, on disk from its first rows on.

Rows are appended in one piece as soon as a target is finished. Whatever kills the process, at most the last piece is
cut, which the next run notices and removes. Beside `results.csv` lies `results.csv.targets`, which names the targets of
each finished case, so that the next run need not open its files; it may be deleted.
"""

import csv
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seganypet._files import check_place, lock, replace_atomically
from seganypet.errors import SegAnyPETError

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "case", "patient", "target", "seen", "model", "click", "dsc", "nsd", "nsd_tolerance_mm", "seconds",
    "foreground", "click_i", "click_j", "click_k", "protocol", "seed",
    "prompt", "total_clicks", "per_slice", "slices", "human_seconds", "model_seconds", "error",
    "rounds", "weights", "version",
)  # fmt: skip
WHOLE_CASE = "(whole case)"  # in the place of a target, where a case failed as a whole
SETTINGS = ("protocol", "seed", "rounds", "version")  # of all rows of a table

_FLOATS = ("dsc", "nsd", "nsd_tolerance_mm", "seconds", "human_seconds", "model_seconds")
_INTEGERS = ("click_i", "click_j", "click_k", "total_clicks", "slices", "rounds")
_TRUTHS = ("seen", "foreground", "per_slice")
_TEXTS = ("prompt", "error", "weights", "version")
_OLD_COLUMNS = frozenset(COLUMNS[:16])  # of the first version; what it wrote can be continued


def results_table(rows: Iterable[Mapping[str, Any]]) -> "pd.DataFrame":
    """Rows as a table with `COLUMNS`, each of its type whatever the rows hold."""
    import pandas as pd

    types = dict.fromkeys(_FLOATS, float) | dict.fromkeys(_TEXTS, "string") | {"click": int, "seed": int}
    types |= dict.fromkeys(_INTEGERS, "Int64") | dict.fromkeys(_TRUTHS, "boolean")
    return pd.DataFrame(list(rows), columns=list(COLUMNS)).astype(types)


class ResultsFile:
    """The rows of an evaluation, those of earlier runs first, and the file that they land in.

    Args:
        path: CSV file; None: nothing is written.
        settings: Value of each of `SETTINGS` in this run.
        weights: Name of each model of this run, and the digits that name its weights, or None.
        retry_failed: Forget earlier failures, so that they are tried again.

    Attributes:
        rows: All so far.
        finished: Triples (case, model, target) that need not be computed.

    Raises:
        SegAnyPETError: No place for a file, another kind of table, a table made with other settings or weights, or one
            that another process is writing.
    """

    def __init__(
        self,
        path: str | os.PathLike | None,
        settings: Mapping[str, Any],
        weights: Mapping[str, str | None],
        retry_failed: bool = False,
    ):
        self.path = None if path is None else Path(path)
        self.rows: list[dict[str, Any]] = []
        self._targets: dict[tuple[str, str], list[str]] = {}
        self._handles: list[int] = []
        if self.path is None:
            self.finished: set[tuple[str, str, str]] = set()
            return
        check_place(self.path)
        self._beside = self.path.with_name(f"{self.path.name}.targets")
        self._handles = [os.open(self._beside, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)]
        try:
            lock(self._handles[0], self.path)  # on the file that is never replaced
            if self.path.exists():
                self._read(settings, weights, retry_failed)
            self._open()
        except BaseException:
            self.close()
            raise
        self.finished = {(row["case"], row["model"], row["target"]) for row in self.rows}

    def __enter__(self) -> "ResultsFile":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add all rows of one target, at once."""
        self.rows += rows
        if self.path is not None:
            text = StringIO()
            writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")  # pandas would take longer than a click
            writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
            _write_whole(self._handles[1], text.getvalue())

    def targets_of(self, case: str, asked: Sequence[str] | None) -> list[str] | None:
        """Names of all targets of a case, in order, if they are known; `asked` are the names that were wanted."""
        return self._targets.get((case, json.dumps(asked)))

    def remember_targets(self, case: str, asked: Sequence[str] | None, names: Sequence[str]) -> None:
        """Note the names of all targets of a case, so that its files need not be opened again."""
        if self.targets_of(case, asked) != list(names):
            self._targets[case, json.dumps(asked)] = list(names)
            if self.path is not None:
                line = json.dumps({"case": case, "asked": asked, "targets": list(names)})
                _write_whole(self._handles[0], f"{line}\n")

    def finish(self, rows: Iterable[dict[str, Any]]) -> "pd.DataFrame":
        """Put all rows in their final order; returns the table, and writes it."""
        self.rows = list(rows)
        table = results_table(self.rows)
        if self.path is not None:
            _write_table(self.path, table)
        return table

    def close(self) -> None:
        """Let another process have the file."""
        while self._handles:
            os.close(self._handles.pop())

    def _open(self) -> None:
        if self.rows:
            _write_table(self.path, results_table(self.rows))  # without what is cut or to be tried again
        else:
            self.path.write_text(f"{','.join(COLUMNS)}\n")
        self._handles.append(os.open(self.path, os.O_WRONLY | os.O_APPEND))
        for line in self._beside.read_bytes().splitlines():
            try:
                known = json.loads(line)
                self._targets[known["case"], json.dumps(known["asked"])] = known["targets"]
            except (ValueError, KeyError, TypeError):
                continue  # cut by a kill: that case is opened again

    def _read(self, settings: Mapping[str, Any], weights: Mapping[str, str | None], retry_failed: bool) -> None:
        table = _read_table(self.path)
        groups = table.groupby(["case", "model", "target"])["click"]
        table["rounds"] = table["rounds"].fillna(groups.transform("max"))  # the first version did not say it
        for name in SETTINGS:
            made_with = set(table[name].dropna().tolist()) - {settings[name]}
            if made_with:
                raise SegAnyPETError(
                    f"{self.path} was made with {name} {', '.join(sorted(map(repr, made_with)))}, now asked for is "
                    f"{settings[name]!r}; choose another output, so that the two do not mix."
                )
        for model, digits in table.groupby("model")["weights"].agg(set).items():
            made_with = {None if not isinstance(one, str) else one for one in digits}
            if model in weights and made_with != {weights[model]}:
                raise SegAnyPETError(
                    f"{self.path} holds rows of a model {model!r} with weights {made_with}, while those of today's "
                    f"{model!r} are {weights[model]!r}; choose another output, or give the model another name."
                )
        whole = groups.transform("size") == table["rounds"]
        if retry_failed:
            whole &= table["error"].isna()
        self.rows = table[whole].to_dict("records")


def _read_table(path: Path) -> "pd.DataFrame":
    import pandas as pd

    content = path.read_bytes()
    content = content[: content.rfind(b"\n") + 1]  # a last line without its end was cut
    if not content:
        return results_table([])
    try:
        # Read as text: a case may be named "NA", and a number must be, to the bit, what was written.
        table = pd.read_csv(BytesIO(content), dtype=str, keep_default_na=False, na_values=[""])
        missing = _OLD_COLUMNS - set(table.columns)
        if missing:
            raise ValueError(f"it lacks column {', '.join(sorted(missing))}")
        table = table.reindex(columns=list(COLUMNS))
        for name in COLUMNS:
            if name in _FLOATS or name in _INTEGERS or name in ("click", "seed"):
                table[name] = table[name].astype(float)
            if name in _TRUTHS:
                table[name] = table[name].map({"True": True, "False": False})
        return results_table(table.to_dict("records"))
    except (ValueError, TypeError, KeyError) as error:
        raise SegAnyPETError(f"{path} is no table of evaluate ({error}); choose another output.") from error


def _write_table(path: Path, table: "pd.DataFrame") -> None:
    with replace_atomically(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


def _cell(value: Any) -> Any:
    return "" if value is None or value != value else value  # NaN differs from itself


def _write_whole(handle: int, text: str) -> None:
    """Append a text; one call of the system for all of it unless the disk is full."""
    content = text.encode()
    while content:
        content = content[os.write(handle, content) :]
