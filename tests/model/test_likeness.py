"""Likeness to what was clicked: 1 where a voxel has the clicked features, less where it has others, else 0."""

import pytest
import torch

from seganypet.errors import CheckpointError
from seganypet.model.config import ModelConfig
from seganypet.model.likeness import ClickLikeness, sample_at
from seganypet.model.sam3d import Sam3D

SMALL = ModelConfig(window_size=32, encoder_dim=48, encoder_depth=1, prompt_dim=48, likeness=True)


@pytest.fixture
def two_halves():
    """Two grids whose features are those of one tissue below i = 8 and of another from there on."""
    torch.manual_seed(3)
    low, high = torch.randn(2, 5, 1, 1, 1), torch.randn(2, 5, 1, 1, 1)
    features = low.expand(-1, -1, 16, 16, 16).clone()
    features[:, :, 8:] = high
    return features


def centre(i, j, k, size=16):
    """The position, 0 to 1, of the centre of a voxel."""
    return [(i + 0.5) / size, (j + 0.5) / size, (k + 0.5) / size]


def test_a_voxel_is_wholly_alike_where_it_looks_like_the_click_and_less_where_it_does_not(two_halves):
    where = torch.tensor([[centre(2, 12, 5)], [centre(13, 1, 9)]])
    foreground, background = ClickLikeness(5)(two_halves, where, torch.tensor([[1], [0]])).unbind(1)
    assert foreground.shape == (2, 16, 16, 16)
    assert torch.allclose(foreground[0, :8], torch.ones(8, 16, 16), atol=1e-4) and (foreground[0, 8:] < 0.99).all()
    assert torch.allclose(background[1, 8:], torch.ones(8, 16, 16), atol=1e-4) and (background[1, :8] < 0.99).all()
    assert not background[0].any() and not foreground[1].any()


def test_of_several_clicks_the_most_alike_counts(two_halves):
    where = torch.tensor([[centre(2, 2, 2), centre(12, 2, 2)]] * 2)
    both = ClickLikeness(5)(two_halves, where, torch.ones(2, 2, dtype=torch.long))[:, 0]
    assert torch.allclose(both, torch.ones_like(both), atol=1e-4)


def test_positions_run_along_the_axes_of_the_grid_and_the_border_is_not_outside():
    features = torch.arange(8.0)[:, None, None].expand(1, 1, 8, 8, 8).contiguous()
    assert sample_at(features, torch.tensor([[centre(6, 1, 3, 8)]])).item() == pytest.approx(6)
    assert sample_at(features, torch.tensor([[[1.0, 0.5, 0.0]]])).item() == pytest.approx(7)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_network_with_likeness_takes_any_number_of_clicks_and_learns_what_counts(precision):
    torch.manual_seed(0)
    model = Sam3D(SMALL)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        embedding = model.embed(model.normalise(torch.rand(2, 1, 32, 32, 32) * 5))
        for clicks in (0, 1, 3):
            points, labels = torch.rand(2, clicks, 3) * 31, torch.arange(clicks).expand(2, -1) % 2
            logits, iou = model.decode(embedding, points, labels, model.no_logits(2))
            assert logits.shape == (2, 1, 16, 16, 16) and iou.shape == (2, 1) and logits.isfinite().all()
    logits.float().square().mean().backward()
    for compare in model.mask_decoder.likeness:
        assert compare.compared.weight.grad.abs().sum() > 0
    assert model.mask_decoder.click_content.weight.grad.abs().sum() > 0


def test_a_network_without_the_stem_s_features_has_nothing_to_compare():
    with pytest.raises(CheckpointError, match="likeness is added to fine_features"):
        ModelConfig(conv_stem=False, fine_features=False, likeness=True)
