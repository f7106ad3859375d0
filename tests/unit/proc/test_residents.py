"""Who is in memory: loaded by a request, unloaded after a while, unloaded for another."""

import asyncio
import signal
from collections.abc import Collection
from typing import Any

import pytest

from supervisor.errors import NotFound
from supervisor.proc.budget import HOLDING
from supervisor.proc.causes import Cause
from supervisor.proc.command import ModelSpec
from supervisor.proc.lineup import Terms
from supervisor.proc.residents import Residents, Usage
from supervisor.proc.state import Event
from supervisor.types import ModelName
from tests.support.proc import Stage, stage

pytestmark = pytest.mark.anyio
ON_DEMAND = Terms(preload=False)


class Scales:
    """A budget of ``places``, of which each process takes one, or what ``sizes`` says."""

    def __init__(self, on: Stage, places: int) -> None:
        self._on = on
        self.places = places
        self.sizes: dict[str, int] = {}

    def _size(self, name: str) -> int:
        return self.sizes.get(name, 1)

    async def would_fit(self, spec: ModelSpec, *, without: Collection[str] = ()) -> Cause | None:
        views = self._on.fleet.holders.values()
        others = [one for one in views if one.holder not in {spec.holder, *without} and one.state in HOLDING]
        taken = sum(self._size(one.name) for one in others)
        return (
            None
            if taken + self._size(spec.name) <= self.places
            else Cause("does_not_fit", f"{taken} places are taken")
        )

    async def check(self, spec: ModelSpec) -> Cause | None:
        return await self.would_fit(spec)


class House:
    """Three models, with room for some."""

    def __init__(self, on: Stage, places: int) -> None:
        self.on = on
        self.busy: set[str] = set()
        self.asked: dict[str, int] = dict.fromkeys(on.launchers, 0)
        self.scales = Scales(on, places)
        budget: Any = self.scales
        self.residents = Residents(on.fleet, budget, on.clock, usage=self._usage, default=ModelName("demo"))
        on.check = self.residents.check

    def _usage(self, name: ModelName) -> Usage:
        return Usage(name in self.busy, self.asked[name])

    async def ask(self, *names: str, stay: bool = False) -> None:
        """A request for each, answered as soon as it can be."""
        for name in names:
            self.busy.add(name)
            self.residents.wanted(ModelName(name))
            await self.on.clock.advance(1)
            self.asked[name] += self.on.fleet.views[ModelName(name)].ready
            await self.residents.look()
            if not stay:
                self.busy.discard(name)
            await self.on.clock.advance(1)

    def loaded(self) -> set[str]:
        return {name for name, view in self.on.fleet.views.items() if view.ready}

    def unloaded(self, name: str) -> str | None:
        last = self.on.fleet.views[ModelName(name)].last_unload
        return last.reason if last is not None else None


@pytest.fixture
async def house(monkeypatch):
    terms = dict.fromkeys(("demo", "b", "c"), ON_DEMAND)
    async with stage(monkeypatch, "demo", "b", "c", terms=terms) as on:
        yield House(on, places=2)


async def test_a_request_loads_a_model_and_a_second_one_changes_nothing(house):
    assert house.loaded() == set()
    await house.ask("b")
    await house.ask("b")
    assert house.loaded() == {"b"}
    assert len(house.on.launchers["b"].runs) == 1


async def test_the_one_that_has_been_idle_for_longest_makes_room(house):
    await house.ask("b", "c", "b", "demo")
    assert house.loaded() == {"demo", "b"}
    assert (house.unloaded("c"), house.unloaded("b")) == ("evicted", None)
    await house.ask("c")
    assert house.loaded() == {"demo", "c"}, "the default model goes last, however long it was idle"


async def test_nobody_with_a_request_is_unloaded(house):
    await house.ask("b", "c", stay=True)
    await house.ask("demo")
    assert house.loaded() == {"b", "c"}
    assert house.on.fleet.views["demo"].last_death.cause == "does_not_fit"
    house.busy = {"demo", "b"}
    await house.on.clock.advance(5)
    assert house.loaded() == {"demo", "b"}


async def test_nobody_is_unloaded_in_vain(house):
    await house.ask("b", "c")
    house.scales.places = 0
    await house.ask("demo")
    assert house.loaded() == {"b", "c"}


async def test_what_only_starts_by_itself_takes_what_is_free(house):
    await house.ask("b", "c")
    await house.on.fleet.command("demo", Event.START)
    await house.on.clock.advance(1)
    assert house.loaded() == {"b", "c"}


async def test_an_operators_load_makes_room_as_a_request_does(house):
    await house.ask("b", "c")
    await house.residents.load("demo")
    await house.on.clock.advance(1)
    assert house.loaded() == {"demo", "c"}


async def test_an_old_wish_does_not_count_for_a_restart_of_its_own(house):
    house.scales.places = 1
    await house.ask("b")
    await house.residents.load("b")
    await house.on.fleet.command("b", Event.STOP)
    await house.on.clock.advance(1)
    await house.ask("c")
    await house.on.fleet.command("b", Event.START)
    await house.on.clock.advance(1)
    assert house.loaded() == {"c"}


async def test_as_few_as_will_do(house):
    house.scales.places = 3
    await house.ask("demo", "b", "c")
    house.scales.places = 2  # and the one that comes back needs but one
    await house.residents.unload("c")
    await house.on.clock.advance(1)
    await house.ask("c")
    assert house.loaded() == {"demo", "c"}


async def test_of_two_that_come_together_the_second_waits_for_what_the_first_makes_free(house):
    house.scales.sizes = {"demo": 2}
    await house.ask("demo")
    house.on.run.ignores = {signal.SIGTERM}  # it takes its time
    house.busy = {"b", "c"}
    house.residents.wanted(ModelName("b"))
    await house.on.clock.advance(1)
    house.residents.wanted(ModelName("c"))
    await house.on.clock.advance(60)
    assert house.loaded() == {"b", "c"}
    assert house.unloaded("demo") == "evicted"
    assert all(house.on.fleet.views[name].last_death is None for name in "bc"), "neither was turned away"


async def test_a_crash_loop_for_want_of_room_ends_with_the_next_request(house):
    await house.ask("b", "c", stay=True)
    await house.ask("demo", stay=True)
    await house.on.clock.advance(120)
    assert house.on.fleet.views["demo"].state == "CRASHLOOP"
    assert house.on.fleet.views["demo"].on_demand
    house.busy = {"demo"}
    house.residents.wanted(ModelName("demo"))
    await house.on.clock.advance(1)
    assert "demo" in house.loaded()


# ---- after a while


@pytest.fixture
async def timed(monkeypatch):
    terms = {"demo": Terms(ttl_s=60.0), "b": ON_DEMAND}
    async with stage(monkeypatch, "demo", "b", terms=terms) as on:
        it = House(on, places=2)
        await on.fleet.start_all()
        keeping = asyncio.create_task(it.residents.keep())
        await on.clock.settle()
        yield it
        keeping.cancel()


async def test_it_is_unloaded_when_nobody_has_asked_for_so_long(timed):
    await timed.on.clock.advance(58)
    assert timed.loaded() == {"demo"}
    await timed.on.clock.advance(4)
    assert (timed.loaded(), timed.unloaded("demo")) == (set(), "ttl")
    await timed.ask("demo")
    assert timed.loaded() == {"demo"}


async def test_short_requests_between_two_looks_count(timed):
    for _ in range(10):
        await timed.on.clock.advance(30)
        timed.asked["demo"] += 1
    assert timed.loaded() == {"demo"}


async def test_a_request_that_takes_longer_than_that_is_not_cut(timed):
    timed.busy = {"demo"}
    await timed.on.clock.advance(300)
    assert timed.loaded() == {"demo"}
    timed.busy = set()
    await timed.on.clock.advance(50)
    assert timed.loaded() == {"demo"}, "it counts from the end of the last request"
    await timed.on.clock.advance(15)
    assert timed.loaded() == set()


async def test_without_a_ttl_it_stays(timed):
    await timed.ask("b")
    await timed.on.clock.advance(7200)
    assert timed.loaded() == {"b"}


async def test_an_error_of_our_own_does_not_end_the_looks(timed, monkeypatch):
    monkeypatch.setattr(timed.residents, "_note", None)
    await timed.on.clock.advance(100)
    assert timed.loaded() == {"demo"}
    monkeypatch.undo()
    await timed.on.clock.advance(100)
    assert timed.unloaded("demo") == "ttl"


# ---- by hand


async def test_an_operators_unload_is_undone_by_the_next_request(house):
    await house.ask("b")
    await house.residents.unload("b")
    await house.on.clock.advance(1)
    assert (house.loaded(), house.unloaded("b")) == (set(), "operator")
    await house.ask("b")
    assert house.loaded() == {"b"}


async def test_an_unknown_name_is_told_the_known_ones(house):
    for act in (house.residents.load, house.residents.unload):
        with pytest.raises(NotFound, match="no model named 'nope'"):
            await act("nope")


# ---- standbys


async def test_a_standby_goes_before_any_model_and_does_not_come_back_at_once(monkeypatch):
    terms = {"demo": Terms(standby=True), "b": ON_DEMAND}
    async with stage(monkeypatch, "demo", "b", terms=terms) as on:
        it = House(on, places=2)
        await on.fleet.start_all()
        await on.clock.settle()
        await it.residents.look()
        await on.clock.advance(1)
        assert on.view.second.state == "READY"
        await it.ask("b")
        assert it.loaded() == {"demo", "b"}
        await it.residents.look()
        assert (on.view.second.state, "places are taken" in on.view.second.why) == ("STOPPED", True)
        await it.residents.unload("b")
        await on.clock.advance(1)
        await it.residents.look()
        await on.clock.advance(1)
        assert on.view.second.state == "READY"


async def test_a_standby_of_a_busy_model_goes_before_an_idle_model(monkeypatch):
    terms = {"demo": Terms(standby=True), "b": ON_DEMAND, "c": ON_DEMAND}
    async with stage(monkeypatch, "demo", "b", "c", terms=terms) as on:
        it = House(on, places=3)
        await it.ask("c")
        await on.fleet.start_all()
        await on.clock.settle()
        await it.residents.look()
        await on.clock.advance(1)
        assert on.view.second.state == "READY"
        await it.ask("b")
        assert it.loaded() == {"demo", "b", "c"}
        assert on.view.second.why == "its memory was needed for b" or "places are taken" in on.view.second.why


async def test_the_next_generation_unloads_nobody_either(monkeypatch):
    async def plenty(_: ModelSpec) -> Cause | None:
        return None

    async with stage(monkeypatch, "demo", "b", terms={"demo": Terms(), "b": Terms()}) as on:
        it = House(on, places=2)
        await on.fleet.start_all()
        await on.clock.settle()
        it.busy = {"demo"}
        await on.fleet.restart("demo", plenty)
        await on.clock.advance(2)
        assert (it.unloaded("b"), it.loaded()) == (None, {"demo", "b"})


async def test_a_second_one_evicts_nobody(monkeypatch):
    async with stage(monkeypatch, "demo", "b", terms={"demo": Terms(standby=True), "b": Terms()}) as on:
        it = House(on, places=2)
        await on.fleet.start_all()
        await on.clock.settle()
        it.busy = {"demo"}
        await it.residents.look()
        await on.fleet.restart("demo", it.residents.room)
        await on.clock.advance(2)
        assert it.loaded() == {"demo", "b"}
        assert len(on.living("demo")) == 1
