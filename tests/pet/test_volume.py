"""NIfTI in and out keeps voxels, grid and affine, whatever grid and type a file has."""

import os
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from conftest import oblique

from seganypet._files import replace_atomically
from seganypet.errors import GeometryError, SegAnyPETError
from seganypet.pet.volume import Volume, load_labels, load_volume, save_mask, save_volume

GRIDS = {
    "oblique": oblique((4.07, 4.07, 3.0)),
    "oblique, left-handed": oblique((4.07, 4.07, 3.0), left_handed=True),
    "axes swapped, thick slices": oblique((2.0, 2.5, 8.0), left_handed=True)[:, [2, 0, 1, 3]],
}
INTEGERS = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8")


@pytest.fixture(params=GRIDS)
def affine(request):
    return GRIDS[request.param]


def random_volume(affine, shape=(5, 6, 7), unit="SUVbw"):
    return Volume(np.random.default_rng(3).gamma(2.0, 1.5, shape), affine, unit)


def write_nifti(path, data, affine, qform=None, codes=(1, 1), kind=nib.Nifti1Image, dtype=None, slope=None):
    """A file with the sform, qform and codes that a scanner's converter would write."""
    image = kind(data, affine, dtype=dtype or data.dtype)
    image.set_sform(affine, code=codes[0])
    image.set_qform(affine if qform is None else qform, code=codes[1])
    if slope is not None:
        image.header.set_slope_inter(*slope)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_volume_survives_the_way_to_disk_and_back(tmp_path, affine, suffix):
    volume = random_volume(affine)
    save_volume(tmp_path / f"pet{suffix}", volume)
    again = load_volume(tmp_path / f"pet{suffix}", unit="SUVbw")
    np.testing.assert_array_equal(again.data, volume.data)
    assert again.data.dtype == np.float32
    np.testing.assert_allclose(again.affine, affine, rtol=0, atol=1e-4)  # float32 in the file
    header = nib.load(tmp_path / f"pet{suffix}").header
    assert header["intent_name"].item() == b"SUVbw" and header.get_xyzt_units()[0] == "mm"


@pytest.mark.parametrize("dtype", (*INTEGERS, "f4", "f8"))
def test_every_number_type_is_read(tmp_path, dtype):
    data = np.arange(60).reshape(3, 4, 5).astype(dtype)
    path = write_nifti(tmp_path / "pet.nii.gz", data, GRIDS["oblique"])
    assert nib.load(path).header.get_data_dtype() == dtype
    volume = load_volume(path, unit="Bq/mL")
    np.testing.assert_array_equal(volume.data, np.arange(60).reshape(3, 4, 5))


@pytest.mark.parametrize("dtype", ("u1", "i2", "u2", "i4"))
def test_slope_and_intercept_are_applied(tmp_path, dtype):
    stored = np.arange(60).reshape(3, 4, 5).astype(dtype)
    path = tmp_path / "ct.nii"
    image = nib.Nifti1Image(stored, GRIDS["oblique"])
    nib.save(image, path)
    with path.open("r+b") as file:  # nibabel would rescale the voxels; the header alone says 0.5 v - 7
        file.seek(112)
        file.write(np.array([0.5, -7.0], "<f4").tobytes())
    np.testing.assert_array_equal(load_volume(path, unit="HU").data, 0.5 * np.arange(60).reshape(3, 4, 5) - 7)


def test_a_big_endian_file_is_read(tmp_path):
    data = np.arange(60, dtype=">i2").reshape(3, 4, 5)
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    nib.save(nib.Nifti1Image(data, GRIDS["oblique"], header), tmp_path / "pet.nii")
    np.testing.assert_array_equal(load_volume(tmp_path / "pet.nii", unit="HU").data, data)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("codes", [(1, 1), (2, 1), (4, 0), (0, 1), (1, 3)])
def test_a_mask_lies_on_the_very_grid_of_the_input_file(tmp_path, affine, codes, kind, suffix):
    # A qform of its own, as registration leaves it behind: it must come back too.
    turn = np.eye(4)
    turn[:3, :3] = oblique((1.0, 1.0, 1.0))[:3, :3]
    turn[:3, 3] = 5.0, -3.0, 11.0
    shifted = turn @ affine
    data = np.random.default_rng(0).integers(0, 900, (5, 6, 7)).astype(np.int16)
    path = write_nifti(tmp_path / f"pet{suffix}", data, affine, qform=shifted, codes=codes, kind=kind, slope=(0.5, 3))
    volume = load_volume(path, unit="SUVbw")
    mask = volume.data > np.median(volume.data)
    save_mask(tmp_path / f"mask{suffix}", mask, volume)
    given, written = nib.load(path), nib.load(tmp_path / f"mask{suffix}")
    assert type(written) is kind
    assert given.affine.tobytes() == written.affine.tobytes()
    fields = ("srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y",
              "qoffset_z", "sform_code", "qform_code", "pixdim", "dim", "xyzt_units")  # fmt: skip
    for field in fields:
        assert given.header[field].tobytes() == written.header[field].tobytes(), field
    assert written.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(written.dataobj), mask)
    np.testing.assert_array_equal(load_labels(tmp_path / f"mask{suffix}", like=volume), mask)


def test_a_mask_of_a_volume_without_a_file_lies_on_its_affine(tmp_path, affine):
    volume = random_volume(affine)
    labels = np.arange(210).reshape(5, 6, 7)
    save_mask(tmp_path / "labels.nii.gz", labels, volume)
    written = nib.load(tmp_path / "labels.nii.gz")
    np.testing.assert_array_equal(written.affine, affine.astype(np.float32))
    np.testing.assert_array_equal(np.asarray(written.dataobj), labels)


def test_an_exception_while_writing_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "mask.nii.gz"
    path.write_bytes(b"the mask of last week")
    with pytest.raises(KeyboardInterrupt), replace_atomically(path) as temporary:
        temporary.write_bytes(b"half a mas")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"the mask of last week"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_mask(tmp_path, monkeypatch):
    volume = random_volume(GRIDS["oblique"])
    path = tmp_path / "mask.nii.gz"
    save_mask(path, volume.data > 2, volume)
    before = path.read_bytes()

    def fail(self, filename, **_):
        filename.write_bytes(b"begun")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nib.Nifti1Image, "to_filename", fail)
    with pytest.raises(OSError, match="No space left"):
        save_mask(path, volume.data > 1, volume)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_killed_process_leaves_the_old_file_and_at_most_a_hidden_one(tmp_path):
    path = tmp_path / "mask.nii.gz"
    path.write_bytes(b"the mask of last week")
    script = (
        "import os, sys\n"
        "from seganypet._files import replace_atomically\n"
        "with replace_atomically(sys.argv[1]) as temporary:\n"
        "    temporary.write_bytes(b'half a mas')\n"
        "    os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, path]).returncode == 9
    assert path.read_bytes() == b"the mask of last week"
    litter = [other.name for other in tmp_path.iterdir() if other != path]
    assert all(name.startswith(".unfinished-") for name in litter) and len(litter) == 1


def test_a_written_file_may_be_read_by_whom_the_system_says(tmp_path):
    old = os.umask(0o027)
    try:
        with replace_atomically(tmp_path / "table.csv") as temporary:
            temporary.write_text("case,dsc")
    finally:
        os.umask(old)
    assert (tmp_path / "table.csv").stat().st_mode & 0o777 == 0o640


def test_a_folder_that_may_not_be_written_is_named(tmp_path, monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with pytest.raises(SegAnyPETError, match=r"cannot write .*mask\.nii: Permission denied"):
        save_mask(tmp_path / "mask.nii", np.ones((5, 6, 7), bool), random_volume(GRIDS["oblique"]))


def test_labels_on_another_grid_are_refused_and_rounding_is_not(tmp_path, affine):
    volume = random_volume(affine)
    labels = np.arange(210, dtype=np.int16).reshape(5, 6, 7) * 100
    nudged, shifted, mirrored = affine.copy(), affine.copy(), affine.copy()
    nudged[:3, 3] += 1e-3  # of 2 mm voxels at least: a two-thousandth
    shifted[:3, 3] += 0.4
    mirrored[:3, 0] *= -1  # about the first voxel, not about the middle of the grid
    read = load_labels(write_nifti(tmp_path / "near.nii", labels, nudged), like=volume)
    assert read.dtype == np.int16
    np.testing.assert_array_equal(read, labels)
    for name, other in (("shifted", shifted), ("mirrored", mirrored)):
        with pytest.raises(GeometryError, match=rf"{name}\.nii: labels .* do not lie on the grid of array"):
            load_labels(write_nifti(tmp_path / f"{name}.nii", labels, other), like=volume)


def test_millimetres_and_voxels_are_each_others_inverse(affine):
    volume = random_volume(affine)
    ijk = np.random.default_rng(1).uniform(-3, 9, (4, 25, 3))
    np.testing.assert_allclose(volume.to_ijk(volume.to_mm(ijk)), ijk, atol=1e-9)
    # One voxel by hand: the columns of the affine are the steps along i, j, k.
    by_hand = affine[:3, 3] + 2 * affine[:3, 0] - 1 * affine[:3, 1] + 4 * affine[:3, 2]
    np.testing.assert_allclose(volume.to_mm((2, -1, 4)), by_hand, atol=1e-9)


def test_the_voxel_volume_of_a_sheared_grid_is_its_determinant():
    sheared = np.array([[4.0, 1.0, 0.5, 0], [0, 4.0, 1.0, 0], [0, 0, 3.0, 0], [0, 0, 0, 1.0]])
    # An upper triangle: the determinant is the product of its diagonal, 48 mm3, though edges are longer.
    volume = Volume(np.zeros((2, 2, 2)), sheared, "HU")
    assert volume.voxel_volume_ml == pytest.approx(0.048, rel=1e-12)
    assert np.prod(volume.spacing) > 48.5
    assert random_volume(oblique((4.07, 4.07, 3.0), left_handed=True)).voxel_volume_ml == pytest.approx(0.0496947)


def test_the_faces_of_the_outermost_voxels_bound_a_volume():
    volume = random_volume(GRIDS["oblique"])
    assert volume.contains_ijk((-0.5, -0.5, -0.5)) and volume.contains_ijk((4.49, 5.49, 6.49))
    assert not volume.contains_ijk((4.5, 5, 6)) and not volume.contains_ijk((0, 0, -0.51))
    assert not volume.contains_ijk((np.nan, 0, 0))


def test_the_fingerprint_is_the_same_wherever_the_volume_is_stored(tmp_path, affine):
    volume = random_volume(affine)
    save_volume(tmp_path / "here.nii", volume)
    save_volume(tmp_path / "there.nii.gz", volume)
    prints = {load_volume(tmp_path / name, unit="SUVbw").fingerprint() for name in ("here.nii", "there.nii.gz")}
    assert prints == {volume.fingerprint()}


def test_the_fingerprint_tells_one_voxel_the_affine_and_the_unit(affine):
    volume = random_volume(affine)
    data, moved = volume.data.copy(), affine.copy()
    data[4, 0, 3] = np.nextafter(data[4, 0, 3], np.float32(99))
    moved[0, 3] += 0.01
    others = [
        Volume(data, affine, "SUVbw"),
        Volume(volume.data, moved, "SUVbw"),
        Volume(volume.data, affine, "Bq/mL"),
        Volume(volume.data.reshape(6, 5, 7), affine, "SUVbw"),
    ]
    assert len({volume.fingerprint(), *(other.fingerprint() for other in others)}) == 5


def test_the_fingerprint_does_not_tell_zero_from_minus_zero_in_the_affine():
    affine = np.diag([-4.0, -4.0, 3.0, 1.0])
    signed = affine.copy()
    signed[0, 1] = -0.0  # what multiplying by a direction of 0 leaves behind
    data = np.ones((2, 2, 2))
    assert Volume(data, affine, "HU").fingerprint() == Volume(data, signed, "HU").fingerprint()
