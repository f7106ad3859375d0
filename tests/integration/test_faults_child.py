"""FAULTS 10, 11, 15, 18, 22 of a child that is wrapped: what stands around it, not in it."""

import signal
import socket
from pathlib import Path

import pytest

from tests.support.daemon import DaemonUnderTest, free_port, running, until
from tests.support.fake_llama_server import write_wrapper
from tests.support.wrapped import AWAITS_GO, ESCAPED, GRANDCHILDREN, MEMBER, told_port, wrap


@pytest.fixture
def fake(tmp_path: Path) -> str:
    return write_wrapper(tmp_path / "fake")


@pytest.mark.fault(10)
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_whatever_a_child_started_is_gone_before_the_next_generation(
    fake: str, tmp_path: Path, end: signal.Signals
) -> None:
    """A member of its group that ignores SIGTERM, and one that has left the group and the session."""
    with running(binary=wrap(fake, tmp_path / "llama-server", GRANDCHILDREN)) as daemon:
        before = [*daemon.alive(needle=MEMBER), *daemon.alive(needle=ESCAPED)]
        assert len(before) == 2
        daemon.wait_next(daemon.kill_child(end))
        assert not [one for one in daemon.alive() if one in before]
        assert [len(daemon.alive(needle=needle)) for needle in (MEMBER, ESCAPED)] == [1, 1]


@pytest.mark.fault(10, 23)
def test_what_a_killed_daemons_child_started_is_ended_by_the_next_daemon(fake: str, tmp_path: Path) -> None:
    """The kernel's death signal ends the child, and reaches nobody behind it."""
    with running(binary=wrap(fake, tmp_path / "llama-server", GRANDCHILDREN)) as daemon:
        before = [*daemon.alive(needle=MEMBER), *daemon.alive(needle=ESCAPED)]
        assert daemon.process is not None
        daemon.process.kill()
        daemon.process.wait()
        until(lambda: not daemon.children_alive(), "the child is gone")
        daemon.run()
        daemon.wait_ready()
        assert not [one for one in daemon.alive() if one in before]


@pytest.mark.fault(10)
def test_what_a_child_started_is_gone_after_a_stop(fake: str, tmp_path: Path) -> None:
    with running(binary=wrap(fake, tmp_path / "llama-server", GRANDCHILDREN)) as daemon:
        assert daemon.alive(needle=ESCAPED)
        daemon.stop()
        assert not daemon.alive()


@pytest.mark.fault(18)
def test_a_port_stolen_between_choice_and_bind_gives_the_next_and_is_no_crash(
    fake: str, tmp_path: Path
) -> None:
    port = free_port()
    binary = wrap(fake, tmp_path / "llama-server", AWAITS_GO)
    with DaemonUnderTest(binary=binary, models={"demo": {"port": port}}) as daemon, socket.socket() as thief:
        daemon.run()
        assert until(lambda: told_port(binary), "it is told a port") == port
        thief.bind(("127.0.0.1", port))
        thief.listen()
        Path(f"{binary}.go").touch()
        one = daemon.wait_ready()
        assert port < one["port"] < port + 64
        assert (one["generation"], one["restarts"]) == (2, 0)
        assert one["last_death"]["cause"] == "port_in_use"
        assert "BACKOFF" not in daemon.log()  # the next try came at once
        assert daemon.chat().status == 200


@pytest.mark.fault(22)
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("#!/bin/sh\necho hello\n", "is not a llama-server"),
        ("#!/bin/sh\necho no library >&2; exit 127\n", "does not run"),
        ("#!/nowhere/sh\n", "loader or interpreter is missing"),
        ("\x7fELF\x01garbage", "not a program for this machine"),
    ],
)
def test_a_binary_that_is_no_llama_server_fails_with_what_to_do(
    tmp_path: Path, text: str, words: str
) -> None:
    binary = tmp_path / "llama-server"
    binary.write_text(text)
    binary.chmod(0o755)
    with DaemonUnderTest(binary=binary) as daemon:
        started = daemon.cli("start")
        assert started.returncode == 1
        assert words in started.stderr
        assert "llmsup build" in started.stderr
        one = daemon.model()
        assert (one["state"], one["generation"], one["next_try_s"]) == ("FAILED", 1, None)
