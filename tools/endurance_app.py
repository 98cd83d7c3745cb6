"""Eight people at one app, one of them hostile: what `endurance` asks of a real server on this machine's loopback."""

import asyncio
import http.client
import json
import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import nbformat
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.httputil import HTTPHeaders
from tornado.websocket import WebSocketClientConnection, WebSocketClosedError, websocket_connect

from seganypet.widgets.guard import PROTOCOL

TOKEN = "of-this-run"
PAGE = """
import numpy as np
import seganypet as sap

data = np.random.default_rng(0).random((168, 168, 300), np.float32)  # a whole body
data[70:90, 70:90, 120:140] += 8
ct = sap.Volume(np.full((512, 512, 300), 40, np.float32), np.diag([1.3125, 1.3125, 4.0, 1.0]), "HU")
volume = sap.Volume(data, np.diag([4.0, 4.0, 4.0, 1.0]), "SUVbw")
widget = sap.ClickWidget(sap.Session(sap.load_model("tiny"), volume), ct=ct)
widget
"""


class Person:
    """Somebody with a page of their own.

    Args:
        server: Host and port of the app.
    """

    def __init__(self, server: str):
        self.server = server
        status, headers, page = get(server, f"/?token={TOKEN}")
        if status != 200:
            raise RuntimeError(f"a page answered {status}")
        self.cookie = headers["Set-Cookie"].partition(";")[0]
        self.kernel = re.search(r'"kernelId"\s*:\s*"([0-9a-f-]{36})"', page)[1]
        self.widget = re.search(r'"model_id"\s*:\s*"([0-9a-f]{32})"', page)[1]
        self.session = uuid.uuid4().hex

    async def connect(self, session: str | None = None, **headers: str) -> WebSocketClientConnection:
        """A connection to the kernel, instead of the one of the same session; headers may be replaced, and the protocol
        left out."""
        url = f"ws://{self.server}/api/kernels/{self.kernel}/channels?session_id={session or self.session}"
        sent = {"Origin": f"http://{self.server}", "Cookie": self.cookie} | headers
        protocols = [one] if (one := sent.pop("protocol", PROTOCOL)) else None
        return await websocket_connect(HTTPRequest(url, headers=HTTPHeaders(sent)), subprotocols=protocols)

    def message(self, kind: str, content: dict[str, Any]) -> bytes:
        """A message of the protocol."""
        header = {"msg_id": uuid.uuid4().hex, "msg_type": kind, "session": self.session, "username": "", "version": "5"}
        parts = [b"shell", json.dumps(header).encode(), b"{}", b"{}", json.dumps(content).encode()]
        offsets = [8 * (len(parts) + 2)]
        for part in parts:
            offsets.append(offsets[-1] + len(part))
        return struct.pack(f"<{len(offsets) + 1}Q", len(offsets), *offsets) + b"".join(parts)

    def command(self, **content: Any) -> bytes:
        """What the widget's page sends to its widget."""
        return self.message("comm_msg", {"comm_id": self.widget, "data": {"method": "custom", "content": content}})

    async def click(self, times: int) -> list[float]:
        """Click, undo, and so on; seconds of each until the widget has acknowledged it."""
        connection, seconds = await self.connect(), []
        for number in range(times):
            prompt = {"ijk": [80, 80, 130], "foreground": True}
            began = time.monotonic()
            call = self.command(call="prompt", prompt=prompt) if number % 2 == 0 else self.command(call="undo")
            await connection.write_message(call, binary=True)
            while (answer := await connection.read_message()) is not None:
                if b'"acknowledged"' in answer and b"comm_msg" in answer:
                    break
            if answer is None:
                raise RuntimeError("the connection was closed")
            seconds.append(time.monotonic() - began)
        connection.close()
        return seconds

    async def attack(self, until: asyncio.Event) -> int:
        """Do what an app must bear, again and again; number of rounds."""
        rounds, frozen = 0, await self.connect(uuid.uuid4().hex)  # never read
        while not until.is_set():
            rounds += 1
            for headers in ({"protocol": ""}, {"Origin": "null"}, {"Host": "evil.example"}):
                try:
                    (await self.connect(**headers)).close()
                    raise RuntimeError(f"connected with {headers}")
                except HTTPClientError:
                    pass
            for content in (struct.pack("<Q", 2**63), b"", b"\\xff" * 10_000):
                connection = await self.connect()
                await connection.write_message(content, binary=True)
                connection.close()
            connection = await self.connect()
            deep = self.command(call="load_text", text="[" * 3_000_000)
            await connection.write_message(deep, binary=True)
            await connection.write_message(self.command(call="prompt", prompt={"ijk": [10**400, 0, 0]}), binary=True)
            try:
                for number in range(9):
                    await frozen.write_message(self.command(call="piece", layer="pet", number=number), binary=True)
            except WebSocketClosedError:  # the server has given it up, as it should
                frozen = await self.connect(uuid.uuid4().hex)
            connection.close()
            loop = asyncio.get_running_loop()
            image = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
            for path, more in (("/", {}), (f"/?token={TOKEN}", image), (f"/?token={TOKEN}", {"Host": "evil.example"})):
                status, _, _ = await loop.run_in_executor(None, lambda a=path, b=more: get(self.server, a, **b))
                if status == 200:
                    raise RuntimeError(f"a page was opened with {more}")
            await asyncio.sleep(0.2)
        return rounds


def get(server: str, path: str, **headers: str) -> tuple[int, http.client.HTTPMessage, str]:
    """Status, headers and text of an answer."""
    connection = http.client.HTTPConnection(server, timeout=600)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    return response.status, response.headers, response.read().decode()


async def _meet(server: str, people: int, clicks: int) -> tuple[list[list[float]], int]:
    loop = asyncio.get_running_loop()
    hostile, *others = await asyncio.gather(*(loop.run_in_executor(None, Person, server) for _ in range(people)))
    over = asyncio.Event()
    attack = asyncio.create_task(hostile.attack(over))
    seconds = await asyncio.gather(*(person.click(clicks) for person in others))
    over.set()
    return list(seconds), await attack


def meet(people: int = 8, clicks: int = 20) -> tuple[list[list[float]], int, float, float]:
    """Serve a page, let people click while one attacks.

    Returns:
        Seconds of each click of those who are not hostile; rounds of attacks; memory, MB, of the server at its peak and
        of the largest kernel, which is one person's, at the end.
    """
    with tempfile.TemporaryDirectory() as folder:
        kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(PAGE)], metadata={"kernelspec": kernel})
        nbformat.write(notebook, Path(folder) / "page.ipynb")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "seganypet", "app", "page.ipynb", f"--port={port}", f"--max-pages={people}"]
        environment = {**os.environ, "JUPYTER_TOKEN": TOKEN, "PYTHONPATH": str(Path(__file__).parents[1])}
        process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.DEVNULL)
        try:
            while True:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.2)
            seconds, rounds = asyncio.run(_meet(f"127.0.0.1:{port}", people, clicks))
            kernels = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            person_mb = max(_memory_mb(int(pid), "VmRSS") for pid in kernels)
            return seconds, rounds, _memory_mb(process.pid, "VmHWM"), person_mb
        finally:
            process.terminate()
            process.wait(timeout=120)


def _memory_mb(pid: int, which: str) -> float:
    """Memory of a process, in MB: "VmRSS", what it holds, or "VmHWM", the most that it held."""
    return int(re.search(rf"{which}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024
