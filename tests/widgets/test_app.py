"""The app without a browser: its twins in Python, and the messages by which a browser sends a file."""

import gzip
import shutil
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import REPOSITORY, oblique
from make_dicom import write_series

from seganypet.cohort.cohort import Cohort
from seganypet.errors import CohortError
from seganypet.pet.mask_files import load_masks
from seganypet.widgets import received
from seganypet.widgets.app import App
from seganypet.widgets.serve import SERVER

SHAPE = (21, 18, 15)
CASE = "phantom_external_9001"


@pytest.fixture
def page(tmp_path, monkeypatch) -> App:
    """An app whose temporary files land in `tmp_path / "temporary"`."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return App(Cohort.from_csv(REPOSITORY / "data_samples" / "cohort.csv"), limit_mb=0.2)


@pytest.fixture
def scan(tmp_path) -> Path:
    path = tmp_path / "scan.nii.gz"
    data = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    nib.save(nib.Nifti1Image(data, oblique((4.0, 3.0, 5.0))), path)
    return path


class Browser:
    """Sends a file as upload.js does, or as it would not."""

    def __init__(self, page: App, monkeypatch: pytest.MonkeyPatch):
        self.upload = page.upload
        self.answers: list[dict] = []
        monkeypatch.setattr(page.upload, "send", lambda content, buffers=None: self.answers.append(content))

    def tell(self, upload: str, ticket: str = "1", *buffers: bytes, **content) -> dict:
        message = {"upload": upload, "ticket": ticket, **content}
        self.upload._handle_custom_msg(message, [memoryview(buffer) for buffer in buffers])
        assert self.answers[-1].pop("ticket") == ticket
        return self.answers[-1]

    def begin(self, content: bytes, name: str = "scan.nii.gz", unit: str = "SUVbw", ticket: str = "1", **lies) -> dict:
        return self.tell("begin", ticket, **{"name": name, "size": len(content), "unit": unit, **lies})

    def send(self, content: bytes, name: str = "scan.nii.gz", unit: str = "SUVbw", ticket: str = "1") -> dict:
        answer = self.begin(content, name, unit, ticket)
        while "received" in answer:
            at = answer["received"]
            answer = self.tell("piece", ticket, content[at : at + 5000], at=at)
        return answer


@pytest.fixture
def browser(page, monkeypatch) -> Browser:
    return Browser(page, monkeypatch)


def left_over(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "temporary").iterdir())


def test_a_file_sent_in_pieces_is_opened_and_then_deleted(page, browser, scan, tmp_path):
    assert browser.send(scan.read_bytes()) == {"done": True}
    assert len(browser.answers) > 3  # several pieces, each answered
    np.testing.assert_array_equal(page.view.session.volume.data, nib.load(scan).get_fdata(dtype=np.float32))
    assert page.view.session.volume.source == "scan.nii.gz"
    assert "21 \u00d7 18 \u00d7 15 voxels" in page.upload.status and not page.upload.error
    assert not left_over(tmp_path)


def test_a_file_under_way_is_readable_by_its_owner_only(browser, scan, tmp_path):
    browser.begin(scan.read_bytes())
    (folder,) = left_over(tmp_path)
    assert folder.stat().st_mode & 0o077 == 0


def test_a_page_writes_nothing_and_offers_downloads(page):
    assert page.open_case(CASE).enabled["save"] is False


def test_a_plain_nifti_is_taken_too(page, browser, scan):
    plain = scan.with_suffix("")
    nib.save(nib.load(scan), plain)
    assert browser.send(plain.read_bytes(), "SCAN.NII") == {"done": True}


def test_a_file_announced_too_large_is_refused_before_it_comes(page, browser, tmp_path):
    assert browser.begin(b"", size=200_001) == {"failed": True}
    assert "scan.nii.gz has 0.2 MB; this app takes up to 0.2 MB" in page.upload.error
    assert not left_over(tmp_path)


def test_a_page_cannot_raise_the_limit_that_it_is_shown(page, browser):
    page.upload.set_state({"limit": 10**12, "error": "too slow"})
    assert (page.upload.limit, page.upload.error) == (200_000, "too slow")
    assert browser.begin(b"", size=10**9) == {"failed": True}


@pytest.mark.parametrize("size", [0, -1, 1.5, "1", None])
def test_a_size_that_is_none_is_refused(page, browser, size, tmp_path):
    assert browser.begin(b"", size=size) == {"failed": True}
    assert "is empty" in page.upload.error and not left_over(tmp_path)


def test_a_file_larger_than_announced_is_refused(page, browser, scan, tmp_path):
    content = scan.read_bytes()
    browser.begin(content, size=7000)
    assert browser.tell("piece", "1", content[:5000], at=0) == {"received": 5000}
    assert browser.tell("piece", "1", content[5000:10000], at=5000) == {"failed": True}
    assert "received more than the 7000 bytes announced" in page.upload.error
    assert not left_over(tmp_path) and page.view is None


@pytest.mark.parametrize("at", [0, 10_000, -5000, None])
def test_a_piece_that_comes_twice_or_too_early_ends_the_upload(page, browser, scan, at, tmp_path):
    content = scan.read_bytes()
    browser.begin(content)
    browser.tell("piece", "1", content[:5000], at=0)
    assert browser.tell("piece", "1", content[:5000], at=at) == {"failed": True}
    assert f"received data from byte {at}, expected byte 5000" in page.upload.error
    assert not left_over(tmp_path)
    assert browser.tell("piece", "1", content[5000:10000], at=5000) == {"failed": True}
    assert browser.send(content, ticket="2") == {"done": True}


def test_a_piece_without_bytes_ends_the_upload(page, browser, scan):
    browser.begin(scan.read_bytes())
    assert browser.tell("piece", "1", at=0) == {"failed": True}


def test_a_message_that_nobody_foresaw_is_shown_and_logged(page, browser, scan, tmp_path, caplog):
    browser.begin(scan.read_bytes())
    assert browser.tell("piece", "1", b"x") == {"failed": True}
    assert page.upload.error == "KeyError: 'at'" and "KeyError" in caplog.text
    assert not left_over(tmp_path)


def test_a_cut_off_upload_does_not_hinder_the_next_one(page, browser, scan, tmp_path):
    content = scan.read_bytes()
    browser.begin(content)
    browser.tell("piece", "1", content[:5000], at=0)
    browser.begin(content, ticket="2")
    assert len(left_over(tmp_path)) == 1
    assert browser.tell("piece", "1", content[5000:10000], at=5000) == {"failed": True}  # a straggler
    assert "cancelled upload" in page.upload.error
    answer = {"received": 0}
    while "received" in answer:
        at = answer["received"]
        answer = browser.tell("piece", "2", content[at : at + 5000], at=at)
    assert answer == {"done": True} and not left_over(tmp_path)


def test_a_cancelled_upload_and_a_closed_page_leave_no_file(page, browser, scan, tmp_path):
    browser.begin(scan.read_bytes())
    assert browser.tell("cancel") == {"failed": True}
    assert not left_over(tmp_path) and not page.upload.error
    browser.begin(scan.read_bytes(), ticket="2")
    page.close()
    assert not left_over(tmp_path)


def test_what_is_no_nifti_is_refused_by_the_name_that_the_user_knows(page, browser, tmp_path):
    assert browser.send(b"hello, this is a letter" * 100) == {"failed": True}
    assert page.upload.error.startswith("scan.nii.gz: not a readable NIfTI file")
    assert not left_over(tmp_path)


def test_a_file_cut_short_is_refused(page, browser, scan, tmp_path):
    assert browser.send(scan.read_bytes()[:-3000]) == {"failed": True}
    assert "cut short" in page.upload.error and not left_over(tmp_path)


@pytest.mark.parametrize("name", ["scan.dcm", "scan.nii.gz.exe", "nii", ""])
def test_another_kind_of_file_is_refused_before_it_comes(page, browser, scan, name, tmp_path):
    assert browser.begin(scan.read_bytes(), name) == {"failed": True}
    assert "expected a file ending in .nii, .nii.gz or .zip" in page.upload.error and not left_over(tmp_path)


@pytest.mark.parametrize("name", ["../../x.nii.gz", "/etc/x.nii.gz", "C:\\x.nii.gz", "a/\0b\n/x\n.nii.gz"])
def test_a_name_is_never_a_path(page, browser, scan, name, tmp_path):
    browser.begin(scan.read_bytes(), name)
    assert [path.name for path in left_over(tmp_path)[0].iterdir()] == ["upload.nii.gz"]
    assert browser.send(scan.read_bytes(), name, ticket="2") == {"done": True}
    assert page.view.session.volume.source == "x.nii.gz"
    assert not (tmp_path.parent / "x.nii.gz").exists() and not (tmp_path / "x.nii.gz").exists()


@pytest.mark.parametrize("unit, says", [("Bq/mL", "was trained on SUVbw"),
                                        ("", "unknown unit ''"), (None, "no intensity unit given")])  # fmt: skip
def test_any_unit_but_suv_is_refused_in_words_and_the_open_scan_stays(page, browser, scan, unit, says, tmp_path):
    before = page.open_case(CASE)
    assert browser.send(scan.read_bytes(), unit=unit) == {"failed": True}
    assert says in page.upload.error and "scan.nii.gz" in page.upload.error and str(tmp_path) not in page.upload.error
    assert page.view is before and page.upload.status.startswith(CASE)
    assert not left_over(tmp_path)


def test_a_ct_is_laid_under_the_open_pet_and_what_was_drawn_stays(page, browser, scan, tmp_path):
    content = scan.read_bytes()
    browser.send(content, unit="HU")
    assert page.upload.error == "scan.nii.gz is a CT in HU, to be laid under a PET: open the PET first."
    browser.send(content, "pet.nii.gz", ticket="2")
    before = page.view
    page.view.click(ijk=(10, 9, 7))
    affine = oblique((2.0, 1.5, 2.5))
    nib.save(nib.Nifti1Image(np.full((42, 36, 30), 40, np.int16), affine), tmp_path / "ct.nii.gz")
    assert browser.send((tmp_path / "ct.nii.gz").read_bytes(), "ct.nii.gz", "HU", ticket="3") == {"done": True}
    assert page.view is not before and page.view.session is before.session and page.view.session.clicks
    assert page.view.scan["ct"]["shape"] == [42, 36, 30] and page.view.name == "pet"
    assert page.upload.status.endswith("with CT; tiny; CT: ct.nii.gz")
    affine[:3, 3] = 9000
    nib.save(nib.Nifti1Image(np.full((42, 36, 30), 40, np.int16), affine), tmp_path / "far.nii.gz")
    shown = page.view
    browser.send((tmp_path / "far.nii.gz").read_bytes(), "far.nii.gz", "HU", ticket="4")
    assert "does not overlap" in page.upload.error and page.view is shown


def study(folder: Path, patient: str = "1") -> Path:
    """A ZIP archive of a PET and a CT, beside a text."""
    def one_study(header, k):
        header.PatientID, header.StudyInstanceUID, header.FrameOfReferenceUID = patient, f"1.2.{patient}", "1.2.9"

    rng, affine = np.random.default_rng(0), oblique((4.0, 3.0, 5.0))
    write_series(folder / "a", rng.integers(0, 9000, SHAPE), affine, change=one_study)
    finer = affine @ np.diag([0.5, 0.5, 1, 1])
    write_series(folder / "b", rng.integers(-100, 200, (42, 36, 15)), finer, "CT", change=one_study)
    (folder / "README.txt").write_text("of a workstation")
    return Path(shutil.make_archive(str(folder), "zip", folder))


def test_a_zip_of_dicom_is_opened_with_its_ct_and_only_the_pets_files_stay_until_another_is_opened(
    page, browser, monkeypatch, tmp_path
):
    page.upload.limit = 1_000_000
    assert browser.send(study(tmp_path / "dicom").read_bytes(), "Case 7.zip", "") == {"done": True}
    view = page.view
    assert view.session.volume.unit == "SUVbw" and view.scan["ct"]["shape"][:2] == [42, 36]
    assert view.name == "Case_7" and page.upload.status.startswith("Case 7.zip: 21 \u00d7 18 \u00d7 15 voxels, SUVbw")
    (folder,) = left_over(tmp_path)
    assert len([path for path in folder.rglob("*") if path.is_file()]) == SHAPE[2]
    view.click(ijk=(10, 9, 7))
    sent = {}
    monkeypatch.setattr(view, "send", lambda content, buffers: sent.update({content["download"]: buffers[0]}))
    view.download("seg")
    view.download("report")
    view.download("table")
    (tmp_path / "seg.dcm").write_bytes(sent["Case_7_mask.dcm"])
    mask = load_masks(tmp_path / "seg.dcm", like=view.session.volume)["object 1"]
    np.testing.assert_array_equal(mask, view.session.mask)
    report = sent["Case_7_report.html"].decode()
    assert "<title>Case_7" in report and "SUVmean" in report and "Case 7.zip" in report
    table = sent["Case_7_table.csv"].decode()
    assert table.count("Case 7.zip") == table.count("\n") - 1
    for text in (report, table, view.journal):
        assert str(folder) not in text and str(tmp_path) not in text
    page.open_case(CASE)
    assert not left_over(tmp_path)


@pytest.mark.parametrize("what", ["two studies", "no archive", "no dicom", "bomb", "cut"])
def test_a_zip_that_is_no_study_is_refused_in_words_and_leaves_nothing(page, browser, what, tmp_path, monkeypatch):
    page.upload.limit = 3_000_000
    archive = tmp_path / "x.zip"
    if what == "two studies":
        study(tmp_path / "both" / "one", "1")
        study(tmp_path / "both" / "two", "2")
        for path in (tmp_path / "both").glob("*.zip"):
            path.unlink()
        shutil.make_archive(str(tmp_path / "x"), "zip", tmp_path / "both")
    elif what == "no archive":
        archive.write_bytes(b"hello" * 100)
    elif what == "no dicom":
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("../../letter.txt", "hello")
    elif what == "bomb":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("bomb.dcm", bytes(300_000_000))
    else:
        archive.write_bytes(study(tmp_path / "one").read_bytes()[:-5000])
    assert browser.send(archive.read_bytes(), "x.zip", "") == {"failed": True}
    says = {"two studies": "2 studies", "no archive": "no ZIP archive", "no dicom": "no DICOM file", "bomb": "unpacks",
            "cut": "damaged"}  # fmt: skip
    assert says[what] in page.upload.error and "x.zip" in page.upload.error
    assert str(tmp_path) not in page.upload.error and not left_over(tmp_path) and page.view is None
    assert not (tmp_path.parent / "letter.txt").exists()


def test_a_study_of_too_many_voxels_is_refused_by_its_headers(page, browser, tmp_path, monkeypatch):
    page.upload.limit = 1_000_000
    monkeypatch.setattr(received, "MAX_VOXELS", 5000)
    monkeypatch.setattr(received, "load_dicom", lambda *_: pytest.fail("its voxels were read"))
    browser.send(study(tmp_path / "dicom").read_bytes(), "x.zip", "")
    assert "million voxels; this app takes up to" in page.upload.error


def test_not_a_number_is_refused(page, browser, tmp_path):
    nib.save(nib.Nifti1Image(np.full(SHAPE, np.nan, np.float32), np.eye(4)), tmp_path / "nan.nii.gz")
    browser.send((tmp_path / "nan.nii.gz").read_bytes(), "nan.nii.gz")
    assert "nan.nii.gz: 5670 of 5670 voxels are NaN" in page.upload.error


def test_a_small_file_of_very_many_voxels_is_refused_by_its_header(page, browser, monkeypatch):
    monkeypatch.setattr(received, "load_volume", lambda *_: pytest.fail("its voxels were read"))
    header = nib.Nifti1Header()
    header.set_data_shape((2000, 2000, 2000))
    header["magic"], header["vox_offset"] = b"n+1", 352
    browser.send(header.binaryblock + bytes(4), "bomb.nii")
    assert "bomb.nii: 2000 x 2000 x 2000 voxels; this app takes up to 200 million" in page.upload.error


def test_open_case_brings_its_ct_and_closes_what_was_open(page):
    first = page.open_case(CASE)
    assert first.scan["ct"] is not None and "with CT" in page.upload.status
    page.network.value = "tiny-base"
    second = page.open_case("phantom_internal_9005")
    assert page.children[-1] is second is page.view and first not in page.children
    assert first.comm is None and second.comm is not None
    assert not first.session.watchers
    assert second.session.model.name == "tiny-base" and "tiny-base" in page.upload.status
    assert page.case.value == "phantom_internal_9005"


def test_the_button_shows_errors_and_the_method_raises_them(page, tmp_path):
    with pytest.raises(CohortError, match="no case 'nobody'"):
        page.open_case("nobody")
    missing = replace(page.cohort[CASE], name="missing", pet=tmp_path / "missing.nii.gz")
    page = App(Cohort([missing]))
    page.button.click()
    assert page.upload.error == f"{missing.pet} does not exist; expected a NIfTI, NRRD or MetaImage file."
    assert page.button.disabled is False and page.view is None


def test_a_page_without_a_browser_shows_its_picture(page):
    assert "image/png" not in page._repr_mimebundle_()
    page.open_case(CASE)
    bundle = page._repr_mimebundle_()
    assert bundle["image/png"].startswith(b"\x89PNG")
    assert "application/vnd.jupyter.widget-view+json" in bundle


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_a_header_that_says_it_goes_on_for_gigabytes_is_not_read(page, browser, kind):
    image = kind(np.zeros((4, 4, 4), np.float32), np.eye(4))
    image.header["vox_offset"] = 2_000_000_000  # where voxels begin; what lies between would be unpacked and kept
    browser.send(gzip.compress(image.header.binaryblock + bytes(1000)), "bomb.nii.gz")
    assert "2000 MB of header before the first voxel" in page.upload.error


def test_the_server_listens_to_this_machine_only_and_its_page_asks_no_other():
    assert SERVER["Voila"]["ip"] == "127.0.0.1"
    policy = SERVER["Voila"]["tornado_settings"]["headers"]["Content-Security-Policy"]
    assert policy.startswith("default-src 'self'") and "http" not in policy and "*" not in policy
