"""A resumed training learns from the cases and windows that it began with, or says which are others."""

import copy
import shutil
from dataclasses import replace

import numpy as np
import pytest
from test_loop import CONFIG, DATA, MODEL, SAMPLES, cohort_config

from seganypet.errors import CheckpointError, SegAnyPETError
from seganypet.pet.volume import load_labels, load_volume, save_mask
from seganypet.training import samples, scans
from seganypet.training.loop import train
from seganypet.training.provenance import cases_of, check_same_data, data_of_run, window_statistics
from seganypet.training.samples import TrainingSamples
from seganypet.training.scans import ScanBank

NAMES = ("phantom_internal_9000", "phantom_internal_9005")


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    bank = ScanBank(DATA, tmp_path_factory.mktemp("bank") / "scans")
    bank.fill(1, progress=False)
    return bank


def now(bank):
    return data_of_run(bank, TrainingSamples(CONFIG, MODEL, bank))


def test_a_run_does_not_resume_on_corrected_labels_and_names_the_case(tmp_path):
    for name in NAMES:
        shutil.copy(SAMPLES / name / "organs.nii.gz", tmp_path / f"{name}.nii.gz")
    rows = [(name, tmp_path / f"{name}.nii.gz", "seganypet", "HQ", "train") for name in NAMES]
    config = replace(cohort_config(tmp_path, *rows), lq_per_batch=0)
    train(config, tmp_path, processes=1, progress=False)
    pet = load_volume(SAMPLES / NAMES[1] / "SUV.nii.gz", unit="SUVbw")
    labels = load_labels(tmp_path / f"{NAMES[1]}.nii.gz", like=pet).astype(np.uint8)
    labels[tuple(np.argwhere(labels == 1)[0])] = 0
    save_mask(tmp_path / f"{NAMES[1]}.nii.gz", labels, like=pet)
    with pytest.raises(SegAnyPETError, match=r"short.ckpt was made from other cases \(changed: case1\)"):
        train(config, tmp_path, processes=1, progress=False)


def test_cases_that_came_went_or_have_labels_of_another_quality_are_named(tmp_path):
    rows = [(name, SAMPLES / name / "organs.nii.gz", "seganypet", "HQ", "train") for name in (*NAMES, NAMES[0])]

    def cases(*rows):
        return {"cases": cases_of(ScanBank(cohort_config(tmp_path, *rows).data, tmp_path / "scans")), "windows": []}

    before = cases(*rows[:2])
    with pytest.raises(SegAnyPETError, match=r"other cases \(new: case2\)"):
        check_same_data(tmp_path, before, cases(*rows))
    with pytest.raises(SegAnyPETError, match=r"other cases \(missing: case1\)"):
        check_same_data(tmp_path, before, cases(rows[0]))
    with pytest.raises(SegAnyPETError, match=r"other cases \(changed: case1\)"):
        check_same_data(tmp_path, before, cases(rows[0], (*rows[1][:3], "LQ", "train")))


def test_a_version_that_draws_the_same_windows_resumes_and_one_that_draws_others_does_not(bank, tmp_path, monkeypatch):
    before = now(bank)
    assert len(before["cases"]) == len(bank) and np.isfinite(before["windows"]).all()
    with monkeypatch.context() as patch:
        patch.setattr(scans, "__version__", "99.0.0")  # scans are prepared again, and are the same
        newer = ScanBank(DATA, tmp_path / "scans")
        newer.fill(1, progress=False)
        check_same_data(tmp_path, before, now(newer))
    rounded = copy.deepcopy(before)
    rounded["windows"] = (np.array(before["windows"]) * (1 + 1e-5)).tolist()
    check_same_data(tmp_path, before, rounded)  # another processor
    cut = samples.cut_labels
    changes = {
        "mirror": lambda suv, layers, *_: (suv[::-1].copy(), layers[:, ::-1].copy()),
        "degrade": lambda suv, rng: suv * np.float32(1.01),
        "cut_labels": lambda given, positions: np.maximum(cut(given, positions), 1),
    }
    for name, change in changes.items():
        with monkeypatch.context() as patch, pytest.raises(SegAnyPETError, match="other windows of the same cases"):
            patch.setattr(samples, name, change)
            check_same_data(tmp_path, before, now(bank))


def test_a_checkpoint_that_does_not_say_what_it_learned_from_is_not_resumed(tmp_path):
    with pytest.raises(CheckpointError, match="did not say what it learned from"):
        check_same_data(tmp_path / "old.ckpt", None, {"cases": {}, "windows": []})


def test_statistics_of_a_window_are_its_mean_spread_centre_and_the_sizes_and_centres_of_labels():
    intensities, labels = np.zeros((5, 5, 5), np.float32), np.zeros((1, 5, 5, 5), np.uint8)
    intensities[4, 0, 2] = 125.0
    labels[0, 1, 2, 3] = 1
    spread = np.sqrt(124 * 1 + (125 - 1) ** 2) / np.sqrt(125)
    expected = [1.0, spread, 1.0, 0.0, 0.5, 1 / 125, 0.25, 0.5, 0.75]
    assert window_statistics([(intensities, labels)]) == pytest.approx(expected)
    empty = window_statistics([(np.zeros((4, 4)), np.zeros((4, 4)))])  # a slice
    assert empty == [0, 0, 0.5, 0.5, 0, 0.5, 0.5]
