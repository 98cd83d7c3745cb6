"""A real browser on a real server: what the browser tests and the latency benchmark share."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import pytest
from playwright.sync_api import BrowserContext, Locator, Page, sync_playwright

REPOSITORY = Path(__file__).parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Without these a browser telephones its makers, and "no request leaves this machine" would be about Chromium.
QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")
STARTED_S = 120
PICTURES = REPOSITORY / "out" / "browser"  # of what tests saw
BROWSER_TEST = [
    pytest.mark.skipif(
        CHROMIUM is None and "SEGANYPET_NEEDS_BROWSER" not in os.environ,
        reason="browser tests need Chromium: apt-get install chromium",
    ),
    pytest.mark.xdist_group("browser"),
    pytest.mark.slow,
]


def write_notebook(path: Path, *sources: str) -> None:
    """A notebook with these code cells, for the kernel "python3"."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)


@contextmanager
def serve(what: str, folder: Path, notebook: str, patience_s: float = STARTED_S) -> Iterator[str]:
    """Serve a notebook of a folder by JupyterLab ("lab"), or by Voila as the app is ("app"); yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(8)
    settings = folder / ".jupyter"  # not those of whoever runs this
    settings.mkdir(exist_ok=True)
    if what == "lab":
        command = ["jupyter", "lab", "--no-browser", f"--port={port}", f"--IdentityProvider.token={token}"]
        command += [f"--ServerApp.root_dir={folder}", *["--allow-root"] * (os.geteuid() == 0)]
        address, alive = f"http://127.0.0.1:{port}/lab/tree/{notebook}?reset&token={token}", "api"
    else:
        command = ["seganypet", "app", notebook, f"--port={port}"]
        address, alive = f"http://127.0.0.1:{port}/?token={token}", "static/"  # the page itself would start a kernel
    alive = f"http://127.0.0.1:{port}/{alive}"
    path = os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "tests", REPOSITORY / "tests" / "widgets")))
    environment = {**os.environ, "JUPYTER_CONFIG_DIR": str(settings), "JUPYTER_DATA_DIR": str(settings / "data"),
                   "JUPYTERLAB_WORKSPACES_DIR": str(settings / "workspaces"), "PYTHONPATH": path,
                   "JUPYTER_CONFIG_PATH": str(REPOSITORY / "tools" / "lab"), "JUPYTER_TOKEN": token}
    with (folder / f"{what}.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=folder, env=environment, stdout=log, stderr=log
        )
        try:
            deadline = time.monotonic() + patience_s
            while not _answers(alive):
                assert server.poll() is None and time.monotonic() < deadline, (folder / f"{what}.log").read_text()
                time.sleep(0.2)
            yield address
        finally:
            server.terminate()
            server.wait(timeout=30)


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


class Chromium:
    """Headless Chromium that remembers every host it asked.

    Attributes:
        hosts: Hosts that something was sent to, or tried to be.
        errors: What pages threw and nobody caught.
    """

    def __init__(self) -> None:
        self.hosts: set[str] = set()
        self.errors: list[str] = []
        self._playwright = sync_playwright().start()
        root = ["--no-sandbox"] * (os.geteuid() == 0)  # Chromium's sandbox refuses to run as root
        self._browser = self._playwright.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, *root])

    def context(
        self, pixel_ratio: float = 1, width: int = 1280, height: int = 1000, storage_state: Any = None
    ) -> BrowserContext:
        """Somebody's browser. Zooming a page to 125 % is a pixel ratio of 1.25 and as many fewer CSS pixels.

        Args:
            storage_state: What another context's `storage_state` kept: the same person, later.
        """
        viewport = {"width": round(width / pixel_ratio), "height": round(height / pixel_ratio)}
        if pixel_ratio == int(pixel_ratio):  # a denser screen, not a zoomed page
            viewport = {"width": width, "height": height}
        context = self._browser.new_context(
            viewport=viewport, device_scale_factor=pixel_ratio, accept_downloads=True, storage_state=storage_state
        )
        context.set_default_timeout(60_000)
        context.on("requestfinished", lambda request: self._remember(request.url))
        # What the page's own policy forbids is given up before anything is sent.
        context.on("requestfailed", lambda request: request.failure == "csp" or self._remember(request.url))
        context.on("page", lambda page: page.on("websocket", lambda socket: self._remember(socket.url)))
        context.on("weberror", lambda error: self.errors.append(str(error.error)))
        return context

    def _remember(self, url: str) -> None:
        scheme, _, rest = url.partition("://")
        if scheme in ("http", "https", "ws", "wss"):
            self.hosts.add(rest.split("/")[0].rsplit(":", 1)[0])

    def close(self) -> None:
        """End the browser."""
        self._browser.close()
        self._playwright.stop()


def run_all(page: Page, address: str) -> None:
    """Open a notebook in JupyterLab and run its cells."""
    page.goto(address)
    page.wait_for_selector(".jp-Notebook .jp-CodeCell")
    page.get_by_text("(ipykernel) | Idle").wait_for()  # what is run earlier is lost
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()


def point_on_page(canvas: Locator, across: int, up: int) -> tuple[float, float]:
    """Where on the page the middle of a voxel is drawn, of a slice as ClickWidget shows it."""
    canvas.scroll_into_view_if_needed()
    a0, na, u0, nu = json.loads(canvas.get_attribute("data-shown"))
    box = canvas.bounding_box()
    x = box["x"] + box["width"] * (a0 + na - across - 0.5) / na
    return x, box["y"] + box["height"] * (u0 + nu - up - 0.5) / nu
