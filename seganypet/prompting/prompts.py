"""Prompts: what a user says about an object, and the journal that remembers it.

A prompt is a type. It knows the voxels it speaks of, how it reads and writes JSON, and what is drawn of it; sessions,
pictures, widgets, reports and journals ask it for these and for nothing else. `Click` is the only kind so far. A new
kind is a frozen dataclass derived from `Prompt` and entered in `PROMPTS`.
"""

import json
import os
import platform
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self, TypeGuard

import nibabel as nib
import numpy as np

from seganypet import __version__
from seganypet._files import replace_atomically
from seganypet.errors import ClickError, JournalError
from seganypet.pet.threshold_rules import current_rule_name
from seganypet.pet.volume import Volume, check_affine, finite_point, rounded

# Clicks alone are written as ever, so that any version reads them; with other kinds among them, in the second format.
FORMAT, FORMAT_2 = "seganypet-journal-1", "seganypet-journal-2"

Voxel = tuple[int, int, int]


class Mark(NamedTuple):
    """One drawing of a prompt.

    Attributes:
        path_ijk: Voxels, joined by straight lines in this order; a single one is drawn as a disc, or, of a background
            prompt, as a cross.
        foreground: Sign of the prompt, which chooses the colour.
    """

    path_ijk: tuple[Voxel, ...]
    foreground: bool


class Prompt(ABC):
    """One thing that a user says about an object.

    Kinds are frozen dataclasses of plain Python values: prompts are compared, hashed and kept in every undo step.

    Attributes:
        kind: Name of the kind in journals, in messages of a browser and in what networks accept.
        foreground: True: "this belongs to the object"; False: "this does not".
    """

    kind: ClassVar[str]
    foreground: bool

    @property
    @abstractmethod
    def voxels(self) -> np.ndarray:
        """The voxels of the volume that it speaks of, (n, 3) int, n at least 1."""

    @property
    def centre_ijk(self) -> Voxel:
        """The one of its voxels that is nearest to their mean; views move there."""
        voxels = self.voxels
        nearest = np.linalg.norm(voxels - voxels.mean(0), axis=1).argmin()
        i, j, k = voxels[nearest].tolist()
        return i, j, k

    @property
    def marks(self) -> tuple[Mark, ...]:
        """What is drawn of it: each of its voxels, unless the kind knows better."""
        return tuple(Mark((tuple(voxel),), self.foreground) for voxel in self.voxels.tolist())

    def checked(self, volume: Volume) -> "Prompt":
        """The prompt as a session keeps it.

        Raises:
            ClickError: It speaks of no voxel, or of one outside the volume.
        """
        voxels = self.voxels
        if not len(voxels):
            raise ClickError(f"a {self.kind} without any voxel; expected at least one.")
        for voxel in voxels[((voxels < 0) | (voxels >= volume.shape)).any(axis=1)]:
            volume.check_voxel(voxel)  # raises
        return self

    @abstractmethod
    def to_json(self, affine: np.ndarray | None = None) -> dict[str, Any]:
        """Its fields for JSON, without the kind.

        Args:
            affine: Voxels to RAS+ millimetres, (4, 4); with it, positions are also written in mm, for people and as a
                check on reading.
        """

    @classmethod
    @abstractmethod
    def from_json(cls, entry: Mapping[str, Any], affine: np.ndarray | None = None) -> Self:
        """Read what `to_json` wrote; with an affine, millimetres must be there and agree with the voxels.

        Raises:
            ClickError: Fields are missing, of another type, or contradict each other.
        """


@dataclass(frozen=True)
class Click(Prompt):
    """One point.

    Attributes:
        ijk: Voxel of the volume that was clicked.
        foreground: True: "this belongs to the object"; False: "this does not".
    """

    kind: ClassVar[str] = "click"

    ijk: Voxel
    foreground: bool = True

    @property
    def voxels(self) -> np.ndarray:
        return np.array([self.ijk])

    @property
    def centre_ijk(self) -> Voxel:
        return self.ijk

    def checked(self, volume: Volume) -> "Click":
        return click_at(volume, self.ijk, foreground=self.foreground)

    def to_json(self, affine: np.ndarray | None = None) -> dict[str, Any]:
        mm = {} if affine is None else {"mm": nib.affines.apply_affine(affine, self.ijk).round(3).tolist()}
        return {"ijk": list(self.ijk), **mm, "foreground": self.foreground}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any], affine: np.ndarray | None = None) -> Self:
        ijk, foreground = entry.get("ijk"), entry.get("foreground")
        if not (_are_numbers(ijk) and all(type(index) is int for index in ijk) and isinstance(foreground, bool)):
            raise ClickError(
                f"{dict(entry)} is no click; expected ijk with three integers, and foreground true or false."
            )
        if affine is not None:
            mm, expected_mm = entry.get("mm"), nib.affines.apply_affine(affine, ijk).round(3)
            if not (_are_numbers(mm) and np.allclose(mm, expected_mm, rtol=0, atol=0.01)):
                raise ClickError(
                    f"ijk={ijk} and mm={mm} contradict each other: this voxel lies at mm={expected_mm.tolist()}. One "
                    "of them was edited: click again in a session and save its journal."
                )
        i, j, k = map(int, ijk)
        return cls((i, j, k), foreground)


PROMPTS: dict[str, type[Prompt]] = {Click.kind: Click}


def click_at(volume: Volume, ijk: Any = None, mm: Any = None, foreground: bool = True) -> Click:
    """A click on a volume, checked.

    Args:
        volume: Volume that is clicked.
        ijk: Voxel, three whole numbers; or
        mm: Position in RAS+ millimetres, moved to the nearest voxel.
        foreground: False: "this does not belong to the object".

    Raises:
        ClickError: Neither or both given, not three finite numbers, fractions of voxels, outside the volume;
            `foreground` neither true nor false.
    """
    if foreground not in (True, False):
        raise ClickError(f"foreground={foreground!r}; expected True ('belongs to the object') or False ('does not').")
    if (ijk is None) == (mm is None):
        raise ClickError(f"give a click either as ijk=(i, j, k) or as mm=(x, y, z); got ijk={ijk}, mm={mm}.")
    if mm is None:
        return Click(volume.check_voxel(ijk), bool(foreground))
    point_mm = finite_point(mm, "mm")
    voxel = volume.to_ijk(point_mm)
    if not volume.contains_ijk(voxel):
        raise ClickError(
            f"{volume.source}: mm={rounded(point_mm)} is voxel {rounded(voxel)}, outside shape {volume.shape}. Is it "
            "RAS+ (x to the right, y to the front, z to the head)? DICOM counts x and y the other way."
        )
    i, j, k = np.rint(voxel).astype(int).tolist()
    return Click((i, j, k), bool(foreground))


def signed_voxels(prompts: Iterable[Prompt]) -> list[tuple[Voxel, bool]]:
    """All voxels of some prompts, in order, each with the sign of its prompt."""
    return [(tuple(voxel), prompt.foreground) for prompt in prompts for voxel in prompt.voxels.tolist()]


def write_prompt(prompt: Prompt, affine: np.ndarray | None = None) -> dict[str, Any]:
    """A prompt for JSON; a click, as it always was, without its kind."""
    kind = {} if prompt.kind == Click.kind else {"kind": prompt.kind}
    return kind | prompt.to_json(affine)


def read_prompt(entry: Any, affine: np.ndarray | None = None) -> Prompt:
    """Read what `write_prompt` wrote.

    Raises:
        ClickError: Not a prompt, of an unknown kind, or damaged.
    """
    if not isinstance(entry, Mapping):
        raise ClickError(f"{entry!r} is no prompt; expected its fields by name.")
    kind = entry.get("kind", Click.kind)
    if not isinstance(kind, str) or kind not in PROMPTS:
        raise ClickError(f"unknown kind of prompt {kind!r}; this version knows {', '.join(PROMPTS)}. Update seganypet.")
    return PROMPTS[kind].from_json(entry, affine)


@dataclass(frozen=True)
class Journal:
    """All prompts on one volume, in order, with what is needed to repeat them.

    Attributes:
        volume: Source, shape, affine, unit and fingerprint of the volume.
        model: Name and weight hash of the network.
        settings: Further arguments that the session was opened with.
        prompts: Pairs (object name, prompt), oldest first.
        versions: Versions of Python and of the packages that drew the masks.
    """

    volume: Mapping[str, Any]
    model: Mapping[str, Any]
    settings: Mapping[str, Any]
    prompts: tuple[tuple[str, Prompt], ...]
    versions: Mapping[str, str] = field(default_factory=lambda: _versions())

    @property
    def clicks(self) -> tuple[tuple[str, Click], ...]:
        """Those prompts that are clicks."""
        return tuple((name, prompt) for name, prompt in self.prompts if isinstance(prompt, Click))

    def save(self, path: str | os.PathLike) -> None:
        """Write as JSON, whole or not at all."""
        affine = np.array(self.volume["affine"])
        file_format = FORMAT if len(self.clicks) == len(self.prompts) else FORMAT_2
        content = {
            "format": file_format,
            "volume": dict(self.volume),
            "model": dict(self.model),
            "settings": dict(self.settings),
            "versions": dict(self.versions),
            _KEYS[file_format]: [{"object": name} | write_prompt(prompt, affine) for name, prompt in self.prompts],
        }
        with replace_atomically(path) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Journal":
        """Read what `save` wrote.

        Raises:
            JournalError: Missing file, not such a journal, a prompt of an unknown kind, or one whose voxels and
                millimetres contradict each other.
        """
        path = Path(path)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise JournalError(f"{path}: not a readable journal ({error}).") from error
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        if not isinstance(content, dict) or found not in (FORMAT, FORMAT_2):
            raise JournalError(f"{path}: format {found!r}; expected {FORMAT!r}, as Session.save_journal writes it.")
        key = _KEYS[found]
        kinds = {"volume": dict, "model": dict, "settings": dict, "versions": dict, key: list}
        if bad := [part for part, kind in kinds.items() if not isinstance(content.get(part), kind)]:
            raise JournalError(f"{path}: {', '.join(bad)} missing or damaged; was the file cut or edited?")
        try:
            affine = check_affine(content["volume"].get("affine"), "its volume")
        except (TypeError, ValueError, OverflowError) as error:
            raise JournalError(f"{path}: {error}") from error
        prompts = []
        for number, entry in enumerate(content[key], 1):
            try:
                prompt = read_prompt(entry, affine)
            except ClickError as error:
                raise JournalError(f"{path}: {key[:-1]} {number}: {error}") from error
            if not isinstance(entry.get("object"), str) or not entry["object"]:
                raise JournalError(f"{path}: {key[:-1]} {number}: {entry} names no object; expected its name.")
            prompts.append((entry["object"], prompt))
        model = content["model"]
        if not isinstance(model.get("name", ""), str):
            raise JournalError(f"{path}: the name of its model is {model['name']!r}; expected text.")
        if isinstance(model.get("rule"), str):  # a threshold's, which had another name in older journals
            model = {**model, "rule": current_rule_name(model["rule"])}
        return cls(content["volume"], model, content["settings"], tuple(prompts), content["versions"])


_KEYS = {FORMAT: "clicks", FORMAT_2: "prompts"}


def describe_volume(volume: Volume) -> dict[str, Any]:
    """What a journal says of a volume."""
    return {
        "source": Path(volume.source).name,
        "shape": list(volume.shape),
        "affine": volume.affine.tolist(),
        "unit": volume.unit,
        "fingerprint": volume.fingerprint(),
    }


def _are_numbers(point: Any) -> TypeGuard[list[float]]:
    if not (isinstance(point, list) and len(point) == 3):
        return False
    return all(isinstance(number, (int, float)) and abs(number) < 1e9 for number in point)


def _versions() -> dict[str, str]:
    import torch

    return {
        "seganypet": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
