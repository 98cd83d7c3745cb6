"""The released network's arithmetic, checked against outputs of the public implementation."""

import json

import pytest
import torch
from conftest import REPOSITORY
from safetensors.torch import load_file

from seganypet.model.config import ModelConfig
from seganypet.model.sam3d import Sam3D

REFERENCE = REPOSITORY / "tests" / "data" / "reference"
CASES = json.loads((REFERENCE / "mini.json").read_text())["cases"]
PRECISIONS = [pytest.param(torch.float64, 1e-9, id="float64"), pytest.param(torch.float32, 2e-4, id="float32")]


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    return load_file(REFERENCE / "mini_io.safetensors")


@pytest.fixture(scope="module")
def model() -> Sam3D:
    config = ModelConfig(
        window_size=64, spacing_mm=1.5, patch_size=8, encoder_dim=48, encoder_depth=3, encoder_heads=3,
        prompt_dim=48, decoder_mlp_dim=2048, form="released", global_blocks=(1,), conv_stem=False,
        fine_features=False, click_map=False, intensity="zscore_positive",
    )  # fmt: skip
    model = Sam3D(config)
    model.load_state_dict(load_file(REFERENCE / "mini_state_dict.safetensors"))
    return model.eval()


@pytest.mark.parametrize("dtype, tolerance", PRECISIONS)
def test_every_encoder_block_matches_the_public_implementation(model, expected, dtype, tolerance):
    outputs = {}
    model = model.to(dtype)

    def keep(name):
        return lambda _module, _input, output: outputs.update({name: output})

    blocks = enumerate(model.image_encoder.blocks)
    hooks = [block.register_forward_hook(keep(f"block_{index}")) for index, block in blocks]
    with torch.no_grad():
        outputs["image_embedding"] = model.embed(expected["image"].to(dtype)).tokens
        outputs["dense_pe"] = model.prompt_encoder.dense_positions()
    for hook in hooks:
        hook.remove()
    assert set(outputs) == {"block_0", "block_1", "block_2", "image_embedding", "dense_pe"}
    for name, output in outputs.items():
        torch.testing.assert_close(output.double(), expected[name], rtol=0, atol=tolerance, msg=name)


@pytest.mark.parametrize("dtype, tolerance", PRECISIONS)
@pytest.mark.parametrize("case", CASES)
def test_logits_and_iou_match_the_public_implementation(model, expected, case, dtype, tolerance):
    model = model.to(dtype)
    points, labels = expected[f"{case}.points"].to(dtype), expected[f"{case}.labels"]
    previous = expected.get(f"{case}.mask_prompt")
    previous = None if previous is None else previous.to(dtype)
    with torch.no_grad():
        embedding = model.embed(expected["image"].to(dtype))
        logits, iou = model.decode(embedding, points, labels, previous)
        many_logits, many_iou = model.decode(embedding, points, labels, previous, multimask=True)
    torch.testing.assert_close(logits.double(), expected[f"{case}.low_res_logits"], rtol=0, atol=tolerance)
    torch.testing.assert_close(iou.double(), expected[f"{case}.iou"], rtol=0, atol=tolerance)
    torch.testing.assert_close(many_iou.double(), expected[f"{case}.multimask_iou"], rtol=0, atol=tolerance)
    if f"{case}.multimask_logits" in expected:
        torch.testing.assert_close(many_logits.double(), expected[f"{case}.multimask_logits"], rtol=0, atol=tolerance)
