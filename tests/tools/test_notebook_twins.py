"""What a person changed in a notebook stays: `make notebooks` and `make student` write over their own files only."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from notebook_twins import NOTEBOOKS, is_changed, twin, write_unless_changed, written


@pytest.fixture
def path(tmp_path):
    write_unless_changed({tmp_path / "lesson.ipynb": written(twin(NOTEBOOKS / "00_quickstart.py"))})
    return tmp_path / "lesson.ipynb"


def change(path, act) -> None:
    notebook = nbformat.read(path, as_version=4)
    act(notebook)
    nbformat.write(notebook, path)


def answer(notebook):
    notebook.cells[3].source += "\nmy_answer = 7"


def run(notebook):
    cell = next(cell for cell in notebook.cells if cell.cell_type == "code")
    cell.outputs = [new_output("stream", text="7")]


@pytest.mark.parametrize(
    "act",
    [answer, run, lambda notebook: notebook.cells.pop(), lambda notebook: notebook.cells.append(new_code_cell("1"))],
    ids=["an answer", "outputs", "a cell less", "a cell more"],
)
def test_a_notebook_that_a_person_changed_is_left_alone_and_named(path, act, capsys):
    change(path, act)
    before = path.read_bytes()
    new = written(new_notebook(cells=[new_code_cell("2")]))
    assert write_unless_changed({path: new, path.with_name("other.ipynb"): new}) == [path]
    assert path.read_bytes() == before and path.with_name("other.ipynb").read_text() == new
    assert "left alone" in capsys.readouterr().out


def test_a_notebook_as_it_was_written_follows_its_script_also_when_it_was_opened_and_saved(path):
    change(path, lambda notebook: notebook.metadata.update(language_info={"name": "python"}))  # as JupyterLab does
    new = written(new_notebook(cells=[new_code_cell("2")]))
    assert write_unless_changed({path: new}) == [] and path.read_text() == new


def test_what_these_tools_did_not_write_is_somebodys_work(path):
    for text in ("not a notebook", nbformat.writes(new_notebook(cells=[new_code_cell("1")]))):
        path.write_text(text)
        assert is_changed(path)
