"""How far a run is, target by target: in this process, and in workers, which leave word in a file of their own."""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from seganypet.errors import printable
from seganypet.study.workers import worker_file

_POLL_SECONDS = 1.0
# What this process measures: name of the case, names of its methods, of those that take turns now, how many are done.
_case: dict[str, Any] = {}
_listeners: list[Callable[[float, str], object]] = []


def begin_case(name: str, methods: Sequence[str]) -> None:
    """Say which case this process measures from now on."""
    _case.update(name=name, methods=list(methods), turns=(), finished=0)
    _say(0.0, name)


def tell(method: str, target: str = "", fraction: float = 0.0, together: Sequence[str] = ()) -> None:
    """Say what of the case is measured now.

    Args:
        method: Name of the method.
        target: What it segments.
        fraction: Which part of this method's targets is done, 0 to 1.
        together: Names of the methods that take turns with each target, if there are others; the fraction is of all.
    """
    methods, turns = _case.get("methods", ()), tuple(together) or (method,)
    if method in methods:
        if turns != _case["turns"]:
            _case.update(turns=turns, finished=_case["finished"] + len(_case["turns"]))
        done = (_case["finished"] + fraction * len(turns)) / len(methods)
        _say(done, ", ".join(part for part in (_case["name"], method, target) if part))


def _say(fraction: float, what: str) -> None:
    for listener in _listeners:
        listener(fraction, what)
    if (path := worker_file()) is not None:
        with suppress(OSError):  # a bar is not worth a run
            path.write_text(f"{fraction} {what}", encoding="utf-8")


class CaseBar:
    """A bar over cases that moves with every target, with an estimate of the end.

    Args:
        total: Number of cases.
        finished: How many of them are finished already.
        show: Whether it is drawn.
    """

    def __init__(self, total: int, finished: int, show: bool):
        from tqdm.auto import tqdm

        form = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} [{elapsed}<{remaining}] {postfix}"
        self._bar = tqdm(total=total, initial=finished, desc="cases", disable=not show, bar_format=form)
        self._finished = finished
        self._ended = threading.Event()

    def __enter__(self) -> "CaseBar":
        _listeners.append(self._here)
        return self

    def __exit__(self, *error: object) -> None:
        _listeners.remove(self._here)
        self._ended.set()
        self._bar.close()

    def case_done(self) -> None:
        """A case is finished."""
        self._finished += 1
        self._show(0.0, "")

    def watch(self, folder: Path) -> None:
        """Follow the workers that leave word in a folder."""
        threading.Thread(target=self._poll, args=(folder,), daemon=True).start()

    def _here(self, fraction: float, what: str) -> None:
        self._show(fraction, what)

    def _poll(self, folder: Path) -> None:
        while not self._ended.wait(_POLL_SECONDS):
            words = []
            for path in sorted(folder.glob("*.now")):
                with suppress(OSError, ValueError):
                    fraction, what = path.read_text(encoding="utf-8").split(" ", 1)
                    words.append((float(fraction), what))
            if words:
                self._show(sum(fraction for fraction, _ in words), "; ".join(what for _, what in words if what))

    def _show(self, fraction: float, what: str) -> None:
        if not self._bar.disable:
            self._bar.n = min(self._finished + fraction, self._bar.total)
            self._bar.set_postfix_str(printable(what[:60]))
