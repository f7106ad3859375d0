"""The run folder: private, and the lock in it says whether a daemon lives."""

import fcntl
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.control.rundir import LOCK_PAUSE_S, RunDir
from supervisor.errors import Conflict, PermissionDenied
from supervisor.unixsocket import SUN_PATH_MAX


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDir]:
    # Long test names make long paths, and a socket's must be short.
    short = Path(f"/tmp/ls-unit-{os.getpid()}")
    short.symlink_to(tmp_path)
    made = RunDir(short)
    made.create()
    yield made
    short.unlink()


def test_it_is_private_even_where_it_was_not(run: RunDir) -> None:
    run.path.chmod(0o755)
    run.create()
    assert stat.S_IMODE(run.path.stat().st_mode) == 0o700


def test_the_lock_says_who_and_falls_with_its_holder(run: RunDir) -> None:
    assert not run.running()
    with run.locked():
        assert run.running()
        assert run.pid() == os.getpid()
        with pytest.raises(Conflict, match=rf"already running \(pid {os.getpid()}\)"), run.locked():
            pass
    assert not run.running()
    assert run.lock_path.exists()  # it is never removed: that would let two hold "the" lock


def test_a_moments_look_at_the_lock_does_not_keep_a_daemon_from_starting(run: RunDir) -> None:
    fd = os.open(run.lock_path, os.O_RDONLY | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_SH)
    threading.Timer(LOCK_PAUSE_S * 1.5, os.close, (fd,)).start()
    with run.locked():
        assert run.running()


@pytest.mark.parametrize("content", ["", "nonsense\n", "0\n"])
def test_a_lock_file_of_nobody_names_nobody(run: RunDir, content: str) -> None:
    run.lock_path.write_text(content)
    assert run.pid() is None
    assert not run.running()


def test_a_planted_link_is_not_followed(run: RunDir, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("data")
    run.lock_path.symlink_to(target)
    with pytest.raises(PermissionDenied), run.locked():
        pass
    assert target.read_text() == "data"


def test_a_path_too_long_for_a_socket_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    state_dir = tmp_path / ("x" * SUN_PATH_MAX)
    with pytest.raises(PermissionDenied, match="too long for a socket"):
        RunDir(state_dir).create()
    assert not state_dir.exists()


def test_a_file_in_its_place_is_said_as_it_is(run: RunDir) -> None:
    run.path.rmdir()
    run.path.write_text("")
    with pytest.raises(PermissionDenied, match="File exists"):
        run.create()
