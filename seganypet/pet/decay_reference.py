"""The time to which a scanner that writes DecayCorrection START has corrected, and the time of injection.

Vendors encode both in different ways, and tags contradict each other: SeriesTime may be when the series was set up, or
when it was reconstructed; FrameReferenceTime counts from the reference to the frame's average count rate, with GE to
its start, and on some scanners from elsewhere. So each time is a witness: the vendor's own tag goes before SeriesTime,
and FrameReferenceTime decides only where another time supports it. What disagrees is reported.
"""

import warnings
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time, timedelta
from typing import Any

import numpy as np

from seganypet.errors import DoubtfulValuesWarning, SUVError
from seganypet.pet.given import Given, on_day_or_before, parse_time
from seganypet.pet.nuclides import (
    DOUBTFUL_HALF_LIVES,
    LONG_LIVED_S,
    MAX_HALF_LIVES,
    average_count_rate_s,
)
from seganypet.pet.series_header import SeriesHeader

DAY = timedelta(days=1)
# Clocks of one scanner agree to a second or two, and FrameReferenceTime to a few more.
SAME_S, SAME_FRAME_S = 2.0, 10.0
# A disagreement is worth a warning from here on, as a change of the SUV.
WORTH_A_WARNING = 0.01


@dataclass(frozen=True)
class Reference:
    """The time to which the pixel values are corrected for decay.

    Attributes:
        moment: That time, on the scanner's clock.
        name: The tag behind it, in words.
        why: Reason to choose it.
        others: Other times that the header gives, by name.
        doubted_by: Those of the others that could be it as well.
    """

    moment: datetime
    name: str
    why: str
    others: dict[str, datetime] = field(default_factory=dict)
    doubted_by: tuple[str, ...] = ()


def find_reference(series: SeriesHeader, half_life_s: float, given: Given) -> Reference:
    """The decay reference of DecayCorrection START.

    Raises:
        SUVError: The header lacks the times.
    """
    if given.decay_reference_time is not None:
        when = parse_time(given.decay_reference_time, "decay_reference_time")
        moment = datetime.combine(_day_of_scan(series), when) if isinstance(when, time) else when
        return Reference(moment, "given by hand", "decay_reference_time was given by hand")
    series_time = series.series_time()
    acquired = series.acquired()
    earliest = min(acquired)
    others = {"series time": series_time, "earliest acquisition time": earliest}
    vendors, dated = _vendor_times(series, earliest)
    others |= vendors
    by_frame, from_start = _by_frame(series, acquired, half_life_s)
    others |= by_frame

    def choice(name: str, why: str, *doubted_by: str) -> Reference:
        rest = {other: moment for other, moment in others.items() if other != name}
        return Reference(others[name], name, why, rest, doubted_by)

    doubts = [name for name in vendors if _apart(others[name], series_time) > SAME_S]
    if series_time <= earliest:
        for name in dated:
            # No scan is corrected to a time after its start.
            if name in doubts and others[name] <= earliest + timedelta(seconds=SAME_S):
                return choice(name, f"{_VENDOR_TAGS[name][0]} goes before SeriesTime", "series time")
        why = "SeriesTime is not after the earliest AcquisitionTime"
        if _apart(earliest, series_time) <= SAME_S or len(doubts) < len(vendors):
            return choice("series time", why, *doubts)
        if any(_apart(moment, series_time) <= SAME_FRAME_S for moment in (*by_frame.values(), *from_start)):
            return choice("series time", why, *doubts)
        if not by_frame:
            return choice("series time", why, *doubts, "earliest acquisition time")
        for name, moment in by_frame.items():
            if _apart(moment, earliest) <= SAME_FRAME_S:
                why = f"{_FRAME_TAGS[name]} and AcquisitionTime say so, SeriesTime does not"
                return choice(name, why, *doubts, "series time")
        return choice("series time", why, *doubts, *by_frame)
    # Here, series time is when a later reconstruction was saved.
    late = "SeriesTime is after the acquisition"
    for name in dated:
        if others[name] <= earliest + timedelta(seconds=SAME_S):
            frames = [other for other, moment in by_frame.items() if _apart(moment, others[name]) > SAME_FRAME_S]
            return choice(name, f"{late}, {_VENDOR_TAGS[name][0]} is there", *frames)
    name, doubts = "earliest acquisition time", [name for name in vendors if _apart(others[name], earliest) > SAME_S]
    why = f"{late}, neither GE's scan time nor FrameReferenceTime is there"
    if from_start and "GE" in (series.text_if_readable("Manufacturer") or "").split():
        name, why = "acquisition time less FrameReferenceTime", f"{late}, GE's FrameReferenceTime is there"
        others[name] = from_start[0]
    elif by_frame:
        first = next(iter(by_frame))
        if first == _AVERAGE or _apart(by_frame[first], earliest) > SAME_S:
            name, why = first, f"{late}, {_FRAME_TAGS[first]} is there"
    elif from_start and 2.0 ** ((earliest - from_start[0]).total_seconds() / half_life_s) - 1 > WORTH_A_WARNING:
        series.refuse("ActualFrameDuration", "is missing, so FrameReferenceTime does not tell the decay reference")
    rest = {one: moment for one, moment in others.items() if one == "earliest acquisition time" or one in by_frame}
    doubts += [other for other, moment in rest.items() if _apart(moment, others[name]) > SAME_FRAME_S]
    return choice(name, why, *doubts)


def seconds_from_injection(series: SeriesHeader, reference: Reference, half_life_s: float, given: Given) -> float:
    """Seconds from injection to the decay reference, negative if a dynamic scan began first.

    Raises:
        SUVError: The times cannot belong to one scan, or the header holds no date where one is needed.
    """
    moment, keyword = reference.moment, "RadiopharmaceuticalStartDateTime"
    if given.injection_time is not None:
        by_hand = parse_time(given.injection_time, "injection_time")
        if isinstance(by_hand, time):
            injected, before = on_day_or_before(by_hand, moment)
            if not _possible(series, injected, moment, half_life_s):
                injected = before
        else:
            injected = by_hand
        return _checked(series, "injection_time", injected, moment, half_life_s)
    injected = series.datetime_of(series.drug, keyword)
    clock = series.value_of(series.drug, "RadiopharmaceuticalStartTime")
    if injected is not None:
        decay_s = _checked(series, keyword, injected, moment, half_life_s)
        _compare_injections(series, injected, clock, half_life_s)
        return decay_s
    keyword = "RadiopharmaceuticalStartTime"
    if clock is None:
        series.refuse(keyword, "is missing, and so is RadiopharmaceuticalStartDateTime (0018,1078)")
    if half_life_s >= LONG_LIVED_S:
        series.refuse(
            keyword,
            f"has no date, and with a half-life of {half_life_s / 3600:.3g} h the injection may be days before the "
            "scan; RadiopharmaceuticalStartDateTime (0018,1078) is missing",
        )
    at = series.clock(clock, keyword)
    same_day, before = on_day_or_before(at, moment)
    if same_day == moment and moment.hour == moment.minute == moment.second == 0:
        series.refuse(keyword, "and the time of the scan are both 00:00:00, as de-identification leaves them")
    possible = [one for one in (same_day, before) if _possible(series, one, moment, half_life_s)]
    if len(possible) == 2 and same_day > moment:
        series.refuse(keyword, f"is {at}, which may be {same_day - moment} after or {moment - before} before the scan")
    return _checked(series, keyword, possible[0] if possible else before, moment, half_life_s)


def warn_of_doubts(
    series: SeriesHeader, reference: Reference, decay_s: float, half_life_s: float, given: Given
) -> None:
    """Warn where another time would change the SUV, or the time that was used is unusual."""
    said = []
    for name in reference.doubted_by:
        other = replace(reference, moment=reference.others[name], doubted_by=())
        try:
            with warnings.catch_warnings(action="ignore"):
                change = 2.0 ** ((seconds_from_injection(series, other, half_life_s, given) - decay_s) / half_life_s)
        except SUVError:
            effect = "leaves no possible time since the injection"
        else:
            if abs(change - 1) <= WORTH_A_WARNING:
                continue
            effect = f"would make every SUV {_times(change)}"
        said.append(
            f"its times disagree: {reference.name} {_clock(reference.moment)} was used ({reference.why}); {name} "
            f"{_clock(other.moment)} {effect}; if that holds, give decay_reference_time='{_clock(other.moment)}' to "
            "load_dicom"
        )
    if decay_s > DOUBTFUL_HALF_LIVES * half_life_s:
        said.append(
            f"the injection lies {decay_s / half_life_s:.1f} half-lives before the decay reference, which is unusual "
            f"({decay_s / 3600:.2f} h): check the times"
        )
    kind = (series.values("SeriesType") or [""])[0]
    if kind in ("STATIC", "WHOLE BODY", "WHOLEBODY") and 0 <= decay_s < 60 and half_life_s > 3600:
        said.append(
            "its injection and its scan begin at the same time, though it is no dynamic scan: if the injection was "
            f"an hour earlier, every SUV is {_times(2.0 ** (3600 / half_life_s))}; then give injection_time=..."
        )
    for one in said:
        warnings.warn(f"{series.source}: {one}.", DoubtfulValuesWarning, stacklevel=4)


_AVERAGE = "average count rate time"
_FRAME_TAGS = {_AVERAGE: "FrameReferenceTime", "decay factor": "DecayFactor"}
# name in SUVFactor: name in messages, and private group, creator, element
_VENDOR_TAGS = {
    "Siemens decay correction time": ("Siemens's decay correction time (0071,1022)", (0x71, "SIEMENS MED PT", 0x22)),
    "GE scan time": ("GE's scan time (0009,100D)", (0x09, "GEMS_PETD_01", 0x0D)),
}


def _vendor_times(series: SeriesHeader, earliest: datetime) -> tuple[dict[str, datetime], list[str]]:
    """Vendors' own times of the reference, and which have a date that de-identification has left in place.

    Of the others, the clock on the day of the scan.
    """
    moments, dated = {}, []
    for name, (_, private) in _VENDOR_TAGS.items():
        moment = series.scan_time(*private)
        if moment is None:
            continue
        if abs(moment - earliest) <= DAY:
            dated.append(name)
        else:
            moment = datetime.combine(earliest.date(), moment.time())
        moments[name] = moment
    return moments, dated


def _by_frame(
    series: SeriesHeader, acquired: list[datetime], half_life_s: float
) -> tuple[dict[str, datetime], list[datetime]]:
    """What the timing of the first frame says of the reference, and what GE's way of counting it says."""
    earliest = min(acquired)
    first = [header for header, when in zip(series.headers, acquired, strict=True) if when == earliest]
    # Some scanners give all frames one AcquisitionTime.
    frame = min(first, key=lambda header: series.number_or_zero(header, "FrameReferenceTime"))
    duration_s = series.number_or_zero(frame, "ActualFrameDuration") / 1000.0
    reference_s = series.number_or_zero(frame, "FrameReferenceTime") / 1000.0
    factor = series.number_or_zero(frame, "DecayFactor")
    moments: dict[str, datetime] = {}
    from_start = [earliest - timedelta(seconds=reference_s)] if reference_s > 0 else []
    if duration_s <= 0:
        return moments, from_start
    average_s = average_count_rate_s(duration_s, half_life_s)
    if reference_s > 0:
        moments[_AVERAGE] = earliest + timedelta(seconds=average_s - reference_s)
    if factor > 1:
        # The decay correction is that at the frame's average count rate.
        since_s = min(float(half_life_s * np.log2(factor)), 1e9)
        moments["decay factor"] = earliest + timedelta(seconds=average_s - since_s)
    return moments, from_start


def _apart(one: datetime, other: datetime) -> float:
    return abs((one - other).total_seconds())


def _clock(moment: datetime) -> str:
    return f"{moment + timedelta(milliseconds=500):%H:%M:%S}"


def _times(change: float) -> str:
    return f"{change:.3g} times as high ({change - 1:+.1%})"


def _day_of_scan(series: SeriesHeader) -> date:
    """The day of the scan or, where the header has none, any day."""
    try:
        return min(series.acquired()).date()
    except SUVError:
        injected = series.datetime_of(series.drug, "RadiopharmaceuticalStartDateTime")
        return date(2000, 1, 1) if injected is None else injected.date()


def _latest_injection(series: SeriesHeader, reference: datetime, half_life_s: float) -> datetime:
    """The last moment at which the tracer of a scan can have been injected."""
    try:
        acquired = series.acquired()
    except SUVError:
        return reference
    latest = max(reference, min(acquired) + timedelta(seconds=SAME_S))
    kind = (series.values("SeriesType") or [""])[0]
    places = {str(header.get("ImagePositionPatient")) for header in series.headers}
    times = 0.0 if kind else series.number_if_readable("NumberOfTimeSlices") or 0.0
    is_dynamic = kind == "DYNAMIC" or len(places) < len(acquired) or times > 1
    # Frames before the injection show the background.
    allowance = reference + timedelta(seconds=min(3600.0, 2.0 * half_life_s))
    return allowance if is_dynamic else min(latest, allowance)


def _possible(series: SeriesHeader, injected: datetime, reference: datetime, half_life_s: float) -> bool:
    decay_s = (reference - injected).total_seconds()
    return decay_s <= MAX_HALF_LIVES * half_life_s and injected <= _latest_injection(series, reference, half_life_s)


def _checked(
    series: SeriesHeader, keyword: str, injected: datetime, reference: datetime, half_life_s: float
) -> float:
    """Seconds from injection to reference; SUVError if no scan can begin so early or so late."""
    decay_s = (reference - injected).total_seconds()
    if not _possible(series, injected, reference, half_life_s):
        what = (
            f"lies {decay_s / 3600:.2f} h before the decay reference ({_clock(injected)} and {_clock(reference)}), "
            f"which is {decay_s / half_life_s:.1f} half-lives; expected 0 to {MAX_HALF_LIVES:g}, or an injection "
            "during a dynamic scan. Anonymisation may have shifted dates or blanked times; if the decay reference is "
            "wrong, give decay_reference_time=..."
        )
        days = on_day_or_before(injected.time(), reference)
        if half_life_s < LONG_LIVED_S and any(_possible(series, one, reference, half_life_s) for one in days):
            what += f". Its clock alone would fit: injection_time='{_clock(injected)}'"
        if keyword == "injection_time":
            raise SUVError(f"{series.source}: no SUV: injection_time {what}.")
        series.refuse(keyword, what)
    return decay_s


def _compare_injections(series: SeriesHeader, injected: datetime, clock: Any, half_life_s: float) -> None:
    """Warn if the two tags for the time of injection disagree."""
    if clock is None:
        return
    try:
        other = series.clock(clock, "RadiopharmaceuticalStartTime")
    except SUVError:
        return  # it was not needed
    later_s = (datetime.combine(injected.date(), other) - injected).total_seconds()
    later_s = (later_s + 43200.0) % 86400.0 - 43200.0
    change = 2.0 ** (-later_s / half_life_s)
    if abs(change - 1) > WORTH_A_WARNING:
        warnings.warn(
            f"{series.source}: RadiopharmaceuticalStartDateTime (0018,1078), {injected:%H:%M:%S}, was used, and "
            f"RadiopharmaceuticalStartTime (0018,1072) says {other:%H:%M:%S}, which would make every SUV "
            f"{_times(change)}; if that holds, give injection_time='{other:%H:%M:%S}' to load_dicom.",
            DoubtfulValuesWarning,
            stacklevel=5,
        )
