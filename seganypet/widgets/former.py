"""A cell that runs again makes its widgets anew: those of its run before are closed, or each would go on drawing."""

import sys
import weakref

from ipywidgets import Widget

# Widgets by the cell that made them, and which run of it.
_FORMER: dict[str, tuple[str, "weakref.WeakSet[Widget]"]] = {}


def replace_former(widget: Widget) -> None:
    """Close the widgets of an earlier run of the cell that runs now: they are no longer on the page."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    request = getattr(shell, "parent_header", None) or {}
    cell, run = request.get("metadata", {}).get("cellId"), request.get("header", {}).get("msg_id")
    if not cell or not run:
        return
    former_run, former = _FORMER.get(cell, ("", weakref.WeakSet()))
    if former_run != run:
        for one in list(former):
            one.close()
        former = weakref.WeakSet()
    former.add(widget)
    _FORMER[cell] = run, former
