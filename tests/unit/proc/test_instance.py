"""An instance on fakes and a clock that jumps. Each test reads as what an operator would see."""

import asyncio
import errno
import signal

import pytest

from supervisor.errors import BuildError
from supervisor.proc import ports
from supervisor.proc.causes import Cause
from supervisor.proc.probe import Health
from supervisor.proc.spawn import SpawnFailed
from supervisor.proc.state import Action, Event
from tests.support.proc import spec, stage

pytestmark = pytest.mark.anyio
MISSING = Cause("model_missing", "/models/demo.gguf does not exist", permanent=True)
CLASH = "srv start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 8081"


@pytest.fixture
async def on(monkeypatch):
    async with stage(monkeypatch) as it:
        yield it


# ---- starting


async def test_start_to_ready(on):
    assert (on.view.state, on.view.generation, on.view.wanted) == ("STOPPED", 0, False)
    await on.start()
    assert on.states() == ["STARTING", "LOADING", "READY"]
    view = on.view
    assert (view.generation, view.pid, view.restarts, view.wanted) == (1, on.run.child.pid, 0, True)
    assert (view.slots, view.context_size, view.endpoint) == (4, 4096, on.run.endpoint)
    assert view.ready
    assert view.last_death is None


async def test_starting_is_seen_while_the_file_is_looked_at(on):
    on.looking = asyncio.Event()
    await on.tell(Event.START)
    assert (on.view.state, on.view.pid, on.view.coming) == ("STARTING", None, True)
    on.looking.set()
    await on.clock.settle()
    assert on.view.state == "READY"


async def test_a_look_that_hangs_does_not_hold_up_a_stop_for_ever(on, monkeypatch):
    monkeypatch.setattr("supervisor.proc.instance.LOOK_S", 0.01)
    on.looking = asyncio.Event()
    await on.tell(Event.START, Event.STOP)
    await asyncio.sleep(0.03)
    await on.clock.settle()
    assert on.view.state == "STOPPED"
    assert on.view.last_death.cause == "spawn_failed"


async def test_a_missing_model_is_failed_at_once_with_its_path(on):
    on.broken_model = MISSING
    await on.start()
    assert on.view.state == "FAILED"
    assert on.view.why() == "demo is FAILED: model_missing: /models/demo.gguf does not exist"
    assert on.launcher.runs == []
    await on.clock.advance(3600)
    assert on.view.state == "FAILED"
    on.broken_model = None
    await on.tell(Event.FILE_CHANGED)
    assert on.view.state == "READY"


async def test_a_file_that_may_come_back_is_tried_again(on):
    on.broken_model = Cause("model_unreadable", "Input/output error")
    await on.start()
    assert (on.view.state, on.instance._history.record.unstable_runs) == ("BACKOFF", 1)


async def test_a_missing_binary_is_failed_with_what_to_do(on):
    on.broken_binary = BuildError("there is no llama-server", hint="build it with: llmsup build")
    await on.start()
    assert on.view.state == "FAILED"
    assert "llmsup build" in on.view.why()


@pytest.mark.fault(32)
@pytest.mark.parametrize(
    "failure",
    [
        SpawnFailed("no process could be made: Resource temporarily unavailable", transient=True),
        OSError(errno.EMFILE, "Too many open files"),
    ],
)
async def test_no_room_for_a_process_is_backoff_and_not_counted(on, failure):
    on.launcher.failures = [failure] * 7
    await on.start()
    for _ in range(7):
        assert (on.view.state, on.instance._history.record.unstable_runs) == ("BACKOFF", 0)
        assert on.view.last_death.cause == "spawn_failed"
        await on.clock.advance(1)
    assert on.view.state == "READY"


async def test_a_program_that_cannot_be_executed_is_failed(on):
    on.launcher.failures = [SpawnFailed("it could not be started: Exec format error", transient=False)]
    await on.start()
    assert (on.view.state, on.view.last_death.cause) == ("FAILED", "not_executable")


async def test_an_error_of_our_own_while_starting_backs_off_and_goes_on(on):
    on.launcher.failures = [ValueError("embedded null byte")]
    await on.start()
    assert (on.view.state, on.view.last_death.cause) == ("BACKOFF", "internal_error")
    await on.clock.advance(1)
    assert on.view.state == "READY"


async def test_running_out_of_descriptors_does_not_end_the_search_for_ports(on, monkeypatch):
    real = ports.ephemeral

    def refuse(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(ports.candidates, "__kwdefaults__", {"free": ports.is_free, "any_free": refuse})
    await on.start()
    assert on.view.state == "BACKOFF"
    monkeypatch.setattr(ports.candidates, "__kwdefaults__", {"free": ports.is_free, "any_free": real})
    await on.clock.advance(1)
    assert on.view.state == "READY"


# ---- loading


@pytest.mark.fault(5)
async def test_death_while_loading_backs_off_then_crash_loops(on):
    on.prober.state = Health.LOADING
    await on.start()
    for delay in (1, 2, 4, 8, 16, 300):
        await on.die("exiting due to model loading error", code=1)
        view = on.view
        assert view.state == ("BACKOFF" if delay < 300 else "CRASHLOOP")
        assert view.next_try_at == on.clock.now() + delay
        assert (view.pid, view.endpoint) == (None, None)
        assert (view.last_death.cause, view.last_death.exit_code) == ("load_failed", 1)
        await on.clock.advance(delay - 0.1)
        assert on.view == view
        await on.clock.advance(0.2)
        assert (on.view.state, on.view.next_try_at) == ("LOADING", None)
    assert (on.view.restarts, on.view.generation) == (6, 7)


@pytest.mark.fault(7)
async def test_a_cause_that_stays_is_not_tried_again(on):
    on.prober.state = Health.LOADING
    await on.start()
    await on.die("gguf_init_from_reader: failed to read magic", code=1)
    assert (on.view.state, on.view.last_death.permanent) == ("FAILED", True)
    await on.tell(Event.START)
    assert on.view.state == "LOADING"


async def test_a_stalled_load_is_killed_and_says_so(on):
    on.prober.state = Health.LOADING
    await on.start()
    await on.clock.advance(60.9)
    assert on.run.signals == [signal.SIGTERM, signal.SIGCONT]
    assert on.view.state == "BACKOFF"
    assert on.view.last_death.cause == "stalled"
    assert "no sign of progress for 60 s" in on.view.why()


async def test_a_failed_warm_up_is_a_failed_start(on):
    on.prober.wrong = "a one-token completion was answered 500"
    await on.start()
    await on.clock.advance(1)
    assert on.view.state == "BACKOFF"
    assert "loaded, but a one-token completion was answered 500" in on.view.why()


async def test_stop_while_loading(on):
    on.prober.state = Health.LOADING
    await on.start()
    await on.tell(Event.STOP)
    assert on.states()[-2:] == ["STOPPING", "STOPPED"]
    assert (on.view.wanted, on.view.last_death.cause) == (False, "stopped")
    await on.clock.advance(3600)
    assert len(on.launcher.runs) == 1


async def test_restart_while_loading(on):
    on.prober.state = Health.LOADING
    await on.start()
    await on.tell(Event.RESTART)
    assert (on.view.state, on.view.generation, on.view.last_death.cause) == ("LOADING", 2, "restarted")


@pytest.mark.fault(18)
async def test_a_port_clash_takes_the_next_port_and_counts_for_nothing(on):
    on.prober.state = Health.LOADING
    await on.start()
    await on.die(CLASH, code=1)
    assert (on.view.state, on.view.generation, on.view.restarts) == ("LOADING", 2, 0)
    assert on.instance._history.record.unstable_runs == 0


async def test_a_configured_port_is_left_only_for_a_clash(monkeypatch):
    port = ports.ephemeral()
    async with stage(monkeypatch, port=port) as on:
        on.prober.state = Health.LOADING
        await on.start()
        await on.die(code=1)
        await on.clock.advance(1)
        assert [run.endpoint.port for run in on.launcher.runs] == [port, port]
        await on.die(CLASH, code=1)
        assert on.run.endpoint.port > port
        await on.tell(Event.RESTART)
        assert on.run.endpoint.port == port


async def test_port_clashes_without_end_become_backoff(on):
    on.prober.state = Health.LOADING
    await on.start()
    on.launcher.on_start = lambda run: run.die(CLASH, code=1)
    await on.die(CLASH, code=1)
    await on.clock.settle()
    assert (on.view.state, len(on.launcher.runs)) == ("BACKOFF", 21)


# ---- serving


async def test_a_kill_after_ready_is_followed_by_the_next_generation_at_once(on):
    await on.start()
    for generation in range(2, 9):
        await on.die(signal=signal.SIGKILL)
        assert (on.view.state, on.view.generation, on.view.restarts) == ("READY", generation, generation - 1)
    assert (on.view.last_death.cause, on.view.last_death.signal) == ("killed", "SIGKILL")
    assert "SIGKILL" in on.view.last_death.detail


@pytest.mark.fault(6)
async def test_a_crash_two_seconds_after_ready_still_counts(on):
    await on.start()
    for delay in (1, 2, 4, 8, 16):
        await on.clock.advance(2)
        await on.die(signal=signal.SIGSEGV)
        assert on.view.state == "BACKOFF"
        await on.clock.advance(delay)
        assert on.view.state == "READY"
    await on.die(signal=signal.SIGSEGV)
    assert on.view.state == "CRASHLOOP"
    assert on.view.why() == "demo is CRASHLOOP: segfault: crashed (segmentation fault)"


async def test_a_stable_run_that_crashes_is_followed_at_once(on):
    await on.start()
    await on.clock.advance(121)
    await on.die(signal=signal.SIGSEGV)
    assert on.view.state == "READY"
    assert on.view.last_death.uptime_s == pytest.approx(121.1)


async def test_being_stable_forgives(on):
    on.prober.state = Health.LOADING
    await on.start()
    await on.die(code=1)
    on.prober.state = Health.READY
    await on.clock.advance(1)
    assert on.instance._history.record.unstable_runs == 1
    await on.clock.advance(121)
    assert on.instance._history.record.unstable_runs == 0


async def test_a_dead_generation_is_let_go_by_the_proxy_before_it_is_buried(on):
    await on.start()
    await on.die(signal=signal.SIGKILL)
    assert on.traffic.aborted == [1]


async def test_late_events_of_an_old_generation_are_ignored(on):
    await on.start()
    await on.die(signal=signal.SIGKILL)
    seen = len(on.views)
    for event in (None, Event.STALLED, Event.UNREACHABLE, Event.DRAINED, Event.UNKILLED, Event.DELAY_ELAPSED):
        on.instance.post(event, 1)
    on.instance.poke(1)
    await on.clock.settle()
    assert (on.view.state, on.view.generation, on.view.checks, len(on.views)) == ("READY", 2, 0, seen)


async def test_a_second_report_of_the_same_exit_changes_nothing(on):
    on.prober.state = Health.LOADING
    await on.start()
    await on.die(code=1)
    on.instance.post(None, 1)
    await on.clock.settle()
    assert (on.view.state, on.instance._history.record.unstable_runs) == ("BACKOFF", 1)


async def test_a_doubt_that_proves_unfounded_is_counted(on):
    await on.start()
    on.instance.poke(1)
    await on.clock.settle()
    assert (on.view.checks, on.view.state) == (1, "READY")


async def test_a_doubt_confirmed_twice_replaces_the_child(on):
    await on.start()
    on.prober.next = [Health.REFUSED, Health.REFUSED]
    on.instance.poke(1)
    await on.clock.advance(0.2)
    assert on.launcher.runs[0].signals[0] is signal.SIGTERM
    assert on.view.last_death.cause == "unreachable"
    assert "refuses connections" in on.view.last_death.detail
    await on.clock.advance(1)
    assert (on.view.state, on.view.generation, on.view.checks) == ("READY", 2, 0)


async def test_what_is_configured_anew_counts_from_the_next_generation_on(on):
    await on.start()
    on.instance.renew(spec(parallel=8), None, port=0, startup_stall_s=60.0)
    assert on.view.slots == 4
    await on.tell(Event.RESTART)
    await on.clock.advance(1)
    assert (on.view.generation, on.view.slots) == (2, 8)


# ---- stopping


async def test_stop_drains_then_ends_then_is_stopped(on):
    await on.start()
    on.traffic.busy = True
    await on.tell(Event.STOP)
    assert (on.view.state, on.run.signals) == ("DRAINING", [])
    await on.clock.advance(29.9)
    assert on.view.state == "DRAINING"
    await on.clock.advance(0.2)
    assert on.states()[-3:] == ["DRAINING", "STOPPING", "STOPPED"]
    assert on.traffic.aborted[0] == 1
    assert (on.view.pid, on.view.last_death.cause, on.view.wanted) == (None, "stopped", False)


async def test_stop_now_does_not_drain(on):
    await on.start()
    on.traffic.busy = True
    await on.tell(Event.STOP_NOW)
    assert on.states()[-2:] == ["STOPPING", "STOPPED"]


async def test_stop_now_cuts_a_drain_short_and_hurries_a_ladder(on):
    await on.start()
    on.traffic.busy = True
    on.run.ignores = {signal.SIGTERM}
    await on.tell(Event.STOP)
    await on.tell(Event.STOP_NOW)
    assert on.run.signals == [signal.SIGTERM, signal.SIGCONT]
    await on.tell(Event.STOP_NOW)
    await on.tell(Event.STOP_NOW)
    assert on.run.signals[-1] is signal.SIGKILL
    assert on.view.state == "STOPPED"


async def test_a_hurry_in_the_same_breath_as_the_stop_is_not_lost(on):
    await on.start()
    on.run.ignores = {signal.SIGTERM}
    await on.tell(Event.STOP_NOW, Event.STOP_NOW)
    assert on.run.signals == [signal.SIGTERM, signal.SIGCONT] * 2


async def test_restart_drains_and_begins_the_next_generation(on):
    await on.start()
    on.traffic.busy = True
    await on.tell(Event.RESTART)
    assert (on.view.state, on.view.coming) == ("DRAINING", True)
    await on.clock.advance(30.1)
    assert (on.view.state, on.view.generation, on.view.last_death.cause) == ("READY", 2, "restarted")


@pytest.mark.fault(21)
@pytest.mark.parametrize("ignores", [set(), {signal.SIGTERM}])
async def test_restart_during_a_stop_does_not_resurrect(on, ignores):
    await on.start()
    on.run.ignores = ignores
    on.traffic.busy = True
    await on.tell(Event.STOP, Event.RESTART)
    await on.clock.advance(30.1)
    await on.tell(Event.RESTART) if ignores else None
    await on.clock.advance(3600)
    assert (on.view.state, len(on.launcher.runs)) == ("STOPPED", 1)


@pytest.mark.parametrize("after_s", [0, 31])
async def test_start_during_a_stop_does(on, after_s):
    await on.start()
    on.traffic.busy = True
    on.run.ignores = {signal.SIGTERM}
    await on.tell(Event.STOP)
    await on.clock.advance(after_s)
    await on.tell(Event.START)
    on.traffic.busy = False
    await on.clock.advance(60)
    assert (on.view.state, on.view.generation, on.view.wanted) == ("READY", 2, True)


async def test_stop_while_waiting_for_the_next_try(on):
    on.prober.state = Health.LOADING
    await on.start()
    await on.die(code=1)
    await on.tell(Event.STOP)
    assert (on.view.state, on.view.next_try_at) == ("STOPPED", None)
    await on.clock.advance(3600)
    assert len(on.launcher.runs) == 1


async def test_start_does_not_wait_for_the_delay(on):
    on.prober.state = Health.LOADING
    await on.start()
    await on.die(code=1)
    await on.tell(Event.START)
    assert (on.view.state, on.instance._history.record.unstable_runs) == ("LOADING", 0)
    await on.clock.advance(2)
    assert len(on.launcher.runs) == 2


@pytest.mark.fault(21)
@pytest.mark.parametrize(
    ("last", "state"), [(Event.START, "READY"), (Event.STOP, "STOPPED"), (Event.STOP_NOW, "STOPPED")]
)
@pytest.mark.parametrize("others", [(Event.START, Event.STOP), (Event.RESTART, Event.START, Event.STOP_NOW)])
async def test_fifty_commands_at_once_end_in_the_last_wish(on, others, last, state):
    events = [others[n % len(others)] for n in range(49)]
    await asyncio.gather(*(on.instance.command(event) for event in [*events, last]))
    await on.clock.advance(60)
    assert on.view.state == state
    assert sum(not run.buried for run in on.launcher.runs) == (state == "READY")


@pytest.mark.fault(16)
async def test_what_survives_sigkill_is_unkillable_and_nothing_is_started_beside_it(on):
    await on.start()
    on.run.ignores = {signal.SIGTERM, signal.SIGKILL}
    await on.tell(Event.STOP_NOW)
    await on.clock.advance(17.1)
    assert on.view.state == "UNKILLABLE"
    await on.tell(Event.START)
    assert (on.view.state, len(on.launcher.runs)) == ("UNKILLABLE", 1)
    await on.die(signal=signal.SIGKILL)
    assert (on.view.state, on.view.generation) == ("READY", 2)


async def test_a_child_that_may_not_be_signalled_is_unkillable(on, monkeypatch):
    def refuse(child, number):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    await on.start()
    monkeypatch.setattr("supervisor.proc.reaper.signal_leader", refuse)
    await on.tell(Event.STOP_NOW)
    assert on.view.state == "UNKILLABLE"


# ---- errors of our own


async def test_an_error_in_a_job_replaces_the_run_and_says_so(on):
    await on.start()
    on.prober.state = RuntimeError("surprise")
    await on.clock.advance(5.1)
    assert on.view.state == "BACKOFF"
    assert "demo.health failed: RuntimeError('surprise')" in on.view.why()
    on.prober.state = Health.READY
    await on.clock.advance(1)
    assert on.view.state == "READY"


async def test_a_proxy_in_trouble_keeps_no_child_alive(on):
    await on.start()
    on.traffic.broken = RuntimeError("surprise")
    await on.tell(Event.STOP)
    await on.clock.advance(1)
    assert on.view.state == "STOPPED"


@pytest.mark.fault(28)
@pytest.mark.parametrize("state", ["LOADING", "READY"])
async def test_an_error_while_burying_loses_neither_the_exit_nor_the_wish(on, monkeypatch, state):
    on.prober.state = Health.READY if state == "READY" else Health.LOADING
    await on.start()
    failures = [RuntimeError("surprise")]
    history = on.instance._history
    real = history.conclude

    def conclude(*arguments):
        if failures:
            raise failures.pop()
        return real(*arguments)

    monkeypatch.setattr(history, "conclude", conclude)
    await on.die(signal=signal.SIGSEGV)
    on.prober.state = Health.READY
    await on.clock.advance(3)
    assert (on.view.state, on.view.generation) == ("READY", 2)
    failures.append(RuntimeError("again"))
    await on.tell(Event.STOP)
    await on.clock.advance(3)
    assert (on.view.state, on.view.wanted) == ("STOPPED", False)


@pytest.mark.fault(28)
async def test_an_error_with_a_living_child_ends_it_and_goes_on(on, monkeypatch):
    async def forgive(_):
        raise RuntimeError("surprise")

    await on.start()
    monkeypatch.setitem(on.instance._perform, Action.FORGIVE, forgive)
    await on.clock.advance(123)  # stable by now, which was to be forgiven
    assert on.launcher.runs[0].buried
    assert on.view.last_death.cause == "internal_error"
    assert (on.view.state, on.view.generation) == ("READY", 2)


async def test_a_command_is_answered_even_if_it_fails(on, monkeypatch):
    async def drain(_):
        raise RuntimeError("surprise")

    await on.start()
    monkeypatch.setitem(on.instance._perform, Action.DRAIN, drain)
    await asyncio.wait_for(on.instance.command(Event.STOP), 1)
    await on.clock.advance(2)
    assert (on.view.state, on.view.wanted) == ("STOPPED", False)


async def test_it_prints_itself(on):
    assert repr(on.instance) == "<Instance demo STOPPED generation 0>"
