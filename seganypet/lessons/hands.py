"""Clicks that a hand made once, for pages where nobody clicks."""

import json
import os
from pathlib import Path

from seganypet.prompting.base import PromptSession


def stand_in(session: PromptSession, clicks_file: str | os.PathLike, lesson: str) -> str:
    """Click as was recorded, unless the learner clicked already.

    Args:
        session: Session that the widget shows; objects that have prompts are left alone.
        clicks_file: JSON file of {lesson: {object: [[i, j, k, foreground], ...]}}.
        lesson: Lesson's key in it.

    Returns:
        Sentence that says whose clicks there are now.
    """
    recorded = json.loads(Path(clicks_file).read_text())[lesson]
    if session.objects:
        return f"your clicks: {', '.join(f'{len(session.prompts_of(name))} on {name}' for name in session.objects)}"
    for name, places in recorded.items():
        session.select(name)
        for i, j, k, foreground in places:
            session.click(ijk=(i, j, k), foreground=bool(foreground))
    return "Nobody clicked, so recorded clicks stand in: go back to the widget, Reset, and click yourself."
