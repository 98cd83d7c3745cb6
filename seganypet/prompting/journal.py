"""The journal of a session: all prompts on a volume, in order, so that they can be given again."""

import json
import os
import platform
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seganypet import __version__
from seganypet._files import as_path, read_json, replace_atomically
from seganypet.errors import ClickError, JournalError, shown
from seganypet.model.hub import edition
from seganypet.pet.threshold_rules import current_rule_name
from seganypet.pet.volume import Volume, check_affine
from seganypet.prompting.prompts import Click, Prompt, read_prompt, write_prompt

if TYPE_CHECKING:
    from seganypet.prompting.base import PromptSession

# Clicks alone are written as ever, so that any version reads them; with other kinds among them, in the second format.
FORMAT, FORMAT_2 = "seganypet-journal-1", "seganypet-journal-2"


# A mask that was repeated is the same if its size differs by no more than this.
SAME_VOXELS, SAME_FRACTION = 10, 0.01


@dataclass(frozen=True)
class Journal:
    """All prompts on one volume, in order, with what is needed to repeat them.

    Attributes:
        volume: Source, shape, affine, unit and fingerprint of the volume.
        model: Name and weight hash of the network.
        settings: Further arguments that the session was opened with.
        prompts: Pairs (object name, prompt), oldest first.
        versions: Versions of Python and of the packages that drew the masks.
        voxels: Number of voxels of each object's mask when the journal was saved; empty where that is not known.
    """

    volume: Mapping[str, Any]
    model: Mapping[str, Any]
    settings: Mapping[str, Any]
    prompts: tuple[tuple[str, Prompt], ...]
    versions: Mapping[str, str] = field(default_factory=lambda: _versions())
    voxels: Mapping[str, int] = field(default_factory=dict)

    @property
    def clicks(self) -> tuple[tuple[str, Click], ...]:
        """Those prompts that are clicks."""
        return tuple((name, prompt) for name, prompt in self.prompts if isinstance(prompt, Click))

    def save(self, path: str | os.PathLike) -> None:
        """Write as JSON, whole or not at all."""
        with replace_atomically(path) as temporary:
            temporary.write_text(self.to_json(), encoding="utf-8")

    def to_json(self) -> str:
        """The text that `save` writes."""
        affine = np.array(self.volume["affine"])
        file_format = FORMAT if len(self.clicks) == len(self.prompts) else FORMAT_2
        content = {
            "format": file_format,
            "volume": dict(self.volume),
            "model": dict(self.model),
            "settings": dict(self.settings),
            "versions": dict(self.versions),
            **({"voxels": dict(self.voxels)} if self.voxels else {}),
            _KEYS[file_format]: [{"object": name} | write_prompt(prompt, affine) for name, prompt in self.prompts],
        }
        return json.dumps(content, indent=1) + "\n"

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Journal":
        """Read what `save` wrote.

        Raises:
            JournalError: Missing file, not such a journal, a prompt of an unknown kind, or one whose voxels and
                millimetres contradict each other.
        """
        path = as_path(path)
        content = read_json(path, JournalError, "journal")
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        if not isinstance(content, dict) or found not in (FORMAT, FORMAT_2):
            raise JournalError(
                f"{path}: format {shown(found)}; expected {FORMAT!r}, as Session.save_journal writes it."
            )
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
                raise JournalError(f"{path}: {key[:-1]} {number}: {shown(entry)} names no object; expected its name.")
            prompts.append((entry["object"], prompt))
        model = content["model"]
        if not isinstance(model.get("name", ""), str):
            raise JournalError(f"{path}: the name of its model is {model['name']!r}; expected text.")
        if isinstance(model.get("rule"), str):  # a threshold's, which had another name in older journals
            model = {**model, "rule": current_rule_name(model["rule"])}
        voxels = content.get("voxels", {})
        if not isinstance(voxels, dict) or not all(type(count) is int for count in voxels.values()):
            raise JournalError(f"{path}: voxels is {shown(voxels)}; expected a whole number for each object.")
        return cls(content["volume"], model, content["settings"], tuple(prompts), content["versions"], voxels)


_KEYS = {FORMAT: "clicks", FORMAT_2: "prompts"}


def describe_volume(volume: Volume) -> dict[str, Any]:
    """What a journal says of a volume."""
    return {
        "source": Path(volume.source).name,
        "shape": list(volume.shape),
        "affine": volume.affine.tolist(),
        "unit": volume.unit,
        "fingerprint": volume.fingerprint(),
        **{name: volume.metadata[name] for name in ("given_by_hand",) if volume.metadata.get(name)},
    }


def check_fits(journal: Journal, path: str, here: Journal, settings: Mapping[str, Any]) -> None:
    """Raise JournalError unless a session draws the same masks from a journal as the one that wrote it.

    Args:
        journal: The journal, read from `path`.
        path: For messages.
        here: The journal of the session that is to repeat it.
        settings: The journal's settings by their names of today.
    """
    if journal.volume.get("fingerprint") != here.volume["fingerprint"]:
        raise JournalError(
            f"{path}: made on {journal.volume.get('source')} of shape {journal.volume.get('shape')}, which is not "
            f"{here.volume['source']} of shape {tuple(here.volume['shape'])}: their fingerprints differ. Load the "
            "volume it was made on."
        )
    if any(journal.model.get(key) != value for key, value in here.model.items() if key != "name"):
        made, ours = (edition(model.get("weights_sha256")) for model in (journal.model, here.model))
        hint = ""
        if made and made != ours:
            hint = (
                f": the weights of {made}, which came with seganypet {journal.versions.get('seganypet')}; "
                "load_model(path) opens their file. To give the same prompts to other weights: for name, prompt in "
                "Journal.load(path).prompts: session.select(name); session.add(prompt)"
            )
        raise JournalError(
            f"{path}: made with {made or journal.model.get('name')} and other weights or rules than those of "
            f"{ours or here.model['name']}; with these the masks would differ. Load what it was made with{hint}."
        )
    if dict(settings) != dict(here.settings):
        raise JournalError(
            f"{path}: made with settings {dict(settings)}, this session has {dict(here.settings)}; the masks would "
            "differ. Open a session with those settings."
        )


def count_voxels(session: "PromptSession") -> dict[str, int]:
    """The size of each object's mask, one after the other: all of a whole body's at once are large."""
    return {name: int(np.count_nonzero(session.mask_of(name))) for name in session.objects}


def warn_of_changes(journal: Journal, path: str, voxels: Mapping[str, int]) -> None:
    """Warn of objects whose masks are not as large as when the journal was saved.

    A processor rounds otherwise than another, which moves a few voxels; another version's rules may draw other masks.

    Args:
        journal: The journal, read from `path`.
        path: For messages.
        voxels: Number of voxels of each object's mask, as it was repeated.
    """
    for name, count in voxels.items():
        before = journal.voxels.get(name, count)
        if abs(count - before) > max(SAME_VOXELS, SAME_FRACTION * before):
            warnings.warn(
                f"{path}: {name} has {count:,} voxels here and had {before:,} when the journal was saved, with "
                f"seganypet {journal.versions.get('seganypet')} and torch {journal.versions.get('torch')}. This "
                "version or machine answers the same prompts otherwise: look at the mask before you use its numbers.",
                stacklevel=3,
            )


def _versions() -> dict[str, str]:
    import torch

    return {
        "seganypet": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
