"""Training starts from whatever weights fit, and says which did not."""

from dataclasses import replace

import pytest
import torch

from seganypet.errors import CheckpointError
from seganypet.model.checkpoints import load_model, save_model
from seganypet.model.config import ModelConfig
from seganypet.model.sam3d import Sam3D
from seganypet.training.config import TrainConfig
from seganypet.training.start import initial_model

MODEL = ModelConfig(
    window_size=32, spacing_mm=8.0, encoder_dim=24, encoder_depth=1, encoder_heads=2, prompt_dim=48, decoder_mlp_dim=32
)
CONFIG = TrainConfig("short", model=MODEL)


def test_weights_that_fit_are_taken_and_the_rest_is_said(tmp_path):
    torch.manual_seed(1)
    small = Sam3D(MODEL)
    save_model(tmp_path / "small.safetensors", small, "small")
    deeper = replace(MODEL, encoder_depth=2)
    said = []
    config = replace(CONFIG, init=str(tmp_path / "small.safetensors"), model=deeper)
    model = initial_model(config, said.append)
    assert "starts from" in said[0] and f"{len(small.state_dict())} of {len(model.state_dict())} tensors" in said[0]
    assert "image_encoder.blocks.1." in said[1] and "Random instead" in said[1]
    key = "mask_decoder.iou_token.weight"
    assert torch.equal(model.state_dict()[key], small.state_dict()[key].half().float())


def test_weights_of_another_kind_of_network_are_refused_and_the_shape_is_inits_unless_said(tmp_path):
    torch.manual_seed(1)
    save_model(tmp_path / "small.safetensors", Sam3D(MODEL), "small")
    config = replace(CONFIG, init=str(tmp_path / "small.safetensors"), model=None)
    assert initial_model(config, lambda text: None).config == MODEL
    with pytest.raises(CheckpointError, match="neither a file nor a known model"):
        initial_model(replace(config, init="tiny-bas"))
    with pytest.raises(CheckpointError, match="tiny-2d is a 2D network; short needs the weights of a 3D one"):
        initial_model(replace(config, init="tiny-2d"))


def test_a_network_that_learns_more_at_first_answers_as_the_one_it_starts_from():
    plain = load_model("tiny-organs")  # which has no readings
    wider = replace(plain.config, likeness=True, mask_quality=True)
    said = []
    model = initial_model(TrainConfig("third", init="tiny-organs", readings=True, model=wider), said.append).eval()
    rng = torch.Generator().manual_seed(0)
    window = plain.normalise(torch.rand(1, 1, 64, 64, 64, generator=rng) * 5)
    click, label = torch.tensor([[[32.0, 30.0, 20.0]]]), torch.ones(1, 1)
    with torch.no_grad():
        before = plain.decode(plain.embed(window), click, label, None)
        after = model.decode(model.embed(window), click, label, None)
    assert torch.allclose(before[0], after[0], atol=1e-4) and torch.allclose(before[1], after[1], atol=1e-5)
    heads = model.mask_decoder.output_hypernetworks_mlps
    for reading in heads[1:]:
        for name, value in reading.state_dict().items():
            assert torch.equal(value, heads[0].state_dict()[name])
    assert "likeness" in said[1] and "fuse_half" not in said[1]
