"""A click binds: its voxel and what looks like it go to the side that was said, leaks go whole, all else stays."""

import tracemalloc

import numpy as np
import pytest
from ball_scene import BALLS_IJK, COLD, HOT, away_mm, dice, with_balls
from conftest import oblique
from scipy import ndimage
from threshold_network import ThresholdNetwork

from seganypet.model.checkpoints import load_model
from seganypet.pet.volume import Volume
from seganypet.phantom import make_phantom
from seganypet.prompting.binding import (
    LONE_REACH_MM,
    blur_around,
    corrected,
    leak_behind_neck,
    loose_pieces,
    neighbourhood,
)
from seganypet.prompting.packed_mask import PackedMask
from seganypet.prompting.prompts import Click, Scribble
from seganypet.prompting.session import Session
from seganypet.regions import deepest_voxel

GRIDS = {
    "oblique, left-handed": oblique((4.07, 4.07, 3.0), left_handed=True),
    "thick slices, axes swapped": oblique((8.0, 3.0, 4.0))[:, [1, 2, 0, 3]],
    "2 mm": oblique((2.0, 2.0, 2.0)),
    "5 mm": np.diag([-5.0, 5.0, 5.0, 1.0]),
}


@pytest.fixture(params=GRIDS)
def affine(request):
    return GRIDS[request.param]


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny")


def as_mask(edit, shape):
    mask = np.zeros(shape, bool)
    mask[edit.box] = edit.voxels
    return mask


# ---- the neighbourhood


def stepped(affine, shape=(40, 36, 44), unit="SUVbw", high=6.0, low=1.0):
    """Two halves that meet at a sharp edge between index 19 and 20 of the first axis."""
    data = np.full(shape, low)
    data[20:] = high
    return Volume(data, affine, unit)


@pytest.mark.parametrize("foreground", [True, False])
def test_a_neighbourhood_does_not_cross_a_sharp_edge(affine, foreground):
    volume = stepped(affine)
    for at, side in (((19, 18, 22), np.s_[:20]), ((20, 18, 22), np.s_[20:]), ((24, 18, 22), np.s_[20:])):
        edit = neighbourhood(volume, [at], foreground, [])
        inside = as_mask(edit, volume.shape)
        assert edit.foreground == foreground and inside[at]
        assert inside.sum() == inside[side].sum()


def test_a_neighbourhood_is_round_in_millimetres_and_of_what_is_even_all(affine):
    volume = Volume(np.full((40, 36, 44), 3.0), affine, "SUVbw")
    at = (20, 18, 22)
    inside, away = as_mask(neighbourhood(volume, [at], True, []), volume.shape), away_mm(volume, at)
    decided = abs(away - LONE_REACH_MM) > 1e-9  # on the sphere itself, rounding decides
    np.testing.assert_array_equal(inside[decided], (away <= LONE_REACH_MM)[decided])


def test_a_neighbourhood_stays_away_from_clicks_of_the_other_side(affine):
    volume = Volume(np.full((40, 36, 44), 3.0), affine, "SUVbw")
    at = np.array((20, 18, 22))
    for step in ((1, 0, 0), (0, 0, 3), (3, 4, 0), (0, -9, 0)):
        other = tuple((at + step).tolist())
        inside = as_mask(neighbourhood(volume, [tuple(at)], True, [other]), volume.shape)
        assert inside[tuple(at)] and not inside[other]
        nearer = away_mm(volume, tuple(at)) < away_mm(volume, other)
        assert (nearer | ~inside | (away_mm(volume, tuple(at)) == 0)).all()


def test_a_neighbourhood_of_an_island_takes_no_other_island():
    data = np.full((40, 40, 40), 3.0)
    data[20:23] = 9.0  # a wall between two rooms
    volume = Volume(data, np.diag([2.0, 2.0, 2.0, 1.0]), "SUVbw")
    inside = as_mask(neighbourhood(volume, [(17, 20, 20)], True, [(17, 20, 0)]), volume.shape)
    assert inside[17, 20, 20] and not inside[20:].any()


def test_the_similarity_of_a_ct_is_in_hounsfield_units():
    volume = stepped(oblique((2.0, 2.0, 2.0)), unit="HU", high=60.0, low=-10.0)
    assert not as_mask(neighbourhood(volume, [(21, 18, 22)], True, []), volume.shape)[:19].any()
    near = stepped(oblique((2.0, 2.0, 2.0)), unit="HU", high=10.0, low=-5.0)  # a zero between, no fraction of it
    assert as_mask(neighbourhood(near, [(20, 18, 22)], True, []), near.shape)[19].any()


# ---- leaks behind a neck


def dumbbell(affine, neck_mm, apart_mm=70.0, shape_mm=170.0):
    """Two balls of 22 mm that a cylinder joins; the volume, the masks of both, and their centres."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    shape = tuple(np.ceil(shape_mm / spacing).astype(int).tolist())
    volume = Volume(np.full(shape, COLD), affine, "SUVbw")
    middle = volume.to_mm((np.array(shape) - 1) / 2)
    mm = volume.to_mm(np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)) - middle
    along = np.array((1.0, 1.0, 1.0)) / 3**0.5
    ends = [volume.to_ijk(middle + side * apart_mm / 2 * along).round().astype(int) for side in (-1, 1)]
    balls = [np.linalg.norm(mm - side * apart_mm / 2 * along, axis=-1) <= 22 for side in (-1, 1)]
    across = np.linalg.norm(mm - (mm @ along)[..., None] * along, axis=-1)
    neck = (across <= neck_mm) & (np.abs(mm @ along) <= apart_mm / 2)
    return volume, balls[0], balls[1], balls[0] | balls[1] | neck, [tuple(end.tolist()) for end in ends]


def test_a_leak_on_a_neck_goes_whole_and_the_object_stays(affine):
    volume, one, other, mask, ends = dumbbell(affine, neck_mm=8.0)
    rng = np.random.default_rng(0)
    for negative in (ends[1], *rng.permutation(np.argwhere(ndimage.binary_erosion(other)))[:4].tolist()):
        edit = leak_behind_neck(mask, volume, [ends[0]], negative)
        assert edit is not None and not edit.foreground
        kept = mask.copy()
        edit.apply(kept)
        assert (kept & other).sum() <= 0.03 * other.sum() and (kept & one).sum() >= 0.97 * one.sum()


def test_an_object_without_a_neck_is_not_cut_in_half(affine):
    volume, one, _, _, ends = dumbbell(affine, neck_mm=8.0)
    spacing = np.array(volume.spacing)
    for shape in (one, away_mm(volume, ends[0]) <= 40, (np.abs(away_mm(volume, ends[0])) <= 22)):
        depth = ndimage.distance_transform_edt(np.pad(shape, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
        for negative in np.random.default_rng(1).permutation(np.argwhere(shape))[:6].tolist():
            positive = np.unravel_index(depth.argmax(), depth.shape)
            assert leak_behind_neck(shape, volume, [positive], negative) is None


def test_a_wide_bridge_is_no_neck():
    volume, _, _, mask, ends = dumbbell(GRIDS["2 mm"], neck_mm=20.0)
    assert leak_behind_neck(mask, volume, [ends[0]], ends[1]) is None


def test_without_a_positive_click_in_the_rest_there_is_no_leak():
    volume, _, _, mask, ends = dumbbell(GRIDS["5 mm"], neck_mm=8.0)
    assert leak_behind_neck(mask, volume, [], ends[1]) is None
    assert leak_behind_neck(mask, volume, [ends[1]], ends[1]) is None
    assert leak_behind_neck(np.zeros_like(mask), volume, [ends[0]], ends[1]) is None
    assert leak_behind_neck(mask, volume, [ends[0]], (0, 0, 0)) is None


class Stubborn(ThresholdNetwork):
    """Marks what is connected to a positive click, whatever negative ones say."""

    def decode(self, embedding, points_ijk, labels, previous_logits):
        keep = labels[0] == 1
        return super().decode(embedding, points_ijk[:, keep], labels[:, keep], previous_logits)


def test_one_negative_click_takes_a_leak_from_a_network_that_does_not_give_it_up(affine):
    volume, one, other, mask, ends = dumbbell(affine, neck_mm=9.0)
    volume = Volume(np.where(mask, HOT, COLD), affine, "SUVbw")
    session = Session(Stubborn(), volume, spacing_mm=4.0)
    leaking = session.click(ijk=ends[0])
    assert leaking[ends[1]], "it leaks"
    kept = session.click(ijk=ends[1], foreground=False)
    assert (kept & other).sum() < 0.05 * other.sum() and (kept & one).sum() > 0.9 * (leaking & one).sum()
    again = session.click(ijk=tuple(np.add(ends[0], 1).tolist()))  # and it does not come back
    assert (again & other).sum() < 0.05 * other.sum()
    session.undo()
    np.testing.assert_array_equal(session.undo(), leaking)


# ---- in a session


class Contrary(ThresholdNetwork):
    """Says the opposite of what it is told."""

    def decode(self, embedding, points_ijk, labels, previous_logits):
        logits, iou = super().decode(embedding, points_ijk, 1 - labels, previous_logits)
        return logits, iou


def disobeyed(session):
    """Clicks on the active object whose voxel is not on the side said; of clicks on one voxel the last counts."""
    latest = {click.ijk: click.foreground for click in session.clicks}
    return [ijk for ijk, foreground in latest.items() if session.mask[ijk] != foreground]


@pytest.mark.filterwarnings("ignore:the mask of")
@pytest.mark.parametrize("network", [ThresholdNetwork, Stubborn, Contrary])
def test_every_click_is_obeyed_now_and_ever_after(affine, network):
    rng = np.random.default_rng(3)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    shape = np.ceil(180 / spacing).astype(int)
    volume, balls = with_balls(radius_mm=25.0, shape=tuple(shape), affine=affine, centres=(shape // 2, shape // 3))
    session = Session(network(), volume)
    session.click(ijk=tuple(shape // 2))
    assert not disobeyed(session)
    for number in range(12):
        wrong = session.mask != balls[0] if number % 2 else np.ones(volume.shape, bool)
        at = rng.permutation(np.argwhere(wrong if wrong.any() else balls[0]))[0]
        session.click(ijk=at, foreground=bool(balls[0][tuple(at)]))
        assert not disobeyed(session), f"after click {number}"


@pytest.mark.parametrize("seed", [301, 305])
def test_the_shipped_network_obeys_every_correction_in_a_phantom(tiny, seed):
    case = make_phantom(seed)
    label = next(number for number, name in case.organ_names.items() if name == "liver")
    truth = case.organs == label
    rng, session = np.random.default_rng(seed), Session(tiny, case.pet)
    session.click(ijk=rng.permutation(np.argwhere(truth))[0])
    for _ in range(6):
        wrong = np.argwhere(session.mask != truth)
        at = tuple(rng.permutation(wrong)[0].tolist())
        session.click(ijk=at, foreground=bool(truth[at]))
        assert not disobeyed(session)


def test_a_later_click_takes_no_voxel_of_an_earlier_positive_one():
    volume, balls = with_balls(centres=BALLS_IJK[:1])
    session = Session(ThresholdNetwork(), volume)
    session.click(ijk=BALLS_IJK[0])
    for step in ((1, 0, 0), (0, -1, 0), (0, 0, 1), (1, 1, 1)):  # all around it
        mask = session.click(ijk=np.add(BALLS_IJK[0], step), foreground=False)
        assert mask[BALLS_IJK[0]] and not mask[tuple(np.add(BALLS_IJK[0], step))]


def test_the_last_of_two_clicks_on_a_voxel_counts():
    volume, _ = with_balls(centres=BALLS_IJK[:1])
    session = Session(ThresholdNetwork(), volume)
    for foreground in (True, False, True):
        assert session.click(ijk=BALLS_IJK[0], foreground=foreground)[BALLS_IJK[0]] == foreground


# ---- the border of small objects, and pieces


def cube(grid: str, side_mm: float) -> tuple[np.ndarray, np.ndarray, tuple[int, ...], tuple[int, ...]]:
    """Affine, spacing, shape and middle voxel of a cube on one of GRIDS."""
    affine = GRIDS[grid]
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    shape = tuple(np.ceil(side_mm / spacing).astype(int).tolist())
    return affine, spacing, shape, tuple(n // 2 for n in shape)


@pytest.mark.parametrize("grid", ["oblique, left-handed", "2 mm"])
def test_the_blur_around_a_small_hot_object_is_taken_off(grid):
    affine, spacing, shape, centre = cube(grid, 120)
    sharp, (ball,) = with_balls(radius_mm=10.0, shape=shape, affine=affine, centres=(centre,))
    blurred = Volume(ndimage.gaussian_filter(sharp.data, 3.0 / spacing), affine, "SUVbw")
    generous = away_mm(blurred, centre) <= 16
    mask = generous.copy()
    blur_around(blurred, generous).apply(mask)
    assert dice(mask, ball) > 0.9 > dice(generous, ball)
    assert blur_around(blurred, mask & False) is None
    cold = Volume(10 - blurred.data, affine, "SUVbw")
    assert blur_around(cold, generous) is None
    ct = Volume(blurred.data, affine, "HU")
    assert blur_around(ct, generous) is None
    assert blur_around(blurred, np.ones(shape, bool)) is None


def test_a_cold_core_is_no_blur():
    affine, spacing, shape, centre = cube("oblique, left-handed", 160)
    volume, (ball,) = with_balls(radius_mm=30.0, shape=shape, affine=affine, centres=(centre,))
    volume.data[away_mm(volume, centre) <= 18] = 0.6  # necrotic, and open to one side
    beside = volume.to_mm(np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)) - volume.to_mm(centre)
    volume.data[ball & (beside[..., 0] > 0) & (np.abs(beside[..., 1:]) < 8).all(-1)] = 0.6
    volume = Volume(ndimage.gaussian_filter(volume.data, 3.0 / spacing), affine, "SUVbw")
    mask = ball.copy()
    blur_around(volume, ball).apply(mask)
    assert mask[away_mm(volume, centre) <= 18].all() and dice(mask, ball) > 0.95


@pytest.mark.parametrize("grid", ["oblique, left-handed", "2 mm"])
def test_what_lies_around_a_hot_part_of_an_organ_is_no_blur(grid):
    affine, spacing, shape, centre = cube(grid, 120)
    from_centre = away_mm(Volume(np.zeros(shape, np.float32), affine, "SUVbw"), centre)
    kidney = from_centre <= 24
    data = np.where(kidney, 3.0, 0.8) + 12.0 * (from_centre <= 8)  # its pelvis is full of urine
    volume = Volume(ndimage.gaussian_filter(data, 3.0 / spacing).astype(np.float32), affine, "SUVbw")
    assert blur_around(volume, kidney) is None
    pelvis = from_centre <= 14
    blur_around(volume, pelvis).apply(pelvis)
    assert (pelvis & (from_centre > 12)).sum() == 0, "of who means the pelvis alone, the cortex is blur"


def test_only_pieces_that_are_held_stay():
    volume, (one, other) = with_balls(radius_mm=20.0, centres=BALLS_IJK[:2])
    mask = one | other
    edge = np.argwhere(one).max(0) * (1, 0, 0) + np.array(BALLS_IJK[0]) * (0, 1, 1)
    for anchors, expected in (
        (BALLS_IJK[:1], one), (BALLS_IJK[:2], mask), (edge[None] + (1, 0, 0), one), ([(60, 60, 2)], mask & False),
    ):  # fmt: skip
        loose, kept = loose_pieces(mask, np.array(anchors), volume, 8.0), mask.copy()
        if loose is not None:
            loose.apply(kept)
        np.testing.assert_array_equal(kept, expected)
    assert loose_pieces(mask & False, np.array(BALLS_IJK[:1]), volume, 8.0) is None


@pytest.mark.parametrize("seed", range(4))
def test_a_packed_mask_is_what_was_packed(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random(tuple(rng.integers(1, 20, 3))) < (0.0, 0.02, 0.5, 1.0)[seed]
    packed = PackedMask.of(mask)
    np.testing.assert_array_equal(packed.unpack(), mask)
    first = packed.unpack()
    first[:] = True
    np.testing.assert_array_equal(packed.unpack(), mask)
    assert packed.bits.nbytes <= -(-mask.size // 8) and packed.voxel_count == mask.sum()


def test_masks_are_told_apart_by_their_digests():
    empty, one, moved, other = masks = np.zeros((4, 9, 8, 7), bool)
    one[1:4, 2:5, 3:6], moved[2:5, 2:5, 3:6], other[1:3, 2:5, 3:6] = True, True, True
    other[3, 2, 3] = True
    digests = [PackedMask.of(mask).digest for mask in masks]
    assert len(set(digests)) == 4 and digests == [PackedMask.of(mask.copy()).digest for mask in masks]


def test_the_agreement_of_packed_masks_is_that_of_the_masks():
    rng = np.random.default_rng(0)
    masks = [np.zeros((20, 30, 25), bool) for _ in range(4)]
    for mask, low in zip(masks, ((0, 0, 0), (3, 8, 2), (12, 20, 18)), strict=False):
        mask[tuple(slice(a, a + 8) for a in low)] = rng.random((8, 8, 7 if low[2] == 18 else 8)) < 0.7
    for one in masks[:3]:
        for other in masks:
            assert PackedMask.of(one).dice(PackedMask.of(other)) == pytest.approx(dice(one, other))
    assert PackedMask.of(masks[3]).dice(PackedMask.of(masks[3])) == 1.0


def test_a_box_around_a_mask_spares_looking_elsewhere_and_changes_nothing():
    mask = np.zeros((20, 30, 25), bool)
    mask[4:9, 11, 3:20] = True
    within = np.s_[2:15, 5:30, 0:25]
    packed, found = PackedMask.of(mask), PackedMask.of(mask, within)
    assert packed.box == found.box == np.s_[4:9, 11:12, 3:20]
    np.testing.assert_array_equal(found.unpack(), mask)


# ---- a mask to start from


def test_a_start_is_shown_as_it_is_and_a_correction_changes_it_near_itself_alone(affine):
    volume, balls = with_balls(
        radius_mm=30.0, shape=tuple(np.ceil(280 / np.linalg.norm(affine[:3, :3], axis=0)).astype(int)), affine=affine,
        centres=(np.ceil(140 / np.linalg.norm(affine[:3, :3], axis=0)).astype(int),),
    )  # fmt: skip
    rough = np.random.default_rng(0).random(volume.shape) < 0.7  # 26-connected, full of holes
    rough &= ndimage.binary_dilation(balls[0])
    session = Session(ThresholdNetwork(), volume)
    np.testing.assert_array_equal(session.start_from(rough), rough)
    at = tuple(np.argwhere(rough)[0].tolist())
    kept = session.click(ijk=at, foreground=False)
    assert not kept[at]
    assert not (kept & ~rough).any(), "a negative click adds nothing"
    assert (rough & ~kept).sum() == (rough & ~kept & (away_mm(volume, at) <= 31)).sum()
    np.testing.assert_array_equal(session.undo(), rough)


@pytest.mark.parametrize("foreground", [True, False])
def test_a_correction_of_a_given_mask_goes_one_way_and_not_far(affine, foreground):
    volume = Volume(np.ones((30, 40, 50)), affine, "SUVbw")
    rng = np.random.default_rng(0)
    before, after = (rng.random(volume.shape) < 0.5 for _ in range(2))
    given = before.copy()
    for prompt in (Click((15, 20, 25), foreground), Scribble(((0, 0, 0), (3, 0, 0)), foreground)):
        mask = corrected(before, after, prompt, volume)
        changed = mask != before
        assert (mask[changed] == foreground).all() and (after[changed] == foreground).all()
        away = np.min([away_mm(volume, voxel) for voxel, _ in prompt.points], axis=0)
        # In noise every voxel lies beside one of the other side.
        assert away[changed].max(initial=0.0) <= 2 * 2 * np.linalg.norm(volume.spacing)
        np.testing.assert_array_equal(before, given)


def test_the_middle_of_an_error_says_how_large_it_is(affine):
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    shape = tuple(np.ceil(140 / spacing).astype(int))
    centre = np.array(shape) // 2
    volume = Volume(np.ones(shape), affine, "SUVbw")
    whole, elsewhere = away_mm(volume, centre) <= 45, np.zeros(shape, bool)
    along_mm = (np.moveaxis(np.indices(shape), 0, -1)[..., 0] - centre[0]) * spacing[0]
    half = whole & (along_mm < 0)
    elsewhere[1:3, 1:3, 1:3] = True
    middle = deepest_voxel(whole & ~half, spacing)
    mask = corrected(half, whole | elsewhere, Click(middle), volume)
    assert dice(mask, whole) > 0.9, "one click brings what is missing"
    assert not mask[elsewhere].any(), "and nothing that it does not touch"
    taken = corrected(whole, half, Click(middle, foreground=False), volume)
    assert dice(taken, half) > 0.9, "or takes what is too much"
    beside = tuple((centre + (1, 0, 0)).tolist())  # one or two steps from what is there
    moved = corrected(half, whole, Click(beside), volume) != half
    assert 0 < away_mm(volume, beside)[moved].max() <= 4.01 * spacing[0], "a click beside the border moves it a little"


def test_memory_stays_flat_over_300_clicks_with_undo():
    volume, balls = with_balls(radius_mm=25.0, shape=(40, 40, 50), centres=((20, 20, 25),))
    session, rng, inside = Session(ThresholdNetwork(), volume), np.random.default_rng(0), np.argwhere(balls[0])
    session.click(ijk=(20, 20, 25))
    held = []
    tracemalloc.start()
    try:
        for number in range(300):
            session.click(ijk=rng.permutation(inside)[0], foreground=number % 3 > 0)
            session.undo()
            session.model.previous.clear()  # the stand-in's own notes
            if number in (50, 299):
                held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert held[1] - held[0] < volume.data.nbytes
