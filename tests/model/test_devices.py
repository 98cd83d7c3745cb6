"""Where networks compute: devices that are there, threads that help."""

import subprocess
import sys

import pytest
import torch
from conftest import REPOSITORY
from evaluation_cases import memory_case

from seganypet.errors import SegAnyPETError
from seganypet.model import devices
from seganypet.model.checkpoints import load_model
from seganypet.model.devices import find_device
from seganypet.prompting.session import Session


def two_gpus(monkeypatch) -> None:
    monkeypatch.delenv("SEGANYPET_DEVICE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch):
    assert find_device("auto") == torch.device("cpu") or torch.cuda.is_available()
    two_gpus(monkeypatch)
    assert find_device("auto") == torch.device("cuda:0") and find_device("cuda:1") == torch.device("cuda:1")
    monkeypatch.setenv("SEGANYPET_DEVICE", "cuda:1")
    assert find_device("auto") == torch.device("cuda:1")


@pytest.mark.parametrize("name", ["gpu", "cuda:7", "cdua", ""])
def test_a_device_that_does_not_exist_is_refused_with_those_that_do(name, monkeypatch):
    two_gpus(monkeypatch)
    with pytest.raises(SegAnyPETError, match=r"expected auto, cuda:0, cuda:1, .*cpu"):
        load_model("tiny", device=name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_an_error_of_this_package():
    with pytest.raises(SegAnyPETError, match="device='cuda': not on this machine; expected auto, .*cpu"):
        load_model("tiny", device="cuda")


def test_weights_of_half_precision_are_refused_with_the_way_out():
    with pytest.raises(SegAnyPETError, match=r"torch.float16; expected torch.float32: model.float\(\)"):
        Session(load_model("tiny").half(), memory_case().pet)


def test_threads_heed_the_quota_of_a_container(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(devices, "available_cores", lambda: 3)
    try:
        torch.set_num_threads(64)
        devices.limit_threads()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_waiting_threads_sleep_unless_the_user_decided_otherwise():
    program = "import seganypet, os; print(os.environ['OMP_WAIT_POLICY'])"
    for given, expected in (({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")):
        said = subprocess.check_output([sys.executable, "-c", program], cwd=REPOSITORY, env=given, text=True)
        assert said.strip() == expected
