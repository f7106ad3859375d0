"""An upstream that does what the request's path says: threads and raw sockets, and a memory of what arrived.

    with ScriptedUpstream() as upstream:
        ...                                  # a request for /stream?events=3 arrives through the proxy
        assert upstream.arrived[0].body_bytes == 2

What the paths mean is in `scenarios`.
"""

import contextlib
import hashlib
import socket
import threading
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import parse_qsl

from tests.support.scenarios import BEFORE_BODY, CLOSE, SCENARIOS, Arrived, Call, Gone, echo


@dataclass
class ScriptedUpstream:
    """Listens on a free port of 127.0.0.1. ``left``: paths whose connection the proxy closed too early."""

    arrived: list[Arrived] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)  # paths, as soon as the head has come
    connections: int = 0
    sent: int = 0  # bytes of the download under way
    die_when_reused: int = 0
    mute: bool = False  # close each connection as soon as it is accepted

    def __post_init__(self) -> None:
        self.open: set[socket.socket] = set()
        self.go_on = threading.Event()  # lets the scenarios that wait for it continue
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening and break every connection, as a killed process does."""
        self.go_on.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in list(self.open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def forget(self) -> None:
        """Begin anew what is remembered."""
        self.arrived.clear()
        self.left.clear()
        self.begun.clear()

    def targets(self) -> list[str]:
        return [request.target for request in self.arrived]

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            if self.mute:
                sock.close()
                continue
            self.open.add(sock)
            threading.Thread(target=self._serve, args=(sock, self.connections), daemon=True).start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader, served, path = _Reader(sock), 0, ""
        try:
            while True:
                path = ""
                head = reader.head()
                served += 1
                path, keep = self._one(head, reader, number, served)
                if not keep:
                    return
        except (Gone, OSError):
            self.left.append(path or reader.path)
        finally:
            self.open.discard(sock)
            sock.close()

    def _one(self, head: bytes, reader: "_Reader", number: int, served: int) -> tuple[str, bool]:
        lines = head.decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ", 2)
        path, _, query = target.partition("?")
        reader.path = path
        self.begun.append(path)
        call = Call(self, reader.sock, method, dict(parse_qsl(query)), served)
        if path in BEFORE_BODY and not BEFORE_BODY[path](call):
            return path, CLOSE
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines[1:])]
        count, digest, start = reader.body({name.lower(): value for name, value in headers})
        call.arrived = Arrived(number, method, target, headers, count, digest, start)
        self.arrived.append(call.arrived)
        return path, SCENARIOS.get(path, echo)(call)


class _Reader:
    """Requests off one socket; bodies are hashed, not kept."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.path = ""
        self._buffer = b""

    def _fill(self) -> None:
        data = self.sock.recv(1 << 18)
        if not data:
            raise Gone
        self._buffer += data

    def head(self) -> bytes:
        self.path = ""
        while b"\r\n\r\n" not in self._buffer:
            self._fill()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return head

    def body(self, headers: dict[str, str]) -> tuple[int, str, bytes]:
        """Length, SHA-256 and beginning. The proxy always sends a length, or no body at all."""
        assert "transfer-encoding" not in headers
        left = count = int(headers.get("content-length", 0))
        digest, start = hashlib.sha256(), b""
        while left:
            if not self._buffer:
                self._fill()
            piece, self._buffer = self._buffer[:left], self._buffer[left:]
            left -= len(piece)
            digest.update(piece)
            start = start or piece[:64]
        return count, digest.hexdigest(), start
