"""The JSON file beside a NIfTI PET (BIDS, dcm2niix), and SUVs from what it, or the user, states."""

import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seganypet._files import as_path, read_json
from seganypet.errors import DoubtfulValuesWarning, SegAnyPETError, SUVError, UnitError
from seganypet.pet.given import Given, on_day_or_before, parse_time
from seganypet.pet.nuclides import HALF_LIVES_S, average_count_rate_s, half_life_matches, nuclides_in_text
from seganypet.pet.plausibility import warn_if_implausible
from seganypet.pet.suv import suv_per_bq_ml
from seganypet.pet.suv_inputs import DOSES_BQ

if TYPE_CHECKING:
    from seganypet.pet.volume import Volume

_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
_MINUTE_S = 60.0  # dynamic scans are started with the injection, or up to a minute before it
_BQ = {"bq": 1.0, "kbq": 1e3, "mbq": 1e6, "gbq": 1e9, "uci": 3.7e4, "µci": 3.7e4, "mci": 3.7e7, "ci": 3.7e10}
_KG = {"kg": 1.0, "g": 1e-3, "lb": 0.45359237, "lbs": 0.45359237}
_M = {"m": 1.0, "cm": 0.01, "mm": 0.001}
_UNITS = {
    "bq/ml": "Bq/mL", "bqml": "Bq/mL", "bq/cc": "Bq/mL", "g/ml": "SUVbw", "gml": "SUVbw", "suv": "SUVbw",
    "suvbw": "SUVbw", "kbq/ml": "kBq/mL", "kbq/cc": "kBq/mL", "mbq/ml": "MBq/mL", "nci/ml": "nCi/mL",
    "nci/cc": "nCi/mL", "uci/ml": "uCi/mL", "counts": "counts", "cnts": "counts", "hu": "HU",
}  # fmt: skip


def sidecar_path(path: str | os.PathLike) -> Path:
    """Where the JSON file beside an image lies, if there is one."""
    path = as_path(path)
    ending = next((one for one in _ENDINGS if path.name.lower().endswith(one)), path.suffix)
    return path.with_name(path.name[: len(path.name) - len(ending)] + ".json")


def read_sidecar(path: str | os.PathLike) -> dict[str, Any]:
    """What the JSON file beside an image says of the SUV.

    Args:
        path: Path of the image; its sidecar has the same name and ends in `.json`.

    Returns:
        As far as it says so: unit, weight_kg, height_m, sex, dose_bq, half_life_s; decay_reference_time, the clock time
        to which the image is corrected for decay, and decay_s, the seconds from the injection to it; and
        sidecar_problems, why others are unknown. {} if there is no such file.

    Source: BIDS 1.10, positron emission tomography; names of DICOM tags as dcm2niix writes them.
    """
    beside = sidecar_path(path)
    if not os.path.isfile(beside):
        return {}
    try:
        content = read_json(beside)
        if not isinstance(content, dict):
            raise SegAnyPETError(f"{beside}: expected names and values.")
    except SegAnyPETError as error:
        return {"sidecar_problems": [f"{beside.name} is not a readable sidecar ({error})"]}
    return _facts(content)


def described_beside(path: str | os.PathLike, unit: str) -> dict[str, Any]:
    """`read_sidecar` of a PET for the metadata of a volume; {} of a CT.

    Raises:
        UnitError: The sidecar's unit is one that no volume has, so its values are off by a factor.

    Warns:
        DoubtfulValuesWarning: The sidecar states another unit than the user.
    """
    facts = {} if unit == "HU" else read_sidecar(path)
    stated = facts.pop("unit", unit)
    if stated == unit:
        return facts
    if stated not in ("SUVbw", "Bq/mL"):
        raise UnitError(
            f"{path}: its sidecar says that it is in {stated}, and unit={unit!r} was given. Convert the values, and "
            "correct Units in the sidecar."
        )
    warnings.warn(
        f"{path}: its sidecar says that it is in {stated}, but it was opened as unit={unit!r}; is it converted?",
        DoubtfulValuesWarning,
        stacklevel=3,
    )
    return facts


def to_suvbw(volume: "Volume", *, decay_s: float | None = None, **given: Any) -> "Volume":
    """A PET in Bq/mL as SUVbw.

    Args:
        volume: PET in Bq/mL, shape (I, J, K). What its metadata hold is used: `load_volume` reads the sidecar beside a
            NIfTI file.
        decay_s: Seconds from injection to the time to which the image is corrected for decay; 0 if that is the
            injection. Instead, injection_time and decay_reference_time may be given.
        **given: What the metadata lack or have wrong, see `suv.Given`: `weight_kg`, `height_m`, `sex`, `dose_bq`,
            `half_life_s`, `injection_time`, `decay_reference_time`; or `suv_factor`, in SUVbw per Bq/mL, alone.

    Returns:
        The volume in SUVbw, with what it was computed from in its metadata.

    Raises:
        UnitError: The volume is in another unit.
        SUVError: A value is missing, or cannot be; the message names what to give.

    Warns:
        DoubtfulValuesWarning: The injection lies after the decay reference; or the SUVs cannot be.
    """
    if volume.unit != "Bq/mL":
        raise UnitError(f"{volume.source} is in {volume.unit}; expected Bq/mL, which to_suvbw converts.")
    stated = Given.of(given, "to_suvbw")
    names = ("weight_kg", "height_m", "sex", "dose_bq", "half_life_s")
    facts = {name: getattr(stated, name) or volume.metadata.get(name) for name in names}
    by_hand = stated.by_name() | ({} if decay_s is None else {"decay_s": decay_s})
    factor = stated.suv_factor
    if factor is None:
        facts["decay_s"] = _decay_s(volume.metadata, stated, decay_s)
        needed = ("weight_kg", "dose_bq", "half_life_s", "decay_s")
        missing = [name for name in needed if facts[name] is None]
        if missing:
            problems = "".join(f" ({one})" for one in volume.metadata.get("sidecar_problems") or ())
            raise SUVError(
                f"{volume.source}: no SUV: {', '.join(missing)} unknown{problems}. Give {', '.join(missing)} to "
                "to_suvbw; instead of decay_s, injection_time and decay_reference_time serve."
            )
        try:
            factor = suv_per_bq_ml(**{name: facts[name] for name in needed})
        except SUVError as error:
            raise SUVError(f"{volume.source}: no SUV: {error}") from None
        if facts["decay_s"] < -_MINUTE_S:
            warnings.warn(
                f"{volume.source}: the injection lies {-facts['decay_s']:.0f} s after the time to which the image is "
                "corrected for decay, as it may in a dynamic scan alone. Otherwise give decay_s=..., which is positive "
                "for an injection before the scan.",
                DoubtfulValuesWarning,
                stacklevel=2,
            )
    metadata = {name: value for name, value in volume.metadata.items() if name != "sidecar_problems"}
    metadata |= {name: value for name, value in facts.items() if value is not None}
    metadata |= {"suv_per_bq_ml": factor}
    if by_hand:
        metadata["given_by_hand"] = dict(volume.metadata.get("given_by_hand") or {}) | by_hand
    converted = replace(volume, data=volume.data * factor, unit="SUVbw", metadata=metadata)
    warn_if_implausible(converted)
    return converted


def _decay_s(metadata: Mapping[str, Any], stated: Given, decay_s: float | None) -> float | None:
    by_hand = (stated.injection_time, stated.decay_reference_time)
    times = (stated.injection_time, stated.decay_reference_time or metadata.get("decay_reference_time"))
    if decay_s is not None:
        if any(by_hand):
            raise SUVError("to_suvbw: both decay_s and times were given; give one of them.")
        return decay_s
    if not any(by_hand):
        return metadata.get("decay_s")
    if not all(times):
        raise SUVError("to_suvbw: injection_time and decay_reference_time are needed both; or give decay_s.")
    injected = parse_time(str(times[0]), "injection_time")
    reference = parse_time(str(times[1]), "decay_reference_time")
    return _between(injected, reference)


def _between(injected: Any, reference: Any) -> float:
    """Seconds between two clock times, of which the first may be on the day before, or two dates with times."""
    if isinstance(injected, time) != isinstance(reference, time):
        raise SUVError("injection_time and decay_reference_time: expected two clock times, or both with their dates.")
    if not isinstance(reference, time):
        return (reference - injected).total_seconds()
    moment = datetime.combine(date(2000, 1, 2), reference)
    same_day, before = on_day_or_before(injected, moment)
    return (moment - (before if same_day > moment else same_day)).total_seconds()


def _facts(content: Mapping[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    problems: list[str] = []

    def read(name: str, reader: Any) -> None:
        try:
            value = reader(content)
        except (ValueError, TypeError, LookupError, OverflowError, SUVError) as error:
            problems.append(f"{name}: {error}")
            return
        if value is not None:
            facts[name] = value

    read("unit", _unit)
    read("weight_kg", lambda one: _quantity(one, "BodyWeight", _KG, "kg") or _number(one, "PatientWeight"))
    read("height_m", lambda one: _quantity(one, "BodyHeight", _M, "m") or _number(one, "PatientSize"))
    read("sex", _sex)
    read("dose_bq", _dose_bq)
    read("half_life_s", _half_life_s)
    read("decay_reference_time", _reference_clock)
    read("decay_s", lambda one: _stated_decay_s(one, facts))
    for name in ("weight_kg", "height_m", "dose_bq", "half_life_s"):
        try:
            Given(**{name: facts.get(name)})
        except SUVError as error:
            problems.append(str(error).rstrip("."))
            del facts[name]
    return facts | ({"sidecar_problems": problems} if problems else {})


def _number(content: Mapping[str, Any], name: str) -> float | None:
    value = content.get(name)
    if value is None or value == "" or value == "n/a":
        return None
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, bool | list | dict):
        raise ValueError(f"{name} is {value!r}; expected a number")
    return float(value)


def _quantity(content: Mapping[str, Any], name: str, units: Mapping[str, float], default: str | None) -> float | None:
    number = _number(content, name)
    if number is None:
        return None
    unit = str(content.get(f"{name}Units") or content.get(f"{name}Unit") or default or "").strip()
    if unit.lower() not in units:
        raise ValueError(f"{name}Units is {unit!r}; expected one of {', '.join(units)}")
    return number * units[unit.lower()]


def _unit(content: Mapping[str, Any]) -> str | None:
    text = str(content.get("Units") or "").strip()
    return _UNITS.get(text.lower().replace(" ", "").replace("_", "")) if text else None


def _sex(content: Mapping[str, Any]) -> str | None:
    text = str(content.get("PatientSex") or content.get("Sex") or "").strip().upper()[:1]
    return text if text in ("M", "F", "O") else None


def _dose_bq(content: Mapping[str, Any]) -> float | None:
    dose_bq = _quantity(content, "InjectedRadioactivity", _BQ, None)
    tag_bq = _number(content, "RadionuclideTotalDose")
    if dose_bq is None:
        dose_bq = tag_bq
    elif tag_bq is not None and not any(abs(dose_bq / (tag_bq * unit) - 1) < 0.01 for unit in (1.0, 1e6)):
        raise ValueError(f"InjectedRadioactivity says {dose_bq:g} Bq, and RadionuclideTotalDose {tag_bq:g}")
    if dose_bq is not None and not DOSES_BQ[0] <= dose_bq <= DOSES_BQ[1]:
        raise ValueError(f"{dose_bq:g} Bq; expected {DOSES_BQ[0]:g} to {DOSES_BQ[1]:g} Bq for a person")
    return dose_bq


def _half_life_s(content: Mapping[str, Any]) -> float | None:
    half_life_s = _number(content, "RadionuclideHalfLife")
    named = nuclides_in_text(str(content.get("TracerRadionuclide") or ""))
    if half_life_s is not None:
        wrong = [one for one in named if not half_life_matches(half_life_s, one)]
        if wrong:
            raise ValueError(f"RadionuclideHalfLife is {half_life_s:g} s, and TracerRadionuclide {wrong[0]}")
        return half_life_s
    return HALF_LIVES_S[named.pop()] if len(named) == 1 else None


def _reference_clock(content: Mapping[str, Any]) -> str | None:
    """Clock time to which the image is corrected for decay."""
    zero, since_s = content.get("TimeZero"), _number(content, "ImageDecayCorrectionTime")
    if content.get("ImageDecayCorrected") is True and zero is not None and since_s is not None:
        begins = parse_time(str(zero), "TimeZero")
        day = datetime.combine(date(2000, 1, 1), begins) if isinstance(begins, time) else begins
        return (day + timedelta(seconds=since_s)).time().isoformat()
    clocks = [content.get(name) for name in ("SeriesTime", "AcquisitionTime")]
    if str(content.get("DecayCorrection") or "").upper() != "START" or clocks == [None, None]:
        return None
    series, acquired = (None if one is None else parse_time(str(one), "the time of the scan") for one in clocks)
    if series is not None and acquired is not None and _between(series, acquired) > 2:
        raise ValueError(f"SeriesTime {series} and AcquisitionTime {acquired} disagree")
    return (acquired if series is None else series).isoformat()


def _stated_decay_s(content: Mapping[str, Any], facts: Mapping[str, Any]) -> float | None:
    half_life_s, reference = facts.get("half_life_s"), facts.get("decay_reference_time")
    injected_s = _number(content, "InjectionStart")
    corrected = content.get("ImageDecayCorrected")
    if isinstance(corrected, str):
        corrected = {"true": True, "false": False}.get(corrected.lower())
    if corrected is True and injected_s is not None:
        reference_s = _number(content, "ImageDecayCorrectionTime")
        return None if reference_s is None else reference_s - injected_s
    if corrected is False:
        begins_s, duration_s = _number(content, "FrameTimesStart"), _number(content, "FrameDuration")
        if None in (begins_s, duration_s, injected_s, half_life_s):
            return None
        assert begins_s is not None and duration_s is not None and injected_s is not None and half_life_s is not None
        return begins_s + average_count_rate_s(duration_s, half_life_s) - injected_s
    correction = str(content.get("DecayCorrection") or "").upper()
    if correction == "ADMIN":
        return 0.0
    clock = content.get("RadiopharmaceuticalStartTime")
    if clock is None or reference is None:
        return None
    injected = parse_time(str(clock), "RadiopharmaceuticalStartTime")
    return _between(injected, parse_time(reference, "the time of the scan"))
