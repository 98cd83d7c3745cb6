"""Tumours of a cohort: every method clicked as suits it, a table that resumes after a kill, a page for each case."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import oblique
from evaluation_cases import SquareSession
from test_lesion_clicks import CubesByName
from threshold_network import ThresholdNetwork

import seganypet as sap
from seganypet.cohort.case import Case, InMemoryCase
from seganypet.errors import SegAnyPETError
from seganypet.pet.volume import Volume, save_mask, save_volume
from seganypet.study.definition import PLACE
from seganypet.study.lesion_clicks import PROMPTINGS_3D
from seganypet.study.lesions import COLUMNS, analyse_tumours, trained_on
from seganypet.study.summaries import summarise_tumours
from seganypet.study.tumour_scan import TumourScan

SHAPE = (48, 48, 40)
AFFINE = oblique(spacing=(4.07, 4.07, 3.0), left_handed=True)
LESIONS = ((slice(8, 16), slice(8, 16), slice(8, 16)), (slice(30, 36), slice(8, 14), slice(24, 30)))
KIDNEY = (slice(30, 40), slice(30, 40), slice(10, 20))


@pytest.fixture
def cohort(tmp_path) -> sap.Cohort:
    """Two scans on disk: two lesions and a hot kidney; a kidney alone."""
    cases = []
    for name, lesions in (("sick", LESIONS), ("healthy", ())):
        data, tumour, organs = np.full(SHAPE, 0.5, np.float32), np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
        data[KIDNEY], organs[KIDNEY] = 9.0, 2
        for lesion in lesions:
            data[lesion], tumour[lesion] = 8.0, 1
        pet = Volume(data, AFFINE, "SUVbw", source=name)
        files = {kind: tmp_path / f"{name}_{kind}.nii.gz" for kind in ("pet", "lesions", "organs")}
        save_volume(files["pet"], pet)
        for kind, labels in (("lesions", tumour), ("organs", organs)):
            save_mask(files[kind], labels > 0 if kind == "lesions" else labels, pet)
        cases.append(
            Case(name, name, files["pet"], "SUVbw", organs=files["organs"], organ_convention="seganypet",
                 lesions=files["lesions"])
        )  # fmt: skip
    return sap.Cohort(cases)


MODELS = {"deep": ThresholdNetwork(spacing_mm=4.0), "flat": SquareSession, "cubes": CubesByName}


def analysed(cohort, tmp_path, **more):
    options = {"clicks": 2, "rules": (), "progress": False, "output": tmp_path / "tumours.csv"} | more
    return analyse_tumours(cohort, MODELS, **options)


def ways(table: pd.DataFrame) -> dict[str, list[str]]:
    """How each model was clicked, in the order of the table."""
    return {model: [*rows["prompting"].unique()] for model, rows in table.groupby("model", sort=False)}


def test_every_method_is_clicked_as_suits_it(cohort, tmp_path):
    table = analysed(cohort, tmp_path)
    assert list(table.columns) == [*[*COLUMNS][:-1], *PLACE, "error"]
    sick = table[table["case"] == "sick"]
    assert ways(sick) == {
        "SUV>=4": ["no click"], "SUV>=4, no hot organs": ["no click"], "deep": [*PROMPTINGS_3D],
        "flat": ["per slice"], "cubes": ["one by one"],
    }  # fmt: skip
    whole = sick[sick["lesion"] == "all"].set_index(["model", "prompting", "click"])
    assert whole.loc[("deep", "one by one", 1), "total_clicks"] == 2
    assert whole.loc[("flat", "per slice", 1), "total_clicks"] == 8 + 6  # slices that hold tumour
    assert whole.loc[("deep", "one by one", 1), "dsc"] > 0.85


def test_healthy_organs_are_the_false_alarm_of_a_threshold_and_can_be_left_out(cohort, tmp_path):
    table = analysed(cohort, tmp_path)
    alone = table[table["prompting"] == "no click"].set_index(["case", "model"])
    kidney_ml = 1000 * 4.07 * 4.07 * 3 / 1000
    assert alone.loc[("sick", "SUV>=4"), "fpv_ml"] == pytest.approx(kidney_ml, rel=1e-3)
    assert alone.loc[("sick", "SUV>=4, no hot organs"), "fpv_ml"] == 0
    assert alone.loc[("sick", "SUV>=4, no hot organs"), "dsc"] == 1
    assert alone.loc[("healthy", "SUV>=4"), "fpv_ml"] == pytest.approx(kidney_ml, rel=1e-3)
    assert np.isnan(alone.loc[("healthy", "SUV>=4"), "dsc"])
    # Without lesions there is nothing to click.
    assert set(table[table["case"] == "healthy"]["prompting"]) == {"no click"}


def test_3d_networks_are_prompted_as_asked_and_so_are_factories(cohort, tmp_path):
    def six_mm(volume: Volume) -> sap.Session:
        return sap.Session(ThresholdNetwork(spacing_mm=4.0), volume, spacing_mm=6.0)

    models, options = {"deep": MODELS["deep"], "mine": six_mm}, {"clicks": 1, "progress": False}
    table = analyse_tumours(cohort, models, promptings=["one by one"], **options)
    assert ways(table[table["prompting"] != "no click"]) == {
        "deep": ["one by one"], "mine": ["one by one"], "41% SUVmax, from hottest": ["one by one"],
    }  # fmt: skip
    with pytest.raises(SegAnyPETError, match="promptings: 'at once'; expected 'all at once' or 'one by one'"):
        analysed(cohort, tmp_path, promptings=["at once"])


def test_lesions_below_the_minimum_are_not_clicked_and_a_case_of_such_has_no_page(cohort, tmp_path, monkeypatch):
    options = {"min_volume_ml": 1000.0, "reports": tmp_path / "pages"}
    table = analysed(cohort, tmp_path, **options)
    one_by_one = table[table["prompting"] == "one by one"]
    assert set(one_by_one["lesion"]) == {"all"} and (one_by_one["fnv_fraction"] == 1).all()
    assert not list((tmp_path / "pages").iterdir())
    monkeypatch.setattr(TumourScan, "of", lambda *_: pytest.fail("a finished case was opened again"))
    analysed(cohort, tmp_path, **options)


def test_all_at_once_may_have_more_rounds(cohort, tmp_path):
    table = analysed(cohort, tmp_path, clicks=1, clicks_at_once=3)
    rounds = table[table["model"] == "deep"].groupby("prompting")["click"].max()
    assert rounds["all at once"] == 3 and rounds["one by one"] == 1


def test_a_run_resumes_where_it_stopped_and_reads_its_own_table(cohort, tmp_path, monkeypatch):
    first = analysed(sap.Cohort([cohort["sick"]]), tmp_path)
    monkeypatch.setattr(TumourScan, "of", lambda *_: pytest.fail("the finished case was opened again"))
    again = analysed(sap.Cohort([cohort["sick"]]), tmp_path)
    pd.testing.assert_frame_equal(again, first)
    monkeypatch.undo()
    assert set(analysed(cohort, tmp_path)["case"]) == {"sick", "healthy"}
    with pytest.raises(SegAnyPETError, match="was made with clicks 2, clicks_at_once 2; now asked for is clicks 3, "):
        analysed(cohort, tmp_path, clicks=3)


def test_a_table_of_other_windows_or_other_rules_of_sessions_is_not_resumed(cohort, tmp_path):
    analysed(cohort, tmp_path)
    path, beside = tmp_path / "tumours.csv", tmp_path / "tumours.csv.jsonl"
    rows, notes = path.read_text(), beside.read_text()
    header, *others = notes.splitlines(keepends=True)
    older = json.loads(header)
    older["settings"]["auto_zoom"] = [False, True]
    beside.write_text(json.dumps(older) + "\n" + "".join(others))
    path.write_text(rows.replace("prompting,lesion,", "prompting,auto_zoom,lesion,", 1))
    with pytest.raises(SegAnyPETError, match="made with auto_zoom False, True; now asked for is auto_zoom none"):
        analysed(cohort, tmp_path)
    path.write_text(rows)
    assert ", clicks bind" in notes
    beside.write_text(notes.replace(", clicks bind", ""))
    with pytest.raises(SegAnyPETError, match="'deep' with weights .*, while today's 'deep' is .*, clicks bind; choose"):
        analysed(cohort, tmp_path)


def test_a_case_that_cannot_be_read_is_named_and_the_others_are_analysed(cohort, tmp_path):
    cohort["healthy"].pet.write_bytes(b"not a scan")
    with pytest.warns(UserWarning, match="case healthy failed: .*healthy_pet"):
        table = analysed(cohort, tmp_path)
    assert set(table.loc[table["error"].isna(), "case"]) == {"sick"}
    assert set(summarise_tumours(table)["patients"]) == {1}


def test_each_case_gets_one_page(cohort, tmp_path):
    analysed(cohort, tmp_path, reports=tmp_path / "pages")
    assert [page.name for page in (tmp_path / "pages").iterdir()] == ["sick.html"]
    text = (tmp_path / "pages" / "sick.html").read_text()
    assert "lesion_01" in text and "lesion_02" in text and "not for clinical use" in text.lower()


def test_pages_asked_for_later_are_written_though_the_table_is_finished(cohort, tmp_path, monkeypatch):
    first = analysed(cohort, tmp_path)
    again = analysed(cohort, tmp_path, reports=tmp_path / "pages")
    np.testing.assert_array_equal(again["dsc"], first["dsc"])
    assert [page.name for page in (tmp_path / "pages").iterdir()] == ["sick.html"]
    monkeypatch.setattr(TumourScan, "of", lambda *_: pytest.fail("a case with a page was opened again"))
    analysed(cohort, tmp_path, reports=tmp_path / "pages")


def test_a_page_that_another_network_made_is_written_anew(cohort, tmp_path):
    page = tmp_path / "pages" / "sick.html"
    analysed(cohort, tmp_path, reports=page.parent)
    mine = page.read_text()
    page.write_text("another network's")
    analysed(cohort, tmp_path, reports=page.parent)
    assert page.read_text().splitlines()[:9] == mine.splitlines()[:9]


def test_names_that_lie_elsewhere_have_no_page_and_a_page_that_fails_costs_no_rows(cohort, tmp_path):
    for name in ("../escaped", "PETCT_1/study"):
        renamed = sap.Cohort([replace(cohort["sick"], name=name)])
        with pytest.raises(SegAnyPETError, match=f"case '{name}' cannot give a report its file name.*Rename it"):
            analysed(renamed, tmp_path, reports=tmp_path / "pages")
        assert set(analyse_tumours(renamed, MODELS, clicks=1, progress=False)["case"]) == {name}
    (tmp_path / "pages" / "sick.html").mkdir()
    with pytest.warns(UserWarning, match="case sick failed: no page: .*is a folder"):
        table = analysed(cohort, tmp_path, reports=tmp_path / "pages")
    assert set(table["case"]) == {"sick", "healthy"}


def test_a_name_that_is_not_utf8_is_refused(cohort):
    with pytest.raises(SegAnyPETError, match=r"case 'M\\udcfcller': .*not UTF-8.*rename"):
        replace(cohort["sick"], name="M\udcfcller")


def test_totalsegmentator_output_is_found_by_case_and_its_absence_is_said(cohort, tmp_path):
    folder = tmp_path / "organs"
    (folder / "sick").mkdir(parents=True)
    case = cohort["sick"]
    pet = case.load_pet()
    bladder = np.zeros(SHAPE, bool)
    bladder[KIDNEY] = True
    save_mask(folder / "sick" / "urinary_bladder.nii.gz", bladder, pet)
    with pytest.warns(UserWarning, match="has no label for brain"):
        scan = TumourScan.of(case, folder)
    np.testing.assert_array_equal(scan.physiology, bladder)
    with pytest.raises(SegAnyPETError, match="neither a folder healthy nor healthy.nii.gz"):
        TumourScan.of(cohort["healthy"], folder)


def test_a_finished_case_is_analysed_again_when_its_organs_change(cohort, tmp_path):
    folder = tmp_path / "organs"
    (folder / "sick").mkdir(parents=True)
    mask, only = np.zeros(SHAPE, bool), sap.Cohort([cohort["sick"]])
    found = {}
    for name in ("urinary_bladder", "brain"):  # the kidney is taken for both, in turn
        mask[:] = False
        mask[KIDNEY if name == "brain" else (slice(0, 2), slice(0, 2), slice(0, 2))] = True
        save_mask(folder / "sick" / f"{name}.nii.gz", mask, cohort["sick"].load_pet())
        with pytest.warns(UserWarning, match="has no label for"):
            table = analysed(only, tmp_path, totalsegmentator=folder)
        found[name] = table.loc[table["model"] == "SUV>=4, no hot organs", "fpv_ml"].item()
    assert found["urinary_bladder"] > 0 and found["brain"] == 0


def test_places_that_cannot_be_are_refused_before_the_work(cohort, tmp_path):
    (tmp_path / "pages").write_text("a file")
    with pytest.raises(SegAnyPETError, match="cannot make folder .*pages"):
        analysed(cohort, tmp_path, reports=tmp_path / "pages")
    with pytest.raises(SegAnyPETError, match="pages is a file; expected a folder"):
        analysed(cohort, tmp_path, totalsegmentator=tmp_path / "pages")


def test_a_phantom_knows_all_its_hot_organs():
    phantom = sap.make_phantom(402, lesions="disseminated")
    scan = TumourScan.of(InMemoryCase.from_phantom(phantom))
    hot = {name for label, name in phantom.anatomy_names.items() if scan.physiology[phantom.anatomy == label].any()}
    assert {"bladder", "myocardium", "kidney_left_cortex"} <= hot and not {"liver", "marrow", "fat"} & hot
    assert scan.name == "phantom_internal_402_disseminated"


def test_what_a_network_learned_from_is_said(cohort):
    pet = cohort["sick"].load_pet()

    def said(metadata: dict) -> str:
        network = ThresholdNetwork()
        network.metadata = metadata
        return trained_on(sap.Session(network, pet))

    assert said({"training": {"data": {"lesions": False}}}) == "none"
    assert said({"training": {"lesions": False}}) == "none"  # a 2D training has no `data`
    assert said({"training": {"data": {}}}) == "simulated" and said({}) == "unknown"
    assert trained_on(sap.ThresholdSession(pet)) is None


def test_a_folder_in_autopet_layout_is_analysed(tmp_path):
    study = tmp_path / "autopet" / "PETCT_0123" / "01-01-2001-PET"
    study.mkdir(parents=True)
    rng = np.random.default_rng(0)
    data, tumour = rng.uniform(0.2, 0.6, SHAPE).astype(np.float32), np.zeros(SHAPE, bool)
    data[LESIONS[0]], tumour[LESIONS[0]] = 8.0, True
    pet = Volume(data, AFFINE, "SUVbw")
    save_volume(study / "SUV.nii.gz", pet)
    save_mask(study / "SEG.nii.gz", tumour, pet)
    options = {"clicks": 1, "reports": tmp_path / "pages", "progress": False}
    table = analyse_tumours(sap.Cohort.from_path(tmp_path / "autopet"), ["tiny-base"], **options)
    summary = summarise_tumours(table)
    assert "one by one" in set(summary["prompting"]) and summary["lesion_dsc"].notna().any()
    assert len(list((tmp_path / "pages").glob("*.html"))) == 1
