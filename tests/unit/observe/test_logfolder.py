"""The folder takes no more than its share, leaves others' files alone, and leaves the disk some room."""

import errno
import os
from pathlib import Path

import pytest

from supervisor.observe import logfolder


def test_the_oldest_copies_go_when_the_folder_has_its_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logfolder, "FILE_BYTES", 100)
    monkeypatch.setattr(logfolder, "FOLDER_BYTES", 450)
    mine = ["llama-server.a.log.2", "llama-server.a.log.1", "llmsup.log.1", "llmsup-errors.log.1"]
    others = ["syslog.1", "nginx.log.1", "llama-server.a.log", "llmsup.log"]
    for age, name in enumerate([*mine, *others]):
        (tmp_path / name).write_bytes(b"x" * 100)
        os.utime(tmp_path / name, (1000 + age, 1000 + age))
    logfolder.make_room(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*mine[2:], *others])


class Disk:
    def __init__(self, total: int, free: int) -> None:
        self.f_frsize, self.f_blocks, self.f_bavail = 1, total, free


@pytest.mark.parametrize(
    ("total_mib", "floor_mib"), [(10, 1), (640, 64), (5_000, 64), (50_000, 500), (10_000_000, 1024)]
)
def test_the_floor_suits_the_disk(
    total_mib: int, floor_mib: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = floor_mib << 20
    monkeypatch.setattr(os, "statvfs", lambda _: Disk(total_mib << 20, free))
    logfolder.check_free(tmp_path)
    free -= 1
    with pytest.raises(OSError, match="free on the disk") as raised:
        logfolder.check_free(tmp_path)
    assert raised.value.errno == errno.ENOSPC


def test_a_disk_that_does_not_say_is_written_to(tmp_path: Path) -> None:
    logfolder.check_free(tmp_path / "nonesuch")


def test_shifting_moves_each_copy_up_and_drops_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logfolder, "FILE_COPIES", 2)
    for name in ("a.log", "a.log.1", "a.log.2"):
        (tmp_path / name).write_text(name)
    logfolder.shift(tmp_path / "a.log")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "a.log.1": "a.log",
        "a.log.2": "a.log.1",
    }
