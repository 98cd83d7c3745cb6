"""The whole network: window -> embedding -> prompts -> logits."""

import torch.nn.functional as F
from torch import Tensor, nn

from seganypet.model.config import ModelConfig
from seganypet.model.image_encoder import ImageEmbedding, ImageEncoder
from seganypet.model.mask_decoder import ALL, READINGS, SINGLE, MaskDecoder
from seganypet.model.prompt_encoder import PromptEncoder


class Sam3D(nn.Module):
    """A promptable network for cubic windows of a 3D scan.

    The image encoder is the slow part and sees no prompt; prompt encoder and mask decoder are quick. So
    `embed` once, then `decode` at every click.

    Attributes:
        config: Shape of the network and of its window.
        name: Name in journals and tables.
        metadata: How it was trained, as its file tells.
        accepts: Kinds of prompts that it takes: clicks, and the low-resolution mask of the step before.

    Source: supplement B.1, Fig. 3; SAM-Med3D, whose parameter names these are.
    """

    accepts = frozenset({"click", "mask"})

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.name = "untrained"
        self.metadata: dict[str, object] = {}
        self.image_encoder = ImageEncoder(config)
        self.prompt_encoder = PromptEncoder(config)
        self.mask_decoder = MaskDecoder(config)
        self.image_encoder.apply(_initialise_linear)

    def embed(self, window: Tensor) -> ImageEmbedding:
        """Embed normalised windows, (B, 1, n, n, n) with n = `config.window_size`."""
        return self.image_encoder(window)

    def decode(
        self,
        embedding: ImageEmbedding,
        points_ijk: Tensor,
        labels: Tensor,
        previous_logits: Tensor | None,
        multimask: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Turn prompts into masks.

        Args:
            embedding: What `embed` returned.
            points_ijk: All clicks so far, in voxels of the window, (B, P, 3).
            labels: 1 foreground, 0 background, (B, P).
            previous_logits: Logits that this returned at the click before, (B, 1, 4g, 4g, 4g); zeros on the
                first; None: no dense prompt.
            multimask: Return the three masks for an ambiguous click instead of one.

        Returns:
            Low-resolution logits (B, M, 4g, 4g, 4g), unthresholded, and predicted IoU (B, M).
        """
        return self._decode(embedding, points_ijk, labels, previous_logits, READINGS if multimask else SINGLE)

    def decode_all(
        self, embedding: ImageEmbedding, points_ijk: Tensor, labels: Tensor, previous_logits: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """As `decode`, the single mask and then the three for an ambiguous click, M = 4."""
        return self._decode(embedding, points_ijk, labels, previous_logits, ALL)

    def _decode(
        self, embedding: ImageEmbedding, points_ijk: Tensor, labels: Tensor, previous_logits: Tensor | None,
        masks: range,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        if previous_logits is None and self.config.fine_features:
            previous_logits = self.no_logits(len(points_ijk))
        prompt = self.prompt_encoder(points_ijk, labels, previous_logits)
        return self.mask_decoder(embedding, prompt, self.prompt_encoder.dense_positions(), masks)

    def no_logits(self, batch: int = 1) -> Tensor:
        """The previous logits of a first click: zeros, (B, 1, 4g, 4g, 4g)."""
        return self.prompt_encoder.pe_layer.matrix.new_zeros(batch, 1, *[self.config.logits_size] * 3)

    def upscale(self, logits: Tensor) -> Tensor:
        """Low-resolution logits on the voxels of the window, (B, M, n, n, n)."""
        return F.interpolate(logits, size=[self.config.window_size] * 3, mode="trilinear", align_corners=False)

    def normalise(self, window: Tensor) -> Tensor:
        """Intensities as the network was trained with, same shape; float32.

        Args:
            window: SUV (or another unit for `zscore_positive`), (B, 1, n, n, n).
        """
        if self.config.intensity == "log_suv":
            return window.clamp(min=0).log1p()
        body = window > 0
        count = body.sum((2, 3, 4), keepdim=True).clamp(min=2)
        mean = (window * body).sum((2, 3, 4), keepdim=True) / count
        variance = ((window - mean).square() * body).sum((2, 3, 4), keepdim=True) / (count - 1)
        return (window - mean) / variance.sqrt().clamp(min=1e-6)


def _initialise_linear(module: nn.Module) -> None:
    # As in ViT: small, so that every block starts near the identity.
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
