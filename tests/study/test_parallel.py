"""The same table, whoever does the work."""

import copyreg
import logging
import os
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from evaluation_cases import TIMES, BrokenCase, CubeSession, DeadlyCase, memory_case

from seganypet.errors import SegAnyPETError
from seganypet.study import methods, parallel
from seganypet.study.evaluation import evaluate
from seganypet.study.parallel import run_jobs

OPTIONS = {"targets": ["liver", "spleen", "lesion"], "baselines": ("41% SUVmax",), "progress": False}


def same(left: pd.DataFrame, right: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(left.drop(columns=TIMES), right.drop(columns=TIMES))


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    import torch

    from seganypet.model.checkpoints import save_model
    from seganypet.model.config import ModelConfig
    from seganypet.model.sam3d import Sam3D

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    config = ModelConfig(window_size=32, spacing_mm=8.0, encoder_dim=48, encoder_depth=1, prompt_dim=48)
    save_model(path, Sam3D(config), "small")
    return path


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Four, of which one cannot be read."""
    folder = tmp_path_factory.mktemp("cases")
    a, b, c, d = (memory_case(name) for name in "abcd")
    return [a, b, BrokenCase("c", str(folder), c.pet, c.organs), d]


@pytest.fixture(scope="module")
def alone(cases, network) -> pd.DataFrame:
    """The table of one process, with one thread of PyTorch as the others."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    table = evaluate(cases, [CubeSession, network], 2, first="random", then="random_error", seed=3, **OPTIONS)
    torch.set_num_threads(threads)
    return table


def test_two_processes_make_the_same_table_in_the_same_order_and_file(alone, cases, network, tmp_path):
    output = tmp_path / "results.csv"
    options = OPTIONS | {"first": "random", "then": "random_error", "seed": 3, "output": output}
    same(evaluate(cases, [CubeSession, network], 2, processes=2, **options), alone)
    assert pd.read_csv(output)[["case", "target", "model", "dsc"]].equals(
        alone[["case", "target", "model", "dsc"]].reset_index(drop=True)
    )


@pytest.fixture
def pickle_as_before():
    """Whoever imports Dask here teaches pickle to carry tracebacks, on which later tests' process pools would break."""
    before = dict(copyreg.dispatch_table)
    yield
    copyreg.dispatch_table.clear()
    copyreg.dispatch_table.update(before)


def test_a_dask_cluster_makes_the_same_table(alone, cases, network, pickle_as_before):
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=logging.ERROR
    ) as cluster:
        options = OPTIONS | {"first": "random", "then": "random_error", "seed": 3}
        address = cluster.scheduler_address
        same(evaluate(cases, [CubeSession, network], 2, cluster=address, **options), alone)


def test_no_scheduler_is_said(cases, monkeypatch):
    monkeypatch.setattr(parallel, "SCHEDULER_TIMEOUT_S", 0.5)
    with pytest.raises(SegAnyPETError, match="no Dask scheduler answers at tcp://127.0.0.1:9"):
        evaluate(cases, CubeSession, 1, cluster="tcp://127.0.0.1:9", **OPTIONS)
    with pytest.raises(SegAnyPETError, match="give one"):
        evaluate(cases, CubeSession, 1, cluster="tcp://127.0.0.1:9", processes=2, **OPTIONS)


def test_what_cannot_be_sent_is_refused_with_the_way_out(cases, network):
    with pytest.raises(SegAnyPETError, match="model mine cannot be sent.*name or path"):
        evaluate(cases, {"mine": lambda volume: CubeSession(volume)}, 1, processes=2, **OPTIONS)

    from seganypet.model.checkpoints import load_model

    with pytest.raises(SegAnyPETError, match="model small is a network in this process's memory.*name or path"):
        evaluate(cases, load_model(network), 1, processes=2, **OPTIONS)

    class Local:
        name = patient = "x"

    with pytest.raises(SegAnyPETError, match="case x cannot be sent"):
        evaluate([Local()], CubeSession, 1, processes=2, **OPTIONS)


def test_a_process_that_dies_ends_the_run_and_keeps_what_is_finished(tmp_path):
    a, output = memory_case("a"), tmp_path / "results.csv"
    deadly = DeadlyCase("dead", "dead", a.pet, a.organs)
    with pytest.raises(SegAnyPETError, match="a worker process died.*fewer processes"):
        evaluate([a, deadly], CubeSession, 1, processes=2, output=output, **OPTIONS)
    # The dying one may have been the quicker; whatever was finished is whole, and the next run goes on.
    fresh = evaluate([a, memory_case("dead")], CubeSession, 1, **OPTIONS)
    same(evaluate([a, memory_case("dead")], CubeSession, 1, output=output, **OPTIONS), fresh)


def test_a_network_whose_file_was_changed_meanwhile_is_a_failure(network, cases):
    (method,) = methods.resolve_methods(network, (), methods.open_session)
    methods.forget_networks()
    with pytest.raises(SegAnyPETError, match="holds other weights here"):
        replace(method, weights="0123456789abcdef").open(cases[0].pet)


def say_who(job: int):
    yield job, os.getpid()
    if job == 1:
        raise ValueError("one")


def test_a_job_that_fails_is_told_and_the_others_are_done():
    messages = list(run_jobs(say_who, [0, 1, 2], processes=2))
    said = [message for _, message in messages if isinstance(message, tuple)]
    assert sorted(job for job, _ in said) == [0, 1, 2] and os.getpid() not in {process for _, process in said}
    ((number, error),) = [message for message in messages if isinstance(message[1], Exception)]
    assert number == 1 and str(error) == "one"
    with pytest.raises(SegAnyPETError, match="processes=0"):
        list(run_jobs(say_who, [0], processes=0))
