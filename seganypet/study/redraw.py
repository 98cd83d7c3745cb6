"""The mask of a row of `evaluate`, drawn again from the row's prompts and held against its DSC."""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np

from seganypet.cohort.case import CTCase
from seganypet.errors import SegAnyPETError, shown
from seganypet.study.automatic import CT
from seganypet.study.engine import as_cases
from seganypet.study.evaluation import chance_of
from seganypet.study.methods import Method, forget_networks, on_ct, resolve_methods
from seganypet.study.protocol import ClickProtocol, segment_target

NEEDED = ("case", "target", "model", "click", "dsc", "protocol", "seed")
TOLERANCE_DSC = 1e-3  # other threads or another GPU round differently


def redraw_mask(
    row: Mapping[str, Any], cohort: Iterable[Any], model: Any, *, precision: str | None = None, device: str = "auto",
    other_weights: bool = False,
) -> np.ndarray:  # fmt: skip
    """Give the prompts of a row of `evaluate` again, and check that mask and DSC are the row's.

    Args:
        row: A row of the table of `evaluate`, such as `results.iloc[7]` or one of `results.to_dict("records")`.
        cohort: The cases of the table, with their labels, from which prompts follow.
        model: The row's model: a name, path, network, factory or rule, see `evaluate`.
        precision: Precision of a 3D network; None: the row's. In another one, nothing is checked.
        device: Where a network that is given by name or path computes.
        other_weights: Whether the model may have other weights than the row's; nothing is checked then.

    Returns:
        The mask after the row's round, bool, on the grid of the scan.

    Raises:
        SegAnyPETError: No such case or target; a row that failed or has no prompts; other weights; or other prompts or
            another DSC than the row's, as after labels were corrected.
    """
    import pandas as pd

    row = {name: None if pd.isna(value) else value for name, value in dict(row).items()}
    if missing := [name for name in NEEDED if row.get(name) is None]:
        why = f"it failed: {row['error']}" if row.get("error") else f"it has no {', '.join(missing)}"
        raise SegAnyPETError(f"this row of a table has no mask to redraw: {why}. Expected a scored row of evaluate.")
    if int(row["click"]) < 1:
        raise SegAnyPETError(f"{row['model']} takes no prompts; its mask is in the files that it was scored from.")
    case = next((one for one in as_cases(cohort) if one.name == row["case"]), None)
    if case is None:
        raise SegAnyPETError(f"the cohort has no case {shown(row['case'])}, which the row is about.")
    where = f"case {row['case']}, {row['target']}, {row['model']}, click {int(row['click'])}"
    same_precision = precision is None or precision == row.get("precision")
    try:
        (resolved,) = resolve_methods({row["model"]: model}, (), device, precision or row.get("precision") or "auto")
        method = cast(Method, resolved)  # an automatic one has no clicks, so it was refused above
        if not other_weights and method.weights != row.get("weights"):
            raise SegAnyPETError(
                f"{where}: was made with weights {row.get('weights')}, the model has {method.weights}. Give the same "
                "weights, or other_weights=True to see what these draw."
            )
        if row.get("modality") == CT:
            (method,) = on_ct([method])
        mask, again = _redraw(row, case, method)
    finally:
        forget_networks()
    if same_precision and method.weights == row.get("weights"):
        names = ("click_i", "click_j", "click_k")
        clicks = [[None if one.get(name) is None else int(one[name]) for name in names] for one in (row, again)]
        if clicks[0] != clicks[1] or abs(again["dsc"] - row["dsc"]) > TOLERANCE_DSC:
            raise SegAnyPETError(
                f"{where}: the table has DSC {row['dsc']:.4f} after a prompt at {clicks[0]}, today it is "
                f"{again['dsc']:.4f} after one at {clicks[1]}. Scan or labels have changed, or the version of "
                f"seganypet ({row.get('version')} in the table)."
            )
    return mask


def _redraw(row: Mapping[str, Any], case: Any, method: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """The mask after the row's round, and the row as it is scored today."""
    scan = (CTCase(case, register=True) if row.get("modality") == CT else case).load_pet()
    protocol = ClickProtocol.from_label(row["protocol"], int(row["click"]), int(row["seed"]))
    truth = dict(case.targets(scan, [row["target"]])).get(row["target"])
    if truth is None:
        raise SegAnyPETError(f"case {case.name}: no target {row['target']} in its labels, which the row is about.")
    kept: deque[np.ndarray] = deque(maxlen=1)
    rng = chance_of(protocol, case.name, row["target"])
    *_, last = segment_target(method, method.open(scan), truth, scan, protocol, rng, kept.append)
    return kept[0], last
