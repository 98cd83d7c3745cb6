"""DICOM studies of several patients become AutoPET's tree or nnU-Net's folders, each whole or not at all."""

import json
import re
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from conftest import oblique
from make_dicom import FACTOR, write_series
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, SecondaryCaptureImageStorage, generate_uid

import seganypet as sap
from seganypet.cli import main
from seganypet.cohort.dicom_choice import choose_series
from seganypet.cohort.dicom_studies import find_studies
from seganypet.errors import DicomError, SegAnyPETError
from seganypet.pet.dicom import load_dicom
from seganypet.pet.resampling import resample_to
from seganypet.pet.volume import load_volume, save_mask

SHAPE = (10, 9, 8)
AFFINE = oblique(spacing=(4.07, 4.07, 3.0), left_handed=True)
FINE = AFFINE @ np.diag([0.5, 0.5, 1.5, 1.0])  # the CT's, over the same place
STORED = np.random.default_rng(1).integers(500, 30_000, SHAPE)
SUV = STORED[:, :, ::-1] * FACTOR  # slices come in the order of their normal, which a left-handed grid turns round


def uid(text: str) -> str:
    return generate_uid(entropy_srcs=[text])


def make_study(
    folder: Path, patient: str = "P1", date: str = "20210304", parts: str = "pet ct", study: str | None = None,
    change: Callable[[Dataset, str], None] = lambda header, part: None,
) -> Path:  # fmt: skip
    """Write series of one study, each in a folder of its own."""
    study = study or f"{patient} {date}"

    def label(part: str) -> Callable[[Dataset, int], None]:
        def apply(header: Dataset, k: int) -> None:
            header.PatientID, header.PatientName, header.StudyDate = patient, "Miller^Jane", date
            header.StudyInstanceUID, header.FrameOfReferenceUID = uid(study), uid(f"frame {study}")
            header.SeriesInstanceUID = uid(f"{study} {part}")
            header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = uid(f"{study} {part} {k}")
            header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
            if "nac" in part:
                header.CorrectedImage = ["DECY", "NORM"]
            if part == "localizer":
                header.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
            change(header, part)

        return apply

    for part in parts.split():
        is_pet = part.startswith("pet")
        stored = STORED if is_pet else np.random.default_rng(2).integers(0, 1500, (20, 18, 6))
        write_series(folder / part, stored, AFFINE if is_pet else FINE, "PT" if is_pet else "CT",
                     intercept=0 if is_pet else -1000, change=label(part), description=part)  # fmt: skip
    return folder


def run(source: Path, output: Path, **options) -> sap.convert:
    return sap.convert(source, output, **{"progress": False} | options)


def tree(folder: Path) -> list[str]:
    hidden = (".conversion.csv.lock",)
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")
                  if path.is_file() and path.name not in hidden)  # fmt: skip


@pytest.fixture
def masks(monkeypatch) -> None:
    """Reading of label maps on the PET's own grid, where the package's own reader is absent."""
    try:
        import seganypet.pet.mask_files  # noqa: F401
    except ImportError:
        module = types.ModuleType("seganypet.pet.mask_files")
        module.load_masks = lambda path, like: {
            path.name.removesuffix(".nii.gz"): labels > 0 for labels in [sap.load_labels(path, like)]
        }
        monkeypatch.setitem(sys.modules, "seganypet.pet.mask_files", module)


def test_a_study_becomes_suv_and_ct_on_the_grid_of_the_pet(tmp_path):
    make_study(tmp_path / "in" / "any" / "where")
    done = run(tmp_path / "in", tmp_path / "out")
    (case,) = sap.Cohort.from_autopet(tmp_path / "out")
    pet, ct = case.load_pet(), case.load_ct()
    assert np.allclose(pet.data, SUV, rtol=1e-5) and np.allclose(pet.to_mm((0, 0, 7)), AFFINE[:3, 3], atol=1e-3)
    expected = resample_to(load_dicom(tmp_path / "in" / "any" / "where" / "ct"), pet)
    assert np.allclose(ct.data, expected.data, atol=1e-3) and np.allclose(ct.affine, pet.affine)
    assert done.table["error"].isna().all() and done.skipped == []
    assert "Miller" not in (tmp_path / "out" / "conversion.csv").read_text() + str(tree(tmp_path / "out"))


def test_a_tree_of_patients_is_converted_and_read_back_as_one_cohort(tmp_path):
    make_study(tmp_path / "in" / "a", "PSMA_01")
    make_study(tmp_path / "in" / "b", "Müller/7", "20200101")
    make_study(tmp_path / "in" / "c", "PSMA_01", "20220101")
    done = run(tmp_path / "in", tmp_path / "out")
    cohort = sap.Cohort.from_csv(tmp_path / "out" / "cohort.csv")
    assert len(cohort) == 3 and len({case.patient for case in cohort}) == 2
    assert [(case.name, case.pet) for case in sorted(cohort, key=lambda case: case.name)] == [
        (case.name, case.pet) for case in sorted(sap.Cohort.from_path(tmp_path / "out"), key=lambda case: case.name)
    ]
    assert done.table["patient"].str.startswith("Müller-7-").sum() == 1
    assert all(case.load_pet().shape == SHAPE for case in cohort)


def test_two_studies_of_one_day_and_studies_without_patient_stay_apart(tmp_path):
    for number in range(2):
        make_study(tmp_path / "in" / f"same{number}", "P1", study=f"morning {number}")
        make_study(tmp_path / "in" / f"blank{number}", "", study=f"anonymous {number}")
    table = run(tmp_path / "in", tmp_path / "out").table
    assert table["case"].nunique() == 4 and table["patient"].nunique() == 3 and table["error"].isna().all()


def test_nnunets_layout_says_its_channels_and_is_read_by_them(tmp_path, masks):
    def psma(header, part):
        if part == "pet":
            header.RadiopharmaceuticalInformationSequence[0].Radiopharmaceutical = "Ga-68 PSMA-11"

    make_study(tmp_path / "in" / "a", "Lung_1", change=psma)
    make_study(tmp_path / "in" / "b", "B")
    (tmp_path / "masks").mkdir()
    mask = np.zeros(SHAPE, bool)
    mask[2:4, 3, 3:6] = True
    save_mask(tmp_path / "masks" / "Lung_1.nii.gz", mask, like=load_dicom(tmp_path / "in" / "a" / "pet"))
    table = run(tmp_path / "in", tmp_path / "out", layout="nnunet", masks=tmp_path / "masks").table
    assert table["notes"].fillna("").str.contains("holds no masks named").tolist() == [True, False]
    assert json.loads((tmp_path / "out" / "dataset.json").read_text()) == {
        "channel_names": {"0": "CT", "1": "PET"}, "labels": {"background": 0, "lesion": 1}, "numTraining": 1,
        "file_ending": ".nii.gz",
    }  # fmt: skip
    (drawn,) = sap.Cohort.from_nnunet(tmp_path / "out")
    assert (drawn.patient, drawn.tracer) == ("Lung-1", "PSMA") and drawn.pet.name.endswith("_0001.nii.gz")
    assert np.array_equal(drawn.load_lesions(drawn.load_pet()) > 0, mask)
    with pytest.warns(UserWarning, match="labelsTs"):
        (plain,) = sap.Cohort.from_path(tmp_path / "out" / "imagesTs")
    assert plain.lesions is None and plain.load_ct().data.min() < -500
    by_table = {case.name: case for case in sap.Cohort.from_csv(tmp_path / "out" / "cohort.csv")}
    assert by_table[drawn.name].tracer == "PSMA" and by_table[plain.name].tracer is None
    assert table["lesion_names"].notna().sum() == 1


def test_masks_of_healthy_scans_are_written_and_anatomy_is_no_lesion(tmp_path, monkeypatch):
    module = types.ModuleType("seganypet.pet.mask_files")
    full = np.ones(SHAPE, bool)
    drawn = {"Lung_L": full, "GTV 1": SUV > 4}
    module.load_masks = lambda path, like: {} if "healthy" in path.name else drawn
    monkeypatch.setitem(sys.modules, "seganypet.pet.mask_files", module)
    (tmp_path / "masks").mkdir()
    for patient in ("healthy", "ill"):
        make_study(tmp_path / "in" / patient, patient)
        (tmp_path / "masks" / f"{patient}.nii.gz").write_bytes(b"x")
    table = run(tmp_path / "in", tmp_path / "out", masks=tmp_path / "masks").table.set_index("patient")
    lesions = {case.patient: case.load_lesions(pet) for case in sap.Cohort.from_autopet(tmp_path / "out")
               if (pet := case.load_pet())}  # fmt: skip
    assert not lesions["healthy"].any() and lesions["ill"].sum() == (SUV > 4).sum()
    assert table.loc["ill", "lesion_names"] == "GTV 1" and "Lung_L in the masks" in table.loc["ill", "notes"]


# ---- which series


def test_the_corrected_pet_is_taken_and_what_is_left_out_is_listed(tmp_path):
    def dose_report(header, part):
        if part == "report":
            header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
            header.Modality = "OT"

    make_study(tmp_path / "in", parts="pet_nac pet localizer report ct", change=dose_report)
    (row,) = run(tmp_path / "in", tmp_path / "out").table.to_dict("records")
    assert "'pet'" in row["pet_series"] and "'ct'" in row["ct_series"]
    assert "'pet_nac'" in row["left_out"] and "not attenuation corrected" in row["left_out"]
    assert "'localizer'" in row["left_out"] and "'report'" in row["left_out"]


@pytest.mark.parametrize(("parts", "message"), [
    ("pet_osem pet_tof ct", "2 PET series may be meant; choose by --series UID"),
    ("pet ct_soft ct_lung", "2 CT series may be meant"),
])  # fmt: skip
def test_several_reconstructions_are_refused_with_their_list_until_named(tmp_path, parts, message):
    make_study(tmp_path / "in" / "a", parts=parts)
    make_study(tmp_path / "in" / "b", "P2")
    with pytest.warns(UserWarning, match="case P1_.* failed"):
        table = run(tmp_path / "in", tmp_path / "out").table.set_index("patient")
    assert pd.isna(table.loc["P2", "error"]) and re.search(message, table.loc["P1", "error"])
    first = uid(f"P1 20210304 {[part for part in parts.split() if 'ct' not in part or 'soft' in part][-1]}")
    table = run(tmp_path / "in", tmp_path / "out", series=[first]).table.set_index("patient")
    assert table["error"].isna().all() and first in "".join(table.loc["P1", ["pet_series", "ct_series"]])


def test_an_uncorrected_pet_is_refused_by_the_rules_and_by_hand(tmp_path):
    make_study(tmp_path / "in", parts="pet_nac ct")
    for series, message in (((), "no PET fits; its PET series:.*CorrectedImage does not name ATTN"),
                            ((uid("P1 20210304 pet_nac"),), "CorrectedImage .* without ATTN")):  # fmt: skip
        with pytest.warns(UserWarning, match="case P1_.* failed"):
            (row,) = run(tmp_path / "in", tmp_path / "out", series=series).table.to_dict("records")
        assert re.search(message, row["error"]), row["error"]


def test_a_series_that_is_nowhere_is_refused_at_once(tmp_path):
    make_study(tmp_path / "in")
    with pytest.raises(DicomError, match="no series 1.2.3 in any study; there are:\n.*'ct'"):
        run(tmp_path / "in", tmp_path / "out", series=["1.2.3"])


def test_without_corrected_image_the_description_tells(tmp_path):
    def bare(header, part):
        if part.startswith("pet"):
            del header.CorrectedImage

    make_study(tmp_path / "in", parts="pet_NAC pet_AC", change=bare)
    (study,), *_ = find_studies(tmp_path / "in")
    assert choose_series(study).pet.description == "pet_AC"


@pytest.mark.parametrize(("change", "reason"), [
    ({"FrameOfReferenceUID": "1.2.3"}, "another frame of reference"),
    ({"ImagePositionPatient": [0, 0, 5000]}, "covers 0%"),
])  # fmt: skip
def test_a_ct_of_another_place_is_not_taken_and_the_reader_is_told(tmp_path, change, reason):
    def move(header, part):
        for name, value in change.items() if part == "ct" else ():
            if name == "ImagePositionPatient":
                value = [float(x) + y for x, y in zip(header.ImagePositionPatient, value, strict=True)]
            setattr(header, name, value)

    make_study(tmp_path / "in", change=move)
    (row,) = run(tmp_path / "in", tmp_path / "out").table.to_dict("records")
    assert reason in row["notes"] and pd.isna(row["ct"]) and pd.isna(row["error"])
    assert not (tmp_path / "out" / row["pet"]).with_name("CTres.nii.gz").exists()
    with pytest.warns(UserWarning, match="nnU-Net needs one"):
        run(tmp_path / "in", tmp_path / "other", layout="nnunet")
    run(tmp_path / "in", tmp_path / "alone", layout="nnunet", ct=False)
    assert json.loads((tmp_path / "alone" / "dataset.json").read_text())["channel_names"] == {"0": "PET"}
    with pytest.warns(UserWarning, match="labelsTs"):
        (case,) = sap.Cohort.from_path(tmp_path / "alone")
    assert case.ct is None and np.allclose(case.load_pet().data, SUV, rtol=1e-5)


def test_the_tracer_is_that_of_the_header_or_of_a_name_and_never_assumed(tmp_path):
    def header_says(header, part):
        if part == "pet":
            header.RadiopharmaceuticalInformationSequence[0].Radiopharmaceutical = "Fluorodeoxyglucose"

    make_study(tmp_path / "in" / "psma_by_mistake", "A", change=header_says)
    make_study(tmp_path / "in" / "PSMA", "B")
    make_study(tmp_path / "in" / "other", "C")
    run(tmp_path / "in", tmp_path / "out")
    assert {case.patient: case.tracer for case in sap.Cohort.from_autopet(tmp_path / "out")} == {
        "A": "FDG", "B": "PSMA", "C": None,
    }  # fmt: skip


# ---- faults, one row each


def test_faults_are_rows_and_the_other_studies_are_converted(tmp_path, capsys):
    def without_weight(header, part):
        if part == "pet":
            del header.PatientWeight

    make_study(tmp_path / "in" / "sound", "sound")
    make_study(tmp_path / "in" / "weight", "weightless", change=without_weight)
    cut = make_study(tmp_path / "in" / "cut", "cut") / "pet" / "image-003.dcm"
    cut.write_bytes(cut.read_bytes()[:200])
    shutil.copytree(make_study(tmp_path / "in" / "twice", "twice"), tmp_path / "in" / "copy")
    make_study(tmp_path / "in" / "ct_only", "ct_only", parts="ct")
    (tmp_path / "in" / "alone").mkdir()
    (tmp_path / "in" / "alone" / "x.dcm").write_bytes(b"no DICOM")
    (tmp_path / "in" / "notes.txt").write_text("read me")
    assert main(["convert", str(tmp_path / "in"), str(tmp_path / "out")]) == 1
    said = capsys.readouterr().out
    assert "1 studies converted, 3 failed." in said
    for expected in (r"error: case weightless_.*PatientWeight", r"error: case cut_.*damaged file.*image-003.dcm",
                     r"error: case twice_.*hold the same objects.*Remove one copy", r"warning: .*ct_only.*no PET among",
                     r"error: .*alone/x.dcm: not a readable DICOM"):  # fmt: skip
        assert re.search(expected, said), expected
    assert [case.patient for case in sap.Cohort.from_path(tmp_path / "out")] == ["sound"]


def test_nothing_to_convert_is_said(tmp_path):
    with pytest.raises(DicomError, match="does not exist"):
        run(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("x")
    with pytest.raises(DicomError, match="no DICOM file among its 1 files"):
        run(tmp_path / "in", tmp_path / "out")
    make_study(tmp_path / "in", parts="ct")
    with pytest.raises(DicomError, match="no PET"):
        run(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(SegAnyPETError, match="layout='bids'"):
        run(tmp_path / "in", tmp_path / "out", layout="bids")
    assert main(["convert", str(tmp_path / "in"), str(tmp_path / "out"), "--masks", "m", "--no-masks"]) == 2


# ---- resuming


def test_a_second_run_converts_what_is_new_changed_or_gone_and_nothing_else(tmp_path):
    make_study(tmp_path / "in" / "a", "A")
    make_study(tmp_path / "in" / "b", "B")
    run(tmp_path / "in", tmp_path / "out")
    pets = {case.patient: case.pet for case in sap.Cohort.from_autopet(tmp_path / "out")}
    before = {patient: path.stat().st_mtime_ns for patient, path in pets.items()}
    make_study(tmp_path / "in" / "c", "C")
    run(tmp_path / "in", tmp_path / "out")
    assert {patient: path.stat().st_mtime_ns for patient, path in pets.items()} == before
    pets["A"].unlink()

    def heavier(header, part):
        if part == "pet":
            header.PatientWeight = "140"

    make_study(tmp_path / "in" / "b", "B", change=heavier)
    with pytest.warns(UserWarning, match="measured again"):
        table = run(tmp_path / "in", tmp_path / "out").table
    assert table["error"].isna().all() and len(table) == 3
    assert np.allclose(load_volume(pets["B"], "SUVbw").data, SUV * 2, rtol=1e-5)
    assert np.allclose(load_volume(pets["A"], "SUVbw").data, SUV, rtol=1e-5)


def test_a_run_that_is_killed_leaves_no_part_of_a_study_and_the_next_one_goes_on(tmp_path, monkeypatch):
    from seganypet.study import conversion as module

    make_study(tmp_path / "in" / "a", "A")
    make_study(tmp_path / "in" / "b", "B")

    def killed(ct, like):
        if "/b/" in ct.source:
            raise KeyboardInterrupt
        return resample_to(ct, like)

    monkeypatch.setattr(module, "resample_to", killed)
    for layout in ("autopet", "nnunet"):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "in", tmp_path / layout, layout=layout)
        assert all("A" in path for path in tree(tmp_path / layout) if path.endswith(".nii.gz"))
    monkeypatch.undo()
    for layout in ("autopet", "nnunet"):
        assert run(tmp_path / "in", tmp_path / layout, layout=layout).table["error"].isna().all()
        assert sum("B" in path and path.endswith(".nii.gz") for path in tree(tmp_path / layout)) == 2
        assert not [path for path in (tmp_path / layout).iterdir() if path.name.startswith(".unfinished")]


def test_another_layout_does_not_go_into_the_same_folder(tmp_path):
    make_study(tmp_path / "in")
    run(tmp_path / "in", tmp_path / "out")
    with pytest.raises(SegAnyPETError, match="made with layout autopet; now asked for is layout nnunet"):
        run(tmp_path / "in", tmp_path / "out", layout="nnunet")


def test_linked_folders_are_followed_once_and_processes_share_the_work(tmp_path):
    make_study(tmp_path / "elsewhere", "A")
    make_study(tmp_path / "in" / "b", "B")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in", target_is_directory=True)
    table = run(tmp_path / "in", tmp_path / "out", processes=2).table
    assert table["patient"].tolist() == ["A", "B"] and table["error"].isna().all()


def test_a_real_study_keeps_its_suv_and_its_ct(tmp_path, real_data):
    source = real_data / "acrin042"
    if not (source / "PET_AC").is_dir():
        pytest.skip(f"no {source / 'PET_AC'}")
    done = run(source, tmp_path / "out")
    (row,) = done.table.to_dict("records")
    assert pd.isna(row["error"]), row["error"]
    image = nib.load(tmp_path / "out" / row["pet"])
    assert float(np.asanyarray(image.dataobj).max()) == pytest.approx(51.09, abs=0.01)
    assert nib.load(tmp_path / "out" / row["ct"]).shape == image.shape


@pytest.mark.parametrize("kind", ["seg", "rtstruct"])
def test_masks_in_the_study_itself_are_found_and_several_are_refused(tmp_path, kind):
    mask_files = pytest.importorskip("seganypet.pet.mask_files")
    folder = make_study(tmp_path / "in", "P1")
    pet = load_dicom(folder / "pet")
    mask = np.zeros(SHAPE, bool)
    mask[2:7, 2:7, 2:6] = True
    at = folder / ("RTSTRUCT.dcm" if kind == "rtstruct" else "seg.dcm")
    mask_files.save_masks(at, {"GTV 1": mask, "Liver": ~mask}, like=pet, reference=folder / "pet")
    (row,) = run(tmp_path / "in", tmp_path / "out").table.to_dict("records")
    assert pd.isna(row["error"]) and row["lesion_names"] == "GTV 1" and "Liver in the masks" in row["notes"]
    (case,) = sap.Cohort.from_path(tmp_path / "out")
    assert sap.dice(case.load_lesions(pet) > 0, mask) > 0.97
    other = folder / "seg2.dcm"
    mask_files.save_masks(other, {"GTV 1": mask}, like=pet, reference=folder / "pet")
    with pytest.warns(UserWarning, match="2 mask series may be meant"):
        run(tmp_path / "in", tmp_path / "out")
    assert run(tmp_path / "in", tmp_path / "plain", masks=False).table["error"].isna().all()


def test_files_of_all_studies_in_one_folder_without_suffix_or_preamble_are_sorted_out(tmp_path):
    for patient in ("A", "B"):
        make_study(tmp_path / "apart" / patient, patient, parts="pet pet_nac ct localizer")
    (tmp_path / "flat").mkdir()
    for number, path in enumerate(sorted((tmp_path / "apart").rglob("*.dcm"))):
        shutil.move(path, tmp_path / "flat" / f"IM{number:04d}")
    table = run(tmp_path / "flat", tmp_path / "out").table
    assert table["patient"].tolist() == ["A", "B"] and table["error"].isna().all()
    assert all(np.allclose(case.load_pet().data, SUV, rtol=1e-5) for case in sap.Cohort.from_path(tmp_path / "out"))


def test_a_pet_with_the_class_of_a_ct_is_neither(tmp_path):
    def ct_class(header, part):
        if part == "pet_odd":
            header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = CTImageStorage

    make_study(tmp_path / "in", parts="pet_odd ct", change=ct_class)
    make_study(tmp_path / "both", parts="pet pet_odd ct", change=ct_class)
    with pytest.warns(UserWarning, match="no PET fits.*another kind, CT Image Storage"):
        run(tmp_path / "in", tmp_path / "out")
    (row,) = run(tmp_path / "both", tmp_path / "other").table.to_dict("records")
    assert "'pet'" in row["pet_series"] and "'ct'" in row["ct_series"] and pd.isna(row["error"])


def test_archives_and_reports_within_a_series_do_not_pass_in_silence(tmp_path):
    def report(header, part):
        if part == "pet" and not seen:
            seen.append(1)
            header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage

    seen: list[int] = []
    make_study(tmp_path / "in", change=report)
    (tmp_path / "in" / "more.zip").write_bytes(b"PK")
    done = run(tmp_path / "in", tmp_path / "out")
    (said,) = done.skipped
    assert said == f"{tmp_path / 'in' / 'more.zip'}: an archive, which is not opened; unpack it to convert it."
    (case,) = sap.Cohort.from_path(tmp_path / "out")
    assert case.load_pet().shape == (*SHAPE[:2], SHAPE[2] - 1)  # the report is no slice


def test_a_header_and_names_that_disagree_on_the_tracer_are_told_of(tmp_path):
    def header_says(header, part):
        if part == "pet":
            header.RadiopharmaceuticalInformationSequence[0].Radiopharmaceutical = "Fluorodeoxyglucose"

    make_study(tmp_path / "in" / "PSMA", "A", change=header_says)
    (row,) = run(tmp_path / "in", tmp_path / "out").table.to_dict("records")
    assert row["tracer"] == "FDG" and "the tracer is FDG, names of series or folders say PSMA" in row["notes"]
