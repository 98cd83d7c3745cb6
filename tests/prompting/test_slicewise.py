"""Clicks on slices: drawn where they were made, in no other slice, one by one as in batches."""

from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import oblique

import seganypet as sap
from seganypet.errors import ClickError, JournalError, SegAnyPETError
from seganypet.model.checkpoints import weights_sha256
from seganypet.model.config import ModelConfig
from seganypet.model.sam2d import Sam2D, small_sam
from seganypet.model.sam3d import Sam3D
from seganypet.pet.views import VIEWS
from seganypet.pet.volume import Volume
from seganypet.prompting import base
from seganypet.prompting.prompts import Click
from seganypet.prompting.slicewise import SliceSession, slices_of

SHAPE = (24, 30, 20)
TILTED = oblique((4.07, 3.1, 6.0), left_handed=True)
TURNED = oblique((3.0, 4.07, 4.07))[:, [2, 0, 1, 3]]  # its first axis runs to the head
AFFINES = {"tilted": TILTED, "turned": TURNED, "straight": np.diag([-4.0, -4.0, 3.0, 1.0])}


class Discs(torch.nn.Module):
    """Stands in for a `SamModel`: around foreground clicks a disc, without those around background clicks.

    It sees no image, counts the slices it embeds, and remembers what it was asked.
    """

    def __init__(self, radius: float = 8.0, image_size: int = 64):
        super().__init__()
        vision = SimpleNamespace(image_size=image_size, patch_size=4)  # logits as fine as its pixels
        self.config, self.radius, self.fails = SimpleNamespace(vision_config=vision), radius, False
        self.weight = torch.nn.Parameter(torch.zeros(1), requires_grad=False)
        self.embedded: list[int] = []  # size of each batch
        self.pixels: list[torch.Tensor] = []
        self.asked: list[dict] = []

    def vision_encoder(self, pixels):
        self.embedded.append(len(pixels))
        self.pixels.append(pixels)
        return SimpleNamespace(last_hidden_state=pixels[:, :1, ::16, ::16])

    def forward(self, image_embeddings, input_masks, multimask_output, input_points=None, input_labels=None,
                input_boxes=None):  # fmt: skip
        if self.fails:
            raise RuntimeError("out of memory")
        none = torch.zeros(len(image_embeddings), 1, 0, 2)
        points, labels = (none, none[..., 0]) if input_points is None else (input_points, input_labels)
        boxes = None if input_boxes is None else input_boxes[:, 0]
        asked = {"points": points[:, 0], "labels": labels[:, 0], "masks": input_masks, "boxes": boxes}
        self.asked.append(asked | {"multimask": multimask_output})
        y, x = torch.meshgrid(*[torch.arange(64.0)] * 2, indexing="ij")
        masks = torch.full((len(image_embeddings), 3, 64, 64), 9.0)  # the two that are not chosen say: everything
        for number, mask in enumerate(masks):
            near = [torch.hypot(x - px, y - py) for px, py in points[number, 0]]
            said = list(zip(near, labels[number, 0], strict=True))
            yes = [self.radius - one for one, label in said if label == 1]
            if boxes is not None:  # beyond the box by a fifth, as networks are
                x0, y0, x1, y1 = boxes[number]
                across, down = (x - (x0 + x1) / 2).abs() / (x1 - x0), (y - (y0 + y1) / 2).abs() / (y1 - y0)
                yes.append(1.2 - 2 * torch.maximum(across, down))
            mask[1] = torch.stack(yes).amax(0)
            if no := [one for one, label in said if label == 0]:
                mask[1] = torch.where(torch.stack(no).amin(0) < self.radius, -5.0, mask[1])
        iou = torch.tensor([0.2, 0.9, 0.5]).expand(len(masks), 3)
        if not multimask_output:
            masks, iou = masks[:, 1:2], iou[:, 1:2]
        return SimpleNamespace(pred_masks=masks[:, None], iou_scores=iou[:, None])


def volume_on(affine, unit="SUVbw"):
    return Volume(np.random.default_rng(0).gamma(1, 2, SHAPE), affine, unit, source="noise")


@pytest.fixture
def volume() -> Volume:
    return volume_on(TILTED)


@pytest.fixture
def discs() -> Discs:
    return Discs()


@pytest.fixture
def session(discs, volume) -> SliceSession:
    return SliceSession(Sam2D(discs, "discs"), volume)


@pytest.fixture(scope="module")
def network() -> Sam2D:
    torch.manual_seed(1)
    return Sam2D(small_sam(64, 8, 64, 2, 32), "random").eval()


def in_slice(session: SliceSession, index: int, row: int = 8, column: int = 9) -> tuple[int, int, int]:
    """The voxel at a place of the stack, found by looking for it."""
    marked = np.zeros(SHAPE)
    slices_of(marked, session.volume, session.axis)[index, row, column] = 1
    return tuple(int(axis[0]) for axis in np.nonzero(marked))


def array_axis(session: SliceSession) -> int:
    """Axis of the volume along which slices follow each other, by nibabel and not by this package."""
    ends = {"axial": "IS", "coronal": "PA", "sagittal": "LR"}[session.axis]
    return [code in ends for code in nib.aff2axcodes(session.volume.affine)].index(True)


# ---- slices

@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_slices_stand_as_a_radiologist_sees_them(affine):
    volume = volume_on(affine)
    ras = nib.as_closest_canonical(nib.Nifti1Image(volume.data, affine)).get_fdata()
    for axis, through in (("axial", 2), ("coronal", 1), ("sagittal", 0)):
        stack = slices_of(volume.data, volume, axis)
        assert len(stack) == ras.shape[through]
        for index, one in enumerate(stack):
            np.testing.assert_array_equal(one, ras.take(index, through).T[::-1, ::-1])


@pytest.mark.parametrize("axis", VIEWS)
@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_a_click_is_drawn_around_its_voxel_and_in_its_slice_alone(affine, axis):
    volume = volume_on(affine)
    session = SliceSession(Sam2D(Discs(10)), volume, axis=axis)
    for ijk in ((11, 14, 9), (12, 13, 11)):
        session.reset()
        mask = session.click(ijk=ijk)
        assert mask.shape == SHAPE and mask.dtype == bool and mask[ijk]
        through = array_axis(session)
        assert np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {through}))).tolist() == [ijk[through]]
        np.testing.assert_allclose(np.argwhere(mask).mean(0), ijk, atol=0.3)


@pytest.mark.parametrize("axis", VIEWS)
def test_what_is_round_in_the_picture_is_round_in_millimetres(volume, axis):
    """Pixels are 4.07, 3.1 and 6 mm: a picture of voxels would be stretched twofold."""
    session = SliceSession(Sam2D(Discs(10)), volume, axis=axis)
    mask = session.click(ijk=(11, 14, 9))
    extent_mm = np.sqrt(np.var(np.argwhere(mask), axis=0)) * volume.spacing
    one, other = np.delete(extent_mm, array_axis(session))
    assert one / other == pytest.approx(1, abs=0.12)


@pytest.mark.parametrize("axis", VIEWS)
def test_the_network_sees_what_was_clicked_where_the_click_is(axis):
    ijk = (5, 22, 13)
    data = np.zeros(SHAPE)
    data[ijk] = 7.0
    discs = Discs()
    SliceSession(Sam2D(discs), Volume(data, TILTED, "SUVbw"), axis=axis).click(ijk=ijk)
    ((x, y),) = discs.asked[0]["points"][0].tolist()
    row, column = divmod(int(discs.pixels[0][0, 0].argmax()), 64)
    assert abs(column - x) <= 1 and abs(row - y) <= 1


def test_eight_bits_hold_the_usual_intensities_of_each_unit(discs):
    model, data = Sam2D(discs), np.linspace(-200, 1000, np.prod(SHAPE)).reshape(SHAPE)
    assert SliceSession(model, Volume(data, TILTED, "SUVbw")).intensity_range == (0.0, 7.0)
    assert SliceSession(model, Volume(data, TILTED, "HU")).intensity_range == (-160.0, 240.0)
    low, high = SliceSession(model, Volume(data, TILTED, "Bq/mL")).intensity_range
    assert low == 0 and high == pytest.approx(994, abs=0.1)  # 99.5 % of the way
    assert SliceSession(model, Volume(0 * data, TILTED, "Bq/mL")).intensity_range == (0.0, 1.0)
    assert SliceSession(model, Volume(data, TILTED, "HU"), intensity_range=(0, 100)).intensity_range == (0.0, 100.0)


# ---- clicks

def test_all_clicks_of_a_slice_and_its_last_logits_go_in_and_nothing_of_other_slices(session, discs):
    for index, row, foreground in ((3, 8, True), (5, 6, True), (3, 12, False), (3, 20, True)):
        session.click(ijk=in_slice(session, index, row), foreground=foreground)
    assert [asked["labels"].tolist() for asked in discs.asked] == [[[1]], [[1]], [[1, 0]], [[1, 0, 1]]]
    assert discs.asked[0]["masks"] is None and discs.asked[1]["masks"] is None
    first, second = discs.asked[2]["masks"], discs.asked[3]["masks"]
    assert first.shape == (1, 1, 64, 64) and first.dtype == torch.float32
    assert first.max() > 6 and (second != first).any(), "the chosen one of three, and the newest"


def test_a_negative_click_takes_away_in_its_slice_only(session):
    both = [in_slice(session, index, 14, 12) for index in (3, 5)]
    for ijk in both:
        session.click(ijk=ijk)
    before = session.mask
    after = session.click(ijk=in_slice(session, 3, 14, 13), foreground=False)
    stack, was = (slices_of(mask, session.volume) for mask in (after, before))
    assert stack[3].sum() < was[3].sum()
    assert not after[in_slice(session, 3, 14, 13)] and after[both[0]], "a later click takes no voxel of an earlier one"
    np.testing.assert_array_equal(stack[5], was[5])


def test_the_first_click_of_an_object_in_a_slice_must_be_foreground(session):
    with pytest.raises(ClickError, match="first click on an object must be foreground"):
        session.click(ijk=(3, 3, 3), foreground=False)
    session.click(ijk=in_slice(session, 3))
    before = session.mask
    with pytest.raises(ClickError, match="first click in axial slice 4, so it must be foreground"):
        session.click(ijk=in_slice(session, 4), foreground=False)
    np.testing.assert_array_equal(session.mask, before)
    assert len(session.clicks) == 1
    session.select("other")  # a slice that another object has is not its own
    session.click(ijk=in_slice(session, 4))
    with pytest.raises(ClickError, match="other: .* axial slice 3"):
        session.click(ijk=in_slice(session, 3), foreground=False)


@pytest.mark.parametrize("axis", VIEWS)
def test_many_slices_at_once_equal_the_same_clicks_one_by_one(network, axis, tmp_path):
    volume, rng = volume_on(TURNED), np.random.default_rng(2)
    at_once, single = (SliceSession(network, volume, axis=axis, batch=4) for _ in range(2))
    places = [(index, *rng.integers(2, 18, 2).tolist()) for index in range(2, 13)]
    rounds = [[Click(in_slice(single, *place)) for place in places]]
    rounds.append([Click(in_slice(single, place[0], 5, 6), place[0] % 2 > 0) for place in places[::2]])
    rounds.append([Click(in_slice(single, place[0], 9, 9)) for place in places])  # some second clicks, some third
    for clicks in rounds:
        mask = at_once.click_slices(clicks)
        for click in clicks:
            expected = single.click(ijk=click.ijk, foreground=click.foreground)
        assert 0 < mask.sum() < mask.size
        np.testing.assert_array_equal(mask, expected)
    assert at_once.journal() == single.journal() and len(at_once.clicks) == 28
    at_once.save_journal(tmp_path / "clicks.json")
    again = SliceSession.replay(network, volume, tmp_path / "clicks.json")
    assert again.axis == axis
    np.testing.assert_array_equal(again.mask, mask)


def test_many_slices_at_once_are_one_step_for_undo_and_one_change_for_watchers(session):
    heard = []
    session.watchers.append(lambda: heard.append(len(session.clicks)))
    first = session.click_slices([Click(in_slice(session, index)) for index in (2, 7, 4)])
    both = session.click_slices([Click(in_slice(session, index, 20)) for index in (7, 9)])
    np.testing.assert_array_equal(session.undo(), first)
    assert not session.undo().any() and not session.can_undo
    session.redo()
    np.testing.assert_array_equal(session.redo(), both)
    assert heard == [3, 5, 3, 0, 3, 5]


def test_clicks_that_cannot_be_made_together_change_nothing(session, monkeypatch):
    here, there = Click(in_slice(session, 3)), Click(in_slice(session, 4))
    session.click_slices([here])
    before = session.mask
    for clicks, message in (
        ([], "at least one"),
        ([here, Click(in_slice(session, 3, 12)), there], "3 prompts in 2 axial slices"),
        ([there, Click(in_slice(session, 5), False)], "first click in axial slice 5"),
        ([there, Click((99, 0, 0))], "outside volume shape"),
    ):
        with pytest.raises(ClickError, match=message):
            session.click_slices(clicks)
    monkeypatch.setattr(base, "MAX_OBJECTS", 1)
    session.select("second")
    with pytest.raises(ClickError, match="second: a session holds 1 objects"):
        session.click_slices([there])
    session.select("object 1")
    np.testing.assert_array_equal(session.mask, before)
    assert session.clicks == (here,)


def test_undo_redo_reset_and_removal_restore_masks_exactly(session):
    masks = [session.mask]
    for index, row, foreground in ((3, 8, True), (3, 12, False), (6, 8, True)):
        masks.append(session.click(ijk=in_slice(session, index, row), foreground=foreground))
    for mask in masks[-2::-1]:
        np.testing.assert_array_equal(session.undo(), mask)
    for mask in masks[1:]:
        np.testing.assert_array_equal(session.redo(), mask)
    session.reset()
    assert not session.mask.any()
    np.testing.assert_array_equal(session.undo(), masks[-1])
    session.remove("object 1")
    np.testing.assert_array_equal(session.undo(), masks[-1])


def test_a_network_that_fails_leaves_the_session_as_it_was(session, discs):
    before = session.click(ijk=in_slice(session, 3))
    discs.fails = True
    for act in (lambda: session.click(ijk=in_slice(session, 3, 12)),
                lambda: session.click_slices([Click(in_slice(session, 3)), Click(in_slice(session, 8))])):  # fmt: skip
        with pytest.raises(RuntimeError, match="out of memory"):
            act()
    discs.fails = False
    np.testing.assert_array_equal(session.mask, before)
    assert len(session.clicks) == 1


def test_logits_lie_on_the_grid_and_are_zero_where_nobody_clicked(session):
    mask = session.click(ijk=in_slice(session, 3))
    logits = session.logits_of("object 1")
    assert logits.shape == SHAPE and logits.dtype == np.float32
    np.testing.assert_array_equal(logits > 0, mask)
    stack = slices_of(logits, session.volume)
    assert stack[3].all() and not np.delete(stack, 3, axis=0).any()
    assert not session.logits_of("nobody").any()


# ---- embeddings

def test_each_slice_is_embedded_once_in_batches_and_shared_by_all_objects(discs, volume):
    session = SliceSession(Sam2D(discs), volume, batch=4)
    session.embed_slices(range(3, 9))
    assert discs.embedded == [4, 2]
    for name in ("one", "two"):
        session.select(name)
        session.click_slices([Click(in_slice(session, index)) for index in range(2, 11)])
        session.click(ijk=in_slice(session, 5, 15))
        session.undo()
    session.reset()
    session.click(ijk=in_slice(session, 2))
    assert sum(discs.embedded) == 9, "slices 2 to 10"
    assert session.seconds_embedding > 0 and session.seconds_decoding > 0
    with pytest.raises(ClickError, match=f"no axial slice {session.slice_count}; there are 0 to"):
        session.embed_slices([session.slice_count])


def test_embeddings_stay_within_their_bound_and_the_one_used_last_stays_longest(discs, volume):
    one = 4 * 4 * 2 / 2**20  # MiB of an embedding of this network
    session = SliceSession(Sam2D(discs), volume, batch=2, cache_mb=3.5 * one)
    session.embed_slices([0, 1, 2])
    session.click(ijk=in_slice(session, 0))
    session.embed_slices([3])
    assert list(session._decoder.embeddings) == [2, 0, 3]
    assert sum(held.untyped_storage().nbytes() for held in session._decoder.embeddings.values()) == 3 * 4 * 4 * 2
    tight, roomy = (SliceSession(Sam2D(Discs()), volume, batch=2, cache_mb=size) for size in (one / 9, 100))
    clicks = [Click(in_slice(tight, index, 10)) for index in range(7)]
    np.testing.assert_array_equal(tight.click_slices(clicks), roomy.click_slices(clicks))
    assert len(tight._decoder.embeddings) == 2, "a batch must fit"


# ---- journals, arguments, widget

def test_a_journal_tells_axis_intensities_and_network_and_replays_the_same_masks(network, tmp_path):
    volume, path = volume_on(TILTED, "Bq/mL"), tmp_path / "clicks.json"
    session = SliceSession(network, volume, axis="coronal")
    for name, index, foreground in (("a", 3, True), ("b", 4, True), ("a", 3, False), ("a", 9, True)):
        session.select(name)
        session.click(ijk=in_slice(session, index, 4 + index, 5), foreground=foreground)
    session.save_journal(path)
    journal = session.journal()
    expected = {"axis": "coronal", "intensity_range": list(session.intensity_range), "clicks": "bind"}
    assert journal.settings == expected
    assert journal.model == {"name": "random", "kind": "slices", "weights_sha256": weights_sha256(network)}
    again = SliceSession.replay(network, volume, path)
    np.testing.assert_array_equal(again.labels, session.labels)
    assert again.journal() == journal and session.labels.any()
    with pytest.raises(JournalError, match="made with settings"):
        SliceSession(network, volume).load_journal(path)
    torch.manual_seed(5)
    with pytest.raises(JournalError, match="other weights"):
        SliceSession.replay(Sam2D(small_sam(64, 8, 64, 2, 32), "random"), volume, path)
    path.write_text(path.read_text().replace('"coronal"', '"diagonal"'))
    with pytest.raises(JournalError, match="diagonal"):
        SliceSession.replay(network, volume, path)


def test_masks_are_saved_on_the_volumes_own_grid(session, volume, tmp_path):
    mask = session.click(ijk=(11, 14, 9))
    session.save(tmp_path / "mask.nii.gz")
    file = nib.load(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(np.asarray(file.dataobj) > 0, mask)
    np.testing.assert_allclose(file.affine, volume.affine, atol=1e-4)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"axis": "oblique"}, "axial, coronal, sagittal"),
        ({"batch": 0}, "above 0"),
        ({"cache_mb": -1}, "above 0"),
        ({"intensity_range": (7, 0)}, "the first one lower"),
        ({"intensity_range": "wide"}, "two intensities"),
        ({"intensity_range": (0, float("nan"))}, "two intensities"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(discs, volume, arguments, message):
    with pytest.raises(ClickError, match=message):
        SliceSession(Sam2D(discs), volume, **arguments)


def test_a_3d_network_is_sent_to_the_session_that_is_its_own(volume):
    with torch.device("meta"):
        network = Sam3D(ModelConfig(window_size=32, encoder_dim=32, encoder_depth=1, encoder_heads=2, prompt_dim=48))
    with pytest.raises(SegAnyPETError, match="got Sam3D and Volume.*lacks boxes, mask_logits, pixels.*open_session"):
        SliceSession(network, volume)
    with pytest.raises(SegAnyPETError, match="got Discs and ndarray"):
        SliceSession(Discs(), volume.data)


def test_the_click_widget_draws_and_clicks_slices(session):
    widget = sap.ClickWidget(session)
    widget._handle_custom_msg({"call": "prompt", "prompt": {"ijk": [9, 9, 6], "foreground": True}}, [])
    assert widget.error == "" and session.mask.any() and widget.objects[0]["ml"] > 0
    widget._handle_custom_msg({"call": "prompt", "prompt": {"ijk": [9, 9, 7], "foreground": False}}, [])
    assert "must be foreground" in widget.error
    widget._handle_custom_msg({"call": "show_uncertainty", "shown": True}, [])
    assert widget.enabled["uncertainty"] and "voxels" in widget.uncertainty
    session.click_slices([Click(in_slice(session, 12))])
    assert len(widget.marks) == 2
    widget._handle_custom_msg({"call": "undo"}, [])
    assert len(widget.marks) == 1 and widget.error == ""
    widget.close()
