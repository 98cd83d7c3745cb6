import numpy as np
import pytest
from scipy import ndimage

from seganypet.pieces import Pieces
from seganypet.prompting import simulate
from seganypet.regions import CONNECTED_26


def noise(seed: int) -> np.ndarray:
    """A mask of an awkward shape: sparse, dense, full or empty."""
    rng = np.random.default_rng(seed)
    return rng.random(rng.integers(1, 14, 3)) < rng.choice([0, 0.05, 0.2, 0.5, 1])


@pytest.mark.parametrize("seed", range(30))
def test_pieces_are_those_of_labelling(seed):
    mask, rng = noise(seed), np.random.default_rng(seed)
    labels, count = ndimage.label(mask, CONNECTED_26)
    pieces = Pieces(mask)
    assert pieces.sizes.tolist() == np.bincount(labels.ravel(), minlength=count + 1)[1:].tolist()
    for number, box in enumerate(ndimage.find_objects(labels)):
        found, inside = pieces.mask_of([number])
        assert found == box
        np.testing.assert_array_equal(inside, labels[box] == number + 1)
    voxels = rng.integers(-2, np.add(mask.shape, 2), (9, 3))
    held = pieces.at(voxels)
    around = np.pad(labels, 2)  # nothing is beyond the mask
    assert held.tolist() == sorted({*(around[tuple((voxels + 2).T)] - 1).tolist()} - {-1})
    box, inside = pieces.mask_of(held)
    several = np.zeros_like(mask)
    several[box] = inside
    np.testing.assert_array_equal(several, np.isin(labels, held + 1))


@pytest.mark.parametrize("seed", range(10))
def test_the_largest_component_is_the_same_in_small_and_large_regions(seed, monkeypatch):
    mask = noise(seed)
    mask.flat[0] = True
    small, box = simulate.largest_component(mask)
    monkeypatch.setattr(simulate, "LARGE", 0)
    large, same_box = simulate.largest_component(mask)
    assert box == same_box
    np.testing.assert_array_equal(small, large)
