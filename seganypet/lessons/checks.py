"""Exercises of the lessons: an answer is checked, and a wrong one gets a hint instead of a traceback."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from seganypet.errors import SegAnyPETError
from seganypet.metrics import dice
from seganypet.prompting.base import PromptSession


class Mistake(Exception):
    """What is wrong with an answer; without a text, the exercise's next general hint is given."""


@dataclass(frozen=True)
class Verdict:
    """What a check found.

    Attributes:
        right: Whether the answer is right.
        text: Praise, a hint, or whose turn it is; what the notebook shows.
    """

    right: bool
    text: str

    def __bool__(self) -> bool:
        return self.right

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        colour = "#2e7d32" if self.right else "#b26a00"
        return f'<div style="border-left: 4px solid {colour}; padding: 4px 10px">{escape(self.text)}</div>'


@dataclass(frozen=True)
class Exercise:
    """How an answer is judged, and hints from a nudge to nearly the solution."""

    judge: Callable[..., str]
    hints: tuple[str, ...]


EXERCISES: dict[str, Exercise] = {}
_wrong_answers: Counter[str] = Counter()


def exercise(name: str, *hints: str) -> Callable[[Callable[..., str]], Callable[..., str]]:
    """Register a function that judges an answer: it returns praise, or raises Mistake.

    Args:
        name: Lesson and exercise, such as "1.suv".
        hints: Given one after the other to wrong answers in which no particular mistake is recognised.
    """

    def register(judge: Callable[..., str]) -> Callable[..., str]:
        EXERCISES[name] = Exercise(judge, hints)
        return judge

    return register


def check(name: str, answer: Any, /, **given: Any) -> Verdict:
    """Check the answer to an exercise of a lesson.

    Args:
        name: Lesson and exercise, such as "1.suv".
        answer: A number, a letter, an array, a function, a session, whatever the exercise asks for; `...` says that
            there is none yet.
        given: What the lesson knows and the answer is judged by, such as `volume=`.

    Returns:
        Verdict, which a notebook shows. A first wrong answer gets a nudge; further ones get more.

    Raises:
        SegAnyPETError: There is no such exercise.
    """
    from seganypet.lessons import exercises_data, exercises_networks  # noqa: F401 - they register themselves

    if name not in EXERCISES:
        raise SegAnyPETError(f"exercise {name!r} does not exist; expected one of {', '.join(sorted(EXERCISES))}.")
    try:
        if answer is ...:
            raise NotImplementedError
        praise = EXERCISES[name].judge(answer, **given)
    except NotImplementedError:
        return Verdict(False, "Your turn: answer above, run that cell, and then this one again.")
    except Mistake as mistake:
        return Verdict(False, f"Not yet. {str(mistake) or _next_hint(name)}")
    except Exception as error:  # the learner's function, or an answer of a kind that nobody thought of
        return Verdict(False, f"Not yet. {_next_hint(name)} (Your answer led to {type(error).__name__}: {error})")
    _wrong_answers.pop(name, None)
    return Verdict(True, f"Right. {praise}")


def _next_hint(name: str) -> str:
    hints = EXERCISES[name].hints
    number = min(_wrong_answers[name], len(hints) - 1)
    _wrong_answers[name] += 1
    return f"Hint {number + 1} of {len(hints)}: {hints[number]}"


# ---- what judges use


def expect(condition: bool, hint: str = "") -> None:
    """Refuse the answer unless the condition holds.

    Raises:
        Mistake: It does not.
    """
    if not condition:
        raise Mistake(hint)


def number(answer: Any) -> float:
    """An answer that must be one number.

    Raises:
        Mistake: It is something else.
    """
    is_number = np.ndim(answer) == 0 and np.asarray(answer).dtype.kind in "iuf"
    expect(is_number, "Expected one number, such as 4.2.")
    return float(answer)


def close(answer: Any, value: Any, tolerance: float = 3e-3) -> bool:
    """Whether two numbers agree, by a relative tolerance."""
    return bool(np.isclose(answer, value, rtol=tolerance, atol=1e-9))


def letter(answer: Any, right: str, why_not: dict[str, str]) -> None:
    """An answer that must be the letter of a statement.

    Args:
        answer: What was answered.
        right: Letter of the true statement.
        why_not: What speaks against each of the others.

    Raises:
        Mistake: It is another letter, or none.
    """
    letters = sorted([right, *why_not])
    expect(isinstance(answer, str) and answer in letters, f"Expected one letter of {', '.join(letters)}, in quotes.")
    expect(answer == right, why_not.get(answer, ""))


def two(answer: Any) -> tuple[Any, Any]:
    """An answer that must be a number and a letter.

    Raises:
        Mistake: It is something else.
    """
    is_pair = isinstance(answer, tuple | list) and len(answer) == 2
    expect(is_pair and not any(part is ... for part in answer), 'Expected a number and a letter, such as (4.2, "a").')
    return answer[0], answer[1]


def by_hand(session: Any, name: str, truth: np.ndarray, goal: float) -> float:
    """DSC of an object that the learner drew.

    Raises:
        Mistake: There is no such object yet, or it is below the goal.
    """
    expect(isinstance(session, PromptSession), "Expected the session that the widget shows.")
    expect(name in session.objects, f"There is no object {name} yet: Add object (or select it), then click.")
    reached = dice(session.mask_of(name), truth)
    expect(reached >= goal, f"{name}: DSC {reached:.2f}, the goal is {goal:g}. " + _where(session.mask_of(name), truth))
    return reached


def _where(mask: np.ndarray, truth: np.ndarray) -> str:
    too_much, missing = (mask & ~truth).sum(), (truth & ~mask).sum()
    return (
        "It holds too much: click there with the right button."
        if too_much > missing
        else "It leaves something out: click that."
    )
