"""llmsup as process 1, which it is in a container: signals reach it, and it collects what others leave behind."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from supervisor.proc.orphans import REAP_EVERY_S
from tests.support.daemon import DEADLINE_S, DaemonUnderTest, until

OWN = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "setsid"]  # as containers have it


def may_unshare() -> bool:
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        return False
    return subprocess.run([*OWN, "true"], capture_output=True, check=False, timeout=10).returncode == 0


pytestmark = pytest.mark.skipif(not may_unshare(), reason="PID namespaces are not to be had here")


@pytest.fixture
def daemon() -> Iterator[DaemonUnderTest]:
    with DaemonUnderTest() as daemon:
        yield daemon


def first(daemon: DaemonUnderTest) -> "tuple[subprocess.Popen[bytes], int]":
    """Starts it; the process around the name space, and what is number 1 in it, as seen from here."""
    with (daemon.folder / "daemon.log").open("ab") as log:
        around = subprocess.Popen([*OWN, *daemon.command("run")], env=daemon.environ, stdout=log, stderr=log)
    until(lambda: healthy(daemon), "healthy", DEADLINE_S)
    (inside,) = psutil.Process(around.pid).children()
    return around, inside.pid


def healthy(daemon: DaemonUnderTest) -> bool:
    try:
        return daemon.ask("GET", "/health").status == 200
    except OSError:
        return False


def zombies(pid: int) -> list[int]:
    return [one.pid for one in psutil.Process(pid).children() if one.status() == psutil.STATUS_ZOMBIE]


def test_process_1_answers_and_ends_by_sigterm(daemon: DaemonUnderTest) -> None:
    around, inside = first(daemon)
    try:
        status = Path(f"/proc/{inside}/status").read_text()
        assert status.partition("NSpid:")[2].split("\n")[0].split()[-1] == "1"
        assert daemon.chat().status == 200
        os.kill(inside, signal.SIGTERM)
        assert around.wait(DEADLINE_S) == 0
    finally:
        around.kill()
        around.wait()


@pytest.mark.slow
def test_process_1_collects_strangers(daemon: DaemonUnderTest) -> None:
    around, inside = first(daemon)
    try:
        # What `docker exec` does: somebody whose own child outlives them.
        stranger = "sleep 0.5 & echo $!"
        into = ["nsenter", "--target", str(inside), "--pid", "setsid", "sh", "-c", stranger]
        subprocess.run(into, capture_output=True, check=True, timeout=10)
        until(lambda: zombies(inside), "the stranger has ended, and is ours", 5)
        began = time.monotonic()
        until(lambda: not zombies(inside), "collected", REAP_EVERY_S + 5)
        assert time.monotonic() - began < REAP_EVERY_S + 5
        assert json.loads(daemon.ask("GET", "/health").body)["state"] == "READY"
        os.kill(inside, signal.SIGTERM)
        assert around.wait(DEADLINE_S) == 0
    finally:
        around.kill()
        around.wait()
