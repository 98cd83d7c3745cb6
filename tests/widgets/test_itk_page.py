"""The viewer that itkwidgets shows, drawn by Chromium from a folder of this machine.

Runs where SEGANYPET_ITK_VIEWER names that folder: `npm install itk-vtk-viewer` puts 110 MB into
node_modules/itk-vtk-viewer/dist.
"""

import os
from io import BytesIO

import numpy as np
import pytest
from conftest import oblique

pytest.importorskip("playwright", reason="browser tests need playwright: pip install 'seganypet[test]'")
from browser import BROWSER_TEST, PICTURES, Chromium
from PIL import Image

from seganypet.pet.volume import Volume
from seganypet.widgets.rendering import view3d

VIEWER = os.environ.get("SEGANYPET_ITK_VIEWER")
pytestmark = [
    *BROWSER_TEST,
    pytest.mark.skipif(VIEWER is None, reason="SEGANYPET_ITK_VIEWER names no folder of the npm package itk-vtk-viewer"),
]


def test_itk_draws_scan_and_mask_and_asks_no_other_host():
    away = np.linalg.norm(np.moveaxis(np.indices((40, 36, 30)), 0, -1) - (20, 18, 15), axis=-1)
    volume = Volume(np.where(away < 12, 3.0, 0.1) + np.where(away < 5, 6.0, 0), oblique((4.0, 4.0, 5.0)), "SUVbw")
    frame = view3d(volume, away < 5, backend="itk", itk_viewer=VIEWER)
    browser = Chromium()
    page = browser.context(width=480, height=360).new_page()
    page.goto(frame.src)
    page.wait_for_selector("canvas", timeout=120_000)
    page.wait_for_timeout(20_000)  # its own animation, on a processor
    picture = page.screenshot(timeout=240_000)
    PICTURES.mkdir(parents=True, exist_ok=True)
    (PICTURES / "itk.png").write_bytes(picture)
    rgb = np.asarray(Image.open(BytesIO(picture)).convert("RGB"), float)
    middle = rgb[100:260, 150:330]
    assert np.ptp(middle.mean(axis=-1)) > 60  # something is there, and it is no flat colour
    assert np.ptp(middle, axis=-1).max() > 60  # the mask has a colour
    assert browser.hosts == {"127.0.0.1"} and browser.errors == []
    browser.close()
