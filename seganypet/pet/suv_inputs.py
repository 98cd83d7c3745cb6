"""Weight, dose and half-life of a PET header, if they can be those of a person and of one nuclide."""

import warnings
from typing import Any

from pydicom.sequence import Sequence as Items

from seganypet.errors import DoubtfulValuesWarning
from seganypet.pet.body import WEIGHTS_KG
from seganypet.pet.given import Given
from seganypet.pet.nuclides import half_life_matches, nuclides_in_codes, nuclides_in_text, nuclides_with
from seganypet.pet.series_header import SeriesHeader

# Of people, from a fraction of a microdose to radioembolisation.
DOSES_BQ = (1e6, 5e10)
# A number that can only be MBq: in mCi it would be more than any diagnostic dose.
DOSES_MBQ = (60.0, 2000.0)


def read_person(series: SeriesHeader, given: Given) -> dict[str, Any]:
    """Weight, height and sex as far as they are known; whoever needs one says what is wrong with it."""
    return {
        "weight_kg": given.weight_kg or series.number_if_readable("PatientWeight"),
        "height_m": given.height_m or series.number_if_readable("PatientSize"),
        "sex": given.sex or series.text_if_readable("PatientSex"),
    }


def read_weight_kg(series: SeriesHeader, height_m: float | None, given: Given) -> float:
    """Weight in kg, refused unless a person can have it; animals' headers name a species."""
    if given.weight_kg is not None:
        return given.weight_kg
    weight_kg = series.number("PatientWeight")
    if series.value_of(series.first, "PatientSpeciesDescription") is not None:
        return weight_kg
    if not WEIGHTS_KG[0] <= weight_kg <= WEIGHTS_KG[1]:
        unit = "; is it in grams?" if weight_kg >= 1000 else ""
        series.refuse("PatientWeight", f"is {weight_kg:g}; expected 0.5 to 400 kg{unit}")
    if height_m is None:
        return weight_kg
    if 0.3 <= weight_kg <= 2.6 and 30 <= height_m <= 400:
        series.refuse(
            "PatientWeight", f"is {weight_kg:g} kg, and PatientSize (0010,1020) {height_m:g} m; were they exchanged?"
        )
    height_m = height_m / 100 if height_m >= 100 else height_m  # centimetres are common; inches are below 100
    bmi = weight_kg / height_m**2
    if 0.3 <= height_m <= 2.5 and not 8 <= bmi <= 50:
        warnings.warn(
            f"{series.source}: PatientWeight (0010,1030) {weight_kg:g} kg and PatientSize (0010,1020) {height_m:g} m "
            f"make a body mass index of {bmi:.3g}; is the weight in pounds? Every SUV is proportional to it: if it is "
            "wrong, give weight_kg=... to load_dicom.",
            DoubtfulValuesWarning,
            stacklevel=5,
        )
    return weight_kg


def read_half_life_s(series: SeriesHeader, given: Given) -> float:
    """Half-life in s, refused if it is another nuclide's than that which the header names."""
    if given.half_life_s is not None:
        return given.half_life_s
    half_life_s = series.number("RadionuclideHalfLife")
    codes = series.optional(series.drug, "RadionuclideCodeSequence")
    coded = nuclides_in_codes(codes if isinstance(codes, Items) else [])
    wrong = sorted(one for one in coded if not half_life_matches(half_life_s, one))
    if coded and len(wrong) == len(coded):
        fits = " or ".join(nuclides_with(half_life_s)) or "no nuclide of PET"
        series.refuse(
            "RadionuclideHalfLife",
            f"is {half_life_s:g} s, that of {fits}, and RadionuclideCodeSequence (0054,0300) names {', '.join(wrong)}",
        )
    doubt = f"a code or meaning in RadionuclideCodeSequence (0054,0300) names {', '.join(wrong)}" if wrong else ""
    named = nuclides_in_text(str(series.optional(series.drug, "Radiopharmaceutical") or ""))
    wrong = sorted(one for one in named if not half_life_matches(half_life_s, one))
    if wrong:
        doubt = f"Radiopharmaceutical (0018,0031) names {', '.join(wrong)}"
    if not coded and not nuclides_with(half_life_s):
        doubt = doubt or "no nuclide of PET has it"
    if doubt:
        warnings.warn(
            f"{series.source}: RadionuclideHalfLife (0018,1075) is {half_life_s:g} s, but {doubt}; if it is wrong, "
            "give half_life_s=... to load_dicom.",
            DoubtfulValuesWarning,
            stacklevel=5,
        )
    return half_life_s


def read_dose_bq(series: SeriesHeader, dose_bq: float, half_life_s: float) -> float:
    """The dose that a header states, if it can be one."""
    if series.value_of(series.first, "PatientSpeciesDescription") is not None and dose_bq >= 1e4:
        return dose_bq
    low, high = DOSES_BQ
    if low <= dose_bq <= high:
        return dose_bq
    # Diagnostic nuclides: of Rb-82 and O-15, 60 mCi are given, and of Y-90 even more.
    if DOSES_MBQ[0] <= dose_bq <= DOSES_MBQ[1] and 900 <= half_life_s <= 86400:
        warnings.warn(
            f"{series.source}: RadionuclideTotalDose (0018,1074) is {dose_bq:g}; the tag is in Bq, and it was read as "
            f"{dose_bq:g} MBq; if that is wrong, give dose_bq=... to load_dicom.",
            DoubtfulValuesWarning,
            stacklevel=5,
        )
        return dose_bq * 1e6
    units = {1.0: "GBq", 1e4: "MBq or mCi", low: "kBq or uCi", float("inf"): "another unit"}
    unit = next(name for limit, name in units.items() if dose_bq < limit)
    series.refuse(
        "RadionuclideTotalDose",
        f"is {dose_bq:g}; the tag is in Bq, from {low:g} to {high:g} for a person, and this looks like {unit}",
    )
