"""The table by which networks are chosen: `python -m benchmarks.pilots WEIGHTS [WEIGHTS ...]`.

DSC on what may be chosen from, after one click (and of its best reading) and after three; first click on the deepest
voxel / at random inside, as in `benchmarks.sessions`: phantoms 302 to 309 (organs), 302 to 307 of another scanner (seen
organs), lesions of 1 mL and more of phantoms 302 to 341 (119: two of nineteen once decided against a network), sarcomas
STS_002 to _005; five clicks at random in each of eleven livers, mean DSC and median agreement. One row a network, in
Markdown. A second table says how much each further network differs from the first, over both kinds of first click, and
the standard error of that over cases. `--only` takes a part of the columns. Some six minutes a network on one core.
"""

import argparse
import statistics
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed

import seganypet as sap
from benchmarks.sessions import Case, clicked, markdown, phantoms, random_interior, sarcomas
from seganypet.metrics import dice
from seganypet.organs import ORGANS, SEEN_ORGANS
from seganypet.prompting.window_decoder import best_precision

PARTS = ("organs", "scanner", "lesions", "sarcomas", "livers")
LIVERS = (("internal", range(302, 310)), ("external", range(302, 305)))


def case_of(part: str, number: int, real_data: Path | None) -> Iterator[Case]:
    """One case, with the targets of a part alone."""
    if part == "sarcomas":
        yield from sarcomas(real_data / "sts", range(number, number + 1))
        return
    domain = "external" if part == "scanner" else "internal"
    wanted = {"organs": ORGANS, "scanner": SEEN_ORGANS}.get(part)
    for name, pet, targets in phantoms(range(number, number + 1), (domain,)):
        yield name, pet, [(t, m) for t, m in targets if (t in wanted if wanted else t.startswith("lesion"))]


def rows_of(network: str, part: str, number: int, real_data: Path | None) -> list[dict]:
    """The first three clicks of both kinds on each target of one case, on one thread."""
    torch.set_num_threads(1)
    return list(clicked(network, case_of(part, number, real_data), part, clicks=3))


def liver_of(network: str, domain: str, seed: int) -> dict:
    """Five first clicks at random in one liver: mean DSC, and the median DSC of any two of their masks."""
    torch.set_num_threads(1)
    model = sap.load_model(network)
    made = sap.make_phantom(seed, domain)
    liver, rng = made.organs == ORGANS.index("liver") + 1, np.random.default_rng(0)
    clicks = [random_interior(liver, made.pet.spacing, rng) for _ in range(5)]
    masks = [sap.Session(model, made.pet).click(ijk=click) for click in clicks]
    agreed = statistics.median(dice(one, other) for one, other in combinations(masks, 2))
    return {"network": network, "dsc": float(np.mean([dice(mask, liver) for mask in masks])), "agreed": agreed}


def table(networks: Iterable[str], rows: pd.DataFrame, livers: pd.DataFrame) -> str:
    """One row a network."""
    lines = []
    for network in networks:
        line = {"network": Path(network).stem}
        mine = rows[rows["network"] == network] if len(rows) else rows
        for title, chosen in groups(mine):
            firsts = chosen[chosen["click"] == 1]
            cells = {"1": (firsts, "dsc"), "best of 3": (firsts, "best_of_three_dsc"), "3": (at_most(chosen, 3), "dsc")}
            for clicks, (part, measure) in cells.items():
                mean = part.groupby("first")[measure].mean().reindex(("deepest", "random"))
                line[f"{title}, {clicks}"] = " / ".join(f"{value:.2f}" for value in mean)
        if len(livers):
            of = livers[livers["network"] == network]
            line["livers, agreement"] = f"{of['dsc'].mean():.2f}, {of['agreed'].median():.2f}"
        lines.append(line)
    return markdown(pd.DataFrame(lines))


def differences(networks: Sequence[str], rows: pd.DataFrame) -> str:
    """How much better than the first network each other one is, +- the standard error over cases."""
    lines = []
    for network in networks[1:]:
        line = {"network": Path(network).stem}
        for title, chosen in groups(rows):
            for count in (1, 3):
                kept = at_most(chosen, count)
                dsc = kept.pivot_table(index=["case", "target", "first"], columns="network", values="dsc")
                gain = dsc[network] - dsc[networks[0]]
                line[f"{title}, {count}"] = f"{gain.mean():+.2f} +- {gain.groupby('case').mean().sem():.2f}"
        lines.append(line)
    return markdown(pd.DataFrame(lines))


def groups(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Columns of the table that were measured."""
    if not len(rows):
        return
    organs = rows[rows["source"] == "organs"]
    seen = organs["target"].isin(SEEN_ORGANS)
    others = [(part, rows[rows["source"] == part]) for part in ("scanner", "lesions", "sarcomas")]
    parts = [("seen", organs[seen]), ("unseen", organs[~seen]), *others]
    yield from ((title, chosen) for title, chosen in parts if len(chosen))


def at_most(rows: pd.DataFrame, count: int) -> pd.DataFrame:
    """The last of each target's first `count` clicks: a perfect mask takes no further ones."""
    keys = ["network", "case", "target", "first"]
    return rows[rows["click"] <= count].sort_values("click").groupby(keys, as_index=False).last()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pilots", description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="+", metavar="WEIGHTS", help="name or path")
    parser.add_argument("--real-data", type=Path, help="folder with sts/STS_002 .. STS_005")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    numbers = {"lesions": range(302, 342), "organs": range(302, 310), "scanner": range(302, 308)}
    if options.real_data:
        numbers["sarcomas"] = range(2, 6)
    jobs = [
        delayed(rows_of)(network, part, number, options.real_data)
        for network in options.networks for part in numbers if part in options.only for number in numbers[part]
    ]  # fmt: skip
    asked = LIVERS if "livers" in options.only else ()
    livers = [
        delayed(liver_of)(network, domain, seed)
        for network in options.networks for domain, seeds in asked for seed in seeds
    ]  # fmt: skip
    measured = Parallel(options.processes)(jobs + livers)
    rows = pd.DataFrame([row for case in measured[: len(jobs)] for row in case])
    print(f"{best_precision(torch.device('cpu'))}, torch {torch.__version__}\n")
    print(table(options.networks, rows, pd.DataFrame(measured[len(jobs) :])))
    if len(options.networks) > 1 and len(rows):
        print(f"\n{differences(options.networks, rows)}")


if __name__ == "__main__":
    main()
