"""Speed of clicking slice by slice, and the network's part of it: `python -m benchmarks.slicewise_speed`.

One click in each of 200 slices of 168 x 168 pixels, then a second one. Embedding is limited by the network's encoder:
the script prints the fraction of time spent there. Without `--model` the network has the size of the embedded one and
random weights.
"""

import argparse
import os
import platform
import statistics
import time

import numpy as np
import torch

from seganypet.model.checkpoints import load_model
from seganypet.model.sam2d import Sam2D, small_sam
from seganypet.pet.volume import Volume
from seganypet.prompting.prompts import Click
from seganypet.prompting.slicewise import SliceSession

SHAPE = (168, 168, 200)
SPACING_MM = (4.07, 4.07, 3.0)


def one_run(model: Sam2D, volume: Volume, batch: int) -> dict[str, float]:
    """Seconds of each part, in a session of its own."""
    inside, embed = [], model.embed

    def timed(pixels: torch.Tensor) -> torch.Tensor:
        started = time.perf_counter()
        embedded = embed(pixels)
        if embedded.is_cuda:
            torch.cuda.synchronize(embedded.device)
        inside.append(time.perf_counter() - started)
        return embedded

    seconds = {}
    session = SliceSession(model, volume, batch=batch)
    model.embed = timed
    try:
        started = time.perf_counter()
        session.embed_slices(range(session.slice_count))
        seconds["embedding"] = time.perf_counter() - started
    finally:
        del model.embed
    seconds["encoder"] = sum(inside)
    for name, index in (("first clicks", 80), ("second clicks", 100)):
        clicks = [Click((index, index, number)) for number in range(session.slice_count)]
        started = time.perf_counter()
        session.click_slices(clicks)
        seconds[name] = time.perf_counter() - started
    started = time.perf_counter()
    session.click(ijk=(60, 60, 100))
    seconds["one click"] = time.perf_counter() - started
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slicewise_speed", description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="name or path of a 2D network (default: random weights)")
    parser.add_argument("--batch", type=int, default=8, help="slices that go through the network together")
    parser.add_argument("--slices", type=int, default=SHAPE[2], help="of the volume (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="after a warm-up (default: %(default)s)")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = load_model(options.model) if options.model else Sam2D(small_sam(128, 8, 192, 6, 128), "random").eval()
    model.to(device)
    data = np.random.default_rng(0).gamma(1, 2, (*SHAPE[:2], options.slices))
    volume = Volume(data, np.diag([*SPACING_MM, 1.0]), "SUVbw")
    runs = [one_run(model, volume, options.batch) for _ in range(options.repeats + 1)][1:]
    median = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    fraction = statistics.median(run["encoder"] / run["embedding"] for run in runs)
    one = 1000 / options.slices
    print(f"embedding: {one * median['embedding']:.1f} ms a slice, {fraction:.1%} of it inside the encoder")
    print(
        f"a click in each slice: {one * median['first clicks']:.1f} ms a slice, a second one: "
        f"{one * median['second clicks']:.1f} ms; one click by itself: {1000 * median['one click']:.0f} ms"
    )
    print(
        f"{options.slices} slices of {SHAPE[0]} x {SHAPE[1]}, batches of {options.batch}, {model.name}, {device}, "
        f"median of {options.repeats}"
    )
    print(
        f"{os.cpu_count()} cores ({platform.machine()}), {torch.get_num_threads()} threads; PyTorch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
