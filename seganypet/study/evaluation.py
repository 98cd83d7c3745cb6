"""Cases x models x simulated clicks -> one tidy table; `python -m seganypet.study.evaluation cohort.csv --model tiny`.

The protocol: click 1 on the target's deepest voxel, each later click on the largest error of the mask at hand. DSC and
NSD are taken after every click, over the whole volume, and never the best over clicks. The releases' own protocol is
there by name, for comparison; `rounds.py` says what it does and how it flatters.
"""

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from seganypet import __version__
from seganypet.cohort.cohort import Cohort
from seganypet.cohort.labels import lesion_targets, organ_targets
from seganypet.errors import SegAnyPETError
from seganypet.organs import ORGANS, SEEN_ORGANS
from seganypet.pet.volume import Volume
from seganypet.phantom import PhantomCase
from seganypet.prompting.simulate import FIRST, THEN
from seganypet.prompting.thresholds import RULES
from seganypet.study.methods import Method, forget_networks, named_models, resolve_methods
from seganypet.study.methods import open_session as _open_session
from seganypet.study.parallel import check_sendable, run_jobs
from seganypet.study.protocol import PROTOCOLS, CaseDone, CaseJob, Dialogue, Segmented, failed_rows, segment_case
from seganypet.study.results import COLUMNS, WHOLE_CASE, ResultsFile
from seganypet.study.summaries import effort, summarise

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COLUMNS", "EvaluationCase", "MemoryCase", "effort", "evaluate", "main", "summarise"]

# What a click costs a person, beside the model: an assumption, not a measurement. Interpretation included, on a scan
# that is open already.
SECONDS_PER_CLICK = 2.0


class EvaluationCase(Protocol):
    """What `evaluate` needs of a case; `cohort.Case` and `MemoryCase` have it."""

    name: str
    patient: str

    def load_pet(self) -> Volume:
        """The scan."""

    def targets(self, pet: Volume, only: Sequence[str] | None = None) -> Iterator[tuple[str, np.ndarray]]:
        """Name and mask (bool, shape of `pet`) of each target."""


@dataclass(frozen=True, eq=False)
class MemoryCase:
    """A case whose arrays are in memory, such as a phantom.

    Attributes:
        name: Name of the case.
        patient: Whose scan it is.
        pet: The scan.
        organs: Label map, shape of `pet`; label n is the n-th of `seganypet.phantom.ORGANS`.
        lesions: Mask or label map, shape of `pet`; every label above 0 is lesion.
    """

    name: str
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
    models: Any,
    clicks: int = 5,
    *,
    targets: Sequence[str] | None = None,
    protocol: str = "whole_volume",
    first: str | None = None,
    then: str | None = None,
    seed: int = 0,
    baselines: Sequence[str] = RULES,
    seconds_per_click: float = SECONDS_PER_CLICK,
    output: str | Path | None = None,
    retry_failed: bool = False,
    processes: int = 1,
    cluster: str | None = None,
    threads: int = 1,
    progress: bool = True,
) -> "pd.DataFrame":
    """Segment every target of every case with every model under simulated clicks.

    Args:
        cohort: A `Cohort`, or any cases: of a cohort, phantoms, `MemoryCase`.
        models: One or a list of: name of a network or path of its weights, opened once in each process; a network; a
            threshold rule; a factory, called with a volume, that returns a session. A mapping gives them names. None:
            baselines alone. One session per case and model; its embeddings are shared by the targets that allow it.
        clicks: Number of rounds. Where a session is slicewise, each is a click in every slice, see `rounds`.
        targets: Names of targets, "lesion" for every single lesion; default all.
        protocol: "whole_volume", or "release", which flatters; `rounds` says how.
        first: Strategy of the first click, see `simulate.first_click`; default "deepest", of "release" "random".
        then: Strategy of later clicks, see `simulate.next_click`; default "largest_error", of "release" "random_error".
        seed: Of random clicks; each target of each case has its own stream, the same for every model.
        baselines: Rules of `ThresholdSession`, beside the models.
        seconds_per_click: Of a person, for `human_seconds`: assumed, not measured.
        output: CSV file, which each target's rows are appended to once it is finished. If it exists, targets that
            stand in it are not computed again, and what it holds on other cases and models stays in it.
        retry_failed: Try again what stands in `output` as failed.
        processes: Cases that are worked on at the same time, each in a process of its own.
        cluster: Address of a Dask scheduler whose workers take the cases instead; they need the same files at the same
            paths (extra `cluster`).
        threads: Of PyTorch in each other process. The table is the same, to the bit, for the same number of threads;
            with `processes=1` PyTorch keeps its own (OMP_NUM_THREADS).
        progress: Show a progress bar over cases.

    Returns:
        One row per case, model, target and round, in the order of cases, targets and models; then what else `output`
        held. Columns:

        - case, patient, target, model; seen: True for the organs that the embedded models train on, False for other
          organs, NA for lesions
        - click: the round; prompt: "1", "2", ..., or "N", "2N", ... of a slicewise model; per_slice: whether it is one;
          slices: the N slices that hold the target, which only an oracle knows
        - dsc, nsd, nsd_tolerance_mm (the largest voxel spacing)
        - seconds: from clicking to the mask on the full grid; in the first round of a target it includes an embedding
          where the model needs a new one. click_i, click_j, click_k, foreground: the click, NA of a slicewise model
        - total_clicks, model_seconds: sums up to this round; human_seconds: total_clicks x seconds_per_click
        - error: class and message of what failed; all other results of that target are then NaN. A case that cannot be
          read has rows of the target "(whole case)"
        - protocol, seed, rounds (number of them), weights (digits of their SHA-256), version of this package

        A mask that equals the truth needs no click: its later rows repeat DSC 1 without place, sign or seconds. An
        empty target has rows with NaN and no error, to be counted.

    Raises:
        SegAnyPETError: No rounds; an unknown target, strategy, protocol, rule or network; two cases or models of one
            name; an `output` made with other settings, weights or another version, or in use by another run; with
            several processes, what cannot be sent to them; a worker process that died, no scheduler.
    """
    from tqdm.auto import tqdm

    known = {*ORGANS, "lesions", "lesion"}
    unknown = [name for name in targets or () if name not in known and not name.startswith("lesion_")]
    if unknown:
        raise SegAnyPETError(f"unknown targets {unknown}; expected some of {', '.join(sorted(known))}.")
    dialogue = Dialogue(clicks, protocol, first, then, seed)
    methods = resolve_methods(models, baselines, _open_session)
    cases = [_as_case(case) for case in cohort]
    twice = [name for name, number in Counter(case.name for case in cases).items() if number > 1]
    if twice:
        raise SegAnyPETError(f"several cases are named {', '.join(twice)}; each needs a name of its own.")
    if processes > 1 or cluster is not None:
        _check_sendable(methods, cases)
    settings = {"protocol": dialogue.label, "seed": seed, "rounds": clicks, "version": __version__}
    weights = {method.name: method.weights for method in methods}
    asked = None if targets is None else list(targets)
    try:
        with ResultsFile(output, settings, weights, retry_failed) as file:
            jobs = _jobs(cases, methods, asked, dialogue, file)
            bar = tqdm(total=len(cases), initial=len(cases) - len(jobs), desc="cases", disable=not progress)
            for number, message in run_jobs(segment_case, jobs, processes=processes, cluster=cluster, threads=threads):
                case = jobs[number].case
                for model, target, rows in _finished_targets(message, jobs[number], file):
                    labels = {"case": case.name, "patient": case.patient, "target": target, "seen": _seen(target)}
                    labels |= {"model": model, "weights": weights[model]} | settings
                    file.append([_with_human_seconds(labels | row, seconds_per_click) for row in rows])
                    file.finished.add((case.name, model, target))
                bar.update(not isinstance(message, Segmented))
                if isinstance(message, CaseDone) and message.complete:
                    file.remember_targets(case.name, asked, message.targets)
            bar.close()
            rows = _in_order(file.rows, cases, list(weights), asked, file)
            return file.finish(_with_human_seconds(row, seconds_per_click) for row in rows)
    finally:
        forget_networks()


def _check_sendable(methods: Sequence[Method], cases: Sequence[EvaluationCase]) -> None:
    """Refuse what other processes cannot have."""
    advice = "Give a model by its name or path; a factory, or the class of a case, stands at the top of a module."
    for method in methods:
        if method.weights is not None and not method.by_name:
            raise SegAnyPETError(f"model {method.name} is a network in this process's memory. {advice}")
        check_sendable(f"model {method.name}", method, advice)
    for case in {type(case): case for case in cases}.values():  # one of a kind: phantoms are large
        check_sendable(f"case {case.name}", case, advice)


def _jobs(
    cases: Sequence[EvaluationCase], methods: Sequence[Method], asked: list[str] | None, dialogue: Dialogue,
    file: ResultsFile,
) -> list[CaseJob]:  # fmt: skip
    """What is left to do: no case that is finished is opened again."""
    jobs = []
    finished_of = defaultdict(set)
    for name, model, target in file.finished:
        finished_of[name].add((model, target))
    for case in cases:
        finished = finished_of[case.name]
        names = file.targets_of(case.name, asked)
        left = [
            method
            for method in methods
            if (method.name, WHOLE_CASE) not in finished
            and (names is None or any((method.name, name) not in finished for name in names))
        ]
        if left:
            jobs.append(CaseJob(case, tuple(left), asked and tuple(asked), dialogue, frozenset(finished)))
    return jobs


def _finished_targets(message: Any, job: CaseJob, file: ResultsFile) -> Iterator[Segmented]:
    """The targets that a message brings; a worker that was lost and its case begun again may repeat itself."""
    if isinstance(message, Exception):
        found = [
            Segmented(method.name, WHOLE_CASE, failed_rows(message, job.dialogue.clicks)) for method in job.methods
        ]
    else:
        found = [message] if isinstance(message, Segmented) else []
    yield from (one for one in found if (job.case.name, one.model, one.target) not in file.finished)


def _in_order(
    rows: list[dict[str, Any]], cases: Sequence[EvaluationCase], models: list[str], asked: list[str] | None,
    file: ResultsFile,
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows as one process without interruption makes them; those of other cases and models behind, as they stood."""
    places = {case.name: place for place, case in enumerate(cases)}
    targets: dict[str, list[str]] = {}
    for row in rows:
        names = targets.setdefault(row["case"], list(file.targets_of(row["case"], asked) or ()))
        if row["target"] not in names:
            names.append(row["target"])

    def place(row: dict[str, Any]) -> tuple[int, ...]:
        if row["case"] not in places or row["model"] not in models:
            return (len(cases), 0, 0, 0)
        target = (row["target"] == WHOLE_CASE, targets[row["case"]].index(row["target"]))
        return (places[row["case"]], *target, models.index(row["model"]))

    return sorted(rows, key=place)


def _with_human_seconds(row: dict[str, Any], seconds_per_click: float) -> dict[str, Any]:
    clicks = row.get("total_clicks")
    return row if clicks is None or clicks != clicks else row | {"human_seconds": clicks * seconds_per_click}


def _as_case(case: EvaluationCase | PhantomCase) -> EvaluationCase:
    """The case itself, or a phantom as a `MemoryCase`; every phantom is a patient of its own."""
    if not isinstance(case, PhantomCase):
        return case
    name = f"phantom_{case.domain}_{case.seed}"
    return MemoryCase(name, name, case.pet, case.organs, case.lesions)


def _seen(target: str) -> bool | None:
    return target in SEEN_ORGANS if target in ORGANS else None


DESCRIPTION = """\
Segment every target of a cohort under simulated clicks with one or several models, write one row per case, model,
target and click, and print means over patients with 95 % bootstrap intervals.

models (--model, several times; NAME=... names it in the table):
  tiny, tiny-base, tiny-organs, and in 2D tiny-2d, tiny-2d-organs   come with the package
  seganypet-v1, seganypet-v2, seganypet-lesion, sam-med3d, sam-med3d-turbo, and in 2D sam-vit-b, sam-vit-l, sam-vit-h,
  medsam-vit-b           downloaded once, under their licence
  PATH                   .safetensors or .pth; for instance mine=runs/mine.safetensors
  "41% SUVmax", "SUV>=2.5", "41% SUVmax, from hottest", band, ...
                         threshold rules from the same clicks; --baselines adds five by default
  random_walker          the same clicks, and no training either
  A 2D model is clicked on every slice that holds the target; the other slices are empty. An oracle: 3D models are not
  told which slices these are. Round r of it is the prompt rN.

protocols (--protocol):
  whole_volume   ours: DSC and NSD after each click, over the whole volume, never the best over clicks
  release        of the public releases: a window centred on the truth, random clicks, DSC inside it, best over clicks
                 so far. It flatters; use it only to compare with tables that were made so.
"""

EPILOG = """\
columns of the table:
  case patient target model; seen (trained on by the embedded models; blank for lesions); click (the round); prompt (1,
  or N where each slice is clicked); per_slice; slices (N); dsc; nsd; nsd_tolerance_mm; seconds (of this round);
  model_seconds and total_clicks (until this round); human_seconds (total_clicks x --seconds-per-click, an assumption);
  click_i click_j click_k foreground; error (class and message: dsc is then blank); protocol; seed; rounds; weights
  (digits of their SHA-256); version (of seganypet)

resume:
  Rows land in --output as each target is finished. After a kill, the same command goes on where it stopped;
  OUTPUT.targets beside it names the targets of finished cases. Failed cases stand in the table as rows, and are left
  alone unless --retry-failed. Another number of clicks, protocol, seed or version, or other weights under the same name
  are refused.

time:
  On one core of 2026, tiny with 5 clicks took 4 s for a phantom with 12 organs and its lesions at 4 mm, 11 s for one at
  2 mm; four fifths of it were the network's. Each more model adds its own. --processes shares the cases out; each
  process holds one scan and the models, and takes some seconds to start.

examples:
  python -m seganypet.study.evaluation data_samples/cohort.csv --model tiny --clicks 5 --output out/results.csv
  python -m seganypet.study.evaluation cohort.csv --model tiny --model mine=runs/mine.safetensors --output r.csv
  python -m seganypet.study.evaluation cohort.csv --model tiny --protocol release --baselines --output release.csv
  python -m seganypet.study.evaluation cohort.csv --model seganypet-v1 --cluster tcp://host:8786 --output r.csv
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of `evaluate`."""
    parser = argparse.ArgumentParser(
        prog="python -m seganypet.study.evaluation", description=DESCRIPTION, epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("cohort", help="cohort table (CSV), an AutoPET tree or an nnU-Net folder")
    parser.add_argument("--model", action="append", default=[], help="see above; without it, baselines alone")
    parser.add_argument("--clicks", type=int, default=5, help="rounds per target (default: %(default)s)")
    parser.add_argument("--targets", nargs="+", help="names of targets, 'lesion' for each lesion (default: all)")
    parser.add_argument("--split", help="cases of this split only")
    parser.add_argument("--protocol", choices=PROTOCOLS, default=PROTOCOLS[0], help="see above (default: %(default)s)")
    parser.add_argument("--first", choices=FIRST, help="first click (default: deepest; of release: random)")
    parser.add_argument("--then", choices=THEN, help="later clicks (default: largest_error; of release: random_error)")
    parser.add_argument("--seed", type=int, default=0, help="of random clicks (default: 0)")
    parser.add_argument("--baselines", nargs="*", default=list(RULES), help="threshold rules (default: all five)")
    parser.add_argument("--seconds-per-click", type=float, default=SECONDS_PER_CLICK, metavar="SECONDS",
                        help="of a person, assumed (default: %(default)s)")  # fmt: skip
    parser.add_argument("--output", required=True, help="CSV file; an unfinished one is continued")
    parser.add_argument("--retry-failed", action="store_true", help="try failed cases again")
    parser.add_argument("--processes", type=int, default=1, help="cases at the same time (default: 1)")
    parser.add_argument("--cluster", metavar="ADDRESS", help="Dask scheduler, tcp://host:port, instead of processes")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch in each other process (default: 1)")
    options = vars(parser.parse_args(arguments))
    try:
        cohort = Cohort.from_path(options.pop("cohort"))
        split = options.pop("split")
        if split:
            cohort = cohort.filter(split=split)
        results = evaluate(cohort, named_models(options.pop("model")), options.pop("clicks"), **options)
    except SegAnyPETError as error:
        raise SystemExit(f"error: {error}") from error
    summary = summarise(results, sorted({1, 3, 5, int(results["click"].max())}))
    shown = [  # columns that fit a terminal
        name for name in summary if not name.startswith(("auc_", "noc85_")) or name.endswith(("relative", "failures"))
    ]
    print(summary[shown].dropna(axis="columns", how="all").round(3).to_string(index=False))
    failed = results[results["error"].notna()].drop_duplicates(["case", "model", "target"])
    for row in failed.head(5).to_dict("records"):
        print(f"failed: case {row['case']}, {row['model']}, {row['target']}: {row['error']}")
    if len(failed):
        print(f"{len(failed)} targets failed; the column error says why, and --retry-failed tries them again.")


if __name__ == "__main__":
    main()
