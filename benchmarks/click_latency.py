"""How long a click takes in a browser: `make bench-clicks`, or `python -m benchmarks.click_latency`.

From the mouse button going down to a canvas that shows another mask, in headless Chromium, on a phantom
resampled to 256 x 256 x 326 voxels, with tiny-base on two threads. Prints a table and writes it to click_latency.md and
.csv beside this file. The crosshair stands where the click goes, so nothing but mask and mark can change the picture.

Also: how long the browser draws when somebody scrolls, and when a page of JupyterLab that is opened over a slow line
shows the scan, coarsely and whole, from the moment that the widget's frame is there.

Each row is written as soon as it is measured, in the place of the same row of an earlier run. `--parts lines` measures
anew what belongs to one part only; on a busy machine give it more patience: `--patience 3600`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
from playwright.sync_api import BrowserContext, Page

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
PARTS = ("lab", "busy", "scroll", "lines", "app")
LINES = ((8, 3, "coarse"), (2, 15, "coarse"), (8, 60, "whole"))  # Mbit/s, seconds asked for, what is shown
# Resolves with milliseconds from the event's own time until the canvas shows another mask. It looks when something was
# drawn, and at four rows below the mark: looking at every frame would take the core that the network needs.
WATCH = """
(canvas, [k, patience]) => {
  const [, , first, length] = JSON.parse(canvas.dataset.shown);
  const y = (first + length - k - 0.5) / length;
  const context = canvas.getContext("2d");
  const row = Math.round(y * canvas.height) + 16;
  const picture = () => new Uint32Array(context.getImageData(0, row, canvas.width, 4).data.buffer);
  const before = picture();
  let down = null;
  canvas.addEventListener("pointerdown", (event) => { down = event.timeStamp; }, { once: true, capture: true });
  window.changed = new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error(`no other mask within ${patience} s`)), 1000 * patience);
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


def main(arguments: list[str] | None = None) -> int:
    """Measure; the exit status says whether all rows are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure (default: all)")
    parser.add_argument("--patience", type=float, default=1800, help="seconds to wait for anything (%(default)s)")
    parser.add_argument("--output", type=Path, default=HERE, help="folder of the table (default: beside the script)")
    options = parser.parse_args(arguments)
    table = Table(options.output / "click_latency")
    with tempfile.TemporaryDirectory() as name, closing(Chromium()) as browser:
        folder = Path(name)
        liver = write_scan(folder / "SUV.nii")
        beside = (liver[0] - 10, liver[1] + 6, liver[2])  # 23 mm away
        source = NOTEBOOK.format(liver=liver, beside=beside, first=FIRST, further=FURTHER)
        write_notebook(folder / "lesson.ipynb", source, "widget")
        write_notebook(folder / "app.ipynb", source + "display(widget)")
        for where, its_parts in (("lab", PARTS[:4]), ("app", PARTS[4:])):
            parts = [part for part in its_parts if part in options.parts]
            if parts:
                with table.going_on(where), opened(where, folder, browser.context(), options.patience) as page:
                    for part in parts:
                        with table.going_on(part):
                            measure(part, page, table, (liver, beside), folder, options.patience)
    return int(table.is_incomplete)


class Table:
    """Rows that are written as they come, each in the place of an earlier one of the same quantity.

    Attributes:
        is_incomplete: Whether something could not be measured.
    """

    def __init__(self, path: Path):
        self.path, self.is_incomplete = path, False
        earlier = path.with_suffix(".csv")
        table = pd.read_csv(earlier, dtype=str) if earlier.is_file() else pd.DataFrame(columns=COLUMNS)
        self.rows = {row[0]: tuple(row) for row in table.to_numpy().tolist()}

    def add(self, row: tuple) -> None:
        print(" | ".join(row), flush=True)
        self.rows[row[0]] = row
        table = pd.DataFrame(self.rows.values(), columns=COLUMNS)
        table.to_csv(self.path.with_suffix(".csv"), index=False)
        text = f"# From mouse to mask\n\n`make bench-clicks` wrote this file.\n\n{machine()}\n\n{markdown(table)}\n"
        self.path.with_suffix(".md").write_text(text)

    @contextmanager
    def going_on(self, part: str) -> Iterator[None]:
        """Say what failed, and go on with the next part."""
        try:
            yield
        except Exception as error:  # of a browser, a server or a kernel that is too slow or gone
            self.is_incomplete = True
            print(f"{part}: not measured: {type(error).__name__}: {error}", file=sys.stderr, flush=True)


@contextmanager
def opened(where: str, folder: Path, context: BrowserContext, patience: float) -> Iterator[Page]:
    """A page with the widget, once its kernel has timed its own clicks."""
    notebook = {"lab": "lesson.ipynb", "app": "app.ipynb"}[where]
    with serve(where, folder, notebook, patience) as address, closing(context):
        page = context.new_page()
        page.set_default_timeout(1000 * patience)
        if where == "lab":
            run_all(page, address)
        else:
            page.goto(address)
        page.wait_for_selector(".sap-views[data-picture=whole]")
        yield page


def measure(part: str, page: Page, table: Table, voxels: tuple[tuple, tuple], folder: Path, patience: float) -> None:
    """Measure a part, each row of which is added to the table at once."""
    if part in ("lab", "app"):
        alone = json.loads((folder / "alone.json").read_text())
        for row in clicks(page, *voxels, alone, {"lab": "JupyterLab", "app": "Voila"}[part], patience):
            table.add(row)
    elif part == "busy":
        with busy_process():
            taken = series(page, "further", *voxels, patience)
        remark = f"median of {FURTHER}; another process multiplies matrices on all cores"
        table.add(at_most("JupyterLab, further click beside a busy process", taken, 150, "ms", remark))
    elif part == "scroll":
        remark = "median of 40; drawing alone"
        drawn = median(page.evaluate(SCROLL))
        table.add(at_most("JupyterLab, a step through slices, all panes", drawn, 16, "ms", remark))
        blend = page.get_by_label("PET to CT")
        blend.fill("0.5")
        page.wait_for_function("document.querySelector('.sap-loading').hidden")
        drawn = median(page.evaluate(SCROLL))
        table.add(at_most("the same over a CT of 512 x 512 x 326", drawn, 16, "ms", remark))
        blend.fill("0")  # so that the lines carry the PET alone
        wait(page)
    else:
        page.locator(".sap-click").last.click(position={"x": 3, "y": 3})
        page.keyboard.press("Control+s")  # so that other pages find the widget
        page.locator(".jp-mod-dirty").wait_for(state="detached")
        for line in LINES:
            table.add(over_a_line(page, *line))


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


def clicks(
    page: Page, liver: tuple, beside: tuple, alone: dict[str, list[float]], where: str, patience: float
) -> Iterator[tuple]:
    """Rows of the table for one server."""
    for which, limit, repeats in (("first", 1000, FIRST), ("further", 90, FURTHER)):
        total, session = series(page, which, liver, beside, patience), median(alone[which][1:])
        remark = f"median of {repeats}; session.click in the same kernel without widget {session:.0f} ms"
        yield at_most(f"{where}, {which} click, mouse to mask", total, limit, "ms", remark)
    yield at_most(f"{where}, the widget's own share", total - session, 40, "ms", "the difference, further click")


def series(page: Page, which: str, liver: tuple, beside: tuple, patience: float) -> float:
    """Milliseconds that a first or a further click takes, the median; begins with one that is not counted."""
    reset, undo = (page.get_by_role("button", name=name) for name in ("Reset", "Undo"))
    times = []
    if which == "further":
        timed_click(page, liver, patience)
        timed_click(page, beside, patience)  # now the crosshair stands there
    for _ in range({"first": FIRST, "further": FURTHER}[which] + 1):
        if which == "further":
            press(page, undo)
        times.append(timed_click(page, liver if which == "first" else beside, patience))
        if which == "first":
            press(page, reset)
    if which == "further":
        press(page, reset)
    return median(times[1:])


@contextmanager
def busy_process() -> Iterator[None]:
    """Another process of PyTorch that leaves no core alone."""
    code = "import torch\na = torch.rand(1500, 1500)\nwhile True: a @ a"
    other = subprocess.Popen([sys.executable, "-c", code])
    try:
        time.sleep(3)
        yield
    finally:
        other.kill()
        other.wait()


def over_a_line(page: Page, mbit: float, seconds: float, what: str) -> tuple:
    """A row of the table: how long the widget of a page that is opened anew over a slow line takes to show the scan."""
    network = page.context.new_cdp_session(page)
    network.send("Network.enable")
    rate = mbit * 1e6 / 8
    network.send("Network.emulateNetworkConditions",
                 {"offline": False, "latency": 20, "downloadThroughput": rate, "uploadThroughput": rate})  # fmt: skip
    try:
        page.reload()
        page.wait_for_selector(".sap-views")
        start = time.monotonic()
        shown = ".sap-views[data-picture=whole]" + ", .sap-views[data-picture=coarse]" * (what == "coarse")
        page.wait_for_selector(shown)
        taken = time.monotonic() - start
    finally:
        network.detach()
    return at_most(f"JupyterLab, {what} picture at {mbit:g} Mbit/s", taken, seconds, "s", "from the widget's frame on")


def timed_click(page: Page, ijk: tuple[int, int, int], patience: float) -> float:
    """Milliseconds from the mouse to the mask."""
    canvas = page.locator("canvas.sap-axial")
    x, y = point_on_page(canvas, ijk[0], ijk[1])
    canvas.evaluate(WATCH, [ijk[1], patience])
    page.mouse.click(x, y)
    milliseconds = page.evaluate("window.changed")
    wait(page)
    return milliseconds


def press(page: Page, button) -> None:
    button.click()
    wait(page)


def wait(page: Page) -> None:
    """Until the widget has nothing to do, the table included, and what it drew is on the screen."""
    page.wait_for_selector(".sap-click[aria-busy=false]")
    page.wait_for_timeout(150)
    page.evaluate("new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))")


if __name__ == "__main__":
    sys.exit(main())
