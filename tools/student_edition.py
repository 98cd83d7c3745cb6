"""Write the student edition of every lesson: `python tools/student_edition.py`, or `make student`.

A lesson is a notebook script with exercises: a code cell tagged `solution`, and after it the cell that checks it by
`sap.check(...)`. In the student edition solutions are empty; `sap.check` says "Your turn" where nothing has been
answered yet. An edition that a student has worked in is left alone.
"""

import ast
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jupytext
import nbformat
from nbformat import NotebookNode
from notebook_twins import NOTEBOOKS, is_changed, with_ids, write_unless_changed, written

STUDENT = NOTEBOOKS / "student"

HOLDS_SOLUTIONS = re.compile(r"This\s+edition\s+holds\s+the\s+solutions:\s+cover\s+them\s+first\.")
LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^]]*)\]\((?P<target>[^)\s]+)\)")
HOW_TO_GO_ON = """

**This is the student edition:** its exercises are yours to solve. Write the answer, run its cell and then its check, as
often as you like: hints become plainer. An exercise that you leave out stops nothing."""
SET_UP = """\
import os
from pathlib import Path

if Path.cwd().name == "student":  # paths count from the folder above; running this twice does no harm
    os.chdir("..")"""


class Exercise(NamedTuple):
    """A solution, the check behind it, and what the check wants to know.

    Attributes:
        place: Index of the solution's cell; the check is the next cell of code.
        check_place: Index of the check's cell.
        values: Names that the solution assigns and the check reads, in the solution's order.
        functions: Functions that the solution defines and the check calls, in order.
    """

    place: int
    check_place: int
    values: tuple[str, ...]
    functions: tuple[str, ...]


def lessons() -> list[Path]:
    """Scripts of the notebooks that have exercises, in the order of their numbers."""
    return [script for script in sorted(NOTEBOOKS.glob("*.py")) if any(exercises(jupytext.read(script)))]


def exercises(notebook: NotebookNode) -> Iterator[Exercise]:
    """The exercises of a lesson, in order.

    Raises:
        ValueError: A solution without a cell of code behind it that checks it.
    """
    code = [place for place, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    for place, following in zip(code, [*code[1:], None], strict=True):
        if not has_tag(notebook.cells[place], "solution"):
            continue
        if following is None or not notebook.cells[following].source.startswith("sap.check("):
            raise ValueError(f"cell {place} is a solution; the next cell of code must check it by sap.check.")
        solution, check = (ast.parse(notebook.cells[cell].source) for cell in (place, following))
        wanted = names(check, ast.Load) - names(check, ast.Store)
        values = [name for node in solution.body for name in assigned(node) if name in wanted]
        functions = [node.name for node in solution.body if isinstance(node, ast.FunctionDef) and node.name in wanted]
        yield Exercise(place, following, tuple(dict.fromkeys(values)), tuple(functions))


def student_edition(lesson: NotebookNode, name: str, siblings: list[str], repository: str = "") -> NotebookNode:
    """A lesson with its solutions taken out.

    Args:
        lesson: The lesson as its script says it; stays as it is.
        name: Of the lesson, such as "00_quickstart".
        siblings: Names of all lessons: links between them stay within the student edition.
        repository: Address on GitHub that cloud services open the lesson from; "": no links to them.

    Returns:
        A notebook without outputs, made to run in a folder below the lesson's. Ids of cells follow from what they
        say, so that a lesson that changes in one cell changes the edition in one cell.
    """
    solutions = {exercise.place: exercise for exercise in exercises(lesson)}
    cells = []
    for place, cell in enumerate(lesson.cells):
        tags = list(cell.metadata.get("tags", []))
        source = cell.source
        if cell.cell_type == "markdown":
            source = HOLDS_SOLUTIONS.sub(f"Solutions are in [{name}](../{name}.ipynb).", down(source, siblings))
            cells.append(nbformat.v4.new_markdown_cell(source))
        else:
            if place in solutions:
                source = emptied(source, solutions[place])
                tags = ["exercise"]
            cells.append(nbformat.v4.new_code_cell(source, metadata={"tags": tags} if tags else {}))
    cells[0].source += HOW_TO_GO_ON + in_the_cloud(name, repository)
    cells.insert(1, nbformat.v4.new_code_cell(SET_UP))
    return nbformat.v4.new_notebook(cells=with_ids(cells), metadata={"kernelspec": dict(lesson.metadata.kernelspec)})


def in_the_cloud(name: str, repository: str) -> str:
    """Links that open a student's lesson on Binder and Colab.

    Raises:
        ValueError: The repository is not on GitHub.
    """
    if not repository:
        return ""
    if not (found := re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?/?", repository)):
        raise ValueError(f"repository {repository!r}: expected https://github.com/OWNER/REPOSITORY.")
    path = f"notebooks/student/{name}.ipynb"
    binder = f"https://mybinder.org/v2/gh/{found[1]}/HEAD?urlpath=lab/tree/{path}"
    colab = f"https://colab.research.google.com/github/{found[1]}/blob/main/{path}"
    return f"\n\n[Open in Binder]({binder}), [Open in Colab]({colab}) (its first lines stand in `.binder/colab.sh`)."


def emptied(solution: str, exercise: Exercise) -> str:
    """What remains of a solution: names without their values, and functions without their bodies."""
    kept = []
    for node in ast.parse(solution).body:
        if isinstance(node, ast.FunctionDef) and node.name in exercise.functions:
            kept.append("\n\n" + without_body(node, solution.splitlines()) + "\n")
        new = [name for name in assigned(node) if name in exercise.values]
        kept += [line for name in new if (line := f"{name} = ...  # your answer") not in kept]
    return "\n".join(kept).strip() or "# Your answer here."


def without_body(function: ast.FunctionDef, lines: list[str]) -> str:
    """A function's signature and docstring, and a reminder in the place of the rest."""
    first, *rest = function.body
    documented = ast.get_docstring(function) is not None
    start = min(node.lineno for node in (function, *function.decorator_list)) - 1
    end = first.end_lineno if documented else first.lineno - 1
    reminder = f'raise NotImplementedError("Your turn: write {function.name} in the exercise\'s cell, and run it.")'
    return "\n".join([*lines[start:end], " " * first.col_offset + reminder])


def down(markdown: str, siblings: list[str]) -> str:
    """Relative links as they must be one folder deeper."""
    return relinked(markdown, lambda path: path if Path(path).stem in siblings and "/" not in path else f"../{path}")


def relinked(markdown: str, change: Callable[[str], str | None]) -> str:
    """Markdown with other targets of its relative links and images; None keeps a link's text only."""

    def one(match: re.Match) -> str:
        if re.match(r"[a-z]+:|[#/]", match["target"]):
            return match[0]
        path, mark, fragment = match["target"].partition("#")
        target = change(path)
        return match["text"] if target is None else f"{match['image']}[{match['text']}]({target}{mark}{fragment})"

    return LINK.sub(one, markdown)


def has_tag(cell: NotebookNode, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def names(tree: ast.AST, context: type[ast.expr_context]) -> set[str]:
    """Names that are read (ast.Load) or bound (ast.Store) anywhere in a piece of code."""
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, context)}


def assigned(statement: ast.stmt) -> list[str]:
    """Names that a statement of a cell gives a value by `=`, in loops and conditions too, but not inside functions."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return []
    targets = []
    for node in ast.walk(statement):
        if isinstance(node, ast.Assign):
            targets += node.targets
        elif isinstance(node, ast.AnnAssign):
            targets.append(node.target)
    found = [node for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]
    return [node.id for node in found if isinstance(node.ctx, ast.Store)]


def editions() -> dict[Path, str]:
    """Each file of the student edition, and what it must hold."""
    scripts = lessons()
    siblings = [script.stem for script in scripts]
    project = tomllib.loads((NOTEBOOKS.parent / "pyproject.toml").read_text())["project"]
    repository = project.get("urls", {}).get("Repository", "")
    files = {}
    for script in scripts:
        edition = student_edition(jupytext.read(script), script.stem, siblings, repository)
        files[STUDENT / f"{script.stem}.ipynb"] = written(edition)
    return files


if __name__ == "__main__":
    STUDENT.mkdir(exist_ok=True)
    files = editions()
    write_unless_changed(files)
    for path in set(STUDENT.glob("*.ipynb")) - set(files):
        if not is_changed(path):
            path.unlink()  # of a lesson that is no more
