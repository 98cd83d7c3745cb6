"""Organs of one real FDG-PET from a click each: `python -m benchmarks.real_scan PATH/acrin042/PET_AC`.

The scan is the public ACRIN-NSCLC-FDG-PET case 042. It has no reference mask, so the checks are those that need none:
plausible volumes, sides, overlaps, and whether different clicks in one organ give the same mask. Clicks and corrections
(`notebooks/acrin042_clicks.json`) were placed on the pictures, for the first edition of tiny-base, and some were tried
at several positions while watching the overlap: they show what corrections can reach, not the result of a first
attempt. Later networks get the same clicks, unchanged.
"""

import argparse
import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

import seganypet as sap
from seganypet.model.sam3d import Sam3D

HERE = Path(__file__).parent
CLICKS = HERE.parent / "notebooks" / "acrin042_clicks.json"
PLAUSIBLE_ML = {
    "liver": (900, 3000),
    "spleen": (80, 450),
    "kidney_right": (90, 300),
    "kidney_left": (90, 300),
}
LIVER_CLICKS = ((44, 54, 32), (40, 60, 24), (50, 48, 36), (38, 52, 34), (48, 62, 30))


def main() -> None:
    """Command line: prints three tables for each network and writes the first as CSV."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_scan", description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="DICOM folder PET_AC of acrin042")
    parser.add_argument("--models", nargs="+", default=["tiny-base", "tiny"])
    parser.add_argument("--output", type=Path, default=HERE / "real_scan.csv")
    options = parser.parse_args()
    volume = sap.load_dicom(options.folder)
    tables = [report(sap.load_model(name), volume) for name in options.models]
    pd.concat(tables).to_csv(options.output, index=False)


def report(model: Sam3D, volume: sap.Volume) -> pd.DataFrame:
    """One row per target of CLICKS; prints it, overlaps, and how much single clicks in the liver agree."""
    session = sap.Session(model, volume)
    for name, clicks in json.loads(CLICKS.read_text()).items():
        session.select(name)
        for *ijk, foreground in clicks:
            session.click(ijk=ijk, foreground=bool(foreground))
    rows = []
    for name, mask in session.masks.items():
        centre_mm = volume.to_mm(np.argwhere(mask).mean(0)) if mask.any() else np.full(3, np.nan)
        volume_ml = mask.sum() * volume.voxel_volume_ml
        low, high = PLAUSIBLE_ML.get(name, (np.nan, np.nan))
        session.select(name)
        rows.append({
            "model": model.name, "target": name, "clicks": len(session.clicks), "volume_ml": round(volume_ml, 1),
            "plausible_from_ml": low, "plausible_to_ml": high,
            "suv_mean": round(float(volume.data[mask].mean()), 2), "suv_max": round(float(volume.data[mask].max()), 2),
            "centre_x_mm": round(float(centre_mm[0]), 1),
        })  # fmt: skip
    table = pd.DataFrame(rows)
    print(f"\n{model.name}, trained {model.metadata.get('step', '?')} steps\n\n{table.to_string(index=False)}")

    print("\nOverlap, as a share of the smaller of two masks:")
    for (one, a), (other, b) in combinations(session.masks.items(), 2):
        if np.any(a & b):
            print(f"  {one} and {other}: {100 * (a & b).sum() / min(a.sum(), b.sum()):.2f} %")

    masks = [sap.Session(model, volume).click(ijk=ijk) for ijk in LIVER_CLICKS]
    agreement = [sap.dice(a, b) for a, b in combinations(masks, 2)]
    print(f"\nFive clicks in the liver, one at a time: pairwise DSC {min(agreement):.3f} to {max(agreement):.3f}, "
          f"median {np.median(agreement):.3f}; volumes "
          f"{', '.join(f'{mask.sum() * volume.voxel_volume_ml:.0f}' for mask in masks)} mL.")  # fmt: skip
    return table


if __name__ == "__main__":
    main()
