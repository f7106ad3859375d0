"""`unixsocket`: put in place whole, never over the living, and whose process is at the other end."""

import os
import socket
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor import unixsocket
from supervisor.errors import Conflict, PermissionDenied
from tests.support.otheruser import NOBODY, as_nobody, needs_root


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Relative, so short: the folders of pytest are deep."""
    monkeypatch.chdir(tmp_path)
    return Path("llmsup.sock")


@pytest.mark.parametrize("umask", [0, 0o077])
@pytest.mark.parametrize("mode", [0o600, 0o660])
def test_it_has_its_mode_whatever_the_umask_and_the_umask_stays(path: Path, mode: int, umask: int) -> None:
    before = os.umask(umask)
    try:
        unixsocket.bind(path, mode=mode, backlog=1).close()
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert os.listdir() == [path.name]


def test_it_cannot_be_connected_to_before_it_has_its_mode(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    chmod = Path.chmod

    def watched(self: Path, mode: int) -> None:
        with socket.socket(socket.AF_UNIX) as early, pytest.raises(ConnectionRefusedError):
            early.connect(str(self))
        tried.append(self.name)
        chmod(self, mode)

    monkeypatch.setattr(Path, "chmod", watched)
    unixsocket.bind(path, mode=0o600, backlog=1).close()
    assert len(tried) == 1


def test_who_connects_before_accept_waits_in_the_backlog(path: Path) -> None:
    with unixsocket.bind(path, mode=0o600, backlog=1), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_the_new_one_is_there_while_the_old_one_is_still_open(path: Path) -> None:
    with unixsocket.bind(path, mode=0o600, backlog=1):
        old = unixsocket.inode(path)
        with unixsocket.bind(path, mode=0o600, backlog=1):
            assert unixsocket.inode(path) not in {None, old}


def test_where_it_cannot_be_made_nothing_is_left(path: Path) -> None:
    path.mkdir()
    with pytest.raises(PermissionDenied, match="Is a directory"):
        unixsocket.bind(path, mode=0o600, backlog=1)
    assert os.listdir() == [path.name]


def test_a_path_too_long_is_said_in_words() -> None:
    path = Path("/tmp") / ("x" * 150)
    assert unixsocket.too_long(path)
    with pytest.raises(PermissionDenied, match="too long"):
        unixsocket.bind(path.with_name("y" * 100) / "z", mode=0o600, backlog=1)


def test_a_short_name_in_a_long_folder_leaves_room_for_the_name_it_is_made_under() -> None:
    folder = Path("/" + "x" * (unixsocket.SUN_PATH_MAX - 5))
    assert len(str(folder / "abcd")) == unixsocket.SUN_PATH_MAX + 1
    assert unixsocket.too_long(folder / "abc")
    assert not unixsocket.too_long(Path("/" + "x" * (unixsocket.SUN_PATH_MAX - 1)))


# ---- may it be put there?


def test_nothing_there_is_free(path: Path) -> None:
    unixsocket.check_free(path)


def test_what_a_dead_process_left_is_free(path: Path) -> None:
    unixsocket.bind(path, mode=0o600, backlog=1).close()
    assert path.exists()
    unixsocket.check_free(path)


def test_a_living_one_is_a_conflict(path: Path) -> None:
    with (
        unixsocket.bind(path, mode=0o600, backlog=1),
        pytest.raises(Conflict, match=r"another program listens on llmsup\.sock"),
    ):
        unixsocket.check_free(path)


def test_one_too_busy_to_be_connected_to_lives(path: Path) -> None:
    with unixsocket.bind(path, mode=0o600, backlog=0), socket.socket(socket.AF_UNIX) as first:
        first.connect(str(path))
        with pytest.raises(Conflict, match="another program"):
            unixsocket.check_free(path)


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_no_socket_is_in_the_way_and_stays(path: Path, kind: str) -> None:
    with unixsocket.bind(Path("real"), mode=0o600, backlog=1):
        make = {"file": path.touch, "folder": path.mkdir, "link": lambda: path.symlink_to("real")}
        make[kind]()
        with pytest.raises(Conflict, match="is in the way: it is not a socket"):
            unixsocket.check_free(path)
    assert os.path.lexists(path)


# ---- whose process is it?


def test_both_ends_of_a_pair_are_ours() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert unixsocket.peer_uid(ours) == os.geteuid()
        assert unixsocket.unix_peer(ours) == f"uid:{os.geteuid()}"
    assert os.geteuid() in unixsocket.owners()
    assert unixsocket.ROOT in unixsocket.owners()


@needs_root
def test_another_user_is_known_by_number_also_after_leaving() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # pytest's own is root's
        os.chmod(folder, 0o755)
        path = Path(folder) / "s"
        with unixsocket.bind(path, mode=0o666, backlog=1) as listening:
            assert as_nobody("connect", path) == "connected"
            connection, _ = listening.accept()
            with connection:
                assert unixsocket.peer_uid(connection) == NOBODY
                assert unixsocket.unix_peer(connection) == f"uid:{NOBODY}"


def test_a_transport_without_a_socket_and_one_over_tcp_have_no_user() -> None:
    with socket.socket() as tcp:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        with socket.create_connection(tcp.getsockname()) as client:
            assert unixsocket.peer_uid(client) is None
    assert unixsocket.peer_uid(None) is None
    assert unixsocket.unix_peer(None) == "unix"


def test_what_the_kernel_of_macos_would_say_is_read_as_its_header_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class FakeSocket:
        def getsockopt(self, level: int, name: int, size: int, /) -> bytes:
            assert (level, name, size) == (0, 1, 76)
            return struct.pack("=IIhxx16I", 0, 501, 1, *[20] * 16)

    monkeypatch.setattr(sys, "platform", "darwin")
    assert unixsocket.peer_uid(FakeSocket()) == 501


def test_the_module_is_light_for_the_command() -> None:
    """`llmsup status` imports it."""
    code = "import sys, supervisor.unixsocket; print('asyncio' in sys.modules)"
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=20
    )
    assert said.stdout.strip() == "False"
