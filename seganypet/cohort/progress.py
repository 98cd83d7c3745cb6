"""The state of one case under annotation, beside its clicks."""

import os
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from seganypet import __version__
from seganypet._files import read_json, reading
from seganypet.errors import AnnotationError
from seganypet.prompting.prompts import read_prompt

PROGRESS, CLICKS = "progress.json", "clicks.json"


@dataclass(frozen=True)
class CaseProgress:
    """The contents of progress.json for one case.

    Attributes:
        annotator: Name of the annotator.
        quality: Quality of the labels, "LQ" or "HQ".
        proposal: Description of the starting point.
        proposed: Prompts of the proposal, as `write_prompt` writes them.
        active: Object that the next prompt belongs to, which the journal does not record.
        state: "open" or "done".
        minutes: Active time of the annotator, in minutes.
        clicks: Number of the annotator's own clicks in the journal, without the proposal's.
        seganypet: Version of this package that saved the file.
    """

    annotator: str
    quality: str
    proposal: str
    proposed: list
    active: str
    state: str = "open"
    minutes: float = 0.0
    clicks: int = 0
    seganypet: str = __version__

    @classmethod
    def load(cls, path: Path) -> "CaseProgress | None":
        """Read the file; None if there is none, AnnotationError if it is damaged."""
        try:
            if not os.path.exists(path):
                return None
            content = read_json(path, AnnotationError)
            if {name: type(value) for name, value in content.items()} != {part.name: part.type for part in fields(cls)}:
                raise ValueError("fields missing, unknown or of another type")
            if content["state"] not in ("open", "done") or not 0 <= content["minutes"] < np.inf:
                raise ValueError(f"state {content['state']!r}, minutes {content['minutes']}")
            # Until version 0.1 only clicks were proposed, each as [i, j, k, foreground].
            content["proposed"] = [
                {"ijk": one[:3], "foreground": one[3]} if isinstance(one, list) and len(one) == 4 else one
                for one in content["proposed"]
            ]
            for one in content["proposed"]:
                read_prompt(one)
        except (ValueError, AttributeError) as error:
            raise AnnotationError(
                f"{path}: not a readable progress file ({error}). Restore a backup, or delete it: the clicks stay "
                f"in {CLICKS} beside it, minutes start at 0 again."
            ) from error
        return cls(**content)


def holds_progress(folder: Path) -> bool:
    """Whether a case was begun in a folder; AnnotationError if the folder cannot be read."""
    with reading(folder, AnnotationError):
        return any(folder.glob(f"*/{PROGRESS}"))
