"""ClickWidget without a browser: its twin in Python, the messages a browser sends, and the bytes it gets."""

import gc
import io
import json
import struct
import weakref
import zlib

import nibabel as nib
import numpy as np
import pytest
from conftest import oblique
from matplotlib.image import imread
from threshold_network import ThresholdNetwork

from seganypet.errors import ClickError, GeometryError, JournalError, SegAnyPETError, UnitError
from seganypet.pet.volume import Volume, load_labels
from seganypet.prompting.packed_mask import PackedMask
from seganypet.prompting.session import Prediction, Session
from seganypet.prompting.thresholds import ThresholdSession
from seganypet.widgets.click import ClickWidget
from seganypet.widgets.encoding import coded, packed

AFFINE = oblique((4.07, 3.1, 6.0), left_handed=True)
SHAPE = (30, 26, 18)
BALL_IJK, OTHER_IJK = (9, 9, 6), (22, 18, 12)


def canonical(data: np.ndarray, affine: np.ndarray = AFFINE) -> np.ndarray:
    """The array in RAS order, by nibabel and not by this package."""
    return nib.as_closest_canonical(nib.Nifti1Image(data.astype(np.float32), affine)).get_fdata()


@pytest.fixture(scope="module")
def volume() -> Volume:
    mm = nib.affines.apply_affine(AFFINE, np.moveaxis(np.indices(SHAPE), 0, -1))
    distances = [np.linalg.norm(mm - nib.affines.apply_affine(AFFINE, ijk), axis=-1) for ijk in (BALL_IJK, OTHER_IJK)]
    return Volume(np.where(np.min(distances, 0) < 16, 8.0, 0.5), AFFINE, "SUVbw", source="balls")


@pytest.fixture
def session(volume) -> Session:
    return Session(ThresholdNetwork(), volume)


@pytest.fixture
def widget(session, tmp_path) -> ClickWidget:
    return ClickWidget(session, output_dir=tmp_path / "out")


def tell(widget: ClickWidget, call: str, **content) -> None:
    """What the browser does."""
    widget._handle_custom_msg({"call": call, **content}, [])


def click(widget: ClickWidget, ijk: tuple[int, int, int], foreground: bool = True) -> None:
    """What the browser does at a click."""
    tell(widget, "prompt", prompt={"ijk": list(ijk), "foreground": foreground})


def ras_of(ijk: tuple[int, int, int]) -> list[int]:
    marked = np.zeros(SHAPE)
    marked[ijk] = 1
    return [int(index[0]) for index in np.nonzero(canonical(marked))]


def unpacked(drawn: dict, shape: list[int]) -> np.ndarray:
    """A mask as the browser reads it: bit by bit, the first index fastest."""
    mask = np.zeros(shape, bool)
    i0, j0, k0, ni, nj, nk = drawn["box"]
    for at in range(ni * nj * nk):
        if drawn["bits"][at >> 3] >> (7 - at % 8) & 1:
            mask[i0 + at % ni, j0 + at // ni % nj, k0 + at // (ni * nj)] = True
    return mask


def arrived(widget: ClickWidget, layer: str, monkeypatch) -> np.ndarray:
    """Codes of a layer as a browser puts them together: all pieces but the coarse one, unless that is all."""
    sent, scan = {}, widget.scan
    monkeypatch.setattr(widget, "send", lambda content, buffers: sent.update({content["piece"]: buffers[0]}))
    for number in range(scan[layer]["count"]):
        tell(widget, "piece", layer=layer, number=number)
    assert widget.acknowledged == 0  # nobody waits for a piece
    parts = sorted(sent.items())[min(1, len(sent) - 1) :]
    voxels = b"".join(zlib.decompress(part) for _, part in parts)
    return np.frombuffer(voxels, np.uint8).reshape(scan[layer]["shape"], order="F")


def test_the_browser_gets_voxels_in_ras_order_and_can_read_their_suv(widget, volume, monkeypatch):
    scan = widget.scan
    expected = canonical(volume.data)
    assert tuple(scan["shape"]) == expected.shape
    codes = arrived(widget, "pet", monkeypatch)
    suv = (codes / 255) ** 2 * scan["pet"]["high"]  # as click.js decodes it
    np.testing.assert_allclose(suv, expected, atol=0.05)


def test_codes_are_finest_where_counts_are_few_and_keep_hounsfield_units_apart():
    suv = Volume(np.linspace(0, 60, 1000).reshape(10, 10, 10), np.eye(4), "SUVbw")
    content = coded(suv)
    assert (content.low, content.high) == (0, 30)
    values = (np.arange(256) / 255) ** 2 * 30
    assert np.diff(values)[:40].max() < 0.04 and np.diff(values).max() < 0.24
    content = coded(Volume(np.array([-1000.0, -60, 40, 60, 1000]).reshape(5, 1, 1), np.eye(4), "HU"))
    assert len(set(content.codes.ravel())) == 5


def test_a_mask_travels_as_bits_and_comes_out_as_it_was(widget, session, volume):
    mask = widget.click(ijk=BALL_IJK)
    (drawn,) = widget.objects
    np.testing.assert_array_equal(unpacked(drawn, widget.scan["shape"]), canonical(mask) > 0)
    assert drawn["ml"] == pytest.approx(mask.sum() * volume.voxel_volume_ml)
    assert packed(np.zeros(SHAPE, bool), volume)["bits"] is None


def test_a_click_in_the_browser_is_a_click_on_the_session(widget, session):
    click(widget, BALL_IJK, foreground=True)
    click(widget, OTHER_IJK, foreground=False)
    assert [(click.ijk, click.foreground) for click in session.clicks] == [(BALL_IJK, True), (OTHER_IJK, False)]
    assert widget.marks == [
        {"path": [ras_of(BALL_IJK)], "foreground": True, "of": "object 1"},
        {"path": [ras_of(OTHER_IJK)], "foreground": False, "of": "object 1"},
    ]
    tell(widget, "undo")
    assert len(session.clicks) == 1 and widget.enabled["redo"]
    tell(widget, "redo")
    tell(widget, "reset")
    assert session.objects == () and widget.enabled["undo"] and not widget.enabled["export"]


def test_a_click_in_code_shows_in_every_widget_on_the_session(widget, session):
    second = ClickWidget(session)
    session.click(ijk=BALL_IJK)
    assert len(widget.marks) == len(second.marks) == 1 and widget.objects[0]["bits"]
    assert widget.cursor_ijk == second.cursor_ijk == BALL_IJK and "voxel (9, 9, 6)" in second.status
    colour = widget.objects[0]["colour"]
    session.rename("object 1", "liver")
    assert [(o["name"], o["colour"]) for o in widget.objects] == [("liver", colour)]
    second.close()
    session.undo()
    assert widget.marks == [] and len(second.marks) == 1  # closed: it looks no more


def test_only_the_mask_that_changed_is_new_to_the_browser(widget, session):
    widget.click(ijk=BALL_IJK)
    widget.add()
    widget.click(ijk=OTHER_IJK)
    before = {o["name"]: o["version"] for o in widget.objects}
    widget.click(ijk=OTHER_IJK)
    after = {o["name"]: o["version"] for o in widget.objects}
    assert after["object 1"] == before["object 1"] and after["object 2"] > before["object 2"]


def test_the_crosshair_says_its_voxel_of_the_file(widget):
    widget.look_at(OTHER_IJK)
    assert widget.cursor == ras_of(OTHER_IJK) and widget.cursor_ijk == OTHER_IJK
    with pytest.raises(ClickError, match="lies outside"):
        widget.look_at((30, 0, 0))


def test_a_click_from_the_browser_leaves_its_crosshair_alone(widget):
    widget.look_at(OTHER_IJK)  # the user has scrolled on while the network worked
    click(widget, BALL_IJK, foreground=True)
    assert widget.cursor_ijk == OTHER_IJK


def test_objects_keep_their_colours_when_others_come_and_go(widget, session):
    widget.click(ijk=BALL_IJK)
    widget.add()
    widget.click(ijk=OTHER_IJK)
    first, second = widget.objects
    assert [first["name"], second["name"]] == ["object 1", "object 2"] and first["colour"] != second["colour"]
    widget.rename("object 1", "liver")
    widget.recolour("object 2", "#123456")
    widget.hide("liver")
    assert [(o["name"], o["colour"], o["hidden"]) for o in widget.objects] == [
        ("liver", first["colour"], True), ("object 2", "#123456", False)
    ]  # fmt: skip
    assert len(widget.marks) == 1  # marks of a hidden object are hidden with it
    widget.remove("liver")
    widget.add()
    assert [(o["name"], o["hidden"]) for o in widget.objects] == [("object 2", False), ("object 1", False)]
    with pytest.raises(ClickError, match="no object 'liver'"):
        widget.rename("liver", "spleen")
    assert [o["name"] for o in widget.objects] == ["object 2", "object 1"]


def test_the_table_has_a_row_for_each_object_and_the_counter_follows_the_active_one(widget, session):
    assert widget.rows == [] and widget.effort["clicks"] == 0
    mask = widget.click(ijk=BALL_IJK)
    (row,) = widget.rows
    assert row["SUVmax"] == pytest.approx(8) and row["name"] == "object 1"
    assert row["MTV"] == pytest.approx(mask.sum() * session.volume.voxel_volume_ml)
    widget.add()
    assert widget.rows == [row] and widget.effort == {**widget.effort, "clicks": 0, "total": 1}


def test_whatever_fails_is_said_in_the_widget_and_nothing_is_lost(widget, session, monkeypatch):
    click(widget, BALL_IJK, foreground=False)
    assert "must be foreground" in widget.error and widget.acknowledged == 1 and session.clicks == ()
    tell(widget, "dance")
    assert "'dance'" in widget.error
    click(widget, BALL_IJK, foreground=True)
    assert widget.error == ""
    monkeypatch.setattr(ThresholdNetwork, "decode", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # for the log; the widget says it, too
        widget._on_message(widget, {"call": "prompt", "prompt": {"ijk": [*OTHER_IJK], "foreground": True}}, [])
    assert widget.error.startswith("ZeroDivisionError") and widget.acknowledged == 4 and len(session.clicks) == 1


@pytest.mark.parametrize(
    "message",
    [
        *[{"call": call} for call in ("close", "_write", "__init__", "load_journal", 7, None)],
        {"call": "save", "folder": "/tmp/elsewhere"},
        {"call": "click", "ijk": [1, 2, 3]},
        {"call": "prompt", "prompt": [1, 2, 3]},
        {"call": "prompt", "prompt": {"ijk": [1, 2], "foreground": True}},
        {"call": "prompt", "prompt": {"ijk": [1, 2, 3.5], "foreground": True}},
        {"call": "prompt", "prompt": {"ijk": "123", "foreground": True}},
        {"call": "prompt", "prompt": {"ijk": [10**6, 0, 0], "foreground": True}},
        {"call": "prompt", "prompt": {"ijk": [1, 2, 3], "foreground": "yes"}},
        {"call": "prompt", "prompt": {"kind": "everything", "ijk": [1, 2, 3], "foreground": True}},
        {"call": "prompt", "prompt": {"kind": [], "ijk": [1, 2, 3], "foreground": True}},
        {"call": "download", "what": "everything"},
        {"call": "hide", "name": "liver", "hidden": True},
        {"call": "recolour", "name": "object 1", "colour": "#GGGGGG"},
        {"call": "rename", "old": "object 1", "new": ["x"]},
        {"call": "rename", "old": "object 1", "new": "\ud800"},
    ],
    ids=str,
)
def test_the_browser_cannot_do_what_is_not_meant_for_it(widget, session, message, tmp_path):
    before = list(tmp_path.rglob("*"))
    widget._handle_custom_msg(message, [])
    assert widget.error and "Error:" not in widget.error and session.objects == ()
    assert list(tmp_path.rglob("*")) == before


def test_the_watcher_that_saves_is_called_though_the_picture_fails(widget, session, monkeypatch):
    saved = []
    session.watchers.append(lambda: saved.append(len(session.clicks)))
    monkeypatch.setattr(widget, "_measure", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        session.click(ijk=BALL_IJK)
    assert saved == [1]


def test_a_click_on_a_hidden_object_shows_it_and_an_empty_mask_is_said(widget, session):
    widget.click(ijk=BALL_IJK)
    widget.hide("object 1")
    widget.click(ijk=BALL_IJK)
    assert not widget.objects[0]["hidden"] and "voxel (9, 9, 6)" in widget.status
    widget.add()
    widget.click(ijk=(0, 0, 0))
    assert "object 2 at voxel (0, 0, 0)" in widget.status and "sees nothing here" in widget.status


def test_a_pet_in_bq_per_ml_is_saved_without_numbers(volume, tmp_path):
    activity = Volume(volume.data * 5000, AFFINE, "Bq/mL")
    widget = ClickWidget(ThresholdSession(activity, "41% SUVmax"), output_dir=tmp_path)
    widget.click(ijk=BALL_IJK)
    assert [path.name for path in widget.save()] == ["mask.nii.gz", "clicks.json"] and not widget.enabled["numbers"]


@pytest.mark.parametrize("intensity_range", [(5, 5), (7, 0), (np.nan, 5), (0, np.inf), (1,), (0, 1, 2)], ids=str)
def test_an_intensity_range_that_shows_nothing_is_refused(session, intensity_range):
    with pytest.raises(SegAnyPETError, match="expected two intensities"):
        ClickWidget(session, intensity_range=intensity_range)


def test_the_former_name_of_the_intensity_range_is_refused_with_todays(session):
    with pytest.raises(SegAnyPETError, match=r"window is now called intensity_range; pass intensity_range=\(0, 5\)"):
        ClickWidget(session, window=(0, 5))
    assert session.watchers == []


def test_a_place_that_cannot_be_written_is_said(widget, tmp_path):
    widget.click(ijk=BALL_IJK)
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SegAnyPETError, match="cannot make folder"):
            widget.save(folder)


def test_warnings_of_the_session_are_shown(widget, session, monkeypatch):
    def leak(*_):
        import warnings

        warnings.warn("the mask meets the border", stacklevel=2)
        nothing = np.zeros(session.volume.shape, bool)
        return session._state.predictions.get("object 1") or Prediction((), PackedMask.of(nothing))

    monkeypatch.setattr(session, "_predict", leak)
    click(widget, BALL_IJK, foreground=True)
    assert widget.error == "Note: the mask meets the border"


def test_mask_journal_and_table_are_saved_and_downloaded(widget, session, volume, monkeypatch):
    with pytest.raises(ClickError, match="no object was clicked"):
        widget.save()
    mask = widget.click(ijk=BALL_IJK)
    mask_file, journal, table = widget.save()
    np.testing.assert_array_equal(load_labels(mask_file, like=volume) == 1, mask)
    assert "MTV" in table.read_text() and str(mask_file.parent) in widget.status
    again = Session.replay(session.model, volume, journal)
    np.testing.assert_array_equal(again.mask, mask)
    sent = {}
    monkeypatch.setattr(widget, "send", lambda content, buffers: sent.update({content["download"]: buffers[0]}))
    for what in ("mask", "journal", "table"):
        tell(widget, "download", what=what)
    assert sent["clicks.json"] == journal.read_bytes() and sent["table.csv"] == table.read_bytes()
    (mask_file.parent / "downloaded.nii.gz").write_bytes(sent["mask.nii.gz"])
    np.testing.assert_array_equal(load_labels(mask_file.parent / "downloaded.nii.gz", like=volume) == 1, mask)


def test_without_a_folder_nothing_is_written(session):
    widget = ClickWidget(session)
    widget.click(ijk=BALL_IJK)
    assert not widget.enabled["save"]
    with pytest.raises(ClickError, match="no folder to save to"):
        widget.save()


def test_a_journal_recorded_by_hand_replays_in_the_widget(widget, session, volume, tmp_path):
    click(widget, BALL_IJK, foreground=True)
    click(widget, (10, 9, 6), foreground=True)
    session.save_journal(tmp_path / "by_hand.json")
    other = ClickWidget(Session(ThresholdNetwork(), volume))
    other.load_journal(tmp_path / "by_hand.json")
    assert [(o["name"], o["bits"]) for o in other.objects] == [(o["name"], o["bits"]) for o in widget.objects]
    assert other.marks == widget.marks and other.cursor_ijk == (10, 9, 6)
    tell(other, "reset")
    tell(other, "load_text", text=(tmp_path / "by_hand.json").read_text())  # a file chosen in the browser
    assert other.marks == widget.marks
    content = json.loads((tmp_path / "by_hand.json").read_text())
    content["volume"]["fingerprint"] = "of another scan"
    tell(other, "load_text", text=json.dumps(content))
    assert "fingerprints differ" in other.error and other.marks == widget.marks
    with pytest.raises(JournalError):
        other.load_journal(tmp_path / "missing.json")


def test_uncertainty_is_one_bit_where_the_logit_is_zero_and_follows_the_clicks(widget, session):
    widget.show_uncertainty()
    assert "voxels" not in widget.uncertainty  # no network looked yet
    widget.click(ijk=BALL_IJK)
    i0, j0, k0, *size = widget.uncertainty["box"]
    bits = np.frombuffer(widget.uncertainty["voxels"], np.uint8).reshape(size, order="F") / 255
    logits = canonical(session.logits_of("object 1"))[i0 : i0 + size[0], j0 : j0 + size[1], k0 : k0 + size[2]]
    p = 1 / (1 + np.exp(-logits))
    expected = np.where(logits == 0, 0, -p * np.log2(p) - (1 - p) * np.log2(1 - p))
    np.testing.assert_allclose(bits, expected, atol=0.01)
    widget.show_uncertainty(False)
    assert widget.uncertainty == {"shown": False}


def test_it_drives_other_sessions_too(volume):
    widget = ClickWidget(ThresholdSession(volume, "SUV>=2.5"))
    mask = widget.click(ijk=BALL_IJK)
    np.testing.assert_array_equal(unpacked(widget.objects[0], widget.scan["shape"]), canonical(mask) > 0)
    assert not widget.enabled["uncertainty"]
    with pytest.raises(SegAnyPETError, match="has no logits"):
        widget.show_uncertainty()


def test_without_a_front_end_it_shows_a_picture_with_its_mask(widget):
    widget.click(ijk=BALL_IJK)
    data, _ = widget._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    image = imread(io.BytesIO(data["image/png"]))
    assert struct.unpack(">I", data["image/png"][16:20])[0] == image.shape[1] > 400
    reddish = (image[..., 0] > image[..., 2] + 0.2).sum()
    widget.hide("object 1")
    hidden = imread(io.BytesIO(widget._repr_mimebundle_()[0]["image/png"]))
    assert reddish > 50 and (hidden[..., 0] > hidden[..., 2] + 0.2).sum() == 0


def test_a_ct_keeps_its_own_grid_and_a_matrix_leads_there(session, volume, monkeypatch):
    affine = np.diag([-1.0, 1.0, 2.0, 1.0])
    affine[:3, 3] = volume.to_mm((15, 13, 9)) + (45, -90, -90)
    ct = Volume(np.full((90, 180, 90), -500.0, np.float32), affine, "HU")
    bone = tuple(np.rint(ct.to_ijk(volume.to_mm((15, 13, 9)))).astype(int))
    ct.data[bone] = 900.0
    widget = ClickWidget(session, ct=ct)
    codes, matrix = arrived(widget, "ct", monkeypatch), np.array(widget.scan["ct"]["matrix"])
    place = np.rint(matrix @ [*ras_of((15, 13, 9)), 1]).astype(int)
    assert codes.shape == (90, 180, 90) and codes[tuple(place)] > 240 and (codes > 240).sum() == 1
    sent = []
    monkeypatch.setattr(widget, "send", lambda content: sent.append(content))
    for ijk in ((15, 13, 9), (0, 0, 0)):
        tell(widget, "probe", ras=ras_of(ijk))
    assert [one["ct"] for one in sent] == [900.0, None]  # outside the CT there is no value


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"session": object()}, SegAnyPETError, "needs a session.*got object.*PromptSession"),
        ({"ct": "pet"}, UnitError, "is in SUVbw; the CT layer needs HU"),
        ({"ct": "elsewhere"}, GeometryError, "overlap"),
    ],
)
def test_what_makes_no_sense_is_refused(session, volume, arguments, error, message):
    far = AFFINE.copy()
    far[:3, 3] += 5000
    given = {"pet": volume, "elsewhere": Volume(volume.data, far, "HU")}
    arguments = {"session": session, **{key: given.get(value, value) for key, value in arguments.items()}}
    with pytest.raises(error, match=message):
        ClickWidget(**arguments)
    assert session.watchers == []


def test_a_closed_widget_is_freed_with_its_scan(session):
    widget = ClickWidget(session)
    known = weakref.ref(widget)
    widget.close()
    del widget
    gc.collect()
    assert known() is None
