"""The numbers that make one network of the SegAnyPET / SAM-Med3D family differ from another."""

from dataclasses import dataclass, fields, replace
from typing import Literal

from seganypet.errors import CheckpointError


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a network and of the window that it sees.

    Attributes:
        window_size: Voxels along each side of the cubic window.
        spacing_mm: Voxel size of the window, the same along all axes.
        patch_size: Voxels along each side of a token.
        encoder_dim: Channels of a token inside the image encoder.
        encoder_depth: Number of attention blocks.
        encoder_heads: Attention heads in each of them.
        prompt_dim: Channels of the embedding that prompts meet in the mask decoder.
        decoder_mlp_dim: Hidden channels of the decoder's MLPs.
        form: "released": relative positions, windows and position encodings exactly as the public weights
            were trained with; "textbook": decomposed relative positions, global attention.
        attention_window: Released form: tokens along each side of an attention window.
        global_blocks: Released form: the blocks that attend globally, not in windows.
        conv_stem: Tokens come from three strided convolutions, not from one projection of a patch.
        fine_features: The stem's and the dense prompt's finer grids join the decoder's upscaling.
        click_map: Clicks are also drawn into the dense prompt.
        likeness: What was clicked is compared with every voxel, see `seganypet.model.likeness`.
        mask_quality: Predicted IoU is told from the masks, too, see `seganypet.model.mask_quality`.
        intensity: "zscore_positive": z-scores over voxels > 0 of the window (as released);
            "log_suv": log(1 + SUV), so that the network knows absolute uptake.

    Raises:
        CheckpointError: If the numbers cannot form a network.
    """

    window_size: int = 64
    spacing_mm: float = 4.0
    patch_size: int = 8
    encoder_dim: int = 192
    encoder_depth: int = 4
    encoder_heads: int = 4
    prompt_dim: int = 96
    decoder_mlp_dim: int = 384
    form: Literal["released", "textbook"] = "textbook"
    attention_window: int = 14
    global_blocks: tuple[int, ...] = ()
    conv_stem: bool = True
    fine_features: bool = True
    click_map: bool = True
    likeness: bool = False
    mask_quality: bool = False
    intensity: Literal["zscore_positive", "log_suv"] = "log_suv"

    def __post_init__(self) -> None:
        object.__setattr__(self, "global_blocks", tuple(self.global_blocks))
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type in (int, float) and not value > 0:
                raise CheckpointError(f"impossible network: {field.name} {value} must be positive.")
        rules = {
            f"window_size {self.window_size} must be a multiple of patch_size {self.patch_size}":
                self.window_size % self.patch_size == 0,
            f"encoder_dim {self.encoder_dim} must be a multiple of encoder_heads {self.encoder_heads}":
                self.encoder_dim % self.encoder_heads == 0,
            f"prompt_dim {self.prompt_dim} must be a multiple of 48 (8 heads, 3 groups of Fourier features)":
                self.prompt_dim % 48 == 0,
            f"a grid of {self.grid_size} tokens must fit into the attention window of {self.attention_window}":
                self.form == "textbook" or self.grid_size <= self.attention_window,
            "a convolutional stem has strides 2, 4, 8: patch_size must be 8":
                not self.conv_stem or self.patch_size == 8,
            "fine_features come from the convolutional stem: set conv_stem too":
                self.conv_stem or not self.fine_features,
            "likeness is added to fine_features: set these too": self.fine_features or not self.likeness,
            "mask_quality looks at likeness: set it too": self.likeness or not self.mask_quality,
            f"global_blocks {self.global_blocks} must be among the {self.encoder_depth} blocks, counted from 0":
                all(0 <= index < self.encoder_depth for index in self.global_blocks),
            f"unknown form {self.form!r}": self.form in ("released", "textbook"),
            f"unknown intensity {self.intensity!r}": self.intensity in ("zscore_positive", "log_suv"),
        }
        for rule, holds in rules.items():
            if not holds:
                raise CheckpointError(f"impossible network: {rule}.")

    @property
    def grid_size(self) -> int:
        """Tokens along each side of the window."""
        return self.window_size // self.patch_size

    @property
    def logits_size(self) -> int:
        """Voxels along each side of the low-resolution logits: four times the token grid."""
        return 4 * self.grid_size


TINY = ModelConfig()

# Depth 12 is what the public weights hold; the supplement (B.1) writes 16, whose global blocks are our inference.
RELEASED = ModelConfig(
    window_size=128,
    spacing_mm=1.5,
    patch_size=16,
    encoder_dim=768,
    encoder_depth=12,
    encoder_heads=12,
    prompt_dim=384,
    decoder_mlp_dim=2048,
    form="released",
    global_blocks=(2, 5, 8, 11),
    conv_stem=False,
    fine_features=False,
    click_map=False,
    intensity="zscore_positive",
)

PAPER = replace(RELEASED, encoder_depth=16, global_blocks=(3, 7, 11, 15))
