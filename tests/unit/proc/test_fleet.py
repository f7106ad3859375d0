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
