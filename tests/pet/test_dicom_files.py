"""DICOMDIR, ZIP archives, single files and names without a suffix lead to the same scan, and to nothing outside."""

import io
import os
import random
import struct
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from conftest import oblique
from make_dicom import FACTOR, write_dicomdir, write_series, zip_folder
from make_multiframe import write_enhanced
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless
from test_dicom import same_in_patient

from seganypet.errors import DicomError
from seganypet.pet import dicom_files
from seganypet.pet.dicom import list_series, load_dicom

STORED = np.random.default_rng(5).integers(0, 9000, (7, 5, 6))
SLOPES = np.linspace(0.2, 3.7, 6)
AFFINE = oblique((4.07, 2.5, 3.0), left_handed=True)


@pytest.fixture
def scan(tmp_path):
    write_series(tmp_path / "scan", STORED, AFFINE, slopes=SLOPES)
    return tmp_path / "scan"


def _is_the_scan(volume):
    same_in_patient(volume, STORED * SLOPES * FACTOR, AFFINE)


def test_a_dicomdir_leads_to_its_files(tmp_path, scan):
    dicomdir = write_dicomdir(tmp_path / "disc", sorted(scan.iterdir()))
    _is_the_scan(load_dicom(dicomdir))
    _is_the_scan(load_dicom(dicomdir.parent))  # its own file among the others
    assert list_series(dicomdir).files.item() == 6


def test_a_dicomdir_whose_disc_was_copied_in_small_letters_still_leads_to_them(tmp_path, scan):
    dicomdir = write_dicomdir(tmp_path / "disc", sorted(scan.iterdir()))
    for path in sorted(dicomdir.parent.rglob("*"), key=lambda one: -len(one.parts)):
        if path != dicomdir:
            path.rename(path.with_name(path.name.lower()))
    _is_the_scan(load_dicom(dicomdir))


def test_files_that_a_dicomdir_lists_and_that_are_missing_are_counted(tmp_path, scan):
    dicomdir = write_dicomdir(tmp_path / "disc", sorted(scan.iterdir()))
    files = [path for path in sorted(dicomdir.parent.rglob("*")) if path.is_file() and path != dicomdir]
    last = max(files, key=lambda path: float(pydicom.dcmread(path).ImagePositionPatient[2]))
    last.unlink()
    with pytest.warns(UserWarning, match="1 of the 6 files that it lists are missing; is there a second disc"):
        assert load_dicom(dicomdir).shape == (7, 5, 5)
    for path in files:
        path.unlink(missing_ok=True)
    with pytest.raises(DicomError, match="none of the 6 files that it lists lies beside it"):
        load_dicom(dicomdir)


@pytest.mark.parametrize("names", [["..", "scan", "IMAGE"], ["/etc/hostname"], ["A/../../scan/IMAGE"], [""]])
def test_a_dicomdir_leads_nowhere_outside_its_folder(tmp_path, scan, names):
    dicomdir = write_dicomdir(tmp_path / "disc", sorted(scan.iterdir()))
    next(scan.iterdir()).rename(scan / "IMAGE")
    listing = pydicom.dcmread(dicomdir)
    for record in listing.DirectoryRecordSequence:
        if "ReferencedFileID" in record:
            record["ReferencedFileID"]._value = names
    listing.save_as(dicomdir)
    with pytest.raises(DicomError, match="none of the [06] files"):
        load_dicom(dicomdir)


def test_a_file_that_is_only_called_dicomdir_is_refused(tmp_path):
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM" + b"nonsense" * 40)
    with pytest.raises(DicomError, match="not a readable DICOMDIR"):
        load_dicom(tmp_path / "DICOMDIR")


def test_a_zipped_folder_is_read_in_place(tmp_path, scan):
    (scan / "notes.txt").write_text("see the other disc")
    archive = zip_folder(scan, tmp_path / "scan.zip")
    before = sorted(tmp_path.rglob("*"))
    _is_the_scan(load_dicom(archive))
    assert list_series(archive).files.item() == 6
    assert sorted(tmp_path.rglob("*")) == before


def test_compressed_and_multi_frame_objects_are_read_from_an_archive(tmp_path):
    def compress(header, k=None):
        header.compress(RLELossless)

    write_series(tmp_path / "packed", STORED, AFFINE, slopes=SLOPES, change=compress)
    _is_the_scan(load_dicom(zip_folder(tmp_path / "packed", tmp_path / "packed.zip")))
    write_enhanced(tmp_path / "enhanced" / "one", STORED[None], AFFINE, slopes=SLOPES[None], change=compress)
    _is_the_scan(load_dicom(zip_folder(tmp_path / "enhanced", tmp_path / "enhanced.zip")))


@pytest.mark.parametrize("name", ["../../outside.dcm", "/tmp/outside.dcm", "a\\..\\..\\outside.dcm", "C:\\outside.dcm"])
def test_no_name_in_an_archive_decides_where_something_is_written(tmp_path, scan, name):
    archive = tmp_path / "deep" / "deeper" / "scan.zip"
    archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w") as target:
        for number, path in enumerate(sorted(scan.iterdir())):
            target.writestr(name.replace("outside", f"outside{number}"), path.read_bytes())
    before = sorted(tmp_path.rglob("*"))
    _is_the_scan(load_dicom(archive))
    assert sorted(tmp_path.rglob("*")) == before
    assert not list(Path("/tmp").glob("outside*.dcm"))


def test_an_archive_that_unpacks_to_too_much_is_refused_before_it_is_read(tmp_path, scan, monkeypatch):
    archive = zip_folder(scan, tmp_path / "scan.zip")
    monkeypatch.setattr(dicom_files, "MAX_UNPACKED_BYTES", 3000)
    with pytest.raises(DicomError, match="unpack to .* GiB, more than"):
        load_dicom(archive)


def test_a_member_that_is_packed_more_tightly_than_any_scan_is_refused(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("image.dcm", bytes(1_000_000))
    monkeypatch.setattr(dicom_files, "MAX_EMPTY_BYTES", 100_000)
    with pytest.raises(DicomError, match="it unpacks from .* to 1000000 bytes, which no scan does"):
        load_dicom(tmp_path / "bomb.zip")
    with zipfile.ZipFile(tmp_path / "bomb.zip", "a") as target:  # among much else
        target.writestr("noise.dcm", np.random.default_rng(0).bytes(100_000))
    with pytest.raises(DicomError, match="image.dcm unpacks from .* to 1000000 bytes, which no scan does"):
        load_dicom(tmp_path / "bomb.zip")


def test_members_that_share_their_bytes_count_each(tmp_path, monkeypatch):
    # A directory may name the same bytes again and again: 65 kB became 8 GB, which took minutes to check.
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("image.dcm", bytes(50_000))
        for _ in range(99):
            target.filelist.append(target.filelist[0])
    monkeypatch.setattr(dicom_files, "MAX_EMPTY_BYTES", 100_000)
    with pytest.raises(DicomError, match="it unpacks from .* to 5000000 bytes, which no scan does"):
        load_dicom(tmp_path / "bomb.zip")


def test_every_flipped_bit_in_an_archive_is_noticed_or_changes_nothing(tmp_path, scan):
    archive, dice = zip_folder(scan, tmp_path / "scan.zip"), random.Random(4)
    content, noticed = archive.read_bytes(), 0
    for _ in range(40):
        flipped = bytearray(content)
        flipped[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        archive.write_bytes(flipped)
        try:
            _is_the_scan(load_dicom(archive))
        except DicomError:
            noticed += 1
    assert noticed > 25


def test_an_archive_cannot_unpack_to_more_than_its_list_says(tmp_path):
    """A list that claims 1000 bytes for a member of 50 million."""
    archive = tmp_path / "bomb.zip"
    member = b"\0" * 128 + b"DICM" + b"\x02\0\0\0UL\x04\0\xff\xff\xff\x02" + bytes(50_000_000)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("image.dcm", member)
    packed = bytearray(archive.read_bytes())
    size = struct.pack("<L", len(member))
    for _ in range(2):  # in the member's own header and in the list
        at = packed.find(size)
        packed[at : at + 4] = struct.pack("<L", 1000)
    archive.write_bytes(packed)
    with pytest.raises(DicomError):
        load_dicom(archive)


def test_a_damaged_or_locked_archive_is_refused(tmp_path, scan):
    archive = zip_folder(scan, tmp_path / "scan.zip")
    content = archive.read_bytes()
    spoilt = bytearray(content)
    for at in range(300, len(content) - 1200, 50):
        spoilt[at] ^= 0x55
    (tmp_path / "spoilt.zip").write_bytes(spoilt)
    with pytest.raises(DicomError):
        load_dicom(tmp_path / "spoilt.zip")
    (tmp_path / "cut.zip").write_bytes(content[: len(content) // 2])
    with pytest.raises(DicomError, match="cut.zip"):
        load_dicom(tmp_path / "cut.zip")
    locked = bytearray(content)
    at = -1
    while (at := locked.find(b"PK\x01\x02", at + 1)) >= 0:
        locked[at + 8] |= 1
    (tmp_path / "locked.zip").write_bytes(locked)
    with pytest.raises(DicomError, match="password"):
        load_dicom(tmp_path / "locked.zip")


def test_a_subfolder_that_may_not_be_read_is_not_passed_over(scan, monkeypatch):
    (scan / "more").mkdir()
    scandir = os.scandir

    def denied(path):
        if str(path).endswith("more"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(DicomError, match="Permission denied.*more"):
        load_dicom(scan)


def test_a_folder_of_archives_says_what_to_do_with_them(tmp_path, scan):
    (tmp_path / "sent").mkdir()
    zip_folder(scan, tmp_path / "sent" / "scan.zip")
    with pytest.raises(DicomError, match="Unpack scan.zip, or give a ZIP archive itself"):
        load_dicom(tmp_path / "sent")


def test_files_without_preamble_and_without_suffix_are_known_by_their_first_tags(tmp_path, scan):
    for number, path in enumerate(sorted(scan.iterdir())):
        header = pydicom.dcmread(path)
        header.file_meta = pydicom.dataset.FileMetaDataset()
        buffer = io.BytesIO()
        header.save_as(buffer, implicit_vr=number % 2 == 0, little_endian=True, enforce_file_format=False)
        path.unlink()
        (scan / f"IM{number}").write_bytes(buffer.getvalue())
    (scan / "README").write_text("0008 and other numbers, but no DICOM: " * 10)
    _is_the_scan(load_dicom(scan))


def test_a_multi_frame_file_may_be_given_itself_and_a_single_slice_may_not(tmp_path, scan):
    path = write_enhanced(tmp_path / "enhanced", STORED[None], AFFINE, slopes=SLOPES[None])
    _is_the_scan(load_dicom(path))
    for given in (next(scan.iterdir()), str(next(scan.iterdir()))):
        with pytest.raises(DicomError, match="is a file; give the folder that holds the series"):
            load_dicom(given)
    (tmp_path / "text.txt").write_text("no scan")
    with pytest.raises(DicomError, match="is a file, and not DICOM"):
        load_dicom(tmp_path / "text.txt")


@pytest.mark.parametrize("syntax", [DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_rare_encodings_give_the_same_values(tmp_path, syntax):
    for k, path in enumerate(write_series(tmp_path, STORED, AFFINE, slopes=SLOPES)):
        header = pydicom.dcmread(path)
        header.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            header.PixelData = STORED[:, :, k].T.astype(">i2").tobytes()
            pydicom.dcmwrite(path, header, implicit_vr=False, little_endian=False, force_encoding=True)
        else:
            header.save_as(path)
    _is_the_scan(load_dicom(tmp_path))


def test_a_deflated_file_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    for path in write_series(tmp_path, STORED, AFFINE):
        header = pydicom.dcmread(path)
        header.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        header.add_new(0x00091001, "OB", bytes(300_000))
        header.save_as(path)
    for limit, most in (("MAX_INFLATED_BYTES", 100_000), ("MAX_EMPTY_BYTES", 1000)):
        with monkeypatch.context() as patched:
            patched.setattr(dicom_files, limit, most)
            with pytest.raises(DicomError, match="unpacks to more than"):
                load_dicom(tmp_path)


@pytest.mark.parametrize("source", [None, 5, "", "\0", "x" * 5000, ["scan"]])
def test_what_is_no_path_is_an_own_error(source):
    with pytest.raises(DicomError):
        load_dicom(source)
    with pytest.raises(DicomError):
        list_series(source)


@pytest.mark.parametrize("keep", [131, 140, 170, 210, 300, 700])
def test_a_file_cut_anywhere_is_not_passed_over(tmp_path, scan, keep):
    paths = sorted(scan.iterdir(), key=lambda path: float(pydicom.dcmread(path).ImagePositionPatient[2]))
    paths[-1].write_bytes(paths[-1].read_bytes()[:keep])  # the last slice, whose absence leaves no gap
    with pytest.raises(DicomError, match="cut short"):
        load_dicom(scan)
