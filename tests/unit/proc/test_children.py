import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.events import Endpoint
from supervisor.proc import leftovers, lifelock
from supervisor.proc.causes import Cause
from supervisor.proc.children import Children, home_of, model_of
from supervisor.proc.run import Launch

pytestmark = pytest.mark.anyio

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


class Launches:
    """Starts what it is told, without the death signal: what is left of a daemon that was killed."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, launch: Launch, generation: int, on_exit: Any) -> Any:
        process = subprocess.Popen(
            launch.argv, env=launch.env, pass_fds=launch.pass_fds, start_new_session=True
        )
        self.processes.append(process)
        return SimpleNamespace(child=process, generation=generation, status=None)


@pytest.fixture
def launches():
    it = Launches()
    yield it
    for process in it.processes:
        process.kill()
        process.wait()


def launch(model: str = "demo") -> Launch:
    return Launch(SLEEP, {"LLMSUP_INSTANCE": f"1:{model}:1"}, Endpoint("h", 1, "k"), None)


def begin(children: Children, launches: Launches, model: str = "demo") -> "subprocess.Popen[bytes]":
    children.start(launch(model), 1, lambda: None)
    process = launches.processes[-1]
    deadline = time.monotonic() + 10
    while not Path(f"/proc/{process.pid}/environ").read_bytes():  # not yet there in the middle of an exec
        assert time.monotonic() < deadline
    return process


def folder(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    return path


def lives(process: "subprocess.Popen[bytes]") -> bool:
    return process.poll() is None


def test_the_next_daemon_ends_what_the_last_one_left(tmp_path: Path, launches: Launches):
    process = begin(Children(tmp_path, launches), launches)
    Children(tmp_path, launches).sweep()
    assert not lives(process)


@pytest.mark.parametrize("content", [None, b"", b'{"schema": 1, "chil'])
def test_without_a_record_marker_and_lock_are_enough(
    tmp_path: Path, launches: Launches, content: bytes | None
):
    process = begin(Children(tmp_path, launches), launches)
    record = tmp_path / leftovers.FILE_NAME
    record.unlink()
    if content is not None:
        record.write_bytes(content)
    Children(tmp_path, launches).sweep()
    assert not lives(process)


def test_another_folders_daemon_touches_nothing(tmp_path: Path, launches: Launches):
    process = begin(Children(folder(tmp_path / "one"), launches), launches)
    Children(folder(tmp_path / "two"), launches).sweep()
    assert lives(process)


def test_a_copied_record_names_a_process_of_another_folder_and_is_not_enough(
    tmp_path: Path, launches: Launches
):
    """The same boot, pid and start time, and nothing else: the second mark is missing."""
    one, two = folder(tmp_path / "one"), folder(tmp_path / "two")
    children = Children(one, launches)
    process = begin(children, launches)
    (record,) = leftovers.recorded(one / leftovers.FILE_NAME)
    stranger = leftovers.Record(record.boot_id, record.pid, record.started, "", "0:0", "demo", 1)
    leftovers.dump([stranger], two / leftovers.FILE_NAME)
    Children(two, launches).sweep()
    assert lives(process)


def test_children_are_written_down_and_the_dead_forgotten(tmp_path: Path, launches: Launches):
    children = Children(tmp_path, launches)
    first = begin(children, launches)
    first.kill()
    first.wait()
    second, third = begin(children, launches), begin(children, launches, "a:b")
    records = leftovers.recorded(tmp_path / leftovers.FILE_NAME)
    assert [(one.pid, one.model) for one in records] == [(second.pid, "demo"), (third.pid, "a:b")]
    assert all(one.marker.startswith(f"{home_of(tmp_path)}:1:") for one in records)


def test_our_own_descriptor_does_not_hold_the_lock(tmp_path: Path, launches: Launches):
    process = begin(Children(tmp_path, launches), launches)
    before = len(os.listdir("/proc/self/fd"))
    assert lifelock.is_held(lifelock.path_of(tmp_path, "demo"))
    process.kill()
    process.wait()
    assert not lifelock.is_held(lifelock.path_of(tmp_path, "demo"))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_second_one_of_a_model_has_a_lock_of_its_own_and_is_ended_likewise(
    tmp_path: Path, launches: Launches
):
    children = Children(tmp_path, launches)
    both = [begin(children, launches), begin(children, launches, "demo#2")]
    assert all(lifelock.is_held(lifelock.path_of(tmp_path, holder)) for holder in ("demo", "demo#2"))
    spec: Any = SimpleNamespace(holder="demo#2")
    assert asyncio.run(children.checked(fine)(spec)) is None
    assert [lives(one) for one in both] == [True, False], (
        "what is left in its own seat is in its way, and only that"
    )
    Children(tmp_path, launches).sweep()
    assert not any(map(lives, both))


def test_without_its_folder_a_child_starts_all_the_same(tmp_path: Path, launches: Launches):
    children = Children(tmp_path / "gone", launches)
    assert lives(begin(children, launches))


async def fine(_: Any) -> Cause | None:
    return None


async def test_before_a_spawn_an_earlier_process_of_the_model_is_ended_and_no_other(
    tmp_path: Path, launches: Launches
):
    children = Children(tmp_path, launches)
    demo, other = begin(children, launches), begin(children, launches, "other")
    spec: Any = SimpleNamespace(holder="demo")
    assert await children.checked(fine)(spec) is None
    assert not lives(demo)
    assert lives(other)


async def test_a_lock_that_a_stranger_holds_delays_the_spawn(tmp_path: Path, launches: Launches):
    fd = lifelock.take(lifelock.path_of(tmp_path, "demo"))
    stranger = subprocess.Popen(["sleep", "60"], pass_fds=(fd,))
    os.close(fd)
    spec: Any = SimpleNamespace(holder="demo")
    try:
        cause = await Children(tmp_path, launches).checked(fine)(spec)
        assert cause is not None
        assert (cause.name, cause.permanent) == ("spawn_failed", False)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


async def test_the_look_comes_before_the_check(tmp_path: Path, launches: Launches):
    async def bad(_: Any) -> Cause | None:
        return Cause("x", "y")

    spec: Any = SimpleNamespace(holder="demo")
    assert await Children(tmp_path, launches).checked(bad)(spec) == Cause("x", "y")


def test_a_folder_has_one_home_and_two_have_two(tmp_path: Path):
    one, two = folder(tmp_path / "one"), folder(tmp_path / "two")
    (tmp_path / "link").symlink_to(one)
    assert home_of(one) == home_of(tmp_path / "link") != home_of(two)


@pytest.mark.parametrize("model", ["demo", "a:b:c", ""])
def test_the_model_is_read_from_the_marker(model: str):
    assert model_of(f"home:1:{model}:7") == model
