"""Run a lesson headless: `python tools/run_notebook.py notebooks/00_quickstart.py out`, as in `make demo`."""

import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import papermill


def run_notebook(script: Path, output_dir: Path, parameters: Mapping[str, Any]) -> Path:
    """Execute a notebook script from its own folder, as JupyterLab would, without touching it or its twin.

    Args:
        script: A jupytext percent script with one cell tagged `parameters`.
        output_dir: Where the executed notebook goes; made if absent.
        parameters: Values that replace the script's own; papermill would only warn of unknown names.

    Returns:
        Path of the executed notebook.

    Raises:
        ValueError: A parameter that the notebook does not have.
        papermill.PapermillExecutionError: A cell raised; the executed notebook shows where.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    executed = output_dir / f"{script.stem}.ipynb"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / executed.name
        jupytext.write(jupytext.read(script), source)
        known = papermill.inspect_notebook(source)
        if unknown := sorted(set(parameters) - set(known)):
            raise ValueError(f"{script.name} has no parameter {', '.join(unknown)}; it has {', '.join(known)}.")
        papermill.execute_notebook(
            source,
            executed,
            dict(parameters),
            cwd=script.parent,
            progress_bar=sys.stderr.isatty(),
            coalesce_streams=True,  # a kernel cuts what is printed wherever its flush falls, in mid-line too
            store_widget_state=False,  # megabytes of slices; each widget leaves a PNG of itself instead
        )
    return executed


def printed(executed: Path) -> Iterator[str]:
    """What the cells printed and the tables they showed, in order."""
    for cell in nbformat.read(executed, as_version=4).cells:
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stdout":
                yield output.text.rstrip()
            elif "text/html" in output.get("data", {}):
                yield output.data["text/plain"]


if __name__ == "__main__":
    print(*printed(run_notebook(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), {})), sep="\n\n")
