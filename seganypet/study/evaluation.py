"""Organs and lesions under simulated prompts: cohort x models x clicks -> one table.

Click 1 goes to the target's deepest voxel, each later one to the largest error of the mask at hand. DSC and NSD are
taken after every click, over the whole volume, and never the best over clicks. The releases' own protocol is there by
name, for comparison; `protocol.py` says what it does and how it flatters.
"""

import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from seganypet.errors import SegAnyPETError, renamed_keywords
from seganypet.metrics import METRICS
from seganypet.organs import ORGANS, SEEN_ORGANS
from seganypet.pet.volume import Volume
from seganypet.phantom import PhantomCase
from seganypet.prompting.thresholds import RULES
from seganypet.regions import bounding_box
from seganypet.study.engine import Rows, Study, error_text, run_study
from seganypet.study.methods import forget_networks, resolve_methods
from seganypet.study.protocol import ClickProtocol, segment_target

if TYPE_CHECKING:
    import pandas as pd

# Fields of the protocol as settings of the study; `prompt` is a column, which holds another thing.
_SETTINGS = {field.name: field.name for field in fields(ClickProtocol)} | {"prompt": "first_prompt"}
WHOLE_CASE = "(whole case)"  # in the column target, where a case could not be read

# What a click costs a person, beside the model: an assumption, not a measurement. Interpretation included, on a scan
# that is open already.
SECONDS_PER_CLICK = 2.0

COLUMNS: dict[str, tuple[type, str]] = {
    "case": (str, "name of the case"),
    "patient": (str, "whose scan it is"),
    "target": (str, "organ, 'lesions' (all), 'lesion_01', ...; '(whole case)' if the case cannot be read"),
    "seen": (bool, "whether the organ is among the paper's seen ones, see `organs`; blank for lesions"),
    "model": (str, "name of the network or threshold rule"),
    "click": (int, "round, from 1"),
    "METRICS": (float, "one column for each of metrics.METRICS: dsc, nsd, ...; blank for an empty target"),
    "nsd_tolerance_mm": (float, "largest voxel spacing"),
    "seconds": (float, "from clicking to the mask on the full grid; with an embedding where a new one is needed"),
    "prompt_kind": (str, "click, scribble, box, box3d, lasso or mask: what the round gave; blank if nothing was wrong"),
    "foreground": (bool, "whether the click adds to the mask; blank where each slice is clicked"),
    "click_i": (int, "voxel of the click, of another prompt its middle; likewise click_j and click_k"),
    "click_j": (int, ""),
    "click_k": (int, ""),
    "protocol": (str, "strategies of the clicks, after 'release: ' if that is the protocol"),
    "seed": (int, "seed of random clicks"),
    "prompt": (str, "1, 2, ..., or N, 2N, ... where each slice is clicked"),
    "total_clicks": (int, "clicks, or other prompts, up to this round"),
    "per_slice": (bool, "whether each slice is clicked"),
    "slices": (int, "the N slices that hold the target, which only an oracle knows"),
    "human_seconds": (float, "total_clicks times the seconds per click, which are assumed"),
    "model_seconds": (float, "sum of seconds up to this round"),
    "disobeyed": (int, "prompts of the round that the mask contradicts: a clicked voxel on the wrong side, say"),
    "notice": (str, "what the session told its user about the round, such as that nothing was found"),
    "error": (str, "class and message of what failed; all metrics of that target are then blank"),
    "rounds": (int, "number of rounds"),
    "weights": (str, "digits of the SHA-256 of the weights"),
    "version": (str, "version of this package"),
}  # fmt: skip


def columns() -> dict[str, type]:
    """Names and types of the table's columns, with one for each metric."""
    types: dict[str, type] = {}
    for name, (kind, _) in COLUMNS.items():
        types |= dict.fromkeys(METRICS, kind) if name == "METRICS" else {name: kind}
    return types


class EvaluationCase(Protocol):
    """What `evaluate` calls of a case, such as `Case`, `CTCase` or `InMemoryCase`."""

    @property
    def name(self) -> str:
        """Name of the case, unique in its cohort."""

    @property
    def patient(self) -> str:
        """Whose scan it is."""

    def load_pet(self) -> Volume:
        """The scan."""

    def targets(self, pet: Volume, only: Sequence[str] | None = None) -> Iterator[tuple[str, np.ndarray]]:
        """Name and mask (bool, shape of `pet`) of each target."""


@renamed_keywords(baselines="rules")
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
    prompt: str = "click",
    correction: str | None = None,
    rules: Sequence[str] = RULES,
    seconds_per_click: float = SECONDS_PER_CLICK,
    output: str | os.PathLike | None = None,
    processes: int = 1,
    cluster: str | None = None,
    threads: int = 1,
    limit: int | None = None,
    retry_failed: bool = False,
    progress: bool = True,
) -> "pd.DataFrame":
    """Segment every target of every case with every model under simulated clicks.

    A mask that equals the truth needs no click: its later rows repeat DSC 1 without voxel, sign or seconds. An empty
    target has rows without metrics and without error, to be counted.

    Args:
        cohort: A `Cohort`, or any cases: of a cohort, phantoms, `InMemoryCase`.
        models: One or a list of: name of a network or path of its weights; a network; a threshold rule; a factory,
            called with a volume, that returns a session. A mapping gives them names. None: rules alone.
        clicks: Number of rounds. Where a session is slicewise, each is a click in every slice, see `protocol.py`.
        targets: Names of targets, "lesion" for every single lesion; None: all.
        protocol: "whole_volume", or "release", which flatters; `protocol.py` says how.
        first: Strategy of the first click, see `simulate.first_click`; default "deepest", of "release" "random".
        then: Strategy of later clicks, see `simulate.next_click`; default "largest_error", of "release" "random_error".
        seed: Seed of random clicks; each target of each case has its own stream, the same for every model.
        prompt: Kind of the first prompt: "click", "scribble", "box" or "lasso" (in one slice; where a session is
            slicewise, in every slice), "box3d", or "mask", a start from an imprecise mask; see `simulate_shapes`.
        correction: Kind of later prompts, "click" or "scribble"; default "scribble" after a scribble, else "click".
        rules: Threshold rules beside the models, see `ThresholdSession`.
        seconds_per_click: Time that a click costs a person, assumed, not measured.
        output, processes, cluster, threads, limit, retry_failed, progress: See `engine.run_study`.

    Returns:
        One row per case, target, model and round, in this order; `COLUMNS` says what is in them. What else `output`
        holds stays there.

    Raises:
        SegAnyPETError: No rounds; an unknown target, strategy, protocol, rule or network; two models of one name; and
            what `engine.run_study` raises.
    """
    known = {*ORGANS, "lesions", "lesion"}
    unknown = [name for name in targets or () if name not in known and not name.startswith("lesion_")]
    if unknown:
        raise SegAnyPETError(f"unknown targets {unknown}; expected some of {', '.join(sorted(known))}.")
    how = ClickProtocol(clicks, protocol, first, then, seed, prompt, correction)
    settings: dict[str, Any] = {setting: getattr(how, name) for name, setting in _SETTINGS.items()}
    settings |= {"targets": "all" if targets is None else list(targets), "seconds_per_click": seconds_per_click}
    try:
        methods = resolve_methods(models, rules)
        return run_study(
            Study("evaluate", columns(), settings, evaluate_case, methods, within_case="target"), cohort, output=output,
            processes=processes, cluster=cluster, threads=threads, limit=limit, retry_failed=retry_failed,
            progress=progress,
        )  # fmt: skip
    finally:
        forget_networks()


def evaluate_case(case: Any, methods: Sequence[Any], settings: Mapping[str, Any]) -> Iterator[tuple[str, Rows]]:
    """Segment every target of a case, method by method; what fails becomes rows with the error.

    One session of a method serves all targets. Where the scan or its labels cannot be read, each method gets rows of
    the target `WHOLE_CASE`.
    """
    protocol = ClickProtocol(**{name: settings[setting] for name, setting in _SETTINGS.items()})
    common = {"protocol": protocol.label, "rounds": protocol.clicks}
    only = None if settings["targets"] == "all" else settings["targets"]
    try:
        pet = case.load_pet()
        targets = [(name, *_cropped(mask)) for name, mask in case.targets(pet, only)]  # read once, small in memory
    except Exception as error:
        for method in methods:
            yield method.name, [common | {"target": WHOLE_CASE} | row for row in _failed_rows(error, protocol.clicks)]
        return
    for method in methods:
        session, rows = None, []
        for target, box, inside in targets:
            truth = np.zeros(pet.shape, bool)
            truth[box] = inside
            rng = np.random.default_rng((protocol.seed, zlib.crc32(f"{case.name}/{target}".encode())))
            try:
                session = method.open(pet) if session is None else session
                found = list(segment_target(method, session, truth, pet, protocol, rng))
            except Exception as error:  # whatever a method does, the others go on
                found = _failed_rows(error, protocol.clicks)
            for row in found:
                if "total_clicks" in row:
                    row["human_seconds"] = row["total_clicks"] * settings["seconds_per_click"]
                seen = target in SEEN_ORGANS if target in ORGANS else None
                rows.append(common | {"target": target, "seen": seen} | row)
        yield method.name, rows


def _failed_rows(error: Exception, clicks: int) -> Rows:
    """Rows that say what went wrong: none of the rounds counts, not even those before the failure."""
    return [{"click": number, "error": error_text(error)} for number in range(1, clicks + 1)]


def _cropped(mask: np.ndarray) -> tuple[tuple[slice, ...], np.ndarray]:
    """The box that holds a mask, and the mask in it."""
    box = bounding_box(mask) or (slice(0, 0),) * 3
    return box, mask[box].copy()
