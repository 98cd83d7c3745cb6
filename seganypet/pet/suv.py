"""Standardised uptake value (SUV) from PET headers: the factor, or the tag that forbids one.

    SUVbw [g/mL] = activity [Bq/mL] x weight [g] / dose left at the decay reference [Bq]

A scanner that writes DecayCorrection START has scaled every slice back to one time, the decay reference. Vendors encode
this time in different ways, and a wrong one changes the SUV by up to a third. Nothing is assumed here: a header that
leaves the factor open, or contradicts itself, raises `SUVError`, and a user who knows better says so (`Given`).
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from pydicom.dataset import Dataset

from seganypet.errors import DoubtfulValuesWarning, SUVError
from seganypet.pet.body import SUV_TYPES, lean_body_mass, sul_per_suvbw, suvbw_per_suv
from seganypet.pet.decay_reference import Reference, find_reference, seconds_from_injection, warn_of_doubts
from seganypet.pet.given import Given
from seganypet.pet.nuclides import MAX_HALF_LIVES, average_count_rate_s
from seganypet.pet.series_header import SeriesHeader
from seganypet.pet.suv_inputs import read_dose_bq, read_half_life_s, read_person, read_weight_kg

__all__ = ["Given", "SUVFactor", "lean_body_mass", "sul_per_suvbw", "suv_factor", "suv_per_bq_ml"]

@dataclass(frozen=True)
class SUVFactor:
    """The factor that converts a PET series to SUVbw, and the header values behind it.

    Attributes:
        suv_per_stored_unit: SUVbw in g/mL per unit of (stored value x RescaleSlope + RescaleIntercept); of the first
            slice if they differ.
        units: That unit: "BQML", "CNTS", "GML" or "CM2ML".
        decay_reference: Time to which the dose is decayed: "series time", "Siemens decay correction time", "GE scan
            time", "average count rate time", "decay factor", "acquisition time less FrameReferenceTime", "earliest
            acquisition time", "frame" where pixel values are not decay-corrected, "injection", "given by hand", or
            "not needed" where the scanner has already divided by the dose.
        how: Derivation of the factor in a sentence that names the tags.
        weight_kg: Patient weight; None if absent and not needed.
        height_m: Patient height, or None.
        sex: "M", "F", "O", or None.
        dose_bq: Activity at injection; None where not needed.
        half_life_s: Half-life of the radionuclide; None where not needed.
        decay_s: Seconds from injection to the decay reference, negative if a dynamic scan began first; None where not
            needed.
        other_decay_s: What `decay_s` would be by the other times that the header gives, by their names.
        per_slice: The factor of each slice, in the order of the headers, where they differ; else None.
        given_by_hand: What the user stated instead of the header, by name.
    """

    suv_per_stored_unit: float
    units: str
    decay_reference: str
    how: str
    weight_kg: float | None = None
    height_m: float | None = None
    sex: str | None = None
    dose_bq: float | None = None
    half_life_s: float | None = None
    decay_s: float | None = None
    other_decay_s: dict[str, float] = field(default_factory=dict)
    per_slice: tuple[float, ...] | None = None
    given_by_hand: dict[str, Any] = field(default_factory=dict)


def suv_per_bq_ml(weight_kg: float, dose_bq: float, half_life_s: float, decay_s: float) -> float:
    """SUVbw per Bq/mL, from numbers: for images whose header does not hold them.

    Args:
        weight_kg: Body weight in kg.
        dose_bq: Activity at injection, in Bq.
        half_life_s: Half-life of the radionuclide, in s.
        decay_s: Seconds from the injection to the time to which the image is corrected for decay; 0 if that is the
            injection.

    Raises:
        SUVError: A value that cannot be, or is in another unit.

    >>> round(1000 * suv_per_bq_ml(weight_kg=80.0, dose_bq=400e6, half_life_s=6586.2, decay_s=3600.0), 4)
    0.2921
    """
    Given(weight_kg=weight_kg, dose_bq=dose_bq, half_life_s=half_life_s)  # checks them
    allowance_s = min(3600.0, 2 * half_life_s)
    if isinstance(decay_s, bool | str) or not -allowance_s <= decay_s <= MAX_HALF_LIVES * half_life_s:
        raise SUVError(
            f"decay_s={decay_s!r}; expected {-allowance_s:g} to {MAX_HALF_LIVES * half_life_s:g} seconds, which is "
            f"{MAX_HALF_LIVES:g} half-lives."
        )
    return weight_kg * 1000.0 / (dose_bq * 2.0 ** (-decay_s / half_life_s))


def suv_factor(headers: Sequence[Dataset], source: str = "PET series", given: Given | None = None) -> SUVFactor:
    """The factor from a PET series' pixel values to SUVbw.

    Args:
        headers: Headers of all slices of one series, in any order and without pixels. All are needed, because the
            earliest acquisition time determines the decay reference.
        source: Name of the series, for errors.
        given: What the user states by hand; it goes before the header.

    Returns:
        The factor and its provenance.

    Raises:
        SUVError: The headers allow no SUV, or contradict themselves; the message names the tag and what to give.

    Warns:
        DoubtfulValuesWarning: Times disagree, with the change of SUV that the other one would make; a dose in MBq was
            read as such; weight and height, or half-life and tracer, do not fit each other.

    Source: DICOM PS3.3 C.8.9; QIBA SUV vendor-neutral pseudo-code, with the average count rate
        time for scanners whose series time is later than the acquisition; IBSI manual for SUV computation.
    """
    given = given or Given()
    if not headers:
        raise SUVError(f"{source}: no PET headers given; expected those of every slice.")
    series = SeriesHeader(headers, source)
    person = read_person(series, given)
    by_hand = given.by_name()
    if given.suv_factor is not None:
        units = series.text_if_readable("Units") or "unknown"
        return SUVFactor(
            given.suv_factor, units, "given by hand", "suv_factor was given by hand", **person, given_by_hand=by_hand
        )
    units = series.text("Units")
    if units not in ("BQML", "CNTS", "GML", "CM2ML"):
        series.refuse("Units", f"is {units!r}; expected BQML, GML, CM2ML or Philips CNTS")
    _check_attenuation(series, required=units in ("BQML", "CNTS"))
    if units in ("GML", "CM2ML"):
        _refuse_unused(series, given, f"Units is {units}: pixel values are SUVs already")
        factor, how = _from_suv(series, units, person)
        return SUVFactor(factor, units, "not needed", how, **person, given_by_hand=by_hand)
    bq_ml_per_unit, made_from = 1.0, "Units is BQML"
    if units == "CNTS":
        factor, bq_ml_per_unit = series.philips(0x00), series.philips(0x09)
        if factor and not (bq_ml_per_unit and _needed_for_dose(given)):
            _refuse_unused(series, given, "Units is CNTS, with Philips's SUV factor (7053,1000) alone")
            how = "Units is CNTS: Philips SUV factor (7053,1000)"
            return SUVFactor(factor, units, "not needed", how, **person, given_by_hand=by_hand)
        if not bq_ml_per_unit:
            raise SUVError(
                f"{source}: Units is CNTS, and neither the Philips SUV factor (7053,1000) nor the activity factor "
                "(7053,1009) is present (anonymisation may have removed them). Export the series with these tags, or "
                "give suv_factor=... to load_dicom."
            )
        made_from = "Units is CNTS: Philips activity factor (7053,1009)"
    return _from_activity(series, units, bq_ml_per_unit, made_from, person, given)


def _from_activity(
    series: SeriesHeader, units: str, bq_ml_per_unit: float, made_from: str, person: dict[str, Any], given: Given
) -> SUVFactor:
    correction = _decay_correction(series, given)
    weight_kg = person["weight_kg"] = read_weight_kg(series, person["height_m"], given)
    stated_bq = given.dose_bq or series.number("RadionuclideTotalDose")
    by_hand = given.by_name()
    if correction == "ADMIN":
        if given.injection_time is not None:
            raise SUVError(
                f"{series.source}: DecayCorrection (0054,1102) is ADMIN, so the time of injection changes nothing; "
                "leave injection_time out, or give decay_reference_time too if the tag is wrong."
            )
        known_s = given.half_life_s or series.number_if_readable("RadionuclideHalfLife")
        dose_bq = given.dose_bq or read_dose_bq(series, stated_bq, known_s or 0.0)
        how = f"{made_from}; DecayCorrection is ADMIN, so the dose is not decayed"
        return SUVFactor(
            bq_ml_per_unit * weight_kg * 1000.0 / dose_bq, units, "injection", how, **person, dose_bq=dose_bq,
            half_life_s=known_s, decay_s=0.0, given_by_hand=by_hand,
        )  # fmt: skip
    half_life_s = read_half_life_s(series, given)
    dose_bq = given.dose_bq or read_dose_bq(series, stated_bq, half_life_s)

    def factor_after(decay_s: float) -> float:
        dose_left_bq = dose_bq * 2.0 ** (-decay_s / half_life_s)
        return bq_ml_per_unit * weight_kg * 1000.0 / dose_left_bq

    found: dict[str, Any] = {"dose_bq": dose_bq, "half_life_s": half_life_s, "given_by_hand": by_hand}
    if correction == "NONE":
        each_s = [seconds_from_injection(series, one, half_life_s, given) for one in _frames(series, half_life_s)]
        factors = tuple(factor_after(decay_s) for decay_s in each_s)
        how = f"{made_from}; DecayCorrection is NONE, so the dose is decayed to the average count rate of each slice"
        return SUVFactor(factors[0], units, "frame", how, **person, decay_s=each_s[0], per_slice=factors, **found)
    reference = find_reference(series, half_life_s, given)
    decay_s = seconds_from_injection(series, reference, half_life_s, given)
    warn_of_doubts(series, reference, decay_s, half_life_s, given)
    if not _needed_for_dose(given):
        _compare_with_philips(series, factor_after(decay_s) / bq_ml_per_unit)
    other_decay_s = {
        name: decay_s + (moment - reference.moment).total_seconds() for name, moment in reference.others.items()
    }
    return SUVFactor(
        factor_after(decay_s), units, reference.name, f"{made_from}; {reference.why}", **person, decay_s=decay_s,
        other_decay_s=other_decay_s, **found,
    )  # fmt: skip


def _compare_with_philips(series: SeriesHeader, suv_per_bq: float) -> None:
    """Warn if Philips's two factors, SUV and Bq/mL per count, make another SUV of the same activity."""
    try:
        per_count, activity_per_count = series.philips(0x00), series.philips(0x09)
    except SUVError:
        return  # they were not needed
    if per_count and activity_per_count and abs(per_count / activity_per_count / suv_per_bq - 1) > 0.02:
        change = per_count / activity_per_count / suv_per_bq
        warnings.warn(
            f"{series.source}: weight, dose and times in the header were used; Philips's factors (7053,1000) and "
            f"(7053,1009) would make every SUV {change:.3g} times as high ({change - 1:+.1%}).",
            DoubtfulValuesWarning,
            stacklevel=5,
        )


def _check_attenuation(series: SeriesHeader, required: bool) -> None:
    corrected = series.values("CorrectedImage")
    if "ATTN" not in corrected and (corrected or required):
        listed = "\\".join(corrected) or "absent"
        series.refuse("CorrectedImage", f"is {listed}: without ATTN, attenuation is not corrected")


def _decay_correction(series: SeriesHeader, given: Given) -> str:
    if given.decay_reference_time is not None:
        return "START"
    correction = series.text("DecayCorrection")
    if correction not in ("START", "ADMIN", "NONE"):
        series.refuse("DecayCorrection", f"is {correction!r}; expected START, ADMIN or NONE")
    corrected = series.values("CorrectedImage")
    if ("DECY" in corrected) == (correction == "NONE"):
        listed = "\\".join(corrected)
        if correction == "NONE":
            series.refuse("DecayCorrection", f"is 'NONE', and CorrectedImage (0028,0051) is {listed}, with DECY")
        series.refuse(
            "CorrectedImage",
            f"is {listed}: without DECY, decay is not corrected, and DecayCorrection (0054,1102) is {correction}",
        )
    return correction


def _frames(series: SeriesHeader, half_life_s: float) -> list[Reference]:
    """The time of the average count rate of each slice."""
    references = []
    for header, begins in zip(series.headers, series.acquired(), strict=True):
        duration_s = series.number_of(header, "ActualFrameDuration") / 1000.0
        if duration_s <= 0:
            series.refuse("ActualFrameDuration", "is missing, and pixel values are not corrected for decay")
        moment = begins + timedelta(seconds=average_count_rate_s(duration_s, half_life_s))
        references.append(Reference(moment, "frame", "DecayCorrection is NONE"))
    return references


def _from_suv(series: SeriesHeader, units: str, person: dict[str, Any]) -> tuple[float, str]:
    """SUVbw per unit of another kind of SUV, and how."""
    kind = series.text("SUVType", required=False) or ("BSA" if units == "CM2ML" else "BW")
    if kind not in SUV_TYPES or (kind == "BSA") != (units == "CM2ML"):
        which = "BSA" if units == "CM2ML" else "BW, LBMJANMA, LBMJAMES128 or IBW"
        unclear = ", of which several formulas are in use," if kind == "LBM" else ""
        series.refuse("SUVType", f"is {kind!r}{unclear} and Units is {units}; expected {which}")
    if kind == "BW":
        return 1.0, "Units is GML: pixel values are SUVbw already"
    if person["weight_kg"] is None:
        series.refuse("PatientWeight", f"is missing or unreadable; a SUV of type {kind} needs it")
    try:
        factor = suvbw_per_suv(kind, **person)
    except SUVError as error:
        raise SUVError(
            f"{series.source}: no SUV: {error} If you know what holds, give weight_kg, height_m or sex to load_dicom."
        ) from None
    how = f"Units is {units}: SUVs of type {kind} as SUVbw"
    if person["sex"] == "O" and kind != "BSA":
        how += ", by the mean of the formulas for both sexes"
    return factor, how


def _needed_for_dose(given: Given) -> list[str]:
    """Names of what was given and changes an SUV only if it is computed from the activity."""
    return [name for name in given.by_name() if name not in ("height_m", "sex")]


def _refuse_unused(series: SeriesHeader, given: Given, why: str) -> None:
    """Raise if the SUVs in the file would be others by what the user gave."""
    unused = _needed_for_dose(given)
    weight_kg = series.number_if_readable("PatientWeight")
    if given.weight_kg and (weight_kg is None or abs(given.weight_kg / weight_kg - 1) < 1e-3):
        unused.remove("weight_kg")  # it serves SULs
    if unused:
        raise SUVError(
            f"{series.source}: {why}, which {', '.join(unused)} cannot change. Leave it out; or give suv_factor=..., "
            "the SUVbw per unit of the stored values."
        )
