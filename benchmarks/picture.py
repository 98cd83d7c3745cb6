"""The README's pictures, of a synthetic patient; `python -m benchmarks.picture`.

mip.png: three organs of a sample from two clicks each. click.gif, viewer.png, viewer_fused.png: the click widget in
Chromium, before and after a click; with organs, a lesion outlined by a threshold and a sphere; in the dark over the CT.
Each is written as soon as it is there; `--parts click` makes click.gif alone.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image

import seganypet as sap
from seganypet.cohort.case import Case

REPOSITORY = Path(__file__).parents[1]
SAMPLES = REPOSITORY / "data_samples"
PATIENT_MS = 1_800_000  # on a busy machine
ORGANS = ("liver", "heart", "spleen")
sys.path[:0] = [str(REPOSITORY / "tests"), str(REPOSITORY / "tests" / "widgets")]
from browser import Chromium  # noqa: E402
from hosted import Hosted  # noqa: E402


def main(arguments: list[str] | None = None) -> None:
    """Write the pictures and print the DSC that mip.png shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("mip", "click", "viewer"), default=("mip", "click", "viewer"))
    parser.add_argument("--output", type=Path, default=SAMPLES, help="folder of the pictures (default: data_samples)")
    options = parser.parse_args(arguments)
    case = sap.Cohort.from_csv(SAMPLES / "cohort.csv")["phantom_internal_9000"]
    if "mip" in options.parts:
        write_mip(case, options.output)
    if {"click", "viewer"} & set(options.parts):
        with closing(Chromium()) as browser:
            write_viewer(case, browser, options.output, options.parts)


def write_mip(case: Case, folder: Path) -> None:
    """Projections without and with the organs."""
    pet = case.load_pet()
    session = sap.Session(sap.load_model("tiny"), pet)
    for name, truth in case.targets(pet, ORGANS):
        session.select(name)
        mask = session.click(ijk=sap.first_click(truth, spacing=pet.spacing).ijk)
        first = sap.dice(mask, truth)
        correction = sap.next_click(truth, mask, spacing=pet.spacing)
        mask = session.click(ijk=correction.ijk, foreground=correction.foreground)
        print(f"{name}: DSC {first:.3f} after one click, {sap.dice(mask, truth):.3f} after two")
    figure, (bare, masked) = plt.subplots(1, 2, figsize=(7, 7), layout="constrained")
    sap.show_mip(pet, ax=bare)
    sap.show_mip(pet, session.labels, ax=masked)
    figure.savefig(folder / "mip.png", dpi=90)


def write_viewer(case: Case, browser: Chromium, folder: Path, parts: Sequence[str]) -> None:
    """The widget: one click, then what one does after it."""
    pet, ct = case.load_pet(), case.load_ct()
    widget = sap.ClickWidget(sap.Session(sap.load_model("tiny"), pet), ct=ct, name="phantom")
    places = {name: sap.first_click(truth, spacing=pet.spacing).ijk for name, truth in case.targets(pet)}
    widget.rename("object 1", "liver")
    widget.look_at(places["liver"])
    frames = [picture(widget, browser)] if "click" in parts else []
    widget.click(ijk=places["liver"])
    if "click" in parts:
        frames.append(picture(widget, browser))
        few = [frame.quantize(method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE) for frame in frames]
        few[0].save(folder / "click.gif", save_all=True, append_images=few[1:], duration=1600, loop=0)
    if "viewer" not in parts:
        return
    for name in ("spleen", "heart", "kidney_left", "kidney_right"):
        widget.select(name)
        widget.click(ijk=places[name])
    widget.sphere(places["liver"], 30.0)
    widget.select("lesion")
    widget.method = "41% SUVmax"
    widget.click(ijk=next(ijk for name, ijk in places.items() if name.startswith("lesion_")))
    picture(widget, browser).save(folder / "viewer.png", optimize=True)
    widget.blend, widget.intensity_range = 0.4, [0, 10]
    picture(widget, browser, dark=True).save(folder / "viewer_fused.png", optimize=True)


def picture(widget: sap.ClickWidget, browser: Chromium, dark: bool = False) -> Image.Image:
    """What a browser shows of the widget."""
    context = browser.context(width=1200, height=900)
    context.set_default_timeout(PATIENT_MS)
    content = Hosted(widget, context, dark=dark).page.locator(".sap-click").screenshot()
    context.close()
    return Image.open(BytesIO(content)).convert("RGB")


if __name__ == "__main__":
    main()
