"""Cases x models x simulated clicks -> one tidy table; `python -m seganypet.evaluate cohort.csv --model tiny`.

The protocol: click 1 on the target's deepest voxel, each later click on the largest error of the mask at hand. DSC and
NSD are taken after every click, over the whole volume, and never the best over clicks.
"""

import argparse
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from seganypet.baselines import RULES, ThresholdSession
from seganypet.cohort import Cohort
from seganypet.errors import SegAnyPETError
from seganypet.files import check_place, replace_atomically
from seganypet.labels import lesion_targets, organ_targets
from seganypet.metrics import bootstrap_interval, dice, surface_dice
from seganypet.phantom import ORGANS, SEEN_ORGANS, PhantomCase
from seganypet.simulate import FIRST, THEN, first_click, next_click
from seganypet.volume import Volume

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "case", "patient", "target", "seen", "model", "click", "dsc", "nsd", "nsd_tolerance_mm", "seconds",
    "foreground", "click_i", "click_j", "click_k", "protocol", "seed",
)  # fmt: skip


class EvaluationCase(Protocol):
    """What `evaluate` needs of a case; `cohort.Case` and `MemoryCase` have it."""

    case: str
    patient: str

    def load_pet(self) -> Volume:
        """The scan."""

    def targets(self, pet: Volume, only: Sequence[str] | None = None) -> Iterator[tuple[str, np.ndarray]]:
        """Name and mask (bool, shape of `pet`) of each target."""


@dataclass(frozen=True, eq=False)
class MemoryCase:
    """A case whose arrays are in memory, such as a phantom.

    Attributes:
        case: Its name.
        patient: Whose scan it is.
        pet: The scan.
        organs: Label map, shape of `pet`; label n is the n-th of `seganypet.phantom.ORGANS`.
        lesions: Mask or label map, shape of `pet`; every label above 0 is lesion.
    """

    case: str
    patient: str
    pet: Volume
    organs: np.ndarray | None = None
    lesions: np.ndarray | None = None

    def load_pet(self) -> Volume:
        """The scan."""
        return self.pet

    def targets(self, pet: Volume, only: Sequence[str] | None = None) -> Iterator[tuple[str, np.ndarray]]:
        """Organs, then "lesions" and "lesion_01", ...; as `cohort.Case.targets`."""
        if self.organs is not None:
            yield from organ_targets(self.organs, dict(enumerate(ORGANS, start=1)), only)
        if self.lesions is not None:
            yield from lesion_targets(self.lesions, only)


def evaluate(
    cohort: Iterable[EvaluationCase | PhantomCase],
    model: Any,
    clicks: int = 5,
    *,
    targets: Sequence[str] | None = None,
    first: str = "deepest",
    then: str = "largest_error",
    seed: int = 0,
    baselines: Sequence[str] = RULES,
    output: str | Path | None = None,
    progress: bool = True,
) -> "pd.DataFrame":
    """Segment every target of every case under simulated clicks.

    Args:
        cohort: A `Cohort`, or any cases: of a cohort, phantoms, `MemoryCase`.
        model: What `Session` takes, or None for baselines alone. One session per case; its embedding is shared by the
            targets that allow it.
        clicks: Number of rounds.
        targets: Names of targets, "lesion" for every single lesion; default all.
        first: Strategy of the first click, see `simulate.first_click`.
        then: Strategy of later clicks, see `simulate.next_click`.
        seed: Of random clicks; each target of each case has its own stream, the same for every model.
        baselines: Rules of `ThresholdSession`.
        output: CSV file, rewritten whole after each case. If it exists, targets that stand in it with as many
            clicks or more are not computed again, and what it holds on other cases and models stays in it.
        progress: Show a progress bar over cases.

    Returns:
        One row per case, model, target and click. `seconds` runs from `session.click` to the mask on the full grid; in
        the first click of a target it includes an embedding where the model needs a new one. A mask that equals the
        truth needs no click: its later rows repeat DSC 1 without place, sign or seconds. An empty target has rows
        with NaN, to be counted. `seen` is True for the organs that the embedded models train on, False for other
        organs, None for lesions.

    Raises:
        SegAnyPETError: No rounds, an unknown target or strategy, or an `output` made with another seed or protocol.
    """
    from tqdm.auto import tqdm

    if clicks < 1 or first not in FIRST or then not in THEN:
        raise SegAnyPETError(
            f"clicks={clicks}, first={first!r}, then={then!r}: needed are at least one click, first one of {FIRST} and "
            f"then one of {THEN}."
        )
    known = {*ORGANS, "lesions", "lesion"}
    unknown = [name for name in targets or () if name not in known and not name.startswith("lesion_")]
    if unknown:
        raise SegAnyPETError(f"unknown targets {unknown}; needed are some of {', '.join(sorted(known))}.")
    protocol = f"{first}, {then}"
    done = _finished(output, clicks, protocol, seed)
    rows = done.to_dict("records")
    finished = {(row["case"], row["model"], row["target"]) for row in rows}
    cases = [_as_case(case) for case in cohort]
    for case in tqdm(cases, desc="cases", disable=not progress):
        pet = case.load_pet()
        sessions = {} if model is None else {model_name(model): _open_session(model, pet)}
        sessions |= {rule: ThresholdSession(pet, rule) for rule in baselines}
        for target, truth in case.targets(pet, targets):
            for name, session in sessions.items():
                if (case.case, name, target) in finished:
                    continue
                session.reset()
                rng = np.random.default_rng((seed, zlib.crc32(f"{case.case}/{target}".encode())))
                labels = {"case": case.case, "patient": case.patient, "target": target, "seen": _seen(target)}
                labels |= {"model": name, "protocol": protocol, "seed": seed}
                rows += [labels | row for row in _rounds(session, truth, pet.spacing, clicks, first, then, rng)]
        if output is not None:
            with replace_atomically(output) as temporary:
                _table(rows).to_csv(temporary, index=False)
    return _table(rows)


def _rounds(
    session: Any, truth: np.ndarray, spacing: Sequence[float], clicks: int, first: str, then: str,
    rng: np.random.Generator,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """One row per click."""
    tolerance_mm = max(spacing)
    empty = not truth.any()
    mask = None
    for number in range(1, clicks + 1):
        row = {"click": number, "nsd_tolerance_mm": tolerance_mm}
        if not empty:
            if mask is None:
                click = first_click(truth, first, spacing=spacing, rng=rng)
            else:
                click = next_click(truth, mask, then, spacing=spacing, rng=rng)
            if click is not None:
                start = time.perf_counter()
                mask = np.asarray(session.click(ijk=click.ijk, foreground=click.foreground), bool)
                row["seconds"] = time.perf_counter() - start
                row |= dict(zip(("click_i", "click_j", "click_k"), click.ijk, strict=True))
                row["foreground"] = click.foreground
            row |= {"dsc": dice(mask, truth), "nsd": surface_dice(mask, truth, spacing, tolerance_mm)}
        yield row


def summarise(results: "pd.DataFrame", clicks: Sequence[int] = (1, 3, 5), seed: int = 0) -> "pd.DataFrame":
    """Mean and 95 % bootstrap interval over patients, by model, group of targets and click.

    Groups are never mixed: "seen" and "unseen" organs, "lesions" (all of a scan together) and "lesion" (one by one).
    Seen and unseen are the paper's two groups; a network such as `tiny-base` may have trained on both.

    Args:
        results: Table of `evaluate`.
        clicks: Rounds to report.
        seed: Of the bootstrap.

    Returns:
        One row per model, group and click: `patients` and `targets` that count, `empty` targets that were left out,
        and `dsc`, `dsc_low`, `dsc_high`, `nsd`, `nsd_low`, `nsd_high`.
    """
    import pandas as pd

    kept = results[results["click"].isin(list(clicks))].assign(group=results["target"].map(_group))
    summary = []
    for (model, group, click), rows in kept.groupby(["model", "group", "click"], sort=False):
        counted = rows[rows["dsc"].notna()]
        row = {"model": model, "group": group, "click": click, "patients": counted["patient"].nunique()}
        row |= {"targets": len(counted), "empty": len(rows) - len(counted)}
        for measure in ("dsc", "nsd"):
            interval = bootstrap_interval(rows[measure], rows["patient"], seed)
            row |= {measure: interval.mean, f"{measure}_low": interval.low, f"{measure}_high": interval.high}
        summary.append(row)
    return pd.DataFrame(summary)


def model_name(model: Any) -> str:
    """Name of a model in tables: its attribute `name` if it has one, else its class."""
    return str(getattr(model, "name", None) or type(model).__name__)


def _open_session(model: Any, volume: Volume) -> Any:
    from seganypet.session import Session  # needs torch, which baselines do not

    return Session(model, volume)


def _as_case(case: EvaluationCase | PhantomCase) -> EvaluationCase:
    """The case itself, or a phantom as a `MemoryCase`; every phantom is a patient of its own."""
    if not isinstance(case, PhantomCase):
        return case
    name = f"phantom_{case.domain}_{case.seed}"
    return MemoryCase(name, name, case.pet, case.organs, case.lesions)


def _seen(target: str) -> bool | None:
    return target in SEEN_ORGANS if target in ORGANS else None


def _group(target: str) -> str:
    if target in ORGANS:
        return "seen" if target in SEEN_ORGANS else "unseen"
    return "lesions" if target == "lesions" else "lesion"


def _table(rows: list[dict[str, Any]]) -> "pd.DataFrame":
    import pandas as pd

    types = dict.fromkeys(("dsc", "nsd", "nsd_tolerance_mm", "seconds"), float)
    types |= dict.fromkeys(("click", "seed"), int) | dict.fromkeys(("click_i", "click_j", "click_k"), "Int64")
    types |= {"seen": "boolean", "foreground": "boolean"}
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(types)


def _finished(output: str | Path | None, clicks: int, protocol: str, seed: int) -> "pd.DataFrame":
    """Rows of an earlier run that need not be computed again."""
    import pandas as pd

    if output is not None:
        check_place(output)
    if output is None or not Path(output).exists():
        return _table([])
    try:
        table = pd.read_csv(output, dtype={name: str for name in ("case", "patient", "target", "model")})
        table = _table(table.to_dict("records"))
    except (ValueError, TypeError, KeyError) as error:
        raise SegAnyPETError(f"{output} is no table of evaluate ({error}); choose another output.") from error
    made_with = set(zip(table["protocol"], table["seed"], strict=True))
    if made_with - {(protocol, seed)}:
        raise SegAnyPETError(
            f"{output} was made with protocol and seed {sorted(made_with)}, now asked for are {(protocol, seed)}; "
            "choose another output, so that the two do not mix."
        )
    rounds = table.groupby(["case", "model", "target"])["click"].transform("max")
    return table[rounds >= clicks]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of `evaluate`."""
    parser = argparse.ArgumentParser(
        prog="python -m seganypet.evaluate",
        description="Segment every target of a cohort under simulated clicks; write one row per click, print means.",
    )
    parser.add_argument("cohort", help="cohort table (CSV)")
    parser.add_argument("--model", help="name of a model or path of a checkpoint; without it, baselines alone")
    parser.add_argument("--clicks", type=int, default=5, help="rounds per target (default: 5)")
    parser.add_argument("--targets", nargs="+", help="names of targets, 'lesion' for each lesion (default: all)")
    parser.add_argument("--split", help="cases of this split only")
    parser.add_argument("--first", choices=FIRST, default=FIRST[0], help="first click (default: %(default)s)")
    parser.add_argument("--then", choices=THEN, default=THEN[0], help="later clicks (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of random clicks (default: 0)")
    parser.add_argument("--baselines", nargs="*", default=list(RULES), help="threshold rules (default: all five)")
    parser.add_argument("--output", required=True, help="CSV file; an unfinished one is continued")
    options = parser.parse_args(arguments)
    try:
        cohort = Cohort.from_csv(options.cohort)
        if options.split:
            cohort = cohort.filter(split=options.split)
        model = None
        if options.model:
            from seganypet.model.checkpoints import load_model

            model = load_model(options.model)
        results = evaluate(
            cohort, model, options.clicks, targets=options.targets, first=options.first, then=options.then,
            seed=options.seed, baselines=options.baselines, output=options.output,
        )  # fmt: skip
    except SegAnyPETError as error:
        raise SystemExit(f"error: {error}") from error
    print(summarise(results, sorted({1, 3, 5, options.clicks})).round(3).to_string(index=False))


if __name__ == "__main__":
    main()
