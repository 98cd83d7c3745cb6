"""Annotation goes on where it was left, tells whose labels are whose, and writes what training reads."""

import csv
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, oblique
from threshold_network import ThresholdNetwork

from seganypet.cohort import annotation as annotation_module
from seganypet.cohort.annotation import Annotation, CaseProgress
from seganypet.cohort.case import Case
from seganypet.cohort.cohort import Cohort
from seganypet.errors import AnnotationError, ClickError, CohortError, JournalError
from seganypet.model.checkpoints import load_model
from seganypet.organs import ORGANS
from seganypet.pet.mask_files import load_masks
from seganypet.pet.volume import Volume, load_labels, save_mask, save_volume
from seganypet.prompting.proposal import Proposal

AFFINE = oblique((4.07, 4.07, 3.0), left_handed=True)
SHAPE = (28, 28, 34)
LIVER, SPLEEN, LESION = BALLS_IJK = ((7, 7, 8), (7, 20, 25), (20, 8, 25))


class Clock:
    """Seconds that pass only when a test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Killed(BaseException):
    """The process ends here."""


def ball(ijk, radius_mm=16.0):
    mm = (np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1) - ijk) @ AFFINE[:3, :3].T
    return np.linalg.norm(mm, axis=-1) <= radius_mm


def pet_of(hot):
    return Volume(np.where(np.any([ball(ijk) for ijk in BALLS_IJK], 0), hot, 0.5), AFFINE, "SUVbw")


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    """Table of a (liver, spleen and a lesion drawn, with CT), b (nothing drawn) and c (a lesion drawn)."""
    folder = tmp_path_factory.mktemp("scans")
    for name, hot in (("a", 8.0), ("b", 9.0), ("c", 10.0)):
        save_volume(folder / f"{name}.nii.gz", pet_of(hot))
    save_volume(folder / "a_ct.nii.gz", Volume(np.zeros(SHAPE), AFFINE, "HU"))
    save_mask(folder / "organs.nii.gz", 1 * ball(LIVER) + 5 * ball(SPLEEN), like=pet_of(8.0))
    save_mask(folder / "lesions.nii.gz", ball(LESION), like=pet_of(8.0))
    Cohort(
        [
            Case("a", "p1", folder / "a.nii.gz", "SUVbw", ct=folder / "a_ct.nii.gz", organs=folder / "organs.nii.gz",
                 organ_convention="seganypet", lesions=folder / "lesions.nii.gz", quality="HQ", split="train",
                 tracer="FDG"),
            Case("b", "p2", folder / "b.nii.gz", "SUVbw", split="train"),
            Case("c", "p3", folder / "c.nii.gz", "SUVbw", lesions=folder / "lesions.nii.gz", split="test"),
        ]
    ).to_csv(folder / "cohort.csv")  # fmt: skip
    return folder / "cohort.csv"


@pytest.fixture(scope="module")
def cohort(scans) -> Cohort:
    return Cohort.from_csv(scans)


@pytest.fixture
def start(cohort, tmp_path):
    """Opens the junior's folder, as if in a new process; arguments change what is opened."""

    def begin(cohort=cohort, folder=tmp_path / "junior", network=None, annotator="Junior", **arguments):
        return Annotation(cohort, network or network_of(), folder, annotator=annotator, **arguments)

    return begin


def network_of():
    return ThresholdNetwork(spacing_mm=3.0)


def proposed(volume, organs, masks):
    """A proposal with these masks."""
    labels = np.zeros(volume.shape, np.uint8)
    for name, mask in masks.items():
        labels[mask] = ORGANS.index(name) + 1
    names = {ORGANS.index(name) + 1: name for name in masks}
    confidence = {name: 0.875 for name in masks}
    return Proposal(volume, labels, names, confidence, tuple({*organs} - {*masks}), "proposed by a test")


@pytest.fixture(autouse=True)
def nothing_is_proposed(monkeypatch):
    """Without a click nothing is seen in scans of balls; tests that want more say what."""
    monkeypatch.setattr(annotation_module, "propose", lambda volume, organs: proposed(volume, organs, {}))


def masks_of(session):
    return {name: mask.tobytes() for name, mask in session.masks.items()}


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


# ---- what a case starts from


def test_the_model_proposes_each_wanted_target_that_is_labelled_and_present(start):
    annotation = start()
    session = annotation.open()
    assert annotation.case.name == "a" and session.volume.source.endswith("a.nii.gz")
    assert session.objects == ("liver", "spleen", "lesion_01")
    assert annotation.proposal == "model: liver, spleen, lesion_01"
    for name, centre in zip(session.objects, BALLS_IJK, strict=True):
        assert dice(session.mask_of(name), ball(centre)) > 0.8
    few = start(targets=["spleen", "lesions"], folder=annotation.folder.parent / "few")
    assert few.open().objects == ("spleen", "lesions")


def test_a_case_without_labels_starts_from_nothing(start):
    annotation = start()
    assert annotation.open("b").objects == () and annotation.proposal == "nothing"
    assert start(targets=["liver"], folder=annotation.folder.parent / "liver").open("c").objects == ()


def test_a_case_whose_organs_nobody_drew_starts_from_what_is_proposed_without_a_click(start, monkeypatch):
    asked = []

    def liver_alone(volume, organs):
        asked.append(organs)
        return proposed(volume, organs, {"liver": ball(LIVER)})

    monkeypatch.setattr(annotation_module, "propose", liver_alone)
    annotation = start(targets=["liver", "spleen", "lesion"])
    session = annotation.open("c")
    assert session.objects == ("lesion_01", "liver") and asked == [["liver", "spleen"]]
    assert np.array_equal(session.mask_of("liver"), ball(LIVER))
    said = "model: lesion_01; proposed by a test: liver (DSC to expect 0.88)"
    assert annotation.proposal == said
    assert annotation.progress.set_index("case").loc["c", ["clicks", "proposed_clicks"]].tolist() == [0, 2]
    again = start(targets=["liver", "spleen", "lesion"])  # a new process continues, and proposes nothing anew
    assert masks_of(again.open("c")) == masks_of(session) and len(asked) == 1
    again.finish()
    assert rows_of(again.folder / "annotations.csv")[0]["started_from"] == said


def test_organs_that_are_drawn_are_not_proposed_and_lesions_ask_for_none(start, tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("asked for a proposal")

    monkeypatch.setattr(annotation_module, "propose", never)
    assert start().open("a").objects == ("liver", "spleen", "lesion_01")
    assert start(targets=["lesion"], folder=tmp_path / "lesions").open("c").objects == ("lesion_01",)


def test_a_proposal_that_fails_costs_nothing_else(start, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(annotation_module, "propose", fails)
    annotation = start()
    assert annotation.open("c").objects == ("lesion_01",)
    assert annotation.proposal == "model: lesion_01; failed: organs (RuntimeError: out of memory)"


def test_a_target_whose_proposal_fails_is_named_and_the_others_are_drawn(start):
    class OnceOutOfMemory(ThresholdNetwork):
        def decode(self, *arguments):
            self.fails = self.calls["decode"] == 0
            return super().decode(*arguments)

    annotation = start(network=OnceOutOfMemory(spacing_mm=3.0))
    assert annotation.open().objects == ("spleen", "lesion_01")
    assert annotation.proposal == "model: spleen, lesion_01; failed: liver (RuntimeError: out of memory)"
    annotation.finish()
    (row,) = rows_of(annotation.folder / "annotations.csv")
    assert row["started_from"] == annotation.proposal


def test_a_target_in_which_the_model_sees_nothing_is_named(start, cohort, tmp_path):
    cold = np.zeros(SHAPE, np.uint8)
    cold[24:, 24:, 4:8] = 5
    save_mask(tmp_path / "organs.nii.gz", cold, like=pet_of(8.0))
    annotation = start(Cohort([replace(cohort["a"], organs=tmp_path / "organs.nii.gz")]))
    assert annotation.open().objects == ("spleen", "lesion_01")
    assert annotation.proposal.startswith("model: lesion_01; failed: spleen (threshold sees nothing here")


def test_labels_that_cannot_be_used_are_named_and_the_case_opens(start, cohort, tmp_path):
    save_mask(tmp_path / "organs.nii.gz", np.ones((4, 4, 4), bool), like=Volume(np.zeros((4, 4, 4)), AFFINE, "HU"))
    annotation = start(Cohort([replace(cohort["a"], organs=tmp_path / "organs.nii.gz")]))
    assert annotation.open().objects == ("lesion_01",)
    assert "model: lesion_01; failed: " in annotation.proposal and "do not lie on the grid" in annotation.proposal


# ---- nothing is lost


def test_whenever_the_process_ends_the_same_clicks_masks_and_minutes_come_back(start):
    clock = Clock()
    annotation = start(clock=clock)
    session = annotation.open()
    steps = (
        lambda session: None,
        lambda session: session.click(ijk=LESION, foreground=False),
        lambda session: session.select("lesion 2"),
        lambda session: session.click(ijk=SPLEEN),
        lambda session: session.rename("lesion 2", "lesion 3"),
        lambda session: session.undo(),
        lambda session: session.click(ijk=(8, 20, 25)),
        lambda session: session.remove("spleen"),
    )
    for step in steps:
        clock.now += 10
        step(session)
        before = session.journal().clicks, masks_of(session), session.active
        seconds, proposal = annotation.stopwatch.seconds, annotation.proposal
        clock.now += 1000  # between two processes nobody works
        annotation = start(clock=clock)  # the old object is left as a killed process leaves it
        session = annotation.open()
        assert (session.journal().clicks, masks_of(session), session.active) == before
        assert annotation.stopwatch.seconds == pytest.approx(seconds) and annotation.proposal == proposal
    assert annotation.stopwatch.seconds == pytest.approx(10.0 * (len(steps) - 1))  # the first step changed nothing


def test_a_process_that_is_killed_while_it_writes_loses_only_the_click_it_was_writing(scans, start):
    script = """
import os, sys
from pathlib import Path
from seganypet.cohort.annotation import Annotation
from seganypet.cohort.cohort import Cohort
from threshold_network import ThresholdNetwork
annotation = Annotation(Cohort.from_csv(sys.argv[1]), ThresholdNetwork(spacing_mm=3.0), sys.argv[2], annotator="Junior")
session = annotation.open("b")
session.select("liver")
session.click(ijk=(7, 7, 8))
session.select("spleen")
session.click(ijk=(7, 20, 25))
os.fsync = lambda handle: os._exit(9)
session.click(ijk=(20, 8, 25))
"""
    folder = start().folder
    ended = subprocess.run([sys.executable, "-c", script, scans, folder], cwd=REPOSITORY / "tests", timeout=120)
    assert ended.returncode == 9
    session = start().open("b")
    assert [(name, click.ijk) for name, click in session.journal().clicks] == [("liver", LIVER), ("spleen", SPLEEN)]


def deadly(monkeypatch, action, writes):
    """Do something in a process that dies at its write number `writes` (from 0); True if it dies."""
    really, left = os.fsync, iter(range(writes))

    def fsync(handle):
        if next(left, None) is None:
            raise Killed
        really(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        try:
            action()
        except Killed:
            return True
    return False


def test_a_case_whose_opening_dies_at_any_write_is_opened_as_if_it_were_new(start, tmp_path, monkeypatch):
    deaths = 0
    while deadly(monkeypatch, start(folder=tmp_path / f"{deaths}").open, deaths):
        again = start(folder=tmp_path / f"{deaths}", targets=["liver", "spleen"])
        assert again.open().objects == ("liver", "spleen") and again.proposal == "model: liver, spleen"
        assert again.progress.loc[0, ["state", "clicks", "proposed_clicks"]].tolist() == ["open", 0, 2]
        deaths += 1
    assert deaths == 2  # progress, clicks


@pytest.mark.parametrize("reopened", [False, True], ids=["first time", "reopened"])
def test_finish_may_die_at_any_write_and_be_done_again(start, tmp_path, monkeypatch, reopened):
    whole = start(folder=tmp_path / "whole")
    whole.open()
    whole.finish()
    deaths, dies = 0, True
    while dies:
        annotation = start(folder=tmp_path / f"{deaths}")
        annotation.open()
        if reopened:
            annotation.finish()
            annotation.reopen("a")
        dies = deadly(monkeypatch, annotation.finish, deaths)
        deaths += dies
        again = start(folder=annotation.folder)
        if "a" in again.remaining:
            assert again.open().objects == ("liver", "spleen", "lesion_01")
            again.finish()
        found, expected = contents(again.folder), contents(whole.folder)
        assert found.keys() == expected.keys() and found["cohort.csv"] == expected["cohort.csv"]
        for file in ("a/mask.nii.gz", "a/lesions.nii.gz"):
            maps = (load_labels(one.folder / file, pet_of(8.0)) for one in (again, whole))
            np.testing.assert_array_equal(*maps)
    assert deaths == 7  # progress, clicks, two masks, progress, two tables


def test_a_failing_disk_is_said_and_the_next_click_saves_all(start, monkeypatch):
    annotation = start()
    session = annotation.open("b")
    session.click(ijk=LIVER)

    def full(path):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(annotation_module, "replace_atomically", full)
        with pytest.raises(OSError, match="No space left"):
            session.click(ijk=SPLEEN)
        with pytest.raises(OSError, match="No space left"):
            annotation.finish()
    assert len(start().open("b").clicks) == 1
    annotation.session.click(ijk=LESION)
    assert [click.ijk for click in start().open("b").clicks] == [LIVER, SPLEEN, LESION]


def test_clicks_that_other_weights_would_draw_otherwise_are_refused_and_kept(start):
    start().open().click(ijk=LIVER)
    before = contents(start().folder)
    other = network_of()
    other.threshold.data = torch.tensor(2.0)
    annotation = start(network=other)
    with pytest.raises(JournalError, match="other weights"):
        annotation.open()
    assert annotation.session is None and contents(annotation.folder) == before


@pytest.mark.parametrize("text", ['{"annotator": "Jun', "[]", "{}", '{"annotator": 3}', "\udcff"])
def test_a_damaged_progress_is_named_and_not_overwritten(start, text):
    annotation = start()
    annotation.open().click(ijk=LIVER)
    path = annotation.folder / "a" / "progress.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    before = contents(annotation.folder)
    with pytest.raises(AnnotationError, match=r"a/progress.json: not a readable progress .* delete it: the clicks"):
        start()
    with pytest.raises(AnnotationError, match="not a readable progress"):
        annotation.session.click(ijk=SPLEEN)
    assert contents(annotation.folder) == before
    path.unlink()
    again = start()
    assert again.open().clicks == annotation.session.clicks[:2] and "progress.json was lost" in again.proposal


@pytest.mark.parametrize(
    "change",
    [{"state": "finished"}, {"minutes": float("nan")}, {"minutes": -1.0}, {"clicks": "3"}, {"proposed": [[1, 2]]},
     {"more": 1}],
)  # fmt: skip
def test_a_progress_with_impossible_values_is_damaged(start, change):
    annotation = start()
    annotation.open()
    path = annotation.folder / "a" / "progress.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(AnnotationError, match="not a readable progress"):
        CaseProgress.load(path)


# ---- minutes and clicks


def test_minutes_count_a_pause_for_no_more_than_one_and_run_on_after_a_break(start):
    clock = Clock()
    annotation = start(clock=clock)
    session = annotation.open("b")
    for pause_s, ijk in ((20, LIVER), (3600, SPLEEN), (40, LESION)):
        clock.now += pause_s
        session.click(ijk=ijk)
    assert annotation.progress["minutes"].tolist() == pytest.approx([0, (20 + 60 + 40) / 60, 0])
    clock.now += 86400
    annotation = start(clock=clock)
    annotation.open("b")
    clock.now += 30
    annotation.stopwatch.tick()  # looked at a slice
    clock.now += 45
    annotation.finish()
    assert rows_of(annotation.folder / "annotations.csv")[0]["minutes"] == f"{(120 + 75) / 60}"


def test_the_time_that_the_model_takes_to_propose_is_not_the_annotators(start):
    clock = Clock()

    class Slow(ThresholdNetwork):
        def decode(self, *arguments):
            clock.now += 30
            return super().decode(*arguments)

    annotation = start(network=Slow(spacing_mm=3.0), clock=clock)
    annotation.open()
    assert annotation.stopwatch.seconds == 0


def test_own_clicks_are_told_from_proposed_ones(start):
    annotation = start()
    session = annotation.open()

    def counts():
        return tuple(annotation.progress.set_index("case").loc["a", ["clicks", "proposed_clicks"]])

    assert counts() == (0, 3)
    session.rename("lesion_01", "lesion left")
    session.click(ijk=(8, 7, 8))
    assert counts() == (1, 3)
    session.click(ijk=session.clicks_of("spleen")[0].ijk)  # where the model's click was, once more
    assert counts() == (2, 3)
    session.undo()
    session.remove("liver")
    assert counts() == (1, 3)
    annotation = start()
    annotation.open()
    assert counts() == (1, 3)


def test_a_progress_that_lists_proposed_clicks_without_field_names_is_still_read(start):
    annotation = start()
    annotation.open().click(ijk=(8, 7, 8))
    path = annotation.folder / "a" / "progress.json"
    content = json.loads(path.read_text())
    proposed = content["proposed"]
    path.write_text(json.dumps(content | {"proposed": [[*one["ijk"], one["foreground"]] for one in proposed]}))
    assert CaseProgress.load(path).proposed == proposed and len(proposed) == 3
    again = start()
    again.open()
    assert again.progress.set_index("case").loc["a", ["clicks", "proposed_clicks"]].tolist() == [1, 3]


# ---- done


def test_a_done_case_reloads_on_the_grid_of_its_pet_with_labels_that_mean_what_was_drawn(start, cohort):
    annotation = start()
    session = annotation.open()
    session.select("kidney_left")
    session.click(ijk=LESION)
    session.select("second lesion")
    session.click(ijk=LIVER)
    masks = session.masks
    annotation.finish()
    again = Cohort.from_csv(annotation.folder / "cohort.csv")
    assert len(again) == 1 and again["a"].organ_convention == "seganypet"
    assert (again["a"].quality, again["a"].split, again["a"].tracer) == ("LQ", "train", "FDG")
    assert again["a"].pet.samefile(cohort["a"].pet) and again["a"].ct.samefile(cohort["a"].ct)
    pet = again["a"].load_pet()
    organs = load_labels(again["a"].organs, like=pet)
    lesions = load_labels(again["a"].lesions, like=pet)
    assert set(np.unique(organs)) == {0, 1, 2, 5} and set(np.unique(lesions)) == {0, 1, 2}
    targets = dict(again["a"].targets(pet, only=["liver", "spleen", "kidney_left", "lesions"]))
    for name in ("liver", "spleen", "kidney_left"):
        np.testing.assert_array_equal(targets[name], masks[name])
    np.testing.assert_array_equal(targets["lesions"], masks["lesion_01"] | masks["second lesion"])
    np.testing.assert_array_equal(lesions == 2, masks["second lesion"])


def test_cases_go_by_in_order_until_all_are_done(start):
    annotation = start()
    assert annotation.remaining == ("a", "b", "c")
    annotation.next()
    assert annotation.next().objects == () and annotation.case.name == "b"  # a is skipped, not done
    annotation.session.select("liver")
    annotation.session.click(ijk=LIVER)
    annotation.finish()
    assert annotation.next().objects == ("lesion_01",) and annotation.case.name == "c"
    annotation.finish()
    assert annotation.remaining == ("a",)
    assert annotation.progress["state"].tolist() == ["open", "done", "done"]
    again = start()
    assert again.progress.equals(annotation.progress)
    again.next()
    assert again.case.name == "a"
    again.finish()
    with pytest.raises(AnnotationError, match="all 3 cases are done; reopen"):
        again.next()
    with pytest.raises(AnnotationError, match="no case is open"):
        again.finish()
    with pytest.raises(CohortError, match="no case 'z'"):
        again.open("z")
    assert [case.name for case in Cohort.from_csv(again.folder / "cohort.csv")] == ["a", "b", "c"]
    rows = rows_of(again.folder / "annotations.csv")
    seen = [[row[key] for key in ("case", "annotator", "quality", "clicks", "proposed_clicks")] for row in rows]
    assert seen == [["a", "Junior", "LQ", "0", "3"], ["b", "Junior", "LQ", "1", "0"], ["c", "Junior", "LQ", "0", "1"]]


def test_a_done_case_is_changed_only_when_it_is_reopened(start):
    annotation = start()
    session = annotation.open()
    annotation.finish()
    before = contents(annotation.folder)
    with pytest.raises(AnnotationError, match=r"a is done; reopen\('a'\)"):
        annotation.open("a")
    with pytest.raises(AnnotationError, match="a.nii.gz: this session was closed .* reopen"):
        session.click(ijk=LIVER)
    assert contents(annotation.folder) == before
    again = annotation.reopen("a")
    assert again.objects == ("liver", "spleen", "lesion_01") and "a" in annotation.remaining
    assert not (annotation.folder / "cohort.csv").exists() and rows_of(annotation.folder / "annotations.csv") == []
    again.remove("lesion_01")
    annotation.finish()
    case = Cohort.from_csv(annotation.folder / "cohort.csv")["a"]
    assert not load_labels(case.lesions, case.load_pet()).any()


def test_a_map_of_what_nobody_looked_for_is_not_written(start):
    annotation = start(targets=["liver"])
    annotation.open()
    annotation.finish()
    case = Cohort.from_csv(annotation.folder / "cohort.csv")["a"]
    assert case.organs is not None and case.lesions is None
    lesions_only = start(targets=["lesion"], folder=annotation.folder.parent / "lesions")
    session = lesions_only.open()
    session.select("liver")
    session.click(ijk=LIVER)
    lesions_only.finish()
    case = Cohort.from_csv(lesions_only.folder / "cohort.csv")["a"]
    assert case.organs is not None and case.lesions is not None  # what was drawn nevertheless is kept
    lesions_only.reopen("a").remove("liver")
    lesions_only.finish()
    case = Cohort.from_csv(lesions_only.folder / "cohort.csv")["a"]
    assert case.organs is None and case.organ_convention is None
    assert not (lesions_only.folder / "a" / "mask.nii.gz").exists()


@pytest.mark.parametrize("name", ["Liver", "livre", "left kidney", "lung", "liver met", "Lesion of the liver"])
def test_an_organ_that_is_spelt_otherwise_does_not_become_a_lesion(start, name):
    annotation = start()
    session = annotation.open("b")
    session.select(name)
    session.click(ijk=LIVER)
    with pytest.raises(AnnotationError, match=f"case b: object '{name}' would be saved as a lesion.*rename"):
        annotation.finish()
    assert annotation.remaining[1] == "b"
    session.rename(name, "lesion in the liver")
    annotation.finish()
    assert annotation.remaining == ("a", "c")


def test_a_nameless_object_is_no_lesion_where_only_organs_are_wanted(start):
    annotation = start(targets=["liver"])
    annotation.open("b").click(ijk=LIVER)
    with pytest.raises(AnnotationError, match="'object 1' .*rename it to one of liver, .*'lesion' among the targets"):
        annotation.finish()


def test_a_part_of_the_cohort_may_be_done_on_its_own(start, cohort):
    for split in ("train", "test"):
        annotation = start(cohort.filter(split=split))
        while annotation.remaining:
            annotation.open()
            annotation.finish()
    assert {case.name for case in Cohort.from_csv(annotation.folder / "cohort.csv")} == {"a", "b", "c"}
    assert [row["case"] for row in rows_of(annotation.folder / "annotations.csv")] == ["a", "b", "c"]


# ---- who did what


def test_a_senior_refines_what_the_junior_drew(start, tmp_path):
    junior = start()
    session = junior.open()
    session.select("kidney_left")
    session.click(ijk=LESION)
    junior.finish()
    junior.open("b").click(ijk=LIVER)  # and is not done with it
    theirs = session.journal().clicks
    before = contents(junior.folder)
    senior = start(folder=tmp_path / "senior", annotator="Senior", refine=junior.folder)
    session = senior.open()
    assert session.journal().clicks == theirs and senior.proposal == "refines Junior (LQ)"
    session.click(ijk=LESION, foreground=False)
    assert session.journal().clicks[: len(theirs)] == theirs
    senior.finish()
    case = Cohort.from_csv(senior.folder / "cohort.csv")["a"]
    assert case.quality == "HQ" and not (load_labels(case.organs, case.load_pet()) == 2).any()
    (row,) = rows_of(senior.folder / "annotations.csv")
    assert (row["annotator"], row["quality"], row["clicks"], row["proposed_clicks"]) == ("Senior", "HQ", "1", "4")
    assert senior.open("b").objects == ()
    assert senior.proposal == "nothing; not done in junior, so not refined"
    assert contents(junior.folder) == before


def test_the_juniors_table_is_a_cohort_to_refine(start, tmp_path):
    junior = start()
    junior.open("c")
    junior.finish()
    drawn = Cohort.from_csv(junior.folder / "cohort.csv")
    senior = start(drawn, folder=tmp_path / "senior", annotator="Senior", refine=junior.folder)
    assert senior.remaining == ("c",)
    senior.open()
    senior.finish()
    assert [case.quality for case in (drawn["c"], Cohort.from_csv(senior.folder / "cohort.csv")["c"])] == ["LQ", "HQ"]


def test_a_folder_of_somebody_else_is_refused(start, tmp_path):
    junior = start()
    junior.open()
    before = contents(junior.folder)
    with pytest.raises(AnnotationError, match=r"junior: case a was annotated by Junior \(LQ\), not by Senior \(LQ\);.*"
                       "Choose another folder.*refine="):  # fmt: skip
        start(annotator="Senior")
    with pytest.raises(AnnotationError, match=r"Junior \(LQ\), not by Junior \(HQ\)"):
        start(quality="HQ")
    # Both began with an empty folder: the second is refused when it comes to a case of the first.
    one, two = (start(folder=tmp_path / "race", annotator=name) for name in ("one", "two"))
    one.open()
    with pytest.raises(AnnotationError, match="annotated by one"):
        two.open()
    assert contents(junior.folder) == before


def test_a_table_that_no_annotation_wrote_is_not_overwritten(start, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "cohort.csv").write_text("case,patient\n")
    with pytest.raises(AnnotationError, match="cohort.csv that no annotation wrote.*choose another folder"):
        start(folder=tmp_path / "mine")
    assert (tmp_path / "mine" / "cohort.csv").read_text() == "case,patient\n"


def test_a_second_notebook_on_the_same_case_does_not_overwrite_the_first(start):
    clock = Clock()
    first, second = start(clock=clock), start(clock=clock)
    late = second.open()
    session = first.open()
    clock.now += 5
    session.click(ijk=LIVER)
    before = contents(first.folder)
    with pytest.raises(AnnotationError, match="a/progress.json: changed by another process.*second notebook"):
        late.click(ijk=SPLEEN)
    assert contents(first.folder) == before
    assert Counter(second.open().journal().clicks) == Counter(session.journal().clicks)


@pytest.mark.parametrize(
    "name", ["../b", "a/b", "..", ".", ".hidden", "a\\b", "C:", "end.", "cohort.csv", "Annotations.CSV"]
)
def test_names_that_are_no_folder_are_refused_before_anything_is_written(start, cohort, name):
    with pytest.raises(AnnotationError, match="cannot have a folder of that name.*Rename it in the cohort table"):
        start(Cohort([cohort["a"], replace(cohort["b"], name=name)]))
    assert not start().folder.exists()


def test_a_network_for_slices_is_refused_before_anything_is_written(cohort, tmp_path):
    with pytest.raises(AnnotationError, match="tiny-2d cannot propose in 3D"):
        Annotation(cohort, load_model("tiny-2d"), tmp_path / "new", annotator="J. Junior")
    assert not (tmp_path / "new").exists()


def test_names_that_differ_in_capitals_only_are_refused_and_usual_ones_are_not(start, cohort):
    with pytest.raises(AnnotationError, match="'A' cannot have .*clashes with another name"):
        start(Cohort([cohort["a"], replace(cohort["b"], name="A")]))
    for name in ("PETCT_0a_03-23-2003-NA-PET-CT Ganzkörper (KM) 1.5", "fdg_0a1b_2004"):
        annotation = start(Cohort([replace(cohort["b"], name=name)]))
        annotation.open()
        annotation.finish()
        assert name in {case.name for case in Cohort.from_csv(annotation.folder / "cohort.csv")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"annotator": " "}, "annotator=' '; expected the name"),
        ({"quality": "good"}, "quality='good'; expected one of HQ, LQ"),
        ({"targets": ["livr"]}, r"targets=\['livr'\]; expected a list of some of liver, "),
        ({"targets": "liver"}, "targets='liver'"),
        ({"targets": []}, "targets="),
        ({"refine": "nowhere"}, "refine=nowhere: no <case>/progress.json"),
    ],
)
def test_each_argument_that_makes_no_sense_is_named(start, arguments, message):
    with pytest.raises(AnnotationError, match=message):
        start(**arguments)
    assert set(ORGANS) < set(start().targets)


def test_a_folder_that_cannot_be_made_is_named(start, tmp_path):
    (tmp_path / "file").write_text("")
    annotation = start(folder=tmp_path / "file")
    with pytest.raises(AnnotationError, match="file"):
        annotation.open()


def test_a_refused_click_costs_nothing(start):
    clock = Clock()
    annotation = start(clock=clock)
    session = annotation.open("b")
    before = contents(annotation.folder)
    clock.now += 10
    with pytest.raises(ClickError):
        session.click(ijk=(99, 0, 0))
    assert contents(annotation.folder) == before


def test_organs_that_overlap_keep_all_their_voxels_beside_the_label_map(start):
    work = start(targets=["liver", "spleen"])
    session = work.open("b")
    drawn = {"liver": ball(LIVER), "spleen": ball(LIVER, 8.0)}
    for name, mask in drawn.items():
        session.select(name)
        session.start_from(mask)
    work.finish()
    labels = load_labels(work.folder / "b" / "mask.nii.gz", like=session.volume)
    assert (labels == 1).sum() == (drawn["liver"] & ~drawn["spleen"]).sum()  # a label map holds one of the two
    kept = load_masks(work.folder / "b" / "objects.seg.nrrd", like=session.volume)
    assert kept.keys() == drawn.keys() and all(np.array_equal(kept[name], drawn[name]) for name in drawn)
    session = work.reopen("b")
    session.remove("spleen")
    work.finish()
    assert not (work.folder / "b" / "objects.seg.nrrd").exists()
