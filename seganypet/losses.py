"""What training minimises."""

from functools import cache

from torch import Tensor


def dice_ce(logits: Tensor, truth: Tensor) -> Tensor:
    """Dice loss plus cross-entropy, averaged over the batch; a scalar.

    Args:
        logits: Unthresholded, (B, 1, I, J, K).
        truth: 1 inside the target, 0 outside, same shape, floating.

    Source: MONAI's DiceCELoss with sigmoid and squared denominators, as in the public release.
    """
    return _dice_ce()(logits, truth)


@cache
def _dice_ce():
    from monai.losses import DiceCELoss  # slow to import

    return DiceCELoss(sigmoid=True, squared_pred=True)
