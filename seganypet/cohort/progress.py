"""What is remembered of one case under annotation, beside its clicks."""

import json
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from seganypet import __version__
from seganypet.errors import AnnotationError
from seganypet.prompting.prompts import read_prompt

PROGRESS, CLICKS = "progress.json", "clicks.json"


@dataclass(frozen=True)
class CaseProgress:
    """What progress.json says of one case.

    Attributes:
        annotator: Who works on it.
        quality: Of the labels that come of it, "LQ" or "HQ".
        proposal: What the annotator started from, in words.
        proposed: Prompts of the proposal, as `write_prompt` writes them.
        active: The object that the next prompt belongs to, which the journal does not know.
        state: "open" or "done".
        minutes: Active time of the annotator.
        clicks: The annotator's own in the journal; neither the proposal's nor what was undone.
        seganypet: Version that saved this.
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
            content = json.loads(path.read_text())
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
        except FileNotFoundError:
            return None
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise AnnotationError(
                f"{path}: not a readable progress of a case ({error}). Bring it back from a backup; or delete it: the "
                f"clicks are in {CLICKS} beside it and stay, minutes begin at 0 again."
            ) from error
        return cls(**content)
