"""What can be done in a ClickWidget beside clicking: tools, files, earlier sittings; each step undone and replayed."""

import gzip
import warnings
from dataclasses import replace

import numpy as np
import pytest
from test_click_widget import AFFINE, BALL_IJK, OTHER_IJK, SHAPE, click, ras_of, tell, volume  # noqa: F401
from threshold_network import ThresholdNetwork

from seganypet.errors import ClickError, SegAnyPETError
from seganypet.pet.mask_files import load_masks
from seganypet.pet.percist import liver_sphere
from seganypet.pet.volume import load_labels, save_mask
from seganypet.prompting.session import Session
from seganypet.prompting.thresholds import ThresholdSession
from seganypet.widgets import actions
from seganypet.widgets.click import ClickWidget
from seganypet.widgets.edits import largest_piece, painted, without_holes
from seganypet.widgets.table import total


@pytest.fixture
def session(volume) -> ThresholdSession:  # noqa: F811
    return ThresholdSession(volume, "SUV>=2.5")


@pytest.fixture
def widget(session, tmp_path) -> ClickWidget:
    return ClickWidget(session, output_dir=tmp_path / "out", name="case_1")


def sphere(ijk, radius_mm):
    mm = (np.moveaxis(np.indices(SHAPE), 0, -1) - ijk) @ AFFINE[:3, :3].T
    return np.linalg.norm(mm, axis=-1) <= radius_mm


# ---- by hand

def test_a_brush_paints_a_disc_of_its_radius_in_one_slice(volume):  # noqa: F811
    nothing = np.zeros(SHAPE, bool)
    disc = painted(nothing, volume, [OTHER_IJK], 2, 10.0, True)
    assert not nothing.any() and disc.any(axis=(0, 1)).sum() == 1
    in_plane = AFFINE[:3, :3] @ np.eye(3)[:, :2]
    i, j = np.meshgrid(*map(np.arange, SHAPE[:2]), indexing="ij")
    away = np.linalg.norm((np.stack([i, j], -1) - OTHER_IJK[:2]) @ in_plane.T, axis=-1)
    np.testing.assert_array_equal(disc[..., OTHER_IJK[2]], away <= 10.0)


def test_an_eraser_takes_away_along_its_stroke_and_a_brush_of_no_size_paints_it(volume):  # noqa: F811
    full = np.ones(SHAPE, bool)
    erased = painted(full, volume, [(2, 3, 5), (8, 3, 5)], 2, 0.0, False)
    np.testing.assert_array_equal(np.argwhere(~erased), [(i, 3, 5) for i in range(2, 9)])


@pytest.mark.parametrize(
    "stroke",
    [
        ([(1, 1, 1), (1, 1, 2)], 2, 5.0),
        ([(1, 1, 99)], 2, 5.0),
        ([(1, 1, 1)], 3, 5.0),
        ([(1, 1, 1)], 2, -1.0),
        ([], 2, 5.0),
    ],
    ids=["through slices", "outside", "no axis", "negative", "empty"],
)
def test_a_stroke_that_is_none_is_refused(volume, stroke):  # noqa: F811
    with pytest.raises(ClickError, match="stroke|radius|outside"):
        painted(np.zeros(SHAPE, bool), volume, *stroke, True)


def test_holes_are_filled_and_the_largest_piece_is_kept():
    shell, crumb = sphere(BALL_IJK, 16) & ~sphere(BALL_IJK, 8), sphere(OTHER_IJK, 6)
    np.testing.assert_array_equal(without_holes(shell | crumb), sphere(BALL_IJK, 16) | crumb)
    np.testing.assert_array_equal(largest_piece(shell | crumb), shell)
    assert not largest_piece(np.zeros(SHAPE, bool)).any() and not without_holes(np.zeros(SHAPE, bool)).any()


def test_what_is_painted_is_undone_redone_and_replayed(widget, session, volume, tmp_path):  # noqa: F811
    before = widget.click(ijk=BALL_IJK)
    tell(widget, "paint", path_ijk=[list(OTHER_IJK)], axis=2, radius_mm=9, foreground=True)
    painted_mask = session.mask
    assert (painted_mask & ~before).any() and not (before & ~painted_mask).any() and "mL, brush" in widget.status
    tell(widget, "keep_largest")
    np.testing.assert_array_equal(session.mask, before)
    tell(widget, "undo")
    np.testing.assert_array_equal(session.mask, painted_mask)
    tell(widget, "undo")
    np.testing.assert_array_equal(session.mask, before)
    tell(widget, "redo")
    session.save_journal(tmp_path / "journal.json")
    again = ThresholdSession(volume, "SUV>=2.5")
    again.load_journal(tmp_path / "journal.json")
    np.testing.assert_array_equal(again.mask, painted_mask)


def test_an_edit_that_changes_nothing_is_no_step_and_one_that_leaves_nothing_is_refused(widget, session):
    widget.click(ijk=BALL_IJK)
    steps = len(session.prompts)
    tell(widget, "fill_holes")
    assert len(session.prompts) == steps and "stays as it is" in widget.status
    for k in np.flatnonzero(session.mask.any(axis=(0, 1))).tolist():
        tell(widget, "paint", path_ijk=[[*BALL_IJK[:2], k]], axis=2, radius_mm=90, foreground=False)
    assert "remove the object instead" in widget.error and session.mask.any()


# ---- thresholds beside the session

@pytest.fixture
def network_widget(volume, tmp_path):  # noqa: F811
    return ClickWidget(Session(ThresholdNetwork(), volume), output_dir=tmp_path / "out")


@pytest.mark.parametrize("method", ["41% SUVmax", "SUV>=2.5", "SUV>=4"])
def test_a_click_is_answered_by_the_threshold_that_is_chosen_and_replayed(network_widget, volume, tmp_path, method):  # noqa: F811
    session = network_widget.session
    network_widget.method = method
    click(network_widget, BALL_IJK)
    expected = ThresholdSession(volume, method).click(ijk=BALL_IJK)
    np.testing.assert_array_equal(session.mask, expected)
    assert method in network_widget.status and not network_widget.error
    click(network_widget, OTHER_IJK)  # adds
    both = session.mask
    np.testing.assert_array_equal(both, expected | ThresholdSession(volume, method).click(ijk=OTHER_IJK))
    click(network_widget, OTHER_IJK, foreground=False)  # takes away again
    assert not session.mask[OTHER_IJK] and session.mask[BALL_IJK]
    tell(network_widget, "undo")
    np.testing.assert_array_equal(session.mask, both)
    session.save_journal(tmp_path / "journal.json")
    again = Session.replay(ThresholdNetwork(), volume, tmp_path / "journal.json")
    np.testing.assert_array_equal(again.mask, both)
    assert again.prompts[-1].drawn_by == method
    network_widget.method = "session"
    click(network_widget, BALL_IJK)
    assert session.prompts[-1].kind == "click"  # the network goes on from there


def test_liver_thresholds_are_those_of_a_sphere_of_3_cm_in_the_object_called_liver(volume):  # noqa: F811
    liver, data = sphere((13, 12, 9), 50) & ~sphere(OTHER_IJK, 18), volume.data.copy()
    data[liver] = np.random.default_rng(0).normal(2, 0.2, liver.sum())
    volume = replace(volume, data=data)
    session = Session(ThresholdNetwork(), volume)
    network_widget = ClickWidget(session)
    session.select("liver")
    session.start_from(liver)
    network_widget.add()
    of_3_cm = volume.data[liver_sphere(volume, liver)[1]].astype(float)
    assert of_3_cm.size < liver.sum() / 2
    for method, times in (("PERCIST", 1.5), ("liver mean + 2 SD", 1.0)):
        threshold = times * of_3_cm.mean() + 2 * of_3_cm.std(ddof=1)
        network_widget.method = method
        click(network_widget, OTHER_IJK)
        rule = f"SUV>={threshold:.4f}"
        np.testing.assert_array_equal(session.mask, ThresholdSession(volume, rule).click(ijk=OTHER_IJK))
        assert f"SUV>={threshold:.3g}" in session.prompts[-1].drawn_by and "as outlined here" in network_widget.status
        tell(network_widget, "undo")


def test_a_threshold_that_finds_nothing_says_so_and_changes_nothing(network_widget):
    network_widget.method = "SUV>=4"
    click(network_widget, (1, 1, 1))
    assert "below the threshold (SUV>=4)" in network_widget.error and not network_widget.session.objects


# ---- spheres and locks

@pytest.mark.parametrize("diameter_mm", [12.4, 30.0])
def test_a_sphere_measures_what_lies_in_it_and_no_prompt_changes_it(network_widget, volume, diameter_mm):  # noqa: F811
    session = network_widget.session
    for number in (1, 2):
        tell(network_widget, "sphere", ijk=list(BALL_IJK), diameter_mm=diameter_mm)
        assert session.active == f"sphere {number}" and not network_widget.error
    inside = sphere(BALL_IJK, diameter_mm / 2)
    np.testing.assert_array_equal(session.mask, inside)
    row = network_widget.rows[0]
    assert row["SUVmean"] == pytest.approx(volume.data[inside].mean()) and row["SUVmax"] == volume.data[inside].max()
    for call in (
        {"call": "prompt", "prompt": {"ijk": list(OTHER_IJK), "foreground": True}},
        {"call": "paint", "path_ijk": [list(OTHER_IJK)], "axis": 2, "radius_mm": 5, "foreground": True},
        {"call": "remove", "name": "sphere 2"},
        {"call": "keep_largest"},
    ):
        network_widget._handle_custom_msg(call, [])
        assert "sphere 2 is locked" in network_widget.error, call
    np.testing.assert_array_equal(session.mask, inside)
    tell(network_widget, "lock", name="sphere 2", locked=False)
    tell(network_widget, "remove", name="sphere 2")
    assert session.objects == ("sphere 1",)
    tell(network_widget, "undo")
    assert session.objects == ("sphere 1", "sphere 2")


@pytest.mark.parametrize("name", ["a\tb", "nul\0", "turned \u202e", "\ud800", " ", ""])
def test_a_name_that_no_file_of_masks_takes_is_refused_when_it_is_given(widget, session, name):
    click(widget, BALL_IJK)
    tell(widget, "rename", old="object 1", new=name)
    assert "expected printable text" in widget.error and session.objects == ("object 1",)
    tell(widget, "rename", old="object 1", new="  left kidney ")
    assert not widget.error and session.objects == ("left kidney",)


def test_what_a_page_is_told_of_a_download_names_no_folder_of_this_machine(widget, monkeypatch):
    def write(session, what, path, case):
        warnings.warn(f"{path} is large", UserWarning, stacklevel=1)
        if what == "seg":
            raise SegAnyPETError(f"{path}: no room for it")
        path.write_bytes(b"all")

    monkeypatch.setattr("seganypet.widgets.actions.write", write)
    click(widget, BALL_IJK)
    for what, told in (("seg", "case_1_mask.dcm: no room for it"), ("table", "Note: case_1_table.csv is large")):
        tell(widget, "download", what=what)
        assert widget.error == told


def test_after_a_sphere_was_undone_a_click_is_on_what_was_clicked_before(network_widget):
    session = network_widget.session
    for first in ("object 1", "liver"):
        for call in ("sphere", "undo", "redo", "undo"):
            tell(network_widget, call, **({"ijk": list(BALL_IJK), "diameter_mm": 30} if call == "sphere" else {}))
            assert network_widget.objects[-1]["locked"] == (call in ("sphere", "redo"))
        click(network_widget, OTHER_IJK)
        assert session.objects == (first,) and not network_widget.error
        session.reset()
        session.select("liver")
        click(network_widget, OTHER_IJK)


@pytest.mark.parametrize("ijk, diameter_mm", [((0, 0, 99), 10), (BALL_IJK, 0), (BALL_IJK, 900)])
def test_a_sphere_that_is_none_is_refused(network_widget, ijk, diameter_mm):
    tell(network_widget, "sphere", ijk=list(ijk), diameter_mm=diameter_mm)
    assert network_widget.error and not network_widget.session.objects


# ---- what a session knows

def test_a_key_goes_through_the_readings_of_a_first_prompt(widget, session, monkeypatch):
    tell(widget, "next_reading")
    assert "has one reading" in widget.error
    chosen = []
    monkeypatch.setattr(type(session), "readings", [None] * 3)
    monkeypatch.setattr(type(session), "chosen", property(lambda _: len(chosen) % 3))
    monkeypatch.setattr(session, "choose", chosen.append)
    for _ in range(3):
        tell(widget, "next_reading")
    assert chosen == [1, 2, 0] and "reading 1 of 3" in widget.status


def test_hot_spots_are_visited_from_the_hottest_on_and_outlined_ones_left_out(widget, session, volume):  # noqa: F811
    visited = []
    for _ in range(2):
        tell(widget, "next_spot")
        visited.append(widget.cursor_ijk)
    assert sorted(visited) == sorted([BALL_IJK, OTHER_IJK]) and "SUVmax 8.0" in widget.status
    tell(widget, "next_spot")
    assert "no further spot" in widget.status
    widget.click(ijk=BALL_IJK)
    tell(widget, "next_spot")
    assert widget.cursor_ijk == OTHER_IJK


def test_organs_are_proposed_beside_what_is_there(widget, session, volume, monkeypatch):  # noqa: F811
    class Found:
        labels = 1 * sphere(BALL_IJK, 12) + 5 * sphere(OTHER_IJK, 12)
        names = {1: "liver", 5: "spleen"}
        masks = {"liver": labels == 1, "spleen": labels == 5}
        confidence = {"liver": 0.9, "spleen": 0.8}

    monkeypatch.setattr(actions, "propose", lambda volume, model: Found)
    widget.rename("object 1", "spleen")
    drawn = widget.click(ijk=OTHER_IJK)
    tell(widget, "propose")
    assert session.objects == ("spleen", "liver") and session.active == "spleen" and "liver 0.90" in widget.status
    np.testing.assert_array_equal(session.mask_of("spleen"), drawn)
    np.testing.assert_array_equal(session.mask_of("liver"), Found.masks["liver"])
    tell(widget, "undo")
    assert session.objects == ("spleen",)
    tell(widget, "redo")
    tell(widget, "propose")
    assert "no organ was found that is not outlined" in widget.error


def test_a_mask_file_starts_its_objects(widget, session, volume, tmp_path):  # noqa: F811
    save_mask(tmp_path / "drawn.nii.gz", 1 * sphere(BALL_IJK, 12) + 2 * sphere(OTHER_IJK, 9), like=volume)
    content = (tmp_path / "drawn.nii.gz").read_bytes()
    widget._handle_custom_msg({"call": "load_mask", "name": "drawn.nii.gz"}, [memoryview(content)])
    assert len(session.objects) == 2 and "started from a file" in widget.status and not widget.error
    np.testing.assert_array_equal(session.mask_of(session.objects[1]), sphere(OTHER_IJK, 9))
    for name, spoilt in (("../../drawn.nii.gz", gzip.compress(b"no")), ("drawn.exe", content), ("drawn", content)):
        widget._handle_custom_msg({"call": "load_mask", "name": name}, [memoryview(spoilt)])
        assert "the chosen file" in widget.error and str(tmp_path) not in widget.error
    widget._handle_custom_msg({"call": "load_mask", "name": "drawn.nii.gz"}, [])
    assert "without the file's content" in widget.error and len(session.objects) == 2


def test_the_first_click_of_a_double_click_is_withdrawn_but_never_an_earlier_step(widget, session):
    click(widget, BALL_IJK)
    click(widget, OTHER_IJK)
    tell(widget, "withdraw")
    assert [one.ijk for one in session.clicks] == [BALL_IJK]
    tell(widget, "withdraw")
    tell(widget, "paint", path_ijk=[list(BALL_IJK)], axis=2, radius_mm=1, foreground=True)  # changes nothing
    tell(widget, "withdraw")
    click(widget, (0, 0, 99))  # refused
    tell(widget, "withdraw")
    assert [one.ijk for one in session.clicks] == [BALL_IJK]


# ---- right numbers

def test_the_value_under_the_pointer_is_the_volumes_own(session, volume, monkeypatch):  # noqa: F811
    volume.data[BALL_IJK] = 51.093
    widget, sent = ClickWidget(session), []
    monkeypatch.setattr(widget, "send", lambda content, buffers=(): sent.append(content))
    tell(widget, "probe", ras=ras_of(BALL_IJK))
    assert sent[0]["probe"] == ras_of(BALL_IJK) and sent[0]["value"] == pytest.approx(51.093, abs=1e-4)
    tell(widget, "probe", ras=[0, 0, 999])  # nothing to say, and nothing breaks
    tell(widget, "piece", layer="../pet", number=0)
    tell(widget, "piece", layer="pet", number=99)
    assert len(sent) == 1 and not widget.error


def test_a_sum_counts_a_voxel_of_two_objects_once(widget, session, volume):  # noqa: F811
    one, other = sphere(BALL_IJK, 16), sphere(BALL_IJK, 9)
    for name, mask in (("tumour", one), ("core", other)):
        session.select(name)
        session.start_from(mask)
    ml = volume.voxel_volume_ml
    assert [row["name"] for row in widget.rows] == ["tumour", "core"]
    assert widget.rows[1]["MTV"] == pytest.approx(other.sum() * ml)
    assert widget.all_objects["MTV"] == pytest.approx(one.sum() * ml)
    assert widget.all_objects["TLG"] == pytest.approx(volume.data[one].sum() * ml, rel=1e-5)
    assert widget.all_objects["overlap_ml"] == pytest.approx(other.sum() * ml)
    assert total([], {}, volume) == {}


def test_choosing_an_object_takes_the_crosshair_there(widget):
    widget.click(ijk=BALL_IJK)
    widget.add()
    widget.click(ijk=OTHER_IJK)
    tell(widget, "select", name="object 1")
    assert widget.cursor_ijk == BALL_IJK


# ---- nothing is lost

def test_overlapping_objects_keep_their_voxels_when_saved_and_downloaded(widget, session, volume, monkeypatch):  # noqa: F811
    drawn = {"tumour": sphere(BALL_IJK, 16), "core": sphere(BALL_IJK, 9)}
    for name, mask in drawn.items():
        session.select(name)
        session.start_from(mask)
    with pytest.warns(UserWarning, match="overlap"):
        paths = widget.save()
    names = ["case_1_mask.nii.gz", "case_1_clicks.json", "case_1_table.csv", "case_1_mask.seg.nrrd"]
    assert [path.name for path in paths] == names
    kept = load_masks(paths[-1], like=volume)
    assert kept.keys() == drawn.keys() and all(np.array_equal(kept[name], drawn[name]) for name in drawn)
    sent = {}
    monkeypatch.setattr(widget, "send", lambda content, buffers: sent.update({content["download"]: buffers[0]}))
    tell(widget, "download", what="mask")
    assert list(sent) == ["case_1_mask.seg.nrrd"] and "overlap" in widget.status


def test_names_travel_with_the_mask(widget, volume):  # noqa: F811
    widget.rename("object 1", "left adrenal")
    widget.click(ijk=BALL_IJK)
    assert list(load_masks(widget.save()[0], like=volume)) == ["left adrenal"]


def test_save_asks_before_it_replaces_files_of_another_sitting(widget, session, volume, tmp_path):  # noqa: F811
    widget.click(ijk=BALL_IJK)
    tell(widget, "save", existing="ask")
    first = (tmp_path / "out" / "case_1_mask.nii.gz").read_bytes()
    assert not widget.question and "saved" in widget.status
    widget.click(ijk=(10, 9, 6))
    tell(widget, "save", existing="ask")  # its own files
    assert not widget.question
    other = ClickWidget(ThresholdSession(volume, "SUV>=4"), output_dir=tmp_path / "out", name="case_1")
    other.click(ijk=OTHER_IJK)
    tell(other, "save", existing="ask")
    assert "case_1_mask.nii.gz" in other.question and "another sitting" in other.question
    tell(other, "dismiss")
    assert not other.question and (tmp_path / "out" / "case_1_mask.nii.gz").stat().st_size == len(first)
    tell(other, "save", existing="keep")
    labels = load_labels(tmp_path / "out" / "case_1_mask_2.nii.gz", like=volume)
    assert labels[OTHER_IJK] and load_labels(tmp_path / "out" / "case_1_mask.nii.gz", like=volume)[BALL_IJK]
    tell(other, "save", existing="replace")
    assert load_labels(tmp_path / "out" / "case_1_mask.nii.gz", like=volume)[OTHER_IJK]
    with pytest.raises(SegAnyPETError, match="expected 'replace'"):
        other.save(existing="perhaps")


def test_after_a_restart_the_last_sitting_is_offered_and_can_be_continued(widget, session, volume, tmp_path):  # noqa: F811
    mask = widget.click(ijk=BALL_IJK)
    widget.rename("object 1", "node")
    again = ClickWidget(ThresholdSession(volume, "SUV>=2.5"), output_dir=tmp_path / "out")
    assert again.earlier["objects"] == ["node"] and again.earlier["prompts"] == 1
    tell(again, "load_text", text=again.earlier["text"])
    np.testing.assert_array_equal(again.session.mask_of("node"), mask)
    assert again.earlier == {} and len(list((tmp_path / "out").glob("autosave_*"))) == 1  # continued, not set aside
    again.click(ijk=OTHER_IJK)
    last = ClickWidget(ThresholdSession(volume, "SUV>=2.5"), output_dir=tmp_path / "out")
    assert last.earlier["prompts"] == 2
    tell(last, "dismiss")
    assert last.earlier == {}


def test_what_is_continued_has_its_colours_and_its_sphere_is_locked(widget, session, volume, tmp_path):  # noqa: F811
    for name, ijk in (("liver", BALL_IJK), ("node", OTHER_IJK)):
        widget.select(name)
        widget.click(ijk=ijk)
    widget.sphere(BALL_IJK)
    looks = [(one["name"], one["colour"], one["locked"]) for one in widget.objects]
    assert [locked for _, _, locked in looks] == [False, False, True]
    again = ClickWidget(ThresholdSession(volume, "SUV>=2.5"), output_dir=tmp_path / "out")
    tell(again, "load_text", text=again.earlier["text"])
    assert [(one["name"], one["colour"], one["locked"]) for one in again.objects] == looks


def test_what_nobody_continued_is_kept_aside_and_the_same_prompts_are_not_offered(widget, volume, tmp_path):  # noqa: F811
    widget.click(ijk=BALL_IJK)
    same = ThresholdSession(volume, "SUV>=2.5")
    same.click(ijk=BALL_IJK)
    assert ClickWidget(same, output_dir=tmp_path / "out").earlier == {}
    assert ClickWidget(ThresholdSession(volume, "SUV>=4"), output_dir=tmp_path / "out").earlier == {}  # another method
    fresh = ClickWidget(ThresholdSession(volume, "SUV>=2.5"), output_dir=tmp_path / "out")
    fresh.click(ijk=OTHER_IJK)
    files = sorted((tmp_path / "out").glob("autosave_*.json"))
    assert sorted(path.stem.count("_") for path in files) == [1, 2]  # the sitting at hand, and the one set aside
    assert fresh.earlier["prompts"] == 1  # still offered
    fresh.undo()
    assert sorted((tmp_path / "out").glob("autosave_*.json")) == files  # taking all back loses nothing


def test_the_page_gets_the_journal_at_every_step_to_keep(widget, session):
    assert widget.journal == ""
    widget.click(ijk=BALL_IJK)
    tell(widget, "load_text", text=widget.journal)
    assert session.journal().prompts[0][1].ijk == BALL_IJK and not widget.error


def test_a_cell_run_again_replaces_its_widget(volume, monkeypatch):  # noqa: F811
    class Shell:
        parent_header = {"metadata": {"cellId": "cell"}, "header": {"msg_id": "first"}}

    IPython = pytest.importorskip("IPython")
    monkeypatch.setattr(IPython, "get_ipython", lambda: Shell)
    session = Session(ThresholdNetwork(), volume)
    two = [ClickWidget(session), ClickWidget(session)]  # one cell may show two
    assert len(session.watchers) == 2
    monkeypatch.setattr(Shell, "parent_header", {"metadata": {"cellId": "cell"}, "header": {"msg_id": "second"}})
    again = ClickWidget(session)
    assert session.watchers == [again.refresh] and all(one.comm is None for one in two)
    monkeypatch.setattr(Shell, "parent_header", {"metadata": {"cellId": "other"}, "header": {"msg_id": "third"}})
    ClickWidget(session)
    assert len(session.watchers) == 2



def test_after_a_reset_the_next_click_says_this(widget, session):
    widget.foreground = False
    widget.reset()
    assert widget.foreground and session.objects == ()


# ---- what a page may not say

def test_a_page_sets_its_sliders_and_nothing_that_it_is_only_shown(widget):
    widget.click(ijk=BALL_IJK)
    shown = {name: getattr(widget, name) for name in ("objects", "uncertainty", "effort", "_esm", "status")}
    others = dict.fromkeys(shown, "other") | {"objects": ["other"], "uncertainty": {"shown": 7}}
    widget.set_state({"opacity": 0.5, **others})
    assert widget.opacity == 0.5 and {name: getattr(widget, name) for name in shown} == shown


@pytest.mark.parametrize("message", [{"call": []}, {"call": {}}, {}, {"call": "probe", "ras": ["x", 0, 0]},
                                     {"call": "probe", "ras": [0.5, 0, 0]}, {"call": "probe", "ras": [0]}])  # fmt: skip
def test_a_message_that_is_no_call_changes_nothing_and_the_next_one_is_answered(widget, session, message):
    widget._on_message(widget, message, [])
    assert not session.objects
    click(widget, BALL_IJK)
    assert session.mask[BALL_IJK] and not widget.error


def test_an_object_that_follows_a_locked_one_that_was_undone_is_not_locked(network_widget):
    network_widget.sphere(BALL_IJK, 20.0)
    network_widget.undo()
    network_widget.select("another")
    network_widget.click(ijk=BALL_IJK)
    assert network_widget.session.objects == ("another",)
