"""Two people at the app behind a real JupyterHub, by the settings of notebooks/serving.md: `python tools/hub.py`.

Needs `pip install jupyterhub`, `npm install configurable-http-proxy` (its path: `--proxy`) and Chromium. Both log in,
are sent to the app and click; one then asks for the other's page, files and kernels, as does somebody without an
account. Accounts and servers are of JupyterHub's own simple kind, all under the one who runs this. Loopback only.
"""

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from browser import REPOSITORY, Chromium, write_notebook
from endurance_app import PAGE
from playwright.sync_api import BrowserContext, Page

WAIT_MS = 300_000
PASSWORD = "of-this-trial"
TRIAL = """
c.JupyterHub.spawner_class = "simple"
c.JupyterHub.authenticator_class = "shared-password"
c.SharedPasswordAuthenticator.user_password = {password!r}
c.Authenticator.allow_all = True
c.JupyterHub.bind_url = "http://127.0.0.1:{port}"
c.JupyterHub.hub_port = {hub_port}
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{api_port}"
c.ConfigurableHTTPProxy.command = [{proxy!r}]
c.SimpleLocalProcessSpawner.home_dir_template = {homes!r} + "/{{username}}"
c.Spawner.notebook_dir = {notebooks!r}
c.Spawner.args += ["--allow-root"]
c.Spawner.http_timeout = c.Spawner.start_timeout = 300
c.Spawner.env_keep = ["PATH", "PYTHONPATH", "JUPYTER_CONFIG_PATH", "JUPYTER_PATH", "LANG"]
"""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def write_config(folder: Path, proxy: str) -> int:
    """The settings of the page, and what this trial needs beside them; returns the port."""
    settings = re.findall(r"```python\n(.*?)```", (REPOSITORY / "notebooks" / "serving.md").read_text(), re.DOTALL)[0]
    port, hub_port, api_port = free_ports(3)
    (folder / "notebooks").mkdir()
    write_notebook(folder / "notebooks" / "app.ipynb", PAGE)  # a small scan: the hub is tried, not the page
    trial = TRIAL.format(
        password=PASSWORD, port=port, hub_port=hub_port, api_port=api_port, proxy=proxy,
        homes=str(folder / "homes"), notebooks=str(folder / "notebooks"),
    )  # fmt: skip
    (folder / "jupyterhub_config.py").write_text(settings + trial)
    return port


def is_up(url: str) -> bool:
    """Whether a page is there; before the hub is, its proxy answers 404."""
    try:
        return urllib.request.urlopen(url, timeout=10).status == 200
    except OSError:  # of urllib, too
        return False


def log_in(context: BrowserContext, address: str, name: str) -> Page:
    """Somebody's page, to which the hub sends them after the login."""
    page = context.new_page()
    page.goto(f"{address}/hub/login")
    page.fill("#username_input", name)
    page.fill("#password_input", PASSWORD)
    page.click("#login_submit")
    page.wait_for_selector(".sap-click")
    if not page.url.startswith(f"{address}/user/{name}/voila/render/app.ipynb"):
        raise RuntimeError(f"{name} was sent to {page.url}")
    return page


def click(page: Page) -> str:
    """Click the middle of the first slice; what the page says then."""
    one = page.locator(".sap-click").first
    one.locator("canvas").first.scroll_into_view_if_needed()
    one.locator("canvas").first.click()
    counter = one.locator(".sap-counter").filter(has_text="1 click,")
    counter.wait_for()
    return counter.inner_text()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--proxy", default="configurable-http-proxy", help="path of that program (%(default)s)")
    proxy = parser.parse_args().proxy
    with tempfile.TemporaryDirectory() as name:
        folder, chromium, pages = Path(name), Chromium(), []
        port = write_config(folder, proxy)
        address, environment = f"http://127.0.0.1:{port}", os.environ | {"PYTHONPATH": str(REPOSITORY)}
        with (folder / "hub.log").open("w") as log:
            hub = subprocess.Popen([sys.executable, "-m", "jupyterhub"], cwd=folder, env=environment, stdout=log,
                                   stderr=log, start_new_session=True)  # fmt: skip
        try:
            while not is_up(f"{address}/hub/login"):
                if hub.poll() is not None:
                    raise RuntimeError((folder / "hub.log").read_text())
                time.sleep(0.5)
            ann, ben, nobody = (chromium.context() for _ in range(3))
            for context in (ann, ben):
                context.set_default_timeout(WAIT_MS)
            pages += [log_in(ann, address, "ann"), log_in(ben, address, "ben")]
            print("ann:", click(pages[0]))
            print("ben:", pages[1].locator(".sap-counter").first.inner_text(), "before, and", click(pages[1]))
            for who, context in (("ben", ben), ("somebody without an account", nobody)):
                for path in ("voila/render/app.ipynb", "api/kernels", "lab", "files/app.ipynb"):
                    answer = context.request.get(f"{address}/user/ann/{path}", max_redirects=0)
                    found = answer.headers.get("location", "").partition("?")[0]
                    print(f"{who} at ann's {path}: {answer.status} {found}")
                    if answer.ok:
                        raise RuntimeError(f"{who} may read {path}")
            if chromium.hosts != {"127.0.0.1"}:
                raise RuntimeError(f"the browsers asked {sorted(chromium.hosts)}")
            print("the browsers asked no other host")
        except BaseException:
            for number, page in enumerate(pages):
                page.screenshot(path=f"hub-{number}.png")
            print((folder / "hub.log").read_text()[-6000:], file=sys.stderr)
            raise
        finally:
            chromium.close()
            os.killpg(hub.pid, signal.SIGTERM)
            hub.wait(timeout=60)


if __name__ == "__main__":
    main()
