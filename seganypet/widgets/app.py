"""The app: pick a sample case or upload a scan, then click. notebooks/app.py is all of its page.

Each page has a kernel and so an `App` of its own; nothing is shared between them. `seganypet app`
serves it.
"""

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import ipywidgets

from seganypet._files import temporary_folder
from seganypet.cohort.cohort import Cohort
from seganypet.errors import SegAnyPETError
from seganypet.model.checkpoints import load_model
from seganypet.pet.volume import Volume
from seganypet.prompting.network_session import open_session
from seganypet.widgets.click import ClickWidget
from seganypet.widgets.messages import showing_errors
from seganypet.widgets.received import load_nifti, load_study
from seganypet.widgets.upload import UploadWidget

NETWORKS = {
    "tiny: liver, kidneys, heart, spleen": "tiny",
    "tiny-base: everything else": "tiny-base",
}


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
        self._files = ExitStack()  # DICOM files of the open scan: a SEG refers to them
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
        self._files.close()
        super().close()

    def _repr_mimebundle_(self, **arguments: Any) -> dict[str, Any]:
        """The live page, and for pages without one a picture of the scan as it is now."""
        bundle = super()._repr_mimebundle_(**arguments)
        if self.view is not None:
            bundle["image/png"] = self.view._repr_mimebundle_()[0]["image/png"]
        return bundle

    def _receive(self, path: Path, name: str, unit: str) -> None:
        with self._opening(name):
            if path.suffix == ".zip":
                with ExitStack() as files:
                    pet, ct = load_study(path, files.enter_context(temporary_folder()), name)
                    self._show(name, pet, ct, files.pop_all())
            elif unit == "HU":
                self._lay_under(name, load_nifti(path, unit, name))
            else:
                self._show(name, load_nifti(path, unit, name))

    def _lay_under(self, name: str, ct: Volume) -> None:
        """Show the open scan over its CT; what was drawn stays."""
        if self.view is None:
            raise SegAnyPETError(f"{name} is a CT in HU, to be laid under a PET: open the PET first.")
        view = self.view
        self._replace_view(
            ClickWidget(view.session, ct=ct, output_dir=self.output_dir, name=view.name, stopwatch=view.stopwatch)
        )
        self._opened = f"{self._opened.replace('no CT', 'with CT')}; CT: {name}"

    def _show(
        self, name: str, pet: Volume, ct: Volume | None = None, files: ExitStack | None = None
    ) -> ClickWidget:
        network = load_model(self.network.value)
        stem = re.sub(r"\.(nii|nii\.gz|zip)$", "", name, flags=re.IGNORECASE)
        stem = re.sub(r"[^\w-]+", "_", stem)  # what files are named after
        view = ClickWidget(open_session(network, pet), ct=ct, output_dir=self.output_dir, name=stem)
        self._replace_view(view)
        self._files.close()
        self._files = files or ExitStack()
        voxels = " \u00d7 ".join(map(str, pet.shape))
        layer = "with CT" if ct is not None else "no CT"
        self._opened = f"{name}: {voxels} voxels, {pet.unit}, {layer}; {network.name}"
        return view

    def _replace_view(self, view: ClickWidget) -> None:
        before, self.view = self.view, view
        self.children = (self._choice, self.upload, view)
        if before is not None:
            before.close()

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
