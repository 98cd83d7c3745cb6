from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import KDTree

from seganypet import comparison
from seganypet.comparison import Surface, Target
from seganypet.errors import GeometryError, SegAnyPETError
from seganypet.metrics import (
    auc,
    bootstrap_interval,
    dice,
    dmm,
    fnv_ml,
    fpv_ml,
    lesion_f1,
    noc,
    scores_of,
    surface_dice,
)
from seganypet.regions import nearest_mm

SPACING = (4.0, 2.0, 3.0)


def box(shape, *bounds) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*part) for part in bounds)] = True
    return mask


def test_dice_of_two_shifted_boxes():
    truth = box((12, 12, 12), (2, 6), (2, 6), (2, 6))  # 64 voxels
    mask = box((12, 12, 12), (3, 7), (2, 6), (2, 8))  # 96 voxels, 3 x 4 x 4 = 48 shared
    assert dice(mask, truth) == pytest.approx(2 * 48 / (64 + 96))


def test_dice_is_undefined_for_an_empty_target_and_zero_for_an_empty_mask():
    some, none = box((4, 4, 4), (1, 2), (1, 3), (0, 4)), np.zeros((4, 4, 4), bool)
    assert np.isnan(dice(some, none)) and np.isnan(dice(none, none))
    assert dice(none, some) == 0.0


def test_nsd_of_two_parallel_plates_on_an_anisotropic_grid():
    # Plates one voxel thick in i (4 mm): all their voxels are surface. Two voxels apart = 8 mm.
    truth, mask = box((12, 9, 9), (2, 3), (2, 7), (2, 7)), box((12, 9, 9), (4, 5), (2, 7), (2, 7))
    assert surface_dice(mask, truth, SPACING) == 0.0  # default tolerance: 4 mm
    assert surface_dice(mask, truth, SPACING, tolerance_mm=7.9) == 0.0
    assert surface_dice(mask, truth, SPACING, tolerance_mm=8.0) == 1.0
    # The same shift along j is 4 mm and lies within the default tolerance; along j every voxel has a partner then.
    truth, mask = box((9, 12, 9), (2, 7), (2, 3), (2, 7)), box((9, 12, 9), (2, 7), (4, 5), (2, 7))
    assert surface_dice(mask, truth, SPACING) == 1.0


def test_nsd_counts_a_far_false_alarm_as_disagreeing_surface():
    truth = box((30, 12, 12), (2, 5), (2, 5), (2, 5))  # 27 voxels, one of them inside: 26 of surface
    mask = truth | box((30, 12, 12), (20, 21), (2, 4), (2, 5))  # 6 more voxels of surface, 60 mm away
    assert surface_dice(mask, truth, SPACING) == pytest.approx((26 + 26) / (26 + 26 + 6))


def test_nsd_of_empty_masks():
    some, none = box((4, 4, 4), (1, 2), (1, 3), (0, 4)), np.zeros((4, 4, 4), bool)
    assert np.isnan(surface_dice(some, none, SPACING)) and np.isnan(surface_dice(none, none, SPACING))
    assert surface_dice(none, some, SPACING) == 0.0


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # of MONAI, about itself
@pytest.mark.parametrize("seed", range(6))
def test_nsd_is_that_of_monai(seed):
    import torch
    from monai.metrics import compute_surface_dice
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    masks = [ndimage.gaussian_filter(rng.standard_normal((21, 26, 17)), 2) > 0 for _ in range(2)]
    if seed % 2:  # a small target, mask all over: what lies far from the truth is not searched
        masks[1] = ndimage.binary_dilation(box(masks[1].shape, (4, 10), (15, 20), (3, 9)) & masks[1])
    assert masks[1].any()
    mask, truth = (torch.from_numpy(mask)[None, None] for mask in masks)
    for tolerance_mm in (4.0, 2.5):
        theirs = compute_surface_dice(mask, truth, [tolerance_mm], include_background=True, spacing=SPACING)
        assert surface_dice(*masks, SPACING, tolerance_mm) == pytest.approx(float(theirs), abs=1e-6)


def test_masks_must_be_bool_and_share_a_grid():
    truth = box((4, 4, 4), (1, 2), (1, 3), (0, 4))
    with pytest.raises(GeometryError, match="same grid"):
        dice(truth[1:], truth)
    with pytest.raises(GeometryError, match="mask is float64.*expected bool"):
        surface_dice(truth.astype(float), truth, SPACING)
    with pytest.raises(GeometryError, match="mask is uint8.*expected bool"):
        lesion_f1(truth.astype(np.uint8), truth)


def test_noc_is_the_first_click_that_reaches_the_threshold():
    assert noc([0.2, 0.85, 0.4, 0.99]) == (2, False)
    assert noc([0.5] * 20) == (20, True)
    assert noc([0.5] * 20 + [0.9]) == (20, True)  # after the cap: too late
    assert noc([0.5, 0.7], threshold=0.8, cap=2) == (2, True)
    assert np.isnan(noc([np.nan] * 20).clicks)


def test_noc_refuses_to_guess_what_later_clicks_would_have_done():
    with pytest.raises(SegAnyPETError, match=r"not reached in 5 clicks.*clicks=20"):
        noc([0.5] * 5)


def test_auc_by_hand():
    # Steps 0 to 4: trapezoids (0 + .5)/2 + (.5 + .7)/2 + (.7 + .7)/2 + (.7 + .9)/2 = .25 + .6 + .7 + .8 = 2.35 of 4.
    area = auc([0.0, 0.5, 0.7, 0.7, 0.9])
    assert area.raw == pytest.approx(2.35) and area.relative == pytest.approx(2.35 / 4)
    assert auc([1.0] * 11) == (10.0, 1.0)  # autoPET IV: 11 steps
    with pytest.raises(SegAnyPETError, match="DSC after 1 steps; expected at least two"):
        auc([0.5])


def test_bootstrap_counts_each_patient_once_however_many_lesions():
    values, patients = [0.0] * 9 + [1.0], ["a"] * 9 + ["b"]
    interval = bootstrap_interval(values, patients)
    assert interval.mean == 0.5  # not 0.1
    assert (interval.low, interval.high) == (0.0, 1.0)  # draws of two patients: 0, 1/2, 1/2, 1


def test_bootstrap_interval_is_that_of_the_normal_distribution_for_many_patients():
    values = np.random.default_rng(5).normal(0.7, 0.1, 400)
    mean, low, high = bootstrap_interval(values, np.arange(400), seed=1)
    expected = 1.96 * values.std() / 20
    assert mean - low == pytest.approx(expected, rel=0.08) and high - mean == pytest.approx(expected, rel=0.08)
    assert bootstrap_interval(values, np.arange(400), seed=1) == (mean, low, high)


def test_bootstrap_leaves_undefined_values_out():
    assert bootstrap_interval([0.2, np.nan, 0.4, np.nan], list("abcc")).mean == pytest.approx(0.3)
    assert all(np.isnan(bootstrap_interval([np.nan], ["a"])))
    one = bootstrap_interval([0.2, 0.6], ["a", "a"])
    assert one.mean == pytest.approx(0.4) and np.isnan(one.low) and np.isnan(one.high)
    with pytest.raises(SegAnyPETError, match="one patient per value"):
        bootstrap_interval([0.2], ["a", "b"])


def lesions() -> tuple[np.ndarray, np.ndarray]:
    """Truth: A (8 voxels), B (12), C (1). Mask: touches A by one voxel (of 2), covers C, and has a false alarm of 6."""
    shape = (24, 12, 12)
    a, b = box(shape, (1, 3), (1, 3), (1, 3)), box(shape, (8, 10), (1, 4), (1, 3))
    c = box(shape, (14, 15), (1, 2), (1, 2))
    mask = box(shape, (2, 4), (2, 3), (2, 3)) | c | box(shape, (18, 20), (5, 8), (5, 6))
    return mask, a | b | c


def test_false_volumes_count_whole_components_that_touch_nothing():
    mask, truth = lesions()
    voxel_volume_ml = 4.0 * 2.0 * 3.0 / 1000
    assert fpv_ml(mask, truth, voxel_volume_ml) == pytest.approx(6 * 0.024)
    assert fnv_ml(mask, truth, voxel_volume_ml) == pytest.approx(12 * 0.024)
    none = np.zeros_like(truth)
    assert fpv_ml(mask, none, voxel_volume_ml) == pytest.approx((2 + 1 + 6) * 0.024)
    assert fnv_ml(mask, none, voxel_volume_ml) == 0.0
    assert fnv_ml(none, truth, voxel_volume_ml) == pytest.approx(21 * 0.024)


def test_scoring_components_join_over_edges_but_not_over_corners():
    truth = np.zeros((6, 6, 6), bool)
    truth[1, 1, 1] = truth[2, 2, 1] = True  # share an edge: one lesion; touching one voxel finds both
    mask = np.zeros_like(truth)
    mask[1, 1, 1] = True
    assert fnv_ml(mask, truth, 1.0) == 0.0
    truth[2, 2, 1], truth[2, 2, 2] = False, True  # share a corner only: two lesions
    assert fnv_ml(mask, truth, 1.0) == 1.0


def test_lesion_f1_by_hand():
    mask, truth = lesions()
    # IoU of A: 1 / (8 + 2 - 1) = 0.111 -> found; C: 1 -> found; B missed; one false alarm. 2 x 2 / (3 + 3).
    assert lesion_f1(mask, truth) == pytest.approx(4 / 6)
    mask |= box(mask.shape, (4, 6), (2, 3), (2, 3))
    assert lesion_f1(mask, truth) == pytest.approx(2 / 6)  # IoU of A: 1 / (8 + 4 - 1) = 0.09 -> missed


def test_one_blob_over_two_lesions_finds_one_of_them():
    truth = box((12, 4, 4), (1, 4), (1, 3), (1, 3)) | box((12, 4, 4), (6, 9), (1, 3), (1, 3))  # 12 + 12 voxels
    mask = box((12, 4, 4), (1, 9), (1, 3), (1, 3))  # 32 voxels: IoU 12 / 32 with either
    assert lesion_f1(mask, truth) == pytest.approx(2 * 1 / (1 + 2))


def test_lesion_f1_of_empty_masks():
    some, none = box((4, 4, 4), (1, 2), (1, 3), (0, 4)), np.zeros((4, 4, 4), bool)
    assert np.isnan(lesion_f1(none, none))
    assert lesion_f1(some, none) == 0.0 and lesion_f1(none, some) == 0.0


# ---- autoPET V's detection, and distances of surfaces

def on_a_line(*parts: tuple[int, int]) -> np.ndarray:
    line = np.zeros((24, 1, 1), bool)
    for start, end in parts:
        line[start:end] = True
    return line


@pytest.mark.parametrize(("truth", "mask", "expected"), [
    ([(0, 10)], [(0, 4), (6, 10)], (1.0, 1, 0, 0)),
    ([(0, 4), (5, 7), (12, 13)], [(0, 8), (15, 17)], (2 / 3, 2, 1, 1)),
    ([(0, 10)], [(9, 20)], (0.0, 0, 1, 1)),
    ([(0, 10)], [(0, 1)], (1.0, 1, 0, 0)),  # an IoU of just 0.1
    ([], [(3, 6)], (float("nan"), 0, 1, 0)),
    ([], [], (float("nan"), 0, 0, 0)),
])  # fmt: skip
def test_dmm_lets_one_finding_match_many_lesions(truth, mask, expected):
    np.testing.assert_equal(dmm(on_a_line(*mask), on_a_line(*truth)), expected)


@pytest.mark.parametrize("spacing", [(4.07, 4.07, 3.0), (2.04, 2.04, 5.0)])
def test_surface_distances_are_those_of_monai(spacing):
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

    rng = np.random.default_rng(3)
    smooth = ndimage.gaussian_filter(rng.standard_normal((3, 20, 18, 16)), (0, 2, 2, 2))
    truth, *masks = smooth > 0.03
    for mask in masks:
        one_hot = [torch.from_numpy(one)[None, None] for one in (mask, truth)]
        options = {"include_background": True, "spacing": spacing}
        scores = scores_of(mask, Target(truth, spacing))
        hd95 = compute_hausdorff_distance(*one_hot, percentile=95, **options)
        assd = compute_average_surface_distance(*one_hot, symmetric=True, **options)
        nsd = compute_surface_dice(*one_hot, class_thresholds=[max(spacing)], **options)
        assert scores["hd95_mm"] == pytest.approx(hd95.item(), rel=1e-5)
        assert scores["assd_mm"] == pytest.approx(assd.item(), rel=1e-5)
        assert scores["nsd"] == pytest.approx(nsd.item(), rel=1e-5)


def test_scores_of_leaks_are_exact(monkeypatch):
    """Their distant surfaces are measured by a distance transform, which the masks of a target share."""
    spacing, shape = (2.04, 4.07, 3.0), (90, 60, 70)
    rng = np.random.default_rng(5)
    truth = box(shape, (0, 2), (50, 60), (60, 70)) | box(shape, (4, 15), (40, 55), (52, 61))  # a plate on the border
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), 1)
    small, leak = noise > 0.15, noise > 0.0
    small[:30] = small[75:] = False
    calls = []
    monkeypatch.setattr("seganypet.comparison.nearest_mm", lambda *args: calls.append(args) or nearest_mm(*args))
    target = Target(truth, spacing)
    for mask in (small, leak, truth, small):
        ends = [
            np.argwhere(one & ~ndimage.binary_erosion(one, ndimage.generate_binary_structure(3, 1))) * spacing
            for one in (mask, truth)
        ]
        there, back = KDTree(ends[1]).query(ends[0])[0], KDTree(ends[0]).query(ends[1])[0]
        both = np.concatenate([there, back])
        scores = scores_of(mask, target)
        assert scores["nsd"] == np.mean(both <= 4.07 * (1 + 1e-9))
        assert scores["hd95_mm"] == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)), rel=1e-6)
        assert scores["assd_mm"] == pytest.approx(both.mean(), rel=1e-6)
    assert len(calls) == 2, "one for the small leak, one for all of both"


def test_near_distances_are_mapped_around_the_truth_alone(monkeypatch):
    """A mask is asked once for the distances of the truth: a map of its own would cost more than a search."""
    truth, *masks = ndimage.gaussian_filter(np.random.default_rng(1).standard_normal((4, 30, 28, 26)), (0, 1, 1, 1)) > 0
    target, mapped = Target(truth, (2.0, 3.0, 4.0)), []
    exact_mm = comparison.exact_mm
    monkeypatch.setattr(comparison, "exact_mm", lambda *args: mapped.append(args[0].sum()) or exact_mm(*args))
    for mask in masks:
        scores_of(mask, target)
    assert mapped == [len(target.surface.voxels)]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("voxels_per_query", [0, 1e9], ids=["tree", "transform"])
def test_distances_are_the_same_however_they_are_found(voxels_per_query, seed, monkeypatch):
    monkeypatch.setattr(comparison, "VOXELS_PER_NEAR_QUERY", voxels_per_query)
    rng = np.random.default_rng(seed)
    spacing, shape = tuple(rng.uniform(0.8, 5, 3).tolist()), rng.integers(8, 40, 3)
    truth, leak = (ndimage.gaussian_filter(rng.standard_normal(shape), 2) for _ in range(2))
    truth, leak = Surface(truth > np.quantile(truth, 0.97), spacing), Surface(leak > np.quantile(leak, 0.4), spacing)
    found = truth.distances_mm(leak.voxels)
    exact = KDTree(truth.voxels * spacing).query(leak.voxels * spacing)[0]
    np.testing.assert_allclose(found, exact, rtol=2e-6)
    near = exact < comparison.NEAR_MM
    np.testing.assert_allclose(found[near], exact[near], rtol=1e-12)


def test_distances_to_an_empty_mask_are_undefined_not_zero():
    some, none = on_a_line((3, 9)), on_a_line()
    for mask, truth in ((none, some), (some, none)):
        scores = scores_of(mask, Target(truth, (2.0, 3.0, 4.0)))
        assert np.isnan([scores["hd95_mm"], scores["assd_mm"]]).all()


def test_of_a_leak_a_tree_is_searched_for_the_near_voxels_alone(monkeypatch):
    truth, leak = np.zeros((2, 80, 70, 60), bool)
    truth[40:43, 30:33, 30:33], leak[:20] = True, True
    leak[38:41, 25:27, 28:30] = True
    spacing, asked = (3.0, 4.0, 5.0), []
    surface, voxels = Surface(truth, spacing), Surface(leak, spacing).voxels
    query = surface._tree.query
    tree = SimpleNamespace(query=lambda points, **options: (asked.append(len(points)), query(points, **options))[1])
    monkeypatch.setitem(vars(surface), "_tree", tree)
    found = surface._near_mm(voxels)
    np.testing.assert_array_equal(found, query(voxels * spacing, distance_upper_bound=30.0)[0])
    assert asked == [np.count_nonzero(np.isfinite(found))] == [12] and len(voxels) > 10_000
