import errno
import os
import resource
import tempfile
from typing import NamedTuple

import pytest

from supervisor.doctor import host
from supervisor.doctor.finding import Finding, Level
from supervisor.types import GIB, MIB


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_a_finding_is_plain_data():
    found = Finding(Level.WARN, "a", "b")
    assert found.as_dict() == {"level": "warn", "title": "a", "detail": "b", "remedy": ""}


def test_python_and_memory_are_told():
    assert "llmsup" in host.python().detail
    assert host.memory().level is Level.OK


@pytest.mark.parametrize(("free", "level"), [(2 * GIB, "ok"), (200 * MIB, "warn"), (MIB, "fail")])
def test_the_room_on_the_disk_is_that_of_the_nearest_folder(tmp_path, monkeypatch, free, level):
    monkeypatch.setattr(host.shutil, "disk_usage", lambda _: Usage(0, 0, free))
    found = host.disk("disk", tmp_path / "not" / "yet")
    assert (found.level, str(tmp_path) in found.detail) == (level, True)
    assert bool(found.remedy) == (level != "ok")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_takes_no_file_or_is_none(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    assert host.disk("disk", tmp_path / "file").level is Level.FAIL

    def full(**_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    found = host.disk("disk", tmp_path)
    assert (found.level, "No space left" in found.detail) == (Level.FAIL, True)


def test_more_threads_than_cores_are_a_warning():
    assert host.processors(1).level is Level.OK
    assert host.processors(10_000).level is Level.WARN


@pytest.mark.parametrize(("hard", "level"), [(100, "warn"), (4096, "ok"), (resource.RLIM_INFINITY, "ok")])
def test_few_descriptors_are_a_warning(monkeypatch, hard, level):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (10, hard))
    assert host.descriptors().level == level


def smi(folder, monkeypatch, script):
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")


def test_a_gpu_that_is_wanted_and_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [found.level for found in host.gpu(0)] == ["ok"]
    assert [found.level for found in host.gpu(99)] == ["warn"]


@pytest.mark.parametrize(
    ("script", "layers", "levels"),
    [
        ("echo 'H200, 143771 MiB, 143000 MiB'; echo 'H200, 1 MiB, 1 MiB'", 99, ["ok", "ok"]),
        ("echo 'driver mismatch'; exit 18", 99, ["fail"]),
        ("echo 'driver mismatch'; exit 18", 0, ["warn"]),
        ("sleep 9", 1, ["fail"]),
    ],
)
def test_what_the_driver_says(monkeypatch, tmp_path, script, layers, levels):
    monkeypatch.setattr(host, "GPU_TIMEOUT_S", 0.3)
    smi(tmp_path, monkeypatch, script)
    assert [found.level for found in host.gpu(layers)] == levels


@pytest.mark.parametrize(("module", "told"), [("json", False), ("no_such_library", True)])
def test_how_to_watch_what_it_takes_is_said_where_that_is_missing(monkeypatch, tmp_path, module, told):
    monkeypatch.setattr(host, "NVML", module)
    smi(tmp_path, monkeypatch, "echo 'H200, 143771 MiB, 143000 MiB'")
    (found,) = host.gpu(99)
    assert ("pip install 'llmsup[gpu]'" in found.detail) is told
    (unused,) = host.gpu(0)
    assert "pip" not in unused.detail
