"""What is written down of a generation that ended: why, as people read it and as `backoff` judges it."""

from dataclasses import dataclass
from datetime import datetime

from supervisor.events import NOBODY, Death, Inside
from supervisor.proc.backoff import End, Judgement, stable_after_s
from supervisor.proc.causes import Cause, ExitStatus, classify
from supervisor.proc.run import Run
from supervisor.proc.state import Event, State
from supervisor.types import Generation, ModelName

# Why we ended a run, by the event that made us; a drain keeps the reason it began with.
ORDERED = {
    Event.STOP: "stopped",
    Event.STOP_NOW: "stopped",
    Event.RESTART: "restarted",
    Event.RECYCLE: "recycled",
    Event.STALLED: "stalled",
    Event.HUNG: "hung",
    Event.UNREACHABLE: "unreachable",
}
BY_WISH = frozenset({"stopped", "restarted"})
# The next generation follows at once: a hung one has been READY, and such kills are rationed (`hang.Ration`).
REPLACED = BY_WISH | {"hung", "recycled"}


PHASES = {
    State.STARTING: "loading",
    State.LOADING: "loading",
    State.READY: "ready",
    State.DRAINING: "draining",
    State.STOPPING: "stopping",
    State.UNKILLABLE: "stopping",
}


@dataclass(frozen=True, slots=True)
class Findings:
    """What lies before us. ``run`` is None for a generation that never came to be; ``rss_bytes`` at the last look;
    ``inside``: who was at it.
    """

    model: ModelName
    generation: Generation
    state: State
    run: Run | None = None
    lines: tuple[str, ...] = ()
    rss_bytes: int | None = None
    inside: Inside = NOBODY


def cause_of(run: Run, status: ExitStatus, tail: list[str], evidence: str, kernel: str = "") -> Cause:
    """``evidence``: what a job saw before it asked for the end of the run, if that is why it ended; ``kernel``: that
    the kernel has killed for lack of memory.
    """
    cause = classify(status, tail, ordered=run.ordered, served=run.ready_at is not None)
    if evidence and run.ordered is not None and run.ordered not in BY_WISH:
        return Cause(cause.name, evidence, evidence=evidence)
    if kernel and cause.name == "killed":
        return Cause("out_of_memory", f"killed by the kernel for lack of memory ({kernel})", evidence=kernel)
    return cause


def end_of(run: Run, cause: Cause, *, now: float, wanted: bool, inside: Inside = NOBODY) -> End:
    ready_at = run.ready_at
    return End(
        wished=not wanted,
        replaced=run.ordered in REPLACED,
        permanent=cause.permanent and ready_at is None,
        port_clash=cause.name == "port_in_use" and ready_at is None,
        killed_from_outside=cause.name == "killed",
        was_ready=ready_at is not None,
        stable=ready_at is not None and now - ready_at >= stable_after_s(ready_at - run.spawned_at),
        inside=inside if ready_at is not None else NOBODY,
    )


def death(findings: Findings, cause: Cause, *, at: datetime, now: float) -> Death:
    """What follows from it (``then``) is not known here yet."""
    run = findings.run
    status = run.status if run is not None else None
    return Death(
        at=at,
        generation=findings.generation,
        cause=cause.name,
        signal=status.signal_name if status is not None else None,
        exit_code=status.code if status is not None else None,
        uptime_s=now - run.spawned_at if run is not None else 0.0,
        detail=cause.detail,
        permanent=cause.permanent,
        model=findings.model,
        phase=_phase(findings),
        evidence=cause.evidence,
        lines=findings.lines,
        rss_bytes=findings.rss_bytes,
        inside=findings.inside.requests,
    )


def _phase(findings: Findings) -> str:
    """What it was doing when its end began; one that hung was not "stopping" because we then killed it."""
    run = findings.run
    if run is not None and run.ordered is not None and run.ordered not in BY_WISH:
        return "ready" if run.ready_at is not None else "loading"
    return PHASES.get(findings.state, "loading")


def what_next(judgement: Judgement, because: str, *, ordered: str | None = None) -> str:
    """In words; ``because``: why the next start is the first on the safe profile, "" if it is not; ``ordered``: why we
    ended it, if we did.
    """
    profile = f", with the {because}" if because else ""
    match judgement.event:
        case Event.GONE_WANTED:
            return (
                "left it ended: the next one serves, or none is wished"
                if ordered == "restarted"
                else "left it stopped, as wished"
            )
        case Event.GONE_RETRY:
            return f"started it again at once{profile}"
        case Event.GONE_FAILED:
            return "gave up until somebody starts it, or the model file or the binary changes"
        case Event.GONE_CRASHLOOP:
            return f"it died too often: waited {judgement.delay_s:.0f} s before the next try{profile}"
        case _:
            return f"waited {judgement.delay_s:.1f} s before the next try{profile}"
