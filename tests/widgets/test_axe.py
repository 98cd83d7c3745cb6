"""axe-core finds nothing serious on ClickWidget's page, in any of its states and in both themes."""

import pytest

pytest.importorskip("playwright", reason="browser tests need playwright: pip install 'seganypet[test]'")
from browser import BROWSER_TEST
from hosted import Hosted
from page_scene import AFFINE, BALLS_IJK, idle, scan

from seganypet.pet.volume import Volume
from seganypet.prompting.thresholds import ThresholdSession
from seganypet.widgets.click import ClickWidget

pytestmark = BROWSER_TEST


@pytest.mark.filterwarnings("ignore:.*a label map holds one object")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_serious_in_any_state(chromium, dark, tmp_path):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    context, volume = chromium.context(height=1000), scan()
    context.set_default_timeout(120_000)
    ct = Volume(volume.data * 20, AFFINE, "HU")

    def opened() -> Hosted:
        return Hosted(ClickWidget(ThresholdSession(volume, "SUV>=2.5"), ct=ct, output_dir=tmp_path), context, dark=dark)

    hosted = opened()
    page, widget = hosted.page, hosted.widget

    def check(state: str) -> None:
        hosted.push()
        idle(hosted)
        found = axe.run(hosted.page, context=".sap-click").response["violations"]
        serious = [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found
                   if one["impact"] in ("serious", "critical")]  # fmt: skip
        assert serious == [], state

    check("empty")
    for number in range(12):
        widget.add()
        widget.click(ijk=BALLS_IJK[number % 2])
    widget.sphere(BALLS_IJK[0], 30.0)
    widget.hide("object 2")
    widget.undo()  # so that Redo is there, and its words too
    widget.blend = 0.3
    check("many objects over a CT")
    for tool in ("brush", "sphere", "ruler"):
        widget.tool = tool
        check(tool)
    page.locator("summary").click()
    page.locator("canvas.sap-axial").dblclick()
    widget.error = "what went wrong"
    check("enlarged, with help and an error")
    page.locator("summary").click()
    widget.save()
    widget._written.clear()
    widget.save(existing="ask")
    check("Save asks")
    page.evaluate("window.kill()")
    page.get_by_role("button", name="Undo").click()
    page.get_by_role("alert").get_by_text("The kernel is gone").wait_for()
    assert page.locator(".sap-busy").inner_text() == ""  # nothing is awaited of it
    check("a dead kernel")
    page.close()
    hosted = opened()
    assert hosted.page.get_by_text("Earlier work on this scan").count()
    check("earlier work")
    context.close()
