import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY, oblique

from seganypet.baselines import RULES
from seganypet.case import Case
from seganypet.cohort import Cohort
from seganypet.errors import CohortError, SegAnyPETError
from seganypet.evaluate import COLUMNS, MemoryCase, evaluate, main, summarise
from seganypet.metrics import dice, surface_dice
from seganypet.simulate import first_click, next_click
from seganypet.volume import Volume, save_mask, save_volume

SHAPE = (26, 24, 20)


class Plodder:
    """A model whose session knows cubes only: 5 x 5 x 5 voxels around each click, set or cleared."""

    name = "plodder"


class PlodderSession:
    opened: list["PlodderSession"] = []

    def __init__(self, model: Plodder, volume: Volume) -> None:
        self.volume, self.clicks, self.resets = volume, [], 0
        PlodderSession.opened.append(self)
        self.reset()

    def reset(self) -> None:
        self.mask, self.resets = np.zeros(self.volume.shape, bool), self.resets + 1

    def click(self, ijk, foreground: bool = True) -> np.ndarray:
        self.clicks.append((ijk, foreground))
        cube = tuple(slice(max(index - 2, 0), index + 3) for index in ijk)
        self.mask = self.mask.copy()
        self.mask[cube] = foreground
        return self.mask


@pytest.fixture(autouse=True)
def plodder_sessions(monkeypatch):
    PlodderSession.opened = []
    real = import_module("seganypet.evaluate")._open_session
    monkeypatch.setattr(
        import_module("seganypet.evaluate"),
        "_open_session",
        lambda model, volume: PlodderSession(model, volume) if isinstance(model, Plodder) else real(model, volume),
    )


def memory_case(name: str = "a", patient: str = "p1") -> MemoryCase:
    """A liver of 5 x 5 x 5 voxels, a spleen of 9 x 5 x 5, a prostate, and two lesions; on an oblique grid."""
    organs, lesions = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    organs[2:7, 2:7, 2:7], organs[12:21, 2:7, 2:7], organs[2:5, 14:17, 10:13] = 1, 5, 7
    lesions[15:18, 14:17, 3:6] = lesions[15:18, 14:17, 12:15] = 1
    data = 1 + 4.0 * (organs == 1) + 2 * (organs == 5) + 3 * lesions
    pet = Volume(data.astype(np.float32), oblique(spacing=(4.07, 4.07, 3.0), left_handed=True), "SUVbw", source=name)
    return MemoryCase(name, patient, pet, organs, lesions)


def test_table_has_one_row_per_target_model_and_click():
    results = evaluate([memory_case()], Plodder(), 3, targets=["liver", "spleen"], progress=False)
    assert tuple(results.columns) == COLUMNS
    assert len(results) == 2 * (1 + len(RULES)) * 3
    assert set(results["model"]) == {"plodder", *RULES}
    assert not results.duplicated(["case", "target", "model", "click"]).any()
    assert (results["nsd_tolerance_mm"].round(3) == 4.07).all()  # the largest voxel spacing


def test_scores_are_those_of_the_masks_after_each_click_by_hand():
    results = evaluate([memory_case()], Plodder(), 2, targets=["spleen"], baselines=(), progress=False)
    # i = 12 to 20: the deepest voxel is (16, 4, 4). Its cube covers i = 14 to 18, 125 of 225 voxels.
    first, second = results.to_dict("records")
    assert (first["click_i"], first["click_j"], first["click_k"], first["foreground"]) == (16, 4, 4, True)
    assert first["dsc"] == pytest.approx(2 * 125 / (125 + 225))
    # Two misses of 2 x 5 x 5 are left; the cube on one of them, at i = 12 or 13, adds its 50 voxels and spills.
    assert second["foreground"] and second["click_i"] in (12, 13, 19, 20)
    spill = {12: 50, 13: 25, 19: 25, 20: 50}[second["click_i"]]
    assert second["dsc"] == pytest.approx(2 * 175 / (175 + spill + 225))


def test_every_click_answers_the_mask_before_it():
    case = memory_case()
    results = evaluate([case], Plodder(), 5, targets=["spleen"], baselines=(), progress=False)
    truth, spacing = case.organs == 5, case.pet.spacing
    session = PlodderSession(Plodder(), case.pet)
    click = first_click(truth, spacing=spacing)
    for row in results.to_dict("records"):
        assert (row["click_i"], row["click_j"], row["click_k"], row["foreground"]) == (*click.ijk, click.foreground)
        mask = session.click(click.ijk, click.foreground)
        assert (row["dsc"], row["nsd"]) == (dice(mask, truth), surface_dice(mask, truth, spacing))
        click = next_click(truth, mask, spacing=spacing)


def test_one_session_serves_all_targets_of_a_case_and_is_reset_between_them():
    evaluate([memory_case("a"), memory_case("b")], Plodder(), 2, targets=["liver", "spleen"], progress=False)
    assert len(PlodderSession.opened) == 2
    assert [session.resets for session in PlodderSession.opened] == [1 + 2, 1 + 2]


def test_perfect_mask_is_kept_without_further_clicks():
    results = evaluate([memory_case()], Plodder(), 5, targets=["liver"], baselines=(), progress=False)
    assert (results["dsc"] == 1).all() and (results["nsd"] == 1).all()
    assert results["click_i"].isna().tolist() == [False, True, True, True, True]
    assert results["seconds"].isna().tolist() == [False, True, True, True, True]
    assert len(PlodderSession.opened[0].clicks) == 1


def test_empty_target_has_undefined_rows_and_is_counted():
    results = evaluate([memory_case()], Plodder(), 3, targets=["liver", "heart"], baselines=(), progress=False)
    heart = results[results["target"] == "heart"]
    assert len(heart) == 3 and heart[["dsc", "nsd", "seconds", "click_i"]].isna().all(axis=None)
    summary = summarise(results).set_index("click")
    assert summary.loc[3, ["targets", "empty", "dsc"]].tolist() == [1, 1, 1.0]  # the mean is the liver's alone


def test_seen_and_unseen_organs_and_lesions_are_never_averaged_together():
    results = evaluate([memory_case()], Plodder(), 3, baselines=(), progress=False)
    seen = results.drop_duplicates("target").set_index("target")["seen"]
    assert seen["liver"] and seen["spleen"] and not seen["prostate"] and not seen["aorta"]
    assert seen[["lesions", "lesion_01", "lesion_02"]].isna().all()
    summary = summarise(results, clicks=(1,)).set_index("group")
    assert summary["targets"].to_dict() == {"seen": 2, "unseen": 1, "lesions": 1, "lesion": 2}
    assert summary["empty"].to_dict() == {"seen": 3, "unseen": 6, "lesions": 0, "lesion": 0}


def test_summary_is_a_mean_over_patients_not_over_scans():
    rows = [("a", "p1", 0.2), ("b", "p1", 0.4), ("c", "p2", 0.9)]
    results = pd.DataFrame(
        [
            {"case": case, "patient": patient, "target": "liver", "model": "m", "click": 5, "dsc": dsc, "nsd": dsc / 2}
            for case, patient, dsc in rows
        ]
    )
    (row,) = summarise(results).to_dict("records")
    assert row["dsc"] == pytest.approx((0.3 + 0.9) / 2) and row["nsd"] == pytest.approx((0.3 + 0.9) / 4)
    assert (row["dsc_low"], row["dsc_high"]) == pytest.approx((0.3, 0.9))
    assert (row["patients"], row["targets"]) == (2, 3)


def test_random_clicks_are_the_same_for_every_model_and_repeat_with_the_seed():
    def first_clicks(seed):
        results = evaluate(
            [memory_case()], Plodder(), 1, first="random", then="random_error", seed=seed, targets=["spleen", "liver"],
            progress=False,
        )  # fmt: skip
        places = results.groupby("target")[["click_i", "click_j", "click_k"]]
        assert (places.nunique() == 1).all(axis=None)
        return places.first().to_numpy().tolist()

    assert first_clicks(1) == first_clicks(1) != first_clicks(2)


def test_interrupted_run_is_continued_without_repeating_finished_cases(tmp_path):
    class Broken(MemoryCase):
        def load_pet(self):
            raise CohortError("disk gone")

    output = tmp_path / "results.csv"
    a, b = memory_case("a"), memory_case("b")
    broken = Broken("b", "p1", b.pet, b.organs, b.lesions)
    with pytest.raises(CohortError):
        evaluate([a, broken], Plodder(), 2, targets=["liver"], output=output, progress=False)
    assert set(pd.read_csv(output)["case"]) == {"a"}
    continued = evaluate([a, b], Plodder(), 2, targets=["liver"], output=output, progress=False)
    again_a, for_b = PlodderSession.opened[-2:]
    assert again_a.clicks == [] and len(for_b.clicks) == 1
    fresh = evaluate([a, b], Plodder(), 2, targets=["liver"], progress=False)
    pd.testing.assert_frame_equal(continued.drop(columns="seconds"), fresh.drop(columns="seconds"))
    pd.testing.assert_frame_equal(pd.read_csv(output)[["case", "dsc"]], fresh[["case", "dsc"]])
    # More clicks than before: the shorter rows are computed anew and replaced.
    longer = evaluate([a], Plodder(), 3, targets=["liver"], baselines=(), output=output, progress=False)
    rows = longer[(longer["case"] == "a") & (longer["model"] == "plodder")]
    assert rows["click"].tolist() == [1, 2, 3]


def test_output_of_another_protocol_is_not_mixed_in(tmp_path):
    output = tmp_path / "results.csv"
    evaluate([memory_case()], None, 1, targets=["liver"], output=output, progress=False)
    before = output.read_bytes()
    for change in ({"seed": 1}, {"first": "random"}):
        with pytest.raises(SegAnyPETError, match="choose another output"):
            evaluate([memory_case()], None, 1, targets=["liver"], output=output, progress=False, **change)
    assert output.read_bytes() == before
    output.write_text("something,else\n1,2\n")
    with pytest.raises(SegAnyPETError, match="is no table of evaluate"):
        evaluate([memory_case()], None, 1, targets=["liver"], output=output, progress=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clicks": 0}, "at least one click"),
        ({"first": "centre"}, "first one of .'deepest', 'random'"),
        ({"then": "worst"}, "then one of .'largest_error', 'random_error'"),
        ({"targets": ["livre"]}, r"unknown targets \['livre'\].*liver"),
        ({"baselines": ["forty"]}, "unknown threshold rule 'forty'"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(SegAnyPETError, match=message):
        evaluate([memory_case()], None, progress=False, **arguments)


@pytest.fixture
def cohort_table(tmp_path) -> Path:
    cases = []
    for name in ("a", "b"):
        case = memory_case(name)
        save_volume(tmp_path / f"{name}.nii.gz", case.pet)
        save_mask(tmp_path / f"{name}_organs.nii.gz", case.organs, like=case.pet)
        organs = tmp_path / f"{name}_organs.nii.gz"
        pet = tmp_path / f"{name}.nii.gz"
        cases.append(Case(name, name, pet, "SUVbw", organs=organs, organ_convention="seganypet"))
    Cohort(cases).to_csv(tmp_path / "cohort.csv")
    return tmp_path / "cohort.csv"


def test_cohort_on_disk_gives_what_the_same_cases_give_in_memory(cohort_table):
    # A file keeps its affine in float32, so a rule that smooths by the spacing may break a tie otherwise.
    options = {"targets": ["spleen"], "baselines": ("41%", "2.5"), "progress": False}
    on_disk = evaluate(Cohort.from_csv(cohort_table), Plodder(), 2, **options)
    in_memory = evaluate([memory_case("a", "a"), memory_case("b", "b")], Plodder(), 2, **options)
    pd.testing.assert_frame_equal(on_disk.drop(columns="seconds"), in_memory.drop(columns="seconds"))


def test_command_line_writes_the_table_and_prints_means(cohort_table, tmp_path, capsys):
    output = tmp_path / "results.csv"
    main([str(cohort_table), "--clicks", "2", "--targets", "liver", "--baselines", "41%", "--output", str(output)])
    table = pd.read_csv(output)
    assert len(table) == 2 * 2 and (table["dsc"] == 1).all()  # SUV 5 on a background of 1
    assert "seen" in capsys.readouterr().out


def test_command_line_explains_itself_and_its_errors_without_a_traceback(tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "seganypet.evaluate", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=REPOSITORY)

    told = run("--help")
    assert told.returncode == 0 and "--clicks" in told.stdout and not told.stderr
    failed = run(str(tmp_path / "none.csv"), "--output", str(tmp_path / "out.csv"))
    assert failed.returncode == 1 and failed.stderr.startswith("error: ") and "no such cohort table" in failed.stderr


def test_phantoms_and_a_network_go_through():
    import torch

    from seganypet.model.config import ModelConfig
    from seganypet.model.sam3d import Sam3D
    from seganypet.phantom import make_phantom

    torch.manual_seed(0)
    model = Sam3D(ModelConfig(window_size=32, spacing_mm=8.0, encoder_dim=48, encoder_depth=1, prompt_dim=48)).eval()
    phantom = make_phantom(seed=7)
    results = evaluate([phantom], model, 2, targets=["liver", "kidney_left"], baselines=("4.0",), progress=False)
    assert set(results["model"]) == {"untrained", "4.0"} and set(results["case"]) == {"phantom_internal_7"}
    network = results[results["model"] == "untrained"]
    assert network["dsc"].between(0, 1).all() and (network["seconds"] > 0).all()
    # The first click of a target is the simulator's, whoever is asked.
    places = results[results["click"] == 1].groupby("target")[["click_i", "click_j", "click_k"]].nunique()
    assert (places == 1).all(axis=None)


def test_an_output_that_cannot_be_written_is_refused_before_any_case_is_opened(tmp_path):
    class Unopened:
        case = patient = "one"

        def load_pet(self):
            raise AssertionError("opened")

    with pytest.raises(SegAnyPETError, match="create it first"):
        evaluate([Unopened()], None, output=tmp_path / "no" / "results.csv")
