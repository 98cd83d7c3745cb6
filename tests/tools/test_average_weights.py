"""The average of networks lies between them, and is made of like with like alone."""

import pytest
import torch
from average_weights import average

from seganypet.errors import SegAnyPETError
from seganypet.model.checkpoints import load_model, save_model, weights_sha256
from seganypet.model.config import ModelConfig
from seganypet.model.sam3d import Sam3D

SHAPE = {"window_size": 32, "spacing_mm": 8.0, "encoder_depth": 1, "encoder_heads": 2, "prompt_dim": 48}


@pytest.fixture
def written(tmp_path):
    """Random networks as files."""

    def written(name, seed, readings=False, encoder_dim=24):
        torch.manual_seed(seed)
        model = Sam3D(ModelConfig(encoder_dim=encoder_dim, decoder_mlp_dim=32, **SHAPE))
        save_model(tmp_path / f"{name}.safetensors", model, name, {"readings": readings, "step": seed})
        return str(tmp_path / f"{name}.safetensors")

    return written


def test_every_tensor_is_the_weighted_mean_and_the_file_says_of_what(written, tmp_path):
    parts = [(written("one", 1), 0.75), (written("other", 2), 0.25)]
    average(tmp_path / "both.safetensors", parts)
    both, one, other = (load_model(path) for path in (tmp_path / "both.safetensors", parts[0][0], parts[1][0]))
    for name, value in both.state_dict().items():
        expected = 0.75 * one.state_dict()[name] + 0.25 * other.state_dict()[name]
        torch.testing.assert_close(value, expected, atol=1e-3, rtol=1e-3)  # written as float16
    assert both.metadata["step"] == 1
    assert both.metadata["averaged"] == [
        {"weights_sha256": weights_sha256(one), "weight": 0.75},
        {"weights_sha256": weights_sha256(other), "weight": 0.25},
    ]


def test_readings_that_one_never_learned_are_its_single_mask(written, tmp_path):
    average(tmp_path / "both.safetensors", [(written("one", 1, readings=True), 0.5), (written("other", 2), 0.5)])
    both, one, other = (load_model(tmp_path / f"{name}.safetensors") for name in ("both", "one", "other"))
    layer = "mask_decoder.output_hypernetworks_mlps.{}.layers.0.weight"
    expected = (one.state_dict()[layer.format(2)] + other.state_dict()[layer.format(0)]) / 2
    torch.testing.assert_close(both.state_dict()[layer.format(2)], expected, atol=1e-3, rtol=1e-3)
    assert both.metadata["readings"]


def test_other_shapes_and_weights_that_are_no_shares_are_refused(written, tmp_path):
    one, wide = written("one", 1), written("wide", 2, encoder_dim=48)
    with pytest.raises(SegAnyPETError, match="wide.safetensors is a network of another shape than .*one.safetensors"):
        average(tmp_path / "both.safetensors", [(one, 0.5), (wide, 0.5)])
    with pytest.raises(SegAnyPETError, match="do not add up to 1"):
        average(tmp_path / "both.safetensors", [(one, 0.5), (one, 0.6)])
    assert not (tmp_path / "both.safetensors").exists()
