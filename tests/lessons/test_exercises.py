"""Checks of exercises: right answers are praised, mistakes are named, nothing is raised."""

import math
import re
from pathlib import Path

import numpy as np
import pytest

import seganypet as sap
from seganypet.lessons import checks
from seganypet.lessons.checks import EXERCISES, exercise, expect

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
UNDECAYED = 9000 * 64_000 / 250e6
KNOWN_MISTAKES = [
    ("1.suv", UNDECAYED, "how much of the 250 MBq is left"),
    ("1.suv", UNDECAYED * 2 ** (75 / 6586.2), "75 minutes are how many seconds"),
    ("1.suv", UNDECAYED * math.exp(4500 / 6586.2), "not e^"),
    ("1.suv", UNDECAYED * 2 ** (-4500 / 6586.2), "less activity left"),
    ("1.clock", (2 ** (3600 / 6586.2), "a"), "seems to be left"),
    ("1.clock", (2 ** (-3600 / 6586.2), "b"), "typed correctly"),
    ("2.blur", (1.0, "c"), "true volume"),
    ("4.clicks", (34, 34), "that is N"),
    ("5.lambda", 0.1 * math.exp(-1.25), "do not square"),
    ("5.doubt", 0.8813, "bits"),
    ("6.patients", (2, "b"), "square root"),
    ("7.equal", 96, "for the whole scan"),
    ("8.fpv", 1633.5, "one voxel in a lesion"),
    ("8.percent", 200, "mean of both"),
    ("9.pads", (8 / 14) ** 3, "no pad"),
]


@pytest.fixture(autouse=True)
def no_wrong_answers_before():
    checks._wrong_answers.clear()
    sap.check("1.suv", ...)  # registers all exercises


@pytest.mark.parametrize(("name", "answer", "said"), KNOWN_MISTAKES)
def test_a_mistake_that_many_make_is_named(name: str, answer: object, said: str):
    verdict = sap.check(name, answer)
    assert not verdict
    assert said.lower() in verdict.text.lower()


RIGHT = {
    "1.suv": UNDECAYED * 2 ** (4500 / 6586.2), "1.clock": (2 ** (-3600 / 6586.2), "a"), "2.blur": (3.25, "c"),
    "4.clicks": (170, 34), "4.best": lambda dsc: np.maximum.accumulate(dsc), "5.lambda": 0.1 * math.exp(-2.5),
    "5.doubt": 0.6109, "6.interval": lambda low, high: "gain" if low > 0 else "loss" if high < 0 else "undecided",
    "6.share": 0.0004 / 0.5604, "6.patients": (4, "b"), "7.equal": 4, "7.window": (0.512, "a"), "8.fpv": 1630.0,
    "7.bound": lambda ml, clicks: 2 * sum(sorted(ml)[::-1][:clicks]) / (sum(sorted(ml)[::-1][:clicks]) + sum(ml)),
    "8.percent": 100.0, "9.tokens": 216, "9.pads": 1 - (8 / 14) ** 3,
}  # fmt: skip


@pytest.mark.parametrize(("name", "answer"), RIGHT.items(), ids=RIGHT)
def test_a_right_answer_is_praised(name: str, answer: object):
    assert sap.check(name, answer), sap.check(name, answer).text


def test_the_blurred_ball_is_found_as_large_as_the_slider_says():
    from seganypet.lessons.pictures_pet import hot_ball

    explorer = hot_ball()
    explorer.controls["diameter_mm"].value, explorer.controls["blur_mm"].value = 10.0, 8.0
    found, true = map(float, re.search(r"([\d.]+) mL instead of ([\d.]+) mL", explorer.text).groups())
    assert sap.check("2.blur", (found / true, "c"))


def test_further_wrong_answers_get_plainer_hints_until_one_is_right():
    said = [sap.check("5.rectify", np.full((4, 4, 4), number), **grids()).text for number in (7, 8, 9)]
    assert said[0].startswith("Not yet. Hint 1 of 2") and said[1].startswith("Not yet. Hint 2 of 2")
    assert said[2] == said[1]
    assert sap.check("5.rectify", np.where(grids()["doubt"] > np.quantile(grids()["doubt"], 0.9), 1, 0), **grids())
    assert "Hint 1 of 2" in sap.check("5.rectify", np.full((4, 4, 4), 7), **grids()).text


def grids() -> dict[str, np.ndarray]:
    shape = 4, 4, 4
    return {"y": np.zeros(shape), "mean_p": np.full(shape, 0.8), "doubt": np.linspace(0, 0.6, 64).reshape(shape)}


@pytest.mark.parametrize(
    "answer", [None, "x", [], {}, object(), math.nan, np.zeros((3, 3)), lambda *_: None, (1, 2, 3)]
)
def test_whatever_is_answered_gets_a_sentence_and_no_traceback(answer: object):
    for name in EXERCISES:
        verdict = sap.check(name, answer)
        assert not verdict.right and verdict.text.startswith(("Not yet. ", "Your turn: "))


def test_no_answer_is_the_learners_turn():
    assert sap.check("7.bound", ...).text.startswith("Your turn: ")

    def stub(volumes_ml: list[float], clicks: int) -> float:
        raise NotImplementedError("Your turn: write bound in the exercise's cell, and run it.")

    assert sap.check("7.bound", stub).text.startswith("Your turn: ")


def test_an_error_of_the_learners_own_function_is_told():
    def best_so_far(dsc: list[float]) -> list[float]:
        return dsc[99:] + [1 / 0]

    assert "ZeroDivisionError" in sap.check("4.best", best_so_far).text


def test_an_unknown_exercise_is_refused():
    with pytest.raises(sap.SegAnyPETError, match=r"exercise '1.uptake' does not exist; expected one of 0.hottest"):
        sap.check("1.uptake", 3)


def test_a_verdict_shows_itself_and_hides_no_markup():
    @exercise("test.markup", "<b>")
    def judge(answer: float) -> str:
        expect(answer == 1)
        return "<i>"

    try:
        assert repr(sap.check("test.markup", 1)) == "Right. <i>"
        assert "&lt;b&gt;" in sap.check("test.markup", 2)._repr_html_()
    finally:
        del EXERCISES["test.markup"]


def test_every_exercise_is_asked_in_its_lesson_and_none_else():
    asked = [
        (script.name[1], name)
        for script in sorted(NOTEBOOKS.glob("0*.py"))
        for name in re.findall(r'^sap\.check\("([^"]+)"', script.read_text(), re.MULTILINE)
    ]
    assert sorted(name for _, name in asked) == sorted(EXERCISES)
    assert all(name.startswith(f"{lesson}.") for lesson, name in asked)
