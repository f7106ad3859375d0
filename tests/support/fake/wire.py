"""One connection: requests in, answers out, and every way in which an answer can go wrong on the wire."""

import json
import os
import resource
import select
import signal
import socket
import struct
import time
from typing import TYPE_CHECKING, NoReturn

from tests.support.fake.switches import Switches

if TYPE_CHECKING:
    from tests.support.fake.process import Process

REASONS = {
    200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 413: "Payload Too Large",
    429: "Too Many Requests", 500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway",
    503: "Service Unavailable", 504: "Gateway Timeout",
}  # fmt: skip
JSON_TYPE = "application/json; charset=utf-8"
KEEPALIVE_S = 5.0  # cpp-httplib's idle limit and requests per connection, as llama-server sets them
KEEPALIVE_MAX = 100
MAX_LINE = 8192
MAX_HEADERS = 100
MAX_BODY = 100 * 1024 * 1024
HANG_TICK_MS = 200
TICK_MS = 20  # how soon a waiting answer notices a closed client or a stopping server
FORGED = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL"
BLOCK = b"x" * 65536


class ConnectionDone(Exception):
    """Close this connection now; with a reset if so asked."""

    def __init__(self, *, reset: bool = False) -> None:
        super().__init__()
        self.reset = reset


class Request:
    """One request as it came."""

    def __init__(
        self, method: str, target: str, version: str, headers: list[tuple[str, str]], body: bytes
    ) -> None:
        self.method = method
        self.target = target
        self.path = target.partition("?")[0]
        self.version = version
        self.headers = headers
        self.body = body

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key.lower() == name), "")


class Connection:
    """A client's socket with what has been read of it and how many requests it has carried."""

    def __init__(self, sock: socket.socket, process: "Process") -> None:
        self.sock = sock
        self.process = process
        self.served = 0
        self.buffer = b""
        self.poller = select.poll()
        # POLLRDHUP: a half-close counts as a disconnect for llama-server, and pipelined bytes do not wake us.
        self.poller.register(sock, select.POLLRDHUP)

    def read_request(self) -> Request | None:
        """The next request; None when the client left or stayed idle too long."""
        self.sock.settimeout(KEEPALIVE_S)
        while b"\r\n\r\n" not in self.buffer:
            if len(self.buffer) > MAX_LINE * MAX_HEADERS or not self._fill():
                return None
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        words = lines[0].decode("latin-1").split(" ")
        pairs = [line.decode("latin-1").partition(":") for line in lines[1:]]
        if len(words) != 3 or len(pairs) > MAX_HEADERS or any(len(line) > MAX_LINE for line in lines):
            self.send_head(400, [("Content-Length", "0"), ("Connection", "close")])
            return None
        headers = [(name, value.strip()) for name, _, value in pairs]
        request = Request(words[0], words[1], words[2], headers, b"")
        self.sock.settimeout(None)
        if request.header("expect").lower() == "100-continue":
            self.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = self._read_body(request)
        if body is None:
            return None
        request.body = body
        self.served += 1
        return request

    def _read_body(self, request: Request) -> bytes | None:
        if "chunked" in request.header("transfer-encoding").lower():
            return self._read_chunks()
        length = int(request.header("content-length") or 0)
        if length > MAX_BODY:
            self.send_head(413, [("Content-Length", "0"), ("Connection", "close")])
            return None
        return self._take(length)

    def _read_chunks(self) -> bytes | None:
        parts: list[bytes] = []
        while True:
            line = self._take_line()
            if line is None:
                return None
            size = int(line.partition(b";")[0], 16)
            data = self._take(size + 2) if size else self._take_line()
            if data is None:
                return None
            if not size:
                return b"".join(parts)
            parts.append(data[:-2])

    def _take_line(self) -> bytes | None:
        while b"\r\n" not in self.buffer:
            if not self._fill():
                return None
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        return line

    def _take(self, count: int) -> bytes | None:
        parts = [self.buffer]
        have = len(self.buffer)
        while have < count:
            data = self.sock.recv(1 << 18)
            if not data:
                return None
            parts.append(data)
            have += len(data)
        joined = b"".join(parts)
        self.buffer = joined[count:]
        return joined[:count]

    def _fill(self) -> bool:
        try:
            data = self.sock.recv(65536)
        except TimeoutError:
            return False
        self.buffer += data
        return bool(data)

    def send_head(self, status: int, headers: list[tuple[str, str]]) -> None:
        self.sock.sendall(head_bytes(status, headers))

    def is_gone(self, wait_ms: int = 0) -> bool:
        """Whether the client has closed, or does within `wait_ms`."""
        return bool(self.poller.poll(wait_ms))

    def wait_until_gone(self) -> NoReturn:
        """Say nothing until the client gives up."""
        while not self.is_gone(1000):
            pass
        raise ConnectionDone

    def close(self, *, reset: bool) -> None:
        if reset:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def head_bytes(status: int, headers: list[tuple[str, str]]) -> bytes:
    lines = [
        f"HTTP/1.1 {status} {REASONS.get(status, 'Unknown')}",
        "Server: llama.cpp",
        "Access-Control-Allow-Origin: ",
    ]
    lines += [f"{name}: {value}" for name, value in headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def error_json(status: int, message: str, kind: str) -> dict[str, object]:
    return {"error": {"code": status, "message": message, "type": kind}}


class Exchange:
    """One request and its answer, with the switches that hold for it."""

    def __init__(self, connection: Connection, request: Request, switches: Switches) -> None:
        self.connection = connection
        self.process = connection.process
        self.request = request
        self.switches = switches
        self.keep = (
            connection.served < KEEPALIVE_MAX
            and not switches.connection_close
            and request.header("connection").lower() != "close"
            and request.version != "HTTP/1.0"
        )
        self.tokens_sent = 0
        self._ping_s = 0.0  # 0: no pings
        self._last_sent = time.monotonic()
        self._gone_at = 0.0

    # -- whole answers

    def json(self, value: object, status: int = 200, headers: list[tuple[str, str]] | None = None) -> None:
        self.whole(json.dumps(value, separators=(",", ":")).encode(), status=status, headers=headers)

    def error(self, status: int, message: str, kind: str) -> None:
        self.json(error_json(status, message, kind), status)

    def whole(
        self,
        body: bytes,
        *,
        status: int = 200,
        kind: str = JSON_TYPE,
        headers: list[tuple[str, str]] | None = None,
    ) -> None:
        """An answer with its length, or cut, forged or garbled as wished."""
        if status >= 400:
            self.keep = False  # so does llama-server
        self.spoil_before_head()
        wish = self.switches
        framing = [] if wish.eof_body else [("Content-Length", str(len(body)))]
        if wish.garbage == "two_lengths":
            framing.append(("Content-Length", str(len(body) + 5)))
        head = head_bytes(status, [*(headers or []), ("Content-Type", kind), *framing, self._keep_header()])
        if self.request.method == "HEAD":
            body = b""
        if wish.cut:  # whatever its name: there is a head and half a body
            self.send(head + body[: len(body) // 2])
            raise ConnectionDone(reset=wish.cut == "rst")
        if wish.crash_signal and (wish.crash_at == "first_byte" or wish.crash_at.startswith("chunk")):
            self.send(head + body[: len(body) // 2])
            self.process.crash_if(wish, wish.crash_at)
        self.send(head + body)
        self.after()

    # -- streams

    def start_stream(self, ping_s: float) -> None:
        """The head of an event stream; from here on pauses are filled with pings."""
        self.spoil_before_head()
        framing = [] if self.switches.eof_body else [("Transfer-Encoding", "chunked")]
        kind = [("X-Accel-Buffering", "no"), ("Content-Type", "text/event-stream")]
        self.send(head_bytes(200, [*kind, *framing, self._keep_header()]))
        self._ping_s = max(0.0, ping_s)
        self.process.crash_if(self.switches, "first_byte")

    def event(self, value: object) -> None:
        """One SSE event in one chunk."""
        self.chunk(b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n")

    def token_event(self, value: object) -> None:
        """An event that carries a token: the place where streams are cut and processes die."""
        wish = self.switches
        if wish.cut in {"mid_chunk", "rst"} and self.tokens_sent >= wish.cut_after:
            data = self._framed(b"data: " + json.dumps(value).encode() + b"\n\n")
            self.send(data[: len(data) // 2])
            raise ConnectionDone(reset=wish.cut == "rst")
        if wish.garbage == "bad_chunk" and self.tokens_sent >= wish.cut_after:
            self.send(b"zz\r\nnot a chunk\r\n")
            raise ConnectionDone
        self.event(value)
        self.tokens_sent += 1
        self.process.crash_if(wish, f"chunk:{self.tokens_sent}")

    def chunk(self, data: bytes) -> None:
        self.send(self._framed(data))

    def end_stream(self) -> None:
        if self.switches.cut in {"before_last_chunk", "content_length_short"}:
            raise ConnectionDone
        if not self.switches.eof_body:
            self.send(b"0\r\n\r\n")
        self.after()

    def _framed(self, data: bytes) -> bytes:
        return data if self.switches.eof_body else b"%x\r\n%b\r\n" % (len(data), data)

    # -- both

    def spoil_before_head(self) -> None:
        """The faults that take the place of an answer's head."""
        wish = self.switches
        if wish.cut == "before_head":
            raise ConnectionDone
        if wish.garbage == "not_http":
            self.send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
        elif wish.garbage == "bad_status":
            self.send(b"HTTP/1.1 abc\r\nContent-Length: -3\r\n\r\n")
        elif wish.garbage == "long_line":
            self.send(b"HTTP/1.1 200 OK\r\nX-Long: " + BLOCK * 128)
        else:
            return
        raise ConnectionDone

    def after(self) -> None:
        """What follows a complete answer."""
        if self.switches.extra_bytes:
            count = self.switches.extra_bytes
            self.send((FORGED * (count // len(FORGED) + 1))[:count])
        if self.switches.eof_body or not self.keep:
            raise ConnectionDone

    def send(self, data: bytes) -> None:
        """All of `data`, in one piece or in a dribble of bytes."""
        sock = self.connection.sock
        if self.switches.bytewise:
            for index in range(len(data)):
                sock.sendall(data[index : index + 1])
                time.sleep(0.0002)  # long enough for a reader to see the byte alone
        else:
            sock.sendall(data)
        self._last_sent = time.monotonic()

    def pause(self, seconds: float, *, streaming: bool, tick_ms: int = TICK_MS) -> None:
        """Wait as the server would: notice a client that left, send pings, fall silent when stopping.

        A closed client ends a stream at once; any other answer only after a second, as in llama-server.
        """
        end = time.monotonic() + seconds
        while True:
            now = time.monotonic()
            if self.process.stopping:
                self._fall_silent(streaming=streaming)
            left = end - now
            wait_ms = min(tick_ms, int(left * 1000)) if left > 0 else 0
            if self._gone_at:
                if streaming or now - self._gone_at > 1.0:
                    raise ConnectionDone
                time.sleep(max(wait_ms, 0) / 1000)
            elif self.connection.is_gone(wait_ms):
                self._gone_at = time.monotonic()
                continue
            if streaming and self._ping_s and now - self._last_sent >= self._ping_s:
                self.chunk(b":\n\n")
            if left <= 0:
                return
            if left < 0.001:
                time.sleep(left)

    def hang(self, *, streaming: bool) -> NoReturn:
        """No token ever comes (pings do, in a stream), and hardly any processor time is used."""
        while True:
            self.pause(3600.0, streaming=streaming, tick_ms=HANG_TICK_MS)

    def _fall_silent(self, *, streaming: bool) -> NoReturn:
        """After SIGTERM: a stream is cut at the next ping, anything else hangs until the client leaves."""
        deadline = self._last_sent + self._ping_s if streaming and self._ping_s else float("inf")
        while time.monotonic() < deadline:
            if self.connection.is_gone(TICK_MS):
                break
        raise ConnectionDone

    def _keep_header(self) -> tuple[str, str]:
        keep = self.keep and not self.switches.eof_body
        return ("Keep-Alive", "timeout=5, max=100") if keep else ("Connection", "close")


def kill_self(name: str) -> NoReturn:
    """Die of a signal, at once and for certain; other threads must not get further meanwhile."""
    number = getattr(signal, name if name.startswith("SIG") else "SIG" + name)
    if signal.getsignal(number) is not signal.SIG_DFL and number not in {signal.SIGKILL, signal.SIGSTOP}:
        number = signal.SIGKILL  # a handler of ours would survive it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file is no use to anyone
    os.kill(os.getpid(), number)
    while True:
        time.sleep(1)
