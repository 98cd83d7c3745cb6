"""Every lesson runs headless, and its .ipynb is what its script says, without stored outputs."""

from pathlib import Path

import jupytext
import nbformat
import pytest
from conftest import REPOSITORY
from run_notebook import run_notebook

from seganypet.cohort import Cohort
from seganypet.metrics import dice
from seganypet.model.checkpoints import load_model
from seganypet.session import Session

SCRIPTS = sorted((REPOSITORY / "notebooks").glob("**/*.py"))
every_notebook = pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)

# Small enough for two cores. Every notebook has `output_dir` besides: it writes nowhere else.
SMALL_PARAMETERS: dict[str, dict] = {
    "00_quickstart": {},
    "02_training": {"steps": 2, "trusted": 1, "doubtful": 1},
    "app": {},
}


def cells(notebook: nbformat.NotebookNode) -> list[tuple]:
    return [(cell.cell_type, cell.source, cell.metadata) for cell in notebook.cells]


def test_every_notebook_has_small_parameters_and_a_script():
    assert SCRIPTS, "notebooks/ holds no script"
    assert {script.stem for script in SCRIPTS} == set(SMALL_PARAMETERS)
    twins = {script.with_suffix(".ipynb") for script in SCRIPTS}
    here = {path for path in (REPOSITORY / "notebooks").glob("**/*.ipynb") if ".ipynb_checkpoints" not in path.parts}
    assert here == twins, "each script needs its .ipynb and each .ipynb its script: make notebooks"


@every_notebook
def test_the_twin_says_what_the_script_says_and_stores_no_output(script: Path):
    twin = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    source = jupytext.read(script)
    assert cells(twin) == cells(source), "not up to date: make notebooks"
    assert twin.metadata.kernelspec == source.metadata.kernelspec
    assert twin.metadata.kernelspec.name == "python3"
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in twin.cells)
    assert "widgets" not in twin.metadata


@every_notebook
def test_a_notebook_has_one_parameters_cell(script: Path):
    tagged = [cell for cell in jupytext.read(script).cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1


@every_notebook
def test_a_notebook_runs_headless(script: Path, tmp_path: Path):
    executed = run_notebook(script, tmp_path, {**SMALL_PARAMETERS[script.stem], "output_dir": str(tmp_path)})
    notebook = nbformat.read(executed, as_version=4)
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip())
    assert "widgets" not in notebook.metadata


def test_the_recorded_clicks_of_the_quickstart_are_of_its_scan_and_network():
    # Else the lesson says so and begins without them, which is right for a reader and wrong for us.
    case = Cohort.from_csv(REPOSITORY / "data_samples" / "cohort.csv")["phantom_internal_9000"]
    pet = case.load_pet()
    session = Session.replay(load_model("tiny-base"), pet, REPOSITORY / "notebooks" / "quickstart_clicks.json")
    assert dice(session.mask_of("liver"), next(case.targets(pet, ["liver"]))[1]) > 0.8


def test_a_mistyped_parameter_is_refused(tmp_path: Path):
    script = tmp_path / "lesson.py"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    cell = nbformat.v4.new_code_cell("clicks = 3  # per organ", metadata={"tags": ["parameters"]})
    jupytext.write(nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel}), script, fmt="py:percent")
    with pytest.raises(ValueError, match="lesson.py has no parameter click; it has clicks"):
        run_notebook(script, tmp_path / "out", {"click": 1})
    assert not list((tmp_path / "out").iterdir())
