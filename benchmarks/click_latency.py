"""How long a click takes in a browser: `make bench-clicks`, or `python -m benchmarks.click_latency`.

From the mouse button going down to a canvas that shows another mask, in headless Chromium, on a phantom
resampled to 256 x 256 x 326 voxels, with tiny-base on two threads. Prints a table and writes it to click_latency.md and
.csv beside this file. The crosshair stands where the click goes, so nothing but mask and mark can change the picture.

Also: how long the browser draws when somebody scrolls, and when a page of JupyterLab that is opened over a slow line
shows the scan, coarsely and whole, from the moment that the widget's frame is there.
"""

import json
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
from playwright.sync_api import Page

import seganypet as sap
from benchmarks.run import COLUMNS, at_most, machine, markdown
from seganypet.pet.volume import Volume

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))
from browser import Chromium, point_on_page, run_all, serve, write_notebook  # noqa: E402

SEED, SHAPE, SPACING = 7, (256, 256, 326), (2.0, 2.0, 3.0)
FIRST, FURTHER = 5, 20  # repeats
NOTEBOOK = """
import json
import time
from pathlib import Path
import numpy as np
import torch
import seganypet as sap
torch.set_num_threads(2)
liver, beside = {liver}, {beside}
pet = sap.load_volume("SUV.nii", unit="SUVbw")
session = sap.Session(sap.load_model("tiny-base"), pet)
finer = np.array([[0.5, 0, 0, -0.25], [0, 0.5, 0, -0.25], [0, 0, 1, 0], [0, 0, 0, 1]])  # voxels of half the width
body = np.where(pet.data > 0.2, np.float32(40), np.float32(-1000))
ct = sap.Volume(body.repeat(2, axis=0).repeat(2, axis=1), pet.affine @ finer, "HU")

def timed(ijk):
    time.sleep(0.3)  # as between a user's clicks: after a pause caches and threads are cold
    start = time.perf_counter()
    session.click(ijk=ijk)
    return 1000 * (time.perf_counter() - start)

alone = dict(first=[], further=[])  # no widget, no browser
for _ in range({first} + 1):
    session.reset()
    session._decoder.forget()
    alone["first"].append(timed(liver))
for _ in range({further} + 1):
    alone["further"].append(timed(beside))
    session.undo()
Path("alone.json").write_text(json.dumps(alone))
session.reset()
session.watchers.append(lambda: session.objects or session._decoder.forget())  # a first click is a first click
widget = sap.ClickWidget(session, ct=ct)
widget.look_at(liver)
"""
# Milliseconds that all panes take to be drawn, for each of 40 steps through the axial slices.
SCROLL = """
async () => {
  const slider = document.querySelector(".sap-click input[aria-label='axial slice']");
  const frame = () => new Promise(requestAnimationFrame);
  const times = [];
  for (let step = 0; step < 40; step++) {
    let start;
    requestAnimationFrame(() => { start = performance.now(); }); // before the widget's own
    slider.value = Number(slider.value) + 1;
    slider.dispatchEvent(new Event("input"));
    await frame();
    times.push(performance.now() - start);
    await frame();
  }
  return times;
}
"""
LINES = ((8, 3, "coarse"), (2, 15, "coarse"), (8, 60, "whole"))  # Mbit/s, seconds asked for, what is shown
# Resolves with milliseconds from the event's own time until the canvas shows another mask. It looks when something was
# drawn, and at four rows below the mark: looking at every frame would take the core that the network needs.
WATCH = """
(canvas, k) => {
  const [, , first, length] = JSON.parse(canvas.dataset.shown);
  const y = (first + length - k - 0.5) / length;
  const context = canvas.getContext("2d");
  const row = Math.round(y * canvas.height) + 16;
  const picture = () => new Uint32Array(context.getImageData(0, row, canvas.width, 4).data.buffer);
  const before = picture();
  let down = null;
  canvas.addEventListener("pointerdown", (event) => { down = event.timeStamp; }, { once: true, capture: true });
  window.changed = new Promise((resolve) => {
    const look = () => {
      if (down === null || picture().every((pixel, at) => pixel === before[at])) return;
      delete context.drawImage;
      resolve(performance.now() - down);
    };
    context.drawImage = (...what) => {
      CanvasRenderingContext2D.prototype.drawImage.apply(context, what);
      queueMicrotask(look); // when all layers are drawn
    };
  });
}
"""


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as name, closing(Chromium()) as browser:
        folder = Path(name)
        liver = write_scan(folder / "SUV.nii")
        beside = (liver[0] - 10, liver[1] + 6, liver[2])  # 23 mm away
        source = NOTEBOOK.format(liver=liver, beside=beside, first=FIRST, further=FURTHER)
        write_notebook(folder / "lesson.ipynb", source, "widget")
        write_notebook(folder / "app.ipynb", source + "display(widget)")
        for where, notebook in (("lab", "lesson.ipynb"), ("app", "app.ipynb")):
            with serve(where, folder, notebook) as address:
                page = browser.context().new_page()
                page.set_default_timeout(600_000)  # the kernel times its own clicks first
                if where == "lab":
                    run_all(page, address)
                else:
                    page.goto(address)
                page.wait_for_selector(".sap-click")
                page.wait_for_timeout(3000)  # the page has settled
                alone = json.loads((folder / "alone.json").read_text())
                rows += measure(page, liver, beside, alone, {"lab": "JupyterLab", "app": "Voila"}[where])
                if where == "lab":
                    drawn = median(page.evaluate(SCROLL))
                    remark = "median of 40; drawing alone"
                    rows.append(at_most("JupyterLab, a step through slices, all panes", drawn, 16, "ms", remark))
                    blend = page.get_by_label("PET to CT")
                    blend.fill("0.5")
                    page.wait_for_function("document.querySelector('.sap-loading').hidden", timeout=300_000)
                    drawn = median(page.evaluate(SCROLL))
                    rows.append(at_most("the same over a CT of 512 x 512 x 326", drawn, 16, "ms", remark))
                    blend.fill("0")  # so that the lines below carry the PET alone
                    page.keyboard.press("Control+s")  # so that other pages find the widget
                    page.wait_for_timeout(2000)
                    rows += [over_a_line(page, *line) for line in LINES]
                page.context.close()
    table = pd.DataFrame(rows, columns=COLUMNS)
    text = f"{machine()}\n\n{markdown(table)}\n"
    print(text)
    (HERE / "click_latency.md").write_text(f"# From mouse to mask\n\n`make bench-clicks` wrote this file.\n\n{text}")
    table.to_csv(HERE / "click_latency.csv", index=False)


def write_scan(path: Path) -> tuple[int, int, int]:
    """Write the phantom's PET on the large grid; returns a voxel deep inside its liver."""
    case = sap.make_phantom(seed=SEED)
    affine = np.diag([*SPACING, 1.0])
    middle = case.pet.to_mm(np.array(case.pet.shape) / 2)
    affine[:3, 3] = middle - np.array(SHAPE) / 2 * SPACING
    grid = Volume(np.zeros(SHAPE), affine, "SUVbw")
    sap.save_volume(path, sap.resample_to(case.pet, grid))
    label = next(label for label, name in case.organ_names.items() if name == "liver")
    deepest = sap.first_click(case.organs == label, spacing=case.pet.spacing).ijk
    return tuple(int(index) for index in np.rint(grid.to_ijk(case.pet.to_mm(deepest))))


def measure(page: Page, liver: tuple, beside: tuple, alone: dict[str, list[float]], where: str) -> list[tuple]:
    """Rows of the table for one server; every series begins with one click that is not counted."""
    reset, undo = (page.get_by_role("button", name=name) for name in ("Reset", "Undo"))
    times = {"first": [], "further": []}
    for _ in range(FIRST + 1):
        times["first"].append(timed_click(page, liver))
        press(page, reset)
    timed_click(page, liver)
    timed_click(page, beside)  # now the crosshair stands there
    for _ in range(FURTHER + 1):
        press(page, undo)
        times["further"].append(timed_click(page, beside))
    rows = []
    for which, limit in (("first", 1000), ("further", 200)):
        total, session = (median(series[which][1:]) for series in (times, alone))
        remark = f"median of {len(times[which]) - 1}; session.click in the same kernel without widget {session:.0f} ms"
        rows.append(at_most(f"{where}, {which} click, mouse to mask", total, limit, "ms", remark))
    rows.append(at_most(f"{where}, the widget's own share", total - session, 40, "ms", "the difference, further click"))
    return rows


def over_a_line(page: Page, mbit: float, seconds: float, what: str) -> tuple:
    """A row of the table: how long the widget of a page that is opened anew over a slow line takes to show the scan."""
    network = page.context.new_cdp_session(page)
    network.send("Network.enable")
    rate = mbit * 1e6 / 8
    network.send("Network.emulateNetworkConditions",
                 {"offline": False, "latency": 20, "downloadThroughput": rate, "uploadThroughput": rate})  # fmt: skip
    page.reload()
    page.wait_for_selector(".sap-views", timeout=300_000)
    start = time.monotonic()
    shown = ".sap-views[data-picture=whole]" + ", .sap-views[data-picture=coarse]" * (what == "coarse")
    page.wait_for_selector(shown, timeout=300_000)
    taken = time.monotonic() - start
    network.detach()
    return at_most(f"JupyterLab, {what} picture at {mbit:g} Mbit/s", taken, seconds, "s", "from the widget's frame on")


def timed_click(page: Page, ijk: tuple[int, int, int]) -> float:
    """Milliseconds from the mouse to the mask."""
    canvas = page.locator("canvas.sap-axial")
    x, y = point_on_page(canvas, ijk[0], ijk[1])
    canvas.evaluate(WATCH, ijk[1])
    page.mouse.click(x, y)
    milliseconds = page.evaluate("window.changed")
    wait(page)
    return milliseconds


def press(page: Page, button) -> None:
    button.click()
    wait(page)


def wait(page: Page) -> None:
    """Until the widget has nothing to do, the table included."""
    page.wait_for_selector(".sap-click[aria-busy=false]")
    page.wait_for_timeout(150)


if __name__ == "__main__":
    main()
