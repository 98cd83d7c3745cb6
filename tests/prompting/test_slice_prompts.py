"""Boxes, scribbles, lassos and masks to start from on a 2D network, in slices of awkward grids."""

import numpy as np
import pytest
import torch
from test_slicewise import AFFINES, SHAPE, TILTED, TURNED, Discs, array_axis, volume_on

import seganypet as sap
from seganypet.errors import ClickError, JournalError
from seganypet.model.sam2d import CLICK_PROMPTS, Sam2D, small_sam
from seganypet.pet.views import VIEWS
from seganypet.prompting.prompts import Box, Click, Lasso, Scribble
from seganypet.prompting.slice_prompts import slice_positions
from seganypet.prompting.slices import slices_of
from seganypet.prompting.slicewise import SliceSession

MIDDLE = (11, 14, 9)


@pytest.fixture
def discs() -> Discs:
    return Discs()


@pytest.fixture
def session(discs) -> SliceSession:
    return SliceSession(Sam2D(discs, "discs"), volume_on(TILTED))


@pytest.fixture
def clicked_only(discs) -> SliceSession:
    return SliceSession(Sam2D(discs, "discs", CLICK_PROMPTS), volume_on(TILTED))


def flat_box(axis: int, half: int = 4, foreground: bool = True) -> Box:
    """A box around MIDDLE, one voxel thick along an axis of the array and of different sides along the others."""
    reach = np.array([half, half + 1, half + 2])
    reach[axis] = 0
    return Box(tuple((MIDDLE - reach).tolist()), tuple((MIDDLE + reach).tolist()), foreground)


def numbers_with_mask(session: SliceSession, mask: np.ndarray) -> list[int]:
    return np.flatnonzero(slices_of(mask, session.volume, session.axis).any((1, 2))).tolist()


# ---- boxes


@pytest.mark.parametrize("axis", VIEWS)
@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_a_box_reaches_the_network_as_the_tightest_one_and_bounds_the_mask(affine, axis):
    discs = Discs()
    session = SliceSession(Sam2D(discs), volume_on(affine), axis=axis)
    through = array_axis(session)
    box = flat_box(through)
    mask = session.add(box)
    inside = np.zeros(SHAPE, bool)
    inside[box.slices] = True
    np.testing.assert_array_equal(mask, inside, "the network goes beyond, the session does not")
    (asked,) = discs.asked
    assert asked["points"].shape == (1, 0, 2) and not asked["multimask"] and asked["masks"] is None
    # Found independently: the box is drawn into the stack and goes the way of pictures.
    number = session.position_of(MIDDLE).number
    stack = slices_of(inside, session.volume, axis)
    white = torch.from_numpy(255 * stack[number : number + 1].astype(np.uint8))
    drawn, black = (session.model.pixels(one, session._decoder.pixel_mm)[0, 0] for one in (white, 0 * white))
    rows, columns = (drawn - black > (drawn - black).max() / 2).nonzero().T
    expected = [columns.min(), rows.min(), columns.max(), rows.max()]
    np.testing.assert_allclose(asked["boxes"][0], np.array(expected, float), atol=1.6)
    assert session.notice == ""


def test_a_box_gives_what_transformers_own_forward_pass_gives():
    torch.manual_seed(3)
    model = Sam2D(small_sam(64, 8, 64, 2, 32), "random").eval()
    session = SliceSession(model, volume_on(np.diag([4.0, 4.0, 3.0, 1.0])))  # 24 columns, 30 rows: 64 / 30 pixels
    session.box((5, 8, 9), (15, 20, 9))
    with torch.no_grad():
        picture = torch.from_numpy(session._slices[9:10].copy())
        # Rows count from the front, columns from the right.
        scale = torch.tensor([51 / 24, 64 / 30, 51 / 24, 64 / 30])
        edges = torch.tensor([[[23.0 - 15, 29 - 20, 24 - 5, 30 - 8]]]) * scale
        corners = edges - torch.tensor([0.0, 0, 1, 1])
        expected = model.sam(pixel_values=model.pixels(picture), input_boxes=corners, multimask_output=False)
    found = session._state.predictions["object 1"].slices[9].logits
    torch.testing.assert_close(found.float(), expected.pred_masks[0, 0, 0], atol=2e-3, rtol=2e-3)


def test_a_3d_box_is_a_box_in_each_slice_and_says_so(session, discs):
    mask = session.box((6, 10, 7), (16, 18, 12))
    inside = np.zeros(SHAPE, bool)
    inside[6:17, 10:19, 7:13] = True
    np.testing.assert_array_equal(mask, inside)
    assert sum(len(asked["boxes"]) for asked in discs.asked) == 6
    assert session.notice == "This box became a box in each of 6 axial slices."
    session.click(ijk=MIDDLE)
    assert session.notice == "" and discs.asked[-1]["boxes"].shape == (1, 4), "the box still counts in its slices"
    session.undo()
    assert "6 axial" in session.notice


def test_a_network_that_learned_no_boxes_is_told_the_middle_and_the_box_as_its_prior(clicked_only, discs):
    box = flat_box(array_axis(clicked_only))
    mask = clicked_only.add(box)
    (asked,) = discs.asked
    assert asked["boxes"] is None and asked["labels"].tolist() == [[1]] and asked["multimask"]
    assert asked["masks"].max() == pytest.approx(8) and asked["masks"].min() == pytest.approx(-8)
    assert clicked_only.notice == "discs takes no boxes: the middle of the box was clicked for it."
    outside = np.ones(SHAPE, bool)
    outside[box.slices] = False
    assert mask[MIDDLE] and not mask[outside].any()
    bare = SliceSession(Sam2D(discs, "bare", {"click"}), clicked_only.volume)
    bare.add(box)
    assert discs.asked[-1]["masks"] is None, "nor a mask to one that takes none"


def test_a_box_drawn_in_another_direction_is_a_point_in_each_slice_that_it_crosses(session, discs):
    across = next(axis for axis in range(3) if axis != array_axis(session))
    box = flat_box(across)
    mask = session.add(box)
    through = array_axis(session)
    crossed = range(box.low_ijk[through], box.high_ijk[through] + 1)
    assert len(numbers_with_mask(session, mask)) == len(crossed) == sum(len(asked["points"]) for asked in discs.asked)
    assert all(asked["boxes"] is None for asked in discs.asked)
    assert session.notice == "Axial slices cut this box to lines, whose middle was clicked."
    drawn = np.moveaxis(mask, across, 0)[MIDDLE[across]]
    inside = np.moveaxis(np.zeros(SHAPE, bool), across, 0)[0]
    inside[tuple(part for axis, part in enumerate(box.slices) if axis != across)] = True
    assert drawn.any() and not (drawn & ~inside).any()


def test_later_clicks_reach_beyond_no_box_and_the_newest_box_counts(session, discs):
    through = array_axis(session)
    session.add(flat_box(through, 4))
    first = discs.asked[-1]["boxes"]
    session.click(ijk=MIDDLE)
    torch.testing.assert_close(discs.asked[-1]["boxes"], first)
    assert discs.asked[-1]["masks"] is not None and discs.asked[-1]["labels"].tolist() == [[1]]
    mask = session.add(flat_box(through, 2))
    assert (discs.asked[-1]["boxes"] != first).all()
    inside = np.zeros(SHAPE, bool)
    inside[flat_box(through, 2).slices] = True
    assert mask.any() and not (mask & ~inside).any()


# ---- scribbles and lassos


def test_every_voxel_of_a_scribble_is_in_the_mask_and_eight_of_a_slice_reach_the_network(session, discs):
    path = [(4, 6, 5), (18, 22, 5), (18, 22, 8)]
    mask = session.scribble(path)
    (scribble,) = session.prompts
    assert mask[tuple(scribble.voxels.T)].all()
    numbers = slice_positions(scribble.voxels, session.volume, "axial")[:, 0]
    told = sorted(len(points) for asked in discs.asked for points in asked["points"])
    assert told == sorted(min(count, 8) for count in np.bincount(numbers) if count)
    assert numbers_with_mask(session, mask) == sorted(set(numbers.tolist()))
    ends = session._state.predictions["object 1"].slices[int(numbers[0])].cue.points
    first, last = (scribble.voxels[numbers == numbers[0]][end] for end in (0, -1))
    assert [ends[0][0], ends[-1][0]] == [session.position_of(first.tolist()), session.position_of(last.tolist())]


def test_a_negative_scribble_takes_its_voxels_and_speaks_only_where_there_is_something(session, discs):
    session.click(ijk=MIDDLE)
    through = array_axis(session)
    along = np.eye(3, dtype=int)[through]
    aside = MIDDLE + 2 * (along == 0)
    path = [tuple((aside + step * along).tolist()) for step in (-2, 2)]
    calls = len(discs.asked)
    mask = session.scribble(path, foreground=False)
    assert not mask[tuple(session.prompts[-1].voxels.T)].any() and mask[MIDDLE]
    assert len(discs.asked) == calls + 1, "in the one slice that has a mask"
    far = [tuple((MIDDLE + step * along).tolist()) for step in (3, 5)]
    with pytest.raises(ClickError, match=r"first scribble in axial slices \d+ to \d+, so it must be foreground"):
        session.scribble(far, foreground=False)
    assert len(session.prompts) == 2


@pytest.mark.parametrize("axis", VIEWS)
def test_a_lasso_is_the_box_around_it_for_the_network_and_bounds_the_mask_by_itself(axis):
    discs = Discs()
    session = SliceSession(Sam2D(discs), volume_on(TURNED), axis=axis)
    one, other = (np.eye(3, dtype=int)[index] for index in range(3) if index != array_axis(session))
    corners = [np.array(MIDDLE) + 5 * one, np.array(MIDDLE) + 5 * other, np.array(MIDDLE) - 5 * one]
    lasso = Lasso(tuple(tuple(corner.tolist()) for corner in corners))
    mask = session.add(lasso)
    inside = np.zeros(SHAPE, bool)
    inside[tuple(lasso.voxels.T)] = True
    np.testing.assert_array_equal(mask, inside)
    boxed = SliceSession(session.model, session.volume, axis=axis)
    low, high = lasso.voxels.min(0), lasso.voxels.max(0)
    boxed.box(low, high)
    torch.testing.assert_close(discs.asked[0]["boxes"], discs.asked[1]["boxes"])


@pytest.mark.parametrize("kind", ["box", "lasso"])
def test_a_negative_region_is_emptied_and_its_false_alarm_clicked(session, discs, kind):
    through = array_axis(session)
    session.click(ijk=MIDDLE)
    one, other = (np.eye(3, dtype=int)[index] for index in range(3) if index != through)
    corner = np.array(MIDDLE) + one + other
    if kind == "box":
        prompt = Box(tuple(corner.tolist()), tuple((corner + 3 * one + 3 * other).tolist()), False)
    else:
        path = [corner, corner + 4 * one, corner + 4 * other]
        prompt = Lasso(tuple(tuple(voxel.tolist()) for voxel in path), False)
    before = session.mask
    mask = session.add(prompt)
    assert before[tuple(prompt.voxels.T)].any() and not mask[tuple(prompt.voxels.T)].any() and mask[MIDDLE]
    assert discs.asked[-1]["labels"].tolist() == [[1, 0]] and session.notice == ""
    calls = len(discs.asked)
    np.testing.assert_array_equal(session.add(prompt), mask, "again: nothing is left to take")
    assert len(discs.asked) <= calls + 1
    if len(discs.asked) == calls:
        assert session.notice == f"Nothing of object 1 lies in this {kind}."


def test_a_negative_region_where_nothing_is_yet_keeps_later_masks_out(session, discs):
    session.click(ijk=MIDDLE)
    before, asked = session.mask, len(discs.asked)
    step = 3 * np.eye(3, dtype=int)[array_axis(session)]
    away = flat_box(array_axis(session), 1, foreground=False)
    away = Box(*map(tuple, (np.array([away.low_ijk, away.high_ijk]) + step).tolist()), False)
    np.testing.assert_array_equal(session.add(away), before)
    assert session.notice == "Nothing of object 1 lies in this box." and len(discs.asked) == asked
    beside = np.array(MIDDLE) + step + 3 * (step == 0)
    mask = session.click(ijk=beside.tolist())
    assert mask[tuple(beside)] and not mask[away.slices].any()
    assert (session.logits_of("object 1")[away.slices] > 0).any(), "where the network draws"


# ---- many slices at once, undo, journals


def test_boxes_in_many_slices_at_once_equal_the_same_boxes_one_by_one(tmp_path):
    torch.manual_seed(1)
    network, volume = Sam2D(small_sam(64, 8, 64, 2, 32), "random").eval(), volume_on(TURNED)
    at_once, single = (SliceSession(network, volume, batch=4) for _ in range(2))
    through = array_axis(single)
    steps = [step * np.eye(3, dtype=int)[through] for step in range(-4, 4)]
    box = flat_box(through)
    corners = np.array([box.low_ijk, box.high_ijk])
    boxes = [Box(*map(tuple, (corners + step).tolist())) for step in steps]
    later = [Click(boxes[0].centre_ijk), Scribble((boxes[3].low_ijk, boxes[3].high_ijk), False), boxes[5]]
    for prompts in (boxes, later):
        mask = at_once.click_slices(prompts)
        for prompt in prompts:
            expected = single.add(prompt)
        np.testing.assert_array_equal(mask, expected)
    assert at_once.journal() == single.journal() and mask.any()
    at_once.save_journal(tmp_path / "prompts.json")
    again = SliceSession.replay(network, volume, tmp_path / "prompts.json")
    np.testing.assert_array_equal(again.mask, mask)
    tiny = sap.load_model("tiny-2d")
    told = SliceSession(tiny, volume)
    told.click_slices(boxes)
    assert told.notice == "tiny-2d takes no boxes: the middle of the box was clicked for it.", "once, for eight boxes"


def test_what_belongs_to_no_single_slice_is_refused_among_many(session):
    session.click(ijk=MIDDLE)
    start = session.mask
    with pytest.raises(ClickError, match="'mask' among those of single slices"):
        session.click_slices([sap.prompting.prompts.InitialMask.of(start, session.volume)])
    with pytest.raises(ClickError, match="2 prompts in 4 axial slices"):
        session.click_slices([Box((6, 10, 7), (16, 18, 10)), Click(MIDDLE)])


def test_undo_redo_and_renaming_know_every_kind(session):
    through = array_axis(session)
    masks = [session.mask]
    masks.append(session.add(flat_box(through)))
    masks.append(session.scribble([MIDDLE, (9, 12, 9)]))
    masks.append(session.start_from(masks[1]))
    masks.append(session.click(ijk=MIDDLE))
    masks.append(session.propagate(slices=2))
    session.rename("object 1", "spleen")
    for mask in masks[-2::-1]:
        np.testing.assert_array_equal(session.undo(), mask)
    for mask in masks[1:]:
        np.testing.assert_array_equal(session.redo(), mask)
    assert session.objects == ("spleen",)


def test_journals_from_before_clicks_were_binding_repeat_their_masks(session, discs, tmp_path):
    negative = tuple((np.array(MIDDLE) + np.roll([0, 1, 1], array_axis(session))).tolist())
    session.click(ijk=MIDDLE)
    bound = session.click(ijk=negative, foreground=False)
    assert bound[MIDDLE], "which the network takes away"
    path = tmp_path / "clicks.json"
    session.save_journal(path)
    text = path.read_text()
    assert '"clicks": "bind"' in text
    path.write_text(text.replace(',\n  "clicks": "bind"', ""))
    fresh = SliceSession(session.model, session.volume)
    fresh.load_journal(path)
    for again in (SliceSession.replay(session.model, session.volume, path), fresh):
        assert not again.mask[MIDDLE]
        assert again.mask.any() and "clicks" not in again.journal().settings
    with pytest.raises(JournalError, match="made with"):
        session.load_journal(path)


# ---- a mask to start from


def test_a_mask_to_start_from_stays_until_a_slice_is_prompted_and_is_then_the_prior(session, discs):
    through = array_axis(session)
    start = np.zeros(SHAPE, bool)
    start[6:17, 9:20, 6:13] = True
    start[MIDDLE[0], MIDDLE[1], :] = True
    session.click(ijk=(2, 2, 2))
    mask = session.start_from(start)
    np.testing.assert_array_equal(mask, start)
    assert len(discs.asked) == 1, "nothing is asked yet"
    assert ((session.logits_of("object 1") > 0) == start).mean() > 0.97
    after = session.click(ijk=MIDDLE, foreground=False)
    stack, was = (np.moveaxis(one, through, 0) for one in (after, start))
    assert not after[MIDDLE] and discs.asked[-1]["masks"].max() == pytest.approx(8)
    np.testing.assert_array_equal(np.delete(stack, MIDDLE[through], 0), np.delete(was, MIDDLE[through], 0))
    np.testing.assert_array_equal(session.undo(), start)
    session.undo()
    assert session.mask[2, 2, 2] and len(session.prompts) == 1


def test_a_network_without_masks_starts_from_none(discs):
    session = SliceSession(Sam2D(discs, "bare", {"click"}), volume_on(TILTED))
    assert session.accepts == {"click", "scribble", "box", "lasso", "propagation"}
    with pytest.raises(ClickError, match="bare takes prompts of kind box, click, .*; got 'mask'"):
        session.start_from(np.ones(SHAPE, bool))
