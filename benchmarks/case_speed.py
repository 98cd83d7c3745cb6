"""Twelve organs, five clicks each: our flow against the release's, `python -m benchmarks.case_speed`.

The release embeds a window anew for each class, by the plain order of operations, and decodes once a click; so does
ours, with its own attention. Released width, random weights, one internal phantom, float32. Windows lie around each
organ's first click. Both flows take turns, organ by organ; their clicks are the same places.
"""

import argparse
import os
import platform
import time

import numpy as np
import torch

import seganypet as sap
from seganypet.model.config import RELEASED
from seganypet.model.image_encoder import ImageEmbedding
from seganypet.model.sam3d import Sam3D
from seganypet.organs import ORGANS
from seganypet.prompting.simulate import first_click
from seganypet.prompting.window import sample_window, window_around
from tests.plain_encoder import plain_encoder


def main() -> None:
    """Command line: prints seconds of a case in both flows and their ratio."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.case_speed", description=__doc__.splitlines()[0])
    parser.add_argument("--organs", type=int, default=12, help="how many of the twelve (default: all)")
    parser.add_argument("--clicks", type=int, default=5, help="for each organ (default: 5)")
    parser.add_argument("--seed", type=int, default=9000, help="of the phantom; 9000 has all organs")
    options = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(7)
    model = Sam3D(RELEASED).eval().requires_grad_(False)
    weights = {name.removeprefix("image_encoder."): value for name, value in model.state_dict().items()
               if name.startswith("image_encoder.")}  # fmt: skip
    phantom = sap.make_phantom(options.seed)
    flows = {
        "release": lambda window: ImageEmbedding(plain_encoder(weights, window)),
        "ours": model.embed,
    }
    seconds = dict.fromkeys(flows, 0.0)
    with torch.inference_mode():
        model.embed(torch.randn(1, 1, *[RELEASED.window_size] * 3))  # warm-up
        for number, _ in enumerate(ORGANS[: options.organs], start=1):
            truth = phantom.organs == number
            click_mm = phantom.pet.to_mm(first_click(truth, spacing=phantom.pet.spacing).ijk)
            window = window_around(phantom.pet, click_mm, RELEASED.window_size, RELEASED.spacing_mm)
            suv = sample_window(phantom.pet, window)
            rng = np.random.default_rng(number)
            points = torch.tensor(window.to_window(click_mm) + rng.normal(0, 4, (options.clicks, 3)))[None].float()
            for name, embed in flows.items():
                start = time.perf_counter()
                embedding, logits = embed(model.normalise(suv)), model.no_logits()
                for count in range(1, options.clicks + 1):
                    logits, _ = model.decode(embedding, points[:, :count], torch.ones(1, count), logits)
                    _ = model.upscale(logits) > 0
                seconds[name] += time.perf_counter() - start
    print(f"{os.cpu_count()} cores, 2 threads, {platform.machine()}, torch {torch.__version__}, float32")
    for name, spent in seconds.items():
        print(f"{name:8s}{spent:7.1f} s for {options.organs} organs, {options.clicks} clicks each")
    print(f"ratio   {seconds['release'] / seconds['ours']:7.1f}")


if __name__ == "__main__":
    main()
