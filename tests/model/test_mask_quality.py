"""Predicted IoU sees the mask that it is predicted for, and masks learn nothing from it."""

import pytest
import torch

from seganypet.errors import CheckpointError
from seganypet.model.config import ModelConfig
from seganypet.model.mask_quality import MaskQuality
from seganypet.model.sam3d import Sam3D

SMALL = ModelConfig(
    window_size=32, encoder_dim=48, encoder_depth=1, prompt_dim=48, likeness=True, mask_quality=True
)  # fmt: skip


def ball(radius: float, size: int = 24) -> torch.Tensor:
    """Logits of a ball in the middle of a grid, (n, n, n)."""
    ticks = torch.arange(size) - (size - 1) / 2
    return 2 * (radius - torch.stack(torch.meshgrid(ticks, ticks, ticks, indexing="ij")).square().sum(0).sqrt())


def test_whether_a_mask_fits_the_image_can_be_learned_in_some_dozen_steps():
    torch.manual_seed(0)
    quality = MaskQuality(1)
    optimiser = torch.optim.Adam(quality.parameters(), 1e-2)
    for _ in range(150):
        radii = 3 + 6 * torch.rand(8)
        image = torch.stack([ball(radius).sigmoid()[None] for radius in radii])  # (B, 1, n, n, n)
        guesses = 3 + 6 * torch.rand(8, 3)
        masks = torch.stack([torch.stack([ball(one) for one in three]) for three in guesses])
        truth = (image > 0.5) & (masks > 0)
        reached = truth.sum((2, 3, 4)) / ((image > 0.5) | (masks > 0)).sum((2, 3, 4))
        error = (quality(masks, image) - reached).square().mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
    assert error.sqrt() < 0.2, "a constant misses by 0.3"


@pytest.mark.parametrize("logits", [-20.0, 20.0])
def test_a_mask_of_nothing_and_one_of_everything_have_a_quality(logits):
    assert MaskQuality(2)(torch.full((1, 3, 8, 8, 8), logits), torch.rand(1, 2, 8, 8, 8)).isfinite().all()


def test_masks_learn_nothing_from_their_quality():
    torch.manual_seed(0)
    model = Sam3D(SMALL)
    embedding = model.embed(model.normalise(torch.rand(1, 1, 32, 32, 32) * 5))
    points, labels = torch.full((1, 1, 3), 16.0), torch.ones(1, 1, dtype=torch.long)
    logits, iou = model.decode_all(embedding, points, labels, None)
    assert logits.shape[:2] == iou.shape == (1, 4)
    iou.sum().backward()
    learned = {name for name, one in model.named_parameters() if one.grad is not None and one.grad.any()}
    assert any(name.startswith("mask_decoder.mask_quality") for name in learned)
    assert not any("fuse_half" in name or "hypernetworks" in name for name in learned)


def test_quality_needs_likeness():
    with pytest.raises(CheckpointError, match="mask_quality looks at likeness"):
        ModelConfig(mask_quality=True)
