import os
import signal
import subprocess
import sys
import time
from importlib import import_module

import pandas as pd
import pytest
from conftest import REPOSITORY
from evaluation_cases import TIMES, BrokenCase, CubeSession, memory_case

from seganypet import __version__
from seganypet.errors import SegAnyPETError
from seganypet.study.evaluation import evaluate
from seganypet.study.results import ResultsFile

OPTIONS = {"targets": ["liver", "spleen"], "baselines": ("41% SUVmax",), "progress": False}


class Counting(CubeSession):
    clicked = 0

    def click(self, ijk, foreground: bool = True):
        Counting.clicked += 1
        return super().click(ijk, foreground)


def same(left: pd.DataFrame, right: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(left.drop(columns=TIMES), right.drop(columns=TIMES))


def test_a_table_cut_at_any_byte_is_completed_to_that_of_a_whole_run(tmp_path):
    cases, whole, output = [memory_case("NA"), memory_case('b, "2"')], tmp_path / "whole.csv", tmp_path / "cut.csv"
    fresh = evaluate(cases, Counting, 2, output=whole, **OPTIONS)
    content = whole.read_bytes()
    clicked = []
    ends = [0, 5, 300, len(content) // 2, content.rfind(b"\n", 0, -1), len(content) - 1, len(content)]
    for end in ends:
        output.write_bytes(content[:end])
        Counting.clicked = 0
        same(evaluate(cases, Counting, 2, output=output, **OPTIONS), fresh)
        clicked.append(Counting.clicked)
        # What was not computed again is there with its times.
        kept = pd.read_csv(output)["seconds"].iloc[0] == pd.read_csv(whole)["seconds"].iloc[0]
        assert kept == (end > 1000)
    assert clicked == sorted(clicked, reverse=True) and clicked[0] == 6 and clicked[3] == 3 and clicked[-1] == 0


def test_a_finished_case_is_not_even_opened(tmp_path):
    output = tmp_path / "results.csv"
    a, b = memory_case("a"), memory_case("b")
    evaluate([a], CubeSession, 2, output=output, **OPTIONS)
    unread = BrokenCase("a", str(tmp_path), a.pet, a.organs)
    both = evaluate([unread, b], CubeSession, 2, output=output, **OPTIONS)
    assert both["error"].isna().all() and both["case"].drop_duplicates().tolist() == ["a", "b"]
    # Another model opens it, and what stands there of the first one stays.
    more = evaluate([unread], ["SUV>=2.5"], 2, output=output, targets=["liver"], baselines=(), progress=False)
    assert more["error"].notna().sum() == 2 and len(more) == len(both) + 2
    # Without the names of its targets it is opened again, and nothing of it is computed twice.
    (tmp_path / "results.csv.targets").write_text('{"case": "a", "ask')
    Counting.clicked = 0
    evaluate([a, b], {"CubeSession": Counting}, 2, output=output, **OPTIONS)
    assert Counting.clicked == 0


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
        ({"seed": 1}, "made with seed 0, now asked for is 1"),
        ({"first": "random"}, "made with protocol 'deepest, largest_error'"),
        ({"protocol": "release"}, "made with protocol"),
        ({"clicks": 3}, "made with rounds 2, now asked for is 3"),
        ({"version": "0.0.9"}, "made with version .*, now asked for is '0.0.9'"),
        ({"weights": "0123456789abcdef"}, "with weights .None., while those of today's 'cubes' are '0123456789abcdef'"),
    ],
)
def test_another_setting_is_refused_and_the_file_stays(tmp_path, monkeypatch, change, message):
    output = tmp_path / "results.csv"
    options = OPTIONS | {"clicks": 2, "output": output}
    evaluate([memory_case()], {"cubes": CubeSession}, **options)
    before = output.read_bytes()
    change, model = dict(change), CubeSession
    if "version" in change:
        monkeypatch.setattr(import_module("seganypet.study.evaluation"), "__version__", change.pop("version"))
    if "weights" in change:
        digits = change.pop("weights")
        monkeypatch.setattr(import_module("seganypet.study.methods"), "_weights", lambda model: digits)
        model = object()  # taken for a network
    with pytest.raises(SegAnyPETError, match=f"{message}.*choose another output"):
        evaluate([memory_case()], {"cubes": model}, **(options | change))
    assert output.read_bytes() == before


def test_a_stranger_or_a_file_in_use_is_refused(tmp_path):
    output = tmp_path / "results.csv"
    output.write_text("something,else\n1,2\n")
    with pytest.raises(SegAnyPETError, match="is no table of evaluate.*choose another output"):
        evaluate([memory_case()], CubeSession, 1, output=output, **OPTIONS)
    assert output.read_text() == "something,else\n1,2\n"
    settings = {"protocol": "deepest, largest_error", "seed": 0, "rounds": 1, "version": __version__}
    output = tmp_path / "busy.csv"
    with (
        ResultsFile(output, settings, {}),
        pytest.raises(SegAnyPETError, match="is being written by another run"),
    ):
        evaluate([memory_case()], CubeSession, 1, output=output, **OPTIONS)
    evaluate([memory_case()], CubeSession, 1, output=output, **OPTIONS)


def test_a_table_of_the_first_version_is_continued(tmp_path):
    output = tmp_path / "results.csv"
    fresh = evaluate([memory_case()], None, 2, output=output, **OPTIONS)
    table = pd.read_csv(output)
    table.iloc[:, :16].to_csv(output, index=False)
    (tmp_path / "results.csv.targets").unlink()
    continued = evaluate([memory_case()], None, 2, output=output, **OPTIONS)
    same(continued.iloc[:, :16].assign(model_seconds=0), fresh.iloc[:, :16].assign(model_seconds=0))
    with pytest.raises(SegAnyPETError, match="rounds 2, now asked for is 3"):
        evaluate([memory_case()], None, 3, output=output, **OPTIONS)


SLOW_RUN = """
import sys
from evaluation_cases import SlowCubeSession, memory_case
from seganypet.study.evaluation import evaluate
evaluate([memory_case(name) for name in "abc"], SlowCubeSession, 4, output=sys.argv[1], baselines=(), progress=False)
"""


def test_a_run_that_is_killed_loses_nothing_that_was_finished(tmp_path, monkeypatch):
    output, log = tmp_path / "results.csv", tmp_path / "clicks.log"
    monkeypatch.setenv("SLOW_LOG", str(log))
    environment = os.environ | {"PYTHONPATH": f"{REPOSITORY / 'tests'}{os.pathsep}{REPOSITORY}"}
    run = subprocess.Popen([sys.executable, "-c", SLOW_RUN, str(output)], env=environment, cwd=REPOSITORY)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (not output.exists() or output.read_text().count("\n") < 30):
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    rows = pd.read_csv(output)
    kept = rows.groupby(["case", "target"]).filter(lambda group: len(group) == 4)
    assert len(kept)
    made = len(log.read_text().splitlines())

    from evaluation_cases import SlowCubeSession

    options = {"baselines": (), "progress": False}
    resumed = evaluate([memory_case(name) for name in "abc"], SlowCubeSession, 4, output=output, **options)
    again = len(log.read_text().splitlines()) - made
    fresh = evaluate([memory_case(name) for name in "abc"], SlowCubeSession, 4, **options)
    same(resumed, fresh)
    assert again == fresh["click_i"].notna().sum() - kept["click_i"].notna().sum()
