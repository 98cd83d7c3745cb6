"""The rotating MIP shows the right side of the patient at every angle; other backends get the same scan, or say no."""

import json
import os
import sys
from io import BytesIO
from types import SimpleNamespace
from urllib.error import HTTPError
from urllib.request import urlopen

import matplotlib.image
import nibabel as nib
import numpy as np
import pytest
from conftest import REPOSITORY, oblique

from seganypet.errors import GeometryError, SegAnyPETError
from seganypet.pet.volume import Volume

pytest.importorskip("anywidget", reason="widgets need the extra `notebooks`")

from seganypet.widgets import rendering as module
from seganypet.widgets.rendering import ANGLES, STEP_DEG, RotatingMip, view3d

SHAPE = (20, 24, 30)
GRIDS = {
    "oblique": oblique((4.07, 4.07, 3.0)),
    "oblique left-handed": oblique((4.07, 4.07, 3.0), left_handed=True),
    "anisotropic in plane": oblique((3.0, 5.0, 4.0), left_handed=True),
    "axes permuted": oblique((4.0, 2.0, 3.0)) @ np.eye(4)[:, [2, 0, 1, 3]],
    "everything reversed": np.diag([-2.0, -3.0, -4.0, 1.0]),
}
every_grid = pytest.mark.parametrize("affine", GRIDS.values(), ids=GRIDS)


def volume_with_spot(affine: np.ndarray, towards: tuple[float, float, float]) -> Volume:
    """Faint everywhere, with one hot voxel about 15 mm from the centre in a direction in RAS mm."""
    data = np.full(SHAPE, 0.5)
    empty = Volume(data, affine, "SUVbw")
    centre_mm = empty.to_mm((np.array(SHAPE) - 1) / 2)
    data[tuple(np.rint(empty.to_ijk(centre_mm + 15 * np.array(towards))).astype(int))] = 7.0
    return Volume(data, affine, "SUVbw")


def place(picture: np.ndarray) -> np.ndarray:
    """Where the brightest pixels stand: (0, 0) is the upper left corner, (1, 1) the lower right."""
    hottest = np.argwhere(picture == picture.max()).mean(axis=0)
    return ((hottest + 0.5) / picture.shape)[::-1]


# ---- which side is seen

@every_grid
@pytest.mark.parametrize(
    ("towards", "angle", "at_left"),
    [
        ((1, 0, 0), 0, True), ((-1, 0, 0), 0, False),  # from the front: the patient's right at the left
        ((0, 1, 0), 90, True), ((0, -1, 0), 90, False),  # from the patient's left: the front at the left
        ((1, 0, 0), 180, False), ((-1, 0, 0), 180, True),  # from behind
        ((0, 1, 0), 270, False), ((0, -1, 0), 270, True),
    ],
)  # fmt: skip
def test_each_side_of_the_patient_is_where_a_viewer_at_that_angle_sees_it(affine, towards, angle, at_left):
    mip, _ = RotatingMip(volume_with_spot(affine, towards)).projections.seen_from(angle)
    assert (place(mip)[0] < 0.5) == at_left


@every_grid
def test_the_head_is_at_the_top_from_every_side(affine):
    for towards, at_top in (((0, 0, 1), True), ((0, 0, -1), False)):
        projections = RotatingMip(volume_with_spot(affine, towards)).projections
        assert all((place(projections.seen_from(angle)[0])[1] < 0.5) == at_top for angle in range(0, 360, 45))


@every_grid
def test_from_behind_one_sees_the_mirror_image(affine):
    projections = RotatingMip(volume_with_spot(affine, (0.8, 0.3, 0.2))).projections
    for angle in range(0, 180, STEP_DEG):
        for front, back in zip(projections.seen_from(angle), projections.seen_from(angle + 180), strict=True):
            np.testing.assert_array_equal(front, back[:, ::-1])


def test_the_left_end_of_a_picture_is_named_after_what_is_there():
    sides = {"R": (1, 0), "A": (0, 1), "L": (-1, 0), "P": (0, -1)}
    for angle, name in zip(range(0, 360, 45), module.DIRECTIONS, strict=True):
        towards = np.sum([sides[letter] for letter in name], axis=0) / np.sqrt(len(name))
        projections = RotatingMip(volume_with_spot(np.diag([4.0, 4.0, 3.0, 1.0]), (*towards, 0))).projections
        x, _ = place(projections.seen_from(angle)[0])
        assert (0.5 - x) * projections.size_mm[0] == pytest.approx(15, abs=5), name  # mm; a voxel is 4 mm


def test_a_spot_moves_across_as_the_turn_says():
    # 4 mm voxels along RAS; spot 20 mm to the right, 28 mm to the front, so across = -20 cos(a) - 28 sin(a).
    data = np.full((41, 41, 11), 0.5)
    data[20 + 5, 20 + 7, 4] = 7.0
    projections = RotatingMip(Volume(data, np.diag([4.0, 4.0, 5.0, 1.0]), "SUVbw")).projections
    width_mm, height_mm = projections.size_mm
    assert height_mm == 55
    for angle in range(0, 360, STEP_DEG):
        x, y = place(projections.seen_from(angle)[0])
        expected = -20 * np.cos(np.deg2rad(angle)) - 28 * np.sin(np.deg2rad(angle))
        assert (x - 0.5) * width_mm == pytest.approx(expected, abs=4.0)  # half a pixel, and half a shadow
        assert y * height_mm == pytest.approx(55 - 4.5 * 5)


# ---- what is drawn

@every_grid
def test_a_hot_voxel_is_never_lost_or_dimmed(affine):
    projections = RotatingMip(volume_with_spot(affine, (0.7, -0.4, 0.9))).projections
    assert projections.mips.shape[0] == ANGLES // 2
    assert (projections.mips.max(axis=(1, 2)) == 255).all()  # SUV 7 ends the window
    assert np.median(projections.mips) in (0, 18)  # beside the body, or 255 * 0.5 / 7


def test_from_the_front_each_pixel_is_the_hottest_voxel_along_its_line():
    # All axes reversed, 2 x 3 x 4 mm: right-left is axis 0, depth axis 1, height axis 2.
    data = np.random.default_rng(5).uniform(1, 7, SHAPE)
    mip, _ = RotatingMip(Volume(data, GRIDS["everything reversed"], "SUVbw")).projections.seen_from(0)
    expected = np.rint(255 * data.max(axis=1) / 7).T  # head at index 0, the patient's right, at index 0, at the left
    shown = mip[:, mip.any(axis=0)]
    np.testing.assert_array_equal(shown, expected)


def test_fine_grids_are_merged_without_losing_their_peaks():
    data = np.full((40, 50, 700), 0.5)
    data[33, 7, 699] = 7.0  # in the last, cut block
    mask = data > 1
    mask[32, 7, 699] = True  # one block before the peak's, although beside it
    projections = RotatingMip(Volume(data, np.diag([1.0, 1.0, 1.0, 1.0]), "SUVbw"), mask).projections
    assert projections.mips.shape[1] == np.ceil(700 / 3)
    assert (projections.mips.max(axis=(1, 2)) == 255).all()
    assert (projections.marks[projections.mips == 255] > 0).all()


@every_grid
def test_a_mask_lies_on_the_voxels_that_it_marks(affine):
    volume = volume_with_spot(affine, (0.7, -0.4, 0.9))
    projections = RotatingMip(volume, volume.data > 1).projections
    np.testing.assert_array_equal(projections.marks > 0, projections.mips == 255)


def test_a_mask_is_tinted_inside_and_outlined():
    volume = volume_with_spot(GRIDS["oblique"], (0, 0, 0))
    mask = np.zeros(SHAPE, bool)
    mask[5:12, 6:14, 10:20] = True
    for marks in RotatingMip(volume, mask).projections.marks:
        rows, columns = np.nonzero(marks)
        inside = marks[rows.min() + 1 : rows.max(), columns.min() + 1 : columns.max()]
        assert (inside == 1).all() and inside.size
        assert (marks[rows.min(), columns.min() : columns.max() + 1] == 2).all()


def test_objects_have_the_colours_of_the_flat_mip_and_a_legend():
    volume = volume_with_spot(GRIDS["oblique"], (0, 0, 0))
    liver, spleen = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    liver[3:9, 3:9, 3:9], spleen[12:18, 12:18, 12:18] = True, True
    named = RotatingMip(volume, {"liver": liver, "spleen": spleen})
    assert [entry["name"] for entry in named.scene["legend"]] == ["liver", "spleen"]
    assert [entry["colour"] for entry in named.scene["legend"]] == list(module.COLOURS[:2])
    labels = RotatingMip(volume, liver + 2 * spleen)
    np.testing.assert_array_equal(labels.projections.marks, named.projections.marks)
    assert labels.scene["legend"] == []


@pytest.mark.parametrize("unit", ["SUVbw", "Bq/mL", "HU"])
def test_an_empty_scan_and_an_empty_mask_are_drawn_too(unit):
    widget = view3d(Volume(np.zeros((3, 1, 2)), oblique((4.0, 4.0, 3.0)), unit), np.zeros((3, 1, 2), bool))
    assert len(set(widget.projections.mips.max(axis=(1, 2)))) == 1
    assert not widget.projections.marks.any()


def test_ct_is_drawn_bright_on_black_within_soft_tissue_limits():
    data = np.full(SHAPE, -1000.0)
    data[10, 12, 15] = 40.0
    widget = RotatingMip(Volume(data, GRIDS["oblique"], "HU"))
    assert not widget.scene["dark_when_high"]
    assert widget.projections.mips.max() == round(255 * 200 / 400)


# ---- the widget

def test_a_page_without_javascript_shows_a_picture():
    volume = volume_with_spot(GRIDS["oblique left-handed"], (1, 0, 0))
    data, _ = view3d(volume, {"spot": volume.data > 1})._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    picture = matplotlib.image.imread(BytesIO(data["image/png"]), format="png")[..., :3]
    # Four sides in a row; the spot is of the first colour, at 0 degrees in the left half of its panel.
    coloured = np.argwhere(np.abs(picture - matplotlib.colors.to_rgb(module.COLOURS[0])).max(axis=2) < 0.02)
    first_panel = coloured[coloured[:, 1] < picture.shape[1] / 4]
    assert 0 < np.median(first_panel[:, 1]) < picture.shape[1] / 8


def test_what_the_browser_gets_is_whole():
    volume = volume_with_spot(GRIDS["oblique"], (1, 0, 0))
    scene = RotatingMip(volume, volume.data > 1).scene
    count, rows, columns = scene["shape"]
    assert len(scene["mips"]) == len(scene["marks"]) == count * rows * columns
    assert RotatingMip(volume).scene["marks"] == b""
    json.dumps({name: value for name, value in scene.items() if not isinstance(value, bytes)})


# ---- other backends

def test_an_unknown_backend_is_refused_with_those_there_are():
    with pytest.raises(SegAnyPETError, match="'vtk'; expected one of 'mip', 'niivue', 'itk'"):
        view3d(volume_with_spot(GRIDS["oblique"], (0, 0, 0)), backend="vtk")


@pytest.mark.parametrize("backend", ["mip", "niivue"])
def test_a_mask_of_another_shape_is_refused(backend):
    if backend == "niivue":
        pytest.importorskip("ipyniivue")
    with pytest.raises(GeometryError, match=r"\(24, 20, 30\) does not fit"):
        view3d(volume_with_spot(GRIDS["oblique"], (0, 0, 0)), np.zeros((24, 20, 30), bool), backend=backend)


@every_grid
def test_niivue_gets_the_scan_and_the_mask_where_they_are_in_the_patient(affine):
    pytest.importorskip("ipyniivue")
    volume = volume_with_spot(affine, (0.7, -0.4, 0.9))
    hot_ijk = np.argwhere(volume.data > 1)[0]
    faint = volume.data < 1
    scan, mask = view3d(volume, {"faint": faint, "spot": volume.data > 1}, backend="niivue").volumes
    assert (scan.cal_min, scan.cal_max) == (0, 7)
    for layer, value in ((scan, 7), (mask, 2)):
        image = nib.Nifti1Image.from_bytes(layer.data)
        voxels = image.get_fdata()
        at_mm = nib.affines.apply_affine(image.affine, np.unravel_index(voxels.argmax(), voxels.shape))
        np.testing.assert_allclose(at_mm, volume.to_mm(hot_ijk), atol=1e-3)
        assert voxels.max() == pytest.approx(value, abs=1e-3)
    colours = np.reshape(mask.colormap_label.lut, (-1, 4))
    assert colours[:, 3].tolist() == [0, 255, 255]  # the background is clear
    assert colours[1:, :3].tolist() == [[int(c[at : at + 2], 16) for at in (1, 3, 5)] for c in module.COLOURS[:2]]


def test_without_niivue_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipyniivue", None)
    with pytest.raises(SegAnyPETError, match=r"pip install 'seganypet\[notebooks\]'"):
        view3d(volume_with_spot(GRIDS["oblique"], (0, 0, 0)), backend="niivue")


def run_by(monkeypatch, metadata: dict | None) -> None:
    """Pretend to be in a kernel whose cell came with these metadata; None: in no kernel."""
    shell = None if metadata is None else SimpleNamespace(parent_header={"header": {}, "metadata": metadata})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))


@pytest.mark.parametrize("unit, map_name, air", [("SUVbw", "inverted", 1.0), ("HU", "gray", 0.0)])
def test_niivue_draws_a_pet_dark_on_white_and_a_ct_bright_on_black(unit, map_name, air):
    pytest.importorskip("ipyniivue")
    volume = volume_with_spot(GRIDS["oblique"], (0.7, -0.4, 0.9))
    viewer = view3d(Volume(volume.data * 50, volume.affine, unit), backend="niivue")
    assert viewer.volumes[0].colormap == map_name
    assert list(viewer.opts.back_color) == [air, air, air, 1.0]
    assert viewer.opts.font_color[0] == 1 - air
    if unit == "SUVbw":
        colours = viewer.colormap_from_key(map_name)
        assert list(colours.R) == [255, 0] and colours.A[0] < colours.A[1]  # what is faint is seen through


@pytest.mark.parametrize("metadata", [None, {}], ids=["no kernel", "papermill or nbclient"])
def test_itk_is_refused_unimported_where_no_page_is_open(monkeypatch, metadata):
    run_by(monkeypatch, metadata)
    with pytest.raises(SegAnyPETError, match="needs a live JupyterLab or Notebook 7 page"):
        view3d(volume_with_spot(GRIDS["oblique"], (0, 0, 0)), backend="itk")
    assert "itkwidgets" not in sys.modules


def test_on_a_live_page_without_itk_the_error_says_what_to_install(monkeypatch):
    run_by(monkeypatch, {"cellId": "38fa936a"})
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(SegAnyPETError, match=r"pip install 'seganypet\[itk\]'"):
        view3d(volume_with_spot(GRIDS["oblique"], (0, 0, 0)), backend="itk")


def configure_lab(monkeypatch, *folders) -> None:
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", os.pathsep.join(str(REPOSITORY / folder) for folder in folders))


def test_where_the_extension_of_itk_is_off_the_error_says_how_to_get_it_and_how_to_do_without(monkeypatch):
    kernel = SimpleNamespace(shell_handlers={"execute_request": "the kernel's"}, released=[])
    run_by(monkeypatch, {"cellId": "38fa936a"})
    install_fake_itk(monkeypatch, kernel, lambda **layers: layers)
    configure_lab(monkeypatch, "tools/lab")
    with pytest.raises(SegAnyPETError, match=r"make lab ITK=1, or run jupyter labextension enable .* itk_viewer="):
        view3d(volume_with_spot(GRIDS["oblique"], (0, 0, 0)), backend="itk")


def install_fake_itk(monkeypatch, kernel, view) -> None:
    """Stand-ins for itkwidgets and ngff_zarr that take over the kernel as the originals do."""
    watcher = SimpleNamespace(
        kernel=kernel,
        execute_request_handler=kernel.shell_handlers["execute_request"],
        shell=SimpleNamespace(events=SimpleNamespace(unregister=lambda *event: None)),
        post_run_cell=lambda: None,
        viewers=SimpleNamespace(not_created=["a viewer"]),
        update_viewer_status=lambda name, ready: kernel.released.append((name, ready)),
    )

    def taking_over(**layers):
        kernel.shell_handlers["execute_request"] = "the watcher's"
        return view(**layers)

    monkeypatch.setattr(module, "find_spec", lambda name: name)
    configure_lab(monkeypatch, "tools/lab/itk", "tools/lab")  # as `make lab ITK=1` does
    monkeypatch.setitem(sys.modules, "itkwidgets", SimpleNamespace(view=taking_over))
    monkeypatch.setitem(sys.modules, "itkwidgets.cell_watcher", SimpleNamespace(CellWatcher=lambda: watcher))
    image = SimpleNamespace(to_ngff_image=lambda data, dims, scale: SimpleNamespace(data=data, dims=dims, scale=scale))
    monkeypatch.setitem(sys.modules, "ngff_zarr", image)


def test_itk_gets_lps_images_and_the_kernel_its_own_handler_back(monkeypatch):
    kernel = SimpleNamespace(shell_handlers={"execute_request": "the kernel's"}, released=[])
    run_by(monkeypatch, {"cellId": "38fa936a"})
    install_fake_itk(monkeypatch, kernel, lambda **layers: layers)
    # Axes along RAS: the voxel furthest to the right, front and head is first, first and last along L, P and S.
    data = np.zeros(SHAPE)
    data[-1, -1, -1] = 7.0
    layers = view3d(Volume(data, np.diag([2.0, 3.0, 4.0, 1.0]), "SUVbw"), data > 1, backend="itk")
    for layer in (layers["image"], layers["label_image"]):
        assert (layer.dims, layer.scale) == (("z", "y", "x"), {"x": 2.0, "y": 3.0, "z": 4.0})
        assert np.argwhere(layer.data > 0).tolist() == [[29, 0, 0]]
    assert kernel.shell_handlers["execute_request"] == "the kernel's"
    assert kernel.released == [("a viewer", True)]


def test_itk_is_shown_from_a_folder_to_those_who_know_its_address(tmp_path):
    volume = volume_with_spot(GRIDS["oblique left-handed"], (1, 0, 0))
    with pytest.raises(SegAnyPETError, match=r"holds no itkVtkViewer.js; expected the folder dist"):
        view3d(volume, backend="itk", itk_viewer=tmp_path)
    (tmp_path / "itkVtkViewer.js").write_text("a viewer")
    frame = view3d(volume, volume.data > 1, backend="itk", itk_viewer=tmp_path)
    address, asked = frame.src.split("view.html?")
    assert address.startswith("http://127.0.0.1:")
    assert asked == f"fileToLoad={address}scan.nii&labelImage={address}mask.nii&range=[0,7]"

    def got(name):
        with urlopen(name) as answer:
            return answer.read()

    assert got(f"{address}itkVtkViewer.js") == b"a viewer" and b"itkVtkViewer.js" in got(frame.src)
    (tmp_path / "scan.nii").write_bytes(got(f"{address}scan.nii"))
    scan, mask = nib.load(tmp_path / "scan.nii"), nib.Nifti1Image.from_bytes(got(f"{address}mask.nii"))
    hot = np.unravel_index(volume.data.argmax(), SHAPE)
    for image in (scan, mask):
        at = np.unravel_index(image.get_fdata().argmax(), image.shape)
        np.testing.assert_allclose(nib.affines.apply_affine(image.affine, at), volume.to_mm(hot), atol=1e-3)
    root = address.rsplit("/", 2)[0]
    for other in (root, f"{root}/scan.nii", f"{root}/itkVtkViewer.js", address, f"{address}{'../' * 9}etc/passwd"):
        with pytest.raises(HTTPError, match="404"):
            urlopen(other)


def test_the_kernel_gets_its_handler_back_when_itk_fails(monkeypatch):
    def fail(**layers):
        raise RuntimeError("no viewer")

    kernel = SimpleNamespace(shell_handlers={"execute_request": "the kernel's"}, released=[])
    run_by(monkeypatch, {"cellId": "38fa936a"})
    install_fake_itk(monkeypatch, kernel, fail)
    with pytest.raises(RuntimeError, match="no viewer"):
        view3d(volume_with_spot(GRIDS["oblique"], (0, 0, 0)), backend="itk")
    assert kernel.shell_handlers["execute_request"] == "the kernel's"
