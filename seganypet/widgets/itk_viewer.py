"""The viewer that itkwidgets shows, from a folder of this machine to its browsers, without the internet.

The npm package itk-vtk-viewer has it whole. itkwidgets itself loads it from an address on the internet, and so does its
JupyterLab extension with a window manager, so that neither works offline; the viewer in a frame does, in any page.
"""

import functools
import os
import secrets
import threading
from collections.abc import Mapping
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from seganypet._files import as_path
from seganypet.errors import SegAnyPETError

if TYPE_CHECKING:
    from IPython.display import IFrame

SCRIPT = "itkVtkViewer.js"
HEIGHT_PX = 560
PAGE = f"""<!doctype html><meta charset="utf-8"><title>itk-vtk-viewer</title>
<body style="margin: 0"><div id="viewer" style="position: absolute; inset: 0"></div>
<script src="{SCRIPT}"></script>
<script type="module">
const options = {{ fullscreen: true, rotate: false, gradientOpacity: 0 }}; // all uptake is seen, and it stands still
const viewer = await itkVtkViewer.processURLParameters(document.getElementById("viewer"), options);
viewer.setImageColorRange(JSON.parse(new URLSearchParams(location.search).get("range")));
</script>
"""


def itk_frame(
    folder: str | os.PathLike, scan: bytes, mask: bytes | None, intensity_range: tuple[float, float]
) -> "IFrame":
    """A frame that shows a scan, as long as this process lives.

    Args:
        folder: `dist` of the npm package itk-vtk-viewer.
        scan: NIfTI file.
        mask: NIfTI file of a label map on the same grid; None: there is none.
        intensity_range: Intensities drawn faintest and strongest.

    Raises:
        SegAnyPETError: The folder holds no such viewer.
    """
    from IPython.display import IFrame

    path = as_path(folder).resolve()
    if not (path / SCRIPT).is_file():
        raise SegAnyPETError(
            f"itk_viewer={os.fspath(folder)!r} holds no {SCRIPT}; expected the folder dist of the npm package "
            "itk-vtk-viewer: npm install itk-vtk-viewer, then itk_viewer='node_modules/itk-vtk-viewer/dist'."
        )
    files = {"view.html": PAGE.encode(), "scan.nii": scan} | ({} if mask is None else {"mask.nii": mask})
    address = _serve(path, files)
    labels = "" if mask is None else f"&labelImage={address}mask.nii"
    low, high = intensity_range
    query = f"fileToLoad={address}scan.nii{labels}&range=[{low:g},{high:g}]"
    return IFrame(f"{address}view.html?{query}", "100%", HEIGHT_PX)


def _serve(folder: Path, files: Mapping[str, bytes]) -> str:
    """Serve a folder, and some files from memory, under an address that nobody guesses."""
    key = secrets.token_urlsafe(16)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Files, key, files, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/{key}/"


class _Files(SimpleHTTPRequestHandler):
    """Answers with files of a folder or of memory, only to whoever knows the key."""

    def __init__(self, key: str, files: Mapping[str, bytes], *arguments: Any, directory: Path):
        self.key, self.files = key, files
        super().__init__(*arguments, directory=str(directory))

    def send_head(self) -> BinaryIO | None:  # type: ignore[override]  # of GET and HEAD
        name = self.path.partition("?")[0].removeprefix(f"/{self.key}/")
        if not self.path.startswith(f"/{self.key}/"):
            self.send_error(404)
            return None
        if name not in self.files:
            self.path = f"/{name}"
            return super().send_head()  # type: ignore[return-value]
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(name))
        self.send_header("Content-Length", str(len(self.files[name])))
        self.end_headers()
        return BytesIO(self.files[name])

    def list_directory(self, path: Any) -> None:
        """Refuse: what is there is nobody's business."""
        self.send_error(404)

    def log_message(self, *_: Any) -> None:
        """Say nothing into the notebook."""
