"""The last hour in columns."""

from copy import deepcopy
from typing import Any

from supervisor.control.history import PERIOD_S, History
from tests.support.clock import FakeClock
from tests.support.overseer import STATUS


def test_columns_have_one_entry_for_each_time() -> None:
    status: dict[str, Any] = deepcopy(STATUS)
    clock = FakeClock()
    history = History(lambda: status, clock, kept=3)
    for busy in range(4):
        status["models"][0]["slots"]["busy"] = busy
        history.look()
    told = history.as_dict()
    assert told["period_s"] == PERIOD_S
    assert told["at"] == [round(clock.wall().timestamp(), 1)] * 3
    assert told["models"]["demo"] == {
        "rss_bytes": [4, 4, 4],
        "slots_busy": [1, 2, 3],
        "state": ["READY", "READY", "READY"],
    }
    assert (told["in_flight"], told["queued"], told["daemon_rss_bytes"]) == ([1, 1, 1], [0, 0, 0], [1, 1, 1])


def test_a_model_that_comes_later_has_nulls_before() -> None:
    status: dict[str, Any] = deepcopy(STATUS)
    history = History(lambda: status, FakeClock())
    history.look()
    status["models"].append(deepcopy(status["models"][0]) | {"name": "late"})
    history.look()
    assert history.as_dict()["models"]["late"]["rss_bytes"] == [None, 4]


async def _kept(history: History, clock: FakeClock) -> None:
    import asyncio

    task = asyncio.create_task(history.keep())
    await clock.advance(2.5 * PERIOD_S)
    task.cancel()


def test_it_looks_every_so_often_and_survives_a_look_that_fails() -> None:
    import asyncio

    looks = 0

    def status() -> dict[str, Any]:
        nonlocal looks
        looks += 1
        if looks == 2:
            raise OSError("no /proc")
        return STATUS

    clock = FakeClock()
    history = History(status, clock)
    asyncio.run(_kept(history, clock))
    assert looks == 3
    assert len(history.as_dict()["at"]) == 2
