"""How fast and how large: `make bench`, or `python -m benchmarks.run`.

Prints a table and writes it to results.md and results.csv beside this file. Everything is measured in one run on
two threads; what is compared is interleaved; times are medians after a warm-up. `--quick` measures once and writes
nothing. Linux only: it reads /proc.
"""

import argparse
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import torch

import seganypet as sap
from seganypet.model.config import RELEASED, ModelConfig
from seganypet.model.image_encoder import ImageEncoder
from seganypet.model.sam3d import Sam3D
from seganypet.pet.volume import Volume
from tests.plain_encoder import plain_encoder

HERE = Path(__file__).parent
THREADS = 2
SEED = 7
COLUMNS = ["quantity", "measured", "asked for", "reached", "remark"]

# The child reads VmHWM and not getrusage: a new process inherits the latter's peak from its parent.
PEAK_MEMORY = """
import re, sys, torch
import seganypet as sap
torch.set_num_threads(2)
model = sap.load_model(sys.argv[1])
with torch.inference_mode():
    embedding = model.embed(model.normalise(torch.rand(1, 1, 128, 128, 128)))
    click = torch.full((1, 1, 3), 64.0)
    logits, _ = model.decode(embedding, click, torch.ones(1, 1), model.no_logits())
    mask = model.upscale(logits) > 0
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]))
"""
IMPORT_SECONDS = """
from time import perf_counter
start = perf_counter()
import seganypet
first = perf_counter()
seganypet.load_model, seganypet.Session
print(first - start, perf_counter() - start)
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="measure once, write nothing")
    parser.add_argument("--model", default="tiny-base", help="name or path of the network to click with")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    rows = [
        *embedding_rows(repeats=1 if options.quick else 5),
        *click_rows(options.model, repeats=2 if options.quick else 20),
        memory_row(),
        *import_rows(repeats=1 if options.quick else 5),
    ]
    table = pd.DataFrame(rows, columns=COLUMNS)
    text = f"{machine()}\n\n{markdown(table)}\n"
    print(text)
    if not options.quick:
        (HERE / "results.md").write_text(f"# Benchmarks\n\n`make bench` wrote this file.\n\n{text}")
        table.to_csv(HERE / "results.csv", index=False)


def embedding_rows(repeats: int) -> list[tuple]:
    """The released width on one window: the plain order of operations against ours, float32 and bfloat16."""
    torch.manual_seed(SEED)
    encoder = ImageEncoder(RELEASED).eval().requires_grad_(False)
    for name, parameter in encoder.named_parameters():
        if "rel_pos" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    weights = encoder.state_dict()
    window = torch.randn(1, 1, *[RELEASED.window_size] * 3)
    square = torch.randn(2048, 2048)
    half_square = square.bfloat16()

    def ours_bfloat16() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return encoder(window).tokens

    with torch.inference_mode():
        difference = (plain_encoder(weights, window) - encoder(window).tokens).abs().max().item()
        plain, ours, ours_half, product, half_product = interleaved(
            [
                lambda: plain_encoder(weights, window),
                lambda: encoder(window).tokens,
                ours_bfloat16,
                lambda: square @ square,
                lambda: half_square @ half_square,
            ],
            repeats,
        )
    work = encoder_flops(RELEASED)
    rate, half_rate = 2 * 2048**3 / product, 2 * 2048**3 / half_product
    units = torch.cpu._is_amx_tile_supported()
    half_remark = "" if units else "asked for where the processor has matrix units; this one has none (no AMX)"
    what = "embedding 128^3, released width"
    return [
        (f"{what}: plain, float32", f"{plain:.2f} s", "", "", f"median of {repeats}, interleaved with the next two"),
        (f"{what}: ours, float32", f"{ours:.2f} s", "", "", f"largest difference from plain {difference:.0e}"),
        (f"{what}: ours, bfloat16", f"{ours_half:.2f} s", "", "", "autocast"),
        at_least(f"{what}: plain / ours, float32", plain / ours, 9),
        at_least(f"{what}: plain / ours, bfloat16", plain / ours_half, 25, half_remark),
        ("matrix product 2048^3, float32", f"{rate / 1e9:.0f} GFLOP/s", "", "", ""),
        ("matrix product 2048^3, bfloat16", f"{half_rate / 1e9:.0f} GFLOP/s", "", "", ""),
        ("share of that rate in ours, float32", f"{work / ours / rate:.0%}", "", "", f"{work / 1e9:.0f} GFLOP each"),
        ("share of that rate in ours, bfloat16", f"{work / ours_half / half_rate:.0%}", "", "", ""),
    ]


def click_rows(model_name: str, repeats: int) -> list[tuple]:
    """From `session.click` to the mask on the full grid of a large scan."""
    model = sap.load_model(model_name)
    volume, centre = warm_body_with_a_hot_ball()
    places = centre + np.random.default_rng(SEED).integers(-5, 6, (repeats + 1, 3))
    first, further, carrying = [], [], []
    for index, ijk in enumerate(places):
        session = sap.Session(model, volume)
        first_seconds = seconds(lambda s=session: s.click(ijk=centre))
        further_seconds = seconds(lambda s=session, place=ijk: s.click(ijk=place))
        carrying_seconds = seconds(lambda s=session: s.mask)
        if len(session._state.predictions[session.active].windows) != 1:
            raise RuntimeError(f"click {ijk}: the mask outgrew its window, so this is not the time of one window.")
        if index:  # the first round warms up
            first.append(first_seconds)
            further.append(further_seconds)
            carrying.append(carrying_seconds)
    shape = "x".join(map(str, volume.shape))
    precision = session.precision
    click, back = median(further), median(carrying)
    size_ml = np.count_nonzero(session.mask) * volume.voxel_volume_ml
    return [
        (f"{model.name}, first click on {shape}", f"{1e3 * median(first):.0f} ms", "", "",
         f"median of {repeats}; samples and embeds the window; {precision}"),
        at_most(f"{model.name}, further click on {shape}", 1e3 * click, 100, "ms",
                f"click to mask on the full grid; {size_ml:.0f} mL marked of 524"),
        ("of it: prompt encoder and mask decoder", f"{1e3 * (click - back):.0f} ms", "", "", "what the next leaves"),
        ("of it: logits to the full grid, thresholded", f"{1e3 * back:.0f} ms", "", "", ""),
    ]  # fmt: skip


def memory_row() -> tuple:
    """Peak memory of a fresh process that opens a checkpoint of the released width, embeds and clicks once."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "released.pth"
        torch.save({"model_state_dict": Sam3D(RELEASED).state_dict()}, path)
        gigabytes = float(child(PEAK_MEMORY, str(path))) * 1024 / 1e9
    return at_most("peak memory, released width", gigabytes, 2.5, "GB", "fresh process: load, embed, click; float32")


def import_rows(repeats: int) -> list[tuple]:
    child(IMPORT_SECONDS)  # fills the disk's cache
    runs = [[float(number) for number in child(IMPORT_SECONDS).split()] for _ in range(repeats)]
    first, ready = (median(column) for column in zip(*runs, strict=True))
    remark = f"median of {repeats} fresh interpreters"
    return [
        at_most("import seganypet", first, 2, "s", remark),
        ("import seganypet, load_model and Session ready", f"{ready:.2f} s", "", "", f"{remark}; imports torch"),
    ]


def warm_body_with_a_hot_ball() -> tuple[Volume, np.ndarray]:
    """SUV 0.8 in an elliptic cylinder of 400 x 280 mm with noise, SUV 6 in a ball of 100 mm; and the ball's centre."""
    shape, spacing = (256, 256, 326), np.array([2.04, 2.04, 3.0])
    centre = np.array([140, 120, 170])
    x, y, z = np.ogrid[tuple(slice(0, size) for size in shape)]
    body = ((x - 128) * spacing[0] / 200) ** 2 + ((y - 128) * spacing[1] / 140) ** 2 < 1
    ball = sum(((at - c) * step) ** 2 for at, c, step in zip((x, y, z), centre, spacing, strict=True)) < 50.0**2
    data = np.random.default_rng(SEED).gamma(25, 0.8 / 25, shape).astype(np.float32) * body
    data[ball] = 6.0
    return Volume(data, np.diag([*spacing, 1.0]), "SUVbw", source="ball in a cylinder"), centre


def encoder_flops(config: ModelConfig) -> float:
    """Floating-point operations of our encoder's matrix products and convolutions, two for each multiply-add."""
    tokens, dim = config.grid_size**3, config.encoder_dim
    layers = 12 * dim * dim * tokens  # q, k, v, projection: 4; MLP of four-fold width: 8
    attention = 2 * dim * tokens * tokens
    patches = config.patch_size**3 * dim * tokens
    neck = (dim + 27 * config.prompt_dim) * config.prompt_dim * tokens
    return 2.0 * (config.encoder_depth * (layers + attention) + patches + neck)


def interleaved(actions: list[Callable], repeats: int) -> list[float]:
    """Median seconds of each action, taken in turns so that a slow spell of the machine meets all of them."""
    for action in actions:
        action()
    rounds = [[seconds(action) for action in actions] for _ in range(repeats)]
    return [median(column) for column in zip(*rounds, strict=True)]


def seconds(action: Callable) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def child(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def at_least(quantity: str, ratio: float, asked: float, remark: str = "") -> tuple:
    return quantity, f"{ratio:.1f} x", f">= {asked} x", "yes" if ratio >= asked else "no", remark


def at_most(quantity: str, value: float, asked: float, unit: str, remark: str) -> tuple:
    return quantity, f"{value:.3g} {unit}", f"<= {asked} {unit}", "yes" if value <= asked else "no", remark


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    facts = {name.strip(): value.strip() for name, value in facts.items()}
    flags = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in facts.get("flags", "").split()]
    return (
        f"{facts.get('model name', platform.machine())}, {torch.get_num_threads()} threads, {', '.join(flags)}; "
        f"Python {platform.python_version()}, torch {torch.__version__}; seed {SEED}."
    )


def markdown(table: pd.DataFrame) -> str:
    rows = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


if __name__ == "__main__":
    main()
