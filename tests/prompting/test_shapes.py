"""What each kind of prompt says of a mask, on grids as awkward as scanners make them."""

import base64
import json
import time

import numpy as np
import pytest
from conftest import oblique

from seganypet.errors import ClickError, GeometryError, JournalError, SegAnyPETError, VolumeError
from seganypet.pet.plots import show_slices
from seganypet.pet.views import ijk_to_ras
from seganypet.pet.volume import Volume, save_mask
from seganypet.prompting.prompts import (
    Box,
    Click,
    InitialMask,
    Lasso,
    Scribble,
    constrain,
    read_prompt,
    since_start,
    write_prompt,
)
from seganypet.prompting.shapes import joined
from seganypet.prompting.thresholds import ThresholdSession
from seganypet.widgets.click import ClickWidget

AFFINE = oblique((4.07, 3.1, 5.0), left_handed=True)
SHAPE = (30, 26, 18)
PATH = ((3, 3, 5), (9, 5, 5), (9, 12, 8))
RING = ((2, 7, 4), (10, 7, 3), (12, 7, 12), (4, 7, 14))  # a quadrilateral in the slice j = 7


@pytest.fixture
def volume() -> Volume:
    """Two hot islands, of SUV 8 and 6, in a cold scan."""
    data = np.full(SHAPE, 0.5)
    data[4:10, 4:12, 4:12] = 8.0
    data[18:24, 4:12, 4:12] = 6.0
    return Volume(data, AFFINE, "SUVbw", source="islands")


def region(*index) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[index] = True
    return mask


def after(*prompts, mask: np.ndarray | None = None) -> np.ndarray:
    """What prompts leave of a mask, by default of the whole volume."""
    settled = np.ones(SHAPE, bool) if mask is None else mask.copy()
    constrain(settled, prompts)
    return settled


def inside_polygon(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Whether points lie inside a polygon, by the crossings of a ray."""
    inside = np.zeros(len(points), bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        crosses = (ay > points[:, 1]) != (by > points[:, 1])
        with np.errstate(divide="ignore", invalid="ignore"):
            inside ^= crosses & (points[:, 0] < (bx - ax) * (points[:, 1] - ay) / (by - ay) + ax)
    return inside


# ---- scribble


@pytest.mark.parametrize("seed", range(20))
def test_a_scribble_has_no_gaps_and_passes_through_what_was_given(seed):
    path = [tuple(voxel) for voxel in np.random.default_rng(seed).integers(0, SHAPE, (5, 3)).tolist()]
    voxels = joined(path)
    steps = np.abs(np.diff(voxels, axis=0)).max(axis=1)
    assert (steps == 1).all() and set(path) <= {tuple(voxel) for voxel in voxels.tolist()}
    # Along each line the longest axis moves by one a step.
    assert len(voxels) == 1 + sum(np.abs(np.subtract(a, b)).max() for a, b in zip(path, path[1:], strict=False))


def test_each_voxel_of_a_scribble_binds():
    scribble = Scribble(PATH, foreground=False)
    kept = after(scribble)
    assert (~kept).sum() == len({tuple(voxel) for voxel in scribble.voxels.tolist()}) == 14
    assert scribble.obeyed_by(kept) and not scribble.obeyed_by(np.ones(SHAPE, bool))
    assert Scribble(PATH).obeyed_by(np.ones(SHAPE, bool))


def test_at_most_eight_clicks_stand_for_a_scribble_and_both_its_ends_are_among_them():
    points = Scribble(PATH, foreground=False).points
    assert len(points) == 8 and (points[0], points[-1]) == ((PATH[0], False), (PATH[-1], False))
    assert Scribble((PATH[0],)).points == ((PATH[0], True),)


# ---- box and lasso


def test_a_positive_box_in_a_slice_bounds_that_slice_alone():
    for axis in range(3):
        low, high = np.array([5, 6, 4]), np.array([9, 12, 11])
        high[axis] = low[axis]
        kept = after(Box(tuple(low.tolist()), tuple(high.tolist())))
        inside = np.moveaxis(kept, axis, 0)
        assert np.delete(inside, low[axis], axis=0).all()
        assert inside[low[axis]].sum() == np.prod(np.delete(high - low + 1, axis))


def test_a_positive_3d_box_bounds_the_whole_volume_and_a_negative_one_empties_itself():
    inside = region(slice(5, 10), slice(6, 13), slice(4, 12))
    np.testing.assert_array_equal(after(Box((5, 6, 4), (9, 12, 11))), inside)
    np.testing.assert_array_equal(after(Box((5, 6, 4), (9, 12, 11), foreground=False)), ~inside)
    assert Box((5, 6, 4), (9, 12, 11)).obeyed_by(inside) and not Box((5, 6, 5), (9, 12, 11)).obeyed_by(inside)


def test_neither_box_nor_lasso_adds_anything():
    nothing = np.zeros(SHAPE, bool)
    for prompt in (Box((5, 6, 4), (9, 12, 11)), Box((5, 6, 4), (9, 12, 4)), Lasso(RING)):
        assert not after(prompt, mask=nothing).any() and prompt.obeyed_by(nothing)


@pytest.mark.parametrize("axis", range(3))
def test_a_lasso_is_filled_as_a_polygon_in_its_slice(axis):
    corners = np.array([(3, 2), (11, 4), (9, 12), (6, 8), (2, 13)])  # not convex
    path = np.insert(corners, axis, 7, axis=1)
    lasso = Lasso(tuple(tuple(voxel) for voxel in path.tolist()))
    assert (lasso.slice_axis, lasso.slice_index) == (axis, 7)
    plane = np.moveaxis(after(lasso), axis, 0)
    assert np.delete(plane, 7, axis=0).all()
    pixels = np.argwhere(np.ones(plane[7].shape, bool))
    outline = {tuple(pixel) for pixel in np.delete(joined([*lasso.path_ijk, lasso.path_ijk[0]]), axis, axis=1).tolist()}
    expected = inside_polygon(pixels, corners) | np.array([tuple(pixel) in outline for pixel in pixels.tolist()])
    np.testing.assert_array_equal(plane[7].ravel(), expected)
    without = np.moveaxis(after(Lasso(lasso.path_ijk, foreground=False)), axis, 0)
    np.testing.assert_array_equal(without[7].ravel(), ~expected)
    assert lasso.obeyed_by(after(lasso)) and not lasso.obeyed_by(np.ones(SHAPE, bool))


def test_a_lasso_that_crosses_itself_is_filled_on_both_sides():
    eight = ((2, 7, 2), (10, 7, 10), (10, 7, 2), (2, 7, 10))
    kept = after(Lasso(eight))[:, 7]
    assert kept[3, 6] and kept[9, 6] and not kept[6, 3]  # left and right of the crossing, but not above


def test_a_click_stands_for_a_box_in_its_middle_and_for_a_lasso_where_it_is_deepest():
    assert Box((5, 6, 4), (9, 12, 4), False).points == (((7, 9, 4), False),)
    moon = Lasso(((2, 7, 2), (14, 7, 2), (14, 7, 14), (12, 7, 14), (12, 7, 4), (2, 7, 4)))  # its mean lies outside
    ((voxel, foreground),) = moon.points
    assert foreground and voxel == (10, 7, 3)  # in the middle of an arm, as near to the mean as that goes


def test_a_large_box_costs_no_more_than_its_corners(volume):
    large = Volume(np.zeros((256, 256, 300), np.float32), AFFINE, "SUVbw")
    started = time.perf_counter()
    box = Box((0, 0, 0), (255, 255, 299)).checked(large)
    assert box.centre_ijk == (127, 127, 149) and len(box.points) == 1 and len(box.marks) == 6
    assert time.perf_counter() - started < 1


# ---- which prompt counts


def test_of_two_clicks_on_one_voxel_the_later_counts():
    voxel = (5, 6, 7)
    for last in (True, False):
        assert after(Click(voxel, not last), Click(voxel, last))[voxel] == last


def test_no_box_or_lasso_takes_away_a_clicked_voxel_whichever_came_first():
    click, scribble = Click((7, 7, 7)), Scribble(((5, 7, 5), (9, 7, 9)))
    for taker in (Box((0, 0, 0), (29, 25, 17), False), Lasso(RING, False), Box((20, 7, 2), (24, 7, 6))):
        for prompts in ((click, scribble, taker), (taker, click, scribble)):
            kept = after(*prompts)
            assert click.obeyed_by(kept) and scribble.obeyed_by(kept)
    assert not after(Box((0, 0, 0), (29, 25, 17), False), Click((7, 7, 7), False))[7, 7, 7]


def test_prompts_before_a_start_do_not_count(volume):
    start = InitialMask.of(volume.data > 7, volume)
    prompts = [Click((1, 1, 1)), start, Click((2, 2, 2)), Scribble(PATH)]
    assert since_start(prompts) == (start, prompts[2], prompts[3])
    assert since_start(prompts[2:]) == (prompts[2], prompts[3]) and since_start([]) == ()


# ---- masks to start from


def test_a_mask_survives_as_a_prompt_voxel_by_voxel(volume):
    mask = np.random.default_rng(0).random(SHAPE) > 0.9
    mask[0] = mask[:, -2:] = False
    start = InitialMask.of(mask, volume)
    np.testing.assert_array_equal(start.mask, mask)
    again = InitialMask.of(mask.astype(np.int16) * 7, volume)
    assert start == again and hash(start) == hash(again)
    assert start != InitialMask.of(~mask, volume)
    assert {tuple(voxel) for voxel in start.voxels.tolist()} == {tuple(voxel) for voxel in np.argwhere(mask).tolist()}
    assert start.marks == () and start.obeyed_by(~mask) and after(start).all()


def test_a_large_mask_is_compared_and_hashed_in_no_time():
    grid = Volume(np.zeros((200, 200, 200), np.float32), AFFINE, "SUVbw")
    ball = np.linalg.norm(np.indices(grid.shape).T - 100, axis=-1) < 80  # two million voxels
    starts = InitialMask.of(ball, grid), InitialMask.of(ball, grid)
    assert len(starts[0].packed) < 100_000
    started = time.perf_counter()
    for _ in range(1000):
        assert starts[0] == starts[1] and hash(starts[0]) == hash(starts[1])
    assert time.perf_counter() - started < 1


def test_the_core_of_a_mask_follows_a_tube_and_its_depth_is_in_millimetres(volume):
    tube = region(slice(2, 28), slice(8, 13), slice(6, 9))  # 4.07 x 3.1 x 5 mm: 5 x 3.1 wide, 3 x 5 high
    start = InitialMask.of(tube, volume)
    assert start.centre_ijk[1:] == (10, 7) and start.depth_at((15, 10, 7), volume.spacing) == pytest.approx(3 * 3.1)
    assert start.depth_at((1, 10, 7), volume.spacing) == 0
    core = start.core(volume.spacing)
    assert set(core[:, 0]) >= set(range(3, 27)) and set(core[:, 1]) <= {9, 10, 11}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.ones((3, 4, 5), bool), r"shape \(3, 4, 5\), but islands has \(30, 26, 18\).*load_labels"),
        (np.ones(SHAPE[::-1], bool), r"expected a mask on the same grid"),
        (np.zeros(SHAPE, np.uint8), "is empty"),
        (np.arange(np.prod(SHAPE)).reshape(SHAPE) % 3, "holds the labels 1, 2; expected one. Choose one: labels == 1"),
        (np.full(SHAPE, 0.5), "holds fractions, such as 0.5.*Threshold it"),
        (np.full(SHAPE, np.nan), "holds fractions, such as nan"),
        (None, "is a NoneType of object; expected a bool array"),
        ([["a"]], "is a list of .*; expected a bool array"),
    ],
)
def test_what_is_no_mask_to_start_from_is_refused_and_nothing_changes(volume, given, message):
    session = ThresholdSession(volume, "SUV>=4")
    session.click(ijk=(6, 8, 8))
    before = session.journal()
    with pytest.raises(ClickError, match=message):
        session.start_from(given)
    assert session.journal() == before and not session.can_redo


def test_a_label_file_is_a_start_if_it_lies_on_the_grid(volume, tmp_path):
    session, mask = ThresholdSession(volume, "SUV>=4"), volume.data > 7
    save_mask(tmp_path / "mask.nii.gz", mask, volume)
    np.testing.assert_array_equal(session.start_from(tmp_path / "mask.nii.gz"), mask)
    moved = volume.affine.copy()
    moved[:3, 3] += 3
    save_mask(tmp_path / "moved.nii.gz", mask, Volume(volume.data, moved, "SUVbw"))
    with pytest.raises(GeometryError, match="moved.nii.gz: labels .* do not lie on the grid of islands"):
        session.start_from(str(tmp_path / "moved.nii.gz"))
    with pytest.raises(VolumeError, match="absent.nii.gz does not exist"):
        session.start_from(tmp_path / "absent.nii.gz")
    assert len(session.prompts) == 1


# ---- drawn by a user


def draw(session: ThresholdSession, method: str, *arguments, **more) -> None:
    getattr(session, method)(*arguments, **more)


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("scribble", ([],), "scribble without any voxel"),
        ("scribble", (np.empty((0, 3)),), "scribble without any voxel"),
        ("scribble", (), "either as voxel indices or in millimetres; got neither"),
        ("scribble", ([(1, 2)],), r"array of shape \(1, 2\)"),
        ("scribble", ([(1, 2, 3), (1, 2)],), "expected points of three numbers each"),
        ("scribble", ("along the liver",), "expected points of three numbers each"),
        ("scribble", (np.ones(SHAPE, bool),), r"array of shape \(30, 26, 18\)"),
        ("scribble", ([(1, 2, 3), (30, 2, 3)],), r"ijk=\(30.0, 2.0, 3.0\) lies outside volume shape"),
        ("scribble", ([(1, 2, 3), (1, -1, 3)],), "lies outside volume shape"),
        ("scribble", ([(1, 2, 3.5)],), "is not a voxel: indices are whole numbers"),
        ("scribble", ([(1, 2, np.nan)],), "is not finite"),
        ("scribble", ([(1, 2, 3)], "yes"), "foreground='yes'; expected True"),
        ("box", ((8, 4, 4), (3, 9, 9)), r"from low_ijk=\(8, 4, 4\) to high_ijk=\(3, 9, 9\) is inside out"),
        ("box", ((2, 2, 2), (9, 9, 18)), "lies outside volume shape"),
        ("box", ((2, 2, 2),), "expected points of three numbers each"),
        ("box", ((2, 2, 2), (9, 2, 2)), r"one voxel thick along axes \[1, 2\]"),
        ("box", ((2, 2, 2), (2, 2, 2)), r"one voxel thick along axes \[0, 1, 2\]"),
        ("lasso", ([(2, 2, 2), (2, 9, 2)],), "2 different voxels on one line encloses nothing"),
        ("lasso", ([(2, 2, 2), (4, 4, 2), (6, 6, 2), (2, 2, 2)],), "3 different voxels on one line"),
        ("lasso", ([(2, 2, 2), (9, 2, 3), (9, 9, 4)],), r"from \(2, 2, 2\) to \(9, 9, 4\) does not lie in one slice"),
        ("lasso", ([],), "lasso without any voxel"),
    ],
)
def test_shapes_that_make_no_sense_are_refused_and_nothing_changes(volume, method, arguments, message):
    session = ThresholdSession(volume, "SUV>=4")
    session.click(ijk=(6, 8, 8))
    before = session.journal()
    with pytest.raises(ClickError, match=message):
        draw(session, method, *arguments)
    assert session.journal() == before


def test_a_negative_box_may_be_a_line_or_a_voxel(volume):
    session = ThresholdSession(volume, "SUV>=4")
    mask = session.click(ijk=(6, 8, 8))
    assert (mask & ~session.box((5, 5, 5), (5, 5, 5), foreground=False)).sum() == 1
    assert (mask & ~session.box((6, 5, 5), (8, 5, 5), foreground=False)).sum() == 4


@pytest.mark.parametrize("axis", range(3))
def test_a_volume_of_one_slice_takes_boxes_of_any_width(axis):
    shape, low, high = ([12, 10][:axis] + [1] + [12, 10][axis:], (2, 3), (2, 8))
    flat = Volume(np.full(shape, 5.0), AFFINE, "SUVbw")
    corners = [np.insert(corner, axis, 0) for corner in (low, high)]
    mask = ThresholdSession(flat, "SUV>=4").box(*corners).squeeze(axis)
    assert mask[2, 3:9].all() and mask.sum() == 6
    assert ThresholdSession(flat, "SUV>=4").box(corners[0], corners[0]).sum() == 1


def test_millimetres_are_moved_to_the_nearest_voxels_whatever_way_the_axes_run(volume):
    one, other = (ThresholdSession(volume, "SUV>=4") for _ in range(2))
    jitter = np.array([0.4, -0.6, 0.5])
    one.box((4, 4, 5), (9, 11, 10))
    other.box(corners_mm=[volume.to_mm((9, 4, 10)) + jitter, volume.to_mm((4, 11, 5)) - jitter])
    one.scribble(PATH)
    other.scribble(points_mm=volume.to_mm(PATH) + jitter)
    one.lasso(RING, False)
    other.lasso(path_mm=volume.to_mm(RING) + jitter, foreground=False)
    assert one.prompts == other.prompts and len(one.prompts) == 3
    with pytest.raises(ClickError, match="box of 3 corners; expected two"):
        other.box(corners_mm=volume.to_mm(PATH))
    with pytest.raises(ClickError, match="in millimetres; got both"):
        other.scribble(PATH, points_mm=volume.to_mm(PATH))
    with pytest.raises(ClickError, match=r"mm=\(900.0, 0.0, 0.0\) is voxel .* outside shape"):
        other.scribble(points_mm=[(900, 0, 0)])


# ---- journals


def every_kind(volume: Volume) -> list:
    start = InitialMask.of(volume.data > 7, volume)
    return [
        Scribble(PATH), Scribble(PATH[:1], False), Box((5, 6, 4), (9, 12, 4)), Box((0, 0, 0), (3, 3, 3), False),
        Lasso(RING), Lasso(RING, False), start,
    ]  # fmt: skip


@pytest.mark.parametrize("affine", [None, AFFINE], ids=["without mm", "with mm"])
def test_every_kind_survives_json_and_is_as_it_was(volume, affine):
    for prompt in every_kind(volume):
        again = read_prompt(json.loads(json.dumps(write_prompt(prompt, affine))), affine)
        assert again == prompt and hash(again) == hash(prompt) and again.checked(volume) == prompt


def test_a_session_of_all_kinds_is_repeated_undone_renamed_and_redone(volume, tmp_path):
    session = ThresholdSession(volume, "SUV>=4")
    masks = [session.mask]
    session.select("liver")
    masks.append(session.scribble([(5, 5, 5), (8, 10, 10)]))
    masks.append(session.box((4, 4, 4), (9, 9, 11)))
    masks.append(session.lasso(RING, foreground=False))
    masks.append(session.start_from(volume.data > 5))
    masks.append(session.click(ijk=(20, 8, 8), foreground=False))
    assert [prompt.kind for prompt in session.prompts] == ["scribble", "box", "lasso", "mask", "click"]
    assert all((one != other).any() for one, other in zip(masks, masks[1:], strict=False))
    session.save_journal(tmp_path / "all.json")
    assert json.loads((tmp_path / "all.json").read_text())["format"] == "seganypet-journal-2"
    again = ThresholdSession(volume, "SUV>=4")
    again.load_journal(tmp_path / "all.json")
    assert again.journal() == session.journal()
    np.testing.assert_array_equal(again.mask, masks[-1])
    for mask in masks[-2::-1]:
        np.testing.assert_array_equal(session.undo(), mask)
    session.rename("liver", "node")
    for mask in masks[1:]:
        np.testing.assert_array_equal(session.redo(), mask)
    assert session.objects == ("node",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entry: entry.pop("packed"), "packed and drawn_by, texts"),
        (lambda entry: entry.update(packed="nonsense!"), "is damaged"),
        (lambda entry: entry.update(packed=entry["packed"][:-8]), "do not fill|is damaged"),
        (lambda entry: entry.update(packed=base64.b64encode(b"x" * 50).decode()), "is damaged"),
        (lambda entry: entry.update(size=[2, 2, 2]), "do not fill a box of"),
        (lambda entry: entry.update(size=[10**8] * 3, shape=[10**8 + 4] * 3), "do not fill a box of"),
        (lambda entry: entry.update(size=[6, 8, 80]), "does not lie in a volume"),
        (lambda entry: entry.update(low_mm=[0, 0, 0]), "contradict each other"),
        (lambda entry: entry.update(shape=[30, 26, 19]), "cannot be repeated .*does not fit"),
    ],
)
def test_a_damaged_start_in_a_journal_is_refused(volume, tmp_path, change, message):
    session = ThresholdSession(volume, "SUV>=4")
    session.start_from(volume.data > 7)
    session.save_journal(tmp_path / "start.json")
    content = json.loads((tmp_path / "start.json").read_text())
    change(content["prompts"][0])
    (tmp_path / "start.json").write_text(json.dumps(content))
    with pytest.raises(JournalError, match=message):
        session.load_journal(tmp_path / "start.json")
    assert len(session.prompts) == 1


@pytest.mark.parametrize(
    ("number", "change", "message"),
    [
        (0, {"path_ijk": []}, "is no scribble; expected path_ijk, a list"),
        (0, {"path_ijk": [[1, 2, 3.5]]}, "is no scribble"),
        (0, {"path_mm": None}, "mm=None contradict"),
        (2, {"low_ijk": [5, 6]}, "is no box; expected low_ijk and high_ijk"),
        (2, {"foreground": 1}, "is no box"),
        (2, {"corners_mm": [[0, 0, 0], [1, 1, 1]]}, "contradict each other"),
        (4, {"foreground": None}, "is no lasso"),
    ],
)
def test_damaged_shapes_are_refused(volume, number, change, message):
    entry = write_prompt(every_kind(volume)[number], AFFINE) | change
    with pytest.raises(ClickError, match=message):
        read_prompt(json.loads(json.dumps(entry)), AFFINE)


# ---- pictures and the widget


def test_every_slice_through_a_3d_box_shows_its_outline(volume):
    box = Box((5, 6, 4), (9, 12, 11))
    for axis, index in enumerate(box.centre_ijk):
        crossing = [[voxel for voxel in mark.path_ijk if voxel[axis] == index] for mark in box.marks]
        lines = [np.array(points) for points in crossing if points]
        assert len(lines) == 4  # of the four faces that the slice cuts
        corners = {tuple(end) for line in lines for end in np.delete(line, axis, axis=1)[[0, -1]].tolist()}
        low, high = np.delete(box.low_ijk, axis), np.delete(box.high_ijk, axis)
        assert corners >= {tuple(low.tolist()), tuple(high.tolist())}


def test_the_widget_draws_every_kind_as_it_lies_and_nothing_that_no_longer_counts(volume):
    session = ThresholdSession(volume, "SUV>=4")
    widget = ClickWidget(session)
    widget.prompt(Scribble(PATH))
    assert widget.marks[0]["path"][0] == list(ijk_to_ras(PATH[0], volume)) and len(widget.marks[0]["path"]) == 14
    widget.prompt(Lasso(RING, False))
    outline = widget.marks[1]["path"]
    assert outline[0] == outline[-1] and not widget.marks[1]["foreground"]
    message = {"call": "prompt", "prompt": write_prompt(Box((4, 4, 6), (9, 9, 6)))}
    widget._handle_custom_msg(message, [])
    assert widget.error == "" and len(widget.marks) == 3
    session.start_from(volume.data > 7)
    assert widget.marks == [] and widget.effort["clicks"] == 4
    widget._handle_custom_msg({"call": "prompt", "prompt": {"kind": "box", "low_ijk": [9, 9, 9]}}, [])
    assert "is no box; expected low_ijk" in widget.error
    assert widget._repr_mimebundle_()[0]["image/png"].startswith(b"\x89PNG")


def test_what_a_session_tells_stands_in_the_widget_and_goes_with_undo(volume):
    session = ThresholdSession(volume, "SUV>=4")
    widget = ClickWidget(session)
    session.click(ijk=(14, 20, 9))
    assert session.notice.startswith("Nothing found at this click") and session.notice in widget.status
    session.click(ijk=(6, 8, 8))
    assert session.notice == ""
    session.undo()
    assert session.notice.startswith("Nothing found")
    session.rename("object 1", "air")
    assert session.notice.startswith("Nothing found")
    session.reset()
    assert session.notice == ""


def test_pictures_take_every_kind(volume):
    prompts = [*every_kind(volume), Box((4, 4, 4), (9, 9, 9))]
    axes = show_slices(volume, clicks=prompts, at_ijk=(7, 7, 7))
    drawn = [line for ax in axes for line in ax.lines if line.get_color() in ("#56B4E9", "#E69F00")]
    assert len(drawn) >= 8
    axes[0].figure.clear()


def test_a_session_that_starts_from_no_mask_says_what_it_takes(volume):
    class ClicksOnly(ThresholdSession):
        accepts = frozenset({"click"})

    session = ClicksOnly(volume, "SUV>=4")
    with pytest.raises(ClickError, match="takes prompts of kind click; got 'mask'"):
        session.start_from(volume.data > 7)
    with pytest.raises(ClickError, match="takes prompts of kind click; got 'box'"):
        session.box((2, 2, 2), (5, 5, 5))
    with pytest.raises(SegAnyPETError, match="the first lasso on an object must be foreground"):
        ThresholdSession(volume, "SUV>=4").lasso(RING, foreground=False)
    assert session.prompts == ()
