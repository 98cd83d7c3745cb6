"""Dynamic, gated and mixed series: each volume is told from the others, or the series is refused with a list."""

import shutil
import warnings
from datetime import datetime, timedelta

import numpy as np
import pytest
from conftest import oblique
from make_dicom import FACTOR, write_dynamic, write_series
from pydicom.uid import generate_uid
from test_dicom import same_in_patient

from seganypet.errors import DicomError, SUVError
from seganypet.pet.dicom import list_series, load_dicom

VOLUMES = np.random.default_rng(5).integers(0, 9000, (3, 7, 5, 6))  # times, columns, rows, slices
SLOPES = np.random.default_rng(6).uniform(0.2, 3.0, (3, 6))
STARTS_S, DURATIONS_S = (0, 30, 90), (30, 60, 300)
AFFINE = oblique((4.07, 2.5, 3.0), left_handed=True)
NOON = datetime(2021, 3, 4, 12)


def _clock(seconds):
    return (NOON + timedelta(seconds=seconds)).strftime("%H%M%S")


def _time_frame(header, t, k):
    header.AcquisitionTime = _clock(STARTS_S[t])
    header.ActualFrameDuration = str(1000 * DURATIONS_S[t])
    header.FrameReferenceTime = str(1000 * (STARTS_S[t] + DURATIONS_S[t] / 2))


def test_each_frame_of_a_dynamic_series_is_loaded_by_number_and_listed_with_its_time(tmp_path):
    write_dynamic(tmp_path, VOLUMES, AFFINE, _time_frame, SLOPES)
    for t in range(3):
        volume = load_dicom(tmp_path, frame=t + 1)
        same_in_patient(volume, VOLUMES[t] * SLOPES[t] * FACTOR, AFFINE)
        assert (volume.metadata["frame"], volume.metadata["frames"]) == (t + 1, 3)
    row = list_series(tmp_path).iloc[0]
    assert (row.files, row.frames) == (18, 3)
    assert row.frame_start_s == [0.0, 30.0, 90.0]
    assert row.frame_duration_s == [30.0, 60.0, 300.0]
    with pytest.raises(DicomError, match="(?s)3 volumes.*choose one by frame=.*frame=2: starts after 30 s, lasts"):
        load_dicom(tmp_path)


def test_a_late_frame_is_decayed_to_the_reference_of_the_whole_scan(tmp_path):
    """Saved later than it was acquired, so that the first frame's times are the reference."""

    def saved_later(header, t, k):
        _time_frame(header, t, k)
        header.SeriesTime = "150000"
        del header.FrameReferenceTime

    write_dynamic(tmp_path, VOLUMES, AFFINE, saved_later)
    for t in range(3):
        with warnings.catch_warnings(action="ignore"):
            assert load_dicom(tmp_path, frame=t + 1).metadata["decay_s"] == pytest.approx(3600.0)


@pytest.mark.parametrize("frame", [0, 4, -1, "2", 1.0, True, (1,)])
def test_a_frame_that_is_not_there_is_refused_with_a_list(tmp_path, frame):
    write_dynamic(tmp_path, VOLUMES, AFFINE, _time_frame)
    with pytest.raises(DicomError, match="(?s)no frame .*counted from 1.*frame=3: starts after 90 s"):
        load_dicom(tmp_path, frame=frame)


def test_frame_one_of_a_static_scan_is_the_scan(tmp_path):
    write_series(tmp_path, VOLUMES[0], AFFINE)
    same_in_patient(load_dicom(tmp_path, frame=1), VOLUMES[0] * FACTOR, AFFINE)
    assert list_series(tmp_path).frames.item() == 1
    with pytest.raises(DicomError, match="no frame 2.*one volume; leave frame out"):
        load_dicom(tmp_path, frame=2)


def test_one_acquisition_time_for_all_frames_leaves_the_frame_reference_time(tmp_path):
    def one_clock(header, t, k):
        _time_frame(header, t, k)
        header.AcquisitionTime = _clock(0)

    write_dynamic(tmp_path, VOLUMES, AFFINE, one_clock)
    assert list_series(tmp_path).frame_start_s.item() == [0.0, 30.0, 90.0]
    same_in_patient(load_dicom(tmp_path, frame=3), VOLUMES[2] * FACTOR, AFFINE)


def test_gates_are_told_apart_by_their_trigger_time(tmp_path):
    def gate(header, t, k):
        header.TriggerTime = str(250 * (2 - t))  # written in another order
        header.SeriesType = ["GATED", "IMAGE"]

    write_dynamic(tmp_path, VOLUMES, AFFINE, gate)
    row = list_series(tmp_path).iloc[0]
    assert (row.frames, row.frames_by, row.frame_start_s) == (3, "TriggerTime", [None, None, None])
    same_in_patient(load_dicom(tmp_path, frame=1), VOLUMES[2] * FACTOR, AFFINE)
    with pytest.raises(DicomError, match="frame=2: lasts 120 s, 6 slices, TriggerTime 250"):
        load_dicom(tmp_path)


def test_image_index_alone_tells_time_slices_apart(tmp_path):
    def index(header, t, k):
        header.ImageIndex = t * 6 + k + 1

    write_dynamic(tmp_path, VOLUMES, AFFINE, index)
    same_in_patient(load_dicom(tmp_path, frame=2), VOLUMES[1] * FACTOR, AFFINE)


def test_gates_within_time_frames_are_told_apart_by_both(tmp_path):
    volumes = np.random.default_rng(9).integers(0, 9000, (4, 7, 5, 6))

    def both(header, t, k):
        header.TemporalPositionIdentifier = t // 2 + 1
        header.TriggerTime = str(300 * (t % 2))

    write_dynamic(tmp_path, volumes, AFFINE, both)
    assert list_series(tmp_path).frames_by.item() == "TemporalPositionIdentifier x TriggerTime"
    for t in range(4):
        same_in_patient(load_dicom(tmp_path, frame=t + 1), volumes[t] * FACTOR, AFFINE)


def test_passes_of_a_moving_bed_are_ordered_at_each_position(tmp_path):
    """Two beds of three slices, three passes: no tag is shared by all slices of a pass."""

    def bed(header, t, k):
        header.AcquisitionTime = _clock(100 * t + 40 * (k // 3))
        header.FrameReferenceTime = str(1000 * (100 * t + 40 * (k // 3) + 20))

    write_dynamic(tmp_path, VOLUMES, AFFINE, bed)
    assert list_series(tmp_path).frame_start_s.item() == [0.0, 100.0, 200.0]
    for t in range(3):
        same_in_patient(load_dicom(tmp_path, frame=t + 1), VOLUMES[t] * FACTOR, AFFINE)


def test_times_of_a_dynamic_scan_are_shown_without_the_hour_of_the_day(tmp_path):
    def acquisition_only(header, t, k):
        header.AcquisitionTime = _clock(STARTS_S[t])

    write_dynamic(tmp_path, VOLUMES, AFFINE, acquisition_only)
    with pytest.raises(DicomError, match="acquisition time 3") as caught:
        load_dicom(tmp_path)
    assert "1614" not in str(caught.value)  # seconds since 1970
    assert "2021" not in str(caught.value)


def test_a_slice_that_one_frame_lacks_spoils_that_frame_only(tmp_path):
    paths = write_dynamic(tmp_path, VOLUMES, AFFINE, _time_frame)
    paths[1][2].unlink()
    same_in_patient(load_dicom(tmp_path, frame=3), VOLUMES[2] * FACTOR, AFFINE)
    with pytest.raises(DicomError, match="slices are missing"):
        load_dicom(tmp_path, frame=2)


def test_frames_and_slices_that_were_not_exported_are_told_with_what_it_does_to_the_suv(tmp_path):
    paths = write_dynamic(tmp_path, VOLUMES, AFFINE, _time_frame)
    shutil.rmtree(paths[0][0].parent)
    with pytest.warns(UserWarning, match=r"2 time frames, but NumberOfTimeSlices .* is 3.*rests on series time"):
        load_dicom(tmp_path, frame=1)
    paths[2][5].unlink()
    with pytest.warns(UserWarning, match=r"(?s)5 slices, but NumberOfSlices .* is 6.*rests on series time"):
        load_dicom(tmp_path, frame=2)


def test_a_missing_first_bed_is_said_to_raise_the_suv_where_only_acquisition_times_are_left(tmp_path):
    def beds(header, k):
        header.SeriesTime, header.NumberOfSlices = "150000", 6
        header.AcquisitionTime = _clock(180 * (k // 3))
        del header.FrameReferenceTime

    for path in write_series(tmp_path, VOLUMES[0], AFFINE, change=beds)[:3]:
        path.unlink()
    with pytest.warns(UserWarning, match="too high"):
        load_dicom(tmp_path)


@pytest.mark.parametrize(("series_type", "warned"), [("DYNAMIC", True), ("STATIC", False), ("WHOLE BODY", False)])
def test_time_slices_count_for_dynamic_scans_only(tmp_path, series_type, warned):
    """A GE scan of three beds has NumberOfTimeSlices 3 and SeriesType STATIC."""

    def change(header, k):
        header.NumberOfSlices, header.NumberOfTimeSlices = 6, 3
        header.SeriesType = [series_type, "IMAGE"]

    write_series(tmp_path, VOLUMES[0], AFFINE, change=change)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        load_dicom(tmp_path)
    assert any("1 time frames, but NumberOfTimeSlices" in str(one.message) for one in seen) == warned


@pytest.mark.parametrize("keyword", ["NumberOfSlices", "NumberOfTimeSlices"])
def test_a_count_of_slices_that_is_none_does_not_stop_a_scan_but_is_said(tmp_path, keyword):
    def twice(header, k):
        header.NumberOfSlices = 6
        setattr(header, keyword, [6, 6])

    write_series(tmp_path, VOLUMES[0], AFFINE, change=twice)
    with pytest.warns(UserWarning, match=rf"Whether slices are missing is unknown: .*{keyword}"):
        volume = load_dicom(tmp_path)
    same_in_patient(volume, VOLUMES[0] * FACTOR, AFFINE)


def test_two_reconstructions_under_one_uid_are_volumes_and_only_the_corrected_one_has_an_suv(tmp_path):
    def reconstruction(header, t, k):
        if t == 1:
            header.CorrectedImage = ["NORM", "DECY"]

    write_dynamic(tmp_path, VOLUMES[:2], AFFINE, reconstruction)
    assert list_series(tmp_path).frames_by.item() == "CorrectedImage"
    first, second = (1, 2) if "ATTN" in _label(tmp_path, 1) else (2, 1)
    with warnings.catch_warnings(action="ignore"):
        same_in_patient(load_dicom(tmp_path, frame=first), VOLUMES[0] * FACTOR, AFFINE)
        with pytest.raises(SUVError, match="without ATTN"):
            load_dicom(tmp_path, frame=second)


def _label(folder, frame):
    with pytest.raises(DicomError) as caught:
        load_dicom(folder)
    return str(caught.value).splitlines()[frame]


def test_a_repeated_slice_of_a_static_ct_is_no_time_frame(tmp_path):
    """Each slice of a CT has a time of its own, which makes none of them a volume."""

    def times(header, k):
        header.AcquisitionDate, header.AcquisitionTime = "20210304", _clock(k)
        header.SeriesInstanceUID = "1.2.3"

    write_series(tmp_path / "scan", VOLUMES[0], AFFINE, "CT", change=times)
    again = write_series(tmp_path / "again", VOLUMES[1], AFFINE, "CT", change=lambda h, k: times(h, k + 60))
    for path in again[1:]:
        path.unlink()
    with pytest.raises(DicomError, match="lie at the same position, and no tag tells"):
        load_dicom(tmp_path)


def test_one_copied_file_of_a_dynamic_scan_is_no_frame(tmp_path):
    paths = write_dynamic(tmp_path, VOLUMES, AFFINE, _time_frame)
    shutil.copy(paths[0][0], tmp_path / "copy.dcm")
    with pytest.raises(DicomError, match="copied file"):
        load_dicom(tmp_path)
    assert list_series(tmp_path).frames.item() == 0


def test_a_folder_that_was_copied_beside_itself_is_said_to_be_the_same_images(tmp_path):
    write_series(tmp_path / "scan", VOLUMES[0], AFFINE)
    shutil.copytree(tmp_path / "scan", tmp_path / "copy of scan")
    with pytest.raises(DicomError, match=r"copy of scan/image-\d+.dcm and scan/image-\d+.dcm .* are the same image"):
        load_dicom(tmp_path)


@pytest.mark.parametrize("keyword", ["PatientID", "FrameOfReferenceUID"])
def test_two_patients_under_one_series_uid_are_not_made_one(tmp_path, keyword):
    beside = AFFINE.copy()
    beside[:3, 3] += 6 * AFFINE[:3, 2]

    def of_one_series(value):
        def change(header, k):
            header.SeriesInstanceUID = "1.2.3"
            setattr(header, keyword, value)

        return change

    write_series(tmp_path / "a", VOLUMES[0], AFFINE, change=of_one_series("1.2.40"))
    write_series(tmp_path / "b", VOLUMES[1], beside, change=of_one_series("1.2.41"))
    with pytest.raises(DicomError, match=f"{keyword} differs within the series") as caught:
        load_dicom(tmp_path)
    assert "1.2.40" not in str(caught.value)  # nobody is named


def test_text_and_lists_in_the_tags_that_tell_frames_apart_are_passed_over(tmp_path):
    def spoilt(header, t, k):
        _time_frame(header, t, k)
        header.ImageIndex = [1, 2]
        header.StackID = generate_uid() if k else "A"

    write_dynamic(tmp_path, VOLUMES, AFFINE, spoilt)
    same_in_patient(load_dicom(tmp_path, frame=2), VOLUMES[1] * FACTOR, AFFINE)
