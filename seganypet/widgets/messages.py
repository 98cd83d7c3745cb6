"""What a browser may ask of a ClickWidget: these calls with these fields, and nothing else. No paths are among them.

`showing_errors` is how a page learns what went wrong with what it asked for.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from seganypet.errors import SegAnyPETError, printable, shown

COMMANDS: dict[str, dict[str, type]] = {
    "prompt": {"prompt": dict},  # its fields as `write_prompt` writes them
    "undo": {},
    "redo": {},
    "reset": {},
    "select": {"name": str},
    "add": {},
    "rename": {"old": str, "new": str},
    "remove": {"name": str},
    "recolour": {"name": str, "colour": str},
    "hide": {"name": str, "hidden": bool},
    "show_uncertainty": {"shown": bool},
    "save": {},
    "download": {"what": str},
    "load_text": {"text": str},
}


def read_command(content: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and fields of a command; SegAnyPETError if it is not one of `COMMANDS`, or a field has another type."""
    fields = dict(content)
    call = fields.pop("call", None)
    kinds = COMMANDS.get(call) if isinstance(call, str) else None
    if kinds is None or {name: type(value) for name, value in fields.items()} != kinds:
        raise SegAnyPETError(f"the browser asked for {shown(call)} with {shown(fields)}, which ClickWidget cannot do.")
    return call, fields


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
