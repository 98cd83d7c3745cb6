"""What training minimises: DiceCE on high-quality (HQ) labels, and CPCL on low-quality (LQ) ones.

Cross prompting confident learning (CPCL) prompts a network several times for one target. Where the predictions
disagree or hesitate, they are uncertain, and there an LQ label is rectified:

    prompts k = 1..K -> logits z_k -> p_k = sigmoid(z_k) -> p = mean_k p_k
    U = uncertainty of the p_k        where U > tau, the given label y is not believed
    L = L_HQ + lambda(t) * (L_LQ(rectified y) + L_consistency)

Published (supplement B.2): lambda(t), its maximum and its beta; that consistency between prompts and a
self-rectification guided by uncertainty exist. We found the formulas of U, tau, rectification and consistency in
no source that we could read: they are **reconstructed** here, every choice has a name, and the default comes first in
`UNCERTAINTIES`, `THRESHOLDS`, `RECTIFICATIONS` and `CONSISTENCIES`.

Axes: logits (K, N, 1, i, j, k) are prompts, targets, one channel and voxels. Labels (N, 1, i, j, k) range from 0
(outside) to 1 (inside); values between are the fraction of a coarse voxel that lies in the target.
"""

import math
import warnings
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from seganypet.errors import SegAnyPETError

UNCERTAINTIES = ("entropy", "variance", "logit_variance")
THRESHOLDS = ("mean", "quantile", "ramp")
RECTIFICATIONS = ("replace", "flip", "ignore")
CONSISTENCIES = ("mse", "kl")
VOXELS = (-3, -2, -1)
SMOOTHING = 1e-5  # MONAI's, of the Dice loss


class Rectified(NamedTuple):
    """A label after self-rectification; carries no gradient.

    Attributes:
        label: Rectified label, 0 to 1, (N, 1, i, j, k).
        valid: 1 where a voxel counts in the loss, else 0; (N, 1, i, j, k).
        uncertain_fraction: Fraction of voxels above the threshold, a scalar.
        changed_fraction: Fraction of voxels whose label crossed 0.5 or that were left out of the loss, a scalar.
    """

    label: Tensor
    valid: Tensor
    uncertain_fraction: Tensor
    changed_fraction: Tensor


def dice_ce(logits: Tensor, label: Tensor, valid: Tensor | None = None) -> Tensor:
    """Dice loss plus cross-entropy, averaged over the batch; a scalar.

    Args:
        logits: Unthresholded predictions, (N, 1, i, j, k).
        label: Label from 0 (outside the target) to 1 (inside), same shape, floating.
        valid: 1 where a voxel counts, 0 where it does not, same shape; None: all voxels count.

    Source: MONAI's DiceCELoss with sigmoid and squared denominators, as in the public release.
    """
    if valid is None:
        return _monai_loss("DiceCELoss", sigmoid=True)(logits, label)
    dice = _monai_loss("DiceLoss", sigmoid=False)(logits.sigmoid() * valid, label * valid)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, label, weight=valid, reduction="sum")
    return dice + cross_entropy / valid.sum().clamp(min=1)


def dice_ce_of_each(logits: Tensor, label: Tensor) -> Tensor:
    """`dice_ce` of every mask by itself, (N, M, i, j, k) -> (N, M).

    >>> logits = torch.randn(3, 1, 4, 4, 4)
    >>> label = (torch.randn_like(logits) > 0).float()
    >>> bool(torch.isclose(dice_ce_of_each(logits, label).mean(), dice_ce(logits, label)))
    True
    """
    probability = logits.sigmoid()
    overlap, sizes = (probability * label).sum(VOXELS), (probability.square() + label.square()).sum(VOXELS)
    dice = 1 - (2 * overlap + SMOOTHING) / (sizes + SMOOTHING)
    return dice + F.binary_cross_entropy_with_logits(logits, label, reduction="none").mean(VOXELS)


def ramp_up(step: float, steps: float, w_max: float = 0.1, beta: float = 5.0, exponent: float = 1.0) -> float:
    """The trade-off weight lambda(t) = w_max exp(-beta (1 - t / t_max)^exponent).

    Args:
        step: Training step t, from 0 to `steps`.
        steps: Last step, t_max.
        w_max: Weight at the end.
        beta: Steepness; the weight starts at w_max exp(-beta).
        exponent: Exponent of the ramp: 1 as the supplement writes it, 2 for the Gaussian curve that its text mentions.

    Source: supplement B.2 (w_max 0.1, beta 5).

    >>> [round(ramp_up(t, 200), 5) for t in (0, 100, 200)]
    [0.00067, 0.00821, 0.1]
    >>> round(ramp_up(100, 200, exponent=2), 5)  # 0.1 exp(-5/4)
    0.02865
    """
    return w_max * math.exp(-beta * (1 - step / steps) ** exponent)


def uncertainty(logits: Tensor, kind: str = "entropy") -> Tensor:
    """Uncertainty of a network at every voxel, from its predictions for several prompts.

    Args:
        logits: Predictions for K prompts, (K, N, 1, i, j, k).
        kind: Measure of uncertainty: "entropy" -p ln p - (1-p) ln(1-p) of the mean probability p, in nats, at most
            ln 2; "variance" of the K probabilities, at most 1/4; "logit_variance" of the K logits, without bound.

    Returns:
        Uncertainty, at least 0, (N, 1, i, j, k).

    Source: entropy as a reader of the article reports it; logit_variance as in the public release; variance ours.

    >>> predictions = torch.tensor([0.9, 0.1]).logit().reshape(2, 1, 1, 1, 1, 1)
    >>> [round(uncertainty(predictions, kind).item(), 4) for kind in UNCERTAINTIES]
    [0.6931, 0.16, 4.8278]
    """
    _check(kind, UNCERTAINTIES, "uncertainty")
    if kind == "logit_variance":
        return logits.var(0, correction=0)
    if kind == "variance":
        return logits.sigmoid().var(0, correction=0)
    p = mean_probability(logits)
    return -torch.xlogy(p, p) - torch.xlogy(1 - p, 1 - p)


def uncertainty_threshold(
    uncertainty_map: Tensor, kind: str = "mean", quantile: float = 0.9, progress: float = 1.0, exponent: float = 1.0
) -> Tensor:
    """tau: the uncertainty above which a label is not believed, for each target.

    Args:
        uncertainty_map: Uncertainty from `uncertainty`, (N, 1, i, j, k).
        kind: Rule: "mean" of a target's uncertainty; "quantile" of it; "ramp" (0.75 + 0.25 r) ln 2, the same for all
            targets, where r grows to 1 during training. "ramp" is meant for entropy, whose maximum is ln 2.
        quantile: Quantile for kind "quantile", 0 to 1.
        progress: Training progress t / t_max for kind "ramp", 0 to 1.
        exponent: Exponent for kind "ramp", as in `ramp_up`.

    Returns:
        Threshold of each target, (N, 1, 1, 1, 1).

    Source: "ramp" from earlier semi-supervised work of the authors; the others reconstructed.

    >>> entropy = torch.tensor([0.1, 0.2, 0.3, 0.6]).reshape(1, 1, 4, 1, 1)
    >>> [round(uncertainty_threshold(entropy, kind, quantile=0.75).item(), 4) for kind in THRESHOLDS]
    [0.3, 0.375, 0.6931]
    """
    _check(kind, THRESHOLDS, "threshold")
    if kind == "ramp":
        tau = (0.75 + 0.25 * ramp_up(progress, 1.0, w_max=1.0, exponent=exponent)) * math.log(2)
        return torch.full_like(uncertainty_map[..., :1, :1, :1], tau)
    if kind == "quantile":
        return uncertainty_map.flatten(1).quantile(quantile, dim=1)[:, None, None, None, None]
    return uncertainty_map.mean(VOXELS, keepdim=True)


def rectify(label: Tensor, logits: Tensor, uncertainty_map: Tensor, tau: Tensor, kind: str = "replace") -> Rectified:
    """Correct an LQ label where the network is uncertain; elsewhere the label stays.

    Args:
        label: Label as given, (N, 1, i, j, k).
        logits: Predictions for K prompts, (K, N, 1, i, j, k).
        uncertainty_map: Uncertainty from `uncertainty`, (N, 1, i, j, k).
        tau: Threshold from `uncertainty_threshold`, (N, 1, 1, 1, 1).
        kind: What happens where the uncertainty exceeds tau: "replace" the label by the mean prediction, [p > 0.5];
            "flip" it to 1 - y, which the release seems to intend; "ignore" the voxel in the loss.

    Returns:
        The rectified label and how much of it changed.

    Warns:
        RuntimeWarning: No voxel of the batch is uncertain or all are, or no target keeps a voxel in its label. Such a
            rectification teaches nothing; where it happens often, something is wrong.

    Source: reconstructed. The release computes (y and not H) and (not y and H), which is empty for every input.
    """
    _check(kind, RECTIFICATIONS, "rectification")
    with torch.no_grad():
        uncertain = uncertainty_map > tau
        valid = torch.ones_like(label)
        if kind == "replace":
            new = torch.where(uncertain, (mean_probability(logits) > 0.5).to(label), label)
        elif kind == "flip":
            new = torch.where(uncertain, 1 - label, label)
        else:
            new, valid = label.detach().clone(), (~uncertain).to(label)
        changed = ((new > 0.5) != (label > 0.5)) | (valid == 0)
        fractions = uncertain.float().mean(), changed.float().mean()
        emptied = bool((label > 0.5).any()) and not bool(((new > 0.5) & (valid > 0)).any())
    if emptied or fractions[0] == 0 or fractions[0] == 1:
        what = "left no voxel of any target" if emptied else f"found {fractions[0]:.0%} of all voxels uncertain"
        warnings.warn(
            f"rectification {kind!r} {what}, so it teaches nothing on this batch; try another threshold.",
            RuntimeWarning,
            stacklevel=2,
        )
    return Rectified(new, valid, *fractions)


def consistency(logits: Tensor, kind: str = "mse") -> Tensor:
    """Distance of the predictions for K prompts from their mean; a scalar, 0 if all agree.

    Args:
        logits: Predictions for K prompts, (K, N, 1, i, j, k).
        kind: Distance: "mse" mean_k (p_k - p)^2; "kl" mean_k KL(p_k | p) + KL(p | p_k), each voxel as a Bernoulli
            variable. Both are averaged over voxels and targets. The gradient reaches every prompt, also through the
            mean.

    Source: that it exists, supplement Table 4; its form reconstructed.

    >>> predictions = torch.tensor([0.9, 0.1]).logit().reshape(2, 1, 1, 1, 1, 1)
    >>> round(consistency(predictions).item(), 4), round(consistency(predictions, "kl").item(), 4)  # 0.4^2; 0.4 ln 9
    (0.16, 0.8789)
    """
    _check(kind, CONSISTENCIES, "consistency")
    mean = mean_probability(logits)
    if kind == "mse":
        return (logits.sigmoid() - mean).square().mean()
    # The symmetric divergence of two Bernoulli variables is (p_k - p) (logit p_k - logit p).
    mean = mean.clamp(1e-6, 1 - 1e-6)
    return ((logits.sigmoid() - mean) * (logits - mean.logit())).mean()


def mean_probability(logits: Tensor) -> Tensor:
    """p = mean_k sigmoid(z_k); (K, N, 1, i, j, k) -> (N, 1, i, j, k)."""
    return logits.sigmoid().mean(0)


def _check(kind: str, known: tuple[str, ...], what: str) -> None:
    if kind not in known:
        raise SegAnyPETError(f"{what}: {kind!r} is unknown; expected one of {', '.join(known)}.")


@cache
def _monai_loss(name: str, sigmoid: bool):
    import monai.losses  # slow to import

    return getattr(monai.losses, name)(sigmoid=sigmoid, squared_pred=True)
