"""ClickWidget in real Chromium, in JupyterLab and in Voila: what is clicked is what was meant.

Pictures of what the browser showed land in out/browser/.
"""

import io
import json
import re
import shutil
import time
from pathlib import Path

import nbformat
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from conftest import REPOSITORY, oblique

pytest.importorskip("playwright", reason="browser tests need playwright: pip install 'seganypet[test]'")
from browser import BROWSER_TEST, PICTURES, point_on_page, run_all, serve, write_notebook
from PIL import Image

from seganypet.pet.views import VIEWS, ijk_to_ras
from seganypet.pet.volume import Volume, load_labels, load_volume

pytestmark = BROWSER_TEST
# Two scans as awkward as scanners make them. The second one's axes run foot, back, left.
AFFINES = {
    "oblique": oblique((4.07, 3.1, 6.0), left_handed=True),
    "turned": np.array([[0, 0, -5.0, 90], [0, -2.0, 0, 40], [-3.3, 0, 0, 12], [0, 0, 0, 1]]),
}
SHAPES = {"oblique": (34, 46, 21), "turned": (40, 44, 26)}
# Voxels in RAS order, as shares of the axes: the corners, where off-by-one errors show, and others.
SHARES = [(0, 0, 0), (0.999, 0.999, 0.999), (0.2, 0.7, 0.4), (0.61, 0.33, 0.8)]

NOTEBOOK = """
from pathlib import Path
from time import sleep
from test_browser import scan
from threshold_network import ThresholdNetwork
import seganypet as sap

class Network(ThresholdNetwork):
    def decode(self, *arguments):
        sleep(3 * Path("slow").exists())
        return super().decode(*arguments)

def clickable(name):
    session = sap.Session(Network(), scan(name))
    session.watchers.append(lambda: session.save_journal(f"{name}.json"))
    counts = open(f"{name}.txt", "w", buffering=1)
    session.watchers.append(lambda: print(len(session.journal().clicks), file=counts))
    return sap.ClickWidget(session, output_dir=f"saved-{name}")

oblique, turned = clickable("oblique"), clickable("turned")
"""


def hot_voxels(name: str) -> list[tuple[int, int, int]]:
    """Indices in RAS order."""
    shape = nib.as_closest_canonical(nib.Nifti1Image(np.zeros(SHAPES[name], np.uint8), AFFINES[name])).shape
    return [tuple(int(share * size) for share, size in zip(shares, shape, strict=True)) for shares in SHARES]


def scan(name: str) -> Volume:
    """A cold scan with a few single hot voxels; nibabel, not this package, says where they lie."""
    image = nib.Nifti1Image(np.full(SHAPES[name], 0.2, np.float32), AFFINES[name])
    data = image.get_fdata().astype(np.float32)
    for hot in hot_voxels(name):
        data[tuple(np.rint(np.linalg.inv(AFFINES[name]) @ [*mm_of(name, hot), 1])[:3].astype(int))] = 9.0
    return Volume(data, AFFINES[name], "SUVbw", source=name)


def mm_of(name: str, ras: tuple[int, int, int]) -> np.ndarray:
    """Where a voxel of the closest canonical array lies, by nibabel."""
    canonical = nib.as_closest_canonical(nib.Nifti1Image(np.zeros(SHAPES[name], np.uint8), AFFINES[name]))
    return nib.affines.apply_affine(canonical.affine, ras)


class Site:
    """A served notebook, and what its kernel wrote."""

    def __init__(self, folder: Path, address: str):
        self.folder, self.address = folder, address

    def clicks(self, name: str) -> list[dict]:
        path = self.folder / f"{name}.json"
        return json.loads(path.read_text())["clicks"] if path.is_file() else []

    def wait_for_clicks(self, name: str, count: int) -> list[dict]:
        deadline = time.monotonic() + 20
        while len(self.clicks(name)) != count:
            assert time.monotonic() < deadline, f"{count} clicks wanted, {self.clicks(name)} there"
            time.sleep(0.02)
        return self.clicks(name)

    def counts(self, name: str) -> list[int]:
        """Number of clicks after each change so far, also those that came and went between two looks."""
        path = self.folder / f"{name}.txt"
        return [int(line) for line in path.read_text().split()] if path.is_file() else []

    def wait_for_counts(self, name: str, counts: list[int], since: int) -> None:
        deadline = time.monotonic() + 20
        while (there := self.counts(name)[since:]) != counts:
            assert time.monotonic() < deadline, f"{counts} wanted, {there} there"
            time.sleep(0.02)


@pytest.fixture(scope="module")
def lab(chromium, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    write_notebook(folder / "lesson.ipynb", NOTEBOOK, "oblique", "turned")
    with serve("lab", folder, "lesson.ipynb") as address:
        site = Site(folder, address)
        page = chromium.context().new_page()
        run_all(page, site.address)
        page.wait_for_selector(".sap-click >> nth=1")
        page.keyboard.press("Control+s")  # so that other pages find the widgets
        yield site, page


@pytest.fixture(scope="module")
def voila(chromium, tmp_path_factory):
    folder = tmp_path_factory.mktemp("voila")
    write_notebook(folder / "lesson.ipynb", NOTEBOOK + "display(oblique, turned)")
    with serve("app", folder, "lesson.ipynb") as address:
        site = Site(folder, address)
        page = chromium.context().new_page()
        page.goto(site.address)
        page.wait_for_selector(".sap-click >> nth=1")
        yield site, page


def widget(page, name: str):
    return page.locator(".sap-click").nth(list(AFFINES).index(name))


def forget_clicks(site, page) -> None:
    for name in AFFINES:
        reset = widget(page, name).get_by_role("button", name="Reset")
        if site.clicks(name):
            reset.click()
            site.wait_for_clicks(name, 0)


def show_slice(one, view: str, depth: int) -> None:
    slider = one.get_by_label(f"{view} slice").and_(one.locator("input"))
    slider.evaluate("(input, depth) => { input.value = depth; input.dispatchEvent(new Event('input')); }", depth)
    one.page.wait_for_function(
        "([canvas, label]) => canvas.getAttribute('aria-label') === label",
        arg=[one.locator(f"canvas.sap-{view}").element_handle(), f"{view} slice {depth}"],
    )


def darkness(canvas, x: float, y: float) -> int:
    """The brightest colour of the darkest pixel drawn within 2 pixels of a place of the page, 0 to 255."""
    return canvas.evaluate(
        """(canvas, [x, y]) => {
            const box = canvas.getBoundingClientRect();
            const [px, py] = [(x - box.x) / box.width * canvas.width, (y - box.y) / box.height * canvas.height];
            const {data} = canvas.getContext("2d").getImageData(px - 2, py - 2, 5, 5);
            return Math.min(...Array.from({length: 25}, (_, at) => Math.max(...data.slice(4 * at, 4 * at + 3))));
        }""",
        [x, y],
    )


def check_that_clicks_land(site, page, name: str, picture: str) -> None:
    """In all three views, what is drawn at a place is the voxel meant, and a click there is a click on it."""
    one = widget(page, name)

    def place(view: str, ras: tuple[int, int, int]) -> tuple:
        across, up, through, *_ = VIEWS[view]
        show_slice(one, view, ras[through])
        canvas = one.locator(f"canvas.sap-{view}")
        return canvas, *point_on_page(canvas, ras[across], ras[up])

    targets = [(view, ras) for view in VIEWS for ras in hot_voxels(name)]
    for view, ras in targets:  # before any mark covers them
        assert darkness(*place(view, ras)) < 60, f"{view} {ras}: the hot voxel is drawn elsewhere"
    for made, (view, ras) in enumerate(targets, 1):
        _, x, y = place(view, ras)
        page.mouse.click(x, y)
        click = site.wait_for_clicks(name, made)[-1]
        np.testing.assert_allclose(click["mm"], mm_of(name, ras), atol=0.01, err_msg=f"{view} {ras}")
        assert click["foreground"] is True
    one.screenshot(path=PICTURES / picture)


@pytest.mark.parametrize("name", AFFINES)
def test_clicks_land_on_the_voxel_meant_in_jupyterlab(lab, name):
    forget_clicks(*lab)
    check_that_clicks_land(*lab, name, f"lab_{name}.png")


@pytest.mark.parametrize("name", AFFINES)
def test_clicks_land_on_the_voxel_meant_in_voila(voila, name):
    forget_clicks(*voila)
    check_that_clicks_land(*voila, name, f"voila_{name}.png")


@pytest.mark.parametrize("ratio", [1.25, 2], ids=["zoomed to 125 %", "a screen of two pixels to one"])
def test_clicks_land_whatever_the_pixels_are(lab, chromium, ratio):
    site, _ = lab
    page = chromium.context(pixel_ratio=ratio).new_page()
    page.goto(site.address)  # another page on the same kernel: state comes from there
    page.wait_for_selector(".sap-click >> nth=1")
    forget_clicks(site, page)
    check_that_clicks_land(site, page, "oblique", f"lab_pixel_ratio_{ratio}.png")
    page.context.close()


def click_middle(page, one, view="axial", **options) -> None:
    canvas = one.locator(f"canvas.sap-{view}")
    canvas.scroll_into_view_if_needed()
    canvas.click(**options)


def test_right_and_shift_clicks_say_not_this_and_keys_undo_redo_and_change_the_sign(lab):
    site, page = lab
    forget_clicks(site, page)
    one = widget(page, "turned")
    signs = [True, False, False]
    click_middle(page, one)
    site.wait_for_clicks("turned", 1)
    click_middle(page, one, button="right")
    site.wait_for_clicks("turned", 2)
    click_middle(page, one, modifiers=["Shift"])
    assert [click["foreground"] for click in site.wait_for_clicks("turned", 3)] == signs
    page.keyboard.press("z")
    site.wait_for_clicks("turned", 2)
    page.keyboard.press("y")
    site.wait_for_clicks("turned", 3)
    page.keyboard.press("x")
    click_middle(page, one)
    assert [click["foreground"] for click in site.wait_for_clicks("turned", 4)] == [*signs, False]
    page.keyboard.press("v")
    click_middle(page, one)  # looks, and clicks nothing
    page.keyboard.press("p")
    page.keyboard.press("Enter")  # at the crosshair, where the mouse was last
    assert [click["ijk"] for click in site.wait_for_clicks("turned", 5)[-2:]] == [site.clicks("turned")[-1]["ijk"]] * 2
    # x cuts and z undoes a cell in JupyterLab, unless the widget keeps its keys to itself.
    assert page.locator(".jp-Notebook .jp-CodeCell").count() >= 3


def test_arrows_pages_and_the_wheel_go_through_slices(lab):
    site, page = lab
    one = widget(page, "oblique")
    show_slice(one, "coronal", 20)
    canvas = one.locator("canvas.sap-coronal")
    canvas.hover()
    canvas.focus()
    for key, depth in (("ArrowUp", 21), ("PageUp", 31), ("ArrowDown", 30), ("PageDown", 20)):
        page.keyboard.press(key)
        page.wait_for_selector(f".sap-coronal[aria-label='coronal slice {depth}']")
    page.mouse.wheel(0, -120)
    page.wait_for_selector(".sap-coronal[aria-label='coronal slice 21']")
    for _ in range(6):
        page.mouse.wheel(0, 15)  # as a trackpad sends it
    page.wait_for_selector(".sap-coronal[aria-label='coronal slice 19']")


def test_slices_scroll_while_the_network_works(lab):
    site, page = lab
    forget_clicks(site, page)
    one = widget(page, "oblique")
    idle = one.locator(".sap-busy:empty")
    (site.folder / "slow").touch()
    try:
        click_middle(page, one)
        one.get_by_text("working").wait_for()
        for depth in (2, 5, 9):
            show_slice(one, "axial", depth)
        assert site.clicks("oblique") == []  # still at it
        earlier = len(site.counts("oblique"))
        page.keyboard.press("z")  # waits its turn
        site.wait_for_counts("oblique", [1, 0], since=earlier)
        idle.wait_for(state="attached")
        canvas = one.locator("canvas.sap-axial")
        canvas.focus()
        for _ in range(2):
            page.keyboard.press("Enter")
        site.wait_for_clicks("oblique", 1)
        assert one.locator(".sap-busy").text_content()  # at the second one
        site.wait_for_clicks("oblique", 2)
        idle.wait_for(state="attached")
    finally:
        (site.folder / "slow").unlink()
    assert canvas.get_attribute("aria-label") == "axial slice 9"  # the answers moved nothing


def test_a_click_on_the_projection_jumps_to_the_hottest_voxel_behind_it(lab):
    site, page = lab
    one = widget(page, "oblique")
    i, j, k = hot_voxels("oblique")[2]
    show_slice(one, "coronal", 0)
    page.mouse.click(*point_on_page(one.locator("canvas.sap-mip"), i, k))
    for view, depth in (("axial", k), ("coronal", j), ("sagittal", i)):
        one.locator(f"canvas.sap-{view}[aria-label='{view} slice {depth}']").wait_for()


def test_an_error_stands_in_the_widget(lab):
    site, page = lab
    forget_clicks(site, page)
    one = widget(page, "oblique")
    canvas = one.locator("canvas.sap-axial")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    place = box["x"] + 0.3 * box["width"], box["y"] + 0.6 * box["height"]
    page.mouse.click(*place, button="right")
    alert = one.get_by_role("alert")
    alert.wait_for()
    assert "first click on an object must be foreground" in alert.inner_text()
    page.mouse.click(*place)
    alert.wait_for(state="hidden")
    page.wait_for_timeout(600)  # no double click
    page.mouse.click(*place)  # nothing that is said moves the picture under the mouse
    first, second = site.wait_for_clicks("oblique", 2)
    assert first["ijk"] == second["ijk"]
    page.keyboard.press("Shift+Enter")
    assert not site.wait_for_clicks("oblique", 3)[-1]["foreground"]
    page.keyboard.press("Control+x")  # the browser's own, not the widget's
    one.get_by_role("radio", name="this", exact=False).first.and_(page.locator(":checked")).wait_for()


def test_objects_are_added_named_hidden_and_removed(lab):
    site, page = lab
    forget_clicks(site, page)
    one = widget(page, "oblique")
    click_middle(page, one)
    site.wait_for_clicks("oblique", 1)
    one.get_by_label("name of object 1").fill("liver")
    one.get_by_label("name of object 1").press("Enter")
    one.get_by_label("name of liver").wait_for()
    cells = page.locator(".jp-Notebook .jp-CodeCell").count()
    page.keyboard.press("x")  # the keys are still the widget's, not JupyterLab's, which would cut the cell
    one.get_by_role("radio", name="not this").and_(page.locator(":checked")).wait_for()
    page.keyboard.press("x")
    assert page.locator(".jp-Notebook .jp-CodeCell").count() == cells
    one.get_by_role("button", name="Add object").click()
    one.get_by_label("name of object 1").wait_for()
    click_middle(page, one, view="coronal")
    assert [click["object"] for click in site.wait_for_clicks("oblique", 2)] == ["liver", "object 1"]
    one.get_by_role("radio", name="click on object 1").press("ArrowUp")  # as a keyboard chooses among radio buttons
    one.get_by_role("radio", name="click on liver").and_(page.locator(":checked")).wait_for()
    one.get_by_title("hide liver").click()
    one.get_by_title("show liver").wait_for()
    page.keyboard.press("z")  # the button that was pressed is gone; the widget still has the keys
    site.wait_for_clicks("oblique", 1)
    page.keyboard.press("y")
    site.wait_for_clicks("oblique", 2)
    one.get_by_label("name of liver").fill("object 1")
    one.get_by_label("name of liver").press("Enter")
    one.get_by_role("alert").filter(has_text="cannot rename 'liver'").wait_for()
    assert one.get_by_label("name of liver").input_value() == "liver"  # what was refused does not stay written
    one.get_by_title("remove object 1").click()
    assert [click["object"] for click in site.wait_for_clicks("oblique", 1)] == ["liver"]
    one.screenshot(path=PICTURES / "lab_objects.png")


def test_saved_and_downloaded_masks_lie_on_the_scans_grid(lab):
    site, page = lab
    forget_clicks(site, page)
    one = widget(page, "turned")
    i, j, k = hot_voxels("turned")[2]
    show_slice(one, "axial", k)
    page.mouse.click(*point_on_page(one.locator("canvas.sap-axial"), i, j))
    site.wait_for_clicks("turned", 1)
    one.get_by_role("button", name="Save").click()
    one.get_by_role("status").filter(has_text="saved mask.nii.gz").wait_for()
    saved = site.folder / "saved-turned" / "mask.nii.gz"
    with page.expect_download() as downloading:
        one.get_by_role("button", name="Mask", exact=True).click()
    downloaded = site.folder / downloading.value.suggested_filename
    downloading.value.save_as(downloaded)
    assert downloaded.name == "mask.nii.gz"
    for path in (saved, downloaded):
        np.testing.assert_allclose(nib.load(path).affine, AFFINES["turned"], atol=1e-5)
        load_labels(path, like=scan("turned"))
    assert np.array_equal(nib.load(saved).get_fdata(), nib.load(downloaded).get_fdata())


def test_a_reloaded_page_shows_what_was_there(lab):
    site, page = lab
    forget_clicks(site, page)
    for name in AFFINES:
        click_middle(page, widget(page, name))
        site.wait_for_clicks(name, 1)
    show_slice(widget(page, "oblique"), "axial", 3)
    page.keyboard.press("Control+s")
    page.wait_for_timeout(1000)
    page.reload()
    page.wait_for_selector(".sap-click >> nth=1")
    one = widget(page, "oblique")
    one.locator("canvas.sap-axial[aria-label='axial slice 3']").wait_for()
    assert one.locator(".sap-counter").inner_text().startswith("1 prompt")
    click_middle(page, one)  # and it still listens
    site.wait_for_clicks("oblique", 2)
    assert len(site.clicks("turned")) == 1  # the other widget heard nothing of it
    page.screenshot(path=PICTURES / "lab_page.png")


def test_control_s_in_the_widget_saves_the_notebook(lab):
    site, page = lab
    notebook = site.folder / "lesson.ipynb"
    before = notebook.stat().st_mtime_ns
    widget(page, "oblique").locator("canvas.sap-axial").focus()
    page.keyboard.press("Control+s")
    deadline = time.monotonic() + 20
    while notebook.stat().st_mtime_ns == before:
        assert time.monotonic() < deadline, "not saved"
        page.wait_for_timeout(50)


def test_a_theme_that_is_changed_leaves_the_pictures(lab):
    site, page = lab
    one = widget(page, "oblique")
    i, j, k = hot_voxels("oblique")[2]
    for theme in ("Dark", "Light"):
        page.get_by_role("menuitem", name="Settings", exact=True).click()
        page.get_by_text("Theme", exact=True).hover()
        page.get_by_text(f"JupyterLab {theme}", exact=True).click()
        page.wait_for_timeout(1500)
        show_slice(one, "axial", k)
        canvas = one.locator("canvas.sap-axial")
        assert darkness(canvas, *point_on_page(canvas, i, j)) < 60
        one.screenshot(path=PICTURES / f"lab_{theme.lower()}.png")


def test_after_a_kernel_restart_the_page_says_so_and_offers_what_was_done(lab):
    site, page = lab
    forget_clicks(site, page)
    click_middle(page, widget(page, "oblique"))
    (made,) = site.wait_for_clicks("oblique", 1)
    page.get_by_role("menuitem", name="Kernel", exact=True).click()
    page.get_by_text("Restart Kernel\u2026", exact=True).click()
    page.get_by_role("button", name="Confirm Kernel Restart").click()
    page.get_by_text("(ipykernel) | Idle").wait_for()
    click_middle(page, widget(page, "oblique"))
    page.get_by_text(re.compile("kernel is gone|No answer yet")).first.wait_for()
    page.screenshot(path=PICTURES / "lab_restarted.png")
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    one = widget(page, "oblique")
    one.get_by_text("Earlier work on this scan: 1 prompt on object 1").wait_for()
    one.get_by_role("button", name="Continue it").click()
    assert site.wait_for_clicks("oblique", 1)[0]["ijk"] == made["ijk"]
    one.locator(".sap-counter").filter(has_text=re.compile("^1 prompt")).wait_for()


def test_the_quickstart_is_clicked_as_a_new_user_would(chromium, tmp_path):
    """Open the lesson, run it up to the widget, click the liver, undo, click, save; another program reads the mask."""
    lessons, out = tmp_path / "notebooks", tmp_path / "out"
    shutil.copytree(REPOSITORY / "notebooks", lessons)
    (tmp_path / "data_samples").symlink_to(REPOSITORY / "data_samples")
    lesson = nbformat.read(lessons / "00_quickstart.ipynb", as_version=4)
    last = next(number for number, cell in enumerate(lesson.cells) if "sap.ClickWidget(" in cell.source)
    lesson.cells = lesson.cells[: last + 1]
    nbformat.write(lesson, lessons / "00_quickstart.ipynb")
    with serve("lab", lessons, "00_quickstart.ipynb") as address:
        page = chromium.context(height=1150).new_page()
        run_all(page, address)
        one = page.locator(".sap-click")
        one.wait_for()
        one.locator(".sap-counter").filter(has_text="0 prompts").wait_for()
        one.get_by_role("status", name="score").filter(has_text="liver: reach DSC 0.90").wait_for()
        scan = load_volume(REPOSITORY / "data_samples/phantom_internal_9000/SUV.nii.gz", unit="SUVbw")
        liver_ijk = (78, 25, 171)
        i, j, k = ijk_to_ras(liver_ijk, scan)
        show_slice(one, "axial", k)
        frames = [one.screenshot()]
        for clicks in (1, 0, 1):
            if clicks:
                page.mouse.click(*point_on_page(one.locator("canvas.sap-axial"), i, j))
            else:
                one.get_by_role("button", name="Undo").click()
            one.locator(".sap-counter").filter(has_text=re.compile(rf"^{clicks} prompt")).wait_for()
        frames.append(one.screenshot())
        assert one.get_by_role("radio", name="click on liver").is_checked()
        one.get_by_role("status", name="score").filter(has_text=re.compile("^liver: DSC 0[.]")).wait_for()
        one.get_by_role("button", name="Save").click()
        one.get_by_role("status").filter(has_text="saved mask.nii.gz").wait_for()
        page.context.close()
    pictures = [Image.open(io.BytesIO(frame)).convert("P", palette=Image.Palette.ADAPTIVE) for frame in frames]
    pictures[0].save(PICTURES / "click.gif", save_all=True, append_images=pictures[1:], duration=1600, loop=0)
    saved = sitk.ReadImage(out / "by_hand" / "mask.nii.gz")  # a program that shares no code with ours
    organs = sitk.ReadImage(REPOSITORY / "data_samples/phantom_internal_9000/organs.nii.gz")
    place_mm = saved.TransformIndexToPhysicalPoint(liver_ijk) * np.array((-1, -1, 1))  # DICOM's LPS to RAS
    np.testing.assert_allclose(place_mm, scan.to_mm(liver_ijk), atol=0.01)
    mask, truth = (sitk.GetArrayFromImage(image) == 1 for image in (saved, organs))
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.5


def test_in_voila_too_clicks_say_not_this_are_undone_and_their_mask_is_downloaded(voila):
    site, page = voila
    forget_clicks(site, page)
    one = widget(page, "oblique")
    click_middle(page, one)
    site.wait_for_clicks("oblique", 1)
    click_middle(page, one, button="right")
    assert [click["foreground"] for click in site.wait_for_clicks("oblique", 2)] == [True, False]
    one.get_by_role("button", name="Undo").click()
    site.wait_for_clicks("oblique", 1)
    with page.expect_download() as downloading:
        one.get_by_role("button", name="Mask", exact=True).click()
    downloading.value.save_as(site.folder / "mask.nii.gz")
    load_labels(site.folder / "mask.nii.gz", like=scan("oblique"))
    assert "ThresholdNetwork" not in page.content()  # the code is hidden


def test_two_browsers_do_not_see_each_others_work(voila, chromium):
    site, page = voila
    forget_clicks(site, page)
    other = chromium.context().new_page()
    other.goto(site.address)
    other.wait_for_selector(".sap-click >> nth=1")
    click_middle(page, widget(page, "oblique"))
    widget(page, "oblique").locator(".sap-counter").filter(has_text="1 prompt,").wait_for()
    assert widget(other, "oblique").locator(".sap-counter").inner_text().startswith("0 prompts")
    other.context.close()


def test_no_request_left_this_machine_and_no_page_threw(lab, voila, chromium):
    assert chromium.hosts == {"127.0.0.1"}
    assert chromium.errors == []
