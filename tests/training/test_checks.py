"""What a configuration asks for and its cohort does not have, before any window is cut."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import REPOSITORY

from seganypet.cli import main
from seganypet.cohort.cohort import Cohort
from seganypet.errors import CohortError, SegAnyPETError
from seganypet.training.checks import problems_of
from seganypet.training.config import DataConfig, TrainConfig
from seganypet.training.loop import train


def config(folder: Path, splits: str, qualities: str = "", **options) -> TrainConfig:
    """A run on the three sample scans, with the first letters of their splits and qualities."""
    names = {"t": "train", "v": "val", "H": "HQ", "L": "LQ", "-": None}
    cases = [
        replace(case, split=names[split], quality=names[quality])
        for case, split, quality in zip(samples(), splits, qualities or "---", strict=True)
    ]
    Cohort(cases).to_csv(folder / "cohort.csv")
    return TrainConfig("run", data=DataConfig(cohort=str(folder / "cohort.csv"), lq=0), **options)


def samples() -> Cohort:
    return Cohort.from_csv(REPOSITORY / "data_samples" / "cohort.csv")


@pytest.mark.parametrize(("splits", "qualities", "options", "expected"), [
    ("ttv", "HHH", {}, []),
    ("--v", "HHH", {}, ["error: .* has no case of split 'train'"]),
    ("ttv", "H--", {"lq_per_batch": 4}, ["error: lq_per_batch is 4, but none of 2 cases .* Cohort.with_quality"]),
    ("ttv", "LLH", {"lq_per_batch": 4}, ["error: lq_per_batch is 4 of batch_size 6, but all 2 cases"]),
    ("ttv", "LHH", {}, ["warning: 1 cases of quality LQ are not used"]),
    ("ttt", "HHH", {}, ["warning: .* no case of split 'val'"]),
])  # fmt: skip
def test_splits_and_qualities_are_held_against_the_config(tmp_path, splits, qualities, options, expected):
    asked = config(tmp_path, splits, qualities, **options)
    found = [f"{severity}: {text}" for severity, text in problems_of(asked, voxels=False)]
    assert len(found) == len(expected)
    assert all(re.search(pattern, sentence) for sentence, pattern in zip(found, expected, strict=True)), found


def test_targets_that_no_case_has_are_named(tmp_path):
    asked = config(tmp_path, "ttv", "HHH")
    assert not [text for severity, text in problems_of(asked) if severity == "error"]


def test_a_configuration_without_a_cohort_is_sound():
    assert problems_of(TrainConfig("run")) == []
    assert main(["check", str(REPOSITORY / "seganypet" / "configs" / "tiny.yaml")]) == 0


def test_quality_is_given_to_all_or_by_name():
    cohort = samples()
    first, *others = [case.name for case in cohort]
    assert {case.quality for case in cohort.with_quality("HQ")} == {"HQ"}
    marked = cohort.with_quality("HQ").with_quality({first: "LQ"})
    assert [case.quality for case in marked] == ["LQ", *["HQ"] * len(others)]
    with pytest.raises(CohortError, match="neither a case nor a patient nobody"):
        cohort.with_quality({"nobody": "LQ"})
    with pytest.raises(CohortError, match="quality='good'"):
        cohort.with_quality("good")


def test_a_faulty_cohort_is_refused_before_weights_are_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr("seganypet.training.start.load_model", lambda *_, **__: pytest.fail("fetched weights"))
    asked = config(tmp_path, "tt-", "HHH", init="sam-med3d", lq_per_batch=4)
    with pytest.raises(SegAnyPETError, match="lq_per_batch is 4, but no case of split 'train'"):
        train(asked, tmp_path / "runs", device="cpu", progress=False)
    missing = replace(asked, data=replace(asked.data, cohort=str(tmp_path / "none.csv")))
    with pytest.raises(SegAnyPETError, match=r"none\.csv: no such cohort"):
        train(missing, tmp_path / "runs", device="cpu", progress=False)


@pytest.mark.parametrize("command", ["train", "check"])
def test_a_mistyped_configuration_is_told_which_there_are(command, capsys):
    assert main([command, "suplement"]) == 2
    assert "suplement: no such file, nor a configuration of the package, which are supplement, tiny" in (
        capsys.readouterr().err
    )
