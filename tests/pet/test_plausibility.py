"""A look at the values: what cannot be an SUV, an activity or a CT is said once, wherever it is opened or measured."""

import warnings

import nibabel as nib
import numpy as np
import pytest
from conftest import oblique
from make_dicom import write_series

import seganypet as sap
from seganypet.cohort.case import InMemoryCase
from seganypet.errors import DoubtfulValuesWarning
from seganypet.pet.plausibility import implausible

RNG = np.random.default_rng(8)
SHAPE = (12, 11, 9)
BODY = RNG.gamma(2.0, 0.6, SHAPE)  # mean 1.2
CT = np.where(RNG.random(SHAPE) < 0.4, -1000.0, RNG.normal(40.0, 30.0, SHAPE))
HOT = BODY.copy()
HOT[3:5, 3:5, 3:5] = 300.0  # a full bladder
NOISY = BODY + RNG.normal(0.0, 0.1, SHAPE) - 0.2  # as of filtered back-projection
WRAPPED = BODY.copy()
WRAPPED[3:5, 3:5, 3:5] = -5.0  # large pixel values, read as negative

PLAUSIBLE = {
    "a body": (BODY, "SUVbw"), "a hot bladder": (HOT, "SUVbw"), "noise below zero": (NOISY, "SUVbw"),
    "activity": (5000 * BODY, "Bq/mL"), "a CT": (CT, "HU"), "fat and water": (np.clip(CT, -100, 80), "HU"),
}  # fmt: skip
IMPLAUSIBLE = {
    "activity as SUV": (5000 * BODY, "SUVbw", "half of the scan"),
    "eight bits as SUV": (np.round(60 * BODY), "SUVbw", "half of the scan"),
    "normalised to 1": (0.05 * BODY / BODY.max(), "SUVbw", "mean SUV of a body is about 1"),
    "all negative": (-BODY, "SUVbw", "activity is not negative"),
    "all negative activity": (-5000 * BODY, "Bq/mL", "activity is not negative"),
    "a CT as SUV": (CT, "SUVbw", "as of a CT in HU"),
    "a CT as activity": (CT, "Bq/mL", "as of a CT in HU"),
    "wrapped pixels": (WRAPPED, "SUVbw", "read as negative"),
    "centred on 0": ((BODY - BODY.mean()) / BODY.std(), "SUVbw", "normalised"),
    "an SUV as activity": (BODY, "Bq/mL", "very low for Bq/mL"),
    "nothing": (0 * BODY, "SUVbw", "every voxel is 0"),
    "a PET as CT": (5000 * BODY, "HU", "is it a PET"),
    "a CT without its intercept": (CT + 1024, "HU", "without its intercept"),
}


@pytest.mark.parametrize("name", PLAUSIBLE)
def test_what_scanners_write_raises_no_doubt(name, oblique_affine):
    data, unit = PLAUSIBLE[name]
    assert implausible(sap.Volume(data, oblique_affine, unit)) is None


@pytest.mark.parametrize("name", IMPLAUSIBLE)
def test_what_its_unit_cannot_be_is_said_in_one_sentence(name, oblique_affine):
    data, unit, why = IMPLAUSIBLE[name]
    found = implausible(sap.Volume(data, oblique_affine, unit))
    assert found is not None and why in found and "\n" not in found


def test_a_scan_of_a_trunk_that_is_nowhere_above_1_is_no_suv():
    mask, trunk, crop = (BODY > 2).astype(float), oblique((25.0, 25.0, 20.0)), oblique((4.0, 4.0, 3.0))
    assert "a mask" in str(implausible(sap.Volume(mask, trunk, "SUVbw")))  # 15 L
    assert implausible(sap.Volume(mask, crop, "SUVbw")) is None


def doubts(call, *arguments, **keywords):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call(*arguments, **keywords)
    return result, [str(one.message) for one in caught if one.category is DoubtfulValuesWarning]


def test_loading_says_it_and_measuring_does_not_repeat_it(tmp_path, oblique_affine):
    nib.save(nib.Nifti1Image(5000 * BODY.astype(np.float32), oblique_affine), tmp_path / "pet.nii.gz")
    volume, said = doubts(sap.load_volume, tmp_path / "pet.nii.gz", unit="SUVbw")
    assert len(said) == 1 and "pet.nii.gz: implausible for SUVbw" in said[0]
    assert doubts(sap.quantify, volume, volume.data > 9000)[1] == []


def test_measuring_an_array_says_it_once(oblique_affine):
    volume = sap.Volume(CT, oblique_affine, "SUVbw")
    assert len(doubts(sap.quantify, volume, CT > 50)[1]) == 1
    assert doubts(sap.quantify, volume, CT > 60)[1] == []


def test_pixels_read_with_a_wrong_sign_are_said(tmp_path, oblique_affine):
    """40000, stored without a sign and declared with one, is -25536."""
    stored = np.full((6, 5, 4), 40000 - 65536)
    write_series(tmp_path, stored, oblique_affine)
    volume, said = doubts(sap.load_dicom, tmp_path)
    assert volume.data.max() < 0
    assert len(said) == 1 and "wrong sign" in said[0]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_cohort_says_it_for_each_case_in_every_process(oblique_affine, processes):
    lesions = (BODY > 3).astype(np.uint8)
    cases = [
        InMemoryCase(name, name, sap.Volume(data, oblique_affine, "SUVbw", source=name), lesions=lesions)
        for name, data in (("ct_as_pet", CT), ("body", BODY), ("activity", 5000 * BODY))
    ]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sap.quantify_cohort(cases, processes=processes, progress=False)
    said = [str(one.message) for one in caught if "implausible" in str(one.message)]
    assert sorted(one.split(":")[0] for one in said) == ["activity", "ct_as_pet"]


def test_the_widget_shows_it(oblique_affine):
    doubtful = sap.ClickWidget(sap.ThresholdSession(sap.Volume(5000 * BODY, oblique_affine, "SUVbw", source="pet")))
    assert doubtful.error.startswith("Note: pet: implausible for SUVbw: half of the scan")
    usual = sap.ClickWidget(sap.ThresholdSession(sap.Volume(BODY, oblique_affine, "SUVbw")))
    assert usual.error == ""
    for widget in (doubtful, usual):
        widget.close()


def test_a_percentage_of_a_negative_maximum_is_said(oblique_affine):
    data = BODY.copy()
    data[:3, :3, :3] = -0.05
    corner = np.zeros(SHAPE, bool)
    corner[:3, :3, :3] = True
    table, said = doubts(sap.quantify, sap.Volume(data, oblique_affine, "SUVbw"), corner, threshold="41% SUVmax")
    assert table.set_index("quantity").value["MTV"] == 0
    assert len(said) == 1 and "largest value of a mask is -0.05" in said[0]


def test_real_scans_raise_no_alarm(real_data):
    for name in ("STS_002", "STS_003", "STS_004", "STS_005"):
        paths = [path for path in (real_data / "sts" / name).rglob("*.nii.gz") if "mask" not in path.name.lower()]
        assert paths
        for path in paths:
            assert doubts(sap.load_volume, path, unit="SUVbw")[1] == []
    assert doubts(sap.load_dicom, real_data / "acrin042" / "PET_AC")[1] == []
    assert doubts(sap.load_dicom, real_data / "acrin042" / "CT")[1] == []
