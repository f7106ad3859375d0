"""The table by itself, and the table with `judge` driving a model of one process."""

import re
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from supervisor.proc.backoff import PORT_TRIES, End, Record, judge
from supervisor.proc.state import TABLE, Action, Event, State, diagram, step

GONE = {event for event in Event if event.name.startswith("GONE_")}
WISHES = {Event.START, Event.STOP, Event.STOP_NOW, Event.RESTART}
RUNNING = {State.LOADING, State.READY, State.DRAINING, State.STOPPING, State.UNKILLABLE}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_every_pair_is_decided(state, event):
    target, actions = step(state, event)
    assert target in State
    assert all(action in Action for action in actions)


def test_nothing_outside_the_table_is_asked_for():
    assert len(TABLE) == len(State) * len(Event)


@pytest.mark.parametrize(("state", "event"), TABLE)
def test_spawn_always_leads_to_starting_and_nothing_follows_it(state, event):
    target, actions = step(state, event)
    assert (Action.SPAWN in actions) == (target is State.STARTING and actions != ())
    if Action.SPAWN in actions:
        assert actions[-1] is Action.SPAWN


@pytest.mark.parametrize("state", [state for state in State if state in RUNNING])
@pytest.mark.parametrize("event", [event for event in Event if event not in GONE])
def test_where_a_process_lives_only_its_end_leads_to_a_spawn(state, event):
    assert Action.SPAWN not in step(state, event)[1]


@pytest.mark.parametrize("event", [event for event in Event if event not in GONE])
def test_unkillable_never_spawns_and_never_leaves_before_the_end(event):
    target, actions = step(State.UNKILLABLE, event)
    assert target is State.UNKILLABLE
    assert Action.SPAWN not in actions


@pytest.mark.parametrize("stop", [Event.STOP, Event.STOP_NOW])
@pytest.mark.parametrize("state", State)
def test_stop_from_any_state_ends_in_stopped_without_a_spawn(state, stop):
    seen, (state, actions) = [], step(state, stop)
    seen += actions
    assert Action.WANT_DOWN in actions
    for event in (Event.DRAINED, Event.GONE_WANTED):
        if state is not State.STOPPED:
            state, actions = step(state, event)
            seen += actions
    assert state is State.STOPPED
    assert Action.SPAWN not in seen


@pytest.mark.parametrize("state", [State.DRAINING, State.STOPPING])
def test_stop_beats_restart(state):
    target, actions = step(state, Event.RESTART)
    assert target is state
    assert set(actions) <= {Action.FORGIVE}  # it may clear the record, never the wish


@pytest.mark.parametrize("state", [State.DRAINING, State.STOPPING, State.UNKILLABLE])
def test_start_during_a_stop_is_a_newer_wish(state):
    target, actions = step(state, Event.START)
    assert target is state
    assert Action.WANT_UP in actions


@pytest.mark.parametrize("event", [Event.DELAY_ELAPSED, Event.STABLE, Event.WARM, Event.DRAINED])
@pytest.mark.parametrize("state", [State.STOPPED, State.FAILED])
def test_late_reports_wake_nobody(state, event):
    assert step(state, event) == (state, ())


def test_the_diagram_looks_like_mermaid_and_knows_every_state():
    first, begin, *edges = diagram().splitlines()
    assert first == "stateDiagram-v2"
    assert begin == "    [*] --> STOPPED"
    assert all(re.fullmatch(r"    [A-Z]+ --> [A-Z]+: [a-z0-9A-Z ,-]+", edge) for edge in edges)
    assert {edge.split()[0] for edge in edges} == set(State)
    assert {edge.split()[2].rstrip(":") for edge in edges} == set(State)


def test_the_architecture_document_holds_the_same_diagram():
    text = (Path(__file__).parents[3] / "ARCHITECTURE.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```mermaid\n(stateDiagram-v2\n.*?)\n?```", text, re.DOTALL)
    assert blocks == [diagram()]


@pytest.mark.parametrize("target", [State.FAILED, State.BACKOFF, State.CRASHLOOP])
def test_who_waits_looks_at_the_files_and_nobody_else_does(target):
    entering = [(pair, row) for pair, row in TABLE.items() if row[0] is target is not pair[0]]
    assert entering
    assert all(Action.WATCH_FILES in actions for _, (_, actions) in entering)
    assert all(
        state in {State.FAILED, State.BACKOFF, State.CRASHLOOP}
        for state, actions in TABLE.values()
        if Action.WATCH_FILES in actions
    )
    assert step(target, Event.FILE_CHANGED)[0] is State.STARTING


class OneChild(RuleBasedStateMachine):
    """Any sequence of events: never two children, no lost stop, no spawn without a reason."""

    def __init__(self) -> None:
        super().__init__()
        self.state = State.STOPPED
        self.record = Record()
        self.alive = False
        self.was_ready = False
        self.ordered: str | None = None
        self.wanted = False
        self.down_is_wished = True
        self.delay_armed = False
        self.reason_to_spawn = False
        self.spawned = False

    def feed(self, event: Event, reason: bool = False) -> None:
        self.reason_to_spawn |= reason
        self.state, actions = step(self.state, event)
        for action in actions:
            self.perform(action, event)

    def perform(self, action: Action, event: Event) -> None:
        match action:
            case Action.WANT_UP:
                self.wanted = True
            case Action.WANT_DOWN:
                self.wanted = False
            case Action.FORGIVE:
                self.record = Record()
            case Action.SPAWN:
                assert not self.alive, "two children"
                assert not self.down_is_wished, "a lost stop"
                assert self.reason_to_spawn, "a hot loop"
                self.spawned, self.reason_to_spawn = True, False
                self.was_ready, self.ordered = False, None
            case Action.WATCH:
                self.was_ready = self.reason_to_spawn = True
            case Action.DRAIN | Action.KILL | Action.KILL_FAST:
                assert self.alive
                if event in {Event.STOP, Event.STOP_NOW, Event.RESTART}:
                    self.ordered = "wish"
                elif event is not Event.DRAINED:
                    self.ordered = "fault"
            case Action.ARM_DELAY:
                self.delay_armed = True
            case Action.DISARM_DELAY:
                self.delay_armed = False
            case _:
                pass

    def gone(self, end: End) -> None:
        self.alive = self.spawned = False
        before = self.record.port_clashes
        judgement = judge(end, self.record, 0.0)
        self.record = judgement.record
        clash = end.port_clash and before < PORT_TRIES and self.record.port_clashes == before + 1
        self.feed(judgement.event, reason=clash)

    @precondition(lambda self: not self.spawned)
    @rule(wish=st.sampled_from(sorted(WISHES)))
    def operator(self, wish: Event) -> None:
        if wish in {Event.STOP, Event.STOP_NOW}:
            self.down_is_wished = True
        elif wish is Event.START or not self.alive:
            self.down_is_wished = False
        self.feed(wish, reason=True)

    @precondition(lambda self: self.spawned)
    @rule()
    def born(self) -> None:
        self.spawned, self.alive = False, True
        self.feed(Event.SPAWNED)

    @precondition(lambda self: self.spawned)
    @rule(permanent=st.booleans())
    def unborn(self, permanent: bool) -> None:
        self.gone(End(wished=not self.wanted, permanent=permanent))

    @precondition(lambda self: self.alive)
    @rule(
        permanent=st.booleans(),
        clash=st.booleans(),
        killed=st.booleans(),
        stable=st.booleans(),
    )
    def dies(self, permanent: bool, clash: bool, killed: bool, stable: bool) -> None:
        self.gone(
            End(
                wished=not self.wanted,
                replaced=self.ordered == "wish",
                permanent=permanent and not self.was_ready,
                port_clash=clash and not self.was_ready,
                killed_from_outside=killed and self.ordered is None,
                was_ready=self.was_ready,
                stable=self.was_ready and stable,
            )
        )

    @precondition(lambda self: self.alive)
    @rule(
        event=st.sampled_from(
            [
                Event.HEALTHY,
                Event.WARM,
                Event.STALLED,
                Event.UNREACHABLE,
                Event.DRAINED,
                Event.STABLE,
                Event.UNKILLED,
            ]
        )
    )
    def report(self, event: Event) -> None:
        self.feed(event)

    @precondition(lambda self: self.delay_armed)
    @rule()
    def delay_elapses(self) -> None:
        self.delay_armed = False
        self.feed(Event.DELAY_ELAPSED, reason=True)

    @precondition(lambda self: not self.spawned)
    @rule()
    def file_changes(self) -> None:
        self.feed(Event.FILE_CHANGED, reason=True)

    @invariant()
    def states_and_process_agree(self) -> None:
        assert self.alive == (self.state in RUNNING)
        assert self.spawned == (self.state is State.STARTING)
        assert (self.state in {State.BACKOFF, State.CRASHLOOP}) == self.delay_armed

    @invariant()
    def a_stop_is_never_lost(self) -> None:
        assert self.wanted != self.down_is_wished
        if self.down_is_wished:
            assert self.state in {State.STOPPED, State.DRAINING, State.STOPPING, State.UNKILLABLE}


OneChild.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None, database=None)
TestOneChild = OneChild.TestCase
