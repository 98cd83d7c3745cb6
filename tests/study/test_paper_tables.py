"""Tables as the supplement prints them, and tests paired over patients."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import wilcoxon

import seganypet as sap
from seganypet.cli import main
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
    assert any(note.startswith("1 targets of cases are undefined") for note in made.notes)  # one aorta, in all cells
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
    ({"like": 5}, "lacks column prompting, lesion; expected a table of analyse_tumours"),
    ({"names": {"seganypet": "SegAnyPET"}}, "names: seganypet not among the"),
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


def test_the_command_names_models_whose_names_hold_an_equals_sign(tmp_path, capsys):
    results(["SUV>=4", "tiny"]).to_csv(tmp_path / "t.csv", index=False)
    assert main(["table", str(tmp_path / "t.csv"), "--like", "4", "--names", "SUV>=4=CPCL", "tiny=Fine-Tuning"]) == 0
    printed = capsys.readouterr().out
    assert "| CPCL |" in printed and "| Fine-Tuning |" in printed and "SUV" not in printed


# ---- tests

def test_models_are_compared_patient_by_patient():
    found = compare(results(), "seganypet-v1", "sam-vit-b").set_index("target")
    assert found.loc["liver", "difference"] == pytest.approx(0.1055) and found.loc["liver", "low"] > 0.1
    assert found.loc["liver", "p"] == pytest.approx(wilcoxon(np.arange(1, 13)).pvalue)  # all of one sign
    assert found.loc["spleen", ["difference", "p", "p_holm"]].tolist() == [0, 1, 1]
    assert found.loc["aorta", ["patients", "left_out"]].tolist() == [11, 1]
    assert (found["click"] == 5).all()


def test_several_lesions_of_a_patient_are_one_observation():
    rows = pd.DataFrame({"dsc": [0.2, 0.4, np.nan, 0.9, np.nan], "patient": ["a", "a", "a", "b", "c"]})
    values = by_patient(rows, "dsc")
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


# ---- tables that are put together


def jobs(rows: pd.DataFrame, count: int) -> list[pd.DataFrame]:
    """The rows as an array of jobs leaves them, each with every `count`-th case."""
    cases = list(rows["case"].unique())
    return [rows[rows["case"].isin(cases[job::count])] for job in range(count)]


def test_tables_of_jobs_make_the_table_of_one_run_to_the_bit():
    rows = results(patients=40)
    rows["patient"] = [f"p{int(case.split()[1]) % 13}" for case in rows["case"]]  # several studies of a patient
    one = table(rows, like=2, against="sam-vit-b")
    for together in (jobs(rows, 3), jobs(rows, 3)[::-1], [rows, jobs(rows, 4)[2]]):  # the last has cases twice
        together = pd.concat([part.reset_index(drop=True) for part in together])  # each numbers its rows from 0
        assert table(together, like=2, against="sam-vit-b").to_csv() == one.to_csv()


@pytest.mark.parametrize(("column", "values"), [
    ("weights", ("aa", "bb")), ("protocol", ("deepest, largest_error", "box, largest_error")),
    ("version", ("0.1.0", "0.2.0")), ("precision", ("float32", "bfloat16")),
])  # fmt: skip
def test_rows_of_a_model_that_were_not_made_alike_are_refused(column, values):
    one, two = (part.assign(**{column: value}) for part, value in zip(jobs(results(), 2), values, strict=True))
    with pytest.raises(SegAnyPETError, match=f"differ in {column}: {', '.join(sorted(values))}"):
        table(pd.concat([one, two]), like=2)
    other = two[two["model"] == "sam-vit-b"]  # models may differ from each other
    assert table(pd.concat([one[one["model"] != "sam-vit-b"], other]), like=2).cells
    if column == "precision":
        assert table(pd.concat([one, two]), like=2, mixed_precision=True).cells
        assert len(compare(pd.concat([one, two]), "seganypet-v1", "sam-vit-b", mixed_precision=True)) == 3
    with pytest.raises(SegAnyPETError, match=f"differ in {column}"):
        compare(pd.concat([one, two]), "seganypet-v1", "sam-vit-b")
    if column in ("weights", "version"):  # of protocols and precisions, summaries are
        with pytest.raises(SegAnyPETError, match=f"differ in {column}"):
            sap.summarise(pd.concat([one, two]))


def test_a_case_that_stands_in_two_tables_with_other_numbers_is_refused():
    again = jobs(results(), 3)[1].assign(dsc=0.5)
    with pytest.raises(SegAnyPETError, match=r"96 rows stand in the tables twice .* case 1, seganypet-v1, 1, liver"):
        table(pd.concat([results(), again]), like=2)
    with pytest.raises(SegAnyPETError, match="twice with other numbers"):
        compare(pd.concat([results(), again]), "seganypet-v1", "sam-vit-b")


# ---- pairs


def equal_models(patients: int = 8) -> pd.DataFrame:
    """Two models alike: 0.9 in the first study of each patient, 0.5 in the second; spleens are harder."""
    rows = [
        (f"{patient}-{study}", f"p{patient}", target, model, 5, "5", 0.9 - 0.4 * study - (target == "spleen") / 8, None)
        for patient in range(patients) for study in (0, 1) for target in ("liver", "spleen") for model in "ab"
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["case", "patient", "target", "model", "click", "prompt", "dsc", "error"])


def test_models_are_compared_on_the_studies_and_organs_that_both_have():
    rows = equal_models()
    studies = rows.assign(dsc=rows["dsc"].mask((rows["model"] == "a") & rows["case"].str.endswith("1")))
    found = compare(studies, "a", "b")
    assert found[["difference", "p", "left_out"]].to_numpy().tolist() == [[0, 1, 0], [0, 1, 0]]
    failed = rows.assign(error=rows["error"].mask((rows["model"] == "a") & (rows["target"] == "spleen"), "failed"))
    assert not [cell.row for cell in table(failed, like=2, against="b").cells if cell.marked]


def test_differences_that_rounding_alone_tells_apart_are_ties():
    first = pd.Series({"a": 0.8, "b": 0.9, "c": 0.3, "d": 0.6, "e": 0.5, "f": 0.2, "g": 0.3})
    second = pd.Series({"a": 0.7, "b": 0.8, "c": 0.2, "d": 0.5, "e": 0.6, "f": 0.1, "g": 0.1 + 0.2})
    assert paired_test(first, second).p == wilcoxon([0.1, 0.1, 0.1, 0.1, -0.1, 0.1]).pvalue  # g does not differ


def test_patients_without_a_difference_do_not_make_the_test_of_the_others_approximate():
    patients = [f"p{number}" for number in range(20)]
    second = pd.Series(0.5, patients)
    first = second + np.r_[np.zeros(15), 0.1, 0.12, 0.13, 0.14, 0.15]
    assert paired_test(first, second).p == 2 / 2**5  # of 5 signs that are all the same; the approximation says 0.043


def test_whatever_a_model_is_called_tables_stay_tables():
    odd = r"50% & {x_1}|y^2~$\a"
    made = table(results([odd, "b"]), like=2)
    latex, text = made.to_latex(), made.to_markdown()
    assert r"50\% \& \{x\_1\}|y\textasciicircum{}2\textasciitilde{}\$\textbackslash{}" in latex
    assert len({line.replace(r"\|", "").count("|") for line in text.splitlines() if line.startswith("|")}) == 1
