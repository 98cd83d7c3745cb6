"""Means over patients, and 2D against 3D at equal rounds and equal clicks, from tables written by hand."""

import numpy as np
import pandas as pd
import pytest

from seganypet.errors import SegAnyPETError
from seganypet.study.interactive import MEASURES, summarise_interactive
from seganypet.study.statistics import compare
from seganypet.study.summaries import effort, summarise, summarise_tumours, two_d_against_three_d


def row(case: str, model: str, prompting: str, click: int, total_clicks: int, dsc: float, **more) -> dict:
    cells = {"case": case, "patient": case, "model": model, "lesions_in_training": "none", "prompting": prompting}
    cells |= {"lesion": "all", "click": click, "total_clicks": total_clicks, "model_seconds": 1.0, "dsc": dsc}
    return cells | {"fpv_ml": 1.0, "fnv_fraction": 0.1, "f1": 0.5, "lesions": 3, "volume_ml": np.nan} | more


@pytest.fixture
def table() -> pd.DataFrame:
    """Two patients. 2D: 10 and 20 slices. 3D one by one: 4 and 30 lesions."""
    rows = []
    for case, slices, lesions, dsc_2d, dsc_3d in (("a", 10, 4, 0.5, 0.3), ("b", 20, 30, 0.7, 0.9)):
        for click in (1, 2, 3):
            rows.append(row(case, "flat", "per slice", click, click * slices, dsc_2d + 0.01 * click))
            rows.append(row(case, "deep", "one by one", click, click * lesions, dsc_3d + 0.02 * click))
    return pd.DataFrame(rows)


def test_equal_rounds_compare_the_same_round_of_both(table):
    found = two_d_against_three_d(table, "flat", "deep", "one by one").set_index(["prompt_2d", "matched"])
    at_n = found.loc[("N", "rounds")]
    assert at_n["patients"] == 2 and at_n["clicks_2d"] == 15 and at_n["clicks_3d"] == 17
    assert at_n["dsc_2d"] == pytest.approx(0.61) and at_n["dsc_3d"] == pytest.approx(0.62)
    # a: 0.51 - 0.32, b: 0.71 - 0.92; the interval runs between the two patients.
    assert at_n["difference"] == pytest.approx(-0.01)
    assert at_n["low"] == pytest.approx(-0.21) and at_n["high"] == pytest.approx(0.19)


def test_equal_clicks_take_the_last_round_that_costs_no_more(table):
    found = two_d_against_three_d(table, "flat", "deep", "one by one").set_index(["prompt_2d", "matched"])
    at_n, at_2n = found.loc[("N", "clicks")], found.loc[("2N", "clicks")]
    # At N, a's 10 clicks pay for two rounds on four lesions; b's 20 for none on thirty.
    assert at_n["patients"] == 1 and at_n["clicks_3d"] == 8 and at_n["difference"] == pytest.approx(0.51 - 0.34)
    assert np.isnan(at_n["low"])
    # At 2N, a's 20 for all three rounds, b's 40 for one.
    assert at_2n["patients"] == 2 and at_2n["clicks_3d"] == (12 + 30) / 2
    assert at_2n["dsc_3d"] == pytest.approx((0.36 + 0.92) / 2)


def test_a_patient_with_three_scans_counts_once():
    scans = [("a", "a1", 0.9, 0.1), ("a", "a2", 0.9, 0.1), ("a", "a3", 0.9, 0.1), ("b", "b1", 0.2, 0.8)]
    rows = []
    for patient, case, dsc_2d, dsc_3d in scans:
        rows.append(row(case, "flat", "per slice", 1, 12, dsc_2d, patient=patient))
        rows.append(row(case, "deep", "one by one", 1, 4 if patient == "a" else 8, dsc_3d, patient=patient))
    found = two_d_against_three_d(pd.DataFrame(rows), "flat", "deep", "one by one").set_index("matched").loc["rounds"]
    assert found["patients"] == 2 and found["clicks_3d"] == 6
    assert found["dsc_2d"] == pytest.approx(0.55) and found["dsc_3d"] == pytest.approx(0.45)
    assert found["difference"] == pytest.approx(0.1)


def test_healthy_scans_count_for_no_method_but_in_a_column_of_their_own():
    healthy = {"dsc": np.nan, "fnv_fraction": np.nan, "f1": np.nan, "lesions": 0, "fpv_ml": 300.0}
    rows = [
        row("sick", "SUV>=4", "no click", 0, 0, 0.4, fpv_ml=100.0),
        row("healthy", "SUV>=4", "no click", 0, 0, **healthy),
        row("sick", "deep", "one by one", 1, 3, 0.6),
    ]
    summary = summarise_tumours(pd.DataFrame(rows)).set_index("model")
    assert summary["patients"].tolist() == [1, 1] and summary["fpv_ml"].tolist() == [100.0, 1.0]
    assert summary.loc["SUV>=4", "healthy_fpv_ml"] == 300 and np.isnan(summary.loc["deep", "healthy_fpv_ml"])


def test_a_comparison_without_rows_says_what_there_is(table):
    with pytest.raises(SegAnyPETError, match="no scan of 'deep', 'all at once'.*'one by one'"):
        two_d_against_three_d(table, "flat", "deep", "all at once")


def test_an_older_table_with_two_kinds_of_windows_is_not_averaged(table):
    older = pd.concat([table.assign(auto_zoom=False), table.assign(auto_zoom=True, dsc=0.99)], ignore_index=True)
    for summary in (summarise_tumours, lambda table: two_d_against_three_d(table, "flat", "deep", "one by one")):
        with pytest.raises(SegAnyPETError, match=r"two kinds of windows \(auto_zoom\).*table\[~table\['auto_zoom'\]\]"):
            summary(older)
        pd.testing.assert_frame_equal(summary(older[~older["auto_zoom"]]), summary(table))


def test_a_summary_counts_scans_and_single_lesions_apart(table):
    lesions = [
        row("a", "deep", "one by one", 1, 1, 0.8, lesion="lesion_01", volume_ml=9.0),
        row("a", "deep", "one by one", 1, 1, 0.6, lesion="lesion_02", volume_ml=4.0),
        row("a", "deep", "one by one", 1, 1, 0.1, lesion="lesion_03", volume_ml=0.5),  # too small to count
        row("b", "deep", "one by one", 1, 1, 0.3, lesion="lesion_01", volume_ml=5.0),
    ]
    summary = summarise_tumours(pd.concat([table, pd.DataFrame(lesions)]))
    first = summary.set_index(["model", "prompting", "click"]).loc[("deep", "one by one", 1)]
    assert first["patients"] == 2 and first["dsc"] == pytest.approx(0.62) and first["total_clicks"] == 17
    assert first["counted"] == 3 and first["lesion_dsc"] == pytest.approx((0.7 + 0.3) / 2)  # each patient once
    assert summary[summary["model"] == "flat"]["lesion_dsc"].isna().all()
    assert summarise_tumours(pd.concat([table, pd.DataFrame(lesions)]), min_volume_ml=0).set_index(
        ["model", "prompting", "click"]
    ).loc[("deep", "one by one", 1), "lesion_dsc"] == pytest.approx((0.5 + 0.3) / 2)


# ---- several tables below each other

def rounds(case: str, dsc: list[float], **more) -> pd.DataFrame:
    cells = {"case": case, "patient": case[0], "target": "liver", "model": "tiny", "protocol": "deepest", "error": None}
    cells |= {"human_seconds": 2.0, "model_seconds": 1.0, "total_clicks": 1, "hd95_mm": 4.0} | more
    return pd.DataFrame([cells | {"click": number, "dsc": one} for number, one in enumerate(dsc, 1)])


def test_a_case_that_stands_in_two_tables_counts_once():
    one = [rounds("a1", [0.2, 0.4, 0.6]), rounds("a2", [0.8, 0.9, 0.9]), rounds("b1", [0.5, 0.5, 0.5])]
    again = one[1].assign(model_seconds=1.5)  # measured by another job, too
    for summary in (summarise, effort):
        pd.testing.assert_frame_equal(summary(pd.concat([*one, again])), summary(pd.concat(one)))
        with pytest.raises(SegAnyPETError, match="3 rows stand in .* with other numbers, first a1, liver"):
            summary(pd.concat([*one, one[0].assign(dsc=0.1)]))


def test_targets_without_a_mask_are_counted_where_distances_leave_them_out():
    nothing, absent = (rounds(case, [dsc], hd95_mm=np.nan) for case, dsc in (("b1", 0.0), ("c1", np.nan)))
    (found,) = summarise(pd.concat([rounds("a1", [0.5]), nothing, absent])).to_dict("records")
    assert (found["targets"], found["empty"], found["no_mask"], found["hd95_mm"]) == (2, 1, 1, 4.0)


def test_areas_over_the_steps_are_of_one_way_to_draw_strokes():
    def steps(strokes: str, dsc: float) -> pd.DataFrame:
        fixed = {"case": "a", "patient": "a", "model": "tiny", "edition": "V", "objects": "per_lesion", "error": None}
        return pd.DataFrame([fixed | dict.fromkeys(MEASURES, dsc) | {"strokes": strokes, "step": n} for n in range(6)])

    both = summarise_interactive(pd.concat([steps("centerline", 0.5), steps("random", 0.25)])).set_index("strokes")
    assert both["auc_dsc"].to_dict() == {"centerline": 2.5, "random": 1.25}  # five steps wide
    old = steps("", 0.5).drop(columns=["strokes", "edition"])
    assert summarise_interactive(pd.concat([old, old]))["auc_dsc"].tolist() == [2.5]


@pytest.mark.parametrize("measure", [
    summarise, effort, summarise_tumours, summarise_interactive, lambda table: compare(table, "a", "b"),
    lambda table: two_d_against_three_d(table, "a", "b", "one by one"),
])  # fmt: skip
def test_a_table_of_another_study_is_refused_in_words(measure):
    with pytest.raises(SegAnyPETError, match="the table lacks column case, patient, .*; expected a table of [a-z]"):
        measure(pd.DataFrame({"model": ["a", "b"], "object": "liver", "value": 1.0}))
