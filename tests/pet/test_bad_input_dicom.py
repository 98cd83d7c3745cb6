"""Every way a DICOM folder can be wrong ends in one error that names the cause, and harms no file."""

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import oblique
from make_dicom import write_series
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import EnhancedPETImageStorage, JPEGLSLossless, MRImageStorage

from seganypet.errors import DicomError, SegAnyPETError, SUVError
from seganypet.pet.dicom import load_dicom

STORED = np.random.default_rng(5).integers(0, 9000, (7, 5, 6))


def _pet(folder, change=None, affine=None, **arguments):
    affine = oblique((4.07, 4.07, 3.0)) if affine is None else affine
    return write_series(folder, STORED, affine, change=change, **arguments)


def _with(keyword, value, only=None):
    """A PET whose slices (or slice `only`) have `keyword` set to `value`, or lack it if None."""

    def spoil(header: Dataset, k: int) -> None:
        if only is None or k == only:
            if value is None:
                delattr(header, keyword)
            else:
                setattr(header, keyword, value)

    return lambda folder: _pet(folder, spoil)


def _without_folder(folder):
    shutil.rmtree(folder)


def _only_text(folder):
    (folder / "notes.txt").write_text("see the other disc")


def _text_called_dicom(folder):
    _pet(folder)
    (folder / "extra.dcm").write_text("not DICOM at all")


def _zero_bytes(folder):
    _pet(folder)[2].write_bytes(b"")


def _cut(keep):
    def make(folder):
        path = _pet(folder)[2]
        path.write_bytes(path.read_bytes()[:keep])

    return make


def _slice_missing(folder):
    _pet(folder)[2].unlink()


def _slice_twice(folder):
    path = _pet(folder)[2]
    shutil.copy(path, folder / "copy.dcm")


def _two_frames(folder):
    def clock(header, k):
        header.SeriesInstanceUID = "1.2.3"

    _pet(folder / "frame1", clock)
    _pet(folder / "frame2", clock)


def _two_series(folder):
    _pet(folder / "ac")
    _pet(folder / "ct", modality="CT")


def _uneven(folder):
    def move(header, k):
        if k == 3:
            header.ImagePositionPatient = [0.0, 0.0, 3 * 3.0 + 0.9]

    _pet(folder, move, np.diag([-4.0, -4.0, 3.0, 1.0]))


def _bent(folder):
    def move(header, k):
        header.ImagePositionPatient = [0.2 * k**2, 0.0, 3.0 * k]

    _pet(folder, move, np.diag([-4.0, -4.0, 3.0, 1.0]))


def _single(folder):
    for path in _pet(folder)[1:]:
        path.unlink()


def _corrupt_jpeg(folder):
    def spoil(header, k):
        header.PixelData = encapsulate([b"\xff\xd8\xff\xf7 no such stream \xff\xd9"])
        header["PixelData"].is_undefined_length = True
        header.file_meta.TransferSyntaxUID = JPEGLSLossless

    _pet(folder, spoil)


def _other_kind(sop_class):
    def change(header, k):
        header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = sop_class

    return lambda folder: _pet(folder, change)


def _ct_in_optical_density(folder):
    _pet(folder, lambda header, k: setattr(header, "RescaleType", "OD"), modality="CT")


def _too_few_pixels(folder):
    _pet(folder, lambda header, k: setattr(header, "PixelData", header.PixelData[:-20]))


CAUSES = {
    "no such folder": (_without_folder, DicomError, "does not exist"),
    "empty folder": (lambda folder: None, DicomError, "no DICOM image among its 0 files"),
    "no DICOM in it": (_only_text, DicomError, "no DICOM image among its 1 files"),
    "text called .dcm": (_text_called_dicom, DicomError, "extra.dcm: not a readable DICOM file"),
    "file of zero bytes": (_zero_bytes, DicomError, "not a readable DICOM file, or cut short"),
    "header cut within the series UID": (_cut(700), DicomError, "not a readable DICOM file, or cut short"),
    "header cut before the pixels": (_cut(-90), DicomError, "not a readable DICOM file, or cut short"),
    "pixels cut short": (_cut(-9), DicomError, "pixels cannot be read"),
    "fewer pixels than rows x columns": (_too_few_pixels, DicomError, "pixels cannot be read"),
    "broken compressed pixels": (_corrupt_jpeg, DicomError, "pixels cannot be read"),
    "no pixels": (_with("PixelData", None), DicomError, r"not a readable DICOM file, or cut short \(no PixelData\)"),
    "MR only": (_other_kind(MRImageStorage), DicomError, "no CT or PET slices, only MR Image Storage"),
    "enhanced object": (_other_kind(EnhancedPETImageStorage), DicomError, "multi-frame"),
    "several frames": (_with("NumberOfFrames", "3"), DicomError, "multi-frame"),
    "colour": (_with("SamplesPerPixel", 3), DicomError, "colour image"),
    "several series": (_two_series, DicomError, "2 series; choose one by series_uid"),
    "slice missing": (_slice_missing, DicomError, "6.00 mm between .* slices are missing"),
    "slice twice": (_slice_twice, DicomError, "lie at the same position"),
    "dynamic frames": (_two_frames, DicomError, "lie at the same position"),
    "uneven spacing": (_uneven, DicomError, "unevenly spaced"),
    "bent stack": (_bent, DicomError, "off an even stack"),
    "single slice": (_single, DicomError, "a single slice"),
    "no position": (_with("ImagePositionPatient", None, 1), DicomError, r"ImagePositionPatient \(0020,0032\) is miss"),
    "no orientation": (_with("ImageOrientationPatient", None), DicomError, r"ImageOrientationPatient \(0020,0037\)"),
    "no pixel spacing": (_with("PixelSpacing", ""), DicomError, r"PixelSpacing \(0028,0030\) is missing"),
    "pixel spacing zero": (_with("PixelSpacing", ["4", "0"]), DicomError, r"PixelSpacing \(0028,0030\) is \["),
    "orientation skewed": (
        _with("ImageOrientationPatient", [1, 0, 0, 0.5, 0.8, 0]),
        DicomError,
        "perpendicular unit vectors",
    ),
    "orientation mixed": (
        _with("ImageOrientationPatient", [1, 0, 0, 0, 1, 0], 4),
        DicomError,
        "ImageOrientationPatient differs within the series",
    ),
    "spacing mixed": (_with("PixelSpacing", ["4.07", "4.2"], 4), DicomError, "PixelSpacing differs within the series"),
    "shape mixed": (_with("Rows", 4, 4), DicomError, "Rows differs within the series"),
    "no slope": (_with("RescaleSlope", None, 3), DicomError, r"RescaleSlope \(0028,1053\) is missing"),
    "slope zero": (_with("RescaleSlope", "0", 3), DicomError, r"RescaleSlope \(0028,1053\) is 0"),
    "no intercept": (_with("RescaleIntercept", None), DicomError, r"RescaleIntercept \(0028,1052\) is missing"),
    "CT not in HU": (_ct_in_optical_density, DicomError, r"RescaleType \(0028,1054\) is 'OD'"),
    "no weight": (_with("PatientWeight", None), SUVError, r"PatientWeight \(0010,1030\) is missing"),
    "weight in one slice differs": (_with("PatientWeight", "71", 2), SUVError, r"PatientWeight \(0010,1030\) differs"),
    "counts of another vendor": (_with("Units", "CNTS"), SUVError, r"\(7053,1000\)"),
    "not attenuation corrected": (_with("CorrectedImage", ["DECY"]), SUVError, "without ATTN"),
}  # test_suv.py has every tag without which no SUV is computed


@pytest.mark.parametrize("cause", CAUSES)
def test_a_bad_dicom_folder_is_refused_with_its_cause_and_left_as_it_was(tmp_path, cause):
    make, error_class, message = CAUSES[cause]
    folder = tmp_path / "scan"
    folder.mkdir()
    with warnings.catch_warnings(action="ignore"):  # pydicom warns about what it is made to write here
        make(folder)
    before = _contents(tmp_path)
    with pytest.raises(SegAnyPETError, match=message) as caught, warnings.catch_warnings(action="error"):
        load_dicom(folder)
    assert type(caught.value) is error_class
    assert "scan" in str(caught.value)  # which folder or file
    assert _contents(tmp_path) == before


def test_a_file_in_place_of_a_folder_and_an_unknown_series_are_refused(tmp_path):
    path = _pet(tmp_path)[0]
    with pytest.raises(DicomError, match="is a file; give the folder"):
        load_dicom(path)
    with pytest.raises(DicomError, match=r"(?s)no CT or PET series 1\.2\.3; there are:.*small series.*6 files"):
        load_dicom(tmp_path, series_uid="1.2.3")


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}
