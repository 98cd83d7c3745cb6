import time

import numpy as np
import pytest

from seganypet.errors import ClickError, GeometryError
from seganypet.prompting.prompts import Click
from seganypet.prompting.simulate import first_click, first_clicks_by_slice, next_click, next_clicks_by_slice
from seganypet.regions import bounding_box

SPACING = (4.0, 2.0, 3.0)


def brute_depth_mm(region: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """Distance of every voxel to the nearest voxel outside the region, one by one; the volume's outside counts."""
    padded = np.pad(region, 1)
    outside = np.argwhere(~padded) * spacing
    depth = np.zeros(region.shape)
    for ijk in np.argwhere(region):
        depth[tuple(ijk)] = np.linalg.norm(outside - (ijk + 1) * spacing, axis=1).min()
    return depth


def blob(seed: int) -> np.ndarray:
    from scipy import ndimage

    return ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((14, 18, 16)), 2) > 0.02


def test_deepest_is_measured_in_millimetres_not_in_voxels():
    truth = np.zeros((24, 24, 20), bool)
    truth[2:5, 3:20, 3:18] = True  # A: 3 voxels thick along i
    truth[9:22, 10:15, 3:18] = True  # B: 5 voxels thick along j
    # Voxels of 4 x 2 x 3 mm: A is 2 x 4 = 8 mm deep, B 3 x 2 = 6 mm. Counted in voxels B (3) would beat A (2).
    assert first_click(truth, spacing=SPACING).ijk[0] == 3
    assert first_click(truth, spacing=(2.0, 4.0, 3.0)).ijk[1] == 12  # A 4 mm, B 12 mm


@pytest.mark.parametrize("seed", range(5))
def test_deepest_click_agrees_with_a_search_over_all_pairs_of_voxels(seed):
    truth = blob(seed)
    depth = brute_depth_mm(truth, SPACING)
    assert depth[first_click(truth, spacing=SPACING).ijk] == pytest.approx(depth.max())


def test_organ_cut_by_the_field_of_view_is_clicked_in_the_middle_of_what_is_seen():
    truth = np.zeros((12, 12, 12), bool)
    truth[:, :, 7:] = True
    # (5, 5) and (6, 6) are both centres of 12 voxels; 5 slices of 3 mm remain, the middle one is k = 9.
    assert first_click(truth, spacing=(2.0, 2.0, 3.0)).ijk == (5, 5, 9)


def test_vessel_is_clicked_at_half_its_length():
    truth = np.zeros((9, 9, 40), bool)
    truth[4, 4, 3:30] = True  # equally deep everywhere; 3 to 29, the middle is 16
    assert first_click(truth, spacing=SPACING).ijk == (4, 4, 16)


def test_next_click_goes_to_the_larger_error_and_says_of_which_kind():
    truth = np.zeros((30, 30, 30), bool)
    truth[5:12, 5:12, 5:12] = True
    mask = truth.copy()
    mask[5:12, 5:12, 9:12] = False  # 147 voxels missed
    mask[20:25, 20:25, 20:25] = True  # 125 voxels of false alarm
    assert next_click(truth, mask, spacing=SPACING) == Click((8, 8, 10), foreground=True)
    mask[20:26, 20:25, 20:25] = True  # now 150
    click = next_click(truth, mask, spacing=SPACING)
    assert not click.foreground and click.ijk in {(22, 22, 22), (23, 22, 22)}


def test_errors_that_touch_by_a_corner_are_one_region():
    truth = np.zeros((20, 20, 20), bool)
    truth[2:5, 2:5, 2:5] = True  # 27 voxels
    truth[5:8, 5:8, 5:8] = True  # 27, touching by a corner: together 54
    truth[12:15, 12:15, 12:17] = True  # 45
    click = next_click(truth, np.zeros_like(truth), spacing=(1.0, 1.0, 1.0))
    assert max(click.ijk) < 8


def test_miss_and_false_alarm_side_by_side_are_two_regions():
    truth = np.zeros((20, 10, 10), bool)
    truth[2:6] = True  # missed: 400 voxels
    mask = np.zeros_like(truth)
    mask[6:9] = True  # false: 300 voxels, touching; as one region its centre would lie at i = 5
    click = next_click(truth, mask, spacing=(1.0, 1.0, 1.0))
    assert click.foreground and click.ijk[0] in (3, 4)


@pytest.mark.parametrize("strategy", ["largest_error", "random_error"])
def test_every_click_lies_in_the_error_and_has_its_sign(strategy):
    rng = np.random.default_rng(0)
    for seed in range(20):
        truth, mask = blob(seed), blob(seed + 100)
        click = next_click(truth, mask, strategy, spacing=SPACING, rng=rng)
        assert truth[click.ijk] != mask[click.ijk]
        assert click.foreground == truth[click.ijk]
        assert all(type(index) is int for index in click.ijk)


def test_mask_equal_to_truth_needs_no_click():
    assert next_click(blob(1), blob(1), spacing=SPACING) is None


def test_all_of_an_empty_target_is_false_alarm():
    mask = blob(3)
    click = next_click(np.zeros_like(mask), mask, spacing=SPACING)
    assert mask[click.ijk] and not click.foreground


def test_random_clicks_repeat_with_the_seed_and_reach_all_of_the_target():
    truth = np.zeros((6, 6, 6), bool)
    truth[1:3, 2:4, 3:5] = True

    def clicks(seed):
        rng = np.random.default_rng(seed)
        return [first_click(truth, "random", spacing=SPACING, rng=rng).ijk for _ in range(100)]

    assert clicks(1) == clicks(1) != clicks(2)
    assert set(clicks(1)) == {tuple(ijk) for ijk in np.argwhere(truth).tolist()}


def test_empty_truth_and_strangers_are_refused_each_by_its_own_message():
    truth = blob(0)
    with pytest.raises(ClickError, match="truth of shape .* is empty"):
        first_click(np.zeros_like(truth), spacing=SPACING)
    with pytest.raises(ClickError, match="unknown click strategy 'deep'.*deepest, random"):
        first_click(truth, "deep", spacing=SPACING)
    with pytest.raises(ClickError, match=r"needs a random generator: rng="):
        first_click(truth, "random", spacing=SPACING)
    with pytest.raises(GeometryError, match="uint8 array.*organs == 1"):
        first_click(truth.astype(np.uint8), spacing=SPACING)
    with pytest.raises(GeometryError, match="same grid"):
        next_click(truth, truth[1:], spacing=SPACING)
    for spacing in ((1.0, 2.0), (1.0, 0.0, 2.0), (1.0, np.nan, 2.0)):
        with pytest.raises(GeometryError, match="three positive voxel sizes"):
            first_click(truth, spacing=spacing)


def test_bounding_box_is_tight():
    mask = np.zeros((7, 8, 9), bool)
    assert bounding_box(mask) is None
    mask[2, 3, 8] = mask[5, 1, 4] = True
    assert bounding_box(mask) == (slice(2, 6), slice(1, 4), slice(4, 9))


def test_clicks_on_an_organ_of_a_whole_body_scan_are_fast():
    i, j, k = np.ogrid[:256, :256, :326]
    truth = ((i - 120) / 22) ** 2 + ((j - 130) / 25) ** 2 + ((k - 200) / 27) ** 2 <= 1
    mask = np.roll(truth, (3, -2, 4), (0, 1, 2))
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        first_click(truth, spacing=SPACING)
        next_click(truth, mask, spacing=SPACING)
        seconds.append(time.perf_counter() - start)
    # 0.04 s for both on one core of 2026; ten times that would mean work outside the bounding box.
    assert min(seconds) < 0.4


# ---- slice by slice

@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_click_in_each_slice_with_target_and_at_its_deepest_pixel(axis):
    truth = blob(2)
    clicks = first_clicks_by_slice(truth, axis, SPACING)
    held = np.flatnonzero(truth.any(axis=tuple({0, 1, 2} - {axis})))
    assert [click.ijk[axis] for click in clicks] == held.tolist() and all(click.foreground for click in clicks)
    for click in clicks:
        # A slice as a volume: a distance beyond it in the third direction is never the nearest.
        alone = np.take(truth, [click.ijk[axis]], axis)
        far = tuple(1e6 if other == axis else size for other, size in enumerate(SPACING))
        depth = brute_depth_mm(alone, far)
        place = tuple(0 if other == axis else index for other, index in enumerate(click.ijk))
        assert depth[place] == pytest.approx(depth.max())


def test_later_clicks_go_to_each_slices_largest_error_and_leave_right_slices_and_others_alone():
    truth, mask = np.zeros((30, 30, 6), bool), np.zeros((30, 30, 6), bool)
    truth[5:12, 5:12, 1:5] = True
    mask[5:12, 5:12, 1:4] = True  # slice 1 is right, slice 4 all missed
    mask[5:12, 9:12, 2] = False  # slice 2 misses 21 pixels, and adds 16 elsewhere
    mask[20:24, 20:24, 2] = True
    mask[20:25, 20:25, 3] = True  # slice 3 adds 25
    mask[20:25, 20:25, 5] = True  # slice 5 holds no target
    miss, alarm, all_missed = next_clicks_by_slice(truth, mask, 2, SPACING)
    assert miss == Click((8, 10, 2), True) and alarm == Click((22, 22, 3), False)
    assert all_missed == Click((8, 8, 4), True)
    assert next_clicks_by_slice(truth, truth, 2, SPACING) == []
    assert next_clicks_by_slice(np.zeros_like(truth), np.zeros_like(truth), 2, SPACING) == []


def test_random_clicks_by_slice_lie_in_the_error_of_their_slice():
    truth, mask, rng = blob(1), blob(4), np.random.default_rng(0)
    for click in first_clicks_by_slice(truth, 1, SPACING, "random", rng=rng):
        assert truth[click.ijk]
    for click in next_clicks_by_slice(truth, mask, 1, SPACING, "random_error", rng=rng):
        assert truth[click.ijk] != mask[click.ijk] and click.foreground == truth[click.ijk]


def test_slices_that_cannot_be_clicked_are_refused():
    truth = blob(0)
    with pytest.raises(ClickError, match="axis_of_array=3"):
        first_clicks_by_slice(truth, 3, SPACING)
    with pytest.raises(ClickError, match="is empty"):
        first_clicks_by_slice(np.zeros_like(truth), 2, SPACING)
    with pytest.raises(GeometryError, match="same grid"):
        next_clicks_by_slice(truth, truth[1:], 2, SPACING)


def test_five_rounds_on_two_hundred_slices_are_fast():
    i, j, k = np.ogrid[:256, :256, :326]
    truth = ((i - 120) / 30) ** 2 + ((j - 130) / 25) ** 2 + ((k - 160) / 100) ** 2 <= 1
    mask = np.roll(truth, (3, -2, 0), (0, 1, 2))
    start = time.perf_counter()
    assert len(first_clicks_by_slice(truth, 2, SPACING)) > 195
    for _ in range(4):
        next_clicks_by_slice(truth, mask, 2, SPACING)
    # 0.8 s on one core of 2026.
    assert time.perf_counter() - start < 6
