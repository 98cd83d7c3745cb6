"""Organs and lesions under simulated prompts: cohort x models x clicks -> one table.

Click 1 goes to the target's deepest voxel, each later one to the largest error of the mask at hand. DSC and NSD are
taken after every click, over the whole volume, and never the best over clicks. The releases' own protocol is there by
name, for comparison; `protocol.py` says what it does and how it flatters.
"""

import os
import time
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from seganypet.cohort.case import CTCase
from seganypet.comparison import Target
from seganypet.errors import SegAnyPETError, renamed_keywords, shown, warn_caller
from seganypet.metrics import METRICS, scores_of
from seganypet.organs import ORGANS, SEEN_ORGANS
from seganypet.pet.volume import Volume
from seganypet.phantom import PhantomCase
from seganypet.prompting.thresholds import RULES
from seganypet.regions import bounding_box
from seganypet.study.automatic import CT, PET, automatic_methods
from seganypet.study.definition import Rows, Study
from seganypet.study.engine import as_cases, error_text, run_study
from seganypet.study.methods import Method, forget_networks, on_ct, resolve_methods
from seganypet.study.progress import tell
from seganypet.study.protocol import ClickProtocol, segment_target
from seganypet.study.saved_masks import check_mask_names, keep_mask, masks_written

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
    "click": (int, "round, from 1; 0 of a method without clicks"),
    "METRICS": (float, "one column for each of metrics.METRICS: dsc, nsd, ...; blank where undefined"),
    "best_of_three_dsc": (float, "DSC of the best reading of the first prompt, see `session.readings`; else blank"),
    "nsd_tolerance_mm": (float, "largest voxel spacing"),
    "seconds": (float, "from clicking to the mask on the full grid; with an embedding where a new one is needed"),
    "prompt_kind": (str, "click, scribble, box, box3d, lasso or mask: what the round gave; blank if nothing was wrong"),
    "foreground": (bool, "whether the click adds to the mask; blank where each slice is clicked"),
    "click_i": (int, "voxel of the click, of another prompt its middle; likewise click_j and click_k"),
    "click_j": (int, ""),
    "click_k": (int, ""),
    "modality": (str, "what the model looks at: PET, or registered CT"),
    "protocol": (str, "strategies of the clicks, after 'release: ' if that is the protocol"),
    "seed": (int, "seed of random clicks"),
    "prompt": (str, "1, 2, ..., or N, 2N, ... where each slice is clicked; auto without clicks"),
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
    threads: int | None = None,
    limit: int | None = None,
    retry_failed: bool = False,
    device: str = "auto",
    precision: str = "auto",
    mixed_precision: bool = False,
    modalities: Sequence[str] = (PET,),
    totalsegmentator: str | os.PathLike | None = None,
    save_masks: str | os.PathLike | None = None,
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
        modalities: What networks look at, "PET" and/or "registered CT": the case's CT, laid over the PET rigidly. On
            the CT their names in the table end in " on CT". Rules look at the PET.
        totalsegmentator: Folder of TotalSegmentator's output, <case>.nii.gz or <case>/, to be scored beside the models.
        save_masks: Folder for the masks after the last round, <case>/<model>/<target>.nii.gz; those that a finished
            case lacks are made again.
        device, precision: Where networks that are given by name or path compute, see `methods.resolve_methods`.
        output, processes, cluster, threads, limit, retry_failed, mixed_precision, progress: See `engine.run_study`.

    Returns:
        One row per case, target, model and round, in this order; `COLUMNS` says what is in them. What else `output`
        holds stays there.

    Raises:
        SegAnyPETError: No rounds; an unknown target, strategy, protocol, rule or network; two models of one name; and
            what `engine.run_study` raises.

    Warns:
        UserWarning: Cases that have no target, such as those without labels; and what `engine.run_study` warns of.
    """
    known = {*ORGANS, "lesions", "lesion"}
    unknown = [name for name in targets or () if name not in known and not name.startswith("lesion_")]
    if unknown:
        raise SegAnyPETError(f"unknown targets {unknown}; expected some of {', '.join(sorted(known))}.")
    how = ClickProtocol(clicks, protocol, first, then, seed, prompt, correction)
    settings: dict[str, Any] = {setting: getattr(how, name) for name, setting in _SETTINGS.items()}
    settings |= {"targets": "all" if targets is None else list(targets), "seconds_per_click": seconds_per_click}
    if seconds_per_click < 0:
        raise SegAnyPETError(f"seconds_per_click={seconds_per_click}; expected 0 or more.")
    if not modalities or {*modalities} - {PET, CT}:
        raise SegAnyPETError(f"modalities={modalities!r}; expected {PET!r} and/or {CT!r}.")
    cases = as_cases(cohort, limit)
    try:
        methods = resolve_methods(models, rules, device, precision, automatic_methods(totalsegmentator))
        looking = (*(methods if PET in modalities else ()), *(on_ct(methods) if CT in modalities else ()))
        if PET not in modalities:
            looking += tuple(automatic_methods(totalsegmentator))
        if not looking:
            raise SegAnyPETError("nothing to evaluate on the CT: give a network; rules look at the PET.")
        check_mask_names(save_masks, cases, looking)
        study = Study(
            "evaluate", columns(), settings, partial(evaluate_case, masks=save_masks), looking, reads=_reads,
            writes=partial(masks_written, save_masks), within_case="target",
        )  # fmt: skip
        table = run_study(
            study, cases, output=output, processes=processes, cluster=cluster, threads=threads,
            retry_failed=retry_failed, mixed_precision=mixed_precision, progress=progress,
        )  # fmt: skip
    finally:
        forget_networks()
    if without := sorted({case.name for case in cases} - {*table["case"]}):
        warn_caller(f"{len(without)} cases have none of the targets, and so no rows: {shown(without)}.")
    return table


def evaluate_case(
    case: Any, methods: Sequence[Any], settings: Mapping[str, Any], masks: str | os.PathLike | None = None
) -> Iterator[tuple[str, Rows]]:
    """Segment every target of a case by every method; what fails becomes rows with the error.

    One session of a method serves all targets. Where the scan or its labels cannot be read, each method gets rows of
    the target `WHOLE_CASE`. Masks after the last round go to the folder `masks`, if there is one.
    """
    protocol = ClickProtocol(**{name: settings[setting] for name, setting in _SETTINGS.items()})
    only = None if settings["targets"] == "all" else settings["targets"]
    on_modality = {modality: [one for one in methods if _looks_at(one) == modality] for modality in (PET, CT)}
    for modality, looking in on_modality.items():
        if not looking:
            continue
        try:
            seen = CTCase(case, register=True) if modality == CT else case
            scan = seen.load_pet()
            targets = [(name, *_cropped(mask)) for name, mask in case.targets(scan, only)]  # read once, small in memory
        except Exception as error:
            for method in looking:
                yield method.name, [_common(method, protocol) | {"target": WHOLE_CASE} | row
                                    for row in _failed_rows(error, protocol.clicks)]  # fmt: skip
            continue
        for together in _in_turn(looking):
            rows: dict[str, Rows] = {method.name: [] for method in together}
            found = _automatic if hasattr(together[0], "segment") else _clicked
            for method, target, row in found(case, together, scan, targets, protocol, masks):
                if "total_clicks" in row:
                    row["human_seconds"] = row["total_clicks"] * settings["seconds_per_click"]
                seen_organ = target in SEEN_ORGANS if target in ORGANS else None
                rows[method.name].append(_common(method, protocol) | {"target": target, "seen": seen_organ} | row)
            yield from rows.items()


def _in_turn(methods: Sequence[Any]) -> list[list[Any]]:
    """Methods that are measured together: each for itself, as networks fill the memory; all rules at once.

    Rules leak through the body, and to score a leak costs most: what scoring knows of a target then serves all of them.
    """
    rules = [method for method in methods if isinstance(method, Method) and method.is_rule]
    return [rules if method in rules else [method] for method in methods if method not in rules[1:]]


def _clicked(
    case: Any, methods: Sequence[Any], scan: Volume, targets: Sequence[Any], protocol: ClickProtocol, masks: Any
) -> Iterator[tuple[Any, str, dict[str, Any]]]:
    """Rows of each target under simulated clicks, method by method."""
    sessions: dict[str, Any] = {}
    for number, (name, box, inside) in enumerate(targets):
        truth = np.zeros(scan.shape, bool)
        truth[box] = inside
        target = Target(truth, scan.spacing)
        for turn, method in enumerate(methods):
            tell(method.name, name, (number + turn / len(methods)) / len(targets), [one.name for one in methods])
            rng = chance_of(protocol, case.name, name)
            kept: deque[np.ndarray] = deque(maxlen=1)
            try:
                if method.name not in sessions:
                    sessions[method.name] = method.open(scan)
                session = sessions[method.name]
                found = list(segment_target(method, session, truth, scan, protocol, rng, kept.append, target))
            except Exception as error:  # whatever a method does, the others go on
                found = _failed_rows(error, protocol.clicks)
                kept.clear()
            for mask in kept:
                keep_mask(masks, case.name, method.name, name, mask, scan)
            yield from ((method, name, row) for row in found)


def chance_of(protocol: ClickProtocol, case: str, target: str) -> np.random.Generator:
    """The random numbers of a target, the same for every model."""
    return np.random.default_rng((protocol.seed, zlib.crc32(f"{case}/{target}".encode())))


def _automatic(
    case: Any, methods: Sequence[Any], scan: Volume, targets: Sequence[Any], protocol: ClickProtocol, masks: Any
) -> Iterator[tuple[Any, str, dict[str, Any]]]:
    """A row for each target that the method, one without clicks, knows."""
    (method,) = methods
    tell(method.name)
    start, fixed = time.perf_counter(), {"click": 0, "prompt": "auto", "total_clicks": 0}
    try:
        found = method.segment(case, scan)
    except Exception as error:
        yield from ((method, target, fixed | {"error": error_text(error)}) for target, _, _ in targets)
        return
    seconds = time.perf_counter() - start
    for target, box, inside in targets:
        if target not in found:
            continue
        truth = np.zeros(scan.shape, bool)
        truth[box] = inside
        scores = scores_of(found[target], Target(truth, scan.spacing)) if truth.any() else {}
        keep_mask(masks, case.name, method.name, target, found[target], scan)
        tolerance = {"nsd_tolerance_mm": max(scan.spacing), "per_slice": False}
        yield method, target, fixed | tolerance | scores | {"seconds": seconds, "model_seconds": seconds}


def _common(method: Any, protocol: ClickProtocol) -> dict[str, Any]:
    """Cells that all rows of a method share."""
    label = "no clicks" if hasattr(method, "segment") else protocol.label
    return {"protocol": label, "rounds": protocol.clicks, "modality": getattr(method, "modality", PET)}


def _looks_at(method: Any) -> str:
    """The scan that a method is called with: files were made from a CT, and are read on the PET's grid."""
    return PET if hasattr(method, "segment") else getattr(method, "modality", PET)


def _reads(case: Any, method: Any) -> dict[str, Any]:
    if hasattr(method, "reads"):
        return method.reads(case)
    return {"ct": getattr(case, "ct", None)} if _looks_at(method) == CT else {}


def _failed_rows(error: Exception, clicks: int) -> Rows:
    """Rows that say what went wrong: none of the rounds counts, not even those before the failure."""
    return [{"click": number, "error": error_text(error)} for number in range(1, clicks + 1)]


def _cropped(mask: np.ndarray) -> tuple[tuple[slice, ...], np.ndarray]:
    """The box that holds a mask, and the mask in it."""
    box = bounding_box(mask) or (slice(0, 0),) * 3
    return box, mask[box].copy()
