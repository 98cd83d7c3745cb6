"""ClickWidget's page in Chromium: what the pointer shows before anything is done, and what a double click leaves."""

import json
from itertools import product

import numpy as np
import pytest

pytest.importorskip("playwright", reason="browser tests need playwright: pip install 'seganypet[test]'")
from browser import BROWSER_TEST, point_on_page
from hosted import Hosted
from page_scene import BALLS_IJK, idle, on_page, place

from seganypet.pet.views import VIEWS, ijk_to_ras, ras_spacing, ras_to_ijk
from seganypet.pet.volume import Volume
from seganypet.prompting.thresholds import ThresholdSession
from seganypet.widgets.click import ClickWidget

pytestmark = BROWSER_TEST
COLD_IJK = (31, 14, 22)  # in the body, far from both balls


@pytest.fixture
def hosted(context) -> Hosted:
    return on_page(context)


@pytest.mark.parametrize("tool", ["point", "scribble", "box", "lasso", "brush", "eraser", "sphere", "ruler", "look"])
def test_a_double_click_leaves_nothing_of_any_tool_and_takes_nothing_of_what_was_there(hosted, tool):
    page, session = hosted.page, hosted.widget.session
    hosted.widget.click(ijk=BALLS_IJK[0])
    hosted.push()
    before = session.objects, session.prompts, session.mask
    page.get_by_role("radio", name=tool).check(force=True)
    for canvas in ("axial", "mip"):
        page.locator(f"canvas.sap-{canvas}").scroll_into_view_if_needed()
        page.mouse.dblclick(*place(hosted, BALLS_IJK[0]) if canvas == "axial" else middle(page, canvas))
        idle(hosted)
        page.keyboard.press("m")
        page.wait_for_timeout(600)
        assert (session.objects, session.prompts) == before[:2]
        np.testing.assert_array_equal(session.mask, before[2])


def middle(page, canvas: str) -> tuple[float, float]:
    box = page.locator(f"canvas.sap-{canvas}").bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


@pytest.mark.parametrize("view", VIEWS)
def test_every_corner_of_a_picture_is_a_voxel_that_is_clicked(hosted, view):
    page, volume = hosted.page, hosted.widget.session.volume
    across, up, *_ = VIEWS[view]
    body = hosted.widget.scan["body"]
    for end in product((0, -1), (0, -1)):
        i, j = (body[axis][-side] - side for axis, side in zip((across, up), (-end[0], -end[1]), strict=True))
        canvas = page.locator(f"canvas.sap-{view}")
        page.mouse.move(*point_on_page(canvas, i, j))
        ras = list(hosted.widget.cursor)
        ras[across], ras[up] = i, j
        page.get_by_text(f"at voxel ({', '.join(map(str, ras_to_ijk(ras, volume)))})").wait_for()
        assert page.locator(".sap-position").inner_text().startswith("pointer")


def test_of_a_faint_scan_of_one_slice_that_slice_is_shown_and_its_window_is_said(context):
    flat = Volume(np.full((90, 60, 1), 1.0, np.float32), np.diag([2.0, 2.0, 5.0, 1.0]), "SUVbw", source="flat")
    page = Hosted(ClickWidget(ThresholdSession(flat, "SUV>=2.5")), context).page
    assert page.get_by_label("SUV to").input_value() == "7"
    assert page.locator("canvas.sap-axial").bounding_box()["height"] > 200
    assert not page.locator("canvas.sap-coronal").is_visible()
    page.locator("canvas.sap-axial").focus()
    page.keyboard.press("m")
    assert page.locator("canvas.sap-coronal").is_visible()


@pytest.mark.parametrize("width", [800, 1010, 1280])
def test_nothing_that_is_chosen_said_or_awaited_moves_the_pictures(chromium, width):
    page_context = chromium.context(width=width, height=900)
    hosted = on_page(page_context)
    page, widget = hosted.page, hosted.widget
    top = page.locator("canvas.sap-axial").bounding_box()["y"]
    for tool in ("scribble", "brush", "sphere", "point"):
        page.get_by_role("radio", name=tool).check(force=True)
        assert page.locator("canvas.sap-axial").bounding_box()["y"] == top, tool
    worked = {"clicks": 123, "total": 1234, "seconds": 12345.0}
    for name, value in {"effort": worked, "status": 40 * "long ", "error": "no"}.items():
        widget.set_trait(name, value)
        hosted.push()
        assert page.locator("canvas.sap-axial").bounding_box()["y"] == top, name
    page.evaluate("document.querySelector('.sap-busy').textContent = 'working\u2026'")
    assert page.locator("canvas.sap-axial").bounding_box()["y"] == top
    page_context.close()


@pytest.mark.parametrize("tool", ["brush", "eraser"])
def test_a_ring_of_the_brush_s_size_goes_with_the_pointer_and_with_the_crosshair_of_keys(hosted, tool):
    page, volume = hosted.page, hosted.widget.session.volume
    for view in VIEWS:
        canvas, (across, up, *_) = page.locator(f"canvas.sap-{view}"), VIEWS[view]
        for by_keys, radius_mm, chosen in product((False, True), (8, 20), ("point", tool)):
            page.get_by_role("radio", name=chosen).check(force=True)
            if chosen == tool:
                page.get_by_label("brush mm").fill(str(radius_mm))
            page.mouse.move(*(0, 0) if by_keys else place(hosted, COLD_IJK, view))
            hosted.widget.look_at(COLD_IJK if by_keys else BALLS_IJK[0])
            hosted.push()
            canvas.focus()
            page.wait_for_timeout(100)
            ras = ijk_to_ras(COLD_IJK, volume)
            found = canvas.evaluate(DARK, point_on_page(canvas, ras[across], ras[up]))
            (_, length, *_), width = json.loads(canvas.get_attribute("data-shown")), canvas.bounding_box()["width"]
            radius_px = radius_mm * width / length / ras_spacing(volume)[across]
            near = [r for r in found if abs(r - radius_px) < 2]
            assert (len(near) > 0) == (chosen == tool), (view, by_keys, radius_mm)


# How far dark pixels are from a place of the page, along a diagonal, in CSS pixels.
DARK = """
(canvas, [x, y]) => {
  const box = canvas.getBoundingClientRect();
  const scale = canvas.width / box.width;
  const [cx, cy] = [(x - box.x) * scale, (y - box.y) * scale];
  const context = canvas.getContext("2d");
  const light = (r) => { // a thin line is dark in one of two pixels
    const { data } = context.getImageData(cx + r * Math.SQRT1_2 - 1, cy - r * Math.SQRT1_2 - 1, 2, 2);
    return Math.min(...[0, 4, 8, 12].map((at) => data[at]));
  };
  return [...Array(Math.floor(100 * scale)).keys()].filter((r) => light(r) < 170).map((r) => r / scale);
}
"""
