import tracemalloc

import numpy as np
import pytest
from scipy import ndimage

from seganypet import regions
from seganypet.regions import LARGE, deepest_voxel, label_sizes


@pytest.mark.parametrize("shape_of", ["two bodies and a leak", "a beam through the border"])
def test_the_deepest_voxel_of_a_large_region_is_exact(shape_of):
    spacing, region = (2.04, 4.07, 3.0), np.zeros((130, 110, 90), bool)
    assert region.size > LARGE
    i, j, k = np.ogrid[:130, :110, :90]
    if shape_of == "a beam through the border":
        region[40:61, 50:63, :] = True  # equally deep along half of its length: the one next to the middle counts
    else:
        region = ndimage.gaussian_filter(np.random.default_rng(2).standard_normal(region.shape), 1) > 0
        region |= (i - 20) ** 2 + (2 * (j - 30)) ** 2 + (1.5 * (k - 20)) ** 2 < 18**2
        region |= (i - 100) ** 2 + (2 * (j - 70)) ** 2 + (1.5 * (k - 60)) ** 2 < 19**2
    depth = ndimage.distance_transform_edt(np.pad(region, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    deepest = np.argwhere(depth >= depth.max() * (1 - 1e-9))
    middle = np.argwhere(region).mean(0)
    nearest = np.linalg.norm((deepest - middle) * spacing, axis=1).argmin()
    assert deepest_voxel(region, spacing) == tuple(deepest[nearest])


@pytest.mark.parametrize("seed", range(40))
def test_the_deepest_voxel_is_found_alike_in_small_and_large_regions(seed, monkeypatch):
    """Awkward ones: thinner than a block of voxels, touching the border, in several bodies, full."""
    rng = np.random.default_rng(seed)
    spacing = tuple(rng.uniform(0.5, 6, 3).tolist())
    noise = ndimage.gaussian_filter(rng.standard_normal(rng.integers(5, 40, 3)), rng.uniform(0, 4, 3))
    region = noise >= np.quantile(noise, rng.choice([0, 0.1, 0.5, 0.9, 0.99]))
    region[rng.integers(len(region))] &= bool(seed % 3)
    region.flat[0] = True
    expected = deepest_voxel(region, spacing)
    monkeypatch.setattr(regions, "LARGE", 0)
    assert deepest_voxel(region, spacing) == expected


def test_bodies_that_lie_far_apart_are_measured_each_for_itself(monkeypatch):
    region, measured = np.zeros((130, 110, 90), bool), []
    region[5:25, 5:25, 5:25] = region[100:120, 80:100, 60:80] = True
    nearest_mm = regions.nearest_mm
    monkeypatch.setattr(regions, "nearest_mm", lambda *args: measured.append(args[0].size) or nearest_mm(*args))
    assert deepest_voxel(region, (2.0, 2.0, 2.0)) == (15, 15, 15)  # the first of those next to the middle of both
    assert len(measured) == 1 + 2 and sum(measured[1:]) < region.size / 10


def test_labels_are_counted_without_eight_bytes_a_voxel():
    labels = np.random.default_rng(0).integers(0, 5, (60, 70, 80)).astype(np.int16)
    labels[40:] = 0
    labels[7, 8, 9] = 40
    tracemalloc.start()
    sizes = label_sizes(labels)
    (_, peak), _ = tracemalloc.get_traced_memory(), tracemalloc.stop()
    np.testing.assert_array_equal(sizes, np.bincount(labels.ravel()))
    assert peak < labels.size


@pytest.mark.parametrize("shape", [(1, 1, 1), (40, 50, 30), (1, 90, 7), (70, 1, 2)])
def test_exact_distances_are_those_of_scipy_to_the_bit_in_less_memory(shape, monkeypatch):
    rng, spacing = np.random.default_rng(3), (1.3, 2.7, 4.1)
    places = rng.random(shape) < 0.1
    places.flat[0] = True
    expected = ndimage.distance_transform_edt(~places, sampling=spacing)
    for block in (1, 100, 2**18):
        monkeypatch.setattr(regions, "BLOCK", block)
        np.testing.assert_array_equal(regions.exact_mm(places, spacing), expected)


def test_exact_distances_take_no_array_of_vectors(monkeypatch):
    monkeypatch.setattr(regions, "BLOCK", 10_000)
    places = np.zeros((80, 80, 80), bool)
    places[10:20, 30:40, 50:60] = True
    tracemalloc.start()
    regions.exact_mm(places, (2.0, 2.0, 3.0))
    (_, peak), _ = tracemalloc.get_traced_memory(), tracemalloc.stop()
    assert peak < 24 * places.size  # SciPy's own distances take twice that
