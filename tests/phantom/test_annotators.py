"""Annotators who err: each in its own way, by millimetres of the patient, to the DSC that was asked for."""

import time
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from seganypet.errors import SegAnyPETError
from seganypet.metrics import dice
from seganypet.organs import ORGANS, SEEN_ORGANS
from seganypet.pet.volume import Volume
from seganypet.phantom import make_phantom
from seganypet.phantom.annotators import ANNOTATORS, MAX_SEVERITY, _region, annotate, low_quality_labels

RIGHT_LOBES = [name for name in ORGANS if "lobe_right" in name]


@pytest.fixture(scope="module")
def cases():
    """Four patients: three women and a man, grids flipped along x or y, with and without lesions."""
    return [make_phantom(seed) for seed in (1, 2, 3, 7)]


@pytest.fixture(scope="module")
def man(cases):
    (case,) = [case for case in cases if case.sex == "M"]
    return case


@pytest.fixture(scope="module")
def woman(cases):
    return cases[0]


def truth_of(case, organ):
    return case.organs == 1 + ORGANS.index(organ)


def drawn(case, organ, annotator, severity, seed=0):
    return annotate(case, organ, annotator, severity, np.random.default_rng(seed))


def turned(array):
    """The same patient in another grid: slices first, from the head down."""
    return np.ascontiguousarray(array.transpose(2, 0, 1)[::-1])


def turned_case(case):
    new_from_old = np.array([[0, 0, -1, case.pet.shape[2] - 1], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
    pet = Volume(turned(case.pet.data), case.pet.affine @ np.linalg.inv(new_from_old), "SUVbw")
    return replace(case, pet=pet, organs=turned(case.organs))


# ---- one annotator


@pytest.mark.parametrize("annotator", ANNOTATORS)
def test_severity_zero_is_the_truth(man, annotator):
    for organ in ("kidney_left", "prostate", "lung_middle_lobe_right"):
        assert np.array_equal(drawn(man, organ, annotator, 0.0), truth_of(man, organ))


@pytest.mark.parametrize("annotator", [name for name in ANNOTATORS if name != "missing_organ"])
def test_more_severity_lower_dsc(cases, annotator):
    organs = ("lung_lower_lobe_left", "lung_middle_lobe_right") if annotator == "fissures" else ("kidney_left", "heart")
    mean_dsc = [
        np.mean([dice(drawn(case, organ, annotator, severity), truth_of(case, organ))
                 for case in cases for organ in organs])
        for severity in (0.0, 0.5, 1.0, 2.0, 4.0)
    ]  # fmt: skip
    assert mean_dsc[0] == 1.0
    assert np.all(np.diff(mean_dsc) < 0)


def test_same_chance_gives_the_same_mask_and_leaves_the_case_alone(man):
    before = man.organs.copy()
    for annotator in ANNOTATORS:
        mask = drawn(man, "lung_upper_lobe_right", annotator, 1.0)
        assert mask.dtype == bool and mask.shape == man.pet.shape
        assert np.array_equal(mask, drawn(man, "lung_upper_lobe_right", annotator, 1.0))
    assert np.array_equal(man.organs, before)


def test_a_shift_moves_along_the_patients_z_by_the_stated_mm(man):
    for case in (man, turned_case(man)):
        truth = truth_of(case, "kidney_right")
        truth_mm = case.pet.to_mm(ndimage.center_of_mass(truth))
        moves_mm = []
        for seed in range(20):
            mask = drawn(case, "kidney_right", "z_shift", 9 / 8, seed)  # 8 mm per severity: three slices of 3 mm
            moves_mm.append(case.pet.to_mm(ndimage.center_of_mass(mask)) - truth_mm)
            assert mask.sum() == truth.sum()
        assert np.allclose(np.abs(moves_mm), (0, 0, 9), atol=1e-6)
        assert 14 <= np.sum(np.array(moves_mm)[:, 2] < 0) <= 19  # most to the feet, some to the head


def test_missed_slices_are_whole_axial_slices(woman):
    truth = truth_of(woman, "liver")
    mask = drawn(woman, "liver", "missed_slices", 2.0)
    slices = truth.any((0, 1))
    missed = slices & ~mask.any((0, 1))
    kept = ~missed
    assert np.array_equal(mask[..., kept], truth[..., kept])
    assert missed.sum() == round(0.15 * 2.0 * slices.sum())
    ends = np.flatnonzero(slices)[[0, -1]]
    left = np.flatnonzero(mask.any((0, 1)))[[0, -1]]
    assert ends[1] - left[1] > left[0] - ends[0] > 0  # k grows towards the head, where more is missed


def test_missed_slices_are_the_same_in_a_turned_grid(woman):
    mask = drawn(woman, "spleen", "missed_slices", 2.0)
    assert np.array_equal(drawn(turned_case(woman), "spleen", "missed_slices", 2.0), turned(mask))


def test_threshold41_contour_follows_the_pet(cases):
    for case in cases:
        truth = truth_of(case, "kidney_left")
        mask = drawn(case, "kidney_left", "threshold41", 1.0)
        hot = case.pet.data >= 0.41 * case.pet.data[truth].max()
        lost, gained = truth & ~mask, mask & ~truth
        assert lost.any() and not hot[lost].any()
        assert hot[gained].all()
        off_mm = ndimage.distance_transform_edt(~truth, sampling=case.pet.spacing)
        assert off_mm[gained].max(initial=0) < 5 * 1.5 + 2


def test_threshold41_leaves_of_a_kidney_little_but_its_pelvis(woman):
    truth = truth_of(woman, "kidney_left")
    hot = truth & (woman.pet.data >= 0.41 * woman.pet.data[truth].max())
    mask = drawn(woman, "kidney_left", "threshold41", MAX_SEVERITY)
    assert mask[hot].all()
    assert hot.sum() <= mask.sum() < 0.15 * truth.sum()


def test_a_leak_grows_only_into_uptake_at_least_as_hot_as_nine_tenths_of_the_organ(cases):
    grown = 0
    for case in cases:
        for organ in ("kidney_right", "heart", "lung_middle_lobe_right"):
            truth = truth_of(case, organ)
            mask = drawn(case, organ, "leak", 1.5)
            leaked = mask & ~truth
            assert mask[truth].all()
            box = _region(case, organ).box  # nothing beyond it is seen, nor smoothed into it
            smooth = ndimage.gaussian_filter(case.pet.data[box], 4 / np.array(case.pet.spacing))
            assert smooth[leaked[box]].min(initial=np.inf) >= 0.9 * np.median(case.pet.data[truth])
            grown += leaked.sum() == round(0.3 * truth.sum())
    assert grown >= 8  # the rest has no neighbour as hot of that size


def test_a_leak_touches_its_organ(man):
    truth = truth_of(man, "kidney_right")
    leaked = drawn(man, "kidney_right", "leak", 2.0) & ~truth
    assert leaked.any() and (ndimage.binary_dilation(truth) & leaked).any()


def test_fissures_move_only_lobe_borders(woman):
    lobes = {organ: drawn(woman, organ, "fissures", 1.5, seed=4) for organ in RIGHT_LOBES}
    truths = {organ: truth_of(woman, organ) for organ in RIGHT_LOBES}
    assert np.array_equal(sum(mask.astype(int) for mask in lobes.values()), sum(t.astype(int) for t in truths.values()))
    assert all(dice(lobes[organ], truths[organ]) < 0.97 for organ in RIGHT_LOBES)
    for organ in ("liver", "spleen", "aorta"):
        assert np.array_equal(drawn(woman, organ, "fissures", 3.0), truth_of(woman, organ))


def test_a_boundary_is_drawn_too_large_and_wanders_both_ways(cases):
    growth = []
    for case in cases:
        truth = truth_of(case, "spleen")
        mask = drawn(case, "spleen", "boundary", 1.0)
        growth.append(mask.sum() / truth.sum())
        assert (truth & ~mask).any() and (mask & ~truth).any()
    assert 1.0 < np.mean(growth) < 1.5


def test_fields_fall_to_1_over_e_at_the_stated_mm_along_every_axis(woman):
    region = _region(woman, "liver")
    rng = np.random.default_rng(0)
    fields = np.array([region.field(rng, 15.0) for _ in range(8)])
    assert fields.mean() == pytest.approx(0, abs=0.1) and fields.var() == pytest.approx(1, abs=0.1)
    for axis, (size, lag) in enumerate(zip(region.spacing, (3, 3, 5), strict=True), start=1):
        ahead, behind = np.moveaxis(fields, axis, 0)[lag:], np.moveaxis(fields, axis, 0)[:-lag]
        assert np.mean(ahead * behind) / fields.var() == pytest.approx(np.exp(-((lag * size / 15) ** 2)), abs=0.06)


def test_a_missing_organ_is_missing_from_severity_1_on(woman):
    assert np.array_equal(drawn(woman, "liver", "missing_organ", 0.99), truth_of(woman, "liver"))
    assert not drawn(woman, "liver", "missing_organ", 1.0).any()


# ---- label maps


@pytest.mark.parametrize("target", [0.65, 0.75, 0.9])
def test_low_quality_labels_reach_the_asked_dsc(cases, target):
    made = [low_quality_labels(case, target, seed, SEEN_ORGANS, missing_rate=0) for case in cases for seed in range(2)]
    dsc = [entry.dsc for labels in made for entry in labels.report]
    assert len(dsc) == 4 * 2 * 5
    assert np.mean(dsc) == pytest.approx(target, abs=0.02)
    assert 0.02 < np.std(dsc) < 0.06
    assert all(abs(labels.mean_dsc - target) < 0.06 for labels in made)


def test_one_annotator_errs_one_way(cases):
    made = [(case, low_quality_labels(case, 0.7, 1, SEEN_ORGANS, 0, annotators=("boundary",))) for case in cases]
    assert {entry.annotators for _, labels in made for entry in labels.report} == {("boundary",)}
    larger = [np.sum(labels.labels == n) / np.sum(case.organs == n) for case, labels in made for n in range(1, 6)]
    assert np.mean(larger) > 1.2 and np.mean(np.array(larger) > 1) > 0.85


def test_all_twelve_organs_reach_the_asked_dsc_around_each_other(man):
    made = low_quality_labels(man, 0.7, missing_rate=0)
    assert [entry.organ for entry in made.report] == list(ORGANS)
    assert made.mean_dsc == pytest.approx(0.7, abs=0.03)


def test_the_report_says_what_the_labels_are(man):
    made = low_quality_labels(man, 0.75, seed=1, missing_rate=0.1)
    assert made.labels.dtype == np.uint8 and made.labels.shape == man.pet.shape
    for entry in made.report:
        label = 1 + ORGANS.index(entry.organ)
        assert entry.dsc == dice(made.labels == label, man.organs == label)
        assert len(entry.annotators) == len(entry.severity) >= 1
        assert all(0 < severity <= MAX_SEVERITY for severity in entry.severity)
    assert made.mean_dsc == pytest.approx(np.mean([entry.dsc for entry in made.report]))


def test_missing_organs_come_at_their_rate_and_are_made_up_for(cases):
    report = [
        entry
        for case in cases
        for seed in range(10)
        for entry in low_quality_labels(case, 0.7, seed, ("kidney_left", "spleen"), missing_rate=0.2).report
    ]
    missing = [entry.annotators == ("missing_organ",) for entry in report]
    assert np.mean(missing) == pytest.approx(0.2, abs=0.09)  # 80 organs: two standard errors
    assert all((entry.dsc == 0) == gone for entry, gone in zip(report, missing, strict=True))
    assert np.mean([entry.dsc for entry in report if entry.dsc]) == pytest.approx(0.7 / 0.8, abs=0.02)


def test_every_annotator_takes_part_and_seldom_more_than_two_per_organ(cases):
    report = [entry for case in cases for entry in low_quality_labels(case, 0.75, missing_rate=0.1).report]
    names = [entry.annotators for entry in report]
    assert {name for group in names for name in group} == set(ANNOTATORS)
    assert np.mean([len(group) <= 2 for group in names]) > 0.9
    for entry in report:
        assert "fissures" not in entry.annotators or "lobe" in entry.organ


def test_same_seed_same_bits(cases):
    once, again, other = (low_quality_labels(cases[1], 0.8, seed, SEEN_ORGANS) for seed in (3, 3, 4))
    assert np.array_equal(once.labels, again.labels) and once.report == again.report
    assert not np.array_equal(once.labels, other.labels)
    elsewhere = low_quality_labels(cases[2], 0.8, 3, SEEN_ORGANS)
    assert [entry.annotators for entry in elsewhere.report] != [entry.annotators for entry in once.report]


def test_an_organs_draws_do_not_depend_on_the_other_organs(man):
    asked = ("kidney_left", "kidney_right", "liver", "spleen")
    together = low_quality_labels(man, 0.75, 2, asked)
    sizes = {organ: truth_of(man, organ).sum() for organ in asked}
    smallest = min(sizes, key=sizes.get)
    for entry in together.report:
        alone = low_quality_labels(man, 0.75, 2, (entry.organ,))
        assert alone.report[0].annotators[0] == entry.annotators[0]
        if entry.organ == smallest:  # which wins every overlap
            label = 1 + ORGANS.index(smallest)
            assert np.array_equal(alone.labels == label, together.labels == label)


def test_only_the_organs_asked_for_are_drawn_and_absent_ones_are_skipped(woman):
    made = low_quality_labels(woman, 0.75, organs=("prostate", "spleen"), missing_rate=0)
    assert [entry.organ for entry in made.report] == ["spleen"]
    assert set(np.unique(made.labels)) == {0, 1 + ORGANS.index("spleen")}
    assert np.isnan(low_quality_labels(woman, 0.75, organs=("prostate",)).mean_dsc)


def test_label_maps_take_seconds(woman):
    for organs, seconds in ((SEEN_ORGANS, 2), (ORGANS, 5)):
        start = time.process_time()
        low_quality_labels(woman, 0.75, organs=organs)
        assert time.process_time() - start < seconds


# ---- bad input


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("liver", "tired", 1.0), "unknown annotator 'tired'.*boundary, threshold41"),
        (("pancreas", "leak", 1.0), "unknown organ 'pancreas'.*liver, kidney_left"),
        (("prostate", "leak", 1.0), "no prostate to annotate; it has liver"),
        (("liver", "leak", -0.5), "severity=-0.5"),
        (("liver", "leak", float("nan")), "severity=nan"),
        (("liver", "leak", 5.5), "severity=5.5"),
    ],
)
def test_annotate_refuses_by_name(woman, arguments, says):
    with pytest.raises(SegAnyPETError, match=says):
        annotate(woman, *arguments, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"target_dsc": 0.5}, "target_dsc=0.5"),
        ({"target_dsc": 0.95}, "target_dsc=0.95"),
        ({"target_dsc": float("nan")}, "target_dsc=nan"),
        ({"organs": ("liver", "pancreas")}, "unknown organ 'pancreas'"),
        ({"annotators": ("boundary", "nobody")}, "unknown annotator 'nobody'"),
        ({"seed": -1}, "seed=-1"),
        ({"missing_rate": -0.1}, "missing_rate=-0.1"),
        ({"target_dsc": 0.9, "missing_rate": 0.1}, "missing_rate=0.1; expected 0 to 0.08"),
    ],
)
def test_low_quality_labels_refuses_by_name(woman, arguments, says):
    with pytest.raises(SegAnyPETError, match=says):
        low_quality_labels(woman, **arguments)
