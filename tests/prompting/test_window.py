"""Sampling a window from awkward grids and carrying logits back is exact where it can be."""

import numpy as np
import pytest
import torch
from conftest import oblique
from nibabel.affines import apply_affine
from scipy import ndimage

from seganypet.pet.volume import Volume
from seganypet.prompting import window as window_module
from seganypet.prompting.window import (
    Window,
    extent_mm,
    logits_on_grid,
    mask_on_grid,
    resample,
    sample_window,
    window_around,
)

GRIDS = {
    "oblique": oblique((4.07, 4.07, 3.0)),
    "oblique, left-handed": oblique((4.07, 4.07, 3.0), left_handed=True),
    "thick slices": oblique((3.0, 3.5, 8.0)),
    "thick slices, left-handed, axes swapped": oblique((8.0, 3.0, 3.5), left_handed=True)[:, [1, 2, 0, 3]],
}


@pytest.fixture(params=GRIDS)
def affine(request):
    return GRIDS[request.param]


def ramp(mm):
    """An intensity that is linear in millimetres, so trilinear interpolation reproduces it."""
    return np.asarray(mm) @ (0.02, -0.03, 0.05) + 30.0


def grid_mm(affine, shape):
    ijk = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    return ijk @ affine[:3, :3].T + affine[:3, 3]


def ramp_volume(affine, shape=(50, 50, 50), unit="SUVbw"):
    return Volume(ramp(grid_mm(affine, shape)), affine, unit)


def centre_of(volume):
    return volume.to_mm((np.array(volume.shape) - 1) / 2)


def test_a_linear_ramp_is_sampled_exactly_through_any_grid(affine):
    volume = ramp_volume(affine)
    window = window_around(volume, centre_of(volume), 16, 4.0)
    sampled = sample_window(volume, window)
    assert sampled.shape == (1, 1, 16, 16, 16) and sampled.dtype == torch.float32
    np.testing.assert_allclose(sampled[0, 0], ramp(grid_mm(window.affine, (16,) * 3)), rtol=0, atol=2e-4)


def test_a_linear_ramp_is_exact_where_fine_voxels_are_averaged():
    volume = ramp_volume(oblique((1.3, 2.0, 1.7), left_handed=True), (60, 40, 50))
    window = window_around(volume, centre_of(volume), 10, 4.0)
    np.testing.assert_allclose(
        sample_window(volume, window)[0, 0], ramp(grid_mm(window.affine, (10,) * 3)), rtol=0, atol=2e-4
    )


def test_averaging_fine_voxels_lowers_their_noise():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((60, 60, 60))
    fine = Volume(noise, np.diag([1.0, 1.0, 1.0, 1.0]), "SUVbw")
    coarse = Volume(noise, np.diag([4.0, 4.0, 4.0, 1.0]), "SUVbw")
    window = Window((10.0, 10.0, 10.0), 8, 4.0)
    # Three samples a side, each a mean over about a voxel: the noise is at most that of one voxel in 27, and a bit.
    assert sample_window(fine, window).std() < 0.25
    aligned = Window((20.0, 20.0, 20.0), 8, 4.0)
    np.testing.assert_allclose(sample_window(coarse, aligned)[0, 0], noise[5:13, 5:13, 5:13], atol=1e-5)


@pytest.mark.parametrize("unit, air", [("HU", -1024.0), ("SUVbw", 0.0), ("Bq/mL", 0.0)])
def test_outside_the_volume_lies_air(unit, air):
    volume = Volume(np.full((6, 7, 8), 40.0), oblique((4.0, 4.0, 3.0)), unit)
    sampled = sample_window(volume, window_around(volume, centre_of(volume), 32, 8.0))[0, 0]
    assert sampled[0, 0, 0] == air and sampled[-1, -1, -1] == air
    assert sampled.max() == pytest.approx(40.0, abs=1e-3)


def test_a_window_is_pushed_back_inside_a_volume_that_is_larger(affine):
    volume = ramp_volume(affine, (60, 60, 60))
    low, high = extent_mm(volume)
    for corner_ijk in ((0, 0, 0), (59, 0, 59), (59, 59, 59)):
        corners = window_around(volume, volume.to_mm(corner_ijk), 20, 4.0).corners_mm()
        assert (corners.min(0) >= low - 1e-6).all() and (corners.max(0) <= high + 1e-6).all()
        assert window_around(volume, volume.to_mm(corner_ijk), 20, 4.0).contains_mm(volume.to_mm(corner_ijk))


def test_a_window_is_centred_on_the_click_where_there_is_room(affine):
    volume = ramp_volume(affine, (70, 70, 70))
    corners = window_around(volume, centre_of(volume) + (1.0, -2.0, 3.0), 10, 4.0).corners_mm()
    np.testing.assert_allclose(corners.mean(0), centre_of(volume) + (1.0, -2.0, 3.0), atol=1e-6)


def test_a_window_is_centred_on_a_volume_that_is_smaller(affine):
    volume = ramp_volume(affine, (9, 10, 11))
    for click_ijk in ((0, 0, 0), (8, 9, 10)):
        corners = window_around(volume, volume.to_mm(click_ijk), 32, 4.0).corners_mm()
        np.testing.assert_allclose(corners.mean(0), centre_of(volume), atol=1e-6)
        np.testing.assert_allclose(np.ptp(corners, axis=0), 128.0)


def test_a_grid_with_fewer_voxels_fills_the_same_cube():
    window = Window((10.0, -20.0, 30.0), 64, 4.0)
    coarse = window.grid_affine(32)
    # Its first voxel covers the window's voxels 0 and 1, so its centre lies half a voxel (2 mm) further.
    np.testing.assert_allclose(coarse @ (0, 0, 0, 1), (12.0, -18.0, 32.0, 1))
    np.testing.assert_allclose(coarse @ (31, 31, 31, 1), window.affine @ (62.5, 62.5, 62.5, 1))
    np.testing.assert_allclose(window.to_window((10.0, -20.0, 34.0)), (0, 0, 1))


def test_a_ball_drawn_as_logits_comes_back_in_place_and_size(affine):
    volume = Volume(np.zeros((48, 48, 48)), affine, "SUVbw")
    centre_mm, radius_mm = centre_of(volume) + (3.3, -5.1, 4.7), 30.0
    window = window_around(volume, centre_of(volume), 64, 2.0)
    mask = mask_on_grid(volume, [(window, ball_logits(window, centre_mm, radius_mm))])
    apart = volume.to_ijk(volume.to_mm(np.argwhere(mask).mean(0))) - volume.to_ijk(centre_mm)
    assert np.abs(apart).max() < 0.2
    assert mask.sum() * volume.voxel_volume_ml == pytest.approx(4 / 3 * np.pi * 3.0**3, rel=0.03)


def ball_logits(window, centre_mm, radius_mm, size=32):
    mm = grid_mm(window.grid_affine(size), (size,) * 3)
    return torch.from_numpy(radius_mm - np.linalg.norm(mm - centre_mm, axis=-1)).float()[None, None]


def trilinear(values, at):
    """An independent trilinear interpolation at fractional indices (n, 3), all of them inside."""
    low = np.minimum(np.floor(at).astype(int), np.array(values.shape) - 2)
    t, total = at - low, 0.0
    for corner in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(corner, t, 1 - t), axis=1)
        total = total + weight * values[tuple((low + corner).T)]
    return total


def test_the_mask_of_one_window_is_the_sign_of_its_interpolated_logits(affine):
    volume = Volume(np.zeros((40, 40, 40)), affine, "SUVbw")
    window = window_around(volume, centre_of(volume), 32, 3.0)
    logits = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    places = volume.to_mm(np.argwhere(np.ones(volume.shape, bool)))
    at = (places - window.grid_affine(16)[:3, 3]) / 6.0  # low-resolution voxels of 6 mm
    inside = ((at >= 0) & (at <= 15)).all(1)
    expected = trilinear(logits[0, 0].double().numpy(), at[inside])
    clear = np.abs(expected) > 1e-4
    assert clear.sum() > 5000
    mask, back = mask_on_grid(volume, [(window, logits)]), logits_on_grid(volume, [(window, logits)])
    np.testing.assert_array_equal(mask.ravel()[inside][clear], (expected > 0)[clear])
    np.testing.assert_allclose(back.ravel()[inside], expected, atol=1e-3)


def test_far_from_every_window_there_is_no_mask_and_logits_are_zero(affine):
    volume = Volume(np.zeros((60, 60, 60)), affine, "SUVbw")
    window = window_around(volume, centre_of(volume), 16, 4.0)
    parts = [(window, torch.full((1, 1, 8, 8, 8), 3.0))]
    at = window.to_window(volume.to_mm(np.argwhere(np.ones(volume.shape, bool))))
    inside = ((at >= -0.5) & (at <= 15.5)).all(1)
    # Interpolation between the last logits and nothing reaches half a low-resolution voxel (1 voxel) out.
    far = ((at < -1.5) | (at > 16.5)).any(1)
    logits, mask = logits_on_grid(volume, parts).ravel(), mask_on_grid(volume, parts).ravel()
    np.testing.assert_allclose(logits[inside], 3.0, atol=1e-4)
    assert (logits[far] == 0).all() and not mask[far].any() and mask[inside].all()


def test_without_windows_there_is_no_mask():
    volume = Volume(np.zeros((4, 5, 6)), oblique((4.0, 4.0, 3.0)), "SUVbw")
    assert mask_on_grid(volume, []).shape == (4, 5, 6) and not mask_on_grid(volume, []).any()
    assert logits_on_grid(volume, []).dtype == np.float32 and not logits_on_grid(volume, []).any()


def test_half_overlapping_windows_blend_without_a_seam(affine):
    volume = Volume(np.zeros((60, 60, 60)), affine, "SUVbw")
    first = Window(tuple(centre_of(volume) - (80, 32, 32)), 32, 2.0)
    second = Window(tuple(centre_of(volume) - (48, 32, 32)), 32, 2.0)
    flat = [(first, torch.full((1, 1, 16, 16, 16), 1.0)), (second, torch.full((1, 1, 16, 16, 16), 3.0))]
    logits = logits_on_grid(volume, flat)
    at = first.to_window(volume.to_mm(np.argwhere(np.ones(volume.shape, bool))))
    line = (np.abs(at[:, 1:] - 15.5) < 4).all(1)  # along x through the middle of both
    x, values = at[line, 0], logits.ravel()[line]
    only_first, overlap, only_second = (x > 0) & (x < 14), (x > 17) & (x < 31), (x > 33) & (x < 46)
    np.testing.assert_allclose(values[only_first], 1.0, atol=1e-4)
    np.testing.assert_allclose(values[only_second], 3.0, atol=1e-4)
    order = np.argsort(x[overlap])
    blended = values[overlap][order]
    # From one opinion to the other, straight: two triangular weights that sum to a constant.
    np.testing.assert_allclose(blended, 1 + 2 * (x[overlap][order] - 15.5) / 16, atol=0.12)


def test_two_windows_that_agree_say_what_one_says(affine):
    volume = Volume(np.zeros((60, 60, 60)), affine, "SUVbw")
    centre_mm = centre_of(volume)
    first, second = (window_around(volume, centre_mm + (shift, 0, 0), 32, 3.0) for shift in (-24.0, 24.0))
    parts = [(window, ball_logits(window, centre_mm, 22.0)) for window in (first, second)]
    one, both = mask_on_grid(volume, parts[:1]), mask_on_grid(volume, parts)
    assert one.sum() > 300
    assert 2 * (one & both).sum() / (one.sum() + both.sum()) > 0.98


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_mask_is_where_the_logits_are_positive_however_few_there_are(affine, count):
    volume = Volume(np.zeros((50, 50, 50)), affine, "SUVbw")
    generator = torch.Generator().manual_seed(count)
    for positive in (1, 3, 40):
        parts = []
        for shift_mm in (0.0, 30.0, -25.0)[:count]:
            logits = -torch.rand(1, 1, 16, 16, 16, generator=generator)
            logits.view(-1)[torch.randint(0, 16**3, (positive,), generator=generator)] = 4.0
            parts.append((window_around(volume, centre_of(volume) + shift_mm, 32, 3.0), logits))
        mask, logits = mask_on_grid(volume, parts), logits_on_grid(volume, parts)
        assert mask.any() and not mask.all()
        clear = np.abs(logits) > 1e-5
        np.testing.assert_array_equal(mask[clear], logits[clear] > 0)
        assert not mask[logits == 0].any()


def placed(values, source_affine, target_affine, shape, pool):
    """An independent trilinear `resample`, with zeros outside, then means over blocks."""
    ijk = apply_affine(np.linalg.inv(source_affine) @ target_affine, np.argwhere(np.ones(shape, bool)))
    sampled = ndimage.map_coordinates(values, ijk.T, order=1, mode="grid-constant").reshape(shape)
    (i, j, k) = np.array(shape) // pool
    return sampled.reshape(i, pool, j, pool, k, pool).mean((1, 3, 5))


def turned(spacing, order=(0, 1, 2), flips=(1, 1, 1), start=(0.0, 0.0, 0.0), turn=None):
    affine = np.eye(4)
    affine[:3, :3] = (np.diag(np.multiply(spacing, flips)) if turn is None else turn @ np.diag(spacing))[:, list(order)]
    affine[:3, 3] = start
    return affine


SOURCE = np.random.default_rng(5).normal(0, 1, (11, 14, 9))


def both_ways(target_affine, shape, pool, source_affine, monkeypatch):
    """What `resample` gives, whether the quick way, along axes, was taken, and what is expected."""
    taken, quick = [], window_module._resample_along_axes
    monkeypatch.setattr(window_module, "_resample_along_axes", lambda *given: taken.append(1) or quick(*given))
    values = torch.from_numpy(np.stack([SOURCE, 3 - SOURCE])).float()[None]
    found = resample(values, source_affine, target_affine, list(shape), pool)
    assert found.shape == (1, 2, *np.array(shape) // pool)
    for channel, source in enumerate((SOURCE, 3 - SOURCE)):
        expected = placed(source, source_affine, target_affine, shape, pool)
        np.testing.assert_allclose(found[0, channel], expected, rtol=0, atol=1e-4)
    return bool(taken)


@pytest.mark.parametrize("pool", [1, 2, 3])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, -1, -1)])
def test_between_parallel_grids_samples_are_trilinear_whatever_way_axes_run(pool, order, flips, monkeypatch):
    source = turned((4.07, 3.0, 5.5), flips=flips, start=(10, -20, 30))
    for spacing in ((2.0, 2.0, 2.0), (1.3, 7.0, 4.0)):
        start = apply_affine(source, (5, 7, 4)) - 12 * np.array(spacing)[list(order)]
        target = turned(spacing, order=order, start=start)
        assert both_ways(target, (24, 18, 30), pool, source, monkeypatch)
    # Also where both grids are turned alike, though oblique to the patient.
    alike = oblique((1.0, 1.0, 1.0), left_handed=flips[0] < 0)
    assert both_ways(alike @ target, (24, 18, 30), pool, alike @ source, monkeypatch)


@pytest.mark.parametrize("pool", [1, 2, 3])
@pytest.mark.parametrize("degrees", [0.01, 1.0, 20.0, 45.0])
def test_between_grids_that_are_turned_samples_are_trilinear_too(pool, degrees, monkeypatch):
    a = np.deg2rad(degrees)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    source = turned((4.07, 3.0, 5.5), start=(10, -20, 30))
    target = turned((2.0, 2.0, 2.5), start=apply_affine(source, (3, 4, 2)), turn=turn)
    assert not both_ways(target, (24, 18, 12), pool, source, monkeypatch)


def test_far_outside_there_is_nothing_by_either_way(monkeypatch):
    source = turned((4.0, 4.0, 4.0))
    for start in ((500.0, 0, 0), (0, -500.0, 0)):
        both_ways(turned((2.0, 2.0, 2.0), start=start), (4, 4, 4), 1, source, monkeypatch)
        assert not resample(torch.ones(1, 1, 5, 5, 5), source, turned((2.0,) * 3, start=start), [4, 4, 4]).any()
