import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import oblique

from seganypet.cohort.case import Case
from seganypet.cohort.cohort import Cohort
from seganypet.cohort.labels import ORGAN_CONVENTIONS, detect_organ_convention
from seganypet.errors import CohortError, GeometryError, VolumeError
from seganypet.organs import ORGANS
from seganypet.pet.volume import Volume, save_mask, save_volume

HEADER = "case,patient,pet,pet_unit,ct,organs,organ_convention,lesions,quality,split,tracer"
SHAPE = (10, 12, 14)


@pytest.fixture
def pet() -> Volume:
    data = np.random.default_rng(0).random(SHAPE, np.float32)
    return Volume(data, oblique(spacing=(4.07, 4.07, 3.0), left_handed=True), "SUVbw")


@pytest.fixture
def folder(tmp_path: Path, pet: Volume) -> Path:
    """A folder with one scan: organs 1, 2 and 7, and three lesions of 3, 8 and 2 voxels."""
    organs, lesions = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    organs[1:4, 1:4, 1:4], organs[5:7, 1:4, 1:4], organs[8, 8, 8] = 1, 2, 7
    lesions[1, 1, 1:4] = 1
    lesions[5:7, 5:7, 5:7] = 1  # one lesion, although ...
    lesions[6, 6, 6] = 2  # ... its last voxel has another label
    lesions[9, 9, 9] = lesions[8, 10, 10] = 3  # corner to corner: one lesion for clicking
    (tmp_path / "scans").mkdir()
    save_volume(tmp_path / "scans" / "pet.nii.gz", pet)
    save_mask(tmp_path / "scans" / "organs.nii.gz", organs, like=pet)
    save_mask(tmp_path / "scans" / "lesions.nii.gz", lesions, like=pet)
    return tmp_path


ROW = "a,p1,scans/pet.nii.gz,SUVbw,,scans/organs.nii.gz,seganypet,scans/lesions.nii.gz,HQ,train,FDG"


def table(folder: Path, *rows: str, header: str = HEADER) -> Path:
    path = folder / "cohort.csv"
    path.write_text("\n".join((header, *rows)) + "\n")
    return path


def test_table_gives_cases_in_order_with_files_beside_it(folder, pet):
    cohort = Cohort.from_csv(table(folder, ROW, "b,p2,scans/pet.nii.gz,Bq/mL,,,,,,,"))
    assert len(cohort) == 2 and [case.name for case in cohort] == ["a", "b"]
    assert cohort["b"] == Case("b", "p2", folder / "scans" / "pet.nii.gz", "Bq/mL")
    assert cohort["b"].load_pet().unit == "Bq/mL"
    assert np.array_equal(cohort["a"].load_pet().data, pet.data)


def test_table_survives_writing_and_reading_from_another_folder(folder):
    cohort = Cohort.from_csv(table(folder, ROW, "b,p2,scans/pet.nii.gz,Bq/mL,,,,,,,"))
    cohort.to_csv(folder / "elsewhere" / "copy.csv")
    assert "../scans/pet.nii.gz" in (folder / "elsewhere" / "copy.csv").read_text()
    again = Cohort.from_csv(folder / "elsewhere" / "copy.csv")
    for old, new in zip(cohort, again, strict=True):
        assert (old.name, old.quality, old.split, old.tracer) == (new.name, new.quality, new.split, new.tracer)
        assert old.pet.samefile(new.pet)


def test_table_of_a_spreadsheet_with_mark_and_blank_lines_is_read(folder):
    path = folder / "cohort.csv"
    path.write_bytes(b"\xef\xbb\xbfcase, patient ,pet,pet_unit\r\na,p1,scans/pet.nii.gz , SUVbw\r\n,,,\r\n")
    assert [case.patient for case in Cohort.from_csv(path)] == ["p1"]


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        ([], HEADER, "no cases"),
        ([ROW], "case;patient;pet;pet_unit", r"columns \['case', 'patient', 'pet', 'pet_unit'\] are missing"),
        (["a,p1,scans/pet.nii.gz"], "case,patient,pet", r"columns \['pet_unit'\] are missing"),
        (["a,p1,scans/pet.nii.gz,SUVbw,x"], "case,patient,pet,pet_unit,note", r"unknown columns \['note'\]"),
        (["a,p1,scans/pet.nii.gz,SUVbw,x"], "case,patient,pet,pet_unit,pet", "a column occurs twice"),
        (["a,p1,scans/pet.nii.gz,SUVbw"], HEADER, "line 2: 4 cells; the header has 11"),
        ([ROW, ROW.replace("p1", "")], HEADER, r"line 3 .*\['patient'\] must not be blank"),
        ([ROW.replace("SUVbw", "HU")], HEADER, "line 2: case a: pet_unit='HU'.*SUVbw, Bq/mL"),
        ([ROW.replace("HQ", "good")], HEADER, "quality='good'.*HQ, LQ"),
        ([ROW.replace("seganypet", "mine")], HEADER, "organ_convention='mine'.*autopet-organ-12"),
        ([ROW.replace("scans/pet", "scans/PET2")], HEADER, "line 2 .*pet file .*PET2.nii.gz does not exist"),
        ([ROW, ROW], HEADER, "case a occurs twice"),
        ([ROW, ROW.replace("a,", "b,", 1).replace("train", "test")], HEADER, "patient p1 is in split 'train'"),
        (['a,"p1,scans/pet.nii.gz,SUVbw'], "case,patient,pet,pet_unit", "not a readable CSV"),
    ],
)
def test_each_fault_of_a_table_is_named(folder, rows, header, message):
    with pytest.raises(CohortError, match=message):
        Cohort.from_csv(table(folder, *rows, header=header))


def test_missing_table_and_unknown_case_are_named(folder):
    with pytest.raises(CohortError, match="no such cohort table"):
        Cohort.from_csv(folder / "none.csv")
    with pytest.raises(CohortError, match="no case 'z' among 1: a"):
        Cohort.from_csv(table(folder, ROW))["z"]
    with pytest.raises(CohortError, match="case a: the cohort names no CT"):
        Cohort.from_csv(table(folder, ROW))["a"].load_ct()


def test_targets_are_organs_then_all_lesions_then_each_lesion(folder):
    case = Cohort.from_csv(table(folder, ROW))["a"]
    sizes = {name: int(mask.sum()) for name, mask in case.targets()}
    # Absent organs are empty masks, to be counted; lesions are 26-connected whatever their labels, largest first.
    organs = dict.fromkeys(ORGANS, 0) | {"liver": 27, "kidney_left": 18, "prostate": 1}
    assert sizes == organs | {"lesions": 13, "lesion_01": 8, "lesion_02": 3, "lesion_03": 2}
    assert list(sizes)[:12] == list(ORGANS)


def test_wanted_targets_only(folder):
    case = Cohort.from_csv(table(folder, ROW))["a"]

    def names(*only):
        return [name for name, _ in case.targets(only=only)]

    assert names("spleen", "liver") == ["liver", "spleen"]
    assert names("lesions") == ["lesions"]
    assert names("lesion") == ["lesion_01", "lesion_02", "lesion_03"]
    assert names("lesion_02") == ["lesion_02"]


@pytest.mark.parametrize(("damaged", "wanted"), [("lesions", "liver"), ("organs", "lesion_02")])
def test_files_without_any_wanted_target_are_not_read(folder, damaged, wanted):
    (folder / "scans" / f"{damaged}.nii.gz").write_bytes(b"no image")
    case = Cohort.from_csv(table(folder, ROW))["a"]
    assert [name for name, _ in case.targets(only=[wanted])] == [wanted]
    with pytest.raises(VolumeError, match=f"{damaged}.nii.gz"):
        list(case.targets())


def test_labels_on_another_grid_are_refused(folder, pet):
    smaller = Volume(pet.data[1:], pet.affine, "SUVbw")
    save_mask(folder / "scans" / "lesions.nii.gz", np.zeros(smaller.shape, bool), like=smaller)
    with pytest.raises(GeometryError, match=r"lesions.nii.gz.*do not lie on the grid"):
        list(Cohort.from_csv(table(folder, ROW))["a"].targets(only=["lesions"]))


def test_convention_decides_what_a_label_means(folder, pet):
    organs = np.zeros(SHAPE, np.uint8)
    organs[1, 1, 1], organs[2, 2, 2:4] = 7, 12
    save_mask(folder / "scans" / "organs.nii.gz", organs, like=pet)

    def sizes(convention):
        case = Cohort.from_csv(table(folder, ROW.replace("seganypet", convention)))["a"]
        return {name: int(mask.sum()) for name, mask in case.targets() if mask.any() and not name.startswith("lesion")}

    assert sizes("seganypet") == {"prostate": 1, "lung_middle_lobe_right": 2}
    assert sizes("autopet-organ-12") == {"lung_lower_lobe_left": 1, "lung_middle_lobe_right": 2}
    with pytest.raises(CohortError, match=r"case a: .*labels \[12\], which organ_convention='autopet-organ' does not"):
        sizes("autopet-organ")


@pytest.mark.parametrize(
    ("labels", "label_7_ml", "convention"),
    [
        (range(12), 600.0, "autopet-organ"),  # 7 is a lobe, the middle lobe is 11
        ([*range(11), 12], 600.0, "autopet-organ-12"),  # the reported variant
        (range(13), 30.0, "seganypet"),  # the README's order, a man
        ([*range(7), *range(8, 13)], 0.0, "seganypet"),  # a woman: 11 and 12 are both lobes
        (range(12), 30.0, "seganypet"),  # a prostate, and no middle lobe
        ([0, 1, 5], 0.0, "seganypet"),  # all agree on 1 to 6
    ],
)
def test_convention_is_told_by_labels_and_the_size_of_label_7(labels, label_7_ml, convention):
    assert detect_organ_convention(labels, label_7_ml) == convention


def test_ambiguous_and_unknown_labels_ask_for_the_convention():
    with pytest.raises(CohortError, match="could follow seganypet or autopet-organ.*organ_convention"):
        detect_organ_convention([1, 8, 9, 10, 11], 0.0)  # 8: left lower lobe, or right
    with pytest.raises(CohortError, match="follow no known convention"):
        detect_organ_convention([1, 13], 0.0)
    with pytest.raises(CohortError, match="follow no known convention"):
        detect_organ_convention(range(13), 600.0)  # a lobe as 7 leaves no meaning for both 11 and 12


def test_detected_convention_is_said_aloud_and_a_stated_one_is_not(folder):
    with pytest.warns(UserWarning, match=r"case a: .*organs.nii.gz was taken to follow organ_convention='seganypet'"):
        next(Cohort.from_csv(table(folder, ROW.replace("seganypet", "")))["a"].targets())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        next(Cohort.from_csv(table(folder, ROW))["a"].targets())


def test_conventions_differ_only_where_reported():
    first_six = [[names[label] for label in range(1, 7)] for names in ORGAN_CONVENTIONS.values()]
    assert first_six[0] == first_six[1] == first_six[2]
    assert ORGAN_CONVENTIONS["autopet-organ"][11] == ORGAN_CONVENTIONS["autopet-organ-12"][12] == ORGANS[-1]
    assert "prostate" not in ORGAN_CONVENTIONS["autopet-organ"].values()


def test_autopet_tree_is_read(tmp_path, pet):
    for study in ("PETCT_0a/03-23-2003-NA-PET-CT", "PETCT_0a/07-01-2004-NA-PET-CT", "PETCT_1b/01-01-2001-NA-PET-CT"):
        (tmp_path / study).mkdir(parents=True)
        save_volume(tmp_path / study / "SUV.nii.gz", pet)
        save_volume(tmp_path / study / "PET.nii.gz", pet)
        save_mask(tmp_path / study / "SEG.nii.gz", pet.data > 0.9, like=pet)
    save_volume(tmp_path / study / "CTres.nii.gz", pet)
    cohort = Cohort.from_autopet(tmp_path)
    assert [case.patient for case in cohort] == ["PETCT_0a", "PETCT_0a", "PETCT_1b"]
    case = cohort["PETCT_1b_01-01-2001-NA-PET-CT"]
    assert (case.pet_unit, case.tracer, case.ct.name) == ("SUVbw", "FDG", "CTres.nii.gz")
    assert dict(case.targets(only=["lesions"]))["lesions"].sum() == (pet.data > 0.9).sum()
    (tmp_path / study / "SEG.nii.gz").unlink()
    with pytest.warns(UserWarning, match=r"3 of 3 cases lack files \(case PETCT_0a.*CTres.*PETCT_1b.*SEG.nii.gz"):
        cohort = Cohort.from_autopet(tmp_path)
    problems = cohort.validate(voxels=False, progress=False)
    rows = {(row.case, row.part) for row in problems[problems["problem"] == "missing"].itertuples()}
    assert rows == {(name, "ct") for name in list(cohort._cases)[:2]} | {(case.name, "lesions")}


def test_nnunet_folder_is_read(tmp_path, pet):
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "labelsTr").mkdir()
    for name in ("fdg_0a1b_03-23-2003-NA-PET-CT", "psma_95b8_2018-04-16", "hospital7"):
        save_volume(tmp_path / "imagesTr" / f"{name}_0000.nii.gz", Volume(pet.data, pet.affine, "HU"))
        save_volume(tmp_path / "imagesTr" / f"{name}_0001.nii.gz", pet)
        save_mask(tmp_path / "labelsTr" / f"{name}.nii.gz", pet.data > 0.9, like=pet)
    cohort = Cohort.from_nnunet(tmp_path)
    found = {(case.patient, case.tracer) for case in cohort}
    assert found == {("0a1b", "FDG"), ("95b8", "PSMA"), ("hospital7", None)}
    assert cohort["hospital7"].load_pet().unit == "SUVbw" and cohort["hospital7"].load_ct().unit == "HU"
    (tmp_path / "labelsTr" / "hospital7.nii.gz").unlink()
    (tmp_path / "imagesTr" / "psma_95b8_2018-04-16_0001.nii.gz").unlink()
    with pytest.warns(UserWarning, match="case hospital7: .*labelsTr.*; case psma_95b8_2018-04-16: .*_0001.nii.gz"):
        cohort = Cohort.from_nnunet(tmp_path)
    problems = cohort.validate(voxels=False, progress=False)
    missing = problems[problems["problem"] == "missing"][["case", "part"]]
    assert missing.values.tolist() == [["hospital7", "lesions"], ["psma_95b8_2018-04-16", "pet"]]


def test_each_layout_points_to_the_other(tmp_path):
    with pytest.raises(CohortError, match="use from_nnunet"):
        Cohort.from_autopet(tmp_path)
    with pytest.raises(CohortError, match="use from_autopet"):
        Cohort.from_nnunet(tmp_path)


def many(**changes) -> Cohort:
    """20 cases of 10 patients."""
    pet = Path("pet.nii.gz")
    return Cohort(
        Case(f"c{n}", f"p{n % 10}", pet, "SUVbw", quality="HQ" if n < 5 else "LQ", **changes) for n in range(20)
    )


def test_split_keeps_patients_together_and_repeats_with_the_seed():
    cohort = many().split_by_patient(seed=3, fractions={"train": 0.7, "val": 0.1, "test": 0.2})
    patients = {name: {case.patient for case in cohort.filter(split=name)} for name in ("train", "val", "test")}
    assert [len(group) for group in patients.values()] == [7, 1, 2]
    assert not (patients["train"] & patients["test"] or patients["train"] & patients["val"])
    again = Cohort(reversed(list(many()))).split_by_patient(3, {"train": 0.7, "val": 0.1, "test": 0.2})
    assert {case.name: case.split for case in cohort} == {case.name: case.split for case in again}
    other = many().split_by_patient(4, {"train": 0.7, "val": 0.1, "test": 0.2})
    assert {case.name: case.split for case in cohort} != {case.name: case.split for case in other}


def test_impossible_splits_are_refused():
    with pytest.raises(CohortError, match="add up to 1"):
        many().split_by_patient(0, {"train": 0.7, "test": 0.2})
    with pytest.raises(CohortError, match="10 patients are too few"):
        many().split_by_patient(0, {"train": 0.99, "test": 0.01})


def test_filter_says_what_there_is_when_nothing_fits():
    assert len(many().filter(quality="HQ")) == 5
    assert len(many(split="train").filter(split="train", quality="LQ")) == 15
    with pytest.raises(CohortError, match=r"split='tset', quality=None, only \[\('train', 'HQ'\)"):
        many(split="train").filter(split="tset")


def test_a_tree_of_which_nothing_can_be_used_is_refused_and_every_study_counted(tmp_path, pet):
    for number in range(7):
        study = tmp_path / f"PETCT_{number}" / "01-01-2001-NA-PET-CT"
        study.mkdir(parents=True)
        save_mask(study / "SEG.nii.gz", pet.data > 0.9, like=pet)
    with pytest.raises(CohortError, match=r"PETCT_0.*PETCT_4.*SUV.nii.gz; and 2 more. Is the download"):
        Cohort.from_autopet(tmp_path)


# ---- phantoms


def test_phantoms_are_a_cohort_of_files_that_are_made_once(tmp_path, monkeypatch):
    cohort = Cohort.from_phantoms(2, seed=9000, folder=tmp_path, progress=False)
    assert [case.name for case in cohort] == ["phantom_internal_9000", "phantom_internal_9001"]
    assert cohort.validate(progress=False).empty
    names = [name for name, mask in cohort["phantom_internal_9000"].targets(only=["liver", "lesion_01"]) if mask.any()]
    assert names == ["liver", "lesion_01"]
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nii.gz")}
    Cohort.from_phantoms(2, seed=9000, folder=tmp_path, progress=False)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nii.gz")} == written
    # Without lesions: other phantoms, beside the first. By another version: made again.
    (healthy,) = Cohort.from_phantoms(1, seed=9000, folder=tmp_path, lesions=False, progress=False)
    assert healthy.name == "phantom_internal_9000_healthy"
    assert not dict(healthy.targets(only=["lesions"]))["lesions"].any()
    assert cohort["phantom_internal_9000"].load_lesions(cohort["phantom_internal_9000"].load_pet()).any()
    made = healthy.pet.stat().st_mtime_ns
    monkeypatch.setattr("seganypet.cohort.cohort.__version__", "0.0.0")
    Cohort.from_phantoms(1, seed=9000, folder=tmp_path, lesions=False, progress=False)
    assert healthy.pet.stat().st_mtime_ns > made


def test_a_phantom_that_was_cut_off_while_it_was_written_is_made_again(tmp_path):
    first = Cohort.from_phantoms(1, seed=9005, folder=tmp_path, progress=False)["phantom_internal_9005"]
    whole = first.pet.read_bytes()
    first.pet.write_bytes(whole[:1000])
    (first.pet.parent / "made_by.txt").unlink()  # written last, so absent after a crash
    again = Cohort.from_phantoms(1, seed=9005, folder=tmp_path, progress=False)["phantom_internal_9005"]
    assert again.pet.read_bytes() == whole
    again.lesions.unlink()
    (again,) = Cohort.from_phantoms(1, seed=9005, folder=tmp_path, progress=False)
    assert again.lesions.is_file()


def test_phantoms_go_to_the_cache_if_no_folder_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGANYPET_CACHE", str(tmp_path))
    case = next(iter(Cohort.from_phantoms(1, seed=9005, progress=False)))
    assert case.pet == tmp_path / "phantoms" / "phantom_internal_9005" / "SUV.nii.gz"


@pytest.mark.parametrize(("n", "seed"), [(0, 0), (-1, 0), (2.5, 0), ("3", 0), (1, -1), (1, 1.5), (1, None)])
def test_a_number_of_phantoms_that_is_none_is_refused(n, seed):
    with pytest.raises(CohortError, match="(n|seed)=.*integer of at least [01]"):
        Cohort.from_phantoms(n, seed)


def test_phantoms_need_a_place(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CohortError, match="cannot write phantoms .*another folder"):
        Cohort.from_phantoms(1, folder=tmp_path / "file", progress=False)


# ---- organ labels from elsewhere


def autopet(folder: Path, pet: Volume, *studies: str) -> Cohort:
    for study in studies:
        (folder / "autopet" / study).mkdir(parents=True)
        save_volume(folder / "autopet" / study / "SUV.nii.gz", pet)
        save_mask(folder / "autopet" / study / "SEG.nii.gz", pet.data > 0.9, like=pet)
    return Cohort.from_autopet(folder / "autopet")


@pytest.mark.parametrize(
    "name", ["PETCT_0a1b", "petct_0A1B_03-23-2003-NA-PET-CT", "fdg_0a1b_03-23-2003-NA-PET-CT", "sub/PETCT_0a1b"]
)
def test_organ_labels_find_their_case_by_its_name(tmp_path, pet, name):
    cohort = autopet(tmp_path, pet, "PETCT_0a1b/03-23-2003-NA-PET-CT", "PETCT_1b/01-01-2001-NA-PET-CT")
    path = tmp_path / "organs" / f"{name}.nii.gz"
    path.parent.mkdir(parents=True)
    organs = np.zeros(SHAPE, np.uint8)
    organs[1:3, 1, 1] = 1
    save_mask(path, organs, like=pet)
    labelled = cohort.with_organs(tmp_path / "organs", "autopet-organ")
    assert [case.patient for case in labelled] == ["PETCT_0a1b"]
    sizes = {name: int(mask.sum()) for name, mask in next(iter(labelled)).targets(only=["liver", "lesions"])}
    assert sizes["liver"] == 2 and sizes["lesions"] > 0  # the lesions stay


def test_organ_labels_of_a_patient_with_two_scans_need_the_scan(tmp_path, pet):
    cohort = autopet(tmp_path, pet, "PETCT_0a1b/03-23-2003-NA-PET-CT", "PETCT_0a1b/07-01-2004-NA-PET-CT")
    (tmp_path / "organs").mkdir()
    save_mask(tmp_path / "organs" / "PETCT_0a1b.nii.gz", np.ones(SHAPE, np.uint8), like=pet)
    save_mask(tmp_path / "organs" / "PETCT_5e6f.nii.gz", np.ones(SHAPE, np.uint8), like=pet)  # of another cohort
    left_out = pytest.warns(UserWarning, match=r"several cases, and so left out: PETCT_0a1b\.nii\.gz\. Name each file")
    with left_out, pytest.raises(CohortError, match=r"none of its files \(PETCT_0a1b, PET.*such as PETCT_0a1b_03-23"):
        cohort.with_organs(tmp_path / "organs")
    save_mask(tmp_path / "organs" / f"{next(iter(cohort)).name}.nii.gz", np.ones(SHAPE, np.uint8), like=pet)
    with pytest.warns(UserWarning, match=r"left out: PETCT_0a1b\.nii\.gz\."):
        assert len(cohort.with_organs(tmp_path / "organs")) == 1


def test_two_files_for_one_case_are_a_question(tmp_path, pet):
    cohort = autopet(tmp_path, pet, "PETCT_0a1b/03-23-2003-NA-PET-CT")
    (tmp_path / "organs").mkdir()
    for name in ("petct_0a1b", "PETCT-0a1b"):
        save_mask(tmp_path / "organs" / f"{name}.nii.gz", np.ones(SHAPE, np.uint8), like=pet)
    with pytest.raises(CohortError, match="all match; keep one"):
        cohort.with_organs(tmp_path / "organs")


def test_any_path_is_opened_as_what_it_is(folder, tmp_path, pet):
    assert Cohort.from_path(table(folder, ROW))["a"].patient == "p1"
    assert [case.patient for case in autopet(tmp_path / "new", pet, "PETCT_0/1")] == ["PETCT_0"]
    assert [case.patient for case in Cohort.from_path(tmp_path / "new" / "autopet")] == ["PETCT_0"]
    (tmp_path / "nnunet" / "imagesTr").mkdir(parents=True)
    with pytest.raises(CohortError, match="expected imagesTr/<case>_0000"):
        Cohort.from_path(tmp_path / "nnunet")
    with pytest.raises(CohortError, match="does not exist; expected a cohort.csv, an AutoPET tree or an nnU-Net"):
        Cohort.from_path(tmp_path / "none")


def test_a_file_that_is_named_exactly_is_taken_and_none_serves_two_cases(tmp_path, pet):
    (tmp_path / "pet.nii.gz").write_bytes(b"")
    cases = [Case(f"{tracer}_x1_2020", f"{tracer} x1", tmp_path / "pet.nii.gz", "SUVbw") for tracer in ("fdg", "psma")]
    (tmp_path / "organs").mkdir()
    for tracer in ("fdg", "psma"):
        save_mask(tmp_path / "organs" / f"{tracer}_x1_2020.nii.gz", np.ones(SHAPE, np.uint8), like=pet)
    labelled = Cohort(cases).with_organs(tmp_path / "organs")
    assert [case.organs.name for case in labelled] == ["fdg_x1_2020.nii.gz", "psma_x1_2020.nii.gz"]
    (tmp_path / "organs" / "psma_x1_2020.nii.gz").unlink()
    with pytest.raises(CohortError, match="matches cases fdg_x1_2020 and psma_x1_2020; name it exactly"):
        Cohort(cases).with_organs(tmp_path / "organs")
    with pytest.raises(CohortError, match="none is not a folder"):
        Cohort(cases).with_organs(tmp_path / "none")


def test_files_that_macos_leaves_behind_are_passed_over(tmp_path, pet):
    cohort = autopet(tmp_path, pet, "PETCT_0a1b/03-23-2003-NA-PET-CT")
    study = tmp_path / "autopet" / "PETCT_0a1b" / "03-23-2003-NA-PET-CT"
    (study / "._SUV.nii.gz").write_bytes(b"x")
    (tmp_path / "autopet" / ".trash" / "1").mkdir(parents=True)
    (tmp_path / "autopet" / ".trash" / "1" / "SUV.nii.gz").write_bytes(b"x")
    assert [case.name for case in Cohort.from_autopet(tmp_path / "autopet")] == [case.name for case in cohort]
    (tmp_path / "organs").mkdir()
    save_mask(tmp_path / "organs" / "PETCT_0a1b.nii.gz", np.ones(SHAPE, np.uint8), like=pet)
    (tmp_path / "organs" / "._PETCT_0a1b.nii.gz").write_bytes(b"x")
    assert len(cohort.with_organs(tmp_path / "organs")) == 1
