"""The table by which networks are chosen says what its rows say."""

import pandas as pd

from benchmarks.pilots import at_most, differences, table


def rows() -> pd.DataFrame:
    """Two clicks on a liver, after which it is perfect, and three on a lobe; best readings known after the first."""
    liver = [{"click": 1, "dsc": 0.5, "best_of_three_dsc": 0.75}, {"click": 2, "dsc": 1.0}]
    lobe = [{"click": 1, "dsc": 0.25, "best_of_three_dsc": 0.25}, {"click": 2, "dsc": 0.5}, {"click": 3, "dsc": 0.75}]
    made = [one | {"target": "liver"} for one in liver] + [one | {"target": "lung_upper_lobe_left"} for one in lobe]
    common = {"network": "runs/mine.safetensors", "source": "organs", "case": "internal_302", "first": "deepest"}
    return pd.DataFrame([common | one for one in made])


def test_a_perfect_mask_counts_after_three_clicks_though_nobody_clicked_again():
    assert at_most(rows(), 3).set_index("target")["dsc"].to_dict() == {"liver": 1.0, "lung_upper_lobe_left": 0.75}
    assert at_most(rows(), 1)["dsc"].sum() == 0.75


def test_a_network_has_one_row_with_a_cell_for_each_group_that_was_measured():
    livers = pd.DataFrame({"network": "runs/mine.safetensors", "dsc": [0.5, 1.0, 0.75], "agreed": [0.2, 0.9, 0.4]})
    head, _, line = table(["runs/mine.safetensors"], rows(), livers).splitlines()
    cells = dict(zip(head.strip("| ").split(" | "), line.strip("| ").split(" | "), strict=True))
    assert cells == {
        "network": "mine", "seen, 1": "0.50 / nan", "seen, best of 3": "0.75 / nan", "seen, 3": "1.00 / nan",
        "unseen, 1": "0.25 / nan", "unseen, best of 3": "0.25 / nan", "unseen, 3": "0.75 / nan",
        "livers, agreement": "0.75, 0.40",
    }  # fmt: skip


def test_another_network_differs_by_what_its_cases_say_and_as_surely_as_they_agree():
    mine = pd.concat([rows(), rows().assign(case="internal_303")])
    gain = 0.1 * (mine["case"] == "internal_302")
    both = pd.concat([mine, mine.assign(network="runs/other.safetensors", dsc=mine["dsc"] + gain)])
    head, _, line = differences(["runs/mine.safetensors", "runs/other.safetensors"], both).splitlines()
    cells = dict(zip(head.strip("| ").split(" | "), line.strip("| ").split(" | "), strict=True))
    assert cells["network"] == "other"
    assert cells["seen, 1"] == cells["unseen, 3"] == "+0.05 +- 0.05"  # 0.1 in one of two cases
