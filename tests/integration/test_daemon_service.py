"""FAULTS 24, 25, 27, 28, 29: what an earlier daemon left; systemd; the configuration read again."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.proc import leftovers, lifelock
from supervisor.proc.children import home_of
from supervisor.proc.leftovers import Record
from tests.support.daemon import DEADLINE_S, DaemonUnderTest, running, until

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
# Plays systemd: the socket becomes descriptor 3 of a process whose pid is named.
HAND_OVER = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_PID'] = str(os.getpid());"
    "os.execv(sys.argv[2], sys.argv[2:])"
)


# ---- what an earlier daemon left


@contextlib.contextmanager
def orphan(daemon: DaemonUnderTest, *, marked: bool, locked: bool) -> Iterator["subprocess.Popen[bytes]"]:
    """A process of a daemon that is no more, without the kernel's death signal."""
    daemon.run_dir.create()
    folder = daemon.run_dir.path
    fd = lifelock.take(lifelock.path_of(folder, "demo")) if locked else None
    environ = dict(daemon.environ)
    if marked:
        environ["LLMSUP_INSTANCE"] = f"{home_of(folder)}:1:demo:1"
    process = subprocess.Popen(
        SLEEP, env=environ, pass_fds=() if fd is None else (fd,), start_new_session=True
    )
    if fd is not None:
        os.close(fd)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def record(process: "subprocess.Popen[bytes]", **changes: object) -> Record:
    begun = leftovers.started(process.pid)
    assert begun is not None
    facts = {"boot_id": leftovers.boot_id(), "pid": process.pid, "started": begun, "marker": "", "exe": ""}
    return Record(**{**facts, "model": "demo", "generation": 1, **changes})  # type: ignore[arg-type]


@pytest.mark.fault(24)
@pytest.mark.parametrize("how", ["recorded and marked", "marked and locked", "recorded and locked"])
def test_what_a_killed_daemon_left_is_ended_by_the_next(how: str) -> None:
    with (
        DaemonUnderTest() as daemon,
        orphan(daemon, marked="marked" in how, locked="locked" in how) as process,
    ):
        path = daemon.run_dir.path / leftovers.FILE_NAME
        if "recorded" in how:
            leftovers.dump([record(process)], path)
        else:
            path.write_text('{"schema": 1, "children": [{"boot')  # killed while it wrote, on a bad disk
        daemon.run()
        assert process.wait(DEADLINE_S) == -signal.SIGKILL
        assert daemon.wait_ready()["generation"] == 1
        assert [one.pid for one in leftovers.recorded(path)] == [daemon.child_pid]


@pytest.mark.fault(25)
def test_a_stranger_with_a_recorded_pid_is_untouched() -> None:
    with DaemonUnderTest() as daemon:
        daemon.run_dir.create()
        stranger = subprocess.Popen(SLEEP)  # not of this test's environment: it is nobody's child
        try:
            mine = record(stranger)
            stale = record(
                stranger, started=mine.started - 1, marker=f"{home_of(daemon.run_dir.path)}:1:demo:1"
            )
            leftovers.dump([mine, stale], daemon.run_dir.path / leftovers.FILE_NAME)
            daemon.run()
            daemon.wait_ready()
            assert stranger.poll() is None
        finally:
            stranger.kill()
            stranger.wait()


def test_two_daemons_do_not_touch_each_other() -> None:
    with running() as one:
        before = one.child_pid
        with running() as two:
            assert two.child_pid != before
            two.stop()
        with running():
            assert one.child_pid == before


def test_the_child_holds_its_lock_and_the_daemon_does_not() -> None:
    with running() as daemon:
        path = lifelock.path_of(daemon.run_dir.path, "demo")
        assert lifelock.is_held(path)
        generation = daemon.kill_child()
        daemon.wait_next(generation)
        assert lifelock.is_held(path)
        daemon.stop()
        assert not lifelock.is_held(path)


# ---- systemd


class Systemd:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify"
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(str(self.path))
        self._sock.settimeout(0.05)
        self.messages: list[str] = []

    def heard(self) -> list[str]:
        with contextlib.suppress(TimeoutError):
            while True:
                self.messages.append(self._sock.recv(4096).decode())
        return self.messages

    def close(self) -> None:
        self._sock.close()


@pytest.fixture
def supervised() -> Iterator[tuple[DaemonUnderTest, Systemd]]:
    with DaemonUnderTest(fake={"load_s": 1.0}) as daemon:
        systemd = Systemd(daemon.folder)
        watchdog = {"NOTIFY_SOCKET": str(systemd.path), "WATCHDOG_USEC": "900000"}
        daemon.run(env=daemon.environ | watchdog)
        yield daemon, systemd
        systemd.close()


def test_systemd_hears_of_a_life_in_order(supervised: tuple[DaemonUnderTest, Systemd]) -> None:
    daemon, systemd = supervised
    until(lambda: "READY=1" in systemd.heard(), "READY=1")
    assert daemon.status()["pid"]  # the control socket answers, while the model still loads
    assert daemon.model()["state"] != "READY"
    until(lambda: "STATUS=demo READY" in systemd.heard(), "its state")
    until(lambda: systemd.heard().count("WATCHDOG=1") >= 2, "pings")
    assert daemon.cli("reload").returncode == 0
    child = Path(f"/proc/{daemon.child_pid}/environ").read_bytes()
    assert b"NOTIFY_SOCKET=" not in child
    assert b"WATCHDOG_" not in child
    daemon.stop()
    told = [message.split("\n")[0] for message in systemd.heard()]
    order = [line for line in told if line in {"READY=1", "RELOADING=1", "STOPPING=1"}]
    assert order == ["READY=1", "RELOADING=1", "READY=1", "STOPPING=1"]


def test_the_port_may_come_from_systemd() -> None:
    with DaemonUnderTest() as daemon, socket.socket() as held:
        held.bind(("127.0.0.1", daemon.port))
        held.listen()
        arguments = [sys.executable, "-c", HAND_OVER, str(held.fileno()), *daemon.command("run")]
        environ = daemon.environ | {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "llmsup.socket"}
        with (daemon.folder / "daemon.log").open("ab") as log:
            daemon.process = subprocess.Popen(
                arguments, env=environ, pass_fds=(held.fileno(),), stdout=log, stderr=log
            )
        daemon._started.append(daemon.process)
        daemon.wait_ready()
        assert daemon.chat().status == 200
        assert b"LISTEN_" not in Path(f"/proc/{daemon.child_pid}/environ").read_bytes()
        daemon.stop()
        with socket.create_connection(("127.0.0.1", daemon.port)):  # nobody is refused: the port is systemd's
            pass


# ---- the configuration read again


def test_reload_applies_the_level_and_names_the_rest() -> None:
    with running() as daemon:
        before = daemon.child_pid
        daemon.configure(log={"level": "debug", "format": "json"})
        done = daemon.cli("reload")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines()[:3] == ["at once:", "- log.level: info", "+ log.level: debug"]
        assert done.stdout.splitlines()[3:6] == [
            "next start of llmsup:",
            "- log.format: auto",
            "+ log.format: json",
        ]
        hint = done.stdout.splitlines()[-1]
        assert "llmsup start" in hint
        assert daemon.child_pid == before


@pytest.mark.fault(29)
def test_a_broken_configuration_is_refused_and_nothing_happens() -> None:
    with running(proxy=None) as daemon:
        before = daemon.child_pid
        good = daemon.config.read_text()
        daemon.config.write_text(good + "proxy: {queue_size: -1}\n")
        done = daemon.cli("reload")
        assert done.returncode == 6
        line = len(good.splitlines()) + 1
        assert f"{daemon.config}:{line}:" in done.stderr
        assert "proxy.queue_size" in done.stderr
        assert "Traceback" not in done.stderr
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: daemon.log().count("configuration refused") >= 2, "refused twice")
        assert daemon.child_pid == before
        assert daemon.chat().status == 200


def test_reload_without_a_daemon_is_3() -> None:
    with DaemonUnderTest() as daemon:
        assert daemon.cli("reload").returncode == 3


# ---- what does not end it


@pytest.mark.fault(27)
def test_three_seconds_of_stillness_of_the_daemon_restart_nothing() -> None:
    """FAULTS 27: after SIGCONT every timer is late at once, and none of that is the child's fault."""
    with running() as daemon:
        before, pid = daemon.model(), daemon.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(3.0)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert daemon.chat().status == 200
        time.sleep(1.0)  # several polls
        after = daemon.model()
        assert (after["pid"], after["generation"], after["state"]) == (before["pid"], 1, "READY")
