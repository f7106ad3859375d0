"""Models that come and go, on the parts of a whole daemon; none of them is ever loaded here."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import yaml

from supervisor.clock import SystemClock
from supervisor.parts import Parts
from supervisor.proc.children import Children
from supervisor.proc.memory import Reading, Split
from supervisor.proc.run import Launcher
from supervisor.reload import Reloader
from supervisor.roster import Roster
from supervisor.settings.load import load
from supervisor.types import Generation, ModelName
from tests.support.proc import eventually

pytestmark = pytest.mark.anyio

Models = dict[str, dict[str, object]]


class House:
    def __init__(self, folder: Path) -> None:
        self._folder, self._file = folder, folder / "llmsup.yaml"
        self.write({"demo": {}})
        loaded = load(self._file, {})
        self.parts = Parts(loaded.settings, Children(folder, Launcher(SystemClock())))
        self.roster = Roster(self.parts)
        nobody: Any = SimpleNamespace(reloading=lambda: None, ready=lambda: None)
        self.reloader = Reloader(loaded, {}, notifier=nobody, appliers=[self.roster.applier()])

    def write(self, models: Models, default: str | None = None) -> None:
        """None of them is loaded before somebody asks."""
        settings = {
            "state_dir": str(self._folder / "s"),
            "models": {name: {"path": "/m.gguf", "preload": False} | keys for name, keys in models.items()},
            "default_model": default or next(iter(models)),
        }
        self._file.write_text(yaml.safe_dump(settings))

    async def edit(self, models: Models, default: str | None = None) -> dict[str, Any]:
        self.write(models, default)
        return await self.reloader.reload()

    async def until(self, *names: str) -> None:
        await eventually(lambda: list(self.parts.fleet.views) == list(names))


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    it = House(tmp_path)
    it.parts.fleet.open()
    yield it
    await it.roster.close()
    await it.parts.fleet.close()
    await it.parts.prober.aclose()


def told(answer: dict[str, Any]) -> dict[str, str]:
    return {one["key"]: one["effect"] for one in answer["changes"]}


async def test_one_that_comes_is_known_everywhere(house: House) -> None:
    connections = house.parts.pipeline.max_connections
    answer = await house.edit({"demo": {}, "other": {"aliases": ["also"], "ttl_s": 5, "parallel": 8}})
    assert (told(answer), answer["at_next_start"]) == ({"models.other": "at once"}, [])
    parts = house.parts
    assert list(parts.fleet.views) == list(parts.admission.gates) == list(parts.admission.offered)
    assert list(parts.model_logs) == ["demo", "other"]
    assert parts.aliases == {"also": "other"}
    assert parts.fleet.lineup("other").terms.ttl_s == 5
    assert parts.fleet.views[ModelName("other")].on_demand
    assert parts.pipeline.max_connections <= connections
    assert parts.fleet.is_served()


async def test_the_default_changes_at_once(house: House) -> None:
    answer = await house.edit({"demo": {}, "other": {}}, "other")
    assert told(answer) == {"models.other": "at once", "default_model": "at once"}
    assert house.parts.pipeline.default == house.parts.residents.default == "other"


async def test_of_one_that_goes_nothing_is_kept(house: House) -> None:
    parts, name = house.parts, ModelName("other")
    await house.edit({"demo": {}, "other": {"aliases": ["also"]}})
    parts.telemetry._failures[name] = 1
    await parts.residents.look()
    reading = Reading("other#2", Generation(1), True, Split(anon=1), 0)
    parts.memory._overseer.begin(0.0, reading)
    log_file = parts.model_logs[name]
    answer = await house.edit({"demo": {}})
    assert (told(answer), answer["at_next_start"]) == ({"models.other": "at once"}, [])
    await house.until("demo")
    await eventually(lambda: not log_file._thread.is_alive())
    kept: list[Mapping[Any, object]] = [
        parts.fleet.lineups,
        parts.admission.gates,
        parts.admission.offered,
        parts.aliases,
        parts.model_logs,
        parts.residents._uses,
        parts.telemetry._failures,
        parts.telemetry._recoveries._seen,
        parts.memory._overseer._tracks,
    ]
    assert not [one for one in kept if {"other", "other#2", "also"} & set(one)]
    assert [gate.view.name for gate in parts.admission._turns] == ["demo"]


async def test_while_it_leaves_it_is_not_offered_and_it_may_come_back(house: House) -> None:
    await house.edit({"demo": {}, "other": {}})
    lineup = house.parts.fleet.lineups[ModelName("other")]
    lineup.retire()  # as the reload does
    assert list(house.parts.admission.offered) == ["demo"]
    assert list(house.parts.admission.gates) == ["demo", "other"]
    await house.edit({"demo": {}, "other": {"parallel": 3}})
    assert list(house.parts.admission.offered) == ["demo", "other"]
    assert (lineup.removed, lineup.front.spec.parallel) == (False, 3)
    assert house.parts.fleet.lineups[ModelName("other")] is lineup


async def test_without_threads_for_its_log_nothing_is_taken_up(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    def log_of(name: str, real: Callable[[str], Any] = house.parts.log_of) -> Any:
        if made:
            raise RuntimeError("can't start new thread")
        made.append(real(name))
        return made[0]

    monkeypatch.setattr(house.parts, "log_of", log_of)
    answer = await house.edit({"demo": {}, "one": {}, "two": {}}, "two")
    assert answer["applied"] == []
    assert set(answer["at_next_start"]) == {"models.one", "models.two", "default_model"}
    assert list(house.parts.fleet.views) == ["demo"]
    assert house.parts.pipeline.default == "demo"
    await eventually(lambda: not made[0]._thread.is_alive())


async def test_nothing_begins_once_llmsup_ends(house: House) -> None:
    house.parts.admission.drain()
    await house.edit({"demo": {}, "other": {}})
    assert list(house.parts.fleet.views) == ["demo"]


async def test_twenty_that_come_and_go_leave_no_task_no_thread_and_no_descriptor(house: House) -> None:
    async def cycle(name: str) -> tuple[int, int, int]:
        await house.edit({"demo": {}, name: {}})
        await house.until("demo", name)
        await house.edit({"demo": {}})
        await house.until("demo")
        await eventually(lambda: not house.roster._tasks)
        logs = sum(thread.name.startswith("log-") for thread in threading.enumerate())
        return len(asyncio.all_tasks()), logs, psutil.Process().num_fds()

    before = await cycle("first")
    for number in range(20):
        after = await cycle(f"m{number}")
    assert all(now <= was for now, was in zip(after, before, strict=True)), (before, after)
