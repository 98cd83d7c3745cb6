"""Polygons around masks, and masks inside polygons."""

import warnings

import numpy as np
import pytest
from scipy import ndimage

from seganypet.pet.contours import filled, gaps_inside, outlines

SHAPE = (23, 31)


def ragged(seed: int, density: float) -> np.ndarray:
    """Pixels at random: holes, islands in holes, corners that touch, borders."""
    return np.random.default_rng(seed).random(SHAPE) < density


@pytest.mark.parametrize("density", [0.02, 0.3, 0.5, 0.7, 0.98])
@pytest.mark.parametrize("seed", range(8))
def test_filling_the_outlines_gives_the_same_pixels(seed, density):
    mask = ragged(seed, density)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(filled(outlines(mask), SHAPE), mask)
        assert np.array_equal(filled(outlines(mask), SHAPE, xor=True), mask)


@pytest.mark.parametrize("seed", range(8))
def test_the_sum_of_filled_outlines_and_their_xor_are_the_same(seed):
    # What a program does that knows nothing of holes, and what one does that takes every inner contour for one.
    mask = ragged(seed, 0.6)
    each = [filled([polygon], SHAPE) for polygon in outlines(mask)]
    assert np.array_equal(np.logical_or.reduce(each), mask)
    assert np.array_equal(np.logical_xor.reduce(each), mask)


@pytest.mark.parametrize("seed", range(4))
def test_each_piece_has_one_polygon(seed):
    mask = ragged(seed, 0.4)
    _, pieces = ndimage.label(mask)  # pixels that touch at a corner are two
    assert len(outlines(mask)) == pieces


def test_a_square_has_eight_corners_and_the_area_between_pixels():
    mask = np.zeros(SHAPE, bool)
    mask[4:9, 6:16] = True
    (polygon,) = outlines(mask)
    assert len(polygon) == 8  # the four corners are cut
    assert polygon.min(axis=0).tolist() == [3.5, 5.5] and polygon.max(axis=0).tolist() == [8.5, 15.5]


def test_an_empty_plane_has_no_outline_and_no_pixels():
    assert outlines(np.zeros(SHAPE, bool)) == []
    assert not filled([], SHAPE).any()


def test_a_polygon_beside_the_plane_fills_nothing():
    for shift in ((-50, 0), (50, 0), (0, -50), (0, 50)):
        assert not filled([np.array([(2.0, 2.0), (2.0, 8.0), (8.0, 8.0)]) + shift], SHAPE).any()


def test_coordinates_rounded_in_a_file_still_lie_on_pixel_centres():
    square = np.array([(3, 3), (3, 9), (9, 9), (9, 3)], float)
    for error in (0.003, -0.003):
        assert filled([square + error], SHAPE).sum() == 49


def test_gaps_are_those_between_planes_that_look_alike():
    mask = np.zeros((*SHAPE, 12), bool)
    mask[4:9, 4:9, [1, 2, 5]] = True
    mask[15:18, 15:18, 9] = True
    assert gaps_inside(mask) == [(2, 5)]
