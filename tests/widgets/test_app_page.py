"""The app in Chromium, served as `seganypet app` serves it: a scan is uploaded, clicked on, and its mask taken home."""

import shutil

import nibabel as nib
import numpy as np
import pytest
from conftest import REPOSITORY, oblique
from make_dicom import write_series

pytest.importorskip("playwright", reason="browser tests need playwright: pip install 'seganypet[test]'")
from browser import BROWSER_TEST, PICTURES, serve

from seganypet.pet.dicom import load_dicom
from seganypet.pet.mask_files import load_masks
from seganypet.pet.volume import load_volume

pytestmark = BROWSER_TEST
SHAPE, AFFINE = (40, 30, 24), oblique((5.0, 5.0, 6.0))


@pytest.fixture(scope="module")
def page(chromium, tmp_path_factory):
    folder = tmp_path_factory.mktemp("app") / "notebooks"
    folder.mkdir()
    shutil.copy(REPOSITORY / "notebooks" / "app.ipynb", folder)
    (folder.parent / "data_samples").symlink_to(REPOSITORY / "data_samples")
    with serve("app", folder, "app.ipynb") as address:
        page = chromium.context().new_page()
        page.goto(address)
        page.wait_for_selector(".sap-views[data-picture=whole]")
        yield page
        page.context.close()


def body() -> np.ndarray:
    """SUV of a warm box with a hot ball."""
    data = np.full(SHAPE, 0.02, np.float32)
    data[6:34, 5:25] = 1
    data[np.linalg.norm(np.moveaxis(np.indices(SHAPE), 0, -1) - (20, 15, 12), axis=-1) < 4] = 9
    return data


def opened(page, text: str) -> None:
    page.locator(".sap-upload").get_by_role("status").filter(has_text=text).wait_for()
    page.wait_for_selector(".sap-views[data-picture=whole]")


def download(page, button: str):
    with page.expect_download() as downloading:
        page.get_by_role("button", name=button, exact=True).click()
    return downloading.value


def test_a_nifti_is_uploaded_and_its_mask_downloaded_under_its_name(page, tmp_path):
    path = tmp_path / "my scan.nii.gz"
    nib.save(nib.Nifti1Image(body(), AFFINE), path)
    page.get_by_label("unit of the voxels").select_option("SUVbw")
    page.locator(".sap-upload input[accept='.nii,.gz']").set_input_files(path)
    opened(page, "my scan.nii.gz: 40 \u00d7 30 \u00d7 24 voxels, SUVbw, no CT")
    page.get_by_role("button", name="Next hot spot").click()
    page.get_by_label("method").select_option("SUV>=4")
    page.locator("canvas.sap-axial").focus()
    page.keyboard.press("Enter")
    page.get_by_role("status").filter(has_text="mL, SUV>=4").wait_for()
    saved = download(page, "Mask")
    assert saved.suggested_filename == "my_scan_mask.nii.gz"
    saved.save_as(tmp_path / "mask.nii.gz")
    mask = load_masks(tmp_path / "mask.nii.gz", like=load_volume(path, "SUVbw"))["object 1"]
    np.testing.assert_array_equal(mask, body() >= 4)


def test_a_dicom_folder_is_uploaded_with_its_ct(page, tmp_path):
    def one_study(header, k):
        header.PatientID, header.StudyInstanceUID, header.FrameOfReferenceUID = "1", "1.2.1", "1.2.9"

    study = tmp_path / "case 7"
    slopes = np.full(SHAPE[2], 1.0)
    write_series(study / "PET", (body() * 1000).astype(int), AFFINE, slopes=slopes, change=one_study)
    finer = AFFINE @ np.diag([0.25, 0.25, 1, 1])
    anatomy = np.kron(np.where(body() > 0.5, 60, -1000), np.ones((4, 4, 1), int)).astype(int)
    write_series(study / "CT", anatomy, finer, "CT", change=one_study)
    page.locator(".sap-upload input[webkitdirectory]").set_input_files(study)
    opened(page, "case 7.zip: 40 \u00d7 30 \u00d7 24 voxels, SUVbw, with CT")
    page.get_by_label("PET to CT").fill("0.5")
    page.wait_for_function("document.querySelector('.sap-loading').hidden")
    page.get_by_role("button", name="Next hot spot").click()
    page.get_by_label("method").select_option("41% SUVmax")
    page.locator("canvas.sap-axial").focus()
    page.keyboard.press("Enter")
    page.get_by_role("status").filter(has_text="mL, 41% SUVmax").wait_for()
    page.screenshot(path=PICTURES / "app_dicom.png", full_page=True)
    segmentation = download(page, "SEG")
    assert segmentation.suggested_filename == "case_7_mask.dcm"
    segmentation.save_as(tmp_path / "mask.dcm")
    pet = load_dicom(study / "PET")
    mask = load_masks(tmp_path / "mask.dcm", like=pet)["object 1"]
    np.testing.assert_array_equal(mask, pet.data >= 0.41 * pet.data.max())
    report = download(page, "Report")
    assert report.suggested_filename == "case_7_report.html"
    report.save_as(tmp_path / "report.html")
    other = page.context.new_page()
    other.goto((tmp_path / "report.html").as_uri())
    assert "case_7" in other.title() and other.get_by_text("SUVmax").count()
    other.screenshot(path=PICTURES / "report.png", full_page=True)
    other.close()


def test_a_broken_file_is_refused_in_words_and_the_open_scan_stays(page, tmp_path):
    (tmp_path / "broken.zip").write_bytes(b"PK nothing")
    page.locator(".sap-upload input[accept='.zip']").set_input_files(tmp_path / "broken.zip")
    page.get_by_role("alert").filter(has_text="broken.zip is damaged, or no ZIP archive").wait_for()
    assert page.locator("canvas.sap-axial").is_visible()


def test_no_request_left_this_machine_and_no_page_threw(page, chromium):
    assert chromium.hosts == {"127.0.0.1"}
    assert chromium.errors == []
