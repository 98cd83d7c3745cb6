"""Folders of other programs: channels, labels and tracers are read from what says them, and a fault is one row."""

import json
import os
import warnings
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from conftest import oblique

import seganypet as sap
from seganypet.cohort.case import Case
from seganypet.cohort.cohort import Cohort
from seganypet.cohort.tracers import tracer_in
from seganypet.errors import CohortError
from seganypet.pet.volume import Volume, save_mask, save_volume

AFFINE = oblique(spacing=(4.0, 4.0, 3.0), left_handed=True)
SHAPE = (14, 15, 16)
VOXEL_ML = 4 * 4 * 3 / 1000


def scan() -> Volume:
    """Gamma noise about SUV 1, with a lesion of 27 voxels."""
    data = np.random.default_rng(1).gamma(2.0, 0.5, SHAPE)
    data[5:8, 5:8, 5:8] += 8
    return Volume(data, AFFINE, "SUVbw")


PET = scan()
CT = Volume(np.random.default_rng(3).normal(-200, 300, SHAPE).clip(-1000, 900), AFFINE, "HU")
LESION = PET.data > 8
LABELS = np.zeros(SHAPE, np.uint8)
LABELS[5:8, 5:8, 5:8], LABELS[0:2, 0:2, 0:2], LABELS[10:13, 10:13, 10:13] = 1, 2, 3


def nnunet(
    folder: Path, said: dict | str | None, images: str = "ct pet", labels: np.ndarray | None = LABELS, part: str = "Tr",
    names: tuple[str, ...] = ("case1",), ending: str = ".nii.gz",
) -> Path:  # fmt: skip
    """An nnU-Net folder: `images` says what is written as channel 0, 1, ..."""
    for at in ("images", "labels"):
        (folder / f"{at}{part}").mkdir(parents=True, exist_ok=True)
    for name in names:
        for channel, kind in enumerate(images.split()):
            volume = {"pet": PET, "ct": CT, "map": Volume(np.clip(PET.data / 10, 0, 1), AFFINE, "SUVbw")}[kind]
            save_volume(folder / f"images{part}" / f"{name}_{channel:04d}{ending}", volume)
        if labels is not None:
            save_mask(folder / f"labels{part}" / f"{name}{ending}", labels, like=PET)
    if said is not None:
        (folder / "dataset.json").write_text(said if isinstance(said, str) else json.dumps(said), encoding="utf-8")
    return folder


def only(cohort: Cohort) -> Case:
    (case,) = cohort
    return case


def lesion_voxels(case: Case) -> int:
    return int((case.load_lesions(case.load_pet()) > 0).sum())


# ---- channels

TWO = {"labels": {"background": 0, "tumor": 1, "node": 2, "other lesion": 3}, "file_ending": ".nii.gz"}


@pytest.mark.parametrize("channels", [
    {"channel_names": {"0": "PET", "1": "CT"}}, {"modality": {"0": "PET", "1": "CT"}},
    {"channel_names": {"PET": 0, "CT": 1}}, {"channel_names": {"1": "CTres", "0": "SUV"}},
    {"channel_names": ["FDG-PET", "CT"]}, {"channel_names": {"0": "pt", "1": "Low-dose_CT"}},
    {"modality": {"0": "pet_suv", "1": "ct_ac"}},
])  # fmt: skip
def test_the_pet_is_the_channel_that_is_named_so_whatever_its_number(tmp_path, channels):
    case = only(Cohort.from_nnunet(nnunet(tmp_path, TWO | channels, "pet ct")))
    assert (case.pet.name, case.ct.name) == ("case1_0000.nii.gz", "case1_0001.nii.gz")
    table = sap.quantify_cohort([case], progress=False)
    values = table[table["object"] == "lesions"].set_index("quantity")["value"]
    assert values["SUVmax"] == pytest.approx(PET.data[LABELS > 0].max())
    assert values["MTV"] == pytest.approx(62 * VOXEL_ML)


def test_a_pet_alone_is_channel_0_and_click_maps_are_no_scans(tmp_path):
    case = only(Cohort.from_path(nnunet(tmp_path / "alone", TWO | {"channel_names": {"0": "PET"}}, "pet")))
    assert case.pet.name == "case1_0000.nii.gz" and case.ct is None
    four = {"channel_names": {"0": "CT", "1": "PET", "2": "FG", "3": "BG"}}
    case = only(Cohort.from_path(nnunet(tmp_path / "four", TWO | four, "ct pet map map")))
    assert (case.pet.name, case.ct.name) == ("case1_0001.nii.gz", "case1_0000.nii.gz")


@pytest.mark.parametrize("names", [{"0": "CT", "1": "CT"}, {"0": "CT", "1": "noNorm"}, {"0": "zscore", "1": "noNorm"}])
@pytest.mark.parametrize("images", ["ct pet", "pet ct"])
def test_names_that_only_choose_a_normalisation_are_judged_by_voxels_and_it_is_said(tmp_path, names, images):
    folder = nnunet(tmp_path, TWO | {"channel_names": names}, images)
    with pytest.warns(UserWarning, match=r"names no PET among its channels .* by its voxels channel \d is one"):
        case = only(Cohort.from_nnunet(folder))
    channel = images.split().index("pet")
    assert case.pet.name == f"case1_000{channel}.nii.gz" and case.ct.name == f"case1_000{1 - channel}.nii.gz"


@pytest.mark.parametrize(("names", "images", "message"), [
    ({"0": "CT", "1": "MR"}, "ct ct", "names no PET among its channels"),
    ({"0": "PET", "1": "PET_early"}, "pet pet", "more than one channel may be the PET"),
    ({"0": "PET/CT"}, "pet", "more than one channel may be the PET"),
    ({"0": "CT"}, "ct", "names no PET"),
    (None, "pet ct", "channel 1 shows air at -1000 as a CT does"),
    (None, "ct", "channel 0 shows air at -1000"),
])  # fmt: skip
def test_a_ct_is_never_taken_for_a_pet(tmp_path, names, images, message):
    folder = nnunet(tmp_path, None if names is None else TWO | {"channel_names": names}, images)
    with pytest.raises(CohortError, match=message + r".*say which is which: Cohort.from_nnunet\(folder, channels="):
        Cohort.from_path(folder)
    if "pet" in images:
        channel = images.split().index("pet")
        assert only(Cohort.from_nnunet(folder, channels={"PET": channel})).pet.name == f"case1_000{channel}.nii.gz"


def test_without_dataset_json_the_challenges_order_is_taken_and_said(tmp_path):
    with pytest.warns(UserWarning, match="no dataset.json says what the channels are; taken: 0 = CT, 1 = PET"):
        case = only(Cohort.from_path(nnunet(tmp_path, None)))
    assert case.pet.name == "case1_0001.nii.gz" and case.lesion_labels is None
    for wrong in ({"CT": 0}, {"PET": 0, "CT": 0}, {"PET": 7}, {"PET": 0, "MR": 1}):
        with pytest.raises(CohortError, match="expected 'PET' and perhaps 'CT', two of the channels"):
            Cohort.from_nnunet(tmp_path, channels=wrong)


def test_a_report_says_if_a_ct_is_in_the_place_of_the_pet(tmp_path):
    cohort = Cohort.from_nnunet(nnunet(tmp_path, TWO | {"channel_names": {"0": "CT", "1": "PET"}}, "pet ct"))
    problems = cohort.validate(progress=False)
    (message,) = problems[(problems["part"] == "pet") & (problems["severity"] == "error")]["message"]
    assert "is it a CT in HU, not a PET?" in message


def test_test_sets_are_read_from_either_path(tmp_path):
    folder = nnunet(tmp_path, TWO | {"channel_names": {"0": "CT", "1": "PET"}}, part="Ts", names=("a", "b"))
    assert [case.name for case in Cohort.from_path(folder)] == ["a", "b"]
    nnunet(folder, None, names=("c",))
    assert only(Cohort.from_path(folder)).name == "c"  # imagesTr, where there is one
    cohort = Cohort.from_path(folder / "imagesTs")
    assert [case.name for case in cohort] == ["a", "b"] and cohort["a"].lesions.parent.name == "labelsTs"
    with pytest.raises(CohortError, match="part='Va'; expected 'Tr' or 'Ts'"):
        Cohort.from_nnunet(folder, part="Va")


def test_images_without_any_label_are_scans_on_which_nothing_is_drawn(tmp_path):
    with pytest.warns(UserWarning, match="no file in labelsTs, so nothing is drawn"):
        case = only(Cohort.from_path(nnunet(tmp_path, TWO | {"channel_names": {"0": "PET"}}, "pet", None, "Ts")))
    assert case.lesions is None and case.lesion_labels is None


# ---- labels

ONE = {"channel_names": {"0": "PET"}, "file_ending": ".nii.gz"}


def folder_of_organs(folder: Path, case: Case) -> Path:
    """Organs drawn by somebody else for a case."""
    (folder / "organs").mkdir()
    save_mask(folder / "organs" / f"{case.name}.nii.gz", LABELS, like=PET)
    return folder / "organs"


@pytest.mark.parametrize(("labels", "lesions", "organs"), [
    ({"background": 0, "tumor": 1, "node": 2, "metastasis": 3}, 62, None),
    ({"0": "background", "1": "tumor", "2": "node", "3": "GTVn"}, 62, None),
    ({"background": "0", "tumor": "1", "node": "2", "lesion": "3"}, 62, None),
    ({"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "necrotic tumor": 3}, 62, None),
    ({"background": 0, "tumor": 1, "liver": 2, "Left Kidney": 3}, 27, {"liver": 8, "kidney_left": 27}),
    ({"background": 0, "liver": [1, 2], "liver tumor": 1, "spleen": 3}, 27, {"liver": 35, "spleen": 27}),
])  # fmt: skip
def test_the_names_of_labels_say_which_are_lesions(tmp_path, labels, lesions, organs):
    with warnings.catch_warnings(action="error"):
        case = only(Cohort.from_nnunet(nnunet(tmp_path, ONE | {"labels": labels}, "pet")))
        assert lesion_voxels(case) == lesions
        targets = {name: int(mask.sum()) for name, mask in case.targets() if not name.startswith("lesion")}
    assert targets == (organs or {})
    if organs:
        assert lesion_voxels(only(Cohort([case]).with_organs(folder_of_organs(tmp_path, case)))) == lesions
    problems = Cohort([case]).validate(progress=False)
    assert problems[problems["severity"] == "error"].empty


def test_a_set_of_organs_has_no_lesions(tmp_path):
    labels = {"background": 0, "liver": 1, "spleen": 2, "urinary bladder": 3}
    case = only(Cohort.from_nnunet(nnunet(tmp_path, ONE | {"labels": labels}, "pet")))
    assert case.lesions is None
    table = sap.quantify_cohort([case], progress=False)
    volumes = table[table["quantity"] == "MTV"].set_index("object")["value"]
    assert set(table["kind"]) == {"organ"} and volumes["urinary bladder"] == pytest.approx(27 * VOXEL_ML)


def test_voxels_that_nobody_annotated_are_no_lesion_and_counted_aloud(tmp_path):
    labels = {"background": 0, "tumor": 1, "node": 2, "ignore": 3}
    case = only(Cohort.from_nnunet(nnunet(tmp_path, ONE | {"labels": labels}, "pet")))
    with pytest.warns(UserWarning, match=r"27 voxels \(1.3 mL\) .* marked to be ignored"):
        assert lesion_voxels(case) == 35
    report = Cohort([case]).report(progress=False)
    assert report.cases["lesions_ml"].item() == pytest.approx(35 * VOXEL_ML, abs=0.01)
    assert "ignored" in set(report.problems["problem"])


def test_a_label_that_nothing_explains_fails_its_case_only(tmp_path):
    said = ONE | {"labels": {"background": 0, "tumor": 1}}
    folder = nnunet(tmp_path, said, "pet", LABELS == 1, names=("good", "odd"))
    save_mask(folder / "labelsTr" / "odd.nii.gz", LABELS, like=PET)
    cohort = Cohort.from_nnunet(folder)
    with pytest.warns(UserWarning, match=r"case odd failed: .*labels \[2, 3\], which lesion_labels='tumor=1' does not"):
        table = sap.quantify_cohort(cohort, progress=False)
    assert table[table["error"].isna()]["case"].unique().tolist() == ["good"]
    problems = cohort.validate(progress=False)
    assert problems[problems["problem"] == "label_ids"]["case"].tolist() == ["odd"]


def test_a_name_that_tells_nothing_counts_as_lesion_and_is_said(tmp_path):
    labels = {"background": 0, "class 1": 1, "tumor": 2, "x=y; z": 3}
    with pytest.warns(UserWarning, match="'class 1', 'x=y; z' counted as lesions"):
        case = only(Cohort.from_nnunet(nnunet(tmp_path, ONE | {"labels": labels}, "pet")))
    assert lesion_voxels(case) == 62


@pytest.mark.parametrize(("said", "message"), [
    ("{", "not a readable JSON"), ("[1]", "holds a list"), ({"channel_names": {"0": "PET"}, "labels": {"tumor": "one"}},
    "not names with numbers"), (ONE | {"labels": {"background": 1, "tumor": 0}}, "expected 0 for the background alone"),
    (ONE | {"labels": {"background": 0, "tumor": [0, 1]}}, "expected 0 for the background"),
    (ONE | {"file_ending": ".npy"}, "file_ending is '.npy'; expected one of"),
    (ONE | {"file_ending": ".mha"}, r"expected imagesTr/<case>_0000.mha in it, found case1_0000.nii.gz"),
])  # fmt: skip
def test_a_dataset_json_that_makes_no_sense_is_refused_with_its_path(tmp_path, said, message):
    with pytest.raises(CohortError, match=message) as refused:
        Cohort.from_nnunet(nnunet(tmp_path, said, "pet"))
    assert str(tmp_path) in str(refused.value)


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".nii"])
def test_files_of_another_ending_are_read(tmp_path, ending):
    folder = nnunet(tmp_path, TWO | {"channel_names": {"0": "PET"}, "file_ending": ending}, "pet", ending=".nii")
    for path in [*folder.rglob("*.nii")] if ending != ".nii" else []:
        sitk.WriteImage(sitk.ReadImage(str(path)), str(path.with_suffix(ending)))
        path.unlink()
    case = only(Cohort.from_nnunet(folder))
    assert (case.pet.name, case.lesions.name) == (f"case1_0000{ending}", f"case1{ending}")
    assert lesion_voxels(case) == 62 and np.allclose(case.load_pet().affine, AFFINE, atol=1e-4)
    assert "unreadable" not in set(Cohort([case]).validate(progress=False)["problem"])


def test_files_that_dataset_json_lists_may_lie_anywhere(tmp_path):
    listed = {"patient 1": {"images": ["far/a.nii.gz", "far/b.nii.gz"], "label": "far/c.nii.gz"}}
    said = {"channel_names": {"0": "PET", "1": "CT"}, "labels": {"background": 0, "tumor": 1}, "dataset": listed}
    (tmp_path / "far").mkdir()
    (tmp_path / "imagesTr").mkdir()
    for name, volume in (("a", PET), ("b", CT)):
        save_volume(tmp_path / "far" / f"{name}.nii.gz", volume)
    save_mask(tmp_path / "far" / "c.nii.gz", LABELS == 1, like=PET)
    (tmp_path / "dataset.json").write_text(json.dumps(said))
    case = only(Cohort.from_nnunet(tmp_path))
    assert (case.name, case.pet.name, case.ct.name, lesion_voxels(case)) == ("patient 1", "a.nii.gz", "b.nii.gz", 27)


# ---- one fault, one row

def test_missing_and_damaged_files_are_rows_and_failures_of_their_cases_alone(tmp_path):
    names = ("sound", "no_pet", "no_label", "damaged", "no_ct", "Größe 7")
    folder = nnunet(tmp_path, TWO | {"channel_names": {"0": "CT", "1": "PET"}}, names=names)
    (folder / "imagesTr" / "no_pet_0001.nii.gz").unlink()
    (folder / "labelsTr" / "no_label.nii.gz").unlink()
    (folder / "imagesTr" / "no_ct_0000.nii.gz").unlink()
    (folder / "imagesTr" / "damaged_0001.nii.gz").write_bytes(b"\x1f\x8b broken")
    with pytest.warns(UserWarning, match="3 of 6 cases lack files"):
        cohort = Cohort.from_path(folder)
    problems = cohort.validate(progress=False)
    rows = problems[problems["severity"] == "error"].sort_values("case")[["case", "part", "problem"]]
    rows = rows[rows["problem"] != "same_scan"]
    assert rows.values.tolist() == [["damaged", "pet", "unreadable"], ["no_ct", "ct", "missing"],
                                    ["no_label", "lesions", "missing"], ["no_pet", "pet", "missing"]]  # fmt: skip
    with pytest.warns(UserWarning, match="failed"):
        table = sap.quantify_cohort(cohort, progress=False)
    assert set(table[table["error"].isna()]["case"]) == {"sound", "no_ct", "Größe 7"}
    assert set(table[table["error"].notna()]["case"]) == {"no_pet", "no_label", "damaged"}


# ---- AutoPET's trees, and tracers

def autopet(folder: Path, *studies: str, lesions: bool = True) -> Path:
    for study in studies:
        (folder / study).mkdir(parents=True)
        save_volume(folder / study / "SUV.nii.gz", PET)
        if lesions:
            save_mask(folder / study / "SEG.nii.gz", LABELS == 1, like=PET)
    return folder


def test_the_tracer_is_what_names_and_headers_say_and_else_unknown(tmp_path):
    date = "01-01-2001-NA-PETCT"
    folder = autopet(tmp_path / "tree", f"PETCT_0a1b2c/{date}", f"PSMA_01a52e26ce5b5e26/{date}", f"Müller/{date}",
                     "both/fdg-and-psma", f"B7/{date}_18F-FDG", f"header/{date}")  # fmt: skip
    (folder / "header" / date / "SUV.json").write_text('{"Radiopharmaceutical": "Ga-68 DOTATATE"}')
    (folder / "both" / "fdg-and-psma" / "SUV.json").write_text("[]")
    assert {case.patient: case.tracer for case in Cohort.from_autopet(folder)} == {
        "PETCT_0a1b2c": "FDG", "PSMA_01a52e26ce5b5e26": "PSMA", "Müller": None, "both": None, "B7": "FDG",
        "header": "DOTATATE",
    }  # fmt: skip
    autopet(tmp_path / "PSMA-PET-CT-Lesions", f"p1/{date}")
    assert only(Cohort.from_autopet(tmp_path / "PSMA-PET-CT-Lesions")).tracer == "PSMA"


def test_collections_side_by_side_keep_their_tracers_and_patients_of_one_name(tmp_path):
    autopet(tmp_path, "FDG-PET-CT-Lesions/p1/day1", "PSMA-PET-CT-Lesions/p1/day1", "PSMA-PET-CT-Lesions/p2/day1")
    found = {case.name: (case.patient, case.tracer) for case in Cohort.from_path(tmp_path)}
    assert found == {"FDG-PET-CT-Lesions_p1_day1": ("p1", "FDG"), "PSMA-PET-CT-Lesions_p1_day1": ("p1", "PSMA"),
                     "p2_day1": ("p2", "PSMA")}  # fmt: skip


def test_names_of_the_challenges_tell_patient_and_tracer(tmp_path):
    names = ("fdg_aaaa_2001-01-01", "psma_bbbb_2002-02-02", "psma_bbbb_2003-03-03", "PETCT_0a1b_day1", "hospital_7")
    folder = nnunet(tmp_path, ONE, "pet", names=names)
    found = [(case.patient, case.tracer) for case in Cohort.from_nnunet(folder)]
    assert found == [("PETCT_0a1b", "FDG"), ("aaaa", "FDG"), ("hospital_7", None), ("bbbb", "PSMA"), ("bbbb", "PSMA")]


@pytest.mark.parametrize(("text", "tracer"), [
    ("Fluorodeoxyglucose F^18^", "FDG"), ("[18F]FDG", "FDG"), ("18FFDG", "FDG"), ("rhPSMA-7.3", "PSMA"),
    ("18F-PSMA-1007", "PSMA"), ("Piflufolastat", "PSMA"), ("Solution", None), ("", None), ("affdgx", None),
])  # fmt: skip
def test_radiopharmaceuticals_are_told_by_their_words(text, tracer):
    assert tracer_in(text) == tracer


def test_a_tree_without_masks_and_one_behind_links_are_read(tmp_path):
    autopet(tmp_path / "elsewhere", "p1/day1", "p2/day1", lesions=False)
    (tmp_path / "tree").mkdir()
    os.symlink(tmp_path / "elsewhere" / "p1", tmp_path / "tree" / "p1", target_is_directory=True)
    (tmp_path / "tree" / "p1" / "day1" / "extra").mkdir()
    save_mask(tmp_path / "tree" / "p1" / "day1" / "extra" / "SEG.nii.gz", LABELS == 1, like=PET)  # of somebody else
    with pytest.warns(UserWarning, match="no SEG.nii.gz in any of 1 studies, so no lesions"):
        case = only(Cohort.from_autopet(tmp_path / "tree"))
    assert case.lesions is None and case.load_pet().shape == SHAPE


def test_healthy_scans_with_empty_masks_are_cases_of_zero_volume(tmp_path):
    folder = autopet(tmp_path, "p1/day1", "p2/day1")
    save_mask(folder / "p2" / "day1" / "SEG.nii.gz", np.zeros(SHAPE, bool), like=PET)
    table = sap.quantify_cohort(Cohort.from_autopet(folder), progress=False)
    volumes = table[(table["object"] == "lesions") & (table["quantity"] == "MTV")].set_index("patient")["value"]
    assert volumes["p1"] == pytest.approx(27 * VOXEL_ML) and volumes["p2"] == 0


def test_labels_on_the_grid_of_the_ct_fail_their_case_with_a_way_out(tmp_path):
    folder = nnunet(tmp_path, TWO | {"channel_names": {"0": "CT", "1": "PET"}}, labels=None)
    fine = np.kron(LABELS == 1, np.ones((2, 2, 2), bool))
    affine = AFFINE @ np.diag([0.5, 0.5, 0.5, 1.0])
    affine[:3, 3] = PET.to_mm((-0.25, -0.25, -0.25))
    save_mask(folder / "labelsTr" / "case1.nii.gz", fine, like=Volume(np.zeros(fine.shape), affine, "HU"))
    cohort = Cohort.from_nnunet(folder)
    with pytest.warns(UserWarning, match="case case1 failed: GeometryError: .*[Rr]esampl"):
        table = sap.quantify_cohort(cohort, progress=False)
    assert table["value"].isna().all()
    assert cohort.validate(progress=False)["problem"].tolist().count("other_grid") == 1
    with pytest.warns(UserWarning, match="[Rr]esampl"):
        table = sap.quantify_cohort(cohort.resampling_labels(), progress=False)
    volumes = table[(table["object"] == "lesions") & (table["quantity"] == "MTV")]["value"]
    assert volumes.item() == pytest.approx(27 * VOXEL_ML)


# ---- the table

def test_a_table_keeps_all_that_was_found_and_reads_back_equal(tmp_path, monkeypatch):
    labels = {"background": 0, "tumor: 1; core=x": 1, "liver": 2, "ignore": 3}
    said = {"channel_names": {"0": "PET (Bq/mL)", "1": "CT"}, "labels": labels, "name": "PSMA study"}
    nnunet(tmp_path / "Größe" / "set", said, "pet ct", names=("a", "Größe 7"))
    autopet(tmp_path / "tree", "PETCT_0a/day 1")
    monkeypatch.chdir(tmp_path)
    cohort = Cohort([*Cohort.from_path("Größe/set"), *Cohort.from_path("tree")])
    cohort = Cohort(replace(case, split="test", quality="HQ") for case in cohort)
    assert cohort["a"].pet_unit == "Bq/mL" and cohort["a"].tracer == "PSMA"
    (tmp_path / "tables" / "deep").mkdir(parents=True)
    os.symlink(tmp_path / "tables" / "deep", tmp_path / "link", target_is_directory=True)
    for at in ("cohort.csv", "tables/deep/cohort.csv", tmp_path / "link" / "linked.csv"):
        cohort.to_csv(at)
        assert list(Cohort.from_csv(at)) == list(cohort)
    os.symlink(tmp_path / "tables" / "deep" / "cohort.csv", tmp_path / "tree" / "link.csv")
    assert list(Cohort.from_csv("tree/link.csv")) == list(cohort)


@pytest.mark.parametrize("text", ["tumor", "tumor=", "=1", "tumor=0", "tumor=1; tumor=2", "a=1,2", "a=40000", "a=-1"])
def test_labels_that_are_no_names_with_numbers_are_refused(text):
    with pytest.raises(CohortError, match="case a: labels .* expected names and numbers, such as"):
        Case("a", "p", Path("pet.nii.gz"), "SUVbw", lesion_labels=text)


def named_labels(path: Path, names: dict[int, str]) -> Path:
    """`LABELS`, with these names in the header."""
    xml = "".join(f"<Label Key='{number}'><![CDATA[{name}]]></Label>" for number, name in names.items())
    image = nib.Nifti1Image(LABELS, AFFINE)
    image.header.extensions.append(nib.nifti1.Nifti1Extension(0, f"<LabelTable>{xml}</LabelTable>".encode()))
    nib.save(image, path)
    return path


def test_organs_in_a_file_of_lesions_are_no_lesions_and_it_is_said(tmp_path):
    save_volume(tmp_path / "pet.nii.gz", PET)
    path = named_labels(tmp_path / "SEG.nii.gz", {1: "GTV 1", 2: "liver", 3: "lesion_02"})
    case = Case("a", "p", tmp_path / "pet.nii.gz", "SUVbw", lesions=path)
    with pytest.warns(UserWarning, match=r"names its labels \['liver'\], by these names anatomy"):
        assert lesion_voxels(case) == 54
    report = Cohort([case]).report(progress=False)
    assert report.cases["lesions_ml"].item() == pytest.approx(54 * VOXEL_ML, abs=0.01)
    assert "anatomy" in set(report.problems["problem"])
    assert lesion_voxels(replace(case, lesion_labels="all=1+2+3")) == 62


def test_a_label_map_that_names_its_organs_is_read_by_these_names(tmp_path):
    """TotalSegmentator's numbers of a subset, 1 = spleen and 5 = liver, would else pass for this package's."""
    named_labels(tmp_path / "organs.nii.gz", {1: "spleen", 2: "kidney_right", 3: "kidney_left", 5: "liver"})
    save_volume(tmp_path / "pet.nii.gz", PET)
    case = Case("a", "p", tmp_path / "pet.nii.gz", "SUVbw", organs=tmp_path / "organs.nii.gz")
    with warnings.catch_warnings(action="error"):
        sizes = {name: int(mask.sum()) for name, mask in case.targets()}
    assert sizes == {"spleen": 27, "kidney_right": 8, "kidney_left": 27}  # nobody knows whether a liver was sought
    assert not {"convention_detected", "label_ids"} & set(Cohort([case]).validate(progress=False)["problem"])
    with pytest.raises(CohortError, match="names its labels itself .*1 = spleen.* differs"):
        replace(case, organ_convention="seganypet").load_organs(PET)
