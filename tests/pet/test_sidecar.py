"""The JSON file beside a NIfTI PET, and SUVs from it or from numbers."""

import json
import warnings

import nibabel as nib
import numpy as np
import pytest

import seganypet as sap
from seganypet.errors import DoubtfulValuesWarning, SUVError, UnitError

F18_S = 6586.2
# 80 kg, 400 MBq at 0 s, image corrected to an hour later.
BIDS = {
    "Units": "Bq/mL", "BodyWeight": 80, "InjectedRadioactivity": 400, "InjectedRadioactivityUnits": "MBq",
    "TracerRadionuclide": "F18", "TimeZero": "09:00:00", "InjectionStart": 0, "ScanStart": 3600,
    "ImageDecayCorrected": True, "ImageDecayCorrectionTime": 3600,
}  # fmt: skip
EXPECTED = 80e3 / (400e6 * 2 ** (-3600 / F18_S))


@pytest.fixture
def pet(tmp_path, oblique_affine):
    """Writes a PET of 1000 to 30000 Bq/mL, and what is to lie beside it."""
    data = np.random.default_rng(2).uniform(1e3, 3e4, (7, 6, 5)).astype(np.float32)

    def write(beside, name="sub-01_pet.nii.gz", scale=1.0):
        nib.save(nib.Nifti1Image(data * np.float32(scale), oblique_affine), tmp_path / name)
        text = beside if isinstance(beside, str) else json.dumps(beside)
        (tmp_path / name.replace(".nii.gz", ".json").replace(".nii", ".json")).write_text(text)
        return tmp_path / name, data

    return write


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"BodyWeight": 80_000, "BodyWeightUnits": "g"},
        {"BodyWeight": 176.37, "BodyWeightUnits": "lb"},
        {"InjectedRadioactivity": 400e3, "InjectedRadioactivityUnits": "kBq"},
        {"InjectedRadioactivity": 10.8108, "InjectedRadioactivityUnits": "mCi"},
        {"InjectedRadioactivity": 10810.8, "InjectedRadioactivityUnits": "uCi"},
        {"InjectedRadioactivity": 0.4, "InjectedRadioactivityUnits": "GBq"},
        {"InjectionStart": -3600, "ImageDecayCorrectionTime": 0},
        {"BodyWeight": None, "PatientWeight": [80]},
        {"RadionuclideHalfLife": 6586.2, "TracerRadionuclide": None},
        {"InjectedRadioactivity": None, "RadionuclideTotalDose": 4e8},
        {
            "ImageDecayCorrected": None, "DecayCorrection": "START", "RadiopharmaceuticalStartTime": "09:00:00",
            "AcquisitionTime": "10:00:00.000000",
        },
        {
            "ImageDecayCorrected": None, "DecayCorrection": "START", "RadiopharmaceuticalStartTime": "23:30:00",
            "AcquisitionTime": "00:30:00",
        },
    ],
)  # fmt: skip
def test_a_sidecar_gives_the_suv_whatever_its_units(pet, changed):
    path, data = pet(BIDS | changed)
    volume = sap.load_volume(path, unit="Bq/mL")
    converted = sap.to_suvbw(volume)
    assert converted.unit == "SUVbw"
    assert converted.data == pytest.approx(data * EXPECTED, rel=2e-5)
    assert converted.metadata["suv_per_bq_ml"] == pytest.approx(EXPECTED, rel=2e-5)
    assert "given_by_hand" not in converted.metadata
    assert np.array_equal(converted.affine, volume.affine)


def test_what_dcm2niix_writes_lacks_the_time_of_injection_alone(pet):
    """As version 1.0.20230411 writes it for a PET, but for what the SUV does not need."""
    written = {
        "Modality": "PT", "Units": "BQML", "PatientWeight": 80, "PatientSex": "M", "RadionuclideTotalDose": 4e8,
        "RadionuclideHalfLife": 6586.2, "DecayCorrection": "START", "AcquisitionTime": "10:00:00.000000",
        "DecayFactor": [1.00633], "FrameReferenceTime": [59.9369],
    }  # fmt: skip
    path, data = pet(written)
    volume = sap.load_volume(path, unit="Bq/mL")
    with pytest.raises(SUVError, match="decay_s unknown.*injection_time"):
        sap.to_suvbw(volume)
    assert sap.to_suvbw(volume, injection_time="09:00").data == pytest.approx(data * EXPECTED, rel=1e-5)
    path, data = pet(BIDS | {"InjectionStart": None})
    volume = sap.load_volume(path, unit="Bq/mL")
    assert sap.to_suvbw(volume, injection_time="09:00").data == pytest.approx(data * EXPECTED, rel=1e-5)


def test_an_image_that_is_corrected_to_the_injection_needs_no_times(pet):
    path, data = pet(BIDS | {"ImageDecayCorrected": None, "DecayCorrection": "ADMIN"})
    assert sap.to_suvbw(sap.load_volume(path, unit="Bq/mL")).data == pytest.approx(data * 80e3 / 400e6, rel=1e-5)


def test_an_image_without_correction_of_decay_is_that_of_its_frame(pet):
    frame = {"ImageDecayCorrected": False, "FrameTimesStart": [3600], "FrameDuration": [600]}
    path, data = pet(BIDS | frame)
    x = np.log(2) * 600 / F18_S
    later_s = 3600 + np.log(x / (1 - np.exp(-x))) / np.log(2) * F18_S
    expected = data * 80e3 / (400e6 * 2 ** (-later_s / F18_S))
    assert sap.to_suvbw(sap.load_volume(path, unit="Bq/mL")).data == pytest.approx(expected, rel=1e-5)
    path, _ = pet(BIDS | frame | {"FrameTimesStart": [3600, 4200], "FrameDuration": [600, 600]})
    with pytest.raises(SUVError, match="decay_s unknown"):
        sap.to_suvbw(sap.load_volume(path, unit="Bq/mL"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"InjectedRadioactivityUnits": None}, "InjectedRadioactivityUnits is ''"),
        ({"InjectedRadioactivityUnits": "MBq/kg"}, "'MBq/kg'"),
        ({"InjectedRadioactivityUnits": "Bq"}, "400 Bq"),
        ({"InjectedRadioactivity": "n/a"}, "dose_bq unknown"),
        ({"RadionuclideTotalDose": 3e8}, "4e\\+08 Bq, and RadionuclideTotalDose 3e\\+08"),
        ({"BodyWeight": "eighty"}, "weight_kg: could not convert"),
        ({"BodyWeight": 80_000}, "no grams"),
        ({"TracerRadionuclide": None}, "half_life_s unknown"),
        ({"RadionuclideHalfLife": 4062.6}, "TracerRadionuclide F-18"),
        ({"ImageDecayCorrectionTime": None}, "decay_s unknown"),
        ({"ImageDecayCorrectionTime": 86400}, "decay_s=86400"),
    ],
)
def test_a_sidecar_that_leaves_the_suv_open_is_refused_until_the_user_says(pet, changed, message):
    path, data = pet(BIDS | changed)
    volume = sap.load_volume(path, unit="Bq/mL")
    with pytest.raises(SUVError, match=message):
        sap.to_suvbw(volume)
    given = {"weight_kg": 80.0, "dose_bq": 400e6, "half_life_s": F18_S}
    times = {"injection_time": "09:00", "decay_reference_time": "10:00"}
    converted = sap.to_suvbw(volume, **given, **times)
    assert converted.data == pytest.approx(data * EXPECTED, rel=1e-5)
    assert converted.metadata["given_by_hand"] == given | times
    assert sap.to_suvbw(volume, **given, decay_s=3600).data == pytest.approx(data * EXPECTED, rel=1e-5)


def test_an_injection_after_the_scan_is_doubted(pet):
    path, _ = pet(BIDS | {"InjectionStart": 3600, "ImageDecayCorrectionTime": 0})  # the sign is forgotten
    with pytest.warns(DoubtfulValuesWarning, match="injection lies 3600 s after"):
        sap.to_suvbw(sap.load_volume(path, unit="Bq/mL"))
    path, data = pet(BIDS | {"InjectionStart": 30, "ImageDecayCorrectionTime": 0})  # of a dynamic scan
    expected = data * 80e3 / (400e6 * 2 ** (30 / F18_S))
    with warnings.catch_warnings(action="error"):
        assert sap.to_suvbw(sap.load_volume(path, unit="Bq/mL")).data == pytest.approx(expected, rel=1e-5)


def test_an_suv_factor_alone_converts(pet):
    path, data = pet("{}")
    converted = sap.to_suvbw(sap.load_volume(path, unit="Bq/mL"), suv_factor=2e-4)
    assert converted.data == pytest.approx(data * 2e-4, rel=1e-6)
    assert converted.metadata["given_by_hand"] == {"suv_factor": 2e-4}


@pytest.mark.parametrize("beside", ["", "[1, 2]", "{broken", '{"Units": ' + "[" * 5000 + "}"])
def test_a_damaged_sidecar_does_not_keep_the_image_from_opening(pet, beside):
    path, data = pet(beside)
    volume = sap.load_volume(path, unit="Bq/mL")
    assert np.array_equal(volume.data, data)
    with pytest.raises(SUVError, match="not a readable sidecar"):
        sap.to_suvbw(volume)


@pytest.mark.parametrize("unit", ["kBq/mL", "nCi/cc", "MBq/ml"])
def test_a_sidecar_in_thousands_of_becquerel_is_refused(pet, unit):
    path, _ = pet(BIDS | {"Units": unit})
    with pytest.raises(UnitError, match="its sidecar says that it is in"):
        sap.load_volume(path, unit="Bq/mL")


def test_a_unit_that_contradicts_the_sidecar_is_said(pet):
    path, _ = pet(BIDS, scale=1e-4)  # converted already, beside the old sidecar
    with pytest.warns(DoubtfulValuesWarning, match="its sidecar says that it is in Bq/mL, but.*'SUVbw'"):
        volume = sap.load_volume(path, unit="SUVbw")
    assert volume.unit == "SUVbw"


def test_weight_height_and_sex_beside_an_suv_image_give_its_sul(pet):
    body = {"Units": "g/mL", "BodyWeight": 80, "BodyHeight": 180, "BodyHeightUnits": "cm", "PatientSex": "male"}
    path, data = pet(body, scale=1e-4)
    with warnings.catch_warnings(action="error"):
        volume = sap.load_volume(path, unit="SUVbw")
    lean_kg = 9270 * 80 / (6680 + 216 * 80 / 3.24)
    assert sap.sul_factor(volume) == pytest.approx(lean_kg / 80, rel=1e-12)


def test_only_activity_is_converted(pet):
    path, _ = pet("{}", scale=1e-4)
    with pytest.raises(UnitError, match="expected Bq/mL"):
        sap.to_suvbw(sap.load_volume(path, unit="SUVbw"), suv_factor=1.0)
    activity, _ = pet(BIDS, name="other.nii")
    volume = sap.load_volume(activity, unit="Bq/mL")
    with pytest.raises(SUVError, match="unknown argument dose"):
        sap.to_suvbw(volume, dose=400e6)
    with pytest.raises(SUVError, match="are needed both"):
        sap.to_suvbw(volume, decay_reference_time="10:00")
    with pytest.raises(SUVError, match="both decay_s and times"):
        sap.to_suvbw(volume, injection_time="09:00", decay_reference_time="10:00", decay_s=3600)
    with pytest.raises(SUVError, match="both with their dates"):
        sap.to_suvbw(volume, injection_time="09:00", decay_reference_time="2022-05-10T10:00")
