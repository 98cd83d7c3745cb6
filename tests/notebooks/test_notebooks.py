"""Every lesson runs headless, its checks refuse wrong answers, and its .ipynb is what its script says."""

import ast
import inspect
import re
import subprocess
import tomllib
from pathlib import Path

import jupytext
import nbformat
import numpy as np
import pytest
import yaml
from conftest import REPOSITORY
from run_notebook import printed, run_notebook
from student_edition import NOTEBOOKS, STUDENT, exercises, lessons, names, student_edition

from seganypet.cohort.cohort import Cohort
from seganypet.lessons.hands import stand_in
from seganypet.metrics import dice
from seganypet.model.checkpoints import load_model
from seganypet.prompting.session import Session

SCRIPTS = sorted(NOTEBOOKS.glob("**/*.py"))
LESSONS = lessons()
IDS = [script.stem for script in LESSONS]
GLOSSARY = (NOTEBOOKS / "glossary.md").read_text()
every_notebook = pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
every_lesson = pytest.mark.parametrize("script", LESSONS, ids=IDS)

# Small enough for two cores. Every notebook has `output_dir` besides: it writes nowhere else.
SMALL_PARAMETERS: dict[str, dict] = {
    "00_quickstart": {},
    "01_data_exploration_suv": {},
    "02_data_exploration_masks": {"n_phantoms": 1},
    "03_data_exploration_cohorts": {},
    "04_2d_vs_3d_prompting": {"targets": ["liver", "aorta"], "rounds": 2, "models_3d": ["tiny"], "grid_mm": 64.0},
    "05_training_doubtful_labels": {},
    "06_training": {"steps": 2, "hq": 1, "lq": 1},
    "07_tumor_zero_shot": {"phantom_seeds": [402], "others": [], "clicks": 2, "clicks_at_once": 2},
    "08_tumor_burden": {"phantom_seeds": [402], "others": [], "clicks": 1},
    "09_inside_the_network": {},
    "app": {},
}


def cells(notebook: nbformat.NotebookNode) -> list[tuple]:
    return [(cell.cell_type, cell.source, cell.metadata) for cell in notebook.cells]


def test_every_notebook_has_small_parameters_and_a_script():
    assert SCRIPTS, "notebooks/ holds no script"
    assert {script.stem for script in SCRIPTS} == set(SMALL_PARAMETERS)
    twins = {script.with_suffix(".ipynb") for script in SCRIPTS}
    there = {path for path in NOTEBOOKS.glob("**/*.ipynb") if ".ipynb_checkpoints" not in path.parts}
    assert {path for path in there if path.parent != STUDENT} == twins, "a script or a twin is missing: make notebooks"


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
def test_a_notebook_runs_headless_and_its_checks_refuse_wrong_answers(script: Path, tmp_path: Path):
    # Of a lesson the student edition runs, answers filled in: all cells of the lesson, and what students get besides.
    to_run = examined(script, tmp_path / script.name) if script in LESSONS else script
    executed = run_notebook(to_run, tmp_path, {**SMALL_PARAMETERS[script.stem], "output_dir": str(tmp_path)})
    notebook = nbformat.read(executed, as_version=4)
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip())
    assert "widgets" not in notebook.metadata
    refusals = [line for text in printed(executed) for line in text.splitlines() if line.startswith("refused: ")]
    found = exercises(jupytext.read(script))
    assert len(refusals) == sum(1 + bool(exercise.values + exercise.functions) for exercise in found)


def examined(script: Path, path: Path) -> Path:
    """A student's way through a lesson: each check is tried without an answer, with a wrong and with the right one.

    Returns:
        `path`, a script that begins in the folder of the student edition.
    """
    lesson = jupytext.read(script)
    answers = {exercise.place: exercise for exercise in exercises(lesson)}
    edition = student_edition(lesson, script.stem, [])
    first, set_up, *cells = edition.cells
    in_its_folder = f"import os\nimport numpy as np\nos.chdir({str(STUDENT)!r})"
    walk = [first, *code_cells(in_its_folder, inspect.getsource(refused), inspect.getsource(wrong)), set_up]
    for place, cell in enumerate(cells, 1):  # the edition has one cell more, before this one
        if exercise := answers.get(place):
            check = cells[exercise.check_place - 1].source
            walk += code_cells(f"refused({cell.source!r}, {check!r}, globals())", lesson.cells[place].source)
            walk += code_cells(f"assert (right_one := {check}), right_one.text")
            if spoilt := [f"{name} = wrong({name})" for name in exercise.values + exercise.functions]:
                walk += code_cells(f"refused({chr(10).join(spoilt)!r}, {check!r}, globals())")
        else:
            walk.append(cell)
    jupytext.write(nbformat.v4.new_notebook(cells=walk, metadata=edition.metadata), path, fmt="py:percent")
    return path


def code_cells(*sources: str) -> list[nbformat.NotebookNode]:
    return [nbformat.v4.new_code_cell(source) for source in sources]


def refused(answer: str, check: str, here: dict) -> None:
    """In a lesson's kernel: a check must meet this answer with a hint.

    Args:
        answer: Code that answers an exercise.
        check: Code of the exercise's check, one expression.
        here: The kernel's names; they stay as they are.
    """
    names = dict(here)
    exec(answer, names)
    verdict = eval(check, names)
    if verdict.right or len(verdict.text) < 20:
        raise RuntimeError(f"The check says {verdict.text!r} to:\n{answer}")
    print("refused:", verdict.text)


def wrong(answer: object) -> object:
    """In a lesson's kernel: something of the same kind as a right answer, and wrong."""
    if isinstance(answer, str):
        return answer + "?"
    if isinstance(answer, list | tuple | set):
        numbers = np.asarray([*answer]).dtype.kind in "iuf"
        return type(answer)([2 * one + 1 for one in answer] if numbers else [*answer][:-1])
    if isinstance(answer, dict):
        return {key: wrong(value) for key, value in answer.items()}
    if callable(answer):
        return lambda first, *others, **named: first
    if np.asarray(answer).dtype.kind == "b":
        return np.logical_not(answer)
    return 2 * answer + 1


@pytest.fixture
def autopet(tmp_path: Path) -> str:
    """As downloaded: PET, CT and lesions of two studies of one patient, and no organs."""
    samples = REPOSITORY / "data_samples"
    for year, sample in ((2001, "phantom_internal_9000"), (2002, "phantom_internal_9005")):
        study = f"01-01-{year}-NA-PET-CT"
        folder = tmp_path / "autopet" / "PETCT_0a1b" / study
        folder.mkdir(parents=True)
        for name in ("SUV", "CTres", "SEG"):
            (folder / f"{name}.nii.gz").symlink_to(samples / sample / f"{name}.nii.gz")
    return str(tmp_path / "autopet")


def test_the_lesson_on_cohorts_opens_a_folder_of_autopet(autopet: str, tmp_path: Path):
    parameters = {"data": autopet, "output_dir": str(tmp_path)}
    executed = run_notebook(NOTEBOOKS / "03_data_exploration_cohorts.py", tmp_path / "run", parameters)
    text = "\n".join(printed(executed))
    assert "2 cases, 1 patients" in text
    assert re.search(r"with organs +0\nwith lesions +1\n", text)


def test_the_lesson_on_tumour_burden_opens_a_folder_of_autopet(autopet: str, tmp_path: Path):
    parameters = {"data": autopet, "others": [], "clicks": 1, "output_dir": str(tmp_path)}
    executed = run_notebook(NOTEBOOKS / "08_tumor_burden.py", tmp_path / "run", parameters)
    text = "\n".join(printed(executed))
    assert re.search(r"PETCT_0a1b_01-01-200[12]-NA-PET-CT: \(\d+, \d+, \d+\) voxels, \d+ lesions", text)
    assert list((tmp_path / "burden").glob("PETCT_0a1b*.html"))


# ---- what every lesson has

def test_lessons_are_ten_notebooks_with_numbers():
    assert [script for script in SCRIPTS if re.match(r"\d\d_", script.name)] == LESSONS
    assert [int(script.name[:2]) for script in LESSONS] == list(range(10))


@every_lesson
def test_a_lesson_begins_with_what_it_teaches_and_what_it_takes(script: Path):
    first = jupytext.read(script).cells[0].source
    assert re.match(r"# \S", first), "a title comes first"
    parts = [r"\*\*You will be able to\*\*\n\n- ", r"\*\*Before you start:\*\* \w", r"\*\*Time:\*\*[^*]*\bminutes?\b"]
    for part in (*parts, r"\*\*Time:\*\*[^*]*\d GB of memory", r"\]\(glossary\.md\)"):
        assert re.search(part, first), f"the first cell of {script.name} lacks {part}"


@every_lesson
def test_a_lesson_leads_to_the_one_before_and_the_one_after(script: Path):
    cells = jupytext.read(script).cells
    place = LESSONS.index(script)
    before = LESSONS[place - 1].with_suffix(".ipynb").name if place else "how_pet_works.md"
    after = [LESSONS[place + 1].with_suffix(".ipynb").name] if script != LESSONS[-1] else []
    for text in (cells[0].source, cells[-1].source):
        assert all(f"]({name})" in text for name in (before, *after))


@every_lesson
def test_a_lesson_has_a_quiz_of_three_with_answers_that_open(script: Path):
    quiz = next(cell.source for cell in jupytext.read(script).cells if cell.source.startswith("## Quiz"))
    assert len(re.findall(r"^\*\*\d\.\*\* .+", quiz, re.MULTILINE)) == 3
    assert len(re.findall(r"<details><summary>Answer</summary>\n\n\S[^<]+\n\n</details>", quiz)) == 3


@every_lesson
def test_a_lesson_begins_with_the_hand_and_has_three_things_to_move(script: Path):
    cells = jupytext.read(script).cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    modules = "\n".join(path.read_text() for path in (REPOSITORY / "seganypet" / "lessons").glob("pictures_*.py"))
    pictures = re.findall(r"^def ([a-z]\w*)\(", modules, re.MULTILINE)
    widgets = r"\b(?:sap\.(?:ClickWidget|AnnotationWidget|view3d)|" + "|".join(sorted(pictures)) + r")\("
    assert len(re.findall(widgets, code)) >= 3
    assert any("## Your hand first" in cell.source for cell in cells)


@every_lesson
def test_a_lesson_says_which_parameters_it_has_and_checks_them(script: Path):
    code = [cell for cell in jupytext.read(script).cells if cell.cell_type == "code"]
    place = next(number for number, cell in enumerate(code) if "parameters" in cell.metadata.get("tags", []))
    assert all(isinstance(node, ast.AnnAssign) for node in ast.parse(code[place].source).body)
    assert code[place + 1].source.startswith("sap.check_parameters(globals())")


@every_lesson
def test_a_lesson_has_three_exercises_one_by_hand_and_one_to_explain(script: Path):
    lesson = jupytext.read(script)
    found = [*exercises(lesson)]
    assert len(found) >= 3
    assert any(not exercise.values + exercise.functions for exercise in found), "none is done by hand"
    assert any("Change and explain" in cell.source for cell in lesson.cells)
    asked = [re.match(r'sap\.check\("(\d)\.', lesson.cells[exercise.check_place].source)[1] for exercise in found]
    assert set(asked) == {str(LESSONS.index(script))}


@every_lesson
def test_a_lesson_goes_on_where_a_student_leaves_an_exercise_out(script: Path):
    lesson = jupytext.read(script)
    trees = {place: ast.parse(cell.source) for place, cell in enumerate(lesson.cells) if cell.cell_type == "code"}
    found = [*exercises(lesson)]
    left_out = {place for exercise in found for place in (exercise.place, exercise.check_place)}
    given = set().union(*(bound(tree) for place, tree in trees.items() if place not in left_out))
    for exercise in found:
        offered = given | {*exercise.values, *exercise.functions} | bound(trees[exercise.check_place])
        assert not names(trees[exercise.check_place], ast.Load) & bound(trees[exercise.place]) - offered
    only_here = set().union(*(bound(trees[place]) for place in left_out)) - given
    for place, tree in trees.items():
        assert place in left_out or not names(tree, ast.Load) & only_here, f"cell {place} needs an exercise's names"


def bound(tree: ast.Module) -> set[str]:
    """Names that a cell gives a meaning: by assignment, import or definition."""
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    imported = {alias.asname or alias.name.split(".")[0] for node in ast.walk(tree)
                if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names}  # fmt: skip
    return names(tree, ast.Store) | defined | imported


# ---- the glossary

def test_the_glossary_is_sorted_and_each_term_has_its_anchor():
    entries = re.findall(r'^### <a id="([^"]+)"></a>(.+)$', GLOSSARY, re.MULTILINE)
    assert len(entries) == GLOSSARY.count("\n### ") == len({anchor for anchor, _ in entries})
    for anchor, term in entries:  # what GitHub would make of the heading; JupyterLab and HTML take the anchor
        assert anchor == re.sub(r"[^\w -]", "", term.lower()).replace(" ", "-")
    terms = [term.casefold() for _, term in entries]
    assert terms == sorted(terms)


TEXTS = {"glossary": GLOSSARY, "how_pet_works": (NOTEBOOKS / "how_pet_works.md").read_text()}


@pytest.mark.parametrize("text", [*TEXTS.values(), *(script.read_text() for script in LESSONS)], ids=[*TEXTS, *IDS])
def test_every_link_to_the_glossary_names_a_term(text: str):
    anchors = set(re.findall(r'<a id="([^"]+)">', GLOSSARY))
    linked = set(re.findall(r"\]\((?:glossary\.md)?#([^)]+)\)", text))
    assert linked, "no term is linked"
    assert linked <= anchors


# ---- lessons in the cloud

BINDER = REPOSITORY / ".binder"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("script", ["postBuild", "colab.sh"])
def test_set_up_for_the_cloud_installs_this_package(script: str):
    command = subprocess.check_output([BINDER / script, "--dry-run"], text=True, cwd="/")
    _, *asked = command.split(" -e .")
    editable, *others = asked[0].split()
    assert editable.strip("[]") in PROJECT["optional-dependencies"]
    declared = [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
    assert set(others) <= set(declared), "ranges are those of pyproject.toml"


def test_binder_brings_the_python_and_the_pytorch_that_the_project_asks_for():
    python, _, torch = yaml.safe_load((BINDER / "environment.yml").read_text())["dependencies"]
    assert f">={python.removeprefix('python=')}" == PROJECT["requires-python"]
    assert torch.replace("pytorch-cpu", "torch") in PROJECT["dependencies"]


# ---- recorded clicks and parameters

def test_the_recorded_clicks_of_the_quickstart_find_the_liver():
    case = Cohort.from_csv(REPOSITORY / "data_samples" / "cohort.csv")["phantom_internal_9000"]
    session = Session(load_model("tiny-base"), case.load_pet())
    stand_in(session, NOTEBOOKS / "recorded_clicks.json", "0")
    assert dice(session.mask_of("liver"), next(case.targets(session.volume, ["liver"]))[1]) > 0.8


def test_a_mistyped_parameter_is_refused(tmp_path: Path):
    script = one_cell_notebook(tmp_path / "lesson.py", "clicks = 3  # per organ")
    with pytest.raises(ValueError, match="lesson.py has no parameter click; it has clicks"):
        run_notebook(script, tmp_path / "out", {"click": 1})
    assert not list((tmp_path / "out").iterdir())


def test_what_a_cell_prints_is_one_text_where_the_kernel_cuts_it(tmp_path: Path):
    script = one_cell_notebook(tmp_path / "lesson.py", 'print("refused: ", end="", flush=True)\nprint("Hint")')
    assert list(printed(run_notebook(script, tmp_path / "out", {}))) == ["refused: Hint"]


def one_cell_notebook(script: Path, source: str) -> Path:
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    cell = nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]})
    jupytext.write(nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel}), script, fmt="py:percent")
    return script
