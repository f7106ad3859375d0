"""`llmsup logs -f`: nothing is missed and nothing comes twice, whatever becomes of the file, its writer or its reader."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.daemon import DaemonUnderTest, until


class Follower:
    """`logs -f` into a file, which is what it has printed."""

    def __init__(self, daemon: DaemonUnderTest, *arguments: str) -> None:
        self._seen = daemon.folder / "seen"
        with self._seen.open("wb") as out:
            self.process = daemon.popen("logs", "-f", *arguments, stdout=out, stderr=subprocess.PIPE)

    def lines(self) -> list[str]:
        return self._seen.read_text().splitlines()

    def until_last(self, line: str) -> None:
        until(lambda: self.lines()[-1:] == [line], f"{line!r} is printed")

    def end(self) -> None:
        self.process.send_signal(signal.SIGINT)
        _, err = self.process.communicate(timeout=5)
        assert (self.process.returncode, err) == (0, b"")


@contextmanager
def idle(*, log: str | None) -> Iterator[tuple[DaemonUnderTest, Path]]:
    """A configuration without a daemon, and the log that one has left (None: none)."""
    with DaemonUnderTest() as daemon:
        path = daemon.state_dir / "logs" / "llama-server.demo.log"
        path.parent.mkdir(parents=True)
        if log is not None:
            path.write_text(log)
        yield daemon, path


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_it_begins_with_the_last_lines_and_goes_on() -> None:
    with idle(log="a\nb\nc\n") as (daemon, path):
        follower = Follower(daemon, "-n", "2")
        follower.until_last("c")
        append(path, "d\n")
        follower.until_last("d")
        assert follower.lines() == ["b", "c", "d"]
        follower.end()


def test_n_0_shows_what_is_new_only() -> None:
    with idle(log="a\n") as (daemon, path):
        follower = Follower(daemon, "-n", "0")
        until(lambda: _has_open(follower.process.pid, path), "the file is open")
        append(path, "b\n")
        follower.until_last("b")
        assert follower.lines() == ["b"]
        follower.end()


def test_it_waits_for_a_log_that_is_not_there_yet() -> None:
    with idle(log=None) as (daemon, path):
        follower = Follower(daemon)
        path.write_text("first\n")
        follower.until_last("first")
        follower.end()


@pytest.mark.parametrize("how", ["rotated", "removed", "emptied"])
def test_it_goes_on_in_what_takes_the_files_place(how: str) -> None:
    with idle(log="old\n") as (daemon, path):
        follower = Follower(daemon)
        follower.until_last("old")
        until(lambda: _has_open(follower.process.pid, path), "the file is open")
        if how == "rotated":
            path.rename(path.with_suffix(".log.1"))
            append(path.with_suffix(".log.1"), "late\n")  # its writer had it open still
            path.write_text("new\n")
        elif how == "removed":
            path.unlink()
            path.write_text("new\n")
        else:
            os.truncate(path, 0)
            append(path, "n\n")
        follower.until_last("n" if how == "emptied" else "new")
        assert (
            follower.lines()
            == {"rotated": ["old", "late", "new"], "removed": ["old", "new"], "emptied": ["old", "n"]}[how]
        )
        follower.end()


def _has_open(pid: int, path: Path) -> bool:
    folder = Path(f"/proc/{pid}/fd")
    if not folder.exists():  # not Linux
        return True
    return any(os.path.realpath(link) == str(path) for link in folder.iterdir())


def test_it_goes_on_over_restarts_of_llama_server_and_of_llmsup() -> None:
    with DaemonUnderTest() as daemon:
        follower = Follower(daemon)  # before there is anything
        for life in (1, 2):
            daemon.run()
            daemon.wait_ready()
            daemon.wait_next(daemon.kill_child())
            begun = 2 * life
            until(lambda begun=begun: _begun(follower) == begun, "both generations are heard")
            daemon.stop()
        log = daemon.state_dir / "logs" / "llama-server.demo.log"
        until(lambda: follower.lines() == log.read_text().splitlines(), "each line once, in order")
        follower.end()


def _begun(follower: Follower) -> int:
    return sum("initializing" in line for line in follower.lines())


def test_a_reader_that_leaves_is_noticed_before_there_is_anything_to_write() -> None:
    with idle(log="a\n") as (daemon, _):
        following = daemon.popen("logs", "-f", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert following.stdout is not None
        assert following.stdout.readline() == b"a\n"
        following.stdout.close()
        assert following.wait(5) == 0
        assert following.stderr is not None
        assert following.stderr.read() == b""
        following.stderr.close()
