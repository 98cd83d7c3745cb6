"""A 2D network sees slices undistorted, takes clicks where they were made, and draws masks where it saw things."""

import sys

import numpy as np
import pytest
import torch

from seganypet.errors import SegAnyPETError
from seganypet.model.sam2d import MEAN, SD, Sam2D, best_of, small_sam


@pytest.fixture(scope="module")
def model() -> Sam2D:
    torch.manual_seed(0)
    return Sam2D(small_sam(64, 8, 64, 2, 32)).eval()


def test_the_longer_side_in_mm_fills_the_square(model):
    assert model.frame((128, 128)) == (64, 64)
    assert model.frame((100, 200)) == (32, 64)
    assert model.frame((100, 200), (4.0, 2.0)) == (64, 64)
    assert model.frame((300, 128), (3.0, 4.0)) == (64, 36)  # 900 x 512 mm
    assert model.frame((1, 500)) == (1, 64)


def test_a_slice_becomes_three_normalised_channels_at_the_top_left(model):
    slices = torch.full((2, 20, 40), 200, dtype=torch.uint8)
    pixels = model.pixels(slices)
    assert pixels.shape == (2, 3, 64, 64) and pixels.dtype == torch.float32
    expected = (200 - torch.tensor(MEAN)) / torch.tensor(SD)
    torch.testing.assert_close(pixels[:, :, :32], expected[None, :, None, None].expand(2, 3, 32, 64))
    assert not pixels[:, :, 32:].any()


@pytest.mark.parametrize("shape, pixel_mm", [((16, 16), (1, 1)), ((20, 16), (1, 1)), ((12, 20), (6.0, 3.1))])
def test_a_click_on_a_pixel_goes_where_that_pixel_is_drawn(model, shape, pixel_mm):
    for row, column in ((0, 0), (5, 11), (shape[0] - 1, shape[1] - 1)):
        slices = torch.zeros(1, *shape, dtype=torch.uint8)
        slices[0, row, column] = 255
        drawn = model.pixels(slices, pixel_mm)[0, 0] - model.pixels(torch.zeros_like(slices), pixel_mm)[0, 0]
        y, x = np.indices(drawn.shape)
        centre = [float((drawn.numpy() * axis).sum() / drawn.sum()) for axis in (x, y)]
        point = model.points(torch.tensor([[column, row]]), shape, pixel_mm)[0].tolist()
        # At the border of the slice its enlargement repeats the last pixel, half a pixel further out.
        reach = max(side / pixels for side, pixels in zip(model.frame(shape, pixel_mm), shape, strict=True)) / 4
        np.testing.assert_allclose(point, centre, atol=0.1 if 0 < row < shape[0] - 1 else reach)


@pytest.mark.parametrize("shape, pixel_mm", [((64, 64), (1, 1)), ((90, 128), (1, 1)), ((40, 30), (6.0, 3.1))])
def test_logits_come_back_to_the_pixels_that_they_are_about(model, shape, pixel_mm):
    side = model.logits_size
    y, x = np.indices((side, side)) + 0.5
    for row, column in ((shape[0] // 3, shape[1] // 2), (3 * shape[0] // 4, 2 * shape[1] // 3)):
        point = model.points(torch.tensor([column, row]), shape, pixel_mm).numpy() + 0.5
        cells = point * side / model.image_size
        logits = torch.from_numpy(3 - np.hypot(x - cells[0], y - cells[1])).float()[None]
        mask = (model.upscale(logits, shape, pixel_mm)[0] > 0).numpy()
        assert mask.shape == shape
        np.testing.assert_allclose(np.argwhere(mask).mean(0), (row, column), atol=0.35)


def test_decoding_an_embedding_is_the_networks_own_forward_pass(model):
    slices = torch.randint(0, 256, (2, 30, 40), dtype=torch.uint8)
    pixels, points = model.pixels(slices), torch.rand(2, 3, 2) * 40
    labels, previous = torch.tensor([[1, 1, 0], [1, 0, 1]]), torch.randn(2, 1, model.logits_size, model.logits_size)
    with torch.no_grad():
        logits, iou = model.decode(model.embed(pixels), points, labels, previous)
        expected = model.sam(
            pixel_values=pixels, input_points=points[:, None], input_labels=labels[:, None], input_masks=previous
        )
    assert logits.shape == (2, 3, model.logits_size, model.logits_size) and iou.shape == (2, 3)
    torch.testing.assert_close(logits, expected.pred_masks[:, 0])
    torch.testing.assert_close(iou, expected.iou_scores[:, 0])


def test_what_is_learned_from_masks_reaches_the_encoder():
    model = Sam2D(small_sam(32, 8, 32, 1, 32))
    embedding = model.embed(model.pixels(torch.randint(0, 256, (1, 32, 32), dtype=torch.uint8)))
    model.decode(embedding, torch.tensor([[[9.0, 9.0]]]), torch.tensor([[1]]))[0].sum().backward()
    assert model.sam.vision_encoder.patch_embed.projection.weight.grad.abs().max() > 0


def test_the_mask_with_the_highest_predicted_iou_is_chosen():
    logits = torch.arange(6.0).reshape(2, 3, 1, 1)
    assert best_of(logits, torch.tensor([[0.1, 0.9, 0.3], [0.8, 0.7, 0.2]])).flatten().tolist() == [1.0, 3.0]


def test_without_transformers_a_2d_network_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(SegAnyPETError, match=r"pip install 'seganypet\[slices\]'"):
        small_sam(32, 8, 32, 1, 32)
