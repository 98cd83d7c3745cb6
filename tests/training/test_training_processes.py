"""Processes of a training: which are started, and how long they wait for the first one."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import REPOSITORY

from seganypet.errors import SegAnyPETError
from seganypet.training.devices import MAX_WAIT_HOURS, FirstProcess, default_devices, open_fabric

LATE = """
import time
from seganypet.errors import SegAnyPETError
from seganypet.training.devices import FirstProcess, open_fabric
fabric = open_fabric("32-true")
def work(seconds):
    time.sleep(seconds)
    return {"dsc": 0.5}
print(FirstProcess(fabric, 120 / 3600)(lambda: work(2)), flush=True)
try:
    FirstProcess(fabric, 2 / 3600)(lambda: work(8))
except SegAnyPETError as error:
    print(error, flush=True)
"""


@pytest.mark.slow
def test_other_processes_wait_for_the_first_as_long_as_they_were_told(tmp_path):
    (tmp_path / "late.py").write_text(LATE)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29583"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    said = subprocess.run([*command, tmp_path / "late.py"], capture_output=True, text=True, env=environment).stdout
    assert said.count("{'dsc': 0.5}") == 2 and "the others wait for the first at most 0.0333333 h" in said
    assert "process 1 waited 0.000555556 h for the first one" in said and "--max-wait-hours" in said


def test_the_bound_is_longer_than_the_supplements_scans_take_and_must_be_a_time():
    assert MAX_WAIT_HOURS >= 5671 * 14.5 / 3600 / 4
    fabric = type("Fabric", (), {"world_size": 1, "is_global_zero": True})()
    assert FirstProcess(fabric, 0.5)(lambda: 7) == 7  # alone, nobody waits
    for wrong in (0, -1, float("nan"), float("inf"), 1e9):
        with pytest.raises(SegAnyPETError, match="max_wait_hours=.*; expected hours"):
            FirstProcess(fabric, wrong)


def test_processes_that_nobody_starts_are_not_waited_for(monkeypatch):
    for name in ("WORLD_SIZE", "SLURM_NTASKS", "MASTER_ADDR", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SegAnyPETError, match="num_nodes=2, but nothing starts the other machines' processes.*torchrun"):
        open_fabric("32-true", num_nodes=2)
    with pytest.raises(SegAnyPETError, match="num_nodes=0; expected an integer of at least 1"):
        open_fabric("32-true", num_nodes=0)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(SegAnyPETError, match="torchrun started 8 processes, but devices=4 on num_nodes=1 are 4"):
        open_fabric("32-true")
    assert default_devices(torch.device("cpu")) == 4
