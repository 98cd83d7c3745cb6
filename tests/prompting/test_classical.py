"""What sessions without a network make of scribbles, boxes, lassos and masks; and clicks that bind."""

import json

import numpy as np
import pytest
from conftest import oblique

from seganypet.errors import JournalError
from seganypet.metrics import dice
from seganypet.pet.volume import Volume, load_labels, load_volume
from seganypet.prompting.random_walker import RandomWalkerSession
from seganypet.prompting.simulate import first_click
from seganypet.prompting.simulate_shapes import first_prompt
from seganypet.prompting.thresholds import ThresholdSession

AFFINE = oblique((4.0, 2.0, 3.0), left_handed=True)
SHAPE = (40, 60, 40)


def ball(centre: tuple[int, int, int], radius_mm: float) -> np.ndarray:
    grid = Volume(np.zeros(SHAPE), AFFINE, "SUVbw")
    centres_mm = grid.to_mm(np.moveaxis(np.indices(SHAPE), 0, -1))
    return np.linalg.norm(centres_mm - grid.to_mm(centre), axis=-1) <= radius_mm


ONE, OTHER = (14, 22, 18), (27, 40, 22)
BALL, NEIGHBOUR = ball(ONE, 22.0), ball(OTHER, 16.0)
NECK = np.zeros(SHAPE, bool)
for step in np.linspace(0, 1, 200):
    at = np.rint(np.array(ONE) + step * np.subtract(OTHER, ONE)).astype(int)
    NECK[tuple(slice(index, index + 2) for index in at)] = True


@pytest.fixture(scope="module")
def volume() -> Volume:
    """A ball of SUV 5, joined by a neck to a smaller one of SUV 8, in noise around SUV 1."""
    data = 1.0 + np.random.default_rng(0).normal(0, 0.05, SHAPE)
    data[BALL | NECK] = 5
    data[NEIGHBOUR] = 8
    return Volume(data, AFFINE, "SUVbw", source="two balls and a neck")


SESSIONS = {
    "threshold": lambda volume: ThresholdSession(volume, "SUV>=2.5"),
    "band": lambda volume: ThresholdSession(volume, "band"),
    "random walker": RandomWalkerSession,
}


@pytest.fixture(params=SESSIONS)
def session(request, volume):
    return SESSIONS[request.param](volume)


def test_every_voxel_of_a_scribble_is_on_the_side_that_was_said(session):
    session.scribble([(12, 20, 16), (16, 24, 20)])
    session.scribble([(20, 28, 20), (24, 36, 21)], foreground=False)
    session.scribble([(22, 33, 21), (22, 34, 30)])  # across the one before, and out into the background
    mask = session.mask
    for prompt in session.prompts[::2]:
        assert mask[tuple(prompt.voxels.T)].all()
    crossing = {(22, 33, 21)}
    denied = {tuple(voxel) for voxel in session.prompts[1].voxels.tolist()} - crossing
    assert not mask[tuple(np.array(list(denied)).T)].any()


def test_a_click_keeps_its_voxel_through_everything_that_follows(session):
    session.click(ijk=ONE)
    session.click(ijk=(14, 50, 18))  # in the background
    for foreground, ijk in ((False, (14, 49, 18)), (False, (14, 52, 18)), (True, (15, 22, 18)), (False, (13, 50, 18))):
        mask = session.click(ijk=ijk, foreground=foreground)
        assert mask[14, 50, 18] and mask[ONE] and mask[ijk] == foreground
    assert session.box((10, 45, 14), (18, 55, 22), foreground=False)[14, 50, 18]
    assert not session.click(ijk=(14, 50, 18), foreground=False)[14, 50, 18]


def test_a_negative_box_over_a_neck_takes_away_what_hangs_on_it(volume):
    session = ThresholdSession(volume, "SUV>=2.5")
    both = session.click(ijk=ONE)
    assert both[OTHER]
    low, high = (18, 27, 16), (23, 33, 24)
    cut = session.box(low, high, foreground=False)
    assert not cut[OTHER] and cut[ONE] and not cut[18:24, 27:34, 16:25].any()
    assert dice(cut, BALL) > 0.9


@pytest.mark.parametrize("name", SESSIONS)
def test_a_box_or_a_lasso_begins_an_object_and_bounds_it(name, volume):
    low, high = (7, 10, 10), (21, 34, 26)  # around the first ball
    mask = SESSIONS[name](volume).box(low, high)
    inside = np.zeros(SHAPE, bool)
    inside[7:22, 10:35, 10:27] = True
    share = 0.7 if name == "band" else 0.85  # a smoothed border leaves the band early
    assert not (mask & ~inside).any() and dice(mask, BALL) > share
    slab = SESSIONS[name](volume)
    mask = slab.lasso([(7, 10, 18), (21, 10, 18), (21, 34, 18), (7, 34, 18)])
    assert mask[ONE] and not (mask[..., 18] & ~inside[..., 18]).any() and dice(mask & inside, BALL) > share
    assert slab.prompts[0].obeyed_by(mask)


def test_a_box_is_grown_from_the_hottest_voxel_inside_it(volume):
    session = ThresholdSession(volume, "SUV>=6")
    mask = session.box((18, 20, 10), (35, 55, 30))  # holds the hotter ball and part of the other
    np.testing.assert_array_equal(mask, NEIGHBOUR)
    assert not ThresholdSession(volume, "SUV>=9").box((18, 20, 10), (35, 55, 30)).any()


def test_a_later_box_bounds_and_adds_nothing(volume):
    session = ThresholdSession(volume, "SUV>=2.5")
    session.click(ijk=ONE)
    cold = session.box((2, 2, 2), (36, 36, 36))
    np.testing.assert_array_equal(cold, (BALL | NECK | NEIGHBOUR)[...] & cold)
    assert cold.sum() < session.undo().sum()


def test_a_threshold_leaves_a_mask_to_start_from_as_it_is_and_a_click_takes_its_leak_away(volume):
    leak = ball((14, 44, 18), 9.0)
    leak[14, 30:40, 18] = True  # a neck one voxel wide
    given = BALL | leak
    for rule in ("SUV>=2.5", "41% SUVmax", "band"):
        session = ThresholdSession(volume, rule)
        np.testing.assert_array_equal(session.start_from(given), given)
        cut = session.click(ijk=(14, 44, 18), foreground=False)
        assert not (cut & ball((14, 44, 18), 9.0)).any() and (cut & BALL).sum() > 0.98 * BALL.sum()
        np.testing.assert_array_equal(session.undo(), given)


def test_a_click_at_the_border_of_a_given_mask_moves_that_border_alone(volume):
    given = ball(ONE, 26.0)  # 4 mm too large
    session = ThresholdSession(volume, "SUV>=2.5")
    session.start_from(given)
    denied = (14, 22 - 12, 18)  # 24 mm from the centre
    cut = session.click(ijk=denied, foreground=False)
    lost = given & ~cut
    away_mm = np.linalg.norm((np.argwhere(lost) - denied) * (4.0, 2.0, 3.0), axis=1)
    assert lost[denied] and away_mm.max() < 26 and cut[BALL].mean() > 0.9


@pytest.mark.parametrize("rule", ["SUV>=2.5", "41% SUVmax", "band"])
def test_what_a_click_adds_to_a_given_mask_reaches_no_farther_than_the_masks_core(rule, volume):
    given = BALL.copy()
    given[14:22, 26:36] = False  # a bite out of it, on the side of the neck
    bitten = BALL & ~given
    session = ThresholdSession(volume, rule)
    before = dice(session.start_from(given), BALL)
    clicked = first_click(bitten, spacing=volume.spacing).ijk
    mask = session.click(ijk=clicked)
    assert dice(mask, BALL) > before and (mask & bitten).sum() > 0.4 * bitten.sum()
    assert not mask[OTHER]  # though neck and neighbour are as hot
    np.testing.assert_array_equal(mask & given, given)
    alone, after = (ThresholdSession(volume, rule) for _ in range(2))
    after.start_from(given)
    lesion = alone.click(ijk=OTHER) & NEIGHBOUR  # another lesion, far from the mask, is added whole
    np.testing.assert_array_equal(after.click(ijk=OTHER) & NEIGHBOUR, lesion)
    assert lesion.sum() > 0.3 * NEIGHBOUR.sum()


def test_a_start_forgets_what_was_said_before_and_undo_remembers_it(session, volume):
    before = session.click(ijk=OTHER)
    started = session.start_from(BALL)
    assert not started[OTHER] and started[ONE] and dice(started, BALL) > 0.85
    assert len(session.prompts) == 2
    np.testing.assert_array_equal(session.undo(), before)
    np.testing.assert_array_equal(session.redo(), started)


def test_the_random_walker_finds_the_border_of_a_rough_mask_anew_and_says_so(volume):
    session = RandomWalkerSession(volume)
    rough = ball((15, 23, 18), 20.0)  # off by a voxel, and too small
    mask = session.start_from(rough)
    assert dice(mask, BALL) > max(dice(rough, BALL), 0.9) and "finds its border anew" in session.notice
    session.click(ijk=(20, 22, 18))
    assert session.notice == ""


def test_a_given_mask_of_several_pieces_keeps_all_of_them(session):
    given = ball((8, 10, 10), 9.0) | ball((32, 50, 32), 9.0)
    mask = session.start_from(given)
    assert mask[8, 10, 10] and mask[32, 50, 32]


# ---- older journals


def old_journal(session, path):
    """A journal as it was written before clicks were binding."""
    session.save_journal(path)
    content = json.loads(path.read_text())
    assert content["settings"] == {"clicks": "bind"}
    content["settings"] = {}
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("name", ["threshold", "random walker"])
def test_journals_from_before_clicks_bound_are_repeated_as_they_were(name, volume, tmp_path):
    session = SESSIONS[name](volume)
    session.click(ijk=ONE)
    session.click(ijk=(2, 50, 5))  # cold: a threshold that clicks do not bind grows nothing here
    old_journal(session, tmp_path / "old.json")
    again = SESSIONS[name](volume)
    again.load_journal(tmp_path / "old.json")
    if name == "threshold":
        assert session.mask[2, 50, 5] and not again.mask[2, 50, 5]
        assert (session.mask ^ again.mask).sum() == 1
        again.box((0, 45, 0), (5, 55, 10), foreground=False)
    assert not again.box((20, 30, 15), (35, 55, 30), foreground=False)[OTHER]  # regions bind all the same
    again.save_journal(tmp_path / "again.json")
    third = SESSIONS[name](volume)
    third.load_journal(tmp_path / "again.json")
    np.testing.assert_array_equal(third.mask, again.mask)


def test_a_session_with_a_past_says_why_it_does_not_repeat_an_older_journal(volume, tmp_path):
    session = ThresholdSession(volume, "SUV>=2.5")
    mask = session.click(ijk=ONE)
    old_journal(session, tmp_path / "old.json")
    with pytest.raises(JournalError, match=r"made with settings \{\}, this session has \{'clicks': 'bind'\}"):
        session.load_journal(tmp_path / "old.json")
    np.testing.assert_array_equal(session.mask, mask)
    fresh = ThresholdSession(volume, "SUV>=4")
    with pytest.raises(JournalError, match="other weights or rules"):
        fresh.load_journal(tmp_path / "old.json")
    assert fresh.journal().settings == {"clicks": "bind"}


def test_on_a_real_sarcoma_every_kind_of_prompt_finds_what_a_click_finds(real_data):
    folder = real_data / "sts" / "STS_003"  # a homogeneous hot lesion
    volume = load_volume(folder / "PET_image.nii.gz", unit="SUVbw")
    truth = load_labels(folder / "PET_mask.nii.gz", like=volume) > 0
    for kind in ("click", "scribble", "box", "box3d", "lasso"):
        prompt = first_prompt(truth, kind, spacing=volume.spacing)
        for session in (ThresholdSession(volume, "SUV>=2.5"), RandomWalkerSession(volume)):
            mask = session.add(prompt)
            assert dice(mask, truth) > 0.8 and prompt.obeyed_by(mask)
