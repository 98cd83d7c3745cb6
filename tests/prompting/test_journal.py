"""A journal repeats a session exactly, on the volume and with the weights it was made with, and on no other."""

import json
import warnings

import numpy as np
import pytest
import torch
from conftest import oblique
from threshold_network import ThresholdNetwork

from seganypet.errors import ClickError, JournalError
from seganypet.model.config import ModelConfig
from seganypet.model.sam3d import Sam3D
from seganypet.pet.volume import Volume, load_volume, save_volume
from seganypet.prompting.journal import FORMAT, Journal
from seganypet.prompting.prompts import Click, click_at
from seganypet.prompting.session import Session

AFFINE = oblique((4.07, 4.07, 3.0), left_handed=True)


@pytest.fixture(scope="module")
def volume():
    """Two long tubes, each longer than a window of 128 mm."""
    data = np.full((40, 44, 70), 0.5)
    data[8:18, 8:18, 5:60] = 8.0
    data[8:18, 26:36, 5:60] = 6.0
    return Volume(data, AFFINE, "SUVbw", source="somewhere/two tubes.nii.gz")


def clicked(volume, network=None, **arguments):
    session = Session(network or ThresholdNetwork(spacing_mm=4.0), volume, **arguments)
    for name, ijk, foreground in (
        ("left", (12, 12, 20), True), ("right", (12, 30, 20), True), ("left", (12, 12, 50), True),
        ("left", (12, 30, 30), False),
    ):  # fmt: skip
        session.select(name)
        session.click(ijk=ijk, foreground=foreground)
    return session


@pytest.fixture(scope="module")
def session(volume):
    return clicked(volume)


@pytest.fixture
def path(session, tmp_path):
    session.save_journal(tmp_path / "clicks.json")
    return tmp_path / "clicks.json"


def edit(path, change):
    """Write a journal again after changing its content."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def test_a_journal_says_what_where_and_with_which_weights(session, volume, path):
    content = json.loads(path.read_text())
    assert content["format"] == FORMAT == "seganypet-journal-1"
    assert content["volume"]["fingerprint"] == volume.fingerprint() and content["volume"]["shape"] == [40, 44, 70]
    assert content["volume"]["source"] == "two tubes.nii.gz"  # no folder: it may name a patient
    assert content["model"]["name"] == "threshold" and len(content["model"]["weights_sha256"]) == 64
    unfixed = {"spacing_mm": None, "min_spacing_mm": None}
    assert content["settings"] == {**unfixed, "precision": session.precision, "clicks": "bind"}
    assert {"seganypet", "python", "torch", "numpy"} <= set(content["versions"])
    assert [click["object"] for click in content["clicks"]] == ["left", "right", "left", "left"]
    first = content["clicks"][0]
    assert first["ijk"] == [12, 12, 20] and first["foreground"] is True
    by_hand = AFFINE[:3, 3] + 12 * AFFINE[:3, 0] + 12 * AFFINE[:3, 1] + 20 * AFFINE[:3, 2]
    np.testing.assert_allclose(first["mm"], by_hand, atol=5.1e-4)


def test_replay_draws_the_same_masks_also_after_growth(session, volume, path):
    network = ThresholdNetwork(spacing_mm=4.0)
    again = Session.replay(network, volume, path)
    assert network.calls["embed"] > 2  # tubes of 165 mm in windows of 128 mm
    assert again.objects == session.objects == ("left", "right") and again.active == session.active
    for name in session.objects:
        assert session.mask_of(name).sum() > 3000
        np.testing.assert_array_equal(again.mask_of(name), session.mask_of(name))
        np.testing.assert_array_equal(again.logits_of(name), session.logits_of(name))
    assert again.journal() == session.journal()


def test_a_mask_that_is_drawn_otherwise_than_it_was_is_told_of(volume, path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session = Session.replay(ThresholdNetwork(spacing_mm=4.0), volume, path)
    voxels = {name: int(mask.sum()) for name, mask in session.masks.items()}
    assert Journal.load(path).voxels == voxels
    edit(path, lambda content: content["voxels"].update(right=voxels["right"] * 2))
    with pytest.warns(UserWarning, match=f"right has {voxels['right']:,} voxels here and had {2 * voxels['right']:,}"):
        again = Session.replay(ThresholdNetwork(spacing_mm=4.0), volume, path)
    np.testing.assert_array_equal(again.masks["right"], session.masks["right"])
    edit(path, lambda content: content.pop("voxels"))  # as older journals are
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Session.replay(ThresholdNetwork(spacing_mm=4.0), volume, path)


def test_replay_needs_the_same_voxels_not_the_same_file(session, volume, path, tmp_path):
    for name in ("here.nii", "there.nii.gz"):
        save_volume(tmp_path / name, volume)
        again = Session.replay(ThresholdNetwork(spacing_mm=4.0), load_volume(tmp_path / name, unit="SUVbw"), path)
        np.testing.assert_array_equal(again.labels, session.labels)


def test_clicks_that_were_undone_are_not_in_the_journal(volume, tmp_path):
    session = clicked(volume)
    session.undo()
    session.undo()
    session.save_journal(tmp_path / "undone.json")
    again = Session.replay(ThresholdNetwork(spacing_mm=4.0), volume, tmp_path / "undone.json")
    assert len(again.journal().clicks) == 2
    np.testing.assert_array_equal(again.labels, session.labels)


def test_a_loaded_journal_takes_the_place_of_the_clicks_and_undo_goes_back_through_both(session, volume, path):
    other = Session(ThresholdNetwork(spacing_mm=4.0), volume)
    other.select("mine")
    mine = other.click(ijk=session.clicks[0].ijk)
    other.load_journal(path)
    assert other.journal() == session.journal() and other.active == session.active
    for _ in session.journal().clicks:
        other.undo()
    other.undo()  # the reset that made room
    assert other.objects == ("mine",)
    np.testing.assert_array_equal(other.mask_of("mine"), mine)


def test_a_journal_that_cannot_be_repeated_leaves_the_session_as_it_was(volume, tmp_path):
    session, path = clicked(volume), tmp_path / "edited.json"
    session.save_journal(path)
    content = json.loads(path.read_text())
    content["clicks"][0]["foreground"] = False
    path.write_text(json.dumps(content))
    before = session.journal()
    with pytest.raises(JournalError, match="cannot be repeated .*must be foreground"):
        session.load_journal(path)
    assert session.journal() == before
    with pytest.raises(JournalError, match="made with threshold and other weights or rules"):
        Session(ThresholdNetwork(), volume).load_journal(path)
    session.undo()
    assert len(session.journal().clicks) == len(before.clicks) - 1


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_spacing_and_precision_are_repeated(precision, tmp_path):
    torch.manual_seed(1)
    model = Sam3D(ModelConfig(window_size=32, encoder_dim=32, encoder_depth=1, encoder_heads=2, prompt_dim=48)).eval()
    noise = np.random.default_rng(0).gamma(2.0, 2.0, (20, 22, 30))
    small = Volume(noise, AFFINE, "SUVbw")
    session = Session(model, small, spacing_mm=5.5, precision=precision)
    session.click(ijk=(10, 11, 15))
    session.save_journal(tmp_path / "clicks.json")
    again = Session.replay(model, small, tmp_path / "clicks.json")
    assert (again.spacing_mm, again.precision) == (5.5, precision)
    np.testing.assert_array_equal(again.logits_of("object 1"), session.logits_of("object 1"))


@pytest.mark.parametrize(("here", "there"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_a_journal_of_a_machine_with_another_precision_is_repeated_to_the_bit_unless_there_were_clicks(
    here, there, tmp_path
):
    torch.manual_seed(1)
    model = Sam3D(ModelConfig(window_size=32, encoder_dim=32, encoder_depth=1, encoder_heads=2, prompt_dim=48)).eval()
    small = Volume(np.random.default_rng(0).gamma(2.0, 2.0, (20, 22, 30)), AFFINE, "SUVbw")
    other, session = Session(model, small, precision=there), Session(model, small, precision=here)
    other.click(ijk=(10, 11, 15))
    other.save_journal(tmp_path / "clicks.json")
    session.load_journal(tmp_path / "clicks.json")
    assert session.precision == there and session.journal() == other.journal()
    np.testing.assert_array_equal(session.logits_of("object 1"), other.logits_of("object 1"))
    used = Session(model, small, precision=here)
    used.click(ijk=(4, 5, 6))
    with pytest.raises(JournalError, match=f"precision.*{there}.*this session has .*{here}"):
        used.load_journal(tmp_path / "clicks.json")
    assert used.precision == here and len(used.clicks) == 1


def test_an_empty_session_has_an_empty_journal(volume, tmp_path):
    Session(ThresholdNetwork(), volume).save_journal(tmp_path / "empty.json")
    assert Session.replay(ThresholdNetwork(), volume, tmp_path / "empty.json").objects == ()


def test_a_journal_replaces_the_old_one_whole(session, path, monkeypatch):
    before = path.read_text()

    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr("seganypet.prompting.journal.json.dumps", fail)
    with pytest.raises(MemoryError):
        session.save_journal(path)
    assert path.read_text() == before and [other.name for other in path.parent.iterdir()] == ["clicks.json"]


def one_voxel_changed(volume):
    data = volume.data.copy()
    data[3, 4, 5] += 1e-3
    return Volume(data, AFFINE, "SUVbw", source="other.nii")


def moved(volume):
    affine = AFFINE.copy()
    affine[1, 3] += 1.0
    return Volume(volume.data, affine, "SUVbw", source="other.nii")


@pytest.mark.parametrize("other", [one_voxel_changed, moved])
def test_another_volume_is_refused(volume, path, other):
    with pytest.raises(JournalError, match=r"made on two tubes.*not other\.nii.*fingerprints differ"):
        Session.replay(ThresholdNetwork(spacing_mm=4.0), other(volume), path)


def test_other_weights_are_refused_even_under_the_same_name(volume, path):
    network = ThresholdNetwork(spacing_mm=4.0)
    network.threshold.data += 1e-4
    with pytest.raises(JournalError, match="made with threshold and other weights"):
        Session.replay(network, volume, path)


EDITS = {
    "voxel": (
        lambda content: content["clicks"][0].update(ijk=[12, 12, 21]),
        "click 1: ijk=.*contradict.*this voxel lies at mm=",
    ),
    "millimetres": (lambda content: content["clicks"][2].update(mm=[0, 0, 0]), "click 3: ijk="),
    "millimetres of text": (lambda content: content["clicks"][2].update(mm=["a", 0, 0]), "click 3: ijk="),
    "affine": (lambda content: content["volume"]["affine"][0].__setitem__(3, 0.0), "click 1: ijk="),
    "order": (lambda content: content["clicks"].reverse(), "cannot be repeated.*first click .* must be foreground"),
    "sign": (lambda content: content["clicks"][0].update(foreground=False), "cannot be repeated.*must be foreground"),
    "sign as a number": (lambda content: content["clicks"][0].update(foreground=1), "click 1: .*true or false"),
    "setting": (lambda content: content["settings"].update(zoom=2), "cannot be repeated.*zoom"),
    "spacing": (lambda content: content["settings"].update(spacing_mm="4"), "cannot be repeated.*spacing_mm='4'"),
    "voxels": (lambda content: content.update(voxels={"left": "many"}), "voxels is"),
    "precision": (lambda content: content["settings"].update(precision="int8"), "cannot be repeated.*precision='int8'"),
}


@pytest.mark.parametrize("what", EDITS)
def test_an_edited_journal_is_refused(volume, path, what):
    change, message = EDITS[what]
    with pytest.raises(JournalError, match=rf"clicks\.json: .*{message}"):
        Session.replay(ThresholdNetwork(spacing_mm=4.0), volume, edit(path, change))


def test_a_voxel_outside_the_volume_is_refused_even_with_the_right_millimetres(volume, path):
    mm = (AFFINE[:3, :3] @ (99, 0, 0) + AFFINE[:3, 3]).tolist()
    edit(path, lambda content: content["clicks"][1].update(ijk=[99, 0, 0], mm=mm))
    with pytest.raises(JournalError, match="cannot be repeated.*outside volume shape"):
        Session.replay(ThresholdNetwork(spacing_mm=4.0), volume, path)


@pytest.mark.parametrize("keep", [0, 1, 200, -3])
def test_a_journal_that_was_cut_is_refused(path, keep):
    path.write_text(path.read_text()[:keep])
    with pytest.raises(JournalError, match=r"clicks\.json: not a readable journal"):
        Journal.load(path)


@pytest.mark.parametrize("key", ["volume", "model", "settings", "versions", "clicks"])
@pytest.mark.parametrize("damage", ["gone", 5, None, "text"])
def test_a_journal_with_a_damaged_part_names_it(path, key, damage):
    edit(path, lambda content: content.pop(key) if damage == "gone" else content.update({key: damage}))
    with pytest.raises(JournalError, match=rf"clicks\.json: {key} missing or damaged"):
        Journal.load(path)


def test_clicks_in_either_frame_are_whole_voxels_of_plain_python(volume):
    click = click_at(volume, ijk=np.array([3.0, 4.0, 5.0]), foreground=np.bool_(False))
    assert click == Click((3, 4, 5), foreground=False)
    assert {type(index) for index in click.ijk} == {int} and type(click.foreground) is bool
    assert click_at(volume, mm=volume.to_mm((3.4, 3.6, 69.49))) == Click((3, 4, 69))
    assert click_at(volume, mm=volume.to_mm((-0.49, 0, 0))) == Click((0, 0, 0))
    with pytest.raises(ClickError, match=r"is voxel \(-0.51, 0.0, 0.0\), outside shape"):
        click_at(volume, mm=volume.to_mm((-0.51, 0, 0)))
