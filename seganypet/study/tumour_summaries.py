"""Tables of `analyse_tumours` in short: means over patients with intervals, and 2D against 3D."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from seganypet.errors import SegAnyPETError
from seganypet.metrics import bootstrap_interval
from seganypet.study.lesion_clicks import ALL, PER_SLICE

if TYPE_CHECKING:
    import pandas as pd

MIN_VOLUME_ML = 3.0  # smaller lesions are a matter of the scanner's resolution
PAIRED = ("clicks_2d", "clicks_3d", "dsc_2d", "dsc_3d")


def summarise_tumours(table: "pd.DataFrame", *, min_volume_ml: float = MIN_VOLUME_ML, seed: int = 0) -> "pd.DataFrame":
    """Means over patients and 95 % bootstrap intervals, by model, prompting and round.

    Args:
        table: Of `analyse_tumours`.
        min_volume_ml: Lesions that count in `lesion_dsc` have at least this volume.
        seed: Of the bootstrap.

    Returns:
        One row per model, prompting and click. All but the last column are of scans with lesions, so that methods which
        need a lesion to click are compared with the others on the same scans:

        - lesions_in_training, patients; total_clicks and model_seconds, means for a scan
        - dsc (all lesions together), with dsc_low and dsc_high; likewise fpv_ml, fnv_fraction and f1
        - lesion_dsc, single lesions one by one, each patient counted once, with its interval; `counted`, how many
        - healthy_fpv_ml, false positive volume of scans without lesions, mean over their patients
    """
    import pandas as pd

    keys = ["model", "lesions_in_training", "prompting", "click"]
    rows = []
    for key, every in table.groupby(keys, sort=False, dropna=False):
        whole, healthy = (every[(every["lesion"] == ALL) & (every["lesions"] > 0).eq(sick)] for sick in (True, False))
        single = every[(every["lesion"] != ALL) & (every["volume_ml"] >= min_volume_ml)]
        row = dict(zip(keys, key, strict=True)) | {"patients": whole["patient"].nunique()}
        row |= {name: whole[name].mean() for name in ("total_clicks", "model_seconds")}
        for name in ("dsc", "fpv_ml", "fnv_fraction", "f1"):
            row |= _interval(name, whole[name], whole["patient"], seed)
        row |= _interval("lesion_dsc", single["dsc"], single["patient"], seed) | {"counted": len(single)}
        false_ml, *_ = bootstrap_interval(healthy["fpv_ml"], healthy["patient"], seed)
        rows.append(row | {"healthy_fpv_ml": false_ml})
    return pd.DataFrame(rows)


def two_d_against_three_d(
    table: "pd.DataFrame", model_2d: str, model_3d: str, prompting_3d: str, *, seed: int = 0
) -> "pd.DataFrame":
    """DSC of all lesions in 2D less that in 3D, patient by patient.

    Args:
        table: Of `analyse_tumours`, with both models.
        model_2d: Clicked per slice.
        model_3d: The other.
        prompting_3d: One of `PROMPTINGS_3D`.
        seed: Of the bootstrap.

    Returns:
        Two rows for each round of the 2D model, N, 2N, ...: `matched` "rounds", the same round of the 3D model; and
        "clicks", its last round that took no more clicks than the 2D model did (patients whose first round took more
        are left out). Columns: prompt_2d, matched, patients; clicks_2d, clicks_3d, dsc_2d, dsc_3d, means over patients;
        difference with its 95 % bootstrap interval, low and high. Positive: 2D is better.

    Raises:
        SegAnyPETError: The table has no such rows.
    """
    import pandas as pd

    rows_2d = _whole_scans(table, model_2d, PER_SLICE)
    rows_3d = _whole_scans(table, model_3d, prompting_3d)
    out = []
    for click, at in rows_2d.groupby("click"):
        for matched in ("rounds", "clicks"):
            pairs = []  # of scans
            for one in at.itertuples():
                other = rows_3d[rows_3d["case"] == one.case].sort_values("click")
                equal = other["click"] == click if matched == "rounds" else other["total_clicks"] <= one.total_clicks
                if equal.any():
                    last = other[equal].iloc[-1]
                    pairs.append((one.patient, one.total_clicks, last["total_clicks"], one.dsc, last["dsc"]))
            found = pd.DataFrame(pairs, columns=["patient", *PAIRED]).groupby("patient").mean()
            interval = bootstrap_interval(found["dsc_2d"] - found["dsc_3d"], found.index, seed)
            row = {"prompt_2d": "N" if click == 1 else f"{click:.0f}N", "matched": matched, "patients": len(found)}
            out.append(row | dict(found.mean()) | dict(zip(("difference", "low", "high"), interval, strict=True)))
    return pd.DataFrame(out)


def _whole_scans(table: "pd.DataFrame", model: str, prompting: str) -> "pd.DataFrame":
    found = table[(table["model"] == model) & (table["prompting"] == prompting) & (table["lesion"] == ALL)]
    found = found[found["dsc"].notna()]
    if found.empty:
        there = sorted({*zip(table["model"], table["prompting"], strict=True)})
        raise SegAnyPETError(f"the table has no scan of {model!r}, {prompting!r}; it has {there}.")
    return found


def _interval(name: str, values: Sequence[float], patients: Sequence[str], seed: int) -> dict[str, float]:
    mean, low, high = bootstrap_interval(values, patients, seed)
    return {name: mean, f"{name}_low": low, f"{name}_high": high}
