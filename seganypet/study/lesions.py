"""Tumours of a cohort, zero-shot: `python -m seganypet.study.lesions FOLDER --model tiny-organs`.

Every network is clicked as suits it (3D: all lesions at once, and one by one, each in the network's own windows and
closely in finer ones, so that neither is taken for the other; 2D: in each slice that holds tumour), and beside it
stands what a reading room has: thresholds, with clicks on each lesion, and without any.
"""

import argparse
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seganypet import __version__
from seganypet._files import check_folder, make_folder, unsafe_name
from seganypet.cohort.cohort import Cohort
from seganypet.errors import SegAnyPETError
from seganypet.metrics import lesion_scores
from seganypet.pet.physiology import without_physiology
from seganypet.phantom import PhantomCase
from seganypet.prompting.base import PromptSession
from seganypet.prompting.suggest import hot_mask
from seganypet.study.kept import Kept
from seganypet.study.lesion_clicks import (
    ALL,
    CLOSELY,
    NO_CLICK,
    ONE_BY_ONE,
    PER_SLICE,
    PROMPTINGS_3D,
    prompt_all_at_once,
    prompt_one_by_one,
)
from seganypet.study.methods import (
    Method,
    can_look_closer,
    forget_networks,
    named_models,
    open_closely,
    open_session,
    resolve_methods,
)
from seganypet.study.protocol import Dialogue
from seganypet.study.report import write_report
from seganypet.study.tumour_scan import PhantomInMemory, TumourScan, organs_of_case
from seganypet.study.tumour_summaries import summarise_tumours

if TYPE_CHECKING:
    import pandas as pd

WHOLE = ("click", "total_clicks")
WORDS = ("case", "patient", "model", "weights", "lesions_in_training", "prompting", "lesion", "version")
COLUMNS = (
    *WORDS[:7], "click", "total_clicks", "model_seconds", "dsc", "fpv_ml", "fnv_ml", "fnv_fraction", "f1", "lesions",
    "volume_ml", "suv_max", "mtv_ml", "tlg", "true_mtv_ml", "true_tlg", "version",
)  # fmt: skip


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
    output: str | os.PathLike | None = None,
    reports: str | os.PathLike | None = None,
    progress: bool = True,
) -> "pd.DataFrame":
    """Segment the lesions of every case with every method under simulated clicks.

    Args:
        cohort: Cases with lesions, their PETs in SUVbw: a `Cohort`, or phantoms.
        models: As for `evaluate`: names, paths, networks, or a mapping that gives them names.
        clicks: Rounds, for each lesion and in each slice.
        clicks_at_once: Rounds of 3D networks where all lesions are one object; default as `clicks`.
        promptings: How 3D networks are clicked: "all at once" and "one by one" in the network's own windows, and the
            same with ", closely" in finer ones, see `open_closely`, unless the network's own are as fine. A session
            that a factory opens has its own.
        rules: Threshold rules that are clicked on every lesion, see `ThresholdSession`.
        thresholds: SUVs of thresholds that nobody clicks: everything above is called tumour. Where organs are known,
            once more without those that are hot in health.
        min_volume_ml: Lesions below this volume are not clicked one by one.
        totalsegmentator: Folder of TotalSegmentator's output, see `TumourScan.of`.
        output: CSV that is written after every case, so that a killed run goes on, see `Kept`.
        reports: Folder for one page for each case, of the first 3D network one by one, closely if that is among
            `promptings`; made if missing. A finished case without its own page is analysed again.
        progress: Show a bar over cases.

    Returns:
        Columns: case, patient, model, weights (digits of their SHA-256), lesions_in_training ("none", "simulated",
        "unknown", "" without network), those of `lesion_rounds`, NaN where a row has none, and version. A case without
        lesions has rows of the thresholds only.

    Raises:
        SegAnyPETError: Unknown models or promptings, no such folder, or an `output` of other settings.

    Warns:
        UserWarning: Cases that cannot be analysed, with the reason; the others are.
    """
    import pandas as pd
    from tqdm.auto import tqdm

    if totalsegmentator is not None:
        check_folder(totalsegmentator)
    if unknown := [one for one in promptings if one not in PROMPTINGS_3D]:
        raise SegAnyPETError(f"promptings: {unknown[0]!r}; there are {', '.join(map(repr, PROMPTINGS_3D))}.")
    dialogue, at_once = Dialogue(clicks), Dialogue(clicks_at_once or clicks)
    methods = resolve_methods(models, rules, open_session)
    settings = f"{[(one.name, one.weights) for one in methods]}, {clicks}, {at_once}, {list(promptings)}, thresholds "
    settings += f"{list(thresholds)}, min_volume_ml {min_volume_ml:g}, organs of {totalsegmentator}, "
    settings += f"seganypet {__version__}"
    cases = [PhantomInMemory(case) if isinstance(case, PhantomCase) else case for case in cohort]
    if reports is not None:
        make_folder(reports)
        if found := unsafe_name(case.name for case in cases):
            raise SegAnyPETError(f"case {found[0]!r} cannot have a page of that name: {found[1]}. Rename it.")
    tables = []
    with ExitStack() as stack:
        stack.callback(forget_networks)
        kept = stack.enter_context(Kept(None if output is None else Path(output), settings, COLUMNS, WORDS, WHOLE))
        for case in tqdm(cases, desc="cases", disable=not progress):
            page = None if reports is None else Path(reports) / f"{case.name}.html"
            organs = organs_of_case(case.name, totalsegmentator)
            table = kept.table(case, organs)
            if table is None or (page is not None and _deserves_page(table) and not kept.has_page(case, page)):
                try:
                    scan = TumourScan.of(case, totalsegmentator)
                    rows = [*without_clicks(scan, thresholds)]
                    rows += with_clicks(scan, methods, promptings, dialogue, at_once, min_volume_ml, page)
                except SegAnyPETError as error:
                    warnings.warn(f"case {case.name} is left out: {error}", stacklevel=2)
                    continue
                facts = {"case": case.name, "patient": case.patient, "version": __version__}
                table = pd.DataFrame([facts | row for row in rows], columns=list(COLUMNS))
                kept.add(case, table, organs, page=page)
            tables.append(table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(COLUMNS))


def without_clicks(scan: TumourScan, thresholds: Sequence[float]) -> Iterator[dict[str, Any]]:
    """What a threshold calls tumour that nobody clicks: everywhere, and outside the organs that are hot in health."""
    for suv in thresholds:
        hot = hot_mask(scan.pet, float(suv))
        masks = {f"SUV>={suv:g}": hot}
        if scan.physiology is not None:
            masks[f"SUV>={suv:g}, no hot organs"] = without_physiology(scan.pet, hot, scan.physiology)
        for name, mask in masks.items():
            scores = lesion_scores(mask, scan.truth, scan.pet.data, scan.pet.voxel_volume_ml)
            facts = {"model": name, "weights": "", "lesions_in_training": "", "prompting": NO_CLICK, "lesion": ALL}
            yield facts | {"click": 0, "total_clicks": 0} | scores


def with_clicks(
    scan: TumourScan,
    methods: Sequence[Method],
    promptings: Sequence[str],
    dialogue: Dialogue,
    at_once: Dialogue,
    min_volume_ml: float = 0.0,
    page: Path | None = None,
) -> Iterator[dict[str, Any]]:
    """What every method makes of clicks, as suits it; writes the page of the first 3D network.

    Warns:
        UserWarning: The page cannot be written; the rows come all the same.
    """
    if not scan.truth.any():
        return  # nothing to click
    for method in methods:
        first = method.open(scan.pet)
        facts = {"model": method.name, "weights": method.weights or "", "lesions_in_training": trained_on(first)}
        suitable = _suitable(method, first, promptings)
        for prompting in suitable:
            session = open_closely(first.model, scan.pet) if prompting.endswith(CLOSELY) else method.open(scan.pet)
            if prompting.startswith(ONE_BY_ONE):
                rows = prompt_one_by_one(session, scan.truth, dialogue, min_volume_ml)
            else:
                rows = prompt_all_at_once(session, scan.truth, dialogue if prompting == PER_SLICE else at_once)
            yield from (facts | row | {"prompting": prompting} for row in rows)
            is_best = prompting.startswith(ONE_BY_ONE) and prompting == suitable[-1]
            if is_best and hasattr(session, "model") and page is not None and session.objects:
                notes = [f"A simulated user, who knew the truth, clicked each lesion {dialogue.clicks} times."]
                try:
                    write_report(page, session, title=scan.name, truth=scan.truth, notes=notes)
                except SegAnyPETError as error:
                    warnings.warn(f"case {scan.name} has no page: {error}", stacklevel=2)
                page = None


def _suitable(method: Method, session: PromptSession, promptings: Sequence[str]) -> list[str]:
    """How a method is clicked: rules one by one; closely unless its own windows are as fine, or a factory's."""
    if hasattr(session, "click_slices"):
        return [PER_SLICE]
    if not hasattr(session, "model"):
        return [ONE_BY_ONE]
    closer = method.opener is open_session and can_look_closer(session.model)
    asked = promptings if closer else [one.removesuffix(CLOSELY) for one in promptings]
    return [one for one in PROMPTINGS_3D if one in asked]


def _deserves_page(table: "pd.DataFrame") -> bool:
    """Whether a 3D network was clicked on a lesion."""
    clicked = table["prompting"].str.startswith(ONE_BY_ONE) & (table["lesion"] != ALL) & (table["weights"] != "")
    return bool(clicked.any())


def trained_on(session: PromptSession) -> str:
    """What lesions the network behind a session learned from: "none", "simulated", "unknown"; "" without network."""
    if not hasattr(session, "model"):
        return ""
    training = getattr(session.model, "metadata", {}).get("training")
    if training is None:
        return "unknown"
    return "simulated" if training.get("data", training).get("lesions", True) else "none"


def main(arguments: list[str] | None = None) -> None:
    """Command line: the table, the pages, and means over patients."""
    parser = argparse.ArgumentParser(
        prog="python -m seganypet.study.lesions",
        description="Segment the tumours of a cohort under simulated clicks: 3D networks all at once and one by one, "
        "2D networks in each slice, thresholds with clicks and without; means over patients with 95 %% intervals.",
        epilog="columns of the table: see analyse_tumours. An interrupted run resumes.",
    )
    parser.add_argument("cohort", help="a cohort.csv, an AutoPET or an nnU-Net folder, with labels of lesions")
    parser.add_argument("--model", action="append", required=True, help="network: name, path, NAME=PATH; several times")
    parser.add_argument("--clicks", type=int, default=3, help="rounds for each lesion and slice (%(default)s)")
    parser.add_argument("--clicks-at-once", type=int, help="rounds where all lesions are one object (as --clicks)")
    parser.add_argument("--prompting", action="append", choices=PROMPTINGS_3D, help="of 3D networks (all four)")
    parser.add_argument("--rule", action="append", help='rule clicked on each lesion ("41%% SUVmax, from hottest")')
    parser.add_argument("--threshold", type=float, action="append", help="SUV that nobody clicks (4)")
    parser.add_argument("--min-volume-ml", type=float, default=0.0, help="do not click smaller lesions one by one")
    parser.add_argument("--totalsegmentator", type=Path, help="folder of its output, <case>.nii.gz or <case>/")
    parser.add_argument("--output", type=Path, default=Path("tumours.csv"), help="the table (%(default)s)")
    parser.add_argument("--reports", type=Path, help="folder for one page for each case")
    options = parser.parse_args(arguments)
    try:
        table = analyse_tumours(
            Cohort.from_path(options.cohort), named_models(options.model), clicks=options.clicks,
            clicks_at_once=options.clicks_at_once, promptings=options.prompting or PROMPTINGS_3D,
            rules=options.rule or ("41% SUVmax, from hottest",),
            thresholds=options.threshold or (4.0,), min_volume_ml=options.min_volume_ml,
            totalsegmentator=options.totalsegmentator, output=options.output, reports=options.reports,
        )  # fmt: skip
    except SegAnyPETError as error:
        raise SystemExit(f"error: {error}") from error
    if table.empty:
        raise SystemExit("error: no case could be analysed; the warnings say why.")
    print(summarise_tumours(table).dropna(axis="columns", how="all").round(3).to_string(index=False))


if __name__ == "__main__":
    main()
