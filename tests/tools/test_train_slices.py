"""Slices to learn from, clicks in 2D, and a training that resumes where it was killed."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from slice_bank import SliceBank, batches, pick_pixels
from train_slices import SliceTraining, each_dice_ce, interaction_loss, train_slices

from seganypet.errors import SegAnyPETError
from seganypet.model.checkpoints import load_model
from seganypet.model.sam2d import Sam2D, small_sam

TINY = SliceTraining(
    steps=4, batch_size=2, warm_up=2, phantoms=1, shapes=1, shape_fraction=0.5, image_size=64, dim=32, depth=1,
    prompt_dim=32, first_seed=9005, checkpoint_every=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where one phantom and one scene are kept, for all tests."""
    return tmp_path_factory.mktemp("slices")


@pytest.fixture(scope="module")
def bank(folder) -> SliceBank:
    return SliceBank(range(9005, 9006), True, 1, 0.3, 64, folder / "slices", processes=1)


def test_a_number_draws_the_same_slice_and_every_slice_shows_its_target(bank):
    for number in range(12):
        (grey, label), (again, same) = (bank.sample(np.random.default_rng(number)) for _ in range(2))
        assert np.array_equal(grey, again) and np.array_equal(label, same)
        assert grey.dtype == np.uint8 and grey.shape == label.shape == (64, 64)
        assert label.dtype == bool and label.sum() >= 8


def test_label_and_intensities_are_cut_alike(bank):
    # A slice that is hot exactly in its target stays so, whatever part, zoom or mirror is drawn.
    target = np.zeros((60, 40), bool)
    target[20:35, 10:18] = True
    for number in range(30):
        grey, label = bank.cut(7.0 * target, target, np.array([4.0, 4.0]), np.random.default_rng(number))
        if label.sum() < 30:
            continue
        assert grey[label].mean() > 130 > 60 > grey[~label].mean()


def test_slices_are_seen_as_a_radiologist_sees_them(bank):
    # Hot at the patient's right front (high x, high y): top left, unless mirrored, which most slices are not.
    target = np.zeros((60, 60), bool)
    target[45:55, 45:55] = True
    quarters = []
    for number in range(60):
        grey, _ = bank.cut(7.0 * target, target, np.array([4.0, 4.0]), np.random.default_rng(number))
        row, column = (float(np.average(np.arange(64), weights=grey.sum(axis))) for axis in (1, 0))
        quarters.append((row < 32, column < 32))
    assert quarters.count((True, True)) > 30


def test_clicks_lie_in_the_region_and_are_signed_by_the_label():
    region, label = torch.zeros(3, 1, 64, 64), torch.zeros(3, 1, 64, 64)
    region[:, :, 10:30, 40:50] = 1  # rows 10 to 29, columns 40 to 49
    label[:2, :, 10:30, 40:50] = 1
    for deep in (0.0, 1.0):
        points, labels = pick_pixels(region, label, deep)
        x, y = points[:, 0].T
        assert ((x >= 40) & (x < 50) & (y >= 10) & (y < 30)).all()
        assert labels[:, 0].tolist() == [1, 1, 0]
    assert ((x - 44.5).abs() < 5).all() and ((y - 19.5).abs() < 8).all()  # deep ones near the middle


def test_the_loss_of_each_mask_is_dice_plus_cross_entropy():
    label = torch.zeros(1, 1, 4, 4)
    label[..., :2] = 1
    right, wrong = (20 * sign * (2 * label - 1) for sign in (1, -1))
    losses = each_dice_ce(torch.cat([right, wrong], 1), label)
    assert losses[0, 0] == pytest.approx(0, abs=1e-4) and losses[0, 1] == pytest.approx(1 + 20, abs=1e-3)


def test_gradients_reach_every_part_that_answers(bank):
    torch.manual_seed(0)
    model = Sam2D(small_sam(64, 8, 32, 1, 32))
    slices, label = next(batches(bank, 0, 0, 1, 2))
    logs = interaction_loss(model, slices, label, clicks=3, iou_weight=0.5)
    logs["loss"].backward()
    parts = dict(model.sam.named_children())
    for name in ("vision_encoder", "prompt_encoder", "mask_decoder"):
        grads = [p.grad.abs().max() for p in parts[name].parameters() if p.grad is not None]
        assert max(grads) > 0, name


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_same_weights(folder, bank, tmp_path):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "slices").symlink_to(folder / "slices")
    whole = train_slices(TINY, tmp_path / "whole", progress=False)
    train_slices(TINY, tmp_path / "killed", progress=False, stop_at=2)
    again = train_slices(TINY, tmp_path / "killed", progress=False)
    for (name, one), other in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    opened = load_model(tmp_path / "whole" / "tiny-2d.safetensors")
    assert isinstance(opened, Sam2D) and opened.metadata["step"] == 4
    with (tmp_path / "whole" / "tiny-2d.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["4"]


@pytest.mark.slow
def test_a_training_in_2d_does_not_resume_with_other_settings(folder, bank, tmp_path):
    (tmp_path / "slices").symlink_to(folder / "slices")
    train_slices(TINY, tmp_path, progress=False, stop_at=2)
    with pytest.raises(SegAnyPETError, match="made with a different learning_rate, seed; a run can only resume with"):
        train_slices(replace(TINY, seed=7, learning_rate=0.5), tmp_path, progress=False)
    assert torch.load(tmp_path / "tiny-2d.ckpt", weights_only=True)["step"] == 2
