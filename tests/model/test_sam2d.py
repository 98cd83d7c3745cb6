"""A 2D network sees slices undistorted, takes clicks where they were made, and draws masks where it saw things."""

import sys

import numpy as np
import pytest
import torch

from seganypet.errors import SegAnyPETError
from seganypet.model.checkpoints import load_model, save_sam
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


@pytest.mark.parametrize("shape, pixel_mm", [((16, 16), (1, 1)), ((12, 20), (6.0, 3.1)), ((64, 64), (1, 1))])
def test_a_box_is_the_tightest_one_around_what_it_holds_as_it_is_drawn(model, shape, pixel_mm):
    """Found again in the picture, in which the pixels inside the box are white."""
    for row, column, rows, columns in ((2, 3, 5, 4), (7, 1, 1, 1), (0, 0, *shape)):
        last = (row + rows - 1, column + columns - 1)
        rows_drawn, columns_drawn = model.frame(shape, pixel_mm)
        # Nearest neighbours keep the edges sharp.
        white = torch.zeros(1, 1, *shape)
        white[..., row : last[0] + 1, column : last[1] + 1] = 1
        drawn = torch.nn.functional.interpolate(white, (rows_drawn, columns_drawn), mode="nearest-exact")[0, 0]
        y, x = drawn.nonzero().T
        box = model.boxes(torch.tensor([[column, row, last[1], last[0]]]), shape, pixel_mm)[0]
        found = torch.tensor([x.min(), y.min(), x.max(), y.max()], dtype=torch.float32)
        torch.testing.assert_close(box, found, atol=1.0, rtol=0)


def test_a_box_in_a_slice_of_the_networks_size_is_itself_and_never_turned_inside_out(model):
    box = torch.tensor([[3, 5, 20, 9], [7, 7, 7, 7]])
    torch.testing.assert_close(model.boxes(box, (64, 64)), box.float())
    torch.testing.assert_close(model.boxes(box, (32, 32)), torch.tensor([[6.0, 10, 41, 19], [14.0, 14, 15, 15]]))
    x0, y0, x1, y1 = model.boxes(torch.tensor([[300, 40, 300, 40]]), (512, 512))[0].tolist()
    assert x0 == x1 == pytest.approx(300.5 / 8 - 0.5) and y0 == y1 == pytest.approx(40.5 / 8 - 0.5)


@pytest.mark.parametrize("points", [0, 1, 3])
@pytest.mark.parametrize("with_logits", [False, True])
def test_a_box_is_decoded_as_the_networks_own_forward_pass_does(model, points, with_logits):
    pixels = model.pixels(torch.randint(0, 256, (2, 30, 40), dtype=torch.uint8))
    boxes = torch.tensor([[4.0, 6.0, 30.0, 20.0], [12.0, 3.0, 44.0, 47.0]])
    clicks, labels = torch.rand(2, points, 2) * 40, torch.randint(0, 2, (2, points))
    previous = torch.randn(2, 1, model.logits_size, model.logits_size) if with_logits else None
    given = {"input_points": clicks[:, None], "input_labels": labels[:, None]} if points else {}
    with torch.no_grad():
        logits, iou = model.decode(model.embed(pixels), clicks, labels, previous, boxes)
        expected = model.sam(
            pixel_values=pixels, input_boxes=boxes[:, None], input_masks=previous, multimask_output=False, **given
        )
    assert logits.shape == (2, 1, model.logits_size, model.logits_size) and iou.shape == (2, 1)
    torch.testing.assert_close(logits, expected.pred_masks[:, 0])
    torch.testing.assert_close(best_of(logits, iou), expected.pred_masks[:, 0, 0])


def test_a_box_is_two_labelled_points_without_the_padding_that_points_have(model):
    """Written out as SAM describes it: sines and cosines of each corner's position plus that corner's embedding."""
    encoder, box = model.sam.prompt_encoder, torch.tensor([[4.0, 6.0, 30.0, 20.0]])
    seen = []
    handle = model.sam.mask_decoder.register_forward_pre_hook(
        lambda _, __, given: seen.append(given["sparse_prompt_embeddings"]), with_kwargs=True
    )
    with torch.no_grad():
        embedding = model.embed(model.pixels(torch.zeros(1, 32, 32, dtype=torch.uint8)))
        model.decode(embedding, torch.zeros(1, 0, 2), torch.zeros(1, 0), None, box)
        model.decode(embedding, torch.tensor([[[9.0, 8.0]]]), torch.ones(1, 1), None, box)
        model.decode(embedding, torch.tensor([[[9.0, 8.0]]]), torch.ones(1, 1))
        handle.remove()
        corners = (box.reshape(2, 2) + 0.5) / model.image_size
        angles = 2 * np.pi * (2 * corners - 1) @ encoder.shared_embedding.positional_embedding
        expected = torch.cat([angles.sin(), angles.cos()], -1)
        expected = expected + torch.cat([encoder.point_embed[2].weight, encoder.point_embed[3].weight])
    alone, with_point, point = (tokens[0, 0] for tokens in seen)
    torch.testing.assert_close(alone, expected)
    assert len(with_point) == 3 and len(point) == 2, "a point and two corners; a point and its padding"
    torch.testing.assert_close(with_point[1:], expected)
    torch.testing.assert_close(point[1], encoder.not_a_point_embed.weight[0])


@pytest.mark.parametrize("shape, pixel_mm", [((64, 64), (1, 1)), ((90, 128), (1, 1)), ((40, 30), (6.0, 3.1))])
def test_a_mask_to_start_from_becomes_logits_that_draw_the_same_mask(model, shape, pixel_mm):
    y, x = np.indices(shape)
    masks = torch.from_numpy(np.stack([
        np.hypot((y - shape[0] / 2) * pixel_mm[0], (x - shape[1] / 3) * pixel_mm[1]) < 0.2 * shape[1] * pixel_mm[1],
        (y > shape[0] * 0.6) & (x > shape[1] * 0.7),
    ]))  # fmt: skip
    logits = model.mask_logits(masks, pixel_mm)
    assert logits.shape == (2, model.logits_size, model.logits_size)
    again = model.upscale(logits, shape, pixel_mm) > 0
    overlap = (again & masks).sum((1, 2)) / (again | masks).sum((1, 2))
    assert (overlap > 0.85).all()
    assert logits.max() == pytest.approx(8) and logits.min() == pytest.approx(-8)


def test_networks_say_what_they_were_trained_with(model, tmp_path):
    assert model.accepts == {"click", "mask", "box"}
    clicked = Sam2D(small_sam(32, 8, 32, 1, 32), "clicked", {"click", "mask"})
    for network in (model, clicked):
        save_sam(tmp_path / "network.safetensors", network)
        assert load_model(tmp_path / "network.safetensors").accepts == network.accepts
    model.sam.save_pretrained(tmp_path / "sam")
    assert "box" in load_model(tmp_path / "sam").accepts, "a SAM as transformers saves it"
    assert load_model("tiny-2d").accepts == {"click", "mask"}


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
