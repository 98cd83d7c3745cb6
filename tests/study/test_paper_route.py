"""The page on studies, command by command, on files laid out as AutoPET, its organs, TotalSegmentator and weights."""

import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY

import seganypet
from seganypet.cli import main
from seganypet.cohort.cohort import Cohort
from seganypet.cohort.labels import ORGAN_CONVENTIONS
from seganypet.model.sam2d import small_sam
from seganypet.organs import ORGANS
from seganypet.pet.volume import Volume, load_labels, load_volume, save_mask, save_volume
from seganypet.study.paper_tables import read_results

PAGE = (REPOSITORY / "notebooks" / "studies.md").read_text()
PYTHON, SPLITTING = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
PATIENTS = ("0a1b", "1c2d", "2e3f", "3a4b", "4c5d", "5e6f", "6a7b", "7c8d", "8e9f")
SEEN, UNSEEN = "kidney_left", "lung_middle_lobe_right"
RELEASED = REPOSITORY / "tests" / "data" / "reference" / "mini_training_checkpoint.pth"  # small, of the released layout
WEIGHTS = {"sam-vit-b": "sam", "medsam-vit-b": "sam"} | dict.fromkeys(("sam-med3d", "sam-med3d-turbo", "seganypet-v1"),
                                                                      RELEASED)  # fmt: skip
# What makes the page's commands short here.
SHORT = {
    "evaluate": ["--targets", SEEN, UNSEEN, "--clicks", "1", "--device", "cpu"],
    "lesions": ["--clicks", "1", "--limit", "1", "--promptings", "all at once", "--device", "cpu"],
    "train": ["--init", str(RELEASED), "--processes", "1", "--device", "cpu", *(
        word for change in ("epochs=1", "steps_per_epoch=1", "batch_size=2", "lq_per_batch=1", "accumulate=1",
                            "max_clicks=2", "prompts=2", "precision=32-true", "data.windows_per_case=1",
                            "validation.every=1") for word in ("--set", change))],
    "table": [], "check": [],
}  # fmt: skip
WHERE = {"device", "precision", "threads", "host", "seconds", "model_seconds", "human_seconds"}


def commands_of_page() -> list[list[str]]:
    """Words of each command that makes the tables, with random weights instead of those that would be downloaded."""
    section = PAGE[PAGE.index(PYTHON) + len(PYTHON) : PAGE.index("Means are over patients")]
    block = re.findall(r"```\n\n```\n(.*?)```", section, re.DOTALL)[0].replace("\\\n", " ")
    found = [shlex.split(line)[1:] for line in block.splitlines() if line.strip()]
    for words in found:
        if words[0] in ("evaluate", "lesions"):
            words[:] = [f"{word}={WEIGHTS[word]}" if word in WEIGHTS else word for word in words] + SHORT[words[0]]
        else:
            words += SHORT[words[0]]
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """AutoPET, AutoPET-Organ, TotalSegmentator's kidneys and lungs, and a SAM; scans of every second voxel."""
    folder = tmp_path_factory.mktemp("paper")
    (folder / "AutoPET-Organ").mkdir()
    for number, patient in enumerate(PATIENTS):
        source = REPOSITORY / "data_samples" / ("phantom_internal_9000", "phantom_internal_9005")[number % 2]
        start = number // 2 % 2  # other voxels of the same phantom
        study = folder / "FDG-PET-CT-Lesions" / f"PETCT_{patient}" / "01-01-2001-NA-PET-CT"
        study.mkdir(parents=True)
        whole = load_volume(source / "SUV.nii.gz", unit="SUVbw")
        every = (slice(start, None, 2),) * 3
        affine = whole.affine @ np.diag([2, 2, 2, 1.0])
        affine[:3, 3] = whole.to_mm((start,) * 3)
        pet = Volume(whole.data[every], affine, "SUVbw")
        save_volume(study / "SUV.nii.gz", pet)
        ct = load_volume(source / "CTres.nii.gz", unit="HU")
        save_volume(study / "CTres.nii.gz", Volume(ct.data[every], affine, "HU"))
        organs, lesions = (load_labels(source / f"{name}.nii.gz", like=whole)[every] for name in ("organs", "SEG"))
        save_mask(study / "SEG.nii.gz", lesions.astype(np.uint8), like=pet)
        labels = np.zeros(pet.shape, np.uint8)
        for label, organ in ORGAN_CONVENTIONS["autopet-organ"].items():
            labels[organs == ORGANS.index(organ) + 1] = label
        save_mask(folder / "AutoPET-Organ" / f"PETCT_{patient}.nii.gz", labels, like=pet)
    for case in Cohort.from_path(folder / "FDG-PET-CT-Lesions").with_organs(folder / "AutoPET-Organ", "autopet-organ"):
        pet = case.load_pet()
        for organ, found in case.targets(pet, (SEEN, UNSEEN)):
            path = folder / "TotalSegmentator" / case.name / f"{organ}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            save_mask(path, found.astype(np.uint8), like=pet)
    small_sam(64, 8, 32, 1, 32).save_pretrained(folder / "sam")
    return folder


def killed(words: list[str], output: Path) -> None:
    """A command, killed when the first rows of its table are written."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    run = subprocess.Popen([sys.executable, "-m", "seganypet", *words], env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while run.poll() is None and time.monotonic() < deadline:
        if output.exists() and output.read_bytes().count(b"\n") > 1:
            run.send_signal(signal.SIGKILL)
        time.sleep(0.05)
    assert run.wait() == -signal.SIGKILL


def content(name: str) -> str:
    """A table but for where and how fast it was made."""
    return read_results(name).drop(columns=list(WHERE), errors="ignore").to_csv(index=False)


def otherwise(words: list[str], output: str, *options: str) -> str:
    """The same command with another output and more options; what its table holds."""
    words = list(words)
    for option in ("--output", "--save-masks"):
        if option in words:
            at = words.index(option)
            del words[at : at + 2]
    assert main([*words, "--output", output, *options]) == 0
    return content(output)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_commands_of_the_page_make_the_tables_however_they_are_run(folder, monkeypatch, capsys):
    from distributed import LocalCluster

    monkeypatch.chdir(folder)
    exec(PYTHON, {})
    assert Path("cohort.csv").exists()
    commands = commands_of_page()
    by_output = {words[words.index("--output") + 1]: words for words in commands if "--output" in words}
    killed(by_output["table2.csv"], folder / "table2.csv")
    printed = {}
    for words in commands:
        capsys.readouterr()
        assert main(words) == 0, words
        printed[" ".join(words[:2])] = capsys.readouterr().out

    two = content("table2.csv")
    assert read_results("table2.csv")["error"].isna().all()
    assert otherwise(by_output["table2.csv"], "two.csv", "--processes", "2") == two
    options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": None, "silence_logs": logging.ERROR}
    with LocalCluster(**options) as cluster:
        address = ("--cluster", cluster.scheduler_address)
        assert otherwise(by_output["table2.csv"], "dask2.csv", *address) == two
        assert otherwise(by_output["table5.csv"], "dask5.csv", *address) == content("table5.csv")

    for number in (2, 3, 5):
        latex = Path(f"table{number}.tex").read_text()
        assert latex.count("\\begin{tabular}") == 1 and "published" in latex and "patients" in latex, latex
    assert "Kidney left" in Path("table2.tex").read_text() and "Wilcoxon" in Path("table2.tex").read_text()
    assert "TotalSegmentator" in Path("table3.tex").read_text()
    assert set(read_results("table3.csv")["modality"]) == {"PET", "registered CT"}
    assert all(name in printed["table table4.csv"] for name in ("Fine-Tuning", "Consistency", "CPCL"))
    masks = list(Path("masks").rglob("*.nii.gz"))
    assert len(masks) == len(read_results("table2.csv")[["case", "model", "target"]].drop_duplicates())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_jobs_of_the_page_make_the_table_of_one_run(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    cohort = Cohort.from_path("FDG-PET-CT-Lesions").with_organs("AutoPET-Organ", "autopet-organ")
    cohort.to_csv("whole.cohort.csv")
    exec(SPLITTING.replace("range(10)", "range(2)").replace("10]", "2]"), {"sap": seganypet, "cohort": cohort})
    (line,) = re.findall(r"^srun (seganypet evaluate .*?[^\\])$", PAGE, re.DOTALL | re.MULTILINE)
    how = ["--models", "SUV>=4", "--no-rules", "--targets", SEEN, UNSEEN, "--clicks", "3"]
    for job in range(2):
        words = shlex.split(line.replace("\\\n", " ").replace("$SLURM_ARRAY_TASK_ID", str(job)))[1:]
        assert main([*words, "--processes", "1", *how]) == 0
    assert main(["evaluate", "whole.cohort.csv", *how, "--output", "whole.csv"]) == 0
    (line,) = re.findall(r"^seganypet (table tables/.*)$", PAGE, re.MULTILINE)
    for name, tables in (("jobs", shlex.split(line)[1:]), ("whole", ["whole.csv", "--like", "2"])):
        assert main(["table", *tables, "--form", "csv", "--output", f"{name}-table.csv"]) == 0
    assert Path("jobs-table.csv").read_text() == Path("whole-table.csv").read_text()
