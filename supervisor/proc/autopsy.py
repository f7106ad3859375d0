"""What is written down of a generation that ended: why, as people read it and as `backoff` judges it."""

from datetime import datetime

from supervisor.events import Death
from supervisor.proc.backoff import End, stable_after_s
from supervisor.proc.causes import Cause, ExitStatus, classify
from supervisor.proc.run import Run
from supervisor.proc.state import Event
from supervisor.types import Generation

# Why we ended a run, by the event that made us; a drain keeps the reason it began with.
ORDERED = {
    Event.STOP: "stopped",
    Event.STOP_NOW: "stopped",
    Event.RESTART: "restarted",
    Event.STALLED: "stalled",
    Event.UNREACHABLE: "unreachable",
}
BY_WISH = frozenset({"stopped", "restarted"})


def cause_of(run: Run, status: ExitStatus, tail: list[str], evidence: str) -> Cause:
    """``evidence``: what a job saw before it asked for the end of the run, if that is why it ended."""
    cause = classify(status, tail, ordered=run.ordered)
    if evidence and run.ordered is not None and run.ordered not in BY_WISH:
        return Cause(cause.name, evidence)
    return cause


def end_of(run: Run, cause: Cause, *, now: float, wanted: bool) -> End:
    ready_at = run.ready_at
    return End(
        wished=not wanted,
        replaced=run.ordered in BY_WISH,
        permanent=cause.permanent and ready_at is None,
        port_clash=cause.name == "port_in_use" and ready_at is None,
        killed_from_outside=cause.name == "killed",
        was_ready=ready_at is not None,
        stable=ready_at is not None and now - ready_at >= stable_after_s(ready_at - run.spawned_at),
    )


def death(run: Run | None, cause: Cause, generation: Generation, *, at: datetime, now: float) -> Death:
    """``run`` is None for a generation that never came to be."""
    status = run.status if run is not None else None
    return Death(
        at=at,
        generation=generation,
        cause=cause.name,
        signal=status.signal_name if status is not None else None,
        exit_code=status.code if status is not None else None,
        uptime_s=now - run.spawned_at if run is not None else 0.0,
        detail=cause.detail,
        permanent=cause.permanent,
    )
