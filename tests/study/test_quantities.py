import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import oblique

from seganypet._files import only_writer
from seganypet.cohort.case import Case
from seganypet.cohort.cohort import Cohort
from seganypet.errors import SegAnyPETError, VolumeError
from seganypet.pet.volume import Volume, save_mask, save_volume
from seganypet.prompting import proposal
from seganypet.prompting.proposal import Proposal
from seganypet.study.quantities import COLUMNS, quantify_case, quantify_cohort

SHAPE = (20, 22, 24)
AFFINE = oblique(spacing=(4.07, 4.07, 3.0), left_handed=True)
VOXEL_ML = 4.07 * 4.07 * 3.0 / 1000


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    """Two cases: liver at SUV 2 and spleen at 3, 8 voxels each; lesions of 12 voxels at 10 and of 1 at 5."""
    data = np.full(SHAPE, 0.5)
    organs, lesions = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    organs[2:4, 2:4, 2:4], organs[2:4, 8:10, 2:4] = 1, 5
    lesions[10:12, 10:12, 10:13], lesions[16, 16, 16] = 1, 1  # one label, two lesions
    data[organs == 1], data[organs == 5], data[lesions > 0], data[16, 16, 16] = 2, 3, 10, 5
    pet = Volume(data, AFFINE, "SUVbw")
    save_volume(tmp_path / "pet.nii.gz", pet)
    save_mask(tmp_path / "organs.nii.gz", organs, like=pet)
    save_mask(tmp_path / "lesions.nii.gz", lesions, like=pet)
    case = Case(
        "a", "p1", tmp_path / "pet.nii.gz", "SUVbw", organs=tmp_path / "organs.nii.gz", organ_convention="seganypet",
        lesions=tmp_path / "lesions.nii.gz",
    )  # fmt: skip
    return Cohort([case, replace(case, name="b", patient="p2", organs=None)])


def values(table: pd.DataFrame, quantity: str) -> dict:
    rows = table[table["quantity"] == quantity]
    return dict(zip(rows["object"], rows["value"], strict=True))


def test_a_case_gives_its_organs_then_each_lesion_then_all_together(cohort):
    table = quantify_case(cohort["a"])
    assert [*table.columns, "error"] == list(COLUMNS)
    kinds = table.drop_duplicates("object")[["object", "kind"]].to_numpy().tolist()
    assert kinds == [["liver", "organ"], ["spleen", "organ"], ["lesion_01", "lesion"], ["lesion_02", "lesion"],
                     ["lesions", "lesions"]]  # fmt: skip
    assert values(table, "SUVmax") == {"liver": 2, "spleen": 3, "lesion_01": 10, "lesion_02": 5, "lesions": 10}
    sizes = {"liver": 8, "spleen": 8, "lesion_01": 12, "lesion_02": 1, "lesions": 13}
    assert values(table, "MTV") == pytest.approx({name: n * VOXEL_ML for name, n in sizes.items()}, rel=1e-5)
    assert values(table, "TLG")["lesions"] == pytest.approx((12 * 10 + 5) * VOXEL_ML, rel=1e-5)
    assert set(table["source"]) == {str(cohort["a"].pet)}


@pytest.fixture
def spleen_proposed(monkeypatch):
    """Whatever the scan, a spleen of 8 voxels is proposed."""

    def propose(volume):
        labels = np.zeros(volume.shape, np.uint8)
        labels[2:4, 8:10, 2:4] = 5
        return Proposal(volume, labels, {5: "spleen"}, {"spleen": 0.81}, (), "proposed by a test")

    monkeypatch.setattr(proposal, "propose", propose)


def test_organs_that_nobody_drew_are_proposed_on_request_and_the_table_says_so(cohort, spleen_proposed):
    table = quantify_cohort(cohort, propose=True, progress=False)
    drawn, found = (table[(table["case"] == case) & (table["kind"] == "organ")] for case in "ab")
    assert drawn[["proposed_by", "confidence"]].isna().all(axis=None)  # organs that are drawn are measured as drawn
    assert set(found["object"]) == {"spleen"} and set(found["proposed_by"]) == {"proposed by a test"}
    assert set(found["confidence"]) == {0.81} and values(found, "SUVmax") == {"spleen": 3}
    assert table.loc[table["kind"] != "organ", "proposed_by"].isna().all()
    assert "organ" not in set(quantify_case(cohort["b"])["kind"])


def test_drawn_and_proposed_organs_do_not_share_a_table_by_mistake(cohort, spleen_proposed, tmp_path):
    quantify_cohort(cohort, output=tmp_path / "q.csv", progress=False)
    with pytest.raises(SegAnyPETError, match="propose"):
        quantify_cohort(cohort, propose=True, output=tmp_path / "q.csv", progress=False)


def test_a_rule_narrows_lesions_and_leaves_organs(cohort):
    table = quantify_case(cohort["a"], threshold="SUV>=4")
    assert values(table, "MTV")["liver"] == pytest.approx(8 * VOXEL_ML, rel=1e-5)
    together = values(quantify_case(cohort["a"], threshold="41% SUVmax"), "MTV")["lesions"]
    assert together == pytest.approx(13 * VOXEL_ML, rel=1e-5)  # 5 is 50 % of 10


def test_a_cohort_is_its_cases_below_each_other(cohort):
    table = quantify_cohort(cohort, progress=False)
    assert table.groupby("case")["object"].nunique().to_dict() == {"a": 5, "b": 3}
    assert table.groupby("case")["patient"].first().to_dict() == {"a": "p1", "b": "p2"}
    first = table[table["case"] == "a"].reset_index(drop=True).drop(columns="error")
    pd.testing.assert_frame_equal(first, quantify_case(cohort["a"]), check_dtype=False)


def test_cases_that_cannot_be_measured_are_named_with_the_reason(cohort):
    a, b = cohort
    cases = [
        replace(a, name="bq", patient="p3", pet_unit="Bq/mL"),
        replace(a, name="bare", patient="p4", organs=None, lesions=None),
        replace(a, name="gone", patient="p5", pet=Path("none.nii.gz")),
        b,
    ]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        table = quantify_cohort(Cohort(cases), progress=False)
    failed = table.groupby("case", sort=False)["error"].first().notna()
    assert failed.to_dict() == {"bq": True, "bare": True, "gone": True, "b": False}
    messages = [str(one.message) for one in said]
    for name, why in (("bq", "Bq/mL"), ("bare", "nothing to measure"), ("gone", "does not exist")):
        assert any(f"case {name} failed: " in message and why in message for message in messages)


def test_a_pet_in_bq_ml_is_measured_by_what_its_sidecar_says_now(cohort, tmp_path):
    a = replace(cohort["a"], pet=tmp_path / "bq.nii.gz", pet_unit="Bq/mL")
    pet = cohort["a"].load_pet()
    save_volume(a.pet, replace(pet, data=pet.data * 4000, unit="Bq/mL"))
    said = {
        "Units": "Bq/mL", "BodyWeight": 80, "InjectedRadioactivity": 200, "InjectedRadioactivityUnits": "MBq",
        "TracerRadionuclide": "F18", "DecayCorrection": "ADMIN",
    }  # fmt: skip
    output, measured = tmp_path / "table.csv", []
    for weight_kg in (80, 50):  # typed wrong at first
        (tmp_path / "bq.json").write_text(json.dumps(said | {"BodyWeight": weight_kg}))
        table = quantify_cohort([a], output=output, progress=False).set_index(["object", "quantity"])["value"]
        measured.append(table["liver", "SUVmax"])
    assert measured == pytest.approx([2 * 4000 * 80e3 / 200e6, 2 * 4000 * 50e3 / 200e6])


def test_a_killed_run_resumes_where_it_stopped(cohort, tmp_path, monkeypatch):
    output = tmp_path / "table.csv"
    first = quantify_cohort(Cohort([cohort["a"]]), output=output, progress=False)
    asked = []
    monkeypatch.setattr(Case, "load_pet", lambda case, load=Case.load_pet: (asked.append(case.name), load(case))[1])
    both = quantify_cohort(cohort, output=output, progress=False)
    assert asked == ["b"]
    assert len(both) == len(first) + len(both[both["case"] == "b"])
    blank = ["error", "proposed_by"]  # which a CSV does not tell from text or number
    written = pd.read_csv(output).drop(columns=blank)
    pd.testing.assert_frame_equal(written, both.drop(columns=blank), check_dtype=False)
    again = quantify_cohort(cohort, output=output, progress=False)
    assert asked == ["b"] and len(again) == len(both)


def test_a_case_whose_files_changed_is_measured_again(cohort, tmp_path):
    output = tmp_path / "table.csv"
    before = values(quantify_cohort(cohort, output=output, progress=False), "SUVmax")
    pet = cohort["a"].load_pet()
    save_volume(cohort["a"].pet, Volume(2 * pet.data, AFFINE, "SUVbw"))
    with pytest.warns(UserWarning, match="case a is measured again: pet changed since"):
        after = values(quantify_cohort(cohort, output=output, progress=False), "SUVmax")
    assert after == {name: 2 * value for name, value in before.items()}
    assert len(pd.read_csv(output)) == 8 * 5  # replaced, not added
    # Organs were drawn for the second case since.
    drawn = Cohort([cohort["a"], replace(cohort["b"], organs=cohort["a"].organs, organ_convention="seganypet")])
    with pytest.warns(UserWarning, match="case b is measured again: organs changed"):
        table = quantify_cohort(drawn, output=output, progress=False)
    assert table.groupby("case")["object"].nunique()["b"] == 5


def test_other_cases_in_the_file_stay_and_are_not_returned(cohort, tmp_path):
    output = tmp_path / "table.csv"
    quantify_cohort(cohort, output=output, progress=False)
    table = quantify_cohort(Cohort([cohort["b"]]), output=output, progress=False)
    assert set(table["case"]) == {"b"} and set(pd.read_csv(output)["case"]) == {"a", "b"}


@pytest.mark.parametrize("name", ["NA", "nan", "None", "007", "1e5", "a, b"])
def test_any_name_survives_the_file(cohort, tmp_path, name):
    odd = Cohort([replace(cohort["b"], name=name, patient=name)])
    first = quantify_cohort(odd, output=tmp_path / "table.csv", progress=False)
    again = quantify_cohort(odd, output=tmp_path / "table.csv", progress=False)
    pd.testing.assert_frame_equal(first, again, check_dtype=False)
    assert set(again["case"]) == set(again["patient"]) == {name}


@pytest.mark.parametrize("content", ["", "case,dsc\na,0.5\n", '"a\n'])
def test_another_table_is_not_overwritten(cohort, tmp_path, content):
    (tmp_path / "table.csv").write_text(content)
    with pytest.raises(SegAnyPETError, match="table.csv .*Choose another output"):
        quantify_cohort(cohort, output=tmp_path / "table.csv", progress=False)
    assert (tmp_path / "table.csv").read_text() == content


def test_a_table_of_another_rule_is_not_mixed_in(cohort, tmp_path):
    quantify_cohort(cohort, threshold="41% SUVmax", output=tmp_path / "table.csv", progress=False)
    with pytest.raises(SegAnyPETError, match="made with threshold 41% SUVmax; now asked for is threshold SUV>=4"):
        quantify_cohort(cohort, threshold="SUV>=4", output=tmp_path / "table.csv", progress=False)


def test_two_runs_do_not_overwrite_each_other(cohort, tmp_path):
    table = tmp_path / "table.csv"
    refused = pytest.raises(SegAnyPETError, match="table.csv is being written by another run; wait")
    with only_writer(table), refused:
        quantify_cohort(cohort, output=table, progress=False)
    quantify_cohort(cohort, output=table, progress=False)
    assert sorted(path.name for path in tmp_path.glob("table*")) == ["table.csv", "table.csv.jsonl"]


@pytest.mark.parametrize("wrong", [{"threshold": "42%"}, {"threshold": 5}, {"peak": "x"}])
def test_a_wrong_rule_is_refused_before_any_case_is_read(cohort, wrong):
    with pytest.raises(VolumeError, match="expected"):
        quantify_cohort(Cohort([replace(cohort["a"], pet=Path("none.nii.gz"))]), **wrong, progress=False)


def test_a_healthy_case_has_a_volume_of_zero(cohort, tmp_path):
    case = cohort["b"]
    save_mask(tmp_path / "none.nii.gz", np.zeros(SHAPE, bool), like=case.load_pet())
    table = quantify_case(replace(case, lesions=tmp_path / "none.nii.gz"))
    assert table["value"].dtype == float
    assert values(table, "MTV") == {"lesions": 0.0} and np.isnan(values(table, "SUVmax")["lesions"])
