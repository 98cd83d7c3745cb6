"""A point in a slice is obeyed, and so is what looks like it around it."""

import numpy as np
import pytest
from test_slicewise import SHAPE, TILTED, Discs

from seganypet.model.sam2d import Sam2D
from seganypet.pet.volume import Volume
from seganypet.prompting.slice_binding import bind_points
from seganypet.prompting.slice_prompts import SlicePosition
from seganypet.prompting.slicewise import SliceSession

PIXEL_MM = (2.0, 4.0)


def at(row: int, column: int) -> SlicePosition:
    return SlicePosition(0, row, column)


@pytest.fixture
def picture() -> np.ndarray:
    """SUV 5 on the left, 1 on the right; the edge lies between columns 11 and 12."""
    picture = np.ones((40, 30), np.float32)
    picture[:, :12] = 5.0
    return picture


def test_a_point_on_the_right_side_changes_nothing(picture):
    mask = picture > 2
    assert bind_points(mask, ((at(20, 5), True), (at(20, 20), False)), picture, PIXEL_MM, "SUVbw") is mask


@pytest.mark.parametrize("foreground", [True, False])
def test_a_point_takes_what_looks_like_it_within_10_mm_and_crosses_no_edge(picture, foreground):
    mask = np.full(picture.shape, not foreground)
    bound = bind_points(mask, ((at(20, 10), foreground),), picture, PIXEL_MM, "SUVbw")
    rows, columns = np.nonzero(bound == foreground)
    assert (rows.min(), rows.max()) == (15, 25), "10 mm of 2 mm pixels"
    assert (columns.min(), columns.max()) == (8, 11), "two columns are 8 mm; to the right, as far as the edge"
    bound = bind_points(mask, ((at(20, 20), foreground),), picture, PIXEL_MM, "SUVbw")
    y, x = np.mgrid[-9:10, -9:10]
    assert (bound == foreground).sum() == (np.hypot(2 * y, 4 * x) <= 10).sum()


def test_what_is_nearer_to_a_point_of_the_other_side_stays(picture):
    mask = np.zeros(picture.shape, bool)
    bound = bind_points(mask, ((at(22, 5), False), (at(18, 5), True)), picture, PIXEL_MM, "SUVbw")
    assert bound[18, 5] and bound[19, 5] and not bound[20:, :].any()
    both = bind_points(mask, ((at(18, 5), False), (at(18, 5), True)), picture, PIXEL_MM, "SUVbw")
    assert both[18, 5], "the newer of two on one pixel"


def test_the_tolerance_of_a_ct_is_in_hounsfield_units():
    picture = np.full((30, 30), 10.0)
    picture[:, 15:] = 55.0
    mask = np.zeros(picture.shape, bool)
    assert bind_points(mask, ((at(15, 14), True),), picture, (1, 1), "HU")[15, 18]
    assert not bind_points(mask, ((at(15, 12), True),), picture, (1, 1), "SUVbw")[15, 18]


def test_a_session_binds_the_neighbourhood_of_a_click_that_the_network_ignores():
    discs = Discs()
    session = SliceSession(Sam2D(discs), Volume(np.full(SHAPE, 3.0), TILTED, "SUVbw"))
    session.click(ijk=(11, 14, 9))
    discs.radius = -1.0  # from now on it draws nothing
    other = session.click(ijk=(6, 14, 9))
    assert other[6, 14, 9] and other[6, 15, 9], "4 and 3 mm voxels: its neighbours, too"
    assert other.sum() > 20


def test_a_click_outside_the_body_finds_nothing_and_says_so(tmp_path):
    data = np.zeros(SHAPE)
    data[:14] = 2.0
    session = SliceSession(Sam2D(Discs(20)), Volume(data, TILTED, "SUVbw"))
    assert not session.click(ijk=(22, 14, 9)).any()
    assert session.notice == "Nothing found: the click lies outside the body. The mask is as it was before."
    mask = session.click(ijk=(7, 14, 9))
    assert mask.any() and not mask[22, 14, 9] and session.notice == ""
    np.testing.assert_array_equal(session.box((20, 10, 8), (23, 16, 10)), mask)
    assert "the box lies outside the body" in session.notice
    session.save_journal(tmp_path / "prompts.json")
    again = SliceSession.replay(session.model, session.volume, tmp_path / "prompts.json")
    np.testing.assert_array_equal(again.mask, mask)
