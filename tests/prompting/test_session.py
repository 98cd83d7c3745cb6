"""A session does what a user expects of clicks, undo, objects and organs longer than its window."""

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import oblique
from threshold_network import ThresholdNetwork

from seganypet.errors import ClickError, SegAnyPETError, UnitError
from seganypet.model.config import ModelConfig
from seganypet.model.sam3d import Sam3D
from seganypet.pet.volume import Volume, load_volume, save_volume
from seganypet.prompting import base as clicking
from seganypet.prompting.session import MAX_WINDOWS, Session, WindowLogits, drop_orphan_windows
from seganypet.prompting.window import Window

AFFINE = oblique((4.07, 4.07, 3.0), left_handed=True)
HOT, COLD = 8.0, 0.5
BALLS_IJK = ((20, 20, 20), (20, 45, 45), (45, 20, 60))


def with_balls(radius_mm=32.0, shape=(64, 64, 84), affine=AFFINE, centres=BALLS_IJK):
    """A volume with hot balls, and the mask of each."""
    volume = Volume(np.full(shape, COLD), affine, "SUVbw", source="balls")
    mm = volume.to_mm(np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1))
    balls = [np.linalg.norm(mm - volume.to_mm(ijk), axis=-1) <= radius_mm for ijk in centres]
    return Volume(np.where(np.any(balls, 0), HOT, COLD), affine, "SUVbw", source="balls"), balls


@pytest.fixture(scope="module")
def scene():
    return with_balls()


@pytest.fixture
def network():
    return ThresholdNetwork()


@pytest.fixture
def session(scene, network):
    return Session(network, scene[0])


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def everything(session):
    """All that a user can see, for comparing bit for bit."""
    seen = {name: session.logits_of(name).tobytes() for name in session.objects}
    return session.active, session.objects, session.clicks, session.mask.tobytes(), session.labels.tobytes(), seen


def test_a_click_in_a_ball_gives_that_ball_on_the_grid_of_the_volume(session, scene):
    volume, balls = scene
    for ball, centre in zip(balls, BALLS_IJK, strict=True):
        mask = session.click(ijk=centre)
        assert mask.dtype == bool and mask.shape == volume.shape
        np.testing.assert_array_equal(mask, session.mask)
        assert dice(mask, ball) > 0.85
        session.reset()


def test_millimetres_and_voxels_of_one_place_are_one_click(scene):
    volume, _ = scene
    by_ijk, by_mm = (Session(ThresholdNetwork(), volume) for _ in range(2))
    first = by_ijk.click(ijk=BALLS_IJK[1])
    np.testing.assert_array_equal(by_mm.click(mm=volume.to_mm(BALLS_IJK[1]) + 0.4), first)
    assert by_ijk.clicks == by_mm.clicks


def test_before_any_click_the_mask_is_empty(session, scene):
    assert session.mask.shape == scene[0].shape and not session.mask.any()
    assert session.objects == () and session.masks == {} and not session.labels.any()


def test_every_further_click_in_a_window_embeds_nothing(session, network):
    for ijk, foreground in ((BALLS_IJK[0], True), (BALLS_IJK[1], True), (BALLS_IJK[1], False), ((22, 20, 21), True)):
        session.click(ijk=ijk, foreground=foreground)
    assert network.calls == {"embed": 1, "decode": 4}
    session.undo()
    session.redo()
    session.reset()
    session.click(ijk=BALLS_IJK[0])
    assert network.calls == {"embed": 1, "decode": 5}


def test_the_logits_of_the_click_before_are_fed_back(session, network):
    session.click(ijk=BALLS_IJK[0])
    session.click(ijk=BALLS_IJK[1])
    first, second = network.previous
    assert not first.any() and (second > 0).any() and (second < 0).any()


def test_a_negative_click_takes_away_and_a_positive_one_adds(session, scene):
    _, balls = scene
    session.click(ijk=BALLS_IJK[0])
    both = session.click(ijk=BALLS_IJK[1])
    assert dice(both, balls[0] | balls[1]) > 0.85
    only_first = session.click(ijk=BALLS_IJK[1], foreground=False)
    assert dice(only_first, balls[0]) > 0.85 and not (only_first & balls[1]).any()
    assert [click.foreground for click in session.clicks] == [True, True, False]


def test_undo_and_redo_restore_everything_exactly(session):
    states = [everything(session)]
    for name, ijk, foreground in (
        ("spleen", BALLS_IJK[0], True), ("spleen", BALLS_IJK[1], True), ("kidney", BALLS_IJK[2], True),
        ("spleen", BALLS_IJK[1], False),
    ):  # fmt: skip
        session.select(name)
        session.click(ijk=ijk, foreground=foreground)
        states.append(everything(session))
    for state in (states[3], states[2], states[1]):
        mask = session.undo()
        np.testing.assert_array_equal(mask, session.mask)
        session.select(state[0])
        assert everything(session) == state
    for state in states[2:]:
        session.redo()
        assert everything(session) == state
    for _ in range(4):
        session.undo()
    session.select(states[0][0])
    assert everything(session) == states[0]


def test_undo_shows_the_object_whose_click_it_took_back(session):
    session.select("spleen")
    session.click(ijk=BALLS_IJK[0])
    session.select("kidney")
    assert not session.undo().any()
    assert session.active == "spleen" and session.objects == ()


def test_redo_shows_the_object_that_it_changes(session):
    session.select("spleen")
    mask = session.click(ijk=BALLS_IJK[0])
    session.select("kidney")
    session.undo()
    session.select("liver")
    np.testing.assert_array_equal(session.redo(), mask)
    assert session.active == "spleen"


def test_a_new_click_ends_redo_and_a_refused_one_does_not(session):
    session.click(ijk=BALLS_IJK[0])
    session.undo()
    with pytest.raises(ClickError):
        session.click(ijk=(999, 0, 0))
    session.redo()
    session.undo()
    session.click(ijk=BALLS_IJK[1])
    with pytest.raises(ClickError, match="nothing to redo"):
        session.redo()


def test_several_objects_share_one_label_map_in_the_order_of_their_first_clicks(session, scene):
    _, balls = scene
    for name, ijk in (("kidney", BALLS_IJK[2]), ("spleen", BALLS_IJK[0]), ("kidney", (44, 20, 60))):
        session.select(name)
        session.click(ijk=ijk)
    assert session.objects == ("kidney", "spleen") and session.active == "kidney" and len(session.clicks) == 2
    assert session.labels.dtype == np.uint8
    np.testing.assert_array_equal(session.labels == 1, session.masks["kidney"])
    np.testing.assert_array_equal(session.labels == 2, session.mask_of("spleen"))
    assert dice(session.labels == 1, balls[2]) > 0.85 and dice(session.labels == 2, balls[0]) > 0.85
    session.select("both")
    session.click(ijk=BALLS_IJK[0])  # the same ball under another name: the later wins
    assert not (session.labels == 2).any() and (session.labels == 3).sum() == session.mask.sum()


def test_a_session_holds_no_more_objects_than_its_label_map(session, monkeypatch):
    assert np.iinfo(session.labels.dtype).max == clicking.MAX_OBJECTS
    monkeypatch.setattr(clicking, "MAX_OBJECTS", 2)
    for name in ("one", "two"):
        session.select(name)
        session.click(ijk=BALLS_IJK[0])
    session.click(ijk=BALLS_IJK[1])
    session.select("three")
    with pytest.raises(ClickError, match="three: a session holds 2 objects"):
        session.click(ijk=BALLS_IJK[0])
    assert session.objects == ("one", "two")


def test_a_session_that_was_reset_is_as_new_and_undo_brings_its_clicks_back(scene, network):
    session, fresh = Session(network, scene[0]), Session(network, scene[0])
    for one in (session, fresh):
        one.select("spleen")
    session.click(ijk=BALLS_IJK[0])
    before = everything(session)
    session.reset()
    assert everything(session) == everything(fresh)
    session.undo()
    assert everything(session) == before
    session.redo()
    np.testing.assert_array_equal(session.click(ijk=BALLS_IJK[1]), fresh.click(ijk=BALLS_IJK[1]))


def test_a_removed_object_is_forgotten_and_undo_brings_it_back(session):
    for name, ijk in (("spleen", BALLS_IJK[0]), ("kidney", BALLS_IJK[1]), ("spleen", BALLS_IJK[0])):
        session.select(name)
        session.click(ijk=ijk)
    before = everything(session)
    session.select("kidney")
    session.remove("spleen")
    assert session.objects == ("kidney",) and session.clicks_of("spleen") == () and session.active == "kidney"
    session.undo()
    assert everything(session) == before
    with pytest.raises(ClickError, match="no object 'liver' to remove; there are spleen, kidney"):
        session.remove("liver")


def test_an_object_keeps_its_new_name_through_undo_and_redo(session):
    mask = session.click(ijk=BALLS_IJK[0])
    session.click(ijk=BALLS_IJK[0])
    session.rename("object 1", "spleen")
    assert session.objects == ("spleen",) and session.active == "spleen" and len(session.clicks) == 2
    session.undo()
    np.testing.assert_array_equal(session.mask_of("spleen"), mask)
    session.redo()
    session.select("kidney")
    session.rename("kidney", "left kidney")  # not clicked yet
    assert session.active == "left kidney" and session.objects == ("spleen",)


def test_a_name_that_is_taken_or_was_before_an_undo_is_refused(session):
    for name in ("spleen", "kidney"):
        session.select(name)
        session.click(ijk=BALLS_IJK[0])
    with pytest.raises(ClickError, match="cannot rename 'spleen': .* named 'kidney'"):
        session.rename("spleen", "kidney")
    session.undo()
    with pytest.raises(ClickError, match="before an undo was, named 'kidney'"):  # redo would bring a second one
        session.rename("spleen", "kidney")
    for old, new in (("liver", "lung"), ("spleen", " ")):
        with pytest.raises(ClickError):
            session.rename(old, new)
    assert session.objects == ("spleen",)


def test_watchers_hear_of_every_change_and_of_nothing_that_failed(session):
    heard = []
    session.watchers.append(lambda: heard.append((session.active, len(session.clicks))))
    session.select("spleen")
    session.click(ijk=BALLS_IJK[0])
    with pytest.raises(ClickError):
        session.click(ijk=(999, 0, 0))
    session.rename("spleen", "milt")
    session.undo()
    session.redo()
    session.remove("milt")
    session.undo()
    session.reset()
    clicks = [("spleen", 0), ("spleen", 1), ("milt", 1), ("milt", 0), ("milt", 1), ("milt", 0), ("milt", 1)]
    assert heard == [*clicks, ("milt", 0)]


@pytest.mark.parametrize("ijk", [BALLS_IJK[0], (2, 2, 2)], ids=["in a known window", "in a new window"])
def test_a_network_that_fails_leaves_the_session_as_it_was(network, ijk):
    volume, _ = with_balls(shape=(100, 64, 84), centres=((20, 20, 20), (80, 40, 60)))
    session = Session(network, volume)
    session.click(ijk=(80, 40, 60))
    before = everything(session)
    network.fails = True
    with pytest.raises(RuntimeError, match="out of memory"):
        session.click(ijk=ijk)
    assert everything(session) == before
    network.fails = False
    session.click(ijk=ijk)
    session.undo()
    assert everything(session) == before


def tube(length_mm, affine=AFFINE, shape=(60, 60, 180), radius_mm=30.0):
    """A hot tube along k through the middle of the grid, and its mask."""
    volume = Volume(np.zeros(shape), affine, "SUVbw")
    spacing = np.array(volume.spacing)
    from_middle = (np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
                   - (np.array(shape) - 1) / 2) * spacing  # fmt: skip
    inside = (np.hypot(from_middle[..., 0], from_middle[..., 1]) < radius_mm) & (
        np.abs(from_middle[..., 2]) < length_mm / 2
    )
    return Volume(np.where(inside, HOT, COLD), affine, "SUVbw"), inside


def test_an_object_longer_than_the_window_is_whole_after_one_click(network):
    volume, inside = tube(400.0)  # the window is 256 mm
    session = Session(network, volume)
    mask = session.click(ijk=(30, 30, 60))
    assert network.calls["embed"] >= 2
    assert dice(mask, inside) > 0.85
    ends = np.flatnonzero(mask.any((0, 1)))[[0, -1]], np.flatnonzero(inside.any((0, 1)))[[0, -1]]
    assert np.abs(np.subtract(*ends)).max() * 3.0 <= 16.0  # one voxel of its logits
    assert mask[29:31, 29:31, ends[1][0] + 6 : ends[1][1] - 5].all()  # nowhere cut or thinned between
    # And undo takes back the windows that growth opened.
    session.click(ijk=(30, 30, 62))
    np.testing.assert_array_equal(session.undo(), mask)
    assert not session.undo().any()


def test_every_window_is_embedded_once_while_it_grows_and_never_again(network):
    volume, _ = tube(400.0)
    session = Session(network, volume)
    session.click(ijk=(30, 30, 60))
    embedded = network.calls["embed"]
    session.click(ijk=(30, 30, 110))
    session.click(ijk=(30, 31, 40))
    assert network.calls["embed"] == embedded


class EveryBrightIsland(ThresholdNetwork):
    """Marks all that is bright in a window, whatever was clicked."""

    def decode(self, embedding, points_ijk, labels, previous_logits):
        above = embedding[0, 0].float() - torch.log1p(self.threshold)
        return 5 * above[None, None], torch.ones(1, 1)


def test_a_window_that_growth_opened_continues_the_object_and_begins_no_other():
    volume, inside = tube(400.0)
    data = volume.data.copy()
    data[46:54, 26:34, 146:154] = HOT  # beyond the first window, apart from the tube
    data[46:54, 26:34, 56:64] = HOT  # beside the tube in the window that was clicked: the network's own opinion
    session = Session(EveryBrightIsland(), Volume(data, volume.affine, "SUVbw"))
    mask = session.click(ijk=(30, 30, 60))
    assert mask[30, 30, 150] and dice(mask[:45], inside[:45]) > 0.85, "the tube is whole"
    assert mask[50, 30, 60] and not mask[50, 30, 150]
    assert session.click(ijk=(50, 30, 150))[50, 30, 150], "a click of its own brings it"


def test_an_object_inside_its_window_opens_no_other(network):
    volume, inside = tube(150.0)
    assert dice(Session(network, volume).click(ijk=(30, 30, 90)), inside) > 0.85
    assert network.calls["embed"] == 1


@pytest.mark.parametrize("affine", [AFFINE, np.diag([-4.0, 4.0, 3.0, 1.0])], ids=["oblique", "straight"])
def test_an_object_cut_by_the_volume_itself_opens_no_other_window(network, affine):
    volume, inside = tube(400.0, affine, shape=(40, 40, 60))  # the whole scan fits into the window
    mask = Session(network, volume).click(ijk=(20, 20, 30))
    assert mask[20, 20, 2:-2].all() and dice(mask, inside) > 0.85
    assert network.calls["embed"] == 1


def test_a_mask_at_the_end_of_a_long_scan_does_not_grow_out_of_it(network):
    volume = Volume(np.full((64, 64, 200), COLD), np.diag([4.0, 4.0, 3.0, 1.0]), "SUVbw")
    data = volume.data.copy()
    data[20:44, 20:44, :30] = HOT
    mask = Session(network, Volume(data, volume.affine, "SUVbw")).click(ijk=(32, 32, 5))
    assert mask[32, 32, :28].all() and not mask[:, :, 36:].any()
    assert network.calls["embed"] == 1


def test_growth_that_runs_away_stops_and_warns_where_the_click_was_made(network):
    volume = Volume(np.full((90, 90, 90), HOT), np.diag([8.0, 8.0, 8.0, 1.0]), "SUVbw")
    session = Session(network, volume)
    session.select("liver")
    with pytest.warns(UserWarning, match="liver still meets the border of its 12 windows.*undo") as caught:
        session.click(ijk=(45, 45, 45))
    assert network.calls["embed"] == MAX_WINDOWS == 12
    assert caught[0].filename == __file__


def test_a_finer_window_finds_what_the_usual_one_averages_away(network):
    fine = oblique((2.0, 2.0, 2.5))
    volume, (lesion,) = with_balls(radius_mm=7.0, shape=(40, 40, 40), affine=fine, centres=((20, 20, 20),))
    assert not Session(network, volume).click(ijk=(20, 20, 20)).any()
    mask = Session(network, volume, spacing_mm=2).click(ijk=(20, 20, 20))
    assert mask.sum() == pytest.approx(lesion.sum(), rel=0.35) and dice(mask, lesion) > 0.85


def test_a_saved_mask_lies_on_the_grid_of_the_file_it_was_drawn_on(tmp_path, scene, network):
    save_volume(tmp_path / "pet.nii.gz", scene[0])
    session = Session(network, load_volume(tmp_path / "pet.nii.gz", unit="SUVbw"))
    session.click(ijk=BALLS_IJK[0])
    session.save(tmp_path / "one.nii.gz")
    session.select("second")
    session.click(ijk=BALLS_IJK[1])
    session.save(tmp_path / "two.nii.gz")
    given, one, two = (nib.load(tmp_path / name) for name in ("pet.nii.gz", "one.nii.gz", "two.nii.gz"))
    assert given.affine.tobytes() == one.affine.tobytes() == two.affine.tobytes()
    assert one.get_data_dtype() == two.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(one.dataobj), session.mask_of("object 1"))
    np.testing.assert_array_equal(np.asarray(two.dataobj), session.labels)


def test_a_network_of_absolute_suv_refuses_other_units_and_others_do_not(scene, network):
    other = Volume(scene[0].data, AFFINE, "Bq/mL", source="case7")
    with pytest.raises(UnitError, match="case7 is in Bq/mL, but threshold was trained on SUVbw"):
        Session(network, other)
    network.config = ModelConfig(**{**network.config.__dict__, "intensity": "zscore_positive"})
    Session(network, other)


def test_bfloat16_is_used_when_asked_for_and_changes_logits_little():
    torch.manual_seed(0)
    model = Sam3D(ModelConfig(window_size=32, encoder_dim=32, encoder_depth=1, encoder_heads=2, prompt_dim=48)).eval()
    volume, _ = with_balls(shape=(24, 24, 30), centres=((12, 12, 15),))  # all of it fits into the window
    exact, rounded = (Session(model, volume, precision=precision) for precision in ("float32", "bfloat16"))
    exact.click(ijk=(12, 12, 15))
    rounded.click(ijk=(12, 12, 15))
    difference = np.abs(exact.logits_of("object 1") - rounded.logits_of("object 1"))
    assert 0 < difference.max() < 0.1 * np.abs(exact.logits_of("object 1")).max()
    assert Session(model, volume).precision in ("float32", "bfloat16")


def test_windows_that_grew_out_of_a_leak_close_when_the_leak_is_taken_back():
    def part(x_mm, inside, seeds=()):
        logits = torch.full((1, 1, 8, 8, 8), 1.0 if inside else -1.0)
        return WindowLogits(Window((x_mm, 0.0, 0.0), 16, 4.0), logits, seeds)

    clicked = part(0.0, inside=True)
    grown = part(32.0, True, seeds=((48.0, 20.0, 20.0),))
    grown_again = part(64.0, True, seeds=((80.0, 20.0, 20.0),))
    assert drop_orphan_windows((clicked, grown, grown_again)) == (clicked, grown, grown_again)
    corrected = part(0.0, inside=False)
    assert drop_orphan_windows((corrected, grown, grown_again)) == (corrected,)
    assert drop_orphan_windows((clicked, part(32.0, False, grown.seeds_mm), grown_again))[2:] == ()


def test_a_session_on_something_else_says_what_it_needs(oblique_affine):
    volume = Volume(np.ones((4, 4, 4)), oblique_affine, "HU", source="ct7")
    with pytest.raises(SegAnyPETError, match="got str and Volume"):
        Session("tiny-base", volume)
    with pytest.raises(SegAnyPETError, match="and str"):
        Session(ThresholdNetwork(), "SUV.nii.gz")
    with pytest.raises(UnitError, match="ct7 is a CT in HU.*Load the PET"):
        Session(ThresholdNetwork(), volume)


# ---- a second look at what is small

SMALL_BALL = {"radius_mm": 9.0, "centres": (BALLS_IJK[1],)}


def test_what_is_small_is_looked_at_again_in_a_finer_window_around_it():
    volume, (ball,) = with_balls(**SMALL_BALL)
    coarse, fine = (Session(ThresholdNetwork(), volume, min_spacing_mm=finest) for finest in (None, 2.0))
    for session in (coarse, fine):
        session.click(ijk=BALLS_IJK[1])
    assert dice(fine.mask, ball) > 0.85 > dice(coarse.mask, ball)
    (part,) = fine._state.predictions[fine.active]
    assert part.window.spacing_mm == pytest.approx(2.0) and part.window.contains_mm(volume.to_mm(BALLS_IJK[1]))


def test_what_is_large_gets_no_second_look(scene):
    volume, balls = scene
    network = ThresholdNetwork()
    session = Session(network, volume, min_spacing_mm=6.5)  # hardly finer than the network's 8 mm
    session.click(ijk=BALLS_IJK[0])
    assert network.calls["embed"] == 1 and dice(session.mask, balls[0]) > 0.85


def test_further_clicks_stay_in_the_finer_window_and_undo_leads_back():
    volume, (ball,) = with_balls(**SMALL_BALL)
    network = ThresholdNetwork()
    session = Session(network, volume, min_spacing_mm=2.0)
    first = session.click(ijk=BALLS_IJK[1])
    embedded = network.calls["embed"]
    assert not session.click(ijk=BALLS_IJK[1], foreground=False).any()
    assert network.calls["embed"] == embedded
    session.undo()
    np.testing.assert_array_equal(session.mask, first)


def test_a_journal_with_second_looks_replays_to_the_same_masks(tmp_path):
    volume, _ = with_balls(**SMALL_BALL)
    session = Session(ThresholdNetwork(), volume, min_spacing_mm=2.0)
    session.click(ijk=BALLS_IJK[1])
    session.save_journal(tmp_path / "clicks.json")
    again = Session.replay(ThresholdNetwork(), volume, tmp_path / "clicks.json")
    assert again.min_spacing_mm == 2.0
    np.testing.assert_array_equal(again.mask, session.mask)


@pytest.mark.parametrize("size", [0, -1.0, 21, "fine", float("nan")])
def test_a_second_look_needs_a_voxel_size(scene, size):
    with pytest.raises(ClickError, match="min_spacing_mm=.*0.2 to 20 mm"):
        Session(ThresholdNetwork(), scene[0], min_spacing_mm=size)
