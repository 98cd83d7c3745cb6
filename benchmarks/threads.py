"""A click beside another PyTorch process: `python -m benchmarks.threads`.

The other process convolves with as many threads as there are cores, or as OMP_NUM_THREADS says, as a training in the
background does. `--spin` lets waiting threads spin, as PyTorch does by default.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from statistics import median

import numpy as np
from scipy import ndimage

NEIGHBOUR = (
    "import torch\n"
    "network, window = torch.nn.Conv3d(16, 16, 3, padding=1), torch.randn(2, 16, 24, 24, 24)\n"
    "print('ready', flush=True)\n"
    "while True: network(window).mean().backward()\n"
)


def clicks(model: str, sessions: int) -> dict[str, float]:
    """Median seconds of a first click, and of a second one elsewhere, in the liver of a phantom."""
    import seganypet as sap

    phantom, network = sap.make_phantom(9000), sap.load_model(model, device="cpu")
    liver, rng = np.argwhere(ndimage.binary_erosion(phantom.organs == 1, iterations=3)), np.random.default_rng(0)
    seconds = {"first": [], "further": []}
    for _ in range(sessions + 1):
        session = sap.Session(network, phantom.pet)
        for kind, ijk in zip(seconds, rng.choice(liver, 2).tolist(), strict=True):
            start = time.perf_counter()
            session.click(ijk=ijk)
            seconds[kind].append(time.perf_counter() - start)
    return {kind: median(values[1:]) for kind, values in seconds.items()}  # the very first one warms up


def measured(model: str, sessions: int, spin: bool) -> dict[str, float]:
    """The same in a process of its own."""
    environment = os.environ | {"OMP_WAIT_POLICY": "ACTIVE" if spin else "PASSIVE"}
    command = [sys.executable, "-m", "benchmarks.threads", "--model", model, "--sessions", str(sessions), "--once"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Command line: prints seconds of a first click and of a further one, alone and beside the other process."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.threads", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny", help="network (%(default)s)")
    parser.add_argument("--sessions", type=int, default=10, help="number of sessions of two clicks (%(default)s)")
    parser.add_argument("--spin", action="store_true", help="waiting threads spin, as without this package")
    parser.add_argument("--once", action="store_true", help="measure in this process, and no more")
    options = parser.parse_args()
    if options.once:
        print(json.dumps(clicks(options.model, options.sessions)))
        return
    rows = {"alone": measured(options.model, options.sessions, options.spin)}
    neighbour = subprocess.Popen([sys.executable, "-c", NEIGHBOUR], stdout=subprocess.PIPE)
    try:
        neighbour.stdout.readline()
        rows["beside"] = measured(options.model, options.sessions, options.spin)
    finally:
        neighbour.kill()
        neighbour.wait()
    for place, seconds in rows.items():
        print(f"{place:8} first click {seconds['first']:6.3f} s, a second one {seconds['further']:6.3f} s")


if __name__ == "__main__":
    main()
