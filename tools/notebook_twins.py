"""Write each notebook from its script, and leave alone what a person changed: `make notebooks`.

A notebook that these tools wrote holds the digest of its cells in its metadata, which JupyterLab keeps when it saves.
One whose cells still have that digest, and no outputs, is written anew; any other is somebody's work.
"""

import hashlib
from collections import Counter
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
MARK = "seganypet"  # key of the digest in a notebook's metadata


def with_ids(cells: list[NotebookNode]) -> list[NotebookNode]:
    """Cells whose ids follow from what they say, so that a change of one cell changes one id."""
    met = Counter()
    for cell in cells:
        digest = _digest(f"{cell.cell_type} {cell.source}")[:8]
        met[digest] += 1
        cell.id = digest if met[digest] == 1 else f"{digest}-{met[digest]}"
    return cells


def twin(script: Path) -> NotebookNode:
    """The notebook that a script stands for, without outputs."""
    source = jupytext.read(script)
    metadata = {"kernelspec": dict(source.metadata.kernelspec)}
    return nbformat.v4.new_notebook(cells=with_ids(source.cells), metadata=metadata)


def written(notebook: NotebookNode) -> str:
    """The text of a notebook's file, with the digest of its cells."""
    notebook.metadata[MARK] = {"written": _digest_of_cells(notebook)}
    return nbformat.writes(notebook) + "\n"


def is_changed(path: Path) -> bool:
    """Whether a person changed or ran a notebook since these tools wrote it; False if it is not there."""
    if not path.exists():
        return False
    try:
        notebook = nbformat.read(path, as_version=4)
    except Exception:  # whatever it is, these tools did not write it
        return True
    has_outputs = any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
    return has_outputs or notebook.metadata.get(MARK, {}).get("written") != _digest_of_cells(notebook)


def write_unless_changed(files: dict[Path, str]) -> list[Path]:
    """Write notebooks, but none that a person changed; says which, and returns them."""
    changed = [path for path in files if is_changed(path)]
    for path, text in files.items():
        if path not in changed:
            path.write_text(text)
    for path in changed:
        print(f"left alone: {path}, which was changed or run. To have it written anew, move it away first.")
    return changed


def _digest_of_cells(notebook: NotebookNode) -> str:
    return _digest("\0".join(f"{cell.cell_type} {cell.source}" for cell in notebook.cells))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


if __name__ == "__main__":
    write_unless_changed({path.with_suffix(".ipynb"): written(twin(path)) for path in sorted(NOTEBOOKS.glob("*.py"))})
