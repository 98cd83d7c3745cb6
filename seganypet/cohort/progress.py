"""What is remembered of one case under annotation, beside its clicks."""

import json
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from seganypet import __version__
from seganypet.errors import AnnotationError

PROGRESS, CLICKS = "progress.json", "clicks.json"


@dataclass(frozen=True)
class CaseProgress:
    """What progress.json says of one case.

    Attributes:
        annotator: Who works on it.
        quality: Of the labels that come of it, "LQ" or "HQ".
        proposal: What the annotator started from, in words.
        proposed: Clicks of the proposal, each [i, j, k, foreground].
        active: The object that the next click belongs to, which the journal does not know.
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
            if not all(isinstance(click, list) and len(click) == 4 for click in content["proposed"]):
                raise ValueError("a proposed click is not [i, j, k, foreground]")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise AnnotationError(
                f"{path}: not a readable progress of a case ({error}). Bring it back from a backup; or delete it: the "
                f"clicks are in {CLICKS} beside it and stay, minutes begin at 0 again."
            ) from error
        return cls(**content)
