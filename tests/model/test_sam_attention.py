"""SAM's attention in blocks equals transformers' own."""

import copy

import pytest
import torch
import transformers

from seganypet.model import sam_attention
from seganypet.model.sam2d import Sam2D


def small_sam() -> transformers.SamModel:
    """Windows of 3 on a grid of 8 x 8, which need padding, and one global block; random tables of positions."""
    vision = transformers.SamVisionConfig(
        hidden_size=48, output_channels=32, num_hidden_layers=3, num_attention_heads=4, image_size=64, patch_size=8,
        mlp_dim=96, window_size=3, global_attn_indexes=[1], num_pos_feats=16,
    )  # fmt: skip
    prompts = transformers.SamPromptEncoderConfig(hidden_size=32, image_size=64, patch_size=8)
    decoder = transformers.SamMaskDecoderConfig(hidden_size=32, mlp_dim=64, num_attention_heads=4)
    torch.manual_seed(1)
    sam = transformers.SamModel(
        transformers.SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
    ).eval()
    for name, table in sam.named_parameters():
        if "rel_pos" in name:
            torch.nn.init.normal_(table, std=0.5)
    return sam


@pytest.mark.parametrize("block", [1, 2**13, 2**24])
@torch.inference_mode()
def test_blocks_of_any_size_give_the_embeddings_of_transformers(block, monkeypatch):
    monkeypatch.setattr(sam_attention, "BLOCK", block)
    sam, pixels = small_sam(), torch.randn(2, 3, 64, 64)
    expected = copy.deepcopy(sam).vision_encoder(pixels).last_hidden_state
    torch.testing.assert_close(Sam2D(sam).embed(pixels), expected, rtol=1e-4, atol=1e-5)


def test_weights_keep_their_names():
    sam = small_sam()
    names = {*sam.state_dict()}
    assert {*Sam2D(sam).sam.state_dict()} == names
