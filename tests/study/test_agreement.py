"""Bland-Altman by hand and from the paper; organs of one case among others, counted by hand."""

import numpy as np
import pandas as pd
import pytest

from seganypet.errors import SegAnyPETError, UnitError
from seganypet.pet.quantification import quantify
from seganypet.pet.volume import Volume
from seganypet.study.agreement import bland_altman, bland_altman_of, compare_suvmax

# Peak expiratory flow of 17 people with two meters, L/min: Bland and Altman, Lancet 1986.
WRIGHT = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
MINI_WRIGHT = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]


def _table(values, quantity="MTV", unit="mL", **columns):
    """Rows as those of `quantify`; `values` by object, or by (case, object)."""
    rows = []
    for key, value in values.items():
        case, name = key if isinstance(key, tuple) else (None, key)
        rows.append({**({} if case is None else {"case": case}), "object": name, "quantity": quantity,
                     "value": value, "unit": unit})  # fmt: skip
    return pd.DataFrame(rows).assign(**columns)


# ---- Bland-Altman

def test_numbers_by_hand():
    """Differences 0, 1, -1, 4: mean 1, variance (1 + 0 + 4 + 9) / 3."""
    agreement = bland_altman_of([1, 2, 3, 6], [1, 1, 4, 2])
    sd = np.sqrt(14 / 3)
    t3 = 3.182446  # 97.5 % of Student's t with 3 degrees of freedom
    assert (agreement.n, agreement.bias) == (4, 1.0)
    assert agreement.sd == pytest.approx(sd)
    assert (agreement.lower, agreement.upper) == pytest.approx((1 - 1.959964 * sd, 1 + 1.959964 * sd), rel=1e-6)
    assert agreement.bias_interval == pytest.approx((1 - t3 * sd / 2, 1 + t3 * sd / 2), rel=1e-6)
    half = t3 * sd * np.sqrt(1 / 4 + 1.959964**2 / 6)
    for interval, limit in ((agreement.lower_interval, agreement.lower), (agreement.upper_interval, agreement.upper)):
        assert interval == pytest.approx((limit - half, limit + half), rel=1e-6)
    assert agreement.pairs["mean"].tolist() == [1.0, 1.5, 3.5, 4.0]
    assert agreement.pairs["difference"].tolist() == [0.0, 1.0, -1.0, 4.0]


def test_numbers_of_the_paper():
    """Published: bias -2.1 (-22.0 to 17.8), SD 38.8, upper limit's interval about +/- 34.6."""
    agreement = bland_altman_of(WRIGHT, MINI_WRIGHT, quantity="PEFR", unit="L/min")
    assert (agreement.n, round(agreement.bias, 1), round(agreement.sd, 1)) == (17, -2.1, 38.8)
    assert agreement.bias_interval == pytest.approx((-22.0, 17.8), abs=0.1)
    assert (agreement.lower, agreement.upper) == pytest.approx((-2.1 - 1.96 * 38.8, -2.1 + 1.96 * 38.8), abs=0.1)
    # They took sqrt(3 / n) for the standard error of a limit.
    assert np.ptp(agreement.upper_interval) / 2 == pytest.approx(34.6, rel=0.02)


def test_relative_differences_are_percent_of_the_pairs_mean():
    agreement = bland_altman_of([3, 2, 10, 0], [1, 2, 6, 0], unit="mL", relative=True)
    assert agreement.pairs["difference"].tolist() == [100.0, 0.0, 50.0]
    assert (agreement.unit, agreement.difference_unit, agreement.n, agreement.bias) == ("mL", "%", 3, 50.0)
    assert agreement.left_out["why"].tolist() == ["mean 0"]


def test_tables_are_matched_by_case_and_object_and_nothing_is_dropped_in_silence():
    first = _table({("1", "a"): 10.0, ("1", "b"): 20.0, ("2", "a"): 30.0, ("2", "b"): np.nan, ("3", "a"): 5.0})
    second = _table({("2", "a"): 33.0, (1, "b"): 19.0, (1, "a"): 10.0, ("2", "b"): 4.0, ("4", "a"): 5.0})
    agreement = bland_altman(first, second, quantity="MTV")
    assert agreement.pairs[["case", "object"]].to_numpy().tolist() == [["1", "a"], ["1", "b"], ["2", "a"]]
    assert agreement.pairs["difference"].tolist() == [0.0, 1.0, -3.0]
    assert (agreement.quantity, agreement.unit, agreement.difference_unit) == ("MTV", "mL", "mL")
    why = agreement.left_out.set_index(["case", "object"])["why"].to_dict()
    assert why == {
        ("2", "b"): "not a number", ("3", "a"): "not in the second table", ("4", "a"): "not in the first table",
    }  # fmt: skip
    assert agreement.left_out.columns.tolist() == ["case", "object", "first", "second", "why"]
    for said in ("MTV, first - second: bias -0.667 mL", "n = 3", "1 (not a number)", "1 (not in the second table)"):
        assert said in agreement.text


def test_tables_of_quantify_are_compared_as_they_are():
    volume = Volume(np.random.default_rng(0).uniform(1, 5, (12, 12, 12)), np.diag([4.0, 4.0, 3.0, 1.0]), "SUVbw")
    masks = {name: np.zeros(volume.shape, bool) for name in "abc"}
    for at, mask in enumerate(masks.values()):
        mask[at : at + 4, :4, :3] = True
    larger = {name: mask | np.roll(mask, 1, axis=2) for name, mask in masks.items()}
    agreement = bland_altman(quantify(volume, larger), quantify(volume, masks), quantity="MTV")
    assert agreement.bias == pytest.approx(4 * 4 * 1 * 0.048)  # one more layer of 4 x 4 voxels
    assert agreement.sd == pytest.approx(0.0, abs=1e-9)
    assert "left out: none" in agreement.text


def test_lesions_of_a_patient_can_be_averaged_first():
    first = _table({"a": 1.0, "b": 3.0, "c": 5.0, "d": 7.0, "e": 9.0}, patient=["P", "P", "Q", "R", "R"])
    second = _table(dict.fromkeys("abcde", 1.0), patient=["P", "P", "Q", "R", "R"])
    agreement = bland_altman(first, second, quantity="MTV", by_patient=True)
    assert agreement.pairs[["patient", "difference"]].to_numpy().tolist() == [["P", 1.0], ["Q", 4.0], ["R", 7.0]]
    assert (agreement.n, agreement.bias, agreement.sd) == (3, 4.0, 3.0)
    assert bland_altman(first, second, quantity="MTV").n == 5


GOOD = _table({"a": 1.0, "b": 2.0, "c": 4.0})


@pytest.mark.parametrize(
    ("second", "arguments", "error", "message"),
    [
        (GOOD, {"quantity": "TLG"}, SegAnyPETError, "first table has no quantity 'TLG'; it has MTV"),
        (GOOD.assign(unit="cm3"), {}, UnitError, "mL in the first table, in cm3 in the second"),
        (GOOD.assign(unit=["mL", "mL", "L"]), {}, UnitError, "mL and L in the second table"),
        (pd.concat([GOOD, GOOD[:1]]), {}, SegAnyPETError, "second table has MTV of object a twice"),
        (GOOD[:2], {}, SegAnyPETError, "2 pairs to compare, 1 rows left out; expected at least 3"),
        (GOOD.drop(columns="value"), {}, SegAnyPETError, "second table lacks column value"),
        (GOOD.assign(case="1"), {}, SegAnyPETError, "first table lacks column case.*assign"),
        (GOOD, {"by_patient": True}, SegAnyPETError, "first table lacks column patient"),
    ],
)
def test_tables_that_cannot_be_compared_are_refused(second, arguments, error, message):
    with pytest.raises(error, match=message):
        bland_altman(GOOD, second, **{"quantity": "MTV", **arguments})


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1, 2, 3], [1, 2], "shapes \\(3,\\) and \\(2,\\)"),
        ([[1, 2, 3]], [[1, 2, 3]], "two lists"),
        ([1, 2, np.nan], [1, 2, 3], "2 pairs to compare, 1 rows left out"),
    ],
)
def test_values_that_cannot_be_compared_are_refused(a, b, message):
    with pytest.raises(SegAnyPETError, match=message):
        bland_altman_of(a, b)


# ---- one case among others

def _organs():
    """Seven cases; spleen 1, 2, 3, 4, 5, 6 and in case g 20; kidneys and liver alike in all."""
    values = {}
    for case, spleen in zip("abcdefg", (1, 2, 3, 4, 5, 6, 20), strict=True):
        organs = {"liver": 4.0, "spleen": float(spleen), "kidney_left": 9.0, "kidney_right": 11.0}
        values |= {(case, organ): value for organ, value in organs.items()}
    return _table(values, quantity="SUVmax", unit="g/mL")


def test_a_hot_organ_stands_out_from_the_other_cases():
    row = compare_suvmax(_organs()).set_index(["case", "object"]).loc[("g", "spleen")]
    # the others: 1 2 3 4 5 6; median 3.5, their distances from it 0.5 0.5 1.5 1.5 2.5 2.5
    assert (row.value, row.unit, row.quantity, row.ratio_to_liver) == (20.0, "g/mL", "SUVmax", 5.0)
    assert (row.reference_median, row.reference_q25, row.reference_q75) == (3.5, 2.25, 4.75)
    assert (row.percentile, row.n_reference) == (100.0, 6)
    assert row.robust_z == pytest.approx((20 - 3.5) / (1.4826 * 1.5))
    assert np.isnan(row.asymmetry_percent)


def test_ties_count_half():
    organs = _organs()
    organs.loc[(organs.case == "g") & (organs.object == "spleen"), "value"] = 3.0
    row = compare_suvmax(organs).set_index(["case", "object"]).loc[("g", "spleen")]
    assert row.percentile == pytest.approx(100 * 2.5 / 6)


def test_left_and_right_are_compared_within_the_case():
    table = compare_suvmax(_organs()).set_index(["case", "object"])
    assert table.loc[("a", "kidney_right"), "asymmetry_percent"] == 20.0  # 2 of 10
    assert table.loc[("a", "kidney_left"), "asymmetry_percent"] == -20.0
    only_right = _organs()[lambda organs: organs.object != "kidney_left"]
    assert compare_suvmax(only_right)["asymmetry_percent"].isna().all()


def test_no_spread_or_few_references_give_no_z():
    table = compare_suvmax(_organs()).set_index(["case", "object"])
    assert np.isnan(table.loc[("a", "liver"), "robust_z"])  # all alike
    five = compare_suvmax(_organs()[lambda organs: organs.case < "f"]).set_index(["case", "object"])
    row = five.loc[("a", "spleen")]
    assert (row.n_reference, row.reference_median) == (4, 3.5)
    assert np.isnan(row.robust_z) and row.percentile == 0.0


def test_a_reference_of_its_own_is_used_without_the_case_itself():
    organs = _organs()
    row = compare_suvmax(organs[organs.case == "g"], reference=organs).set_index("object").loc["spleen"]
    assert (row.n_reference, row.reference_median) == (6, 3.5)


def test_what_is_missing_is_not_a_number():
    organs = _organs()[lambda organs: ~((organs.case == "a") & (organs.object == "liver"))]
    organs.loc[(organs.case == "b") & (organs.object == "spleen"), "value"] = np.nan
    table = compare_suvmax(organs).set_index(["case", "object"])
    assert np.isnan(table.loc[("a", "spleen"), "ratio_to_liver"])
    assert table.loc[("b", "spleen"), ["percentile", "robust_z", "ratio_to_liver"]].isna().all()
    assert table.loc[("g", "spleen"), "n_reference"] == 5
    alone = compare_suvmax(organs[organs.case == "g"]).set_index("object").loc["spleen"]
    assert alone.n_reference == 0 and np.isnan(alone.reference_median) and alone.ratio_to_liver == 5.0


@pytest.mark.parametrize(
    ("change", "arguments", "error", "message"),
    [
        (lambda organs: organs.drop(columns="case"), {}, SegAnyPETError, "lacks column case.*assign"),
        (lambda organs: organs, {"quantity": "MTV"}, SegAnyPETError, "no quantity 'MTV'; it has SUVmax"),
        (lambda organs: pd.concat([organs, organs[:1]]), {}, SegAnyPETError, "case a, object liver twice"),
        (lambda organs: organs, {"reference": _organs().assign(unit="%")}, UnitError, "in % in the reference"),
    ],
)
def test_bad_tables_are_refused(change, arguments, error, message):
    with pytest.raises(error, match=message):
        compare_suvmax(change(_organs()), **arguments)


def test_a_pair_without_a_patient_is_left_out_aloud():
    rows = [{"case": f"c{n}", "patient": f"p{n}" if n else None, "object": "liver", "quantity": "MTV", "unit": "mL",
             "value": 100.0 + n} for n in range(5)]  # fmt: skip
    table = pd.DataFrame(rows)
    other = table.assign(value=table["value"] - [50, 1, 1, 1, 1])
    agreement = bland_altman(table, other, quantity="MTV", by_patient=True)
    assert (agreement.n, agreement.bias) == (4, 1.0)
    assert agreement.left_out["why"].tolist() == ["no patient"]


def test_a_case_is_not_compared_with_itself_if_its_name_became_a_number():
    table = pd.DataFrame([{"case": n, "object": "liver", "quantity": "SUVmax", "unit": "g/mL", "value": float(n)}
                          for n in range(6)])  # fmt: skip
    compared = compare_suvmax(table, reference=table.astype({"case": str}))
    assert set(compared["n_reference"]) == {5}


def test_values_that_are_no_numbers_are_named():
    table = pd.DataFrame([{"case": "a", "object": "liver", "quantity": "MTV", "unit": "mL", "value": "x"}])
    with pytest.raises(SegAnyPETError, match="values of MTV that are not numbers"):
        bland_altman(table, table, quantity="MTV")
