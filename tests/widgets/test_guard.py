"""Who may ask the app's server for what; the server is a real one, on this machine's loopback."""

import http.client
import json
import os
import re
import socket
import struct
import subprocess
import sys
import time
import uuid
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("voila", reason="the app needs voila: pip install 'seganypet[notebooks]'")
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.httputil import HTTPHeaders, HTTPServerRequest
from tornado.ioloop import IOLoop
from tornado.websocket import websocket_connect

from seganypet.widgets import guard
from seganypet.widgets.guard import PROTOCOL, is_message, refusal

TOKEN = "of-this-test"
SOCKET = {"Upgrade": "websocket", "Origin": "http://127.0.0.1:8866", "Sec-WebSocket-Protocol": PROTOCOL}
NAVIGATION = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


def asked(host: str = "127.0.0.1:8866", method: str = "GET", **headers: str) -> HTTPServerRequest:
    return HTTPServerRequest(method, "/", headers=HTTPHeaders({"Host": host, **headers}), host=host)


@pytest.mark.parametrize(
    "request_",
    [
        asked(),
        asked("localhost:8866"),
        asked("[::1]:8866"),
        asked(**SOCKET),
        asked(**SOCKET | {"Sec-WebSocket-Protocol": f"other, {PROTOCOL}", "Sec-Fetch-Site": "same-origin"}),
        asked(method="POST", **{"Origin": "http://127.0.0.1:8866", "Sec-Fetch-Site": "same-origin"}),
        asked(**NAVIGATION | {"Sec-Fetch-Site": "none"}),
        asked(**NAVIGATION | {"Sec-Fetch-Site": "cross-site"}),  # a link; the token decides
    ],
)
def test_what_a_page_of_this_server_asks_is_answered(request_):
    assert refusal(request_) is None


@pytest.mark.parametrize(
    "request_",
    [
        asked("evil.example:8866"),
        asked("127.0.0.1.evil.example:8866"),
        asked("evil.example:8866", Origin="http://evil.example:8866"),
        asked("192.168.1.7:8866"),
        asked(Origin="http://evil.example"),
        asked(Origin="null"),
        asked(Origin="http://127.0.0.1:9000"),
        asked(method="POST", Origin="http://127.0.0.1:9000"),
        asked(**{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}),
        asked(**{"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"}),
        asked(**{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}),
        asked(method="POST", **NAVIGATION | {"Sec-Fetch-Site": "cross-site"}),  # a form of another site
        asked(**{key: value for key, value in SOCKET.items() if key != "Origin"}),
        asked(**SOCKET | {"Origin": "null"}),
        asked(**SOCKET | {"Sec-WebSocket-Protocol": "", "Upgrade": "WebSocket"}),
        asked(**SOCKET | {"Sec-WebSocket-Protocol": "v0.kernel.websocket.jupyter.org"}),
    ],
)
def test_what_another_site_or_name_or_protocol_asks_is_refused(request_):
    assert refusal(request_)


def test_behind_a_proxy_the_server_may_be_called_by_any_name_but_other_sites_stay_out():
    assert refusal(asked("hub.example"), any_host=True) is None
    assert refusal(asked("hub.example", Origin="https://evil.example"), any_host=True)


def message(*parts: bytes) -> bytes:
    offsets = [8 * (len(parts) + 2)]
    for part in parts:
        offsets.append(offsets[-1] + len(part))
    return struct.pack(f"<{len(offsets) + 1}Q", len(offsets), *offsets) + b"".join(parts)


def test_a_message_has_its_offsets_in_order_and_inside():
    good = message(b"shell", b"{}", b"{}", b"{}", b"{}", b"buffer")
    assert is_message(good) and is_message(message(b"shell", b"{}", b"{}", b"{}", b"{}"))
    for count in (0, 5, 8, 101, 2**31, 2**63, 2**64 - 1):
        assert not is_message(struct.pack("<Q", count) + good[8:])
    for place, value in ((1, 2**63), (2, 0), (7, len(good) + 1), (1, 7)):
        assert not is_message(good[: 8 * place] + struct.pack("<Q", value) + good[8 * place + 8 :])
    assert not any(map(is_message, (b"", b"\xff" * 7, b"\xff" * 8, "text", '{"channel": "shell"}')))


class Channel:
    """A stream of a kernel's messages, as far as a server that keeps them needs it."""

    def __init__(self):
        self.socket, self.receive = SimpleNamespace(closed=False), None

    def on_recv(self, receive) -> None:
        self.receive = receive

    def close(self) -> None:
        self.socket.closed = True


def test_messages_for_a_page_that_is_away_are_kept_until_they_are_too_many(monkeypatch):
    monkeypatch.setattr(guard, "MAX_UNREAD_BYTES", 10)
    kernels, channel = guard.LimitedKernels(), Channel()
    kernels._kernels["one"] = None
    kernels.start_buffering("one", "page", {"iopub": channel})
    channel.receive([b"12345", b"67890"])
    assert kernels.get_buffer("one", "page")["buffer"] == [("iopub", [b"12345", b"67890"])]
    kernels.start_buffering("one", "page", {"iopub": channel})
    channel.receive([b"12345", b"67890"])
    channel.receive([b"1"])
    assert channel.socket.closed and channel.receive is None
    assert kernels.get_buffer("one", "page") is None


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Address and process of an app with at most two pages, whose notebook needs nothing of this package."""
    folder = tmp_path_factory.mktemp("app")
    source = "import resource; print('memory', resource.getrlimit(resource.RLIMIT_DATA))"
    cell = {"cell_type": "code", "id": "one", "metadata": {}, "source": source, "outputs": [], "execution_count": None}
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    page = {"cells": [cell], "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    (folder / "page.ipynb").write_text(json.dumps(page))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "seganypet", "app", "page.ipynb", f"--port={port}", "--max-pages=2"]
    environment = {**os.environ, "JUPYTER_TOKEN": TOKEN, "JUPYTER_CONFIG_DIR": str(folder)}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 120
            while True:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.2)
            yield f"127.0.0.1:{port}", process.pid
        finally:
            process.terminate()
            process.wait(timeout=60)


def get(server: str, path: str, **headers: str) -> tuple[int, http.client.HTTPMessage, str]:
    connection = http.client.HTTPConnection(server, timeout=120)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    return response.status, response.headers, response.read().decode()


def open_socket(server: str, kernel: str, cookie: str, session: str) -> socket.socket:
    """A connection to a kernel, as bytes."""
    opened = socket.create_connection(server.split(":"), timeout=120)
    opened.sendall(
        f"GET /api/kernels/{kernel}/channels?session_id={session} HTTP/1.1\r\nHost: {server}\r\nCookie: {cookie}\r\n"
        f"Origin: http://{server}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Protocol: {PROTOCOL}\r\n\r\n".encode()
    )
    assert opened.recv(12) == b"HTTP/1.1 101"
    return opened


async def connect(server: str, kernel: str, cookie: str, session: str | None = None, **headers: str):
    """A connection to a kernel; it takes the place of the one of the same session."""
    url = f"ws://{server}/api/kernels/{kernel}/channels?session_id={session or uuid.uuid4().hex}"
    wanted = {"Origin": f"http://{server}", "Cookie": cookie} | headers
    protocols = [one] if (one := wanted.pop("protocol", PROTOCOL)) else None
    return await websocket_connect(HTTPRequest(url, headers=HTTPHeaders(wanted)), subprotocols=protocols)


@pytest.mark.slow
def test_without_the_token_nothing_starts_and_one_hostile_page_stops_no_other(server):
    server, pid = server
    for path in ("/", "/?token=guessed"):
        status, headers, _ = get(server, path)
        assert status == 302 and "/login" in headers["Location"]
    port = server.partition(":")[2]
    assert get(server, f"/?token={TOKEN}", Host=f"evil.example:{port}")[0] == 403
    image = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
    assert get(server, f"/?token={TOKEN}", **image)[0] == 403

    status, headers, page = get(server, f"/?token={TOKEN}")
    assert status == 200 and headers["Referrer-Policy"] == "no-referrer"
    assert "memory (5000000000, 5000000000)" in page or not sys.platform.startswith("linux")
    cookie = headers["Set-Cookie"]
    assert "samesite=strict" in cookie.lower() and "httponly" in cookie.lower()
    cookie = cookie.partition(";")[0]
    hostile = re.search(r'"kernelId"\s*:\s*"([0-9a-f-]{36})"', page)[1]
    status, _, page = get(server, "/", Cookie=cookie)
    assert status == 200
    other = re.search(r'"kernelId"\s*:\s*"([0-9a-f-]{36})"', page)[1]
    status, _, page = get(server, "/", Cookie=cookie)
    assert status == 503 and "All 2 pages of this app are in use" in page

    async def attack() -> None:
        for headers in ({"protocol": ""}, {"Origin": "null"}, {"Origin": "http://evil.example"}, {"Cookie": "none"}):
            with pytest.raises(HTTPClientError) as caught:
                await connect(server, hostile, cookie, **headers)
            assert caught.value.code == 403
        for content, binary in ((struct.pack("<Q", 2**63), True), (b"", True), ("{}", False)):
            connection = await connect(server, hostile, cookie)
            await connection.write_message(content, binary=binary)
            while (answer := await connection.read_message()) is not None:
                assert isinstance(answer, bytes)  # status of the kernel, until the connection is closed
            assert connection.close_code == 1007
        header = {"msg_id": "1", "msg_type": "kernel_info_request", "session": "s", "username": "", "version": "5.3"}
        request = message(b"shell", json.dumps(header).encode(), b"{}", b"{}", b"{}")
        with open_socket(server, hostile, cookie, "one") as replaced:  # it never reads, and so never learns of its end
            await connect(server, hostile, cookie, "one")
            replaced.sendall(struct.pack("!BBH", 0x82, 0xFE, len(request)) + bytes(4) + request)
        connection = await connect(server, other, cookie)
        await connection.write_message(request, binary=True)
        while b"kernel_info_reply" not in (answer := await connection.read_message()):
            assert answer is not None
        connection.close()

    IOLoop().run_sync(attack, timeout=120)
    if sys.platform.startswith("linux"):
        peak_kb = int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])
        assert peak_kb < 500_000
