"""One batch -> one loss: windows are embedded once, a simulated user clicks, predictions are compared with labels."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seganypet.losses import (
    Rectified,
    consistency,
    dice_ce,
    dice_ce_of_each,
    ramp_up,
    rectify,
    uncertainty,
    uncertainty_threshold,
)
from seganypet.model.image_encoder import ImageEmbedding
from seganypet.model.sam3d import Sam3D
from seganypet.training.clicks import draw_start_masks, pick_clicks
from seganypet.training.config import TrainConfig

LATER_DEEP = 0.6  # fraction of corrections that lie deep inside the error
READINGS_WEIGHT = 0.5
UNCHOSEN_WEIGHT = 0.1  # of the mean of all readings beside the best one, so that none is left behind


class FirstMasks(NamedTuple):
    """What K independent first clicks on each of N targets give.

    Attributes:
        logits: The single mask and the three readings, (K, N, 4, m, m, m).
        iou: Their predicted IoU, (K, N, 4).
        alone: Whether there was nothing but the click, no mask to start from, (K, N).
        points: The first of the K clicks, in voxels of the window, (N, 1, 3).
        labels: 1 foreground and 0 background, (N, 1).
    """

    logits: Tensor
    iou: Tensor
    alone: Tensor
    points: Tensor
    labels: Tensor


class Objective(nn.Module):
    """What training minimises, as one module, so that distributed training sees one forward pass.

        L = L_HQ + w L_LQ + lambda(t) L_consistency + L_readings        w = lambda(t) for CPCL

    Each target is clicked K times independently, which gives the predictions that CPCL compares. From the first of
    these clicks an interaction continues: the user sees the mask, clicks in its errors, and so on. DiceCE is taken
    after the first and the last click, so that a mask appears at once and further clicks improve it. The clicks
    between are predicted without gradient, so a step costs two backward passes, however long the interaction.

    An ambiguous first click has three readings beside the single mask. Of these the best alone learns the target, so
    that they come to differ, and the predicted IoU of all four learns what they reach (Segment Anything, appendix A).

    DiceCE is averaged over clicks, where the article sums. With equally many clicks in both losses that is a common
    factor, to which AdamW is invariant, and the weights of the losses keep their meaning.

    Args:
        model: Network to train.
        config: Strategy, number of prompts and weights of the losses.
    """

    def __init__(self, model: Sam3D, config: TrainConfig):
        super().__init__()
        self.model, self.config = model, config

    def forward(
        self, suv: Tensor, label: Tensor, lq: Tensor, clicks: int, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one batch.

        Args:
            suv: Intensities of the windows, (B, 1, n, n, n).
            label: Given labels of T targets in each window, 0 or 1, (B, T, n, n, n).
            lq: Whether a window's labels are of low quality, (B,) bool.
            clicks: Number of clicks on each target, at least 2.
            progress: Training progress t / t_max, 0 to 1.

        Returns:
            The loss, a scalar; and the values to log, scalars without gradient.
        """
        targets = label.shape[1]
        embedding = repeat(self.model.embed(self.model.normalise(suv)), targets)  # (B, ...) -> (N, ...), N = B T
        label = label.flatten(0, 1)[:, None].float()  # (N, 1, n, n, n)
        lq = lq.repeat_interleave(targets)  # (N,)
        # The fraction of target in each voxel of the logits: the same boundary on a coarser grid.
        soft_label = F.avg_pool3d(label, label.shape[-1] // self.model.config.logits_size)  # (N, 1, m, m, m)
        first = self.first_masks(embedding, soft_label, label)
        last, last_iou = self.last_logits(
            embedding, soft_label, label, first.logits[0, :, :1].detach(), first.points, first.labels, clicks
        )
        given = soft_label
        single = first.logits[:, :, :1]  # (K, N, 1, m, m, m)
        if self.config.loss_grid == "window":
            single = torch.stack([self.model.upscale(logits) for logits in single])
            last, given = self.model.upscale(last), label

        loss, logs = torch.zeros((), device=suv.device), {}
        hq = ~lq
        if hq.any():
            loss = logs["loss_hq"] = over_clicks(single[:, hq], last[hq], given[hq])
            logs["loss_first_click"] = dice_ce(single[0, hq].detach(), given[hq])
            logs["loss_last_click"] = dice_ce(last[hq].detach(), given[hq])
            if self.config.readings:
                logs |= self.reading_losses(first, last[hq], last_iou[hq], soft_label, hq)
                loss = loss + READINGS_WEIGHT * logs["loss_readings"] + logs["loss_iou"]
        if lq.any():
            logs |= self.lq_losses(single[:, lq], last[lq], given[lq], progress)
            weight, weight_consistency = self.weights(progress)
            loss = loss + weight * logs["loss_lq"]
            if weight_consistency:
                loss = loss + weight_consistency * logs["consistency"]
        return loss, {name: value.detach() for name, value in logs.items()}

    def first_masks(self, embedding: ImageEmbedding, soft_label: Tensor, label: Tensor) -> FirstMasks:
        """All masks after each of K independent first clicks."""
        config, count = self.config, len(label)
        region = (soft_label >= soft_label.amax((2, 3, 4), keepdim=True).clamp(max=0.5)).float()
        clicks = [pick_clicks(region, label, config.deep) for _ in range(config.prompts)]
        points, labels = (torch.cat(parts) for parts in zip(*clicks, strict=True))  # (K N, 1, 3), (K N, 1)
        before = self.model.no_logits(config.prompts * count)
        started = torch.rand(len(points), device=points.device) < config.start_masks
        if config.start_masks and started.any():
            starts = draw_start_masks(soft_label.repeat(config.prompts, 1, 1, 1, 1), points, label.shape[-1])
            before = torch.where(started[:, None, None, None, None], starts, before)
        repeated = (part if part is None else part.repeat(config.prompts, 1, 1, 1, 1) for part in embedding)
        logits, iou = self.model.decode_all(ImageEmbedding._make(repeated), points, labels, before)
        groups = (config.prompts, count)
        return FirstMasks(
            logits.float().unflatten(0, groups), iou.float().unflatten(0, groups), ~started.unflatten(0, groups),
            points[:count], labels[:count],
        )  # fmt: skip

    def reading_losses(
        self, first: FirstMasks, last: Tensor, last_iou: Tensor, soft_label: Tensor, hq: Tensor
    ) -> dict[str, Tensor]:
        """Loss of the best of three readings of each first click alone, and of the predicted IoU of all masks."""
        logits, iou = first.logits[:, hq].flatten(0, 1), first.iou[:, hq].flatten(0, 1)  # (K H, 4, m, m, m), (K H, 4)
        alone = first.alone[:, hq].flatten()
        target = soft_label[hq].repeat(self.config.prompts, 1, 1, 1, 1)  # (K H, 1, m, m, m)
        losses = dice_ce_of_each(logits[:, 1:], target.expand(-1, 3, -1, -1, -1))  # (K H, 3)
        best = losses.amin(1) + UNCHOSEN_WEIGHT * losses.mean(1)
        reached = intersection_over_union(logits, target)
        # After a start mask or the last click only the single mask is asked for.
        wanted = torch.ones_like(iou, dtype=torch.bool)
        wanted[:, 1:] = alone[:, None]
        error = ((iou - reached).square() * wanted).sum() / wanted.sum()
        last_error = (last_iou - intersection_over_union(last, soft_label[hq])).square().mean()
        return {
            "loss_readings": (best * alone).sum() / alone.sum().clamp(min=1), "loss_iou": error + last_error,
        }  # fmt: skip

    def last_logits(
        self,
        embedding: ImageEmbedding,
        soft_label: Tensor,
        label: Tensor,
        logits: Tensor,
        points: Tensor,
        labels: Tensor,
        clicks: int,
    ) -> tuple[Tensor, Tensor]:
        """Logits after the last of `clicks` clicks, (N, 1, m, m, m), and their predicted IoU, (N, 1)."""
        iou = logits.new_zeros(len(logits), 1)
        for click in range(1, clicks):
            error = ((logits > 0) != (soft_label > 0.5)).float()
            # A perfect mask leaves nothing to correct: the user confirms it by another click inside the target.
            imperfect = error.flatten(1).any(1)[:, None, None, None, None]
            error = torch.where(imperfect, error, (soft_label > 0).float())
            more = pick_clicks(error, label, LATER_DEEP)
            points, labels = torch.cat([points, more[0]], 1), torch.cat([labels, more[1]], 1)
            with torch.set_grad_enabled(torch.is_grad_enabled() and click == clicks - 1):
                logits, iou = (part.float() for part in self.model.decode(embedding, points, labels, logits))
        return logits, iou

    def lq_losses(self, first: Tensor, last: Tensor, given: Tensor, progress: float) -> dict[str, Tensor]:
        """Loss on LQ labels, consistency between prompts, and how much of the labels was rectified."""
        config = self.config
        logs = {}
        if config.strategy == "cpcl":
            rectified = self.rectified(first, given, progress)
            loss = over_clicks(first, last, rectified.label, rectified.valid)
            if config.released_loss:
                loss = (2 * over_clicks(first, last, given) + loss) / 3
            logs["uncertain_fraction"] = rectified.uncertain_fraction
            logs["changed_fraction"] = rectified.changed_fraction
        else:
            loss = over_clicks(first, last, given)
        with torch.set_grad_enabled(torch.is_grad_enabled() and config.strategy != "finetune"):
            return logs | {"loss_lq": loss, "consistency": consistency(first, config.consistency)}

    def rectified(self, first: Tensor, given: Tensor, progress: float) -> Rectified:
        """The given labels, corrected where the predictions for K prompts are uncertain."""
        config, first = self.config, first.detach()
        uncertainty_map = uncertainty(first, config.uncertainty)
        tau = uncertainty_threshold(uncertainty_map, config.threshold, config.quantile, progress, config.exponent)
        return rectify(given, first, uncertainty_map, tau, config.rectification)

    def weights(self, progress: float) -> tuple[float, float]:
        """Weight of the loss on LQ labels, and of consistency."""
        config = self.config
        ramp = ramp_up(progress, 1.0, config.w_max, config.beta, config.exponent)
        by_strategy = {"finetune": (1.0, 0.0), "consistency": (1.0, ramp), "cpcl": (ramp, ramp)}
        weight, weight_consistency = by_strategy[config.strategy]
        return (weight if config.lq_weight is None else config.lq_weight), weight_consistency


def over_clicks(first: Tensor, last: Tensor, label: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean of two DiceCE losses: of the first clicks, averaged over prompts, and of the last click.

    Args:
        first: Logits after each of K first clicks, (K, N, 1, i, j, k).
        last: Logits after the last click, (N, 1, i, j, k).
        label: Label from 0 to 1, (N, 1, i, j, k).
        valid: 1 where a voxel counts, else 0, (N, 1, i, j, k); None: all voxels count.
    """
    first_losses = [dice_ce(logits, label, valid) for logits in first]
    return (torch.stack(first_losses).mean() + dice_ce(last, label, valid)) / 2


def repeat(embedding: ImageEmbedding, times: int) -> ImageEmbedding:
    """Each window's embedding, repeated `times` in a row, (B, ...) -> (B * times, ...)."""
    return ImageEmbedding._make(None if part is None else part.repeat_interleave(times, 0) for part in embedding)


def intersection_over_union(logits: Tensor, target: Tensor) -> Tensor:
    """IoU of masks (N, M, m, m, m) and the target of each (N, 1, m, m, m), where more than half is inside; (N, M)."""
    mask, target = (logits.detach() > 0).flatten(2), (target > 0.5).flatten(2)
    return (mask & target).sum(2) / (mask | target).sum(2).clamp(min=1)
