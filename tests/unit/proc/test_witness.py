import asyncio
import os

import pytest

from supervisor.proc import vitals, witness
from supervisor.proc.vitals import Vitals
from supervisor.proc.witness import Witness
from supervisor.types import MIB
from tests.support.clock import FakeClock


@pytest.fixture
def kernel(monkeypatch):
    class Kernel:
        kills: int | None = 3
        rss_bytes = 40 * MIB

        def count(self):
            return self.kills

    it = Kernel()
    monkeypatch.setattr(
        vitals, "read", lambda _: Vitals(it.rss_bytes, 0.0, 0, "R") if it.rss_bytes is not None else None
    )
    return it


def test_a_grown_counter_is_evidence_with_numbers(kernel):
    seen = Witness(1, kernel.count)
    assert seen.out_of_memory() == ""
    kernel.kills = 4
    assert seen.out_of_memory() == (
        "the kernel's oom_kill counter of our cgroup went from 3 to 4; it held 40 MiB when last looked at"
    )


@pytest.mark.parametrize(("before", "after"), [(None, 4), (3, None), (None, None), (3, 3), (3, 0)])
def test_no_counter_no_evidence(kernel, before, after):
    kernel.kills = before
    seen = Witness(1, kernel.count)
    kernel.kills = after
    assert seen.out_of_memory() == ""


def test_a_look_between_the_kill_and_the_end_does_not_hide_it_but_an_old_kill_is_forgotten(kernel):
    seen = Witness(1, kernel.count)
    kernel.kills = 4
    for _ in range(witness.LOOKS - 1):
        seen.look()
        assert seen.out_of_memory()
    seen.look()
    assert not seen.out_of_memory()


@pytest.mark.parametrize("gone", [0, None])
def test_the_memory_is_that_of_the_last_living_look(kernel, gone):
    seen = Witness(1, kernel.count)
    kernel.rss_bytes = gone
    seen.look()
    assert seen.rss_bytes == 40 * MIB


@pytest.mark.anyio
async def test_it_looks_often_at_first_then_every_two_seconds(kernel):
    clock = FakeClock()
    seen, times = Witness(1, kernel.count), []
    real = seen.look
    seen.look = lambda: (times.append(round(clock.now() - 1000, 3)), real())
    task = asyncio.create_task(seen.watch(clock))
    await clock.advance(8)
    task.cancel()
    assert times == [0.1, 0.3, 0.7, 1.5, 3.1, 5.1, 7.1]


def test_a_real_process():
    assert Witness(os.getpid(), lambda: None).rss_bytes > MIB
