"""Whether a model fits into memory, decided before a process is spent on it. Pure.

What is left out (adapters, projectors, drafts, attention without flash) makes the estimate too small, never too
large: a model is refused only when it certainly does not fit, for the rest llama-server decides.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from supervisor.proc.causes import Cause
from supervisor.proc.command import ModelSpec
from supervisor.proc.estimate import Estimate, Plan, estimate, largest_context
from supervisor.proc.gguf import Header
from supervisor.types import MIB

DOES_NOT_FIT = "does_not_fit"
UBATCH = 512  # llama-server's own -ub, cut to the batch


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes. ``total`` and ``available``: of the machine or our cgroup, less ``min_free_mb``; None: nobody knows."""

    limit: int
    others: int = 0  # what the other models' running children are counted with
    total: int | None = None
    available: int | None = None


@dataclass(frozen=True, slots=True)
class Need:
    """What one model takes of the host's memory.

    ``largest``: the biggest context_size within a budget; 0: none; None: not known.
    """

    estimate: Estimate
    cache_bytes: int  # the prompt cache's share in the estimate
    largest: Callable[[int], int | None]

    @property
    def certain_bytes(self) -> int:
        """Where the KV cache is guessed, only the rest is sure."""
        known = self.estimate
        return known.total_bytes if known.exact else known.weights_bytes + known.overhead_bytes

    @property
    def at_once_bytes(self) -> int:
        """Without the prompt cache, which fills up in time, if ever."""
        return self.certain_bytes - self.cache_bytes


def _plan(spec: ModelSpec) -> Plan:
    """As it would be started, ``args`` included where they change it."""
    batch = _number(spec.args, "-b", "--batch-size", default=spec.batch_size)
    return Plan(
        context_size=_number(spec.args, "-c", "--ctx-size", default=spec.context_size),
        parallel=spec.parallel,
        unified=bool({"-kvu", "--kv-unified"} & set(spec.args)),
        cache_type_k=_text(spec.args, "-ctk", "--cache-type-k") or "f16",
        cache_type_v=_text(spec.args, "-ctv", "--cache-type-v") or "f16",
        ubatch=min(batch, _number(spec.args, "-ub", "--ubatch-size", default=UBATCH)),
        cache_ram_mb=_number(spec.args, "-cram", "--cache-ram", default=spec.cache_ram_mb),
    )


def need(spec: ModelSpec, header: Header) -> Need:
    """What the model takes of the host.

    Raises:
        ConfigError: ``args`` name a cache type that llama-server does not know.
    """
    plan = _plan(spec)
    gpu_layers = _number(spec.args, "-ngl", "--gpu-layers", "--n-gpu-layers", default=spec.gpu_layers)
    found = estimate(header, plan)

    def largest(budget_bytes: int) -> int | None:
        if gpu_layers or not found.exact:
            return None  # how the layers would be divided, or what the cache takes, is not known that well
        return largest_context(header, budget_bytes, plan)

    return Need(_on_host(found, header, gpu_layers), max(0, plan.cache_ram_mb) * MIB, largest)


def _on_host(found: Estimate, header: Header, gpu_layers: int) -> Estimate:
    """Without the layers that go to a GPU, weights and cache alike; the output counts as one more layer."""
    layers = (header.block_count or 0) + 1
    kept = max(0, layers - gpu_layers) / layers
    weights, kv = int(found.weights_bytes * kept), int(found.kv_bytes * kept)
    return replace(found, weights_bytes=weights, kv_bytes=kv)


def decide(spec: ModelSpec, need: Need, room: Room) -> Cause | None:
    """None: it fits. ``permanent`` is what only a change of the configuration or the machine can mend; what other
    programs or models hold now may be free at the next try.

    The prompt cache counts toward the limit, not toward what is free now.
    """
    size, at_once = need.certain_bytes, need.at_once_bytes
    limit = f"memory.limit_mb is {room.limit // MIB}"
    if size > room.limit:
        return _refusal(spec, need, room.limit, limit, permanent=True)
    if room.total is not None and at_once > room.total:
        has = f"this machine (or its cgroup) has {_mib(room.total)} beyond memory.min_free_mb"
        return _refusal(spec, need, room.total + need.cache_bytes, has, permanent=True)
    if size + room.others > room.limit:
        held = f"{limit}, of which the other models hold {_mib(room.others)}"
        return _refusal(spec, need, room.limit - room.others, held, permanent=False)
    if room.available is not None and at_once > room.available:
        now = f"{_mib(max(0, room.available))} are free now beyond memory.min_free_mb"
        return _refusal(spec, need, room.available + need.cache_bytes, now, permanent=False)
    return None


def _refusal(spec: ModelSpec, need: Need, budget: int, why: str, *, permanent: bool) -> Cause:
    found, context = need.estimate, need.largest(budget)
    if context:
        advice = f"context_size {context} would fit"
    elif need.certain_bytes - found.weights_bytes <= budget:
        rest = need.certain_bytes - found.weights_bytes
        advice = (
            f"it is its weights that do not fit (mapped from the file, {_mib(found.weights_bytes)}; all else takes "
            f"{_mib(rest)}): take a smaller quantisation"
        )
    else:
        advice = "no context_size would fit" if context == 0 else "a smaller context_size may fit"
    takes = f"{spec.path} with context_size {spec.context_size} takes {found}"
    cache = f", {_mib(need.cache_bytes)} of it for the prompt cache" if need.cache_bytes else ""
    return Cause(DOES_NOT_FIT, f"{takes}{cache}; {why}; {advice}", permanent)


def _mib(size: int) -> str:
    return f"{size / MIB:.0f} MiB"


def _text(args: Sequence[str], *names: str) -> str | None:
    """What the last of these options is given; None: none is there."""
    found = None
    for option, value in zip(args, [*args[1:], ""], strict=False):
        if option in names:
            found = value
    return found


def _number(args: Sequence[str], *names: str, default: int) -> int:
    try:
        return int(_text(args, *names) or default)
    except ValueError:
        return default  # llama-server will say what it thinks of it ("all", "auto", a mistyped number)
