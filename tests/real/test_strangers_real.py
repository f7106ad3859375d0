"""Strangers on the real binary: what costs them nothing must cost nobody else anything."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from supervisor.types import MIB
from tests.support import rawhttp
from tests.support.daemon import CHAT, DaemonUnderTest, running, until

pytestmark = pytest.mark.real

BODY_BYTES = 31 * MIB
HALF = b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n{"


@pytest.fixture(scope="module")
def locked(llama_server_binary: Path, demo_model: Path) -> Iterator[DaemonUnderTest]:
    with running(binary=llama_server_binary, model_path=demo_model, proxy={"require_key": True}) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def open_(llama_server_binary: Path, demo_model: Path) -> Iterator[DaemonUnderTest]:
    with running(binary=llama_server_binary, model_path=demo_model) as daemon:
        yield daemon


class Neighbour(threading.Thread):
    """Somebody else, who asks for the daemon's health again and again. ``worst_s``: the longest wait."""

    def __init__(self, daemon: DaemonUnderTest) -> None:
        super().__init__(daemon=True)
        self._under_test, self._over = daemon, threading.Event()
        self.worst_s, self.statuses = 0.0, set[int]()

    def run(self) -> None:
        while not self._over.wait(0.01):
            began = time.monotonic()
            self.statuses.add(self._under_test.health().status)
            self.worst_s = max(self.worst_s, time.monotonic() - began)

    def __enter__(self) -> "Neighbour":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


def rss(daemon: DaemonUnderTest) -> int:
    return int(psutil.Process(daemon.pid).memory_info().rss)


def ask(daemon: DaemonUnderTest, unit: bytes) -> int:
    body = (
        b'{"messages":[{"role":"user","content":"x"}],"max_tokens":1,"x":['
        + unit * (BODY_BYTES // len(unit))
        + b"0]}"
    )
    sock = rawhttp.connect(daemon.port, 20.0)
    with sock:
        with contextlib.suppress(OSError):  # the answer may come first
            sock.sendall(rawhttp.request("POST", CHAT, body))
        return rawhttp.Reader(sock).response().status


@pytest.mark.parametrize("unit", [b"[],", b"{},", b'"a",', b"1,"])
def test_a_body_without_a_key_is_not_read(locked: DaemonUnderTest, unit: bytes) -> None:
    before = rss(locked)
    with Neighbour(locked) as other:
        assert ask(locked, unit) == 401
    assert rss(locked) - before < BODY_BYTES
    assert other.statuses == {200}
    assert other.worst_s < 0.5, "it was 1.4 s, and measured now it is 0.02"


@pytest.mark.parametrize("unit", [b"[],", b'{"a":1},', b'"' + b"\\n" * 4000 + b'",'])
def test_a_body_of_somebody_who_may_ask_delays_nobody(open_: DaemonUnderTest, unit: bytes) -> None:
    before = rss(open_)
    with Neighbour(open_) as other:
        assert ask(open_, unit) in {200, 400, 413}
    assert rss(open_) - before < 4 * BODY_BYTES
    assert other.statuses == {200}
    assert other.worst_s < 0.5


def test_half_requests_from_one_address_leave_places_for_others(open_: DaemonUnderTest) -> None:
    half: list[socket.socket] = []
    try:
        for _ in range(200):
            half.append(rawhttp.connect(open_.port, 5.0))
            half[-1].sendall(HALF)
        assert open_.health().status == 200
        assert open_.chat(max_tokens=2).status == 200
    finally:
        for one in half:
            one.close()
    until(lambda: open_.health().status == 200, "all is as before")
