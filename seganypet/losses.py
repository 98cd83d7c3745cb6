"""What training minimises: DiceCE on labels that are trusted, and CPCL on labels that are not.

Cross prompting confident learning (CPCL) asks a network about one target by several prompts. Where its answers
disagree with themselves they are uncertain, and there a doubtful label is rectified:

    prompts k = 1..K -> logits z_k -> p_k = sigmoid(z_k) -> p = mean_k p_k
    U = uncertainty of the p_k        where U > tau, the given label y is not believed
    L = L_trusted + lambda(t) * (L_doubtful(rectified y) + L_consistency)

Published (supplement B.2): lambda(t), its maximum and its beta; that consistency between prompts and a
self-rectification guided by uncertainty exist. The formulas of U, tau, rectification and consistency are in
nothing that we could read: they are **reconstructed** here, every choice has a name, and the default comes first in
`UNCERTAINTIES`, `THRESHOLDS`, `RECTIFICATIONS` and `CONSISTENCIES`.

Axes: logits (K, N, 1, i, j, k): prompts, targets, one channel, voxels. Labels (N, 1, i, j, k), from 0 (outside) to
1 (inside); between, where a coarse voxel is partly full of target.
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


class Rectified(NamedTuple):
    """A label after self-rectification; carries no gradient.

    Attributes:
        label: (N, 1, i, j, k), 0 to 1.
        valid: 1 where a voxel counts in the loss, else 0; (N, 1, i, j, k).
        doubtful_share: Share of voxels above the threshold, a scalar.
        changed_share: Share of voxels whose label came to lie on the other side of 0.5, or that left the loss.
    """

    label: Tensor
    valid: Tensor
    doubtful_share: Tensor
    changed_share: Tensor


def dice_ce(logits: Tensor, label: Tensor, valid: Tensor | None = None) -> Tensor:
    """Dice loss plus cross-entropy, averaged over the batch; a scalar.

    Args:
        logits: Unthresholded, (N, 1, i, j, k).
        label: 0 outside the target to 1 inside, same shape, floating.
        valid: 1 where a voxel counts, 0 where it shall not, same shape; all count unless given.

    Source: MONAI's DiceCELoss with sigmoid and squared denominators, as in the public release.
    """
    if valid is None:
        return _monai_loss("DiceCELoss", sigmoid=True)(logits, label)
    dice = _monai_loss("DiceLoss", sigmoid=False)(logits.sigmoid() * valid, label * valid)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, label, weight=valid, reduction="sum")
    return dice + cross_entropy / valid.sum().clamp(min=1)


def ramp_up(step: float, steps: float, w_max: float = 0.1, beta: float = 5.0, exponent: float = 1.0) -> float:
    """The trade-off weight lambda(t) = w_max exp(-beta (1 - t / t_max)^exponent).

    Args:
        step: t, from 0 to `steps`.
        steps: t_max.
        w_max: Its value at the end.
        beta: It starts at w_max exp(-beta).
        exponent: 1 as the supplement writes it; 2 makes the curve the Gaussian that its text speaks of.

    Source: supplement B.2 (w_max 0.1, beta 5).

    >>> [round(ramp_up(t, 200), 5) for t in (0, 100, 200)]
    [0.00067, 0.00821, 0.1]
    >>> round(ramp_up(100, 200, exponent=2), 5)  # 0.1 exp(-5/4)
    0.02865
    """
    return w_max * math.exp(-beta * (1 - step / steps) ** exponent)


def uncertainty(logits: Tensor, kind: str = "entropy") -> Tensor:
    """How unsure a network is of every voxel, given its answers to several prompts.

    Args:
        logits: (K, N, 1, i, j, k).
        kind: "entropy" -p ln p - (1-p) ln(1-p) of the mean probability p, in nats, at most ln 2; "variance" of the
            K probabilities, at most 1/4; "logit_variance" of the K logits, without bound.

    Returns:
        (N, 1, i, j, k), at least 0.

    Source: entropy as a reader of the article reports it; logit_variance as in the public release; variance ours.

    >>> answers = torch.tensor([0.9, 0.1]).logit().reshape(2, 1, 1, 1, 1, 1)
    >>> [round(uncertainty(answers, kind).item(), 4) for kind in UNCERTAINTIES]
    [0.6931, 0.16, 4.8278]
    """
    _check(kind, UNCERTAINTIES, "uncertainty")
    if kind == "logit_variance":
        return logits.var(0, correction=0)
    if kind == "variance":
        return logits.sigmoid().var(0, correction=0)
    p = mean_probability(logits)
    return -torch.xlogy(p, p) - torch.xlogy(1 - p, 1 - p)


def doubt_threshold(
    unsure: Tensor, kind: str = "mean", quantile: float = 0.9, progress: float = 1.0, exponent: float = 1.0
) -> Tensor:
    """tau: the uncertainty above which a label is not believed, for each target.

    Args:
        unsure: From `uncertainty`, (N, 1, i, j, k).
        kind: "mean" of a target's uncertainty; "quantile" of it; "ramp" (0.75 + 0.25 r) ln 2, the same for all,
            where r grows to 1 during training. "ramp" is meant for entropy, whose maximum is ln 2.
        quantile: Of kind "quantile".
        progress: t / t_max, of kind "ramp".
        exponent: Of kind "ramp": as in `ramp_up`.

    Returns:
        (N, 1, 1, 1, 1).

    Source: "ramp" from earlier semi-supervised work of the authors; the others reconstructed.

    >>> unsure = torch.tensor([0.1, 0.2, 0.3, 0.6]).reshape(1, 1, 4, 1, 1)
    >>> [round(doubt_threshold(unsure, kind, quantile=0.75).item(), 4) for kind in THRESHOLDS]
    [0.3, 0.375, 0.6931]
    """
    _check(kind, THRESHOLDS, "threshold")
    if kind == "ramp":
        tau = (0.75 + 0.25 * ramp_up(progress, 1.0, w_max=1.0, exponent=exponent)) * math.log(2)
        return torch.full_like(unsure[..., :1, :1, :1], tau)
    if kind == "quantile":
        return unsure.flatten(1).quantile(quantile, dim=1)[:, None, None, None, None]
    return unsure.mean(VOXELS, keepdim=True)


def rectify(label: Tensor, logits: Tensor, unsure: Tensor, tau: Tensor, kind: str = "replace") -> Rectified:
    """Correct a doubtful label where the network is unsure; elsewhere the label stands.

    Args:
        label: As given, (N, 1, i, j, k).
        logits: (K, N, 1, i, j, k).
        unsure: (N, 1, i, j, k).
        tau: (N, 1, 1, 1, 1).
        kind: What happens where unsure > tau: "replace" the label by what the prompts say on average, [p > 0.5];
            "flip" it to 1 - y, what the release seems to intend; "ignore" the voxel in the loss.

    Warns:
        RuntimeWarning: No voxel of the batch is doubtful or all are, or no target keeps a voxel in its label: such a
            rectification teaches nothing, and is a bug wherever it happens often.

    Source: reconstructed. The release computes (y and not H) and (not y and H), which is empty for every input.
    """
    _check(kind, RECTIFICATIONS, "rectification")
    with torch.no_grad():
        doubtful = unsure > tau
        valid = torch.ones_like(label)
        if kind == "replace":
            new = torch.where(doubtful, (mean_probability(logits) > 0.5).to(label), label)
        elif kind == "flip":
            new = torch.where(doubtful, 1 - label, label)
        else:
            new, valid = label.detach().clone(), (~doubtful).to(label)
        changed = ((new > 0.5) != (label > 0.5)) | (valid == 0)
        shares = doubtful.float().mean(), changed.float().mean()
        emptied = bool((label > 0.5).any()) and not bool(((new > 0.5) & (valid > 0)).any())
    if emptied or shares[0] == 0 or shares[0] == 1:
        what = "left no voxel of any target" if emptied else f"found {shares[0]:.0%} of all voxels doubtful"
        warnings.warn(
            f"rectification {kind!r} {what}, so it teaches nothing on this batch; another threshold may.",
            RuntimeWarning,
            stacklevel=2,
        )
    return Rectified(new, valid, *shares)


def consistency(logits: Tensor, kind: str = "mse") -> Tensor:
    """How far the answers to K prompts lie from their mean; a scalar, 0 if all agree.

    Args:
        logits: (K, N, 1, i, j, k).
        kind: "mse": mean_k (p_k - p)^2; "kl": mean_k KL(p_k | p) + KL(p | p_k), for each voxel's in or out. Both
            averaged over voxels and targets. The gradient reaches every prompt, through the mean too.

    Source: that it exists, supplement Table 4; its form reconstructed.

    >>> answers = torch.tensor([0.9, 0.1]).logit().reshape(2, 1, 1, 1, 1, 1)
    >>> round(consistency(answers).item(), 4), round(consistency(answers, "kl").item(), 4)  # 0.4^2; 0.4 ln 9
    (0.16, 0.8789)
    """
    _check(kind, CONSISTENCIES, "consistency")
    mean = mean_probability(logits)
    if kind == "mse":
        return (logits.sigmoid() - mean).square().mean()
    # The symmetric divergence of two coins is (p_k - p) (logit p_k - logit p).
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
