"""Tables as the article's supplement prints them, ours beside the published, as Markdown, LaTeX or CSV."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seganypet._files import as_path, reading, replace_atomically
from seganypet.errors import SegAnyPETError
from seganypet.metrics import bootstrap_interval
from seganypet.organs import ORGANS, SEEN_ORGANS
from seganypet.study.lesion_clicks import ALL
from seganypet.study.protocol import prompt_name
from seganypet.study.statistics import (
    all_alike,
    by_patient,
    check_columns,
    each_once,
    holm,
    paired_test,
    pairs_by_patient,
)
from seganypet.study.supplement import published

if TYPE_CHECKING:
    import pandas as pd

CLICKS = (1, 3, 5)  # the rounds that the supplement prints
FORMS = ("markdown", "latex", "csv")
# Whose published row stands beside which of our networks.
PUBLISHED = {"sam-vit-b": "SAM", "medsam-vit-b": "MedSAM", "sam-med3d": "SAM-Med3D", "seganypet-v1": "SegAnyPET",
             "sam-med3d-turbo": "SAM-Med3D-turbo"}  # fmt: skip
LEVEL = 0.05
LATEX = {">=": r"$\geq$", "<": r"$<$", ">": r"$>$", "\\": r"\textbackslash{}", "~": r"\textasciitilde{}",
         "^": r"\textasciicircum{}"} | {plain: "\\" + plain for plain in "&%_#${}"}  # fmt: skip
TITLES = {
    2: "DSC (%) on organs, means over patients",
    3: "DSC (%) on CT and PET, means over patients and seen organs",
    4: "DSC (%) by training strategy, means over patients",
    5: "DSC (%) on all tumours of a scan, means over patients",
}


@dataclass(frozen=True)
class Cell:
    """One number of a table.

    Attributes:
        row, column: Where it stands; parts of a heading.
        percent: The mean; low, high: its 95 % interval, NaN of published numbers.
        patients: How many it is a mean over; undefined: how many targets of cases had no defined value. None of
            published numbers.
        marked: Whether it differs from the reference model's, by a test that heeds all tests of its model.
        best: Whether it is the highest of ours in its row, for its number of clicks.
    """

    row: tuple[str, ...]
    column: tuple[str, ...]
    percent: float
    low: float = float("nan")
    high: float = float("nan")
    patients: int | None = None
    undefined: int | None = None
    marked: bool = False
    best: bool = False


@dataclass(frozen=True)
class PaperTable:
    """A table of the supplement with our numbers; it shows itself in a notebook.

    Attributes:
        title: What it shows.
        cells: Its numbers, row by row.
        notes: What a reader must know, in sentences.
    """

    title: str
    cells: tuple[Cell, ...]
    notes: tuple[str, ...]

    def to_frame(self) -> "pd.DataFrame":
        """A row for each number: row, column, percent, low, high, patients, undefined, marked."""
        import pandas as pd

        rows = [
            {"row": ", ".join(cell.row), "column": ", ".join(cell.column)}
            | {name: getattr(cell, name) for name in ("percent", "low", "high", "patients", "undefined", "marked")}
            for cell in self.cells
        ]
        return pd.DataFrame(rows)

    def to_markdown(self) -> str:
        """As Markdown; the best of each row is bold, a difference from the reference has a star."""
        head, lines = self._grid(lambda text: f"**{text}**", "*", lambda text: text.replace("|", r"\|"))
        body = [" | ".join(line) for line in [head, ["---"] * len(head), *lines]]
        notes = "".join(f"\n{note}" for note in self.notes)
        return f"{self.title}\n\n" + "".join(f"| {line} |\n" for line in body) + notes

    def to_latex(self) -> str:
        """As a table of LaTeX with booktabs."""
        head, lines = self._grid(lambda text: rf"\textbf{{{text}}}", r"$^{*}$", _escaped)
        body = "\n".join(" & ".join(line) + r" \\" for line in lines)
        caption = _escaped(" ".join([self.title + ".", *self.notes]))
        return (
            "\\begin{table}\n\\centering\n"
            f"\\caption{{{caption}}}\n\\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}\n\\toprule\n"
            f"{' & '.join(head)} \\\\\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n\\end{{table}}\n"
        )

    def to_csv(self) -> str:
        """As `to_frame`, in CSV."""
        return self.to_frame().to_csv(index=False)

    def _repr_markdown_(self) -> str:
        return self.to_markdown()

    def __str__(self) -> str:
        return self.to_markdown()

    def _grid(
        self, bold: Callable[[str], str], star: str, plain: Callable[[str], str]
    ) -> tuple[list[str], list[list[str]]]:
        """Headings, and the lines below them."""
        columns = list(dict.fromkeys(cell.column for cell in self.cells))
        rows: dict[tuple[str, ...], dict[tuple[str, ...], str]] = {}
        for cell in self.cells:
            text = f"{cell.percent:.2f}" if cell.percent == cell.percent else "-"
            text = bold(text) if cell.best else text
            text += star if cell.marked else ""
            text += f" [{cell.low:.1f}, {cell.high:.1f}]" if cell.low == cell.low else ""
            rows.setdefault(cell.row, {})[cell.column] = text
        head = ["", *(plain(", ".join(column)) for column in columns)]
        lines = [[plain(", ".join(row)), *(found.get(column, "") for column in columns)] for row, found in rows.items()]
        return head, lines


@dataclass(frozen=True)
class _Sample:
    """The rows behind one cell."""

    row: tuple[str, ...]
    column: tuple[str, ...]
    model: str
    click: int
    place: str  # models are compared where place and click are equal
    rows: "pd.DataFrame"
    values: "pd.Series"  # by patient


def table(
    results: "pd.DataFrame", like: int = 2, *, against: str | None = None, names: Mapping[str, str] | None = None,
    measure: str = "dsc", mixed_precision: bool = False, seed: int = 0,
) -> PaperTable:  # fmt: skip
    """Print results as the supplement of the SegAnyPET article does, beside its own numbers.

    Args:
        results: Table of `evaluate`, of `analyse_tumours` for table 5; several of them below each other. For table 4,
            whose models differ by strategy, `names` says which is which. A row that stands in several of them counts
            once.
        like: Table of the supplement: 2, organs; 3, CT against PET; 4, training strategies; 5, tumours.
        against: Model that the others are compared with, patient by patient: a star says that Wilcoxon's p, by Holm for
            all tests of a model, is below 0.05.
        names: Printed name of a model, where it differs from its own; one of the supplement's ("SegAnyPET", in table 4
            "CPCL") puts the published numbers beside it.
        measure: Fraction to print, "dsc" or "nsd"; published numbers are DSC.
        mixed_precision: Whether rows of one network may have been computed in several precisions.
        seed: Seed of the bootstrap.

    Returns:
        A table that prints itself as Markdown, with `to_latex()`, `to_csv()` and `to_frame()`.

    Raises:
        SegAnyPETError: Another number, a model that is not in the results, results of another study, or rows that do
            not belong into one table: of one model with other weights, protocols or versions, or of a case twice with
            other numbers.
    """
    if like not in TITLES:
        raise SegAnyPETError(f"like={like!r}; expected one of {', '.join(map(str, TITLES))}.")
    keys = ["case", "model", "click", *(["prompting", "lesion"] if like == 5 else ["target"])]
    needed = [*keys, "patient", measure]
    check_columns(results, needed, "analyse_tumours (seganypet lesions)" if like == 5 else "evaluate")
    present = list(dict.fromkeys(results["model"].dropna()))
    if against is not None and against not in present:
        raise SegAnyPETError(f"against={against!r} is not among the models {', '.join(present)}.")
    if unknown := {*(names or {})} - {*present, *(model.removesuffix(" on CT") for model in present)}:
        raise SegAnyPETError(f"names: {', '.join(sorted(unknown))} not among the models {', '.join(present)}.")
    failed = results["error"].notna() if "error" in results else results["model"].isna()
    naming = PUBLISHED | dict(names or {})
    rows = each_once(results[~failed], keys, measure, all_alike(mixed_precision))
    samples = list(_SAMPLES[like](rows, naming, measure))
    if not samples:
        raise SegAnyPETError(f"table {like}: no result of the rounds {CLICKS} is left to print.")
    stars = _different(samples, against, measure, seed)
    best = _best(samples)
    cells = []
    for number, sample in enumerate(samples):
        interval = bootstrap_interval(100 * sample.values, sample.values.index, seed)
        cells.append(
            Cell(sample.row, sample.column, *interval, len(sample.values), int(sample.rows[measure].isna().sum()),
                 number in stars, number in best)
        )  # fmt: skip
    cells += _published(like, samples, naming) if measure == "dsc" else []
    without = (sample.rows.loc[sample.rows[measure].isna(), ["case", keys[-1]]] for sample in samples)
    undefined = {key for found in without for key in found.itertuples(index=False)}
    notes = _notes(cells, against, len(undefined), int(failed.sum()))
    return PaperTable(TITLES[like].replace("DSC", measure.upper()), tuple(cells), notes)


def read_results(path: str | os.PathLike) -> "pd.DataFrame":
    """The table of a study from its file; SegAnyPETError if it cannot be read."""
    import pandas as pd

    texts = dict.fromkeys(("case", "patient", "model", "error"), "string")
    try:
        with reading(path):
            return pd.read_csv(as_path(path), keep_default_na=False, na_values=[""], dtype=texts)
    except SegAnyPETError:
        raise
    except ValueError as error:
        raise SegAnyPETError(f"{path}: cannot be read as the table of a study ({error}).") from error


def write_table(path: str | os.PathLike, text: str) -> None:
    """Write a printed table, whole or not at all."""
    with replace_atomically(path) as temporary:
        Path(temporary).write_text(text, encoding="utf-8")


# ---- what the cells of each table are made of


def _of_organs(results: "pd.DataFrame", naming: Mapping[str, str], measure: str) -> Iterator[_Sample]:
    groups: list[tuple[str, Sequence[str]]] = [(_printed(organ), [organ]) for organ in ORGANS]
    groups += [("Mean of seen organs", SEEN_ORGANS), ("Mean of unseen organs", ORGANS[len(SEEN_ORGANS) :])]
    for title, organs in groups:
        rows = results[results["target"].isin(organs)]
        for model, click, prompt, at in _rounds(rows):
            yield _sample((title,), (naming.get(model, model), prompt), model, click, at, measure, title)


def _of_modalities(results: "pd.DataFrame", naming: Mapping[str, str], measure: str) -> Iterator[_Sample]:
    rows = results[results["target"].isin(SEEN_ORGANS)]
    for model, click, prompt, at in _rounds(rows):
        modality = at["modality"].iloc[0] if "modality" in at else "PET"
        plain = model.removesuffix(" on CT")
        yield _sample((naming.get(plain, plain), modality), (prompt,), model, click, at, measure)


def _of_strategies(results: "pd.DataFrame", naming: Mapping[str, str], measure: str) -> Iterator[_Sample]:
    for group, organs in (("seen", SEEN_ORGANS), ("unseen", ORGANS[len(SEEN_ORGANS) :])):
        for model, click, prompt, at in _rounds(results[results["target"].isin(organs)]):
            yield _sample((naming.get(model, model),), (group, prompt), model, click, at, measure, group)


def _of_tumours(results: "pd.DataFrame", naming: Mapping[str, str], measure: str) -> Iterator[_Sample]:
    whole = results[(results["lesion"] == ALL) & (results["lesions"] > 0)]
    for prompting, rows in whole.groupby("prompting", sort=False):
        rows = rows.assign(prompt=[prompt_name(int(click), prompting == "per slice") for click in rows["click"]])
        for model, click, prompt, at in _rounds(rows):
            prompt = "auto" if click == 0 else prompt
            yield _sample((naming.get(model, model), str(prompting)), (prompt,), model, click, at, measure)


_SAMPLES: Mapping[int, Any] = {2: _of_organs, 3: _of_modalities, 4: _of_strategies, 5: _of_tumours}


def _rounds(rows: "pd.DataFrame") -> Iterator[tuple[str, int, str, "pd.DataFrame"]]:
    """Rows of each model and printed round."""
    for (model, click), at in rows.groupby(["model", "click"], sort=False):
        if int(click) in (0, *CLICKS):
            yield str(model), int(click), str(at["prompt"].iloc[0]), at


def _sample(
    row: tuple[str, ...], column: tuple[str, ...], model: str, click: int, at: "pd.DataFrame", measure: str,
    place: str = "",
) -> _Sample:  # fmt: skip
    return _Sample(row, column, model, click, place, at, by_patient(at, measure))


def _different(samples: list[_Sample], against: str | None, measure: str, seed: int) -> set[int]:
    """Numbers of the samples that differ from the reference in the same row (or table) and round."""
    if against is None:
        return set()
    reference: dict[tuple[str, int], _Sample] = {}
    for one in samples:
        if one.model == against:
            reference.setdefault((one.place, one.click), one)
    marked: set[int] = set()
    for model in {one.model for one in samples} - {against}:
        own = [(n, reference.get((one.place, one.click))) for n, one in enumerate(samples) if one.model == model]
        pairs = [(n, other) for n, other in own if other is not None]
        p = [paired_test(*pairs_by_patient(samples[n].rows, other.rows, measure), seed).p for n, other in pairs]
        marked |= {n for (n, _), adjusted in zip(pairs, holm(p), strict=True) if adjusted < LEVEL}
    return marked


def _best(samples: list[_Sample]) -> set[int]:
    """Numbers of the samples with the highest mean, as it is printed, of their place and round; none of one model."""
    if len({one.model for one in samples}) < 2:
        return set()
    printed = [round(100 * one.values.mean(), 2) for one in samples]
    highest: dict[tuple[str, int], float] = {}
    for one, percent in zip(samples, printed, strict=True):
        if percent == percent:
            highest[one.place, one.click] = max(percent, highest.get((one.place, one.click), percent))
    return {n for n, one in enumerate(samples) if printed[n] == highest.get((one.place, one.click))}


def _published(like: int, samples: list[_Sample], naming: Mapping[str, str]) -> Iterator[Cell]:
    """The supplement's numbers for the models that are printed under its names."""
    theirs = published(like)
    printed = {naming.get(one.model.removesuffix(" on CT"), one.model) for one in samples}
    printed |= {strategy.lower() for strategy in printed}
    key = "strategy" if like == 4 else "model"
    for one in theirs[theirs[key].isin(printed) | theirs[key].str.lower().isin(printed)].itertuples():
        name, percent = getattr(one, key), round(100 * one.dsc, 2)
        if like == 2:
            yield Cell((_printed(one.target),), (f"{name}, published", one.prompt), percent)
        elif like == 4:
            yield Cell((f"{name}, published",), ("seen" if one.seen else "unseen", one.prompt), percent)
        else:
            row = f"{name}, published"
            yield Cell((row, one.modality) if like == 3 else (row,), (one.prompt,), percent)


def _notes(cells: list[Cell], against: str | None, undefined: int, failed: int) -> tuple[str, ...]:
    counts = [cell.patients for cell in cells if cell.patients is not None]
    few, many = min(counts), max(counts)
    notes = [f"N = {many} patients." if few == many else f"N = {few} to {many} patients, by cell."]
    notes.append("95 % bootstrap intervals over patients in brackets.")
    if undefined:
        notes.append(f"{undefined} targets of cases are undefined (not in the scan) and left out.")
    if failed:
        notes.append(f"{failed} rows of failed cases are left out.")
    if against is not None:
        notes.append(f"*: differs from {against} (Wilcoxon's signed-rank test over patients, Holm, p < {LEVEL}).")
    if any("published" in part for cell in cells for part in (*cell.row, *cell.column)):
        notes.append("Published: Zhang et al., ICCV 2025, supplement.")
    return tuple(notes)


def _printed(organ: str) -> str:
    return organ.replace("_", " ").capitalize()


def _escaped(text: str) -> str:
    return re.sub("|".join(map(re.escape, LATEX)), lambda found: LATEX[found[0]], text)
