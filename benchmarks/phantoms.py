"""Phantoms against reality: `python -m benchmarks.phantoms`.

What a scan of a phantom shows is measured as it is on real scans, and set beside them: noise, sharpness and uptake on
phantoms 300 to 307 (internal, healthy), lesions on phantoms 300 to 331 and on each kind. Writes phantoms.md and
phantoms.csv beside this file; phantoms_before.csv holds what the same measurements gave on the phantoms of version 2.

Real figures: two whole-body scans (liver, air), the means of 80 healthy people (uptake, see
`seganypet.phantom.patient`) and 51 soft-tissue sarcomas (lesions).
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage, stats

from seganypet.organs import ORGANS
from seganypet.phantom import PhantomCase, make_phantom
from seganypet.phantom.patient import ID, draw_patient

HERE = Path(__file__).parent
SEEDS = range(300, 308)
LESION_SEEDS = range(300, 332)
PEOPLE = 400  # patients drawn, not scanned, for the correlations of uptake

# Quantity -> what real scans show.
REAL = {
    "liver CoV": "0.18 to 0.24",
    "liver autocorrelation at one voxel, x": "0.45",
    "liver autocorrelation at one voxel, y": "0.55",
    "liver autocorrelation at one voxel, z": "0.3",
    "liver dome, 10 to 90 %, mm": "10 to 12",
    "kidney / liver": "1.5 to 1.8 (80 people: 1.31)",
    "hottest surroundings of the liver (8 to 20 mm, p90) / liver": "0.72 to 0.91",
    "voxels exactly 0": "0.25 to 0.29, or 0",
    "liver, SUV": "2.29", "kidneys, SUV": "3.00", "heart, SUV": "2.81 (median 2.45)", "aorta, SUV": "1.99",
    "spleen, SUV": "1.80", "lungs, SUV": "0.70", "bladder, SUV, median": "22.9", "muscle, SUV": "0.71",
    "small bowel, SUV": "2.52", "colon, SUV": "1.35", "stomach, SUV": "1.54", "pancreas, SUV": "1.56",
    "marrow, SUV": "1.33 (vertebral column)", "visceral fat, SUV": "1.41 (drawn on CT: bowel spills in)",
    "brain, SUV": "7.02",
    "Spearman liver, aorta": "0.83", "Spearman liver, spleen": "0.69", "Spearman liver, muscle": "0.44",
    "Spearman liver, small bowel": "about 0",
    "lesions: volume, median (p5 to p95), mL": "361 (sarcomas)",
    "lesions: deepest voxel below 0.6 of the mean": "0.26 (sarcomas)",
    "lesions: 41 % of the peak, connected, DSC": "0.39 (sarcomas)",
    "lesions: best threshold of each, DSC": "0.71 (sarcomas)",
}  # fmt: skip
KINDS = ("bulky", "infiltrating")  # measured by themselves beside what True draws


def image_figures(case: PhantomCase) -> dict[str, float]:
    """Noise, sharpness and uptake of one scan."""
    suv, spacing = case.pet.data, np.array(case.pet.spacing)
    liver = case.organs == 1 + ORGANS.index("liver")
    interior = _depth_mm(liver, spacing) > 10
    mean = float(suv[interior].mean())
    figures = {"liver CoV": float(suv[interior].std()) / mean}
    for axis, name in enumerate("xyz"):
        ends = [tuple(part if at == axis else slice(None) for at in range(3)) for part in (np.s_[:-1], np.s_[1:])]
        one, two = (suv[end] for end in ends)
        both = interior[ends[0]] & interior[ends[1]]
        figures[f"liver autocorrelation at one voxel, {name}"] = float(np.corrcoef(one[both], two[both])[0, 1])
    figures["liver dome, 10 to 90 %, mm"] = dome_width_mm(case, liver)
    away = ndimage.distance_transform_edt(~liver, sampling=spacing)
    around = (away > 8) & (away < 20) & (case.anatomy > 0)
    hottest = float(np.percentile(suv[around], 90))
    figures["hottest surroundings of the liver (8 to 20 mm, p90) / liver"] = hottest / mean
    figures["voxels exactly 0"] = float((suv == 0).mean())
    for quantity, tissues in (
        ("liver", ["liver"]), ("kidneys", [name for name in ID if name.startswith("kidney")]),
        ("heart", ["myocardium", "heart_blood"]), ("aorta", ["aorta"]), ("spleen", ["spleen"]),
        ("lungs", [name for name in ID if name.startswith("lung_")]), ("bladder", ["bladder"]), ("muscle", ["muscle"]),
        ("small bowel", ["small_bowel"]), ("colon", ["colon"]), ("stomach", ["stomach_wall", "stomach_content"]),
        ("pancreas", ["pancreas"]), ("marrow", ["marrow"]), ("brain", ["brain_grey", "brain_white", "cerebellum"]),
    ):  # fmt: skip
        inside = np.isin(case.anatomy, [ID[name] for name in tissues])
        if inside.any():
            figures[f"{quantity}, SUV"] = float(suv[inside].mean())
    figures["bladder, SUV, median"] = figures.pop("bladder, SUV", np.nan)
    figures["kidney / liver"] = figures.get("kidneys, SUV", np.nan) / figures["liver, SUV"]
    return figures


def dome_width_mm(case: PhantomCase, liver: np.ndarray) -> float:
    """Distance over which the uptake rises from 10 to 90 % on the way from lung into the liver's dome."""
    up = int(np.sign(case.pet.affine[2, 2]))
    dz = float(case.pet.spacing[2])
    suv, liver = (array[:, :, ::up] for array in (case.pet.data, liver))
    top = np.where(liver.any(2), liver.shape[2] - 1 - np.argmax(liver[:, :, ::-1], axis=2), -1)
    columns = np.argwhere(top > top.max() - 4 / dz)
    profiles = []
    for i, j in columns:
        z = (np.arange(-45, 46, 1.5)) / dz + top[i, j]
        if z[-1] > suv.shape[2] - 1 or z[0] < 0:
            return np.nan
        profiles.append(np.interp(z, np.arange(suv.shape[2]), suv[i, j]))
    profile = np.mean(profiles, axis=0)
    inside, outside = profile[:16].mean(), profile[-14:].mean()
    fraction = (profile - outside) / (inside - outside)
    middle = int(np.argmin(np.abs(fraction[16:-14] - 0.5))) + 16
    low = next(k for k in range(middle, len(fraction)) if fraction[k] < 0.1 or k == len(fraction) - 1)
    high = next(k for k in range(middle, -1, -1) if fraction[k] > 0.9 or k == 0)
    start = high + (fraction[high] - 0.9) / max(fraction[high] - fraction[high + 1], 1e-6)
    end = low - (0.1 - fraction[low]) / max(fraction[low - 1] - fraction[low], 1e-6)
    return 1.5 * float(end - start)


def lesion_figures(case: PhantomCase) -> Iterator[dict[str, float]]:
    """Size, cold middle and what thresholds reach, for each lesion of 1 mL and more."""
    spacing = np.array(case.pet.spacing)
    for label, box in enumerate(ndimage.find_objects(case.lesions), start=1):
        volume_ml = float((case.lesions[box] == label).sum()) * case.pet.voxel_volume_ml
        if volume_ml < 1:
            continue
        margin = np.ceil(25 / spacing).astype(int)
        wide = tuple(slice(max(part.start - m, 0), part.stop + m) for part, m in zip(box, margin, strict=True))
        lesion, suv = case.lesions[wide] == label, case.pet.data[wide]
        depth = _depth_mm(lesion, spacing)
        deepest = float(suv[depth == depth.max()].mean())
        peak = float(suv[lesion].max())
        fractions = np.arange(0.1, 0.9, 0.05)
        scores = [_dsc(_connected(suv > fraction * peak, suv, lesion), lesion) for fraction in fractions]
        yield {
            "volume": volume_ml,
            "deep": float(deepest < 0.6 * suv[lesion].mean()),
            "41 %": _dsc(_connected(suv > 0.41 * peak, suv, lesion), lesion),
            "best": max(scores),
        }


def _connected(hot: np.ndarray, suv: np.ndarray, lesion: np.ndarray) -> np.ndarray:
    """The piece of a threshold's mask that holds the lesion's hottest voxel."""
    pieces, _ = ndimage.label(hot)
    return pieces == pieces[np.unravel_index(np.argmax(np.where(lesion, suv, -1)), suv.shape)]


def _dsc(one: np.ndarray, two: np.ndarray) -> float:
    return 2 * float((one & two).sum()) / float(one.sum() + two.sum())


def _depth_mm(mask: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    return ndimage.distance_transform_edt(mask, sampling=spacing)


def _lesion_rows(cases: Iterator[PhantomCase], where: str) -> dict[str, str]:
    found = pd.DataFrame([row for case in cases for row in lesion_figures(case)])
    low, middle, high = np.percentile(found["volume"], (5, 50, 95))
    return {
        f"lesions{where}: volume, median (p5 to p95), mL": f"{middle:.3g} ({low:.3g} to {high:.3g}), n = {len(found)}",
        f"lesions{where}: deepest voxel below 0.6 of the mean": f"{found['deep'].mean():.2f}",
        f"lesions{where}: 41 % of the peak, connected, DSC": f"{found['41 %'].mean():.2f}",
        f"lesions{where}: best threshold of each, DSC": f"{found['best'].mean():.2f}",
    }


def measure() -> dict[str, str]:
    """All figures, as text: medians over phantoms with their range."""
    images = pd.DataFrame([image_figures(make_phantom(seed, "internal", lesions=False)) for seed in SEEDS])
    rows = {}
    for quantity in (quantity for quantity in REAL if quantity in images):
        column = images[quantity].dropna()
        centre = column.median() if "median" in quantity or "exactly" in quantity else column.mean()
        rows[quantity] = f"{centre:.2f} ({column.min():.2f} to {column.max():.2f})"
    drawn = pd.DataFrame([draw_patient(np.random.default_rng(seed)).suv for seed in range(PEOPLE)])
    for other in ("aorta", "spleen", "muscle", "small_bowel"):
        rho = stats.spearmanr(drawn["liver"], drawn[other]).statistic
        rows[f"Spearman liver, {other.replace('_', ' ')}"] = f"{rho:.2f}"
    rows |= _lesion_rows((make_phantom(seed) for seed in LESION_SEEDS), "")
    for kind in KINDS:
        rows |= _lesion_rows((make_phantom(seed, lesions=kind) for seed in SEEDS), f" ({kind})")
    return rows


def report(rows: dict[str, str], before: dict[str, str]) -> str:
    """The table as Markdown."""
    lines = ["| | real | phantoms, version 2 | phantoms |", "| --- | --- | --- | --- |"]
    for quantity, value in rows.items():
        lines.append(f"| {quantity} | {REAL.get(quantity, '')} | {before.get(quantity, '')} | {value} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write the table."""
    rows = measure()
    pd.Series(rows, name="phantoms").to_csv(HERE / "phantoms.csv", index_label="quantity")
    before = pd.read_csv(HERE / "phantoms_before.csv", index_col="quantity")["phantoms"].to_dict()
    table = report(rows, before)
    print(table)
    said = (__doc__ or "").partition("\n\n")[2]
    title = "# Phantoms against reality\n\n`python -m benchmarks.phantoms` wrote this file.\n\n"
    (HERE / "phantoms.md").write_text(f"{title}{said}\n{table}\n")


if __name__ == "__main__":
    main()
