"""Is it stuck? Looks go in, a verdict comes out. Pure; `vigil` takes the looks and sends the canaries.

Slow is not stuck, so time alone proves nothing (FAULTS 14). Suspicion is the absence of every sign of
progress at once; it is confirmed by two canaries (one-token completions) that get no answer while still
nothing moves. What counts as progress, each with what it is there for:

* bytes of an answer, SSE pings aside (those come from an HTTP thread and prove nothing): any stream;
* processor time, or a main thread that is runnable: prefill, and answers that are not streamed;
* major page faults: weights read anew from a slow disk;
* the counters of ``/metrics``: work done elsewhere (a GPU, RPC) in small steps.

What is deliberately never killed: a process that spins. It cannot be told from a long batch (LLAMA_SERVER b2). After
minutes without any result people are told (`Spin`), and no more.
"""

from collections import deque
from dataclasses import dataclass
from enum import Enum, auto

LOOK_EVERY_S = 1.0  # two readings of /proc, 50 us
LOOK_GAP_S = 5.0  # between two looks: then we stood still, not the child (FAULTS 27)
BUSY_SHARE = 0.05  # of one core; answering /health and /metrics takes a fifth of it, work takes all there is
STOPPED = frozenset({"T", "t"})  # by SIGSTOP, or by a debugger
# Not more often: each poll keeps an abandoned request that is not streamed alive (LLAMA_SERVER 0.5).
COUNTERS_EVERY_S = 2.0
POLLS = 3  # of the counters without a change before stillness is suspicious; one is to compare with
CANARIES = 2  # one may be unlucky: a slot that is being saved, a connection that is lost
# A token takes milliseconds. Longer when the operator's own limit is long; never so short that a slow
# child gets no chance of showing progress in between.
CANARY_MIN_S, CANARY_MAX_S = 5.0, 20.0
STOPPED_CANARY_S = 5.0  # a stopped process can show nothing: this waits for whoever stopped it
CANARY_GAP_S = 2.0
CLOCK_S = 0.1  # below it two times are the same: they come from two readings of the clock
GRACE_S = 1.5  # a canary's own arrival and end cost the child processor time: no progress of its own
IDLE_CANARY_S = 600.0  # an idle child is asked so often whether it could
SPARED_EVERY_S = 15.0  # canaries to one that may not be killed: it may come back
# A spin: far longer than any batch takes that somebody would wait for.
SPIN_MIN_S, SPIN_LIMITS = 300.0, 5.0
SPIN_POLLS = 3  # of the counters in that time, in its second half
KILLS, WINDOW_S = 3, 900.0  # more kills than that do not help, and something else is wrong (FAULTS 17)


@dataclass(frozen=True, slots=True)
class Standing:
    """What waits inside a child, as the proxy sees it. ``quiet_s``: since the last real byte of any answer."""

    in_flight: int
    quiet_s: float


@dataclass(frozen=True, slots=True)
class Counters:
    """Of ``/metrics``; they only ever grow. (Gauges are left out: a canary changes them by waiting.)"""

    decodes: float
    prompt_tokens: float
    predicted_tokens: float


class Canary(Enum):
    ABSENT = auto()
    WAITING = auto()
    ANSWERED = auto()  # anything at all: what it says is not the question
    UNSENT = auto()  # for want of descriptors or memory on our side


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One moment. ``at`` and the rest in monotonic seconds; ``counters`` None: not asked, or no answer."""

    at: float
    state: str
    cpu_s: float
    major_faults: int
    standing: Standing
    asked: bool = False
    counters: Counters | None = None
    canary: Canary = Canary.ABSENT
    deaf: bool = False  # it was asked for a sign of life over /health, and gave none


class Finding(Enum):
    HEALTHY = auto()  # nothing is suspicious, or not any more
    SUSPECT = auto()
    CLEARED = auto()  # the same, by the answer to a canary
    CONFIRMED = auto()


@dataclass(frozen=True, slots=True)
class Verdict:
    finding: Finding
    text: str = ""  # of SUSPECT: why; of CONFIRMED: the evidence


HEALTHY = Verdict(Finding.HEALTHY)
CLEARED = Verdict(Finding.CLEARED)


@dataclass(slots=True)
class _Trial:
    """The time from a suspicion to its end. ``reason`` is empty for an idle child that is only being asked."""

    reason: str
    changed_at: float  # a canary was sent or ended
    still_since: float
    sending: bool = True
    failures: int = 0
    next_at: float = 0.0


class Inquiry:
    """About one generation. Feed it looks, about one a second."""

    def __init__(self, limit_s: float, *, idle_canaries: bool = True) -> None:
        """``limit_s``: how long nothing may move while requests wait inside."""
        self._limit_s = limit_s
        self._idle_canaries = idle_canaries
        self._last: Look | None = None
        self._counters: Counters | None = None
        self._polled_at = 0.0
        self._polls = 0  # since anything moved
        self._byte_at = 0.0
        self._moved_at = 0.0
        self._idle_since: float | None = None
        self._trial: _Trial | None = None

    def __repr__(self) -> str:
        return f"<Inquiry {self._trial or 'nothing suspicious'}>"

    # ---- what it would like to know

    @property
    def wants_canary(self) -> bool:
        return self._trial is not None and self._trial.sending

    def wants_counters(self, now: float) -> bool:
        last = self._last
        if last is None or last.state in STOPPED:
            return False
        if self._trial is not None:
            return now - self._polled_at >= COUNTERS_EVERY_S
        still_s = now - self._moved_at
        every_s = max(COUNTERS_EVERY_S, self._limit_s / 4)
        waits = last.standing.in_flight > 0 and still_s >= self._limit_s / 2
        return waits and now - self._polled_at >= every_s

    # ---- looks in

    def see(self, look: Look) -> Verdict:
        last, self._last = self._last, look
        if last is None or look.at - last.at > LOOK_GAP_S:
            self._begin_anew(look.at)
            return HEALTHY
        bytes_came, worked = self._bytes_came(last, look), _worked(last, look)
        moved = self._note_counters(look) or worked
        if bytes_came or worked:
            self._counters = None  # what they were before says nothing about the time from now on
        if moved or bytes_came:
            self._moved_at, self._polls = look.at, 0
        if self._trial is not None:
            return self._try(self._trial, look, moved=moved, bytes_came=bytes_came)
        reason = self._suspicious(last, look)
        if reason:
            self._trial = _Trial(reason, look.at, look.at)
            self._counters = None
            return Verdict(Finding.SUSPECT, reason)
        return HEALTHY

    def _begin_anew(self, at: float) -> None:
        """What was known is worth nothing any more."""
        self._trial = None
        self._moved_at, self._polls, self._counters = at, 0, None
        self._idle_since = at if self._idle_since is not None else None

    def _bytes_came(self, last: Look, look: Look) -> bool:
        before, self._byte_at = self._byte_at, look.at - look.standing.quiet_s
        was_there = last.standing.in_flight > 0 and look.standing.in_flight > 0
        return was_there and self._byte_at > before + CLOCK_S

    def _note_counters(self, look: Look) -> bool:
        if not look.asked:
            return False
        self._polled_at = look.at
        self._polls += 1 if look.counters is not None else 2  # silence needs nothing to compare with
        before, self._counters = self._counters, look.counters or self._counters
        return before is not None and self._counters != before

    def _suspicious(self, last: Look, look: Look) -> str:
        """Why it is suspect, or nothing. An idle child comes on trial here too, without a word."""
        if look.state in STOPPED and last.state in STOPPED:
            return f"the process is stopped (state {look.state})"
        if look.deaf:
            return "it answers neither requests nor /health, and does nothing"
        if look.standing.in_flight == 0:
            self._moved_at, self._polls = look.at, 0
            self._idle_since = look.at if self._idle_since is None else self._idle_since
            if self._idle_canaries and look.at - self._idle_since >= IDLE_CANARY_S:
                self._trial, self._counters = _Trial("", look.at, look.at), None
            return ""
        self._idle_since = None
        still_s = look.at - self._moved_at
        if still_s >= self._limit_s and self._polls >= POLLS:
            return f"{look.standing.in_flight} requests inside, and nothing has moved for {still_s:.0f} s"
        return ""

    # ---- on trial

    def _try(self, trial: _Trial, look: Look, *, moved: bool, bytes_came: bool) -> Verdict:
        if look.canary is Canary.ANSWERED or bytes_came:
            self._idle_since = look.at if look.standing.in_flight == 0 else None
            self._begin_anew(look.at)
            return CLEARED if look.canary is Canary.ANSWERED and trial.reason else HEALTHY
        if moved and look.at - trial.changed_at > GRACE_S:
            trial.failures, trial.still_since = 0, look.at  # it lives: the canary waits its turn
        if not trial.sending:
            if look.at >= trial.next_at:
                self._turn(trial, look.at, sending=True)
            return self._suspect(trial)
        if look.canary is Canary.UNSENT:
            trial.still_since = look.at
        if look.at - trial.still_since < self._patience_s(look):
            return self._suspect(trial)
        trial.failures += 1
        trial.reason = trial.reason or "idle, and it does not make a token when asked"
        if trial.failures >= CANARIES:
            return Verdict(Finding.CONFIRMED, self._evidence(trial, look))
        trial.next_at = look.at + CANARY_GAP_S
        self._turn(trial, look.at, sending=False)
        return self._suspect(trial)

    def _turn(self, trial: _Trial, at: float, *, sending: bool) -> None:
        """A canary begins or ends, and what it changes itself is no sign of anything."""
        trial.sending, trial.changed_at, trial.still_since = sending, at, at
        self._counters = None

    def _suspect(self, trial: _Trial) -> Verdict:
        return Verdict(Finding.SUSPECT, trial.reason) if trial.reason else HEALTHY

    def _patience_s(self, look: Look) -> float:
        return STOPPED_CANARY_S if look.state in STOPPED else canary_s(self._limit_s)

    def _evidence(self, trial: _Trial, look: Look) -> str:
        return (
            f"{trial.reason}; {CANARIES} one-token requests in a row stood still for {self._patience_s(look):.0f} s each"
            f" (state {look.state or '?'}, {look.standing.in_flight} in flight)"
        )

    def spare(self, now: float) -> None:
        """It is confirmed and may not be killed: go on asking it, rarely."""
        if self._trial is not None:
            self._trial.failures, self._trial.next_at = 0, now + SPARED_EVERY_S
            self._turn(self._trial, now, sending=False)


def canary_s(limit_s: float) -> float:
    """How long a canary may stand still."""
    return min(CANARY_MAX_S, max(CANARY_MIN_S, limit_s))


def longest_trial_s(limit_s: float) -> float:
    """From a suspicion to its end, if nothing moves: what a request in flight may have to wait."""
    return CANARIES * canary_s(limit_s) + CANARY_GAP_S + 3 * LOOK_GAP_S


def _worked(last: Look, look: Look) -> bool:
    """Whether the kernel saw it do anything between two looks."""
    busy_s = look.cpu_s - last.cpu_s
    return (
        look.state == "R"
        or busy_s >= BUSY_SHARE * (look.at - last.at)
        or look.major_faults > last.major_faults
    )


class Spin:
    """Is it busy without any result? About one generation; feed it the same looks.

    Requests are inside, no byte comes, the counters of ``/metrics`` stand still (stuck inside a batch) or are not
    told (stuck outside of one), and yet the processor is used. Good for a warning only: a batch of a large prompt on a
    small machine looks the same until it is over.
    """

    def __init__(self, limit_s: float) -> None:
        self.patience_s = max(SPIN_MIN_S, SPIN_LIMITS * limit_s)
        self._last: Look | None = None
        self._since = 0.0  # the last result, or the beginning
        self._byte_at = 0.0
        self._polled_at = 0.0
        self._polls = 0
        self._counters: Counters | None = None
        self._why = ""

    def __repr__(self) -> str:
        return f"<Spin {self._why or 'none'}>"

    def wants_counters(self, now: float) -> bool:
        last = self._last
        if last is None or not last.standing.in_flight or now - self._since < self.patience_s / 2:
            return False
        return now - self._polled_at >= self.patience_s / 2 / SPIN_POLLS

    def see(self, look: Look) -> str:
        """Why people should look at it; "" when nothing is wrong, or not any more."""
        last, self._last = self._last, look
        before, self._byte_at = self._byte_at, look.at - look.standing.quiet_s
        if (
            last is None
            or look.at - last.at > LOOK_GAP_S
            or not (last.standing.in_flight and look.standing.in_flight)
            or self._byte_at > before + CLOCK_S
            or self._counted(look)
        ):
            self._since, self._polls, self._why = look.at, 0, ""
            return ""
        silent_s = look.at - self._since
        if (
            not self._why
            and silent_s >= self.patience_s
            and self._polls >= SPIN_POLLS
            and _worked(last, look)
        ):
            self._why = (
                f"busy for {silent_s / 60:.0f} min without any result: {look.standing.in_flight} requests inside, no byte "
                f"of an answer, {'no answer from /metrics' if look.counters is None else 'its counters stand still'}; "
                f"left alone, as a very long batch looks the same"
            )
        return self._why

    def _counted(self, look: Look) -> bool:
        """Whether the counters have moved since they were last told."""
        if not look.asked:
            return False
        self._polled_at = look.at
        self._polls += 1
        before, self._counters = self._counters, look.counters or self._counters
        return before is not None and self._counters != before


class Ration:
    """At most `KILLS` in `WINDOW_S` seconds, over all generations of an instance."""

    def __init__(self) -> None:
        self._taken: deque[float] = deque()

    def __repr__(self) -> str:
        return f"<Ration {len(self._taken)} of {KILLS} taken>"

    def take(self, now: float) -> bool:
        """Whether one more is allowed; then it counts."""
        while self._taken and now - self._taken[0] >= WINDOW_S:
            self._taken.popleft()
        if len(self._taken) >= KILLS:
            return False
        self._taken.append(now)
        return True
