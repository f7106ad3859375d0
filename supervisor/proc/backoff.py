"""When a child that died may start again. Pure: random numbers and times come in as arguments.

Sources: the exponential series and cap follow the crash-loop policies of Kubernetes and Docker, the
one-sided jitter Nomad's. Runs are counted, not deaths in a time window: a model that loads for four
minutes and then dies never trips "five deaths in ten seconds".

A run that dies with requests inside is another matter than one that dies by itself: a stranger's request may have
done it, and a stranger must not be able to take the model away by sending some. Such ends are counted apart. The first
is answered at once, those that follow after a short delay that soon stops growing, and never with a crash loop:
who kills is found and refused (`proxy.suspects`), and everybody else is waiting.
"""

from dataclasses import dataclass, replace

from supervisor.events import NOBODY, Inside
from supervisor.proc.state import Event

BASE_S = 1.0
FACTOR = 2.0
CAP_S = 60.0
JITTER = 0.25  # only upwards: a delay is never shorter than announced
FAST_TRIES = 5  # unstable runs before a crash loop is declared
CRASHLOOP_S = 300.0
# With requests inside: enough that a child that dies as soon as it serves does not keep a processor busy, and little
# enough that who waits hardly notices. To find one sender takes some four crashes: at 5 s each of three identities kept
# everybody out for a minute, at 1 s it is eight seconds.
BLAMED_BASE_S, BLAMED_CAP_S = 0.5, 1.0
STABLE_MIN_S = 120.0
STABLE_LOADS = 2.0  # or so many times the load time, whichever is longer


@dataclass(frozen=True, slots=True)
class Record:
    """What is remembered of the runs so far. ``blamed_runs``: that served and died with requests inside."""

    unstable_runs: int = 0
    port_clashes: int = 0
    blamed_runs: int = 0


@dataclass(frozen=True, slots=True)
class End:
    """A finished run, as far as the next start depends on it."""

    wished: bool = False  # we or the operator ended it and want it down
    replaced: bool = False  # ended by us in order to start the next generation at once
    permanent: bool = False  # it will fail the same way until something is changed
    port_clash: bool = False
    killed_from_outside: bool = False  # SIGKILL that nobody here sent, without evidence of memory shortage
    was_ready: bool = False
    stable: bool = False
    inside: Inside = NOBODY  # who was at it when it ended, after READY


@dataclass(frozen=True, slots=True)
class Judgement:
    event: Event
    record: Record
    delay_s: float = 0.0


PORT_TRIES = 20  # in a row; then something else than bad luck is wrong


def stable_after_s(load_s: float) -> float:
    """How long a run must have been READY for its past to be forgiven."""
    return max(STABLE_MIN_S, STABLE_LOADS * load_s)


def delay_s(unstable_runs: int, chance: float) -> float:
    """Seconds to wait after the nth unstable run in a row; ``chance`` is uniform in [0, 1)."""
    exponent = min(max(0, unstable_runs - 1), 16)
    return min(CAP_S, BASE_S * FACTOR**exponent) * (1.0 + JITTER * chance)


def blamed_delay_s(blamed_runs: int, chance: float) -> float:
    """The same with requests inside: the first is followed at once."""
    if blamed_runs <= 1:
        return 0.0
    return min(BLAMED_CAP_S, BLAMED_BASE_S * FACTOR ** min(blamed_runs - 2, 16)) * (1.0 + JITTER * chance)


def judge(end: End, record: Record, chance: float) -> Judgement:
    """What an exit means for the instance.

    A run that served and was then killed by somebody else is started again at once and not held
    against it: a kill says nothing about the program, and a run that reached READY bounds the rate.
    """
    if end.wished:
        return Judgement(Event.GONE_WANTED, Record())
    if end.replaced:
        return Judgement(Event.GONE_RETRY, record)
    if end.permanent:
        return Judgement(Event.GONE_FAILED, record)
    if end.port_clash and record.port_clashes < PORT_TRIES:
        return Judgement(Event.GONE_RETRY, replace(record, port_clashes=record.port_clashes + 1))
    if end.was_ready and (end.stable or end.killed_from_outside):
        return Judgement(
            Event.GONE_RETRY,
            Record() if end.stable else Record(record.unstable_runs, blamed_runs=record.blamed_runs),
        )
    if end.was_ready and end.inside.requests:
        blamed = record.blamed_runs + 1
        wait_s = blamed_delay_s(blamed, chance)
        event = Event.GONE_BACKOFF if wait_s else Event.GONE_RETRY
        return Judgement(event, replace(record, port_clashes=0, blamed_runs=blamed), wait_s)
    runs = record.unstable_runs + 1
    if runs > FAST_TRIES:
        return Judgement(
            Event.GONE_CRASHLOOP,
            replace(record, unstable_runs=runs, port_clashes=0),
            CRASHLOOP_S * (1.0 + JITTER * chance),
        )
    return Judgement(
        Event.GONE_BACKOFF, replace(record, unstable_runs=runs, port_clashes=0), delay_s(runs, chance)
    )
