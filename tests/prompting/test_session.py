"""A session does what a user expects of clicks, undo, objects and organs longer than its window."""

import nibabel as nib
import numpy as np
import pytest
import torch
from ball_scene import AFFINE, BALLS_IJK, dice, with_balls
from make_dicom import write_series
from threshold_network import ThresholdNetwork

from seganypet.errors import ClickError, SegAnyPETError, UnitError
from seganypet.model.config import ModelConfig
from seganypet.model.sam3d import Sam3D
from seganypet.pet.mask_files import load_masks
from seganypet.pet.volume import Volume, load_volume, save_volume
from seganypet.prompting import base as clicking
from seganypet.prompting.session import Session


@pytest.fixture(scope="module")
def scene():
    return with_balls()


@pytest.fixture
def network():
    return ThresholdNetwork()


@pytest.fixture
def session(scene, network):
    return Session(network, scene[0])


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


def test_no_window_is_embedded_twice_and_none_for_a_negative_click(session, network):
    def click_all():
        for ijk, foreground in ((BALLS_IJK[0], True), ((20, 20, 21), True), (BALLS_IJK[1], False)):
            before = network.calls["embed"]
            session.click(ijk=ijk, foreground=foreground)
            assert foreground or network.calls["embed"] == before

    click_all()
    embedded = network.calls["embed"]
    session.undo()
    session.redo()
    session.reset()
    click_all()
    assert network.calls["embed"] == embedded


def test_the_logits_of_the_click_before_are_fed_back(session, network):
    session.click(ijk=BALLS_IJK[0])
    assert not network.previous[0].any()
    decoded, (part,) = len(network.previous), session._state.predictions[session.active].windows
    session.click(ijk=BALLS_IJK[0], foreground=False)
    assert torch.equal(network.previous[decoded], part.logits) and (part.logits > 0).any()


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


def overlapping(network, volume):
    """A session with two objects of which the second covers part of the first."""
    session = Session(network, volume)
    for name, prompts in (("lesion", BALLS_IJK[:1]), ("liver", BALLS_IJK[:2])):
        session.select(name)
        for ijk in prompts:
            session.click(ijk=ijk)
    return session


def test_a_saved_label_map_names_its_objects_and_says_what_went_to_which(tmp_path, scene, network):
    session = overlapping(network, scene[0])
    shared = int((session.mask_of("lesion") & session.mask_of("liver")).sum())
    assert shared > 0
    drawn = session.mask_of("lesion").sum()
    with pytest.warns(UserWarning, match=rf"{shared} of {drawn} voxels of 'lesion' also belong to 'liver'") as caught:
        session.save(tmp_path / "mask.nii.gz")
    assert caught[0].filename == __file__
    assert list(load_masks(tmp_path / "mask.nii.gz", scene[0])) in (["lesion", "liver"], ["liver"])
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "mask.nii.gz").dataobj), session.labels)


def test_a_removed_and_redrawn_object_has_its_name_in_the_file(tmp_path, scene, network):
    session = Session(network, scene[0])
    for name, ijk in (("kidney_left", BALLS_IJK[0]), ("kidney_right", BALLS_IJK[1])):
        session.select(name)
        session.click(ijk=ijk)
    session.remove("kidney_left")
    session.select("kidney_left")
    session.click(ijk=BALLS_IJK[0])
    session.save(tmp_path / "mask.nii.gz")
    found = load_masks(tmp_path / "mask.nii.gz", scene[0])
    assert list(found) == ["kidney_right", "kidney_left"]
    assert found["kidney_left"][BALLS_IJK[0]] and found["kidney_right"][BALLS_IJK[1]]


@pytest.mark.parametrize("name", ["masks.seg.nrrd", "seg.dcm", "RTSTRUCT.dcm", ""])
def test_other_files_keep_objects_that_overlap(tmp_path, scene, network, name):
    write_series(tmp_path / "pet", np.zeros(scene[0].shape, np.int16), AFFINE, change=identify)
    session = overlapping(network, scene[0])
    reference = tmp_path / "pet" if name.endswith(".dcm") else None
    (tmp_path / "out").mkdir()
    session.save(tmp_path / "out" / name, reference=reference)
    found = load_masks(tmp_path / "out" / name, scene[0])
    for name, mask in session.masks.items():
        np.testing.assert_array_equal(found[name], mask)


def identify(header, k):
    header.StudyInstanceUID, header.FrameOfReferenceUID = "1.2.826.0.1.1", "1.2.826.0.1.2"


def test_a_file_that_cannot_be_saved_is_refused_before_anything_is_written(tmp_path, scene, network):
    session = Session(network, scene[0])
    with pytest.raises(ClickError, match="nothing to save"):
        session.save(tmp_path / "masks.seg.nrrd")
    session.click(ijk=BALLS_IJK[0])
    for name in ("mask.png", "mask", "seg.dcm"):
        with pytest.raises(SegAnyPETError, match=r"\.nii\.gz"):
            session.save(tmp_path / name)
    assert not list(tmp_path.iterdir())


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


def test_a_session_on_something_else_says_what_it_needs(oblique_affine):
    volume = Volume(np.ones((4, 4, 4)), oblique_affine, "HU", source="ct7")
    with pytest.raises(SegAnyPETError, match="got str and Volume"):
        Session("tiny-base", volume)
    with pytest.raises(SegAnyPETError, match="and str"):
        Session(ThresholdNetwork(), "SUV.nii.gz")
    with pytest.raises(UnitError, match="ct7 is a CT in HU.*Load the PET"):
        Session(ThresholdNetwork(), volume)
