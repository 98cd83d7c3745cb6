"""Labels of other programs: turned, mirrored, rounded, saved as floats, or drawn on the grid of the CT."""

import itertools
import warnings

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from conftest import oblique
from nifti_files import write_nifti

from seganypet.cohort.case import Case
from seganypet.cohort.cohort import Cohort
from seganypet.errors import CohortError, GeometryError, VolumeError
from seganypet.pet.grids import Grid, match_grids, nearest_labels
from seganypet.pet.image_file import check_labels
from seganypet.pet.volume import Volume, load_labels, save_volume
from seganypet.study.quantities import quantify_cohort

GRIDS = {
    "oblique": oblique((4.07, 4.07, 3.0)),
    "oblique, left-handed": oblique((4.07, 4.07, 3.0), left_handed=True),
    "thick slices": oblique((2.0, 2.5, 8.0), left_handed=True),
}
SHAPE = (6, 7, 9)
LABELS = np.random.default_rng(5).integers(0, 100, SHAPE).astype(np.int16)
ALL_ORIENTATIONS = [
    np.column_stack([axes, signs])
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


@pytest.fixture(params=GRIDS)
def pet(request):
    return Volume(np.random.default_rng(3).gamma(2.0, 1.5, SHAPE), GRIDS[request.param], "SUVbw")


def turned(data, affine, orientation):
    """The same voxels at the same places, stored along other axes (by nibabel)."""
    return (
        nib.orientations.apply_orientation(data, orientation),
        affine @ nib.orientations.inv_ornt_aff(orientation, data.shape),
    )


def loaded(path, like, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_labels(path, like=like, **options)


# ---- the same voxels


def test_labels_stored_along_any_axes_are_the_same_labels(tmp_path, pet):
    assert len(ALL_ORIENTATIONS) == 48
    for orientation in ALL_ORIENTATIONS:
        data, affine = turned(LABELS, pet.affine, orientation)
        path = write_nifti(tmp_path / "seg.nii", data, affine)
        read = loaded(path, pet)
        assert read.flags.c_contiguous and read.dtype == np.int16
        np.testing.assert_array_equal(read, LABELS)


def test_a_cube_turned_about_its_middle_is_turned_back_by_its_affine_not_by_its_shape(tmp_path):
    affine = oblique((3.0, 3.0, 3.0), left_handed=True)
    cube = np.random.default_rng(0).integers(0, 9, (5, 5, 5)).astype(np.uint8)
    pet = Volume(cube, affine, "SUVbw")
    for orientation in ALL_ORIENTATIONS:
        data, other = turned(cube, affine, orientation)
        np.testing.assert_array_equal(loaded(write_nifti(tmp_path / "seg.nii", data, other), pet), cube)


def test_axes_of_one_voxel_turn_too(tmp_path):
    one = LABELS[:, :1, :1]
    pet = Volume(one, GRIDS["oblique"], "SUVbw")
    for orientation in ALL_ORIENTATIONS:
        data, affine = turned(one, pet.affine, orientation)
        np.testing.assert_array_equal(loaded(write_nifti(tmp_path / "seg.nii", data, affine), pet), one)


@pytest.mark.parametrize("told", [3.27, 3.2702, 3.27022])
@pytest.mark.parametrize("slices", [47, 300])
def test_a_voxel_size_rounded_by_another_program_is_the_same_grid(tmp_path, told, slices):
    exact = 3.2702221870422363
    pet = Volume(np.ones((4, 4, slices)), np.diag([4.0, 4.0, exact, 1.0]), "SUVbw")
    drawn = np.zeros(pet.shape, np.uint8)
    drawn[1, 1, -4:] = 1
    path = write_nifti(tmp_path / "seg.nii", drawn, np.diag([4.0, 4.0, told, 1.0]))
    if (slices - 1) * abs(exact - told) > 0.01 * exact:
        with pytest.warns(UserWarning, match=r"lie up to 0\.066 mm \(2\.0% of a voxel\) off those of array"):
            read = load_labels(path, like=pet)
    else:
        read = loaded(path, pet)
    np.testing.assert_array_equal(read, drawn)


def test_a_tenth_of_a_voxel_is_the_limit_along_each_axis(tmp_path, pet):
    for axis in range(3):
        for voxels, fits in ((0.09, True), (-0.09, True), (0.11, False), (-0.11, False), (1.0, False)):
            shift = np.eye(4)
            shift[axis, 3] = voxels
            path = write_nifti(tmp_path / "seg.nii", LABELS, pet.affine @ shift)
            assert (match_grids(Grid(SHAPE, pet.affine @ shift, "seg"), pet) is not None) is fits
            if fits:
                with pytest.warns(UserWarning, match="9.0% of a voxel"):
                    np.testing.assert_array_equal(load_labels(path, like=pet), LABELS)
            else:
                with pytest.raises(GeometryError, match="do not lie on the grid .*resample=True"):
                    load_labels(path, like=pet)


TURN = np.eye(4)
TURN[:2, :2] = [[np.cos(0.035), -np.sin(0.035)], [np.sin(0.035), np.cos(0.035)]]
OTHER_GRIDS = {
    "turned by 2 degrees": lambda affine: TURN @ affine,
    "larger by 3 %": lambda affine: affine @ np.diag([1.03, 1.03, 1.03, 1]),
    "mirrored in the patient": lambda affine: np.diag([-1.0, 1, 1, 1]) @ affine,
    "sheared": lambda affine: affine @ np.array([[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
    "twice as fine": lambda affine: affine @ np.diag([0.5, 0.5, 0.5, 1]),
}


@pytest.mark.parametrize("other", OTHER_GRIDS.values(), ids=OTHER_GRIDS)
def test_other_grids_of_the_same_shape_are_refused(tmp_path, pet, other):
    image = nib.Nifti1Image(LABELS, other(pet.affine))
    nib.save(image, tmp_path / "seg.nii")
    with pytest.raises(GeometryError, match="do not lie on the grid of array, .*corners up to .* mm apart"):
        load_labels(tmp_path / "seg.nii", like=pet)


# ---- integers


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "f4", "f8"])
@pytest.mark.parametrize("labels", [(1,), (3,), (1, 5, 104), tuple(range(118)), (1, 12, 254)])
def test_labels_saved_again_as_floats_are_read_as_they_were(tmp_path, pet, dtype, labels):
    """`get_fdata` and `save`: nibabel stores a slope, and 3 comes back as 2.9999999993, or 5 in 104 as 4.9."""
    drawn = np.zeros(SHAPE, dtype)
    drawn.ravel()[: len(labels)] = labels
    nib.save(nib.Nifti1Image(drawn, pet.affine), tmp_path / "first.nii.gz")
    image = nib.load(tmp_path / "first.nii.gz")
    nib.save(nib.Nifti1Image(image.get_fdata(), image.affine, image.header), tmp_path / "again.nii.gz")
    if max(labels) == 254 and dtype == "u1":  # a step of 254 / 255: no integer is certain
        with pytest.raises(VolumeError, match="with fractions"):
            load_labels(tmp_path / "again.nii.gz", like=pet)
    else:
        np.testing.assert_array_equal(load_labels(tmp_path / "again.nii.gz", like=pet), drawn)


@pytest.mark.parametrize("slope, stored", [(0.5, 2), (1 / 3, 9), (0.1, 30), (-1.0, -3), (3.0, 1), (1e-4, 30000)])
def test_labels_stored_with_a_slope_are_read(tmp_path, pet, slope, stored):
    drawn = np.zeros(SHAPE, np.int16)
    drawn[2, 3, 4] = stored
    path = write_nifti(tmp_path / "seg.nii", drawn, pet.affine, scl_slope=slope, scl_inter=0)
    read = load_labels(path, like=pet)
    assert read[2, 3, 4] == round(slope * stored) and (read != 0).sum() == 1


def test_dust_of_single_precision_is_no_fraction_and_interpolation_is():
    dust = np.array([0.0, 1.0000001, 2.9999998, 117.00001, 32767.002])
    assert check_labels(dust, "seg").tolist() == [0, 1, 3, 117, 32767]
    for wrong in ([0, 0.5], [0, 1.02], [2.97], [-0.6]):
        with pytest.raises(VolumeError, match="with fractions; .* was it interpolated"):
            check_labels(np.array(wrong, float), "seg")
    for wrong, said in (([np.nan, 1], "NaN"), ([np.inf], "to inf"), ([-1.0], "from -1 to -1"), ([32768.0], "32768")):
        with pytest.raises(VolumeError, match=f"{said}; expected a label map with integers from 0 to 32767"):
            check_labels(np.array(wrong, float), "seg")
    assert check_labels(np.array([-0.001, -0.0]), "seg").tolist() == [0, 0]
    with pytest.raises(VolumeError):  # half a step of 0.4 excuses 0.2, not the half that interpolation leaves
        check_labels(np.array([0.0, 0.5, 1.0]), "seg", step=0.4)


def test_an_interpolated_mask_in_bytes_is_refused(tmp_path, pet):
    smooth = np.linspace(0, 1, LABELS.size).reshape(SHAPE)
    image = nib.Nifti1Image(smooth, pet.affine)
    image.header.set_data_dtype(np.uint8)
    nib.save(image, tmp_path / "seg.nii")
    with pytest.raises(VolumeError, match="was it interpolated"):
        load_labels(tmp_path / "seg.nii", like=pet)


# ---- another grid, on request


def finer(pet, times):
    """A grid of voxels `times` smaller that covers those of `pet` exactly."""
    affine = pet.affine @ np.diag([1 / times, 1 / times, 1 / times, 1.0])
    affine[:3, 3] = nib.affines.apply_affine(pet.affine, [(1 / times - 1) / 2] * 3)
    return affine


@pytest.mark.parametrize("times", [2, 3, 4])
def test_labels_drawn_in_smaller_voxels_come_back_exactly(tmp_path, pet, times):
    fine = np.kron(LABELS, np.ones((times,) * 3, np.int16))
    path = write_nifti(tmp_path / "seg.nii.gz", fine, finer(pet, times))
    with pytest.raises(GeometryError, match="resample=True"):
        load_labels(path, like=pet)
    with pytest.warns(UserWarning, match=r"were resampled to the grid of array.*(\S+) mL became \1 mL"):
        read = load_labels(path, like=pet, resample=True)
    np.testing.assert_array_equal(read, LABELS)
    assert read.dtype == np.int16


def test_each_voxel_gets_the_label_at_its_centre_and_none_outside(tmp_path, pet):
    turn = oblique((1.0, 1.0, 1.0), left_handed=True)
    turn[:3, 3] = pet.affine[:3, 3] + (3.0, -2.0, 4.0)
    grid = Grid((20, 21, 22), turn @ np.diag([1.3, 1.1, 0.9, 1]), "ct")
    drawn = np.random.default_rng(2).integers(1, 9, grid.shape).astype(np.uint8)
    got = nearest_labels(drawn, grid, pet)
    inside = 0
    for ijk in np.ndindex(SHAPE):
        at = nib.affines.apply_affine(np.linalg.inv(grid.affine), pet.to_mm(ijk))
        nearest = np.floor(at + 0.5 + 1e-6).astype(int)
        within = (nearest >= 0).all() and (nearest < grid.shape).all()
        inside += within
        assert got[ijk] == (drawn[tuple(nearest)] if within else 0)
    assert 5 < inside < got.size


def test_labels_that_vanish_are_named_and_labels_of_another_place_are_refused(tmp_path, pet):
    fine = np.zeros(np.multiply(SHAPE, 3), np.uint8)
    fine[6:9, 6:9, 6:9] = 1
    fine[0, 0, 0] = 7  # a corner of a large voxel, far from its centre
    with pytest.warns(UserWarning, match=r"labels \[7\] have no voxel left"):
        load_labels(write_nifti(tmp_path / "seg.nii", fine, finer(pet, 3)), like=pet, resample=True)
    elsewhere = finer(pet, 3)
    elsewhere[:3, 3] += 500
    with pytest.raises(GeometryError, match="no label lies at a voxel centre"):
        load_labels(write_nifti(tmp_path / "seg.nii", fine, elsewhere), like=pet, resample=True)


def test_labels_that_fit_are_not_resampled(tmp_path, pet):
    data, affine = turned(LABELS, pet.affine, ALL_ORIENTATIONS[17])
    np.testing.assert_array_equal(loaded(write_nifti(tmp_path / "seg.nii", data, affine), pet, resample=True), LABELS)


@pytest.fixture
def hecktor(tmp_path):
    """A PET, and lesions drawn on the CT's grid, as in HECKTOR: 27 voxels of 4.07 x 4.07 x 3 mm."""
    pet = Volume(np.random.default_rng(3).gamma(2.0, 0.5, (16, 17, 18)), GRIDS["oblique, left-handed"], "SUVbw")
    drawn = np.zeros(pet.shape, np.uint8)
    drawn[5:8, 5:8, 5:8] = 1
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "labelsTr").mkdir()
    save_volume(tmp_path / "imagesTr" / "c_0001.nii.gz", pet)
    fine = np.kron(drawn, np.ones((4, 4, 4), np.uint8))
    write_nifti(tmp_path / "imagesTr" / "c_0000.nii.gz", fine.astype(np.int16) - 900, finer(pet, 4))
    write_nifti(tmp_path / "labelsTr" / "c.nii.gz", fine, finer(pet, 4))
    return tmp_path


def test_a_cohort_resamples_labels_of_the_ct_on_request(hecktor):
    cohort = Cohort.from_nnunet(hecktor)
    assert "other_grid" in set(cohort.validate(progress=False)["problem"])
    with pytest.warns(UserWarning, match=r"Cohort\.resampling_labels\(\)"):
        assert quantify_cohort(cohort, progress=False)["value"].isna().all()
    resampling = cohort.resampling_labels()
    assert "other_grid" not in set(resampling.validate(progress=False)["problem"])
    with pytest.warns(UserWarning, match="were resampled"):
        table = quantify_cohort(resampling, progress=False)
    volume = table[(table["object"] == "lesions") & (table["quantity"] == "MTV")]["value"].item()
    assert volume == pytest.approx(27 * 4.07 * 4.07 * 3 / 1000, rel=1e-6)


def test_a_cohort_may_be_in_nrrd_and_metaimage_with_labels_along_other_axes(tmp_path):
    affine = GRIDS["oblique, left-handed"]
    data = np.random.default_rng(3).gamma(2.0, 0.5, (16, 17, 18)).astype(np.float32)
    drawn = np.zeros(data.shape, np.uint8)
    drawn[5:8, 5:8, 5:8] = 1
    lps = np.diag([-1.0, -1.0, 1.0, 1.0])
    for name, voxels, at in (("pet.nrrd", data, affine), ("seg.mha", *turned(drawn, affine, ALL_ORIENTATIONS[29]))):
        image = SimpleITK.GetImageFromArray(np.ascontiguousarray(voxels.T))
        sizes = nib.affines.voxel_sizes(at)
        image.SetSpacing(sizes.tolist())
        image.SetOrigin((lps @ at)[:3, 3].tolist())
        image.SetDirection(((lps @ at)[:3, :3] / sizes).ravel().tolist())
        SimpleITK.WriteImage(image, str(tmp_path / name), True)
    (tmp_path / "cohort.csv").write_text("case,patient,pet,pet_unit,lesions\na,p,pet.nrrd,SUVbw,seg.mha\n")
    cohort = Cohort.from_csv(tmp_path / "cohort.csv")
    assert cohort.validate(progress=False)["problem"].tolist() == []
    table = quantify_cohort(cohort, progress=False)
    found = table[table["object"] == "lesions"].set_index("quantity")["value"]
    assert found["SUVmax"] == pytest.approx(data[drawn > 0].max())
    assert found["MTV"] == pytest.approx(27 * 4.07 * 4.07 * 3 / 1000, rel=1e-6)


def test_a_table_keeps_which_labels_are_resampled(hecktor):
    cohort = Cohort.from_nnunet(hecktor)
    cohort.resampling_labels().to_csv(hecktor / "cohort.csv")
    again = Cohort.from_csv(hecktor / "cohort.csv")
    assert [case.label_grid for case in again] == ["resample"]
    assert "label_grid" in next(iter(again)).contents() and "label_grid" not in next(iter(cohort)).contents()
    with pytest.raises(CohortError, match="label_grid='ct'; expected one of resample"):
        Case("a", "p", hecktor / "pet.nii", "SUVbw", label_grid="ct")
