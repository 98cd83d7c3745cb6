"""What was done to a scan, kept at every step in a folder, and offered again when the scan is opened the next time.

    autosave_<key>.json             the sitting at hand, or the last one
    autosave_<key>_<time>.json      earlier ones that nobody continued

The key is of the scan, the method and its settings, so that whatever is offered can be continued. A browser keeps the
same journals, under the same key, for pages without a folder.
"""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

from seganypet._files import make_folder, read_text, replace_atomically
from seganypet.errors import SegAnyPETError
from seganypet.prompting.base import PromptSession
from seganypet.prompting.journal import Journal
from seganypet.prompting.prompts import Prompt


def journal_text(session: PromptSession) -> str:
    """A session's journal as JSON; "" if it holds no prompt."""
    journal = session.journal()
    return journal.to_json() if journal.prompts else ""


def key_of(session: PromptSession) -> str:
    """What two sessions share if the prompts of one can be repeated in the other."""
    journal = session.journal()
    method = {name: value for name, value in journal.model.items() if name != "name"}
    described = json.dumps([journal.volume["fingerprint"], method, dict(journal.settings)], sort_keys=True, default=str)
    return hashlib.sha256(described.encode()).hexdigest()[:12]


class Autosave:
    """The sitting of one session in a folder.

    Args:
        session: Session that is kept.
        folder: Folder; it is made at the first save.

    Attributes:
        earlier: What an earlier sitting left here and this one does not hold: text, seconds since 1970, number of
            prompts, names of objects; {} if there is nothing, or it was dismissed.
    """

    def __init__(self, session: PromptSession, folder: Path):
        self._session, self._path = session, folder / f"autosave_{key_of(session)}.json"
        self._prompts: tuple[tuple[str, Prompt], ...] = ()  # of the earlier sitting
        self.earlier = self._read_earlier()
        self._in_the_way = bool(self.earlier)

    def save(self, text: str) -> None:
        """Keep the session's journal; what an earlier sitting left moves aside first, unless this one continues it."""
        if not text:
            return  # what was taken back last stays on the disk
        if self._session.journal().prompts[: len(self._prompts)] == self._prompts:
            self.dismiss()  # it is continued
        make_folder(self._path.parent)
        if self._in_the_way and self._path.exists():
            when = time.strftime("%Y%m%d-%H%M%S", time.localtime(self.earlier["seconds"]))
            self._path.replace(self._path.with_name(f"{self._path.stem}_{when}.json"))
        self._in_the_way = False
        with replace_atomically(self._path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def dismiss(self) -> None:
        """Offer the earlier sitting no more; the next save takes its place."""
        self.earlier, self._in_the_way = {}, False

    def _read_earlier(self) -> dict[str, Any]:
        try:
            journal, text = Journal.load(self._path), read_text(self._path)
            seconds = self._path.stat().st_mtime
        except (SegAnyPETError, OSError):
            return {}  # none, or none that could be continued
        if not journal.prompts or journal.prompts == self._session.journal().prompts:
            return {}
        self._prompts = journal.prompts
        names = list(dict.fromkeys(name for name, _ in journal.prompts))
        return {"text": text, "seconds": seconds, "prompts": len(journal.prompts), "objects": names}
