"""autoPET's interactive protocol: click files in both forms, simulated clicks, steps and scores worked out by hand."""

import json

import numpy as np
import pytest
from conftest import oblique
from evaluation_cases import SHAPE
from test_lesion_clicks import VOXEL_ML, CubesByName
from test_lesions import cohort  # noqa: F401  (a fixture)
from threshold_network import ThresholdNetwork

import seganypet as sap
from seganypet.errors import ClickError, GeometryError, SegAnyPETError
from seganypet.pet.volume import Volume, save_volume
from seganypet.prompting.autopet_clicks import (
    AutoPETClicks,
    read_autopet_clicks,
    simulate_autopet_clicks,
    write_autopet_clicks,
)
from seganypet.study.definition import PLACE
from seganypet.study.interactive import (
    COLUMNS,
    evaluate_interactive,
    interactive_scores,
    interactive_steps,
    summarise_interactive,
)

AFFINE = oblique(spacing=(4.0, 2.0, 3.0), left_handed=True)
CLICKS = AutoPETClicks(((4, 4, 4), (17, 4, 4)), ((23, 21, 2), (10, 11, 12)))


@pytest.fixture
def volume() -> Volume:
    return Volume(np.full(SHAPE, 3.0, np.float32), AFFINE, "SUVbw", source="scan 7")


# ---- files


@pytest.mark.parametrize("form", ["lists", "points"])
def test_clicks_come_back_from_a_file_as_they_went(tmp_path, volume, form):
    write_autopet_clicks(tmp_path / "a_clicks.json", CLICKS, form)
    assert read_autopet_clicks(tmp_path / "a_clicks.json", volume) == CLICKS
    nothing = AutoPETClicks((), ())
    write_autopet_clicks(tmp_path / "b.json", nothing, form)
    assert read_autopet_clicks(tmp_path / "b.json") == nothing


def test_files_are_as_the_challenge_writes_them(tmp_path):
    lists = {"tumor": [[4, 4, 4], [17, 4, 4]], "background": [[23, 21, 2], [10, 11, 12]]}
    write_autopet_clicks(tmp_path / "a.json", CLICKS)
    assert json.loads((tmp_path / "a.json").read_text()) == lists
    write_autopet_clicks(tmp_path / "b.json", CLICKS, "points")
    points = json.loads((tmp_path / "b.json").read_text())
    assert points["type"] == "Multiple points" and points["version"] == {"major": 1, "minor": 0}
    assert points["points"][0] == {"point": [4, 4, 4], "name": "tumor"}
    assert points["points"][-1] == {"point": [10, 11, 12], "name": "background"}
    (tmp_path / "c.json").write_text('{"tumor": [[4.0, 4, 4]]}')  # whole numbers, and no background at all
    assert read_autopet_clicks(tmp_path / "c.json") == AutoPETClicks(((4, 4, 4),), ())


def test_voxels_are_those_of_the_file_whatever_its_axes(tmp_path):
    """The click file names an index of the array in the NIfTI: its value there is the one we click."""
    data = np.random.default_rng(3).uniform(0, 9, SHAPE).astype(np.float32)
    save_volume(tmp_path / "pet.nii.gz", Volume(data, AFFINE, "SUVbw"))
    write_autopet_clicks(tmp_path / "clicks.json", CLICKS)
    pet = sap.load_volume(tmp_path / "pet.nii.gz", unit="SUVbw")
    import nibabel

    stored = nibabel.load(tmp_path / "pet.nii.gz").get_fdata()
    for ijk in read_autopet_clicks(tmp_path / "clicks.json", pet).tumor:
        assert pet.data[ijk] == pytest.approx(stored[ijk])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not a readable click file"),
        ("[1, 2]", "no click file of autoPET"),
        ('{"clicks": [[1, 2, 3]]}', "no click file of autoPET"),
        ('{"tumor": [[1, 2]]}', r"\[1, 2\] is no voxel"),
        ('{"tumor": [[1, 2, 3.5]]}', "is no voxel"),
        ('{"tumor": [[1, 2, -3]]}', "is no voxel"),
        ('{"tumor": ["here"]}', "is no voxel"),
        ('{"tumor": [["1", "2", "3"]]}', "is no voxel"),
        ('{"tumor": [[true, false, true]]}', "is no voxel"),
        ("[" * 100_000, "not a readable click file"),
        ('{"tumor": [[1, 2, 3]], "background": 5}', "background holds 5"),
        ('{"tumor": [], "liver": [[1, 2, 3]]}', "clicks named liver; expected tumor and background"),
        ('{"points": [{"point": [1, 2, 3], "name": "lesion"}]}', "clicks named lesion"),
        ('{"points": [{"name": "tumor"}]}', "is no point"),
        ('{"points": [[1, 2, 3]]}', "is no point"),
    ],
)
def test_what_is_no_click_file_is_refused_by_its_name(tmp_path, text, said):
    path = tmp_path / "bad_clicks.json"
    path.write_text(text)
    for volume in (None, Volume(np.ones((4, 5, 6), np.float32), AFFINE, "SUVbw")):
        with pytest.raises(ClickError, match=f"bad_clicks.json: .*{said}"):
            read_autopet_clicks(path, volume)


def test_clicks_outside_the_scan_are_refused(tmp_path, volume):
    for far in (300, 10**400):
        write_autopet_clicks(tmp_path / "far.json", AutoPETClicks(((far, 4, 4),)))
        with pytest.raises(ClickError, match=r"far.json: .*ijk=.*another scan\?"):
            read_autopet_clicks(tmp_path / "far.json", volume)
    with pytest.raises(ClickError, match="form='xml'"):
        write_autopet_clicks(tmp_path / "x.json", CLICKS, "xml")
    with pytest.raises(ClickError, match="is no voxel"):
        write_autopet_clicks(tmp_path / "x.json", AutoPETClicks(((1, 2, 3.5),)))
    assert not (tmp_path / "x.json").exists()


# ---- simulated clicks


def test_simulated_clicks_hit_lesions_one_each_then_borders(volume):
    truth = np.zeros(SHAPE, bool)
    truth[2:7, 2:7, 2:7] = truth[15:20, 2:7, 2:7] = True
    volume.data[20:24, 15:19, 12:16] = 30.0  # a hot organ
    clicks = simulate_autopet_clicks(truth, volume, count=4, seed=1)
    assert len(clicks.tumor) == len(clicks.background) == 4
    assert {*clicks.tumor[:2]} == {(4, 4, 4), (17, 4, 4)}
    for i, j, k in clicks.tumor[2:]:
        assert truth[i, j, k] and (j in (2, 6) or k in (2, 6) or i in (2, 6, 15, 19))
    assert all(volume.data[ijk] == 30 and not truth[ijk] for ijk in clicks.background)
    assert simulate_autopet_clicks(truth, volume, count=4, seed=1) == clicks
    assert len({simulate_autopet_clicks(truth, volume, count=4, seed=seed) for seed in range(8)}) > 1
    none = simulate_autopet_clicks(np.zeros(SHAPE, bool), volume, count=4)
    assert none.tumor == () and len(none.background) == 4
    with pytest.raises(GeometryError, match="scan 7: truth is uint8"):
        simulate_autopet_clicks(truth.astype(np.uint8), volume)
    with pytest.raises(ClickError, match="count=-1"):
        simulate_autopet_clicks(truth, volume, count=-1)


# ---- steps


@pytest.fixture
def truth() -> np.ndarray:
    """Two lesions of 125 voxels each, where `CLICKS` click."""
    lesions = np.zeros(SHAPE, bool)
    lesions[2:7, 2:7, 2:7] = lesions[15:20, 2:7, 2:7] = True
    return lesions


def test_eleven_steps_by_hand(volume, truth):
    """Each tumour click draws a cube of 125 voxels; the third one in vain, beside all lesions."""
    clicks = AutoPETClicks((*CLICKS.tumor, (10, 16, 12)))
    steps = interactive_steps(CubesByName(volume), clicks, truth)
    assert steps["step"].tolist() == list(range(11))
    assert steps["tumor_clicks"].tolist() == [0, 1, 2] + [3] * 8 and set(steps["background_clicks"]) == {0}
    assert steps["dsc"].tolist() == pytest.approx([0, 2 / 3, 1] + [500 / 625] * 8)
    lesion_ml = 125 * VOXEL_ML
    assert steps["fnv_ml"].tolist() == pytest.approx([2 * lesion_ml, lesion_ml] + [0] * 9)
    assert steps["fpv_ml"].tolist() == pytest.approx([0, 0, 0] + [lesion_ml] * 8)
    assert steps["f1"].tolist() == pytest.approx([0, 2 / 3, 1] + [4 / 5] * 8)
    scores = interactive_scores(steps)
    assert scores.auc_dsc == pytest.approx(0 / 2 + 2 / 3 + 1 + 7 * 0.8 + 0.8 / 2)
    assert scores.auc_fpv == pytest.approx(7.5 * lesion_ml) and scores.auc_fnv == pytest.approx(2 * lesion_ml)
    assert (scores.dsc, scores.fpv_ml, scores.fnv_ml, scores.f1) == pytest.approx((0.8, lesion_ml, 0, 0.8))


@pytest.mark.parametrize("objects", ["per_lesion", "single"])
def test_a_background_click_takes_away_what_a_mask_holds_then_or_later(volume, truth, objects):
    """The first background click lies where only the second tumour click draws, so it is heard then."""
    clicks = AutoPETClicks(((4, 4, 4), (17, 9, 4)), ((17, 11, 4), (1, 20, 18)))
    session = CubesByName(volume)
    steps = interactive_steps(session, clicks, truth, objects)
    assert steps["background_clicks"].tolist() == [0, 1, 2] + [2] * 8
    said = [click for name in session.objects for click in session.clicks_of(name) if not click.foreground]
    assert [click.ijk for click in said] == [(17, 11, 4)]  # (1, 20, 18) is in no mask
    assert len(session.objects) == (2 if objects == "per_lesion" else 1)
    # (17, 9, 4) draws 7:12 along j, from which 9:14 is taken: neither touches the lesion, which ends at 7.
    assert steps["fpv_ml"].tolist()[1:3] == pytest.approx([0, 50 * VOXEL_ML])


def test_a_click_inside_a_mask_refines_its_object(volume, truth):
    session = CubesByName(volume)
    interactive_steps(session, AutoPETClicks(((4, 4, 4), (5, 5, 5), (17, 4, 4))), truth)
    assert [len(session.clicks_of(name)) for name in session.objects] == [2, 1]


def test_a_scan_without_lesions_counts_only_what_is_drawn(volume):
    nothing = np.zeros(SHAPE, bool)
    steps = interactive_steps(CubesByName(volume), AutoPETClicks((), CLICKS.background), nothing)
    assert steps["dsc"].isna().all() and (steps["fpv_ml"] == 0).all() and (steps["fnv_ml"] == 0).all()
    assert np.isnan(interactive_scores(steps).auc_dsc) and interactive_scores(steps).auc_fpv == 0


def test_unknown_objects_and_another_grid_are_refused(volume, truth):
    with pytest.raises(SegAnyPETError, match="objects='all'; expected one of per_lesion, single"):
        interactive_steps(CubesByName(volume), CLICKS, truth, "all")
    with pytest.raises(GeometryError, match="does not lie on scan 7"):
        interactive_steps(CubesByName(volume), CLICKS, truth[1:])
    with pytest.raises(SegAnyPETError, match="steps=10, seed=-1; expected .* a seed of 0 or more"):
        evaluate_interactive([], {}, seed=-1)


# ---- cohorts


def test_a_cohort_with_click_files_resumes_after_a_kill(cohort, tmp_path, monkeypatch):  # noqa: F811
    folder = tmp_path / "clicks"
    folder.mkdir()
    write_autopet_clicks(folder / "sick_clicks.json", AutoPETClicks(((12, 12, 12), (33, 11, 27))))
    models = {"deep": ThresholdNetwork(spacing_mm=4.0)}
    options = {"output": tmp_path / "interactive.csv", "progress": False}
    with pytest.warns(UserWarning, match="case healthy failed: .*neither healthy_clicks.json nor healthy.json"):
        table = evaluate_interactive(cohort, models, folder, **options)
    assert list(table.columns) == [*[*COLUMNS][:-1], *PLACE, "error"]
    assert table["case"].tolist() == ["sick"] * 11 + ["healthy"]
    table = table[table["error"].isna()]
    assert table["step"].tolist() == list(range(11))
    assert table["dsc"].iloc[-1] > 0.85 and table["fnv_ml"].tolist()[0] > table["fnv_ml"].tolist()[1] > 0
    write_autopet_clicks(folder / "healthy.json", AutoPETClicks((), ((5, 5, 5),)), "points")
    with pytest.warns(UserWarning, match="case healthy is measured again: clicks changed"):
        both = evaluate_interactive(cohort, models, folder, **options)
    assert both["case"].value_counts().to_dict() == {"sick": 11, "healthy": 11}
    np.testing.assert_array_equal(both[both["case"] == "sick"]["dsc"], table["dsc"])
    summary = summarise_interactive(both).iloc[0]
    assert summary["patients"] == 2 and summary["dsc"] == pytest.approx(table["dsc"].iloc[-1])
    assert summary["fpv_ml"] == 0 and np.isnan(summary["dsc_low"])  # one patient has a DSC
    with pytest.raises(SegAnyPETError, match="was made with objects per_lesion; now asked for is objects single"):
        evaluate_interactive(cohort, models, folder, objects="single", **options)
    write_autopet_clicks(folder / "sick_clicks.json", AutoPETClicks(((12, 12, 12),)))  # a click less
    with pytest.warns(UserWarning, match="case sick is measured again: clicks changed"):
        changed = evaluate_interactive(cohort, models, folder, **options)
    assert changed["case"].value_counts().to_dict() == {"sick": 11, "healthy": 11}
    assert changed[changed["case"] == "sick"]["tumor_clicks"].max() == 1
    with pytest.raises(SegAnyPETError, match="clicks2 is missing; expected a folder"):
        evaluate_interactive(cohort, models, tmp_path / "clicks2", progress=False)


def test_clicks_are_simulated_without_click_files(cohort):  # noqa: F811
    options = {"rules": ["41% SUVmax, from hottest"], "progress": False}
    table = evaluate_interactive(sap.Cohort([cohort["sick"]]), None, **options)
    assert table["step"].tolist() == list(range(11)) and summarise_interactive(table)["auc_dsc"].notna().all()
    with pytest.raises(SegAnyPETError, match="'one' is called 'single' now"):
        evaluate_interactive(cohort, None, objects="one", **options)
