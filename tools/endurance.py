"""What a working day does to the package: many cases, many clicks, large scans, and processes that are killed.

`python tools/endurance.py`, or `make endurance`: each part prints what it measured beside what is demanded, and the
exit code is 1 if something misses. `--parts memory annotation clicks kills trainings app` chooses, `--kills 200` says
how many. Memory is the resident set of the part's process; a killed process is a fork of one that has imported
everything.
"""

import argparse
import contextlib
import gc
import io
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from evaluation_cases import memory_case
from make_dicom import write_series
from threshold_network import ThresholdNetwork

import seganypet as sap
from seganypet import _files
from seganypet.cohort.annotation import Annotation
from seganypet.study.conversion import convert
from seganypet.training import loop
from seganypet.training.config import DataConfig, TrainConfig, ValidationConfig
from seganypet.widgets.annotate import AnnotationWidget
from seganypet.widgets.click import ClickWidget

AFFINE = np.diag([-2.04, 2.04, 3.0, 1.0])
AUTOPET, TOTAL_BODY = (400, 400, 326), (400, 400, 1000)
NETWORK = sap.ModelConfig(
    window_size=32, spacing_mm=8.0, encoder_dim=24, encoder_depth=1, encoder_heads=2, prompt_dim=48, decoder_mlp_dim=32
)  # fmt: skip
TRAINING = TrainConfig(
    "short", epochs=2, steps_per_epoch=3, batch_size=2, prompts=2, max_clicks=3, targets_per_window=2, warm_up=1,
    model=NETWORK, validation=ValidationConfig(phantoms=0),
)  # fmt: skip


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


# ---- kills


def _evaluate(out: Path) -> None:
    cases = [memory_case(name) for name in "abcd"]
    rules = ["41% SUVmax"]
    sap.evaluate(cases, None, 3, rules=rules, output=out / "table.csv", save_masks=out / "masks", progress=False)


def _tumours(out: Path) -> None:
    cases = [memory_case(name) for name in "abcd"]
    sap.analyse_tumours(cases, None, rules=["41% SUVmax"], output=out / "table.csv", progress=False)


def _interactive(out: Path) -> None:
    cases = [memory_case(name) for name in "abcd"]
    sap.evaluate_interactive(cases, None, rules=["41% SUVmax"], edition="V", output=out / "table.csv", progress=False)


def _convert(out: Path) -> None:
    source = out.parent / "dicom"
    if not source.exists():
        for seed in range(3):
            stored = np.random.default_rng(seed).integers(0, 9000, (9, 8, 6))
            write_series(source / f"study{seed}", stored, AFFINE)
    convert(source, out, progress=False)


def _quantify(out: Path) -> None:
    sap.quantify_cohort([memory_case(name) for name in "abcd"], output=out / "table.csv", progress=False)


def _session(out: Path) -> None:
    session = sap.ThresholdSession(memory_case().pet)
    for number in range(10):
        session.select(f"object {number}")
        session.click(ijk=(4, 4, 4 + number))
        session.save(out / "mask.nii.gz")
        session.save_journal(out / "clicks.json")
        for path in (out / "mask.nii.gz", out / "clicks.json"):
            assert path.is_file()


def _annotate(out: Path) -> None:
    path = out.parent / "pet.nii"
    if not path.exists():
        sap.save_volume(path, memory_case().pet)
    cohort = sap.Cohort([sap.Case(f"case{n}", f"p{n}", path, "SUVbw") for n in range(3)])
    work = Annotation(cohort, ThresholdNetwork(), out, annotator="A. B.", targets=["liver"])
    for name in work.remaining:
        session = work.open(name)
        session.select("liver")
        for number in range(len(session.prompts), 4):
            session.click(ijk=(3 + number, 4, 4))
        work.finish()


def _train(out: Path) -> None:
    loop.CHECKPOINT_SECONDS = 0
    table, case = out.parent / "cohort.csv", memory_case()
    if not table.exists():
        files = {name: out.parent / f"{name}.nii" for name in ("scan", "organs")}
        sap.save_volume(files["scan"], case.pet)
        sap.save_mask(files["organs"], case.organs, case.pet)
        known = {"organs": files["organs"], "organ_convention": "seganypet", "quality": "HQ", "split": "train"}
        sap.Cohort([sap.Case(case.name, case.patient, files["scan"], "SUVbw", **known)]).to_csv(table)
    sap.train(replace(TRAINING, data=DataConfig(cohort=str(table), windows_per_case=3)), out, processes=1)


WORKS: dict[str, Callable[[Path], None]] = {
    "evaluate": _evaluate, "tumours": _tumours, "interactive": _interactive, "quantify": _quantify, "convert": _convert,
    "session": _session, "annotate": _annotate, "train": _train,
}  # fmt: skip


def _run(work: Callable[[Path], None], out: Path) -> None:
    _files._SWEPT.clear()  # as a process that has just begun
    sink = io.StringIO()
    with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        work(out)


TIMES = ("minutes", "wait_fraction")  # of columns whose names do not say seconds


def results(folder: Path) -> dict[str, object]:
    """What a work has made, without the times that it took."""
    found: dict[str, object] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name, content = str(path.relative_to(folder)), path.read_bytes()
        if path.suffix == ".csv":
            table = pd.read_csv(path)
            kept = [column for column in table if "seconds" not in column and column not in TIMES]
            found[name] = table[kept].to_csv()
        elif path.name == "progress.json":
            found[name] = {key: value for key, value in json.loads(content).items() if key != "minutes"}
        elif path.suffix not in (".jsonl", ".ckpt", ".png", ".pt"):
            found[name] = content
    return found


def left_behind(folder: Path) -> list[str]:
    """Files that only a running process needs."""
    return [path.name for path in folder.rglob(".unfinished-*")]


def rounds_of(name: str, times: int, dice: random.Random) -> Iterator[tuple[int, bool, int]]:
    """Kill a work `times` times, at random moments, and let it finish; again and again.

    Yields:
        Number of kills that met it alive, whether its results differ from those of a run that nobody kills, and number
        of files that were left behind.
    """
    fork, work = multiprocessing.get_context("fork"), WORKS[name]
    with tempfile.TemporaryDirectory() as folder:
        whole, out = Path(folder) / "whole", Path(folder) / "killed"
        whole.mkdir()
        began = time.monotonic()
        process = fork.Process(target=_run, args=(work, whole))
        process.start()
        process.join()
        seconds, expected = time.monotonic() - began, results(whole)
        while True:
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            killed = 0
            for patience in [*(dice.random() * 1.1 * seconds for _ in range(times)), None]:
                process = fork.Process(target=_run, args=(work, out))
                process.start()
                process.join(patience)
                if process.exitcode is None:
                    os.kill(process.pid, signal.SIGKILL)
                    killed += 1
                process.join()
            found = results(out)
            if others := [one for one in found.keys() | expected.keys() if found.get(one) != expected.get(one)]:
                print(f"{name}: other results in {', '.join(sorted(others))}", file=sys.stderr, flush=True)
            yield killed, bool(others), len(left_behind(out))


def kills(count: int = 200) -> Iterator[tuple[str, float, float]]:
    """Each work, killed until that was often enough."""
    dice, each, differ, left = random.Random(0), -(-count // len(WORKS)), 0, 0
    for name in WORKS:
        began, killed = time.monotonic(), 0
        for number, differs, behind in islice(rounds_of(name, 4, dice), 5 * each):  # some end before they are killed
            killed, differ, left = killed + number, differ + differs, left + behind
            if killed >= each:
                break
        print(f"{name}: {killed} kills, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    yield "works with other results after kills", differ, 0
    yield "files left behind after the next start", left, 0


def trainings(count: int = 20) -> Iterator[tuple[str, float, float]]:
    """Trainings, each killed once and resumed."""
    resumed = differ = 0
    for number, differs, _ in islice(rounds_of("train", 1, random.Random(1)), 5 * count):
        resumed, differ = resumed + number, differ + (differs and number)
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
