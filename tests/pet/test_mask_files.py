"""Masks in files that other programs read and write."""

import shutil
import subprocess
import warnings
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from conftest import oblique
from make_dicom import write_series
from mask_scene import FRAME_UID, SHAPE, SPACING_MM, STUDY_UID, assert_same, both_hands, organs, ragged, series

from seganypet.errors import DicomError, GeometryError, SegAnyPETError, VolumeError
from seganypet.metrics import dice
from seganypet.pet.dicom import load_dicom
from seganypet.pet.mask_files import load_masks, save_masks
from seganypet.pet.volume import Volume, load_volume, save_mask, save_volume

KEEP_OVERLAPS = ("masks.seg.nrrd", "masks.dcm", "RTSTRUCT_1.dcm", "")


def like_of(affine: np.ndarray, shape: tuple[int, int, int] = SHAPE) -> Volume:
    return Volume(np.zeros(shape), affine, "SUVbw", "scan")


@both_hands
@pytest.mark.parametrize("name", KEEP_OVERLAPS, ids=lambda name: name or "folder")
def test_overlapping_objects_return_voxel_by_voxel(tmp_path, name, left_handed):
    volume, masks = series(tmp_path / "pet", left_handed), organs()
    (tmp_path / "out").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        written = save_masks(tmp_path / "out" / name, masks, volume)
        found = load_masks(tmp_path / "out" / name, volume)
    assert all(path.is_file() for path in written)
    assert len(written) == (1 if name else len(masks))
    assert_same(found, masks if name else dict(sorted(masks.items())))


@both_hands
@pytest.mark.parametrize("name", ["masks.seg.nrrd", "masks.dcm", "RTSTRUCT_1.dcm", "masks.nii.gz"])
@pytest.mark.parametrize("seed", [1, 2])
def test_one_ragged_object_returns_voxel_by_voxel(tmp_path, name, left_handed, seed):
    volume, masks = series(tmp_path / "pet", left_handed), {"ragged": ragged(seed)}
    save_masks(tmp_path / name, masks, volume)
    assert_same(load_masks(tmp_path / name, volume), masks)


def test_a_label_map_says_how_many_voxels_went_to_which_object(tmp_path):
    masks = organs()
    lost = int((masks["liver"] & masks["shell"]).sum())
    with pytest.warns(UserWarning, match=rf"{lost} of {masks['liver'].sum()} voxels of 'liver' also belong to 'shell'"):
        save_masks(tmp_path / "masks.nii.gz", masks, like_of(oblique(SPACING_MM)))
    found = load_masks(tmp_path / "masks.nii.gz", like_of(oblique(SPACING_MM)))
    assert list(found) == list(masks)
    assert not (found["liver"] & masks["shell"]).any()


def test_objects_side_by_side_are_saved_without_a_warning(tmp_path):
    masks = {"left": np.zeros(SHAPE, bool), "right": np.zeros(SHAPE, bool)}
    masks["left"][:15], masks["right"][15:] = True, True
    volume = like_of(oblique(SPACING_MM, left_handed=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_masks(tmp_path / "masks.nii", masks, volume)
    assert_same(load_masks(tmp_path / "masks.nii", volume), masks)


# ---- grids

def turned(volume: Volume, masks: dict[str, np.ndarray]) -> tuple[Volume, dict[str, np.ndarray]]:
    """The same scan with its axes in the order k, i, j, the first of them backwards."""
    data = np.flip(volume.data.transpose(2, 0, 1), 0)
    to_old = np.zeros((4, 4))
    to_old[2, 0], to_old[0, 1], to_old[1, 2], to_old[3, 3] = -1, 1, 1, 1
    to_old[2, 3] = volume.shape[2] - 1
    other = Volume(data, volume.affine @ to_old, volume.unit, "turned")
    return other, {name: np.flip(mask.transpose(2, 0, 1), 0) for name, mask in masks.items()}


@pytest.mark.parametrize("name", ["masks.seg.nrrd", "masks.dcm", "RTSTRUCT_1.dcm", "masks.nii.gz"])
def test_a_turned_and_mirrored_grid_is_taken_over_voxel_by_voxel(tmp_path, name):
    volume, masks = series(tmp_path / "pet", left_handed=True), {"ragged": ragged(3)}
    other, expected = turned(volume, masks)
    save_masks(tmp_path / name, masks, volume)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = load_masks(tmp_path / name, other)
        save_masks(tmp_path / f"RTSTRUCT{name}", expected, other, reference=tmp_path / "pet")
        back = load_masks(tmp_path / f"RTSTRUCT{name}", volume)
    assert_same(found, expected)
    assert_same(back, masks)
    assert found["ragged"].flags.c_contiguous


@pytest.mark.parametrize("name", ["masks.seg.nrrd", "masks.dcm", "masks.nii.gz"])
def test_a_cropped_volume_gets_its_part_and_hears_of_the_rest(tmp_path, name):
    volume, masks = series(tmp_path / "pet"), {"ragged": ragged(5)}
    save_masks(tmp_path / name, masks, volume)
    part = volume.affine.copy()
    part[:3, 3] = volume.to_mm((5, 4, 3))
    with pytest.warns(UserWarning, match=f"of {masks['ragged'].sum()} voxels of 'ragged' lie outside"):
        found = load_masks(tmp_path / name, like_of(part, (20, 15, 9)))
    assert_same(found, {"ragged": masks["ragged"][5:25, 4:19, 3:12]})


def test_a_mask_of_the_ct_is_resampled_aloud_to_what_is_at_the_centres(tmp_path):
    ct, pet = like_of(oblique((1.5, 1.5, 2.0)), (90, 80, 50)), like_of(oblique((4.07, 4.07, 3.0)), (30, 26, 30))
    centre_mm, radius_mm = pet.to_mm((14, 12, 15)), 31.0

    def ball(volume: Volume) -> np.ndarray:
        mm = volume.to_mm(np.moveaxis(np.indices(volume.shape), 0, -1))
        return np.linalg.norm(mm - centre_mm, axis=-1) < radius_mm

    save_masks(tmp_path / "ct.nii.gz", {"ball": ball(ct)}, ct)
    with pytest.warns(UserWarning, match="lies on another grid"):
        found = load_masks(tmp_path / "ct.nii.gz", pet)
    assert dice(found["ball"], ball(pet)) > 0.97


def test_a_grid_rounded_by_another_program_counts_as_the_same(tmp_path):
    volume = like_of(oblique(SPACING_MM))
    masks = {"ragged": ragged(6)}
    save_masks(tmp_path / "masks.nii.gz", masks, like_of(np.round(volume.affine, 2)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(load_masks(tmp_path / "masks.nii.gz", volume), masks)


def test_masks_of_another_patient_are_refused(tmp_path):
    far = oblique(SPACING_MM)
    far[:3, 3] += 5000
    save_masks(tmp_path / "masks.nii.gz", {"ragged": ragged(6)}, like_of(far))
    with pytest.raises(GeometryError, match="no voxel of ragged lies within scan.*same patient"):
        load_masks(tmp_path / "masks.nii.gz", like_of(oblique(SPACING_MM)))


def test_a_mask_has_the_header_of_the_file_that_it_was_drawn_on(tmp_path):
    save_volume(tmp_path / "pet.nii.gz", like_of(oblique(SPACING_MM)))
    volume = load_volume(tmp_path / "pet.nii.gz", unit="SUVbw")
    save_masks(tmp_path / "masks.nii.gz", {"ragged": ragged(6)}, volume)
    given, written = (nib.load(tmp_path / name) for name in ("pet.nii.gz", "masks.nii.gz"))
    assert given.affine.tobytes() == written.affine.tobytes()
    assert written.get_data_dtype() == np.uint8
    assert written.header.get_xyzt_units()[0] == "mm"


# ---- DICOM series

def test_a_volume_without_dicom_needs_the_folder_of_its_series(tmp_path):
    volume, masks = series(tmp_path / "pet"), organs()
    save_volume(tmp_path / "pet.nii.gz", volume)
    nifti = load_volume(tmp_path / "pet.nii.gz", unit="SUVbw")
    for name in ("masks.dcm", "RTSTRUCT.dcm"):
        with pytest.raises(DicomError, match="does not come from a DICOM folder.*reference="):
            save_masks(tmp_path / name, masks, nifti)
        assert not (tmp_path / name).exists()
        save_masks(tmp_path / name, masks, nifti, reference=tmp_path / "pet")
        assert_same(load_masks(tmp_path / name, volume), masks)


def test_the_series_with_the_volume_s_grid_is_chosen_among_several(tmp_path):
    volume, masks = series(tmp_path / "study" / "pet"), organs()
    series(tmp_path / "study" / "other", shape=(20, 20, 14))
    save_volume(tmp_path / "pet.nii.gz", volume)
    nifti = load_volume(tmp_path / "pet.nii.gz", unit="SUVbw")
    save_masks(tmp_path / "masks.dcm", masks, nifti, reference=tmp_path / "study")
    assert_same(load_masks(tmp_path / "masks.dcm", volume), masks)
    series(tmp_path / "study" / "copy")
    with pytest.raises(DicomError, match="holds 3 series, of which 2 have the grid"):
        save_masks(tmp_path / "masks.dcm", masks, nifti, reference=tmp_path / "study")
    save_masks(tmp_path / "masks.dcm", masks, volume, reference=tmp_path / "study")  # it knows its series


@pytest.mark.parametrize("name", ["masks.dcm", "RTSTRUCT.dcm"])
def test_another_frame_of_reference_is_refused_unless_asked_for(tmp_path, name):
    volume, other = series(tmp_path / "pet"), series(tmp_path / "mr", frame=f"{FRAME_UID}.9")
    save_masks(tmp_path / name, organs(), other)
    with pytest.raises(DicomError, match=rf"frame of reference {FRAME_UID}\.9.*other_frame=True"):
        load_masks(tmp_path / name, volume)
    assert_same(load_masks(tmp_path / name, volume, other_frame=True), organs())
    assert_same(load_masks(tmp_path / name, replace(volume, metadata={})), organs())  # it does not say its frame


def test_a_segmentation_is_found_in_the_folder_of_its_series(tmp_path):
    volume = series(tmp_path / "pet")
    save_masks(tmp_path / "pet" / "seg.dcm", organs(), volume)
    assert_same(load_masks(tmp_path / "pet", volume), organs())
    save_masks(tmp_path / "pet" / "RTSTRUCT.dcm", organs(), volume)
    with pytest.raises(DicomError, match="holds 2 segmentations; give one of them"):
        load_masks(tmp_path / "pet", volume)


def test_a_dicom_object_needs_no_ending(tmp_path):
    volume = series(tmp_path / "pet")
    save_masks(tmp_path / "seg.dcm", organs(), volume)
    (tmp_path / "seg.dcm").rename(tmp_path / "IM0001")
    assert_same(load_masks(tmp_path / "IM0001", volume), organs())
    with pytest.raises(DicomError, match="class Positron Emission Tomography Image Storage; expected a Segmentation"):
        load_masks(next((tmp_path / "pet").glob("*.dcm")), volume)


def test_a_series_in_another_frame_of_reference_is_no_reference(tmp_path):
    volume = series(tmp_path / "pet")
    series(tmp_path / "mr", frame=f"{FRAME_UID}.9")
    with pytest.raises(DicomError, match="no series in the frame of reference"):
        save_masks(tmp_path / "masks.dcm", organs(), volume, reference=tmp_path / "mr")


def test_an_object_smaller_than_the_voxels_of_the_scan_is_missed_aloud(tmp_path):
    ct, pet = like_of(oblique((1.0, 1.0, 1.0)), (60, 60, 60)), like_of(oblique((4.07, 4.07, 4.0)), (14, 14, 14))
    masks = {"ball": np.zeros(ct.shape, bool), "speck": np.zeros(ct.shape, bool)}
    masks["ball"][10:40, 10:40, 10:40] = masks["speck"][6, 6, 6] = True
    save_masks(tmp_path / "ct.seg.nrrd", masks, ct)
    with pytest.warns(UserWarning, match="speck without a voxel on the grid of scan"):
        found = load_masks(tmp_path / "ct.seg.nrrd", pet)
    assert found["ball"].any() and not found["speck"].any()


@pytest.mark.parametrize("name", ["masks.dcm", "RTSTRUCT.dcm"])
def test_the_patient_s_name_keeps_its_letters(tmp_path, name):
    volume = series(tmp_path / "pet")
    for path in (tmp_path / "pet").glob("*.dcm"):
        header = pydicom.dcmread(path)
        header.SpecificCharacterSet, header.PatientName = "ISO_IR 100", "Müller^Jörg"
        header.save_as(path)
    save_masks(tmp_path / name, {"Läsion 病变": organs()["liver"]}, volume)
    assert str(pydicom.dcmread(tmp_path / name).PatientName) == "Müller^Jörg"
    assert_same(load_masks(tmp_path / name, volume), {"Läsion 病变": organs()["liver"]})


@pytest.mark.parametrize("name", ["seg.dcm", "RTSTRUCT.dcm"])
def test_dicom3tools_finds_no_error(tmp_path, name):
    if shutil.which("dciodvfy") is None:
        pytest.skip("no dciodvfy (Debian package dicom3tools)")
    save_masks(tmp_path / name, organs(), series(tmp_path / "pet"))
    verdict = subprocess.run(["dciodvfy", tmp_path / name], capture_output=True, text=True)
    lines = (verdict.stdout + verdict.stderr).splitlines()
    assert {"Segmentation", "RTStructureSet"} & set(lines)  # it knows the object
    assert not [line for line in lines if line.startswith("Error")]


# ---- what is refused

def test_a_folder_that_is_missing_is_named_before_the_work(tmp_path):
    for name in ("masks.dcm", "masks.seg.nrrd", "masks.nii.gz", "masks.stl", f"{'x' * 300}.nii.gz"):
        with pytest.raises(SegAnyPETError, match="cannot write|does not exist|too long"):
            save_masks(tmp_path / "missing" / name, organs(), like_of(oblique(SPACING_MM)))


@pytest.mark.parametrize("name", ["masks.nii.gz", "masks.seg.nrrd", "masks.dcm", "RTSTRUCT.dcm", "masks.stl"])
def test_a_file_that_cannot_be_written_leaves_what_was_there(tmp_path, name):
    volume = series(tmp_path / "pet")
    (tmp_path / name).write_text("before")
    for bad in (
        {" ": organs()["liver"]},
        {"a\nb": organs()["liver"]},
        {3: organs()["liver"]},
        {"liver": organs()["liver"], "liver ": organs()["shell"]},
        {"liver": organs()["liver"][1:]},
        {"liver": organs()["liver"] * 0.5},
        {"liver": organs()["liver"].astype(np.uint8) * 2},
        {"liver": np.full(SHAPE, "x")},
        {},
        organs()["liver"],
    ):
        with pytest.raises(SegAnyPETError):
            save_masks(tmp_path / name, bad, volume)
    assert (tmp_path / name).read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "pet"])


@pytest.mark.parametrize("name", ["masks.mha", "masks", "masks.nrrd", "masks.nii.zip", "masks.DCM.bak"])
def test_other_endings_are_refused_with_those_that_can_be(tmp_path, name):
    with pytest.raises(VolumeError, match=r"expected a file ending in .nii.gz, .nii, .seg.nrrd, .dcm"):
        save_masks(tmp_path / name, organs(), like_of(oblique(SPACING_MM)))


@pytest.mark.parametrize("name", ["a/b", "CON:", "x" * 300])
def test_a_name_that_no_file_can_have_is_refused_before_any_is_written(tmp_path, name):
    masks = {"liver": organs()["liver"], name: organs()["shell"]}
    for path in (tmp_path, tmp_path / "masks.stl"):
        with pytest.raises(SegAnyPETError):
            save_masks(path, masks, like_of(oblique(SPACING_MM)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x" * 65, "a\\b"])
def test_a_name_that_dicom_cannot_hold_is_refused(tmp_path, name):
    volume = series(tmp_path / "pet")
    for file in ("masks.dcm", "RTSTRUCT.dcm"):
        with pytest.raises(VolumeError, match="DICOM allows 64 characters"):
            save_masks(tmp_path / file, {name: organs()["liver"]}, volume)


def test_empty_objects_are_left_out_aloud(tmp_path):
    volume = series(tmp_path / "pet")
    masks = {**organs(), "nothing": np.zeros(SHAPE, bool)}
    for name in ("masks.seg.nrrd", "masks.dcm", "RTSTRUCT.dcm"):
        with pytest.warns(UserWarning, match="nothing without a voxel, left out"):
            save_masks(tmp_path / name, masks, volume)
        assert_same(load_masks(tmp_path / name, volume), organs())
        with pytest.raises(VolumeError, match="nothing without a voxel; expected at least one object"):
            save_masks(tmp_path / name, {"nothing": masks["nothing"]}, volume)
    with pytest.warns(UserWarning, match="without a voxel"):
        save_masks(tmp_path / "empty.nii.gz", {"nothing": masks["nothing"]}, volume)
    assert load_masks(tmp_path / "empty.nii.gz", volume) == {}


def test_three_hundred_objects_fit_where_layers_do_and_not_into_a_label_map(tmp_path):
    volume = series(tmp_path / "pet")
    masks = {f"lesion {number}": np.zeros(SHAPE, bool) for number in range(300)}
    for number, mask in enumerate(masks.values()):
        mask.flat[number * 7 : number * 7 + 12] = True
    with pytest.raises(VolumeError, match="300 objects; a uint8 label map holds 255"):
        save_masks(tmp_path / "masks.nii.gz", masks, volume)
    for name in ("masks.seg.nrrd", "masks.dcm"):
        save_masks(tmp_path / name, masks, volume)
        assert_same(load_masks(tmp_path / name, volume), masks)


@pytest.mark.parametrize("name", ["masks.nii.gz", "masks.seg.nrrd", "masks.dcm", "RTSTRUCT.dcm", "masks.stl", "none"])
def test_damaged_and_missing_files_are_refused_in_own_words(tmp_path, name):
    volume = series(tmp_path / "pet")
    with pytest.raises(VolumeError, match="does not exist"):
        load_masks(tmp_path / "missing" / name, volume)
    for content in (b"", b"text", b"\0" * 200, b"NRRD0004\n"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SegAnyPETError):
            load_masks(tmp_path / name, volume)
    if name not in ("masks.stl", "none"):
        save_masks(tmp_path / name, organs() if "nii" not in name else {"a": ragged(1)}, volume)
        whole = (tmp_path / name).read_bytes()
        for kept in (0.3, 0.9):
            (tmp_path / name).write_bytes(whole[: int(kept * len(whole))])
            with pytest.raises(SegAnyPETError):
                load_masks(tmp_path / name, volume)


def test_a_folder_without_masks_is_refused(tmp_path):
    volume = series(tmp_path / "pet")
    with pytest.raises(VolumeError, match="no DICOM SEG, RTSTRUCT or NIfTI mask"):
        load_masks(tmp_path / "pet", volume)


def test_masks_of_single_organs_lie_in_a_folder(tmp_path):
    volume = like_of(oblique(SPACING_MM))
    for name in ("liver", "spleen"):
        save_mask(tmp_path / f"{name}.nii.gz", organs()["liver"] if name == "liver" else organs()["shell"], volume)
    assert_same(load_masks(tmp_path, volume), {"liver": organs()["liver"], "spleen": organs()["shell"]})


def test_paths_may_be_plain_strings(tmp_path):
    volume = like_of(oblique(SPACING_MM))
    assert save_masks(str(tmp_path / "masks.seg.nrrd"), organs(), volume) == [Path(tmp_path / "masks.seg.nrrd")]


# ---- a real scan

@pytest.mark.parametrize("name", ["seg.dcm", "RTSTRUCT.dcm", "masks.seg.nrrd"])
def test_masks_of_a_real_scan_return_voxel_by_voxel(real_data, tmp_path, name):
    folder = real_data / "acrin042"
    if not (folder / "PET_AC").is_dir():
        pytest.skip(f"no {folder / 'PET_AC'}")
    volume = load_dicom(folder / "PET_AC")
    (liver,) = load_masks(folder / "liver_from_ct.nii.gz", volume).values()
    masks = {"liver": liver, "hot": volume.data > 4}
    save_masks(tmp_path / name, masks, volume)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(load_masks(tmp_path / name, volume), masks)


@pytest.mark.parametrize("name", ["seg.dcm", "RTSTRUCT.dcm"])
def test_a_ct_of_a_tilted_gantry_keeps_its_masks(tmp_path, name):
    affine = oblique(SPACING_MM)
    affine[:3, 2] += 0.35 * affine[:3, 1]  # each slice is shifted against the one before

    def identify(header: pydicom.Dataset, k: int) -> None:
        header.StudyInstanceUID, header.FrameOfReferenceUID = STUDY_UID, FRAME_UID

    write_series(tmp_path / "ct", np.zeros(SHAPE, np.int16), affine, modality="CT", change=identify)
    volume = load_dicom(tmp_path / "ct")
    save_masks(tmp_path / name, organs(), volume)
    assert_same(load_masks(tmp_path / name, volume), organs())
