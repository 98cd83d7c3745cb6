"""How a file comes from a browser: in pieces, each sent once the one before has arrived."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import anywidget
import traitlets

from seganypet._files import temporary_folder, writing
from seganypet.errors import SegAnyPETError, VolumeError
from seganypet.pet.volume import UNITS, check_unit
from seganypet.widgets.click import STATIC
from seganypet.widgets.messages import PageSets, showing_errors

PIECE_BYTES = 1_000_000  # Jupyter servers refuse messages of more than 10 MB


@dataclass
class _Upload:
    """A file on its way: what the browser announced, and what has come."""

    ticket: str
    name: str
    unit: str
    size: int
    folder: ExitStack  # closing it removes the file; after a killed kernel the next page does
    path: Path
    file: BinaryIO
    received: int = 0


class UploadWidget(PageSets, anywidget.AnyWidget):
    """A file chooser whose file comes in pieces, each sent once the one before has arrived.

    The browser sends {"upload": "begin", "ticket", "name", "size", "unit"}, then {"upload": "piece", "ticket", "at"}
    with the bytes from there on, or {"upload": "cancel", "ticket"}. It is answered {"ticket", "received"} until all
    is there, at last {"ticket", "done": True}, or {"ticket", "failed": True} with the reason in `error`.

    Args:
        receive: Function that is called with path, name and unit of the complete file, which is deleted afterwards:
            a NIfTI, or a ZIP archive of DICOM files, without a unit. The name is for people: it comes from a browser,
            and is no path.
        limit_mb: Size of the largest file, in MB.

    Attributes:
        error, status: Texts that the page shows beneath.
    """

    # Text, and joined, as in ClickWidget.
    _esm = "\n".join((STATIC / name).read_text(encoding="utf-8") for name in ("dom.js", "zip.js", "upload.js"))
    _css = (STATIC / "click.css").read_text(encoding="utf-8")

    limit = traitlets.Int().tag(sync=True)
    piece = traitlets.Int(PIECE_BYTES).tag(sync=True)
    units = traitlets.List(list(UNITS)).tag(sync=True)
    accepted = traitlets.List(["SUVbw", "HU"]).tag(sync=True)  # of these units; of the others the page says why not
    error = traitlets.Unicode().tag(sync=True, echo_update=False)
    status = traitlets.Unicode().tag(sync=True)

    def __init__(self, receive: Callable[[Path, str, str], None], limit_mb: float = 200):
        self._receive = receive
        self._current: _Upload | None = None
        super().__init__(limit=round(limit_mb * 1e6))
        self.on_msg(self._on_message)

    def close(self) -> None:
        """Forget an unfinished upload and vanish from the page."""
        self._forget()
        super().close()

    def show_error(self, text: str) -> None:
        """Say in the page what went wrong."""
        self.error = text

    def _on_message(self, _widget: Any, content: Mapping[str, Any], buffers: Sequence[memoryview]) -> None:
        reply = {"failed": True}
        with showing_errors(self.show_error):
            try:
                reply = self._reply(content, buffers)
            finally:
                self.send({"ticket": content.get("ticket"), **reply})

    def _reply(self, content: Mapping[str, Any], buffers: Sequence[memoryview]) -> dict[str, Any]:
        step, ticket = content.get("upload"), content.get("ticket")
        if step == "begin":
            self._forget()
            self._begin(content)
            return {"received": 0}
        if self._current is None or ticket != self._current.ticket:
            # The rest of an upload that failed or was replaced; the present one goes on.
            raise SegAnyPETError("received data of a cancelled upload. Choose the file again.")
        if step == "cancel":
            self._forget()
            return {"failed": True}
        upload = self._current
        try:
            self._add(upload, content["at"], buffers)
            if upload.received < upload.size:
                return {"received": upload.received}
            with writing(upload.name):
                upload.file.close()
            self._receive(upload.path, upload.name, upload.unit)
        except Exception:
            self._forget()
            raise
        self._forget()
        return {"done": True}

    def _begin(self, content: Mapping[str, Any]) -> None:
        # A browser's script checks all this too; but whoever writes messages need not use that script.
        name, size, unit = _plain_name(str(content["name"])), content["size"], content["unit"]
        suffix = next((suffix for suffix in (".nii.gz", ".nii", ".zip") if name.lower().endswith(suffix)), None)
        if suffix is None:
            raise VolumeError(f"{name or 'a file without a name'}: expected a file ending in .nii, .nii.gz or .zip.")
        if suffix != ".zip":  # DICOM says its unit itself
            check_unit(unit, name)
        if not isinstance(size, int) or size < 1:
            raise VolumeError(f"{name} is empty (size {size}); expected a NIfTI file or a ZIP archive.")
        if size > self.limit:
            raise VolumeError(
                f"{name} has {size / 1e6:.4g} MB; this app takes up to {self.limit / 1e6:.4g} MB. Compress it "
                "(.nii.gz, .zip), crop it, or set the notebook's limit_mb where you run the app."
            )
        with ExitStack() as folder:
            path = folder.enter_context(temporary_folder()) / f"upload{suffix}"
            with writing(path):
                file = path.open("wb")
            self._current = _Upload(content["ticket"], name, unit, size, folder.pop_all(), path, file)
        self.error = ""

    def _add(self, upload: _Upload, at: int, buffers: Sequence[memoryview]) -> None:
        if len(buffers) != 1 or at != upload.received:
            raise SegAnyPETError(
                f"upload of {upload.name}: received data from byte {at}, expected byte {upload.received}. "
                "Choose the file again."
            )
        # Compared with what was announced, which was compared with the limit.
        if upload.received + len(buffers[0]) > upload.size:
            raise SegAnyPETError(
                f"upload of {upload.name}: received more than the {upload.size} bytes announced; did the file grow? "
                "Choose it again."
            )
        with writing(upload.name):
            upload.file.write(buffers[0])
        upload.received += len(buffers[0])

    def _forget(self) -> None:
        if self._current is not None:
            self._current.file.close()
            self._current.folder.close()
            self._current = None


def _plain_name(name: str) -> str:
    """The last part of what a browser calls a file, for people to read."""
    last = re.split(r"[/\\]", name)[-1]
    return "".join(letter for letter in last if letter.isprintable())[-80:]
