"""DICOM SEG: opened by highdicom and pydicom, and those of other programs opened here."""

import warnings
from collections.abc import Callable
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from conftest import oblique
from mask_scene import FRAME_UID, SHAPE, SPACING_MM, STUDY_UID, assert_same, both_hands, organs, ragged, series
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from seganypet.errors import DicomError, GeometryError, SegAnyPETError
from seganypet.pet.dicom_series import reference_series
from seganypet.pet.mask_files import load_masks, save_masks
from seganypet.pet.volume import Volume

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def other_program(
    path: Path, volume: Volume, pixels: np.ndarray, names: list[str], kind: str = "BINARY", **options: object
) -> Path:
    """A segmentation as highdicom writes it, from pixels (slice, row, column[, segment])."""
    descriptions = [
        highdicom.seg.SegmentDescription(
            number, name, codes.SCT.Tissue, codes.SCT.Tissue, highdicom.seg.SegmentAlgorithmTypeValues.MANUAL
        )
        for number, name in enumerate(names, 1)
    ]
    with warnings.catch_warnings(action="ignore"):
        segmentation = highdicom.seg.Segmentation(
            reference_series(volume, None).headers, pixels, kind, descriptions, generate_uid(), 1, generate_uid(), 1,
            "maker", "model", "1", "1", **options,
        )  # fmt: skip
        segmentation.save_as(path)
    return path


def change(path: Path, how: Callable[[Dataset], object]) -> None:
    header = pydicom.dcmread(path)
    how(header)
    header.save_as(path)


def frames_first(masks: dict[str, np.ndarray]) -> np.ndarray:
    """Masks (i, j, k) as pixels (slice, row, column, segment)."""
    return np.stack([mask.transpose(2, 1, 0) for mask in masks.values()], axis=-1)


@both_hands
def test_highdicom_finds_the_same_voxels_at_the_same_millimetres(tmp_path, left_handed):
    volume, masks = series(tmp_path / "pet", left_handed), organs()
    save_masks(tmp_path / "seg.dcm", masks, volume)
    found = highdicom.seg.segread(tmp_path / "seg.dcm")
    assert [found.get_segment_description(number).segment_label for number in found.segment_numbers] == list(masks)
    pixels = found.get_volume()
    for segment, mask in enumerate(masks.values()):
        there_mm = highdicom_mm(pixels, segment)
        here_mm = volume.to_mm(np.argwhere(mask))
        assert there_mm.shape == here_mm.shape
        np.testing.assert_allclose(ordered(there_mm), ordered(here_mm), atol=0.01)


def highdicom_mm(pixels: highdicom.Volume, segment: int) -> np.ndarray:
    return np.c_[np.argwhere(pixels.array[..., segment]), np.ones(int(pixels.array[..., segment].sum()))] @ (
        LPS_TO_RAS @ pixels.affine
    ).T[:, :3]


def ordered(points: np.ndarray) -> np.ndarray:
    return points[np.lexsort(np.round(points, 1).T)]


def test_the_object_names_its_series_patient_and_frame(tmp_path):
    volume = series(tmp_path / "pet")
    save_masks(tmp_path / "seg.dcm", organs(), volume)
    header = pydicom.dcmread(tmp_path / "seg.dcm")
    slices = {pydicom.dcmread(path).SOPInstanceUID for path in (tmp_path / "pet").glob("*.dcm")}
    (referenced,) = header.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == volume.metadata["series_uid"]
    assert {item.ReferencedSOPInstanceUID for item in referenced.ReferencedInstanceSequence} == slices
    assert (header.StudyInstanceUID, header.FrameOfReferenceUID) == (STUDY_UID, FRAME_UID)
    assert (header.PatientID, header.Modality) == ("secret-17", "SEG")
    assert header.SeriesInstanceUID != volume.metadata["series_uid"]
    assert header.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence
    used = sum(int(mask.any(axis=(0, 1)).sum()) for mask in organs().values())
    assert header.NumberOfFrames == used  # no frame without a voxel


def test_a_series_with_the_barest_headers_can_be_referred_to(tmp_path):
    volume = series(tmp_path / "pet")
    for path in (tmp_path / "pet").glob("*.dcm"):
        header = pydicom.dcmread(path)
        for keyword in ("PatientName", "PatientID", "PatientSex", "FrameOfReferenceUID", "InstanceNumber"):
            delattr(header, keyword)
        header.save_as(path)
    for name in ("seg.dcm", "RTSTRUCT.dcm"):
        save_masks(tmp_path / name, organs(), volume)
        assert_same(load_masks(tmp_path / name, volume, other_frame=True), organs())


def test_a_series_without_uids_cannot(tmp_path):
    volume = series(tmp_path / "pet")
    for path in (tmp_path / "pet").glob("*.dcm"):
        change(path, lambda header: delattr(header, "StudyInstanceUID"))
    with pytest.raises(DicomError, match="StudyInstanceUID is missing"):
        save_masks(tmp_path / "seg.dcm", organs(), volume)


def test_a_series_with_a_lost_slice_is_refused(tmp_path):
    volume = series(tmp_path / "pet")
    next(path for path in (tmp_path / "pet").glob("*.dcm") if pydicom.dcmread(path).InstanceNumber == 5).unlink()
    with pytest.raises(DicomError, match="missing or unevenly spaced"):
        save_masks(tmp_path / "seg.dcm", organs(), volume)


# ---- segmentations of other programs

def test_a_label_map_segmentation_is_read(tmp_path):
    volume = series(tmp_path / "pet", left_handed=True)
    labels = np.zeros(SHAPE, np.uint8)
    labels[organs()["liver"]], labels[organs()["voxel"]] = 1, 2
    path = other_program(tmp_path / "s.dcm", volume, labels.transpose(2, 1, 0), ["liver", "voxel"], kind="LABELMAP")
    assert_same(load_masks(path, volume), {name: organs()[name] for name in ("liver", "voxel")})


@pytest.mark.parametrize("largest", [255, 100])
def test_a_fractional_segmentation_is_cut_at_one_half_aloud(tmp_path, largest):
    volume = series(tmp_path / "pet")
    fractions = np.clip(np.random.default_rng(0).normal(0.5, 0.3, SHAPE), 0, 1)
    fractions = np.round(fractions * largest) / largest
    path = other_program(
        tmp_path / "s.dcm", volume, fractions.transpose(2, 1, 0), ["lesion"], "FRACTIONAL", max_fractional_value=largest
    )
    between = int(((fractions > 0) & (fractions < 1)).sum())
    with pytest.warns(UserWarning, match=f"fractional segmentation; {between} of .* probability.*one half"):
        found = load_masks(path, volume)
    assert_same(found, {"lesion": fractions >= 0.5})


def test_a_fractional_segmentation_of_whole_voxels_needs_no_warning(tmp_path):
    volume = series(tmp_path / "pet")
    path = other_program(tmp_path / "s.dcm", volume, frames_first(organs()).astype(float), list(organs()), "FRACTIONAL")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(load_masks(path, volume), organs())


@pytest.mark.parametrize("drawn", [[1, 3, 5, 11], [2, 12], [7], [0, 13], [0, 3, 6, 9]], ids=str)
@pytest.mark.parametrize("stated", [True, False])
def test_slices_without_a_frame_stay_empty(tmp_path, drawn, stated):
    volume, mask = series(tmp_path / "pet", left_handed=True), np.zeros(SHAPE, bool)
    mask[5:20, 4:9, drawn] = True
    path = other_program(tmp_path / "s.dcm", volume, frames_first({"a": mask}), ["a"])

    def forget_gap(header: Dataset) -> None:
        measures = header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        if "SpacingBetweenSlices" in measures:
            del measures.SpacingBetweenSlices

    if not stated:
        change(path, forget_gap)
    assert_same(load_masks(path, volume), {"a": mask})


def test_segments_share_a_name_or_have_none(tmp_path):
    volume = series(tmp_path / "pet")
    masks = {"lesion": organs()["liver"], "b": organs()["shell"], "c": organs()["voxel"]}
    path = other_program(tmp_path / "s.dcm", volume, frames_first(masks), ["lesion", "lesion", "x"])
    change(path, lambda header: setattr(header.SegmentSequence[2], "SegmentLabel", ""))
    with pytest.warns(UserWarning, match="several objects named 'lesion'; this one is 'lesion \\(2\\)' here"):
        found = load_masks(path, volume)
    assert_same(found, dict(zip(("lesion", "lesion (2)", "segment 3"), masks.values(), strict=True)))


def test_segment_numbers_may_have_gaps(tmp_path):
    volume = series(tmp_path / "pet")
    masks = {"liver": organs()["liver"], "voxel": organs()["voxel"]}
    path = other_program(tmp_path / "s.dcm", volume, frames_first(masks), list(masks))

    def renumber(header: Dataset) -> None:
        header.SegmentSequence[1].SegmentNumber = 9
        for frame in header.PerFrameFunctionalGroupsSequence:
            identified = frame.SegmentIdentificationSequence[0]
            identified.ReferencedSegmentNumber = {1: 1, 2: 9}[identified.ReferencedSegmentNumber]

    change(path, renumber)
    assert_same(load_masks(path, volume), masks)


def test_a_segmentation_on_the_ct_is_put_on_the_pet_aloud(tmp_path):
    ct = series(tmp_path / "ct", shape=(60, 52, 28))
    coarse = ct.affine.copy()
    coarse[:3, :3] *= 2
    coarse[:3, 3] = ct.to_mm((1, 0, 1))
    pet = Volume(np.zeros(SHAPE), coarse, "SUVbw", "pet")

    def ball(volume: Volume) -> np.ndarray:
        mm = volume.to_mm(np.moveaxis(np.indices(volume.shape), 0, -1))
        return np.linalg.norm(mm - pet.to_mm((14, 12, 7)), axis=-1) < 28

    path = other_program(tmp_path / "s.dcm", ct, frames_first({"ball": ball(ct)}), ["ball"])
    with pytest.warns(UserWarning, match="another grid than pet"):
        found = load_masks(path, pet)["ball"]
    assert np.array_equal(found, ball(pet))  # every second voxel of the CT
    assert found.sum() * pet.voxel_volume_ml == pytest.approx(ball(ct).sum() * ct.voxel_volume_ml, rel=0.05)


def test_a_segmentation_elsewhere_in_the_same_frame_is_refused(tmp_path):
    volume = series(tmp_path / "pet")
    save_masks(tmp_path / "s.dcm", organs(), volume)
    affine = oblique(SPACING_MM)
    affine[:3, 3] += 3000
    with pytest.raises(GeometryError, match="no voxel of liver"):
        load_masks(tmp_path / "s.dcm", Volume(np.zeros(SHAPE), affine, "SUVbw", "elsewhere"))


def position(header: Dataset, frame: int, value: list) -> None:
    header.PerFrameFunctionalGroupsSequence[frame].PlanePositionSequence[0].ImagePositionPatient = value


def forget(header: Dataset, group: str) -> None:
    for item in (*header.SharedFunctionalGroupsSequence, *header.PerFrameFunctionalGroupsSequence):
        if group in item:
            delattr(item, group)


BROKEN = {
    "no positions": lambda header: forget(header, "PlanePositionSequence"),
    "no orientation": lambda header: forget(header, "PlaneOrientationSequence"),
    "no segment of a frame": lambda header: forget(header, "SegmentIdentificationSequence"),
    "an infinite position": lambda header: position(header, 2, ["1e400", 0, 0]),
    "a frame a kilometre away": lambda header: position(header, 2, [0, 0, 1e6]),
    "a frame beside the stack": lambda header: position(header, 2, [0, 0, -400]),
    "fewer descriptions than frames": lambda header: header.PerFrameFunctionalGroupsSequence.pop(),
    "more frames than pixels": lambda header: setattr(header, "NumberOfFrames", 10**6),
    "a text for a number": lambda header: setattr(header, "NumberOfFrames", "1\\2"),
    "no segments": lambda header: delattr(header, "SegmentSequence"),
    "no pixels": lambda header: delattr(header, "PixelData"),
    "no kind": lambda header: delattr(header, "SegmentationType"),
    "huge rows": lambda header: setattr(header, "Rows", 65535),
}


@pytest.mark.parametrize("how", BROKEN.values(), ids=BROKEN)
def test_a_broken_segmentation_is_refused_in_own_words(tmp_path, how):
    volume = series(tmp_path / "pet")
    save_masks(tmp_path / "s.dcm", {"ragged": ragged(2)}, volume)
    with warnings.catch_warnings(action="ignore"):
        change(tmp_path / "s.dcm", how)
        with pytest.raises(SegAnyPETError, match="s.dcm"):
            load_masks(tmp_path / "s.dcm", volume)


@pytest.mark.parametrize("name", ["s.dcm", "RTSTRUCT.dcm"])
@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "FrameOfReferenceUID", "SOPClassUID"])
def test_a_series_that_disagrees_about_itself_is_refused(tmp_path, name, keyword):
    volume = series(tmp_path / "pet")
    change(next((tmp_path / "pet").glob("*.dcm")), lambda header: setattr(header, keyword, "1.2.3.4"))
    with pytest.raises(DicomError, match=f"{keyword} differs within the series"):
        save_masks(tmp_path / name, organs(), volume)


def test_a_series_of_an_unknown_class_is_refused_for_a_segmentation(tmp_path):
    volume = series(tmp_path / "pet")
    for path in (tmp_path / "pet").glob("*.dcm"):
        change(path, lambda header: setattr(header, "SOPClassUID", "1.2.3.4"))
    with pytest.raises(DicomError, match="no DICOM object can be derived from the headers"):
        save_masks(tmp_path / "s.dcm", organs(), volume)
