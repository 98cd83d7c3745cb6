"""Hot organs and their rims, taken out of masks: blobs whose owner is known, on awkward grids; phantoms."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from conftest import oblique
from pet_scene import GRIDS, SHAPE, SPACING, positions_mm, scene
from scipy import ndimage
from scipy.ndimage import gaussian_filter

from seganypet.errors import ClickError, GeometryError, SegAnyPETError, UnitError, VolumeError
from seganypet.metrics import fnv_ml, fpv_ml
from seganypet.organs import ORGANS
from seganypet.pet import physiology as module
from seganypet.pet.physiology import (
    HOT_ORGANS,
    hot_spots,
    physiological_mask,
    physiology_from_clicks,
    without_physiology,
)
from seganypet.pet.volume import Volume
from seganypet.phantom import make_phantom
from seganypet.phantom.patient import TISSUES
from seganypet.prompting.suggest import background_clicks  # fmt: skip
from seganypet.prompting.thresholds import ThresholdSession


def _bladder_and_lesion(affine=GRIDS["left-handed"]):
    """A bladder (drawn at half its maximum) that touches a lesion; both alone."""
    volume, (bladder, lesion) = scene((20.0, (-15, 0, 0), 9.0), (10.0, (11, 4, 5), 6.0), affine=affine)
    return volume, bladder >= 10, bladder, lesion


# ---- names


def test_hot_organs_are_named_as_the_label_maps_name_them():
    known = {*TISSUES, *ORGANS}
    assert set(HOT_ORGANS) - known == {"brain", "urinary_bladder"}  # TotalSegmentator's
    for names in (
        ("outside", "fat", "liver", "brain_grey", "bladder", "kidney_left_pelvis", "myocardium"),
        ("background", "prostate", "liver", "kidney_left", "kidney_right", "heart"),
        ("background", "spleen", "liver", "brain", "urinary_bladder", "kidney_left", "heart"),
    ):
        labels = np.arange(len(names)).reshape(1, 1, -1)
        hot = physiological_mask(labels, dict(enumerate(names)))
        assert hot.ravel().tolist() == [False] * 3 + [True] * (len(names) - 3)


def test_other_organs_are_hot_when_asked():
    labels, names = np.array([[[0, 1, 2]]]), {1: "liver", 2: "brain"}
    assert physiological_mask(labels, names, (*HOT_ORGANS, "liver")).tolist() == [[[False, True, True]]]
    assert physiological_mask(labels, names, "liver").tolist() == [[[False, True, False]]]


def test_a_map_without_a_hot_organ_says_what_it_names():
    labels = np.zeros((2, 2, 2), int)
    with pytest.raises(SegAnyPETError, match=r"names liver, spleen; expected at least one of .*brain.*organs="):
        physiological_mask(labels, {1: "liver", 2: "spleen"})
    with pytest.raises(SegAnyPETError, match="names nothing"):
        physiological_mask(labels, {})
    with pytest.raises(VolumeError, match="expected a label map with integers"):
        physiological_mask(labels + 0.5, {1: "brain"})


# ---- what goes and what stays


@pytest.mark.parametrize("grid", GRIDS)
def test_the_rim_goes_and_the_lesion_that_touches_it_stays(grid):
    volume, organ, bladder, lesion = _bladder_and_lesion(GRIDS[grid])
    hot = volume.data >= 4
    rim = hot & ~organ & (bladder > 1.5 * lesion)
    assert rim.sum() > 100 and len(np.unique(hot_spots(volume, hot))) == 3  # outside, bladder, lesion
    kept = without_physiology(volume, hot, organ)
    assert not kept[rim].any() and not kept[organ].any()
    assert kept[hot & (lesion > 1.5 * bladder)].all()
    assert not (kept & ~hot).any()


def test_a_network_that_drew_only_the_rim_has_drawn_nothing():
    volume, organ, bladder, lesion = _bladder_and_lesion()
    drawn = (volume.data >= 4) & ~organ & (bladder > 1.5 * lesion)
    assert not without_physiology(volume, drawn, organ).any()


def test_an_organ_drawn_too_small_or_a_voxel_off_still_takes_its_rim():
    volume, organ, bladder, lesion = _bladder_and_lesion()
    hot = volume.data >= 4
    for drawn in (bladder >= 13, np.roll(organ, 1, axis=1), np.roll(organ, 1, axis=2)):
        kept = without_physiology(volume, hot, drawn, rim_mm=14.0)  # the error adds to the rim
        assert not kept[hot & (bladder > 1.5 * lesion)].any()
        assert kept[hot & (lesion > 1.5 * bladder) & ~drawn].all()


def test_the_lesion_survives_noise_and_the_noise_of_the_organ_goes():
    volume, organ, bladder, lesion = _bladder_and_lesion()
    noise = gaussian_filter(np.random.default_rng(5).standard_normal(SHAPE), 3.0 / np.array(SPACING))
    noisy = replace(volume, data=volume.data * (1 + 0.12 * noise / noise.std()))
    hot = noisy.data >= 4
    kept = without_physiology(noisy, hot, organ)
    assert not kept[hot & (bladder > 3 * lesion)].any()
    assert kept[hot & (lesion > 3 * bladder)].all()


def test_what_hangs_on_an_organ_without_a_peak_stays_where_no_spill_reaches():
    """A tail of falling uptake, 60 mm long: 10 mm of it may be spill."""
    places = positions_mm(GRIDS["left-handed"], SHAPE)
    x = places[..., 0] + 30
    across = np.hypot(places[..., 1], places[..., 2])
    volume = Volume((20 - 0.2 * np.abs(x)) * np.exp(-(across**2) / 200), GRIDS["left-handed"], "SUVbw")
    organ, tail = (np.abs(x) < 14) & (across < 12), (x > 14) & (across < 12)
    kept = without_physiology(volume, tail, organ)
    assert kept[tail & (x > 30)].all() and not kept[tail & (x < 20)].any()
    assert not without_physiology(volume, tail, organ, rim_mm=200).any()
    np.testing.assert_array_equal(without_physiology(volume, tail | organ, organ, rim_mm=0), tail)


def test_pieces_far_from_organs_are_left_alone():
    volume, (_, lesion) = scene((20.0, (-40, 0, 0), 8.0), (10.0, (45, 0, 0), 6.0))
    kept = without_physiology(volume, volume.data >= 4, volume.data >= 12)
    np.testing.assert_array_equal(kept, lesion >= 4)


@pytest.mark.parametrize(
    ("axes", "flips"), [((2, 0, 1), (1, -1, 1)), ((1, 0, 2), (-1, -1, -1)), ((0, 2, 1), (1, 1, -1))]
)
def test_the_order_and_direction_of_axes_change_nothing(axes, flips):
    volume, organ, *_ = _bladder_and_lesion()
    turn = np.eye(4)[[*axes, 3]].T  # ijk of the turned array -> ijk of the first one
    for axis, (source, flip) in enumerate(zip(axes, flips, strict=True)):
        if flip < 0:
            turn[source, axis], turn[source, 3] = -1, SHAPE[source] - 1

    def turned(array):
        return np.ascontiguousarray(array.transpose(axes)[tuple(slice(None, None, flip) for flip in flips)])

    other = Volume(turned(volume.data), volume.affine @ turn, "SUVbw")
    np.testing.assert_allclose(other.to_mm((0, 1, 2)), volume.to_mm((turn @ (0, 1, 2, 1))[:3]))
    expected = turned(without_physiology(volume, volume.data >= 4, organ))
    np.testing.assert_array_equal(without_physiology(other, other.data >= 4, turned(organ)), expected)
    assert background_clicks(other, turned(organ))[0].ijk != background_clicks(volume, organ)[0].ijk
    np.testing.assert_allclose(
        other.to_mm(background_clicks(other, turned(organ))[0].ijk),
        volume.to_mm(background_clicks(volume, organ)[0].ijk),
    )


# ---- peaks


def test_each_voxel_belongs_to_the_peak_that_a_walk_uphill_reaches(monkeypatch):
    """Against walking from every voxel, one by one, with no two peaks merged."""
    monkeypatch.setattr(module, "MERGE", 2.0)
    affine, shape = oblique((2.0, 5.0, 3.0), left_handed=True), (16, 9, 12)
    data = gaussian_filter(np.random.default_rng(2).random(shape), 1.0)
    volume = Volume(data, affine, "SUVbw")
    mask = data > np.quantile(data, 0.3)
    smooth = gaussian_filter(volume.data, 2.0 / np.array(volume.spacing), truncate=3.0)
    steps = [step for step in product((-1, 0, 1), repeat=3) if any(step)]

    def peak(ijk):
        def slope(step):
            there = tuple(np.add(ijk, step))
            if min(there) < 0 or any(np.greater_equal(there, shape)) or not mask[there]:
                return -1.0
            return (float(smooth[there]) - float(smooth[ijk])) / np.linalg.norm(affine[:3, :3] @ step)

        best = max(steps, key=slope)
        return peak(tuple(np.add(ijk, best))) if slope(best) > 0 else ijk

    spots = hot_spots(volume, mask)
    places = np.argwhere(mask)
    walked = [peak(tuple(place)) for place in places]
    assert len(set(walked)) > 5
    assert len(set(walked)) == spots.max() == len({(spots[tuple(a)], b) for a, b in zip(places, walked, strict=True)})
    assert not spots[~mask].any()


@pytest.mark.parametrize(("apart_mm", "number"), [(16.0, 1), (17.0, 1), (19.0, 2), (26.0, 2)])
def test_two_peaks_are_one_unless_a_dip_of_a_tenth_parts_them(apart_mm, number):
    """Sigma 7 mm, smoothed 7.28: by two Gaussians' sum the saddle is 0.93 of the peak at 17 mm, 0.82 at 19."""
    volume, (left, right) = scene(
        (10.0, (-apart_mm / 2, 0, 0), 7.0), (10.0, (apart_mm / 2, 0, 0), 7.0),
        affine=np.diag([-2.0, 2.0, 2.0, 1.0]), shape=(45, 24, 24),
    )  # fmt: skip
    spots = hot_spots(volume, volume.data >= 4)
    assert spots.max() == number
    if number == 2:
        assert len(np.unique(spots[(volume.data >= 4) & (left > 1.1 * right)])) == 1


def test_a_plateau_is_one_peak():
    data = np.zeros((20, 20, 20))
    data[3:17, 4:15, 2:19] = 7.0
    assert hot_spots(Volume(data, GRIDS["right-handed"], "SUVbw"), data > 0).max() == 1


# ---- phantoms


@pytest.mark.parametrize(("seed", "kind"), [(401, "lymphoma"), (400, "melanoma")])
def test_false_alarms_of_hot_organs_go_from_phantoms_and_lesions_stay(seed, kind):
    case = make_phantom(seed, "internal", lesions=kind)
    truth, hot = case.lesions > 0, case.pet.data >= 4
    organs = physiological_mask(case.anatomy, case.anatomy_names)
    kept = without_physiology(case.pet, hot, organs)
    false, subtracted, left = (
        fpv_ml(mask, truth, case.pet.voxel_volume_ml) for mask in (hot, hot & ~organs, kept)
    )  # fmt: skip
    assert false > 400 and left < 0.7 * subtracted  # hot bowel and liver stay: they are none of the organs
    away_mm = ndimage.distance_transform_edt(~organs, sampling=case.pet.spacing)
    spill = (kept & ~truth & (away_mm <= 8)).sum() * case.pet.voxel_volume_ml
    assert spill < 0.02 * false
    assert fnv_ml(kept, truth, case.pet.voxel_volume_ml) == fnv_ml(hot, truth, case.pet.voxel_volume_ml)
    assert (kept & truth).sum() > 0.98 * (hot & truth).sum()


# ---- clicks


def test_background_clicks_lie_deep_in_the_hot_pieces_hottest_first():
    blobs = ((8.0, (-50, 0, -20), 7.0), (20.0, (0, 10, 30), 9.0), (12.0, (45, -10, 0), 8.0), (3.0, (0, -20, -40), 8.0))
    volume, alone = scene(*blobs)
    organs = np.any([blob >= 2 for blob in alone], axis=0)
    clicks = background_clicks(volume, organs)
    assert [click.foreground for click in clicks] == [False] * 3
    middle = volume.to_mm((np.array(SHAPE) - 1) / 2)
    for click, (suv, centre, _) in zip(clicks, (blobs[1], blobs[2], blobs[0]), strict=True):
        assert np.linalg.norm(volume.to_mm(click.ijk) - middle - centre) < 4.1
        assert volume.data[click.ijk] > 0.8 * suv
    assert background_clicks(volume, organs, most=2) == clicks[:2]
    assert background_clicks(volume, organs, threshold=8.2) == clicks[:2]
    assert background_clicks(volume, organs, threshold=30.0) == []
    smallest_ml = ((alone[0] >= 4) & organs).sum() * volume.voxel_volume_ml
    assert background_clicks(volume, organs, min_volume_ml=smallest_ml + 0.1) == clicks[:2]


def test_a_background_click_takes_the_bladder_out_of_a_click_session():
    volume, organ, _, lesion = _bladder_and_lesion()
    session = ThresholdSession(volume, "SUV>=4")
    grown = session.click(np.unravel_index(lesion.argmax(), SHAPE))
    assert grown[organ].all()  # the lesion's click runs over into the bladder
    for click in background_clicks(volume, organ):
        mask = session.click(click.ijk, foreground=click.foreground)
    assert not mask[organ].any() and mask[lesion > 4].all()


def test_without_organ_masks_a_click_on_each_organ_takes_it_out_and_leaves_the_lesion():
    volume, _, bladder, lesion = _bladder_and_lesion()
    hot = volume.data >= 4
    beside_the_peak = np.argwhere(hot & (bladder > 15) & (bladder < 17))[0]
    cold = np.argwhere(volume.data < 1)[0]
    organs = physiology_from_clicks(volume, [beside_the_peak, cold])
    assert organs[bladder > 11].all() and not organs[lesion > 6].any()
    kept = without_physiology(volume, hot, organs)
    assert not kept[hot & (bladder > 1.5 * lesion)].any() and kept[hot & (lesion > 1.5 * bladder)].all()
    assert not physiology_from_clicks(volume, [cold]).any() and not physiology_from_clicks(volume, []).any()
    with pytest.raises(ClickError, match="outside volume"):
        physiology_from_clicks(volume, [(99, 0, 0)])


def test_a_few_clicks_on_organs_spare_a_phantom_most_false_alarms():
    case = make_phantom(403, "internal", lesions="disseminated")
    truth, hot, size_ml = case.lesions > 0, case.pet.data >= 4, case.pet.voxel_volume_ml
    clicks = background_clicks(case.pet, physiological_mask(case.anatomy, case.anatomy_names))
    organs = physiology_from_clicks(case.pet, [click.ijk for click in clicks])
    kept = without_physiology(case.pet, hot, organs)
    assert len(clicks) < 10 and fpv_ml(kept, truth, size_ml) < 0.2 * fpv_ml(hot, truth, size_ml)
    assert (kept & truth).sum() > 0.8 * (hot & truth).sum()  # what lies against heart and bladder is in danger


# ---- refusals


def test_bad_input_is_refused_by_name():
    volume, organ, *_ = _bladder_and_lesion()
    hot = volume.data >= 4
    with pytest.raises(VolumeError, match="scan 4: physiology is empty"):
        without_physiology(volume, hot, np.zeros(SHAPE, bool))
    with pytest.raises(VolumeError, match=r"physiology is uint8; expected bool.*physiological_mask\(labels, names\)"):
        without_physiology(volume, hot, organ.astype(np.uint8))
    with pytest.raises(VolumeError, match="mask is float64; expected bool.*logits > 0"):
        without_physiology(volume, hot.astype(float), organ)
    with pytest.raises(GeometryError, match="physiology of shape .* does not lie on scan 4"):
        without_physiology(volume, hot, organ[1:])
    with pytest.raises(UnitError, match="scan 4 is in HU"):
        without_physiology(replace(volume, unit="HU"), hot, organ)
    for rim_mm in (-1.0, np.nan, "10"):
        with pytest.raises(VolumeError, match="rim_mm=.*0 or more"):
            without_physiology(volume, hot, organ, rim_mm=rim_mm)
    with pytest.raises(VolumeError, match="most=-1; expected"):
        background_clicks(volume, organ, most=-1)
    with pytest.raises(GeometryError, match="mask of shape"):
        hot_spots(volume, hot[1:])


def test_an_empty_mask_stays_empty():
    volume, organ, *_ = _bladder_and_lesion()
    nothing = np.zeros(SHAPE, bool)
    assert not without_physiology(volume, nothing, organ).any() and not hot_spots(volume, nothing).any()
    assert background_clicks(volume, nothing) == []
