"""Weights as people have them: wrapped by trainers, or no weights at all."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from seganypet.errors import CheckpointError
from seganypet.model import hub
from seganypet.model.checkpoints import load_model
from seganypet.model.config import RELEASED
from seganypet.model.sam3d import Sam3D

SMALL = dict(window_size=32, patch_size=16, encoder_dim=48, encoder_depth=1, encoder_heads=2, prompt_dim=48)


@pytest.fixture(scope="module")
def released() -> dict[str, torch.Tensor]:
    from dataclasses import replace

    torch.manual_seed(2)
    return Sam3D(replace(RELEASED, **SMALL, decoder_mlp_dim=64, attention_window=2, global_blocks=(0,))).state_dict()


def named(prefix: str, weights: dict) -> dict:
    return {prefix + key: value for key, value in weights.items()}


LAYOUTS = {
    "compiled.pth": lambda weights: named("_orig_mod.", weights),
    "parallel.pth": lambda weights: {"model_state_dict": named("module.", weights), "epoch": 3},
    "lightning.ckpt": lambda weights: {"state_dict": named("model._orig_mod.", weights), "global_step": np.float64(2)},
    "x.pth.tar": lambda weights: {"state_dict": named("module.", weights), "best": np.float32(0.9)},
    "timm.bin": lambda weights: {"model": weights},
    "own.ckpt": lambda weights: {"model": {k: v + 1 for k, v in weights.items()}, "average": weights, "step": 7},
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_of_a_trainer_opens(name, released, tmp_path):
    torch.save(LAYOUTS[name](released), tmp_path / name)
    opened = load_model(tmp_path / name, device="cpu").state_dict()
    assert all(torch.equal(opened[key], value) for key, value in released.items())


@pytest.mark.parametrize(("content", "message"), [
    (b"\n<!DOCTYPE html><html>Sign in</html>", "is a web page"), (b"<html><body>quota", "is a web page"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "pointer of Git LFS.*git lfs pull"),
    (b"", "is empty"),
])  # fmt: skip
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_what_is_no_file_of_weights_is_called_what_it_is(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path / name)


def test_a_file_without_tensors_says_what_it_holds_in_plain_words(tmp_path):
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="no tensors under .*state_dict.*; found: epoch, lr"):
        load_model(tmp_path / "x.pth")
    torch.save({"state_dict": torch.nn.Linear(1, 1)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="torch.save") as error:
        load_model(tmp_path / "x.pth")
    assert "\x1b" not in str(error.value)


@pytest.mark.parametrize("failure", [
    ImportError("Using SOCKS proxy, but the 'socksio' package is not installed."), TimeoutError("timed out"),
    OSError("Consistency check failed: file should be of size 5 but has size 3"), RuntimeError("peer closed"),
])  # fmt: skip
def test_whatever_fails_at_the_hub_is_an_error_with_the_way_by_hand(failure, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def download(*_, local_files_only: bool = False):
        raise LocalEntryNotFoundError("not here") if local_files_only else failure

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url: None)
    monkeypatch.setitem(hub._unreachable, "until", 0.0)
    with pytest.raises(CheckpointError, match=rf"{type(failure).__name__}: .*--models sam-med3d=PATH"):
        load_model("sam-med3d")


def test_a_hub_that_cannot_be_reached_is_not_tried_for_every_network(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    tried = []

    def download(repository: str, *_, local_files_only: bool = False):
        if local_files_only:
            raise LocalEntryNotFoundError("not here")
        tried.append(repository)
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url: None)
    monkeypatch.setitem(hub._unreachable, "until", 0.0)
    for name in ("sam-med3d", "seganypet-v1", "sam-vit-b"):
        with pytest.raises(CheckpointError, match=f"{name}: cannot download"):
            load_model(name)
    assert len(tried) == 1


def test_a_hub_without_a_connection_is_an_error_within_seconds_and_without_lines_of_its_client(tmp_path):
    code = (
        "import time; from seganypet.model.hub import locate; import huggingface_hub; begin = time.monotonic()\n"
        "try: locate('sam-med3d')\n"
        "except ValueError as error: print(error)\n"
        "print('seconds', time.monotonic() - begin < 10)"
    )
    closed = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0", "NO_PROXY": "*"}
    found = subprocess.run([sys.executable, "-c", code], env=os.environ | closed, capture_output=True, text=True)
    assert "cannot download sam_med3d.pth" in found.stdout and "--models sam-med3d=PATH" in found.stdout
    assert found.stdout.endswith("seconds True\n") and not found.stderr


@pytest.mark.parametrize(("problems", "downloads"), [
    (["ConnectTimeout"], 0), (["ConnectError", "ConnectError"], 0), (["ConnectError"], 1), (["ReadTimeout"], 1),
    (["HfHubHTTPError"], 1),
])  # fmt: skip
def test_a_download_is_tried_wherever_the_hub_answers_however_slowly(problems, downloads, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    tried, left = [], list(problems)

    def ask(url: str) -> None:
        if left:
            raise type(left.pop(0), (Exception,), {})("as the client says it")

    def download(repository: str, *_, local_files_only: bool = False):
        if not local_files_only:
            tried.append(repository)
        raise LocalEntryNotFoundError("not here")

    monkeypatch.setattr(hub.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", ask)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setitem(hub._unreachable, "until", 0.0)
    with pytest.raises(CheckpointError, match="sam-med3d: cannot download"):
        hub.locate("sam-med3d")
    assert len(tried) == downloads and not left
