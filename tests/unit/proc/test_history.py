"""The safe profile and the record of deaths, seen from an instance on fakes."""

import signal

import pytest

from supervisor.events import Inside
from supervisor.proc.causes import Cause
from supervisor.proc.probe import Health
from supervisor.proc.spawn import SpawnFailed
from supervisor.proc.state import Event
from tests.support.proc import spec, stage

pytestmark = pytest.mark.anyio
NO_MEMORY = (
    "ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 9: unable to allocate"
)
SAFE = spec(context_size=1024)


@pytest.fixture
async def on(monkeypatch):
    async with stage(monkeypatch, safe=SAFE) as it:
        yield it


def context(on, number=-1):
    argv = on.launcher.launches[number].argv
    return argv[argv.index("-c") + 1]


@pytest.mark.fault(8)
async def test_out_of_memory_while_loading_is_tried_once_with_less(on):
    on.prober.state = Health.LOADING
    await on.start()
    assert (context(on), on.view.degraded) == ("4096", None)
    await on.die(NO_MEMORY, code=1)
    assert on.view.state == "BACKOFF"
    assert (
        "safe profile (context_size 1024 instead of 4096), because it ran out of memory" in on.view.degraded
    )
    assert "with the safe profile" in on.view.last_death.then
    assert on.view.last_death.degraded is None
    await on.clock.advance(1)
    assert (context(on), on.view.context_size) == ("1024", 1024)
    await on.die(NO_MEMORY, code=1)
    assert on.view.state == "FAILED"
    assert "again with the safe profile (context_size 1024 instead of 4096)" in on.view.why()
    assert on.view.last_death.degraded == on.view.degraded
    assert on.view.last_death.then.startswith("gave up")
    await on.clock.advance(3600)
    assert len(on.launcher.runs) == 2


async def test_the_safe_profile_serves_and_stays_over_other_deaths(on):
    on.prober.state = Health.LOADING
    await on.start()
    on.prober.state = Health.READY
    await on.die(NO_MEMORY, code=1)
    await on.clock.advance(1)
    assert (on.view.state, on.view.context_size) == ("READY", 1024)
    await on.die(signal=signal.SIGKILL)
    assert (on.view.state, context(on)) == ("READY", "1024")
    await on.clock.advance(121)  # stable: the counts are forgiven, the profile stays
    assert on.view.degraded


@pytest.mark.parametrize("events", [(Event.RESTART,), (Event.STOP, Event.START)])
async def test_an_operators_start_goes_back_to_the_normal_profile(on, events):
    on.prober.state = Health.LOADING
    await on.start()
    on.prober.state = Health.READY
    await on.die(NO_MEMORY, code=1)
    await on.clock.advance(1)
    for event in events:
        await on.tell(event)
        await on.clock.advance(1)
    assert (on.view.state, on.view.degraded, context(on)) == ("READY", None, "4096")


async def test_a_failed_one_starts_normally_when_told(on):
    on.prober.state = Health.LOADING
    await on.start()
    for _ in range(2):
        await on.die(NO_MEMORY, code=1)
        await on.clock.advance(1)
    assert on.view.state == "FAILED"
    await on.tell(Event.START)
    assert (on.view.state, on.view.degraded, context(on)) == ("LOADING", None, "4096")


async def test_three_crashes_in_a_row_take_it_and_who_serves_on_it_is_never_given_up(on):
    await on.start()
    for delay in (1, 2, 4):
        assert on.view.degraded is None
        await on.die(signal=signal.SIGSEGV)
        await on.clock.advance(delay)
    assert (on.view.state, on.view.context_size) == ("READY", 1024)
    assert "crashed 3 times in a row" in on.view.degraded
    await on.die(signal=signal.SIGSEGV)
    assert on.view.state == "BACKOFF"


FORGED = "gguf_init_from_reader: failed to read magic"


@pytest.mark.parametrize("said", [FORGED, NO_MEMORY])
async def test_however_often_requests_bring_it_down_it_serves_as_configured(on, said):
    """What it says then may be theirs."""
    await on.start()
    on.traffic.inside = Inside(1, 1)
    for _ in range(20):
        await on.die(said, signal=signal.SIGSEGV)
        assert on.view.last_death.cause == "segfault"
        assert (on.view.last_death.permanent, on.view.last_death.inside) == (False, 1)
        assert said in on.view.last_death.lines
        await on.clock.advance(6.3)
        assert (on.view.state, on.view.degraded) == ("READY", None)


async def test_a_bomb_that_the_kernel_kills_it_for_takes_nothing_from_the_others(on):
    await on.start()
    on.traffic.inside = Inside(2, 1)
    for kills in range(1, 6):
        on.oom_kills = kills
        await on.die(signal=signal.SIGKILL)
        assert on.view.last_death.cause == "out_of_memory"
        await on.clock.advance(6.3)
        assert (on.view.state, on.view.degraded) == ("READY", None)


async def test_memory_that_is_short_for_everybody_takes_the_safe_profile_at_the_second_time(on):
    await on.start()
    on.traffic.inside = Inside(3, 3)
    for kills, degraded in ((1, False), (2, True), (3, True)):
        on.oom_kills = kills
        await on.die(signal=signal.SIGKILL)
        await on.clock.advance(6.3)
        assert (on.view.state, bool(on.view.degraded)) == ("READY", degraded)


async def test_without_a_safe_profile_nothing_changes(monkeypatch):
    async with stage(monkeypatch) as on:
        on.prober.state = Health.LOADING
        await on.start()
        for delay in (1, 2, 4):
            await on.die(NO_MEMORY, code=1)
            assert (on.view.state, on.view.degraded) == ("BACKOFF", None)
            await on.clock.advance(delay)


@pytest.mark.fault(8)
async def test_a_kill_with_a_grown_counter_is_out_of_memory(on):
    await on.start()
    on.oom_kills = 1
    await on.die(signal=signal.SIGKILL)
    assert (on.view.last_death.cause, on.view.last_death.signal) == ("out_of_memory", "SIGKILL")
    assert "from 0 to 1" in on.view.last_death.evidence
    assert (on.view.state, bool(on.view.degraded)) == ("BACKOFF", True)
    await on.clock.advance(3)
    await on.die(signal=signal.SIGKILL)
    assert on.view.last_death.cause == "killed"


async def test_each_end_is_written_down_with_all_that_is_known(on):
    await on.start()
    on.run.output.lines += ["one", "two"]
    await on.clock.advance(2)
    await on.die(signal=signal.SIGABRT)
    (death,) = on.deaths
    assert (death.model, death.generation, death.phase) == ("demo", 1, "ready")
    assert (death.lines, death.then) == (("one", "two"), "waited 1.0 s before the next try")
    on.broken_model = Cause("model_missing", "/models/demo.gguf does not exist", permanent=True)
    await on.clock.advance(1)
    assert (on.deaths[-1].cause, on.deaths[-1].phase, on.deaths[-1].uptime_s) == (
        "model_missing",
        "loading",
        0.0,
    )
    assert on.deaths[-1].then.startswith("gave up")


async def test_what_we_ended_for_a_fault_died_in_the_phase_it_was_in(on):
    on.prober.state = Health.LOADING
    await on.start()
    await on.clock.advance(61)
    assert (on.deaths[-1].cause, on.deaths[-1].phase) == ("stalled", "loading")
    await on.tell(Event.STOP)
    assert on.view.state == "STOPPED"


async def test_a_wish_ends_while_stopping(on):
    await on.start()
    await on.tell(Event.STOP)
    death = on.deaths[-1]
    assert (death.cause, death.phase, death.then) == ("stopped", "stopping", "left it stopped, as wished")


# ---- how many restarts


async def test_restarts_are_those_of_our_own_accord(on):
    await on.start()
    await on.die(signal=signal.SIGKILL)
    assert (on.view.generation, on.view.restarts) == (2, 1)
    await on.die(code=1)
    await on.clock.advance(1)
    assert (on.view.state, on.view.generation, on.view.restarts) == ("READY", 3, 2)


@pytest.mark.parametrize("events", [(Event.RESTART,), (Event.STOP, Event.START)])
async def test_what_somebody_asked_for_is_no_restart(on, events):
    await on.start()
    for event in events:
        await on.tell(event)
        await on.clock.advance(1)
    assert (on.view.state, on.view.generation, on.view.restarts) == ("READY", 2, 0)


@pytest.mark.parametrize("event", [Event.START, Event.RESTART])
async def test_nor_is_a_start_that_somebody_asks_for_during_the_delay(on, event):
    on.prober.state = Health.LOADING
    await on.start()
    await on.die(code=1)
    assert on.view.state == "BACKOFF"
    await on.tell(event)
    assert (on.view.state, on.view.generation, on.view.restarts) == ("LOADING", 2, 0)


async def test_attempts_that_bring_no_process_are_one_restart_in_the_end(on):
    on.launcher.failures = [SpawnFailed("no process could be made", transient=True)] * 3
    await on.start()
    await on.clock.advance(3)
    assert (on.view.state, on.view.generation, on.view.restarts) == ("READY", 4, 0), "the first start"
    on.launcher.failures = [SpawnFailed("no process could be made", transient=True)] * 3
    await on.die(signal=signal.SIGKILL)
    await on.clock.advance(3)
    assert (on.view.state, on.view.generation, on.view.restarts) == ("READY", 8, 1)


async def test_an_operators_restart_that_needs_several_tries_is_still_his(on):
    await on.start()
    on.launcher.failures = [SpawnFailed("no process could be made", transient=True)] * 2
    await on.tell(Event.RESTART)
    await on.clock.advance(4)
    assert (on.view.state, on.view.restarts) == ("READY", 0)


# ---- what does not fit


def refusing(above, *, permanent=True):
    """Refuses what is larger than ``above`` tokens, as the check of the memory does."""

    def check(asked):
        if asked.context_size <= above:
            return None
        return Cause("does_not_fit", f"takes {asked.context_size} MiB, limit {above}", permanent)

    return check


async def test_what_does_not_fit_starts_on_the_safe_profile_that_does(on):
    on.broken_model = refusing(1024)
    await on.start()
    assert (on.view.state, on.view.generation, on.view.context_size) == ("READY", 1, 1024)
    assert [context(on, number) for number in range(len(on.launcher.launches))] == ["1024"]
    assert on.view.degraded == (
        "safe profile (context_size 1024 instead of 4096), because as configured it does not fit: "
        "takes 4096 MiB, limit 1024"
    )
    assert on.deaths == [], "nothing was started in vain"
    await on.die(signal=signal.SIGKILL)
    assert (on.view.state, context(on), bool(on.view.degraded)) == ("READY", "1024", True)


async def test_an_operators_start_asks_for_the_usual_size_again(on):
    on.broken_model = refusing(1024)
    await on.start()
    on.broken_model = None
    await on.tell(Event.RESTART)
    await on.clock.advance(1)
    assert (on.view.state, on.view.degraded, context(on)) == ("READY", None, "4096")


@pytest.mark.parametrize("permanent", [True, False])
async def test_where_neither_fits_both_numbers_are_told(on, permanent):
    on.broken_model = refusing(512, permanent=permanent)
    await on.start()
    if permanent:
        assert on.view.state == "FAILED"
    else:
        await on.clock.advance(1 + 2)
        assert (on.view.state, len(on.deaths)) == ("BACKOFF", 3)
    assert on.view.last_death.detail == (
        "takes 4096 MiB, limit 512; nor does the safe profile fit: takes 1024 MiB, limit 512"
    )
    assert (on.launcher.launches, on.view.degraded) == ([], None)


async def test_a_shortage_of_the_moment_is_waited_for_twice(on):
    on.broken_model = refusing(1024, permanent=False)
    await on.start()
    for delay in (1, 2):
        assert (on.view.state, on.view.degraded) == ("BACKOFF", None)
        await on.clock.advance(delay)
    assert (on.view.state, context(on)) == ("READY", "1024")
    assert on.view.degraded


async def test_a_shortage_that_passes_costs_no_size(on):
    on.broken_model = refusing(1024, permanent=False)
    await on.start()
    on.broken_model = None
    await on.clock.advance(1)
    assert (on.view.state, on.view.degraded, context(on)) == ("READY", None, "4096")


async def test_a_safe_profile_that_runs_out_of_memory_is_the_end(on):
    on.broken_model = refusing(1024)
    on.prober.state = Health.LOADING
    await on.start()
    await on.die(NO_MEMORY, code=1)
    assert on.view.state == "FAILED"
    assert on.view.why().count("again with the safe profile") == 1


async def test_without_a_safe_profile_it_is_refused(monkeypatch):
    async with stage(monkeypatch) as on:
        on.broken_model = refusing(1024)
        await on.start()
        assert (on.view.state, on.view.last_death.cause) == ("FAILED", "does_not_fit")


@pytest.mark.parametrize("name", ["model_missing", "model_corrupt"])
async def test_another_obstacle_is_none_of_its_business(on, name):
    on.broken_model = Cause(name, "", permanent=True)
    await on.start()
    assert (on.view.state, on.view.degraded, on.view.last_death.cause) == ("FAILED", None, name)


# ---- files


@pytest.mark.parametrize("state", ["FAILED", "BACKOFF", "CRASHLOOP"])
async def test_another_file_starts_it_again(on, state):
    on.prober.state = Health.LOADING
    await on.start()
    if state == "FAILED":
        await on.die("gguf_init_from_reader: failed to read magic", code=1)
    else:
        for delay in (1, 2, 4, 8, 16, 0)[: 6 if state == "CRASHLOOP" else 5]:
            await on.die(code=1)
            await on.clock.advance(delay if state == "CRASHLOOP" or delay < 16 else 0)
    assert on.view.state == state
    generation = on.view.generation
    on.files = ((1, 2, 3, 4), None)
    await on.clock.advance(5)
    assert on.view.generation == generation, "without a binary there is nothing to start"
    on.files = ((1, 2, 3, 4), (1, 1, 1, 1))
    on.prober.state = Health.READY
    await on.clock.advance(4.1)
    assert (on.view.state, on.instance._history.record.unstable_runs) == ("READY", 0)


async def test_a_file_that_stays_starts_nothing_and_a_stopped_one_does_not_look(on):
    on.prober.state = Health.LOADING
    await on.start()
    await on.die("failed to read magic", code=1)
    await on.clock.advance(600)
    assert on.view.state == "FAILED"
    await on.tell(Event.STOP)
    on.files = ((9, 9, 9, 9), (9, 9, 9, 9))
    await on.clock.advance(600)
    assert on.view.state == "STOPPED"


async def test_a_file_that_changed_while_it_was_being_loaded_counts(on):
    on.prober.state = Health.LOADING
    await on.start()
    on.files = ((9, 9, 9, 9), (1, 1, 1, 1))
    await on.die("failed to read magic", code=1)
    assert on.view.state == "FAILED"
    await on.clock.advance(4.1)
    assert (on.view.state, on.view.generation) == ("LOADING", 2)
