"""Pictures show the patient upright and the right way round, however the grid lies."""

import matplotlib
import numpy as np
import pytest
from conftest import oblique

from seganypet.errors import ClickError, GeometryError, UnitError
from seganypet.pet import plots
from seganypet.pet.volume import Volume
from seganypet.prompting.prompts import Click

SHAPE = (20, 24, 30)


@pytest.fixture(autouse=True)
def headless():
    matplotlib.use("Agg")
    yield
    matplotlib.pyplot.close("all")


def permuted() -> np.ndarray:
    """A grid stored (head to feet, left to right, back to front): 3 x 2 x 5 mm."""
    affine = np.zeros((4, 4))
    affine[2, 0], affine[0, 1], affine[1, 2] = -3, 2, 5
    affine[:, 3] = (-20, -70, 40, 1)
    return affine


GRIDS = {
    "oblique": oblique((4.07, 4.07, 3.0)),
    "oblique left-handed": oblique((4.07, 4.07, 3.0), left_handed=True),
    "axes permuted": permuted(),
    "oblique, axes permuted": oblique((4.0, 2.0, 3.0)) @ np.eye(4)[:, [2, 0, 1, 3]],
    "everything reversed": np.diag([-2.0, -3.0, -4.0, 1.0]),
}
every_grid = pytest.mark.parametrize("affine", GRIDS.values(), ids=GRIDS)


def volume_with_spot(affine: np.ndarray, towards: tuple[float, float, float]) -> tuple[Volume, tuple[int, int, int]]:
    """A faint volume with one hot voxel, about 15 mm from its centre in a direction in RAS mm."""
    empty = Volume(np.zeros(SHAPE), affine, "SUVbw")
    centre_mm = empty.to_mm((np.array(SHAPE) - 1) / 2)
    hot_ijk = tuple(int(index) for index in np.rint(empty.to_ijk(centre_mm + 15 * np.array(towards))))
    data = np.zeros(SHAPE)
    data[hot_ijk] = 6.0
    return Volume(data, affine, "SUVbw"), hot_ijk


def on_screen(ax, picture) -> np.ndarray:
    """Where the brightest pixel stands in its axes: (0, 0) is the lower left corner, (1, 1) the upper right."""
    array = np.asarray(picture.get_array())
    row, column = np.unravel_index(array.argmax(), array.shape)
    left, right, bottom, top = picture.get_extent()
    assert picture.origin == "lower"
    x = left + (column + 0.5) / array.shape[1] * (right - left)
    y = bottom + (row + 0.5) / array.shape[0] * (top - bottom)
    return ax.transAxes.inverted().transform(ax.transData.transform((x, y)))


# ---- orientation

@every_grid
def test_the_patients_right_is_on_the_viewers_left_in_a_mip(affine):
    for towards, at_left in (((1, 0, 0), True), ((-1, 0, 0), False)):
        volume, _ = volume_with_spot(affine, towards)
        ax = plots.show_mip(volume)
        assert (on_screen(ax, ax.images[0])[0] < 0.5) == at_left


@every_grid
def test_the_head_is_at_the_top_of_a_mip(affine):
    for towards, at_top in (((0, 0, 1), True), ((0, 0, -1), False)):
        volume, _ = volume_with_spot(affine, towards)
        ax = plots.show_mip(volume)
        assert (on_screen(ax, ax.images[0])[1] > 0.5) == at_top


@every_grid
@pytest.mark.parametrize(
    ("towards", "places"),
    [
        # Which side of (axial, coronal, sagittal) the spot must stand on; None: in the middle.
        ((1, 0, 0), [("left", None), ("left", None), (None, None)]),
        ((0, 1, 0), [(None, "top"), (None, None), ("left", None)]),
        ((0, 0, 1), [(None, None), (None, "top"), (None, "top")]),
    ],
    ids=["right", "front", "head"],
)
def test_slices_show_right_front_and_head_where_radiologists_expect_them(affine, towards, places):
    volume, hot_ijk = volume_with_spot(affine, towards)
    for ax, (across, up) in zip(plots.show_slices(volume, at_ijk=hot_ijk), places, strict=True):
        x, y = on_screen(ax, ax.images[0])
        assert np.asarray(ax.images[0].get_array()).max() == 6.0
        assert across is None or x < 0.5
        assert up is None or y > 0.5


def test_a_voxel_is_drawn_as_wide_and_high_as_it_is():
    # Stored (head to feet, left to right, back to front) with 3 x 2 x 5 mm and 20 x 24 x 30 voxels:
    # across 24 * 2 = 48 mm, up 20 * 3 = 60 mm, deep 30 * 5 = 150 mm.
    volume, hot_ijk = volume_with_spot(permuted(), (0, 0, 0))
    mip = plots.show_mip(volume)
    assert mip.images[0].get_extent() == [0, 48, 0, 60]
    assert mip.get_aspect() == 1
    extents = [ax.images[0].get_extent() for ax in plots.show_slices(volume, at_ijk=hot_ijk)]
    assert extents == [[0, 48, 0, 150], [0, 48, 0, 60], [0, 150, 0, 60]]


def test_the_ends_of_a_picture_are_named():
    volume, _ = volume_with_spot(GRIDS["oblique left-handed"], (0, 0, 0))
    for ax, letters in zip(plots.show_slices(volume), ("RL", "RL", "AP"), strict=True):
        side = {text.get_text(): text.get_position()[0] for text in ax.texts}
        assert side[letters[0]] < 0.5 < side[letters[1]]


@every_grid
def test_the_scale_bar_is_as_long_as_it_says(affine):
    volume, _ = volume_with_spot(affine, (0, 0, 0))
    ax = plots.show_mip(volume)
    (bar,) = ax.lines
    (label,) = [text.get_text() for text in ax.texts if text.get_text().endswith(" mm")]
    assert abs(np.diff(bar.get_xdata())[0]) == pytest.approx(float(label.removesuffix(" mm")))


# ---- intensities, masks and clicks

def test_a_mip_among_other_pictures_says_what_its_greys_mean():
    volume = Volume(np.full((6, 7, 8), 2.0, np.float32), oblique(spacing=(4.07, 4.07, 3.0)), "SUVbw")
    ax = matplotlib.figure.Figure().subplots()
    assert plots.show_mip(volume, ax=ax, vmax=12.5).get_title().endswith("SUVbw 0 to 12.5")
    assert len(plots.show_mip(volume).figure.axes) == 2  # alone it has a colour bar


def test_a_mip_shows_the_hottest_voxel_along_each_line():
    # Voxels 2 x 3 x 4 mm, all axes reversed: right-left is axis 0, depth axis 1, height axis 2.
    rng = np.random.default_rng(5)
    volume = Volume(rng.random(SHAPE), GRIDS["everything reversed"], "SUVbw")
    shown = np.asarray(plots.show_mip(volume).images[0].get_array())
    expected = [[max(volume.data[-1 - x, :, -1 - z]) for x in range(20)] for z in range(30)]
    np.testing.assert_array_equal(shown, expected)


@pytest.mark.parametrize(("unit", "dark_when_high"), [("SUVbw", True), ("HU", False)])
def test_high_uptake_is_dark_and_dense_bone_is_bright(unit, dark_when_high):
    data = np.zeros(SHAPE)
    data[3, 4, 5] = 300
    picture = plots.show_mip(Volume(data, oblique((4.0, 4.0, 3.0)), unit)).images[0]
    high, low = (sum(picture.cmap(picture.norm(value))[:3]) for value in (300, 0))
    assert (high < low) == dark_when_high


@every_grid
def test_the_mask_lies_on_the_voxels_that_it_marks(affine):
    volume, hot_ijk = volume_with_spot(affine, (1, -0.5, 0.7))
    mask = volume.data > 0
    axes = [plots.show_mip(volume, mask), *plots.show_slices(volume, mask)]
    for ax in axes:
        picture, tint = ax.images
        np.testing.assert_allclose(on_screen(ax, tint), on_screen(ax, picture))
        outline = np.concatenate(ax.collections[0].get_paths()[0].to_polygons())
        middle = (outline.min(axis=0) + outline.max(axis=0)) / 2
        shown = ax.transAxes.inverted().transform(ax.transData.transform(middle))
        np.testing.assert_allclose(shown, on_screen(ax, picture), atol=1e-6)


def test_each_label_of_a_label_map_has_its_own_colour():
    volume, _ = volume_with_spot(permuted(), (0, 0, 0))
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:6, 2:6, 2:6], labels[12:16, 12:16, 12:16] = 1, 5
    outlines = plots.show_mip(volume, labels).collections
    assert len({tuple(outline.get_edgecolor()[0]) for outline in outlines}) == 2


def test_masks_by_name_differ_in_colour_and_stand_in_a_legend():
    volume, _ = volume_with_spot(permuted(), (0, 0, 0))
    liver, spleen = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    liver[2:8, 2:8, 2:8], spleen[5:9, 5:9, 5:9] = True, True  # they overlap, which a label map cannot show
    for ax in (plots.show_mip(volume, {"liver": liver, "spleen": spleen}),
               plots.show_slices(volume, {"liver": liver, "spleen": spleen}, at_ijk=(6, 6, 6))[0]):
        outlines = [tuple(outline.get_edgecolor()[0]) for outline in ax.collections]
        patches = [tuple(patch.get_facecolor()) for patch in ax.get_legend().get_patches()]
        assert outlines == patches and len(set(outlines)) == 2
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["liver", "spleen"]


@pytest.mark.parametrize("name", ["$$", "$\\evil$", "cost $5 and $6", "_hidden", "a_b^c{"])
def test_a_name_is_shown_as_it_is_and_is_no_formula(name):
    volume = Volume(np.ones(SHAPE, np.float32), GRIDS["oblique"], "SUVbw")
    ax = plots.show_mip(volume, {name: volume.data > 0})
    ax.figure.canvas.draw()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [name]


def test_the_greys_are_explained_with_their_unit():
    volume, _ = volume_with_spot(permuted(), (0, 0, 0))
    for ax in (plots.show_mip(volume), plots.show_slices(volume)[0]):
        (bar,) = [other for other in ax.figure.axes if other.get_label() == "<colorbar>"]
        assert bar.get_ylabel() == "SUVbw (g/mL)"


def test_an_empty_mask_draws_nothing():
    volume, _ = volume_with_spot(permuted(), (0, 0, 0))
    ax = plots.show_mip(volume, np.zeros(SHAPE, bool))
    assert len(ax.images) == 1 and not ax.collections


@every_grid
def test_a_click_is_marked_where_it_was_made_and_only_in_its_slice(affine):
    volume, hot_ijk = volume_with_spot(affine, (0.8, 0.6, -0.9))
    elsewhere = tuple(index - 3 for index in hot_ijk)  # shares no slice with the first
    clicks = [Click(elsewhere, foreground=False), Click(hot_ijk)]
    for ax in plots.show_slices(volume, clicks=clicks):  # through the last click
        _, marker = ax.lines  # the scale bar comes first
        shown = ax.transAxes.inverted().transform(ax.transData.transform(np.ravel(marker.get_data())))
        np.testing.assert_allclose(shown, on_screen(ax, ax.images[0]))


def test_foreground_and_background_clicks_differ_in_shape():
    volume, hot_ijk = volume_with_spot(permuted(), (0, 0, 0))
    clicks = [Click(hot_ijk), Click(hot_ijk, foreground=False)]
    ax = plots.show_slices(volume, clicks=clicks)[0]
    assert len({line.get_marker() for line in ax.lines[1:]}) == 2


def test_without_a_voxel_slices_go_through_the_mask():
    volume, hot_ijk = volume_with_spot(GRIDS["oblique left-handed"], (0.8, 0.6, -0.9))
    for ax in plots.show_slices(volume, volume.data > 0):
        assert np.asarray(ax.images[0].get_array()).max() == 6.0


def test_a_field_shows_what_lies_around_the_voxel_and_keeps_its_sides():
    volume, hot_ijk = volume_with_spot(GRIDS["oblique left-handed"], (0.8, 0.6, -0.9))
    whole = plots.show_slices(volume, at_ijk=hot_ijk, clicks=[Click(hot_ijk)])
    near = plots.show_slices(volume, at_ijk=hot_ijk, clicks=[Click(hot_ijk)], field_mm=30.0)
    for everything, part in zip(whole, near, strict=True):
        x, y = (float(place[0]) for place in part.lines[-1].get_data())  # the click
        assert part.get_xlim() == pytest.approx((x + 15, x - 15)) and part.get_ylim() == pytest.approx((y - 15, y + 15))
        assert [text.get_text() for text in part.texts[:2]] == [text.get_text() for text in everything.texts[:2]]
        bar = part.lines[0].get_data()
        assert abs(bar[0][0] - bar[0][1]) == 5 and part.texts[2].get_text() == "5 mm"
        assert x - 15 < min(bar[0]) and max(bar[0]) < x + 15 and y - 15 < bar[1][0] < y + 15


def test_pictures_are_drawn_in_the_axes_that_were_given():
    volume, _ = volume_with_spot(permuted(), (0, 0, 0))
    _, axes = matplotlib.pyplot.subplots(1, 4)
    assert plots.show_mip(volume, ax=axes[3]) is axes[3]
    assert list(plots.show_slices(volume, axes=axes[:3])) == list(axes[:3])


def test_a_mask_of_another_shape_and_a_voxel_outside_are_refused():
    volume, _ = volume_with_spot(permuted(), (0, 0, 0))
    with pytest.raises(GeometryError, match=r"\(24, 20, 30\) does not fit"):
        plots.show_mip(volume, np.zeros((24, 20, 30), bool))
    with pytest.raises(ClickError, match=r"\(0, 0, 30\) lies outside"):
        plots.show_slices(volume, at_ijk=(0, 0, 30))


# ---- PET over CT


@every_grid
def test_fused_pet_lies_on_the_ct_at_the_same_place(affine):
    volume, hot_ijk = volume_with_spot(affine, (1, 0, 1))
    # A CT on a grid of its own: finer, and not oblique.
    at_mm = volume.to_mm(hot_ijk)
    grid = np.diag([2.0, 2.0, 2.0, 1.0])
    grid[:3, 3] = at_mm - 150
    data = np.full((151, 151, 151), -1000.0)
    data[72:79, 72:79, 72:79] = 900.0  # bone where the spot is
    axes = plots.show_fused(volume, Volume(data, grid, "HU"), at_ijk=hot_ijk)
    for ax in axes:
        ct, pet = ax.images
        hottest = np.unravel_index(np.argmax(pet.get_array()), pet.get_array().shape)
        assert ct.get_array()[hottest] > -500
        assert pet.get_extent() == ct.get_extent()
        assert ax.get_xlim()[0] > ax.get_xlim()[1]  # the patient's right stays on the left
        alpha = np.asarray(pet.get_alpha())
        assert alpha[hottest] > 0.5 and alpha.min() < 0.2  # cold tissue lets the CT through


def test_fused_needs_a_ct():
    volume, _ = volume_with_spot(GRIDS["oblique left-handed"], (0, 0, 0))
    with pytest.raises(UnitError, match="is in SUVbw; expected a CT in HU"):
        plots.show_fused(volume, volume)
