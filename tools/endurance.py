"""What a working day does to the package: many cases, many clicks, large scans, and processes that are killed.

`python tools/endurance.py`, or `make endurance`: each part prints what it measured beside what is demanded, and the
exit code is 1 if something misses. `--parts memory annotation clicks kills trainings app` chooses, `--kills 200` says
how many. Memory is the resident set of the part's process; a killed process is a fork of one that has done the same
work once, so that it has imported everything.
"""

import argparse
import gc
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from endurance_kills import WORKS, end_with_parent, rounds_of
from threshold_network import ThresholdNetwork

import seganypet as sap
from seganypet.cohort.annotation import Annotation
from seganypet.widgets.annotate import AnnotationWidget
from seganypet.widgets.click import ClickWidget

AFFINE = np.diag([-2.04, 2.04, 3.0, 1.0])
AUTOPET, TOTAL_BODY = (400, 400, 326), (400, 400, 1000)


def scan(shape: tuple[int, int, int], seed: int = 0) -> sap.Volume:
    """Noise of about 1 SUV with a hot block in the middle."""
    data = np.random.default_rng(seed).random(shape, np.float32)
    middle = tuple(slice(size // 2 - 5, size // 2 + 5) for size in shape)
    data[middle] += 8
    return sap.Volume(data, AFFINE, "SUVbw", source=f"scan {seed}")


def memory_mb(peak: bool = False) -> float:
    """Resident memory of this process, now or at its peak since `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM" if peak else "VmRSS")).split()[1]) / 1024


def forget_peak() -> None:
    """Begin to measure the peak anew."""
    Path("/proc/self/clear_refs").write_text("5")


def memory() -> Iterator[tuple[str, float, float]]:
    """A total-body scan of 0.64 GB in the widget: what was measured, MB, and at most."""
    volume = scan(TOTAL_BODY)
    session = sap.ThresholdSession(volume)
    gc.collect()
    forget_peak()
    widget = ClickWidget(session)
    yield "peak with a 400 x 400 x 1000 scan in the widget", memory_mb(peak=True), 2000
    widget.click(ijk=tuple(size // 2 for size in TOTAL_BODY))
    yield "peak after a click", memory_mb(peak=True), 2000
    widget.close()


def annotation(cases: int = 30) -> Iterator[tuple[str, float, float]]:
    """Cases of AutoPET's size, one after the other, each clicked and finished."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pet.nii"
        sap.save_volume(path, scan(AUTOPET))
        cohort = sap.Cohort([sap.Case(f"case{n}", f"p{n}", path, "SUVbw") for n in range(cases)])
        widget = AnnotationWidget(
            Annotation(cohort, ThresholdNetwork(), Path(folder) / "work", annotator="A. B.", targets=["liver"])
        )
        used = []
        for _ in range(cases):
            widget.select("liver")
            widget.click_widget.click(ijk=tuple(size // 2 for size in AUTOPET))
            widget.finish()
            gc.collect()
            used.append(memory_mb())
        yield f"memory after {cases} annotated cases, above that after 3", used[-1] - used[2], 300


def clicks(count: int = 500) -> Iterator[tuple[str, float, float]]:
    """Clicks, with a new widget every ten and undo of each second one."""
    session = sap.ThresholdSession(scan((200, 200, 160)))
    rng = random.Random(0)
    used = []
    for number in range(count):
        if number % 10 == 0:
            widget = ClickWidget(session)
        widget.click(ijk=tuple(rng.randrange(size // 2 - 4, size // 2 + 4) for size in session.volume.shape))
        if number % 2:
            widget.undo()
        if number % 10 == 9:
            widget.close()
            gc.collect()
            used.append(memory_mb())
    yield f"memory after {count} clicks, above that after 50", used[-1] - used[4], 50


def kills(count: int = 200) -> Iterator[tuple[str, float, float]]:
    """Each work, killed until that was often enough."""
    dice, each, total = random.Random(0), -(-count // len(WORKS)), np.zeros(4, int)
    for name in WORKS:
        began, of_work = time.monotonic(), np.zeros(4, int)
        for outcome in islice(rounds_of(name, 4, dice), 5 * each):  # some end before they are killed
            of_work += outcome
            if of_work[0] >= each:
                break
        killed, differ, left, behind = of_work
        seconds = time.monotonic() - began
        print(
            f"{name}: {killed} kills, other results {differ} times, {left} files left by kills, {behind} of them still "
            f"there after the next start, {seconds:.0f} s", file=sys.stderr, flush=True,
        )  # fmt: skip
        total += of_work
    yield "kills that are missing", max(count - total[0], 0), 0
    yield f"of {total[0]} kills, works with other results", total[1], 0
    yield f"of {total[2]} files that they left, those still there after the next start", total[3], 0


def trainings(count: int = 20) -> Iterator[tuple[str, float, float]]:
    """Trainings, each killed once after its first checkpoint and resumed."""
    resumed = differ = 0
    for killed, differs, _, _ in islice(rounds_of("train", 1, random.Random(1), "*.ckpt"), 5 * count):
        resumed, differ = resumed + killed, differ + (differs and killed)
        if resumed == count:
            break
    yield "trainings that were not resumed", count - resumed, 0
    yield f"of {resumed} resumed trainings, those with other weights or another log", differ, 0


def app(people: int = 8) -> Iterator[tuple[str, float, float]]:
    """Eight people at one app, one of them hostile."""
    from endurance_app import meet

    seconds, rounds, server_mb, person_mb = meet(people)
    yield (
        f"of {people - 1} people, those who could not click, during {rounds} rounds of attacks",
        sum(not one for one in seconds),
        0,
    )
    yield "slowest of their clicks, s", max(map(max, seconds)), 20
    yield "memory of the server at its peak, MB", server_mb, 1000
    yield "memory of one person's kernel, a whole body with its CT, MB", person_mb, 2500


PARTS = {
    "memory": memory, "annotation": annotation, "clicks": clicks, "kills": kills, "trainings": trainings, "app": app,
}  # fmt: skip


def _measure(part: str, options: dict[str, int], connection) -> None:
    end_with_parent()
    for row in PARTS[part](**options):
        connection.send(row)
    connection.send(None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--kills", type=int, default=200, help="number of kills, over all works")
    parser.add_argument("--trainings", type=int, default=20, help="number of trainings that are killed once each")
    parser.add_argument("--cases", type=int, default=30, help="number of cases that are annotated")
    parser.add_argument("--clicks", type=int, default=500, help="number of clicks")
    given = parser.parse_args()
    options = {
        "annotation": {"cases": given.cases}, "clicks": {"count": given.clicks}, "kills": {"count": given.kills},
        "trainings": {"count": given.trainings},
    }  # fmt: skip
    missed = False
    for part in given.parts:  # each in a process of its own, so that one's memory is not another's
        receiver, sender = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("spawn").Process(
            target=_measure, args=(part, options.get(part, {}), sender)
        )
        process.start()
        sender.close()
        try:
            while (row := receiver.recv()) is not None:
                what, measured, most = row
                missed |= measured > most
                print(f"{'ok  ' if measured <= most else 'MISS'} {part}: {what}: {measured:.0f} (at most {most:.0f})")
        except EOFError:
            missed = True
            print(f"MISS {part}: ended with an error")
        process.join()
    sys.exit(missed)


if __name__ == "__main__":
    main()
