"""Standardised uptake value (SUV) from PET headers: the factor, or the tag that forbids one.

    SUVbw [g/mL] = activity [Bq/mL] x weight [g] / dose left at the decay reference [Bq]

A scanner that writes DecayCorrection START has scaled every slice back to one time, the decay reference. Vendors encode
this time in different ways, and a wrong one changes the SUV by up to a third. Nothing is assumed here: a header that
leaves the factor open raises `SUVError`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NoReturn

import numpy as np
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.valuerep import DA, DT, TM

from seganypet.errors import SUVError

DAY_S = 86400.0
# No human dose is this small: a smaller number is in MBq or mCi, although the tag's unit is Bq.
SMALLEST_DOSE_BQ = 1e4


@dataclass(frozen=True)
class SUVFactor:
    """The factor that converts a PET series to SUVbw, and the header values behind it.

    Attributes:
        suv_per_stored_unit: SUVbw in g/mL per unit of (stored value x RescaleSlope + RescaleIntercept).
        units: That unit: "BQML", "CNTS" or "GML".
        decay_reference: Time to which the dose is decayed: "series time", "GE scan time", "average count rate time",
            "earliest acquisition time", "injection", or "not needed" where the scanner has already divided by the dose.
        how: Derivation of the factor in a sentence that names the tags.
        weight_kg: Patient weight; None if absent and not needed.
        height_m: Patient height, or None.
        sex: "M", "F", "O", or None.
        dose_bq: Activity at injection; None where not needed.
        half_life_s: Half-life of the radionuclide; None where not needed.
        decay_s: Seconds from injection to the decay reference; None where not needed.
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


def suv_factor(headers: Sequence[Dataset], source: str = "PET series") -> SUVFactor:
    """The factor from a PET series' pixel values to SUVbw.

    Args:
        headers: Headers of all slices of one series, in any order and without pixels. All are needed, because the
            earliest acquisition time determines the decay reference.
        source: Name of the series, for errors.

    Returns:
        The factor and its provenance.

    Raises:
        SUVError: The headers allow no SUV; the message names the tag.

    Source: DICOM PS3.3 C.8.9; QIBA SUV vendor-neutral pseudo-code, with the average count rate
        time for scanners whose series time is later than the acquisition.
    """
    if not headers:
        raise SUVError(f"{source}: no PET headers given; expected those of every slice.")
    series = _Series(headers, source)
    units = series.text("Units")
    if units not in ("BQML", "CNTS", "GML"):
        series.refuse("Units", f"is {units!r}; expected BQML, GML or Philips CNTS")
    _check_corrections(series)
    person: dict[str, Any] = {
        "weight_kg": series.number("PatientWeight", required=False),
        "height_m": series.number("PatientSize", required=False),
        "sex": series.text("PatientSex", required=False),
    }
    if units == "GML":
        kind = series.text("SUVType", required=False) or "BW"
        if kind != "BW":
            series.refuse("SUVType", f"is {kind!r}; expected body weight (BW)")
        return SUVFactor(1.0, units, "not needed", "Units is GML: pixel values are SUVbw already", **person)
    bq_ml_per_unit, made_from = 1.0, "Units is BQML"
    if units == "CNTS":
        factor = series.philips(0x00)
        if factor:
            return SUVFactor(factor, units, "not needed", "Units is CNTS: Philips SUV factor (7053,1000)", **person)
        bq_ml_per_unit = series.philips(0x09)
        if not bq_ml_per_unit:
            raise SUVError(
                f"{source}: Units is CNTS, and neither the Philips SUV factor (7053,1000) nor the activity factor "
                "(7053,1009) is present (anonymisation may have removed them). Export the series with these tags."
            )
        made_from = "Units is CNTS: Philips activity factor (7053,1009)"

    person["weight_kg"] = series.number("PatientWeight")
    dose_bq = series.number("RadionuclideTotalDose")
    if dose_bq < SMALLEST_DOSE_BQ:
        series.refuse("RadionuclideTotalDose", f"is {dose_bq:g}; the tag is in Bq, and this looks like MBq or mCi")
    half_life_s = series.number("RadionuclideHalfLife")
    if series.text("DecayCorrection") == "ADMIN":
        reference, decay_s, why = "injection", 0.0, "DecayCorrection is ADMIN, so the dose is not decayed"
    else:
        moment, reference, why = _decay_reference(series, half_life_s)
        decay_s = _seconds_from_injection(series, moment)
    dose_left_bq = dose_bq * 2.0 ** (-decay_s / half_life_s)
    factor = bq_ml_per_unit * person["weight_kg"] * 1000.0 / dose_left_bq
    return SUVFactor(
        factor, units, reference, f"{made_from}; {why}", **person, dose_bq=dose_bq, half_life_s=half_life_s,
        decay_s=decay_s,
    )  # fmt: skip


def lean_body_mass(weight_kg: float, height_m: float, sex: str, formula: str = "janmahasatian") -> float:
    """Lean body mass in kg.

    Args:
        weight_kg: Body weight in kg.
        height_m: Body height in m.
        sex: "M" or "F".
        formula: "janmahasatian" (2005, valid for obese patients too) or "james" (1976).

    Raises:
        SUVError: A value is missing, not positive, or unknown.

    Source: Janmahasatian et al., Clin Pharmacokinet 2005; James 1976 as quoted by Sugawara et al.,
        Radiology 1999 (128 for men; some copies misprint 120).

    >>> round(lean_body_mass(91.0, 1.88, "M", "james"), 2)
    70.11
    """
    if not weight_kg or not 0.5 <= weight_kg <= 400:
        raise SUVError(f"lean body mass: weight_kg is {weight_kg}; expected 0.5 to 400 kilograms (0010,1030).")
    if not height_m or not 0.3 <= height_m <= 3:
        raise SUVError(f"lean body mass: height_m is {height_m}; expected 0.3 to 3 metres, no centimetres (0010,1020).")
    if sex not in ("M", "F"):
        raise SUVError(f"lean body mass: sex is {sex!r}; expected M or F (0010,0040), for which there are formulas.")
    if formula == "janmahasatian":
        bmi = weight_kg / height_m**2
        return 9270.0 * weight_kg / ((6680.0 + 216.0 * bmi) if sex == "M" else (8780.0 + 244.0 * bmi))
    if formula == "james":
        ratio = weight_kg / (height_m * 100.0)
        lean_kg = 1.10 * weight_kg - 128.0 * ratio**2 if sex == "M" else 1.07 * weight_kg - 148.0 * ratio**2
        if lean_kg <= 0:
            raise SUVError(
                f"lean body mass: James's formula gives {lean_kg:.1f} kg for {weight_kg:g} kg at {height_m:g} m; "
                "it is not valid for such obesity. Use formula='janmahasatian'."
            )
        return lean_kg
    raise SUVError(f"lean body mass: unknown formula {formula!r}; expected 'janmahasatian' or 'james'.")


def sul_per_suvbw(weight_kg: float, height_m: float, sex: str, formula: str = "janmahasatian") -> float:
    """SUL / SUVbw, dimensionless: lean body mass over weight. Arguments and errors as `lean_body_mass`."""
    return lean_body_mass(weight_kg, height_m, sex, formula) / weight_kg


def _check_corrections(series: "_Series") -> None:
    corrected = series.values("CorrectedImage")
    for needed, meaning in (("ATTN", "attenuation"), ("DECY", "decay")):
        if needed not in corrected:
            listed = "\\".join(corrected) or "absent"
            series.refuse("CorrectedImage", f"is {listed}: without {needed}, {meaning} is not corrected")
    if series.text("DecayCorrection") not in ("START", "ADMIN"):
        series.refuse("DecayCorrection", f"is {series.text('DecayCorrection')!r}; expected START or ADMIN")


def _decay_reference(series: "_Series", half_life_s: float) -> tuple[datetime, str, str]:
    """Time to which START has corrected: (when, its name, why it was chosen)."""
    series_time = min(series.moment(header, "SeriesDate", "SeriesTime") for header in series.headers)
    acquired = [series.moment(header, "AcquisitionDate", "AcquisitionTime") for header in series.headers]
    earliest = min(acquired)
    if series_time <= earliest:
        return series_time, "series time", "SeriesTime is not after the earliest AcquisitionTime"
    ge_scan = series.ge_scan_time()
    if ge_scan is not None and abs((ge_scan - earliest).total_seconds()) <= DAY_S:
        return ge_scan, "GE scan time", "SeriesTime is after the acquisition, GE's scan time (0009,100D) is there"
    # Here, series time is when a later reconstruction was saved.
    header = series.headers[acquired.index(earliest)]
    to_average_s = series.number_of(header, "FrameReferenceTime") / 1000.0
    duration_s = series.number_of(header, "ActualFrameDuration") / 1000.0
    if to_average_s > 0 and duration_s > 0:
        # FrameReferenceTime is the time from the reference to t, when the decaying count rate equals its mean over the
        # frame: exp(-lambda t) = (1 - exp(-x)) / x, x = lambda duration.
        decay_constant = np.log(2.0) / half_life_s
        x = decay_constant * duration_s
        average_s = np.log(x / -np.expm1(-x)) / decay_constant
        moment = earliest + timedelta(seconds=float(average_s - to_average_s))
        return moment, "average count rate time", "SeriesTime is after the acquisition, FrameReferenceTime is there"
    why = "SeriesTime is after the acquisition, neither GE's scan time nor FrameReferenceTime is there"
    return earliest, "earliest acquisition time", why


def _seconds_from_injection(series: "_Series", reference: datetime) -> float:
    """Seconds from injection to the decay reference; SUVError if they cannot belong to one scan."""
    keyword = "RadiopharmaceuticalStartDateTime"
    injected = series.datetime_of(series.drug, keyword)
    if injected is None:
        keyword = "RadiopharmaceuticalStartTime"
        clock = series.value_of(series.drug, keyword)
        if clock is None:
            series.refuse(keyword, "is missing, and so is RadiopharmaceuticalStartDateTime (0018,1078)")
        injected = series.combine(series.value_of(series.first, "SeriesDate"), clock, keyword)
        if injected > reference:
            injected -= timedelta(days=1)  # the time has no date: injected before midnight, scanned after
    decay_s = (reference - injected).total_seconds()
    if not 0 <= decay_s <= DAY_S:
        series.refuse(
            keyword,
            f"lies {decay_s / 3600:.2f} h before the decay reference; expected 0 to 24 h. Anonymisation may have "
            "shifted dates differently",
        )
    return decay_s


class _Series:
    """Reads the tags of all slices, and checks that those which a series must share are equal."""

    def __init__(self, headers: Sequence[Dataset], source: str) -> None:
        self.headers = list(headers)
        self.source = source
        self.first = self.headers[0]
        drugs = [header.get("RadiopharmaceuticalInformationSequence") or [] for header in self.headers]
        if any(len(items) > 1 for items in drugs):
            self.refuse("RadiopharmaceuticalInformationSequence", "lists several injections; expected one")
        self.drugs = [items[0] if items else Dataset() for items in drugs]
        self.drug = self.drugs[0]

    def refuse(self, keyword: str, what: str) -> NoReturn:
        raise SUVError(f"{self.source}: no SUV: {keyword} {Tag(keyword)} {what}.")

    def value_of(self, header: Dataset, keyword: str) -> Any:
        """Value of a tag, None if absent or empty."""
        try:
            value = header.get(keyword)
        except (ValueError, TypeError) as error:
            self.refuse(keyword, f"is unreadable ({error})")
        return None if value is None or value == "" else value

    def values(self, keyword: str) -> list[str]:
        """All values of a multi-valued tag that every slice must share; [] if absent."""
        found = [self._as_list(self.value_of(header, keyword)) for header in self.headers]
        if any(sorted(set(one)) != sorted(set(found[0])) for one in found):
            self.refuse(keyword, f"differs between slices: {found[0]} and others; load one reconstruction at a time")
        return found[0]

    def text(self, keyword: str, required: bool = True) -> str | None:
        values = self.values(keyword)
        if not values and required:
            self.refuse(keyword, "is missing")
        return values[0] if values else None

    def number(self, keyword: str, required: bool = True) -> float | None:
        """A positive number that every slice must share; None if it is missing or zero and not required."""
        holders = self.drugs if keyword.startswith("Radionuclide") else self.headers
        numbers = {self.number_of(header, keyword) for header in holders}
        if len(numbers) > 1:
            self.refuse(keyword, f"differs between slices: {sorted(numbers)[:3]}")
        number = numbers.pop()
        if number > 0:
            return number
        if required:
            missing = self.value_of(holders[0], keyword) is None
            self.refuse(keyword, "is missing" if missing else f"is {number:g}; expected a positive number")
        return None

    def number_of(self, header: Dataset, keyword: str) -> float:
        """A number; 0.0 if absent or empty."""
        value = self.value_of(header, keyword)
        try:
            number = 0.0 if value is None else float(value)
        except (ValueError, TypeError):
            number = np.nan
        if not np.isfinite(number):
            self.refuse(keyword, f"is {value!r}; expected one finite number")
        return number

    def philips(self, element: int) -> float:
        """A Philips private factor that all slices must share; 0.0 if absent."""
        numbers = set()
        for header in self.headers:
            value = _private(header, 0x7053, "Philips PET Private Group", element)
            try:
                numbers.add(float(value or 0.0))
            except (ValueError, TypeError):
                numbers.add(np.nan)
        if len(numbers) > 1 or not all(np.isfinite(number) and number >= 0 for number in numbers):
            raise SUVError(
                f"{self.source}: no SUV: Philips factor (7053,10{element:02X}) is {sorted(numbers)[:3]}; expected one "
                "positive number for all slices."
            )
        return numbers.pop()

    def moment(self, header: Dataset, date_keyword: str, time_keyword: str) -> datetime:
        for keyword in (date_keyword, time_keyword):
            if self.value_of(header, keyword) is None:
                self.refuse(keyword, "is missing; without it the time of decay is unknown")
        return self.combine(self.value_of(header, date_keyword), self.value_of(header, time_keyword), time_keyword)

    def combine(self, date: Any, clock: Any, keyword: str) -> datetime:
        try:
            return datetime.combine(DA(str(date).strip()), TM(str(clock).strip()))
        except (ValueError, TypeError) as error:
            self.refuse(keyword, f"({clock!r} on date {date!r}) is not a time ({error})")

    def datetime_of(self, holder: Dataset, keyword: str) -> datetime | None:
        """A DT tag on the clock of the header's date and time tags; None if absent or empty."""
        value = self.value_of(holder, keyword)
        if value is None or not str(value).strip():
            return None
        if len(str(value).strip()) < 12:
            self.refuse(keyword, f"is {value!r}: hour and minute are missing")
        try:
            when = DT(str(value).strip())
        except (ValueError, TypeError) as error:
            self.refuse(keyword, f"is {value!r}, not a date and time ({error})")
        if when.tzinfo is not None:
            zone = self.value_of(self.first, "TimezoneOffsetFromUTC")
            if zone is None:
                self.refuse(keyword, f"is {value!r}, in a time zone, but TimezoneOffsetFromUTC (0008,0201) is missing")
            when = when.astimezone(DT(f"20000101{zone}").tzinfo)
        return datetime.combine(when.date(), when.time())

    def ge_scan_time(self) -> datetime | None:
        """GE's private scan time, the reference of DecayCorrection START; None if absent or unreadable."""
        value = _private(self.first, 0x0009, "GEMS_PETD_01", 0x0D)
        text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value or "")
        try:
            return datetime.combine(DT(text.strip(" \0")).date(), DT(text.strip(" \0")).time())
        except (ValueError, TypeError, AttributeError):
            return None

    @staticmethod
    def _as_list(value: Any) -> list[str]:
        if value is None:
            return []
        return [str(item).strip() for item in ([value] if isinstance(value, str) else value)]


def _private(header: Dataset, group: int, creator: str, element: int) -> Any:
    """A private value, even if anonymisation has removed the creator but kept the element."""
    try:
        return header.private_block(group, creator)[element].value
    except KeyError:
        if (group, 0x0010) in header or (group, 0x1000 | element) not in header:
            return None
        return header[group, 0x1000 | element].value
