"""The app: pick a sample case or upload a scan, then click. notebooks/app.py is all of its page.

Each page has a kernel and so an `App` of its own; nothing is shared between them. `seganypet app`
serves it.
"""

import gzip
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import anywidget
import ipywidgets
import nibabel as nib
import traitlets

from seganypet._files import temporary_folder, writing
from seganypet.cohort.cohort import Cohort
from seganypet.errors import SegAnyPETError, VolumeError
from seganypet.model.checkpoints import load_model
from seganypet.pet.volume import UNITS, Volume, check_unit, load_volume
from seganypet.prompting.network_session import open_session
from seganypet.widgets.click import STATIC, ClickWidget
from seganypet.widgets.messages import showing_errors

NETWORKS = {
    "tiny: liver, kidneys, heart, spleen": "tiny",
    "tiny-base: everything else": "tiny-base",
}
# A gzipped file may grow a thousandfold. Twice the voxels of the finest whole-body scanners; 2.4 GB while it is read.
MAX_VOXELS = 200_000_000
MAX_HEADER_BYTES = 10_000_000  # extensions are read whole, too
PIECE_BYTES = 1_000_000  # Jupyter servers refuse messages of more than 10 MB


class App(ipywidgets.VBox):
    """One page: which scan, which network, and a ClickWidget for them.

    Args:
        cohort: Cohort of sample cases to pick from.
        limit_mb: Size of the largest file that may be uploaded, in MB (10^6 bytes).
        output_dir: Folder for what is saved, as in ClickWidget. None: nothing is written where the app runs, the
            browser gets downloads.

    Attributes:
        view: ClickWidget of the open scan; None before the first.
        upload: UploadWidget of the page; its `error` and `status` are shown there.
    """

    def __init__(self, cohort: Cohort, *, limit_mb: float = 200, output_dir: str | os.PathLike | None = None):
        self.cohort, self.output_dir = cohort, output_dir
        self.view: ClickWidget | None = None
        self._opened = ""  # what the page says of the open scan
        self.upload = UploadWidget(self._receive, limit_mb)
        self.case = ipywidgets.Dropdown(description="Sample", options=[case.name for case in cohort])
        self.network = ipywidgets.Dropdown(
            description="Network", options=NETWORKS, tooltip="used for the scan that you open next"
        )
        self.button = ipywidgets.Button(description="Open sample", layout={"width": "auto"})
        self.button.on_click(self._open_chosen)
        for control in (self.case, self.network):
            control.layout.width = "330px"
            control.style.description_width = "65px"
        self._choice = ipywidgets.HBox([self.network, self.case, self.button], layout={"flex_flow": "row wrap"})
        super().__init__([self._choice, self.upload])

    def open_case(self, name: str) -> ClickWidget:
        """Open a case of the cohort, with its CT if it has one.

        Raises:
            SegAnyPETError: No such case, or whatever is wrong with its files. What was open stays open.
        """
        with self._opening(name):
            case = self.cohort[name]
            self.case.value = name
            return self._show(name, case.load_pet(), case.load_ct() if case.ct is not None else None)

    def close(self) -> None:
        """Forget an unfinished upload and vanish from the page."""
        self.upload.close()
        if self.view is not None:
            self.view.close()
        super().close()

    def _repr_mimebundle_(self, **arguments: Any) -> dict[str, Any]:
        """The live page, and for pages without one a picture of the scan as it is now."""
        bundle = super()._repr_mimebundle_(**arguments)
        if self.view is not None:
            bundle["image/png"] = self.view._repr_mimebundle_()[0]["image/png"]
        return bundle

    def _receive(self, path: Path, name: str, unit: str) -> None:
        with self._opening(name):
            self._show(name, _load(path, unit, name))

    def _show(self, name: str, pet: Volume, ct: Volume | None = None) -> ClickWidget:
        network = load_model(self.network.value)
        stem = re.sub(r"\.nii(\.gz)?$", "", name, flags=re.IGNORECASE)
        files = re.sub(r"[^\w-]+", "_", stem)  # what they are named after
        view = ClickWidget(open_session(network, pet), ct=ct, output_dir=self.output_dir, name=files)
        before, self.view = self.view, view
        self.children = (self._choice, self.upload, view)
        if before is not None:
            before.close()
        voxels = " \u00d7 ".join(map(str, pet.shape))
        layer = "with CT" if ct is not None else "no CT"
        self._opened = f"{name}: {voxels} voxels, {pet.unit}, {layer}; {network.name}"
        return view

    @contextmanager
    def _opening(self, name: str) -> Iterator[None]:
        self.button.disabled = True
        self.upload.error, self.upload.status = "", f"opening {name}\u2026"
        try:
            yield
        finally:
            self.button.disabled, self.upload.status = False, self._opened

    def _open_chosen(self, _button: Any) -> None:
        with showing_errors(self.upload.show_error):
            self.open_case(self.case.value)


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


class UploadWidget(anywidget.AnyWidget):
    """A file chooser whose file comes in pieces, each sent once the one before has arrived.

    The browser sends {"upload": "begin", "ticket", "name", "size", "unit"}, then {"upload": "piece", "ticket", "at"}
    with the bytes from there on, or {"upload": "cancel", "ticket"}. It is answered {"ticket", "received"} until all
    is there, at last {"ticket", "done": True}, or {"ticket", "failed": True} with the reason in `error`.

    Args:
        receive: Function that is called with path, name and unit of the complete file, which is deleted afterwards.
            The name is for people: it comes from a browser, and is no path.
        limit_mb: Size of the largest file, in MB.

    Attributes:
        error, status: Texts that the page shows beneath.
    """

    # Text, and joined, as in ClickWidget.
    _esm = "\n".join((STATIC / name).read_text(encoding="utf-8") for name in ("dom.js", "upload.js"))
    _css = (STATIC / "click.css").read_text(encoding="utf-8")

    limit = traitlets.Int().tag(sync=True)
    piece = traitlets.Int(PIECE_BYTES).tag(sync=True)
    units = traitlets.List(list(UNITS)).tag(sync=True)
    accepted = traitlets.List(["SUVbw"]).tag(sync=True)  # of these units; of the others the page says why not
    error = traitlets.Unicode().tag(sync=True)
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
        suffix = next((suffix for suffix in (".nii.gz", ".nii") if name.lower().endswith(suffix)), None)
        if suffix is None:
            raise VolumeError(f"{name or 'a file without a name'}: expected a file ending in .nii or .nii.gz.")
        check_unit(unit, name)
        if not isinstance(size, int) or size < 1:
            raise VolumeError(f"{name} is empty (size {size}); expected a NIfTI file.")
        if size > self.limit:
            raise VolumeError(
                f"{name} has {size / 1e6:.4g} MB; this app takes up to {self.limit / 1e6:.4g} MB. Compress it "
                "(.nii.gz), crop it, or set the notebook's limit_mb where you run the app."
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


def _load(path: Path, unit: str, name: str) -> Volume:
    """Read a file of unknown origin; the volume and every message call it `name`."""
    try:
        _check_voxels(path)
        volume = load_volume(path, unit)
    except SegAnyPETError as error:
        raise type(error)(str(error).replace(str(path), name)) from error
    return replace(volume, source=name)


def _check_voxels(path: Path) -> None:
    """VolumeError if the file holds too much; only its first 540 bytes are read, whatever they say of the rest."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"  # whatever its name ends in
        with gzip.open(path) if packed else path.open("rb") as file:
            block = file.read(nib.Nifti2Header.sizeof_hdr)
        kind = nib.Nifti2Header if nib.Nifti2Header.may_contain_header(block) else nib.Nifti1Header
        if not kind.may_contain_header(block):
            return
        header = kind(block[: kind.sizeof_hdr], check=False)
        shape, begins = header.get_data_shape(), header.get_data_offset()
    except Exception:
        return  # load_volume says what is wrong with it
    if math.prod(shape) > MAX_VOXELS:
        raise VolumeError(
            f"{path}: {' x '.join(map(str, shape))} voxels; this app takes up to {MAX_VOXELS / 1e6:.0f} million. Crop "
            "or resample it."
        )
    if begins > MAX_HEADER_BYTES:
        raise VolumeError(
            f"{path}: {begins / 1e6:.0f} MB of header before the first voxel; this app takes up to "
            f"{MAX_HEADER_BYTES / 1e6:.0f} MB. Save it again without header extensions."
        )
