"""Two hot balls in a warm body on a page, and hands for tests of ClickWidget's view."""

import numpy as np
from browser import BrowserContext, point_on_page
from conftest import oblique
from hosted import Hosted

from seganypet.pet.views import VIEWS, ijk_to_ras
from seganypet.pet.volume import Volume
from seganypet.prompting.thresholds import ThresholdSession
from seganypet.widgets.click import ClickWidget

SHAPE, BALLS_IJK = (60, 48, 40), ((20, 22, 18), (42, 30, 28))
# One wide body around them, air beyond: what is shown is cropped.
AFFINE = oblique((4.0, 4.5, 5.0), left_handed=True)


def scan() -> Volume:
    data = np.zeros(SHAPE, np.float32)
    data[8:52, 8:42] = 0.6
    for ijk in BALLS_IJK:
        mm = (np.moveaxis(np.indices(SHAPE), 0, -1) - ijk) @ AFFINE[:3, :3].T
        data[np.linalg.norm(mm, axis=-1) < 16] = 8
    data[BALLS_IJK[0]] = 51.1
    return Volume(data, AFFINE, "SUVbw", source="balls")


def on_page(context: BrowserContext) -> Hosted:
    """A widget of the scan, on a page."""
    return Hosted(ClickWidget(ThresholdSession(scan(), "SUV>=2.5")), context)


def place(hosted: Hosted, ijk, view: str = "axial") -> tuple[float, float]:
    """Where on the page a voxel is, once its slice is shown."""
    ras = ijk_to_ras(ijk, hosted.widget.session.volume)
    across, up, through, *_ = VIEWS[view]
    slider = hosted.page.get_by_label(f"{view} slice").and_(hosted.page.locator("input"))
    slider.evaluate("(input, to) => { input.value = to; input.dispatchEvent(new Event('input')); }", ras[through])
    canvas = hosted.page.locator(f"canvas.sap-{view}[aria-label='{view} slice {ras[through]}']")
    canvas.wait_for()
    return point_on_page(canvas, ras[across], ras[up])


def drag(hosted: Hosted, *corners_ijk, button: str = "left") -> None:
    places = [place(hosted, ijk) for ijk in corners_ijk]
    hosted.page.mouse.move(*places[0])
    hosted.page.mouse.down(button=button)
    for to in places[1:]:
        hosted.page.mouse.move(*to, steps=8)
    hosted.page.mouse.up(button=button)
    idle(hosted)


def idle(hosted: Hosted) -> None:
    hosted.page.wait_for_timeout(50)
    hosted.page.wait_for_selector(".sap-click[aria-busy=false]")


def beside(ijk, i=0, j=0) -> tuple[int, int, int]:
    return (ijk[0] + i, ijk[1] + j, ijk[2])


