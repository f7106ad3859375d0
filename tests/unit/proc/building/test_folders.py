import errno
import os
import threading

import pytest

from supervisor.errors import BuildError, PermissionDenied
from supervisor.proc import lifelock
from supervisor.proc.building import folders


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"LLMSUP_CACHE_DIR": "/own", "XDG_CACHE_HOME": "/xdg"}, "/own"),
        ({"XDG_CACHE_HOME": "/xdg", "HOME": "/h"}, "/xdg/llmsup"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/h"}, "/h/.cache/llmsup"),
        ({"HOME": "/h"}, "/h/.cache/llmsup"),
    ],
)
def test_the_cache_folder_follows_the_environment(environ, expected):
    assert str(folders.cache_dir(environ)) == expected


def test_the_project_root_is_where_pyproject_lies_above_the_package(tmp_path):
    module = tmp_path / "supervisor" / "proc" / "building" / "folders.py"
    assert folders.project_root(str(module)) is None
    (tmp_path / "pyproject.toml").touch()
    assert folders.project_root(str(module)) == tmp_path


def test_a_folder_is_replaced_and_leftovers_of_a_killed_replacement_go(tmp_path):
    fresh, target, left = tmp_path / "fresh", tmp_path / "target", tmp_path / ".target.old"
    for folder in (fresh, target, left):
        folder.mkdir()
        (folder / "was").write_text(folder.name)
    folders.replace_folder(fresh, target)
    assert [(p.name, (p / "was").read_text()) for p in tmp_path.iterdir()] == [("target", "fresh")]


def test_an_atomic_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError):
        folders.write_atomic(tmp_path / "file", "text")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{", "[1]", "\xff"])
def test_json_that_is_no_object_is_none(tmp_path, content):
    (tmp_path / "f").write_text(content)
    assert folders.read_json(tmp_path / "f") is None
    assert folders.read_json(tmp_path / "missing") is None


def test_the_second_holder_waits_and_is_told_so(tmp_path):
    path, waiting, order = tmp_path / "sub" / "lock", threading.Event(), []

    def second():
        with folders.exclusive(path, waiting.set):
            order.append("second")

    with folders.exclusive(path, lambda: order.append("never")):
        assert lifelock.is_held(path)
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(5)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]
    assert not lifelock.is_held(path)


def test_free_space_is_told_for_folders_that_do_not_exist_yet(tmp_path):
    assert folders.free_bytes(tmp_path / "a" / "b") > 0


@pytest.mark.parametrize(
    ("number", "kind", "word"),
    [
        (errno.ENOSPC, BuildError, "the disk is full (/x)"),
        (errno.EACCES, PermissionDenied, "cannot write"),
        (errno.EROFS, PermissionDenied, "LLMSUP_CACHE_DIR"),
        (errno.EIO, BuildError, "Input/output error"),
    ],
)
def test_the_file_systems_complaints_become_ours(number, kind, word):
    error = folders.from_os_error(OSError(number, os.strerror(number), "/x"))
    assert type(error) is kind
    assert word in str(error)
