import numpy as np
import pandas as pd
import pytest
from conftest import oblique
from evaluation_cases import SHAPE, CubeSession, SquareSession, memory_case

from seganypet.cohort.case import InMemoryCase
from seganypet.errors import SegAnyPETError
from seganypet.metrics import dice
from seganypet.pet.volume import Volume
from seganypet.study.evaluation import evaluate
from seganypet.study.protocol import ClickProtocol, array_axis, release_window, simulate_clicks
from seganypet.study.summaries import effort, summarise


def slice_rows(truth: np.ndarray, clicks: int = 5, affine: np.ndarray | None = None):
    affine = oblique(spacing=(4.0, 2.0, 3.0)) if affine is None else affine
    volume = Volume(np.ones(truth.shape, np.float32), affine, "SUVbw")
    session = SquareSession(volume)
    return list(simulate_clicks(session, truth, volume, ClickProtocol(clicks), np.random.default_rng(0))), session


def test_a_slicewise_session_is_clicked_once_in_every_slice_that_holds_the_target():
    truth = np.zeros(SHAPE, bool)
    truth[5:12, 5:12, 4:9] = True  # 5 slices of 7 x 7
    rows, session = slice_rows(truth, 5)
    assert [row["prompt"] for row in rows] == ["N", "2N", "3N", "4N", "5N"]
    assert all(row["slices"] == 5 and row["per_slice"] for row in rows)
    assert [row["total_clicks"] for row in rows] == [5, 10, 15, 20, 25]
    assert {click.ijk for click in session.given[0]} == {(8, 8, k) for k in range(4, 9)}
    assert [row["dsc"] for row in rows][0] == pytest.approx(2 * 9 / (9 + 49))
    assert [row["model_seconds"] for row in rows] == pytest.approx(np.cumsum([row["seconds"] for row in rows]).tolist())
    assert not any("click_i" in row for row in rows)


def test_slices_that_are_right_get_no_click_and_a_right_mask_ends_the_clicking():
    truth = np.zeros(SHAPE, bool)
    truth[5:8, 5:8, 4:7] = True  # three squares that one click each draws
    truth[5:8, 5:11, 9] = True  # one that takes a second click
    rows, session = slice_rows(truth, 4)
    assert [len(clicks) for clicks in session.given] == [4, 1] + [1] * (len(session.given) - 2)
    assert rows[-1]["total_clicks"] == sum(len(clicks) for clicks in session.given)
    alone, session = slice_rows(truth & (np.arange(SHAPE[2]) < 8), 3)
    assert [row["dsc"] for row in alone] == [1, 1, 1] and [row["total_clicks"] for row in alone] == [3, 3, 3]
    assert ["seconds" in row for row in alone] == [True, False, False]


def test_axial_slices_are_found_whichever_way_the_array_runs():
    affine = np.array([[0, 0, -4.0, 0], [0, 3.0, 0, 0], [2.0, 0, 0, 0], [0, 0, 0, 1.0]])  # i runs to the head
    volume = Volume(np.ones(SHAPE, np.float32), affine, "SUVbw")
    assert [array_axis(name, volume) for name in ("axial", "coronal", "sagittal")] == [0, 1, 2]
    truth = np.zeros(SHAPE, bool)
    truth[4:8, 5:8, 5:8] = True
    rows, session = slice_rows(truth, 1, affine)
    assert [click.ijk[0] for click in session.given[0]] == [4, 5, 6, 7] and rows[0]["slices"] == 4
    with pytest.raises(SegAnyPETError, match="axis='top'.*axial"):
        array_axis("top", volume)


def test_slicewise_and_3d_models_stand_in_one_table_with_their_effort():
    models = [CubeSession, SquareSession]
    results = evaluate([memory_case()], models, 3, targets=["spleen"], rules=(), progress=False)
    cubes, squares = (results[results["model"] == name] for name in ("CubeSession", "SquareSession"))
    assert cubes["prompt"].tolist() == ["1", "2", "3"] and squares["prompt"].tolist() == ["N", "2N", "3N"]
    assert cubes["slices"].isna().all() and (squares["slices"] == 5).all() and squares["click_i"].isna().all()
    assert (results["human_seconds"] == 2.0 * results["total_clicks"]).all()
    summary = summarise(results)
    assert summary["prompt"].tolist() == ["1", "3", "N", "3N"]
    curve = effort(results)
    assert curve[curve["model"] == "SquareSession"]["total_clicks"].tolist() == [5, 10, 15]


def test_an_empty_target_is_neither_clicked_nor_scored():
    for session in (CubeSession, SquareSession):
        volume = memory_case().pet
        nothing, rng = np.zeros(SHAPE, bool), np.random.default_rng(0)
        (row,) = simulate_clicks(session(volume), nothing, volume, ClickProtocol(1), rng)
        assert "dsc" not in row and row["total_clicks"] == 0


# ---- release


def test_the_releases_window_is_centred_on_the_truth_and_filled_with_air():
    pet = Volume(np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE), oblique(spacing=(4.0, 2.0, 3.0)), "SUVbw")
    truth = np.zeros(SHAPE, bool)
    truth[2:5, 10:13, 17:20] = True  # centres 3, 11, 18
    window, cut, corner = release_window(pet, truth, 36.5)
    assert window.shape == (9, 18, 12) and corner == (-1, 3, 13) and cut.sum() == truth.sum()
    assert window.to_mm((0, 0, 0)) == pytest.approx(pet.to_mm(corner))
    assert (window.data[0] == 0).all() and (window.data[:, :, 7:] == 0).all()
    assert window.data[4, 8, 5] == pet.data[3, 11, 18]


class Leaker(CubeSession):
    """Right at its second click only; and leaks to all corners of what it sees."""

    def reset(self) -> None:
        super().reset()
        self.number = 0

    def click(self, ijk, foreground: bool = True) -> np.ndarray:
        self.number += 1
        mask = self.volume.data > 4 if self.number == 2 else np.zeros(self.volume.shape, bool)
        mask[0, 0, 0] = mask[ijk] = True
        return mask


def release_case() -> InMemoryCase:
    """One liver in a large scan, and a lesion far from it as hot."""
    organs, data = np.zeros((90, 40, 40), np.uint8), np.ones((90, 40, 40), np.float32)
    organs[10:20, 10:20, 10:20] = 1
    data[organs == 1] = data[80:88, 30:38, 30:38] = 5
    return InMemoryCase("a", "a", Volume(data, np.diag((4.0, 4.0, 4.0, 1.0)), "SUVbw"), organs)


def test_release_scores_inside_its_window_and_keeps_the_best():
    case, options = release_case(), {"targets": ["liver"], "rules": (), "progress": False}
    ours = evaluate([case], Leaker, 4, **options)["dsc"].tolist()
    released = evaluate([case], Leaker, 4, protocol="release", **options)
    theirs = released["dsc"].tolist()
    # 192 mm are 48 voxels: the other hot spot, 512 voxels, is outside the window. A leaked corner stays in.
    assert theirs[1] == pytest.approx(2 * 1000 / (2000 + 1)) and theirs[1] == theirs[2] == theirs[3] > theirs[0]
    assert ours[1] == pytest.approx(2 * 1000 / (1000 + 1512 + 1)) and ours[3] < 0.1
    assert set(released["protocol"]) == {"release: random, random_error"}
    # Clicks are voxels of the scan.
    first = released.iloc[0]
    assert case.organs[first["click_i"], first["click_j"], first["click_k"]] == 1 and first["foreground"]


@pytest.mark.parametrize(("fixed_mm", "voxels"), [(None, 32), (6.0, 48)])
def test_release_cuts_out_a_window_of_the_networks_size_around_the_truth(fixed_mm, voxels):
    from threshold_network import ThresholdNetwork

    from seganypet.prompting.session import Session

    network = ThresholdNetwork(size=32, spacing_mm=4.0)
    seen = []

    class Spy(Session):
        def click(self, ijk=None, mm=None, foreground=True):
            seen.append(self.volume)
            return super().click(ijk, mm, foreground)

    results = evaluate(
        [release_case()], {"n": lambda volume: Spy(network, volume, spacing_mm=fixed_mm)}, 2, targets=["liver"],
        rules=(), protocol="release", progress=False,
    )  # fmt: skip
    assert {volume.shape for volume in seen} == {(voxels,) * 3}  # voxels of 4 mm
    centre_mm = seen[0].to_mm(((voxels - 1) / 2,) * 3)
    assert centre_mm == pytest.approx([4 * 14.5] * 3, abs=2.1)  # the liver's centre, to half a voxel
    assert results["dsc"].iloc[-1] > 0.8


def test_release_refuses_slicewise_sessions_in_the_table():
    options = {"targets": ["liver"], "rules": (), "protocol": "release", "progress": False}
    results = evaluate([release_case()], SquareSession, 1, **options)
    assert results["error"].str.contains("one of 3D windows").all()


# ---- failures


class Stumbler(CubeSession):
    def click(self, ijk, foreground: bool = True) -> np.ndarray:
        if self.mask.any():
            raise MemoryError("too\nlarge")
        return super().click(ijk, foreground)


def test_what_fails_becomes_rows_and_the_others_go_on():
    models = [Stumbler, CubeSession]
    results = evaluate([memory_case()], models, 3, targets=["liver", "spleen"], rules=(), progress=False)
    stumbled = results[(results["model"] == "Stumbler") & (results["target"] == "spleen")]
    assert stumbled["click"].tolist() == [1, 2, 3] and set(stumbled["error"]) == {"MemoryError: too large"}
    assert stumbled[["dsc", "nsd", "seconds", "total_clicks"]].isna().all(axis=None)
    assert results.drop(stumbled.index)["error"].isna().all() and results.drop(stumbled.index)["dsc"].notna().all()
    summary = summarise(results, clicks=(1,)).set_index("model")
    assert summary["failed"].to_dict() == {"Stumbler": 1, "CubeSession": 0}
    assert summary["empty"].to_dict() == {"Stumbler": 0, "CubeSession": 0} and summary.loc["Stumbler", "targets"] == 1


def test_a_model_that_cannot_be_opened_on_a_scan_has_rows_for_every_target():
    case = memory_case()
    bq = InMemoryCase("bq", "bq", Volume(case.pet.data, case.pet.affine, "Bq/mL"), case.organs)
    results = evaluate([bq], ["41% SUVmax", "SUV>=4"], 1, targets=["liver", "spleen"], rules=(), progress=False)
    assert results["error"].isna().tolist() == [True, False, True, False]
    assert results["error"].iloc[1].startswith("UnitError: ")


def test_a_case_that_cannot_be_read_is_a_row_for_every_model_and_round(tmp_path):
    from evaluation_cases import BrokenCase

    a = memory_case()
    broken = BrokenCase("b", str(tmp_path), a.pet, a.organs)
    results = evaluate([broken, a], [CubeSession, "41% SUVmax"], 2, targets=["liver"], rules=(), progress=False)
    rows = results[results["case"] == "b"]
    assert rows["target"].tolist() == ["(whole case)"] * 4 and set(rows["error"]) == {"OSError: disk gone, or so"}
    summary = summarise(results, clicks=(1,))
    assert summary[summary["group"] == "(whole case)"]["failed"].tolist() == [1, 1]
    assert pd.isna(rows["seen"]).all() and len(results) == 8


def test_dsc_is_that_of_the_mask_by_slice():
    truth = np.zeros(SHAPE, bool)
    truth[5:12, 5:12, 4:9] = True
    rows, session = slice_rows(truth, 2)
    assert rows[-1]["dsc"] == dice(session.mask, truth)
