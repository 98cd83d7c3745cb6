"""NIfTI label maps with names, and 3D Slicer's segmentations."""

import gzip
import re
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from conftest import oblique
from mask_scene import SHAPE, SPACING_MM, assert_same, both_hands, organs, ragged

from seganypet.cohort.totalsegmentator import read_totalsegmentator
from seganypet.errors import SegAnyPETError, VolumeError
from seganypet.pet.mask_files import load_masks, save_masks
from seganypet.pet.volume import Volume, load_labels, load_volume, save_mask

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def volume_of(left_handed: bool = False, shape: tuple[int, int, int] = SHAPE) -> Volume:
    return Volume(np.zeros(shape), oblique(SPACING_MM, left_handed), "SUVbw", "scan")


def side_by_side() -> dict[str, np.ndarray]:
    masks = {"kidney_left": ragged(1), "liver": ragged(2)}
    masks["kidney_left"][15:], masks["liver"][:15] = False, False
    return masks


@pytest.mark.parametrize("name", ["m.nrrd", "m.seg.nrrd"])
@pytest.mark.parametrize("field", ["data file: {}", "datafile: {}", "DATA FILE:  {}", "content: a\rdata file: {}"])
def test_a_header_cannot_pass_another_file_off_as_a_mask(tmp_path, name, field):
    # A page hands over what its user chose, so that otherwise it could read whatever this machine holds.
    (tmp_path / "secret").write_bytes(bytes(59) + b"\1")
    lines = ["NRRD0005", "type: uint8", "dimension: 3", "space: right-anterior-superior", "sizes: 3 4 5",
             "space directions: (4,0,0) (0,4,0) (0,0,4)", "space origin: (0,0,0)", "encoding: raw"]  # fmt: skip
    (tmp_path / name).write_text("\n".join([*lines, field.format(tmp_path / "secret"), "", ""]), newline="")
    like = Volume(np.zeros((3, 4, 5)), np.diag([4.0, 4.0, 4.0, 1.0]), "SUVbw")
    with pytest.raises(VolumeError, match="a header without voxels"):
        load_masks(tmp_path / name, like)
    with pytest.raises(VolumeError):
        load_labels(tmp_path / name, like)
    (tmp_path / name).write_bytes("\n".join([*lines, "", ""]).encode() + bytes(59) + b"\1")
    assert load_masks(tmp_path / name, like)["label 1"].sum() == 1


# ---- NIfTI

@both_hands
@pytest.mark.parametrize("reader", ["nibabel", "SimpleITK"])
def test_another_program_finds_the_labels_at_the_same_millimetres(tmp_path, reader, left_handed):
    volume, masks = volume_of(left_handed), side_by_side()
    save_masks(tmp_path / "m.nii.gz", masks, volume)
    if reader == "nibabel":
        image = nib.load(tmp_path / "m.nii.gz")
        labels, affine = np.asarray(image.dataobj), image.affine
    else:
        labels, affine = simpleitk_labels(tmp_path / "m.nii.gz")
    np.testing.assert_allclose(affine, volume.affine, atol=1e-4)
    for label, mask in enumerate(masks.values(), 1):
        assert np.array_equal(labels == label, mask)


def simpleitk_labels(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Array in the order (i, j, k[, layer]) and affine (RAS+) of an image as SimpleITK reads it."""
    image = SimpleITK.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    array = SimpleITK.GetArrayFromImage(image)
    return array.transpose(2, 1, 0, *range(3, array.ndim)), LPS @ affine


def test_totalsegmentator_s_reader_finds_the_names(tmp_path):
    save_masks(tmp_path / "m.nii.gz", side_by_side(), volume_of())
    with pytest.warns(UserWarning, match="no label for spleen"):
        labels, names = read_totalsegmentator(
            tmp_path / "m.nii.gz", volume_of(), organs=("spleen", "liver", "kidney_left")
        )
    assert names == {2: "liver", 3: "kidney_left"}
    assert np.array_equal(labels == 3, side_by_side()["kidney_left"])


def test_names_survive_xml_and_a_second_save(tmp_path):
    names = ["<a & b>", '"quoted"', "Läsion ü ✓", "x" * 200, "a/b:c"]
    masks = {name: np.zeros(SHAPE, bool) for name in names}
    for number, mask in enumerate(masks.values()):
        mask[number] = True
    save_masks(tmp_path / "m.nii.gz", masks, volume_of())
    again = load_volume(tmp_path / "m.nii.gz", unit="SUVbw")  # its header has the table of labels
    assert_same(load_masks(tmp_path / "m.nii.gz", again), masks)
    save_masks(tmp_path / "n.nii.gz", {"other": masks["a/b:c"]}, again)
    assert_same(load_masks(tmp_path / "n.nii.gz", again), {"other": masks["a/b:c"]})


def test_labels_without_names_are_numbered_or_called_as_their_file(tmp_path):
    volume, labels = volume_of(), np.zeros(SHAPE, np.uint8)
    labels[3, 3, 3], labels[9, 9, 9] = 7, 200
    save_mask(tmp_path / "m.nii.gz", labels, volume)
    assert list(load_masks(tmp_path / "m.nii.gz", volume)) == ["label 7", "label 200"]
    save_mask(tmp_path / "Liver.v2.nii.gz", labels == 7, volume)
    assert list(load_masks(tmp_path / "Liver.v2.nii.gz", volume)) == ["Liver.v2"]


def test_a_mask_that_fills_the_scan_has_no_background(tmp_path):
    masks = {"all": np.ones(SHAPE, bool)}
    save_masks(tmp_path / "m.nii.gz", masks, volume_of())
    assert_same(load_masks(tmp_path / "m.nii.gz", volume_of()), masks)


# ---- Slicer's files

@both_hands
def test_simpleitk_finds_layers_and_keys_as_slicer_writes_them(tmp_path, left_handed):
    volume, masks = volume_of(left_handed), organs()
    save_masks(tmp_path / "m.seg.nrrd", masks, volume)
    labels, affine = simpleitk_labels(tmp_path / "m.seg.nrrd")
    np.testing.assert_allclose(affine, volume.affine, atol=1e-9)
    keys = SimpleITK.ReadImage(str(tmp_path / "m.seg.nrrd"))
    assert labels.shape[3] == 1 + max(int(keys.GetMetaData(f"Segment{number}_Layer")) for number in range(4)) == 3
    for number, (name, mask) in enumerate(masks.items()):
        layer, label = (int(keys.GetMetaData(f"Segment{number}_{key}")) for key in ("Layer", "LabelValue"))
        assert keys.GetMetaData(f"Segment{number}_Name") == name
        assert keys.GetMetaData(f"Segment{number}_ID")
        assert np.array_equal(labels[..., layer] == label, mask)
        extent = np.reshape([int(part) for part in keys.GetMetaData(f"Segment{number}_Extent").split()], (3, 2))
        found = np.argwhere(mask)
        assert np.array_equal(extent, np.c_[found.min(axis=0), found.max(axis=0)])
    assert keys.GetMetaData("Segmentation_ReferenceImageExtentOffset") == "0 0 0"


def test_objects_side_by_side_share_one_layer(tmp_path):
    save_masks(tmp_path / "m.seg.nrrd", side_by_side(), volume_of())
    labels, _ = simpleitk_labels(tmp_path / "m.seg.nrrd")
    assert labels.shape == SHAPE and set(np.unique(labels)) == {0, 1, 2}


def slicer_file(path: Path, data: np.ndarray, affine: np.ndarray, keys: dict[str, str], kind: str = "list") -> Path:
    """A NRRD file written by hand; data of shape (i, j, k) or (layer, i, j, k)."""
    lps = LPS @ affine
    directions = " ".join("({:.17g},{:.17g},{:.17g})".format(*column) for column in lps[:3, :3].T)
    layered = data.ndim == 4
    fields = [
        "NRRD0004", "type: unsigned char", f"dimension: {data.ndim}", "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, data.shape))}",
        f"space directions: {'none ' if layered else ''}{directions}",
        f"kinds: {f'{kind} ' if layered else ''}domain domain domain", "encoding: gzip",
        "space origin: ({:.17g},{:.17g},{:.17g})".format(*lps[:3, 3]),
        *(f"{key}:={value}" for key, value in keys.items()),
    ]  # fmt: skip
    header = "\n".join(fields) + "\n\n"
    path.write_bytes(header.encode() + gzip.compress(data.tobytes(order="F")))
    return path


def test_an_old_segmentation_has_a_layer_for_each_segment(tmp_path):
    masks = {"liver": organs()["liver"], "shell": organs()["shell"]}
    keys = {"Segment0_ID": "a", "Segment0_Name": "liver", "Segment1_ID": "b", "Segment1_Name": "shell"}
    data = np.stack([mask.astype(np.uint8) for mask in masks.values()])
    path = slicer_file(tmp_path / "m.seg.nrrd", data, volume_of().affine, keys)
    assert_same(load_masks(path, volume_of()), masks)


def test_slicer_crops_a_segmentation_to_its_objects(tmp_path):
    volume, mask = volume_of(left_handed=True), organs()["liver"]
    box = tuple(slice(int(a), int(b) + 1) for a, b in zip(*(f(np.argwhere(mask), axis=0) for f in (np.min, np.max)),
                                                         strict=True))  # fmt: skip
    cropped = volume.affine.copy()
    cropped[:3, 3] = volume.to_mm([part.start for part in box])
    keys = {
        "Segment0_ID": "Segment_1", "Segment0_Name": "liver", "Segment0_Layer": "0", "Segment0_LabelValue": "3",
        "Segmentation_ReferenceImageExtentOffset": " ".join(str(part.start) for part in box),
    }  # fmt: skip
    path = slicer_file(tmp_path / "m.seg.nrrd", mask[box].astype(np.uint8) * 3, cropped, keys)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(load_masks(path, volume), {"liver": mask})


def test_a_plain_nrrd_label_map_is_read_without_names(tmp_path):
    labels = (organs()["liver"] * 5).astype(np.uint8)
    path = slicer_file(tmp_path / "m.nrrd", labels, volume_of().affine, {})
    assert_same(load_masks(path, volume_of()), {"label 5": organs()["liver"]})


def test_a_sheared_grid_is_kept(tmp_path):
    affine = oblique(SPACING_MM)
    affine[:3, 2] += 0.3 * affine[:3, 1]  # as of a tilted gantry
    volume = Volume(np.zeros(SHAPE), affine, "HU", "ct")
    save_masks(tmp_path / "m.seg.nrrd", organs(), volume)
    assert_same(load_masks(tmp_path / "m.seg.nrrd", volume), organs())


@pytest.mark.parametrize(
    "keys",
    [{"Segment0_Layer": "9"}, {"Segment0_Layer": "-1"}, {"Segment0_Layer": "x"}, {"Segment0_LabelValue": "1.5"}],
    ids=str,
)
def test_keys_that_cannot_be_are_refused(tmp_path, keys):
    data = organs()["liver"].astype(np.uint8)
    path = slicer_file(tmp_path / "m.seg.nrrd", data, volume_of().affine, {"Segment0_Name": "liver", **keys})
    with pytest.raises(VolumeError, match="segment 'liver' has layer .* expected whole numbers"):
        load_masks(path, volume_of())


@pytest.mark.parametrize(
    "header",
    ["sizes: 99999 99999 99999", "sizes: 3000 3000 3000", "sizes: 30 26", "type: float",
     "space directions: (0,0,0) (0,0,0) (0,0,0)",
     "space directions: (nan,0,0) (0,1,0) (0,0,1)", "encoding: none"],
)  # fmt: skip
def test_a_broken_nrrd_header_is_refused_in_own_words(tmp_path, header):
    path = slicer_file(tmp_path / "m.seg.nrrd", ragged(1).astype(np.uint8), volume_of().affine, {"Segment0_ID": "a"})
    field = header.split(":")[0]
    path.write_bytes(re.sub(rf"{field}: .*".encode(), header.encode(), path.read_bytes(), count=1))
    with pytest.raises(SegAnyPETError, match="m.seg.nrrd"):
        load_masks(path, volume_of())
