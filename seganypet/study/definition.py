"""What a study is: its columns, its settings, and how it measures a case; `engine.run_study` runs it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class StudyMethod(Protocol):
    """What the engine asks of a method.

    Attributes:
        name: Name in the table.
        weights: Digits that identify its weights; None without weights.
        identity: What tells its rows from those of another method of the same name, in words.

    A method that computes with a network also has `place()`: device, precision and threads in this process.
    """

    @property
    def name(self) -> str: ...

    @property
    def weights(self) -> str | None: ...

    @property
    def identity(self) -> str: ...


@dataclass(frozen=True)
class WithoutMethod:
    """Stands for the method of a study that has none, such as one that quantifies what is drawn."""

    name: str = ""
    weights: str | None = None
    identity: str = ""


# Where a row was measured; precision is that of a network.
PLACE: dict[str, type] = {"device": str, "precision": str, "threads": int, "host": str}

Rows = list[dict[str, Any]]
Measure = Callable[[Any, Sequence[Any], Mapping[str, Any]], Iterable[tuple[str, Rows]]]
Files = Callable[[Any, Any], Mapping[str, Any]]


def _no_files(case: Any, method: Any) -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True, eq=False)
class Study:
    """What is measured on each case.

    Attributes:
        name: Name of the study, as the command calls it.
        columns: Name and type (str, float, int, bool) of each column. Case, patient, model, error and, where there are
            methods, device, precision, threads and host are added if they are missing; the engine fills them in, and
            weights, version, and columns that are named like a setting.
        settings: What the numbers depend on besides cases and methods: names and values that people can read.
        measure: Called with a case, some of the methods, and the settings; yields the name of each method and all its
            rows, as soon as they are complete. A module-level function, or a `partial` of one. What it raises becomes
            a row with the error for each method that has none yet.
        methods: See `methods.resolve_methods`.
        reads: What else the rows of a case and method depend on: names, and paths or values.
        writes: Files that `measure` writes beside the rows, such as a page; a unit is measured again if one of them is
            no longer as it was.
        within_case: Column by which the rows of a case are sorted before the method, in its order of appearance.
    """

    name: str
    columns: Mapping[str, type]
    settings: Mapping[str, Any]
    measure: Measure
    methods: Sequence[StudyMethod] = (WithoutMethod(),)
    reads: Files = _no_files
    writes: Files = _no_files
    within_case: str | None = None

    def __post_init__(self) -> None:
        first, last = {"case": str, "patient": str}, {"error": str}
        if not isinstance(self.methods[0], WithoutMethod):
            first, last = first | {"model": str}, PLACE | last
        first = {name: kind for name, kind in first.items() if name not in self.columns}
        inner = {name: kind for name, kind in self.columns.items() if name not in last}
        object.__setattr__(self, "columns", first | inner | last)
