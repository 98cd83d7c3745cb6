"""The losses do what their formulas say, and rectification neither leaks gradients nor empties labels unnoticed."""

import math

import numpy as np
import pytest
import torch

from seganypet import losses
from seganypet.errors import SegAnyPETError


def answers(*probabilities: float) -> torch.Tensor:
    """Logits of as many prompts as there are rows; each row one target of as many voxels as it has columns."""
    return torch.tensor(probabilities).logit().reshape(len(probabilities), 1, 1, -1, 1, 1)


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values).reshape(1, 1, -1, 1, 1)


def ball_case(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Truth (a ball), a label shifted by 2 voxels, and five prompts' logits that know the ball but for noise."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(24)] * 3, indexing="ij")) - 11.5
    depth = 7 - np.sqrt((grid**2).sum(0))
    truth = torch.from_numpy((depth > 0).astype(np.float32))[None, None]
    noise = rng.normal(0, 1, (5, 24, 24, 24))
    logits = torch.from_numpy((depth + noise).astype(np.float32))[:, None, None]
    return truth, truth.roll(2, -1), logits


# ---- DiceCE

def test_dice_ce_of_a_hand_computed_case():
    logits, label = column(0.0, 0.0, 0.0, 0.0), column(1.0, 1.0, 0.0, 0.0)
    # p = 1/2 everywhere: Dice 2 * (0.5 + 0.5) / (4 * 0.25 + 2), cross-entropy ln 2
    assert losses.dice_ce(logits, label).item() == pytest.approx(1 - 2 / 3 + math.log(2), abs=1e-4)


def test_all_voxels_valid_is_the_loss_without_validity():
    truth, given, logits = ball_case()
    masked = losses.dice_ce(logits[0], given, torch.ones_like(given))
    assert masked.item() == pytest.approx(losses.dice_ce(logits[0], given).item(), abs=1e-6)


def test_an_ignored_voxel_has_no_influence_and_gets_no_gradient():
    _, given, logits = ball_case()
    valid = torch.ones_like(given)
    valid[..., :5] = 0
    answer = logits[0].clone().requires_grad_()
    losses.dice_ce(answer, given, valid).backward()
    assert (answer.grad[..., :5] == 0).all() and (answer.grad[..., 5:] != 0).any()
    other = logits[0].clone()
    other[..., :5] = 9.0
    assert losses.dice_ce(other, given, valid).item() == pytest.approx(losses.dice_ce(answer, given, valid).item())


# ---- lambda

def test_lambda_at_the_start_the_middle_and_the_end():
    start, middle, end = (losses.ramp_up(t, 1000) for t in (0, 500, 1000))
    assert start == pytest.approx(0.1 * math.exp(-5)) and end == pytest.approx(0.1)
    assert middle == pytest.approx(0.1 * math.exp(-2.5))
    assert losses.ramp_up(500, 1000, exponent=2) == pytest.approx(0.1 * math.exp(-1.25))


# ---- uncertainty and threshold

def test_agreeing_confident_prompts_are_certain_and_disagreeing_ones_are_not():
    logits = answers([0.999, 0.999, 0.001], [0.999, 0.001, 0.001])
    for kind in losses.UNCERTAINTIES:
        agree, disagree, agree_too = losses.uncertainty(logits, kind).flatten().tolist()
        assert disagree > 10 * agree and agree == pytest.approx(agree_too, abs=1e-5), kind


def test_entropy_is_at_most_ln_2_and_finite_for_certain_answers():
    logits = torch.tensor([-200.0, 0.0, 200.0]).reshape(1, 1, 1, 3, 1, 1)
    entropy = losses.uncertainty(logits).flatten()
    assert torch.isfinite(entropy).all()
    assert entropy.tolist() == pytest.approx([0, math.log(2), 0], abs=1e-6)


def test_a_threshold_belongs_to_its_own_target():
    entropy = torch.cat([column(0.0, 0.2), column(0.4, 0.6)])
    assert losses.uncertainty_threshold(entropy).flatten().tolist() == pytest.approx([0.1, 0.5])
    assert losses.uncertainty_threshold(entropy, "quantile", quantile=0.5).shape == (2, 1, 1, 1, 1)


def test_the_ramp_ends_where_no_voxel_is_uncertain():
    entropy = torch.rand(1, 1, 4, 4, 4) * math.log(2)
    assert losses.uncertainty_threshold(entropy, "ramp", progress=1.0).item() == pytest.approx(math.log(2))
    start = losses.uncertainty_threshold(entropy, "ramp", progress=0.0).item()
    assert start == pytest.approx((0.75 + 0.25 * math.exp(-5)) * math.log(2))


# ---- rectification

@pytest.mark.parametrize(
    "kind, label, valid, changed",
    [("replace", [1, 0, 1, 0], [1, 1, 1, 1], 0.5), ("flip", [1, 0, 1, 0], [1, 1, 1, 1], 0.5),
     ("ignore", [0, 1, 1, 0], [0, 0, 1, 1], 0.5)],
)  # fmt: skip
def test_rectification_of_two_uncertain_voxels_and_two_others(kind, label, valid, changed):
    given, entropy, tau = column(0.0, 1.0, 1.0, 0.0), column(0.6, 0.6, 0.1, 0.1), column(0.5)
    logits = answers([0.9, 0.4, 0.01, 0.99], [0.4, 0.1, 0.01, 0.99])  # means 0.65 and 0.25 where uncertain
    rectified = losses.rectify(given, logits, entropy, tau, kind)
    assert rectified.label.flatten().tolist() == label
    assert rectified.valid.flatten().tolist() == valid
    assert rectified.uncertain_fraction.item() == 0.5 and rectified.changed_fraction.item() == changed


def test_a_rectified_label_is_nearer_to_the_truth_where_the_prompts_know_better():
    truth, given, logits = ball_case()
    entropy = losses.uncertainty(logits)
    rectified = losses.rectify(given, logits, entropy, losses.uncertainty_threshold(entropy))

    def dsc(label):
        return (2 * (label * truth).sum() / (label.sum() + truth.sum())).item()

    assert dsc(rectified.label) > dsc(given) + 0.05
    assert 0 < rectified.changed_fraction < 0.2


@pytest.mark.parametrize("kind", losses.RECTIFICATIONS)
def test_no_gradient_flows_into_a_rectified_label(kind):
    _, given, logits = ball_case()
    logits.requires_grad_()
    entropy = losses.uncertainty(logits)
    rectified = losses.rectify(given, logits, entropy, losses.uncertainty_threshold(entropy), kind)
    assert not any(part.requires_grad for part in rectified)
    through = torch.autograd.grad(losses.dice_ce(logits[0], rectified.label, rectified.valid), logits)[0]
    constant = rectified.label.clone(), rectified.valid.clone()
    alone = torch.autograd.grad(losses.dice_ce(logits[0], *constant), logits)[0]
    assert torch.equal(through, alone)


@pytest.mark.parametrize("tau, fraction", [(1.0, "0%"), (-1.0, "100%")])
def test_a_rectification_that_finds_nothing_or_everything_uncertain_warns(tau, fraction):
    _, given, logits = ball_case()
    entropy = losses.uncertainty(logits)
    with pytest.warns(RuntimeWarning, match=f"found {fraction} of all voxels uncertain"):
        losses.rectify(given, logits, entropy, torch.full_like(entropy[..., :1, :1, :1], tau))


def test_a_rectification_that_empties_every_label_warns():
    given, logits = column(1.0, 1.0, 0.0), answers([0.3, 0.3, 0.01])
    entropy = losses.uncertainty(logits)
    with pytest.warns(RuntimeWarning, match="left no voxel of any target"):
        losses.rectify(given, logits, entropy, torch.full((1, 1, 1, 1, 1), 0.5))


# ---- consistency

@pytest.mark.parametrize("kind", losses.CONSISTENCIES)
def test_consistency_is_zero_where_prompts_agree_and_its_gradient_brings_them_together(kind):
    agree = answers([0.9, 0.2], [0.9, 0.2])
    assert losses.consistency(agree, kind).item() == pytest.approx(0, abs=1e-7)
    apart = answers([0.8, 0.3], [0.3, 0.8]).requires_grad_()
    losses.consistency(apart, kind).backward()
    nearer = apart - 0.5 * apart.grad
    assert losses.uncertainty(nearer, "variance").sum() < losses.uncertainty(apart, "variance").sum()


@pytest.mark.parametrize(
    "call, known",
    [(lambda z: losses.uncertainty(z, "std"), "logit_variance"), (lambda z: losses.consistency(z, "l2"), "mse"),
     (lambda z: losses.uncertainty_threshold(z[0], "median"), "quantile"),
     (lambda z: losses.rectify(z[0], z, z[0], z[0], "drop"), "ignore")],
)  # fmt: skip
def test_an_unknown_choice_is_refused_with_the_known_ones(call, known):
    with pytest.raises(SegAnyPETError, match=known):
        call(answers([0.5, 0.5]))
