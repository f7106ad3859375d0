"""A blocking HTTP/1.1 client on a raw socket that hides nothing: framing, chunk boundaries, truncation.

    with rawhttp.connect(port) as sock:
        sock.sendall(rawhttp.request("POST", "/v1/completions", {"prompt": "hi", "stream": True}))
        answer = rawhttp.Reader(sock).response()

A broken answer is returned with ``complete=False``, never raised: telling it apart is what the tests are for.
"""

import json
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

TIMEOUT_S = 5.0
NO_BODY = frozenset({204, 304})


@dataclass(slots=True)
class Response:
    """An answer as it came over the wire."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes = b""
    complete: bool = False  # the end was marked: by length, last chunk, or a clean close where neither is
    chunks: list[bytes] = field(default_factory=list)  # each chunk's data; a torn last one is in `body` only
    trailers: list[tuple[str, str]] = field(default_factory=list)
    was_reset: bool = False  # the connection ended in a reset

    def header(self, name: str) -> str | None:
        """The first header of that name, in any case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def json(self) -> object:
        return json.loads(self.body)

    def events(self) -> list[str]:
        """The ``data:`` payloads of an event stream, ``[DONE]`` included."""
        lines = self.body.decode("utf-8", "replace").splitlines()
        return [line[5:].strip() for line in lines if line.startswith("data:")]


class ClosedError(ConnectionError):
    """The connection ended before a whole response head; what had come is in ``received``."""

    def __init__(self, received: bytes, *, was_reset: bool) -> None:
        super().__init__(f"closed after {received[:80]!r}")
        self.received = received
        self.was_reset = was_reset


def connect(
    port: int, timeout_s: float = TIMEOUT_S, *, receive_buffer: int | None = None, source: str | None = None
) -> socket.socket:
    """A connection to 127.0.0.1; a small `receive_buffer` makes a client that stalls soon. ``source``: the address it
    comes from (Linux: any of 127.0.0.0/8).
    """
    sock = socket.socket()
    if source is not None:
        sock.bind((source, 0))
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(timeout_s)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        sock.connect(("127.0.0.1", port))
    except OSError:
        sock.close()
        raise
    return sock


def request(
    method: str,
    path: str,
    body: bytes | str | Mapping[str, object] | None = None,
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
) -> bytes:
    """The bytes of a request. A mapping goes out as JSON; Host and Content-Length are added unless given."""
    pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
    names = {name.lower() for name, _ in pairs}
    if isinstance(body, Mapping):
        body = json.dumps(body)
        if "content-type" not in names:
            pairs.append(("Content-Type", "application/json"))
    data = body.encode() if isinstance(body, str) else body or b""
    if "host" not in names:
        pairs.insert(0, ("Host", "localhost"))
    if body is not None and not names & {"content-length", "transfer-encoding"}:
        pairs.append(("Content-Length", str(len(data))))
    head = "".join(f"{name}: {value}\r\n" for name, value in pairs)
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + data


def ask(
    port: int,
    method: str,
    path: str,
    body: bytes | str | Mapping[str, object] | None = None,
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    *,
    timeout_s: float = TIMEOUT_S,
    source: str | None = None,
) -> Response:
    """One request on a connection of its own."""
    with connect(port, timeout_s, source=source) as sock:
        sock.sendall(request(method, path, body, headers))
        return Reader(sock).response(head_only=method == "HEAD")


class Reader:
    """Reads answers from one socket, in order, keeping what it read too far."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = b""
        self.was_reset = False

    def response(self, *, head_only: bool = False) -> Response:
        """The next final answer (1xx are skipped).

        :raises ClosedError: when the connection ends before a whole head.
        :raises TimeoutError: when nothing comes for the socket's timeout.
        """
        answer = self.head()
        while 100 <= answer.status < 200:
            answer = self.head()
        coding = (answer.header("transfer-encoding") or "").lower()
        length = answer.header("content-length")
        if head_only or answer.status in NO_BODY:
            answer.complete = True
        elif coding == "chunked":
            self._chunked(answer)
        elif length is not None:
            answer.body = self._take(int(length))
            answer.complete = len(answer.body) == int(length)
        else:
            while self._fill():
                pass
            answer.body, self.buffer = self.buffer, b""
            answer.complete = not self.was_reset
        answer.was_reset = self.was_reset
        return answer

    def head(self) -> Response:
        """Status line and headers only; the body stays unread. Raises as `response` does."""
        while b"\r\n\r\n" not in self.buffer:
            if not self._fill():
                raise ClosedError(self.buffer, was_reset=self.was_reset)
        raw, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        lines = raw.decode("latin-1").split("\r\n")
        return Response(int(lines[0].split(" ")[1]), [_pair(line) for line in lines[1:]])

    def chunk(self) -> bytes | None:
        """The next chunk's data, b"" for the last one, None when the connection ended before it was whole."""
        line = self._line()
        if line is None:
            return None
        size = int(line.partition(b";")[0], 16)
        if size == 0:
            return b""
        data = self._take(size + 2)
        if len(data) < size + 2:
            self.buffer = data  # what is torn stays readable
            return None
        return data[:-2]

    def is_closed(self) -> bool:
        """Whether the peer has closed, waiting at most the socket's timeout; surplus bytes are kept in `buffer`."""
        try:
            return not self._fill()
        except TimeoutError:
            return False

    def _chunked(self, answer: Response) -> None:
        while data := self.chunk():
            answer.chunks.append(data)
        answer.body = b"".join(answer.chunks)
        if data is None:
            answer.body += self.buffer
            self.buffer = b""
            return
        while line := self._line():
            answer.trailers.append(_pair(line.decode("latin-1")))
        answer.complete = line is not None

    def _line(self) -> bytes | None:
        while b"\r\n" not in self.buffer:
            if not self._fill():
                return None
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        return line

    def _take(self, count: int) -> bytes:
        """`count` bytes, or fewer where the connection ends."""
        parts, have = [self.buffer], len(self.buffer)
        self.buffer = b""
        while have < count and self._fill():
            parts.append(self.buffer)
            have += len(self.buffer)
            self.buffer = b""
        joined = b"".join(parts)
        self.buffer = joined[count:]
        return joined[:count]

    def _fill(self) -> bool:
        try:
            data = self.sock.recv(1 << 18)
        except (ConnectionResetError, BrokenPipeError):
            self.was_reset = True
            return False
        self.buffer += data
        return bool(data)


def _pair(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name, value.strip()
