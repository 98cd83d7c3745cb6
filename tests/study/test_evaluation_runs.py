"""`evaluate` on the engine: resumed, in processes, on a cluster, and after labels were corrected."""

import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY
from evaluation_cases import TIMES, BrokenCase, CubeSession, DeadlyCase, memory_case

from seganypet.cohort.case import Case
from seganypet.cohort.cohort import Cohort
from seganypet.errors import SegAnyPETError
from seganypet.pet.volume import save_mask, save_volume
from seganypet.study import methods
from seganypet.study.evaluation import evaluate

OPTIONS = {"targets": ["liver", "spleen", "lesion"], "rules": ("41% SUVmax",), "progress": False}
RANDOM = {"first": "random", "then": "random_error", "seed": 3}


class Counting(CubeSession):
    clicked = 0

    def click(self, ijk, foreground: bool = True):
        Counting.clicked += 1
        return super().click(ijk, foreground)


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
    table = evaluate(cases, [CubeSession, network], 2, **RANDOM, **OPTIONS)
    torch.set_num_threads(threads)
    return table


def test_two_processes_make_the_same_table_and_file(alone, cases, network, tmp_path):
    output = tmp_path / "results.csv"
    same(evaluate(cases, [CubeSession, network], 2, processes=2, output=output, **RANDOM, **OPTIONS), alone)
    assert pd.read_csv(output)["dsc"].equals(alone["dsc"])


def test_a_dask_cluster_makes_the_same_table(alone, cases, network):
    from distributed import LocalCluster

    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "silence_logs": logging.ERROR}
    with LocalCluster(**options) as cluster:
        same(evaluate(cases, [CubeSession, network], 2, cluster=cluster.scheduler_address, **RANDOM, **OPTIONS), alone)


def test_what_cannot_be_sent_is_refused_with_the_way_out(cases, network):
    with pytest.raises(SegAnyPETError, match="model mine cannot be sent.*name or path"):
        evaluate(cases, {"mine": lambda volume: CubeSession(volume)}, 1, processes=2, **OPTIONS)

    from seganypet.model.checkpoints import load_model

    with pytest.raises(SegAnyPETError, match="model small is a network in this process's memory.*name or path"):
        evaluate(cases, load_model(network), 1, processes=2, **OPTIONS)


def test_a_process_that_dies_ends_the_run_and_keeps_what_is_finished(tmp_path):
    a, output = memory_case("a"), tmp_path / "results.csv"
    deadly = DeadlyCase("dead", "dead", a.pet, a.organs)
    with pytest.raises(SegAnyPETError, match="a worker process died.*fewer processes"):
        evaluate([a, deadly], CubeSession, 1, processes=2, output=output, **OPTIONS)
    # The dying one may have been the quicker; whatever was finished is whole, and the next run resumes.
    living = memory_case("dead")
    fresh = evaluate([a, living], CubeSession, 1, **OPTIONS)
    same(evaluate([a, living], CubeSession, 1, output=output, **OPTIONS), fresh)


def test_a_network_whose_file_was_changed_meanwhile_is_a_failure(network, cases):
    (method,) = methods.resolve_methods(network)
    methods.forget_networks()
    with pytest.raises(SegAnyPETError, match="holds other weights here"):
        replace(method, weights="0123456789abcdef").open(cases[0].pet)


def test_corrected_labels_are_evaluated_again(tmp_path):
    case = memory_case("a")
    save_volume(tmp_path / "pet.nii.gz", case.pet)
    files = {name: tmp_path / f"{name}.nii.gz" for name in ("pet", "organs")}
    cohort = Cohort([Case("a", "a", files["pet"], "SUVbw", organs=files["organs"], organ_convention="seganypet")])
    output, options = tmp_path / "results.csv", OPTIONS | {"targets": ["liver", "spleen"]}
    save_mask(files["organs"], case.organs, like=case.pet)
    before = evaluate(cohort, Counting, 1, output=output, **options)
    assert before.query("model == '41% SUVmax' and target == 'liver'")["dsc"].item() == 1
    half = case.organs.copy()
    half[2:5, 2:7, 2:7] = 0  # 50 voxels of the liver's 125 are left
    save_mask(files["organs"], half, like=case.pet)
    with pytest.warns(UserWarning, match="case a is measured again: organs changed"):
        after = evaluate(cohort, Counting, 1, output=output, **options)
    same(after, evaluate(cohort, Counting, 1, **options))
    corrected = after.query("model == '41% SUVmax' and target == 'liver'")
    assert corrected["dsc"].item() == pytest.approx(2 * 50 / (50 + 125))
    Counting.clicked = 0
    same(evaluate(cohort, Counting, 1, output=output, **options), after)
    assert Counting.clicked == 0


def test_a_finished_case_is_not_even_opened(tmp_path):
    output, a, b = tmp_path / "results.csv", memory_case("a"), memory_case("b")
    evaluate([a], CubeSession, 2, output=output, **OPTIONS)
    unread = BrokenCase("a", "a", a.pet, a.organs, a.lesions)
    both = evaluate([unread, b], CubeSession, 2, output=output, **OPTIONS)
    assert both["error"].isna().all() and both["case"].drop_duplicates().tolist() == ["a", "b"]


def test_failures_are_kept_until_they_are_asked_to_be_tried_again(tmp_path):
    output, switch = tmp_path / "results.csv", tmp_path / "switch"
    switch.touch()
    a = memory_case("a")
    b = BrokenCase("b", str(switch), a.pet, a.organs)
    failed = evaluate([b, a], CubeSession, 2, output=output, **OPTIONS)
    assert (failed["error"].notna() == (failed["case"] == "b")).all()
    switch.unlink()
    same(evaluate([b, a], CubeSession, 2, output=output, **OPTIONS), failed)
    retried = evaluate([b, a], CubeSession, 2, output=output, retry_failed=True, **OPTIONS)
    same(retried, evaluate([b, a], CubeSession, 2, **OPTIONS))
    assert retried["error"].isna().all() and "whole case" not in output.read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "made with seed 0; now asked for is seed 1"),
        ({"first": "random"}, "made with first deepest; now asked for is first random"),
        ({"protocol": "release"}, "made with protocol whole_volume, .*; now asked for is protocol release, "),
        ({"clicks": 3}, "made with clicks 2; now asked for is clicks 3"),
        ({"targets": None}, "made with targets liver, spleen, lesion; now asked for is targets all"),
    ],
)
def test_another_setting_is_refused_and_the_file_stays(tmp_path, change, message):
    options = OPTIONS | {"clicks": 2, "output": tmp_path / "results.csv"}
    evaluate([memory_case()], {"cubes": CubeSession}, **options)
    before = options["output"].read_bytes()
    with pytest.raises(SegAnyPETError, match=f"{message}.*hoose another output"):
        evaluate([memory_case()], {"cubes": CubeSession}, **(options | change))
    assert options["output"].read_bytes() == before


def test_other_weights_under_one_name_are_refused(tmp_path, monkeypatch):
    options = OPTIONS | {"output": tmp_path / "results.csv"}
    evaluate([memory_case()], {"cubes": CubeSession}, 1, **options)
    monkeypatch.setattr(import_module("seganypet.study.methods"), "_weights", lambda model: "0123456789abcdef")
    with pytest.raises(SegAnyPETError, match="'cubes' with factory .*CubeSession.* weights 0123456789abcdef, .*choose"):
        evaluate([memory_case()], {"cubes": object()}, 1, **options)  # an object is taken for a network


SLOW_RUN = """
import sys
from evaluation_cases import SlowCubeSession, memory_case
from seganypet.study.evaluation import evaluate
evaluate([memory_case(name) for name in "abc"], SlowCubeSession, 4, output=sys.argv[1], rules=(), progress=False)
"""


def test_a_run_that_is_killed_loses_nothing_that_was_finished(tmp_path, monkeypatch):
    output, log = tmp_path / "results.csv", tmp_path / "clicks.log"
    monkeypatch.setenv("SLOW_LOG", str(log))
    environment = os.environ | {"PYTHONPATH": f"{REPOSITORY / 'tests'}{os.pathsep}{REPOSITORY}"}
    run = subprocess.Popen([sys.executable, "-c", SLOW_RUN, str(output)], env=environment, cwd=REPOSITORY)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (not output.exists() or output.read_text().count("\n") < 30):
        time.sleep(0.01)
    time.sleep(0.1)  # into the second case
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    kept, made = pd.read_csv(output), len(log.read_text().splitlines())
    assert set(kept["case"]) == {"a"} and made > kept["click_i"].notna().sum()

    from evaluation_cases import SlowCubeSession

    options = {"rules": (), "progress": False}
    resumed = evaluate([memory_case(name) for name in "abc"], SlowCubeSession, 4, output=output, **options)
    again = len(log.read_text().splitlines()) - made
    fresh = evaluate([memory_case(name) for name in "abc"], SlowCubeSession, 4, **options)
    same(resumed, fresh)
    assert again == fresh["click_i"].notna().sum() - kept["click_i"].notna().sum()
    np.testing.assert_array_equal(resumed["seconds"][: len(kept)], kept["seconds"])  # not measured again
