"""PERCIST: references in livers and aortas of known uptake, on awkward grids; lesions above and below the threshold."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import oblique
from scipy.ndimage import binary_dilation
from scipy.spatial import cKDTree

from seganypet.errors import GeometryError, SUVError, UnitError, VolumeError
from seganypet.pet.percist import blood_pool_reference, liver_reference, measurable_lesions
from seganypet.pet.quantification import quantify, threshold_mask
from seganypet.pet.volume import Volume
from seganypet.phantom import make_phantom

PERSON = {"weight_kg": 80.0, "height_m": 1.60, "sex": "M"}
FACTOR = 9270 / (6680 + 216 * 31.25)  # Janmahasatian's lean mass / weight
SHAPE = (60, 50, 62)
SPACING = (4.07, 4.07, 3.0)
GRIDS = {"left-handed": oblique(SPACING, left_handed=True), "right-handed": oblique(SPACING)}


def _grid(affine=GRIDS["left-handed"], shape=SHAPE):
    """Volume of SUVbw 2, and the place of every voxel in mm from the middle of the grid, (I, J, K, 3)."""
    volume = Volume(np.full(shape, 2.0), affine, "SUVbw", "scan 4", PERSON)
    places = volume.to_mm(np.moveaxis(np.indices(shape), 0, -1))
    return volume, places - volume.to_mm((np.array(shape) - 1) / 2)


def _ball(places, centre, radius_mm):
    return np.linalg.norm(places - np.array(centre), axis=-1) <= radius_mm


def _with(volume, data):
    return replace(volume, data=data)


# ---- liver

def test_mean_sd_and_threshold_are_those_of_the_sphere_in_a_noisy_liver():
    volume, places = _grid()
    liver = np.linalg.norm(places / (90, 55, 50), axis=-1) <= 1
    rng = np.random.default_rng(8)
    volume = _with(volume, np.where(liver, rng.normal(2.0, 0.2, SHAPE), 9.0))
    reference = liver_reference(volume, liver)
    by_hand = np.linalg.norm(volume.to_mm(np.moveaxis(np.indices(SHAPE), 0, -1)) - reference.centre_mm, axis=-1) <= 15
    np.testing.assert_array_equal(reference.mask, by_hand)
    sul = volume.data[by_hand].astype(float) * FACTOR
    assert reference.mean == pytest.approx(sul.mean(), rel=1e-12)
    assert reference.sd == pytest.approx(np.sqrt(((sul - sul.mean()) ** 2).sum() / (sul.size - 1)), rel=1e-9)
    assert reference.threshold == pytest.approx(1.5 * reference.mean + 2 * reference.sd, rel=1e-12)
    # About 280 voxels: the standard error of the mean is 0.012, that of the SD 4 %.
    assert reference.mean == pytest.approx(2.0 * FACTOR, abs=0.04)
    assert reference.sd == pytest.approx(0.2 * FACTOR, rel=0.15)
    assert reference.rule.suvbw == pytest.approx(1.5 * 2.0 + 2 * 0.2, rel=0.04)
    assert (reference.tissue, reference.formula, reference.source) == ("liver", "janmahasatian", "scan 4")
    assert reference.warning == ""


@pytest.mark.parametrize(
    ("spacing", "shape"), [(SPACING, (20, 20, 24)), ((2.04, 2.04, 3.0), (34, 34, 24)), ((1.2, 2.5, 1.6), (40, 20, 40))]
)
def test_the_sphere_has_the_volume_of_3_cm_diameter(spacing, shape):
    volume, _ = _grid(oblique(spacing, left_handed=True), shape)
    reference = liver_reference(volume, np.ones(shape, bool), centre_ijk=[size // 2 for size in shape])
    volume_ml = reference.mask.sum() * np.prod(spacing) / 1000.0
    assert volume_ml == pytest.approx(4 / 3 * np.pi * 1.5**3, rel=0.02)


@pytest.mark.parametrize("grid", GRIDS)
def test_the_sphere_lies_in_the_right_lobe_however_x_runs(grid):
    """Of two balls the right one is taken, though the left one is larger and deeper."""
    volume, places = _grid(GRIDS[grid])
    left, right = _ball(places, (-40, 0, 0), 40), _ball(places, (55, 0, 0), 24)
    reference = liver_reference(volume, left | right)
    assert left.sum() > 2 * right.sum()
    assert right[reference.mask].all()
    from_middle = np.array(reference.centre_mm) - volume.to_mm((np.array(SHAPE) - 1) / 2)
    np.testing.assert_allclose(from_middle, (55, 0, 0), atol=4.1)  # the ball's centre, to a voxel


def test_a_table_says_that_nobody_drew_the_liver():
    volume, places = _grid()
    liver, lesion = np.linalg.norm(places / (90, 55, 50), axis=-1) <= 1, _ball(places, (0, 0, 0), 12)
    drawn, proposed = (liver_reference(volume, liver, drawn_by=by) for by in ("", "proposed by locator and tiny"))
    assert (drawn.mean, drawn.threshold) == (proposed.mean, proposed.threshold)
    texts = [measurable_lesions(volume, lesion, one)["definition"][0] for one in (drawn, proposed)]
    assert texts[1] == texts[0] + ", in an organ proposed by locator and tiny"


def test_the_sphere_keeps_off_lesions():
    volume, places = _grid()
    liver = np.linalg.norm(places / (90, 55, 50), axis=-1) <= 1
    usual = liver_reference(volume, liver)
    lesion = _ball(places, np.array(usual.centre_mm) - volume.to_mm((np.array(SHAPE) - 1) / 2), 6)
    reference = liver_reference(volume, liver, exclude=lesion)
    assert liver[reference.mask].all()
    assert not (binary_dilation(reference.mask, np.ones((3, 3, 3))) & lesion).any()  # not even as a neighbour
    assert np.linalg.norm(np.array(reference.centre_mm) - usual.centre_mm) > 15 + 6
    with pytest.raises(VolumeError, match="healthy liver"):
        liver_reference(volume, liver, exclude=lesion, centre_ijk=volume.to_ijk(usual.centre_mm))


def test_a_lesion_beside_the_sphere_is_too_near():
    volume, places = _grid()
    liver, centre = _ball(places, (0, 0, 0), 50), (30, 25, 31)
    sphere = liver_reference(volume, liver, centre_ijk=centre).mask
    once = binary_dilation(sphere, np.ones((3, 3, 3)))
    beside, apart = once & ~sphere, binary_dilation(once, np.ones((3, 3, 3))) & ~once
    np.testing.assert_array_equal(liver_reference(volume, liver, centre_ijk=centre, exclude=apart).mask, sphere)
    with pytest.raises(VolumeError, match="not entirely in healthy liver"):
        liver_reference(volume, liver, centre_ijk=centre, exclude=beside)


def test_the_deepest_place_is_deepest_in_millimetres():
    """Against the distances to every voxel outside, on voxels three times as long one way as another."""
    shape = (44, 18, 44)
    volume, places = _grid(oblique((2.0, 5.0, 1.6), left_handed=True), shape)
    liver = _ball(places, (8, -6, 2), 27) | _ball(places, (-14, 2, -4), 24)
    right = liver & (places[..., 0] > places[liver].mean(axis=0)[0])
    depth_mm, _ = cKDTree(places[~right]).query(places[right])
    reference = liver_reference(volume, liver)
    from_middle = np.array(reference.centre_mm) - volume.to_mm((np.array(shape) - 1) / 2)
    at_centre, _ = cKDTree(places[~right]).query(from_middle)
    assert at_centre == pytest.approx(depth_mm.max(), rel=1e-6)


def test_a_liver_cut_by_the_edge_of_the_scan_holds_a_whole_sphere_or_none():
    volume, _ = _grid(shape=(20, 20, 24))
    reference = liver_reference(volume, np.ones(volume.shape, bool))
    assert reference.mask.sum() * np.prod(SPACING) / 1000.0 == pytest.approx(14.1, rel=0.05)
    with pytest.raises(VolumeError, match="not entirely in healthy liver"):
        liver_reference(volume, np.ones(volume.shape, bool), centre_ijk=(1, 10, 12))


def test_a_liver_without_room_is_refused_with_the_ways_out():
    volume, places = _grid()
    with pytest.raises(VolumeError, match=r"scan 4: the 3 cm sphere at the deepest.*centre_ijk.*blood_pool_reference"):
        liver_reference(volume, _ball(places, (0, 0, 0), 14))
    liver = _ball(places, (0, 0, 0), 30)
    with pytest.raises(VolumeError, match="not entirely in healthy liver"):
        liver_reference(volume, liver, exclude=liver)


def test_a_given_centre_is_taken_and_doubted_on_the_left():
    volume, places = _grid()
    liver = np.linalg.norm(places / (90, 55, 50), axis=-1) <= 1
    for x_mm, doubt in ((40.0, False), (-40.0, True)):
        centre_mm = volume.to_mm((np.array(SHAPE) - 1) / 2) + (x_mm, 3.0, -5.0)
        reference = liver_reference(volume, liver, centre_ijk=volume.to_ijk(centre_mm))
        np.testing.assert_allclose(reference.centre_mm, centre_mm)
        assert ("right lobe?" in reference.warning) == doubt


@pytest.mark.parametrize(("suvbw", "doubt"), [(1.2, True), (1.4, False), (2.9, False), (3.1, True)])
def test_an_unusual_liver_is_measured_with_a_warning(suvbw, doubt):
    volume, places = _grid()
    reference = liver_reference(_with(volume, np.full(SHAPE, suvbw)), _ball(places, (0, 0, 0), 40))
    assert reference.mean == pytest.approx(suvbw * FACTOR, rel=1e-6)
    assert (f"mean SUVbw is {suvbw:.2f}" in reference.warning) == doubt


def test_the_formula_is_the_callers_choice():
    volume, places = _grid()
    reference = liver_reference(volume, _ball(places, (0, 0, 0), 40), formula="james")
    james = (1.10 * 80 - 128 * 0.25) / 80
    assert reference.mean == pytest.approx(2.0 * james, rel=1e-9)
    assert reference.rule.suvbw == pytest.approx(3.0, rel=1e-6)  # 1.5 x 2, whatever the lean mass
    assert "james" in reference.rule.meaning


# ---- blood pool

def _aorta(places, top_mm=80.0):
    """Ascending part in front and to the right, arch, descending part behind and to the left; and where each is.

    `places` are mm from the middle of the grid; the arch's inner curve lies 32 mm below its top.
    """
    x, y, z = np.moveaxis(places, -1, 0)
    arch_z = top_mm - 32 - 16

    def pipe(centre_x, centre_y, radius, low):
        return (np.hypot(x - centre_x, y - centre_y) <= radius) & (z <= arch_z) & (z >= low)

    ascending, descending = pipe(8, 25, 15, arch_z - 70), pipe(-14, -25, 12, -85)
    along = np.array((22, 50)) / np.hypot(22, 50)  # of the arch, from behind to the front
    forward, aside = x * along[0] + y * along[1] + 3 * along[0], (x + 3) * along[1] - y * along[0]
    ring = np.hypot(np.hypot(forward, z - arch_z) - np.hypot(22, 50) / 2, aside) <= 12
    arch = ring & (z > arch_z)
    return ascending | descending | arch, ascending, descending


@pytest.mark.parametrize("grid", GRIDS)
def test_the_cylinder_stands_upright_in_the_descending_aorta(grid):
    volume, places = _grid(GRIDS[grid])
    aorta, ascending, descending = _aorta(places)
    volume = _with(volume, np.where(descending, 1.5, np.where(ascending, 6.0, 0.5)))
    reference = blood_pool_reference(volume, aorta)
    assert descending[reference.mask].all()
    from_centre = volume.to_mm(np.argwhere(reference.mask)) - reference.centre_mm
    assert np.hypot(from_centre[:, 0], from_centre[:, 1]).max() <= 5.0
    assert np.abs(from_centre[:, 2]).max() <= 10.0
    assert from_centre[:, 2].max() - from_centre[:, 2].min() > 16.0
    assert (reference.mean, reference.sd) == pytest.approx((1.5 * FACTOR, 0.0), rel=1e-6, abs=1e-9)
    assert reference.threshold == pytest.approx(2 * 1.5 * FACTOR, rel=1e-6)
    assert reference.tissue == "blood pool"
    below_top_mm = volume.to_mm(np.argwhere(aorta))[:, 2].max() - reference.centre_mm[2]
    assert 60.0 - 3.0 <= below_top_mm <= 150.0 + 3.0  # 5 to 16 cm, less half its length


def test_the_cylinder_has_1_6_ml_on_a_fine_grid():
    volume, places = _grid(oblique((1.0, 1.3, 0.7), left_handed=True), (30, 24, 60))
    reference = blood_pool_reference(volume, np.ones(volume.shape, bool), centre_ijk=(15, 12, 30))
    assert reference.mask.sum() * 1.0 * 1.3 * 0.7 / 1000.0 == pytest.approx(np.pi * 0.25 * 2, rel=0.05)


def test_two_sd_count_in_blood_too():
    volume, places = _grid()
    aorta, *_ = _aorta(places)
    volume = _with(volume, np.random.default_rng(1).normal(1.5, 0.3, SHAPE))
    reference = blood_pool_reference(volume, aorta)
    sul = volume.data[reference.mask].astype(float) * FACTOR
    assert reference.threshold == pytest.approx(2 * sul.mean() + 2 * sul.std(ddof=1), rel=1e-9)


def test_an_aorta_that_is_cut_off_narrow_or_diseased_is_said():
    volume, places = _grid()
    aorta, _, descending = _aorta(places)
    assert blood_pool_reference(volume, aorta).warning == ""
    assert "edge of the scan" in blood_pool_reference(volume, _aorta(places, top_mm=150.0)[0]).warning
    narrow = np.hypot(places[..., 0], places[..., 1]) <= 4
    with pytest.raises(VolumeError, match="scan 4: no cylinder of 1 cm x 2 cm fits.*centre_ijk"):
        blood_pool_reference(volume, narrow)
    with pytest.raises(VolumeError, match="no cylinder"):
        blood_pool_reference(volume, descending, exclude=descending)
    with pytest.raises(VolumeError, match="not entirely in healthy aorta"):
        blood_pool_reference(volume, aorta, centre_ijk=(30, 25, 31))


# ---- phantoms

@pytest.mark.parametrize(("seed", "domain"), [(0, "internal"), (2, "external")])
def test_references_in_phantoms_find_the_uptake_that_was_drawn(seed, domain):
    case = make_phantom(seed, domain)
    organ = {name: case.organs == label for label, name in case.organ_names.items()}
    for reference, tissue in (
        (liver_reference(case.pet, organ["liver"], exclude=case.lesions > 0), "liver"),
        (blood_pool_reference(case.pet, organ["aorta"], exclude=case.lesions > 0), "aorta"),
    ):
        drawn = case.pet.metadata["suv_drawn"][tissue] * reference.sul_per_suvbw
        assert reference.mean == pytest.approx(drawn, rel=0.12)  # texture, noise and spill of the neighbours
        assert organ[tissue][reference.mask].all()


# ---- lesions

def _scan_with_lesions():
    """Liver of SUVbw 2, so a threshold of SUVbw 3; large uniform lesions of SUVbw 2.9, 8 and 3.1."""
    volume, places = _grid()
    labels = np.zeros(SHAPE, np.int16)
    data = np.where(_ball(places, (50, 0, 0), 40), 2.0, 0.5)
    for label, (suvbw, centre) in enumerate(((2.9, (-60, 40, 0)), (8.0, (-60, -40, 0)), (3.1, (-30, 0, 50))), start=1):
        labels[_ball(places, centre, 20)] = label
        data[_ball(places, centre, 28)] = suvbw  # wider than the mask by more than the peak's sphere
    volume = _with(volume, data)
    return volume, labels, liver_reference(volume, _ball(places, (50, 0, 0), 40), exclude=labels > 0)


def test_lesions_are_measurable_from_the_threshold_on_and_the_hottest_is_the_target():
    volume, labels, reference = _scan_with_lesions()
    table = measurable_lesions(volume, labels, reference, names={1: "a", 2: "b", 3: "c", 7: "none"})
    assert table.columns.tolist() == [
        "object", "SULpeak", "threshold", "measurable", "target", "unit", "definition", "source",
    ]  # fmt: skip
    assert table["object"].tolist() == ["a", "b", "c", "none"]
    np.testing.assert_allclose(table["SULpeak"], np.array((2.9, 8.0, 3.1, np.nan)) * FACTOR, rtol=1e-5)
    np.testing.assert_allclose(table["threshold"], 3.0 * FACTOR, rtol=1e-6)
    assert table["measurable"].tolist() == [False, True, True, False]
    assert table["target"].tolist() == [False, True, False, False]
    assert set(table["unit"]) == {"g/mL"} and set(table["source"]) == {"scan 4"}
    assert table["definition"].str.contains("1 cm3 sphere").all()
    assert table["definition"].str.contains("1.5 x mean.*right lobe of the liver").all()


def test_without_a_measurable_lesion_there_is_no_target():
    volume, labels, reference = _scan_with_lesions()
    assert not measurable_lesions(volume, {"a": labels == 1}, reference)["target"].any()
    assert len(measurable_lesions(volume, np.zeros(SHAPE, np.int16), reference)) == 0


def test_of_two_equally_hot_lesions_one_is_the_target():
    volume, labels, reference = _scan_with_lesions()
    masks = {"once": labels == 2, "again": labels == 2}
    assert measurable_lesions(volume, masks, reference)["target"].tolist() == [True, False]


def test_the_rule_narrows_masks_to_the_threshold_and_says_so():
    volume, labels, reference = _scan_with_lesions()
    rule = reference.rule
    assert rule.suvbw == pytest.approx(3.0, rel=1e-6)
    active = threshold_mask(volume, labels > 0, rule)
    np.testing.assert_array_equal(active, labels > 1)
    table = quantify(volume, labels, threshold=rule)
    assert table["definition"].str.contains("PERCIST threshold SUL").all()


def test_a_reference_serves_its_own_scan_only():
    volume, labels, reference = _scan_with_lesions()
    for other in (
        replace(volume, source="follow-up"),
        replace(volume, metadata={**PERSON, "weight_kg": 70.0}),
        Volume(volume.data[1:], volume.affine, "SUVbw", "scan 4", PERSON),
    ):
        with pytest.raises(VolumeError, match="reference of its own"):
            measurable_lesions(other, labels[: other.shape[0]], reference)


# ---- refusals

@pytest.mark.parametrize("take", [liver_reference, blood_pool_reference])
def test_bad_input_is_refused_by_name(take):
    volume, places = _grid(shape=(20, 20, 24))
    organ = np.ones(volume.shape, bool)
    with pytest.raises(UnitError, match="scan 4 is in HU"):
        take(replace(volume, unit="HU"), organ)
    with pytest.raises(SUVError, match=r"scan 4: .*\(0010,1030\).*dataclasses\.replace"):
        take(replace(volume, metadata={}), organ)
    with pytest.raises(SUVError, match="unknown formula"):
        take(volume, organ, formula="hume")
    with pytest.raises(VolumeError, match="mask is int64; expected bool"):
        take(volume, organ.astype(int))
    with pytest.raises(VolumeError, match="mask is empty"):
        take(volume, ~organ)
    with pytest.raises(GeometryError, match="shape .* does not lie on scan 4"):
        take(volume, organ[1:])
    with pytest.raises(GeometryError, match="exclude of shape"):
        take(volume, organ, exclude=organ[1:])
    for centre in ((-90.0, 3.0, 4.0), (3, 4)):
        with pytest.raises(GeometryError, match="to_ijk"):
            take(volume, organ, centre_ijk=centre)
    coarse, _ = _grid(np.diag([60.0, 60.0, 60.0, 1.0]), (4, 4, 4))
    with pytest.raises(VolumeError, match="1 voxel of this coarse grid"):
        take(coarse, np.ones((4, 4, 4), bool), centre_ijk=(2, 2, 2))
