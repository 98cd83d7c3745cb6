"""SUV factors: real headers of four vendors, witnesses from a workstation, and arithmetic."""

import numpy as np
import pydicom
import pytest
from make_dicom import FACTOR, add_philips, headers_from_json, pet_header
from pydicom.dataset import Dataset
from scipy.optimize import brentq

from seganypet.errors import SUVError
from seganypet.pet.suv import lean_body_mass, sul_per_suvbw, suv_factor


@pytest.mark.parametrize(
    ("name", "expected_1e4", "reference"),
    [
        ("SIEMENS", 4.2748, "series time"),
        ("GE_MEDICAL_AND_BQML", 5.3674, "series time"),
        ("PHILIPS_BQML", 7.46375, "series time"),
        ("PHILIPS_CNTS_AND_BQML_SUV", 5.51, "not needed"),
        ("PHILIPS_CNTS_AND_SUV", 7.28, "not needed"),
        ("BQML_AC_DT_lessThan_S_DT_SIEMENS", 4.0692, "average count rate time"),
        ("CPS_AND_BQML_AC_DT_-_S_DT", 2.6503, "earliest acquisition time"),
        ("RADIOPHARM_DATETIME_UNDEFINED", 3.7211, "series time"),
    ],
)
def test_real_headers_of_four_vendors_give_the_published_factor(real_data, name, expected_1e4, reference):
    headers = headers_from_json(real_data / "pet_headers" / "json" / f"{name}-instances.json")
    factor = suv_factor(headers)
    assert factor.suv_per_stored_unit * 1e4 == pytest.approx(expected_1e4, rel=2e-5)  # 1 s of decay is 1e-4
    assert factor.decay_reference == reference


def test_series_time_of_a_late_reconstruction_is_not_the_decay_reference(real_data):
    """CPS: injected 12:00:37, scanned 13:03:48.234, reconstructed 13:49:18; 69 kg, 388 MBq."""
    headers = headers_from_json(real_data / "pet_headers" / "json" / "CPS_AND_BQML_AC_DT_-_S_DT-instances.json")
    decay_s = 63 * 60 + 11.234
    assert suv_factor(headers).suv_per_stored_unit == pytest.approx(69e3 / 388e6 * 2 ** (decay_s / 6586.2), rel=1e-9)
    wrong = 69e3 / 388e6 * 2 ** ((108 * 60 + 41) / 6586.2)
    assert wrong == pytest.approx(3.5324e-4, abs=5e-9)  # a third too high


@pytest.mark.parametrize(
    ("name", "weight_g", "dose_bq", "decay_s"),
    [
        # 14:17:00 to 15:23:16.921
        ("1.dcm", 69734.4, 178340011.59668, 66 * 60 + 16.921),
        # 11:19:59 to 11:19:59.109: dynamic scan, started with the injection
        ("2.dcm", 82174.0, 173529998.7793, 0.109),
    ],
)
def test_flt_slices_by_arithmetic(real_data, name, weight_g, dose_bq, decay_s):
    header = pydicom.dcmread(real_data / "pet_headers" / "slices" / name, stop_before_pixels=True)
    factor = suv_factor([header])
    assert factor.suv_per_stored_unit == pytest.approx(weight_g / dose_bq * 2 ** (decay_s / 6586.2), rel=1e-9)
    assert factor.decay_s == pytest.approx(decay_s, abs=1e-3)


def test_factors_agree_with_the_real_world_value_mapping_of_the_same_scan(real_data):
    mapping = pydicom.dcmread(next((real_data / "acrin042" / "RWV").glob("*.dcm")))
    slopes = {
        item.RealWorldValueMappingSequence[0].LUTExplanation: item.RealWorldValueMappingSequence[0].RealWorldValueSlope
        for item in mapping.ReferencedImageRealWorldValueMappingSequence
    }
    paths = sorted((real_data / "acrin042" / "PET_AC").glob("*.dcm"))
    factor = suv_factor([pydicom.dcmread(path, stop_before_pixels=True) for path in paths])
    # The mapping was written with five or six digits.
    assert float(f"{factor.suv_per_stored_unit:.5g}") == slopes["Standardized Uptake Value body weight"]
    lean = sul_per_suvbw(factor.weight_kg, factor.height_m, factor.sex, "james")
    expected = slopes["Standardized Uptake Value lean body mass"]
    assert float(f"{factor.suv_per_stored_unit * lean:.5g}") == expected


def test_uncorrected_scan_is_refused_by_its_units(real_data):
    paths = (real_data / "acrin042" / "PET_NAC_3_slices").glob("*.dcm")
    with pytest.raises(SUVError, match=r"Units \(0054,1001\) is 'PROPCNTS'"):
        suv_factor([pydicom.dcmread(path, stop_before_pixels=True) for path in paths])


def test_factor_by_arithmetic_and_its_provenance():
    factor = suv_factor([pet_header()])
    assert factor.suv_per_stored_unit == pytest.approx(FACTOR, rel=1e-12)
    assert (factor.weight_kg, factor.height_m, factor.sex) == (70.0, 1.75, "F")
    assert (factor.dose_bq, factor.half_life_s, factor.decay_s) == (350e6, 6586.2, 3600.0)


def test_injection_before_midnight_is_one_interval_not_a_negative_one():
    header = pet_header()
    header.SeriesTime = header.AcquisitionTime = "003000"
    header.RadiopharmaceuticalInformationSequence[0].RadiopharmaceuticalStartTime = "235000"
    assert suv_factor([header]).decay_s == 40 * 60


def test_acquisition_after_midnight_of_the_series_date_counts_on():
    header = pet_header()
    header.SeriesTime, header.AcquisitionTime, header.AcquisitionDate = "235930", "000010", "20210305"
    header.RadiopharmaceuticalInformationSequence[0].RadiopharmaceuticalStartTime = "230000"
    assert suv_factor([header]).decay_s == 59 * 60 + 30


def test_injection_datetime_goes_before_injection_time():
    header = pet_header()
    header.RadiopharmaceuticalInformationSequence[0].RadiopharmaceuticalStartDateTime = "20210304103000"
    assert suv_factor([header]).decay_s == 90 * 60


def test_injection_datetime_in_another_time_zone_is_converted():
    header = pet_header()
    header.TimezoneOffsetFromUTC = "+0200"
    header.RadiopharmaceuticalInformationSequence[0].RadiopharmaceuticalStartDateTime = "20210304090000+0000"
    assert suv_factor([header]).decay_s == 60 * 60


def test_bed_positions_share_the_series_time_whatever_the_slice_order():
    headers = [pet_header() for _ in range(3)]
    for header, clock in zip(headers, ("120600", "120000", "120300"), strict=True):
        header.AcquisitionTime = clock
    assert suv_factor(headers) == suv_factor(headers[::-1])
    assert suv_factor(headers).decay_s == 3600.0


def test_ge_scan_time_counts_where_the_series_was_saved_later():
    header = pet_header()
    header.SeriesTime = "130000"
    header.private_block(0x0009, "GEMS_PETD_01", create=True).add_new(0x0D, "DT", "20210304115500.00")
    factor = suv_factor([header])
    assert (factor.decay_s, factor.decay_reference) == (55 * 60, "GE scan time")


def test_ge_scan_time_with_shifted_date_is_passed_over():
    header = pet_header()
    header.SeriesTime = "130000"
    header.private_block(0x0009, "GEMS_PETD_01", create=True).add_new(0x0D, "DT", "19591224115500.00")
    factor = suv_factor([header])
    assert (factor.decay_s, factor.decay_reference) == (60 * 60, "earliest acquisition time")


def test_frame_reference_time_leads_back_to_the_reference_for_a_long_carbon_frame():
    """C-11 and a frame of 20 min: the mean count rate comes 34 s before mid-frame."""
    half_life_s, duration_s, begins_s = 1223.0, 1200.0, 300.0
    seconds = np.linspace(0.0, duration_s, 200_001)
    mean_rate = np.trapezoid(0.5 ** (seconds / half_life_s), seconds) / duration_s
    average_s = brentq(lambda t: 0.5 ** (t / half_life_s) - mean_rate, 0.0, duration_s)
    header = pet_header()
    header.SeriesTime = "130000"  # saved after a later reconstruction
    header.AcquisitionTime = "120500"  # 300 s after the reference at 12:00
    header.FrameReferenceTime = f"{(begins_s + average_s) * 1000:.6f}"
    header.ActualFrameDuration = str(int(duration_s * 1000))
    header.RadiopharmaceuticalInformationSequence[0].RadionuclideHalfLife = str(half_life_s)
    factor = suv_factor([header])
    assert factor.decay_reference == "average count rate time"
    assert factor.decay_s == pytest.approx(3600.0, abs=1e-3)
    assert duration_s / 2 - average_s > 30.0  # mid-frame would have been wrong


def test_admin_correction_leaves_the_dose_undecayed():
    header = pet_header()
    header.DecayCorrection = "ADMIN"
    factor = suv_factor([header])
    assert factor.suv_per_stored_unit == pytest.approx(70_000 / 350e6)
    assert (factor.decay_s, factor.decay_reference) == (0.0, "injection")


def test_gml_is_suv_already():
    header = pet_header()
    header.Units = "GML"
    del header.PatientWeight
    assert suv_factor([header]).suv_per_stored_unit == 1.0
    header.SUVType = "BW"
    assert suv_factor([header]).suv_per_stored_unit == 1.0


def test_philips_counts_use_the_suv_factor_then_the_activity_factor():
    header = pet_header()
    header.Units = "CNTS"
    add_philips(header, suv_factor="0.0005", activity_factor="1.5")
    assert suv_factor([header]).suv_per_stored_unit == 0.0005
    header = pet_header()
    header.Units = "CNTS"
    add_philips(header, suv_factor="0", activity_factor="1.5")  # zero: not computed
    assert suv_factor([header]).suv_per_stored_unit == pytest.approx(1.5 * FACTOR)


def test_philips_factor_survives_the_loss_of_its_private_creator():
    header = pet_header()
    header.Units = "CNTS"
    header.add_new((0x7053, 0x1000), "UN", b"0.0005 ")
    assert suv_factor([header]).suv_per_stored_unit == 0.0005


def test_private_tags_of_another_vendor_are_not_taken_for_philips_factors():
    header = pet_header()
    header.Units = "CNTS"
    header.private_block(0x7053, "SOMEONE ELSE", create=True).add_new(0x00, "DS", "0.0005")
    with pytest.raises(SUVError, match=r"\(7053,1000\)"):
        suv_factor([header])


def _set(**values):
    def spoil(header: Dataset) -> None:
        for keyword, value in values.items():
            holder = header.RadiopharmaceuticalInformationSequence[0] if keyword.startswith("Radionuc") else header
            if value is None:
                delattr(holder, keyword)
            else:
                setattr(holder, keyword, value)

    return spoil


def _drug(keyword, value):
    return lambda header: setattr(header.RadiopharmaceuticalInformationSequence[0], keyword, value)


def _two_injections(header):
    header.RadiopharmaceuticalInformationSequence.append(header.RadiopharmaceuticalInformationSequence[0])


REFUSED = {
    "units absent": (_set(Units=None), r"Units \(0054,1001\) is missing"),
    "units percent": (_set(Units="PCNT"), r"Units \(0054,1001\) is 'PCNT'"),
    "GML by lean mass": (_set(Units="GML", SUVType="LBM"), r"SUVType \(0054,1006\) is 'LBM'"),
    "counts without Philips factors": (_set(Units="CNTS"), r"\(7053,1000\).*\(7053,1009\)"),
    "weight absent": (_set(PatientWeight=None), r"PatientWeight \(0010,1030\) is missing"),
    "weight empty": (_set(PatientWeight=""), r"PatientWeight \(0010,1030\) is missing"),
    "weight zero": (_set(PatientWeight="0"), r"PatientWeight \(0010,1030\) is 0"),
    "dose absent": (_set(RadionuclideTotalDose=None), r"RadionuclideTotalDose \(0018,1074\) is missing"),
    "dose zero": (_set(RadionuclideTotalDose="0"), r"RadionuclideTotalDose \(0018,1074\) is 0"),
    "dose in mCi": (_set(RadionuclideTotalDose="9.5"), r"RadionuclideTotalDose \(0018,1074\) is 9.5.*MBq or mCi"),
    "half-life absent": (_set(RadionuclideHalfLife=None), r"RadionuclideHalfLife \(0018,1075\) is missing"),
    "half-life zero": (_set(RadionuclideHalfLife="0"), r"RadionuclideHalfLife \(0018,1075\) is 0"),
    "no injection": (
        lambda header: delattr(header, "RadiopharmaceuticalInformationSequence"),
        r"RadionuclideTotalDose \(0018,1074\) is missing",
    ),
    "two injections": (_two_injections, r"InformationSequence \(0054,0016\) lists several"),
    "injection time empty": (_drug("RadiopharmaceuticalStartTime", ""), r"StartTime \(0018,1072\) is missing"),
    "injection after the scan": (
        _drug("RadiopharmaceuticalStartDateTime", "20210304123000"),
        r"StartDateTime \(0018,1078\) lies -0.50 h",
    ),
    "injection date shifted": (
        _drug("RadiopharmaceuticalStartDateTime", "20210101110000"),
        r"StartDateTime \(0018,1078\) lies 14.* h before",
    ),
    "injection date without time": (
        _drug("RadiopharmaceuticalStartDateTime", "20210304"),
        r"StartDateTime \(0018,1078\).*hour and minute",
    ),
    "injection zone unknown": (
        _drug("RadiopharmaceuticalStartDateTime", "20210304110000+0000"),
        r"TimezoneOffsetFromUTC \(0008,0201\)",
    ),
    "series date absent": (_set(SeriesDate=None), r"SeriesDate \(0008,0021\) is missing"),
    "series time absent": (_set(SeriesTime=None), r"SeriesTime \(0008,0031\) is missing"),
    "acquisition date empty": (_set(AcquisitionDate=""), r"AcquisitionDate \(0008,0022\) is missing"),
    "acquisition time absent": (_set(AcquisitionTime=None), r"AcquisitionTime \(0008,0032\) is missing"),
    "decay correction absent": (_set(DecayCorrection=None), r"DecayCorrection \(0054,1102\) is missing"),
    "decay correction NONE": (_set(DecayCorrection="NONE"), r"DecayCorrection \(0054,1102\) is 'NONE'"),
    "corrections absent": (_set(CorrectedImage=None), r"CorrectedImage \(0028,0051\) is absent"),
    "no attenuation correction": (_set(CorrectedImage=["DECY", "NORM"]), r"CorrectedImage \(0028,0051\).*without ATTN"),
    "no decay correction": (_set(CorrectedImage="ATTN"), r"CorrectedImage \(0028,0051\).*without DECY"),
}


@pytest.mark.parametrize("cause", REFUSED)
def test_a_header_that_leaves_the_factor_open_is_refused_naming_the_tag(cause):
    spoil, message = REFUSED[cause]
    header = pet_header()
    spoil(header)
    with pytest.raises(SUVError, match=message):
        suv_factor([header], "scan 12")


def test_slices_that_disagree_are_refused():
    headers = [pet_header(), pet_header()]
    headers[1].PatientWeight = "71"
    with pytest.raises(SUVError, match=r"PatientWeight \(0010,1030\) differs"):
        suv_factor(headers)
    headers = [pet_header(), pet_header()]
    headers[1].Units = "GML"
    with pytest.raises(SUVError, match=r"Units \(0054,1001\) differs"):
        suv_factor(headers)


@pytest.mark.parametrize(
    ("formula", "sex", "expected_kg"),
    [
        # 80 kg, 1.60 m: BMI 31.25, W/H = 0.5 kg/cm
        ("janmahasatian", "M", 9270 * 80 / (6680 + 6750)),
        ("janmahasatian", "F", 9270 * 80 / (8780 + 7625)),
        ("james", "M", 88.0 - 32.0),
        ("james", "F", 85.6 - 37.0),
    ],
)
def test_lean_body_mass_by_arithmetic(formula, sex, expected_kg):
    assert lean_body_mass(80.0, 1.60, sex, formula) == pytest.approx(expected_kg, rel=1e-12)
    assert sul_per_suvbw(80.0, 1.60, sex, formula) == pytest.approx(expected_kg / 80.0, rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((70.0, None, "M"), r"\(0010,1020\)"),
        ((None, 1.7, "M"), r"\(0010,1030\)"),
        ((70.0, 170.0, "M"), "metres"),
        ((70.0, 1.7, "O"), r"\(0010,0040\)"),
        ((70.0, 1.7, "M", "hume"), "unknown formula"),
        ((250.0, 1.5, "F", "james"), "janmahasatian"),  # 267.5 - 411.1 kg
    ],
)
def test_lean_body_mass_says_what_it_lacks(arguments, message):
    with pytest.raises(SUVError, match=message):
        lean_body_mass(*arguments)


@pytest.mark.parametrize(("weight_kg", "height_m", "word"), [(70_000, 1.75, "kilograms"), (0.07, 1.75, "kilograms"),
                                                             (70, 0.175, "metres"), (70, 175, "metres")])  # fmt: skip
def test_weights_and_heights_in_other_units_are_refused(weight_kg, height_m, word):
    with pytest.raises(SUVError, match=word):
        lean_body_mass(weight_kg, height_m, "M")
