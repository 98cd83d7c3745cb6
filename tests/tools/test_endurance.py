"""Kills find what is planted, and leave nothing of the tool itself behind."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import endurance_kills
import pytest
from conftest import REPOSITORY

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the system lists no processes in /proc")


def once_more(out: Path) -> None:
    """Makes another file each time that it is started."""
    (out / str(len(list(out.iterdir())))).write_text("")
    time.sleep(0.5)


def litter(out: Path) -> None:
    """Leaves a folder each time that it is killed."""
    (out / "begun").touch()
    folder = tempfile.mkdtemp(prefix=endurance_kills._files.TEMPORARY)
    time.sleep(0.5)
    os.rmdir(folder)


@pytest.mark.parametrize(("work", "differs"), [(once_more, True), (litter, False)])
def test_other_results_and_files_left_behind_are_counted(monkeypatch, capsys, work, differs):
    monkeypatch.setitem(endurance_kills.WORKS, "planted", work)
    rounds = endurance_kills.rounds_of("planted", 3, random.Random(0))
    assert next(rounds) == (0, False, 0, 0)  # how long it takes
    killed, found, left, behind = next(rounds)
    rounds.close()
    assert killed > 0 and found == differs and left == behind <= killed and (left == 0) == differs
    assert ("planted: other results in 1" in capsys.readouterr().err) == differs


@pytest.mark.slow
def test_a_part_ends_with_the_tool_that_is_killed_and_leaves_nothing(tmp_path):
    tool = REPOSITORY / "tools" / "endurance.py"
    run = subprocess.Popen(
        [sys.executable, tool, "--parts", "kills", "--kills", "10"], env=os.environ | {"TMPDIR": str(tmp_path)},
        cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, preexec_fn=ignore_interrupts,
    )  # fmt: skip
    assert "kills, other results 0 times" in run.stderr.readline()  # the next work is begun
    assert soon(lambda: list(tmp_path.iterdir()))  # between two works there is none
    part = descendants(run.pid)
    assert part
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert soon(lambda: not [one for one in part if Path(f"/proc/{one}").exists()])
    assert not list(tmp_path.iterdir())


def test_an_interrupt_waits_until_what_must_not_be_cut_is_done():
    done, earlier = [], signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs with & ignores it
    try:
        with pytest.raises(KeyboardInterrupt), endurance_kills._uninterrupted():
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            done.append("folder")
    finally:
        signal.signal(signal.SIGINT, earlier)
    assert done == ["folder"]


def soon(holds: Callable[[], object], seconds: float = 30.0) -> bool:
    """Whether something comes to hold within some seconds."""
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(holds())


def ignore_interrupts() -> None:
    """As a shell does for what it starts with &."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def descendants(process: int) -> list[int]:
    """Processes that another one started, and theirs."""
    children = [int(one) for one in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    return children + [one for child in children for one in descendants(child)]
