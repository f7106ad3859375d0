"""Clients that take their time: with a head, with a body, with nothing at all, with reading. (7, 13)"""

import contextlib
import json
import socket
from collections.abc import Callable

from supervisor.types import MIB
from tests.attack.attacker import Assault, Attacker
from tests.support import rawhttp

CONNECTIONS = 500  # of each of these attackers at a time: more places than the daemon has (`run.DESCRIPTORS`)
LARGE_BODIES = 10
NON_READERS = 8
HOLD_S = 40.0  # then they let go, and come again
DRIP_S = 4.0  # a byte each so often
CONNECT_S = 3.0
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"


def slow_heads(assault: Assault) -> None:
    _hold(assault, CONNECTIONS, lambda _: HEAD + b"X-Slow: ", b"a")


def slow_bodies(assault: Assault) -> None:
    _hold(assault, CONNECTIONS, lambda _: HEAD + b"Content-Length: 1000\r\n\r\n{", b" ")


def slow_chunks(assault: Assault) -> None:
    _hold(assault, CONNECTIONS // 4, lambda _: HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n")


def silent(assault: Assault) -> None:
    _hold(assault, CONNECTIONS, lambda _: b"", b"")


def large_bodies(assault: Assault) -> None:
    """Almost all of 31 MiB at once, then a byte now and then."""
    size = 31 * MIB
    _hold(
        assault,
        LARGE_BODIES,
        lambda _: HEAD + b"Content-Length: %d\r\n\r\n" % size + b"x" * (size - 1000),
        b"x",
    )


def non_readers(assault: Assault) -> None:
    """Long answers that nobody takes."""

    def request(number: int) -> bytes:
        body = {
            "prompt": f"{assault.unique()} {number}",
            "n_predict": 1500,
            "ignore_eos": True,
            "n_probs": 50,
            "stream": True,
        }
        return rawhttp.request("POST", "/completion", json.dumps(body))

    _hold(assault, NON_READERS, request, b"", receive_buffer=2048)


def _hold(
    assault: Assault,
    number: int,
    begin: Callable[[int], bytes],
    drip: bytes,
    *,
    receive_buffer: int | None = None,
) -> None:
    """``begin``: what the nth connection says first; ``drip``: what it says from time to time."""
    held: list[socket.socket] = []
    with contextlib.ExitStack() as stack:
        for n in range(number):
            if assault.stop.is_set():
                return
            try:
                sock = stack.enter_context(assault.connect(CONNECT_S, receive_buffer=receive_buffer))
                held.append(sock)
                sock.sendall(begin(n))
                assault.tally["held"] += 1
            except OSError:  # turned away, or not read from any more
                assault.tally["turned away"] += 1
            assault.strikes += 1
        for _ in range(int(HOLD_S / DRIP_S)):
            if assault.stop.wait(DRIP_S):
                return
            for sock in held:
                with contextlib.suppress(OSError):
                    sock.settimeout(0.01)
                    sock.sendall(drip)


ATTACKERS = [
    Attacker("slow heads", (7,), slow_heads, 0.5),
    Attacker("slow bodies", (7,), slow_bodies, 0.5),
    Attacker("slow chunks", (7,), slow_chunks, 0.5),
    Attacker("silent connections", (7, 13), silent, 0.5),
    Attacker("slow large bodies", (6, 7), large_bodies, 0.5),
    Attacker("readers that do not read", (7,), non_readers, 0.5),
]
