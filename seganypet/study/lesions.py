"""Scattered lesions, zero-shot: every method clicked as suits it, on every case of a cohort.

A 3D network is clicked all at once and one by one, a 2D network in each slice that holds tumour. Beside them is what a
reading room has: thresholds, with clicks on each lesion, and without any.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seganypet._files import as_path, check_folder, make_folder, unsafe_name
from seganypet.errors import SegAnyPETError, renamed_keywords
from seganypet.metrics import lesion_scores
from seganypet.pet.physiology import without_physiology
from seganypet.pet.volume import Volume
from seganypet.prompting.base import PromptSession
from seganypet.prompting.suggest import hot_mask
from seganypet.study.definition import Rows, Study
from seganypet.study.engine import as_cases, run_study
from seganypet.study.lesion_clicks import (
    ALL,
    NO_CLICK,
    ONE_BY_ONE,
    PER_SLICE,
    PROMPTINGS_3D,
    prompt_all_at_once,
    prompt_one_by_one,
    union_of,
)
from seganypet.study.methods import Method, clicked_only, forget_networks, is_3d_network, resolve_methods
from seganypet.study.progress import tell
from seganypet.study.protocol import ClickProtocol
from seganypet.study.report import write_report
from seganypet.study.saved_masks import check_mask_names, keep_mask, masks_written
from seganypet.study.tumour_scan import TumourScan, organs_of_case

if TYPE_CHECKING:
    import pandas as pd

COLUMNS: dict[str, type] = {
    "case": str, "patient": str, "model": str, "weights": str, "lesions_in_training": str, "prompting": str,
    "lesion": str, "click": int, "total_clicks": int, "model_seconds": float, "disobeyed": int,
    "dsc": float, "fpv_ml": float, "fnv_ml": float, "fnv_fraction": float, "f1": float, "lesions": int,
    "volume_ml": float, "suv_max": float, "mtv_ml": float, "tlg": float, "true_mtv_ml": float, "true_tlg": float,
    "version": str, "error": str,
}  # fmt: skip


@dataclass(frozen=True)
class HotThreshold:
    """A method without clicks: everything at or above an SUV is called tumour, but for organs that are hot in health.

    Attributes:
        suv: The threshold, in SUVbw.
        without_organs: Whether healthy hot organs are left out; a case on which nobody drew any then has no rows.
    """

    suv: float
    without_organs: bool = False
    weights: None = None

    @property
    def name(self) -> str:
        """Name in tables."""
        return f"SUV>={self.suv:.15g}{', no hot organs' if self.without_organs else ''}"

    @property
    def identity(self) -> str:
        """What tells its rows from those of a clicked rule of the same name."""
        return f"threshold without clicks {self.name}"


@renamed_keywords(least_ml="min_volume_ml")
def analyse_tumours(
    cohort: Iterable[Any],
    models: Any,
    *,
    clicks: int = 3,
    clicks_at_once: int | None = None,
    promptings: Sequence[str] = PROMPTINGS_3D,
    rules: Sequence[str] = ("41% SUVmax, from hottest",),
    thresholds: Sequence[float] = (4.0,),
    min_volume_ml: float = 0.0,
    totalsegmentator: str | os.PathLike | None = None,
    reports: str | os.PathLike | None = None,
    save_masks: str | os.PathLike | None = None,
    output: str | os.PathLike | None = None,
    processes: int = 1,
    cluster: str | None = None,
    threads: int | None = None,
    limit: int | None = None,
    retry_failed: bool = False,
    device: str = "auto",
    precision: str = "auto",
    mixed_precision: bool = False,
    progress: bool = True,
) -> "pd.DataFrame":
    """Segment the lesions of every case with every method under simulated clicks.

    Args:
        cohort: Cases with lesions, their PETs in SUVbw: a `Cohort`, phantoms, or `InMemoryCase`.
        models: As for `evaluate`: names, paths, networks, factories, or a mapping that gives them names.
        clicks: Number of rounds, for each lesion and in each slice.
        clicks_at_once: Number of rounds of 3D networks where all lesions are one object; default as `clicks`.
        promptings: How 3D networks are clicked, "all at once" and/or "one by one", see `lesion_clicks.py`.
        rules: Threshold rules that are clicked on every lesion, see `ThresholdSession`.
        thresholds: SUVs of thresholds that nobody clicks: everything above is called tumour. Where organs are known,
            once more without those that are hot in health.
        min_volume_ml: Lesions below this volume, in mL, are not clicked one by one.
        totalsegmentator: Folder of TotalSegmentator's output, see `TumourScan.of`.
        reports: Folder for one page for each case, of the first 3D network one by one; made if missing. A finished
            case whose page was removed or changed is analysed again by that network.
        save_masks: Folder for the masks of all lesions after the last round, <case>/<model>/<prompting>.nii.gz.
        device, precision: Where networks that are given by name or path compute, see `methods.resolve_methods`.
        output, processes, cluster, threads, limit, retry_failed, mixed_precision, progress: See `engine.run_study`.

    Returns:
        Columns: case, patient, model, weights (digits of their SHA-256), lesions_in_training ("none", "simulated",
        "unknown"; missing without network), those of `lesion_clicks.py`, version and error. A case without lesions has
        rows of the thresholds only.

    Raises:
        SegAnyPETError: Unknown models or promptings, no such folder, and what `engine.run_study` raises.
    """
    if unknown := [one for one in promptings if one not in PROMPTINGS_3D]:
        raise SegAnyPETError(f"promptings: {unknown[0]!r}; expected {' or '.join(map(repr, PROMPTINGS_3D))}.")
    settings: dict[str, Any] = {
        "clicks": clicks,
        "clicks_at_once": clicks if clicks_at_once is None else clicks_at_once,
        "min_volume_ml": float(min_volume_ml),
        "promptings": [one for one in PROMPTINGS_3D if one in promptings],
        "hot_organs": "the case's own labels" if totalsegmentator is None else "TotalSegmentator's",
    }  # fmt: skip
    for rounds in (settings["clicks"], settings["clicks_at_once"]):
        ClickProtocol(rounds)  # refuses nonsense before the work
    for suv in thresholds:
        if not 0 < suv < float("inf"):
            raise SegAnyPETError(f"thresholds: {suv!r}; expected SUVs above 0.")
    if totalsegmentator is not None:
        check_folder(totalsegmentator)
    cases = as_cases(cohort, limit)
    if reports is not None:
        make_folder(reports)
        if found := unsafe_name(case.name for case in cases):
            raise SegAnyPETError(f"case {found[0]!r} cannot give a report its file name: {found[1]}. Rename it.")
    try:
        methods: list[Any] = [HotThreshold(float(suv), cut) for suv in thresholds for cut in (False, True)]
        methods += clicked_only(resolve_methods(models, rules, device, precision), "a study of lesions")
        reporter = None if reports is None else next((one.name for one in methods if is_3d_network(one)), None)
        check_mask_names(save_masks, cases, methods)
        pages = partial(_page, reports, reporter)
        study = Study(
            "lesions", COLUMNS, settings, partial(analyse_case, totalsegmentator, pages, masks=save_masks), methods,
            reads=partial(_organs, totalsegmentator), writes=partial(_written, pages, save_masks),
        )  # fmt: skip
        return run_study(
            study, cases, output=output, processes=processes, cluster=cluster, threads=threads,
            retry_failed=retry_failed, mixed_precision=mixed_precision, progress=progress,
        )  # fmt: skip
    finally:
        forget_networks()


def analyse_case(
    totalsegmentator: str | os.PathLike | None, pages: Any, case: Any, methods: Sequence[Any],
    settings: Mapping[str, Any], masks: str | os.PathLike | None = None,
) -> Iterator[tuple[str, Rows]]:  # fmt: skip
    """All rows of one case, method by method."""
    scan = TumourScan.of(case, totalsegmentator)
    for method in methods:
        tell(method.name)
        keep = partial(_keep, masks, case.name, method.name, scan.pet) if masks is not None else None
        if isinstance(method, HotThreshold):
            yield method.name, list(without_clicks(scan, method, keep))
        else:
            yield method.name, list(with_clicks(scan, method, settings, pages(case, method).get("page"), keep))


def _keep(masks: str | os.PathLike, case: str, model: str, scan: Volume, prompting: str, mask: np.ndarray) -> None:
    keep_mask(masks, case, model, prompting, mask, scan)


def without_clicks(
    scan: TumourScan, method: HotThreshold, keep: Callable[[str, np.ndarray], object] | None = None
) -> Iterator[dict[str, Any]]:
    """What a threshold calls tumour that nobody clicks: everywhere, or outside the organs that are hot in health."""
    mask = hot_mask(scan.pet, method.suv)
    if method.without_organs:
        if scan.physiology is None:
            return
        mask = without_physiology(scan.pet, mask, scan.physiology)
    if keep is not None:
        keep(NO_CLICK, mask)
    row = {"prompting": NO_CLICK, "lesion": ALL, "click": 0, "total_clicks": 0}
    yield row | lesion_scores(mask, scan.truth, scan.pet.data, scan.pet.voxel_volume_ml)


def with_clicks(
    scan: TumourScan, method: Method, settings: Mapping[str, Any], page: Path | None = None,
    keep: Callable[[str, np.ndarray], object] | None = None,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """What a method makes of clicks, as suits it; writes a page about clicking one by one, keeps each last mask.

    A page that cannot be written gives a row with the error behind the others.
    """
    if not scan.truth.any():
        return  # nothing to click
    protocol, at_once = ClickProtocol(settings["clicks"]), ClickProtocol(settings["clicks_at_once"])
    first, paged = method.open(scan.pet), None
    training = trained_on(first)
    for prompting in _promptings(first, settings):
        session = method.open(scan.pet)
        if prompting == ONE_BY_ONE:
            rows = prompt_one_by_one(session, scan.truth, protocol, settings["min_volume_ml"])
            paged = session
        else:
            rows = prompt_all_at_once(session, scan.truth, protocol if prompting == PER_SLICE else at_once)
        yield from ({"lesions_in_training": training} | row for row in rows)
        if keep is not None:
            keep(prompting, union_of(session))
    if page is not None and paged is not None and paged.objects:
        notes = [f"A simulated user, who knew the truth, clicked each lesion {protocol.clicks} times."]
        try:
            write_report(page, paged, title=scan.name, truth=scan.truth, notes=notes)
        except SegAnyPETError as error:
            yield {"error": f"no page: {error}"}


def trained_on(session: PromptSession) -> str | None:
    """What lesions the network behind a session learned from: "none", "simulated", "unknown"; None without network."""
    if not hasattr(session, "model"):
        return None
    training = getattr(session.model, "metadata", {}).get("training")
    if training is None:
        return "unknown"
    return "simulated" if training.get("data", training).get("lesions", True) else "none"


def _promptings(session: PromptSession, settings: Mapping[str, Any]) -> Sequence[str]:
    """How a method is clicked: a rule one by one, a network as it was asked for."""
    if hasattr(session, "click_slices"):
        return [PER_SLICE]
    return settings["promptings"] if hasattr(session, "model") else [ONE_BY_ONE]


def _organs(totalsegmentator: str | os.PathLike | None, case: Any, method: Any) -> dict[str, Path | None]:
    return {} if totalsegmentator is None else {"totalsegmentator": organs_of_case(case.name, totalsegmentator)}


def _written(pages: Any, masks: str | os.PathLike | None, case: Any, method: Any) -> dict[str, Path]:
    return pages(case, method) | masks_written(masks, case, method)


def _page(reports: str | os.PathLike | None, reporter: str | None, case: Any, method: Any) -> dict[str, Path]:
    return {} if reports is None or method.name != reporter else {"page": as_path(reports) / f"{case.name}.html"}
