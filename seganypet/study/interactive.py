"""autoPET's interactive protocol on a cohort.

All clicks are given in advance, ten in tumour and ten in background. After 0, 1, ..., 10 of each the mask is measured;
nobody looks at it before the next click. Source: autoPET IV, task 1.
"""

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from seganypet._files import check_folder
from seganypet.errors import CohortError, GeometryError, SegAnyPETError, renamed_keywords
from seganypet.metrics import auc, lesion_scores
from seganypet.prompting.autopet_clicks import AutoPETClicks, read_autopet_clicks, simulate_autopet_clicks
from seganypet.prompting.base import PromptSession
from seganypet.study.engine import Rows, Study, run_study
from seganypet.study.methods import forget_networks, resolve_methods
from seganypet.study.summaries import with_interval, without_failures
from seganypet.study.tumour_scan import TumourScan

if TYPE_CHECKING:
    import pandas as pd

STEPS = 10
OBJECTS = ("per_lesion", "single")
SINGLE_OBJECT = "tumour"
CLICK_FILES = ("_clicks.json", ".json")  # after the name of the case
MEASURES = ("dsc", "fpv_ml", "fnv_ml", "f1")
COLUMNS: dict[str, type] = {
    "case": str, "patient": str, "model": str, "weights": str, "objects": str, "step": int,
    **dict.fromkeys(MEASURES, float), "tumor_clicks": int, "background_clicks": int, "disobeyed": int, "seconds": float,
    "version": str, "error": str,
}  # fmt: skip


class InteractiveScores(NamedTuple):
    """What the challenge ranks by.

    Attributes:
        auc_dsc, auc_fpv, auc_fnv: Areas over the steps (trapezoid, a step is 1 wide; of DSC at most 10; mL).
        dsc, fpv_ml, fnv_ml, f1: At the last step.
    """

    auc_dsc: float
    auc_fpv: float
    auc_fnv: float
    dsc: float
    fpv_ml: float
    fnv_ml: float
    f1: float


def interactive_steps(
    session: PromptSession, clicks: AutoPETClicks, truth: np.ndarray, objects: str = "per_lesion", steps: int = STEPS
) -> "pd.DataFrame":
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
        Rows for the steps 0, 1, ..., `steps`: step; dsc, fpv_ml, fnv_ml, f1 (see `seganypet.metrics`; NaN where
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
        mask = np.zeros(truth.shape, bool)
        for name in session.objects:
            mask |= session.mask_of(name)
        scores = lesion_scores(mask, truth, session.volume.data, session.volume.voxel_volume_ml)
        given = {"tumor_clicks": min(step, len(clicks.tumor)), "background_clicks": min(step, len(clicks.background))}
        given["disobeyed"] = int(sum(not mask[ijk] for ijk in clicks.tumor[:step]))
        given["disobeyed"] += int(sum(mask[ijk] for ijk in clicks.background[:step]))
        rows.append({"step": step} | {name: scores[name] for name in MEASURES} | given | {"seconds": seconds})
    return pd.DataFrame(rows)


def interactive_scores(steps: "pd.DataFrame") -> InteractiveScores:
    """Areas over the steps, and what the last one reached, of a table of `interactive_steps`."""
    areas = [auc(steps[name].tolist()).raw for name in MEASURES[:3]]
    last = steps.iloc[-1]
    return InteractiveScores(*areas, *(float(last[name]) for name in MEASURES))


@renamed_keywords(clicks="click_files")
def evaluate_interactive(
    cohort: Iterable[Any],
    models: Any,
    click_files: str | os.PathLike | None = None,
    *,
    objects: str = "per_lesion",
    rules: Sequence[str] = (),
    seed: int = 0,
    output: str | os.PathLike | None = None,
    processes: int = 1,
    cluster: str | None = None,
    threads: int = 1,
    limit: int | None = None,
    retry_failed: bool = False,
    progress: bool = True,
) -> "pd.DataFrame":
    """The protocol for every case and method.

    Args:
        cohort: Cases with lesions, their PETs in SUVbw: a `Cohort`, phantoms, or `InMemoryCase`.
        models: As for `evaluate`.
        click_files: Folder with <case>_clicks.json or <case>.json for each case; None: clicks are simulated.
        objects: "per_lesion" or "single", see `interactive_steps`.
        rules: Threshold rules beside the models, see `ThresholdSession`.
        seed: Seed of simulated clicks.
        output, processes, cluster, threads, limit, retry_failed, progress: See `engine.run_study`.

    Returns:
        Rows of `interactive_steps` with case, patient, model, weights, objects, version and error.

    Raises:
        SegAnyPETError: Unknown models or `objects`, no such folder, and what `engine.run_study` raises.
    """
    _check_objects(objects)
    if click_files is not None:
        check_folder(click_files)
    settings = {"objects": objects, "clicks": "simulated" if click_files is None else "from files", "seed": seed}
    try:
        study = Study(
            "interactive", COLUMNS, settings, partial(interactive_case, click_files), resolve_methods(models, rules),
            reads=partial(_read_clicks, click_files),
        )  # fmt: skip
        return run_study(
            study, cohort, output=output, processes=processes, cluster=cluster, threads=threads, limit=limit,
            retry_failed=retry_failed, progress=progress,
        )  # fmt: skip
    finally:
        forget_networks()


def interactive_case(
    click_files: str | os.PathLike | None, case: Any, methods: Sequence[Any], settings: Mapping[str, Any]
) -> Iterator[tuple[str, Rows]]:
    """The steps of one case, method by method."""
    scan, objects = TumourScan.of(case), settings["objects"]
    clicks = _clicks_of(scan, click_files, settings["seed"])
    for method in methods:
        steps = interactive_steps(method.open(scan.pet), clicks, scan.truth, objects)
        yield method.name, steps.to_dict("records")


def summarise_interactive(table: "pd.DataFrame", seed: int = 0) -> "pd.DataFrame":
    """Means over patients of `interactive_scores`, by model and objects, each with its 95 % bootstrap interval.

    Cases without lesions have no DSC and no F1; they count in the false positive volume. Failed cases are left out.

    Args:
        table: Table of `evaluate_interactive`.
        seed: Seed of the bootstrap.
    """
    import pandas as pd

    table, rows = without_failures(table), []
    for (model, objects), of_model in table.groupby(["model", "objects"], sort=False):
        cases = of_model.groupby(["case", "patient"], sort=False)
        patients = [patient for (_, patient), _ in cases]
        scores = [interactive_scores(steps.sort_values("step")) for _, steps in cases]
        row = {"model": model, "objects": objects, "patients": len({*patients})}
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
    paths = [Path(folder) / f"{case}{suffix}" for suffix in CLICK_FILES]
    return next((path for path in paths if path.is_file()), None)


def _read_clicks(folder: str | os.PathLike | None, case: Any, method: Any) -> dict[str, Path | None]:
    return {} if folder is None else {"clicks": _click_file(case.name, folder)}


def _clicks_of(scan: TumourScan, folder: str | os.PathLike | None, seed: int) -> AutoPETClicks:
    if folder is None:
        return simulate_autopet_clicks(scan.truth, scan.pet, STEPS, seed)
    path = _click_file(scan.name, folder)
    if path is None:
        names = " nor ".join(f"{scan.name}{suffix}" for suffix in CLICK_FILES)
        raise CohortError(f"{folder} holds neither {names}; without a folder, clicks are simulated.")
    return read_autopet_clicks(path, scan.pet)
