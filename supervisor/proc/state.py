"""The life of an instance as a table: every (state, event) pair is decided here and nowhere else.

Pure. `Instance` feeds it events and performs the actions it answers with, in order.

Two rules hold in every row:

* a raw exit never enters the table; it is first judged (`judge` in `backoff`) and enters as one of
  the ``GONE_*`` events, so that the table needs no conditions;
* stop beats restart: while a child is being ended because DOWN is wished, only START (an operator's
  newer wish) brings the next one.
"""

from enum import StrEnum


class State(StrEnum):
    STOPPED = "STOPPED"  # nobody wants it; no process
    STARTING = "STARTING"  # being spawned
    LOADING = "LOADING"  # process lives, model loads or warms up
    READY = "READY"  # serves
    DRAINING = "DRAINING"  # takes nothing new, finishes what it has
    STOPPING = "STOPPING"  # being ended, rung by rung
    BACKOFF = "BACKOFF"  # died early; waits seconds
    CRASHLOOP = "CRASHLOOP"  # died early too often; one try in minutes
    FAILED = "FAILED"  # cannot run until somebody changes something
    UNKILLABLE = "UNKILLABLE"  # survived SIGKILL; watched, never waited for


class Event(StrEnum):
    START = "start"  # wanted up
    STOP = "stop"  # wanted down, after draining
    STOP_NOW = "stop now"  # wanted down, without draining
    RESTART = "restart"  # wanted anew
    RECYCLE = "recycle"  # it has grown too large; wanted anew by us, at a quiet moment
    SPAWNED = "spawned"
    HEALTHY = "health 200"
    WARM = "warm-up answered"
    STALLED = "stalled"  # no progress while loading
    HUNG = "hung"  # serves no more, as two canaries confirm
    UNREACHABLE = "unreachable"  # lives but refuses connections
    DRAINED = "drained"  # nothing in flight any more, or drained long enough
    UNKILLED = "survived SIGKILL"
    DELAY_ELAPSED = "delay elapsed"
    STABLE = "stable"  # READY for long enough that its past is forgiven
    FILE_CHANGED = "file changed"  # the model file or the binary is another one
    GONE_WANTED = "gone as wished"
    GONE_RETRY = "gone, again at once"
    GONE_BACKOFF = "gone, again after a delay"
    GONE_CRASHLOOP = "gone too often"
    GONE_FAILED = "gone for good"


class Action(StrEnum):
    WANT_UP = "want up"
    WANT_DOWN = "want down"
    FORGIVE = "forgive"  # forget the unstable runs
    SPAWN = "spawn"
    WATCH_LOAD = "watch the load"
    WARM_UP = "warm up"
    WATCH = "watch"  # health polls while READY
    DRAIN = "drain"
    KILL = "kill"  # close upstream connections, then the ladder
    KILL_FAST = "kill fast"  # the same with short rungs: nothing is lost by it
    KILL_NOW = "kill now"  # the same without asking: it does nothing any more
    HURRY = "hurry"  # next rung now
    ARM_DELAY = "arm delay"
    DISARM_DELAY = "disarm delay"
    WATCH_FILES = "watch the files"  # for another model file or binary


Row = tuple[State, tuple[Action, ...]]

S, E, A = State, Event, Action

# What follows an exit is the same wherever it happened.
_GONE: dict[Event, Row] = {
    E.GONE_WANTED: (S.STOPPED, ()),
    E.GONE_RETRY: (S.STARTING, (A.SPAWN,)),
    E.GONE_BACKOFF: (S.BACKOFF, (A.ARM_DELAY, A.WATCH_FILES)),
    E.GONE_CRASHLOOP: (S.CRASHLOOP, (A.ARM_DELAY, A.WATCH_FILES)),
    E.GONE_FAILED: (S.FAILED, (A.WATCH_FILES,)),
}
_BEGIN: Row = (S.STARTING, (A.WANT_UP, A.FORGIVE, A.DISARM_DELAY, A.SPAWN))
_HALT: Row = (S.STOPPED, (A.WANT_DOWN, A.DISARM_DELAY))

_DECIDED: dict[State, dict[Event, Row]] = {
    S.STOPPED: {E.START: _BEGIN, E.RESTART: _BEGIN, E.STOP: _HALT, E.STOP_NOW: _HALT},
    S.STARTING: {
        E.SPAWNED: (S.LOADING, (A.WATCH_LOAD,)),
        E.STOP: (S.STOPPING, (A.WANT_DOWN, A.KILL_FAST)),
        E.STOP_NOW: (S.STOPPING, (A.WANT_DOWN, A.KILL_FAST)),
        **_GONE,
    },
    S.LOADING: {
        E.HEALTHY: (S.LOADING, (A.WARM_UP,)),
        E.WARM: (S.READY, (A.WATCH,)),
        E.STALLED: (S.STOPPING, (A.KILL_FAST,)),
        E.UNREACHABLE: (S.STOPPING, (A.KILL_FAST,)),
        E.STOP: (S.STOPPING, (A.WANT_DOWN, A.KILL_FAST)),
        E.STOP_NOW: (S.STOPPING, (A.WANT_DOWN, A.KILL_FAST)),
        E.RESTART: (S.STOPPING, (A.FORGIVE, A.KILL_FAST)),
        **_GONE,
    },
    S.READY: {
        E.STOP: (S.DRAINING, (A.WANT_DOWN, A.DRAIN)),
        E.STOP_NOW: (S.STOPPING, (A.WANT_DOWN, A.KILL)),
        E.RESTART: (S.DRAINING, (A.FORGIVE, A.DRAIN)),
        E.RECYCLE: (S.DRAINING, (A.DRAIN,)),
        E.HUNG: (S.STOPPING, (A.KILL_NOW,)),
        E.UNREACHABLE: (S.STOPPING, (A.KILL,)),
        E.STABLE: (S.READY, (A.FORGIVE,)),
        **_GONE,
    },
    S.DRAINING: {
        E.DRAINED: (S.STOPPING, (A.KILL,)),
        E.STOP: (S.DRAINING, (A.WANT_DOWN,)),
        E.STOP_NOW: (S.STOPPING, (A.WANT_DOWN, A.KILL)),
        E.START: (S.DRAINING, (A.WANT_UP,)),
        E.HUNG: (S.STOPPING, (A.KILL_NOW,)),
        E.UNREACHABLE: (S.STOPPING, (A.KILL,)),
        **_GONE,
    },
    S.STOPPING: {
        E.STOP: (S.STOPPING, (A.WANT_DOWN,)),
        E.STOP_NOW: (S.STOPPING, (A.WANT_DOWN, A.HURRY)),
        E.START: (S.STOPPING, (A.WANT_UP, A.FORGIVE)),
        E.RESTART: (S.STOPPING, (A.FORGIVE,)),
        E.UNKILLED: (S.UNKILLABLE, ()),
        **_GONE,
    },
    S.BACKOFF: {
        E.DELAY_ELAPSED: (S.STARTING, (A.SPAWN,)),
        E.START: _BEGIN,
        E.RESTART: _BEGIN,
        E.STOP: _HALT,
        E.STOP_NOW: _HALT,
        E.FILE_CHANGED: _BEGIN,
    },
    S.CRASHLOOP: {
        E.DELAY_ELAPSED: (S.STARTING, (A.SPAWN,)),
        E.START: _BEGIN,
        E.RESTART: _BEGIN,
        E.STOP: _HALT,
        E.STOP_NOW: _HALT,
        E.FILE_CHANGED: _BEGIN,
    },
    S.FAILED: {E.START: _BEGIN, E.RESTART: _BEGIN, E.STOP: _HALT, E.STOP_NOW: _HALT, E.FILE_CHANGED: _BEGIN},
    S.UNKILLABLE: {
        E.STOP: (S.UNKILLABLE, (A.WANT_DOWN,)),
        E.STOP_NOW: (S.UNKILLABLE, (A.WANT_DOWN,)),
        E.START: (S.UNKILLABLE, (A.WANT_UP, A.FORGIVE)),
        **_GONE,
    },
}

# The pairs above change something; every other pair is decided too: it changes nothing.
TABLE: dict[tuple[State, Event], Row] = {
    (state, event): _DECIDED[state].get(event, (state, ())) for state in State for event in Event
}


def step(state: State, event: Event) -> Row:
    """The next state and what to do on the way there."""
    return TABLE[state, event]


def diagram() -> str:
    """The table as a Mermaid state diagram; ARCHITECTURE.md holds a copy, and a test compares them."""
    edges: dict[tuple[State, State], list[str]] = {}
    for (state, event), (target, actions) in TABLE.items():
        if target != state or actions:
            edges.setdefault((state, target), []).append(event.value)
    lines = ["stateDiagram-v2", "    [*] --> STOPPED"]
    lines += [f"    {a} --> {b}: {', '.join(events)}" for (a, b), events in edges.items()]
    return "\n".join(lines)
