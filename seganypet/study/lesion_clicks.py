"""Lesions of one scan under simulated clicks: all at once, one by one, or slice by slice, with what it cost.

"all at once" is the setting of the supplement's Table 5: every click goes to the one object "tumour", wherever the
largest error is. "one by one" gives each lesion clicks of its own and scores their union. A 2D network is clicked in
each slice that holds tumour, "per slice", which only an oracle can know.

Lesions to click are 26-connected components of the truth, as a person sees them; lesions to count are 18-connected, as
autoPET counts them (`seganypet.metrics`).
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from seganypet.cohort.labels import lesion_instances, lesion_name
from seganypet.errors import SegAnyPETError
from seganypet.metrics import lesion_scores, tumour_burden
from seganypet.prompting.base import MAX_OBJECTS, PromptSession
from seganypet.study.protocol import ClickProtocol, simulate_clicks

ALL = "all"  # in the column `lesion`: the scores of all lesions together
ALL_AT_ONCE, ONE_BY_ONE, PER_SLICE, NO_CLICK = "all at once", "one by one", "per slice", "no click"
PROMPTINGS_3D: tuple[str, ...] = (ALL_AT_ONCE, ONE_BY_ONE)


def prompt_all_at_once(session: PromptSession, truth: np.ndarray, protocol: ClickProtocol) -> Iterator[dict[str, Any]]:
    """All lesions as one object, which a simulated user clicks and corrects.

    Args:
        session: Session on the scan; its active object has no click yet. If it works slice by slice, each round is a
            click in every slice that holds tumour and is wrong.
        truth: All lesions, bool, shape of the scan.
        protocol: Number of rounds, and strategies; its protocol must be "whole_volume".

    Yields:
        A row for each round: prompting, lesion ("all"), click, total_clicks, model_seconds (sum of both so far),
        disobeyed (clicks of this round that the mask contradicts), and `metrics.lesion_scores`.
    """
    _check(protocol)
    scan = session.volume.data, session.volume.voxel_volume_ml
    prompting = PER_SLICE if hasattr(session, "click_slices") else ALL_AT_ONCE
    for row in simulate_clicks(session, truth, session.volume, protocol, np.random.default_rng(protocol.seed)):
        cells = {"click": row["click"]} | _costs(row)
        yield {"prompting": prompting, "lesion": ALL} | cells | lesion_scores(session.mask, truth, *scan)


def prompt_one_by_one(
    session: PromptSession, truth: np.ndarray, protocol: ClickProtocol, min_volume_ml: float = 0.0
) -> Iterator[dict[str, Any]]:
    """Each lesion as an object of its own, named "lesion_01", ... from the largest; then their union, round by round.

    Args:
        session: Session on the scan, without clicks.
        truth: All lesions, bool, shape of the scan.
        protocol: As for `prompt_all_at_once`; every lesion gets that many rounds.
        min_volume_ml: Lesions below this volume are not clicked, nor are those behind the 255 largest, all that a
            session holds; the union is scored against the whole truth all the same.

    Yields:
        A row for each lesion and round: prompting, lesion, click, total_clicks and model_seconds of this lesion so far,
        disobeyed (1 if its mask contradicts the click of this round), dsc against this lesion alone, volume_ml, suv_max
        (in the scan's unit), mtv_ml, tlg of its mask and true_mtv_ml, true_tlg of the lesion itself. Then a row for
        each round with lesion "all", as `prompt_all_at_once` has them, whose costs are sums over lesions.
    """
    _check(protocol)
    volume = session.volume
    scan = volume.data, volume.voxel_volume_ml
    instances = lesion_instances(truth)
    unions = np.zeros((protocol.clicks, *volume.shape), bool)
    costs = np.zeros((protocol.clicks, 3))
    for number in range(1, min(int(instances.max(initial=0)), MAX_OBJECTS) + 1):
        lesion = instances == number
        volume_ml = np.count_nonzero(lesion) * volume.voxel_volume_ml
        if volume_ml < min_volume_ml:
            continue
        size = {"volume_ml": volume_ml, "suv_max": volume.data[lesion].max()}
        session.select(lesion_name(number))
        for row in simulate_clicks(session, lesion, volume, protocol, np.random.default_rng([protocol.seed, number])):
            mask = session.mask
            unions[row["click"] - 1] |= mask
            cost = _costs(row)
            costs[row["click"] - 1] += list(cost.values())
            cells = {"lesion": lesion_name(number), "click": row["click"], "dsc": row["dsc"]}
            yield {"prompting": ONE_BY_ONE} | cells | cost | size | tumour_burden(mask, lesion, *scan)
    for number, (union, (clicks, seconds, disobeyed)) in enumerate(zip(unions, costs, strict=True), 1):
        cost = {"click": number, "total_clicks": int(clicks), "model_seconds": float(seconds)}
        cost["disobeyed"] = int(disobeyed)
        yield {"prompting": ONE_BY_ONE, "lesion": ALL} | cost | lesion_scores(union, truth, *scan)


def union_of(session: PromptSession) -> np.ndarray:
    """All objects of a session in one mask, bool, shape of the scan."""
    mask = np.zeros(session.volume.shape, bool)
    for name in session.objects:
        mask |= session.mask_of(name)
    return mask


def _costs(row: dict[str, Any]) -> dict[str, Any]:
    """What a round cost; where nothing was wrong, nothing was given and nothing disobeyed."""
    return {name: row.get(name, 0) for name in ("total_clicks", "model_seconds", "disobeyed")}


def _check(protocol: ClickProtocol) -> None:
    if protocol.protocol != "whole_volume":
        raise SegAnyPETError(
            f"protocol={protocol.protocol!r}: lesions are scattered, so they are scored over the whole scan; expected "
            "'whole_volume'."
        )
