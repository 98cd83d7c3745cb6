"""The published tables: complete, exact, and in columns that go with measured ones."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import REPOSITORY

import seganypet as sap
from seganypet.errors import SegAnyPETError
from seganypet.organs import SEEN_ORGANS, UNSEEN_ORGANS

COLUMNS = ["target", "seen", "model", "strategy", "modality", "prompt", "click", "per_slice", "dsc", "source"]


def dsc(table: int, query: str) -> float:
    return sap.published(table).query(query)["dsc"].item()


def test_table_1_counts_the_scans():
    table = sap.published(1)
    assert list(table.columns) == ["dataset", "split", "targets", "scans", "new_data", "new_label", "source"]
    # The text gives 5,731 images of PETS-5k and 1,014 of AutoPET.
    assert table.groupby("dataset")["scans"].sum().to_dict() == {"PETS-5k": 5731, "AutoPET": 1014, "AutoPET-Organ": 100}
    assert list(table["new_data"]) == [True, True, True, False, False]
    assert list(table["new_label"]) == [True, True, True, False, True]


@pytest.mark.parametrize(("table", "rows"), [(2, 12 * 4 * 3), (3, 10), (4, 18), (5, 12)])
def test_tables_of_dsc_share_columns_and_types(table: int, rows: int):
    published = sap.published(table)
    assert list(published.columns) == COLUMNS
    assert len(published) == rows and list(published.index) == list(range(rows))
    assert published["dsc"].between(0, 1).all() and published["dsc"].dtype == float
    assert (published["seen"].dtype, published["click"].dtype) == ("boolean", "Int64")
    assert published["per_slice"].dtype == bool
    assert set(published["source"]) == {f"Zhang et al., ICCV 2025, supplement Table {table}"}


@pytest.mark.parametrize("table", [2, 3, 4, 5])
def test_dsc_is_the_exact_decimal(table: int):
    # 90.49 / 100 is 0.9048999999999999.
    assert all(len(repr(value)) <= len("0.1234") for value in sap.published(table)["dsc"])


def test_a_number_from_each_table():
    assert dsc(2, "target == 'liver' and model == 'SegAnyPET' and click == 5") == 0.8375
    assert dsc(2, "target == 'prostate' and model == 'MedSAM' and prompt == '3N'") == 0.2380
    assert dsc(3, "model == 'TotalSegmentator'") == 0.8871
    assert dsc(3, "model == 'SAM-Med3D-turbo' and modality == 'PET' and click == 3") == 0.7658
    assert dsc(4, "strategy == 'Consistency' and not seen and click == 3") == 0.7046
    assert dsc(5, "model == 'SAM' and prompt == '5N'") == 0.4091


def test_tables_3_and_4_print_the_same_seganypet():
    released = sap.published(3).query("model == 'SegAnyPET'")["dsc"].tolist()
    assert released == sap.published(4).query("strategy == 'CPCL' and seen")["dsc"].tolist()


def test_targets_are_named_as_here():
    table = sap.published(2)
    assert set(table.query("seen")["target"]) == set(SEEN_ORGANS)
    assert set(table.query("not seen")["target"]) == set(UNSEEN_ORGANS)
    assert set(sap.published(3)["target"]) == set(sap.published(4)["target"]) == {"mean"}
    assert set(sap.published(5)["target"]) == {"tumour"}


def test_prompts_in_each_slice_are_told_apart():
    table = sap.published(2)
    assert set(table.query("per_slice")["model"]) == {"SAM", "MedSAM"}
    assert dict(zip(table["prompt"], table["click"], strict=True)) == {
        "1": 1, "3": 3, "5": 5, "N": 1, "3N": 3, "5N": 5,
    }  # fmt: skip
    automatic = sap.published(3).query("prompt == 'auto'")
    assert automatic["click"].isna().all() and not automatic["per_slice"].any()


def test_published_and_measured_rows_stand_in_one_table():
    measured = pd.DataFrame({"case": ["a"], "target": ["liver"], "model": ["tiny"], "click": [1], "dsc": [0.5]})
    both = pd.concat([measured, sap.published(2)])
    assert both.query("target == 'liver' and click == 1").groupby("model")["dsc"].mean()["SegAnyPET"] == 0.7670


def test_an_unknown_table_is_refused():
    with pytest.raises(SegAnyPETError, match="1, 2, 3, 4, 5"):
        sap.published(6)


def test_a_folder_without_the_tables_is_refused_with_their_names(tmp_path: Path):
    with pytest.raises(SegAnyPETError, match="table2_autopet_organ.csv"):
        sap.published(2, folder=tmp_path)


def test_published_stays_the_function_and_samples_the_module():
    program = (
        "import sys, seganypet as sap; sap.samples; import seganypet.study.supplement, seganypet.cohort.samples; "
        "assert callable(sap.published) and sap.samples is sys.modules['seganypet.cohort.samples']"
    )
    subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=True)
