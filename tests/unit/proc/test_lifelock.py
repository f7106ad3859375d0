import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from supervisor.proc import lifelock


def test_the_lock_lives_as_long_as_the_last_of_the_tree(tmp_path: Path):
    path = lifelock.path_of(tmp_path, "demo")
    fd = lifelock.take(path)
    grandchild = "import subprocess, sys; subprocess.Popen(['sleep', '0.3'], close_fds=False)"
    child = subprocess.Popen([sys.executable, "-c", grandchild], pass_fds=(fd,))
    os.close(fd)
    assert lifelock.is_held(path)
    child.wait()
    assert lifelock.is_held(path)  # the grandchild has it
    with pytest.raises(BlockingIOError):
        lifelock.take(path)
    deadline = time.monotonic() + 10
    while lifelock.is_held(path):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.close(lifelock.take(path))


def test_no_other_child_inherits_it(tmp_path: Path):
    path = lifelock.path_of(tmp_path, "demo")
    fd = lifelock.take(path)
    other = subprocess.Popen(["sleep", "60"], close_fds=False)
    os.close(fd)
    try:
        assert not lifelock.is_held(path)
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize("name", ["llmsup", "a/b", "../x", "Ünicode:1"])
def test_every_model_has_a_file_of_its_own(tmp_path: Path, name: str):
    path = lifelock.path_of(tmp_path, name)
    os.close(lifelock.take(path))
    assert path.parent == tmp_path
    assert path.name != "llmsup.lock"
    assert lifelock.paths(tmp_path) == [path]


def test_where_nobody_can_tell_it_is_not_held(tmp_path: Path):
    assert not lifelock.is_held(tmp_path / "gone" / "model.demo.lock")


def test_a_planted_symlink_is_not_followed(tmp_path: Path):
    path = lifelock.path_of(tmp_path, "demo")
    path.symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic links"):
        lifelock.take(path)
    assert not (tmp_path / "target").exists()


def test_who_asks_at_the_same_time_does_not_take_the_other_for_a_holder(tmp_path: Path):
    path = lifelock.path_of(tmp_path, "demo")
    os.close(lifelock.take(path))
    with path.open() as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        assert not lifelock.held(path)
    with pytest.raises(FileNotFoundError):
        lifelock.held(tmp_path / "none")
