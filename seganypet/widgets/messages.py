"""What a browser may ask of a ClickWidget: these calls with these fields, and nothing else. No paths are among them.

`PageSets` is what it may set without asking.
`showing_errors` is how a page learns what went wrong with what it asked for.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seganypet.errors import SegAnyPETError, printable, shown

COMMANDS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "prompt": {"prompt": dict},  # its fields as `write_prompt` writes them
    "withdraw": {},
    "paint": {"path_ijk": list, "axis": int, "radius_mm": (int, float), "foreground": bool},
    "sphere": {"ijk": list, "diameter_mm": (int, float)},
    "fill_holes": {},
    "keep_largest": {},
    "next_reading": {},
    "next_spot": {},
    "propose": {},
    "load_mask": {"name": str},  # its content is the message's buffer
    "undo": {},
    "redo": {},
    "reset": {},
    "select": {"name": str},
    "add": {},
    "rename": {"old": str, "new": str},
    "remove": {"name": str},
    "recolour": {"name": str, "colour": str},
    "hide": {"name": str, "hidden": bool},
    "lock": {"name": str, "locked": bool},
    "show_uncertainty": {"shown": bool},
    "save": {"existing": str},
    "dismiss": {},
    "download": {"what": str},
    "load_text": {"text": str},
}
# What a view asks for while it draws: answered apart, and nobody waits for it.
QUERIES: dict[str, dict[str, type | tuple[type, ...]]] = {
    "piece": {"layer": str, "number": int},
    "probe": {"ras": list},
}


class PageSets:
    """A widget whose page sets what is tagged `echo_update=False`, its sliders and buttons; all else it only shows."""

    def set_state(self, sync_data: Mapping[str, Any]) -> None:
        """Take over what a page has set; whatever else it sends, a limit or a table, stays as it is."""
        settable = self.traits(echo_update=False)  # type: ignore[attr-defined]  # of a widget
        super().set_state({name: value for name, value in sync_data.items() if name in settable})  # type: ignore[misc]


def read_command(content: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and fields of a command or query; SegAnyPETError if it is none, or a field has another type."""
    fields = dict(content)
    call = fields.pop("call", None)
    kinds = (COMMANDS | QUERIES).get(call) if isinstance(call, str) else None
    if kinds is None or fields.keys() != kinds.keys() or any(not _is(fields[name], kinds[name]) for name in kinds):
        raise SegAnyPETError(f"the browser asked for {shown(call)} with {shown(fields)}, which ClickWidget cannot do.")
    return call, fields


def _is(value: Any, kind: type | tuple[type, ...]) -> bool:
    return type(value) in (kind if isinstance(kind, tuple) else (kind,))  # so that True is no number


@contextmanager
def naming(path: Path, name: str) -> Iterator[None]:
    """Call a file of a temporary folder by a name that people know, in errors and warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        except SegAnyPETError as error:
            raise type(error)(str(error).replace(str(path), name)) from error
    for warning in caught:
        warnings.warn(str(warning.message).replace(str(path), name), warning.category, stacklevel=3)


@contextmanager
def showing_errors(show: Callable[[str], None]) -> Iterator[None]:
    """Show whatever goes wrong; what nobody foresaw is also raised."""
    try:
        yield
    except SegAnyPETError as error:
        show(str(error))
    except MemoryError:
        show("There is not enough memory for this. Crop or resample the scan, or close other pages.")
    except Exception as error:
        show(printable(f"{type(error).__name__}: {error}"))
        raise
