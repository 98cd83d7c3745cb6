"""What a user states by hand where a header lacks it, or has it wrong."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime, time, timedelta
from typing import Any

from seganypet.errors import SUVError
from seganypet.pet.body import HEIGHTS_M

# Lowest and highest value that can be meant, in the unit of the name, and how a value beyond them usually comes about.
_RANGES = {
    "weight_kg": (0.005, 700.0, "kilograms, no grams"),
    "height_m": (*HEIGHTS_M, "metres, no centimetres"),
    "dose_bq": (1e4, 1e12, "becquerel: 400 MBq is dose_bq=400e6"),
    "half_life_s": (10.0, 1e10, "seconds: F-18 has half_life_s=6586.2"),
    "suv_factor": (0.0, math.inf, "SUVbw in g/mL per unit of the rescaled pixel values"),
}


YEARS = (1800, 2999)  # de-identified scans lie in the past, not before there were calendars


@dataclass(frozen=True)
class Given:
    """What the user states by hand. It goes before the header, and is recorded as given by hand.

    Attributes:
        weight_kg: Body weight in kg.
        height_m: Body height in m.
        sex: "M", "F" or "O".
        dose_bq: Activity at injection, in Bq.
        injection_time: Time of injection on the scanner's clock, as "HH:MM:SS" (on the day of the scan or, if that
            cannot be, the day before) or as ISO date and time, "2022-05-10T09:00:00".
        half_life_s: Half-life of the radionuclide, in s.
        decay_reference_time: Time to which the pixel values are corrected for decay, written like `injection_time`.
        suv_factor: SUVbw in g/mL per unit of (stored value x RescaleSlope + RescaleIntercept); nothing else is then
            asked of the header.

    Raises:
        SUVError: A value that cannot be, or is in another unit.
    """

    weight_kg: float | None = None
    height_m: float | None = None
    sex: str | None = None
    dose_bq: float | None = None
    injection_time: str | None = None
    half_life_s: float | None = None
    decay_reference_time: str | None = None
    suv_factor: float | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any], call: str) -> "Given":
        """From the keyword arguments of a call; SUVError for a name that is none."""
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise SUVError(f"{call}: unknown argument {name}={values[name]!r}; expected {', '.join(known)}.")
        return cls(**values)

    def __post_init__(self) -> None:
        for name, (low, high, unit) in _RANGES.items():
            value = getattr(self, name)
            if value is None:
                continue
            try:
                number = math.nan if isinstance(value, str | bool) else float(value)
            except (TypeError, ValueError):
                number = math.nan
            if not (low <= number <= high and 0 < number < math.inf):
                limits = f" from {low:g} to {high:g}" if high < math.inf else " above 0"
                raise SUVError(f"{name}={value!r}; expected a number{limits}, in {unit}.")
            object.__setattr__(self, name, number)
        if self.sex is not None and self.sex not in ("M", "F", "O"):
            raise SUVError(f"sex={self.sex!r}; expected 'M', 'F' or 'O'.")
        for name in ("injection_time", "decay_reference_time"):
            if getattr(self, name) is not None:
                parse_time(getattr(self, name), name)

    def by_name(self) -> dict[str, Any]:
        """What was given, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def parse_time(text: str, name: str) -> datetime | time:
    """A clock time, or a date and time, of an ISO text; SUVError otherwise."""
    problem = SUVError(
        f"{name}={text!r}; expected a clock time such as '09:30:00', or date and time such as '2022-05-10T09:30:00', "
        "both on the scanner's clock, without time zone."
    )
    if not isinstance(text, str) or ":" not in text:
        raise problem
    for kind in (time, datetime):
        try:
            when = kind.fromisoformat(text.strip())
        except ValueError:
            continue
        if when.tzinfo is None and (isinstance(when, time) or YEARS[0] <= when.year <= YEARS[1]):
            return when
    raise problem


def on_day_or_before(clock: time, reference: datetime) -> tuple[datetime, datetime]:
    """A clock time on the day of `reference`, and on the day before."""
    same_day = datetime.combine(reference.date(), clock)
    return same_day, same_day - timedelta(days=1)


def note(metadata: Mapping[str, Any]) -> str:
    """What was given by hand, for the definition of a measurement; "" if nothing was."""
    given = metadata.get("given_by_hand") or {}
    return "; given by hand: " + ", ".join(f"{name}={value}" for name, value in given.items()) if given else ""
