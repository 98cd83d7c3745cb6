"""autoPET V's simulated strokes: test vectors that the challenge's own simulator gave."""

import numpy as np
import pytest

from seganypet.errors import ClickError
from seganypet.prompting.autopet_strokes import STROKES, Stroke, connected_runs, simulate_stroke

SHAPE = (24, 16, 5)
NOTHING = np.zeros(SHAPE, bool)


def block(i: slice, j: slice, k: slice) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[i, j, k] = True
    return mask


BLOCK = block(slice(3, 18), slice(4, 9), slice(2, 3))
VECTORS = {
    "centerline": [(i, 6, 2) for i in range(5, 15)],
    "random": [(3, 7, 2), (4, 7, 2), (5, 8, 2)],
    "boundary": [*((3, j, 2) for j in range(4, 9)), (4, 4, 2), (4, 8, 2), (5, 4, 2)],
}


@pytest.mark.parametrize("strokes", STROKES)
def test_strokes_are_those_of_the_challenge_to_the_voxel(strokes):
    stroke = simulate_stroke(NOTHING, BLOCK, strokes)
    assert sorted(stroke.path_ijk) == VECTORS[strokes] and stroke.foreground
    assert simulate_stroke(NOTHING, BLOCK, strokes) == stroke  # an unchanged error repeats its stroke


def test_the_sign_goes_to_the_longer_stroke_not_to_the_larger_error():
    false = block(slice(0, 8), slice(0, 5), slice(1, 2))  # 40 voxels, centre line of 6
    missing = block(slice(2, 14), slice(10, 11), slice(3, 4))  # 12 voxels, centre line of 9
    stroke = simulate_stroke(false, missing, "centerline")
    assert stroke.foreground and len(stroke.path_ijk) == 9


def test_the_largest_error_is_looked_for_in_slices_not_in_space():
    tube, plate = block(slice(1, 3), slice(1, 3), slice(0, 5)), block(slice(8, 11), slice(8, 11), slice(4, 5))
    stroke = simulate_stroke(NOTHING, tube | plate, "centerline")  # 20 voxels of tube, but 4 a slice
    assert {k for *_, k in stroke.path_ijk} == {4}


def test_of_equal_errors_the_lowest_slice_is_drawn():
    twice = block(slice(3, 9), slice(4, 9), slice(1, 4))
    assert {k for *_, k in simulate_stroke(NOTHING, twice, "random").path_ijk} == {1}


def test_a_component_without_a_skeleton_of_two_pixels_is_drawn_as_a_whole():
    one = block(slice(3, 4), slice(4, 5), slice(1, 2))
    for strokes in STROKES:
        assert simulate_stroke(NOTHING, one, strokes) == Stroke(((3, 4, 1),), True)


def test_what_the_sources_leave_open_is_a_named_option():
    assert simulate_stroke(BLOCK, BLOCK, "random") is None and simulate_stroke(BLOCK, NOTHING, "random") is None
    more = BLOCK | block(slice(20, 23), slice(4, 9), slice(2, 3))
    assert not simulate_stroke(more, BLOCK, "random").foreground
    assert simulate_stroke(more, BLOCK, "random", one_sided="none") is None
    with pytest.raises(ClickError, match="expected one of"):
        simulate_stroke(more, BLOCK, "centreline")


def test_a_stroke_with_gaps_is_joined_nowhere():
    assert connected_runs([(3, 7, 2), (4, 8, 2), (9, 8, 2)]) == [[(3, 7, 2), (4, 8, 2)], [(9, 8, 2)]]
