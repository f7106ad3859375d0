"""The record survives whatever happens to it: crashes at any moment, full disks, garbage."""

import asyncio
import errno
import gc
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import types
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.events import Death
from supervisor.proc import deaths
from supervisor.proc.deaths import KEPT, Deaths, Entry, dump, parse, previous, read, recover, write
from supervisor.types import Generation
from tests.support.clock import FakeClock

AT = datetime(2030, 1, 1, tzinfo=UTC)
texts = st.text(max_size=40)
entries = st.builds(
    Entry,
    st.builds(
        Death,
        at=st.datetimes(timezones=st.just(UTC)).map(lambda at: at.replace(microsecond=0)),
        generation=st.integers(0, 10**6).map(Generation),
        cause=texts,
        signal=st.none() | texts,
        exit_code=st.none() | st.integers(0, 255),
        uptime_s=st.integers(0, 10**6).map(float),
        detail=texts,
        permanent=st.booleans(),
        model=texts,
        phase=texts,
        evidence=texts,
        lines=st.lists(texts, max_size=3).map(tuple),
        rss_bytes=st.none() | st.integers(0, 2**40),
        then=texts,
        degraded=st.none() | texts,
    ),
    texts,
)


def death(number: int = 1, **changes: object) -> Death:
    facts = {
        "at": AT + timedelta(seconds=number),
        "generation": Generation(number),
        "cause": "killed",
        "signal": "SIGKILL",
        "exit_code": None,
        "uptime_s": 1.0,
        "detail": "ended by SIGKILL",
        "model": "demo",
    }
    return Death(**{**facts, **changes})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deaths.json"


def generations(found):
    return [entry.death.generation for entry in found]


# ---- the document


def whole(some):
    return b"".join(dump(some))


@given(st.lists(entries, max_size=4))
def test_what_is_written_is_read(some):
    assert parse(whole(some)) == some


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_it_is_made_piece_by_piece_and_leaves_no_garbage(no_collector):
    some = [
        Entry(death(number, lines=("x" * deaths.LINE_CHARS,) * deaths.LINES_KEPT)) for number in range(KEPT)
    ]
    sizes = [len(piece) for piece in dump(some)]
    functions = (one for one in gc.get_objects() if isinstance(one, types.FunctionType))
    assert not [
        one for one in functions if one.__module__ == "json.encoder" and "<locals>" in one.__qualname__
    ]
    assert max(sizes) < 2 * deaths.LINE_CHARS * deaths.LINES_KEPT
    assert sum(sizes) > KEPT * deaths.LINE_CHARS * deaths.LINES_KEPT


def test_half_characters_do_not_break_it():
    (entry,) = parse(whole([Entry(death(detail="a\ud800b"))]))
    assert entry.death.detail == "a\ud800b"


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.integers() | texts, st.lists).map(
        lambda value: json.dumps({"schema": 1, "deaths": value}).encode()
    )
)
def test_garbage_is_a_value_error_or_entries(data):
    try:
        parse(data)
    except ValueError:
        pass


@pytest.mark.parametrize("change", [{"schema": 2}, {"schema": None}, {"deaths": None}, {"deaths": [{}]}])
def test_another_schema_is_not_read(change):
    document = json.loads(whole([Entry(death())])) | change
    with pytest.raises(ValueError):
        parse(json.dumps(document).encode())


@pytest.mark.parametrize(
    "change",
    [
        {"at": "2030-01-01T00:00:00"},
        {"at": 5},
        {"signal": 9},
        {"rss_bytes": "many"},
        {"uptime_s": "x"},
        {"lines": 7},
    ],
)
def test_fields_of_another_kind_are_not_read(change):
    document = json.loads(whole([Entry(death())]))
    document["deaths"][0] |= change
    with pytest.raises(ValueError):
        parse(json.dumps(document).encode())


# ---- the files


def test_the_one_before_is_kept(path):
    for number in (1, 2, 3):
        write(path, dump([Entry(death(number))]))
    assert generations(read(path)[0]) == [3]
    assert generations(read(previous(path))[0]) == [2]
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(item.name for item in path.parent.iterdir()) == ["deaths.json", "deaths.json.prev"]


def test_nothing_yet(path):
    assert read(path) == ([], "")
    assert recover(path) == []


@pytest.mark.parametrize("garbage", [b"", b"{", b"\xff\xfe", b"[]", b'{"schema":99}'])
def test_an_unreadable_one_is_moved_aside_and_the_one_before_is_used(path, garbage):
    for number in (1, 2):
        write(path, dump([Entry(death(number))]))
    path.write_bytes(garbage)
    found, wrong = read(path)
    assert generations(found) == [1]
    assert str(path) in wrong
    assert path.read_bytes() == garbage, "looking changes nothing"
    assert generations(recover(path)) == [1]
    assert path.with_name("deaths.json.corrupt-1").read_bytes() == garbage
    assert not path.exists()


def test_both_unreadable(path):
    path.write_bytes(b"{")
    previous(path).write_bytes(b"}")
    assert recover(path) == []
    assert sorted(item.name for item in path.parent.iterdir()) == [
        "deaths.json.corrupt-1",
        "deaths.json.corrupt-2",
    ]


def test_unreadable_files_do_not_pile_up(path):
    for _ in range(deaths.ASIDE + 5):
        path.write_bytes(b"{")
        recover(path)
    assert len(list(path.parent.iterdir())) == deaths.ASIDE


def test_a_link_or_a_pipe_in_its_place_does_no_harm(path, tmp_path):
    (tmp_path / "victim").write_text("precious")
    path.with_name(".deaths.json.new").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError):
        write(path, [b"{}"])
    assert (tmp_path / "victim").read_text() == "precious"
    os.mkfifo(path)
    assert recover(path) == []


def test_a_file_system_without_links(path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    for number in (1, 2):
        write(path, dump([Entry(death(number))]))
    assert generations(read(path)[0]) == [2]


WRITER = """
import sys
from pathlib import Path
from supervisor.proc.deaths import Entry, dump, recover, write
from tests.unit.proc.test_deaths import death
path = Path(sys.argv[1])
number = max((entry.death.generation for entry in recover(path)), default=0)
print("on", flush=True)
while True:
    number += 1
    write(path, dump([Entry(death(n)) for n in range(max(1, number - 50), number + 1)]))
"""


@pytest.mark.fault(24)
def test_killed_at_any_moment_the_file_is_the_old_one_or_the_new_one(path):
    newest = 0
    for _ in range(4):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(random.uniform(0.05, 0.2))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        found, wrong = read(path)
        assert wrong == ""
        assert generations(found)[-1] > newest
        newest = generations(found)[-1]
    assert not list(path.parent.glob("*.corrupt*"))


# ---- the record


@pytest.mark.anyio
class TestRecord:
    @pytest.fixture
    async def keeping(self, path):
        clock, record = FakeClock(), Deaths(path)
        task = asyncio.create_task(record.keep(clock))
        yield clock, record
        task.cancel()

    @staticmethod
    async def written(path, number):
        for _ in range(500):
            if generations(read(path)[0])[-1:] == [number]:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"not written: {number}; {read(path)}")

    async def test_news_is_written_at_once_and_what_follows_once_a_second(self, keeping, path):
        clock, record = keeping
        record.add(death(1))
        await self.written(path, 1)
        for number in (2, 3, 4):
            record.add(death(number))
        await clock.advance(0.9)
        assert generations(read(path)[0]) == [1]
        for _ in range(50):  # the thread takes real time, and only then the second begins
            await clock.advance(0.2)
            await asyncio.sleep(0.01)
        await self.written(path, 4)
        assert generations(read(previous(path))[0]) == [1], "written together"

    async def test_the_last_hundred_are_kept_over_restarts(self, path):
        record = Deaths(path)
        for number in range(1, KEPT + 4):
            record.add(death(number))
        await record.flush()
        again = Deaths(path)
        assert generations(again.entries) == list(range(4, KEPT + 4))
        assert again.entries[0].boot_id == deaths.boot_id()
        assert "100" in repr(again)

    async def test_long_output_is_cut(self, path):
        record = Deaths(path)
        record.add(death(lines=tuple(str(n) + "x" * 10_000 for n in range(50))))
        (entry,) = record.entries
        assert len(entry.death.lines) == deaths.LINES_KEPT
        assert entry.death.lines[-1].startswith("49x")
        assert all(len(line) == deaths.LINE_CHARS for line in entry.death.lines)

    async def test_a_full_disk_is_said_and_tried_again(self, path, monkeypatch):
        record = Deaths(path)
        real = deaths.write

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(deaths, "write", full)
        record.add(death(1))
        await record.flush()
        assert record.error == f"{path}: No space left on device"
        assert generations(record.entries) == [1]
        monkeypatch.setattr(deaths, "write", real)
        await record.flush()
        assert record.error == ""
        assert generations(read(path)[0]) == [1]

    async def test_nothing_new_is_not_written(self, path):
        record = Deaths(path)
        record.add(death(1))
        await record.flush()
        before = path.stat().st_mtime_ns
        await record.flush()
        assert path.stat().st_mtime_ns == before

    async def test_keep_goes_on_after_a_full_disk(self, keeping, path, monkeypatch):
        clock, record = keeping
        real = deaths.write
        tries: list[int] = []

        def full_twice(*told: object) -> None:
            tries.append(1)
            if len(tries) < 3:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(*told)

        monkeypatch.setattr(deaths, "write", full_twice)
        record.add(death(1))
        for _ in range(100):
            await clock.advance(0.5)
            await asyncio.sleep(0.01)
            if path.exists():
                break
        await self.written(path, 1)

    async def test_a_disk_that_hangs_does_not_hold_up_the_end(self, path, monkeypatch):
        hanging = threading.Event()
        monkeypatch.setattr(deaths, "write", lambda *_: hanging.wait(10))
        monkeypatch.setattr(deaths, "CLOSE_S", 0.05)
        record = Deaths(path)
        record.add(death(1))
        await asyncio.wait_for(record.close(), 1)
        hanging.set()
