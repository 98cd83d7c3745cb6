"""Headers that contradict themselves, or hold what cannot be: each is right, refused with its tag, or warned of."""

import warnings

import numpy as np
import pydicom
import pytest
from make_dicom import add_philips, headers_from_json, pet_header, write_series
from pydicom.dataset import Dataset

from seganypet.errors import DoubtfulValuesWarning, SUVError
from seganypet.pet.dicom import load_dicom
from seganypet.pet.nuclides import HALF_LIVES_S, nuclides_in_codes, nuclides_in_text
from seganypet.pet.suv import Given, suv_factor
from seganypet.pet.volume import load_labels

F18_S = 6586.2
HOUR_S = 3600.0


def header(half_life_s=F18_S, code=None, **tags):
    """70 kg, 350 MBq of F-18 at 11:00, scan from 12:00; `tags` change it, those of the injection too."""
    one = pet_header()
    drug = one.RadiopharmaceuticalInformationSequence[0]
    drug.RadionuclideHalfLife = str(half_life_s)
    one.FrameReferenceTime = None
    if code is not None:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code
        drug.RadionuclideCodeSequence = [item]
    for name, value in tags.items():
        holder = drug if name.startswith("Radio") else one
        if value is None:
            delattr(holder, name)
        else:
            setattr(holder, name, value)
    return one


def suv(decay_s, half_life_s=F18_S, weight_kg=70.0, dose_bq=350e6):
    """SUVbw per Bq/mL by arithmetic."""
    return weight_kg * 1000 / (dose_bq * 2 ** (-decay_s / half_life_s))


def factor_of(*headers, **given):
    """The factor, and what was said."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        factor = suv_factor(headers, "scan 12", Given(**given))
    return factor, [str(one.message) for one in caught if one.category is DoubtfulValuesWarning]


def frame_header(start, duration_s, reference_s, series="120000", **tags):
    """A header whose frame begins at `start`, `reference_s` seconds after the decay reference on average."""
    return header(
        SeriesTime=series, AcquisitionTime=start, ActualFrameDuration=str(duration_s * 1000),
        FrameReferenceTime=f"{reference_s * 1000:.3f}", **tags,
    )  # fmt: skip


# ---- nuclides


@pytest.mark.parametrize(
    ("nuclide", "injected", "hours"),
    [
        ("Y-90", "20210301120000", 72),
        ("Zr-89", "20210227120000", 120),
        ("Cu-64", "20210303120000", 24),
        ("I-124", "20210301120000", 72),
        ("Ga-68", "20210304110000", 1),
        ("C-11", "20210304113000", 0.5),
        ("Rb-82", "20210304115800", 2 / 60),
    ],
)
def test_the_decay_is_judged_in_half_lives_of_the_nuclide(nuclide, injected, hours):
    half_life_s = HALF_LIVES_S[nuclide]
    one = header(half_life_s, RadiopharmaceuticalStartDateTime=injected, RadiopharmaceuticalStartTime=None)
    factor, said = factor_of(one)
    assert factor.suv_per_stored_unit == pytest.approx(suv(hours * HOUR_S, half_life_s), rel=1e-9)
    assert said == []


@pytest.mark.parametrize(
    ("half_life", "injected"),
    [(F18_S, "000000"), (1221.8, "093000"), (109.77, "110000"), (1.83, "110000"), (75.45, "114500")],
)
def test_a_decay_that_leaves_nothing_of_the_dose_is_refused(half_life, injected):
    """Twelve hours of F-18, 2.5 of C-11, a half-life in minutes or hours, 15 min of Rb-82."""
    one = header(half_life, RadiopharmaceuticalStartTime=injected)
    with pytest.raises(SUVError, match=r"half-lives.*injection_time=") as refused:
        factor_of(one)
    assert "(0018,1072)" in str(refused.value)


def test_a_long_lived_nuclide_needs_the_date_of_its_injection():
    one = header(HALF_LIVES_S["Zr-89"])
    with pytest.raises(SUVError, match=r"StartTime \(0018,1072\) has no date.*78.4 h"):
        factor_of(one)
    factor, _ = factor_of(one, injection_time="2021-02-27T12:00:00")
    assert factor.suv_per_stored_unit == pytest.approx(suv(5 * 86400, HALF_LIVES_S["Zr-89"]))


@pytest.mark.parametrize(
    ("code", "half_life_s", "named", "fits"),
    [
        (("C-111A1", "SRT", "^18^Fluorine"), 4062.6, "F-18", "Ga-68"),
        (("77004003", "SCT", "^18^Fluorine"), 1221.8, "F-18", "C-11"),
        (("C-105A1", "SRT", "^11^Carbon"), F18_S, "C-11", "F-18"),
        (("", "99X", "Zr89"), 45723.0, "Zr-89", "Cu-64"),
        (("C-131A3", "SNM3", ""), 122.2, "Ga-68", "O-15"),
        (("C-111A1", "99SDM", "18F"), 110 * 60 / 2, "F-18", "no nuclide of PET"),
    ],
)
def test_a_half_life_of_another_nuclide_is_refused_with_both(code, half_life_s, named, fits):
    one = header(half_life_s, code)
    with pytest.raises(SUVError, match=rf"\(0018,1075\) is {half_life_s:g} s.*{fits}.*\(0054,0300\) names {named}"):
        factor_of(one)
    factor, _ = factor_of(one, half_life_s=half_life_s, injection_time="12:00:00")  # the user says which holds
    assert factor.half_life_s == half_life_s


def test_a_half_life_as_scanners_round_it_is_that_of_its_nuclide():
    for half_life_s in (6588.0, 6586.2001953125, 6600.0, 6582.0):
        assert factor_of(header(half_life_s, ("C-111A1", "SRT", "^18^Fluorine")))[1] == []


def test_a_tracer_of_another_nuclide_and_a_half_life_of_none_are_said():
    assert "names Ga-68" in factor_of(header(Radiopharmaceutical="68Ga-PSMA-11"))[1][0]
    assert "no nuclide of PET has it" in factor_of(header(5000.0))[1][0]
    assert factor_of(header(Radiopharmaceutical="FDG -- fluorodeoxyglucose"))[1] == []


def test_nuclides_are_read_in_every_spelling():
    for text in ("F-18", "18F", "^18^Fluorine", "F^18^[^18^Fluorine]", "[18F]FDG", "fluorine 18", "FDG"):
        assert nuclides_in_text(text) == {"F-18"}, text
    assert nuclides_in_text("[68Ga]Ga-PSMA-11") == {"Ga-68"}
    assert nuclides_in_text("Solution, vial 11C4") == nuclides_in_text("") == set()
    assert nuclides_in_codes([{"CodeValue": "C-168A4"}]) == nuclides_in_codes([{"CodeMeaning": "Zr-89"}]) == {"Zr-89"}


# ---- weights and doses


@pytest.mark.parametrize("weight", ["70000", "1543", "450", "0.07"])
def test_a_weight_that_no_person_has_is_refused_unless_the_user_gives_one(weight):
    with pytest.raises(SUVError, match=r"PatientWeight \(0010,1030\).*0.5 to 400 kg.*weight_kg="):
        factor_of(header(PatientWeight=weight))
    assert factor_of(header(PatientWeight=weight), weight_kg=70)[0].suv_per_stored_unit == pytest.approx(suv(HOUR_S))


def test_the_weight_and_dose_of_a_mouse_are_taken_where_the_header_names_a_species():
    one = header(PatientWeight="0.025", PatientSpeciesDescription="Mus musculus", RadionuclideTotalDose="7e5")
    assert factor_of(one)[0].suv_per_stored_unit == pytest.approx(suv(HOUR_S, weight_kg=0.025, dose_bq=7e5))


def test_weight_and_height_that_were_exchanged_are_refused():
    with pytest.raises(SUVError, match=r"1.75 kg, and PatientSize \(0010,1020\) 70 m; were they exchanged"):
        factor_of(header(PatientWeight="1.75", PatientSize="70"))


@pytest.mark.parametrize(("weight", "height"), [("176", "1.75"), ("198", "180")])
def test_a_weight_in_pounds_is_said(weight, height):
    """80 kg are 176 lb, 90 kg 198 lb: a body mass index of 57 and 61. The height may be in metres or centimetres."""
    factor, said = factor_of(header(PatientWeight=weight, PatientSize=height))
    assert factor.weight_kg == float(weight)
    assert len(said) == 1 and "pounds" in said[0]


@pytest.mark.parametrize("height", ["175", "Anon", "0", "69"])
def test_a_height_in_centimetres_or_inches_or_none_changes_no_suvbw(height):
    one = header()
    with pydicom.config.disable_value_validation():
        one["PatientSize"] = pydicom.dataelem.RawDataElement(
            pydicom.tag.Tag("PatientSize"), "DS", len(height), height.encode(), 0, False, True
        )
    factor, said = factor_of(one)
    assert factor.suv_per_stored_unit == pytest.approx(suv(HOUR_S), rel=1e-12)
    assert said == []


@pytest.mark.parametrize(("dose", "unit"), [("350000", "kBq"), ("9.5", "MBq or mCi"), ("9459", "MBq or mCi"),
                                            ("350e9", "another unit")])  # fmt: skip
def test_a_dose_in_another_unit_is_refused_unless_the_user_gives_it(dose, unit):
    one = header(RadionuclideTotalDose=dose)
    with pytest.raises(SUVError, match=rf"TotalDose \(0018,1074\).*looks like {unit}.*dose_bq="):
        factor_of(one)
    assert factor_of(one, dose_bq=350e6)[0].suv_per_stored_unit == pytest.approx(suv(HOUR_S))


def test_a_dose_that_can_only_be_mbq_is_read_as_such_and_said():
    factor, said = factor_of(header(RadionuclideTotalDose="350"))
    assert factor.suv_per_stored_unit == pytest.approx(suv(HOUR_S))
    assert len(said) == 1 and "read as 350 MBq" in said[0]


def test_sixty_of_rubidium_may_be_mci_and_are_refused():
    one = header(75.45, RadionuclideTotalDose="60", RadiopharmaceuticalStartTime="115800")
    with pytest.raises(SUVError, match="MBq or mCi"):
        factor_of(one)


# ---- times


def test_a_series_time_that_was_blanked_is_passed_over_where_frame_and_acquisition_agree():
    one = frame_header("120000", 120, 59.937, series="000000")
    factor, said = factor_of(one)
    assert factor.suv_per_stored_unit == pytest.approx(suv(HOUR_S), rel=1e-5)
    assert len(said) == 1 and "series time 00:00:00 leaves no possible time since the injection" in said[0]


def test_a_series_time_that_was_blanked_is_refused_where_nothing_else_tells():
    with pytest.raises(SUVError, match=r"00:00:00.*half-lives"):
        factor_of(header(SeriesTime="000000"))
    factor, _ = factor_of(header(SeriesTime="000000"), decay_reference_time="12:00:00")
    assert factor.suv_per_stored_unit == pytest.approx(suv(HOUR_S))


def test_all_times_blanked_is_no_injection_at_the_start():
    one = header(SeriesTime="000000", AcquisitionTime="000000", RadiopharmaceuticalStartTime="000000")
    with pytest.raises(SUVError, match="both 00:00:00, as de-identification leaves them"):
        factor_of(one)


@pytest.mark.parametrize(
    ("group", "creator", "element", "name"),
    [(0x0009, "GEMS_PETD_01", 0x0D, "GE scan time"), (0x0071, "SIEMENS MED PT", 0x22, "Siemens decay correction time")],
)
def test_a_vendors_own_time_goes_before_an_earlier_series_time_and_is_said(group, creator, element, name):
    one = header(SeriesTime="113000")
    one.private_block(group, creator, create=True).add_new(element, "DT", "20210304120000.00")
    factor, said = factor_of(one)
    assert (factor.decay_s, factor.decay_reference) == (HOUR_S, name)
    assert factor.other_decay_s == {"series time": HOUR_S / 2, "earliest acquisition time": HOUR_S}
    assert len(said) == 1
    assert "series time 11:30:00" in said[0] and f"{2 ** (-1800 / F18_S) - 1:+.1%}" in said[0]


def test_a_vendors_time_after_the_acquisition_is_not_taken():
    one = header()
    one.private_block(0x0009, "GEMS_PETD_01", create=True).add_new(0x0D, "DT", "20210304124500.00")
    factor, said = factor_of(one)
    assert factor.decay_reference == "series time"
    assert len(said) == 1 and "GE scan time 12:45:00" in said[0]


def test_a_vendors_time_on_a_shifted_date_supports_the_series_time_by_its_clock():
    one = frame_header("123000", 120, 60, series="120000")
    one.private_block(0x0009, "GEMS_PETD_01", create=True).add_new(0x0D, "DT", "19591224120000.00")
    assert factor_of(one)[1] == []
    assert factor_of(one)[0].decay_s == HOUR_S


def test_the_frame_decides_between_series_and_acquisition_time():
    static_window = frame_header("125000", 1200, 3000 + 597)  # minutes 50 to 70 after the reference
    factor, said = factor_of(static_window)
    assert (factor.decay_reference, factor.decay_s, said) == ("series time", HOUR_S, [])
    ge_counts_to_the_start = frame_header("125000", 1200, 3000)
    assert factor_of(ge_counts_to_the_start)[1] == []
    set_up_early = frame_header("125000", 120, 59.937)
    factor, said = factor_of(set_up_early)
    assert factor.decay_s == pytest.approx(HOUR_S + 3000, abs=0.1)
    assert len(said) == 1 and "series time 12:00:00" in said[0]
    neither = frame_header("125000", 120, 600)
    factor, said = factor_of(neither)
    assert factor.decay_reference == "series time"
    assert len(said) == 1 and "average count rate time 12:41:00" in said[0]


def test_a_series_time_long_before_the_acquisition_is_said_where_nothing_supports_it():
    factor, said = factor_of(header(SeriesTime="114500"))
    assert factor.decay_reference == "series time"
    assert len(said) == 1 and f"{2 ** (900 / F18_S) - 1:+.1%}" in said[0]
    assert factor_of(header(SeriesTime="115959"))[1] == []


def test_the_decay_factor_leads_back_to_the_reference_where_the_first_bed_is_missing():
    """Saved later, second bed at 12:03 with its mean 4 minutes after the reference at 12:00."""
    late = {"SeriesTime": "133000", "AcquisitionTime": "120300"}
    one = header(DecayFactor=f"{2 ** (240 / F18_S):.6f}", **late)
    factor, _ = factor_of(one)
    assert factor.decay_reference == "decay factor"
    assert factor.decay_s == pytest.approx(HOUR_S, abs=0.2)
    assert factor_of(header(DecayFactor="1.0", **late))[0].decay_s == HOUR_S + 180  # no frame has this factor


def test_ge_counts_the_frame_reference_to_the_start_of_a_frame():
    one = frame_header("120300", 120, 180, series="133000", Manufacturer="GE MEDICAL SYSTEMS")
    assert factor_of(one)[0].decay_s == HOUR_S


def test_a_reference_before_the_first_slice_at_hand_is_said():
    """Either the first bed is missing, or the frame counts from elsewhere."""
    factor, said = factor_of(frame_header("122000", 120, 1260, series="133000"))
    assert factor.decay_reference == "average count rate time"
    assert len(said) == 1 and "earliest acquisition time 12:20:00" in said[0]
    assert factor_of(frame_header("122000", 120, 59.94, series="133000"))[1] == []


def test_philips_factors_that_contradict_the_header_are_said():
    one = header()
    add_philips(one, suv_factor=f"{1.5 * suv(HOUR_S):.8g}", activity_factor="1.5")
    assert factor_of(one)[1] == []
    one.PatientWeight = "85"
    said = factor_of(one)[1]
    assert len(said) == 1 and "0.824 times as high (-17.6%)" in said[0]


def test_a_shifted_date_is_refused_with_the_clock_that_would_fit():
    one = header(RadiopharmaceuticalStartDateTime="20210101110000")
    with pytest.raises(SUVError, match=r"injection_time='11:00:00'"):
        factor_of(one)
    assert factor_of(one, injection_time="11:00:00")[0].decay_s == HOUR_S


def test_a_dose_that_is_not_decayed_needs_no_half_life_and_no_time_of_injection():
    one = header(DecayCorrection="ADMIN", RadionuclideHalfLife=None, RadiopharmaceuticalStartTime=None)
    factor, said = factor_of(one)
    assert factor.suv_per_stored_unit == pytest.approx(suv(0.0), rel=1e-12)
    assert (factor.half_life_s, said) == (None, [])
    with pytest.raises(SUVError, match="ADMIN, so the time of injection changes nothing"):
        factor_of(one, injection_time="11:00:00")


def test_a_frame_reference_without_a_duration_is_refused_but_for_ge():
    """Their manual refuses it too (reference object error_3_2)."""
    tags = {"SeriesTime": "133000", "AcquisitionTime": "120300", "FrameReferenceTime": "240000"}
    one = header(**tags)
    del one.ActualFrameDuration
    with pytest.raises(SUVError, match=r"ActualFrameDuration \(0018,1242\) is missing.*decay_reference_time="):
        factor_of(one)
    one.Manufacturer = "GE MEDICAL SYSTEMS"
    assert factor_of(one)[0].decay_s == HOUR_S - 60


def test_acquisition_date_and_time_in_one_tag_are_enough():
    one = header(AcquisitionTime=None, AcquisitionDateTime="20210304120000.000")
    assert factor_of(one)[0].suv_per_stored_unit == pytest.approx(suv(HOUR_S), rel=1e-12)


def test_two_tags_for_the_injection_that_disagree_are_said():
    """StartDateTime in UTC without saying so, two hours before the clock of the scanner."""
    one = header(RadiopharmaceuticalStartDateTime="20210304090000")
    factor, said = factor_of(one)
    assert factor.decay_s == 3 * HOUR_S
    assert len(said) == 1 and "(0018,1072) says 11:00:00" in said[0] and "injection_time='11:00:00'" in said[0]
    assert factor_of(one, injection_time="11:00:00")[0].decay_s == HOUR_S


def test_an_offset_that_is_none_is_refused():
    one = header(RadiopharmaceuticalStartDateTime="20210304090000+0000", TimezoneOffsetFromUTC="MEZ")
    with pytest.raises(SUVError, match=r"\(0008,0201\) is 'MEZ'"):
        factor_of(one)


def test_acr_nema_times_with_colons_and_long_fractions_are_read():
    with pydicom.config.disable_value_validation():
        one = header(SeriesTime="12:00:00", RadiopharmaceuticalStartTime="110000.1234567")
        assert factor_of(one)[0].decay_s == pytest.approx(HOUR_S - 0.123456)


def test_an_injection_before_midnight_and_a_series_saved_the_next_day_are_one_scan():
    one = header(SeriesDate="20210305", SeriesTime="080000", RadiopharmaceuticalStartTime="110000")
    assert factor_of(one)[0].decay_s == HOUR_S
    night = header(SeriesTime="001000", AcquisitionTime="001000", RadiopharmaceuticalStartTime="233000")
    assert factor_of(night)[0].decay_s == 40 * 60


@pytest.mark.parametrize("tags", [{"SeriesType": ["DYNAMIC", "IMAGE"]}, {"NumberOfTimeSlices": 3}])
def test_a_dynamic_scan_may_begin_before_the_injection(tags):
    """Injected at 12:02, in frame 2; the clock alone must not be taken for the day before."""
    frames = [frame_header(f"12{2 * n:02d}00", 120, 120 * n + 60, **tags) for n in range(3)]
    for one in frames:
        one.RadiopharmaceuticalInformationSequence[0].RadiopharmaceuticalStartTime = "120200"
    factor, said = factor_of(*frames)
    assert factor.decay_s == -120
    assert factor.suv_per_stored_unit == pytest.approx(suv(-120))
    assert said == []


def test_no_static_scan_begins_before_its_injection():
    with pytest.raises(SUVError, match=r"-0.17 h"):
        factor_of(header(RadiopharmaceuticalStartDateTime="20210304121000"))
    with pytest.raises(SUVError, match="half-lives"):
        factor_of(header(RadiopharmaceuticalStartTime="121000"))


def test_a_dynamic_scan_of_an_hour_before_its_injection_is_refused_for_a_short_lived_nuclide():
    one = header(75.45, RadiopharmaceuticalStartTime="121000", SeriesType=["DYNAMIC", "IMAGE"])
    with pytest.raises(SUVError, match="half-lives"):
        factor_of(one)


def test_a_whole_body_scan_at_the_moment_of_injection_is_said():
    one = header(RadiopharmaceuticalStartTime="120000", SeriesType=["WHOLE BODY", "IMAGE"])
    assert "begin at the same time" in factor_of(one)[1][0]


def test_four_half_lives_are_said():
    factor, said = factor_of(header(RadiopharmaceuticalStartTime="040000"))
    assert factor.decay_s == 8 * HOUR_S
    assert "4.4 half-lives" in said[0]


# ---- kinds of SUV, and no correction of decay


@pytest.mark.parametrize(
    ("units", "kind", "sex", "body"),
    [
        # 70 kg, 1.75 m
        ("GML", "LBMJAMES128", "M", 77.0 - 128 * 0.16),
        ("GML", "LBMJAMES128", "F", 74.9 - 148 * 0.16),
        ("GML", "LBMJANMA", "M", 9270 * 70 / (6680 + 216 * 70 / 3.0625)),
        ("GML", "LBMJANMA", "F", 9270 * 70 / (8780 + 244 * 70 / 3.0625)),
        ("GML", "IBW", "M", 48.0 + 1.06 * 23),
        ("GML", "IBW", "F", 45.5 + 0.91 * 23),
        ("GML", "IBW", "O", (48.0 + 1.06 * 23 + 45.5 + 0.91 * 23) / 2),
        ("CM2ML", "BSA", "O", 0.007184 * 70**0.425 * 175**0.725 * 10),  # cm2 per gram, as kg
        ("CM2ML", None, "M", 0.007184 * 70**0.425 * 175**0.725 * 10),
    ],
)
def test_other_suvs_are_converted_by_the_formula_of_their_type(units, kind, sex, body):
    one = header(Units=units, PatientSex=sex)
    if kind:
        one.SUVType = kind
    assert factor_of(one)[0].suv_per_stored_unit == pytest.approx(70.0 / body, rel=1e-12)


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"SUVType": "LBM"}, "several formulas"),
        ({"SUVType": "BSA"}, "'BSA' and Units is GML"),
        ({"SUVType": "IBW", "Units": "CM2ML"}, "'IBW' and Units is CM2ML"),
        ({"SUVType": "IBW", "PatientSize": None}, "height_m is None"),
        ({"SUVType": "LBMJANMA", "PatientSize": "175"}, "metres"),
        ({"SUVType": "IBW", "PatientSex": None}, "sex is None"),
        ({"SUVType": "LBMJAMES128", "PatientWeight": None}, "PatientWeight"),
    ],
)
def test_a_kind_of_suv_that_cannot_be_converted_is_refused(tags, message):
    with pytest.raises(SUVError, match=message):
        factor_of(header(**({"Units": "GML"} | tags)))


def test_suvs_in_the_file_need_no_tags_of_decay():
    one = header(Units="GML", DecayCorrection=None, CorrectedImage=None)
    del one.RadiopharmaceuticalInformationSequence
    assert factor_of(one)[0].suv_per_stored_unit == 1.0
    with pytest.raises(SUVError, match="without ATTN"):
        factor_of(header(Units="GML", CorrectedImage=["DECY", "NORM"]))


def test_each_slice_without_correction_of_decay_has_its_own_factor(tmp_path, oblique_affine):
    """Two beds, 12:00 and 12:05, frames of 10 min: mean count rate after 299.9 s."""
    stored = np.full((5, 6, 4), 1000)

    def change(one, k):
        one.DecayCorrection, one.CorrectedImage, one.ActualFrameDuration = "NONE", ["ATTN", "NORM"], "600000"
        one.AcquisitionTime = "120000" if k < 2 else "120500"

    write_series(tmp_path, stored, oblique_affine, change=change)
    volume = load_dicom(tmp_path)
    x = np.log(2) * 600 / F18_S
    average_s = np.log(x / (1 - np.exp(-x))) * F18_S / np.log(2)
    # This grid is left-handed, so the volume's slices run against the order in which they were written.
    expected = [1000 * suv(HOUR_S + start_s + average_s) for start_s in (300, 300, 0, 0)]
    assert volume.data[2, 3].tolist() == pytest.approx(expected, rel=1e-6)
    assert volume.metadata["decay_reference"] == "frame"


def test_frames_without_correction_of_decay_need_their_duration():
    one = header(DecayCorrection="NONE", CorrectedImage=["ATTN"], ActualFrameDuration=None)
    with pytest.raises(SUVError, match=r"ActualFrameDuration \(0018,1242\)"):
        factor_of(one)


# ---- tags in any form

TAGS = [
    "Units", "SUVType", "DecayCorrection", "CorrectedImage", "PatientWeight", "PatientSize", "PatientSex",
    "SeriesDate", "SeriesTime", "AcquisitionDate", "AcquisitionTime", "AcquisitionDateTime", "FrameReferenceTime",
    "ActualFrameDuration", "DecayFactor", "SeriesType", "NumberOfTimeSlices", "TimezoneOffsetFromUTC", "Manufacturer",
    "PatientSpeciesDescription", "RadiopharmaceuticalStartTime", "RadionuclideTotalDose", "RadionuclideHalfLife",
    "RadiopharmaceuticalStartDateTime", "Radiopharmaceutical", "RadionuclideCodeSequence",
    "RadiopharmaceuticalInformationSequence",
]  # fmt: skip
TEXTS = (b" ", b"nan", b"1e400", b"-1", b"80,5", b"1\\2\\3", b"\xff\x00", b"00010101", b"99991231", b"20210304+9999")


@pytest.mark.parametrize("name", TAGS)
def test_whatever_a_tag_holds_there_is_a_factor_or_an_error_of_our_own(name):
    for text in TEXTS:
        for representation in (pydicom.datadict.dictionary_VR(name), "UN", "FD", "US", "SQ", "IS"):
            one = header()
            inner = name.startswith("Radio") and name != "RadiopharmaceuticalInformationSequence"
            holder = one.RadiopharmaceuticalInformationSequence[0] if inner else one
            tag = pydicom.tag.Tag(name)
            holder[tag] = pydicom.dataelem.RawDataElement(tag, representation, len(text), text, 0, False, True)
            with warnings.catch_warnings(action="ignore"):
                try:
                    factor = suv_factor([one], "scan 12")
                except SUVError as error:
                    assert "scan 12" in str(error)
                else:
                    assert 0 < factor.suv_per_stored_unit < np.inf


# ---- public objects and real headers

REFERENCE_OBJECTS = [
    "DRO_0_0", "DRO_1_0", "DRO_2_0", "DRO_2_1", "DRO_2_2", "DRO_2_3", "DRO_2_4", "DRO_2_5", "DRO_3_0", "DRO_3_1",
    "DRO_3_2", "DRO_3_3", "DRO_3_4", "DRO_4_0", "DRO_4_1", "DRO_4_2", "DRO_5_0",
]  # fmt: skip
# What of them is unusual: a dose of 368.08; frames that count from before the earliest acquisition; and Ga-66's code
# beside the meaning and the half-life of Ga-68.
SAID = {
    "DRO_3_0": "read as 368.08 MBq",
    "DRO_3_2": "earliest acquisition time 11:02:30 would make every SUV 1.02 times",
    "DRO_5_0": "names Ga-66",
}


@pytest.mark.parametrize("name", REFERENCE_OBJECTS)
def test_public_reference_objects_read_0_2_and_1_and_4(real_data, name):
    folder = real_data / "suv_reference" / "DRO" / name
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        volume = load_dicom(folder / "PT")
    said = [str(one.message) for one in caught]
    assert len(said) == (name in SAID) and all(SAID[name] in one for one in said)
    values = volume.data[load_labels(folder / "mask" / "DRO_mask.nii.gz", like=volume) > 0]
    # The objects hold whole numbers, cut off: a step of up to 0.038 in SUVbw (DRO_2_3).
    step = volume.metadata["suv_per_stored_unit"] * volume.metadata["rescale_slope_range"][1]
    for found, expected in ((values.min(), 0.2), (np.median(values), 1.0), (values.max(), 4.0)):
        assert expected - step - 1e-4 <= found <= expected + 2e-4


def test_real_headers_of_four_vendors_raise_no_alarm(real_data):
    folder = real_data / "pet_headers"
    series = [headers_from_json(path) for path in sorted((folder / "json").glob("*.json"))]
    series += [[pydicom.dcmread(path, stop_before_pixels=True)] for path in sorted((folder / "slices").glob("*.dcm"))]
    paths = sorted((real_data / "acrin042" / "PET_AC").glob("*.dcm"))
    series.append([pydicom.dcmread(path, stop_before_pixels=True) for path in paths])
    assert len(series) == 11
    for headers in series:
        assert factor_of(*headers)[1] == []
