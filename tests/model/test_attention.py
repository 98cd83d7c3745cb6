"""The image encoder against implementations that keep every attention logit in memory; shapes of networks."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from conftest import REPOSITORY
from plain_encoder import plain_attention, plain_encoder
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from seganypet.errors import CheckpointError
from seganypet.model.attention import GridAttention, ReleasedAttention, ReleasedWindowAttention
from seganypet.model.config import PAPER, RELEASED, TINY, ModelConfig
from seganypet.model.image_encoder import ImageEncoder
from seganypet.model.layers import SmallConv3d
from seganypet.model.sam3d import Sam3D

REFERENCE = REPOSITORY / "tests" / "data" / "reference"
SMALL = replace(RELEASED, window_size=64, encoder_dim=48, encoder_depth=3, encoder_heads=3, prompt_dim=48,
                global_blocks=(1,), attention_window=6)  # fmt: skip


def randomised(module: nn.Module, table_std: float = 0.5) -> nn.Module:
    """Tables and biases start at zero, where a wrong term would not show."""
    torch.manual_seed(1)
    for name, parameter in module.named_parameters():
        if "rel_pos" in name:
            nn.init.normal_(parameter, std=table_std)
        elif name.endswith("bias"):
            nn.init.normal_(parameter, std=0.5)
    return module.double()


def random_tokens(batch: int, side: int, dim: int) -> Tensor:
    return torch.randn(batch, side, side, side, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_parameters())


# --- the oracle itself --------------------------------------------------------------------------------------------


def test_plain_encoder_matches_the_public_implementation():
    stored = load_file(REFERENCE / "mini_state_dict.safetensors")
    prefix = "image_encoder."
    weights = {name.removeprefix(prefix): value.double() for name, value in stored.items() if name.startswith(prefix)}
    expected = load_file(REFERENCE / "mini_io.safetensors")
    embedding = plain_encoder(weights, expected["image"].double())
    torch.testing.assert_close(embedding, expected["image_embedding"], rtol=0, atol=1e-9)


def test_plain_attention_is_the_formula_written_out_for_one_pair_of_tokens_at_a_time():
    grid, side, dim = 2, 3, 8
    attention = randomised(ReleasedWindowAttention(dim, 1, side))
    tokens = random_tokens(1, grid, dim)
    padded = torch.zeros(side, side, side, dim, dtype=torch.float64)
    padded[:grid, :grid, :grid] = tokens[0]
    q, k, v = attention.qkv(padded).chunk(3, dim=-1)
    places = list(product(range(side), repeat=3))
    zero = side - 1
    out = torch.zeros(1, grid, grid, grid, dim, dtype=torch.float64)
    for d, h, w in product(range(grid), repeat=3):
        logits = [
            q[d, h, w] @ k[kd, kh, kw] / dim**0.5
            + q[d, h, w] @ attention.rel_pos_d[d - kw + zero]
            + q[d, h, kd] @ attention.rel_pos_h[h - kw + zero]
            + q[d, h, kh] @ attention.rel_pos_w[kh - kw + zero]
            for kd, kh, kw in places
        ]
        weights = torch.stack(logits).softmax(0)
        out[0, d, h, w] = sum(weight * v[place] for weight, place in zip(weights, places, strict=True))
    torch.testing.assert_close(plain_attention(weights_of(attention), tokens), attention.proj(out), rtol=0, atol=1e-12)


# --- the released form --------------------------------------------------------------------------------------------


@pytest.mark.slow
@torch.no_grad()
def test_513_keys_equal_2744_keys_at_full_width():
    attention = randomised(ReleasedWindowAttention(768, 12, 14))
    tokens = random_tokens(1, 8, 768)
    expected = plain_attention(weights_of(attention), tokens)
    assert expected.std() > 0.1
    torch.testing.assert_close(attention(tokens), expected, rtol=0, atol=1e-9)


@pytest.mark.slow
@torch.no_grad()
def test_float32_stays_accurate_with_large_tables():
    # exp of such biases spans more than float32: a form that subtracts sums of exponentials is off by 21 here.
    attention = randomised(ReleasedWindowAttention(768, 12, 14), table_std=4.0)
    tokens = random_tokens(1, 8, 768)
    expected = plain_attention(weights_of(attention), tokens)
    out = attention.float()(tokens.float())
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=1e-3)


@torch.no_grad()
def test_released_global_attention_equals_the_plain_one():
    attention = randomised(ReleasedAttention(96, 4, 8))
    tokens = random_tokens(2, 8, 96)
    torch.testing.assert_close(attention(tokens), plain_attention(weights_of(attention), tokens), rtol=0, atol=1e-12)


@torch.no_grad()
def test_a_grid_that_fills_its_window_needs_no_virtual_key():
    windowed = randomised(ReleasedWindowAttention(48, 3, 5))
    tokens = random_tokens(2, 5, 48)
    expected = plain_attention(weights_of(windowed), tokens)
    torch.testing.assert_close(windowed(tokens), expected, rtol=0, atol=1e-12)
    everywhere = ReleasedAttention(48, 3, 5).double()
    everywhere.load_state_dict(windowed.state_dict())
    torch.testing.assert_close(windowed(tokens), everywhere(tokens), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "attention, side",
    [(ReleasedWindowAttention(24, 2, 6), 4), (ReleasedWindowAttention(24, 2, 4), 4), (ReleasedAttention(24, 2, 4), 4)],
    ids=["padded window", "full window", "global"],
)
def test_gradients_of_released_attention_equal_those_of_the_plain_one(attention, side):
    attention = randomised(attention)
    weights = weights_of(attention)
    tokens = random_tokens(2, side, 24).requires_grad_()
    direction = random_tokens(2, side, 24).cos()
    ours = torch.autograd.grad((attention(tokens) * direction).sum(), [tokens, *weights.values()])
    plain = torch.autograd.grad((plain_attention(weights, tokens) * direction).sum(), [tokens, *weights.values()])
    for name, our, expected in zip(["tokens", *weights], ours, plain, strict=True):
        assert expected.abs().max() > 1e-3, name
        torch.testing.assert_close(our, expected, rtol=0, atol=1e-11, msg=name)


@torch.no_grad()
def test_encoder_equals_the_plain_encoder():
    encoder = randomised(ImageEncoder(SMALL))
    window = torch.randn(1, 1, 64, 64, 64, dtype=torch.float64)
    expected = plain_encoder(encoder.state_dict(), window)
    torch.testing.assert_close(encoder(window).tokens, expected, rtol=0, atol=1e-11)


# --- the textbook form --------------------------------------------------------------------------------------------


def materialised_textbook(attention: GridAttention, tokens: Tensor) -> Tensor:
    side, dim = tokens.shape[1], tokens.shape[-1]
    width = dim // attention.heads
    q, k, v = attention.qkv(tokens).chunk(3, dim=-1)
    steps = torch.arange(side)
    away = steps[:, None] - steps[None, :] + side - 1  # [query, key] -> row of a table
    heads = []
    for channels in torch.arange(dim).split(width):
        head_q = q[..., channels]
        logits = torch.einsum("bdhwc,bxyzc->bdhwxyz", head_q, k[..., channels]) / width**0.5
        logits += torch.einsum("bdhwc,dxc->bdhwx", head_q, attention.rel_pos_d[away])[..., None, None]
        logits += torch.einsum("bdhwc,hyc->bdhwy", head_q, attention.rel_pos_h[away])[..., None, :, None]
        logits += torch.einsum("bdhwc,wzc->bdhwz", head_q, attention.rel_pos_w[away])[..., None, None, :]
        weights = logits.flatten(4).softmax(-1).view_as(logits)
        heads.append(torch.einsum("bdhwxyz,bxyzc->bdhwc", weights, v[..., channels]))
    return attention.proj(torch.cat(heads, dim=-1))


def test_textbook_attention_and_its_gradients_equal_the_materialised_formula():
    attention = randomised(GridAttention(24, 3, 4))
    parameters = list(attention.parameters())
    tokens = random_tokens(2, 4, 24).requires_grad_()
    direction = random_tokens(2, 4, 24).cos()
    out, expected = attention(tokens), materialised_textbook(attention, tokens)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    ours = torch.autograd.grad((out * direction).sum(), [tokens, *parameters])
    plain = torch.autograd.grad((expected * direction).sum(), [tokens, *parameters])
    for our, wanted in zip(ours, plain, strict=True):
        assert wanted.abs().max() > 1e-3
        torch.testing.assert_close(our, wanted, rtol=0, atol=1e-11)


def test_the_two_forms_differ_where_tables_are_not_zero():
    textbook, released = randomised(GridAttention(24, 3, 4)), randomised(ReleasedAttention(24, 3, 4))
    released.load_state_dict(textbook.state_dict())
    tokens = random_tokens(1, 4, 24)
    assert (textbook(tokens) - released(tokens)).abs().max() > 1e-2


# --- speed and precision ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "attention",
    [GridAttention(48, 3, 4), ReleasedAttention(48, 3, 4), ReleasedWindowAttention(48, 3, 6)],
    ids=["textbook", "released", "released window"],
)
@torch.no_grad()
def test_inference_runs_on_the_fused_kernel(attention, dtype):
    attention = randomised(attention).float()
    tokens = random_tokens(1, 4, 48).float()
    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16)
    # Without a kernel that fits, scaled_dot_product_attention raises here.
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION), autocast:
        assert attention(tokens).dtype == dtype


@pytest.mark.parametrize("config", [SMALL, TINY], ids=["released", "textbook"])
@torch.no_grad()
def test_bfloat16_embedding_stays_close_to_float32(config):
    model = Sam3D(config).eval()
    randomised(model).float()
    window = torch.randn(1, 1, *[config.window_size] * 3, generator=torch.Generator().manual_seed(3))
    expected = model.embed(window)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embedding = model.embed(window)
    for name, exact, quick in zip(embedding._fields, expected, embedding, strict=True):
        if exact is not None:
            assert quick.isfinite().all()
            assert torch.corrcoef(torch.stack([exact.flatten(), quick.flatten().float()]))[0, 1] > 0.99, name


def test_a_convolution_of_one_grid_is_that_of_any_batch():
    torch.manual_seed(4)
    ours = SmallConv3d(3, 5, kernel_size=3, stride=2, padding=1).double()
    plain = nn.Conv3d(3, 5, kernel_size=3, stride=2, padding=1).double()
    plain.load_state_dict(ours.state_dict())
    features = torch.randn(2, 3, 7, 8, 9, dtype=torch.float64)
    for batch in (features[:1], features):
        torch.testing.assert_close(ours(batch), plain(batch), rtol=0, atol=1e-12)
        for our, expected in zip(ours.parameters(), plain.parameters(), strict=True):
            (gradient,) = torch.autograd.grad(ours(batch).square().sum(), our)
            (wanted,) = torch.autograd.grad(plain(batch).square().sum(), expected)
            torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-10)


# --- presets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config, depth, globally", [(RELEASED, 12, (2, 5, 8, 11)), (PAPER, 16, (3, 7, 11, 15))])
def test_presets_have_the_published_shape(config, depth, globally):
    with torch.device("meta"):
        model = Sam3D(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for index in range(depth):
        rows = 15 if index in globally else 27  # 2 x 8 - 1 for the grid, 2 x 14 - 1 for a window
        for axis in "dhw":
            assert shapes[f"image_encoder.blocks.{index}.attn.rel_pos_{axis}"] == (rows, 64)
    assert f"image_encoder.blocks.{depth}.norm1.weight" not in shapes
    assert shapes["image_encoder.patch_embed.proj.weight"] == (768, 1, 16, 16, 16)
    assert shapes["image_encoder.pos_embed"] == (1, 8, 8, 8, 768)
    assert shapes["image_encoder.neck.2.weight"] == (384, 384, 3, 3, 3)
    assert shapes["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"] == (3, 128)
    assert shapes["mask_decoder.transformer.layers.1.mlp.lin1.weight"] == (2048, 384)
    block = 4 * 768 + (768 * 2304 + 2304) + (768 * 768 + 768) + (768 * 3072 + 3072) + (3072 * 768 + 768)
    tables = 3 * 64 * (15 * 4 + 27 * (depth - 4))
    patches = 768 * 16**3 + 768 + 512 * 768
    neck = 768 * 384 + 384 * 384 * 27 + 4 * 384
    encoder = sum(parameter.numel() for parameter in model.image_encoder.parameters())
    assert encoder == depth * block + tables + patches + neck


def test_tiny_fits_into_ten_megabytes_of_float16():
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in Sam3D(TINY).parameters())
    assert 2 * parameters < 10e6


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"window_size": 60}, "window_size 60 must be a multiple of patch_size 8"),
        ({"encoder_dim": 190}, "encoder_dim 190 must be a multiple of encoder_heads 4"),
        ({"prompt_dim": 100}, "prompt_dim 100 must be a multiple of 48"),
        ({"form": "released", "attention_window": 7}, "8 tokens must fit into the attention window of 7"),
        ({"form": "released", "global_blocks": (1, 4)}, "global_blocks"),
        ({"patch_size": 16}, "patch_size must be 8"),
        ({"conv_stem": False}, "set conv_stem too"),
        ({"spacing_mm": 0.0}, "spacing_mm 0.0 must be positive"),
        ({"encoder_depth": 0}, "encoder_depth 0 must be positive"),
        ({"patch_size": 0}, "patch_size 0 must be positive"),
        ({"form": "paper"}, "unknown form 'paper'"),
        ({"intensity": "hu"}, "unknown intensity 'hu'"),
    ],
)
def test_impossible_networks_are_refused(changes, told):
    with pytest.raises(CheckpointError, match="impossible network") as caught:
        ModelConfig(**changes)
    assert told in str(caught.value)
