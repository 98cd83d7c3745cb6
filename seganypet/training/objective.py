"""One batch -> one loss: windows are embedded once, a simulated user clicks, and answers meet their labels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seganypet.losses import Rectified, consistency, dice_ce, doubt_threshold, ramp_up, rectify, uncertainty
from seganypet.model.image_encoder import ImageEmbedding
from seganypet.model.sam3d import Sam3D
from seganypet.training.clicks import pick_clicks
from seganypet.training.config import TrainConfig


class Objective(nn.Module):
    """What training minimises, as one module, so that distributed training sees one forward pass.

        L = L_trusted + w L_doubtful + lambda(t) L_consistency

    Each target is clicked K times independently, which gives the answers that CPCL compares. From the first of them a
    dialogue goes on: the user looks at the mask, clicks in its errors, and so on. DiceCE is taken after the
    first and the last click, so that a mask appears at once and further clicks improve it; the clicks between are
    looked at without gradient, so a step costs two passes backward, however long the dialogue.

    DiceCE is averaged over clicks, where the article sums: with as many clicks on both sides that is a common factor,
    which AdamW does not feel, and weights are then what they say.

    Args:
        model: The network.
        config: Strategy, prompts, weights.
    """

    def __init__(self, model: Sam3D, config: TrainConfig):
        super().__init__()
        self.model, self.config = model, config

    def forward(
        self, suv: Tensor, label: Tensor, doubtful: Tensor, clicks: int, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one batch.

        Args:
            suv: (B, 1, n, n, n).
            label: What training is told of T targets in each window, 0 or 1, (B, T, n, n, n).
            doubtful: Whether a window's labels are, (B,) bool.
            clicks: Length of the dialogue, at least 2.
            progress: t / t_max, 0 to 1.

        Returns:
            The loss, a scalar; and what to log, scalars without gradient.
        """
        targets = label.shape[1]
        embedding = repeat(self.model.embed(self.model.normalise(suv)), targets)  # (B, ...) -> (N, ...), N = B T
        label = label.flatten(0, 1)[:, None].float()  # (N, 1, n, n, n)
        doubtful = doubtful.repeat_interleave(targets)  # (N,)
        # How full of target each voxel of the logits is: the same boundary on a coarser grid.
        fullness = F.avg_pool3d(label, label.shape[-1] // self.model.config.logits_size)  # (N, 1, m, m, m)
        first, points, labels = self.first_answers(embedding, fullness, label)  # (K, N, 1, m, m, m)
        last = self.last_answer(embedding, fullness, label, first[0].detach(), points, labels, clicks)
        given = fullness
        if self.config.loss_grid == "window":
            first = torch.stack([self.model.upscale(answer) for answer in first])
            last, given = self.model.upscale(last), label

        loss, log = 0.0, {}
        trusted = ~doubtful
        if trusted.any():
            loss = log["loss"] = over_clicks(first[:, trusted], last[trusted], given[trusted])
            log["loss_first_click"] = dice_ce(first[0, trusted].detach(), given[trusted])
            log["loss_last_click"] = dice_ce(last[trusted].detach(), given[trusted])
        if doubtful.any():
            told = self.doubtful_losses(first[:, doubtful], last[doubtful], given[doubtful], progress)
            weight, weight_consistency = self.weights(progress)
            loss = loss + weight * told["loss_doubtful"]
            if weight_consistency:
                loss = loss + weight_consistency * told["consistency"]
            log |= told
        return loss, {name: value.detach() for name, value in log.items()}

    def first_answers(self, embedding: ImageEmbedding, fullness: Tensor, label: Tensor) -> tuple[Tensor, ...]:
        """Logits after each of K independent first clicks (K, N, 1, m, m, m), and the first one's point and label."""
        prompts, count = self.config.prompts, len(label)
        region = (fullness >= fullness.amax((2, 3, 4), keepdim=True).clamp(max=0.5)).float()
        clicks = [pick_clicks(region, label, deep=0.7) for _ in range(prompts)]
        points, labels = (torch.cat(parts) for parts in zip(*clicks, strict=True))  # (K N, 1, 3), (K N, 1)
        everywhere = ImageEmbedding(*(part if part is None else part.repeat(prompts, 1, 1, 1, 1) for part in embedding))
        logits, _ = self.model.decode(everywhere, points, labels, self.model.no_logits(prompts * count))
        return logits.float().unflatten(0, (prompts, count)), points[:count], labels[:count]

    def last_answer(
        self,
        embedding: ImageEmbedding,
        fullness: Tensor,
        label: Tensor,
        logits: Tensor,
        points: Tensor,
        labels: Tensor,
        clicks: int,
    ) -> Tensor:
        """Logits at the end of a dialogue of `clicks` clicks, (N, 1, m, m, m)."""
        for click in range(1, clicks):
            error = ((logits > 0) != (fullness > 0.5)).float()
            # A perfect mask leaves nothing to correct: the user confirms, clicking inside the target again.
            something = error.flatten(1).any(1)[:, None, None, None, None]
            error = torch.where(something, error, (fullness > 0).float())
            more = pick_clicks(error, label, deep=0.6)
            points, labels = torch.cat([points, more[0]], 1), torch.cat([labels, more[1]], 1)
            with torch.set_grad_enabled(torch.is_grad_enabled() and click == clicks - 1):
                logits = self.model.decode(embedding, points, labels, logits)[0].float()
        return logits

    def doubtful_losses(self, first: Tensor, last: Tensor, given: Tensor, progress: float) -> dict[str, Tensor]:
        """Loss on doubtful labels, consistency between prompts, and how much of the labels was rectified."""
        config = self.config
        told = {"loss_doubtful": None, "consistency": None}
        if config.strategy == "cpcl":
            rectified = self.rectified(first, given, progress)
            loss = over_clicks(first, last, rectified.label, rectified.valid)
            if config.released_loss:
                loss = (2 * over_clicks(first, last, given) + loss) / 3
            told |= {"doubtful_share": rectified.doubtful_share, "changed_share": rectified.changed_share}
        else:
            loss = over_clicks(first, last, given)
        with torch.set_grad_enabled(torch.is_grad_enabled() and config.strategy != "finetune"):
            told |= {"loss_doubtful": loss, "consistency": consistency(first, config.consistency)}
        return told

    def rectified(self, first: Tensor, given: Tensor, progress: float) -> Rectified:
        """The given labels, corrected where the answers to K prompts are unsure."""
        config, first = self.config, first.detach()
        unsure = uncertainty(first, config.uncertainty)
        tau = doubt_threshold(unsure, config.threshold, config.quantile, progress, config.exponent)
        return rectify(given, first, unsure, tau, config.rectification)

    def weights(self, progress: float) -> tuple[float, float]:
        """Weight of the loss on doubtful labels, and of consistency."""
        config = self.config
        ramp = ramp_up(progress, 1.0, config.w_max, config.beta, config.exponent)
        by_strategy = {"finetune": (1.0, 0.0), "consistency": (1.0, ramp), "cpcl": (ramp, ramp)}
        weight, weight_consistency = by_strategy[config.strategy]
        return (weight if config.doubtful_weight is None else config.doubtful_weight), weight_consistency


def over_clicks(first: Tensor, last: Tensor, label: Tensor, valid: Tensor | None = None) -> Tensor:
    """DiceCE of the first clicks, averaged over prompts, and of the last one, averaged.

    Args:
        first: (K, N, 1, i, j, k).
        last: (N, 1, i, j, k).
        label: (N, 1, i, j, k).
        valid: 1 where a voxel counts, (N, 1, i, j, k).
    """
    first_losses = [dice_ce(answer, label, valid) for answer in first]
    return (torch.stack(first_losses).mean() + dice_ce(last, label, valid)) / 2


def repeat(embedding: ImageEmbedding, times: int) -> ImageEmbedding:
    """Each window's embedding `times` in a row, (B, ...) -> (B times, ...)."""
    return ImageEmbedding(*(part if part is None else part.repeat_interleave(times, 0) for part in embedding))
