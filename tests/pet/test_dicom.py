"""DICOM series to volumes: places, values and choices, on oblique stacks and one real scan."""

import json

import numpy as np
import pydicom
import pytest
from conftest import oblique
from make_dicom import FACTOR, write_series
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEG2000Lossless, RLELossless, SecondaryCaptureImageStorage, generate_uid
from scipy import ndimage

from seganypet.errors import DicomError
from seganypet.pet.dicom import list_series, load_dicom
from seganypet.pet.resampling import resample_to
from seganypet.pet.volume import Volume

STORED = np.random.default_rng(5).integers(0, 9000, (7, 5, 6))  # columns, rows, slices


def same_in_patient(volume, values, affine):
    """Every voxel of `values` is found at its place in millimetres."""
    ijk = np.argwhere(np.ones(values.shape, bool))
    found = volume.to_ijk(ijk @ affine[:3, :3].T + affine[:3, 3])
    assert np.abs(found - np.rint(found)).max() < 1e-3
    found = np.rint(found).astype(int)
    assert np.array_equal(np.unique(found, axis=0), ijk)  # each voxel once
    np.testing.assert_allclose(volume.data[tuple(found.T)], values[tuple(ijk.T)], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("left_handed", [False, True])
def test_oblique_pet_lands_where_its_header_says_with_a_slope_per_slice(tmp_path, left_handed):
    affine = oblique((4.07, 2.5, 3.0), left_handed)
    slopes = np.linspace(0.2, 3.7, 6)
    write_series(tmp_path, STORED, affine, slopes=slopes)
    volume = load_dicom(tmp_path)
    assert volume.unit == "SUVbw"
    assert volume.shape == (7, 5, 6)
    assert volume.spacing == pytest.approx((4.07, 2.5, 3.0), abs=1e-5)
    same_in_patient(volume, STORED * slopes * FACTOR, affine)


def test_ct_is_in_hounsfield_units_with_its_intercept(tmp_path):
    affine = oblique((0.9, 0.8, 5.0))
    write_series(tmp_path, STORED, affine, modality="CT", slopes=np.full(6, 0.5), intercept=-1024)
    volume = load_dicom(tmp_path)
    assert volume.unit == "HU"
    same_in_patient(volume, STORED * 0.5 - 1024, affine)


def test_tilted_gantry_gives_a_sheared_grid_with_exact_voxel_volume(tmp_path):
    affine = oblique((1.0, 1.0, 4.0))
    affine[:3, 2] += 1.5 * affine[:3, 1]  # every slice shifted by 1.5 mm along the rows
    write_series(tmp_path, STORED, affine, modality="CT")
    volume = load_dicom(tmp_path)
    same_in_patient(volume, STORED, affine)
    assert volume.voxel_volume_ml == pytest.approx(4.0 / 1000, rel=1e-6)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, RLELossless])
@pytest.mark.parametrize("modality", ["CT", "PT"])
def test_compressed_slices_give_the_same_values_as_plain_ones(tmp_path, syntax, modality):
    import SimpleITK

    stored = np.random.default_rng(6).integers(-3000, 6000, (70, 64, 3))

    def compress(header, k):
        if syntax == RLELossless:
            header.compress(RLELossless)
            return
        writer = SimpleITK.ImageFileWriter()
        writer.SetFileName(str(tmp_path / "one.dcm"))
        writer.SetUseCompression(True)
        writer.SetCompressor("JPEG2000")
        writer.Execute(SimpleITK.GetImageFromArray(stored[:, :, k].T.astype(np.int16)[None]))
        frame = next(generate_frames(pydicom.dcmread(tmp_path / "one.dcm").PixelData, number_of_frames=1))
        header.PixelData = encapsulate([frame])
        header["PixelData"].is_undefined_length = True
        header.file_meta.TransferSyntaxUID = JPEG2000Lossless

    affine, slopes = oblique((2.0, 3.0, 4.0)), np.linspace(0.5, 2.5, 3)
    arguments = {"modality": modality, "slopes": slopes, "intercept": -7.0 if modality == "CT" else 0.0}
    write_series(tmp_path / "plain", stored, affine, **arguments)
    write_series(tmp_path / "packed", stored, affine, change=compress, **arguments)
    packed, plain = load_dicom(tmp_path / "packed"), load_dicom(tmp_path / "plain")
    np.testing.assert_allclose(packed.data, plain.data, rtol=1e-6)
    assert packed.data.min() < 0


@pytest.mark.parametrize("signed", [0, 1])
def test_bits_that_are_not_stored_hold_no_values(tmp_path, signed):
    """Twelve bits are used; the upper four hold an overlay, as old CTs wrote it."""
    low = -2048 if signed else 0
    stored = np.random.default_rng(8).integers(low, low + 4096, (7, 5, 6))

    def twelve_bits(header, k):
        header.BitsStored, header.HighBit, header.PixelRepresentation = 12, 11, signed
        overlay = np.random.default_rng(k).integers(0, 16, (5, 7)) << 12
        header.PixelData = ((stored[:, :, k].T & 0xFFF) | overlay).astype("<u2").tobytes()

    affine = oblique((0.9, 0.8, 5.0))
    write_series(tmp_path, STORED, affine, modality="CT", intercept=-1024, change=twelve_bits)
    same_in_patient(load_dicom(tmp_path), stored - 1024.0, affine)


def test_files_without_preamble_or_suffix_in_subfolders_are_read(tmp_path):
    affine = oblique((2.0, 3.0, 4.0))
    paths = write_series(tmp_path, STORED, affine, modality="CT")
    (tmp_path / "DISC1").mkdir()
    for path in paths[:3]:
        path.rename(tmp_path / "DISC1" / path.stem)
    for path in paths[3:]:
        path.write_bytes(path.read_bytes()[132:])
        header = pydicom.dcmread(path, force=True)
        header.file_meta = pydicom.dataset.FileMetaDataset()
        header.save_as(path, implicit_vr=False, little_endian=True, enforce_file_format=False)
        assert b"DICM" not in path.read_bytes()[:200]
    (tmp_path / "readme.txt").write_text("not a scan")
    (tmp_path / "._image-000.dcm").write_bytes(b"resource fork")
    same_in_patient(load_dicom(tmp_path), STORED, affine)


def test_jitter_of_a_bed_seam_is_tolerated(tmp_path):
    def jitter(header, k):
        if k >= 3:
            x, y, z = header.ImagePositionPatient
            header.ImagePositionPatient = [x, y, float(z) + 0.02]

    affine = np.diag([4.0, 4.0, 3.27, 1.0])
    write_series(tmp_path, STORED, affine, change=jitter)
    assert load_dicom(tmp_path).spacing[2] == pytest.approx((5 * 3.27 + 0.02) / 5, abs=1e-6)


def test_a_folder_of_several_series_lists_them_and_loads_the_chosen_one(tmp_path):
    affine = oblique((2.0, 3.0, 4.0))
    write_series(tmp_path / "pet", STORED, affine, description="PET AC")
    write_series(tmp_path / "ct", STORED, affine, modality="CT", description="low dose")
    table = list_series(tmp_path)
    assert sorted(zip(table.modality, table.description, table.files, strict=True)) == [
        ("CT", "low dose", 6),
        ("PT", "PET AC", 6),
    ]
    with pytest.raises(DicomError, match=r"(?s)2 series; choose one by series_uid.*low dose.*PET AC"):
        load_dicom(tmp_path)
    chosen = table.series_uid[table.modality == "CT"].item()
    assert load_dicom(tmp_path, series_uid=chosen).unit == "HU"


def test_other_dicom_objects_beside_a_scan_are_passed_over(tmp_path):
    def other(header, k):
        if k == 5:
            header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.67"  # RWV
            header.SeriesInstanceUID = generate_uid()
            header.Modality = "RWV"

    affine = oblique((2.0, 3.0, 4.0))
    write_series(tmp_path, STORED, affine, change=other)
    assert load_dicom(tmp_path).shape == (7, 5, 5)
    assert set(list_series(tmp_path).modality) == {"PT", "RWV"}


def test_a_screenshot_within_the_series_is_passed_over(tmp_path):
    def screenshot(header, k):
        if k == 0:
            header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage

    write_series(tmp_path, STORED, oblique((2.0, 3.0, 4.0)), modality="CT", change=screenshot)
    assert load_dicom(tmp_path).shape == (7, 5, 5)


def test_a_slice_that_is_hidden_or_of_an_unknown_class_is_told_of(tmp_path):
    def unknown(header, k):
        if k == 5:
            header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = "1.2.3.4"

    write_series(tmp_path / "unknown", STORED, oblique((2.0, 3.0, 4.0)), modality="CT", change=unknown)
    with pytest.warns(UserWarning, match=r"1 files of the series.*unknown class '1.2.3.4' and left out"):
        assert load_dicom(tmp_path / "unknown").shape == (7, 5, 5)
    last = write_series(tmp_path / "hidden", STORED, oblique((2.0, 3.0, 4.0)), modality="CT")[-1]
    last.rename(last.with_name(f".{last.name}"))
    (tmp_path / "hidden" / f"._{last.name}").write_bytes(b"of macOS")
    with pytest.warns(UserWarning, match=f"1 hidden DICOM files, such as .{last.name}, are left out"):
        assert load_dicom(tmp_path / "hidden").shape == (7, 5, 5)


def test_missing_end_of_a_pet_is_told(tmp_path):
    write_series(tmp_path, STORED, np.diag([4.0, 4.0, 3.0, 1.0]), change=lambda h, k: setattr(h, "NumberOfSlices", 9))
    with pytest.warns(UserWarning, match=r"6 slices, but NumberOfSlices \(0054,0081\) is 9"):
        load_dicom(tmp_path)


def test_metadata_serve_sul_and_name_nobody(tmp_path):
    write_series(tmp_path / "scan", STORED, oblique((2.0, 3.0, 4.0)), slopes=np.linspace(1, 2, 6))
    metadata = load_dicom(tmp_path / "scan").metadata
    assert (metadata["modality"], metadata["series_description"]) == ("PT", "small series")
    assert (metadata["weight_kg"], metadata["height_m"], metadata["sex"]) == (70.0, 1.75, "F")
    assert (metadata["dose_bq"], metadata["half_life_s"], metadata["decay_s"]) == (350e6, 6586.2, 3600.0)
    assert (metadata["units"], metadata["decay_reference"]) == ("BQML", "series time")
    assert metadata["suv_per_stored_unit"] == pytest.approx(FACTOR)
    assert metadata["rescale_slope_range"] == [1.0, 2.0]
    written = json.dumps(metadata)
    for secret in ("Nobody", "secret-17", "20210304"):
        assert secret not in written


def test_constant_ct_stays_constant_inside_and_is_air_outside(oblique_affine):
    ct = Volume(np.full((20, 22, 18), 40.0), oblique((0.98, 0.98, 3.27)), "HU")
    corner = ct.affine[:3, 3]
    pet_affine = oblique_affine.copy()
    pet_affine[:3, 3] = corner - oblique_affine[:3, :3] @ (3, 3, 3)
    pet = Volume(np.zeros((12, 12, 12)), pet_affine, "SUVbw")
    moved = resample_to(ct, pet)
    assert (moved.shape, moved.unit) == (pet.shape, "HU")
    grid = np.moveaxis(np.indices(pet.shape), 0, -1)
    in_ct = ct.to_ijk(pet.to_mm(grid))
    inside = ((in_ct >= -0.5) & (in_ct <= np.array(ct.shape) - 0.5)).all(axis=-1)
    assert inside.sum() > 20
    np.testing.assert_allclose(moved.data[inside], 40.0, rtol=1e-5)
    assert (moved.data[~inside] == -1024.0).all()
    pet_moved = resample_to(Volume(ct.data, ct.affine, "SUVbw"), pet)
    assert (pet_moved.data[~inside] == 0.0).all()


@pytest.mark.parametrize("fine_mm", [(0.98, 0.98, 3.27), (6.0, 5.0, 4.0)])
def test_linear_ramp_is_carried_to_its_place_in_millimetres(oblique_affine, fine_mm):
    """Smoothing and linear interpolation both keep a ramp; a shift of one voxel would not."""
    gradient, shape = np.array([1.5, -2.0, 0.7]), (60, 58, 30)
    affine = oblique(fine_mm, left_handed=True)
    indices = np.moveaxis(np.indices(shape), 0, -1)
    ramp = (indices @ affine[:3, :3].T + affine[:3, 3]) @ gradient
    source = Volume(ramp, affine, "HU")
    target_affine = oblique_affine.copy()
    target_affine[:3, 3] = source.to_mm((25, 25, 12))  # well inside: no edge
    target = Volume(np.zeros((3, 3, 2)), target_affine, "SUVbw")
    expected = target.to_mm(np.moveaxis(np.indices(target.shape), 0, -1)) @ gradient
    np.testing.assert_allclose(resample_to(source, target).data, expected, atol=0.02)


def test_fine_stripes_do_not_alias_into_a_coarse_grid():
    stripes = np.zeros((64, 64, 8))
    stripes[::2] = 1000.0  # period 2 mm, sampled every 4.7 mm
    fine = Volume(stripes, np.diag([1.0, 1.0, 3.0, 1.0]), "HU")
    coarse = Volume(np.zeros((13, 13, 8)), np.diag([4.7, 4.7, 3.0, 1.0]), "SUVbw")
    moved = resample_to(fine, coarse).data[2:-2]
    assert np.abs(moved - 500.0).max() < 15.0
    plain = ndimage.affine_transform(stripes, np.diag([4.7, 4.7, 1.0]), output_shape=coarse.shape, order=1)[2:-2]
    assert np.abs(plain - 500.0).max() > 300.0


def test_real_pet_has_its_published_maximum(real_data):
    volume = load_dicom(real_data / "acrin042" / "PET_AC")
    assert volume.unit == "SUVbw"
    assert volume.shape == (128, 128, 135)
    assert volume.spacing == pytest.approx((4.6875, 4.6875, 3.27), abs=1e-3)
    assert volume.data.max() == pytest.approx(51.09, abs=0.005)
    assert volume.metadata["suv_per_stored_unit"] == pytest.approx(0.00042111, abs=5e-9)
    # 588802304 Bq at 07:21:00, series time 09:59:47, 91 kg
    expected = 91e3 / (588802304 * 2 ** (-(2 * 3600 + 38 * 60 + 47) / 6588.0))
    assert volume.metadata["suv_per_stored_unit"] == pytest.approx(expected, rel=1e-9)


def test_real_jpeg_ls_ct_covers_the_body_that_its_pet_shows(real_data):
    pet = load_dicom(real_data / "acrin042" / "PET_AC")
    ct = load_dicom(real_data / "acrin042" / "CT")
    assert (ct.unit, ct.shape) == ("HU", (512, 512, 135))
    on_pet = resample_to(ct, pet).data > -400.0
    body = np.stack([ndimage.binary_fill_holes(on_pet[:, :, k]) for k in range(pet.shape[2])], axis=-1)  # lungs too
    uptake = pet.data > 1.0
    assert body[uptake].mean() > 0.999  # uptake lies in the body ...
    for axis in range(3):  # ... as long as no axis is mirrored
        assert np.flip(body, axis)[uptake].mean() < 0.995
