import asyncio
import signal

import pytest

from supervisor.errors import NotFound
from supervisor.proc.output import LogFile
from supervisor.proc.probe import Health
from supervisor.proc.state import Event
from supervisor.types import ModelName
from tests.support.proc import stage

pytestmark = pytest.mark.anyio


@pytest.fixture
async def on(monkeypatch):
    async with stage(monkeypatch, "demo", "other") as it:
        yield it


def states(on):
    return [view.state for view in on.fleet.views.values()]


async def test_all_are_there_before_any_lives(on):
    assert list(on.fleet.views) == ["demo", "other"]
    with pytest.raises(TypeError):
        on.fleet.views[ModelName("demo")] = None


async def test_start_all_and_stop_all(on):
    await on.fleet.start_all()
    await on.fleet.wait_for(lambda views: all(view.ready for view in views.values()))
    await on.fleet.stop_all()
    assert states(on) == ["STOPPED", "STOPPED"]
    assert all(run.buried for launcher in on.launchers.values() for run in launcher.runs)


async def test_stop_all_waits_for_the_slowest_and_now_hurries_it(on):
    await on.fleet.start_all()
    await on.clock.settle()
    on.traffic.busy = True
    stopping = asyncio.create_task(on.fleet.stop_all())
    await on.clock.advance(29)
    assert not stopping.done()
    await on.fleet.send_all(Event.STOP_NOW)
    await on.clock.settle()
    assert stopping.done()


async def test_stop_all_now_does_not_drain(on):
    await on.fleet.start_all()
    await on.clock.settle()
    on.traffic.busy = True
    await on.fleet.stop_all(now=True)
    assert states(on) == ["STOPPED", "STOPPED"]


async def test_stop_all_does_not_wait_for_the_unkillable(on):
    await on.fleet.start_all()
    await on.clock.settle()
    on.run.ignores = {signal.SIGTERM, signal.SIGKILL}
    stopping = asyncio.create_task(on.fleet.stop_all())
    await on.clock.advance(20)
    assert stopping.done()
    assert states(on) == ["UNKILLABLE", "STOPPED"]


async def test_one_that_is_busy_does_not_keep_the_others_from_their_orders(on):
    on.looking = asyncio.Event()
    on.instance.post(Event.START)
    await on.clock.settle()
    on.looking, hanging = None, on.looking
    starting = asyncio.create_task(on.fleet.start_all())
    await on.clock.settle()
    assert states(on) == ["STARTING", "READY"]
    hanging.set()
    await starting


@pytest.mark.fault(28)
async def test_an_error_in_one_leaves_the_others_alone_and_it_goes_on(on, monkeypatch):
    await on.fleet.start_all()
    await on.clock.settle()
    monkeypatch.setattr(on.instance, "_take", None)
    await on.tell(Event.STOP)
    monkeypatch.undo()
    monkeypatch.setattr("supervisor.proc.reaper.signal_leader", lambda child, number: child.deliver(number))
    assert states(on) == ["READY", "READY"]
    await on.clock.advance(3)
    assert states(on) == ["READY", "READY"]
    assert [on.fleet.views[name].generation for name in ("demo", "other")] == [2, 1]


async def test_a_listener_that_fails_hurts_neither_instance_nor_other_listeners(on):
    def fail(view):
        raise RuntimeError("surprise")

    heard = []
    on.fleet.subscribe(fail)
    on.fleet.subscribe(heard.append)
    await on.start()
    assert on.view.state == "READY"
    assert heard == on.views


async def test_the_same_view_is_told_once(on):
    await on.start()
    told = len(on.views)
    on.fleet.publish(on.view)
    assert len(on.views) == told


async def test_wait_for_sees_a_change_made_while_it_waits(on):
    waiting = asyncio.create_task(on.fleet.wait_for(lambda views: views["demo"].state == "BACKOFF"))
    on.prober.state = Health.LOADING
    await on.start()
    assert not waiting.done()
    await on.die(code=1)
    assert waiting.done()


async def test_an_unknown_name_is_told_the_known_ones(on):
    with pytest.raises(NotFound, match="no model named 'nope'") as raised:
        await on.fleet.command("nope", Event.START)
    assert raised.value.hint == "configured: demo, other"


async def test_command_and_poke_reach_the_one_named(on):
    await on.fleet.command("other", Event.START)
    await on.clock.settle()
    on.fleet.poke(ModelName("other"), 1)
    await on.clock.settle()
    assert states(on) == ["STOPPED", "READY"]
    assert on.fleet.views["other"].checks == 1


@pytest.fixture
def gone(on):
    """The names of models that have been removed, as everybody is told."""
    names: list[str] = []
    on.fleet.when_gone(names.append)
    return names


async def leave(on, name="demo"):
    lineup = on.fleet.lineups[name]
    lineup.retire()
    await on.fleet.wait_for(lambda _: lineup.gone)
    await on.fleet.remove(lineup)
    return lineup


async def test_one_that_is_removed_drains_ends_and_is_forgotten(on, gone):
    await on.fleet.start_all()
    await on.clock.settle()
    tasks = len(asyncio.all_tasks())
    on.traffic.busy = True
    leaving = asyncio.create_task(leave(on))
    await on.clock.settle()
    view = on.fleet.views["demo"]
    assert (view.state, view.removed, view.on_demand, view.coming) == ("DRAINING", True, False, False)
    assert view.why() == "demo is no longer in the configuration"
    with pytest.raises(NotFound, match="demo") as refused:
        on.fleet.lineup("demo")
    assert refused.value.hint == "configured: other"
    on.traffic.busy = False
    await on.clock.advance(30)
    await leaving
    assert gone == ["demo"]
    assert (list(on.fleet.views), list(on.fleet.holders)) == (["other"], ["other"])
    assert [run.buried for run in on.launcher.runs] == [True]
    assert states(on) == ["READY"]
    assert on.fleet.is_served()
    assert len(asyncio.all_tasks()) < tasks


async def test_one_that_comes_back_before_it_has_gone_starts_after_its_end(on, gone):
    await on.start()
    lineup = on.lineup
    lineup.retire()
    lineup.revive()
    lineup.front.post(Event.START)
    await on.clock.settle()
    view = on.fleet.views["demo"]
    assert (view.state, view.generation, view.removed, lineup.gone) == ("READY", 2, False, False)
    assert gone == []


async def test_the_same_one_is_removed_once(on, gone):
    lineup = await leave(on)
    await on.fleet.remove(lineup)
    assert gone == ["demo"]


async def test_whoever_commands_one_that_has_just_gone_does_not_wait_for_ever(on):
    lineup = on.fleet.lineups["demo"]
    lineup.retire()
    await on.fleet.wait_for(lambda _: lineup.gone)
    removing = asyncio.create_task(on.fleet.remove(lineup))
    commanding = asyncio.create_task(lineup.command(Event.START))
    await on.clock.settle()
    await removing
    assert commanding.done()


async def test_one_that_is_added_later_lives_at_once(on):
    lineup = await leave(on)
    on.fleet.add(lineup.instances)
    await on.fleet.command("demo", Event.START)
    await on.clock.settle()
    assert on.fleet.views["demo"].state == "READY"


async def test_close_ends_tasks_and_log_files(monkeypatch, tmp_path):
    file = LogFile(tmp_path / "demo.log")
    async with stage(monkeypatch, log_file=file) as on:
        await on.start()
        await on.fleet.stop_all()
    assert not file._thread.is_alive()
    assert all(task.done() for task in on.fleet._tasks.values())


async def test_it_is_not_served_when_a_task_has_ended(on):
    assert on.fleet.is_served()
    on.fleet._tasks["demo"].cancel()
    await asyncio.sleep(0)
    assert not on.fleet.is_served()
