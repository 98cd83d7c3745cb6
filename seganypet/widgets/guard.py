"""Who may ask the app's server for what, and for how much of it.

More than its own pages reach the port: every page that is open in the same browser, a name that somebody points to this
machine (DNS rebinding), and every user of this machine. So a page needs the token of the printed address, and a request
that another site made the browser send is refused before anything answers it. Kernels are limited in number, in memory
and in idle time, and a connection that speaks another protocol, sends what is no message, or never reads is closed.
"""

import struct
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from tornado.httputil import HTTPServerRequest, split_host_and_port
from tornado.iostream import StreamBufferFullError
from tornado.routing import Matcher, Rule
from tornado.web import HTTPError, RequestHandler
from traitlets import Float, Integer
from voila.app import Voila
from voila.tornado.kernel_websocket_handler import VoilaKernelWebsocketHandler

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

PROTOCOL = "v1.kernel.websocket.jupyter.org"  # the only one; Voila 0.5 freezes on a binary message of the older one
LOCAL_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
MAX_PARTS = 100  # of a message: its four parts, and buffers
MAX_UNREAD_BYTES = 400_000_000  # more than twice the largest message, the uncertainty of a total-body scan
NEVER_OPENED_S = 120  # a kernel whose page never connected
LEFT_OPEN_S = 12 * 3600  # one whose page is open, and whom nobody asks anything


def refusal(request: HTTPServerRequest, any_host: bool = False) -> str | None:
    """Why a request is refused; None if it is not.

    Args:
        request: Request that has arrived.
        any_host: Whether the server may be called by any name, as behind a proxy.
    """
    headers = request.headers
    name = split_host_and_port(request.host.lower())[0].strip("[]")
    if not any_host and name not in LOCAL_NAMES:
        return f"this server is not called {name}"
    origin, is_socket = headers.get("Origin"), headers.get("Upgrade", "").lower() == "websocket"
    if (origin is not None and urlsplit(origin.lower()).netloc != request.host.lower()) or (is_socket and not origin):
        return "another site asks"
    opened = (request.method, headers.get("Sec-Fetch-Mode"), headers.get("Sec-Fetch-Dest")) == (
        "GET", "navigate", "document",
    )  # fmt: skip
    if headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none") and not opened:
        return "another site asks"
    offered = [one.strip() for one in headers.get("Sec-WebSocket-Protocol", "").split(",")]
    if is_socket and PROTOCOL not in offered:
        return f"expected the protocol {PROTOCOL}"
    return None


def is_message(content: str | bytes) -> bool:
    """Whether bytes have the layout of a message: how many offsets there are, these in rising order, and the parts.

    >>> is_message(struct.pack("<7Q", 6, 56, 61, 63, 65, 67, 69) + b"shell{}{}{}{}")
    True
    >>> is_message(struct.pack("<Q", 2**63))
    False
    """
    if not isinstance(content, bytes) or len(content) < 8:
        return False
    count = int.from_bytes(content[:8], "little")
    begins = 8 * (count + 1)
    if not 6 <= count <= MAX_PARTS or begins > len(content):
        return False
    offsets = struct.unpack_from(f"<{count}Q", content, 8)
    return offsets[0] == begins and list(offsets) == sorted(offsets) and offsets[-1] <= len(content)


class Unwanted(Matcher):
    """Matches what `refusal` refuses."""

    def __init__(self, any_host: bool):
        self.any_host = any_host

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        """Arguments of `Refused` for a request that is refused."""
        reason = refusal(request, self.any_host)
        return None if reason is None else {"target_kwargs": {"reason": reason}}


class Refused(RequestHandler):
    """Answers 403, whatever was asked."""

    def initialize(self, reason: str) -> None:
        """Take over the reason, which tornado passes by keyword."""
        self.reason = reason

    def prepare(self) -> None:
        """Answer before any method is called."""
        self.set_status(403)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(f"Refused: {self.reason}. Open the address that the app printed when it was started.\n")


class GuardedSocket(VoilaKernelWebsocketHandler):
    """A page's connection to its kernel."""

    async def open(self, kernel_id: str) -> None:
        """Connect, with a bound on what waits for a browser that does not read."""
        self.ws_connection.stream.max_write_buffer_size = MAX_UNREAD_BYTES
        await super().open(kernel_id)

    def on_message(self, message: str | bytes) -> None:
        """Pass a message on, or close the connection if it is none; what arrives after a close is dropped."""
        if self.ws_connection is None:
            return  # on its way when another connection took this one's place; it would be read by the older protocol
        if is_message(message):
            super().on_message(message)
        else:
            self.close(1007, "not a message of the protocol")

    def write_message(self, message: bytes | dict[str, Any], binary: bool = False) -> Any:
        """Send a message, unless too much is unread."""
        try:
            return super().write_message(message, binary)
        except StreamBufferFullError:
            self.ws_connection.stream.close()


class UnreadMessages(list):
    """What a kernel says while its page is away.

    Args:
        give_up: Called without arguments once this holds more than `MAX_UNREAD_BYTES`.
    """

    def __init__(self, give_up: Callable[[], None]):
        self._give_up, self._bytes = give_up, 0

    def append(self, message: tuple[str, list[bytes]]) -> None:
        """Keep a message: its channel and its parts."""
        super().append(message)
        self._bytes += sum(map(len, message[1]))
        if self._bytes > MAX_UNREAD_BYTES:
            self._give_up()


class LimitedKernels(AsyncMappingKernelManager):
    """Kernels of pages."""

    max_kernels = Integer(8, config=True, help="Number of kernels at a time.")
    memory_gb = Float(5.0, config=True, help="Memory of one kernel, in GB (10^9 bytes); Linux only.")

    def __init__(self, **arguments: Any):
        super().__init__(**arguments)
        self._starting = 0
        self._opened: set[str] = set()

    async def start_kernel(self, **arguments: Any) -> str:  # type: ignore[override]  # of the asynchronous manager
        """Start a kernel, or answer 503 if there are as many as may be."""
        if len(self) + self._starting >= self.max_kernels:
            # As the reason, because Voila shows no other message.
            raise HTTPError(503, reason=f"All {self.max_kernels} pages of this app are in use; come back later")
        self._starting += 1
        try:
            kernel_id = await super().start_kernel(**arguments)
        finally:
            self._starting -= 1
        pid = getattr(self.get_kernel(kernel_id).provisioner, "pid", None)
        if pid is not None and hasattr(resource, "prlimit"):
            most = int(self.memory_gb * 1e9)
            resource.prlimit(pid, resource.RLIMIT_DATA, (most, most))
        return kernel_id

    def notify_connect(self, kernel_id: str) -> None:
        """Note that a page has opened."""
        self._opened.add(kernel_id)
        super().notify_connect(kernel_id)

    def start_buffering(self, kernel_id: str, session_key: str, channels: dict[str, Any]) -> None:
        """Keep a kernel's messages for a page that may come back, unless they become too many."""
        super().start_buffering(kernel_id, session_key, channels)
        if kernel_id in self._kernel_buffers:
            self._kernel_buffers[kernel_id]["buffer"] = UnreadMessages(partial(self.stop_buffering, kernel_id))

    async def cull_kernel_if_idle(self, kernel_id: str) -> None:
        """End a kernel that nobody uses: soon if its page never opened, late if it is still open."""
        kernel = self._kernels[kernel_id]
        now = datetime.now(UTC)
        idle_s = (now - getattr(kernel, "last_activity", now)).total_seconds()  # it has none before it has started
        if kernel.execution_state != "busy" and idle_s > (LEFT_OPEN_S if kernel_id in self._opened else NEVER_OPENED_S):
            await self.shutdown_kernel(kernel_id)
        else:
            await super().cull_kernel_if_idle(kernel_id)


class GuardedVoila(Voila):
    """Voila behind `refusal`."""

    def init_handlers(self) -> list:
        """Voila's handlers; before them, what is refused, and instead of its connection to kernels, ours."""
        handlers = [
            (path, GuardedSocket, *rest) if handler is VoilaKernelWebsocketHandler else (path, handler, *rest)
            for path, handler, *rest in super().init_handlers()
        ]
        return [Rule(Unwanted(any_host=self.base_url != "/"), Refused), *handlers]
