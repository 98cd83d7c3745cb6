"""The student edition holds every lesson, current and without its answers."""


import jupytext
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from student_edition import STUDENT, down, editions, exercises, has_tag, student_edition

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
SOLUTION = '''\
import math

# The area of a disc.
half = 1.5 / 2
my_area, unused = math.pi * half**2, None
print(my_area)


def my_scale(
    value: float,  # any
) -> float:
    """Twice the value."""
    return 2 * value
'''
CHECK = 'sap.check("0.area", my_area, scale=my_scale)'


def lesson(solution: str = SOLUTION, check: str = CHECK, first: str = "# Title") -> nbformat.NotebookNode:
    cells = [
        new_markdown_cell(first),
        new_code_cell("radius = 1.5  # mm", metadata={"tags": ["parameters"]}),
        new_code_cell(solution, metadata={"tags": ["solution"]}),
        new_markdown_cell("Between a solution and its check."),
        new_code_cell(check),
        new_code_cell("radius"),
        new_code_cell("radius"),
    ]
    return new_notebook(cells=cells, metadata={"kernelspec": KERNEL, "jupytext": {"formats": "py"}})


def sources(notebook: nbformat.NotebookNode) -> list[str]:
    return [cell.source for cell in notebook.cells]


def test_the_student_edition_is_current():
    there = {path: path.read_text() for path in STUDENT.glob("*.ipynb")}
    wanted = editions()
    assert there.keys() == wanted.keys(), "run make student"
    for path, text in wanted.items():
        assert there[path] == text, f"{path.name} is not current: make student"


def test_no_answer_is_left():
    for path in STUDENT.glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        assert not any(has_tag(cell, "solution") for cell in notebook.cells)
        solved = jupytext.read(STUDENT.parent / f"{path.stem}.py")
        said = sources(notebook)
        assert not any(solved.cells[exercise.place].source in said for exercise in exercises(solved))


def test_names_and_signatures_that_the_check_wants_remain():
    exercise = next(exercises(lesson()))
    assert (exercise.values, exercise.functions) == (("my_area",), ("my_scale",))
    emptied = sources(student_edition(lesson(), "lesson", []))[3]
    assert emptied == '''\
my_area = ...  # your answer


def my_scale(
    value: float,  # any
) -> float:
    """Twice the value."""
    raise NotImplementedError("Your turn: write my_scale in the exercise's cell, and run it.")'''


def test_an_exercise_of_calls_alone_leaves_a_comment():
    called = lesson("_ = session.click(ijk=(1, 2, 3))", 'sap.check("0.kidney", session)')
    student = student_edition(called, "lesson", [])
    assert sources(student)[3] == "# Your answer here."
    assert sources(student)[5] == 'sap.check("0.kidney", session)'


def test_a_solution_needs_a_check():
    with pytest.raises(ValueError, match="cell 2 is a solution"):
        [*exercises(lesson(check="print(my_area)"))]


def test_the_edition_keeps_parameters_and_kernel_and_says_how_to_go_on():
    student = student_edition(lesson(), "lesson", [])
    assert student.metadata == {"kernelspec": KERNEL}
    assert sum(has_tag(cell, "parameters") for cell in student.cells) == 1
    assert sum(has_tag(cell, "exercise") for cell in student.cells) == 1
    assert student.cells[0].source.startswith("# Title\n\n**This is the student edition:**")


@pytest.mark.parametrize("repository", ["https://github.com/a-b/c.d", "https://github.com/a-b/c.d.git"])
def test_with_an_address_each_lesson_opens_in_the_cloud(repository: str):
    first = student_edition(lesson(), "00_lesson", [], repository).cells[0].source
    assert "https://mybinder.org/v2/gh/a-b/c.d/HEAD?urlpath=lab/tree/notebooks/student/00_lesson.ipynb)" in first
    assert "https://colab.research.google.com/github/a-b/c.d/blob/main/notebooks/student/00_lesson.ipynb)" in first
    assert "mybinder" not in student_edition(lesson(), "00_lesson", []).cells[0].source


def test_an_address_elsewhere_is_refused():
    with pytest.raises(ValueError, match="expected https://github.com/OWNER/REPOSITORY"):
        student_edition(lesson(), "00_lesson", [], "https://example.org/a/b")


def test_ids_are_unique_and_change_with_their_own_cell_only():
    one, other = (student_edition(lesson(check=check), "lesson", []) for check in (CHECK, f"{CHECK}\n"))
    ids = [[cell.id for cell in notebook.cells] for notebook in (one, other)]
    assert len(set(ids[0])) == len(ids[0])
    assert [place for place, (a, b) in enumerate(zip(*ids, strict=True)) if a != b] == [5]
    nbformat.validate(one)


def test_the_set_up_goes_up_one_folder_and_no_further(tmp_path, monkeypatch):
    (tmp_path / "notebooks" / "student").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "notebooks" / "student")
    for _ in range(2):
        exec(sources(student_edition(lesson(), "lesson", []))[1], {})
        assert (tmp_path / "notebooks").samefile(".")


@pytest.mark.parametrize(
    ("link", "deeper"),
    [
        ("[SUV](glossary.md#suv)", "[SUV](../glossary.md#suv)"),
        ("![a](../data/a.png) and [b](b.py)", "![a](../../data/a.png) and [b](../b.py)"),
        ("[next](02_next.ipynb)", "[next](02_next.ipynb)"),
        ("[site](https://example.org/a.md), [above](#title), [mail](mailto:a@b)", None),
    ],
)
def test_relative_links_go_one_folder_deeper_but_between_lessons_they_stay(link: str, deeper: str | None):
    assert down(link, ["02_next"]) == (deeper or link)


def test_the_sentence_on_solutions_points_to_them():
    first = "# Title\n\nA check tells. This edition holds the solutions: cover them\nfirst."
    student = student_edition(lesson(first=first), "00_lesson", [])
    assert "A check tells. Solutions are in [00_lesson](../00_lesson.ipynb)." in student.cells[0].source


def test_every_lesson_has_that_sentence():
    for path in STUDENT.glob("*.ipynb"):
        text = "\n".join(sources(nbformat.read(path, as_version=4)))
        assert f"Solutions are in [{path.stem}](../{path.name})." in text
