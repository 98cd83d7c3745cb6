"""Clicks, and the journal that remembers them."""

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from seganypet import __version__
from seganypet._files import replace_atomically
from seganypet.errors import ClickError, JournalError
from seganypet.pet.threshold_rules import current_rule_name
from seganypet.pet.volume import Volume, check_affine, finite_point, rounded

FORMAT = "seganypet-journal-1"


@dataclass(frozen=True)
class Click:
    """One point prompt.

    Attributes:
        ijk: Voxel of the volume that was clicked.
        foreground: True: "this belongs to the object"; False: "this does not".
    """

    ijk: tuple[int, int, int]
    foreground: bool = True


def click_at(volume: Volume, ijk: Any = None, mm: Any = None, foreground: bool = True) -> Click:
    """A click on a volume, checked.

    Args:
        volume: Where the click shall land.
        ijk: Voxel, three whole numbers; or
        mm: a place in RAS+ millimetres, moved to the nearest voxel.
        foreground: False for "not this".

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
    return Click(tuple(int(index) for index in np.rint(voxel)), bool(foreground))


@dataclass(frozen=True)
class Journal:
    """All clicks on one volume, in order, with what is needed to repeat them.

    Attributes:
        volume: Source, shape, affine, unit and fingerprint of the volume.
        model: Name and weight hash of the network.
        settings: What else the session was opened with.
        clicks: Pairs (object name, Click), oldest first.
        versions: Of Python and the packages that drew the masks.
    """

    volume: Mapping[str, Any]
    model: Mapping[str, Any]
    settings: Mapping[str, Any]
    clicks: tuple[tuple[str, Click], ...]
    versions: Mapping[str, str] = field(default_factory=lambda: _versions())

    def save(self, path: str | os.PathLike) -> None:
        """Write as JSON, whole or not at all."""
        affine = np.array(self.volume["affine"])
        clicks = [
            {
                "object": name,
                "ijk": list(click.ijk),
                "mm": nib.affines.apply_affine(affine, click.ijk).round(3).tolist(),
                "foreground": click.foreground,
            }
            for name, click in self.clicks
        ]
        content = {
            "format": FORMAT,
            "volume": dict(self.volume),
            "model": dict(self.model),
            "settings": dict(self.settings),
            "versions": dict(self.versions),
            "clicks": clicks,
        }
        with replace_atomically(path) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Journal":
        """Read what `save` wrote.

        Raises:
            JournalError: Missing file, not such a journal, or a click without a sensible place: three whole
                numbers that the volume's affine carries to the millimetres written beside them.
        """
        path = Path(path)
        try:
            content = json.loads(path.read_text())
        except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise JournalError(f"{path}: not a readable journal ({error}).") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            found = content.get("format") if isinstance(content, dict) else type(content).__name__
            raise JournalError(f"{path}: format {found!r}; expected {FORMAT!r}, as Session.save_journal writes it.")
        kinds = {"volume": dict, "model": dict, "settings": dict, "versions": dict, "clicks": list}
        if bad := [key for key, kind in kinds.items() if not isinstance(content.get(key), kind)]:
            raise JournalError(f"{path}: {', '.join(bad)} missing or damaged; was the file cut or edited?")
        try:
            affine = check_affine(content["volume"].get("affine"), "its volume")
        except (TypeError, ValueError, OverflowError) as error:
            raise JournalError(f"{path}: {error}") from error
        clicks = tuple(_read_click(path, affine, number, entry) for number, entry in enumerate(content["clicks"], 1))
        model = content["model"]
        if isinstance(model.get("rule"), str):  # a threshold's, which had another name in older journals
            model = {**model, "rule": current_rule_name(model["rule"])}
        return cls(content["volume"], model, content["settings"], clicks, content["versions"])


def describe_volume(volume: Volume) -> dict[str, Any]:
    """What a journal says of a volume."""
    return {
        "source": Path(volume.source).name,
        "shape": list(volume.shape),
        "affine": volume.affine.tolist(),
        "unit": volume.unit,
        "fingerprint": volume.fingerprint(),
    }


def _read_click(path: Path, affine: np.ndarray, number: int, entry: Any) -> tuple[str, Click]:
    try:
        name, ijk, mm, foreground = entry["object"], entry["ijk"], entry["mm"], entry["foreground"]
    except (TypeError, KeyError) as error:
        raise JournalError(f"{path}: click {number} is {entry!r}; expected object, ijk, mm, foreground.") from error
    whole = _are_numbers(ijk) and all(type(index) is int for index in ijk)
    if not (isinstance(name, str) and name and whole and isinstance(foreground, bool)):
        raise JournalError(f"{path}: click {number} is {entry!r}; needed: a name, three integers, true or false.")
    place_mm = nib.affines.apply_affine(affine, ijk).round(3)
    if not (_are_numbers(mm) and np.allclose(mm, place_mm, rtol=0, atol=0.01)):
        raise JournalError(
            f"{path}: click {number} says ijk={ijk} and mm={mm}, but this voxel lies at mm={place_mm.tolist()}. "
            "One of them was edited: click again in a session and save its journal."
        )
    return name, Click(tuple(ijk), foreground)


def _are_numbers(point: Any) -> bool:
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
