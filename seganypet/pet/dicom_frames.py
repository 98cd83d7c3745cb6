"""The volumes within one series: time frames of a dynamic scan, gates, stacks."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import chain, combinations

import numpy as np
from pydicom.valuerep import DA, DT, TM

from seganypet.errors import DicomError
from seganypet.pet.dicom_files import UNREADABLE
from seganypet.pet.dicom_header import Slice, number_of, shown_text, text_of

SAME_POSITION_MM = 0.01
# Tags that may tell volumes apart, the most explicit first, and whether they count time, so that all volumes share one
# decay reference.
_LABELS = {
    "StackID": False, "TemporalPositionIdentifier": True, "NominalPercentageOfCardiacPhase": True,
    "NominalPercentageOfRespiratoryPhase": True, "TriggerTime": True, "FrameReferenceTime": True,
    "acquisition time": True, "AcquisitionNumber": True, "ImageIndex": True, "CorrectedImage": False,
    "ImageType": False, "FrameType": False, "ConvolutionKernel": False, "SeriesDescription": False,
}  # fmt: skip


class Frame:
    """One volume of a series.

    Attributes:
        slices: Its slices, in the order of the files.
        by: Tags that tell it from the others, "" if the series has one volume.
        label: Their values here.
        start_s: Start of its acquisition in seconds after that of the series' first slice; None if unknown.
        duration_s: Longest ActualFrameDuration among its slices; None if unknown.
        shares_decay_reference: Whether the other volumes were acquired in the same scan.
    """

    def __init__(self, slices: list[Slice], by: str = "", label: str = "", shared: bool = False) -> None:
        self.slices, self.by, self.label, self.shares_decay_reference = slices, by, label, shared
        self.start_s: float | None = None
        durations_ms = [_number(one, "ActualFrameDuration") for one in slices]
        known = [duration for duration in durations_ms if duration]
        self.duration_s = max(known) / 1000.0 if known else None

    def __str__(self) -> str:
        parts = [] if self.start_s is None else [f"starts after {self.start_s:g} s"]
        parts += [] if self.duration_s is None else [f"lasts {self.duration_s:g} s"]
        return ", ".join([*parts, f"{len(self.slices)} slices", f"{self.by} {self.label}"])


def find_frames(slices: Sequence[Slice], source: str | os.PathLike) -> list[Frame]:
    """The volumes of a series, in order of time (or gate, stack); one if no two slices lie at the same position.

    Raises:
        DicomError: Slices share positions, and no tag tells volumes apart.
    """
    positions = _positions(slices)
    counts = Counter(positions)
    stacks = {plane for plane, _ in positions} if any(one.frame is not None for one in slices) else ()
    if max(counts.values()) == 1 and len(stacks) < 2:
        frames = [Frame(list(slices))]
    else:
        frames = _split(slices, positions)
        if not frames:
            twice = positions.index(max(positions, key=counts.__getitem__))
            first, second = [one for one, place in zip(slices, positions, strict=True) if place == positions[twice]][:2]
            names = [one.name for one in (first, second)]
            if names[0] == names[1]:
                names = [f"{one.source.file.path.parent.name}/{one.name}" for one in (first, second)]
            same = shown_text(first.header, "SOPInstanceUID") == shown_text(second.header, "SOPInstanceUID") != ""
            why = "are the same image (SOPInstanceUID)" if same else "no tag tells time frames or gates apart"
            raise DicomError(
                f"{source}: {names[0]} and {names[1]} lie at the same position, and {why}. Is one a copied file? "
                "Keep one image per position."
            )
    _add_starts(frames)
    return frames


def choose_frame(frames: list[Frame], frame: int | None, source: str | os.PathLike) -> Frame:
    """The volume with a number, counted from 1; `frame` may be None if there is only one.

    Raises:
        DicomError: There are several and none is chosen, or there is no such number.
    """
    listed = "\n".join(f"  frame={number}: {one}" for number, one in enumerate(frames, start=1))
    if frame is None:
        if len(frames) > 1:
            raise DicomError(f"{source} holds {len(frames)} volumes (frames); choose one by frame=...:\n{listed}")
        return frames[0]
    is_whole = isinstance(frame, int | np.integer) and not isinstance(frame, bool)
    if not is_whole or not 1 <= frame <= len(frames):
        there = f"there are:\n{listed}" if len(frames) > 1 else "the series has one volume; leave frame out."
        raise DicomError(f"{source}: no frame {frame!r}; frames are counted from 1, {there}")
    return frames[frame - 1]


def _positions(slices: Sequence[Slice]) -> list[tuple]:
    """(stack, number) of each slice: equal where slices lie in the same plane."""
    labels: list[tuple] = [()] * len(slices)
    directions: list[np.ndarray] = []  # orientations of the stacks, which written digits do not tell apart
    by_plane = defaultdict(list)
    for index, one in enumerate(slices):
        same = [plane for plane, other in enumerate(directions) if np.abs(one.orientation - other).max() < 0.01]
        if not same:
            same = [len(directions)]
            directions.append(one.orientation)
        by_plane[same[0]].append(index)
    for plane, indices in by_plane.items():
        normal = np.cross(*directions[plane].reshape(2, 3))
        depth = np.array([slices[index].position_mm @ normal for index in indices])
        order = np.argsort(depth, kind="stable")
        steps = np.concatenate([[0], np.cumsum(np.diff(depth[order]) >= SAME_POSITION_MM)])
        for rank, step in zip(order, steps, strict=True):
            labels[indices[rank]] = (plane, int(step))
    return labels


def _split(slices: Sequence[Slice], positions: list[tuple]) -> list[Frame]:
    """Groups of slices without a shared position; [] if no tag, or pair of tags, makes them."""
    values: dict[str, list] = {}

    def tell_apart() -> Iterator[str]:  # reading a tag of each slice of a long scan takes a while
        for tag in _LABELS:
            values[tag] = _labels(slices, tag)
            if None not in values[tag] and len(set(values[tag])) > 1:
                usable.append(tag)
                yield tag

    usable: list[str] = []
    clean = []
    singles = ((tag,) for tag in tell_apart())
    pairs = (pair for _ in [0] for pair in combinations(usable, 2))  # of what was found by then
    for tags in chain(singles, pairs):
        groups: dict[tuple, list[int]] = defaultdict(list)
        for index, label in enumerate(zip(*(values[tag] for tag in tags), strict=True)):
            groups[label].append(index)
        places = [[positions[index] for index in group] for group in groups.values()]
        if all(len(set(group)) == len(group) > 1 for group in places):
            if all(set(group) == set(places[0]) for group in places):
                return _frames(slices, tags, groups)
            clean.append((tags, groups))
    # A bed moves on within each pass of a dynamic scan, so that the images of a position are ordered by time alone.
    passes = _passes(slices, positions, values["acquisition time"], values["FrameReferenceTime"])
    if passes:
        return _frames(slices, ("pass",), passes)
    return _frames(slices, *clean[0]) if clean else []


def _passes(slices: Sequence[Slice], positions: list[tuple], *times: list) -> dict[tuple, list[int]]:
    by_position = defaultdict(list)
    for index, position in enumerate(positions):
        by_position[position].append(index)
    counts = {len(indices) for indices in by_position.values()}
    for moments in times:
        if None in moments or len(counts) > 1 or 1 in counts:
            continue
        if any(len({moments[index] for index in indices}) < len(indices) for indices in by_position.values()):
            continue
        passes: dict[tuple, list[int]] = defaultdict(list)
        for indices in by_position.values():
            for number, index in enumerate(sorted(indices, key=moments.__getitem__)):
                passes[(number + 1.0,)].append(index)
        return passes
    return {}


def _frames(slices: Sequence[Slice], tags: tuple[str, ...], groups: dict[tuple, list[int]]) -> list[Frame]:
    shown = {
        label: ", ".join(f"{one:g}" if isinstance(one, float) else str(one) for one in label) for label in groups
    }
    if "acquisition time" in tags:  # would tell when somebody was scanned
        shown = {label: str(number) for number, label in enumerate(sorted(groups), start=1)}
    return [
        Frame([slices[index] for index in groups[label]], " x ".join(tags), shown[label],
              all(_LABELS.get(tag, True) for tag in tags))
        for label in sorted(groups)
    ]  # fmt: skip


def _add_starts(frames: list[Frame]) -> None:
    starts = [min(_clock(one) for one in frame.slices) for frame in frames]
    if len(frames) > 1 and len(set(starts)) == 1:  # some scanners write one acquisition time for all frames
        starts = [min(_reference_start(one) for one in frame.slices) for frame in frames]
        if len(set(starts)) == 1:
            return  # gates of one acquisition
    if np.isfinite(starts).all():
        for frame, start in zip(frames, starts, strict=True):
            frame.start_s = round(start - min(starts), 3)


def _clock(one: Slice) -> float:
    moment = acquired_at(one)
    return float("nan") if moment is None else (moment - datetime(1970, 1, 1)).total_seconds()


def _reference_start(one: Slice) -> float:
    middle_ms, duration_ms = _number(one, "FrameReferenceTime"), _number(one, "ActualFrameDuration")
    return float("nan") if middle_ms is None else (middle_ms - (duration_ms or 0.0) / 2) / 1000.0


def acquired_at(one: Slice) -> datetime | None:
    """Start of a slice's acquisition; None if its header does not say it readably."""
    header, name = one.header, one.name
    try:
        text = text_of(header, "FrameAcquisitionDateTime", name)  # of a multi-frame object
        if len(text) >= 12:
            return _without_zone(text)
        date, clock = text_of(header, "AcquisitionDate", name), text_of(header, "AcquisitionTime", name)
        if date and clock:
            return datetime.combine(DA(date), TM(clock))
        text = text_of(header, "AcquisitionDateTime", name)
        return _without_zone(text) if len(text) >= 12 else None
    except UNREADABLE:
        return None


def _without_zone(text: str) -> datetime:
    moment = DT(text)
    return datetime.combine(moment.date(), moment.time())


def _number(one: Slice, keyword: str) -> float | None:
    """A number that helps to tell frames apart, None if it is absent or unreadable."""
    try:
        return number_of(one.header, keyword, one.name)
    except DicomError:
        return None


def _labels(slices: Sequence[Slice], tag: str) -> list:
    """A tag's value in each slice, None where it is absent; all of one kind, so that volumes have an order."""
    if tag == "ImageIndex":  # PS3.3 C.8.9.4.1.9: slices count fastest
        per_volume = _number(slices[0], "NumberOfSlices") or 0
        indices = [_number(one, tag) for one in slices]
        return [(index - 1) // per_volume if index and per_volume else None for index in indices]
    found = [_label(one, tag) for one in slices]
    if any(isinstance(value, str) for value in found):
        return [value if value is None else str(value) for value in found]
    return found


def _label(one: Slice, tag: str) -> float | str | None:
    if tag == "acquisition time":
        moment = _clock(one)
        return None if np.isnan(moment) else moment
    number = _number(one, tag)
    if number is not None:
        return number
    try:
        return text_of(one.header, tag, one.name) or None
    except DicomError:
        return None


