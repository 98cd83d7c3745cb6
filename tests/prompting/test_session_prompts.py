"""Prompts of all kinds in a session of a 3D network: each is obeyed, and undone, redone and repeated exactly."""

import numpy as np
import pytest
from ball_scene import AFFINE, BALLS_IJK, away_mm, dice, with_balls
from conftest import oblique
from threshold_network import ThresholdNetwork

from seganypet.errors import ClickError, GeometryError, SegAnyPETError
from seganypet.model.checkpoints import load_model
from seganypet.pet.volume import Volume, save_volume
from seganypet.prompting.prompts import Box, Click, InitialMask, Lasso, Scribble
from seganypet.prompting.session import Session

CENTRE = BALLS_IJK[0]


@pytest.fixture(scope="module")
def scene():
    return with_balls()


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny")


@pytest.fixture
def session(scene):
    return Session(ThresholdNetwork(), scene[0])


def in_slice(axis, *offsets, centre=CENTRE):
    """Voxels of the slice through a ball's centre, from offsets within it."""
    path = []
    for row, column in offsets:
        path.append(np.add(centre, np.insert((row, column), axis, 0)).tolist())
    return path


def everything(session):
    masks = {name: session.mask_of(name).tobytes() for name in session.objects}
    return session.objects, session.prompts, masks, session.labels.tobytes(), session.notice


@pytest.mark.parametrize("axis", range(3))
def test_every_voxel_of_a_scribble_is_on_the_side_that_was_said(session, axis):
    path = in_slice(axis, (-4, -4), (0, 3), (4, -2))
    line = Scribble(tuple(map(tuple, path))).voxels
    mask = session.scribble(path)
    assert mask[tuple(line.T)].all()
    across = in_slice(axis, (3, 0), (3, 3))
    mask = session.scribble(across, foreground=False)
    taken = {tuple(voxel) for voxel in Scribble(tuple(map(tuple, across))).voxels.tolist()}
    assert not any(mask[voxel] for voxel in taken)
    assert all(mask[tuple(voxel)] for voxel in line.tolist() if tuple(voxel) not in taken)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("kind", ["box", "lasso"])
def test_a_box_or_lasso_begins_an_object_and_bounds_its_slice(session, scene, axis, kind):
    half = 5
    corners = in_slice(axis, (-half, -half), (-half, half), (half, half), (half, -half))
    mask = session.box(corners[0], corners[2]) if kind == "box" else session.lasso(corners)
    plane = np.take(mask, CENTRE[axis], axis)
    assert plane.any() and session.prompts[0].obeyed_by(mask)
    outside = np.ones(plane.shape, bool)
    row, column = np.delete(CENTRE, axis)
    outside[row - half : row + half + 1, column - half : column + half + 1] = False
    assert not plane[outside].any()
    assert mask[CENTRE] and (mask & scene[1][0]).sum() > 0.5 * mask.sum()


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("kind", ["box", "lasso"])
def test_a_negative_region_is_empty_but_for_what_was_clicked(session, axis, kind):
    session.click(ijk=CENTRE)
    corners = in_slice(axis, (-2, -2), (-2, 6), (6, 6), (6, -2))
    if kind == "box":
        mask = session.box(corners[0], corners[2], foreground=False)
    else:
        mask = session.lasso(corners, foreground=False)
    inside = mask[tuple(session.prompts[-1].voxels.T)]
    assert inside.sum() == 1 and mask[CENTRE]
    assert session.click(ijk=corners[2])[tuple(corners[2])], "a later click inside holds its voxel"


def test_a_3d_box_bounds_the_object_everywhere_and_stays_when_more_is_clicked(session, scene):
    low, high = np.subtract(CENTRE, 5), np.add(CENTRE, 5)
    mask = session.box(low, high)
    inside = np.zeros(mask.shape, bool)
    inside[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))] = True
    assert mask.any() and not (mask & ~inside).any()
    again = session.click(ijk=np.add(CENTRE, 1))
    assert not (again & ~inside).any() and again[CENTRE[0] + 1, CENTRE[1] + 1, CENTRE[2] + 1]


def all_kinds(scene):
    _, balls = scene
    corners = in_slice(2, (-6, -6), (-6, 6), (6, 6), (6, -6))
    return [
        Click(CENTRE, True),
        Scribble(tuple(map(tuple, in_slice(0, (-3, -3), (3, 3)))), True),
        Click((20, 26, 20), False),
        Lasso(tuple(map(tuple, corners)), True),
        Box((14, 14, 24), (26, 17, 30), False),
        Click((2, 2, 80), True),
        InitialMask.pack(balls[1]),
        Click(BALLS_IJK[1], False),
        Scribble(((20, 50, 45), (20, 52, 47)), True),
        Box((10, 35, 30), (30, 55, 60), True),
    ]


@pytest.mark.parametrize("network", ["threshold", "tiny"])
def test_all_kinds_mixed_are_undone_redone_and_repeated_exactly(network, scene, tiny, tmp_path):
    session = Session(ThresholdNetwork() if network == "threshold" else tiny, scene[0])
    states = [everything(session)]
    for number, prompt in enumerate(all_kinds(scene)):
        session.select("one" if number < 8 else "two" if number == 8 else "one")
        mask = session.add(prompt)
        assert not prompt.binds_voxels or prompt.obeyed_by(mask)
        states.append(everything(session))
    session.save_journal(tmp_path / "all.json")
    again = Session.replay(session.model, session.volume, tmp_path / "all.json")
    assert again.objects == session.objects
    for name in session.objects:
        np.testing.assert_array_equal(again.mask_of(name), session.mask_of(name))
        assert again.prompts_of(name) == session.prompts_of(name)
    last = {name: session.mask_of(name) for name in session.objects}
    for state in reversed(states[:-1]):
        session.undo()
        assert everything(session)[2:4] == state[2:4]
    for state in states[1:]:
        session.redo()
        assert everything(session) == state
    for name, mask in last.items():
        np.testing.assert_array_equal(session.mask_of(name), mask)


def test_a_start_shows_the_mask_itself_and_clicks_correct_it(session, scene, tmp_path):
    volume, balls = scene
    session.click(ijk=BALLS_IJK[2])
    given = balls[0] | balls[1]
    np.testing.assert_array_equal(session.start_from(given), given)
    assert len(session.prompts) == 2 and not session.mask[BALLS_IJK[2]]
    without = session.click(ijk=BALLS_IJK[1], foreground=False)
    assert not without[BALLS_IJK[1]] and not (without & ~given).any()
    np.testing.assert_array_equal(without[balls[0]], given[balls[0]])
    added = session.click(ijk=np.add(CENTRE, (0, 0, 13)))
    assert added[CENTRE[0], CENTRE[1], CENTRE[2] + 13] and not (given & balls[0] & ~added).any()
    save_volume(tmp_path / "start.nii.gz", Volume(given.astype(np.float32), volume.affine, "SUVbw"))
    np.testing.assert_array_equal(session.start_from(tmp_path / "start.nii.gz"), given)


def test_a_negative_click_after_a_start_touches_no_voxel_elsewhere(session):
    """Also with a mask far larger than any window."""
    given = np.zeros(session.volume.shape, bool)
    given[5:60, 5:60, 3:80] = True
    session.start_from(given)
    at = (30, 30, 12)
    mask = session.click(ijk=at, foreground=False)
    depth_mm = away_mm(session.volume, at)[~given].min()
    gone = given & ~mask
    assert not mask[at] and 0 < away_mm(session.volume, at)[gone].max() <= 2 * depth_mm + 1e-6
    mask = session.click(ijk=(62, 30, 40))
    assert mask[62, 30, 40] and not mask[at]


BAD = {
    "a box inside out": lambda session: session.box((30, 10, 10), (20, 20, 20)),
    "a box beyond the end": lambda session: session.box((10, 10, 10), (20, 20, 84)),
    "a scribble of no voxel": lambda session: session.scribble([]),
    "a scribble outside": lambda session: session.scribble([(1, 1, 1), (-1, 1, 1)]),
    "a lasso in space": lambda session: session.lasso([(1, 1, 1), (2, 5, 1), (3, 2, 9)]),
    "a lasso on a line": lambda session: session.lasso([(1, 1, 1), (1, 1, 9)]),
    "an empty start": lambda session: session.start_from(np.zeros(session.volume.shape)),
    "a start of two labels": lambda session: session.start_from(np.arange(64 * 64 * 84).reshape(64, 64, 84) % 3),
    "a start on another grid": lambda session: session.start_from(np.ones((64, 64, 83), bool)),
    "a start of no array": lambda session: session.start_from(None),
    "a start with NaN": lambda session: session.start_from(np.full(session.volume.shape, np.nan)),
    "a click with no sign": lambda session: session.click(ijk=CENTRE, foreground="yes"),
    "a string": lambda session: session.add("click"),
}


@pytest.mark.parametrize("what", BAD)
def test_prompts_that_make_no_sense_are_refused_and_change_nothing(scene, what):
    session = Session(ThresholdNetwork(), scene[0])
    session.click(ijk=CENTRE)
    before = everything(session)
    with pytest.raises(SegAnyPETError):
        BAD[what](session)
    assert everything(session) == before
    session.undo()
    with pytest.raises(ClickError, match="foreground"):
        session.box((10, 10, 10), (20, 20, 20), foreground=False)
    assert session.objects == ()


def test_a_label_file_of_another_grid_is_no_start(scene, tmp_path):
    session = Session(ThresholdNetwork(), scene[0])
    moved = AFFINE.copy()
    moved[:3, 3] += 10
    save_volume(tmp_path / "moved.nii.gz", Volume(scene[1][0].astype(np.float32), moved, "SUVbw"))
    with pytest.raises(GeometryError):
        session.start_from(tmp_path / "moved.nii.gz")
    assert session.objects == ()


class ClicksOnly(ThresholdNetwork):
    accepts = frozenset({"click"})


def test_a_network_that_takes_clicks_only_says_so(scene):
    session = Session(ClicksOnly(), scene[0])
    with pytest.raises(ClickError, match="takes prompts of kind .*click.* got 'mask'"):
        session.start_from(scene[1][0])
    assert dice(session.click(ijk=CENTRE), scene[1][0]) > 0.85


@pytest.mark.parametrize(
    "shape, spacing",
    [((1, 1, 1), (0.5, 0.5, 0.5)), ((2, 3, 50), (0.5, 0.5, 0.5)), ((1, 30, 40), (4.0, 60.0, 5.0)),
     ((40, 1, 3), (5.0, 2.0, 60.0))],
)  # fmt: skip
def test_volumes_of_a_few_voxels_take_every_prompt(tiny, shape, spacing):
    rng = np.random.default_rng(0)
    volume = Volume(rng.gamma(2.0, 2.0, shape) + 0.2, oblique(spacing, left_handed=True), "SUVbw")
    session = Session(tiny, volume)
    middle, end = tuple(n // 2 for n in shape), tuple(n - 1 for n in shape)
    assert session.click(ijk=middle)[middle]
    assert not session.click(ijk=end, foreground=False)[end] or middle == end
    assert session.scribble([middle, end])[end]
    np.testing.assert_array_equal(session.start_from(np.ones(shape, bool)), True)
    assert not session.box((0, 0, 0), end, foreground=False).any()


def test_the_network_looks_at_a_mask_to_start_from_once_it_is_needed(scene, session, monkeypatch):
    volume, balls = scene
    looks = []
    monkeypatch.setattr(session._decoder, "window", lambda *where, window=session._decoder.window: (
        looks.append(where), window(*where))[1])  # fmt: skip
    np.testing.assert_array_equal(session.start_from(balls[0]), balls[0])
    assert not looks  # a stroke of the brush need not wait for it
    logits = session.logits_of(session.active)
    assert looks and dice(logits > 0, balls[0]) > 0.9
    before = len(looks)
    voxel = tuple(np.argwhere(balls[0])[0].tolist())
    assert not session.click(ijk=voxel, foreground=False)[voxel]
    assert len(looks) > before


def test_a_mask_says_who_drew_it_also_after_a_journal(scene, session, tmp_path):
    volume, balls = scene
    session.add(InitialMask.pack(balls[0], "SUV>=4"))
    session.save_journal(tmp_path / "journal.json")
    again = Session.replay(ThresholdNetwork(), volume, tmp_path / "journal.json")
    assert again.prompts == session.prompts and again.prompts[0].drawn_by == "SUV>=4"
    entry = again.prompts[0].to_json() | {"drawn_by": 4}
    with pytest.raises(ClickError, match="packed and drawn_by, texts"):
        InitialMask.from_json(entry)
