"""ClickWidget's page in Chromium, its Python in this process: every tool by mouse and by keys, and nothing lost."""

import json

import numpy as np
import pytest

pytest.importorskip("playwright", reason="browser tests need playwright: pip install 'seganypet[test]'")
from browser import BROWSER_TEST, PICTURES
from hosted import Hosted
from page_scene import AFFINE, BALLS_IJK, SHAPE, beside, drag, idle, on_page, place, scan

from seganypet.pet.views import ijk_to_ras, ras_axes
from seganypet.pet.volume import Volume
from seganypet.prompting.thresholds import ThresholdSession
from seganypet.widgets import transport
from seganypet.widgets.click import ClickWidget

pytestmark = BROWSER_TEST


@pytest.fixture
def volume() -> Volume:
    return scan()


@pytest.fixture
def hosted(context) -> Hosted:
    return on_page(context)
def test_every_tool_gives_its_prompt_by_mouse(hosted):
    page, session, ball = hosted.page, hosted.widget.session, BALLS_IJK[0]
    for tool in ("scribble", "box", "lasso"):
        page.get_by_role("radio", name=tool).check(force=True)
        corners = [beside(ball, -5, -5), beside(ball, 5, -5), beside(ball, 5, 5)]
        drag(hosted, *([beside(ball, -2), beside(ball, 2)] if tool == "scribble" else corners))
        assert session.prompts[-1].kind == tool and session.prompts[-1].foreground and not hosted.widget.error
    box = next(prompt for prompt in session.prompts if prompt.kind == "box")
    assert box.low_ijk == beside(ball, -5, -5) and box.high_ijk == beside(ball, 5, 5)  # to the voxel
    before = session.mask
    page.get_by_role("radio", name="brush").check(force=True)
    page.get_by_label("brush mm").fill("8")
    drag(hosted, beside(ball, 14), beside(ball, 18))
    assert (session.mask & ~before).sum() > 10 and session.mask[beside(ball, 16)]
    drag(hosted, beside(ball, 16), button="right")  # the other sign of a brush: an eraser
    assert not session.mask[beside(ball, 16)]
    page.get_by_role("radio", name="box").check(force=True)
    page.get_by_role("radio", name="not this").check(force=True)
    drag(hosted, beside(ball, -1, -1), beside(ball, 1, 1))
    assert not session.prompts[-1].foreground and not session.mask[ball]
    steps = 0
    while session.can_undo:
        page.keyboard.press("Control+z")
        idle(hosted)
        steps += 1
    assert steps == 6 and session.objects == ()


def test_everything_is_done_by_keys(hosted):
    page, session = hosted.page, hosted.widget.session
    place(hosted, BALLS_IJK[0])
    hosted.widget.look_at(BALLS_IJK[0])
    hosted.push()
    page.locator("canvas.sap-axial").focus()
    page.keyboard.press("Enter")
    idle(hosted)
    assert session.clicks[-1].ijk == BALLS_IJK[0]
    page.keyboard.press("s")  # scribble: two corners, the last one twice
    page.keyboard.press("Enter")
    for _ in range(3):
        page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    idle(hosted)
    assert session.prompts[-1].kind == "scribble" and len(session.prompts[-1].voxels) == 4
    page.keyboard.press("d")
    page.keyboard.press("Enter")
    idle(hosted)
    assert [kind for kind in hosted.log if kind != "probe"][-1] == "paint"
    page.keyboard.press("b")
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")  # given up
    page.keyboard.press("a")
    page.keyboard.press("p")
    page.keyboard.press("f")
    idle(hosted)
    assert hosted.widget.cursor_ijk == BALLS_IJK[1] and session.active == "object 2"
    page.keyboard.press("Enter")
    idle(hosted)
    page.keyboard.press("n")
    idle(hosted)
    assert session.active == "object 1" and hosted.widget.cursor_ijk != BALLS_IJK[1]
    page.keyboard.press("h")
    assert hosted.widget.bare
    page.keyboard.press("h")
    page.keyboard.press("x")
    page.keyboard.press("v")
    assert not hosted.widget.foreground and hosted.widget.tool == "look"
    assert "box" not in [prompt.kind for prompt in session.prompts]


def test_a_sphere_a_distance_and_a_window_by_mouse_and_by_keys(hosted):
    page, widget, ball = hosted.page, hosted.widget, BALLS_IJK[0]
    page.get_by_role("radio", name="sphere").check(force=True)
    page.get_by_label("diameter of the sphere").select_option("30")
    page.mouse.click(*place(hosted, ball))
    idle(hosted)
    mm = (np.moveaxis(np.indices(SHAPE), 0, -1) - ball) @ AFFINE[:3, :3].T
    np.testing.assert_array_equal(widget.session.mask_of("sphere 1"), np.linalg.norm(mm, axis=-1) <= 15)
    page.get_by_role("button", name="unlock sphere 1").click()
    idle(hosted)
    page.get_by_role("button", name="lock sphere 1", exact=True).wait_for()

    page.get_by_role("radio", name="ruler").check(force=True)
    one, other = beside(ball, -6, -3), beside(ball, 7, 5)
    drag(hosted, one, other)
    length = np.linalg.norm(AFFINE[:3, :3] @ np.subtract(other, one))
    page.get_by_text(f"ruler: {length:.0f}").wait_for()
    page.screenshot(path=PICTURES / "ruler.png")
    assert len(widget.session.objects) == 1  # it changes no mask
    page.keyboard.press("Escape")
    page.wait_for_function("!document.querySelector('.sap-position').textContent.includes('ruler')")
    page.locator("canvas.sap-axial").focus()
    page.keyboard.press("Enter")
    for _ in range(4):
        page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("Enter")
    across = np.linalg.norm(AFFINE[:3, 0]) * 4
    page.get_by_text(f"ruler: {across:.1f} mm").wait_for()

    page.get_by_role("radio", name="window").check(force=True)
    (low, high), (x, y) = widget.intensity_range, place(hosted, ball)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x, y - 120, steps=5)
    page.mouse.up()
    idle(hosted)
    assert widget.intensity_range == pytest.approx([low, high / 2], rel=0.05)  # fainter uptake is seen
    page.mouse.move(x, y)
    page.mouse.down(button="middle")
    page.mouse.move(x, y + 120, steps=5)
    page.mouse.up(button="middle")
    idle(hosted)
    assert widget.intensity_range == pytest.approx([low, high], rel=0.05)
    steps = {"-": [low, high / 2**0.25], "+": [low, high], "Shift+W": [0, 5], "c": "hot", "Shift+M": "41% SUVmax"}
    for key, expected in steps.items():
        page.keyboard.press(key)
        idle(hosted)
        shown = {"c": widget.colour_map, "Shift+M": widget.method}.get(key, widget.intensity_range)
        assert shown == (expected if isinstance(expected, str) else pytest.approx(expected, rel=0.05)), key
    page.keyboard.press("Shift+L")
    page.get_by_role("button", name="unlock sphere 1").wait_for()
    page.keyboard.press("i")
    page.locator("canvas.sap-axial").focus()
    page.keyboard.press("Enter")
    idle(hosted)
    assert widget.session.objects == ("sphere 1", "sphere 2")


def test_a_ct_is_sent_once_it_is_to_be_seen_and_drawn_as_fine_as_it_is(volume, context):
    affine = AFFINE @ np.diag([1 / 4, 1 / 4, 1, 1])
    affine[:3, 3] = AFFINE[:3, 3] + AFFINE[:3, :3] @ [-3 / 8, -3 / 8, 0]  # its first voxels begin where the PET's do
    ct = np.full((4 * SHAPE[0], 4 * SHAPE[1], SHAPE[2]), -160, np.float32)
    i, j, k = BALLS_IJK[1]
    ct[4 * i + 2, 4 * j + 1, k] = 240  # a bright spot, a quarter of the PET's voxel wide
    volume.data[:] = 0
    volume.data[0, 0, 0] = 1
    hosted = Hosted(ClickWidget(ThresholdSession(volume, "SUV>=2.5"), ct=Volume(ct, affine, "HU")), context)
    before = hosted.log.count("piece")
    hosted.page.get_by_label("PET to CT").fill("1")
    hosted.page.wait_for_function("document.querySelector('.sap-loading').hidden")
    assert hosted.log.count("piece") - before == hosted.widget.scan["ct"]["count"]
    hosted.widget.bare = True
    hosted.push()
    x, y = place(hosted, (i, j, k))
    hosted.page.wait_for_timeout(200)
    canvas = hosted.page.locator("canvas.sap-axial")
    box, voxel = canvas.bounding_box(), canvas.evaluate("(one) => one.width / JSON.parse(one.dataset.shown)[1]")
    middle = (x - box["x"], y - box["y"])
    bright = canvas.evaluate(
        """(canvas, [x, y]) => {
            const { data, width } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            const near = (at) => Math.hypot((at % width) - x, Math.floor(at / width) - y) < 20;
            return [...Array(data.length / 4).keys()].filter((at) => data[4 * at] > 200 && near(at))
                .map((at) => [(at % width) + 0.5 - x, Math.floor(at / width) + 0.5 - y]);
        }""",
        middle,
    )
    assert 1 <= len(bright) <= 4  # as large as one voxel of the CT, a sixteenth of the PET's
    (_, right), (_, front), _ = ras_axes(volume)  # 1, or -1 where an axis runs the other way
    expected = [-right * voxel / 8, front * voxel * 4.5 / 4 / 8]
    assert np.mean(bright, axis=0) == pytest.approx(expected, abs=1)


def test_a_double_click_enlarges_a_pane_and_leaves_no_click(hosted):
    page = hosted.page
    x, y = place(hosted, BALLS_IJK[0])
    page.mouse.click(x, y)
    idle(hosted)
    page.wait_for_timeout(600)
    width = page.locator("canvas.sap-axial").bounding_box()["width"]
    page.mouse.dblclick(*place(hosted, beside(BALLS_IJK[0], 3)))
    idle(hosted)
    assert len(hosted.widget.session.clicks) == 1
    assert page.locator("canvas.sap-axial").bounding_box()["width"] > 1.3 * width
    assert not page.locator("canvas.sap-mip").is_visible()
    page.screenshot(path=PICTURES / "enlarged.png")
    x, y = place(hosted, BALLS_IJK[1])
    page.wait_for_timeout(600)
    page.mouse.click(x, y)
    idle(hosted)
    assert hosted.widget.session.clicks[-1].ijk == BALLS_IJK[1]  # enlarged, a click still means its voxel
    page.get_by_label("enlarge axial").click()
    assert page.locator("canvas.sap-mip").is_visible()


def test_the_projection_turns_and_a_click_on_it_finds_the_hottest_voxel(hosted):
    page, mip = hosted.page, hosted.page.locator("canvas.sap-mip")
    for angle in (0, 90, 215):
        page.get_by_label("projection angle").fill(str(angle))
        page.wait_for_selector(f"canvas.sap-mip[aria-label*='at {angle} degrees']")
        hosted.widget.look_at((1, 1, 1))
        hosted.push()
        box = mip.bounding_box()
        ras = ijk_to_ras(BALLS_IJK[0], hosted.widget.session.volume)
        x, y = page.evaluate(
            """async ([ras, angle, url]) => {
                const scan = window.model.get("scan");
                const {projectionOf} = await import(url);
                return projectionOf(scan.shape, scan.spacing, scan.body).placeOf(ras, angle);
            }""",
            [ras, angle, "data:text/javascript," + quoted(hosted.widget._esm)],
        )
        page.mouse.click(box["x"] + x * box["width"] + 2, box["y"] + y * box["height"])
        page.wait_for_function("(ras) => String(window.model.get('cursor')) === String(ras)", arg=list(ras))
    box = mip.bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 20 + box["width"] / 4, box["y"] + 20, steps=4)
    page.mouse.up()
    page.wait_for_selector("canvas.sap-mip[aria-label*='at 170 degrees']")  # dragging turns, and moves no crosshair
    assert hosted.widget.cursor_ijk == BALLS_IJK[0]


def quoted(text: str) -> str:
    from urllib.parse import quote

    return quote(text + "\nexport { projectionOf };")


def test_the_true_value_stands_under_the_pointer_with_voxel_and_millimetres(hosted):
    page = hosted.page
    page.mouse.move(*place(hosted, BALLS_IJK[0]))
    page.get_by_text("pointer: SUV 51.10 at voxel (20, 22, 18)").wait_for()
    mm = ", ".join(f"{x:.0f}" for x in hosted.widget.session.volume.to_mm(BALLS_IJK[0]))
    assert mm in page.locator(".sap-position").inner_text()


def test_a_restarted_kernel_and_a_closed_page_lose_nothing(hosted, context, volume):
    page = hosted.page
    page.mouse.click(*place(hosted, BALLS_IJK[0]))
    idle(hosted)
    mask = hosted.widget.session.mask
    hosted.open()  # reloaded: the kernel lives
    assert page.locator(".sap-ask").count() == 0
    page.close()
    again = Hosted(ClickWidget(ThresholdSession(volume, "SUV>=2.5")), context)
    again.page.get_by_text("Earlier work on this scan: 1 prompt on object 1").wait_for()
    again.page.screenshot(path=PICTURES / "earlier.png")
    again.page.get_by_role("button", name="Continue it").click()
    idle(again)
    np.testing.assert_array_equal(again.widget.session.mask, mask)
    assert again.page.locator(".sap-ask").count() == 0
    other = Hosted(ClickWidget(ThresholdSession(volume, "SUV>=2.5")), context)
    other.page.get_by_role("button", name="Forget it").click()
    other.open()
    assert other.page.locator(".sap-ask").count() == 0
    elsewhere = Hosted(ClickWidget(ThresholdSession(volume, "SUV>=4")), context)  # its masks would be others
    assert elsewhere.page.locator(".sap-ask").count() == 0


def test_a_dead_kernel_is_said_and_the_journal_can_still_be_had(hosted):
    page = hosted.page
    page.mouse.click(*place(hosted, BALLS_IJK[0]))
    idle(hosted)
    page.wait_for_timeout(600)
    page.evaluate("window.kill()")
    page.mouse.click(*place(hosted, beside(BALLS_IJK[0], 2)))
    page.get_by_role("alert").get_by_text("The kernel is gone").wait_for()
    page.screenshot(path=PICTURES / "dead.png")
    with page.expect_download() as downloading:
        page.get_by_role("alert").get_by_role("button", name="Download journal").click()
    journal = json.loads(downloading.value.path().read_text())
    assert [click["ijk"] for click in journal["clicks"]] == [list(BALLS_IJK[0])]


def test_save_asks_in_the_page_before_it_replaces(volume, context, tmp_path):
    first = ClickWidget(ThresholdSession(volume, "SUV>=2.5"), output_dir=tmp_path)
    first.click(ijk=BALLS_IJK[0])
    first.save()
    before = (tmp_path / "mask.nii.gz").read_bytes()
    hosted = Hosted(ClickWidget(ThresholdSession(volume, "SUV>=4"), output_dir=tmp_path), context)
    hosted.page.mouse.click(*place(hosted, BALLS_IJK[1]))
    idle(hosted)
    hosted.page.keyboard.press("Control+s")
    hosted.page.get_by_text("of another sitting").wait_for()
    hosted.page.screenshot(path=PICTURES / "save_asks.png")
    hosted.page.get_by_role("button", name="Keep both").click()
    hosted.page.get_by_role("status").filter(has_text="saved mask_2.nii.gz").wait_for()
    assert (tmp_path / "mask.nii.gz").read_bytes() == before


def test_a_scan_in_pieces_is_drawn_coarsely_then_as_it_is(volume, context, monkeypatch):
    monkeypatch.setattr(transport, "COARSE_VOXELS", 3000)
    monkeypatch.setattr(transport, "SLAB_VOXELS", 20_000)
    hosted = Hosted(ClickWidget(ThresholdSession(volume, "SUV>=2.5")), context)
    assert hosted.log.count("piece") == hosted.widget.scan["pet"]["count"] == 8  # the coarse one and seven slabs
    x, y = place(hosted, BALLS_IJK[0])
    assert darkest(hosted.page.locator("canvas.sap-axial"), x, y) < 60


def darkest(canvas, x: float, y: float) -> int:
    return canvas.evaluate(
        """(canvas, [x, y]) => {
            const box = canvas.getBoundingClientRect();
            const {data} = canvas.getContext("2d").getImageData((x - box.x) / box.width * canvas.width - 8,
                (y - box.y) / box.height * canvas.height - 8, 5, 5);
            return Math.min(...Array.from({length: 25}, (_, at) => Math.max(...data.slice(4 * at, 4 * at + 3))));
        }""",
        [x, y],
    )


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [800, 1280, 1920])
def test_at_any_width_all_is_seen_named_and_read(volume, chromium, width, dark):
    context = chromium.context(width=width, height=1000)
    widget = ClickWidget(ThresholdSession(volume, "SUV>=2.5"), ct=Volume(volume.data * 20, AFFINE, "HU"))
    for ijk in BALLS_IJK:
        widget.add()
        widget.click(ijk=ijk)
    widget.undo()  # so that Redo is there, and its words too
    hosted = Hosted(widget, context, dark=dark)
    page = hosted.page
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # nothing scrolls sideways
    for name in ("axial", "coronal", "sagittal", "mip"):
        box = page.locator(f"canvas.sap-{name}").bounding_box()
        assert box["width"] > 150 and box["x"] + box["width"] <= width
    page.screenshot(path=PICTURES / f"width_{width}_{'dark' if dark else 'light'}.png", full_page=True)
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll(".sap-click :is(button, input, select, canvas, progress, summary)")]
            .filter((one) => one.type !== "file" && !(one.getAttribute("aria-label") || one.labels?.length
                || one.textContent.trim() || one.classList.contains("sap-colourbar"))).map((one) => one.outerHTML)"""
    )
    assert unnamed == []
    assert [one for one in page.evaluate(CONTRASTS) if one[1] < 4.5] == []
    context.close()


# Contrast of every text with what lies behind it, opacity and all.
CONTRASTS = """
() => {
  const rgba = (text) => {
    const [r, g, b, a] = text.match(/[\\d.]+/g).map(Number);
    return [r, g, b, a ?? 1];
  };
  const over = (top, under) => [0, 1, 2].map((c) => top[c] * top[3] + under[c] * (1 - top[3]));
  const linear = (x) => (x / 255 <= 0.04045 ? x / 255 / 12.92 : ((x / 255 + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const found = [];
  for (const one of document.querySelectorAll(".sap-click *")) {
    const texts = [...one.childNodes].filter((node) => node.nodeType === 3 && node.textContent.trim());
    const says = texts.length || (one.tagName === "INPUT" && one.type === "text");
    const isDrawn = one.getClientRects().length && one.tagName !== "OPTION";
    if (!says || !isDrawn || one.getAttribute("aria-hidden")) continue;
    const above = [];
    for (let node = one; node; node = node.parentElement) above.unshift(getComputedStyle(node));
    const share = above.reduce((product, { opacity }) => product * Number(opacity), 1);
    const back = above.reduce((under, { backgroundColor }) => over(rgba(backgroundColor), under), [255, 255, 255]);
    const [r, g, b, a] = rgba(getComputedStyle(one).color);
    const [light, dark] = [over([r, g, b, a * share], back), back].map(luminance).sort((x, y) => y - x);
    found.push([one.textContent.trim().slice(0, 30) || one.value, (light + 0.05) / (dark + 0.05)]);
  }
  return found;
}
"""


def test_pictures_come_back_when_a_page_was_hidden_or_styled_anew(hosted):
    page = hosted.page
    page.evaluate("document.getElementById('here').style.display = 'none'")
    page.wait_for_timeout(100)
    page.evaluate("document.getElementById('here').style.display = ''")
    page.wait_for_timeout(200)
    x, y = place(hosted, BALLS_IJK[0])
    assert darkest(page.locator("canvas.sap-axial"), x, y) < 60
