"""A NIfTI header says where its voxels lie in four places; where they contradict each other nothing is measured."""

import warnings

import nibabel as nib
import numpy as np
import pytest
from conftest import oblique
from nifti_files import set_fields, sform_fields, write_nifti

from seganypet.cohort.cohort import Cohort
from seganypet.errors import GeometryError
from seganypet.pet.quantification import quantify
from seganypet.pet.volume import load_labels, load_volume, open_image, save_mask, save_volume

SIZES = (4.07, 4.07, 3.0)
AFFINE = oblique(SIZES, left_handed=True)
DATA = np.random.default_rng(0).gamma(2.0, 1.0, (9, 10, 11)).astype(np.float32)
LESION = np.zeros(DATA.shape, bool)
LESION[3:6, 4:7, 5:8] = True
LESION_ML = 27 * 4.07 * 4.07 * 3 / 1000
UNKNOWN, METRE, MM, MICRON = 0, 1, 2, 3


def scaled(factors, affine=AFFINE):
    """The grid with other voxel sizes, the same directions, and the same first voxel."""
    return affine @ np.diag([*np.broadcast_to(factors, 3), 1.0])


def in_unit(tmp_path, mm, code, name="pet.nii"):
    """The grid in another unit of length, so that one millimetre is `mm`."""
    affine = np.diag([mm, mm, mm, 1.0]) @ AFFINE
    return write_nifti(tmp_path / name, DATA, affine, xyzt_units=code)


def mtv_ml(volume):
    table = quantify(volume, LESION).set_index("quantity")
    return float(table["value"]["MTV"])


# ---- units of length


@pytest.mark.parametrize("seconds", [0, 8])
@pytest.mark.parametrize("code, mm", [(UNKNOWN, 1), (MM, 1), (METRE, 1e-3), (MICRON, 1e3)])
def test_lengths_are_read_in_the_unit_that_the_header_names(tmp_path, code, mm, seconds):
    volume = load_volume(in_unit(tmp_path, mm, code + seconds), unit="SUVbw")
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-3)
    assert mtv_ml(volume) == pytest.approx(LESION_ML, rel=1e-5)


@pytest.mark.parametrize("code, mm", [(METRE, 1e-3), (MICRON, 1e3)])
def test_a_mask_of_a_scan_in_metres_has_its_header_bit_for_bit_and_lies_on_it(tmp_path, code, mm):
    path = in_unit(tmp_path, mm, code)
    volume = load_volume(path, unit="SUVbw")
    save_mask(tmp_path / "mask.nii.gz", LESION, volume)
    given, written = nib.load(path).header, nib.load(tmp_path / "mask.nii.gz").header
    for field in ("srow_x", "srow_y", "srow_z", "quatern_b", "qoffset_x", "pixdim", "xyzt_units", "sform_code"):
        assert given[field].tobytes() == written[field].tobytes(), field
    assert np.array_equal(load_labels(tmp_path / "mask.nii.gz", like=volume), LESION)
    save_volume(tmp_path / "again.nii", volume)
    np.testing.assert_allclose(load_volume(tmp_path / "again.nii", unit="SUVbw").affine, volume.affine, rtol=1e-6)


@pytest.mark.parametrize(
    "code, mm, meant",
    [(METRE, 1, "mm"), (MICRON, 1, "mm"), (UNKNOWN, 1e-3, "m"), (UNKNOWN, 1e3, "um"), (MM, 1e-3, "m"), (MM, 1e3, "um")],
)
def test_a_unit_that_makes_voxels_impossible_is_refused_and_the_right_one_may_be_named(tmp_path, code, mm, meant):
    path = in_unit(tmp_path, mm, code)
    with pytest.raises(GeometryError, match=rf"voxels of .* mm .*plausible would be '{meant}' \(4.07 x 4.07 x 3 mm\)"):
        load_volume(path, unit="SUVbw")
    volume = load_volume(path, unit="SUVbw", length_unit=meant)
    assert mtv_ml(volume) == pytest.approx(LESION_ML, rel=1e-5)
    assert volume.metadata["given_by_hand"] == {"length_unit": meant}
    save_mask(tmp_path / "mask.nii", LESION, volume)  # its header is right without a word
    assert np.array_equal(load_labels(tmp_path / "mask.nii", like=volume), LESION)
    assert open_image(tmp_path / "mask.nii").contradiction is None


def test_an_unknown_unit_is_named(tmp_path):
    with pytest.raises(GeometryError, match="length_unit='inch'; expected one of 'mm', 'cm', 'm', 'um'"):
        load_volume(in_unit(tmp_path, 1, MM), unit="SUVbw", length_unit="inch")


@pytest.mark.parametrize("size", [0.05, 0.4, 12.0])
def test_voxels_of_small_animal_scanners_and_of_old_cameras_are_possible(tmp_path, size):
    path = write_nifti(tmp_path / "pet.nii", DATA, np.diag([size, size, size, 1.0]))
    assert load_volume(path, unit="SUVbw").spacing == pytest.approx((size, size, size))


# ---- sform, qform and pixdim

DIRECTIONS_ONLY = scaled(1 / np.array(SIZES))
CONTRADICTIONS = {
    "a sform of directions only": DIRECTIONS_ONLY,
    "a template's sform, scaled by a tenth": scaled((1.1, 0.95, 1.0)),
    "one axis only": scaled((1, 1, 1.02)),
    "two axes exchanged": scaled((1, 3 / 4.07, 4.07 / 3)),
    "ten times too large": scaled(10 / 4),
}


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("qform_code", [0, 1])
@pytest.mark.parametrize("sform", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_voxel_sizes_that_contradict_each_other_are_refused_and_either_may_be_chosen(tmp_path, sform, qform_code, kind):
    path = write_nifti(tmp_path / "pet.nii.gz", DATA, AFFINE, kind, **sform_fields(sform), qform_code=qform_code)
    sizes = " x ".join(f"{size:.4g}" for size in nib.affines.voxel_sizes(sform))
    with pytest.raises(GeometryError, match=rf"sform has voxels of {sizes} mm, .*pixdim of 4\.07 x 4\.07 x 3 mm"):
        load_volume(path, unit="SUVbw")
    volume = load_volume(path, unit="SUVbw", geometry="pixdim")
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-3)  # directions of the sform, sizes of pixdim
    assert mtv_ml(volume) == pytest.approx(LESION_ML, rel=1e-5)
    assert volume.metadata["given_by_hand"] == {"geometry": "pixdim"}
    np.testing.assert_allclose(load_volume(path, unit="SUVbw", geometry="sform").affine, sform, atol=1e-3)
    if qform_code:
        np.testing.assert_allclose(load_volume(path, unit="SUVbw", geometry="qform").affine, AFFINE, atol=1e-3)
    else:
        with pytest.raises(GeometryError, match="geometry='qform', but its header states only sform, pixdim"):
            load_volume(path, unit="SUVbw", geometry="qform")


@pytest.mark.parametrize("geometry", ["sform", "qform", "pixdim"])
def test_a_mask_of_a_scan_whose_geometry_was_chosen_lies_on_that_geometry(tmp_path, geometry):
    path = write_nifti(tmp_path / "pet.nii", DATA, AFFINE, **sform_fields(DIRECTIONS_ONLY))
    volume = load_volume(path, unit="SUVbw", geometry=geometry)
    save_mask(tmp_path / "mask.nii", LESION, volume)
    np.testing.assert_allclose(nib.load(tmp_path / "mask.nii").affine, volume.affine, atol=1e-4)
    assert np.array_equal(load_labels(tmp_path / "mask.nii", like=volume), LESION)
    save_volume(tmp_path / "again.nii", volume)
    if geometry != "sform":  # written so that nothing contradicts it
        np.testing.assert_allclose(load_volume(tmp_path / "again.nii", unit="SUVbw").affine, volume.affine, atol=1e-4)


def test_labels_with_the_scans_contradiction_lie_on_it_whatever_was_chosen(tmp_path):
    pet = write_nifti(tmp_path / "pet.nii", DATA, AFFINE, **sform_fields(DIRECTIONS_ONLY))
    drawn = write_nifti(tmp_path / "seg.nii", LESION.astype(np.uint8), AFFINE, **sform_fields(DIRECTIONS_ONLY))
    for geometry in ("sform", "qform", "pixdim"):
        volume = load_volume(pet, unit="SUVbw", geometry=geometry)
        assert np.array_equal(load_labels(drawn, like=volume), LESION)
    elsewhere = load_volume(write_nifti(tmp_path / "ct.nii", DATA, scaled(0.9)), unit="HU")
    with pytest.raises(GeometryError, match="its sform has voxels of 1 x 1 x 1 mm"):
        load_labels(drawn, like=elsewhere, resample=True)


def test_sizes_that_were_never_filled_in_contradict_the_sform(tmp_path):
    path = write_nifti(tmp_path / "pet.nii", DATA, AFFINE, pixdim=[1] * 8, qform_code=0)
    with pytest.raises(GeometryError, match=r"voxels of 4\.07 x 4\.07 x 3 mm, its pixdim of 1 x 1 x 1 mm"):
        load_volume(path, unit="SUVbw")
    assert mtv_ml(load_volume(path, unit="SUVbw", geometry="sform")) == pytest.approx(LESION_ML, rel=1e-5)


def test_a_cohort_names_the_contradiction_and_measures_nothing(tmp_path):
    write_nifti(tmp_path / "pet.nii", DATA, AFFINE, **sform_fields(DIRECTIONS_ONLY), qform_code=0)
    (tmp_path / "cohort.csv").write_text("case,patient,pet,pet_unit\na,p,pet.nii,SUVbw\n")
    cohort = Cohort.from_csv(tmp_path / "cohort.csv")
    problems = cohort.validate(progress=False).set_index("problem")
    assert "sform has voxels of 1 x 1 x 1 mm, its pixdim of 4.07 x 4.07 x 3 mm" in problems["message"]["geometry"]
    assert problems["severity"]["geometry"] == "error"
    with pytest.raises(GeometryError, match="Choose: "):
        cohort["a"].load_pet()


def test_rotations_rounding_and_shear_are_no_contradiction(tmp_path):
    turn = np.eye(4)
    turn[:3, :3] = oblique((1.0, 1.0, 1.0))[:3, :3]
    turn[:3, 3] = 12.0, -7.0, 3.0
    tilted = AFFINE.copy()  # as by the gantry of a CT
    step = AFFINE[:3, 2] + 0.2 * AFFINE[:3, 1]
    tilted[:3, 2] = 3.0 * step / np.linalg.norm(step)
    for name, sform in (("turned", turn @ AFFINE), ("rounded", AFFINE.round(2)), ("tilted", tilted)):
        path = write_nifti(tmp_path / f"{name}.nii", DATA, AFFINE, **sform_fields(sform))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_allclose(load_volume(path, unit="SUVbw").affine, sform, atol=1e-3)


def test_a_sform_alone_needs_no_pixdim(tmp_path):
    for pixdim in (0.0, np.nan, np.inf):
        path = write_nifti(tmp_path / "pet.nii", DATA, AFFINE, pixdim=[1, *[pixdim] * 3, 0, 0, 0, 0], qform_code=0)
        np.testing.assert_allclose(load_volume(path, unit="SUVbw").affine, AFFINE, atol=1e-3)


@pytest.mark.parametrize("pixdim", [0.0, np.nan, np.inf])
@pytest.mark.parametrize("qform_code", [0, 1])
def test_no_voxel_size_anywhere_is_refused(tmp_path, pixdim, qform_code, capfd):
    codes = {"sform_code": 0, "qform_code": qform_code}
    path = write_nifti(tmp_path / "pet.nii", DATA, AFFINE, pixdim=[1, 4, pixdim, 4, 0, 0, 0, 0], **codes)
    with pytest.raises(GeometryError, match="no voxel size"):
        load_volume(path, unit="SUVbw")
    assert capfd.readouterr().err == ""  # nibabel would say that it sets the size to 1


def test_a_file_without_an_affine_says_what_was_assumed(tmp_path):
    path = write_nifti(tmp_path / "pet.nii", DATA, AFFINE, sform_code=0, qform_code=0)
    with pytest.warns(UserWarning, match="no affine .*assumed to run to the left, to the front and up.* a guess"):
        volume = load_volume(path, unit="SUVbw")
    np.testing.assert_allclose(volume.affine[:3, :3], np.diag([-4.07, 4.07, 3.0]), atol=1e-6)
    assert mtv_ml(volume) == pytest.approx(LESION_ML, rel=1e-5)


def test_forms_that_mirror_each_other_are_said(tmp_path):
    path = write_nifti(tmp_path / "pet.nii", DATA, AFFINE, **sform_fields(oblique(SIZES)))
    with pytest.warns(UserWarning, match="sform and qform are mirror images.*geometry='qform' takes the other"):
        volume = load_volume(path, unit="SUVbw")
    np.testing.assert_allclose(volume.affine, oblique(SIZES), atol=1e-3)


def test_a_code_that_does_not_exist_is_said(tmp_path):
    path = write_nifti(tmp_path / "pet.nii", DATA, AFFINE, sform_code=77)
    with pytest.warns(UserWarning, match="sform_code is 77, which does not exist"):
        load_volume(path, unit="SUVbw")


def test_a_handedness_that_does_not_exist_is_said_where_it_counts(tmp_path):
    path = write_nifti(tmp_path / "pet.nii", DATA, AFFINE, pixdim=[7, *SIZES, 0, 0, 0, 0], sform_code=0)
    with pytest.warns(UserWarning, match=r"qfac \(pixdim\[0\]\) is 7; 1 was assumed, so left and right are a guess"):
        load_volume(path, unit="SUVbw")
    set_fields(path, sform_code=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_volume(path, unit="SUVbw").spacing == pytest.approx(SIZES)


def test_a_singular_sform_may_be_passed_over_for_the_qform(tmp_path):
    flat = AFFINE.copy()
    flat[:3, 2] = flat[:3, 1]
    path = write_nifti(tmp_path / "pet.nii", DATA, AFFINE, **sform_fields(flat))
    with pytest.raises(GeometryError, match=r"singular affine .*geometry='qform'"):
        load_volume(path, unit="SUVbw")
    volume = load_volume(path, unit="SUVbw", geometry="qform")
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-3)
    save_mask(tmp_path / "mask.nii", LESION, volume)
    np.testing.assert_allclose(nib.load(tmp_path / "mask.nii").affine, AFFINE, atol=1e-3)


def test_a_qform_that_is_no_rotation_is_refused_where_it_counts(tmp_path):
    path = write_nifti(tmp_path / "pet.nii", DATA, AFFINE, quatern_b=0.9, quatern_c=0.9, sform_code=0)
    with pytest.raises(GeometryError, match="its qform is no rotation"):
        load_volume(path, unit="SUVbw")
    set_fields(path, sform_code=1)
    np.testing.assert_allclose(load_volume(path, unit="SUVbw").affine, AFFINE, atol=1e-3)


def test_an_unknown_geometry_is_named(tmp_path):
    path = write_nifti(tmp_path / "pet.nii", DATA, AFFINE)
    with pytest.raises(GeometryError, match="geometry='affine'; expected one of 'sform', 'qform', 'pixdim'"):
        load_volume(path, unit="SUVbw", geometry="affine")
