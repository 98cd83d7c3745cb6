"""Works that `endurance` kills at random moments, each in a fork of a process that has done it once."""

import contextlib
import io
import json
import multiprocessing
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import torch
from evaluation_cases import memory_case
from make_dicom import write_series
from mask_scene import series
from safetensors.torch import save_file
from small_run import run
from threshold_network import ThresholdNetwork

import seganypet as sap
from seganypet import _files
from seganypet.cohort.annotation import Annotation
from seganypet.study.conversion import convert
from seganypet.training import loop
from seganypet.training.bookkeeping import write_whole
from seganypet.training.config import DataConfig, TrainConfig, ValidationConfig

AFFINE = np.diag([-2.04, 2.04, 3.0, 1.0])
NETWORK = sap.ModelConfig(
    window_size=32, spacing_mm=8.0, encoder_dim=24, encoder_depth=1, encoder_heads=2, prompt_dim=48, decoder_mlp_dim=32
)  # fmt: skip
TRAINING = TrainConfig(
    "short", epochs=2, steps_per_epoch=3, batch_size=2, prompts=2, max_clicks=3, targets_per_window=2, warm_up=1,
    model=NETWORK, validation=ValidationConfig(phantoms=0),
)  # fmt: skip


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


def _identify(header: pydicom.Dataset, k: int, patient: str) -> None:
    header.PatientID, header.StudyInstanceUID = patient, f"1.2.3.{patient[1:]}"


def _convert(out: Path) -> None:
    source = out.parent / "dicom"
    if not source.exists():
        for seed in range(3):
            stored = np.random.default_rng(seed).integers(0, 9000, (9, 8, 6))
            identify = partial(_identify, patient=f"p{seed}")
            write_series(source / f"study{seed}", stored, AFFINE, change=identify)
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
        sap.save_masks(out / "masks.seg.nrrd", session.masks, session.volume)
        for name in ("mask.nii.gz", "clicks.json", "masks.seg.nrrd"):
            assert (out / name).is_file()


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


def _export(out: Path) -> None:
    source = out.parent / "series"
    session = sap.ThresholdSession(sap.load_dicom(source) if source.exists() else series(source))
    session.click(ijk=np.unravel_index(session.volume.data.argmax(), session.volume.shape))
    sap.write_report(out / "report.html", session)
    for name in ("masks.seg.nrrd", "masks.stl", "seg.dcm", "rtstruct.dcm"):
        sap.save_masks(out / name, session.masks, session.volume)


@dataclass(frozen=True)
class _Recipe:
    name: str = "recipe"
    steps: int = 30
    learning_rate: float = 0.01
    warm_up: int = 2
    weight_decay: float = 0.01
    ema: float = 0.9
    checkpoint_every: int = 1


def _recipe(out: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(300, 300)

    def losses(first: int, last: int) -> Iterator[dict[str, torch.Tensor]]:
        for step in range(first, last):
            yield {"loss": model(torch.randn(8, 300, generator=torch.Generator().manual_seed(step))).square().mean()}

    def export(path: Path, average: dict[str, torch.Tensor], metadata: dict[str, object]) -> None:
        write_whole(path, partial(save_file, average))

    run(_Recipe(), model, losses, export, out, ("step", "loss", "seconds"), progress=False)


WORKS: dict[str, Callable[[Path], None]] = {
    "evaluate": _evaluate, "tumours": _tumours, "interactive": _interactive, "quantify": _quantify, "convert": _convert,
    "session": _session, "export": _export, "annotate": _annotate, "train": _train, "recipe": _recipe,
}  # fmt: skip


def _run(work: Callable[[Path], None], out: Path) -> None:
    _files._SWEPT.clear()  # as a process that has just begun
    sink = io.StringIO()
    with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        work(out)


def _fork(work: Callable[[Path], None], out: Path, patience: float | None) -> bool:
    """Do a work in a process of its own; True if that had to be killed, after `patience` seconds."""
    process = multiprocessing.get_context("fork").Process(target=_run_in_fork, args=(work, out))
    try:
        with _uninterrupted():  # a fork that nobody knows of yet would go on to write where everything is removed
            process.start()
        process.join(patience)
        killed = process.exitcode is None
    finally:
        with _uninterrupted():
            if process.pid is not None:
                process.kill()
                process.join()
    return killed


def _run_in_fork(work: Callable[[Path], None], out: Path) -> None:
    end_with_parent()
    _run(work, out)


def end_with_parent() -> None:
    """Interrupt this process, as Ctrl-C does, once its parent is gone: one that was killed cannot."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # that thread alone may let it wait

    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let what they start with & ignore it
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # a fork begins with its parent's mask
    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let an interrupt wait until the end of the block, at which it is raised."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


TIMES = ("minutes", "wait_fraction")  # of columns whose names do not say seconds


def results(folder: Path) -> dict[str, object]:
    """What a work has made, without times, and without numbers that DICOM wants new in each file."""
    found: dict[str, object] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name, content = str(path.relative_to(folder)), path.read_bytes()
        if path.suffix == ".csv":
            table = pd.read_csv(path)
            kept = [column for column in table if "seconds" not in column and column not in TIMES]
            found[name] = table[kept].to_csv()
        elif path.name == "progress.json":
            found[name] = {key: value for key, value in json.loads(content).items() if key != "minutes"}
        elif path.suffix == ".dcm":
            header = pydicom.dcmread(path)
            found[name] = repr(header.get("ROIContourSequence", header.get("PixelData")))
        elif path.suffix == ".html":
            found[name] = re.sub(rb"\d{4}-\d\d-\d\dT[\d:+]+", b"", content)
        elif path.suffix not in (".jsonl", ".ckpt", ".png", ".pt"):
            found[name] = content
    return found


def left_behind(folder: Path) -> list[str]:
    """Files and folders that only a running process needs."""
    return [path.name for kind in (_files.UNFINISHED, _files.TEMPORARY) for path in folder.rglob(f"{kind}*")]


def rounds_of(name: str, times: int, dice: random.Random, begun: str = "*") -> Iterator[tuple[int, bool, int, int]]:
    """Kill a work `times` times, at random moments, and let it finish; again and again.

    Args:
        name: Name of the work.
        times: Number of kills in a round, at most.
        dice: Source of the moments.
        begun: Pattern of a file without which nothing would be resumed; a kill before there is one does not count.

    Yields:
        Number of kills that met it alive, whether its results differ from those of a run that nobody kills, and number
        of files that the kills left, and of those that are still there after the round.
    """
    torch.set_num_threads(1)  # a fork of a process whose PyTorch has used several would hang
    work, earlier = WORKS[name], tempfile.tempdir
    with contextlib.ExitStack() as stack:
        with _uninterrupted():  # a folder that is made but not yet known would stay
            folder = stack.enter_context(tempfile.TemporaryDirectory())
        whole, out, temporary = (Path(folder) / each for each in ("whole", "killed", "temporary"))
        whole.mkdir()
        temporary.mkdir()
        tempfile.tempdir = str(temporary)
        try:
            _run(work, whole)  # imports what forks would import again and again
            expected, seconds = results(whole), 0.0
            while True:
                shutil.rmtree(out, ignore_errors=True)
                out.mkdir()
                killed, left = 0, set[str]()
                began = time.monotonic()
                for patience in [*(dice.random() * 1.1 * seconds for _ in range(times if seconds else 0)), None]:
                    met = _fork(work, out, patience)
                    killed += met and any(out.glob(begun))
                    left |= set(left_behind(Path(folder)))
                seconds = seconds or time.monotonic() - began
                found = results(out)
                if others := [one for one in found.keys() | expected.keys() if found.get(one) != expected.get(one)]:
                    print(f"{name}: other results in {', '.join(sorted(others))}", file=sys.stderr, flush=True)
                yield killed, bool(others), len(left), len(left_behind(Path(folder)))
        finally:
            tempfile.tempdir = earlier
