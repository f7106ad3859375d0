"""How a model is best begun with on this machine: slots, context and the memory they need. Pure.

Slots come before long contexts, but not at any price: a conversation that ends early is noticed sooner than a second
client that waits. Nothing is asked beyond what the model was trained for, or what can be had now.
"""

from dataclasses import dataclass

from supervisor.errors import InstanceError
from supervisor.proc.command import CACHE_RAM_SHARE
from supervisor.proc.estimate import CELLS, UNTRAINED_TOKENS, Estimate, Plan, estimate, largest_context
from supervisor.proc.gguf import Header
from supervisor.proc.machine import Memory
from supervisor.types import MIB

SLOTS = (4, 2, 1)
ENOUGH_TOKENS = 4096  # of each slot: with less, rather fewer slots
MOST_TOKENS = (
    16_384  # of each slot: on a CPU a longer prompt takes many minutes; whoever wants it can write it
)
BATCH = 256
MIN_FREE_MB, LIMIT_MB = 256, 2048  # the configuration's own defaults
STEP_MB = 256


@dataclass(frozen=True, slots=True)
class Start:
    """What to write; ``context_size`` in tokens over all slots; the reasons as sentences without a full stop."""

    parallel: int
    context_size: int
    limit_mb: int
    takes: Estimate  # without the prompt cache
    why_parallel: str
    why_context: str
    why_limit: str


def fit(header: Header, memory: Memory | None) -> Start:
    """The most useful plan that fits; ``memory``: None where nobody can tell.

    Raises:
        InstanceError: not even one slot with 256 tokens would.
    """
    room_mb, seen = _room(memory)
    # Of the limit, llama-server gets a share for prompts it has seen (`parts.spec_of`); the rest is for the model.
    budget = room_mb * MIB * (CACHE_RAM_SHARE - 1) // CACHE_RAM_SHARE
    trained = header.context_length or UNTRAINED_TOKENS
    enough = min(trained if trained < CELLS else trained // CELLS * CELLS, ENOUGH_TOKENS)
    slots = each = 0
    for slots in SLOTS:
        each = _each(header, slots, budget, trained)
        if each >= enough:
            break
    if not each:
        least = estimate(header, _plan(1, CELLS))
        raise InstanceError(
            f"it takes {least} even with one slot of {CELLS} tokens, and {seen}",
            hint="take a smaller quantisation of the model, or end something else",
        )
    takes = estimate(header, _plan(slots, slots * each))
    return Start(
        parallel=slots,
        context_size=slots * each,
        limit_mb=_limit_mb(takes, room_mb),
        takes=takes,
        why_parallel=_why_parallel(slots, enough),
        why_context=_why_context(each, header.context_length),
        why_limit=f"it takes {takes}, and a quarter of the limit is for prompts it has seen; {seen}",
    )


def _room(memory: Memory | None) -> tuple[int, str]:
    """MiB there are for this model, and how that is known."""
    if memory is None:
        return LIMIT_MB, f"nobody can tell how much there is, so {LIMIT_MB} MiB are assumed"
    available, total = memory.available // MIB, memory.total // MIB
    return (
        max(0, available - MIN_FREE_MB),
        f"{available} of the machine's {total} MiB can be had now, and {MIN_FREE_MB} are to stay free",
    )


def _each(header: Header, slots: int, budget: int, trained: int) -> int:
    """Tokens of each slot, as many as are within the budget of bytes; 0: none."""
    if trained < CELLS:  # a cache has no fewer cells
        fits = estimate(header, _plan(slots, slots * CELLS)).total_bytes <= budget
        return trained if fits else 0
    largest = largest_context(header, budget, _plan(slots))  # at most what it was trained with
    return min(largest // slots // CELLS * CELLS, MOST_TOKENS)


def _plan(slots: int, context: int = 0) -> Plan:
    return Plan(context_size=context, parallel=slots, ubatch=BATCH)


def _limit_mb(takes: Estimate, room_mb: int) -> int:
    """At least so much that the model and the prompt cache's share are within it; with a quarter to spare, as the
    estimate is one, and not below the default where there is room."""
    least = takes.total_bytes * CACHE_RAM_SHARE // (CACHE_RAM_SHARE - 1) // MIB + 1
    generous = -(-least * 5 // 4 // STEP_MB) * STEP_MB
    return max(least, min(room_mb, max(LIMIT_MB, generous)))


def _why_parallel(slots: int, enough: int) -> str:
    asked = f"{slots} request{'s' * (slots != 1)} answered at the same time"
    return asked if slots == SLOTS[0] else f"{asked}; with more, each had less than {enough} tokens"


def _why_context(each: int, trained: int | None) -> str:
    said = f"{each} tokens for each slot"
    if trained is None:
        return f"{said}; the file does not say how many it was trained with"
    if each >= trained:
        return f"{said}, as many as it was trained with"
    if each + CELLS > trained:
        return f"{said}, as many whole {CELLS} as it was trained with ({trained})"
    limited = "more take minutes to read on a CPU" if each == MOST_TOKENS else "more do not fit"
    return f"{said}; {limited} (it was trained with {trained})"
