from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY
from evaluation_cases import TIMES, memory_case

from seganypet.cohort.case import Case, InMemoryCase
from seganypet.cohort.cohort import Cohort
from seganypet.comparison import Target
from seganypet.errors import SegAnyPETError
from seganypet.metrics import METRICS, dice, surface_dice
from seganypet.pet.volume import Volume, save_mask, save_volume
from seganypet.prompting.simulate import first_click, next_click
from seganypet.prompting.thresholds import RULES
from seganypet.study import evaluation, progress, protocol
from seganypet.study.definition import PLACE
from seganypet.study.evaluation import columns, evaluate
from seganypet.study.methods import named_models
from seganypet.study.summaries import effort, summarise


class Plodder:
    """A session that knows cubes only: 5 x 5 x 5 voxels around each click, set or cleared."""

    name = "plodder"
    opened: list["Plodder"] = []

    def __init__(self, volume: Volume) -> None:
        self.volume, self.clicks, self.resets = volume, [], 0
        Plodder.opened.append(self)
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
def no_session_is_open():
    Plodder.opened = []


def test_table_has_one_row_per_target_model_and_click():
    results = evaluate([memory_case()], Plodder, 3, targets=["liver", "spleen"], progress=False)
    assert list(results.columns) == [*(name for name in columns() if name != "error"), *PLACE, "error"]
    assert len(results) == 2 * (1 + len(RULES)) * 3
    assert set(results["model"]) == {"plodder", *RULES}
    assert not results.duplicated(["case", "target", "model", "click"]).any()
    assert (results["nsd_tolerance_mm"].round(3) == 4.07).all()  # the largest voxel spacing


def test_scores_are_those_of_the_masks_after_each_click_by_hand():
    results = evaluate([memory_case()], Plodder, 2, targets=["spleen"], rules=(), progress=False)
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
    results = evaluate([case], Plodder, 5, targets=["spleen"], rules=(), progress=False)
    truth, spacing = case.organs == 5, case.pet.spacing
    session = Plodder(case.pet)
    click = first_click(truth, spacing=spacing)
    for row in results.to_dict("records"):
        assert (row["click_i"], row["click_j"], row["click_k"], row["foreground"]) == (*click.ijk, click.foreground)
        mask = session.click(click.ijk, click.foreground)
        assert (row["dsc"], row["nsd"]) == (dice(mask, truth), surface_dice(mask, truth, spacing))
        click = next_click(truth, mask, spacing=spacing)


def test_one_session_serves_all_targets_of_a_case_and_is_reset_between_them():
    evaluate([memory_case("a"), memory_case("b")], Plodder, 2, targets=["liver", "spleen"], progress=False)
    assert len(Plodder.opened) == 2
    assert [session.resets for session in Plodder.opened] == [1 + 2, 1 + 2]


@pytest.mark.parametrize("strategies", [{}, {"first": "random", "then": "random_error"}], ids=["default", "random"])
def test_rules_take_turns_at_each_target_share_what_is_known_of_it_and_progress_never_goes_back(
    strategies, monkeypatch
):
    targets, told = [], []
    monkeypatch.setattr(evaluation, "Target", lambda *args: targets.append(Target(*args)) or targets[-1])
    monkeypatch.setattr(progress, "_listeners", [lambda fraction, what: told.append((fraction, what))])
    rules, organs = ("41% SUVmax", "SUV>=2.5", "band"), ["liver", "spleen", "lesions"]
    options = {"targets": organs, "progress": False} | strategies
    table = evaluate([memory_case()], ["SUV>=4", Plodder], 2, rules=rules, **options)
    assert len(targets) == 2 * 3, "once for the network, once for all rules"
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions) and fractions[0] == 0 and fractions[-1] < 1
    alone = [evaluate([memory_case()], model, 2, rules=(), **options) for model in ("SUV>=4", Plodder, *rules)]
    columns = table.columns.drop(["seconds", "model_seconds"])
    expected = pd.concat(alone).sort_values("target", key=lambda names: names.map(list(dict.fromkeys(names)).index),
                                            kind="stable", ignore_index=True)  # fmt: skip
    pd.testing.assert_frame_equal(table[columns], expected[columns], check_dtype=False)


def test_equal_masks_of_rules_are_scored_and_answered_once(monkeypatch):
    found = {"scores_of": [], "_next_prompts": []}
    for name, calls in found.items():
        function = getattr(protocol, name)
        monkeypatch.setattr(
            protocol, name, lambda mask, *args, f=function, calls=calls: calls.append(mask) or f(mask, *args)
        )
    rules = ("41% SUVmax", "41% SUVmax, from hottest", "SUV>=10", "SUV>=20")  # the last two find nothing
    table = evaluate([memory_case()], None, 3, rules=rules, targets=["spleen"], progress=False)
    by_rule = dict(list(table.drop(columns=[*TIMES, "notice"]).groupby("model")))
    for one, other in (rules[:2], rules[2:]):
        pd.testing.assert_frame_equal(by_rule[one].drop(columns="model").reset_index(drop=True),
                                      by_rule[other].drop(columns="model").reset_index(drop=True))  # fmt: skip
    distinct = {mask.tobytes() for mask in found["scores_of"]}
    assert len(distinct) == len(found["scores_of"]) < table["seconds"].count()
    assert len(found["_next_prompts"]) <= 1 + len(distinct)


def test_perfect_mask_is_kept_without_further_clicks():
    results = evaluate([memory_case()], Plodder, 5, targets=["liver"], rules=(), progress=False)
    assert (results["dsc"] == 1).all() and (results["nsd"] == 1).all()
    assert results["click_i"].isna().tolist() == [False, True, True, True, True]
    assert results["seconds"].isna().tolist() == [False, True, True, True, True]
    assert len(Plodder.opened[0].clicks) == 1


def test_empty_target_has_undefined_rows_and_is_counted():
    results = evaluate([memory_case()], Plodder, 3, targets=["liver", "heart"], rules=(), progress=False)
    heart = results[results["target"] == "heart"]
    assert len(heart) == 3 and heart[["dsc", "nsd", "seconds", "click_i"]].isna().all(axis=None)
    summary = summarise(results).set_index("click")
    assert summary.loc[3, ["targets", "empty", "dsc"]].tolist() == [1, 1, 1.0]  # the mean is the liver's alone


def test_seen_and_unseen_organs_and_lesions_are_never_averaged_together():
    results = evaluate([memory_case()], Plodder, 3, rules=(), progress=False)
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
            [memory_case()], Plodder, 1, first="random", then="random_error", seed=seed, targets=["spleen", "liver"],
            progress=False,
        )  # fmt: skip
        places = results.groupby("target")[["click_i", "click_j", "click_k"]]
        assert (places.nunique() == 1).all(axis=None)
        return places.first().to_numpy().tolist()

    assert first_clicks(1) == first_clicks(1) != first_clicks(2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clicks": 0}, "at least one click"),
        ({"first": "centre"}, "first one of .'deepest', 'random'"),
        ({"then": "worst"}, "then one of .'largest_error', 'random_error'"),
        ({"targets": ["livre"]}, r"unknown targets \['livre'\].*liver"),
        ({"rules": ["forty"]}, "unknown threshold rule 'forty'"),
        ({"seconds_per_click": -1.0}, "seconds_per_click=-1.0; expected 0 or more"),
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
    options = {"targets": ["spleen"], "rules": ("41% SUVmax", "SUV>=2.5"), "progress": False}
    on_disk = evaluate(Cohort.from_csv(cohort_table), Plodder, 2, **options)
    in_memory = evaluate([memory_case("a", "a"), memory_case("b", "b")], Plodder, 2, **options)
    pd.testing.assert_frame_equal(on_disk.drop(columns=TIMES), in_memory.drop(columns=TIMES))


def test_models_of_a_command_line_run_on_the_samples_with_threshold_rules_alone(tmp_path):
    cohort = Cohort.from_path(REPOSITORY / "data_samples" / "cohort.csv")
    models, output = named_models(["41% SUVmax", "fixed=SUV>=4"]), tmp_path / "results.csv"
    results = evaluate(cohort, models, 1, targets=["liver"], rules=(), output=output, progress=False)
    table = pd.read_csv(output)
    assert set(table["model"]) == {"41% SUVmax", "fixed"} and table["error"].isna().all()
    summary = summarise(results)
    assert summary["dsc_low"].notna().all() and summary["noc85"].isna().all()  # which takes 20 rounds


def test_a_case_that_fails_is_said_by_name(cohort_table):
    (cohort_table.parent / "b.nii.gz").write_bytes(b"no scan")
    with pytest.warns(UserWarning, match="case b failed: VolumeError"):
        results = evaluate(Cohort.from_csv(cohort_table), "41% SUVmax", 1, targets=["liver"], rules=(), progress=False)
    failed = results[results["error"].notna()]
    assert failed[["case", "target"]].to_numpy().tolist() == [["b", "(whole case)"]]


def test_the_first_cases_can_be_evaluated_alone(cohort_table):
    cohort = Cohort.from_csv(cohort_table)
    results = evaluate(cohort, "41% SUVmax", 1, targets=["liver"], rules=(), limit=1, progress=False)
    assert set(results["case"]) == {"a"}


def test_a_metric_is_one_entry_of_the_registry(monkeypatch, tmp_path):
    """In `METRICS`, and with that in the table, its file, and the means with intervals."""
    monkeypatch.setitem(METRICS, "volume_error", lambda pair: pair.mask.sum() / pair.truth.sum() - 1)
    cases, options = [memory_case(name) for name in "ab"], {"targets": ["spleen"], "rules": (), "progress": False}
    results = evaluate(cases, Plodder, 2, output=tmp_path / "results.csv", **options)
    assert results["volume_error"].iloc[0] == pytest.approx(125 / 225 - 1)
    assert pd.read_csv(tmp_path / "results.csv")["volume_error"].tolist() == results["volume_error"].tolist()
    summary = summarise(results, clicks=(1,))
    assert summary[["volume_error", "volume_error_low", "volume_error_high"]].to_numpy() == pytest.approx(-100 / 225)
    released = evaluate(cases[:1], Plodder, 2, protocol="release", **options)
    assert released["volume_error"].notna().all()
    monkeypatch.delitem(METRICS, "volume_error")
    with pytest.raises(SegAnyPETError, match="other columns.*volume_error.*choose another output"):
        evaluate(cases, Plodder, 2, output=tmp_path / "results.csv", **options)


def test_phantoms_and_a_network_go_through():
    import torch

    from seganypet.model.config import ModelConfig
    from seganypet.model.sam3d import Sam3D
    from seganypet.phantom import make_phantom

    torch.manual_seed(0)
    model = Sam3D(ModelConfig(window_size=32, spacing_mm=8.0, encoder_dim=48, encoder_depth=1, prompt_dim=48)).eval()
    phantom = make_phantom(seed=7)
    results = evaluate([phantom], model, 2, targets=["liver", "kidney_left"], rules=("SUV>=4",), progress=False)
    assert set(results["model"]) == {"untrained", "SUV>=4"} and set(results["case"]) == {"phantom_internal_7"}
    network = results[results["model"] == "untrained"]
    assert network["dsc"].between(0, 1).all() and (network["seconds"] > 0).all()
    # The first click of a target is the simulator's, whoever is asked.
    places = results[results["click"] == 1].groupby("target")[["click_i", "click_j", "click_k"]].nunique()
    assert (places == 1).all(axis=None)


def test_cases_without_a_target_have_no_rows_and_are_named():
    cases = [memory_case("a"), InMemoryCase("scan alone", "b", memory_case("b").pet)]
    with pytest.warns(UserWarning, match=r"1 cases have none of the targets, and so no rows: \['scan alone'\]"):
        table = evaluate(cases, None, 1, rules=["41% SUVmax"], progress=False)
    assert set(table["case"]) == {"a"}


def test_an_output_that_cannot_be_written_is_refused_before_any_case_is_opened(tmp_path):
    class Unopened:
        name = patient = "one"

        def load_pet(self):
            raise AssertionError("opened")

    (tmp_path / "file").touch()
    with pytest.raises(SegAnyPETError, match="cannot make folder .*file"):
        evaluate([Unopened()], None, output=tmp_path / "file" / "results.csv")


def test_several_models_of_every_kind_stand_in_one_table(tmp_path):
    import torch

    from seganypet.model.checkpoints import save_model, weights_sha256
    from seganypet.model.config import ModelConfig
    from seganypet.model.sam3d import Sam3D

    torch.manual_seed(0)
    model = Sam3D(ModelConfig(window_size=32, spacing_mm=8.0, encoder_dim=48, encoder_depth=1, prompt_dim=48)).eval()
    save_model(tmp_path / "mine.safetensors", model, "mine")
    models = [Plodder, tmp_path / "mine.safetensors", "SUV>=2.5", half_open]
    results = evaluate([memory_case()], models, 1, targets=["liver"], rules=("SUV>=2.5", "SUV>=4"), progress=False)
    assert results["model"].tolist() == ["plodder", "mine", "SUV>=2.5", "half_open", "SUV>=4"]
    weights = results.set_index("model")["weights"]
    assert weights.drop("mine").isna().all() and len(weights["mine"]) == 16
    named = {"first": tmp_path / "mine.safetensors", "second": model}
    results = evaluate([memory_case()], named, 1, targets=["liver"], rules=(), progress=False)
    assert results["model"].tolist() == ["first", "second"]
    assert results["weights"].tolist()[1] == weights_sha256(model)[:16] and results["error"].isna().all()


def half_open(volume: Volume) -> Plodder:
    return Plodder(volume)


def test_models_and_cases_of_one_name_are_refused(tmp_path):
    with pytest.raises(SegAnyPETError, match="several models are named plodder"):
        evaluate([memory_case()], [Plodder, Plodder], 1, progress=False)
    with pytest.raises(SegAnyPETError, match="several cases are named a"):
        evaluate([memory_case(), memory_case()], Plodder, 1, progress=False)
    with pytest.raises(SegAnyPETError, match="nothing to evaluate"):
        evaluate([memory_case()], None, 1, rules=(), progress=False)
    with pytest.raises(SegAnyPETError, match="neither a file nor a known model"):
        evaluate([memory_case()], "huge", 1, progress=False)
    with pytest.raises(SegAnyPETError, match="protocol='best'.*whole_volume, release"):
        evaluate([memory_case()], None, 1, protocol="best", progress=False)


def test_effort_counts_clicks_and_seconds():
    results = evaluate(
        [memory_case()], Plodder, 3, targets=["liver", "spleen"], rules=(), seconds_per_click=3.0, progress=False
    )
    liver, spleen = (results[results["target"] == name] for name in ("liver", "spleen"))
    assert liver["total_clicks"].tolist() == [1, 1, 1]  # right after the first
    assert spleen["total_clicks"].tolist() == [1, 2, 3] and spleen["human_seconds"].tolist() == [3.0, 6.0, 9.0]
    assert spleen["model_seconds"].tolist() == pytest.approx(spleen["seconds"].cumsum().tolist())
    assert results["prompt"].tolist() == ["1", "2", "3"] * 2 and not results["per_slice"].any()
    curve = effort(results)
    assert curve["total_clicks"].tolist() == [1.0, 1.5, 2.0] and curve["group"].tolist() == ["seen"] * 3
    assert curve["seconds"].tolist() == pytest.approx((curve["human_seconds"] + curve["model_seconds"]).tolist())
    assert curve["dsc"].tolist() == pytest.approx(results.groupby("click")["dsc"].mean().tolist())


def test_summary_has_area_over_clicks_and_clicks_needed_where_twenty_were_made():
    def rows(patient, dsc):
        return [
            {"case": patient, "patient": patient, "target": "liver", "model": "m", "click": n, "dsc": d, "nsd": d}
            for n, d in enumerate(dsc, 1)
        ]

    short = summarise(pd.DataFrame(rows("p1", [0.0, 0.5, 1.0]) + rows("p2", [1.0, 1.0, 1.0])))
    assert short["auc"].tolist() == pytest.approx([1.5] * 2) and short["auc_relative"].iloc[0] == pytest.approx(0.75)
    assert short["noc85"].isna().all()
    long = summarise(pd.DataFrame(rows("p1", [0.5, 0.9] + [0.7] * 18) + rows("p2", [0.2] * 20)), clicks=(1,))
    assert long["noc85"].tolist() == [11.0] and long["noc85_failures"].tolist() == [0.5]


def test_protocols_are_never_averaged_together():
    both = [
        evaluate([memory_case()], Plodder, 2, targets=["liver"], rules=(), protocol=protocol, progress=False)
        for protocol in ("whole_volume", "release")
    ]
    summary = summarise(pd.concat(both), clicks=(1,))
    assert summary["protocol"].tolist() == ["deepest, largest_error", "release: random, random_error"]
    assert summary["targets"].tolist() == [1, 1]
