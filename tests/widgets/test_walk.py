"""A sitting from the first look to the file that leaves, in JupyterLab and in the app, as a new user would have it.

Open a DICOM study, propose organs, correct the liver, outline two spots, measure, close the browser, come back, find
everything, take a SEG and a report away and open the SEG with another library. Pictures of each state land in
out/browser/.
"""

import json
import re
import shutil
from pathlib import Path

import highdicom
import numpy as np
import pytest
from conftest import REPOSITORY
from make_dicom import write_series

pytest.importorskip("playwright", reason="browser tests need playwright: pip install 'seganypet[test]'")
from browser import BROWSER_TEST, PICTURES, run_all, serve, write_notebook
from playwright.sync_api import Locator, Page

from seganypet.pet.dicom import load_dicom
from seganypet.pet.mask_files import load_masks
from seganypet.pet.volume import load_volume

pytestmark = BROWSER_TEST
CELL = """
import seganypet as sap
session = sap.Session(sap.load_model("tiny"), sap.load_dicom("study/PET"))
sap.ClickWidget(session, ct=sap.load_dicom("study/CT"), output_dir="out", name="walk")
"""
PATIENT_MS = 300_000  # on a busy machine


def one_study(header, _k) -> None:
    header.PatientID, header.StudyInstanceUID, header.FrameOfReferenceUID = "1", "1.2.1", "1.2.9"


@pytest.fixture(scope="module", params=["phantom", "acrin042"])
def study(request, tmp_path_factory) -> Path:
    """A folder with the series PET and CT."""
    folder = tmp_path_factory.mktemp("walk") / "study"
    if request.param == "acrin042":
        scan = request.getfixturevalue("real_data") / "acrin042"
        for series, name in (("PET_AC", "PET"), ("CT", "CT")):
            shutil.copytree(scan / series, folder / name)
        return folder
    sample = REPOSITORY / "data_samples" / "phantom_internal_9000"
    pet, ct = load_volume(sample / "SUV.nii.gz", "SUVbw"), load_volume(sample / "CTres.nii.gz", "HU")
    write_series(folder / "unit", np.full((4, 4, 2), 1000), pet.affine)
    suv_per_step = load_dicom(folder / "unit").data.max() / 1000
    shutil.rmtree(folder / "unit")
    slopes = np.maximum(pet.data.max(axis=(0, 1)), 1e-3) / 30_000 / suv_per_step
    stored = np.rint(pet.data / (slopes * suv_per_step)).astype(int)
    write_series(folder / "PET", stored, pet.affine, slopes=slopes, change=one_study)
    write_series(folder / "CT", np.rint(ct.data).astype(int), ct.affine, "CT", change=one_study)
    return folder


class Sitting:
    """What somebody does on a page with one ClickWidget."""

    def __init__(self, page: Page, pictures: str):
        self.page, self.pictures, self.shot = page, pictures, 0
        self.widget: Locator = page.locator(".sap-click:not(.sap-upload)")
        self.widget.locator(".sap-views[data-picture=whole]").wait_for(timeout=PATIENT_MS)

    def press(self, button: str) -> None:
        self.widget.get_by_role("button", name=button, exact=True).click()
        self.idle()

    def keys(self, *keys: str) -> None:
        self.widget.locator("canvas.sap-axial").focus()
        for key in keys:
            self.page.keyboard.press(key)
            self.idle()

    def idle(self) -> None:
        self.page.wait_for_timeout(100)
        self.page.wait_for_selector(".sap-click[aria-busy=false]", timeout=PATIENT_MS)
        assert not self.widget.get_by_role("alert").filter(visible=True).count(), self.widget.inner_text()

    def picture(self, what: str) -> None:
        self.shot += 1
        self.widget.screenshot(path=PICTURES / f"{self.pictures}_{self.shot}_{what}.png")

    def names(self) -> list[str]:
        fields = self.widget.get_by_label(re.compile("^name of ")).all()
        return [field.input_value() for field in fields]

    def rename(self, name: str) -> None:
        field = self.widget.locator(".sap-active input[type=text]")
        field.fill(name)
        field.press("Enter")
        self.idle()

    def downloaded(self, button: str, folder: Path) -> Path:
        with self.page.expect_download(timeout=PATIENT_MS) as downloading:
            self.widget.get_by_role("button", name=button, exact=True).click()
        path = folder / downloading.value.suggested_filename
        downloading.value.save_as(path)
        return path

    def outline(self) -> None:
        """Organs, the liver corrected, one spot by the network, one by a threshold, a sphere and a distance."""
        self.picture("opened")
        self.press("Propose organs")
        assert "liver" in self.names()
        self.picture("organs")
        self.widget.get_by_label("click on liver").check()
        self.idle()
        self.widget.get_by_role("radio", name="scribble").check(force=True)
        self.drag(0.02)
        self.picture("liver")
        for method, name in (("session", "node 1"), ("41% SUVmax", "node 2")):
            self.widget.get_by_label("method", exact=True).select_option(method)
            self.press("Add object")
            self.press("Next hot spot")
            self.keys("p", "Enter")
            self.rename(name)
        self.keys("i", "Enter")
        self.widget.get_by_role("radio", name="ruler").check(force=True)
        self.drag(0.2)
        assert "ruler: " in self.widget.locator(".sap-position").inner_text()
        self.picture("measured")

    def drag(self, share: float) -> None:
        """From the crosshair to the right, over a share of the axial picture."""
        box = self.widget.locator("canvas.sap-axial").bounding_box()
        x, y = self.crosshair()
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + share * box["width"], y, steps=5)
        self.page.mouse.up()
        self.idle()

    def crosshair(self) -> tuple[float, float]:
        """Where it is drawn: sliders say its voxel, the canvas what it shows."""
        canvas = self.widget.locator("canvas.sap-axial")
        canvas.scroll_into_view_if_needed()
        a0, na, u0, nu = json.loads(canvas.get_attribute("data-shown"))
        sliders = [self.widget.locator(f"input[aria-label='{view} slice']") for view in ("sagittal", "coronal")]
        i, j = (int(slider.input_value()) for slider in sliders)
        box = canvas.bounding_box()
        return box["x"] + box["width"] * (a0 + na - i - 0.5) / na, box["y"] + box["height"] * (u0 + nu - j - 0.5) / nu

    def take(self, folder: Path) -> dict[str, Path]:
        """What can be downloaded."""
        folder.mkdir()
        return {one: self.downloaded(one, folder) for one in ("Journal", "Table", "Mask", "SEG", "Report")}


@pytest.mark.parametrize("where", ["lab", "app"])
def test_a_sitting_from_the_first_look_to_the_file_that_leaves(where, study, chromium, tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (folder / "study").symlink_to(study)
    (tmp_path / "data_samples").symlink_to(REPOSITORY / "data_samples")
    notebook = "walk.ipynb" if where == "lab" else "app.ipynb"
    if where == "lab":
        write_notebook(folder / notebook, CELL)
    else:
        shutil.copy(REPOSITORY / "notebooks" / notebook, folder)
    with serve(where, folder, notebook) as address:

        def opened(**browser) -> Sitting:
            page = chromium.context(height=1100, **browser).new_page()
            page.set_default_timeout(PATIENT_MS)
            if where == "lab":
                run_all(page, address)
            else:
                page.goto(address)
                page.wait_for_selector(".sap-views[data-picture=whole]")
                page.locator(".sap-upload input[webkitdirectory]").set_input_files(study)
                page.locator(".sap-upload").get_by_role("status").filter(has_text="study.zip: ").wait_for()
            return Sitting(page, f"walk_{where}")

        first = opened()
        first.outline()
        names = first.names()
        assert {"liver", "node 1", "node 2"} < set(names)
        before = first.take(tmp_path / "before")
        kept = first.page.context.storage_state()
        first.page.context.close()

        again = opened(storage_state=kept)  # the page's or the notebook's session is a new one
        again.press("Continue it")
        again.picture("continued")
        assert again.names() == names
        after = again.take(tmp_path / "after")
        prompts = [json.loads(files["Journal"].read_text())["prompts"] for files in (before, after)]
        assert prompts[0] == prompts[1] and "scribble" in {prompt.get("kind") for prompt in prompts[0]}
        assert before["Table"].read_text() == after["Table"].read_text()
        check_report(again.page, after["Report"], names)
        again.page.context.close()

    masks = load_masks(after["Mask"], like=load_dicom(study / "PET"))
    segmentation = highdicom.seg.segread(after["SEG"])
    labels = {number: segmentation.get_segment_description(number).segment_label
              for number in segmentation.segment_numbers}  # fmt: skip
    assert set(labels.values()) == set(masks) == set(names)
    voxels = dict.fromkeys(names, 0)
    frames = np.atleast_3d(segmentation.pixel_array)
    for frame, groups in zip(frames, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        voxels[labels[groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber]] += np.count_nonzero(frame)
    assert voxels == {name: np.count_nonzero(mask) for name, mask in masks.items()}
    assert chromium.hosts == {"127.0.0.1"}
    assert chromium.errors == []


def check_report(page: Page, path: Path, names: list[str]) -> None:
    """It names every object, and nothing of it is cut on paper."""
    report = page.context.new_page()
    report.goto(path.as_uri())
    for name in names:
        assert report.get_by_text(name, exact=True).count()
    report.emulate_media(media="print")
    report.set_viewport_size({"width": 718, "height": 1000})  # A4 between its margins
    assert report.evaluate("document.documentElement.scrollWidth") <= 718
    cut = "[...document.querySelectorAll('.scroll')].filter((one) => one.scrollWidth > one.clientWidth).length"
    assert report.evaluate(cut) == 0
    report.close()
