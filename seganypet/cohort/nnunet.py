"""nnU-Net's folders: what is in which channel, and which number is what, read from dataset.json.

Channels are chosen by name ("channel_names", in version 1 "modality"), never by number alone. Without dataset.json the
order of the autoPET challenges is taken, CT then PET, unless the voxels of a case say otherwise; the caller is told.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from seganypet._files import read_json
from seganypet.cohort.case import Case
from seganypet.cohort.files import Found, visible_files
from seganypet.cohort.labels import IGNORE, OTHER, LabelNumbers, is_anatomy, is_lesion, label_text
from seganypet.cohort.tracers import tracer_in, tracer_in_sidecar, tracer_of_patient
from seganypet.errors import CohortError, VolumeError
from seganypet.organs import ORGANS
from seganypet.pet.volume import open_image

Channels = Mapping[str, int]  # "PET" and, unless there is none, "CT": number of the channel
ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
_BY_HAND = (
    "say which is which: Cohort.from_nnunet(folder, channels={'CT': 0, 'PET': 1}), then to_csv; or in dataset.json."
)


@dataclass(frozen=True)
class Description:
    """What dataset.json says.

    Attributes:
        channels: Name of each channel, by number.
        labels: Numbers of each label, without the background.
        ending: Ending of all files; None if it is not said.
        files: Image files in the order of the channels, and label file, of each case that is listed with its files.
        title: Name and description of the data set.
    """

    channels: Mapping[int, str]
    labels: LabelNumbers = field(default_factory=dict)
    ending: str | None = None
    files: Mapping[str, tuple[Sequence[Path], Path | None]] = field(default_factory=dict)
    title: str = ""


def read_nnunet(folder: Path, part: Literal["Tr", "Ts"], channels: Channels | None = None) -> Found:
    """The cases of imagesTr or imagesTs, complete or not.

    Args:
        folder: Folder with imagesTr or imagesTs, and dataset.json.
        part: Which of the two.
        channels: What the user says of the channels; dataset.json and voxels are then not asked.

    Raises:
        CohortError: There is no image, dataset.json cannot be read, or nothing says which channel is the PET.
    """
    said = read_description(folder)
    notes: list[str] = []
    images, labels = _files_of_cases(folder, part, said)
    if not images:
        ending = (said and said.ending) or ".nii.gz"
        there = [path.name for path in visible_files(folder, f"images{part}/*")][:3]
        raise CohortError(
            f"{folder}: expected images{part}/<case>_0000{ending} in it, found {', '.join(there) or 'none'}; for "
            "studies use from_autopet."
        )
    chosen = _choose_channels(folder, said, images, channels, notes)
    lesion_labels, organ_labels = _split_labels(said.labels if said else {}, folder, notes)
    if not labels:
        notes.append(f"{folder}: no file in labels{part}, so nothing is drawn.")
    unit = "Bq/mL" if said and re.search("bq", said.channels.get(chosen["PET"], ""), re.I) else "SUVbw"
    cases = []
    for name in sorted({*images, *labels}):
        files = images.get(name, {})
        pet, ct = (
            files.get(chosen[role], _file_of(folder, part, name, chosen[role], images)) if role in chosen else None
            for role in ("PET", "CT")
        )
        drawn = labels.get(name, folder / f"labels{part}" / f"{name}{_ending(images)}") if labels else None
        patient, tracer = _patient_and_tracer(name)
        beside = (said.channels.get(chosen["PET"], ""), said.title) if said else ()
        cases.append(Case(
            name, patient, pet, unit, ct=ct, organs=drawn if organ_labels else None,
            lesions=None if organ_labels and not lesion_labels else drawn,
            lesion_labels=lesion_labels if drawn else None, organ_labels=organ_labels if drawn else None,
            tracer=tracer_in_sidecar(pet) or tracer or tracer_in(*beside, folder.absolute().name),
        ))  # fmt: skip
    return Found(cases, notes)


def read_description(folder: Path) -> Description | None:
    """What dataset.json says; None without one.

    Raises:
        CohortError: The file is damaged, or channels or labels in it make no sense.
    """
    path = folder / "dataset.json"
    if not path.exists():
        return None
    said = read_json(path, CohortError)
    if not isinstance(said, dict):
        raise CohortError(f"{path}: it holds a {type(said).__name__}, so nothing says what is in which channel.")
    try:
        listed = said.get("channel_names", said.get("modality"))
        pairs = enumerate(listed) if isinstance(listed, list) else _names_first(listed or {})
        channels = {_number(number): str(name) for name, number in _turned(pairs, isinstance(listed, list))}
        labels = {str(name): _numbers(value) for name, value in _names_first(said.get("labels") or {})}
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise CohortError(f"{path}: channels or labels are not names with numbers ({error}).") from error
    for name, numbers in labels.items():
        if (name.casefold() == "background" and numbers != (0,)) or (0 in numbers and len(numbers) > 1) or not numbers:
            raise CohortError(f"{path}: label {name!r} is {list(numbers)}; expected 0 for the background alone.")
    labels = {
        IGNORE if name.casefold() == IGNORE else name: numbers for name, numbers in labels.items() if numbers != (0,)
    }
    ending = said.get("file_ending")
    if ending is not None and ending not in ENDINGS:
        raise CohortError(f"{path}: file_ending is {ending!r}; expected one of {', '.join(ENDINGS)}.")
    title = " ".join(str(said.get(name, "")) for name in ("name", "dataset_name", "description"))
    return Description(channels, labels, ending, dict(_listed_files(said.get("dataset"), folder)), title)


def _names_first(mapping: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Names with their numbers, whichever of the two is the key: version 1 has {"0": "background"}."""
    keys_are_numbers = all(str(key).strip().isdigit() for key in mapping)
    values_are_numbers = all(isinstance(one, int | list) or str(one).strip().isdigit() for one in mapping.values())
    for key, value in mapping.items():
        yield (value, key) if keys_are_numbers and not values_are_numbers else (key, value)


def _turned(pairs: Iterable[tuple[Any, Any]], turn: bool) -> Iterator[tuple[Any, Any]]:
    for one, other in pairs:
        yield (other, one) if turn else (one, other)


def _number(value: Any) -> int:
    if isinstance(value, float) and value != int(value):
        raise ValueError(f"{value} is not a whole number")
    return int(value)


def _numbers(value: Any) -> tuple[int, ...]:
    """One number, or those of a region."""
    return tuple(_number(one) for one in value) if isinstance(value, list) else (_number(value),)


def _listed_files(listed: Any, folder: Path) -> Iterator[tuple[str, tuple[list[Path], Path | None]]]:
    """Files of the cases in the field "dataset" of version 2, which may lie anywhere."""
    for name, files in (listed if isinstance(listed, dict) else {}).items():
        if isinstance(files, dict) and isinstance(files.get("images"), list):
            label = files.get("label")
            yield str(name), ([folder / str(one) for one in files["images"]], folder / str(label) if label else None)


# ---- files


def _files_of_cases(
    folder: Path, part: str, said: Description | None
) -> tuple[dict[str, dict[int, Path]], dict[str, Path]]:
    """Image files of each case by channel, and label file of each case that has one."""
    images: dict[str, dict[int, Path]] = {}
    if said and said.files and part == "Tr":
        images = {name: dict(enumerate(paths)) for name, (paths, _) in said.files.items()}
        return images, {name: label for name, (_, label) in said.files.items() if label is not None}
    endings = (said.ending,) if said and said.ending else ENDINGS
    for name, path in _with_ending(folder / f"images{part}", endings):
        if found := re.fullmatch(r"(.+)_(\d{4})", name):
            images.setdefault(found[1], {})[int(found[2])] = path
    return images, dict(_with_ending(folder / f"labels{part}", endings))


def _with_ending(folder: Path, endings: Sequence[str]) -> Iterator[tuple[str, Path]]:
    for path in visible_files(folder, "*"):
        ending = next((ending for ending in endings if path.name.endswith(ending)), None)
        if ending is not None:
            yield path.name.removesuffix(ending), path


def _file_of(folder: Path, part: str, name: str, channel: int, images: Mapping[str, Mapping[int, Path]]) -> Path:
    """Where a file that is missing should be."""
    return folder / f"images{part}" / f"{name}_{channel:04d}{_ending(images)}"


def _ending(images: Mapping[str, Mapping[int, Path]]) -> str:
    path = next(iter(next(iter(images.values())).values()))
    return next((ending for ending in ENDINGS if path.name.endswith(ending)), ".nii.gz")


def _patient_and_tracer(case: str) -> tuple[str, str | None]:
    """From names such as `fdg_<patient>_<date>` and `PETCT_<patient>_<study>`; any other case is a patient."""
    first, _, rest = case.partition("_")
    second, _, study = rest.partition("_")
    if study and tracer_in(first):
        return second, tracer_in(first)
    if study and tracer_of_patient(f"{first}_{second}"):
        return f"{first}_{second}", "FDG"
    return case, tracer_in(case)


# ---- channels


def _choose_channels(
    folder: Path, said: Description | None, images: Mapping[str, Mapping[int, Path]], stated: Channels | None,
    notes: list[str],
) -> Channels:  # fmt: skip
    there = sorted({channel for files in images.values() for channel in files})
    if stated is not None:
        unknown = {*stated} - {"PET", "CT"} or {*stated.values()} - {*there}
        if "PET" not in stated or unknown or len({*stated.values()}) < len(stated):
            raise CohortError(f"channels={dict(stated)}; expected 'PET' and perhaps 'CT', two of the channels {there}.")
        return dict(stated)
    if said is None or not said.channels:
        return _in_the_usual_order(folder, there, images, notes)
    of_role: dict[str, list[int]] = {"PET": [], "CT": []}
    for channel, name in said.channels.items():
        for role in _roles(name):
            of_role[role].append(channel)
    listed = ", ".join(f"{channel} = {name!r}" for channel, name in sorted(said.channels.items()))
    if len(of_role["PET"]) > 1 or {*of_role["PET"]} & {*of_role["CT"]}:
        raise CohortError(f"{folder}/dataset.json: more than one channel may be the PET ({listed}); {_BY_HAND}")
    if of_role["PET"]:
        chosen = {"PET": of_role["PET"][0]}
        if len(of_role["CT"]) == 1:
            chosen["CT"] = of_role["CT"][0]
        elif of_role["CT"]:
            notes.append(f"{folder}/dataset.json has several CT channels ({listed}), so none was taken; {_BY_HAND}")
        return chosen
    # nnU-Net chooses the normalisation by these names, so that a PET may be called "CT" or "noNorm" there.
    looks = _looks(images, there)
    pets, cts = ([channel for channel in there if looks.get(channel) == role] for role in ("PET", "CT"))
    if len(pets) != 1 or len(cts) > 1 or len(there) - len(cts) > 1:
        raise CohortError(f"{folder}/dataset.json names no PET among its channels ({listed}); {_BY_HAND}")
    notes.append(
        f"{folder}/dataset.json names no PET among its channels ({listed}); by its voxels channel {pets[0]} is one, "
        f"without the air of a CT. If that is wrong, {_BY_HAND}"
    )
    return {"PET": pets[0]} | ({"CT": cts[0]} if cts else {})


def _in_the_usual_order(
    folder: Path, there: Sequence[int], images: Mapping[str, Mapping[int, Path]], notes: list[str]
) -> Channels:
    """The channels of autoPET's challenges, 0 = CT and 1 = PET; or the only one."""
    chosen = {"CT": 0, "PET": 1} if {0, 1} <= {*there} else {"PET": there[0]}
    if len(chosen) == 1 and len(there) > 1:
        raise CohortError(f"{folder}: no dataset.json says what the channels {list(there)} are; {_BY_HAND}")
    looks = _looks(images, there)
    if looks.get(chosen["PET"]) == "CT":
        raise CohortError(
            f"{folder}: no dataset.json says which channel is the PET, and channel {chosen['PET']} shows air at "
            f"-1000 as a CT does; {_BY_HAND}"
        )
    order = "0 = CT, 1 = PET, as in the autoPET challenges" if "CT" in chosen else f"{there[0]} = PET"
    notes.append(f"{folder}: no dataset.json says what the channels are; taken: {order}. If that is wrong, {_BY_HAND}")
    return chosen


def _roles(name: str) -> set[str]:
    """What a channel's name says it is: "PET", "CT", both ("PET/CT") or neither."""
    words = re.findall("[a-z]+", name.casefold())
    roles = set()
    if tracer_in(name) or any(word.startswith(("pet", "suv")) or word.endswith(("pet", "pt")) for word in words):
        roles.add("PET")
    if any(word in ("ct", "petct", "ctres", "ldct", "cect", "ncct") for word in words):
        roles.add("CT")
    return roles


def _looks(images: Mapping[str, Mapping[int, Path]], channels: Sequence[int]) -> dict[int, str]:
    """What each channel of the first case that can be read looks like: "CT", "PET", or left out."""
    looks = {}
    for channel in channels:
        for files in images.values():
            try:
                data = open_image(files[channel]).voxels()
            except (KeyError, VolumeError):
                continue
            if data.min() < -500:
                looks[channel] = "CT"
            elif data.min() > -100 and data.max() > 1.5:  # heat maps of clicks end at 1
                looks[channel] = "PET"
            break
    return looks


# ---- labels


def _split_labels(labels: LabelNumbers, folder: Path, notes: list[str]) -> tuple[str | None, str | None]:
    """Lesions and organs as texts for a cohort's table; a name that tells neither counts as lesion, with a note."""
    ignored = {IGNORE: labels[IGNORE]} if IGNORE in labels else {}
    lesions: LabelNumbers = {}
    organs: LabelNumbers = {}
    unclear = []
    for name, numbers in labels.items():
        if name == IGNORE:
            continue
        if is_anatomy(name):
            organs[_organ_name(name)] = numbers
        else:
            lesions[name if name != OTHER else f"{OTHER} label"] = numbers
            unclear += [] if is_lesion(name) else [name]
    if unclear:
        notes.append(
            f"{folder}/dataset.json: {', '.join(map(repr, unclear))} counted as lesions, since the names say neither "
            "lesion nor organ. If that is wrong, correct lesion_labels in the table that to_csv writes."
        )
    every = {value for numbers in (*lesions.values(), *organs.values()) for value in numbers}
    texts = []
    for found in (lesions, organs):
        others = tuple(sorted(every - {value for numbers in found.values() for value in numbers}))
        texts.append(label_text(found | ({OTHER: others} if others else {}) | ignored) if found else None)
    return texts[0], texts[1]


def _organ_name(name: str) -> str:
    """The name of this package for an organ, whatever the order of the words; its own if there is none."""
    words = {*re.findall("[a-z]+", name.casefold())}
    return next((organ for organ in ORGANS if {*organ.split("_")} == words), name)
