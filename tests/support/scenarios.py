"""What the scripted upstream may be asked to do: one function a path, ``/stream?events=3`` and the like.

A scenario answers over `Call` and says with CLOSE or KEEP whether the connection goes on. Those marked
`before_body` are asked before the request's body is read.
"""

import json
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.upstream import ScriptedUpstream

CLOSE, KEEP = False, True
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
FORGED = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL"
BLOCK = bytes(range(256)) * 256
WAIT_S = 10.0
_RESET = struct.pack("ii", 1, 0)


class Gone(Exception):
    """The proxy has closed this connection."""


@dataclass(slots=True)
class Arrived:
    """One request as it reached the upstream, whole."""

    connection: int
    method: str
    target: str
    headers: list[tuple[str, str]]
    body_bytes: int
    sha256: str
    body: bytes  # its first 64 bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


@dataclass(slots=True)
class Call:
    """A request to be answered, and the means to do it."""

    upstream: "ScriptedUpstream"
    sock: socket.socket
    method: str
    query: dict[str, str]
    served: int  # requests this connection has carried, this one included
    arrived: Arrived | None = None

    def number(self, name: str, default: float) -> float:
        return float(self.query.get(name, default))

    def send(self, data: bytes) -> None:
        try:
            self.sock.sendall(data)
        except OSError as exc:
            raise Gone from exc

    def chunk(self, data: bytes) -> None:
        self.send(b"%x\r\n%b\r\n" % (len(data), data))

    def json(self, extra: bytes = b"", *, keep: bool = KEEP) -> bool:
        """What arrived, as the answer."""
        assert self.arrived is not None
        facts = {"target": self.arrived.target, "body_bytes": self.arrived.body_bytes}
        body = json.dumps(facts).encode()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n"
        self.send(head % (extra, len(body)) + (b"" if self.method == "HEAD" else body))
        return keep

    def listen(self, seconds: float) -> None:
        """Say nothing for so long; Gone when the proxy closes meanwhile."""
        self.sock.settimeout(seconds)
        try:
            if not self.sock.recv(1, socket.MSG_PEEK):
                raise Gone
        except TimeoutError:
            pass
        except OSError as exc:
            raise Gone from exc
        finally:
            self.sock.settimeout(WAIT_S)

    def reset(self) -> bool:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        return CLOSE


Scenario = Callable[[Call], bool]
SCENARIOS: dict[str, Scenario] = {}
BEFORE_BODY: dict[str, Scenario] = {}


def scenario(play: Scenario) -> Scenario:
    SCENARIOS["/" + play.__name__] = play
    return play


def before_body(play: Scenario) -> Scenario:
    BEFORE_BODY["/" + play.__name__] = play
    return play


# ---- whole answers


@scenario
def echo(call: Call) -> bool:
    return call.json(
        b"X-A: 1\r\nX-A: 2\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nKeep-Alive: timeout=5, max=100\r\n"
    )


@scenario
def used(call: Call) -> bool:
    """An answer of so many tokens; with ``stream=1`` as events."""
    usage = {
        "prompt_tokens": int(call.number("prompt", 10)),
        "completion_tokens": int(call.number("completion", 5)),
    }
    text = json.dumps({"choices": [{}], "usage": usage}, separators=(",", ":")).encode()
    if not call.number("stream", 0):
        call.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (len(text), text)
        )
        return KEEP
    call.send(STREAM_HEAD)
    call.chunk(b"data: %b\n\n" % text)
    call.chunk(b"data: [DONE]\n\n")
    call.send(LAST_CHUNK)
    return KEEP


@scenario
def last_one(call: Call) -> bool:
    return call.json(b"Connection: close\r\n", keep=CLOSE)


@scenario
def slow(call: Call) -> bool:
    """Silent for ``s`` seconds."""
    call.listen(call.number("s", WAIT_S))
    return call.json()


@scenario
def pause(call: Call) -> bool:
    """An answer after ``s`` seconds, whether or not anybody is left to read it."""
    time.sleep(call.number("s", 0.01))
    return call.json()


@scenario
def gated(call: Call) -> bool:
    """Silent until `go_on` is set."""
    while not call.upstream.go_on.is_set():
        call.listen(0.01)
    return call.json()


@scenario
def no_content(call: Call) -> bool:
    call.send(b"HTTP/1.1 204 No Content\r\n\r\n")
    return KEEP


@scenario
def not_modified(call: Call) -> bool:
    call.send(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 55\r\nETag: x\r\n\r\n")
    return KEEP


@scenario
def until_close(call: Call) -> bool:
    call.send(b"HTTP/1.1 200 OK\r\n\r\nuntil-eof")
    return CLOSE


@scenario
def interim_continue(call: Call) -> bool:
    call.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    call.listen(0.01)
    return call.json()


@scenario
def interim_hints(call: Call) -> bool:
    call.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
    return call.json()


@scenario
def server_error(call: Call) -> bool:
    call.send(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 3\r\n\r\noh!")
    return KEEP


# ---- streams


@scenario
def stream(call: Call) -> bool:
    """``events`` events, one each ``s`` seconds, then the last chunk; ``s=0``: as fast as it goes.

    ``size``: bytes of padding in each.
    """
    call.send(STREAM_HEAD)
    pause_s, padding = call.number("s", 0.0), b"x" * int(call.number("size", 0))
    for i in range(int(call.number("events", 3))):
        call.chunk(b"data: %d%b\n\n" % (i, padding))
        if pause_s:
            call.listen(pause_s)
    call.send(LAST_CHUNK)
    return KEEP


UNICODE = "äöü 日本語 🙂 \u2028 e\u0301"


@scenario
def unicode(call: Call) -> bool:
    """One event, a chunk a byte: characters are torn, as they are between tokens."""
    call.send(STREAM_HEAD)
    for byte in f"data: {UNICODE}\n\n".encode():
        call.chunk(bytes([byte]))
    call.send(LAST_CHUNK)
    return KEEP


@scenario
def dribble(call: Call) -> bool:
    """Head and chunks byte by byte, with a chunk extension."""
    for byte in STREAM_HEAD + b"5;ext=1\r\nhello\r\nA\r\n0123456789\r\n" + LAST_CHUNK:
        call.send(bytes([byte]))
        time.sleep(0.0002)
    return KEEP


@scenario
def looks_final(call: Call) -> bool:
    """Payload that reads like the last chunk, cut where a careless reader would be fooled."""
    for piece in (
        STREAM_HEAD + b"6\r\na0\r\n\r\n",
        b"\r\n",
        b"5\r\n0\r\n\r\n",
        b"\r\n3\r\nend\r\n" + LAST_CHUNK,
    ):
        call.send(piece)
        time.sleep(0.01)
    return KEEP


@scenario
def trailers(call: Call) -> bool:
    call.send(STREAM_HEAD + b"5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n")
    return KEEP


# ---- large


@scenario
def download(call: Call) -> bool:
    """``bytes`` bytes with a length; chunked when asked for ``chunked=1``."""
    total, chunked = int(call.number("bytes", 0)), "chunked" in call.query
    sent = call.upstream.sent = 0  # the latter is for whoever watches one download
    call.send(STREAM_HEAD if chunked else b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
    while sent < total:
        block = BLOCK[: total - sent]
        call.chunk(block) if chunked else call.send(block)
        sent += len(block)
        call.upstream.sent = sent
    if chunked:
        call.send(LAST_CHUNK)
    return KEEP


@before_body
def hold_upload(call: Call) -> bool:
    """Do not read the body until `go_on` is set."""
    return call.upstream.go_on.wait(WAIT_S)


@before_body
def early_413(call: Call) -> bool:
    call.send(b"HTTP/1.1 413 Too Big\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
    call.upstream.go_on.wait(0.2)
    return CLOSE


# ---- answers that break


@scenario
def nothing(call: Call) -> bool:
    return CLOSE


@scenario
def garbage(call: Call) -> bool:
    call.send(b"SSH-2.0-OpenSSH\r\n\r\n")
    return CLOSE


@scenario
def bad_status(call: Call) -> bool:
    call.send(b"HTTP/1.1 abc\r\nContent-Length: -3\r\n\r\n")
    return CLOSE


@scenario
def two_lengths(call: Call) -> bool:
    call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 5\r\n\r\nokokok")
    return CLOSE


@scenario
def endless_head(call: Call) -> bool:
    """An 8 MiB header line: sent until somebody loses patience."""
    call.send(b"HTTP/1.1 200 OK\r\nX-Long: ")
    for _ in range(128):
        call.send(BLOCK.replace(b"\n", b"-").replace(b"\r", b"-"))
    return CLOSE


@scenario
def cut_between_events(call: Call) -> bool:
    call.send(STREAM_HEAD)
    call.chunk(b"data: 1\n\n")
    call.listen(0.02)
    return CLOSE


@scenario
def cut_between_events_by_reset(call: Call) -> bool:
    cut_between_events(call)
    return call.reset()


@scenario
def cut_in_chunk(call: Call) -> bool:
    call.send(STREAM_HEAD)
    call.chunk(b"data: 1\n\n")
    call.listen(0.02)
    call.send(b"9\r\ndata")
    call.listen(0.02)
    return CLOSE


@scenario
def cut_after_head(call: Call) -> bool:
    call.send(STREAM_HEAD)
    call.listen(0.02)
    return CLOSE


@scenario
def cut_length(call: Call) -> bool:
    call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 500)
    call.listen(0.02)
    return CLOSE


@scenario
def cut_until_close(call: Call) -> bool:
    call.send(b"HTTP/1.1 200 OK\r\n\r\nuntil-eof")
    call.listen(0.03)
    return call.reset()


@scenario
def bad_chunk(call: Call) -> bool:
    call.send(STREAM_HEAD)
    call.chunk(b"data: 1\n\n")
    call.listen(0.02)
    call.send(b"zz\r\nnot a chunk\r\n")
    return CLOSE


@scenario
def surplus_length(call: Call) -> bool:
    call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + FORGED)
    return KEEP


@scenario
def surplus_length_later(call: Call) -> bool:
    call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    call.listen(0.02)
    call.send(FORGED)
    return KEEP


@scenario
def surplus_chunked(call: Call) -> bool:
    call.send(STREAM_HEAD)
    call.chunk(b"data: 1\n\n")
    call.listen(0.02)
    call.send(LAST_CHUNK + FORGED)
    return KEEP


@scenario
def surplus_line_break(call: Call) -> bool:
    call.send(STREAM_HEAD + b"2\r\nok\r\n" + LAST_CHUNK + b"\r\n")
    return KEEP


@scenario
def dies_when_reused(call: Call) -> bool:
    if call.served > 1 and call.upstream.die_when_reused > 0:
        call.upstream.die_when_reused -= 1
        return CLOSE
    return call.json()
