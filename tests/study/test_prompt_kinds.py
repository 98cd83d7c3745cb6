"""Evaluation under prompts beyond clicks, and what its tables say of sessions that do not obey."""

import numpy as np
import pandas as pd
import pytest
from evaluation_cases import CubeSession, SquareSession, memory_case

from seganypet.errors import SegAnyPETError
from seganypet.prompting.packed_mask import PackedMask
from seganypet.prompting.prompts import Box, InitialMask, Lasso, Scribble
from seganypet.prompting.readings import Reading
from seganypet.prompting.thresholds import ThresholdSession
from seganypet.study.evaluation import evaluate
from seganypet.study.protocol import ClickProtocol
from seganypet.study.report import write_report
from seganypet.study.summaries import summarise

OPTIONS = {"targets": ["spleen"], "rules": (), "progress": False}
BASELINES = ("SUV>=2.5", "random_walker")


class FillingSession(CubeSession):
    """Draws exactly the voxels of what it is given, and keeps it."""

    given: list = []

    def add(self, prompt) -> np.ndarray:
        FillingSession.given.append(prompt)
        self.mask = self.mask.copy()
        self.mask[tuple(prompt.voxels.T)] = prompt.foreground
        return self.mask


class FillingSliceSession(SquareSession):
    """The same, for all prompts of a round."""

    given_rounds: list = []

    def click_slices(self, clicks) -> np.ndarray:
        FillingSliceSession.given_rounds.append(list(clicks))
        self.mask = self.mask.copy()
        for prompt in clicks:
            self.mask[tuple(prompt.voxels.T)] = prompt.foreground
        return self.mask

    def add(self, prompt) -> np.ndarray:
        return self.click_slices([prompt])


class StubbornSession(CubeSession):
    """Draws the spleen whatever is clicked, without its middle, and says so."""

    notice = "as you like it"

    def click(self, ijk, foreground: bool = True) -> np.ndarray:
        self.mask = self.volume.data == 3
        self.mask[16, 4, 4] = False
        return self.mask


@pytest.fixture(autouse=True)
def _nothing_given():
    FillingSession.given, FillingSliceSession.given_rounds = [], []


@pytest.mark.parametrize(
    ("kind", "prompt"), [("scribble", Scribble), ("box", Box), ("box3d", Box), ("lasso", Lasso), ("mask", InitialMask)]
)
def test_each_kind_is_given_first_and_corrected_by_clicks(kind, prompt):
    results = evaluate([memory_case()], FillingSession, 3, prompt=kind, correction="click", **OPTIONS)
    assert [type(given) for given in FillingSession.given] == [prompt]
    given = results["prompt_kind"].dropna().tolist()
    # The spleen is a box: once a 3D box has drawn it, nothing is left to say.
    assert given == ([kind] if kind == "box3d" else [kind, "click", "click"])
    assert results["prompt"].tolist() == ["1", "2", "3"] and results["total_clicks"].iloc[-1] == len(given)
    assert (results["protocol"] == f"{kind}, largest_error").all() and results["error"].isna().all()
    centre = FillingSession.given[0].centre_ijk
    assert tuple(results.loc[0, ["click_i", "click_j", "click_k"]]) == centre
    if kind != "mask":
        i, j, k = centre
        assert 12 <= i < 21 and 2 <= j < 7 and 2 <= k < 7  # in the spleen


def test_a_scribble_is_corrected_by_scribbles_unless_clicks_are_asked_for():
    results = evaluate([memory_case()], FillingSession, 3, prompt="scribble", **OPTIONS)
    assert [prompt.kind for prompt in FillingSession.given] == ["scribble"] * 3
    assert (results["protocol"] == "scribble, largest_error by scribble").all()
    assert results["dsc"].is_monotonic_increasing  # each scribble is drawn in what is missing
    evaluate([memory_case()], FillingSession, 2, correction="scribble", **OPTIONS)
    assert FillingSession.given[-1].kind == "scribble"


def test_every_slice_of_the_target_is_prompted_where_a_session_is_slicewise():
    results = evaluate([memory_case()], FillingSliceSession, 2, prompt="box", **OPTIONS)
    (boxes, *_) = FillingSliceSession.given_rounds
    assert boxes == [Box((12, 2, k), (20, 6, k)) for k in range(2, 7)]  # axial slices follow k here
    assert results["prompt"].tolist() == ["N", "2N"] and results["dsc"].tolist() == [1, 1]
    assert results["total_clicks"].tolist() == [5, 5] and results["prompt_kind"].tolist()[0] == "box"


@pytest.mark.parametrize("kind", ["box3d", "mask"])
def test_what_is_no_matter_of_slices_is_given_once_to_a_slicewise_session(kind):
    results = evaluate([memory_case()], FillingSliceSession, 2, prompt=kind, **OPTIONS)
    assert [len(given) for given in FillingSliceSession.given_rounds][0] == 1
    assert results["prompt"].tolist() == ["1", "2N"] and results["total_clicks"].tolist()[0] == 1


def test_disobeyed_prompts_are_counted_and_what_was_told_is_kept():
    results = evaluate([memory_case()], StubbornSession, 2, **OPTIONS)
    assert (results.loc[0, "click_i"], results.loc[0, "click_j"], results.loc[0, "click_k"]) == (16, 4, 4)
    assert results["disobeyed"].tolist() == [1, 1] and (results["notice"] == "as you like it").all()
    obeying = evaluate([memory_case()], CubeSession, 2, **OPTIONS)
    assert obeying["disobeyed"].tolist() == [0, 0] and obeying["notice"].isna().all()
    summary = summarise(pd.concat([results, obeying.assign(model="obeying")]), (1, 2)).set_index(["model", "click"])
    assert summary["disobeyed"].tolist() == [1, 1, 0, 0]
    assert summarise(results.drop(columns="disobeyed"), (1,))["disobeyed"].isna().all()
    # In slices, each prompt counts: a session that draws nothing disobeys all five.
    deaf = evaluate([memory_case()], DeafSliceSession, 1, **OPTIONS)
    assert deaf["disobeyed"].tolist() == [5] and deaf["total_clicks"].tolist() == [5]


class AmbiguousSession(CubeSession):
    """Reads every click as a cube of 5 x 5 x 5 voxels, or as the row of nine of them that the spleen is."""

    @property
    def readings(self) -> tuple[Reading, ...]:
        row = np.zeros_like(self.mask)
        row[12:21, 2:7, 2:7] = True
        return tuple(Reading.of(PackedMask.of(mask), self.volume) for mask in (self.mask, row))


def test_the_first_prompt_has_the_score_of_its_best_reading_beside_that_of_the_answer():
    options = OPTIONS | {"targets": ["liver", "spleen"]}
    results = evaluate([memory_case()], AmbiguousSession, 2, **options).set_index(["target", "click"])
    assert results.loc[("liver", 1), "dsc"] == results.loc[("liver", 1), "best_of_three_dsc"] == 1
    assert results.loc[("spleen", 1), "dsc"] < 0.75 and results.loc[("spleen", 1), "best_of_three_dsc"] == 1
    assert results["best_of_three_dsc"].isna().tolist() == [False, True, False, True]
    plain = evaluate([memory_case()], CubeSession, 1, **options)
    np.testing.assert_array_equal(plain["best_of_three_dsc"], plain["dsc"])
    summary = summarise(results.reset_index(), (1, 2)).set_index("click")
    assert summary["best_of_three_dsc"].tolist() == [1, pytest.approx(np.nan, nan_ok=True)]
    older = results.reset_index().drop(columns="best_of_three_dsc")
    assert summarise(older, (1,))["best_of_three_dsc"].isna().all()


class DeafSliceSession(SquareSession):
    """Draws nothing."""

    def click_slices(self, clicks) -> np.ndarray:
        return self.mask


@pytest.mark.parametrize("kind", ["click", "scribble", "box", "box3d", "lasso", "mask"])
def test_sessions_without_a_network_take_every_kind_and_obey(kind):
    options = {"targets": ["liver", "lesion_01"], "rules": BASELINES, "progress": False}
    results = evaluate([memory_case()], None, 3, prompt=kind, **options)
    assert results["error"].isna().all() and (results["disobeyed"].dropna() == 0).all()
    last = results[results["click"] == 3].set_index(["model", "target"])["dsc"]
    assert (last["SUV>=2.5"] > 0.85).all()


def test_a_kind_that_a_model_does_not_take_is_a_failure_that_says_so():
    results = evaluate([memory_case()], CubeSession, 2, prompt="lasso", **OPTIONS)
    assert results["dsc"].isna().all() and results["error"].str.contains("add").all()


def test_other_prompts_are_another_protocol_in_summaries_and_in_files(tmp_path):
    path, options = tmp_path / "results.csv", OPTIONS | {"rules": BASELINES[:1]}
    boxes = evaluate([memory_case()], None, 1, prompt="box", output=path, **options)
    assert summarise(boxes)["protocol"].tolist() == ["box, largest_error"]
    with pytest.raises(SegAnyPETError, match="made with first_prompt box; now asked for is first_prompt lasso"):
        evaluate([memory_case()], None, 1, prompt="lasso", output=path, **options)


def test_a_simulated_mask_repeats_with_its_seed():
    def scores(seed):
        return evaluate([memory_case()], FillingSession, 1, prompt="mask", seed=seed, **OPTIONS)["dsc"].tolist()

    assert scores(1) == scores(1) != scores(2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": "polygon"}, "prompt='polygon'.*expected prompt to be one of .*'box3d'"),
        ({"correction": "box"}, "correction='box'.*correction one of"),
        ({"prompt": "box", "protocol": "release"}, "the protocol 'release' knows nothing but clicks"),
        ({"prompt": "box", "first": "random"}, "only clicks are made at random"),
        ({"prompt": "scribble", "then": "random_error"}, "only clicks are made at random"),
    ],
)
def test_protocols_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(SegAnyPETError, match=message):
        ClickProtocol(**arguments)


def test_a_report_says_what_kind_each_prompt_was(tmp_path):
    session = ThresholdSession(memory_case().pet, "SUV>=2.5")
    session.box((11, 1, 1), (21, 7, 7))
    session.click(ijk=(16, 4, 4))
    session.scribble([(12, 2, 2), (12, 6, 2)], foreground=False)
    page = write_report(tmp_path / "page.html", session).read_text()
    assert all(words in page for words in ("foreground box", "background scribble", "<td>foreground</td>"))
