"""A click beside another PyTorch process: `python -m benchmarks.threads`.

The other process convolves with as many threads as there are cores, as a training in the background does. `--spin` lets
waiting threads spin, as PyTorch does by default.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from statistics import median

NEIGHBOUR = (
    "import torch\n"
    "network, window = torch.nn.Conv3d(16, 16, 3, padding=1), torch.randn(2, 16, 24, 24, 24)\n"
    "print('ready', flush=True)\n"
    "while True: network(window).mean().backward()\n"
)


def clicks(model: str, count: int) -> list[float]:
    """Seconds of clicks on a phantom's liver, undone each time; the first one, with its embeddings, comes first."""
    import seganypet as sap

    phantom = sap.make_phantom(9000)
    ijk = sap.first_click(phantom.organs == 1, spacing=phantom.pet.spacing).ijk
    session, seconds = sap.Session(sap.load_model(model, device="cpu"), phantom.pet), []
    for _ in range(count):
        start = time.perf_counter()
        session.click(ijk=ijk)
        seconds.append(time.perf_counter() - start)
        session.undo()
    return seconds


def measured(model: str, count: int, spin: bool) -> list[float]:
    """The same in a process of its own."""
    environment = os.environ | {"OMP_WAIT_POLICY": "ACTIVE" if spin else "PASSIVE"}
    command = [sys.executable, "-m", "benchmarks.threads", "--model", model, "--clicks", str(count), "--once"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Command line: prints seconds of a first click and of a further one, alone and beside the other process."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.threads", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny", help="network (%(default)s)")
    parser.add_argument("--clicks", type=int, default=20, help="number of clicks (%(default)s)")
    parser.add_argument("--spin", action="store_true", help="waiting threads spin, as without this package")
    parser.add_argument("--once", action="store_true", help="print the seconds of each click here, and no more")
    options = parser.parse_args()
    if options.once:
        print(json.dumps(clicks(options.model, options.clicks)))
        return
    rows = {"alone": measured(options.model, options.clicks, options.spin)}
    neighbour = subprocess.Popen([sys.executable, "-c", NEIGHBOUR], stdout=subprocess.PIPE)
    try:
        neighbour.stdout.readline()
        rows["beside"] = measured(options.model, options.clicks, options.spin)
    finally:
        neighbour.kill()
        neighbour.wait()
    for place, (first, *others) in rows.items():
        print(f"{place:8} first click {first:6.3f} s, further ones {median(others):6.3f} s")


if __name__ == "__main__":
    main()
