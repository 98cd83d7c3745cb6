"""SAM and its relatives for slices: transformers' `SamModel` behind the few calls that a slicewise session makes.

    slices (8 bit) -> pixels -> embeddings              once for each slice
    points, box, previous logits -> logits, mask        once for each prompt

Frames. A slice is (rows, columns); a click in it is (x, y) = (column, row), SAM's order, in pixels of the slice. The
network sees a square of `image_size` pixels: the slice, scaled so that its pixels are square and its longer side fills
the square, at the top left, zeros beyond. A pixel's centre has whole numbers in either. A box names its first and its
last pixel, both inside.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seganypet.errors import SegAnyPETError
from seganypet.model.sam_attention import use_blocked_attention

if TYPE_CHECKING:
    from transformers import SamModel

# Intensities that become 0 and 255, by unit: what a reader sees too. A bladder is all white.
EIGHT_BIT = {"SUVbw": (0.0, 7.0), "HU": (-160.0, 240.0)}
# Of ImageNet, times 255; what SAM, MedSAM and the embedded tiny-2d subtract and divide by.
MEAN = (123.675, 116.28, 103.53)
SD = (58.395, 57.12, 57.375)
# What SAM and its descendants were trained with, and what a network does that learned from clicks alone: its two
# embeddings of a box's corners are then as random as they began.
SAM_PROMPTS = frozenset({"click", "mask", "box"})
CLICK_PROMPTS = frozenset({"click", "mask"})
# Logits of a mask that a user gives, inside and, negative, outside: as certain as SAM is of an object's middle.
CERTAIN = 8.0


class Sam2D(nn.Module):
    """A 2D promptable network.

    Args:
        sam: A `transformers.SamModel`.
        name: Name in journals and tables.
        accepts: Kinds of prompts that it was trained with: "click", "mask" (the low-resolution mask of the step before)
            and, as SAM and MedSAM were, "box".

    Attributes:
        metadata: How it was trained, as its file tells.
        image_size: Side of the square that the network sees, in pixels.
        logits_size: Side of its low-resolution logits.
    """

    mean: Tensor
    sd: Tensor

    def __init__(self, sam: SamModel, name: str = "sam", accepts: Iterable[str] = SAM_PROMPTS):
        super().__init__()
        use_blocked_attention(sam)
        self.sam, self.name, self.accepts = sam, name, frozenset(accepts)
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

    def boxes(self, boxes: Tensor, shape: tuple[int, int], pixel_mm: tuple[float, float] = (1.0, 1.0)) -> Tensor:
        """Boxes in pixels of a slice as the network takes them; (..., 4) in and out, as (x0, y0, x1, y1).

        In both, the box is the tightest one, its first and last pixel inside: a pixel that is drawn as eight network
        pixels is a box of eight. One that is drawn as less than a network pixel has both corners at its centre.
        """
        low = self.points(boxes[..., :2] - 0.5, shape, pixel_mm)
        high = self.points(boxes[..., 2:] + 0.5, shape, pixel_mm)
        centre, half = (low + high) / 2, ((high - low - 1) / 2).clamp(min=0)
        return torch.cat([centre - half, centre + half], -1)

    def mask_logits(self, masks: Tensor, pixel_mm: tuple[float, float] = (1.0, 1.0)) -> Tensor:
        """Masks on a slice's own pixels, (N, rows, columns), as low-resolution logits, (N, m, m).

        As `decode` takes them for a mask to start from, and the way back of `upscale`.
        """
        rows, columns = self.frame((masks.shape[1], masks.shape[2]), pixel_mm)
        part = F.interpolate(
            masks[:, None].float(), (rows, columns), mode="bilinear", align_corners=False, antialias=True
        )
        whole = F.pad(part, (0, self.image_size - columns, 0, self.image_size - rows))
        return CERTAIN * (2 * F.adaptive_avg_pool2d(whole, self.logits_size)[:, 0] - 1)

    def embed(self, pixels: Tensor) -> Tensor:
        """(N, 3, image_size, image_size) -> (N, C, g, g)."""
        # Its get_image_embeddings does the same under no_grad, so that an encoder would never learn.
        return self.sam.vision_encoder(pixels).last_hidden_state

    def decode(
        self, embedding: Tensor, points: Tensor, labels: Tensor, logits: Tensor | None = None,
        boxes: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """The masks that the network proposes for each slice: three, or with a box, which is hardly ambiguous, one.

        MedSAM learned from boxes and that one mask alone.

        Args:
            embedding: What `embed` returned, (N, C, g, g).
            points: All clicks so far, (x, y) in network pixels, (N, P, 2); P may be 0 if there is a box.
            labels: 1 foreground, 0 background, (N, P).
            logits: Logits of the mask that was chosen after the prompt before, (N, 1, m, m); None at the first one.
            boxes: One box for each slice, (x0, y0, x1, y1) in network pixels, (N, 4); None: without boxes.

        Returns:
            Logits (N, M, m, m) and their predicted IoU (N, M), M being 3 or 1.
        """
        prompts = {"input_points": points[:, None], "input_labels": labels[:, None].long()} if points.shape[1] else {}
        if boxes is not None:
            prompts["input_boxes"] = boxes[:, None]
        output = self.sam(image_embeddings=embedding, input_masks=logits, multimask_output=boxes is None, **prompts)
        return output.pred_masks[:, 0], output.iou_scores[:, 0]

    def upscale(self, logits: Tensor, shape: tuple[int, int], pixel_mm: tuple[float, float] = (1.0, 1.0)) -> Tensor:
        """Low-resolution logits (N, m, m) on the slice's own pixels, (N, rows, columns)."""
        rows, columns = self.frame(shape, pixel_mm)
        whole = F.interpolate(logits[:, None], (self.image_size,) * 2, mode="bilinear", align_corners=False)
        part = whole[..., :rows, :columns]
        return F.interpolate(part, shape, mode="bilinear", align_corners=False)[:, 0]


def best_of(logits: Tensor, iou: Tensor) -> Tensor:
    """Of the proposed masks, the one with the highest predicted IoU: (N, M, m, m), (N, M) -> (N, m, m)."""
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
