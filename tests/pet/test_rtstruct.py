"""RTSTRUCT: opened by plastimatch and pydicom, and those of other programs opened here."""

import shutil
import subprocess
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from conftest import oblique
from mask_scene import FRAME_UID, SHAPE, SPACING_MM, STUDY_UID, assert_same, both_hands, organs, ragged, series
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from seganypet.errors import DicomError, SegAnyPETError
from seganypet.metrics import dice
from seganypet.pet.dicom import load_dicom
from seganypet.pet.mask_files import load_masks, save_masks
from seganypet.pet.volume import Volume

Contour = tuple[str, np.ndarray]  # kind; points (points, 3), RAS+ mm


def write_structures(path: Path, rois: dict[str, Sequence[Contour]]) -> Path:
    """An RTSTRUCT with the barest headers, as planning systems and scripts leave them."""
    header, meta = Dataset(), FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = RTStructureSetStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.file_meta = meta
    header.SOPClassUID, header.SOPInstanceUID = RTStructureSetStorage, meta.MediaStorageSOPInstanceUID
    header.StructureSetROISequence, header.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(rois.items(), 7):
        roi, drawn = Dataset(), Dataset()
        roi.ROINumber = drawn.ReferencedROINumber = number
        roi.ROIName = name
        drawn.ContourSequence = []
        for kind, points in contours:
            item = Dataset()
            item.ContourGeometricType = kind
            item.ContourData = [f"{x:.3f}" for x in (np.asarray(points) * (-1, -1, 1)).ravel()]
            drawn.ContourSequence.append(item)
        header.StructureSetROISequence.append(roi)
        header.ROIContourSequence.append(drawn)
    header.save_as(path, enforce_file_format=True)
    return path


def planar(volume: Volume, k: float, ij: Sequence[Sequence[float]], kind: str = "CLOSED_PLANAR") -> Contour:
    """A contour with these voxel coordinates in one slice."""
    return kind, volume.to_mm([(i, j, k) for i, j in ij])


def square(low: float, high: float) -> list[tuple[float, float]]:
    return [(low, low), (high, low), (high, high), (low, high)]


def volume_of(shape: tuple[int, int, int] = SHAPE, left_handed: bool = False) -> Volume:
    return Volume(np.zeros(shape), oblique(SPACING_MM, left_handed), "SUVbw", "scan")


def silently(path: Path, like: Volume) -> dict[str, np.ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_masks(path, like)


# ---- opened by others

def plastimatch(path: Path, folder: Path, output: Path) -> dict[str, nib.Nifti1Image]:
    if shutil.which("plastimatch") is None:
        pytest.skip("no plastimatch (Debian package plastimatch)")
    subprocess.run(
        ["plastimatch", "convert", "--input", path, "--referenced-ct", folder, "--output-prefix", output,
         "--prefix-format", "nii.gz"],
        check=True, capture_output=True,
    )  # fmt: skip
    return {found.name.removesuffix(".nii.gz"): nib.load(found) for found in output.glob("*.nii.gz")}


def straight_series(folder: Path) -> Volume:
    """An anisotropic series along the patient's axes: plastimatch reads no oblique contours."""
    affine = np.diag([-4.07, -3.2, 2.5, 1.0])
    affine[:3, 3] = (60, 40, -300)
    from make_dicom import write_series

    def identify(header: Dataset, k: int) -> None:
        header.StudyInstanceUID, header.FrameOfReferenceUID = STUDY_UID, FRAME_UID
        header.InstanceNumber, header.SliceThickness = k + 1, "2.5"

    write_series(folder, np.zeros(SHAPE, np.int16), affine, change=identify)
    return load_dicom(folder)


def test_plastimatch_reads_the_same_objects_with_their_holes(tmp_path):
    volume = straight_series(tmp_path / "pet")
    masks = {"liver": organs()["liver"], "shell": organs()["shell"], "ragged": ragged(2)}
    save_masks(tmp_path / "RTSTRUCT.dcm", masks, volume)
    found = plastimatch(tmp_path / "RTSTRUCT.dcm", tmp_path / "pet", tmp_path / "out")
    assert set(found) == set(masks)
    for name, image in found.items():
        nib.save(image, tmp_path / "one.nii.gz")
        (mask,) = load_masks(tmp_path / "one.nii.gz", volume).values()
        assert dice(mask, masks[name]) >= 0.99, name


def test_the_object_names_its_series_patient_and_slices(tmp_path):
    volume = series(tmp_path / "pet")
    save_masks(tmp_path / "RTSTRUCT.dcm", organs(), volume)
    header = pydicom.dcmread(tmp_path / "RTSTRUCT.dcm")
    (frame,) = header.ReferencedFrameOfReferenceSequence
    (referenced,) = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    assert (header.StudyInstanceUID, frame.FrameOfReferenceUID) == (STUDY_UID, FRAME_UID)
    assert referenced.SeriesInstanceUID == volume.metadata["series_uid"]
    assert len(referenced.ContourImageSequence) == SHAPE[2]
    assert [roi.ROIName for roi in header.StructureSetROISequence] == list(organs())
    slices = {one.SOPInstanceUID: one for one in map(pydicom.dcmread, (tmp_path / "pet").glob("*.dcm"))}
    for roi in header.ROIContourSequence:
        for contour in roi.ContourSequence:
            points = np.reshape(contour.ContourData, (-1, 3)).astype(float)
            assert len(points) == contour.NumberOfContourPoints >= 4
            image = slices[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            normal = np.cross(*np.reshape(image.ImageOrientationPatient, (2, 3)).astype(float))
            assert np.abs((points - np.array(image.ImagePositionPatient, float)) @ normal).max() < 1e-3


def test_the_contours_enclose_the_objects_area(tmp_path):
    volume = series(tmp_path / "pet")
    save_masks(tmp_path / "RTSTRUCT.dcm", {"shell": organs()["shell"]}, volume)
    header = pydicom.dcmread(tmp_path / "RTSTRUCT.dcm")
    area_mm2 = 0.0
    for contour in header.ROIContourSequence[0].ContourSequence:
        points = np.reshape(contour.ContourData, (-1, 3)).astype(float)
        area_mm2 += np.linalg.norm(np.cross(points, np.roll(points, -1, axis=0)).sum(axis=0)) / 2
    # Corners are cut off, so that a polygon is a little smaller than its pixels.
    expected = organs()["shell"].sum() * SPACING_MM[0] * SPACING_MM[1]
    assert 0.93 * expected < area_mm2 < expected


# ---- holes and islands of other programs

def hole(volume: Volume, k: int, kind: str) -> list[Contour]:
    """A square of 11 x 11 pixels with a hole of 5 x 5 and an island of 1 in it, as keyhole or as nested contours."""
    outer, inner, island = square(4.5, 15.5), square(7.5, 12.5), square(9.5, 10.5)
    if kind == "keyhole":
        channel = [*outer[:1], *inner[:1], *inner[::-1], *outer[:1], *outer[1:]]
        return [planar(volume, k, channel), planar(volume, k, island)]
    return [planar(volume, k, ring, kind) for ring in (island, outer, inner)]


@both_hands
@pytest.mark.parametrize("kind", ["CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "keyhole"])
def test_a_hole_and_an_island_in_it_are_read_in_every_way_of_writing_them(tmp_path, kind, left_handed):
    volume = volume_of(left_handed=left_handed)
    contours = [contour for k in (3, 4) for contour in hole(volume, k, kind)]
    found = silently(write_structures(tmp_path / "s.dcm", {"ring": contours}), volume)["ring"]
    expected = np.zeros(SHAPE, bool)
    expected[5:16, 5:16, 3:5] = True
    expected[8:13, 8:13, 3:5] = False
    expected[10, 10, 3:5] = True
    assert np.array_equal(found, expected)


def test_contours_through_pixel_centres_include_these_pixels(tmp_path):
    # As OpenCV draws them, around an object and around the hole in it.
    volume = volume_of()
    contours = [planar(volume, 3, square(5, 15)), planar(volume, 3, square(7, 13))]
    found = silently(write_structures(tmp_path / "s.dcm", {"ring": contours}), volume)["ring"]
    expected = np.zeros(SHAPE, bool)
    expected[5:16, 5:16, 3] = True
    expected[8:13, 8:13, 3] = False
    assert np.array_equal(found, expected)


def test_contours_that_overlap_in_part_are_added_aloud_and_xored_on_request(tmp_path):
    volume = volume_of()
    one, other = square(4.5, 12.5), square(9.5, 17.5)
    expected = np.zeros(SHAPE, bool)
    expected[5:13, 5:13, 3] = expected[10:18, 10:18, 3] = True
    path = write_structures(tmp_path / "s.dcm", {"two": [planar(volume, 3, one), planar(volume, 3, other)]})
    with pytest.warns(UserWarning, match="'two': contours of one plane overlap in part; they are added"):
        assert np.array_equal(load_masks(path, volume)["two"], expected)
    kind = "CLOSEDPLANAR_XOR"
    path = write_structures(tmp_path / "x.dcm", {"two": [planar(volume, 3, one, kind), planar(volume, 3, other, kind)]})
    expected[10:13, 10:13, 3] = False
    assert np.array_equal(silently(path, volume)["two"], expected)


def test_a_contour_that_is_there_twice_does_not_erase_itself(tmp_path):
    volume = volume_of()
    path = write_structures(
        tmp_path / "s.dcm", {"a": [planar(volume, 3, square(4.5, 9.5)), planar(volume, 3, square(4.5, 9.5)[::-1])]}
    )
    with pytest.warns(UserWarning, match="there twice"):
        assert load_masks(path, volume)["a"].sum() == 25


# ---- planes

def ball_contours(volume: Volume, centre_mm: np.ndarray, radius_mm: float, step: float, axis: int = 2) -> list[Contour]:
    """Circles around a ball in planes across one axis of a grid, which need not be planes of voxels."""
    contours = []
    sizes = np.array(volume.spacing)
    directions = volume.affine[:3, :3] / sizes
    angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    across, down = (directions[:, one] for one in range(3) if one != axis)
    for height in np.arange(-round(30 / step), round(30 / step)) * step:
        away = height * sizes[axis]
        if abs(away) < radius_mm:
            radius = np.sqrt(radius_mm**2 - away**2)
            circle = radius * (np.cos(angles)[:, None] * across + np.sin(angles)[:, None] * down)
            contours.append(("CLOSED_PLANAR", centre_mm + away * directions[:, axis] + circle))
    return contours


def ball(volume: Volume, centre_mm: np.ndarray, radius_mm: float) -> np.ndarray:
    mm = volume.to_mm(np.moveaxis(np.indices(volume.shape), 0, -1))
    return np.linalg.norm(mm - centre_mm, axis=-1) <= radius_mm


FINE = (60, 60, 60)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("offset", [0.0, 0.3])
def test_contours_in_any_plane_of_the_grid_are_read_where_they_lie(tmp_path, axis, offset):
    volume = Volume(np.zeros(FINE), oblique((1.4, 1.7, 2.0), left_handed=True), "SUVbw", "scan")
    centre_mm = volume.to_mm(np.array([30, 28, 31]) + offset * np.eye(3)[axis])
    path = write_structures(tmp_path / "s.dcm", {"ball": ball_contours(volume, centre_mm, 26, 1.0, axis)})
    found = silently(path, volume)["ball"]
    moved = volume.to_mm((30, 28, 31))  # contours between slices go to the nearest
    assert dice(found, ball(volume, moved, 26)) >= 0.98


def test_finer_planes_of_the_ct_are_read_on_the_pet(tmp_path):
    volume = Volume(np.zeros(FINE), oblique((1.4, 1.7, 2.0)), "SUVbw", "scan")
    centre_mm = volume.to_mm((30.2, 28.4, 31.1))
    path = write_structures(tmp_path / "s.dcm", {"ball": ball_contours(volume, centre_mm, 26, 0.37)})
    assert dice(silently(path, volume)["ball"], ball(volume, centre_mm, 26)) >= 0.98


def test_contours_on_every_second_slice_fill_those_between_aloud(tmp_path):
    volume = Volume(np.zeros(FINE), oblique((1.4, 1.7, 2.0)), "SUVbw", "scan")
    centre_mm = volume.to_mm((30, 28, 31))
    path = write_structures(tmp_path / "s.dcm", {"ball": ball_contours(volume, centre_mm, 26, 2.0)})
    with pytest.warns(UserWarning, match="contours are 4 mm apart, slices of scan 2 mm"):
        found = load_masks(path, volume)["ball"]
    assert found.any(axis=(0, 1)).sum() == 26  # 13 planes, each 4 mm thick
    assert dice(found, ball(volume, centre_mm, 26)) > 0.95


@pytest.mark.parametrize("left_handed", [False, True])
def test_few_planes_of_a_coarse_ct_keep_their_volume_on_finer_slices(tmp_path, left_handed):
    volume = volume_of((20, 20, 20), left_handed)
    widths = {4: 6, 6: 10, 8: 8}  # of squares, in voxels, on every second slice
    drawn = [planar(volume, k + 1e-4, square(2.5, 2.5 + width)) for k, width in widths.items()]
    with pytest.warns(UserWarning, match="each slice takes the contours nearest"):
        found = load_masks(write_structures(tmp_path / "s.dcm", {"a": drawn}), volume)["a"]
    assert found.sum() == 2 * sum(width**2 for width in widths.values())


@pytest.mark.parametrize("left_handed", [False, True])
def test_contours_of_an_axial_scan_are_read_on_an_oblique_one(tmp_path, left_handed):
    axial = Volume(np.zeros(FINE), np.diag([1.2, 1.2, 1.5, 1]), "HU", "ct")
    volume = Volume(np.zeros(FINE), oblique((1.4, 1.7, 2.0), left_handed), "SUVbw", "scan")
    centre_mm = volume.to_mm((30, 28, 31))
    path = write_structures(tmp_path / "s.dcm", {"ball": ball_contours(axial, centre_mm, 26, 1.0)})
    with pytest.warns(UserWarning, match="another grid"):
        found = load_masks(path, volume)["ball"]
    assert dice(found, ball(volume, centre_mm, 26)) >= 0.97


def test_two_lesions_far_apart_do_not_become_thick(tmp_path):
    volume = volume_of()
    path = write_structures(
        tmp_path / "s.dcm", {"lesions": [planar(volume, 2, square(2.5, 5.5)), planar(volume, 10, square(12.5, 15.5))]}
    )
    found = silently(path, volume)["lesions"]
    assert np.flatnonzero(found.any(axis=(0, 1))).tolist() == [2, 10]


def test_slices_that_were_skipped_within_an_object_are_named(tmp_path):
    volume = volume_of()
    drawn = [planar(volume, k, square(4.5, 9.5)) for k in (2, 3, 4, 7, 8)]
    with pytest.warns(UserWarning, match="no contour on slices 5 to 6, between others; left empty"):
        found = load_masks(write_structures(tmp_path / "s.dcm", {"a": drawn}), volume)["a"]
    assert np.flatnonzero(found.any(axis=(0, 1))).tolist() == [2, 3, 4, 7, 8]


def test_what_reaches_beyond_the_scan_is_cut_off(tmp_path):
    volume = volume_of()
    path = write_structures(tmp_path / "s.dcm", {"a": [planar(volume, k, square(-8.5, 4.5)) for k in (-1, 0, 1)]})
    found = load_masks(path, volume)["a"]
    expected = np.zeros(SHAPE, bool)
    expected[:5, :5, :2] = True
    assert np.array_equal(found, expected)


# ---- what is no object

def test_points_and_open_lines_are_left_out_aloud(tmp_path):
    volume = volume_of()
    isocentre = ("POINT", volume.to_mm([(3, 3, 3)]))
    line = planar(volume, 3, square(1, 3), "OPEN_PLANAR")
    path = write_structures(
        tmp_path / "s.dcm",
        {"iso": [isocentre], "a": [planar(volume, 3, square(4.5, 9.5)), line], "empty": [], "two": [
            ("CLOSED_PLANAR", volume.to_mm([(1, 1, 1), (2, 2, 1)]))]},
    )  # fmt: skip
    with pytest.warns(UserWarning) as caught:
        assert list(load_masks(path, volume)) == ["a"]
    said = " ".join(str(one.message) for one in caught)
    assert "'iso' has contours that enclose nothing (1 POINT)" in said
    assert "'a' has contours that enclose nothing (1 OPEN_PLANAR)" in said
    assert "'two' has contours that enclose nothing (1 of fewer than three points)" in said
    assert all(Path(one.filename) == Path(__file__) for one in caught)


def change(path: Path, how: Callable[[Dataset], object]) -> None:
    header = pydicom.dcmread(path)
    how(header)
    header.save_as(path)


def first_contour(header: Dataset) -> Dataset:
    return header.ROIContourSequence[0].ContourSequence[0]


BROKEN = {
    "no regions": lambda header: delattr(header, "StructureSetROISequence"),
    "no contours": lambda header: delattr(header, "ROIContourSequence"),
    "a contour of nothing": lambda header: setattr(header.ROIContourSequence[0], "ReferencedROINumber", 99),
    "two and a half points": lambda header: setattr(first_contour(header), "ContourData", ["1"] * 10),
    "an infinite point": lambda header: setattr(first_contour(header), "ContourData", ["1e400"] * 9),
    "a point on the moon": lambda header: setattr(first_contour(header), "ContourData", ["384400000000"] * 9),
    "no points": lambda header: delattr(first_contour(header), "ContourData"),
    "a twisted contour": lambda header: setattr(
        first_contour(header), "ContourData", [-70, 30, -400, -60, 50, -410, -50, -20, -390, -40, 0, -380]
    ),
}


@pytest.mark.parametrize("how", BROKEN.values(), ids=BROKEN)
def test_a_broken_structure_set_is_refused_in_own_words(tmp_path, how):
    volume = series(tmp_path / "pet")
    save_masks(tmp_path / "RTSTRUCT.dcm", {"ragged": ragged(2)}, volume)
    change(tmp_path / "RTSTRUCT.dcm", how)
    with pytest.raises(SegAnyPETError, match="RTSTRUCT.dcm"):
        load_masks(tmp_path / "RTSTRUCT.dcm", volume)


def test_a_structure_set_of_points_alone_is_refused(tmp_path):
    volume = volume_of()
    path = write_structures(tmp_path / "s.dcm", {"iso": [("POINT", volume.to_mm([(3, 3, 3)]))]})
    with pytest.warns(UserWarning, match="1 POINT"), pytest.raises(DicomError, match="no object with a voxel"):
        load_masks(path, volume)


def test_repeated_names_are_told_apart(tmp_path):
    volume = series(tmp_path / "pet")
    save_masks(tmp_path / "RTSTRUCT.dcm", organs(), volume)
    change(tmp_path / "RTSTRUCT.dcm", lambda header: setattr(header.StructureSetROISequence[1], "ROIName", "liver"))
    change(tmp_path / "RTSTRUCT.dcm", lambda header: setattr(header.StructureSetROISequence[3], "ROIName", ""))
    with pytest.warns(UserWarning, match="'liver \\(2\\)' here"):
        found = load_masks(tmp_path / "RTSTRUCT.dcm", volume)
    assert_same(found, dict(zip(("liver", "liver (2)", "Läsion 1", "object 4"), organs().values(), strict=True)))


# ---- the reference objects of the IBSI

def test_the_region_of_the_suv_reference_objects_has_its_values_and_area(real_data):
    folder = real_data / "suv_reference" / "DRO" / "DRO_0_0"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    volume = load_dicom(folder / "PT")
    (path,) = (folder / "RS").glob("*.dcm")
    region = silently(path, volume)["region_1"]
    values = volume.data[region]
    np.testing.assert_allclose([values.min(), np.median(values), values.max()], [0.2, 1.0, 4.0], rtol=1e-4)
    # The mask beside it is a little wider (60 pixels instead of 59) and a slice longer at both ends.
    (mask,) = load_masks(folder / "mask" / "DRO_mask.nii.gz", volume).values()
    assert not (region & ~mask).any()
    assert (mask.any(axis=(0, 1)).sum(), region.any(axis=(0, 1)).sum()) == (18, 16)
    polygons = [np.reshape(item.ContourData, (-1, 3)).astype(float)[:, :2] / 4
                for item in pydicom.dcmread(path).ROIContourSequence[0].ContourSequence]  # fmt: skip
    area = sum(abs(np.sum(p[:, 0] * np.roll(p[:, 1], -1) - p[:, 1] * np.roll(p[:, 0], -1))) / 2 for p in polygons)
    assert region.sum() == pytest.approx(area, rel=0.005)


def test_plastimatch_reads_the_suv_reference_objects_alike(real_data, tmp_path):
    folder = real_data / "suv_reference" / "DRO" / "DRO_0_0"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    (path,) = (folder / "RS").glob("*.dcm")
    volume = load_dicom(folder / "PT")
    (image,) = plastimatch(path, folder / "PT", tmp_path / "out").values()
    nib.save(image, tmp_path / "one.nii.gz")
    (theirs,) = load_masks(tmp_path / "one.nii.gz", volume).values()
    assert dice(load_masks(path, volume)["region_1"], theirs) > 0.9999
