"""Files are what their content says, whatever their name or header claims, or they are refused."""

import gzip
import struct
import tracemalloc
import warnings

import nibabel as nib
import numpy as np
import pytest
from conftest import oblique
from nifti_files import write_nifti

from seganypet.errors import GeometryError, SegAnyPETError, VolumeError
from seganypet.pet.image_file import MAX_VOXELS, fill_outside
from seganypet.pet.resampling import AIR_HU
from seganypet.pet.volume import Volume, load_labels, load_volume, open_image, save_mask, save_volume

AFFINE = oblique((4.07, 4.07, 3.0), left_handed=True)
DATA = np.random.default_rng(0).gamma(2.0, 1.0, (9, 10, 11)).astype(np.float32)
LIKE = Volume(DATA, AFFINE, "SUVbw")
DRAWN = (DATA > 3).astype(np.uint8) * 3


def same(path, data=DATA, affine=AFFINE):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        volume = load_volume(path, unit="SUVbw")
    np.testing.assert_array_equal(volume.data, data)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-4)
    return True


# ---- names


@pytest.mark.parametrize("name", ["SCAN.NII.GZ", "Scan.Nii", "scan.nii.GZ", "a.b.c.nii.gz"])
def test_capitals_in_a_name_do_not_matter(tmp_path, name):
    plain = write_nifti(tmp_path / "plain.nii", DATA, AFFINE).read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(plain) if name.lower().endswith("gz") else plain)
    assert same(tmp_path / name)


def test_a_file_is_packed_if_its_content_is(tmp_path):
    plain = write_nifti(tmp_path / "plain.nii", DATA, AFFINE).read_bytes()
    (tmp_path / "plain.nii.gz").write_bytes(plain)
    (tmp_path / "packed.nii").write_bytes(gzip.compress(plain))
    assert same(tmp_path / "plain.nii.gz") and same(tmp_path / "packed.nii")
    (tmp_path / "seg.nii.gz").write_bytes(write_nifti(tmp_path / "seg.nii", DRAWN, AFFINE).read_bytes())
    np.testing.assert_array_equal(load_labels(tmp_path / "seg.nii.gz", like=LIKE), DRAWN)


def test_gzip_in_several_members_and_with_zeros_behind_is_read(tmp_path):
    plain = write_nifti(tmp_path / "plain.nii", DATA, AFFINE).read_bytes()
    (tmp_path / "members.nii.gz").write_bytes(gzip.compress(plain[:1000]) + gzip.compress(plain[1000:]))
    (tmp_path / "zeros.nii.gz").write_bytes(gzip.compress(plain) + bytes(64))
    assert same(tmp_path / "members.nii.gz") and same(tmp_path / "zeros.nii.gz")


OTHER_FORMATS = {
    "scan.hdr": "Save a pair of files", "scan.img": "does not say where left is", "scan.mgz": "mri_convert",
    "scan.dcm": "load_dicom", "scan.nii.bz2": "Unpack it first", "scan.nii.zst": "Unpack", "scan.v": "ECAT",
    "scan.tif": r"ending in \.nii, \.nii\.gz, \.nrrd",
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_FORMATS)
def test_other_formats_are_refused_with_what_to_do(tmp_path, name):
    (tmp_path / name).write_bytes(bytes(1000))
    with pytest.raises(VolumeError, match=OTHER_FORMATS[name]):
        load_volume(tmp_path / name, unit="SUVbw")


def test_formats_in_the_clothes_of_nifti_are_refused(tmp_path):
    nib.save(nib.MGHImage(DATA, AFFINE), tmp_path / "scan.mgh")
    nib.save(nib.Nifti1Pair(DATA, AFFINE), tmp_path / "pair.hdr")
    nib.save(nib.AnalyzeImage(DATA, np.eye(4)), tmp_path / "analyze.hdr")
    for name in ("scan.mgh", "pair.hdr", "pair.img", "analyze.hdr"):
        disguised = tmp_path / f"{name}.nii"
        disguised.write_bytes((tmp_path / name).read_bytes())
        with pytest.raises(VolumeError, match="not a readable NIfTI file|without voxels"):
            load_volume(disguised, unit="SUVbw")


# ---- axes


@pytest.mark.parametrize("trailing", [(1,), (1, 1), (1, 1, 1, 1)])
def test_trailing_axes_of_one_do_not_count(tmp_path, trailing):
    assert same(write_nifti(tmp_path / "pet.nii", DATA.reshape(*DATA.shape, *trailing), AFFINE))
    drawn = write_nifti(tmp_path / "seg.nii.gz", DRAWN.reshape(*DATA.shape, *trailing), AFFINE)
    np.testing.assert_array_equal(load_labels(drawn, like=LIKE), DRAWN)


def test_a_mask_of_a_scan_with_a_fourth_axis_of_one_has_three(tmp_path):
    path = write_nifti(tmp_path / "pet.nii", DATA[..., None], AFFINE, pixdim=[-1, 4.07, 4.07, 3, 1800, 0, 0, 0])
    volume = load_volume(path, unit="SUVbw")
    save_mask(tmp_path / "mask.nii.gz", DRAWN, volume)
    written, given = nib.load(tmp_path / "mask.nii.gz"), nib.load(path)
    assert written.shape == DATA.shape
    for field in ("srow_x", "srow_y", "srow_z", "quatern_b", "qoffset_x", "sform_code", "qform_code"):
        assert given.header[field].tobytes() == written.header[field].tobytes(), field
    np.testing.assert_array_equal(np.asarray(written.dataobj), DRAWN)


@pytest.mark.parametrize("shape", [(9, 10, 11, 2), (9, 10, 1, 11), (1, 9, 10, 11), (9, 10, 11, 1, 3), (9, 10), (90,)])
def test_frames_channels_and_pictures_are_no_volume(tmp_path, shape):
    path = write_nifti(tmp_path / "pet.nii", np.zeros(shape, np.float32), AFFINE)
    with pytest.raises(VolumeError, match=rf"{len(shape)}D array of shape .*expected a 3D volume"):
        load_volume(path, unit="SUVbw")


def test_one_slice_is_a_volume(tmp_path):
    assert same(write_nifti(tmp_path / "pet.nii", DATA[:, :, :1], AFFINE), DATA[:, :, :1])


# ---- numbers


@pytest.mark.parametrize("slope, inter", [(0, 5), (np.nan, np.nan), (np.nan, 5), (0, np.nan), (1, 0)])
def test_a_slope_of_zero_or_none_leaves_the_voxels_as_they_are(tmp_path, slope, inter):
    assert same(write_nifti(tmp_path / "pet.nii", DATA, AFFINE, scl_slope=slope, scl_inter=inter))


@pytest.mark.parametrize("slope, inter", [(1, np.nan), (2, np.inf), (np.inf, 0), (-np.inf, np.nan)])
def test_a_scaling_that_is_no_number_is_refused(tmp_path, slope, inter):
    path = write_nifti(tmp_path / "pet.nii.gz", DATA, AFFINE, scl_slope=slope, scl_inter=inter)
    with pytest.raises(VolumeError, match=r"scl_slope.*scl_inter.*expected finite numbers"):
        load_volume(path, unit="SUVbw")


def test_unknown_types_of_voxels_are_refused(tmp_path):
    for code, bits in ((1536, 128), (1, 1), (32, 64), (128, 24), (2304, 32), (9999, 16), (-3, 8)):
        path = write_nifti(tmp_path / "pet.nii", np.zeros((20, 20, 20), "f8"), AFFINE, datatype=code, bitpix=bits)
        with pytest.raises(VolumeError, match="not a readable NIfTI|expected integers or real numbers"):
            load_volume(path, unit="SUVbw")


@pytest.mark.parametrize("unit, fill", [("SUVbw", 0.0), ("HU", AIR_HU)])
def test_nan_around_the_scan_is_empty_and_nan_inside_is_refused(tmp_path, unit, fill):
    data = DATA.copy()
    data[:2], data[:, :, -1], data[-1, -1, 3] = np.nan, np.nan, np.nan
    outside = np.isnan(data)
    path = write_nifti(tmp_path / "pet.nii", data, AFFINE)
    with pytest.warns(UserWarning, match=f"{outside.sum()} of 990 voxels, all around the scan, are NaN"):
        volume = load_volume(path, unit=unit)
    np.testing.assert_array_equal(volume.data, np.where(outside, np.float32(fill), DATA))
    data[5, 5, 5] = np.nan
    with pytest.raises(VolumeError, match=r"are NaN or infinite"):
        load_volume(write_nifti(tmp_path / "pet.nii", data, AFFINE), unit=unit)


def test_a_scan_of_nothing_but_nan_and_a_hole_that_reaches_no_face_are_not_outside():
    assert fill_outside(np.full((3, 4, 5), np.nan), 0.0)[1] == 0
    cavity = np.zeros((5, 5, 5))
    cavity[2, 2, 1:4] = np.nan
    assert fill_outside(cavity, 0.0)[1] == 0
    cavity[2, 2, :] = np.nan
    assert fill_outside(cavity, 0.0)[1] == 5


def test_a_unit_that_the_file_names_otherwise_is_said(tmp_path):
    save_volume(tmp_path / "pet.nii.gz", Volume(DATA, AFFINE, "Bq/mL"))
    with pytest.warns(UserWarning, match="says that it is in Bq/mL, but it was opened as unit='SUVbw'"):
        assert load_volume(tmp_path / "pet.nii.gz", unit="SUVbw").unit == "SUVbw"
    assert load_volume(tmp_path / "pet.nii.gz", unit="Bq/mL").unit == "Bq/mL"


# ---- bytes


def test_every_flipped_bit_of_a_packed_file_is_noticed(tmp_path):
    content = write_nifti(tmp_path / "good.nii.gz", DATA, AFFINE).read_bytes()
    rng = np.random.default_rng(1)
    for position in rng.integers(20, len(content) - 8, 60):
        damaged = bytearray(content)
        damaged[position] ^= 1 << rng.integers(8)
        (tmp_path / "bad.nii.gz").write_bytes(damaged)
        with pytest.raises(VolumeError):
            load_volume(tmp_path / "bad.nii.gz", unit="SUVbw")


@pytest.mark.parametrize("axis", [1, 2, 3])
@pytest.mark.parametrize("name", ["pet.nii", "pet.nii.gz"])
def test_an_axis_that_is_too_short_or_too_long_in_the_header_is_noticed(tmp_path, axis, name):
    for change in (-1, 1):
        dim = [3, 9, 10, 11, 1, 1, 1, 1]
        dim[axis] += change
        path = write_nifti(tmp_path / name, DATA, AFFINE, dim=dim)
        with pytest.raises(VolumeError, match="header is too short|more than the file can|bytes are missing"):
            load_volume(path, unit="SUVbw")


def test_some_padding_behind_the_voxels_is_no_fault(tmp_path):
    path = write_nifti(tmp_path / "pet.nii", DATA, AFFINE)
    path.write_bytes(path.read_bytes() + bytes(100))
    assert same(path)


@pytest.mark.parametrize("offset", [0, 100, 348, -352, 1e30, np.nan, np.inf, 2**27])
def test_voxels_that_begin_nowhere_are_refused(tmp_path, offset):
    for name in ("pet.nii", "pet.nii.gz"):
        path = write_nifti(tmp_path / name, DATA, AFFINE, vox_offset=offset)
        with pytest.raises(VolumeError, match="voxels begin at byte .*vox_offset"):
            load_volume(path, unit="SUVbw")


def test_extensions_are_kept_and_a_false_length_of_one_is_refused(tmp_path):
    image = nib.Nifti1Image(DATA, AFFINE)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"made by a test"))
    nib.save(image, tmp_path / "pet.nii")
    assert open_image(tmp_path / "pet.nii").header.extensions[0].get_content() == b"made by a test"
    assert same(tmp_path / "pet.nii")
    content = bytearray((tmp_path / "pet.nii").read_bytes())
    for place, form, value in ((352, "<i", 2**31 - 16), (352, "<i", -16), (108, "<f", 352.0), (108, "<f", 368.0)):
        spoilt = bytearray(content)
        struct.pack_into(form, spoilt, place, value)
        (tmp_path / "pet.nii").write_bytes(spoilt)
        with pytest.raises(VolumeError, match="extensions that do not end where its voxels begin"):
            load_volume(tmp_path / "pet.nii", unit="SUVbw")


def test_voxels_that_begin_later_than_claimed_or_have_other_bits_are_refused(tmp_path):
    path = write_nifti(tmp_path / "pet.nii", DATA, AFFINE)
    content = path.read_bytes()
    path.write_bytes(content[:352] + bytes(8) + content[352:])
    with pytest.raises(VolumeError, match="holds more than the voxels"):
        load_volume(path, unit="SUVbw")
    path.write_bytes(content + bytes(8))  # padding
    assert same(path)
    for datatype, bits in ((16, 16), (4, 32), (64, 32)):
        path = write_nifti(tmp_path / "pet.nii", DATA, AFFINE, datatype=datatype, bitpix=bits)
        with pytest.raises(VolumeError, match="contradict each other"):
            load_volume(path, unit="SUVbw")


@pytest.mark.parametrize("shape", [(30000, 30000, 30000), (32767, 32767, 1), (600, 600, 600)])
@pytest.mark.parametrize("name", ["pet.nii", "pet.nii.gz"])
def test_a_header_that_claims_more_than_the_file_holds_allocates_nothing(tmp_path, name, shape):
    path = write_nifti(tmp_path / name, DATA, AFFINE, dim=[3, *shape, 1, 1, 1, 1])
    with pytest.raises(VolumeError, match="more than the file can hold"):
        open_image(path)


def test_a_bomb_takes_no_memory(tmp_path):
    """Half a gigabyte of zeros behind the voxels, packed into some megabytes, is not unpacked."""
    path = tmp_path / "bomb.nii.gz"
    with gzip.open(path, "wb", 1) as file:
        file.write(write_nifti(tmp_path / "small.nii", DATA, AFFINE).read_bytes())
        for _ in range(32):
            file.write(bytes(2**24))
    tracemalloc.start()
    with pytest.raises(VolumeError, match="axis of the header is too short"):
        load_volume(path, unit="SUVbw")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6


def test_more_voxels_than_any_scanner_makes_are_refused_before_they_are_read(tmp_path):
    path = tmp_path / "huge.nii.gz"
    shape = [3, 1024, 1024, 1024, 1, 1, 1, 1]
    head = write_nifti(tmp_path / "small.nii", np.zeros((1, 1, 1), np.uint8), AFFINE, dim=shape).read_bytes()
    path.write_bytes(gzip.compress(head + np.random.default_rng(0).bytes(2**20)))  # might unpack to so much
    assert MAX_VOXELS < 1024**3
    with pytest.raises(VolumeError, match="1024 x 1024 x 1024 voxels; at most 537 million"):
        open_image(path)


def test_files_that_cannot_be_opened_say_so(tmp_path, monkeypatch):
    path = write_nifti(tmp_path / "pet.nii", DATA, AFFINE)
    monkeypatch.setattr("pathlib.Path.open", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "denied")))
    with pytest.raises(VolumeError, match="cannot read .*: denied. Change the permissions"):
        load_volume(path, unit="SUVbw")


def test_a_file_that_changes_between_header_and_voxels_is_refused(tmp_path):
    path = write_nifti(tmp_path / "pet.nii.gz", DATA, AFFINE)
    image = open_image(path)
    path.unlink()
    with pytest.raises(VolumeError, match="No such file"):
        image.voxels()


def damaged(content: bytes, head: int, rng: np.random.Generator) -> bytes:
    """A few bytes changed, lost or added, most of them in the header."""
    raw = bytearray(content)
    for _ in range(rng.integers(1, 6)):
        at = int(rng.integers(head if rng.random() < 0.85 else len(raw)))
        match rng.integers(6):
            case 0:
                raw[at] ^= 1 << rng.integers(8)
            case 1:
                raw[at] = rng.choice([0, 1, 127, 128, 255])
            case 2:
                raw[at : at + 4] = struct.pack("<f", rng.choice([np.nan, np.inf, -1.0, 0.0, 1e38, 1e-40]))
            case 3:
                raw[at : at + 2] = struct.pack("<h", rng.choice([-1, 0, 1, 7, 32767, -32768]))
            case 4:
                del raw[at : at + int(rng.integers(1, 20))]
            case 5:
                raw[at:at] = rng.bytes(int(rng.integers(1, 20)))
    return bytes(raw)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_damaged_files_are_read_or_refused_in_own_words(tmp_path, kind):
    rng = np.random.default_rng(7)
    content = write_nifti(tmp_path / "good.nii", DATA, AFFINE, kind).read_bytes()
    refused = 0
    for _ in range(300):
        raw = damaged(content, kind.header_class.sizeof_hdr, rng)
        path = tmp_path / ("bad.nii" if rng.random() < 0.7 else "bad.nii.gz")
        path.write_bytes(raw if path.suffix == ".nii" else gzip.compress(raw, 1))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                volume = load_volume(path, unit="SUVbw")
            except SegAnyPETError:
                refused += 1
            else:
                if {"sform", "qform"} <= open_image(path).forms.keys():  # neither code was hit, so both forms speak
                    assert volume.voxel_volume_ml == pytest.approx(LIKE.voxel_volume_ml, rel=0.02)
    assert refused > 100


def test_geometry_of_formats_that_have_one_is_not_to_be_chosen(tmp_path):
    (tmp_path / "scan.nrrd").write_bytes(b"NRRD0004\n\n")
    with pytest.raises(GeometryError, match="only NIfTI files"):
        load_volume(tmp_path / "scan.nrrd", unit="SUVbw", geometry="sform")
