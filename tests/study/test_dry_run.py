"""The supplement's Table 2 by one call, on files laid out as AutoPET, AutoPET-Organ and the released weights are."""

from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY

from seganypet.cohort.cohort import Cohort
from seganypet.cohort.labels import ORGAN_CONVENTIONS
from seganypet.model.sam2d import small_sam
from seganypet.organs import ORGANS
from seganypet.pet.volume import load_labels, save_mask
from seganypet.study.evaluation import evaluate
from seganypet.study.methods import named_models
from seganypet.study.summaries import summarise

SAMPLES = {"PETCT_0a1b/01-01-2001-NA-PET-CT": "phantom_internal_9000", "PETCT_2c3d/02-02-2002-NA-PET-CT":
           "phantom_internal_9005"}  # fmt: skip


@pytest.fixture
def autopet(tmp_path: Path) -> Path:
    """A tree of studies, and beside it one organ label map for each patient, in AutoPET-Organ's order."""
    (tmp_path / "organs").mkdir()
    for study, sample in SAMPLES.items():
        folder, source = tmp_path / "autopet" / study, REPOSITORY / "data_samples" / sample
        folder.mkdir(parents=True)
        for name in ("SUV", "CTres", "SEG"):
            (folder / f"{name}.nii.gz").symlink_to(source / f"{name}.nii.gz")
        pet = Cohort.from_csv(REPOSITORY / "data_samples" / "cohort.csv")[sample].load_pet()
        ours, theirs = load_labels(source / "organs.nii.gz", like=pet), ORGAN_CONVENTIONS["autopet-organ"]
        labels = np.zeros_like(ours)
        for label, organ in theirs.items():
            labels[ours == ORGANS.index(organ) + 1] = label
        save_mask(tmp_path / "organs" / f"{study.split('/')[0]}.nii.gz", labels, like=pet)
    return tmp_path


def test_one_call_makes_the_table(autopet):
    cohort = Cohort.from_path(autopet / "autopet").with_organs(autopet / "organs")
    problems = cohort.validate(progress=False)
    assert set(problems["problem"]) == {"convention_detected"}
    assert all("'autopet-organ'" in message for message in problems["message"])
    cohort = Cohort.from_path(autopet / "autopet").with_organs(autopet / "organs", "autopet-organ")
    cohort.to_csv(autopet / "cohort.csv")
    small_sam(64, 8, 32, 1, 32).save_pretrained(autopet / "sam")  # the layout of the hub's folders
    released = REPOSITORY / "tests" / "data" / "reference" / "mini_training_checkpoint.pth"
    models = named_models([f"SAM={autopet / 'sam'}", f"SegAnyPET={released}"])
    options = {"targets": ["kidney_left", "lung_middle_lobe_right"], "rules": (), "output": autopet / "table2.csv"}
    table = evaluate(Cohort.from_path(autopet / "cohort.csv"), models, 1, progress=False, **options)
    assert table["error"].isna().all()
    done = {(row.model, row.target, row.prompt) for row in table.itertuples()}
    organs = ("kidney_left", "lung_middle_lobe_right")
    assert done == {("SAM", organ, "N") for organ in organs} | {("SegAnyPET", organ, "1") for organ in organs}
    assert table.loc[table["model"] == "SAM", "total_clicks"].min() > 10 > table["click"].max()
    assert table.groupby("patient").size().to_dict() == {"PETCT_0a1b": 4, "PETCT_2c3d": 4}
    assert {"unseen", "seen"} <= set(summarise(table, (1,))["group"])
    before = (autopet / "table2.csv").read_bytes()
    evaluate(Cohort.from_path(autopet / "cohort.csv"), models, 1, progress=False, **options)  # nothing is left to do
    assert (autopet / "table2.csv").read_bytes() == before
