import asyncio
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.observe.systemd import Notifier, keep_alive
from tests.support.clock import FakeClock

pytestmark = pytest.mark.anyio


class Systemd:
    """The other end of the socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self._sock.setblocking(False)

    def heard(self) -> list[str]:
        messages = []
        while True:
            try:
                messages.append(self._sock.recv(4096).decode())
            except BlockingIOError:
                return messages

    def close(self) -> None:
        self._sock.close()


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    it = Systemd(str(tmp_path / "notify") if request.param == "path" else f"@llmsup-test-{os.getpid()}")
    yield it
    it.close()


def test_what_is_told_is_heard_in_order(systemd: Systemd):
    notifier = Notifier(systemd.address)
    notifier.ready()
    notifier.status("demo\n READY")
    notifier.status("demo READY")  # no news
    notifier.reloading()
    notifier.stopping()
    ready, status, reloading, stopping = systemd.heard()
    assert (ready, status) == ("READY=1", "STATUS=demo READY")
    first, second = reloading.split("\n")
    assert first == "RELOADING=1"
    assert abs(int(second.removeprefix("MONOTONIC_USEC=")) / 1e6 - time.monotonic()) < 60
    assert stopping.startswith("STOPPING=1\nSTATUS=")


def test_the_variables_are_taken_and_removed(systemd: Systemd):
    environ = {
        "NOTIFY_SOCKET": systemd.address,
        "WATCHDOG_USEC": "30000000",
        "WATCHDOG_PID": str(os.getpid()),
        "PATH": "/bin",
    }
    notifier = Notifier.taken_from(environ)
    assert environ == {"PATH": "/bin"}
    assert notifier.watchdog_s == 30.0
    notifier.ready()
    assert systemd.heard() == ["READY=1"]


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "30000000"},
        {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"},
        {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "0"},
        {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "-1"},
        {"NOTIFY_SOCKET": "vsock:2:1", "WATCHDOG_USEC": "30000000"},
        {"NOTIFY_SOCKET": "@", "WATCHDOG_USEC": "x"},
    ],
)
async def test_without_a_wish_for_pings_there_are_none(environ: dict[str, str]):
    notifier = Notifier.taken_from(environ)
    assert environ == {}
    assert notifier.watchdog_s is None
    await keep_alive(notifier, FakeClock(), {})  # returns at once


def test_nobody_there_is_no_error(tmp_path: Path):
    for address in (str(tmp_path / "none"), "@llmsup-nobody", None):
        Notifier(address).ready()


def test_a_full_socket_is_not_waited_for(systemd: Systemd):
    notifier = Notifier(systemd.address)
    for number in range(2000):
        notifier.status(str(number))
    assert systemd.heard()


# ---- the watchdog


class LateClock(FakeClock):
    late_s = 0.0

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds + self.late_s)


@pytest.fixture
async def clock(systemd: Systemd):
    clock = LateClock()
    clock.proof = True
    proofs = {"sweep": lambda: clock.proof}
    task = asyncio.create_task(keep_alive(Notifier(systemd.address, 30.0), clock, proofs))
    await asyncio.sleep(0)
    yield clock
    task.cancel()


async def test_a_ping_at_each_third_of_the_limit(systemd: Systemd, clock: LateClock):
    await clock.advance(9.9)
    assert systemd.heard() == []
    await clock.advance(0.2)
    assert systemd.heard() == ["WATCHDOG=1"]
    await clock.advance(20.0)
    assert systemd.heard() == ["WATCHDOG=1"] * 2


async def test_no_ping_without_proof_and_again_with_it(systemd: Systemd, clock: LateClock):
    clock.proof = False
    await clock.advance(30.0)
    assert systemd.heard() == []
    clock.proof = True
    await clock.advance(10.0)
    assert systemd.heard() == ["WATCHDOG=1"]


async def test_no_ping_from_a_loop_that_is_late(systemd: Systemd, clock: LateClock):
    await clock.advance(10.1)
    assert systemd.heard() == ["WATCHDOG=1"]
    clock.late_s = 6.0
    await clock.advance(10.0)  # the sleep that was begun in time
    systemd.heard()
    await clock.advance(16.1)
    assert systemd.heard() == []
