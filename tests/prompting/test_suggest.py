"""Suggested clicks: blobs whose place, heat and owner are known, on awkward grids."""

from dataclasses import replace

import numpy as np
import pytest
from pet_scene import GRIDS, SHAPE, scene

from seganypet.errors import ClickError, GeometryError, UnitError, VolumeError
from seganypet.pet.physiology import physiological_mask
from seganypet.pet.quantification import Threshold
from seganypet.phantom import make_phantom
from seganypet.prompting.suggest import find_candidates, hot_mask, suggest_click
from seganypet.prompting.thresholds import ThresholdSession

# An organ, two lesions of which the second is hotter, and one too cold to be seen at SUV 4.
ORGAN, MILD, HOT, COLD = (
    (20.0, (-50, 0, 20), 9.0), (8.0, (40, 0, 40), 6.0), (12.0, (0, 10, -30), 6.0), (3.0, (45, -20, -40), 8.0)
)  # fmt: skip


def distance_mm(volume, candidate, blob):
    middle = volume.to_mm((np.array(SHAPE) - 1) / 2)
    return np.linalg.norm(np.array(candidate.mm) - middle - blob[1])


@pytest.mark.parametrize("grid", GRIDS)
def test_the_hottest_spot_comes_first_and_organs_and_segmented_ones_never(grid):
    volume, alone = scene(ORGAN, MILD, HOT, COLD, affine=GRIDS[grid])
    organs = alone[0] >= 10
    everything = find_candidates(volume)
    assert [distance_mm(volume, one, blob) < 4.1 for one, blob in zip(everything, (ORGAN, HOT, MILD), strict=True)]
    lesions = find_candidates(volume, physiology=organs)
    assert lesions == everything[1:]
    assert suggest_click(volume, physiology=organs) == lesions[0]
    assert find_candidates(volume, {"first": alone[2] >= 6}, organs) == lesions[1:]
    assert suggest_click(volume, {"first": alone[2] >= 6, "second": alone[1] >= 4}, organs) is None


def test_a_candidate_tells_what_it_is():
    volume, alone = scene(MILD)
    candidate = suggest_click(volume, threshold=3.0)
    assert candidate.suv_max == pytest.approx(volume.data.max())
    assert candidate.volume_ml == pytest.approx(np.count_nonzero(alone[0] >= 3) * volume.voxel_volume_ml)
    np.testing.assert_allclose(candidate.mm, volume.to_mm(candidate.ijk))
    assert volume.data[candidate.ijk] > 6


def test_what_a_person_said_no_to_is_not_suggested_again():
    volume, _ = scene(MILD, HOT)
    hottest = suggest_click(volume)
    following = suggest_click(volume, rejected=[hottest.ijk])
    assert distance_mm(volume, hottest, HOT) < 4.1 and distance_mm(volume, following, MILD) < 4.1
    assert suggest_click(volume, rejected=[hottest.ijk, following.ijk]) is None


def test_the_edge_of_a_segmented_lesion_is_no_candidate_but_its_neighbour_is():
    touching = (11.0, (22, 10, -30), 6.0)
    volume, alone = scene(HOT, touching)
    drawn_too_small = alone[0] >= 8
    left = find_candidates(volume, drawn_too_small)
    assert len(left) == 1 and distance_mm(volume, left[0], touching) < 5


def test_small_spots_and_long_lists_are_cut():
    volume, alone = scene(MILD, HOT)
    size_ml = np.count_nonzero(alone[0] >= 4) * volume.voxel_volume_ml
    assert len(find_candidates(volume, min_volume_ml=size_ml + 0.01)) == 1
    assert len(find_candidates(volume, most=1)) == 1 and find_candidates(volume, most=0) == []


def test_clicking_every_suggestion_ends_with_nothing_left():
    volume, alone = scene(ORGAN, MILD, HOT)
    session = ThresholdSession(volume, "SUV>=4")
    for number in range(5):
        candidate = suggest_click(volume, session.masks, alone[0] >= 10)
        if candidate is None:
            break
        session.select(f"lesion_{number}")
        session.click(ijk=candidate.ijk)
    assert number == 2 and len(session.objects) == 2


def test_in_a_phantom_suggestions_are_mostly_lesions():
    case = make_phantom(401, "internal", lesions="lymphoma")
    organs = physiological_mask(case.anatomy, case.anatomy_names)
    found = find_candidates(case.pet, physiology=organs, most=8)  # bowel that is as hot comes after them
    hits = np.mean([case.lesions[one.ijk] > 0 for one in found])
    blind = np.mean([case.lesions[one.ijk] > 0 for one in find_candidates(case.pet, most=8)])
    assert hits >= 0.7 > blind


def test_hot_mask_counts_voxels_from_the_threshold_on():
    volume, _ = scene(HOT)
    np.testing.assert_array_equal(hot_mask(volume, 4.0), volume.data >= 4)
    np.testing.assert_array_equal(hot_mask(volume, Threshold(2.5, "liver")), volume.data >= 2.5)
    for bad in (0.0, -1.0, np.nan, "4"):
        with pytest.raises(VolumeError, match="expected"):
            hot_mask(volume, bad)
    with pytest.raises(UnitError, match=r"Bq/mL"):
        hot_mask(replace(volume, unit="Bq/mL"), 4.0)


def test_bad_input_is_refused_by_name():
    volume, alone = scene(HOT)
    with pytest.raises(GeometryError, match="segmented of shape"):
        suggest_click(volume, alone[0][1:] > 4)
    with pytest.raises(VolumeError, match="segmented 'tumour'"):
        suggest_click(volume, {"tumour": alone[0]})
    with pytest.raises(ClickError, match="outside volume"):
        suggest_click(volume, rejected=[(99, 0, 0)])
    with pytest.raises(VolumeError, match="min_volume_ml=-1"):
        suggest_click(volume, min_volume_ml=-1)
