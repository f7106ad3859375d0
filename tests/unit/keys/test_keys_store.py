"""`keys.store`: the file, whole or not at all, and written by nobody else."""

import base64
import errno
import os
import stat
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from supervisor.errors import Conflict, LlmsupError, NotFound
from supervisor.keys import key as keys
from supervisor.keys import store
from supervisor.keys.key import Key

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def wanted(name: str = "ci") -> Key:
    return Key(id="", name=name, digest=b"", created=NOW)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / store.FILE_NAME


def test_no_file_means_no_keys(path):
    assert store.read(path) == store.Content((), None)


def test_a_key_is_made_kept_as_a_hash_and_taken_back(path):
    text, made = store.create(path, wanted())
    assert store.read(path).keys == (made,)
    shown = keys.presented(text.encode())
    assert keys.matches(made, shown)
    assert text.split("_", 2)[2] not in path.read_text()
    assert store.revoke(path, "ci") == made
    assert store.read(path).keys == ()


def test_a_key_can_be_revoked_by_its_id_and_its_name_used_again(path):
    _, first = store.create(path, wanted())
    store.revoke(path, first.id)
    _, second = store.create(path, wanted())
    assert second.digest != first.digest


def test_two_of_one_name_and_none_of_a_name_are_refused(path):
    store.create(path, wanted())
    with pytest.raises(Conflict, match="there is a key named 'ci'"):
        store.create(path, wanted())
    with pytest.raises(NotFound, match="no key 'other'"):
        store.revoke(path, "other")


def test_secrets_are_256_bits_and_never_the_same(path):
    texts = {store.create(path, wanted(f"k{n}"))[0] for n in range(20)}
    assert len(texts) == 20
    assert {len(base64.urlsafe_b64decode(text.split("_", 2)[2] + "=")) * 8 for text in texts} == {256}
    assert len({key.id for key in store.read(path).keys}) == 20


def test_the_file_and_its_folder_are_private(path):
    mask = os.umask(0)
    try:
        store.create(path, wanted())
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert sorted(one.name for one in path.parent.iterdir()) == [store.FILE_NAME, store.LOCK_NAME]


@pytest.mark.fault(54)
@pytest.mark.parametrize("name", [store.FILE_NAME, store.LOCK_NAME])
def test_a_planted_link_is_refused_and_not_followed(path, tmp_path, name):
    path.parent.mkdir()
    victim = tmp_path / "victim"
    victim.write_bytes(keys.dump([]))
    (path.parent / name).symlink_to(victim)
    with pytest.raises(LlmsupError) as refused:
        store.create(path, wanted())
    assert name in str(refused.value)
    assert victim.read_bytes() == keys.dump([])


@pytest.mark.fault(54)
def test_a_link_planted_where_the_new_file_is_written_is_replaced(path, tmp_path):
    path.parent.mkdir()
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (path.parent / f".{store.FILE_NAME}.new").symlink_to(victim)
    store.create(path, wanted())
    assert victim.read_text() == "untouched"
    assert not path.is_symlink()
    assert len(store.read(path).keys) == 1


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_have_written_is_not_believed(path, mode):
    store.create(path, wanted())
    path.chmod(mode)
    with pytest.raises(store.BrokenKeyFile, match="others may have written"):
        store.read(path)


@pytest.mark.parametrize("broken", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_broken_file_is_refused_and_left_as_it_is(path, broken):
    store.create(path, wanted())
    path.write_bytes(broken)
    for change in (lambda: store.create(path, wanted("b")), lambda: store.revoke(path, "ci")):
        with pytest.raises(store.BrokenKeyFile, match="until then no key is accepted"):
            change()
    assert path.read_bytes() == broken


def test_neither_a_pipe_nor_a_folder_is_waited_for_or_read(path):
    path.parent.mkdir()
    os.mkfifo(path)
    with pytest.raises(store.BrokenKeyFile, match="not a regular file"):
        store.read(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(store.BrokenKeyFile, match="Is a directory"):
        store.read(path)


def test_a_write_that_fails_leaves_the_old_list(path, monkeypatch):
    _, first = store.create(path, wanted())

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(LlmsupError, match="No space left"):
        store.create(path, wanted("b"))
    assert store.read(path).keys == (first,)


def test_writers_at_once_lose_nothing(path):
    names = [f"k{n}" for n in range(8)]
    threads = [threading.Thread(target=store.create, args=(path, wanted(name))) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.name for key in store.read(path).keys} == set(names)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for others")
def test_what_root_makes_for_another_users_daemon_is_that_users(path):
    path.parent.mkdir()
    os.chown(path.parent, 65534, 65534)
    store.create(path, wanted())
    assert {one.stat().st_uid for one in path.parent.iterdir()} == {65534}
    assert len(store.read(path, managing=True).keys) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for others")
def test_another_users_file_is_not_believed_by_a_daemon_whoever_has_the_folder(path):
    store.create(path, wanted())
    os.chown(path, 65534, 65534)
    for owner in (0, 65534):
        os.chown(path.parent, owner, owner)
        with pytest.raises(store.BrokenKeyFile, match=r"belongs to uid 65534.*chown 0 "):
            store.read(path)
    os.chown(path, 0, 0)
    assert len(store.read(path).keys) == 1
