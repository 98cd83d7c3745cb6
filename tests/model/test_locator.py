"""A network without prompts: its shapes, and files of it that load_model must not take for a promptable one."""

from pathlib import Path

import pytest
import torch

from seganypet.errors import CheckpointError
from seganypet.model.checkpoints import load_locator, load_model, save_locator
from seganypet.model.hub import WEIGHTS
from seganypet.model.locator import Locator, LocatorConfig
from seganypet.organs import ORGANS


def test_each_voxel_gets_a_logit_of_each_label():
    config = LocatorConfig(labels=("liver", "spleen"), widths=(2, 3, 4))
    assert config.step == 4
    assert Locator(config)(torch.rand(2, 1, 8, 12, 4)).shape == (2, 3, 8, 12, 4)


def test_a_locator_comes_back_from_its_file_with_its_shape(tmp_path: Path):
    torch.manual_seed(0)
    model = Locator(LocatorConfig(widths=(2, 4), spacing_mm=7.5)).eval()
    save_locator(tmp_path / "mine.safetensors", model, {"step": 3})
    again = load_locator(tmp_path / "mine.safetensors")
    assert again.config == model.config and again.metadata == {"step": 3} and again.name == "mine"
    x = torch.rand(1, 1, 8, 8, 8)
    torch.testing.assert_close(again(x), model(x), atol=0.01, rtol=0.01)  # float16


def test_a_locator_is_not_clicked_and_a_promptable_network_does_not_locate(tmp_path: Path):
    save_locator(tmp_path / "mine.safetensors", Locator(LocatorConfig(widths=(2, 4))))
    with pytest.raises(CheckpointError, match=r"mine.safetensors: a locator, which takes no prompts. propose\("):
        load_model(tmp_path / "mine.safetensors")
    with pytest.raises(CheckpointError, match=r"tiny.safetensors: a network to click on; expected a locator"):
        load_locator(WEIGHTS / "tiny.safetensors")
    with pytest.raises(CheckpointError, match=r"none.safetensors is missing; install seganypet again, or train it"):
        load_locator(tmp_path / "none.safetensors")


@pytest.mark.parametrize("wrong", [{"labels": ()}, {"widths": ()}, {"widths": (4, 0)}, {"spacing_mm": 0}])
def test_numbers_that_make_no_locator_are_refused(wrong: dict):
    with pytest.raises(CheckpointError, match="impossible locator: "):
        LocatorConfig(**wrong)


def test_the_locator_in_the_package_is_small_and_knows_all_organs():
    assert (WEIGHTS / "locator.safetensors").stat().st_size <= 1.5e6
    model = load_locator()
    assert set(ORGANS) <= set(model.config.labels) and not model.training
    assert 0.3e6 <= sum(weight.numel() for weight in model.parameters()) <= 0.6e6
