"""A session looks where the object is: finer for what is small, centred on what was found, and honest about windows."""

import threading

import numpy as np
import pytest
import torch
from ball_scene import BALLS_IJK, away_mm, dice, windows_of, with_balls
from conftest import oblique
from scipy import ndimage
from threshold_network import ThresholdNetwork

from seganypet.errors import ClickError
from seganypet.model.checkpoints import load_model
from seganypet.model.config import ModelConfig
from seganypet.pet.volume import Volume
from seganypet.phantom import make_phantom
from seganypet.prompting import first_prompt
from seganypet.prompting.look import FINEST_MM, LATTICE, MAX_COVER, cover, fitting_window, spacings_mm
from seganypet.prompting.prompts import InitialMask
from seganypet.prompting.session import Session
from seganypet.prompting.window_decoder import WindowDecoder
from seganypet.prompting.window_logits import WindowLogits, mask_extent_mm

SMALL_BALL = {"radius_mm": 9.0, "centres": (BALLS_IJK[1],)}


def test_a_small_lesion_is_found_without_options_that_the_networks_own_voxels_average_away():
    fine = oblique((2.0, 2.0, 2.5))
    volume, (lesion,) = with_balls(radius_mm=7.0, shape=(40, 40, 40), affine=fine, centres=((20, 20, 20),))
    assert dice(Session(ThresholdNetwork(), volume, spacing_mm=8).click(ijk=(20, 20, 20)), lesion) < 0.5
    for options in ({}, {"spacing_mm": 2}):
        mask = Session(ThresholdNetwork(), volume, **options).click(ijk=(20, 20, 20))
        assert mask.sum() == pytest.approx(lesion.sum(), rel=0.35) and dice(mask, lesion) > 0.85


def test_what_is_small_is_looked_at_in_a_finer_window_around_it():
    volume, (ball,) = with_balls(**SMALL_BALL)
    coarse, fine = (Session(ThresholdNetwork(), volume, spacing_mm=size) for size in (8.0, None))
    for session in (coarse, fine):
        session.click(ijk=BALLS_IJK[1])
    assert dice(fine.mask, ball) > 0.95 and dice(fine.mask, ball) >= dice(coarse.mask, ball)
    (window,) = windows_of(fine)
    assert FINEST_MM <= window.spacing_mm < 8.0 and window.contains_mm(volume.to_mm(BALLS_IJK[1]))


def test_a_click_beside_the_middle_gives_what_the_middle_gives():
    volume, (ball,) = with_balls(centres=BALLS_IJK[:1])
    inside = np.argwhere(away_mm(volume, BALLS_IJK[0]) < 16)  # the stand-in averages 16 mm
    masks = [
        Session(ThresholdNetwork(), volume).click(ijk=at)
        for at in (BALLS_IJK[0], *inside[[0, len(inside) // 3, -1]])
    ]
    assert all(dice(mask, ball) > 0.9 and dice(mask, masks[0]) > 0.95 for mask in masks)


class HalfSighted(ThresholdNetwork):
    """Takes for the whole those halves of it that hold a foreground click."""

    def mask(self, embedding, points_ijk, labels, threshold):
        whole = super().mask(embedding, points_ijk, labels, threshold)
        if not (whole > 0).any():
            return whole
        middle = np.argwhere(whole > 0)[:, 0].mean()
        clicked = points_ijk[labels == 1, 0].numpy() * len(whole) / self.config.window_size
        upper = (np.arange(len(whole)) > middle)[:, None, None]
        return np.where(upper & (clicked > middle).any() | ~upper & (clicked <= middle).any(), whole, -5)


def test_where_uptake_goes_on_beside_the_mask_the_network_is_asked_for_more(monkeypatch):
    volume, (ball,) = with_balls(radius_mm=56.0, centres=((32, 32, 42),))
    at = tuple(np.argwhere(away_mm(volume, (32, 32, 42)) < 40)[-1])
    mask = Session(HalfSighted(64, 4.0), volume).click(ijk=at)
    assert dice(mask, ball) > 0.95 and mask[at]
    monkeypatch.setattr(first_prompt, "GOES_ON", 0)
    assert dice(Session(HalfSighted(64, 4.0), volume).click(ijk=at), ball) < 0.8


def test_a_window_follows_what_was_found():
    volume, (ball,) = with_balls(centres=((32, 32, 42),), affine=oblique((5.0, 5.0, 5.0)))
    session = Session(ThresholdNetwork(), volume)
    session.click(ijk=(32, 32, 44))
    (window,) = windows_of(session)
    assert all(window.contains_mm(mm) for mm in volume.to_mm(np.argwhere(ball)))


def test_fixed_voxel_sizes_stay_fixed():
    volume, _ = with_balls(**SMALL_BALL)
    for fixed in (4.0, 8.0):
        session = Session(ThresholdNetwork(), volume, spacing_mm=fixed)
        session.click(ijk=BALLS_IJK[1])
        session.click(ijk=(20, 46, 46))
        assert {window.spacing_mm for window in windows_of(session)} == {fixed}
    session = Session(ThresholdNetwork(), volume, spacing_mm=8.0, min_spacing_mm=3.0)
    session.click(ijk=BALLS_IJK[1])
    assert 3.0 <= windows_of(session)[0].spacing_mm < 8.0


def test_a_network_of_z_scores_keeps_the_voxel_size_it_was_trained_with():
    network = ThresholdNetwork()
    network.config = ModelConfig(**{**network.config.__dict__, "intensity": "zscore_positive"})
    assert spacings_mm(network, None, None) == (8.0, 8.0, False)
    assert spacings_mm(network, None, 2.0) == (8.0, 2.0, False)
    volume, _ = with_balls(**SMALL_BALL)
    session = Session(network, volume)
    session.click(ijk=BALLS_IJK[1])
    assert [window.spacing_mm for window in windows_of(session)] == [8.0]


def test_further_clicks_stay_in_the_finer_window_and_undo_leads_back():
    volume, _ = with_balls(**SMALL_BALL)
    network = ThresholdNetwork()
    session = Session(network, volume, min_spacing_mm=2.0)
    first = session.click(ijk=BALLS_IJK[1])
    embedded = network.calls["embed"]
    assert not session.click(ijk=BALLS_IJK[1], foreground=False).any()
    assert network.calls["embed"] == embedded
    np.testing.assert_array_equal(session.undo(), first)


def test_a_click_far_beside_a_small_first_answer_opens_a_window_for_something_large():
    scene, (body,) = with_balls(radius_mm=90.0, centres=((32, 32, 42),))
    spot = away_mm(scene, (32, 32, 42)) <= 9
    volume = Volume(np.where(spot, 9.0, np.where(body, 5.0, scene.data)), scene.affine, "SUVbw")
    network = ThresholdNetwork()
    network.threshold[()] = 6.5  # it sees what is a little hotter alone
    session = Session(network, volume)
    session.click(ijk=(32, 32, 42))
    assert dice(session.mask, spot) > 0.8 and windows_of(session)[0].spacing_mm < 4.0
    network.threshold[()] = 2.7
    far = (32, 13, 42)  # 77 mm away: the window of the spot ends before
    assert dice(session.click(ijk=far), body) > 0.9
    assert {window.spacing_mm for window in windows_of(session)} == {8.0}


def test_a_click_on_a_second_small_thing_keeps_the_first_as_sharp_as_it_was():
    centres = BALLS_IJK[:2]
    volume, balls = with_balls(radius_mm=9.0, centres=centres)
    session = Session(ThresholdNetwork(), volume)
    first = session.click(ijk=centres[0])
    both = session.click(ijk=centres[1])
    np.testing.assert_array_equal(both & (away_mm(volume, centres[0]) < 40), first)
    assert dice(both, balls[0] | balls[1]) > 0.85
    assert {window.spacing_mm < 8.0 for window in windows_of(session)} == {True}


@pytest.mark.parametrize("suvs", [(30.0, 5.0), (5.0, 30.0), (8.0, 8.0)])
def test_a_hot_spot_takes_nothing_of_a_faint_one_clicked_before_it_or_after(suvs):
    volume, balls = with_balls(radius_mm=10.0, centres=((28, 32, 42), (37, 32, 42)))  # 37 mm apart
    data = np.where(balls[0], suvs[0], np.where(balls[1], suvs[1], volume.data))
    volume = Volume(ndimage.gaussian_filter(data, 0.6), volume.affine, "SUVbw")
    alone = [Session(ThresholdNetwork(), volume).click(ijk=ijk) for ijk in ((28, 32, 42), (37, 32, 42))]
    session = Session(ThresholdNetwork(), volume)
    session.click(ijk=(28, 32, 42))
    both = session.click(ijk=(37, 32, 42))
    for one, ball in zip(alone, balls, strict=True):
        assert dice(both & ball, one & ball) > 0.8


def test_two_spots_in_something_warm_do_not_become_all_of_it():
    spots = ((24, 32, 42), (44, 32, 42))  # 81 mm apart
    scene, balls = with_balls(radius_mm=16.0, centres=spots)
    body = away_mm(scene, (34, 32, 42)) <= 80
    volume = Volume(np.where(balls[0] | balls[1], 20.0, np.where(body, 5.0, scene.data)), scene.affine, "SUVbw")
    network = ThresholdNetwork()
    network.threshold[()] = 10.0
    session = Session(network, volume)
    session.click(ijk=spots[0])
    network.threshold[()] = 2.7  # what it sees in a wide window is all that is warm
    wide = {window.spacing_mm for window in windows_of(session)}
    session.click(ijk=spots[1])
    assert {window.spacing_mm for window in windows_of(session)} <= wide


def test_a_journal_with_several_looks_replays_to_the_same_masks(tmp_path):
    volume, _ = with_balls(**SMALL_BALL)
    session = Session(ThresholdNetwork(), volume, min_spacing_mm=2.0)
    session.click(ijk=BALLS_IJK[1])
    session.save_journal(tmp_path / "clicks.json")
    again = Session.replay(ThresholdNetwork(), volume, tmp_path / "clicks.json")
    assert again.min_spacing_mm == 2.0
    np.testing.assert_array_equal(again.mask, session.mask)


@pytest.mark.parametrize("name", ["spacing_mm", "min_spacing_mm"])
@pytest.mark.parametrize("size", [0, -1.0, 21, "fine", float("nan")])
def test_a_voxel_size_is_a_number_of_millimetres(name, size):
    volume, _ = with_balls(**SMALL_BALL)
    with pytest.raises(ClickError, match=f"^{name}=.*0.2 to 20 mm"):
        Session(ThresholdNetwork(), volume, **{name: size})


def test_windows_over_a_mask_hold_all_of_it_and_stay_few():
    spacing = (4.0, 3.0, 5.0)
    volume = Volume(np.ones((60, 60, 150)), oblique(spacing, left_handed=True), "SUVbw")
    mask = np.zeros(volume.shape, bool)
    mask[10:50, 20:40, 5:145] = True  # 700 mm long
    decoder = WindowDecoder(ThresholdNetwork(), volume, "float32")
    for fixed in (None, 8.0, 2.0, 0.2):
        windows = cover(decoder, InitialMask.pack(mask), spacings_mm(decoder.model, fixed, None))
        assert 0 < len(windows) <= MAX_COVER
        for ijk in np.argwhere(mask)[::997]:
            mm = volume.to_mm(ijk)
            held = [part for part in windows if part.window.contains_mm(mm)]
            assert held, f"{fixed} mm: nothing over {ijk}"
    some = sum(part.holds_mm(volume.to_mm((30, 30, 70))) for part in windows)
    assert some and not any(part.holds_mm(volume.to_mm((2, 2, 70))) for part in windows)


def test_the_extent_of_a_mask_holds_the_positions_too():
    volume, _ = with_balls(**SMALL_BALL)
    decoder = WindowDecoder(ThresholdNetwork(), volume, "float32")
    blank = decoder.blank(decoder.window(volume.to_mm(BALLS_IJK[1]), 8.0))
    mm = volume.to_mm(BALLS_IJK[1])
    low, high = mask_extent_mm(WindowLogits(blank.window, blank.logits - 1), [mm, mm + (1.0, -2.0, 3.0)])
    np.testing.assert_allclose((low, high), (mm + (0, -2, 0), mm + (1, 0, 3)))


def test_windows_decoded_together_get_what_each_gets_alone():
    volume, _ = with_balls(centres=BALLS_IJK[:2])
    points = [(volume.to_mm(BALLS_IJK[0]), True), (volume.to_mm((22, 20, 21)), False)]
    alone, together = (WindowDecoder(load_model("tiny"), volume, "float32") for _ in range(2))
    sizes = (4.0, 6.0, 1.5)  # the finest holds the first point alone
    centres = [volume.to_mm(at) for at in (BALLS_IJK[0], (26, 30, 30), (18, 18, 12))]
    parts = [together.blank(together.window(mm, size)) for mm, size in zip(centres, sizes, strict=True)]
    both = together.decode_all([*parts, parts[0]], points)
    for one, part in zip(both, [*parts, parts[0]], strict=True):
        expected = alone.decode(part, points)
        assert one.window == part.window and one.logits.shape == expected.logits.shape
        torch.testing.assert_close(one.logits, expected.logits, rtol=1e-3, atol=1e-3)
    assert together.decode_all([], points) == []


def test_a_window_moves_for_a_mask_that_lies_aside_and_not_for_one_step():
    volume = Volume(np.ones((90, 90, 90), np.float32), oblique((8.0, 8.0, 8.0)), "SUVbw")
    decoder = WindowDecoder(ThresholdNetwork(), volume, "float32")
    middle, scales = volume.to_mm((45, 45, 45)), spacings_mm(decoder.model, None, None)
    blank = decoder.blank(decoder.window(middle, 8.0))
    step_mm = blank.window.side_mm / LATTICE
    for shift_mm, moves in ((0.0, False), (step_mm, False), (2.5 * step_mm, True)):
        centres = np.stack(np.meshgrid(*[np.arange(16)] * 3, indexing="ij"), -1) @ blank.affine[:3, :3].T
        away = np.abs(centres + blank.affine[:3, 3] - (blank.window.centre_mm + (shift_mm, 0, 0))).max(-1)
        part = WindowLogits(blank.window, torch.from_numpy(np.where(away < 48, 3.0, -3.0)[None, None]).float())
        window = fitting_window(decoder, part, [(blank.window.centre_mm, True)], scales, np.inf)
        assert (window != blank.window) == moves
        assert all(window.contains_mm(blank.window.centre_mm + (shift_mm + side, 0, 0)) for side in (-48, 48))


@pytest.mark.parametrize("threads", [2, 3])
def test_the_number_of_threads_is_what_it_was_also_after_a_failure(threads):
    volume, _ = with_balls(**SMALL_BALL)
    network, before = ThresholdNetwork(), torch.get_num_threads()
    session = Session(network, volume)
    try:
        torch.set_num_threads(threads)
        session.click(ijk=BALLS_IJK[1])
        assert torch.get_num_threads() == threads
        network.fails = True
        with pytest.raises(RuntimeError, match="out of memory"):
            session.click(ijk=(20, 46, 46))
        assert torch.get_num_threads() == threads
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    finally:
        torch.set_num_threads(before)


def test_sessions_side_by_side_leave_the_number_of_threads_as_it_was():
    volume, (ball,) = with_balls(**SMALL_BALL)
    before, masks, counts = torch.get_num_threads(), [], []

    def click_and_undo():
        session = Session(ThresholdNetwork(), volume)
        for _ in range(5):
            masks.append(session.click(ijk=BALLS_IJK[1]))
            session.undo()
        counts.append(torch.get_num_threads())

    try:
        torch.set_num_threads(2)
        at_work = [threading.Thread(target=click_and_undo) for _ in range(4)]
        for one in at_work:
            one.start()
        for one in at_work:
            one.join()
        assert torch.get_num_threads() == 2 and counts == [2] * 4
        assert len(masks) == 20 and all(dice(mask, ball) > 0.85 for mask in masks)
    finally:
        torch.set_num_threads(before)


def test_the_shipped_network_finds_a_phantoms_liver_from_wherever_it_is_clicked():
    case = make_phantom(301)
    truth = case.organs == next(label for label, name in case.organ_names.items() if name == "liver")
    model, scores = load_model("tiny"), []
    for at in np.random.default_rng(0).permutation(np.argwhere(truth))[:3]:
        mask = Session(model, case.pet).click(ijk=at)
        assert mask[tuple(at)]
        scores.append(dice(mask, truth))
    assert np.median(scores) > 0.7
