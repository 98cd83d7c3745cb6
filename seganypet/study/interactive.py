"""autoPET's interactive protocols on a cohort, by edition.

"IV": all clicks are given in advance, ten in tumour and ten in background. After 0, 1, ..., 10 of each the mask is
measured; nobody looks at it before the next click. Source: autoPET IV, task 1.

"V": somebody looks at each mask and draws one stroke where it is most wrong, see `prompting.autopet_strokes`; six
predictions, the first without any stroke. Source: autoPET V. What it leaves open are named options: `strokes` (the
challenge deals three strategies to a third of the cases each, it does not say how), `steps` and `one_sided`.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from seganypet._files import as_path, check_folder
from seganypet.errors import CohortError, GeometryError, SegAnyPETError, renamed_keywords
from seganypet.metrics import auc, dmm, lesion_scores
from seganypet.prompting.autopet_clicks import (
    AutoPETClicks,
    read_autopet_clicks,
    simulate_autopet_clicks,
    write_autopet_clicks,
)
from seganypet.prompting.autopet_strokes import Stroke, connected_runs, simulate_stroke
from seganypet.prompting.base import PromptSession
from seganypet.prompting.shapes import Scribble
from seganypet.regions import box_of_both
from seganypet.study.definition import Rows, Study
from seganypet.study.engine import as_cases, run_study
from seganypet.study.lesion_clicks import union_of
from seganypet.study.methods import clicked_only, forget_networks, resolve_methods
from seganypet.study.progress import tell
from seganypet.study.saved_masks import check_mask_names, folder_of, keep_mask, masks_written
from seganypet.study.statistics import check_columns, each_once
from seganypet.study.summaries import with_interval, without_failures
from seganypet.study.tumour_scan import TumourScan

if TYPE_CHECKING:
    import pandas as pd

STEPS = {"IV": 10, "V": 5}  # of the last prediction, by edition; the first is step 0
OBJECTS = ("per_lesion", "single")
SINGLE_OBJECT = "tumour"
CLICK_FILES = ("_clicks.json", ".json")  # after the name of the case
MEASURES = ("dsc", "fpv_ml", "fnv_ml", "f1", "dmm")
COLUMNS: dict[str, type] = {
    "case": str, "patient": str, "model": str, "weights": str, "edition": str, "strokes": str, "objects": str,
    "step": int,
    **dict.fromkeys(MEASURES, float), "tumor_clicks": int, "background_clicks": int, "disobeyed": int, "seconds": float,
    "version": str, "error": str,
}  # fmt: skip


class InteractiveScores(NamedTuple):
    """What the challenge ranks by.

    Attributes:
        auc_dsc, auc_fpv, auc_fnv, auc_dmm: Areas over the steps (trapezoid, a step is 1 wide; of DSC and DMM at most
            the number of the last step; mL). Edition IV ranks by the first three, V by DSC and DMM.
        dsc, fpv_ml, fnv_ml, f1, dmm: At the last step.
    """

    auc_dsc: float
    auc_fpv: float
    auc_fnv: float
    auc_dmm: float
    dsc: float
    fpv_ml: float
    fnv_ml: float
    f1: float
    dmm: float


def interactive_steps(
    session: PromptSession, clicks: AutoPETClicks, truth: np.ndarray, objects: str = "per_lesion",
    steps: int = STEPS["IV"],
) -> "pd.DataFrame":  # fmt: skip
    """Give the clicks one after the other, and measure what is segmented after each.

    A step gives one tumour click and one background click, until there are no more. A background click is passed on
    to each object whose mask holds it, at once or as soon as it does; one that no mask holds needs no action.

    Args:
        session: Session on the scan, without clicks.
        clicks: Clicks as `read_autopet_clicks` returns them.
        truth: All lesions, bool, shape of the scan; masks are measured by it, clicks do not depend on it.
        objects: "per_lesion": a tumour click outside all masks begins an object of its own, one inside a mask goes to
            its object. "single": all clicks go to one object.
        steps: Number of the last step; the challenge's is 10.

    Returns:
        Rows for the steps 0, 1, ..., `steps`: step; dsc, fpv_ml, fnv_ml, f1, dmm (see `seganypet.metrics`; NaN where
        undefined); tumor_clicks and background_clicks given so far, and how many of them the mask contradicts
        (disobeyed); seconds of this step in the session.

    Raises:
        SegAnyPETError: Unknown `objects`, a click outside the scan.
        GeometryError: A truth of another shape.
    """
    import pandas as pd

    _check_objects(objects)
    if truth.shape != session.volume.shape:
        raise GeometryError(f"truth of shape {truth.shape} does not lie on {session.volume.source}, of another shape.")
    rows = []
    passed_on: set[tuple[str, int]] = set()  # object, number of the background click
    for step in range(steps + 1):
        start = time.perf_counter()
        if 1 <= step <= len(clicks.tumor):
            _begin_or_refine(session, clicks.tumor[step - 1], objects)
        for number, ijk in enumerate(clicks.background[:step]):
            for name in session.objects:
                if (name, number) not in passed_on and session.mask_of(name)[ijk]:
                    session.select(name)
                    session.click(ijk=ijk, foreground=False)
                    passed_on.add((name, number))
        seconds = time.perf_counter() - start
        mask = union_of(session)
        given = {"tumor_clicks": min(step, len(clicks.tumor)), "background_clicks": min(step, len(clicks.background))}
        given["disobeyed"] = int(sum(not mask[ijk] for ijk in clicks.tumor[:step]))
        given["disobeyed"] += int(sum(mask[ijk] for ijk in clicks.background[:step]))
        rows.append({"step": step} | _measures(session, mask, truth) | given | {"seconds": seconds})
    return pd.DataFrame(rows)


def stroke_steps(
    session: PromptSession, truth: np.ndarray, strokes: str, *, objects: str = "per_lesion", steps: int = STEPS["V"],
    one_sided: str = "stroke", keep: Callable[[int, np.ndarray, AutoPETClicks], object] | None = None,
) -> "pd.DataFrame":  # fmt: skip
    """Look at the mask, draw a stroke where it is most wrong, measure, and again: the loop of autoPET V.

    Args:
        session: Session on the scan that takes scribbles, without prompts.
        truth: All lesions, bool, shape of the scan; strokes come from it.
        strokes: One of `autopet_strokes.STROKES`.
        objects: "per_lesion": a stroke on missing tumour begins an object of its own; "single": all go to one object.
            A stroke on false tumour goes to each object whose mask it meets.
        steps: Number of strokes, at most; a perfect mask gets none, and stays.
        one_sided: See `autopet_strokes.simulate_stroke`.
        keep: Called with step, mask (bool, shape of the scan) and the voxels of all strokes so far.

    Returns:
        As `interactive_steps`; its clicks are voxels of strokes.

    Raises:
        SegAnyPETError: Unknown `objects` or `strokes`, a session that takes no scribbles.
    """
    import pandas as pd

    _check_objects(objects)
    rows: list[dict[str, Any]] = []
    given = AutoPETClicks((), ())
    mask, seconds = np.zeros(truth.shape, bool), 0.0
    for step in range(steps + 1):
        if step:
            stroke = simulate_stroke(mask, truth, strokes, one_sided)
            start = time.perf_counter()
            if stroke is not None:
                _give(session, stroke, objects)
                drawn = tuple(sorted(stroke.path_ijk))  # as the challenge's files hold them
                given = given._replace(tumor=given.tumor + drawn) if stroke.foreground else (
                    given._replace(background=given.background + drawn))  # fmt: skip
            seconds = time.perf_counter() - start
            mask = union_of(session)
        cells = {"tumor_clicks": len(given.tumor), "background_clicks": len(given.background), "seconds": seconds}
        cells["disobeyed"] = int(sum(not mask[ijk] for ijk in given.tumor) + sum(mask[ijk] for ijk in given.background))
        rows.append({"step": step} | _measures(session, mask, truth) | cells)
        if keep is not None:
            keep(step, mask, given)
    return pd.DataFrame(rows)


def _give(session: PromptSession, stroke: Stroke, objects: str) -> None:
    """A stroke as scribbles without gaps."""
    runs = connected_runs(stroke.path_ijk)
    if stroke.foreground:
        session.select(SINGLE_OBJECT if objects == "single" else f"lesion {len(session.objects) + 1}")
        for run in runs:
            session.add(Scribble(tuple(run), True))
        return
    for name in session.objects:
        for run in runs:
            mask = session.mask_of(name)
            if any(mask[ijk] for ijk in run):
                session.select(name)
                session.add(Scribble(tuple(run), False))


def _measures(session: PromptSession, mask: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    scores = lesion_scores(mask, truth, session.volume.data, session.volume.voxel_volume_ml)
    box = box_of_both(mask, truth)
    scores["dmm"] = dmm(mask[box], truth[box])[0]
    return {name: scores[name] for name in MEASURES}


def interactive_scores(steps: "pd.DataFrame") -> InteractiveScores:
    """Areas over the steps, and what the last one reached, of a table of `interactive_steps`."""
    areas = [auc(steps[name].tolist()).raw for name in ("dsc", "fpv_ml", "fnv_ml", "dmm")]
    last = steps.iloc[-1]
    return InteractiveScores(*areas, *(float(last[name]) for name in MEASURES))


@renamed_keywords(clicks="click_files")
def evaluate_interactive(
    cohort: Iterable[Any],
    models: Any,
    click_files: str | os.PathLike | None = None,
    *,
    edition: str = "IV",
    strokes: str = "centerline",
    steps: int | None = None,
    one_sided: str = "stroke",
    objects: str = "per_lesion",
    rules: Sequence[str] = (),
    seed: int = 0,
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
    """The protocol for every case and method.

    Args:
        cohort: Cases with lesions, their PETs in SUVbw: a `Cohort`, phantoms, or `InMemoryCase`.
        models: As for `evaluate`.
        click_files: Folder with <case>_clicks.json or <case>.json for each case; None: clicks are simulated. Of edition
            IV, whose clicks are given in advance.
        edition: "IV" or "V".
        strokes: Of edition V: one of `autopet_strokes.STROKES`.
        steps: Number of the last step; None: the edition's, 10 of IV and 5 of V.
        one_sided: Of edition V: see `autopet_strokes.simulate_stroke`.
        objects: "per_lesion" or "single", see `interactive_steps`.
        rules: Threshold rules beside the models, see `ThresholdSession`.
        seed: Seed of simulated clicks.
        save_masks: Folder for the masks of all lesions, <case>/<model>/iter_<step>.nii.gz, of edition V with
            iter_<step>_scribbles.json; of IV after the last step only.
        device, precision: Where networks that are given by name or path compute, see `methods.resolve_methods`.
        output, processes, cluster, threads, limit, retry_failed, mixed_precision, progress: See `engine.run_study`.

    Returns:
        Rows of `interactive_steps` with case, patient, model, weights, objects, version and error.

    Raises:
        SegAnyPETError: Unknown models or `objects`, no such folder, and what `engine.run_study` raises.
    """
    _check_objects(objects)
    if edition not in STEPS:
        raise SegAnyPETError(f"edition={edition!r}; expected one of {', '.join(STEPS)}.")
    last = STEPS[edition] if steps is None else steps
    if last < 1 or seed < 0:
        raise SegAnyPETError(f"steps={last}, seed={seed}; expected at least 1 step, and a seed of 0 or more.")
    settings = {"edition": edition, "objects": objects, "steps": last}
    if edition == "V":
        if click_files is not None:
            raise SegAnyPETError("click_files: edition V draws strokes on the errors of each mask; leave it out.")
        simulate_stroke(np.zeros((1, 1, 1), bool), np.zeros((1, 1, 1), bool), strokes, one_sided)  # refuses the unknown
        settings |= {"strokes": strokes, "one_sided": one_sided}
    else:
        if click_files is not None:
            check_folder(click_files)
        settings |= {"clicks": "simulated" if click_files is None else "from files", "seed": seed}
    cases = as_cases(cohort, limit)
    try:
        methods = clicked_only(resolve_methods(models, rules, device, precision), "an interactive protocol")
        check_mask_names(save_masks, cases, methods)
        study = Study(
            "interactive", COLUMNS, settings, partial(interactive_case, click_files, masks=save_masks), methods,
            reads=partial(_read_clicks, click_files), writes=partial(masks_written, save_masks),
        )
        return run_study(
            study, cases, output=output, processes=processes, cluster=cluster, threads=threads,
            retry_failed=retry_failed, mixed_precision=mixed_precision, progress=progress,
        )  # fmt: skip
    finally:
        forget_networks()


def interactive_case(
    click_files: str | os.PathLike | None, case: Any, methods: Sequence[Any], settings: Mapping[str, Any],
    masks: str | os.PathLike | None = None,
) -> Iterator[tuple[str, Rows]]:  # fmt: skip
    """The steps of one case, method by method."""
    scan, objects, last = TumourScan.of(case), settings["objects"], settings["steps"]
    clicks = None if settings["edition"] == "V" else _clicks_of(scan, click_files, settings["seed"], last)
    for method in methods:
        tell(method.name)
        session = method.open(scan.pet)
        if clicks is None:
            keep = None if masks is None else partial(_keep, masks, method.name, scan)
            steps = stroke_steps(
                session, scan.truth, settings["strokes"], objects=objects, steps=last, one_sided=settings["one_sided"],
                keep=keep,
            )  # fmt: skip
        else:
            steps = interactive_steps(session, clicks, scan.truth, objects, last)
            keep_mask(masks, scan.name, method.name, f"iter_{last}", union_of(session), scan.pet)
        yield method.name, steps.to_dict("records")


def _keep(
    masks: str | os.PathLike, model: str, scan: TumourScan, step: int, mask: np.ndarray, strokes: AutoPETClicks
) -> None:
    """Mask and strokes of a step, laid out as the challenge's loop does."""
    keep_mask(masks, scan.name, model, f"iter_{step}", mask, scan.pet)
    write_autopet_clicks(folder_of(masks, scan.name, model) / f"iter_{step}_scribbles.json", strokes)


def summarise_interactive(table: "pd.DataFrame", seed: int = 0) -> "pd.DataFrame":
    """Means over patients of `interactive_scores` with 95 % bootstrap intervals, by model, edition, objects, strokes.

    Cases without lesions have no DSC and no F1; they count in the false positive volume. Failed cases are left out.

    Args:
        table: Table of `evaluate_interactive`.
        seed: Seed of the bootstrap.
    """
    import pandas as pd

    check_columns(table, ["case", "patient", "model", "objects", "step"], "evaluate_interactive")
    table, rows = without_failures(table), []
    keys = ["model", "edition", "objects", "strokes"]
    table = table.assign(**{name: table.get(name, "IV" if name == "edition" else "") for name in keys})  # before V
    table = each_once(table.fillna({"strokes": ""}), ["case", *keys, "step"], "dsc")
    for key, of_model in table.groupby(keys, sort=False):
        cases = of_model.groupby(["case", "patient"], sort=False)
        patients = [patient for (_, patient), _ in cases]
        scores = [interactive_scores(steps.sort_values("step")) for _, steps in cases]
        row = dict(zip(keys, key, strict=True)) | {"patients": len({*patients})}
        for name in InteractiveScores._fields:
            row |= with_interval(name, [getattr(one, name) for one in scores], patients, seed)
        rows.append(row)
    return pd.DataFrame(rows)


def _begin_or_refine(session: PromptSession, ijk: tuple[int, int, int], objects: str) -> None:
    inside = [name for name in session.objects if session.mask_of(name)[ijk]]
    if objects == "single":
        session.select(SINGLE_OBJECT)
    else:
        session.select(inside[-1] if inside else f"lesion {len(session.objects) + 1}")
    session.click(ijk=ijk)


def _check_objects(objects: str) -> None:
    if objects not in OBJECTS:
        renamed = {"each": " ('each' is called 'per_lesion' now)", "one": " ('one' is called 'single' now)"}
        raise SegAnyPETError(f"objects={objects!r}; expected one of {', '.join(OBJECTS)}{renamed.get(objects, '')}.")


def _click_file(case: str, folder: str | os.PathLike) -> Path | None:
    paths = [as_path(folder) / f"{case}{suffix}" for suffix in CLICK_FILES]
    return next((path for path in paths if path.is_file()), None)


def _read_clicks(folder: str | os.PathLike | None, case: Any, method: Any) -> dict[str, Path | None]:
    return {} if folder is None else {"clicks": _click_file(case.name, folder)}


def _clicks_of(scan: TumourScan, folder: str | os.PathLike | None, seed: int, count: int) -> AutoPETClicks:
    if folder is None:
        return simulate_autopet_clicks(scan.truth, scan.pet, count, seed)
    path = _click_file(scan.name, folder)
    if path is None:
        names = " nor ".join(f"{scan.name}{suffix}" for suffix in CLICK_FILES)
        raise CohortError(f"{folder} holds neither {names}; without a folder, clicks are simulated.")
    return read_autopet_clicks(path, scan.pet)
