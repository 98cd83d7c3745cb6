"""The commands of the page on studies, on files laid out as AutoPET, its organs, TotalSegmentator and weights are."""

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY
from test_dry_run import SAMPLES, autopet  # noqa: F401  (a fixture)

from seganypet.cli import main
from seganypet.cohort.cohort import Cohort
from seganypet.model.sam2d import small_sam
from seganypet.organs import ORGANS
from seganypet.pet.volume import load_labels, save_mask
from seganypet.study.paper_tables import read_results

WHERE = {"device", "precision", "threads", "host", "seconds", "model_seconds"}
TARGETS = ["--targets", "kidney_left", "lung_middle_lobe_right", "--clicks", "1"]


@pytest.fixture
def folder(autopet, monkeypatch):  # noqa: F811
    """With a cohort table, a folder of a SAM, a released training checkpoint, and TotalSegmentator's kidneys."""
    cohort = Cohort.from_path(autopet / "autopet").with_organs(autopet / "organs", "autopet-organ")
    cohort.to_csv(autopet / "cohort.csv")
    for case, sample in zip(cohort, SAMPLES.values(), strict=True):
        pet = case.load_pet()
        organs = load_labels(REPOSITORY / "data_samples" / sample / "organs.nii.gz", like=pet)
        (autopet / "total" / case.name).mkdir(parents=True)
        for organ in ("kidney_left", "lung_middle_lobe_right"):
            found = (organs == ORGANS.index(organ) + 1).astype(np.uint8)
            save_mask(autopet / "total" / case.name / f"{organ}.nii.gz", found, like=pet)
    small_sam(64, 8, 32, 1, 32).save_pretrained(autopet / "sam")
    monkeypatch.chdir(autopet)
    return autopet


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_tables_2_and_5_come_from_the_commands_and_alike_from_two_processes(folder, capsys):
    released = REPOSITORY / "tests" / "data" / "reference" / "mini_training_checkpoint.pth"
    models = ["--models", "SAM=sam", f"SegAnyPET={released}", "--no-rules", "--totalsegmentator", "total"]
    assert main(["evaluate", "cohort.csv", *models, *TARGETS, "--save-masks", "masks", "--output", "one.csv"]) == 0
    assert main(["evaluate", "cohort.csv", *models, *TARGETS, "--processes", "2", "--output", "two.csv"]) == 0
    one, two = (read_results(name).drop(columns=list(WHERE)) for name in ("one.csv", "two.csv"))
    pd.testing.assert_frame_equal(one, two)
    assert one["error"].isna().all() and one.query("model == 'TotalSegmentator'")["dsc"].min() == 1
    assert len(list((folder / "masks").rglob("*.nii.gz"))) == 2 * 2 * 3  # cases, targets, models
    assert main(["table", "one.csv", "--like", "2", "--form", "latex", "--against", "SAM", "--output", "t2.tex"]) == 0
    latex = (folder / "t2.tex").read_text()
    assert latex.count("\\begin{tabular}") == 1 and "Kidney left" in latex and "SegAnyPET, published, 1" in latex
    lesions = ["lesions", "cohort.csv", "--models", f"SegAnyPET={released}", "--no-rules", "--clicks", "1"]
    assert main([*lesions, "--promptings", "all at once", "--output", "five.csv"]) == 0
    capsys.readouterr()
    assert main(["table", "five.csv", "--like", "5"]) == 0
    assert "| SegAnyPET, all at once |" in capsys.readouterr().out
