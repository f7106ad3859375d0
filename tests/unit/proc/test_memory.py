import asyncio
import os
from types import SimpleNamespace

import pytest

from supervisor.proc import memory
from supervisor.proc.memory import MemoryWatch, Overseer, Reading, Split, read
from supervisor.proc.pss import PssMemory
from supervisor.types import MIB
from tests.support.clock import FakeClock
from tests.support.proc import eventually, stage

LIMIT = 1000


class Children:
    """Readings of one or more models, MiB; each look is a second later."""

    def __init__(self):
        self.overseer = Overseer(LIMIT * MIB)
        self.now = 0.0

    def look(self, seconds=1, *, generation=1, ready=True, in_flight=0, file=0, **own):
        self.now += seconds
        readings = [
            Reading(name, generation, ready, Split(anon=size * MIB, file=file * MIB), in_flight)
            for name, size in own.items()
        ]
        return self.overseer.look(self.now, readings)


def test_below_the_limit_nothing_is_done():
    it = Children()
    assert [it.look(demo=100), it.look(demo=999)] == [None, None]
    assert it.overseer.warning == ""


@pytest.mark.fault(33)
def test_a_child_that_grew_is_replaced_when_it_has_been_idle_for_five_seconds():
    it = Children()
    it.look(demo=100)
    assert it.look(demo=1100, in_flight=1) is None
    over = "llama-servers take 1100 MiB, memory.limit_mb is 1000 MiB"
    grown = f"{over}; demo has grown by 1000 MiB since it was READY"
    assert it.overseer.warning == f"{grown}: replaced when it is idle, or in 60 s"
    assert [it.look(demo=1100) for _ in range(5)] == [None] * 5
    verdict = it.look(demo=1100)
    assert (verdict.name, verdict.generation) == ("demo", 1)
    assert verdict.evidence == grown
    assert it.overseer.warning == f"{grown}: it takes nothing new and is being replaced"
    assert it.look(demo=1100) is None
    assert it.overseer.warning == f"{over}; demo is being replaced and takes nothing new until it is"
    assert it.look(generation=2, demo=100) is None
    assert it.overseer.warning == ""


@pytest.mark.fault(33)
def test_one_that_is_never_idle_is_replaced_after_a_minute():
    it = Children()
    it.look(demo=100, in_flight=1)
    verdicts = [it.look(demo=1100, in_flight=1) for _ in range(61)]
    assert [verdict is not None for verdict in verdicts] == [False] * 60 + [True]


def test_of_several_the_one_that_grew_most():
    it = Children()
    it.look(large=700, small=100)
    it.look(large=700, small=500)
    assert it.look(10, large=700, small=500).name == "small"


def test_weights_count_but_only_growth_is_worth_a_replacement():
    it = Children()
    assert [it.look(10, file=990, demo=100) for _ in range(20)] == [None] * 20
    assert "none has grown since it was READY" in it.overseer.warning


def test_what_is_not_ready_is_left_alone():
    it = Children()
    it.look(demo=100)
    assert [it.look(10, ready=False, demo=1100) for _ in range(20)] == [None] * 20


@pytest.mark.fault(33)
def test_replacements_are_rationed_to_three_an_hour():
    it = Children()
    done = []
    for generation in range(1, 200):
        it.look(1, generation=generation, demo=100)
        done += [it.now for _ in range(5) if it.look(10, generation=generation, demo=1100)]
    assert len([when for when in done if when < done[0] + 3600]) == 3
    assert done[2] < 500
    assert len(done) > 3
    assert "3 were replaced within an hour" in it.overseer.warning


def test_the_trend_is_in_bytes_a_minute():
    it = Children()
    assert it.overseer.trend("demo") == 0
    it.look(demo=100)
    it.look(30, demo=110)
    assert it.overseer.trend("demo") == 20 * MIB


def test_a_process_is_read_by_kind(tmp_path):
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "status").write_text(
        "Name:\tx y\nVmSwap:\t      3 kB\nRssAnon:\t 5 kB\nRssFile:\t 7 kB\nRssShmem:\t 0 kB\n\n"
    )
    found = read(7, proc=tmp_path)
    assert found == Split(anon=5 * 1024, file=7 * 1024, shmem=0, swap=3 * 1024)
    assert (found.total, found.own) == (15 * 1024, 8 * 1024)
    (tmp_path / "7" / "status").write_text("Name:\tzombie\n")
    assert read(7, proc=tmp_path) is None


def test_without_proc_all_is_anonymous(tmp_path):
    assert read(os.getpid(), proc=tmp_path).anon > MIB
    assert read(2**22 + 1, proc=tmp_path) is None


@pytest.fixture
def watch():
    it = SimpleNamespace(sizes={1: 100}, asked=[], clock=FakeClock())
    views = {
        "demo": SimpleNamespace(name="demo", holder="demo", generation=4, ready=True, pid=1),
        "off": SimpleNamespace(name="off", holder="off", generation=1, ready=False, pid=None),
    }
    it.views = views
    it.watch = MemoryWatch(
        limit_bytes=LIMIT * MIB,
        views=views,
        in_flight=lambda _: 0,
        recycle=lambda *args: it.asked.append(args[:2]),
        clock=it.clock,
        measure=lambda pid: Split(anon=it.sizes[pid] * MIB),
        pss=PssMemory(lambda: [1], measure=lambda pid: 70 * pid),
    )
    return it


def test_the_watch_asks_the_instance_once_and_tells_its_figures(watch):
    async def scenario():
        task = asyncio.create_task(watch.watch.keep())
        await watch.clock.advance(6)
        watch.sizes[1] = 1100
        await watch.clock.advance(20)
        await eventually(lambda: watch.watch.figures("demo")["pss_bytes"] == 70)
        task.cancel()

    asyncio.run(scenario())
    assert watch.asked == [("demo", 4)]
    assert watch.watch.warning
    figures = watch.watch.figures("demo")
    assert figures["anon_bytes"] == 1100 * MIB
    assert figures["trend_bytes_per_min"] > 0
    assert set(figures) == {
        "anon_bytes",
        "file_bytes",
        "shmem_bytes",
        "swap_bytes",
        "pss_bytes",
        "gpu_bytes",
        "trend_bytes_per_min",
    }
    assert watch.watch.figures("off") is None


def test_what_grows_before_the_first_look_has_grown_since_ready(watch):
    async def scenario():
        task = asyncio.create_task(watch.watch.keep())
        watch.watch.on_view(watch.views["demo"])
        watch.watch.on_view(watch.views["off"])
        watch.sizes[1] = 1100
        watch.watch.on_view(watch.views["demo"])  # the first one counts
        await watch.clock.advance(12)
        task.cancel()

    asyncio.run(scenario())
    assert watch.asked == [("demo", 4)]


def test_an_instance_replaces_the_generation_after_draining_and_says_why(monkeypatch):
    async def scenario():
        async with stage(monkeypatch) as it:
            await it.start()
            it.fleet.recycle("demo", 99, "of another generation")
            await it.clock.settle()
            assert it.view.state == "READY"
            it.traffic.busy = True
            it.fleet.recycle("demo", it.view.generation, "it grew")
            await it.clock.settle()
            assert it.view.state == "DRAINING"
            await it.clock.advance(31)
            assert (it.view.state, it.view.generation) == ("READY", 2)
            assert (it.view.last_death.cause, it.view.last_death.detail) == ("recycled", "it grew")

    asyncio.run(scenario())


def test_real_figures_of_ourselves():
    assert read(os.getpid()).total > MIB
    assert memory.PROC.exists()
