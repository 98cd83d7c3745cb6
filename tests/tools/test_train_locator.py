"""What the locator learns from, its loss, and a training that resumes where it was killed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from locator_scenes import Bank, label_table
from train_locator import LocatorTraining, label_loss, train_locator

from seganypet.errors import SegAnyPETError
from seganypet.model.checkpoints import load_locator
from seganypet.model.locator import LocatorConfig
from seganypet.phantom.patient import ID

TINY = LocatorTraining(
    LocatorConfig(widths=(4, 8)), steps=4, warm_up=2, first_seed=9005, phantoms=1, size=(16, 12, 14), checkpoint_every=2
)


@pytest.fixture(scope="module")
def bank(tmp_path_factory) -> Bank:
    """One phantom, kept for all tests."""
    labels = LocatorConfig().labels
    return Bank(range(9005, 9006), tmp_path_factory.mktemp("runs") / "locator_bank", labels, 10.0, (48, 32, 40))


@pytest.fixture(scope="module")
def pieces(bank) -> list[tuple[np.ndarray, np.ndarray]]:
    return [bank.sample(np.random.default_rng(number)) for number in range(12)]


def test_a_number_draws_the_same_piece(bank, pieces):
    suv, labels = bank.sample(np.random.default_rng(3))
    assert np.array_equal(suv, pieces[3][0]) and np.array_equal(labels, pieces[3][1])
    assert suv.dtype == np.float32 and labels.dtype == np.uint8 and suv.shape == labels.shape == (48, 32, 40)
    assert suv.min() >= 0 and np.isfinite(suv).all()


def test_left_stays_left_however_a_body_is_turned(bank, pieces):
    left, right = (bank.labels.index(f"lung_lower_lobe_{side}") + 1 for side in ("left", "right"))
    both = [labels for _, labels in pieces if min((labels == left).sum(), (labels == right).sum()) > 20]
    assert len(both) > 3
    for labels in both:
        assert np.argwhere(labels == left)[:, 0].mean() < np.argwhere(labels == right)[:, 0].mean()


def test_image_and_labels_are_bent_alike(bank, pieces):
    # Lungs are cold: whatever is repainted, most of each lies below what surrounds it.
    lungs = [number for number, name in enumerate(bank.labels, 1) if name.startswith("lung")]
    for suv, labels in pieces:
        lung, rest = np.isin(labels, lungs), (labels > 0) & ~np.isin(labels, lungs)
        if lung.sum() > 300 and rest.sum() > 300:
            assert np.median(suv[lung]) < np.median(suv[rest])


def test_parts_of_an_organ_have_its_label():
    table = label_table(("liver", "kidney_left", "heart"))
    assert table[[ID["liver"], ID["kidney_left_pelvis"], ID["myocardium"], ID["spleen"]]].tolist() == [1, 2, 3, 0]


def test_the_loss_vanishes_where_all_is_right_and_no_label_is_lost_in_the_background():
    labels = torch.zeros(1, 8, 8, 8, dtype=torch.int64)
    labels[0, :2, :2, :2] = 1
    right = 20.0 * torch.nn.functional.one_hot(labels, 3).movedim(-1, 1)
    all_background = torch.zeros_like(right)
    all_background[:, 0] = 20
    assert label_loss(right, labels)["loss"] == pytest.approx(0, abs=0.01)
    assert label_loss(all_background, labels)["cross_entropy"] > 1


@pytest.mark.slow
def test_a_killed_training_of_the_locator_resumes_to_the_same_weights(bank, tmp_path):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "locator_bank").symlink_to(bank.folder)
    whole = train_locator(TINY, tmp_path / "whole", progress=False)
    train_locator(TINY, tmp_path / "killed", progress=False, stop_at=2)
    again = train_locator(TINY, tmp_path / "killed", progress=False)
    for (name, one), other in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    opened = load_locator(tmp_path / "whole" / "locator.safetensors")
    assert opened.metadata["step"] == 4 and opened.config == TINY.network
    with pytest.raises(SegAnyPETError, match="made with a different learning_rate"):
        train_locator(replace(TINY, learning_rate=0.5), tmp_path / "killed", progress=False)
