"""The mutator makes the same cases again, finds what is planted, and finds nothing in the readers."""

import random
import re
import subprocess
import sys
import time

import fuzz
import pytest
from conftest import REPOSITORY


def test_unspoilt_scans_of_every_kind_are_accepted(tmp_path):
    scans = fuzz.make_scans(tmp_path / "scans")
    assert len(scans) == 32
    like = tmp_path / "like.nii"
    like.write_bytes(scans["image"]["a.nii"])
    for name, files in scans.items():
        fuzz.write(tmp_path / "case", files)
        assert fuzz.read(tmp_path / "case", like, name) == "accepted", name


def test_a_case_is_made_again_by_its_number(tmp_path):
    scan = fuzz.make_scans(tmp_path)["pet"]
    spoilt = [fuzz.spoil(scan, random.Random("0/17")) for _ in range(2)]
    assert spoilt[0] == spoilt[1] != scan


def test_spoilt_files_are_read_or_refused_in_own_words():
    command = [sys.executable, fuzz.__file__, "--count", "80", "--seed", "7"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert run.returncode == 0, run.stdout + run.stderr
    accepted, refused, failed = map(int, re.findall(r"(\d+) (?:accepted|refused|failed)", run.stdout))
    assert (accepted + refused, failed) == (80, 0)
    assert min(accepted, refused) > 5


PLANTED = {
    "foreign exception": lambda *_: {}["missing"],
    "memory": lambda *_: b"x" * 2**27,
    "hangs": lambda *_: time.sleep(60),
    "ends the process": lambda *_: __import__("os")._exit(9),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_planted_faults_are_found_with_the_number_of_the_case(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(fuzz, "LIMIT_S", 8.0)
    monkeypatch.setattr(fuzz, "LIMIT_MB", 64.0)
    all_scans, unspoilt = fuzz.make_scans, fuzz.read

    def read(folder, like, reader, values, calls=[]):  # noqa: B006
        calls.append(folder)
        if len(calls) == 2 + 3:  # the unspoilt scans of each process come first
            PLANTED[kind]()
        return unspoilt(folder, like, reader, values)

    monkeypatch.setattr(fuzz, "read", read)
    scans = all_scans(tmp_path)
    few = {one: scans[one] for one in ("pet", "image")}
    monkeypatch.setattr(fuzz, "make_scans", lambda folder: few)
    _, problems, _ = fuzz.fuzz(4, seed=7, first=100)
    assert [number for number, _, _ in problems] == [102]
    assert problems[0][2].startswith(kind)
