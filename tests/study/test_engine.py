"""One engine for all studies: a table that survives kills, follows changed files, and is the same whoever makes it."""

import contextlib
import json
import logging
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from conftest import REPOSITORY
from toy_study import Above, ByteCase, byte_cases, count_bytes

from seganypet import _files
from seganypet._files import only_writer
from seganypet.errors import SegAnyPETError
from seganypet.study import engine, progress, store, workers

SAME = pd.testing.assert_frame_equal


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "scans").mkdir()
    return tmp_path / "scans"


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """What was measured since the last call, in order."""
    log = tmp_path / "measured.log"
    monkeypatch.setenv("TOY_LOG", str(log))

    def since() -> list[str]:
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    return since


def start(output: Path, folder: Path, processes: int, seconds: float = 0.05) -> subprocess.Popen:
    """The toy study in a program of its own, which can be killed."""
    environment = os.environ | {"PYTHONPATH": f"{REPOSITORY / 'tests'}{os.pathsep}{REPOSITORY}"}
    command = [sys.executable, REPOSITORY / "tests" / "toy_study.py", output, folder, str(processes)]
    return subprocess.Popen(
        [*map(str, command)], env=environment | {"TOY_SECONDS": str(seconds)}, stderr=subprocess.PIPE, text=True,
        preexec_fn=heed_interrupts,
    )  # fmt: skip


def heed_interrupts() -> None:
    """As in a terminal: what runs with & ignores them, and so does what it starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_bar_names_what_is_measured_and_estimates_the_end(folder, monkeypatch, capsys, processes):
    monkeypatch.setenv("TOY_SECONDS", "0.7")
    monkeypatch.setattr(progress, "_POLL_SECONDS", 0.05)
    count_bytes(byte_cases(folder, "ab"), processes=processes, progress=True)
    drawn = capsys.readouterr().err.split("\r")
    halfway = re.compile(r"(0\.5|1\.0|1\.5)/2 \[\d\d:\d\d<\d\d:\d\d\].*\b[ab], above 100")
    assert any(map(halfway.search, drawn)), drawn
    assert "2.0/2" in drawn[-1]


# ---- a study of a few lines


def test_a_study_is_columns_settings_and_a_function(folder, tmp_path):
    table = count_bytes(byte_cases(folder), output=tmp_path / "table.csv")
    place = ["device", "precision", "threads", "host"]
    assert list(table.columns) == ["case", "patient", "model", "rank", "third", "weights", *place, "error"]
    assert table[["model", "rank", "third", "error"]].dtypes.tolist() == ["string", "Int64", "float64", "string"]
    expected = [(case.name, f"above {level}", byte / 3) for case in byte_cases(folder) for level in (50, 100)
                for byte in sorted(case.scan.read_bytes()) if byte > level]  # fmt: skip
    assert table[["case", "model", "third"]].to_numpy().tolist() == [list(row) for row in expected]
    assert pd.read_csv(tmp_path / "table.csv")["third"].tolist() == table["third"].tolist()
    SAME(count_bytes(byte_cases(folder)), table)  # without a file too


def test_only_added_cases_and_methods_are_measured(folder, tmp_path, measured):
    output, cases = tmp_path / "table.csv", byte_cases(folder)
    count_bytes(cases[1:3], [100], output=output)
    assert measured() == ["b, above 100", "c, above 100"]
    count_bytes(cases[1:3], [50, 100], output=output)
    assert measured() == ["b, above 50", "c, above 50"]
    table = count_bytes(cases, [50, 100], output=output)
    assert measured() == ["a, above 50", "a, above 100", "d, above 50", "d, above 100"]
    SAME(table, count_bytes(cases))  # in the order of one uninterrupted run
    SAME(count_bytes(cases, [50, 100], output=output), table)
    assert len(measured()) == 8  # by the run without a file
    assert pd.read_csv(output)["third"].tolist() == table["third"].tolist()
    # What was not asked for stays in the file and is not returned.
    assert set(count_bytes(cases[:1], [50], output=output)["case"]) == {"a"}
    assert len(pd.read_csv(output)) == len(table) and not measured()
    assert set(count_bytes(cases, limit=2)["case"]) == {"a", "b"}


def test_rows_are_appended_and_nothing_is_rewritten_for_each_case(folder, tmp_path, monkeypatch):
    output, sizes, files = tmp_path / "table.csv", [], set()
    append = engine.ResultStore.append

    def watched(store, key, rows, **record):
        append(store, key, rows, **record)
        sizes.append(output.stat().st_size)
        files.add(output.stat().st_ino)

    monkeypatch.setattr(engine.ResultStore, "append", watched)
    count_bytes(byte_cases(folder), output=output)
    assert sizes == sorted(sizes) and len(files) == 1


# ---- what a case is


def test_a_changed_file_is_measured_again_even_if_its_size_and_time_are_as_before(folder, tmp_path, measured):
    output, cases = tmp_path / "table.csv", byte_cases(folder)
    count_bytes(cases, output=output)
    measured()
    old = cases[1].scan.stat()
    cases[1].scan.write_bytes(cases[1].scan.read_bytes()[::-1].replace(b"\0", b"\xff"))
    os.utime(cases[1].scan, ns=(old.st_atime_ns, old.st_mtime_ns))
    assert cases[1].scan.stat().st_size == old.st_size and cases[1].scan.stat().st_mtime_ns == old.st_mtime_ns
    with pytest.warns(UserWarning, match="case b is measured again: scan changed since .*table.csv was written"):
        table = count_bytes(cases, output=output)
    assert measured() == ["b, above 50", "b, above 100"]
    SAME(table, count_bytes(cases))
    assert len(pd.read_csv(output)) == len(table)  # replaced, not added


def test_an_unchanged_file_is_not_read_again(folder, tmp_path, monkeypatch):
    output, cases = tmp_path / "table.csv", byte_cases(folder)
    hashed = []
    digest = engine.FileHashes.sha256.__globals__["hashlib"].file_digest
    monkeypatch.setattr("hashlib.file_digest", lambda file, name: (hashed.append(file.name), digest(file, name))[1])
    monkeypatch.setattr("seganypet._files._SETTLED_NS", -1)
    count_bytes(cases, output=output)
    assert len(hashed) == 4  # once for both methods
    count_bytes(cases, [50, 100, 120], output=output)
    assert len(hashed) == 4


def test_a_moved_or_copied_folder_is_not_measured_again(folder, tmp_path, measured):
    output, cases = tmp_path / "table.csv", byte_cases(folder)
    table = count_bytes(cases, output=output)
    measured()
    shutil.copytree(folder, tmp_path / "copy")
    folder.rename(tmp_path / "moved")
    for elsewhere in ("copy", "moved"):
        again = [replace(case, scan=tmp_path / elsewhere / case.name) for case in cases]
        SAME(count_bytes(again, output=output), table)
    assert not measured()


def test_arrays_folders_and_settings_of_a_case_count(tmp_path):
    from evaluation_cases import memory_case

    from seganypet.cohort.case import Case, CTCase

    def what(case, reads=None) -> dict:
        study = engine.Study("any", {}, {}, None, reads=lambda case, method: reads or {})
        return engine._inputs(study, case, study.methods, engine.FileHashes())[""]

    case, changed = memory_case(), memory_case()
    assert what(case) == what(memory_case())
    changed.organs[0, 0, 0] = 1
    assert {name for name in what(case) if what(case)[name] != what(changed)[name]} == {"organs"}
    changed = memory_case()
    changed.pet.data[0, 0, 0] = 1.5
    assert {name for name in what(case) if what(case)[name] != what(changed)[name]} == {"pet"}
    for name in ("pet", "ct", "organs"):
        (tmp_path / name).write_text(name)
    on_disk = Case("a", "p", tmp_path / "pet", "SUVbw", ct=tmp_path / "ct", organs=tmp_path / "organs")
    for change in ({"pet_unit": "Bq/mL"}, {"organ_convention": "seganypet"}, {"patient": "q"}, {"organs": None}):
        assert what(replace(on_disk, **change)) != what(on_disk)
    assert what(replace(on_disk, split="test")) == what(on_disk)
    before = what(CTCase(on_disk)), what(on_disk), what(on_disk, {"clicks": tmp_path})
    assert what(CTCase(on_disk, register=True)) != before[0]
    (tmp_path / "ct").write_text("another CT")
    assert what(CTCase(on_disk)) != before[0] and what(on_disk) == before[1]
    assert what(on_disk, {"clicks": tmp_path}) != before[2]  # a folder counts with all its files


# ---- kills


def test_a_run_that_is_killed_anywhere_resumes_to_the_same_table(folder, tmp_path, measured):
    cases, output = byte_cases(folder), tmp_path / "table.csv"
    whole = count_bytes(cases)
    measured()
    rng, kills = random.Random(3), 0
    for processes in (1, 1, 1, 2, 2):
        run = start(output, folder, processes, 0.03)
        deadline = time.monotonic() + 30
        while not output.exists() and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.1)
        kills += run.poll() is None
        run.kill()
        run.communicate()
    assert kills
    times = measured()
    resumed = count_bytes(cases, output=output)
    SAME(resumed, whole)
    assert len(times) + len(measured()) <= 8 + 5 * 4  # a kill costs what was at work, no more
    assert not pd.read_csv(output).duplicated().any()


def test_files_cut_at_any_byte_are_completed_to_the_whole_table(folder, tmp_path):
    cases, whole, output = byte_cases(folder, "ab"), tmp_path / "whole.csv", tmp_path / "cut.csv"
    cases[1] = replace(cases[1], name='b, "2"', patient="NA")
    table = count_bytes(cases, output=whole)
    beside, rng = tmp_path / "whole.csv.jsonl", random.Random(1)
    csv, notes = whole.read_bytes(), beside.read_bytes()
    first = notes.index(b"\n") + 1
    for _ in range(60):
        output.write_bytes(csv[: rng.choice([len(csv), rng.randrange(len(csv))])])
        notes_end = rng.choice([len(notes), rng.randrange(first, len(notes))])
        output.with_name("cut.csv.jsonl").write_bytes(notes[:notes_end])
        SAME(count_bytes(cases, output=output), table)
        assert output.read_bytes() == csv


def test_a_unit_without_its_line_or_its_rows_is_measured_again(folder, tmp_path, measured):
    cases, output = byte_cases(folder), tmp_path / "table.csv"
    table = count_bytes(cases, output=output)
    measured()
    beside = tmp_path / "table.csv.jsonl"
    lines = beside.read_text().splitlines(keepends=True)
    beside.write_text("".join(line for line in lines if '"b"' not in line))
    SAME(count_bytes(cases, output=output), table)
    assert measured() == ["b, above 50", "b, above 100"]
    output.unlink()
    SAME(count_bytes(cases, output=output), table)
    assert len(measured()) == 8


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="the system does not list its processes in /proc")
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_worker_outlives_its_parent(folder, tmp_path, signal_number):
    """Whatever ends the parent, while workers are at work for minutes; and an interrupt ends all in seconds."""
    output = tmp_path / "table.csv"
    byte_cases(folder)
    run = start(output, folder, 2, 120)
    deadline = time.monotonic() + 60
    while len(children_at_work(run.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    found = children_at_work(run.pid)
    assert len(found) >= 2
    time.sleep(0.5)
    sent = time.monotonic()
    run.send_signal(signal_number)
    run.communicate(timeout=10)
    while any(map(alive, found)) and time.monotonic() < sent + 20:
        time.sleep(0.1)
    assert time.monotonic() - sent < 10 and not any(map(alive, found))
    SAME(count_bytes(byte_cases(folder), output=output), count_bytes(byte_cases(folder)))  # nobody holds the lock


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="the system does not list its processes in /proc")
def test_the_next_run_removes_what_a_run_left_that_was_killed_with_its_workers(folder, tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(_files, "_SWEPT", set())
    byte_cases(folder)
    run = start(tmp_path / "table.csv", folder, 2, 120)
    deadline = time.monotonic() + 60
    while len(found := children_at_work(run.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    for number in (signal.SIGSTOP, signal.SIGKILL):  # a stopped one cannot tidy up
        for process in found:
            os.kill(process, number)
        run.kill()
    run.communicate()
    assert list(temporary.glob("seganypet-*"))
    count_bytes(byte_cases(folder), processes=2)
    assert not list(temporary.glob("seganypet-*"))


def children_at_work(parent: int) -> list[int]:
    """Processes that were started by another one and call the engine, without loky's tracker."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            stat = (process / "stat").read_text().rpartition(")")[2].split()
            if int(stat[1]) == parent and "popen_loky" in (process / "cmdline").read_text():
                found.append(int(process.name))
    return found


def alive(process: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


# ---- what is refused


def test_each_setting_that_differs_is_named_and_the_files_stay(folder, tmp_path, monkeypatch):
    output, cases = tmp_path / "table.csv", byte_cases(folder)
    count_bytes(cases, weights="0123", output=output)
    before = output.read_bytes(), (tmp_path / "table.csv.jsonl").read_bytes()
    with pytest.raises(SegAnyPETError, match="made with start 1; now asked for is start 3. Choose another output"):
        count_bytes(cases, start=3, output=output)
    with pytest.raises(SegAnyPETError, match="'above 50' with weights 0123, while .* one with weights 4567; choose"):
        count_bytes(cases, weights="4567", output=output)
    monkeypatch.setattr(engine, "__version__", "9.9")
    with pytest.raises(SegAnyPETError, match="made with version .*; now asked for is version 9.9. Choose"):
        count_bytes(cases, weights="0123", output=output)
    assert (output.read_bytes(), (tmp_path / "table.csv.jsonl").read_bytes()) == before


def test_a_second_writer_a_stranger_and_an_older_table_are_refused(folder, tmp_path):
    output, cases = tmp_path / "table.csv", byte_cases(folder)
    with only_writer(output), pytest.raises(SegAnyPETError, match="is being written by another run; wait for its end"):
        count_bytes(cases, output=output)
    count_bytes(cases, output=output)
    other = engine.Study("weigh bytes", {"rank": int}, {}, None)
    with pytest.raises(SegAnyPETError, match="a table of the study count bytes, not of weigh bytes"):
        engine.run_study(other, cases, output=output, progress=False)
    (tmp_path / "table.csv.jsonl").unlink()  # as the versions before this one wrote them: they knew no contents
    (tmp_path / "table.csv.targets").write_text('{"case": "a", "asked": null, "targets": ["liver"]}\n')
    before = output.read_bytes()
    with pytest.raises(SegAnyPETError, match="of an earlier version of seganypet.* Choose another output"):
        count_bytes(cases, output=output)
    assert output.read_bytes() == before
    count_bytes(cases, output=tmp_path / "new" / "folder" / "table.csv")
    assert (tmp_path / "new" / "folder" / "table.csv").read_bytes() == before


def test_a_row_with_a_column_that_the_study_does_not_declare_is_refused(folder):
    def measure(case, methods, settings):
        yield "", [{"volum": 1.0}]

    with pytest.raises(SegAnyPETError, match=r"study volumes: \['volum'\] in its rows are not among its columns"):
        engine.run_study(engine.Study("volumes", {"volume": float}, {}, measure), byte_cases(folder), progress=False)


# ---- failures


def test_a_failure_is_a_row_until_it_is_asked_to_be_tried_again(folder, tmp_path, measured, monkeypatch):
    output, cases = tmp_path / "table.csv", byte_cases(folder)
    real = cases[1].scan.read_bytes()
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: b"fails" if path.name == "b" else read(path))
    with pytest.warns(UserWarning, match="case b failed: OSError: disk gone, or so"):
        failed = count_bytes(cases, output=output)
    assert set(failed.loc[failed["case"] == "b", "error"]) == {"OSError: disk gone, or so"}
    assert failed["model"][failed["case"] == "b"].tolist() == ["above 50", "above 100"]
    measured()
    monkeypatch.undo()
    assert cases[1].scan.read_bytes() == real
    SAME(count_bytes(cases, output=output), failed)
    retried = count_bytes(cases, output=output, retry_failed=True)
    SAME(retried, count_bytes(cases))
    assert "disk gone" not in output.read_text()


# ---- processes and clusters


def test_two_processes_and_a_cluster_make_the_same_table(folder, tmp_path):
    from distributed import LocalCluster

    cases = byte_cases(folder)
    cases[2].scan.write_bytes(b"fails")
    with pytest.warns(UserWarning, match="case c failed"):
        whole = count_bytes(cases, output=tmp_path / "one.csv")
    with pytest.warns(UserWarning, match="case c failed"):
        SAME(count_bytes(cases, processes=2, output=tmp_path / "two.csv"), whole)
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "silence_logs": logging.ERROR}
    with LocalCluster(**options) as cluster, pytest.warns(UserWarning, match="case c failed"):
        SAME(count_bytes(cases, cluster=cluster.scheduler_address, output=tmp_path / "dask.csv"), whole)
    one, two, dask = ((tmp_path / f"{name}.csv").read_bytes() for name in ("one", "two", "dask"))
    assert one == two == dask
    with pytest.warns(UserWarning, match="case c failed"):
        SAME(count_bytes(cases, processes=2), whole)  # Dask taught pickle things, see copyreg; processes still work
    notes = [json.loads(line) for line in (tmp_path / "two.csv.jsonl").read_text().splitlines()]
    assert all(note["inputs"]["scan"] for note in notes if "inputs" in note)


def test_a_cluster_without_workers_is_said_and_waited_for(folder, monkeypatch):
    from distributed import LocalCluster

    options = {"n_workers": 0, "threads_per_worker": 1, "dashboard_address": None, "silence_logs": logging.ERROR}
    with LocalCluster(**options) as cluster:
        said: list[str] = []
        monkeypatch.setattr(workers, "warn_caller", lambda text: (said.append(text), cluster.scale(1)))
        SAME(count_bytes(byte_cases(folder), cluster=cluster.scheduler_address), count_bytes(byte_cases(folder)))
        assert len(said) == 1 and "has no worker yet; the run waits for one" in said[0]


def test_a_scheduler_that_is_lost_is_said_in_words():
    from distributed import LocalCluster

    options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": None, "silence_logs": logging.CRITICAL}
    with LocalCluster(**options) as cluster:
        results = workers.run_jobs(time.sleep, [0, 600], cluster=cluster.scheduler_address)
        assert next(results) == (0, None)
        cluster.close()
        with pytest.raises(SegAnyPETError, match="scheduler at tcp://.* was lost. What was finished is in the output"):
            next(results)


def test_workers_that_cannot_be_are_refused(folder, monkeypatch):
    cases = byte_cases(folder)
    monkeypatch.setattr(workers, "SCHEDULER_TIMEOUT_S", 0.5)
    with pytest.raises(SegAnyPETError, match="no Dask scheduler answers at tcp://127.0.0.1:9"):
        count_bytes(cases, cluster="tcp://127.0.0.1:9")
    with pytest.raises(SegAnyPETError, match="give one"):
        count_bytes(cases, cluster="tcp://127.0.0.1:9", processes=2)
    with pytest.raises(SegAnyPETError, match="processes=0"):
        count_bytes(cases, processes=0)
    with pytest.raises(SegAnyPETError, match="several cases are named a"):
        count_bytes([cases[0], cases[0]])
    local = replace(cases[0], scan=lambda: None)
    with pytest.raises(SegAnyPETError, match="case a cannot be sent to another process.*top of a module"):
        count_bytes([local], processes=2)


# ---- tables that people opened


def test_a_table_that_a_spreadsheet_saved_or_sorted_is_resumed_as_it_was(folder, tmp_path):
    output, cases = tmp_path / "table.csv", byte_cases(folder)
    whole = count_bytes(cases, output=output)
    before = output.read_bytes()
    header, *rows = before.decode().splitlines()
    for content in (
        before.replace(b"\n", b"\r\n"),
        b"\xef\xbb\xbf" + before,
        "\n".join([header, *sorted(rows, reverse=True), ""]).encode(),
    ):
        output.write_bytes(content)
        with warnings.catch_warnings(action="error"):
            pd.testing.assert_frame_equal(count_bytes(cases[:1], output=output), whole[whole["case"] == "a"])
        pd.testing.assert_frame_equal(count_bytes(cases, output=output), whole)
        assert output.read_bytes() == before


def test_edited_rows_are_refused_and_stay_and_deleted_rows_are_measured_again(folder, tmp_path):
    output, cases = tmp_path / "table.csv", byte_cases(folder)
    whole = count_bytes(cases, output=output)
    header, *rows = output.read_text().splitlines()
    edited = "\n".join([header, rows[0].replace("patient a", "patient A"), *rows[1:], ""])
    output.write_text(edited)
    with pytest.raises(SegAnyPETError, match="1 rows of case 'a', model 'above 50', are not as they were written"):
        count_bytes(cases[1:], output=output)
    assert output.read_text() == edited
    output.write_text("\n".join([header, *(row for row in rows if not row.startswith("a,")), ""]))
    pd.testing.assert_frame_equal(count_bytes(cases, output=output), whole)


def test_a_scan_that_cannot_be_read_for_a_while_keeps_its_rows(folder, tmp_path):
    output, cases = tmp_path / "table.csv", byte_cases(folder)
    whole = count_bytes(cases, output=output)
    cases[0].scan.rename(tmp_path / "away")
    with pytest.warns(UserWarning, match="case a: scan cannot be read now; its rows in .*table.csv stay"):
        again = count_bytes(cases, output=output)
    pd.testing.assert_frame_equal(again, whole)
    (tmp_path / "away").rename(cases[0].scan)
    pd.testing.assert_frame_equal(count_bytes(cases, output=output), whole)


# ---- what fails


def fails_above_fifty(case, methods, settings):
    for method in methods:
        if method.level == 50:
            raise MemoryError("too large")
        yield method.name, [{"rank": method.level}]


@pytest.mark.parametrize("levels", [(50, 100), (100, 50)])
def test_a_method_that_fails_leaves_the_others_their_rows(folder, levels):
    methods = [Above(level) for level in levels]
    study = engine.Study("ranks", {"rank": int}, {}, fails_above_fifty, methods)
    with pytest.warns(UserWarning, match="case a failed: MemoryError: too large"):
        table = engine.run_study(study, byte_cases(folder, "a"), progress=False).set_index("model")
    assert table.loc["above 100", "rank"] == 100 and pd.isna(table.loc["above 100", "error"])
    assert table.loc["above 50", "error"] == "MemoryError: too large"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_said_in_words(tmp_path):
    with pytest.raises(SegAnyPETError, match="cannot write /dev/full: No space left on device"):
        store._append(Path("/dev/full"), "row\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"limit": 0}, "limit=0; expected the number of cases"),
        ({"start": float("nan")}, "start: not a number"),
        ({"output": ""}, "is no path"),
        ({"output": "."}, "is a folder"),
        ({"output": "x" * 300}, "cannot write x+: File name too long"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_before_any_case_is_opened(folder, arguments, message):
    with pytest.raises(SegAnyPETError, match=message):
        count_bytes(byte_cases(folder), **arguments)


@pytest.mark.parametrize("line", ["[1, 2]", "5", "{}", '{"study": "count bytes", "settings": []}'])
def test_a_damaged_companion_is_refused_in_words(folder, tmp_path, line):
    output = tmp_path / "table.csv"
    count_bytes(byte_cases(folder), output=output)
    output.with_name("table.csv.jsonl").write_text(f"{line}\n")
    with pytest.raises(SegAnyPETError, match="lacks its companion table.csv.jsonl"):
        count_bytes(byte_cases(folder), output=output)


def test_a_case_whose_name_no_table_keeps_is_refused(folder):
    byte_cases(folder, "a")
    with pytest.raises(SegAnyPETError, match="the name 'c.rd' holds a carriage return"):
        count_bytes([ByteCase("c\rd", "p", folder / "a")])
