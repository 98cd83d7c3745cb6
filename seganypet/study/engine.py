"""One engine for all studies: cases x methods -> one table, which survives kills and notices changed files.

A study is one file: the columns of its table, its settings, and a function that measures one case.

    def measure(case, methods, settings):
        pet = case.load_pet()
        for method in methods:
            mask = method.open(pet).click(ijk=settings["ijk"])
            yield method.name, [{"mtv_ml": mask.sum() * pet.voxel_volume_ml}]

    def hot_volumes(cohort, models, ijk, **options):
        methods = resolve_methods(models)
        return run_study(Study("hot volumes", {"mtv_ml": float}, {"ijk": ijk}, measure, methods), cohort, **options)

The unit of work is one case by one method. What a finished unit was measured on is recorded by content, so that added
cases and methods are measured alone, a corrected label again, and a folder that was only moved is not.
"""

import os
import platform
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from seganypet import __version__
from seganypet._files import FileHashes, as_path
from seganypet.cohort.case import InMemoryCase
from seganypet.errors import DoubtfulValuesWarning, SegAnyPETError
from seganypet.phantom import PhantomCase
from seganypet.study.definition import Rows, Study, StudyMethod
from seganypet.study.identity import UNREADABLE, contents_of, contents_of_case
from seganypet.study.progress import CaseBar, begin_case
from seganypet.study.store import ResultStore
from seganypet.study.workers import check_picklable, check_workers, run_jobs, threads_for_run

if TYPE_CHECKING:
    import pandas as pd


def run_study(
    study: Study,
    cases: Iterable[Any],
    *,
    output: str | os.PathLike | None = None,
    processes: int = 1,
    cluster: str | None = None,
    threads: int | None = None,
    limit: int | None = None,
    retry_failed: bool = False,
    mixed_precision: bool = False,
    progress: bool = True,
) -> "pd.DataFrame":
    """Measure all cases by all methods of a study, except what is finished in the output.

    Args:
        study: What is measured.
        cases: A `Cohort`, phantoms, or objects with `name`, `patient` and what the study calls. A method `contents()`
            of a case says what identifies it; without one its public attributes do.
        output: CSV file, which rows are appended to as they are finished; None: they are returned only. If it exists,
            finished cases are not measured again unless their files changed, and other cases and methods in it stay.
        processes: Number of cases that are measured at the same time, each in a process of its own.
        cluster: Address of a Dask scheduler, such as "tcp://host:8786", whose workers take the cases instead; they need
            the same files at the same paths.
        threads: Threads of PyTorch in each process; None: on this machine the process's share of the cores, on a
            cluster one. A small network computes on one anyway.
        limit: Number of cases, from the first; None: all.
        retry_failed: Whether failures that the output holds are tried again.
        mixed_precision: Whether rows of one network may have been computed in several precisions, as on a cluster of
            different machines; they differ by up to some hundredths of DSC on single organs.
        progress: Whether a bar over cases is shown, which names the target at work.

    Returns:
        Rows by case and method, in the order of both, whoever measured them and however often the run was interrupted.

    Raises:
        SegAnyPETError: Two cases of one name; an output that is another table, was made with other settings, weights or
            version, or is in use by another run; rows of one network in several precisions; with several processes,
            what cannot be sent to them; a worker that died, or no scheduler.

    Warns:
        UserWarning: Cases that are measured again because they changed, and cases that fail.
    """
    check_workers(processes, cluster, threads)
    cases = as_cases(cases, limit)
    _check_names("cases", cases)
    _check_names("models", study.methods)
    if cluster is not None or processes > 1:
        _check_picklable(study, cases)
    path = None if output is None else as_path(output)
    settings = dict(study.settings) | {"version": __version__}
    if not_numbers := [name for name, value in settings.items() if value != value]:
        raise SegAnyPETError(f"{', '.join(not_numbers)}: not a number; expected one.")
    identities = {method.name: method.identity for method in study.methods}
    failures: dict[str, str] = {}
    with ResultStore(path, study.name, study.columns, settings, identities, study.within_case) as store:
        jobs = list(_unfinished(study, cases, store, retry_failed))
        keys = [(case.name, method.name) for case in cases for method in study.methods]
        places = {key[1]: place for key in keys if (place := (store.record(key) or {}).get("place"))}
        with CaseBar(len(cases), len(cases) - len(jobs), progress) as bar:
            for case, unit in _measured(jobs, store.hashes, processes, cluster, threads, bar):
                if not mixed_precision:
                    _check_precision(unit.method.name, unit.place, places.setdefault(unit.method.name, unit.place))
                rows = [_standard_cells(study, case, unit) | row for row in unit.rows]
                key = case.name, unit.method.name
                store.append(key, rows, inputs=unit.inputs, outputs=unit.outputs, place=unit.place)
                for row in rows:
                    if row.get("error"):
                        failures.setdefault(case.name, row["error"])
        table = store.finish(keys)
    for name, error in failures.items():
        warnings.warn(f"case {name} failed: {error}", stacklevel=4)
    return table


# ---- what is left to do


@dataclass(frozen=True, eq=False)
class _Job:
    """A case, and those methods of a study that it is to be measured by."""

    study: Study
    case: Any
    methods: Sequence[Any]
    identified: bool  # whether inputs and outputs are hashed


class _Unit(NamedTuple):
    """The rows of one case by one method, and what they were measured on."""

    method: Any
    rows: Rows
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    place: Mapping[str, Any]


def _unfinished(study: Study, cases: Sequence[Any], store: ResultStore, retry_failed: bool) -> Iterator[_Job]:
    """What is left to do; units that will be measured again are dropped from the store."""
    for case in cases:
        records = {method.name: store.record((case.name, method.name)) for method in study.methods}
        finished = [method for method in study.methods if records[method.name] is not None]
        inputs = _inputs(study, case, finished, store.hashes)
        left: list[StudyMethod] = []
        reasons: set[str] = set()
        unreadable: set[str] = set()
        for method in study.methods:
            record = records[method.name]
            if record is None:
                left.append(method)
                continue
            written = contents_of(study.writes(case, method), store.hashes)
            now = inputs[method.name]
            changed = _differences(now, record["inputs"])
            unreadable |= {name for name in changed if now.get(name) == UNREADABLE}
            changed -= unreadable
            changed |= _differences(written, record["outputs"]) & written.keys()
            if changed or (retry_failed and record["failed"]):
                left.append(method)
                reasons |= changed
        if unreadable:
            warnings.warn(
                f"case {case.name}: {', '.join(sorted(unreadable))} cannot be read now; its rows in {store.path} stay.",
                stacklevel=5,
            )
        if reasons:
            warnings.warn(
                f"case {case.name} is measured again: {', '.join(sorted(reasons))} changed since {store.path} was "
                "written.",
                stacklevel=5,
            )
        if left:
            store.forget((case.name, method.name) for method in left)
            yield _Job(study, case, left, identified=store.path is not None)


def _inputs(study: Study, case: Any, methods: Sequence[Any], hashes: FileHashes) -> dict[str, dict[str, Any]]:
    """What the rows of a case by each method depend on, by content."""
    case_contents = contents_of_case(case, hashes) if methods else {}
    return {method.name: case_contents | contents_of(study.reads(case, method), hashes) for method in methods}


def _differences(now: Mapping[str, Any], before: Mapping[str, Any]) -> set[str]:
    """Names whose values differ, or that only one side has."""
    return {name for name in now.keys() | before.keys() if now.get(name, "") != before.get(name, "")}


# ---- measuring


def _measured(
    jobs: Sequence[_Job], hashes: FileHashes, processes: int, cluster: str | None, threads: int | None, bar: CaseBar
) -> Iterator[tuple[Any, _Unit]]:
    """Units as they are finished: method by method here, case by case from other processes."""
    if cluster is None and (processes == 1 or len(jobs) < 2):
        for job in jobs:
            with threads_for_run(threads):
                for unit in _measure(job, hashes):
                    yield job.case, unit
            bar.case_done()
        return
    for index, result in run_jobs(_measure_elsewhere, jobs, processes, cluster, threads, bar.watch):
        job = jobs[index]
        if isinstance(result, Exception):
            inputs, rows = _inputs_of(job, hashes), [{"error": error_text(result)}]
            result = [_Unit(method, rows, inputs[method.name], {}, {}) for method in job.methods], [], []
        units, new_hashes, messages = result
        for signature, digits in new_hashes:
            hashes.remember(signature, digits, new=True)
        for message in messages:
            warnings.warn(message, stacklevel=6)
        for unit in units:
            yield job.case, unit
        bar.case_done()


def _check_precision(method: str, now: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    if now and before and now.get("precision") != before.get("precision"):
        here, there = (f"{one['precision']} on {one['host']} ({one['device']})" for one in (now, before))
        raise SegAnyPETError(
            f"model {method} computes in {here}, but rows of this table were computed in {there}. Give one precision, "
            'such as precision="float32" (--precision float32), or allow both: mixed_precision=True '
            "(--mixed-precision)."
        )


def _measure(job: _Job, hashes: FileHashes) -> Iterator[_Unit]:
    # Inputs are hashed before they are read: if one changes in between, the next run sees it.
    inputs = _inputs_of(job, hashes)
    begin_case(job.case.name, [method.name for method in job.methods])
    left = {method.name: method for method in job.methods}
    try:
        for name, rows in job.study.measure(job.case, job.methods, job.study.settings):
            yield _unit(job, left.pop(name), rows, inputs, hashes)
        for method in left.values():  # what the study says nothing about has no rows
            yield _unit(job, method, [], inputs, hashes)
    except Exception as error:  # whatever a case or a method does, the others go on
        for method in left.values():
            yield _unit(job, method, _rows_of_one(job, method, error, len(left)), inputs, hashes)


def _rows_of_one(job: _Job, method: StudyMethod, error: Exception, left: int) -> Rows:
    """Rows of a method after an error that may be another's: it is measured alone, so that each has its own."""
    if left > 1:
        try:
            found = dict(job.study.measure(job.case, [method], job.study.settings))
            return found.get(method.name, [])
        except Exception as own:
            error = own
    return [{"error": error_text(error)}]


def _inputs_of(job: _Job, hashes: FileHashes) -> dict[str, dict[str, Any]]:
    if job.identified:
        return _inputs(job.study, job.case, job.methods, hashes)
    return {method.name: {} for method in job.methods}


def _unit(job: _Job, method: Any, rows: Rows, inputs: Mapping[str, Any], hashes: FileHashes) -> _Unit:
    outputs = contents_of(job.study.writes(job.case, method), hashes) if job.identified else {}
    return _Unit(method, rows, inputs[method.name], outputs, _place(method))


def _place(method: Any) -> dict[str, Any]:
    """Where a method computes in this process; nothing where that fails, as its rows then have."""
    try:
        place = method.place() if hasattr(method, "place") else {}
    except Exception:
        return {}
    return {"device": "cpu", "threads": 1} | place | {"host": platform.node()}


def _measure_elsewhere(job: _Job) -> tuple[list[_Unit], list[tuple[tuple, str]], list[str]]:
    hashes = FileHashes()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        units = list(_measure(job, hashes))
    messages = dict.fromkeys(str(one.message) for one in caught if one.category in (UserWarning, DoubtfulValuesWarning))
    return units, hashes.take_new(), list(messages)


def error_text(error: BaseException) -> str:
    """Class and message of an error, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _standard_cells(study: Study, case: Any, unit: _Unit) -> dict[str, Any]:
    cells: dict[str, Any] = {"case": case.name, "patient": case.patient, "model": unit.method.name}
    cells |= {"weights": unit.method.weights, "version": __version__, **study.settings, **unit.place}
    return {name: value for name, value in cells.items() if name in study.columns}


# ---- cases and methods


def as_cases(cohort: Iterable[Any], limit: int | None = None) -> list[Any]:
    """The first cases of a cohort, all without a limit; phantoms as `InMemoryCase`."""
    if limit is not None and limit < 1:
        raise SegAnyPETError(f"limit={limit}; expected the number of cases, at least 1.")
    first = islice(cohort, limit)
    return [InMemoryCase.from_phantom(case) if isinstance(case, PhantomCase) else case for case in first]


def _check_names(kind: str, things: Sequence[Any]) -> None:
    twice = [name for name, number in Counter(thing.name for thing in things).items() if number > 1]
    if twice:
        advice = ": {'mine': model}, on the command line --models mine=MODEL" if kind == "models" else ""
        raise SegAnyPETError(f"several {kind} are named {', '.join(twice)}; give each a name of its own{advice}.")
    if odd := [thing.name for thing in things if "\r" in thing.name]:
        raise SegAnyPETError(f"{kind}: the name {odd[0]!r} holds a carriage return, which no table keeps; rename it.")


def _check_picklable(study: Study, cases: Sequence[Any]) -> None:
    advice = "Give a model by its name or path; define a factory, or the class of a case, at the top of a module."
    for method in study.methods:
        if method.weights is not None and not getattr(method, "by_name", True):
            raise SegAnyPETError(f"model {method.name} is a network in this process's memory. {advice}")
        check_picklable(f"model {method.name}", method, advice)
    check_picklable(f"study {study.name}", (study.measure, study.reads, study.writes), advice)
    for case in {type(case): case for case in cases}.values():  # one of a kind: phantoms are large
        check_picklable(f"case {case.name}", case, advice)
