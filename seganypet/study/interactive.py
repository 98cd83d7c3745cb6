"""autoPET's interactive protocol: `python -m seganypet.study.interactive FOLDER --model tiny-organs --clicks CLICKS`.

All clicks are given in advance, ten in tumour and ten in background. After 0, 1, ..., 10 of each the mask is measured;
nobody looks at it before the next click. Source: autoPET IV, task 1. CPU only, like all that is here.
"""

import argparse
import os
import time
import warnings
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from seganypet import __version__
from seganypet._files import check_folder
from seganypet.cohort.cohort import Cohort
from seganypet.errors import CohortError, GeometryError, SegAnyPETError
from seganypet.metrics import auc, bootstrap_interval, lesion_scores
from seganypet.phantom import PhantomCase
from seganypet.prompting.autopet_clicks import AutoPETClicks, read_autopet_clicks, simulate_autopet_clicks
from seganypet.prompting.base import PromptSession
from seganypet.study.kept import Kept
from seganypet.study.methods import forget_networks, named_models, open_closely, open_session, resolve_methods
from seganypet.study.tumour_scan import PhantomInMemory, TumourScan

if TYPE_CHECKING:
    import pandas as pd

STEPS = 10
OBJECTS = ("each", "one")
ONE = "tumour"
CLICK_FILES = ("_clicks.json", ".json")  # behind the name of the case
WORDS = ("case", "patient", "model", "weights", "objects", "version")
MEASURES = ("dsc", "fpv_ml", "fnv_ml", "f1")
WHOLE = ("step", "tumor_clicks", "background_clicks")
COLUMNS = (*WORDS[:5], "step", *MEASURES, "tumor_clicks", "background_clicks", "seconds", "version")


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
    session: PromptSession, clicks: AutoPETClicks, truth: np.ndarray, objects: str = "each", steps: int = STEPS
) -> "pd.DataFrame":
    """Give the clicks one after the other, and measure what is segmented after each.

    A step gives one tumour click and one background click, until there are no more. A background click is passed on
    to each object whose mask holds it, at once or as soon as it does; one that no mask holds is obeyed already.

    Args:
        session: Of the scan, without clicks.
        clicks: As `read_autopet_clicks` gives them.
        truth: All lesions, bool, shape of the scan. Only measured by, never clicked by.
        objects: "each": a tumour click outside all masks begins an object of its own, one inside a mask goes to its
            object. "one": all clicks go to one object.
        steps: The last step; the challenge's is 10.

    Returns:
        Rows for the steps 0, 1, ..., `steps`: step; dsc, fpv_ml, fnv_ml, f1 (see `seganypet.metrics`; NaN where
        undefined); tumor_clicks and background_clicks given so far; seconds of this step in the session.

    Raises:
        SegAnyPETError: Unknown `objects`, a click outside the scan.
        GeometryError: A truth of another shape.
    """
    import pandas as pd

    if objects not in OBJECTS:
        raise SegAnyPETError(f"objects={objects!r}; expected one of {', '.join(OBJECTS)}.")
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
        rows.append({"step": step} | {name: scores[name] for name in MEASURES} | given | {"seconds": seconds})
    return pd.DataFrame(rows)


def interactive_scores(steps: "pd.DataFrame") -> InteractiveScores:
    """Areas over the steps, and what the last one reached, of a table of `interactive_steps`."""
    areas = [auc(steps[name].tolist()).raw for name in MEASURES[:3]]
    last = steps.iloc[-1]
    return InteractiveScores(*areas, *(float(last[name]) for name in MEASURES))


def evaluate_interactive(
    cohort: Iterable[Any],
    models: Any,
    clicks: str | os.PathLike | None = None,
    *,
    objects: str = "each",
    rules: Iterable[str] = (),
    seed: int = 0,
    output: str | os.PathLike | None = None,
    progress: bool = True,
) -> "pd.DataFrame":
    """The protocol for every case and method.

    Args:
        cohort: Cases with lesions, their PETs in SUVbw: a `Cohort`, or phantoms.
        models: As for `evaluate`. 3D networks look at single lesions closely if `objects` is "each".
        clicks: Folder with <case>_clicks.json or <case>.json for each case; None: they are simulated.
        objects: See `interactive_steps`.
        rules: Threshold rules to add.
        seed: Of simulated clicks.
        output: CSV that is written after every case, so that a killed run goes on.
        progress: Show a bar over cases.

    Returns:
        Rows of `interactive_steps` with case, patient, model, weights, objects and version.

    Raises:
        SegAnyPETError: Unknown models or `objects`, no such folder, or an `output` of other settings.

    Warns:
        UserWarning: Cases that cannot be read or have no click file, with the reason; the others are evaluated.
    """
    import pandas as pd
    from tqdm.auto import tqdm

    if objects not in OBJECTS:
        raise SegAnyPETError(f"objects={objects!r}; expected one of {', '.join(OBJECTS)}.")
    if clicks is not None:
        check_folder(clicks)
    methods = resolve_methods(models, tuple(rules), open_closely if objects == "each" else open_session)
    settings = f"{[(one.name, one.weights) for one in methods]}, clicks {clicks}, objects {objects}, seed {seed}, "
    settings += f"seganypet {__version__}"
    tables = []
    with ExitStack() as stack:
        stack.callback(forget_networks)
        kept = stack.enter_context(Kept(None if output is None else Path(output), settings, COLUMNS, WORDS, WHOLE))
        for case in tqdm(list(cohort), desc="cases", disable=not progress):
            case = PhantomInMemory(case) if isinstance(case, PhantomCase) else case
            click_file = _click_file(case.name, clicks)
            table = kept.table(case, click_file)
            if table is None:
                try:
                    scan = TumourScan.of(case)
                    given = _clicks_of(scan, clicks, click_file, seed)
                    facts = {"case": case.name, "patient": case.patient, "objects": objects, "version": __version__}
                    table = pd.concat(
                        interactive_steps(method.open(scan.pet), given, scan.truth, objects).assign(
                            **facts, model=method.name, weights=method.weights or ""
                        )
                        for method in methods
                    )[list(COLUMNS)]
                except SegAnyPETError as error:
                    warnings.warn(f"case {case.name} is left out: {error}", stacklevel=2)
                    continue
                kept.add(case, table, click_file)
            tables.append(table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(COLUMNS))


def summarise_interactive(table: "pd.DataFrame", seed: int = 0) -> "pd.DataFrame":
    """Means over patients of `interactive_scores`, by model and objects, each with its 95 % bootstrap interval.

    Cases without lesions have no DSC and no F1; they count in the false positive volume.
    """
    import pandas as pd

    rows = []
    for (model, objects), of_model in table.groupby(["model", "objects"], sort=False):
        scores = [
            (patient, interactive_scores(steps.sort_values("step")))
            for (_, patient), steps in of_model.groupby(["case", "patient"], sort=False)
        ]
        patients = [patient for patient, _ in scores]
        row = {"model": model, "objects": objects, "patients": len({*patients})}
        for name in InteractiveScores._fields:
            mean, low, high = bootstrap_interval([getattr(one, name) for _, one in scores], patients, seed)
            row |= {name: mean, f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def _begin_or_refine(session: PromptSession, ijk: tuple[int, int, int], objects: str) -> None:
    inside = [name for name in session.objects if session.mask_of(name)[ijk]]
    if objects == "one":
        session.select(ONE)
    else:
        session.select(inside[-1] if inside else f"lesion {len(session.objects) + 1}")
    session.click(ijk=ijk)


def _click_file(case: str, folder: str | os.PathLike | None) -> Path | None:
    places = [] if folder is None else [Path(folder) / f"{case}{suffix}" for suffix in CLICK_FILES]
    return next((place for place in places if place.is_file()), None)


def _clicks_of(scan: TumourScan, folder: str | os.PathLike | None, path: Path | None, seed: int) -> AutoPETClicks:
    if folder is None:
        return simulate_autopet_clicks(scan.truth, scan.pet, STEPS, seed)
    if path is None:
        names = " nor ".join(f"{scan.name}{suffix}" for suffix in CLICK_FILES)
        raise CohortError(f"{folder} holds neither {names}; without a folder, clicks are simulated.")
    return read_autopet_clicks(path, scan.pet)


def main(arguments: list[str] | None = None) -> None:
    """Command line: the table, and means over patients."""
    parser = argparse.ArgumentParser(
        prog="python -m seganypet.study.interactive",
        description="autoPET's interactive protocol: clicks given in advance, measured after 0, 1, ..., 10 of each.",
        epilog="columns of the table: see evaluate_interactive. An interrupted run resumes.",
    )
    parser.add_argument("cohort", help="a cohort.csv, an AutoPET or an nnU-Net folder, with labels of lesions")
    parser.add_argument("--model", action="append", required=True, help="network or threshold rule, NAME=PATH names it")
    parser.add_argument("--clicks", type=Path, help="folder of <case>_clicks.json; without it, clicks are simulated")
    parser.add_argument("--objects", choices=OBJECTS, default="each", help="an object for each lesion, or one for all")
    parser.add_argument("--seed", type=int, default=0, help="of simulated clicks (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("interactive.csv"), help="the table (%(default)s)")
    options = parser.parse_args(arguments)
    try:
        table = evaluate_interactive(
            Cohort.from_path(options.cohort), named_models(options.model), options.clicks, objects=options.objects,
            seed=options.seed, output=options.output,
        )  # fmt: skip
    except SegAnyPETError as error:
        raise SystemExit(f"error: {error}") from error
    if table.empty:
        raise SystemExit("error: no case could be evaluated; the warnings say why.")
    print(summarise_interactive(table).round(3).to_string(index=False))


if __name__ == "__main__":
    main()
