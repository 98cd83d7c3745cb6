"""The table of objects beside the pictures: volume, SUVs and TLG of each, and of all together."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from seganypet.pet.quantification import quantify
from seganypet.pet.volume import Volume

SHOWN = ("MTV", "SUVmax", "SUVmean", "SUVpeak", "TLG")


def measures(name: str, mask: np.ndarray, volume: Volume) -> dict[str, Any]:
    """Numbers of one object, by quantity as `quantify` names them; of a volume that is not in SUVbw its volume alone.

    Returns:
        name; MTV in mL, SUVmax, SUVmean and SUVpeak in g/mL, TLG in g. None where there is none.
    """
    if volume.unit != "SUVbw" or not mask.any():
        ml = float(np.count_nonzero(mask) * volume.voxel_volume_ml)
        return {"name": name, **dict.fromkeys(SHOWN), "MTV": ml or None}
    rows = quantify(volume, {name: mask}).set_index("quantity")["value"]
    return {"name": name, **{quantity: float(rows[quantity]) for quantity in SHOWN}}


def total(
    rows: Sequence[dict[str, Any]], overlapping: Mapping[str, np.ndarray], volume: Volume
) -> dict[str, Any]:
    """Numbers of all objects together; a voxel of several counts once.

    Args:
        rows: What `measures` gives of each object.
        overlapping: Masks of all objects, if any of them may overlap; else nothing.
        volume: The volume.

    Returns:
        MTV in mL, SUVmax in g/mL, TLG in g, and overlap_ml: volume that more than one object has.
    """
    filled = [row for row in rows if row["MTV"]]
    if not filled:
        return {}
    sums = {key: sum(row[key] or 0.0 for row in filled) for key in ("MTV", "TLG")}
    suv_max = max((row["SUVmax"] for row in filled if row["SUVmax"] is not None), default=None)
    found = {"MTV": sums["MTV"], "SUVmax": suv_max, "TLG": None if suv_max is None else sums["TLG"], "overlap_ml": 0.0}
    if not overlapping:
        return found
    union = np.logical_or.reduce(list(overlapping.values()))
    union_ml = float(np.count_nonzero(union) * volume.voxel_volume_ml)
    if suv_max is not None:
        found["TLG"] = float(volume.data[union].sum(dtype=np.float64) * volume.voxel_volume_ml)
    return {**found, "MTV": union_ml, "overlap_ml": max(sums["MTV"] - union_ml, 0.0)}
