"""A notebook refuses parameters that it does not have, and values of another type."""

import pytest

from seganypet.errors import SegAnyPETError
from seganypet.lessons.parameters import check_parameters

KINDS = {"clicks": int, "limit_mm": float, "organ": str, "targets": list, "full": bool}
VALUES = {"clicks": 3, "limit_mm": 4.0, "organ": "liver", "targets": [], "full": False}


def scope(injected: str = "", **values: object) -> dict:
    return {"__annotations__": KINDS, **VALUES, "In": ["", "import seganypet", injected], **values}


def test_sound_parameters_pass():
    check_parameters(scope())
    check_parameters(scope("# Parameters\nclicks = 5\nlimit_mm = 2\n", clicks=5, limit_mm=2))


def test_an_unknown_name_is_named_with_those_there_are():
    with pytest.raises(SegAnyPETError, match=r"there is no parameter click\. The notebook has clicks: int, limit_mm"):
        check_parameters(scope("# Parameters\nclick = 5\n", click=5))


@pytest.mark.parametrize(
    ("name", "value"), [("full", "false"), ("clicks", "3"), ("clicks", True), ("clicks", 2.5), ("targets", "liver")]
)
def test_a_value_of_another_type_is_refused(name: str, value: object):
    with pytest.raises(SegAnyPETError, match=rf"{name}=.* is of type \w+, expected {KINDS[name].__name__}"):
        check_parameters(scope(**{name: value}))


def test_all_problems_are_told_at_once():
    with pytest.raises(SegAnyPETError, match="no parameter a; there is no parameter b; clicks='x'"):
        check_parameters(scope("# Parameters\na = 1\nb = 2\n", clicks="x"))


def test_names_of_later_cells_are_no_parameters_when_the_cell_runs_again():
    check_parameters(scope(count=7, rows=[]))
