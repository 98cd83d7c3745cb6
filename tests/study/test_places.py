"""Where rows are measured: device, precision, threads and host, and what must not mix."""

import platform
from pathlib import Path

import pytest
import torch
from evaluation_cases import memory_case

from seganypet.errors import CheckpointError, SegAnyPETError
from seganypet.model.checkpoints import save_model
from seganypet.model.config import ModelConfig
from seganypet.model.sam3d import Sam3D
from seganypet.study import methods
from seganypet.study.evaluation import evaluate
from seganypet.study.methods import dealt_device, resolve_methods

OPTIONS = {"targets": ["liver"], "rules": ("41% SUVmax",), "progress": False}


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    config = ModelConfig(window_size=32, spacing_mm=8.0, encoder_dim=48, encoder_depth=1, prompt_dim=48)
    save_model(path, Sam3D(config), "small")
    return path


def test_every_row_says_where_it_was_computed(network):
    table = evaluate([memory_case()], network, 1, device="cpu", precision="float32", **OPTIONS)
    rows = table.set_index("model")[["device", "precision", "threads", "host"]].astype(object)
    assert rows.loc["small"].tolist() == ["cpu", "float32", 1, platform.node()]  # a small network: one thread
    assert rows.loc["41% SUVmax", ["device", "host"]].tolist() == ["cpu", platform.node()]
    assert rows.loc["41% SUVmax"].isna().tolist() == [False, True, False, False]  # a rule has no precision


def test_rows_of_one_network_in_two_precisions_are_refused_unless_asked_for(network, tmp_path):
    output, cases = tmp_path / "table.csv", [memory_case("a"), memory_case("b")]
    evaluate(cases[:1], network, 1, precision="float32", output=output, **OPTIONS)
    with pytest.raises(SegAnyPETError, match="small computes in bfloat16 on .* were computed in float32 .*--precision"):
        evaluate(cases, network, 1, precision="bfloat16", output=output, **OPTIONS)
    again = evaluate(cases, network, 1, precision="float32", output=output, **OPTIONS)
    assert set(again["precision"].dropna()) == {"float32"}
    both = evaluate(
        [*cases, memory_case("c")], network, 1, precision="bfloat16", mixed_precision=True, output=output, **OPTIONS
    )
    assert set(both["precision"].dropna()) == {"float32", "bfloat16"}


def test_gpus_are_dealt_to_the_processes_in_turn(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    dealt = []
    for number in (None, 0, 1, 2):
        monkeypatch.setattr(methods, "worker_number", lambda number=number: number)
        dealt.append((dealt_device("auto"), dealt_device("cuda"), dealt_device("cuda:1"), dealt_device("cpu")))
    assert [auto for auto, *_ in dealt] == ["cuda:0", "cuda:0", "cuda:1", "cuda:0"]
    assert [cuda for _, cuda, *_ in dealt] == ["cuda", "cuda:0", "cuda:1", "cuda:0"]
    assert {fixed for _, _, *fixed in dealt for fixed in [tuple(fixed)]} == {("cuda:1", "cpu")}


@pytest.mark.parametrize("wrong", [{"device": "cuda:9"}, {"precision": "float8"}])
def test_a_device_or_precision_that_does_not_exist_is_refused_before_any_case(network, wrong):
    with pytest.raises(SegAnyPETError, match="expected"):
        evaluate([memory_case()], network, 1, **wrong, **OPTIONS)


def test_all_networks_that_cannot_be_opened_are_named_at_once(tmp_path):
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match=r"2 networks cannot be opened.*broken.*nowhere\.pth"):
        resolve_methods([tmp_path / "broken.safetensors", "tiny", tmp_path / "nowhere.pth"])
