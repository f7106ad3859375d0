"""Two llama-servers of one model: which is in service, and what is seen of them."""

import asyncio
import signal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.proc.causes import Cause
from supervisor.proc.command import ModelSpec
from supervisor.proc.lineup import Terms
from supervisor.proc.probe import Health
from supervisor.proc.state import Event
from tests.support.proc import Stage, stage

pytestmark = pytest.mark.anyio
NO_ROOM = Cause("does_not_fit", "takes 4000 MiB; memory.limit_mb is 2048, of which ...")


async def plenty(_: ModelSpec) -> Cause | None:
    return None


async def scarce(_: ModelSpec) -> Cause | None:
    return NO_ROOM


@pytest.fixture
async def on(monkeypatch):
    async with stage(monkeypatch, terms={"demo": Terms()}) as it:
        yield it


@pytest.fixture
async def kept(monkeypatch):
    """With a standby, and both READY: generation 1 in service, 2 standing by."""
    async with stage(monkeypatch, terms={"demo": Terms(standby=True)}) as it:
        await it.start()
        await it.lineup.tend(plenty)
        await it.clock.advance(0.1)
        yield it


async def restart(on: Stage, room: Any = plenty) -> None:
    await on.fleet.restart("demo", room)
    await on.clock.settle()


def in_service(on: Stage) -> tuple[str, int, int | None]:
    return on.view.state, on.view.generation, on.view.pid


# ---- a restart beside the old one


async def test_the_next_one_is_warmed_before_the_old_one_drains(on):
    await on.start()
    on.prober.state, on.traffic.busy = Health.LOADING, True
    await restart(on)
    old, new = on.living()
    assert in_service(on) == ("READY", 1, old.child.pid)
    assert (on.view.second.role, on.view.second.state, on.view.second.pid) == (
        "next",
        "LOADING",
        new.child.pid,
    )
    on.prober.state = Health.READY
    await on.clock.advance(0.5)
    assert in_service(on) == ("READY", 2, new.child.pid)
    assert (on.view.second.role, on.view.second.state) == ("leaving", "DRAINING")
    assert not old.exited.is_set()
    await on.clock.advance(30)
    assert on.living() == [new]
    assert on.view.second is None
    assert (on.view.last_death.generation, on.view.last_death.cause) == (1, "restarted")
    assert on.view.last_death.then == "left it ended: the next one serves, or none is wished"


async def test_whoever_looks_never_sees_it_away(on):
    await on.start()
    seen = len(on.views)
    await restart(on)
    await on.clock.advance(1)
    assert {view.state for view in on.views[seen:]} == {"READY"}
    assert [view.generation for view in on.views[seen:]] == sorted(
        view.generation for view in on.views[seen:]
    )
    assert (on.view.generation, on.view.restarts) == (2, 0)


async def test_generations_are_counted_over_both(on):
    await on.start()
    for number in range(2, 6):
        await restart(on)
        await on.clock.advance(1)
        assert (on.view.generation, len(on.living())) == (number, 1)


async def test_without_memory_for_two_the_old_one_goes_first(on):
    await on.start()
    await restart(on, scarce)
    await on.clock.advance(1)
    assert in_service(on)[:2] == ("READY", 2)
    assert not on.seconds["demo"].runs
    assert on.view.last_death.cause == "restarted"


@pytest.mark.parametrize(
    "cause",
    [
        Cause("model_missing", "/models/demo.gguf does not exist", permanent=True),
        Cause("does_not_fit", "takes 4000 MiB; memory.limit_mb is 2048", permanent=True),
        Cause("spawn_failed", "not possible just now"),
    ],
)
async def test_what_no_new_one_could_start_with_leaves_the_old_one(on, cause):
    async def refused(_: ModelSpec) -> Cause | None:
        return cause

    await on.start()
    await restart(on, refused)
    await on.clock.advance(60)
    assert in_service(on)[:2] == ("READY", 1)
    assert cause.detail in on.view.not_replaced


async def test_a_stop_while_memory_is_counted_beats_the_restart(on):
    async def meanwhile(_: ModelSpec) -> Cause | None:
        await on.fleet.command("demo", Event.STOP)
        return None

    await on.start()
    await restart(on, meanwhile)
    await on.clock.advance(60)
    assert (on.view.state, on.living()) == ("STOPPED", [])


async def test_memory_that_was_there_and_is_gone_again_is_no_failure(on):
    await on.start()
    on.broken_model = lambda spec: NO_ROOM if spec.seat else None
    await restart(on)
    await on.clock.advance(1)
    assert in_service(on)[:2] == ("READY", 3)
    assert (on.view.second, on.view.not_replaced) == (None, None)


async def test_one_that_ends_before_it_was_ready_leaves_the_old_one_and_says_so(on):
    await on.start()
    on.prober.state = Health.LOADING
    await restart(on)
    on.living()[-1].die("error: unknown argument", code=1)
    await on.clock.settle()
    assert in_service(on)[:2] == ("READY", 1)
    assert "the old one goes on" in on.view.not_replaced
    assert on.view.second is None
    await on.clock.advance(3600)
    assert len(on.seconds["demo"].runs) == 1, "it is not tried again by itself"
    on.prober.state = Health.READY
    await restart(on)
    await on.clock.advance(1)
    assert (on.view.not_replaced, on.view.state, on.view.generation > 2) == (None, "READY", True)


async def test_the_old_one_dies_while_the_next_one_loads(on):
    await on.start()
    on.prober.state = Health.LOADING
    await restart(on)
    on.living()[0].die(signal=signal.SIGKILL)
    await on.clock.settle()
    assert on.view.state == "LOADING"
    on.prober.state = Health.READY
    await on.clock.advance(2)
    assert (on.view.state, len(on.living())) == ("READY", 1)


async def test_a_second_wish_brings_a_newer_one_and_only_one(on):
    await on.start()
    on.prober.state = Health.LOADING
    await restart(on)
    await restart(on)
    on.prober.state = Health.READY
    await on.clock.advance(2)
    assert in_service(on)[:2] == ("READY", 3)
    assert len(on.living()) == 1


async def test_a_restart_while_the_last_old_one_still_drains(on):
    await on.start()
    on.traffic.busy = True
    await restart(on)
    await on.clock.advance(1)
    assert (on.view.generation, on.view.second.role) == (2, "leaving")
    await restart(on)
    assert on.view.second.role == "next"
    await on.clock.advance(31)
    on.traffic.busy = False
    await on.clock.advance(31)
    assert (on.view.state, on.view.generation, len(on.living())) == ("READY", 3, 1)


async def test_stop_ends_both(on):
    await on.start()
    on.prober.state = Health.LOADING
    await restart(on)
    stopping = asyncio.create_task(on.fleet.stop_all())
    await on.clock.advance(1)
    assert stopping.done()
    assert (on.living(), on.view.state, on.view.second) == ([], "STOPPED", None)


async def test_where_nothing_serves_a_restart_is_what_it_was(on):
    on.broken_model = Cause("model_missing", "it does not exist", permanent=True)
    await on.start()
    assert on.view.state == "FAILED"
    on.broken_model = None
    await restart(on)
    assert on.view.state == "READY"
    assert not on.seconds["demo"].runs


async def test_a_poke_and_a_replacement_reach_the_generation_they_are_about(on):
    await on.start()
    await restart(on)
    await on.clock.advance(1)
    asked = on.prober.asked
    on.fleet.poke("demo", 2)
    await on.clock.settle()
    assert on.prober.asked > asked
    on.fleet.recycle(on.view.holder, 1, "too old to be meant")
    await on.clock.settle()
    assert on.view.state == "READY"


# ---- the standby


async def test_a_standby_is_begun_when_the_first_serves(monkeypatch):
    async with stage(monkeypatch, terms={"demo": Terms(standby=True)}) as on:
        await on.lineup.tend(plenty)
        await on.clock.settle()
        assert on.living() == []
        await on.start()
        await on.lineup.tend(plenty)
        await on.clock.settle()
        assert (on.view.generation, on.view.second.role, on.view.second.state) == (1, "standby", "READY")


async def test_without_memory_it_says_why_there_is_none(monkeypatch):
    async with stage(monkeypatch, terms={"demo": Terms(standby=True)}) as on:
        await on.start()
        await on.lineup.tend(scarce)
        assert (on.view.second.role, on.view.second.state) == ("standby", "STOPPED")
        assert on.view.second.why == f"does_not_fit: {NO_ROOM.detail}"
        await on.lineup.tend(plenty)
        await on.clock.advance(1)
        assert (on.view.second.state, on.view.second.why) == ("READY", None)


async def test_no_standby_of_one_that_was_stopped_while_memory_was_counted(monkeypatch):
    async with stage(monkeypatch, terms={"demo": Terms(standby=True)}) as on:

        async def meanwhile(_: ModelSpec) -> Cause | None:
            await on.fleet.command("demo", Event.STOP)
            return None

        await on.start()
        await on.lineup.tend(meanwhile)
        await on.clock.advance(60)
        assert (on.view.state, on.living()) == ("STOPPED", [])


async def test_it_takes_over_when_the_first_dies_and_that_becomes_the_standby(kept):
    seen = len(kept.views)
    first, second = kept.living()
    first.die(signal=signal.SIGKILL)
    await kept.clock.settle()
    assert {view.state for view in kept.views[seen:]} == {"READY"}, "nobody saw it away"
    assert in_service(kept) == ("READY", 2, second.child.pid)
    assert (kept.view.last_death.generation, kept.view.last_death.cause) == (1, "killed")
    await kept.clock.advance(1)
    assert (kept.view.second.role, kept.view.second.state, kept.view.second.generation) == (
        "standby",
        "READY",
        3,
    )
    assert (kept.view.restarts, len(kept.living())) == (1, 2)


async def test_a_death_is_known_before_the_standby_is_asked(kept):
    """Whoever was inside at a crash must be known as such when the next generation takes over."""
    kept.living()[0].die(signal=signal.SIGSEGV)
    await kept.clock.settle()
    first_of_new = next(view for view in kept.views if view.generation == 2)
    assert (first_of_new.last_death.generation, first_of_new.last_death.cause) == (1, "segfault")


async def test_the_standbys_own_death_changes_nothing_for_those_who_ask(kept):
    kept.living()[1].die(signal=signal.SIGKILL)
    await kept.clock.advance(1)
    assert in_service(kept)[:2] == ("READY", 1)
    assert (kept.view.second.state, kept.view.second.generation) == ("READY", 3)


async def test_when_both_die_the_first_back_serves(kept):
    for run in kept.living():
        run.die(signal=signal.SIGKILL)
    await kept.clock.advance(2)
    assert (kept.view.state, kept.view.second.state, len(kept.living())) == ("READY", "READY", 2)


async def test_a_restart_renews_both_and_one_of_them_always_serves(kept):
    seen = len(kept.views)
    await restart(kept)
    await kept.clock.advance(2)
    assert {view.state for view in kept.views[seen:]} == {"READY"}
    assert sorted(run.generation for run in kept.living()) == [3, 4]
    assert (kept.view.generation, kept.view.second.role, kept.view.second.state) == (3, "standby", "READY")


async def test_a_first_that_fails_for_good_leaves_the_standby_in_service(kept):
    kept.broken_model = Cause("model_missing", "it does not exist", permanent=True)
    kept.living()[0].die(signal=signal.SIGKILL)
    await kept.clock.advance(2)
    assert in_service(kept)[:2] == ("READY", 2)
    assert (kept.view.second.role, kept.view.second.state) == ("standby", "FAILED")
    assert "it does not exist" in kept.view.second.why


async def test_a_stop_ends_both_and_brings_none_back(kept):
    kept.traffic.busy = True
    seen = len(kept.views)
    await kept.fleet.command("demo", Event.STOP)
    await kept.clock.settle()
    assert "READY" not in {view.state for view in kept.views[seen:]}, (
        "nobody takes over from one that is stopped"
    )
    kept.traffic.busy = False
    await kept.clock.advance(35)
    await kept.lineup.tend(plenty)
    await kept.clock.advance(5)
    assert (kept.view.state, kept.living()) == ("STOPPED", [])


async def test_a_standby_that_is_given_up_says_for_what(kept):
    assert kept.lineup.standing_by
    await kept.lineup.release("its memory was needed for other")
    await kept.clock.advance(5)
    assert (kept.view.state, kept.view.second.state) == ("READY", "STOPPED")
    assert kept.view.second.why == "its memory was needed for other"
    assert not kept.lineup.standing_by


async def test_one_too_large_is_replaced_while_the_standby_serves(kept):
    kept.traffic.busy = True
    kept.fleet.recycle(kept.view.holder, kept.view.generation, "it has grown")
    await kept.clock.settle()
    assert in_service(kept)[:2] == ("READY", 2)
    assert kept.view.second.state == "DRAINING"


# ---- on demand


async def test_an_unloaded_model_comes_on_demand_until_the_daemon_goes(on):
    assert not on.view.on_demand, "it is about to be preloaded"
    await on.start()
    assert not on.view.on_demand
    await on.lineup.unload("ttl", on.clock.wall())
    await on.clock.advance(1)
    assert (on.view.state, on.view.on_demand, on.view.last_unload.reason) == ("STOPPED", True, "ttl")
    await on.fleet.stop_all()
    assert not on.view.on_demand


async def test_what_is_not_preloaded_waits_for_its_first_request(monkeypatch):
    async with stage(
        monkeypatch, "demo", "other", terms={"demo": Terms(), "other": Terms(preload=False)}
    ) as on:
        await on.fleet.start_all()
        await on.clock.settle()
        assert [view.state for view in on.fleet.views.values()] == ["READY", "STOPPED"]
        assert [view.on_demand for view in on.fleet.views.values()] == [False, True]


# ---- whatever happens

STEPS = st.lists(
    st.sampled_from(
        [
            "restart",
            "restart",
            "kill first",
            "kill newest",
            "crash newest",
            "loading",
            "ready",
            "busy",
            "idle",
            "stop",
            "start",
            "tend",
            "scarce",
            "second",
            "minute",
        ]
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(STEPS, st.booleans())
def test_whatever_happens_one_view_two_processes_and_numbers_that_grow(steps, standby):
    with pytest.MonkeyPatch.context() as patch:
        asyncio.run(_live(patch, steps, standby=standby))


async def _live(patch: pytest.MonkeyPatch, steps: list[str], *, standby: bool) -> None:
    async with stage(patch, terms={"demo": Terms(standby=standby)}) as on:
        await on.start()
        stopped = False
        for what in steps:
            stopped = what == "stop" or (stopped and what not in {"start", "restart", "scarce"})
            await _step(on, what)
            assert len(on.living()) <= 2
            ready = [run for run in on.living() if run.ready_at is not None and run.ordered is None]
            if not stopped and ready and on.view.wanted and not any(run.exited.is_set() for run in ready):
                assert on.view.state == "READY", "one that is ready and not leaving serves"
        started = sorted(
            run.generation for launcher in (on.launcher, on.seconds["demo"]) for run in launcher.runs
        )
        assert len(started) == len(set(started)), "a number names one process"
        # And it comes to rest: with all well again, one serves (and one stands by), or none where that was wished.
        on.prober.state, on.traffic.busy = Health.READY, False
        await on.clock.advance(600)
        if not stopped:
            assert on.view.state == "READY"
            assert len(on.living()) == 1 + (on.view.second is not None and on.view.second.state == "READY")
        else:
            assert (on.view.state, on.living()) == ("STOPPED", [])
        await on.fleet.stop_all(now=True)
        assert on.living() == []


async def _step(on: Stage, what: str) -> None:
    living = on.living()
    if what in {"restart", "scarce"}:
        await on.fleet.restart("demo", plenty if what == "restart" else scarce)
    elif what == "kill first" and living:
        living[0].die(signal=signal.SIGKILL)
    elif what in {"kill newest", "crash newest"} and living and not living[-1].exited.is_set():
        living[-1].die(**({"signal": signal.SIGKILL} if what == "kill newest" else {"code": 1}))
    elif what in {"loading", "ready"}:
        on.prober.state = Health[what.upper()]
    elif what in {"busy", "idle"}:
        on.traffic.busy = what == "busy"
    elif what in {"stop", "start"}:
        await on.fleet.command("demo", Event[what.upper()])
    elif what == "tend":
        await on.lineup.tend(plenty)
    elif what in {"second", "minute"}:
        await on.clock.advance(1 if what == "second" else 60)
    await on.clock.settle()
