"""Tables as the supplement prints them, and tests paired over patients."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import wilcoxon

import seganypet as sap
from seganypet.errors import SegAnyPETError
from seganypet.organs import ORGANS
from seganypet.study.paper_tables import read_results, table
from seganypet.study.statistics import by_patient, compare, holm, paired_test


def results(models=("seganypet-v1", "sam-vit-b"), patients: int = 12, modality: str = "PET") -> pd.DataFrame:
    """The first model is better by 0.1 in the liver of everybody, and equal elsewhere; one patient has no aorta."""
    rng = np.random.default_rng(5)
    rows = []
    for patient in range(patients):
        for target in ("liver", "spleen", "aorta"):
            level = rng.uniform(0.6, 0.8)
            for number, model in enumerate(models):
                better = 0.1 + 0.001 * patient if target == "liver" and number == 0 else 0.0
                for click in (1, 2, 3, 5):
                    dsc = np.nan if (target, patient) == ("aorta", 0) else level + better + 0.01 * click
                    prompt = f"{click if click > 1 else ''}N" if model.startswith("sam-vit") else str(click)
                    rows.append((f"case {patient}", f"p{patient}", target, model, modality, click, prompt, dsc, None))
    names = ["case", "patient", "target", "model", "modality", "click", "prompt", "dsc", "error"]
    return pd.DataFrame(rows, columns=names)


def test_table_2_has_our_means_beside_the_published_ones():
    cells = table(results(), like=2).to_frame().set_index(["row", "column"])
    ours = cells.loc[("Liver", "SegAnyPET, 1")]
    mean = 100 * results().query("model == 'seganypet-v1' and target == 'liver' and click == 1")["dsc"].mean()
    assert ours["percent"] == pytest.approx(mean) and ours["low"] < mean < ours["high"] and ours["patients"] == 12
    theirs = sap.published(2).query("target == 'liver' and model == 'SegAnyPET' and click == 1")["dsc"].item()
    assert cells.loc[("Liver", "SegAnyPET, published, 1"), "percent"] == pytest.approx(100 * theirs)
    assert {"Mean of seen organs", "Mean of unseen organs"} <= {row for row, _ in cells.index}
    assert not [column for _, column in cells.index if column.endswith(", 2")]  # rounds that the supplement prints


def test_undefined_values_are_counted_and_never_averaged():
    made = table(results(), like=2)
    aorta = made.to_frame().set_index(["row", "column"]).loc[("Aorta", "SegAnyPET, 1")]
    assert (aorta["patients"], aorta["undefined"]) == (11, 1)
    assert "N = 11 to 12 patients, by cell." in made.notes and "undefined" in " ".join(made.notes)


def test_a_star_says_where_a_paired_test_finds_a_difference():
    made = table(results(), like=2, against="sam-vit-b").to_frame()
    marked = set(made.loc[made["marked"], "row"])
    assert marked == {"Liver", "Mean of seen organs"}  # where every patient gains


def test_every_form_holds_every_number():
    made = table(results(), like=2, against="sam-vit-b")
    latex, text = made.to_latex(), made.to_markdown()
    assert latex.count(r"\\") == 1 + len({cell.row for cell in made.cells}) and r"\textbf{" in latex
    assert "_" not in latex.replace(r"\_", "") and "%" not in latex.replace(r"\%", "")
    for cell in made.cells:
        assert f"{cell.percent:.2f}" in latex and f"{cell.percent:.2f}" in text
    assert len(made.to_csv().splitlines()) == 1 + len(made.cells)


def test_table_3_sets_ct_beside_pet_and_the_automatic_method():
    both = pd.concat([
        results(["sam-med3d-turbo"]), results(["sam-med3d-turbo on CT"], modality="registered CT"),
        results(["TotalSegmentator"], modality="registered CT").query("click == 1").assign(click=0, prompt="auto"),
    ])  # fmt: skip
    cells = table(both, like=3).to_frame()
    ours = cells[~cells["row"].str.contains("published")]
    assert set(ours["row"]) == {"SAM-Med3D-turbo, PET", "SAM-Med3D-turbo, registered CT",
                                "TotalSegmentator, registered CT"}  # fmt: skip
    assert set(ours.loc[ours["row"].str.startswith("Total"), "column"]) == {"auto"}
    theirs = cells[cells["row"] == "SAM-Med3D-turbo, published, registered CT"]
    assert theirs.loc[theirs["column"] == "1", "percent"].item() == 66.59


def test_table_4_names_strategies():
    cells = table(results(["mine"]), like=4, names={"mine": "CPCL"}).to_frame().set_index(["row", "column"])
    assert cells.loc[("CPCL, published", "seen, 1"), "percent"] == 90.49
    assert cells.loc[("CPCL", "unseen, 5"), "patients"] == 11  # aorta alone


def test_table_5_is_of_whole_scans_by_prompting():
    rows = [
        {"case": f"c{n}", "patient": f"p{n}", "model": model, "prompting": prompting, "lesion": lesion, "click": click,
         "lesions": 2, "dsc": 0.5 + 0.01 * n, "error": None}
        for n in range(4) for model, prompting in (("tiny", "all at once"), ("sam-vit-b", "per slice"))
        for lesion in ("all", "lesion_01") for click in (1, 3)
    ]  # fmt: skip
    cells = table(pd.DataFrame(rows), like=5).to_frame().set_index(["row", "column"])
    assert cells.loc[("tiny, all at once", "1"), "patients"] == 4
    assert cells.loc[("SAM, per slice", "3N"), "percent"] == pytest.approx(51.5)
    assert cells.loc[("SAM, published", "5N"), "percent"] == 40.91


@pytest.mark.parametrize(("arguments", "message"), [
    ({"like": 1}, "expected one of 2, 3, 4, 5"), ({"against": "medsam"}, "not among the models seganypet-v1, sam"),
    ({"like": 5}, "lack column prompting"),
])  # fmt: skip
def test_tables_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(SegAnyPETError, match=message):
        table(results(), **arguments)


def test_a_table_is_read_back_as_it_was_written(tmp_path):
    results().assign(case="NA").to_csv(tmp_path / "t.csv", index=False)
    again = read_results(tmp_path / "t.csv")
    assert set(again["case"]) == {"NA"} and again["error"].isna().all()
    (tmp_path / "cut.csv").write_text('case,dsc\n"a')
    with pytest.raises(SegAnyPETError, match="cannot be read as the table of a study"):
        read_results(tmp_path / "cut.csv")
    with pytest.raises(SegAnyPETError, match=r"none\.csv: No such file"):
        read_results(tmp_path / "none.csv")


# ---- tests

def test_models_are_compared_patient_by_patient():
    found = compare(results(), "seganypet-v1", "sam-vit-b").set_index("target")
    assert found.loc["liver", "difference"] == pytest.approx(0.1055) and found.loc["liver", "low"] > 0.1
    assert found.loc["liver", "p"] == pytest.approx(wilcoxon(np.arange(1, 13)).pvalue)  # all of one sign
    assert found.loc["spleen", ["difference", "p", "p_holm"]].tolist() == [0, 1, 1]
    assert found.loc["aorta", ["patients", "left_out"]].tolist() == [11, 1]
    assert (found["click"] == 5).all()


def test_several_lesions_of_a_patient_are_one_observation():
    values = by_patient(pd.Series([0.2, 0.4, np.nan, 0.9, np.nan]), pd.Series(["a", "a", "a", "b", "c"]))
    assert values.to_dict() == {"a": pytest.approx(0.3), "b": 0.9}


def test_without_pairs_nothing_is_claimed():
    nothing = paired_test(pd.Series({"a": 0.5}), pd.Series({"b": 0.5}))
    assert nothing.patients == 0 and np.isnan(nothing[1:]).all()


def test_holm_is_the_step_down_method():
    # by hand: sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, never falling
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])


def test_organs_keep_the_order_of_their_labels():
    rows = [cell.row[0] for cell in table(results(), like=2).cells if "published" not in cell.column[0]]
    organs = [row for row in dict.fromkeys(rows) if not row.startswith("Mean")]
    assert organs == ["Liver", "Spleen", "Aorta"] and len(ORGANS) == 12
