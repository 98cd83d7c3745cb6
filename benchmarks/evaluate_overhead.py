"""What evaluation costs beside the network and the scores: `python -m benchmarks.evaluate_overhead`.

One phantom in memory, three organs, five clicks. The network's time is what its session takes, embeddings included;
that of the scores is DSC and NSD. All else is overhead: the simulated clicks, cutting out targets, rows and the file.
"""

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import seganypet as sap
from seganypet.metrics import METRICS
from seganypet.prompting.session import Session
from seganypet.study import protocol

ORGANS = ("liver", "spleen", "aorta")


def overhead(model: str = "tiny", seed: int = 101, clicks: int = 5) -> dict[str, float]:
    """Seconds of a whole evaluation by what they went into: network, scores, clicks (part of the rest), rest, all."""
    spent: Counter[str] = Counter()
    network, phantom = sap.load_model(model), sap.make_phantom(seed)

    def timed(name: str, function: Callable) -> Callable:
        def call(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                spent[name] += time.perf_counter() - start

        return call

    def session(volume: sap.Volume) -> Session:
        opened = timed("network", Session)(network, volume)
        opened.click = timed("network", opened.click)
        opened.reset = timed("network", opened.reset)
        return opened

    before = {name: getattr(protocol, name) for name in ("first_click", "next_click")}
    metrics = dict(METRICS)
    try:
        for name, function in before.items():
            setattr(protocol, name, timed("clicks", function))
        METRICS.update({name: timed("scores", function) for name, function in metrics.items()})
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            sap.evaluate(
                [phantom], {model: session}, clicks, targets=ORGANS, rules=(), progress=False,
                output=Path(folder) / "results.csv",
            )  # fmt: skip
            spent["all"] = time.perf_counter() - start
    finally:
        METRICS.update(metrics)
        for name, function in before.items():
            setattr(protocol, name, function)
    spent["rest"] = spent["all"] - spent["network"] - spent["scores"]
    return dict(spent)


def main() -> None:
    """Command line: prints seconds and shares; the first run warms up and does not count."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluate_overhead", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny", help="name of a network (%(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="runs, the quickest of which is shown (%(default)s)")
    options = parser.parse_args()
    overhead(options.model, clicks=1)
    spent = min((overhead(options.model) for _ in range(options.runs)), key=lambda run: run["all"])
    for name in ("network", "scores", "rest", "clicks", "all"):
        note = "  (part of the rest)" if name == "clicks" else ""
        print(f"{name:8} {spent[name]:7.3f} s {100 * spent[name] / spent['all']:6.1f} %{note}")
    print(f"overhead: {100 * spent['rest'] / spent['all']:.1f} % of the whole")


if __name__ == "__main__":
    main()
