"""Simulated shapes: drawn on what is really there, where a person would draw them, and true to it."""

import numpy as np
import pytest
from scipy import ndimage

from seganypet.errors import ClickError, GeometryError
from seganypet.metrics import dice
from seganypet.pet.volume import Volume
from seganypet.prompting.prompts import Box, Click, InitialMask, Lasso, Scribble
from seganypet.prompting.simulate import first_click, next_click
from seganypet.prompting.simulate_shapes import (
    FIRST_PROMPTS,
    first_prompt,
    first_prompts_by_slice,
    next_prompt,
    next_prompts_by_slice,
)

SPACING = (4.0, 2.0, 3.0)


def blobs(seed: int, threshold: float = 0.02) -> np.ndarray:
    """Several pieces, some of them cut by the array's border."""
    return ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((14, 18, 16)), 2) > threshold


def test_the_centreline_is_that_of_the_challenge():
    block = np.zeros((30, 20, 5), bool)
    block[3:18, 4:9, 2] = True
    # Measured with the challenge's own code.
    assert first_prompt(block, "scribble", spacing=(1, 1, 1)) == Scribble(tuple((i, 6, 2) for i in range(5, 15)))


def test_a_scribble_follows_a_bent_target_and_a_spot_gets_one_voxel():
    bow = np.zeros((40, 40, 3), bool)
    i, j = np.indices((40, 40))
    radius = np.hypot(i - 20, j - 20)
    bow[..., 1] = (radius > 10) & (radius < 16) & (i > 8)
    scribble = first_prompt(bow, "scribble", spacing=(1, 1, 1))
    away = np.hypot(*(scribble.voxels[:, :2] - 20).T)
    assert len(scribble.voxels) > 25 and (np.abs(away - 13) < 2).all()
    spot = np.zeros((9, 9, 3), bool)
    spot[4, 5, 1] = True
    assert first_prompt(spot, "scribble", spacing=(1, 1, 1)) == Scribble(((4, 5, 1),))


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("seed", range(6))
def test_first_prompts_are_true_whatever_the_target(seed, axis):
    truth = blobs(seed, 0.02 + 0.01 * (seed % 3))
    rng, grid = np.random.default_rng(seed), Volume(np.zeros(truth.shape), np.diag((*SPACING, 1)), "HU")
    largest = int(np.moveaxis(truth, axis, 0).sum(axis=(1, 2)).argmax())
    for kind in FIRST_PROMPTS:
        prompt = first_prompt(truth, kind, spacing=SPACING, axis_of_array=axis, rng=rng)
        assert prompt.foreground and prompt.checked(grid) == prompt
        assert kind == "mask" or prompt.obeyed_by(truth)
        if kind in ("scribble", "box", "lasso"):
            assert set(prompt.voxels[:, axis].tolist()) == {largest}


def test_box_and_lasso_hold_the_target_tightly():
    truth = np.zeros((20, 20, 10), bool)
    truth[4:9, 5:11, 3:6] = truth[12:14, 7:9, 4] = True  # two pieces in the slice k = 4
    assert first_prompt(truth, "box", spacing=SPACING) == Box((4, 5, 4), (13, 10, 4))
    assert first_prompt(truth, "box3d", spacing=SPACING) == Box((4, 5, 3), (13, 10, 5))
    one = truth & (np.arange(20) < 10)[:, None, None]
    lasso = first_prompt(one, "lasso", spacing=SPACING)
    around = np.zeros((20, 20), bool)
    around[3:10, 4:12] = True  # one voxel more on each side
    drawn = np.zeros((20, 20), bool)
    drawn[tuple(lasso.voxels[:, :2].T)] = True
    np.testing.assert_array_equal(drawn, around)


def test_a_single_voxel_gets_prompts_that_a_session_takes():
    for voxel in ((0, 0, 0), (19, 19, 9), (5, 19, 0)):
        truth = np.zeros((20, 20, 10), bool)
        truth[voxel] = True
        grid = Volume(truth, np.diag((*SPACING, 1)), "HU")
        for kind in FIRST_PROMPTS:
            prompt = first_prompt(truth, kind, spacing=SPACING, rng=np.random.default_rng(0))
            assert prompt.checked(grid) == prompt and prompt.obeyed_by(truth)


def test_a_simulated_mask_errs_by_millimetres_and_repeats_with_its_seed():
    truth = np.linalg.norm((np.indices((40, 70, 50)).T - (20, 35, 25)) * SPACING, axis=-1).T < 30

    def mask(seed):
        return first_prompt(truth, "mask", spacing=SPACING, rng=np.random.default_rng(seed)).mask

    assert 0.8 < dice(mask(1), truth) < 0.97 and (mask(1) == mask(1)).all() and (mask(1) != mask(2)).any()
    depth = ndimage.distance_transform_edt(truth, sampling=SPACING)
    assert mask(1)[depth > 12].all()
    assert isinstance(first_prompt(truth, "mask", spacing=SPACING, rng=np.random.default_rng(0)), InitialMask)
    with pytest.raises(ClickError, match="needs a random generator"):
        first_prompt(truth, "mask", spacing=SPACING)


def test_a_correcting_scribble_lies_in_the_error_that_a_click_would_go_to():
    for seed in range(20):
        truth, mask = blobs(seed), blobs(seed + 100)
        scribble, click = (next_prompt(truth, mask, kind, spacing=SPACING) for kind in ("scribble", "click"))
        assert click == next_click(truth, mask, spacing=SPACING)
        assert scribble.foreground == click.foreground
        assert scribble.obeyed_by(truth) and not scribble.obeyed_by(mask)
        error, _ = ndimage.label(truth & ~mask if click.foreground else mask & ~truth, np.ones((3, 3, 3)))
        assert set(error[tuple(scribble.voxels.T)].tolist()) == {error[click.ijk]}
    assert next_prompt(truth, truth, "scribble", spacing=SPACING) is None


def test_the_largest_slice_of_an_error_is_scribbled():
    truth = np.zeros((30, 30, 12), bool)
    truth[5:10, 5:10, 2:9] = truth[5:20, 5:10, 6] = True
    scribble = next_prompt(truth, np.zeros_like(truth), "scribble", spacing=SPACING)
    assert set(scribble.voxels[:, 2].tolist()) == {6} and scribble.foreground


@pytest.mark.parametrize("axis", range(3))
def test_by_slice_there_is_one_true_prompt_in_each_slice_of_the_target(axis):
    truth, mask = blobs(3, 0.04), blobs(4, 0.04)
    numbers = np.flatnonzero(truth.any(axis=tuple({0, 1, 2} - {axis}))).tolist()
    for kind, kept in (("click", Click), ("scribble", Scribble), ("box", Box), ("lasso", Lasso)):
        prompts = first_prompts_by_slice(truth, kind, axis, SPACING)
        assert [prompt.centre_ijk[axis] for prompt in prompts] == numbers
        assert all(isinstance(prompt, kept) and prompt.obeyed_by(truth) for prompt in prompts)
    corrections = next_prompts_by_slice(truth, mask, "scribble", axis, SPACING)
    wrong = (truth ^ mask).any(axis=tuple({0, 1, 2} - {axis}))
    assert [prompt.centre_ijk[axis] for prompt in corrections] == [number for number in numbers if wrong[number]]
    assert all(prompt.obeyed_by(truth) and not prompt.obeyed_by(mask) for prompt in corrections)


def test_unknown_kinds_and_empty_targets_are_refused():
    truth = blobs(0)
    assert first_prompt(truth, spacing=SPACING) == first_click(truth, spacing=SPACING)
    with pytest.raises(ClickError, match="unknown kind of prompt 'polygon'; expected one of click, scribble, box, "):
        first_prompt(truth, "polygon", spacing=SPACING)
    with pytest.raises(ClickError, match="unknown kind of correction 'box'; expected one of click, scribble"):
        next_prompt(truth, ~truth, "box", spacing=SPACING)
    with pytest.raises(ClickError, match="is empty: there is no target to prompt"):
        first_prompt(np.zeros_like(truth), "lasso", spacing=SPACING)
    with pytest.raises(ClickError, match="unknown kind of prompt 'box3d'"):
        first_prompts_by_slice(truth, "box3d", 2, SPACING)
    with pytest.raises(GeometryError, match="expected a bool array"):
        first_prompt(truth.astype(int), "box", spacing=SPACING)
