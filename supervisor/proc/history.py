"""What an instance remembers of its ends, and what it concludes from one. The decisions are in `backoff` and `profile`."""

from dataclasses import dataclass, replace

import structlog

from supervisor.events import Death
from supervisor.proc.autopsy import BY_WISH, Findings, death, what_next
from supervisor.proc.backoff import End, Judgement, Record, judge
from supervisor.proc.causes import Cause
from supervisor.proc.command import ModelSpec
from supervisor.proc.fitting import DOES_NOT_FIT
from supervisor.proc.profile import Course, difference, turn, unfit
from supervisor.proc.state import Event
from supervisor.proc.tools import Tools

log: structlog.stdlib.BoundLogger = structlog.get_logger("instance")

TRY_AGAIN_S = 1.0  # after an obstacle that says nothing about the child
# What others hold may be free in a moment, so the usual size is asked for again first: after 1 s and after 2 s.
TRIES_AS_CONFIGURED = 3
ASKED = frozenset({Event.START, Event.RESTART})


@dataclass(frozen=True, slots=True)
class Profiles:
    """How the model is served: as configured, and what is tried once when that has failed for its size."""

    normal: ModelSpec
    safe: ModelSpec | None = None


class History:
    """Written by its instance only, but for ``profiles``, which may be others from one start to the next. ``delay_s``: how long to wait before the next start, when there is to be a wait.

    ``restarts`` counts as systemd's NRestarts and Docker's RestartCount do: processes that llmsup started of its own
    accord because the one before had ended, whatever ended it. Not counted: what somebody asked for (start, restart),
    attempts that brought no process, and a port that was taken. It only grows, for as long as the daemon lives.
    """

    def __init__(self, profiles: Profiles, tools: Tools) -> None:
        self.record = Record()
        self.delay_s = 0.0
        self.last_death: Death | None = None
        self.restarts = 0
        self._due = False  # the next process will be a restart of our own
        self._course = Course()
        self.profiles = profiles
        self._tools = tools

    def __repr__(self) -> str:
        return f"<History of {self.profiles.normal.name}: {self.record}, {self._course}>"

    @property
    def spec(self) -> ModelSpec:
        """What the next start takes."""
        safe = self.profiles.safe
        return safe if safe is not None and self._course.because else self.profiles.normal

    @property
    def degraded(self) -> str | None:
        """Why that is the safe profile; None: it is not."""
        return self._course.because or None

    async def admit(self) -> tuple[ModelSpec, Cause | None]:
        """What the next start takes, and what stands in its way, if anything does. Raises as the check does.

        What does not fit as configured is refused before it starts (FAULTS 35). The safe profile is the smaller
        size that the operator has named, so where that fits it starts instead, visibly degraded: somebody woken at
        night would do the same by hand, with nobody answered until then.
        """
        spec, safe = self.spec, self.profiles.safe
        cause = await self._tools.check_model(spec)
        if cause is None or cause.name != DOES_NOT_FIT or safe is None or spec is safe:
            return spec, cause
        if not cause.permanent and self.record.unstable_runs + 1 < TRIES_AS_CONFIGURED:
            return spec, cause
        other = await self._tools.check_model(safe)
        if other is not None:
            both = f"{cause.detail}; nor does the safe profile fit: {other.detail}"
            return spec, replace(cause, detail=both, permanent=cause.permanent and other.permanent)
        self._course = unfit(self._course, cause, normal=spec, safe=safe)
        log.warning("safe profile", model=spec.name, cause=cause.detail, now=difference(spec, safe))
        return safe, None

    def forgive(self, event: Event) -> None:
        """Forget. Having been stable clears the counts; only somebody's wish, or another file, ends the safe profile."""
        self.record = Record()
        self._due = self._due and event not in ASKED
        self._course = replace(self._course, crashes=0, crowded=0) if event is Event.STABLE else Course()

    def started(self) -> None:
        """There is a new process."""
        self.restarts += self._due
        self._due = False

    def conclude(self, cause: Cause, end: End, findings: Findings) -> Event:
        """An end is written down; returns what follows from it."""
        degraded, course = self.degraded, self._course
        if findings.run is not None and not end.port_clash:
            self._due = cause.name not in BY_WISH
        if not end.wished and cause.name not in BY_WISH:
            cause, end = self._turn(cause, end)
        judgement = self._judge(cause, end)
        self.record, self.delay_s = judgement.record, judgement.delay_s
        because = self._course.because if self._course.because != course.because else ""
        clock, ordered = self._tools.clock, findings.run.ordered if findings.run is not None else None
        self.last_death = replace(
            death(findings, cause, at=clock.wall(), now=clock.now()),
            then=what_next(judgement, because, ordered=ordered),
            degraded=degraded,
        )
        self._say(self.last_death)
        return judgement.event

    def _turn(self, cause: Cause, end: End) -> tuple[Cause, End]:
        """Take the step to the safe profile, or give up where that was taken already."""
        normal, safe = self.profiles.normal, self.profiles.safe
        result = turn(
            self._course,
            cause,
            stable=end.stable,
            normal=normal,
            safe=safe,
            served=end.was_ready,
            inside=end.inside,
        )
        self._course = result.course
        if result.exhausted:
            return replace(cause, detail=result.exhausted, permanent=True), replace(end, permanent=True)
        if result.stepped and safe is not None:
            log.warning("safe profile", model=normal.name, cause=cause.name, now=difference(normal, safe))
        return cause, end

    def _judge(self, cause: Cause, end: End) -> Judgement:
        if cause.name == "spawn_failed":  # the machine's fault: nothing is held against the child
            return Judgement(Event.GONE_BACKOFF, self.record, TRY_AGAIN_S)
        return judge(end, self.record, self._tools.chance())

    def _say(self, end: Death) -> None:
        say = log.info if end.cause in BY_WISH else log.warning
        say(
            "ended",
            model=end.model,
            generation=end.generation,
            cause=end.cause,
            detail=end.detail,
            then=end.then,
        )
        self._tools.record_death(end)
