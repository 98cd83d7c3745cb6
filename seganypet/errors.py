"""Errors of this package: each says what arrived, what was expected, and what to do next."""

import re
import reprlib
import sys
import unicodedata
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # of a terminal
MAX_MESSAGE = 4000  # characters; a message may quote a file, and nobody reads more


class SegAnyPETError(ValueError):
    """Base of every error that this package raises about its input.

    Its text is safe to print: what a file or a browser brought into it can move no cursor and fill no screen.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class ReadError(SegAnyPETError, OSError):
    """A file that the system refuses to read."""


class WriteError(SegAnyPETError, OSError):
    """A file that the system refuses to write, as on a full disk; what was there before is whole."""


class VolumeError(SegAnyPETError):
    """A file or array that is not a usable 3D volume."""


class GeometryError(VolumeError):
    """An affine, a grid or a coordinate that cannot be right."""


class UnitError(SegAnyPETError):
    """An intensity unit that is missing, unknown, or wrong for the task."""


class DicomError(SegAnyPETError):
    """A DICOM series that cannot be stacked into one volume."""


class SUVError(SegAnyPETError):
    """Headers that allow no SUV; the message names the tag."""


class CheckpointError(SegAnyPETError):
    """A file that does not contain the weights of the expected model."""


class ClickError(SegAnyPETError):
    """A click that is not possible on this volume."""


class JournalError(SegAnyPETError):
    """A prompt journal that is damaged or belongs to another volume or model."""


class CohortError(SegAnyPETError):
    """A cohort table or one of its cases that cannot be used."""


class AnnotationError(SegAnyPETError):
    """A step of an annotation that is not possible now, or a folder that belongs to another annotation."""


class SampleError(SegAnyPETError):
    """A public sample that is unknown, cannot be fetched, or differs from the pinned one."""


class DoubtfulValuesWarning(UserWarning):
    """Numbers that were computed as the file says, and that are probably not what they are called."""


def readable_name(name: object) -> str:
    """A name of an object without spaces around it; "" if it is no text that people can read and files can hold."""
    trimmed = name.strip() if isinstance(name, str) else ""
    return trimmed if trimmed.isprintable() else ""


def printable(text: str) -> str:
    r"""A text with escapes instead of control characters, unpaired surrogates and invisible marks, cut if it is long.

    >>> print(printable("red \x1b[31m, then right to left \u202e"))
    red \x1b[31m, then right to left \u202e
    """
    if len(text) > MAX_MESSAGE:
        text = f"{text[:MAX_MESSAGE]}... ({len(text)} characters)"
    if text.isprintable():
        return text
    return "".join(
        letter if letter == "\n" or letter.isprintable() or unicodedata.category(letter) == "Zs" else
        ascii(letter)[1:-1] for letter in text
    )  # fmt: skip


def say(text: object) -> None:
    """Print what a file may have brought into a text, line by line as `printable`."""
    print(*map(printable, str(text).split("\n")), sep="\n")


def shown(value: Any) -> str:
    """A value as a message shows it: a `repr` cut short, also of what is nested or repeated without end.

    >>> len(shown("a" * 1000)), shown(list(range(100)))
    (60, '[0, 1, 2, 3, 4, 5, ...]')
    """
    try:
        return _SHORT.repr(value)
    except Exception:  # a number of more digits than Python prints, or what a class raises
        return f"<{type(value).__name__}>"


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 3, 60, 60


def renamed_keywords(**new_names: str) -> Callable[[Function], Function]:
    """Decorator: refuse keyword arguments by their former names, in words that give those of today.

    >>> @renamed_keywords(size="side")
    ... def area(side): return side**2
    >>> area(size=3)
    Traceback (most recent call last):
    seganypet.errors.SegAnyPETError: area: the argument size is now called side; pass side=3.
    """

    def decorate(function: Function) -> Function:
        @wraps(function)
        def checked(*args: Any, **kwargs: Any) -> Any:
            for old, new in new_names.items():
                if old in kwargs:
                    name = function.__qualname__.removesuffix(".__init__")
                    raise SegAnyPETError(
                        f"{name}: the argument {old} is now called {new}; pass {new}={kwargs[old]!r}."
                    )
            return function(*args, **kwargs)

        return cast(Function, checked)

    return decorate


def warn_caller(message: str) -> None:
    """Warn (UserWarning) at the line outside of this package that led here, however deep the warning arises."""
    package = __name__.partition(".")[0]
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        level, frame = level + 1, frame.f_back
    warnings.warn(printable(message), stacklevel=level)


def first_line(error: Exception) -> str:
    """First line of an error's text, without colours of a terminal; the name of its class if it has none."""
    return (_COLOURS.sub("", str(error)).splitlines() or [type(error).__name__])[0]
