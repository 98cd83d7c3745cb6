"""One batch -> one loss: windows are embedded once, a simulated user clicks, predictions are compared with labels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seganypet.losses import Rectified, consistency, dice_ce, ramp_up, rectify, uncertainty, uncertainty_threshold
from seganypet.model.image_encoder import ImageEmbedding
from seganypet.model.sam3d import Sam3D
from seganypet.training.clicks import pick_clicks
from seganypet.training.config import TrainConfig


class Objective(nn.Module):
    """What training minimises, as one module, so that distributed training sees one forward pass.

        L = L_HQ + w L_LQ + lambda(t) L_consistency        w = lambda(t) for CPCL

    Each target is clicked K times independently, which gives the predictions that CPCL compares. From the first of
    these clicks an interaction continues: the user sees the mask, clicks in its errors, and so on. DiceCE is taken
    after the first and the last click, so that a mask appears at once and further clicks improve it. The clicks
    between are predicted without gradient, so a step costs two backward passes, however long the interaction.

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
        first, points, labels = self.first_logits(embedding, soft_label, label)  # (K, N, 1, m, m, m)
        last = self.last_logits(embedding, soft_label, label, first[0].detach(), points, labels, clicks)
        given = soft_label
        if self.config.loss_grid == "window":
            first = torch.stack([self.model.upscale(logits) for logits in first])
            last, given = self.model.upscale(last), label

        loss, logs = torch.zeros((), device=suv.device), {}
        hq = ~lq
        if hq.any():
            loss = logs["loss_hq"] = over_clicks(first[:, hq], last[hq], given[hq])
            logs["loss_first_click"] = dice_ce(first[0, hq].detach(), given[hq])
            logs["loss_last_click"] = dice_ce(last[hq].detach(), given[hq])
        if lq.any():
            logs |= self.lq_losses(first[:, lq], last[lq], given[lq], progress)
            weight, weight_consistency = self.weights(progress)
            loss = loss + weight * logs["loss_lq"]
            if weight_consistency:
                loss = loss + weight_consistency * logs["consistency"]
        return loss, {name: value.detach() for name, value in logs.items()}

    def first_logits(self, embedding: ImageEmbedding, soft_label: Tensor, label: Tensor) -> tuple[Tensor, ...]:
        """Logits after each of K independent first clicks (K, N, 1, m, m, m), and the first one's point and label."""
        prompts, count = self.config.prompts, len(label)
        region = (soft_label >= soft_label.amax((2, 3, 4), keepdim=True).clamp(max=0.5)).float()
        clicks = [pick_clicks(region, label, deep=0.7) for _ in range(prompts)]
        points, labels = (torch.cat(parts) for parts in zip(*clicks, strict=True))  # (K N, 1, 3), (K N, 1)
        repeated = (part if part is None else part.repeat(prompts, 1, 1, 1, 1) for part in embedding)
        logits, _ = self.model.decode(
            ImageEmbedding._make(repeated), points, labels, self.model.no_logits(prompts * count)
        )
        return logits.float().unflatten(0, (prompts, count)), points[:count], labels[:count]

    def last_logits(
        self,
        embedding: ImageEmbedding,
        soft_label: Tensor,
        label: Tensor,
        logits: Tensor,
        points: Tensor,
        labels: Tensor,
        clicks: int,
    ) -> Tensor:
        """Logits after the last of `clicks` clicks, (N, 1, m, m, m)."""
        for click in range(1, clicks):
            error = ((logits > 0) != (soft_label > 0.5)).float()
            # A perfect mask leaves nothing to correct: the user confirms it by another click inside the target.
            imperfect = error.flatten(1).any(1)[:, None, None, None, None]
            error = torch.where(imperfect, error, (soft_label > 0).float())
            more = pick_clicks(error, label, deep=0.6)
            points, labels = torch.cat([points, more[0]], 1), torch.cat([labels, more[1]], 1)
            with torch.set_grad_enabled(torch.is_grad_enabled() and click == clicks - 1):
                logits = self.model.decode(embedding, points, labels, logits)[0].float()
        return logits

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
