"""How a session obeys a hand: `python -m benchmarks.sessions`, into sessions.csv and sessions.md.

First clicks on the deepest voxel, which nobody knows, and at random inside, at least 12 mm from the border (or 0.6 of
the target's depth), with seeds; then on the largest error. Organ by organ, DSC over the whole volume. The constants of
a session were chosen on phantoms of seeds 300 to 341 and on STS_002 to STS_005; phantoms 600 to 609 and STS_006 to
STS_013 are for reporting.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from scipy import ndimage

import seganypet as sap
from benchmarks.study_cost import cpu_name
from seganypet.metrics import dice
from seganypet.organs import ORGANS, SEEN_ORGANS
from seganypet.pet.volume import Volume
from seganypet.prompting.simulate import first_click, next_click
from seganypet.prompting.simulate_shapes import first_prompt
from seganypet.prompting.window_decoder import best_precision
from seganypet.regions import bounding_box, depth_mm

HERE = Path(__file__).parent
NETWORKS = ("tiny", "tiny-base")
INTERIOR_MM, INTERIOR_FRACTION = 12.0, 0.6
KINDS = ("click", "scribble", "box", "box3d", "lasso", "mask")
CLICKS = 5
Case = tuple[str, Volume, list[tuple[str, np.ndarray]]]


def phantoms(seeds: range, domains: tuple[str, ...]) -> Iterator[Case]:
    """Phantoms with their organs and lesions of 1 mL and more."""
    for domain in domains:
        for seed in seeds:
            made = sap.make_phantom(seed, domain)
            organs = [(name, made.organs == label) for label, name in enumerate(ORGANS, 1)]
            lesions = [(f"lesion_{label}", made.lesions == label) for label in np.unique(made.lesions)[1:]]
            large = [(n, m) for n, m in organs + lesions if m.sum() * made.pet.voxel_volume_ml >= 1]
            yield f"{domain}_{seed}", made.pet, large


def sarcomas(folder: Path, numbers: range) -> Iterator[Case]:
    """Soft-tissue sarcomas, see ../shared/data/README.md."""
    for number in numbers:
        case = folder / f"STS_{number:03}"
        pet = sap.load_volume(case / "PET_image.nii.gz", unit="SUVbw")
        yield case.name, pet, [("sarcoma", sap.load_labels(case / "PET_mask.nii.gz", like=pet) > 0)]


def real_liver(folder: Path) -> Iterator[Case]:
    """A whole body whose liver another network drew on the CT, see ../shared/data/README.md."""
    pet = sap.load_dicom(folder / "PET_AC")
    yield "acrin042", pet, [("liver", sap.load_labels(folder / "liver_from_ct.nii.gz", like=pet) > 0)]


def random_interior(truth: np.ndarray, spacing: tuple[float, ...], rng: np.random.Generator) -> tuple[int, ...]:
    """A voxel of a target that is not near its border."""
    box = bounding_box(truth)
    depth = depth_mm(truth[box], spacing)
    inside = np.argwhere(depth >= min(INTERIOR_MM, INTERIOR_FRACTION * depth.max()))
    chosen = inside[rng.integers(len(inside))]
    return tuple(int(index + part.start) for index, part in zip(chosen, box, strict=True))


def clicked(network: str, cases: Iterator[Case], source: str, clicks: int = CLICKS) -> Iterator[dict]:
    """One row a click, of both kinds of first click."""
    model = sap.load_model(network)
    for case, pet, targets in cases:
        session = sap.Session(model, pet)
        for number, (target, truth) in enumerate(targets):
            for first in ("deepest", "random"):
                session.reset()
                rng = np.random.default_rng(number)
                click = first_click(truth, spacing=pet.spacing)
                if first == "random":
                    click = sap.Click(random_interior(truth, pet.spacing, rng))
                for count in range(1, clicks + 1):
                    started = time.perf_counter()
                    mask = session.add(click)
                    row = {
                        "source": source, "network": network, "case": case, "target": target, "first": first,
                        "click": count, "dsc": dice(mask, truth), "disobeyed": not click.obeyed_by(mask),
                        "seconds": time.perf_counter() - started,
                    }  # fmt: skip
                    if count == 1:
                        row["best_of_three_dsc"] = max(dice(reading.mask, truth) for reading in session.readings)
                    yield row
                    click = next_click(truth, mask, spacing=pet.spacing)
                    if click is None:
                        break


def rows_of(network: str, source: str, number: int, real_data: Path | None) -> list[dict]:
    """The rows of one case, on one thread."""
    torch.set_num_threads(1)
    if source == "acrin042":
        cases = real_liver(real_data / "acrin042")
    elif source in ("internal", "external"):
        cases = phantoms(range(number, number + 1), (source,))
    else:
        cases = sarcomas(real_data / "sts", range(number, number + 1))
    return list(clicked(network, cases, source))


def agreement(network: str, cases: Iterator[Case]) -> Iterator[float]:
    """Of each liver the median DSC of any two of the masks of six first clicks, at random inside."""
    model = sap.load_model(network)
    for _, pet, targets in cases:
        liver, rng = dict(targets)["liver"], np.random.default_rng(0)
        clicks = [random_interior(liver, pet.spacing, rng) for _ in range(6)]
        masks = [sap.Session(model, pet).click(ijk=click) for click in clicks]
        yield statistics.median(dice(one, other) for one, other in combinations(masks, 2))


def prompted(network: str, cases: Iterator[Case]) -> Iterator[dict]:
    """One row for each kind of first prompt, and one after a correcting click."""
    model = sap.load_model(network)
    for case, pet, targets in cases:
        session = sap.Session(model, pet)
        for target, truth in targets:
            for kind in KINDS:
                session.reset()
                mask = session.add(first_prompt(truth, kind, spacing=pet.spacing, rng=np.random.default_rng(0)))
                row = {"network": network, "case": case, "target": target, "kind": kind, "dsc": dice(mask, truth)}
                click = next_click(truth, mask, spacing=pet.spacing)
                yield row | {"dsc_corrected": dice(session.add(click), truth) if click else row["dsc"]}


def air_clicks(network: str, count: int = 40) -> dict:
    """Clicks at least 16 mm outside the body: how many are answered by a mask, how many say that nothing is."""
    pet = sap.make_phantom(500, "internal").pet
    body = ndimage.binary_fill_holes(ndimage.binary_closing(pet.data > 0.1, iterations=3))
    places = np.argwhere(~ndimage.binary_dilation(body, iterations=4))
    chosen = places[np.random.default_rng(0).choice(len(places), count, replace=False)]
    answered = told = 0
    for ijk in chosen.tolist():
        session = sap.Session(sap.load_model(network), pet)
        answered += bool(session.click(ijk=ijk).any())
        told += bool(session.notice)
    return {"network": network, "clicks": count, "answered by a mask": answered, "said": told}


def latency(network: str) -> dict:
    """Seconds of first and further clicks on 256 x 256 x 326, medians."""
    rng = np.random.default_rng(0)
    made = sap.make_phantom(500, "external")
    shape = (256, 256, 326)
    data = np.zeros(shape, np.float32)
    part = tuple(slice(0, min(a, b)) for a, b in zip(shape, made.pet.shape, strict=True))
    data[part] = made.pet.data[part]
    pet = Volume(data, made.pet.affine, "SUVbw", source="256x256x326")
    liver = np.zeros(shape, bool)
    liver[part] = made.organs[part] == 1
    model = sap.load_model(network)
    firsts, further = [], []
    for _ in range(10):
        session = sap.Session(model, pet)
        started = time.perf_counter()
        session.click(ijk=random_interior(liver, pet.spacing, rng))
        firsts.append(time.perf_counter() - started)
        for count in range(8):
            ijk = random_interior(liver, pet.spacing, rng)
            started = time.perf_counter()
            session.click(ijk=ijk, foreground=bool(count % 4))
            further.append(time.perf_counter() - started)
    return {"network": network, "first": statistics.median(firsts[1:]), "further": statistics.median(further)}


def beside(network: str) -> dict:
    """The same while another PyTorch process multiplies matrices on all cores."""
    busy = "import torch\na = torch.rand(1500, 1500)\nwhile True: a @ a"
    other = subprocess.Popen([sys.executable, "-c", busy])
    try:
        time.sleep(3)
        return latency(network)
    finally:
        other.kill()


def memory(network: str) -> dict:
    """Memory of the process after 100 and after 300 clicks of which every third is undone, in MB."""
    made = sap.make_phantom(500, "internal")
    liver = made.organs == 1
    session = sap.Session(sap.load_model(network), made.pet)
    rng = np.random.default_rng(0)
    resident = {}
    for count in range(300):
        session.click(ijk=random_interior(liver, made.pet.spacing, rng), foreground=count % 5 != 4)
        if count % 3 == 2:
            session.undo()
        if count + 1 in (100, 300):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            resident[f"MB after {count + 1}"] = pages * resource.getpagesize() / 2**20
    return {"network": network, **resident}


def tables(rows: pd.DataFrame) -> str:
    """DSC after 1 (and of its best reading), 3 and 5 clicks, by source, network, target and first click, and the
    fraction of clicks disobeyed."""
    target = rows["target"].where(~rows["target"].str.startswith("lesion"), "lesions")
    rows = rows.assign(target=target)
    seen = rows[rows["target"].isin(SEEN_ORGANS)].assign(target="seen organs")
    both = pd.concat([rows, seen])
    keys = ["source", "network", "target", "first"]
    dsc = both[both["click"].isin((1, 3, 5))].pivot_table(index=keys, columns="click", values="dsc").round(2)
    dsc.insert(1, "best of three", both.groupby(keys)["best_of_three_dsc"].mean().round(2))
    dsc["disobeyed"] = both.groupby(keys)["disobeyed"].mean().round(4)
    dsc["targets"] = both[both["click"] == 1].groupby(keys).size()
    return markdown(dsc.reset_index())


def overview(rows: pd.DataFrame) -> str:
    """The README's table: DSC after 1 / 3 / 5 clicks, by kind of target, first click and network."""
    source, target = rows["source"], rows["target"]
    unseen = [organ for organ in ORGANS if organ not in SEEN_ORGANS]
    kinds = {
        "liver, kidneys, heart, spleen; {cases} phantoms": (source == "internal") & target.isin(SEEN_ORGANS),
        "the same, another scanner; {cases} phantoms": (source == "external") & target.isin(SEEN_ORGANS),
        "liver alone; {cases} phantoms": (source == "internal") & (target == "liver"),
        "aorta, prostate, lung lobes; {cases} phantoms": (source == "internal") & target.isin(unseen),
        "of these the aorta alone": (source == "internal") & (target == "aorta"),
        "{targets} single lesions of 1 mL and more": (source == "internal") & target.str.startswith("lesion"),
        "{cases} real soft-tissue sarcomas": target == "sarcoma",
        "a real liver, as another network drew it on the CT": source == "acrin042",
    }
    lines = []
    for title, chosen in kinds.items():
        part = rows[chosen]
        counts = {"cases": part["case"].nunique(), "targets": part.groupby("case")["target"].nunique().sum()}
        for first, name in (("deepest", "deepest"), ("random", "anywhere")):
            row = {"Targets": title.format(**counts) if first == "deepest" else "", "first click": name}
            for network in NETWORKS:
                one = part[(part["first"] == first) & (part["network"] == network)].groupby("click")["dsc"].mean()
                row[f"`{network}`"] = " / ".join(f"{one[click]:.2f}" for click in (1, 3, 5)) if len(one) else ""
            lines.append(row)
    return markdown(pd.DataFrame(lines))


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown."""
    lines = [list(map(str, table.columns)), ["---"] * len(table.columns), *table.astype(str).values.tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sessions", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs=2, default=(600, 610), help="first seed, and the one after the last")
    parser.add_argument("--real-data", type=Path, help="folder with sts/STS_006 .. STS_013 and acrin042")
    parser.add_argument("--processes", type=int, default=1, help="for the accuracy (%(default)s)")
    parser.add_argument("--only", choices=("accuracy", "agreement", "prompts", "air", "speed", "memory"))
    parser.add_argument("--output", type=Path, default=HERE)
    options = parser.parse_args()
    seeds = range(*options.seeds)
    parts = []

    def wanted(name: str) -> bool:
        return options.only in (None, name)

    if wanted("accuracy"):
        jobs = [(name, "internal", seed) for name in NETWORKS for seed in seeds]
        jobs += [(name, "external", seed) for name in NETWORKS for seed in seeds[:4]]
        if options.real_data:
            jobs += [("tiny-base", "STS_006 to _013", number) for number in range(6, 14)]
            jobs += [(name, "acrin042", 0) for name in NETWORKS]
        measured = Parallel(options.processes)(delayed(rows_of)(*job, options.real_data) for job in jobs)
        rows = [row for one in measured for row in one]
        table = pd.DataFrame(rows)
        table.round(4).to_csv(options.output / "sessions.csv", index=False)
        parts += ["## In short\n\n" + overview(table), "## Clicks\n\n" + tables(table)]
    if wanted("agreement"):
        rows = []
        for name in NETWORKS:
            simulated = list(agreement(name, phantoms(seeds, ("internal",))))
            row = {"network": name, "phantoms, median": statistics.median(simulated), "lowest": min(simulated)}
            if options.real_data:
                (row["acrin042"],) = agreement(name, real_liver(options.real_data / "acrin042"))
            rows.append(row)
        title = "## Six first clicks in one liver: median pairwise DSC"
        parts.append(f"{title}\n\n{markdown(pd.DataFrame(rows).round(2))}")
    if wanted("prompts"):
        rows = [row for name in NETWORKS for row in prompted(name, phantoms(seeds[:4], ("internal",)))]
        table = pd.DataFrame(rows)
        table["target"] = np.where(table["target"].str.startswith("lesion"), "lesions", table["target"])
        chosen = table[table["target"].isin((*SEEN_ORGANS, "lesions"))]
        mean = chosen.groupby(["network", "target", "kind"])[["dsc", "dsc_corrected"]].mean().round(2).reset_index()
        parts.append("## Kinds of first prompt, and one correcting click\n\n" + markdown(mean))
    if wanted("air"):
        parts.append("## Clicks in air\n\n" + markdown(pd.DataFrame(map(air_clicks, NETWORKS))))
    if wanted("speed"):
        rows = [{"beside": "nothing", **latency(name)} for name in NETWORKS]
        rows += [{"beside": "a second PyTorch process", **beside(name)} for name in NETWORKS]
        parts.append("## Seconds a click, 256 x 256 x 326\n\n" + markdown(pd.DataFrame(rows).round(3)))
    if wanted("memory"):
        code = "import json; from benchmarks.sessions import memory; print(json.dumps(memory({!r})))"
        rows = [json.loads(subprocess.check_output([sys.executable, "-c", code.format(name)])) for name in NETWORKS]
        parts.append("## Memory over 300 clicks with undo\n\n" + markdown(pd.DataFrame(rows).round(0)))
    made = f"*{cpu_name()}, {best_precision(torch.device('cpu'))}, torch {torch.__version__}.*"
    parts = [f"{part}\n\n{made}" for part in parts]
    print("\n\n".join(parts))
    page = options.output / "sessions.md"
    head = "# Sessions\n\n`python -m benchmarks.sessions` wrote this file. " + " ".join(__doc__.split("\n\n")[1:])
    earlier = page.read_text(encoding="utf-8").split("\n## ")[1:] if page.exists() else []
    sections = {part.split("\n", 1)[0]: f"## {part.strip()}" for part in earlier}
    sections |= {part.split("\n", 1)[0].removeprefix("## "): part for part in parts}
    sections = dict(sorted(sections.items(), key=lambda section: section[0] != "In short"))
    page.write_text("\n\n".join([head.strip(), *sections.values()]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
