"""The safe profile: smaller numbers for a model that does not fit, ran out of memory or keeps crashing. Pure.

What a request did says nothing of the model's size: a crash with requests inside counts for nothing here, and a kill
for lack of memory only where nobody stands out (`Inside`): with nobody inside it is the model's own; with several
clients inside the first may be one's bomb, which is then asked again alone and found, so it takes a second in a row.

One step down and no further: after running out of memory, or after three crashes in a row, the next start
takes the operator's ``safe_profile``; if that run dies of the same before it was stable, there is nothing
left to try and the instance is FAILED. The step is kept until an operator's start or restart, or until the
file changes: going back up by itself would run out of memory again, for ever. A model that does not fit as
configured, which is known before its start, takes the same step without a run being lost by it.
"""

from dataclasses import dataclass, replace

from supervisor.events import NOBODY, Inside
from supervisor.proc.causes import Cause
from supervisor.proc.command import ModelSpec

CRASHES = frozenset({"segfault", "aborted"})
CRASHES_IN_A_ROW = 3  # one may be a cosmic ray, two a bad request; see also quarantine (FAULTS 9)
CROWDED_IN_A_ROW = 2  # kills for lack of memory with several clients inside
MEMORY = "out_of_memory"
# These say nothing about the program: neither a crash nor a run without one.
NEUTRAL = frozenset({"spawn_failed", "port_in_use"})


@dataclass(frozen=True, slots=True)
class Course:
    """``crashes`` in a row so far, ``crowded``: kills for lack of memory with several clients inside; ``because`` (""
    before the step down): what led to the safe profile.
    """

    crashes: int = 0
    crowded: int = 0
    because: str = ""
    cause: str = ""  # "out_of_memory" or "crash": what must not happen again


@dataclass(frozen=True, slots=True)
class Turn:
    """What an end leads to. ``stepped``: the next start takes the safe profile, this one had not; ``exhausted``: why
    nothing is left to try, or "".
    """

    course: Course
    stepped: bool = False
    exhausted: str = ""


def lowered(
    spec: ModelSpec, *, context_size: int | None, batch_size: int | None, threads: int | None
) -> ModelSpec | None:
    """The specification with the given numbers in place of its own; None when that changes nothing."""
    safe = replace(
        spec,
        context_size=context_size if context_size is not None else spec.context_size,
        batch_size=batch_size if batch_size is not None else spec.batch_size,
        threads=threads if threads is not None else spec.threads,
    )
    return safe if safe != spec else None


def difference(normal: ModelSpec, safe: ModelSpec) -> str:
    """``context_size 2048 instead of 4096, batch_size 128 instead of 256``"""
    names = ("context_size", "batch_size", "threads")
    pairs = [(name, getattr(safe, name), getattr(normal, name)) for name in names]
    return ", ".join(
        f"{name} {low} instead of {usual if usual is not None else 'all'}"
        for name, low, usual in pairs
        if low != usual
    )


def unfit(course: Course, refusal: Cause, *, normal: ModelSpec, safe: ModelSpec) -> Course:
    """It was refused as configured for its size, and is started on the safe profile. If that runs out of memory too,
    nothing is left to try.
    """
    why = f"as configured it does not fit: {refusal.detail}"
    return replace(course, because=f"safe profile ({difference(normal, safe)}), because {why}", cause=MEMORY)


def turn(
    course: Course,
    cause: Cause,
    *,
    stable: bool,
    normal: ModelSpec,
    safe: ModelSpec | None,
    served: bool = False,
    inside: Inside = NOBODY,
) -> Turn:
    """What the end of a run means for the profile of the next one. ``stable``: it had been READY for long; ``served``:
    it had been READY at all; ``inside``: who was at it then.
    """
    if cause.name in NEUTRAL:
        return Turn(course)
    kind = MEMORY if cause.name == MEMORY else "crash" if cause.name in CRASHES else ""
    if inside.requests:
        if kind != MEMORY or inside.stands_out:
            return Turn(course)
        course = replace(course, crowded=1 if stable else course.crowded + 1)
        if course.crowded < CROWDED_IN_A_ROW or course.because:
            return Turn(course)
    crashes = 0 if kind != "crash" else 1 if stable else course.crashes + 1
    course = replace(course, crashes=crashes)
    if safe is None or not kind:
        return Turn(course)
    if course.because:
        # One that serves and then crashes comes back, however often (`backoff` slows it down): a person is needed
        # only where it cannot serve, or where memory is short though nobody asks anything.
        if kind != course.cause or stable or (served and kind != MEMORY):
            return Turn(course)
        return Turn(
            course, exhausted=f"again with the safe profile ({difference(normal, safe)}): {cause.detail}"
        )
    if kind == "crash" and crashes < CRASHES_IN_A_ROW:
        return Turn(course)
    what = "it ran out of memory" if kind == MEMORY else f"it crashed {crashes} times in a row"
    because = f"safe profile ({difference(normal, safe)}), because {what}"
    return Turn(Course(crashes, course.crowded, because, kind), stepped=True)
