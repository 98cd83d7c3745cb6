"""The tags of a PET series, read so that what cannot be understood is refused by its name."""

from collections.abc import Sequence
from datetime import date, datetime, time
from typing import Any, NoReturn

import numpy as np
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as Items
from pydicom.tag import Tag
from pydicom.valuerep import DA, DT, TM

from seganypet.errors import SUVError
from seganypet.pet.given import YEARS

# By which argument of load_dicom a user states what a tag does not.
_ARGUMENTS = {
    "PatientWeight": "weight_kg", "PatientSize": "height_m", "PatientSex": "sex", "RadionuclideTotalDose": "dose_bq",
    "RadionuclideHalfLife": "half_life_s", "RadiopharmaceuticalStartTime": "injection_time",
    "RadiopharmaceuticalStartDateTime": "injection_time", "SeriesDate": "decay_reference_time",
    "SeriesTime": "decay_reference_time", "AcquisitionDate": "decay_reference_time",
    "AcquisitionTime": "decay_reference_time", "AcquisitionDateTime": "decay_reference_time",
    "ActualFrameDuration": "decay_reference_time", "FrameReferenceTime": "decay_reference_time",
    "DecayCorrection": "decay_reference_time", "TimezoneOffsetFromUTC": "injection_time",
    "Units": "suv_factor", "SUVType": "suv_factor", "CorrectedImage": "suv_factor",
}  # fmt: skip


class SeriesHeader:
    """Reads the tags of all slices, and checks that those which a series must share are equal."""

    def __init__(self, headers: Sequence[Dataset], source: str) -> None:
        self.headers = list(headers)
        self.source = source
        self.first = self.headers[0]
        drugs = [self.items(header, "RadiopharmaceuticalInformationSequence") for header in self.headers]
        if any(len(items) > 1 for items in drugs):
            self.refuse("RadiopharmaceuticalInformationSequence", "lists several injections; expected one")
        self.drugs = [items[0] if items else Dataset() for items in drugs]
        self.drug = self.drugs[0]

    def refuse(self, keyword: str, what: str) -> NoReturn:
        argument = _ARGUMENTS.get(keyword)
        advice = f" If you know what holds, give {argument}=... to load_dicom." if argument else ""
        stop = "" if what.endswith("?") else "."
        raise SUVError(f"{self.source}: no SUV: {keyword} {Tag(keyword)} {what}{stop}{advice}")

    def value_of(self, header: Dataset, keyword: str) -> Any:
        """Value of a tag, None if absent or empty."""
        try:
            value = header.get(keyword)
        except Exception as error:  # pydicom passes on whatever its converters raise
            self.refuse(keyword, f"is unreadable ({error})")
        return None if value is None or value == "" else value

    def optional(self, header: Dataset, keyword: str) -> Any:
        """As `value_of`; None if it is unreadable."""
        try:
            return self.value_of(header, keyword)
        except SUVError:
            return None

    def items(self, header: Dataset, keyword: str) -> list[Dataset]:
        """Items of a sequence; [] if it is absent."""
        value = self.value_of(header, keyword)
        if value is not None and not isinstance(value, Items):
            self.refuse(keyword, f"is {str(value)[:40]!r}; expected a sequence")
        return list(value or [])

    def number_or_zero(self, header: Dataset, keyword: str) -> float:
        """A number that is not needed; 0.0 if it is absent, unreadable or no possible one."""
        try:
            number = self.number_of(header, keyword)
        except SUVError:
            return 0.0
        return number if 0.0 <= number < 1e9 else 0.0

    def values(self, keyword: str) -> list[str]:
        """All values of a multi-valued tag that every slice must share, in capitals; [] if absent."""
        found = [_as_list(self.value_of(header, keyword)) for header in self.headers]
        if any(sorted(set(one)) != sorted(set(found[0])) for one in found):
            self.refuse(keyword, f"differs between slices: {found[0]} and others; load one reconstruction at a time")
        return found[0]

    def text(self, keyword: str, required: bool = True) -> str | None:
        values = self.values(keyword)
        if not values and required:
            self.refuse(keyword, "is missing")
        return values[0] if values else None

    def number(self, keyword: str) -> float:
        """A positive number that every slice must share."""
        holders = self.drugs if keyword.startswith("Radionuclide") else self.headers
        numbers = {self.number_of(header, keyword) for header in holders}
        if len(numbers) > 1:
            self.refuse(keyword, f"differs between slices: {sorted(numbers)[:3]}")
        number = numbers.pop()
        if number > 0:
            return number
        missing = self.value_of(holders[0], keyword) is None
        self.refuse(keyword, "is missing" if missing else f"is {number:g}; expected a positive number")

    def number_if_readable(self, keyword: str) -> float | None:
        """As `number`; None if there is none."""
        try:
            return self.number(keyword)
        except SUVError:
            return None

    def text_if_readable(self, keyword: str) -> str | None:
        """As `text`; None if there is none."""
        try:
            return self.text(keyword, required=False)
        except SUVError:
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
            value = private(header, 0x7053, "Philips PET Private Group", element)
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

    def series_time(self) -> datetime:
        """The earliest SeriesDate and SeriesTime."""
        return min(self._moment(header, "SeriesDate", "SeriesTime") for header in self.headers)

    def acquired(self) -> list[datetime]:
        """Start of each slice's acquisition."""
        return [self._acquired(header) for header in self.headers]

    def _acquired(self, header: Dataset) -> datetime:
        if any(self.value_of(header, keyword) is None for keyword in ("AcquisitionDate", "AcquisitionTime")):
            when = self.datetime_of(header, "AcquisitionDateTime")
            if when is not None:
                return when
        return self._moment(header, "AcquisitionDate", "AcquisitionTime")

    def _moment(self, header: Dataset, date_keyword: str, time_keyword: str) -> datetime:
        for keyword in (date_keyword, time_keyword):
            if self.value_of(header, keyword) is None:
                self.refuse(keyword, "is missing; without it the time of decay is unknown")
        day = self.value_of(header, date_keyword)
        clock = self.clock(self.value_of(header, time_keyword), time_keyword)
        try:
            when = datetime.combine(date.fromisoformat(DA(str(day).strip()).isoformat()), clock)
        except (ValueError, TypeError, AttributeError) as error:
            self.refuse(date_keyword, f"is {day!r}, not a date ({error})")
        return self._in_our_time(when, date_keyword)

    def _in_our_time(self, when: datetime, keyword: str) -> datetime:
        if not YEARS[0] <= when.year <= YEARS[1]:
            self.refuse(keyword, f"is of the year {when.year}, not a date of a scan")
        return when

    def clock(self, value: Any, keyword: str) -> time:
        """The time of day in a TM value, also in that of ACR-NEMA with colons."""
        whole, _, fraction = str(value).strip().replace(":", "").partition(".")
        try:
            when = TM(f"{whole}.{fraction[:6]}" if fraction else whole)
            return time(when.hour, when.minute, when.second, when.microsecond)
        except (ValueError, TypeError, AttributeError) as error:
            self.refuse(keyword, f"is {value!r}, not a time ({error})")

    def datetime_of(self, holder: Dataset, keyword: str) -> datetime | None:
        """A DT tag on the clock of the header's date and time tags; None if absent or empty."""
        value = self.value_of(holder, keyword)
        text = "" if value is None else str(value).strip()
        if not text:
            return None
        if len(text) < 12:
            self.refuse(keyword, f"is {value!r}: hour and minute are missing")
        try:
            when = DT(text)
        except (ValueError, TypeError) as error:
            self.refuse(keyword, f"is {value!r}, not a date and time ({error})")
        if when.tzinfo is not None:
            zone = self.value_of(self.first, "TimezoneOffsetFromUTC")
            if zone is None:
                self.refuse(keyword, f"is {value!r}, in a time zone, but TimezoneOffsetFromUTC (0008,0201) is missing")
            try:
                local = DT(f"20000101{str(zone).strip()}").tzinfo
            except (ValueError, TypeError):
                local = None
            if local is None:  # astimezone would take this computer's zone
                self.refuse("TimezoneOffsetFromUTC", f"is {zone!r}; expected an offset such as +0200")
            when = when.astimezone(local)
        return self._in_our_time(datetime.combine(when.date(), when.time()), keyword)

    def scan_time(self, group: int, creator: str, element: int) -> datetime | None:
        """A vendor's private time of the scan; None if absent or unreadable."""
        value = private(self.first, group, creator, element)
        text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value or "")
        try:
            when = DT(text.strip(" \0"))
            return datetime.combine(when.date(), when.time()) if YEARS[0] <= when.year <= YEARS[1] else None
        except (ValueError, TypeError, AttributeError):
            return None


def _as_list(value: Any) -> list[str]:
    if value is None:
        return []
    several = value if isinstance(value, MultiValue | list) else [value]
    return [str(item).strip().upper() for item in several]


def private(header: Dataset, group: int, creator: str, element: int) -> Any:
    """A private value, even if anonymisation has removed the creator but kept the element."""
    try:
        return header.private_block(group, creator)[element].value
    except KeyError:
        if (group, 0x0010) in header or (group, 0x1000 | element) not in header:
            return None
    except Exception:  # as in `value_of`
        return None
    try:
        return header[group, 0x1000 | element].value
    except Exception:
        return None
