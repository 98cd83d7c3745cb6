from pathlib import Path

import pytest
import write_samples
from conftest import REPOSITORY

import seganypet as sap


def test_the_phantoms_of_data_samples_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(write_samples, "SAMPLES", write_samples.SAMPLES[1:2])
    write_samples.write_samples(tmp_path)
    cohort = sap.Cohort.from_csv(tmp_path / "cohort.csv")
    assert [case.name for case in cohort] == ["phantom_internal_9005"]
    committed = sap.Cohort.from_csv(REPOSITORY / "data_samples" / "cohort.csv")["phantom_internal_9005"]
    written = cohort["phantom_internal_9005"].load_pet()
    assert written.fingerprint() == committed.load_pet().fingerprint()
