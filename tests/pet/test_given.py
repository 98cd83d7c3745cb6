"""What a user states by hand: it goes before the header, is checked, and stays with every number."""

import re

import numpy as np
import pytest
from make_dicom import FACTOR, add_philips, pet_header, write_series

import seganypet as sap
from seganypet.errors import SUVError
from seganypet.pet.suv import Given, suv_factor, suv_per_bq_ml

STORED = np.random.default_rng(5).integers(100, 9000, (6, 5, 4))


def spoiled(**tags):
    def change(header, k):
        for name, value in tags.items():
            holder = header.RadiopharmaceuticalInformationSequence[0] if name.startswith("Radio") else header
            setattr(holder, name, value)

    return change


@pytest.mark.parametrize(
    ("tags", "given"),
    [
        ({"PatientWeight": "0"}, {"weight_kg": 70}),
        ({"PatientWeight": "70000"}, {"weight_kg": np.float32(70)}),
        ({"RadionuclideTotalDose": ""}, {"dose_bq": 350e6}),
        ({"RadionuclideHalfLife": ""}, {"half_life_s": 6586.2}),
        ({"RadiopharmaceuticalStartTime": ""}, {"injection_time": "11:00"}),
        ({"RadiopharmaceuticalStartTime": "000000"}, {"injection_time": "2021-03-04T11:00:00"}),
        ({"SeriesTime": "", "AcquisitionTime": ""}, {"decay_reference_time": "12:00:00"}),
        ({"DecayCorrection": ""}, {"decay_reference_time": "2021-03-04 12:00:00"}),
        ({"Units": "PROPCNTS"}, {"suv_factor": FACTOR}),
    ],
)
def test_a_value_given_by_hand_opens_what_the_header_alone_does_not(tmp_path, oblique_affine, tags, given):
    write_series(tmp_path, STORED, oblique_affine, change=spoiled(**tags))
    with pytest.raises(SUVError) as refused:
        sap.load_dicom(tmp_path)
    assert f"{next(iter(given))}=" in str(refused.value)  # the error says what to give
    volume = sap.load_dicom(tmp_path, **given)
    assert float(volume.data.max()) == pytest.approx(FACTOR * STORED.max(), rel=1e-6)
    assert volume.metadata["given_by_hand"] == given


def test_what_was_given_stands_in_the_table_and_the_journal(tmp_path, oblique_affine):
    write_series(tmp_path, STORED, oblique_affine, change=spoiled(PatientWeight="0"))
    volume = sap.load_dicom(tmp_path, weight_kg=70.0, height_m=1.75, sex="F")
    table = sap.quantify(volume, np.ones(volume.shape, bool), sul="james")
    assert all("given by hand: weight_kg=70.0, height_m=1.75, sex=F" in one for one in table["definition"])
    session = sap.ThresholdSession(volume)
    session.click(ijk=(2, 2, 2))
    session.save_journal(tmp_path / "clicks.json")
    journal = sap.Journal.load(tmp_path / "clicks.json")
    assert journal.volume["given_by_hand"] == {"weight_kg": 70.0, "height_m": 1.75, "sex": "F"}


def test_nothing_by_hand_leaves_tables_and_journals_as_they_are(tmp_path, oblique_affine):
    write_series(tmp_path, STORED, oblique_affine)
    volume = sap.load_dicom(tmp_path)
    assert volume.metadata["given_by_hand"] == {}
    table = sap.quantify(volume, np.ones(volume.shape, bool))
    assert not any("by hand" in one for one in table["definition"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"weight_kg": 70_000}, "kilograms, no grams"),
        ({"weight_kg": "70"}, "expected a number"),
        ({"weight_kg": True}, "expected a number"),
        ({"weight_kg": float("nan")}, "expected a number"),
        ({"height_m": 175}, "metres, no centimetres"),
        ({"dose_bq": 350}, "400 MBq is dose_bq=400e6"),
        ({"dose_bq": [1, 2]}, "expected a number"),
        ({"half_life_s": 1.83}, "seconds"),
        ({"suv_factor": 0}, "above 0"),
        ({"sex": "female"}, "'M', 'F' or 'O'"),
        ({"injection_time": "110000"}, "'09:30:00'"),
        ({"injection_time": 1100}, "'09:30:00'"),
        ({"decay_reference_time": "25:00"}, "'09:30:00'"),
        ({"injection_time": "2021-03-04T11:00:00+01:00"}, "without time zone"),
    ],
)
def test_a_value_by_hand_in_another_unit_is_refused_by_name(given, message):
    with pytest.raises(SUVError, match=re.escape(message)) as refused:
        Given(**given)
    assert str(refused.value).startswith(next(iter(given)))


def test_an_unknown_argument_is_refused_with_those_there_are(tmp_path, oblique_affine):
    write_series(tmp_path, STORED, oblique_affine)
    with pytest.raises(SUVError, match=r"load_dicom: unknown argument weight=70; expected weight_kg, height_m"):
        sap.load_dicom(tmp_path, weight=70)


def test_a_ct_takes_nothing_for_an_suv(tmp_path, oblique_affine):
    write_series(tmp_path, STORED, oblique_affine, modality="CT")
    with pytest.raises(SUVError, match="in HU, weight_kg changes nothing"):
        sap.load_dicom(tmp_path, weight_kg=70)


def test_a_pet_opened_in_bq_ml_is_converted_afterwards(tmp_path, oblique_affine):
    write_series(tmp_path, STORED, oblique_affine, change=spoiled(PatientWeight="0"))
    with pytest.raises(SUVError, match="Give it to to_suvbw"):
        sap.load_dicom(tmp_path, unit="Bq/mL", weight_kg=70)
    activity = sap.load_dicom(tmp_path, unit="Bq/mL")
    converted = sap.to_suvbw(activity, weight_kg=70, dose_bq=350e6, half_life_s=6586.2, decay_s=3600)
    assert float(converted.data.max()) == pytest.approx(FACTOR * STORED.max(), rel=1e-6)
    assert np.array_equal(converted.affine, activity.affine)


def test_what_cannot_change_the_suv_in_the_file_is_not_dropped_in_silence():
    header = pet_header()
    header.Units = "GML"
    with pytest.raises(SUVError, match="which dose_bq cannot change"):
        suv_factor([header], given=Given(dose_bq=350e6))
    with pytest.raises(SUVError, match="which weight_kg cannot change"):
        suv_factor([header], given=Given(weight_kg=80))
    del header.PatientWeight
    assert suv_factor([header], given=Given(weight_kg=80)).weight_kg == 80  # for SULs


def test_philips_counts_use_the_activity_factor_where_a_dose_is_given():
    header = pet_header()
    header.Units = "CNTS"
    add_philips(header, suv_factor="0.0005", activity_factor="1.5")
    assert suv_factor([header]).suv_per_stored_unit == 0.0005
    factor = suv_factor([header], given=Given(dose_bq=700e6))
    assert factor.suv_per_stored_unit == pytest.approx(1.5 * FACTOR / 2)


def test_a_clock_given_before_midnight_is_that_of_the_day_before():
    header = pet_header()
    header.SeriesTime = header.AcquisitionTime = "003000"
    assert suv_factor([header], given=Given(injection_time="23:50")).decay_s == 40 * 60
    with pytest.raises(SUVError, match="injection_time lies .* half-lives"):
        suv_factor([header], given=Given(injection_time="02:00"))


def test_an_suv_from_numbers():
    """80 kg, 400 MBq of F-18, an hour: 1000 Bq/mL are an SUVbw of 0.2921."""
    assert suv_per_bq_ml(80.0, 400e6, 6586.2, 3600.0) * 1000 == pytest.approx(80 / 400 * 2 ** (3600 / 6586.2))
    assert suv_per_bq_ml(80.0, 400e6, 6586.2, 0.0) * 1000 == pytest.approx(0.2)
    for wrong in ({"weight_kg": 80_000}, {"dose_bq": 400}, {"decay_s": 86400}, {"decay_s": "1 h"}, {"half_life_s": 2}):
        with pytest.raises(SUVError, match=next(iter(wrong))):
            suv_per_bq_ml(**({"weight_kg": 80.0, "dose_bq": 400e6, "half_life_s": 6586.2, "decay_s": 3600.0} | wrong))
