from pathlib import Path

import numpy as np
import pytest
import write_samples
from conftest import REPOSITORY

import seganypet as sap


def test_the_phantoms_of_data_samples_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(write_samples, "SAMPLES", write_samples.SAMPLES[1:2])
    write_samples.write_samples(tmp_path)
    cohort = sap.Cohort.from_csv(tmp_path / "cohort.csv")
    assert [case.name for case in cohort] == ["phantom_internal_9005"]
    written = cohort["phantom_internal_9005"].load_pet()
    committed = sap.Cohort.from_csv(REPOSITORY / "data_samples" / "cohort.csv")["phantom_internal_9005"].load_pet()
    np.testing.assert_array_equal(written.affine, committed.affine)
    # SUVs are stored in steps of 0.02; another processor may round one in a million the other way.
    steps = np.abs(written.data - committed.data) / 0.02
    assert steps.max() < 1.01 and np.count_nonzero(steps) <= 10
