"""SAM and its relatives for slices: transformers' `SamModel` behind the few calls that a slicewise session makes.

    slices (8 bit) -> pixels -> embeddings          once for each slice
    clicks, previous logits -> logits, mask         once for each click

Frames. A slice is (rows, columns); a click in it is (x, y) = (column, row), SAM's order, in pixels of the slice. The
network sees a square of `image_size` pixels: the slice, scaled so that its pixels are square and its longer side fills
the square, at the top left, zeros beyond. A pixel's centre has whole numbers in either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seganypet.errors import SegAnyPETError

if TYPE_CHECKING:
    from transformers import SamModel

# Intensities that become 0 and 255, by unit: what a reader sees too. A bladder is all white.
EIGHT_BIT = {"SUVbw": (0.0, 7.0), "HU": (-160.0, 240.0)}
# Of ImageNet, times 255; what SAM, MedSAM and the embedded tiny-2d subtract and divide by.
MEAN = (123.675, 116.28, 103.53)
SD = (58.395, 57.12, 57.375)


class Sam2D(nn.Module):
    """A 2D promptable network.

    Args:
        sam: A `transformers.SamModel`.
        name: Name in journals and tables.

    Attributes:
        metadata: How it was trained, as its file tells.
        accepts: Kinds of prompts that it takes: clicks, and the low-resolution mask of the step before.
        image_size: Side of the square that the network sees, in pixels.
        logits_size: Side of its low-resolution logits.
    """

    accepts = frozenset({"click", "mask"})
    mean: Tensor
    sd: Tensor

    def __init__(self, sam: SamModel, name: str = "sam"):
        super().__init__()
        self.sam, self.name = sam, name
        self.metadata: dict[str, Any] = {}
        vision: Any = sam.config.vision_config  # transformers declares what its constructor takes, also dict and list
        self.image_size: int = vision.image_size
        self.logits_size: int = 4 * vision.image_size // vision.patch_size
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("sd", torch.tensor(SD).view(3, 1, 1), persistent=False)

    def frame(self, shape: tuple[int, int], pixel_mm: tuple[float, float] = (1.0, 1.0)) -> tuple[int, int]:
        """Rows and columns of the network's square that a slice fills.

        Args:
            shape: Rows and columns of the slice.
            pixel_mm: Height and width of its pixels, in mm; only their ratio counts.
        """
        height, width = (pixels * mm for pixels, mm in zip(shape, pixel_mm, strict=True))
        scale = self.image_size / max(height, width)
        return max(1, round(height * scale)), max(1, round(width * scale))

    def pixels(self, slices: Tensor, pixel_mm: tuple[float, float] = (1.0, 1.0)) -> Tensor:
        """Grey slices as the network's input.

        Args:
            slices: 8-bit intensities, (N, rows, columns), uint8.
            pixel_mm: As in `frame`.

        Returns:
            (N, 3, image_size, image_size) float32.
        """
        _, height, width = slices.shape
        rows, columns = self.frame((height, width), pixel_mm)
        grey = slices[:, None].float()  # (N, 1, rows, columns)
        grey = F.interpolate(grey, (rows, columns), mode="bilinear", align_corners=False, antialias=True)
        colour = (grey - self.mean) / self.sd  # (N, 3, rows, columns)
        return F.pad(colour, (0, self.image_size - columns, 0, self.image_size - rows))

    def points(self, positions: Tensor, shape: tuple[int, int], pixel_mm: tuple[float, float] = (1.0, 1.0)) -> Tensor:
        """Clicks (x, y) in pixels of a slice as the network takes them, in its own pixels; shape (..., 2) in and out.

        The centre of a pixel goes to where `pixels` draws it. The release multiplies by the scale alone, which shifts a
        click in an enlarged slice by up to half a pixel.
        """
        rows, columns = self.frame(shape, pixel_mm)
        scale = torch.tensor([columns / shape[1], rows / shape[0]], device=positions.device)
        return (positions + 0.5) * scale - 0.5

    def embed(self, pixels: Tensor) -> Tensor:
        """(N, 3, image_size, image_size) -> (N, C, g, g)."""
        # Its get_image_embeddings does the same under no_grad, so that an encoder would never learn.
        return self.sam.vision_encoder(pixels).last_hidden_state

    def decode(
        self, embedding: Tensor, points: Tensor, labels: Tensor, logits: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The three masks that the network proposes for each slice.

        Args:
            embedding: What `embed` returned, (N, C, g, g).
            points: All clicks so far, (x, y) in network pixels, (N, P, 2).
            labels: 1 foreground, 0 background, (N, P).
            logits: Logits of the mask that was chosen after the click before, (N, 1, m, m); None at the first click.

        Returns:
            Logits (N, 3, m, m) and their predicted IoU (N, 3).
        """
        output = self.sam(
            image_embeddings=embedding, input_points=points[:, None], input_labels=labels[:, None].long(),
            input_masks=logits, multimask_output=True,
        )  # fmt: skip
        return output.pred_masks[:, 0], output.iou_scores[:, 0]

    def upscale(self, logits: Tensor, shape: tuple[int, int], pixel_mm: tuple[float, float] = (1.0, 1.0)) -> Tensor:
        """Low-resolution logits (N, m, m) on the slice's own pixels, (N, rows, columns)."""
        rows, columns = self.frame(shape, pixel_mm)
        whole = F.interpolate(logits[:, None], (self.image_size,) * 2, mode="bilinear", align_corners=False)
        part = whole[..., :rows, :columns]
        return F.interpolate(part, shape, mode="bilinear", align_corners=False)[:, 0]


def best_of(logits: Tensor, iou: Tensor) -> Tensor:
    """Of three proposed masks, the one with the highest predicted IoU: (N, 3, m, m), (N, 3) -> (N, m, m)."""
    return logits[torch.arange(len(logits), device=logits.device), iou.argmax(1)]


def small_sam(image_size: int, patch_size: int, dim: int, depth: int, prompt_dim: int) -> SamModel:
    """A `transformers.SamModel` of any size with random weights; all its blocks attend globally."""
    hf = transformers()
    vision = hf.SamVisionConfig(
        hidden_size=dim, output_channels=prompt_dim, num_hidden_layers=depth, num_attention_heads=dim // 32,
        image_size=image_size, patch_size=patch_size, mlp_dim=4 * dim, window_size=0,
        global_attn_indexes=list(range(depth)), num_pos_feats=prompt_dim // 2,
    )  # fmt: skip
    prompts = hf.SamPromptEncoderConfig(hidden_size=prompt_dim, image_size=image_size, patch_size=patch_size)
    decoder = hf.SamMaskDecoderConfig(
        hidden_size=prompt_dim, mlp_dim=4 * prompt_dim, num_attention_heads=4, iou_head_hidden_dim=prompt_dim
    )
    sam = hf.SamModel(hf.SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder))
    # transformers leaves weights near 0 and frequencies of positions too high, as pretrained ones replace them; from
    # these nothing is learned. So: PyTorch's own random weights, and SAM's frequencies.
    for module in sam.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.Embedding):
            module.reset_parameters()
    nn.init.trunc_normal_(sam.vision_encoder.pos_embed, std=0.02)
    nn.init.normal_(sam.shared_image_embedding.positional_embedding)
    return sam


def transformers() -> Any:
    """The library, imported when a 2D network is first needed: that takes seconds.

    Raises:
        SegAnyPETError: It is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise SegAnyPETError("2D networks need the package transformers: pip install 'seganypet[slices]'.") from error
    return transformers
