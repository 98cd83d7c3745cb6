"""One lesion at a time, in a block of muscle beside bone."""

import numpy as np
import pytest
from scipy import ndimage

from seganypet.phantom.canvas import Canvas
from seganypet.phantom.patient import ID
from seganypet.phantom.tumour import Lesion, paint_lesion

SPACING = (6.0, 5.0, 7.0)  # mm
MUSCLE_SUV = 0.7


def grow(seed, volume_ml, infiltrating=False, suv_max=9.0):
    """Mask and uptake of one lesion; muscle ends at x > 60 mm, where bone begins."""
    canvas = Canvas(*(size * (np.arange(46) - 23) for size in SPACING))
    canvas.labels[:] = ID["muscle"]
    canvas.labels[canvas.x > 60] = ID["cortical_bone"]
    activity, instances = np.full(canvas.labels.shape, MUSCLE_SUV, np.float32), np.zeros_like(canvas.labels)
    lesion = Lesion(np.zeros(3), volume_ml, suv_max, [ID["muscle"]], infiltrating)
    assert paint_lesion(canvas, activity, instances, 1, lesion, np.random.default_rng(seed))
    return instances == 1, activity


@pytest.mark.parametrize("volume_ml", [2.0, 30.0, 400.0])
def test_a_lesion_has_the_volume_asked_for_in_the_tissue_that_it_may_replace(volume_ml):
    mask, activity = grow(5, volume_ml)
    assert mask.sum() * np.prod(SPACING) / 1000 == pytest.approx(volume_ml, rel=0.2)
    assert not mask[SPACING[0] * (np.arange(46) - 23) > 60].any()
    assert np.all(activity[~mask] == np.float32(MUSCLE_SUV))
    assert ndimage.label(mask)[1] == 1


@pytest.fixture(scope="module")
def masses():
    return [grow(seed, 300.0) for seed in range(30)]


def test_large_masses_are_as_uneven_as_sarcomas(masses):
    """Coefficient of variation 0.31, 0.48, 1.12 (5, 50, 95 %), mean over maximum 0.11, 0.34, 0.50 in 51 sarcomas."""
    uptake = [activity[mask] for mask, activity in masses]
    assert 0.3 < np.median([suv.std() / suv.mean() for suv in uptake]) < 0.8
    assert 0.2 < np.median([suv.mean() / suv.max() for suv in uptake]) < 0.5


def test_many_large_masses_are_cold_in_the_middle_and_small_ones_are_not(masses):
    def cold(mask, activity):
        depth = ndimage.distance_transform_edt(mask, sampling=SPACING)
        return activity[depth == depth.max()].mean() < 0.6 * activity[mask].mean()

    assert 0.15 < np.mean([cold(*mass) for mass in masses]) < 0.75
    assert np.mean([cold(*grow(seed, 4.0)) for seed in range(20)]) < 0.15


def test_infiltrating_lesions_fade_into_their_surroundings_and_others_end_in_an_edge(masses):
    def contrast_at_edge(mask, activity):
        rim = mask & ~ndimage.binary_erosion(mask)
        return (np.median(activity[rim]) - MUSCLE_SUV) / (np.percentile(activity[mask], 90) - MUSCLE_SUV)

    fading = [contrast_at_edge(*grow(seed, 150.0, infiltrating=True)) for seed in range(12)]
    assert np.median(fading) < 0.45 and np.median([contrast_at_edge(*mass) for mass in masses]) > 0.5


def test_where_there_is_no_room_nothing_is_painted():
    canvas = Canvas(*(size * np.arange(10) for size in SPACING))
    canvas.labels[:] = ID["liver"]
    activity, instances = np.ones(canvas.labels.shape, np.float32), np.zeros_like(canvas.labels)
    lesion = Lesion(np.array([20.0, 20.0, 20.0]), 5.0, 9.0, [ID["muscle"]])
    assert not paint_lesion(canvas, activity, instances, 1, lesion, np.random.default_rng(0))
    assert not instances.any() and np.all(activity == 1)
