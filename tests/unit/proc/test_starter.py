"""What a model is begun with: as much as fits and is useful, and never more than the daemon would let through."""

from dataclasses import replace

import pytest

from supervisor.errors import InstanceError
from supervisor.proc.command import CACHE_RAM_SHARE, ModelSpec
from supervisor.proc.fitting import Room, decide, need
from supervisor.proc.gguf import Header
from supervisor.proc.machine import Memory
from supervisor.proc.starter import BATCH, LIMIT_MB, MIN_FREE_MB, fit
from supervisor.types import GIB, MIB


def header(*, trained: int | None = 32_768, weights: int = 4 * GIB, layers: int = 32) -> Header:
    """A llama of about seven billion parameters: 128 KiB of cache a token."""
    metadata = {
        "general.architecture": "llama",
        "llama.embedding_length": 4096,
        "llama.block_count": layers,
        "llama.attention.head_count": 32,
        "llama.attention.head_count_kv": 8,
    } | ({"llama.context_length": trained} if trained else {})
    return Header(
        version=3,
        metadata=metadata,
        file_bytes=weights,
        header_bytes=0,
        tensor_count=291,
        tensor_bytes=weights,
        tensors_end=weights,
        missing_bytes=0,
        truncation="",
        type_bytes={},
    )


def memory(available_gib: float) -> Memory:
    return Memory(total=64 * GIB, available=int(available_gib * GIB))


def test_with_plenty_of_memory_four_slots_of_sixteen_thousand() -> None:
    start = fit(header(), memory(60))
    assert (start.parallel, start.context_size) == (4, 4 * 16_384)
    assert "more take minutes" in start.why_context


def test_no_more_than_it_was_trained_with() -> None:
    start = fit(header(trained=2048), memory(60))
    assert (start.parallel, start.context_size) == (4, 4 * 2048)
    assert start.why_context == "2048 tokens for each slot, as many as it was trained with"


@pytest.mark.parametrize("trained", [64, 256, 1000])
def test_short_and_odd_contexts(trained: int) -> None:
    start = fit(header(trained=trained), memory(60))
    assert start.context_size == 4 * (trained if trained < 256 else trained // 256 * 256)


def test_an_untold_context_is_taken_for_4096() -> None:
    start = fit(header(trained=None), memory(60))
    assert start.context_size == 4 * 4096
    assert "does not say" in start.why_context


def test_less_memory_means_shorter_contexts_first_and_then_fewer_slots() -> None:
    plans = [
        (start.parallel, start.context_size // start.parallel) for start in map(_fit, (16, 11, 8, 6.5, 6))
    ]
    assert [slots for slots, _ in plans] == [4, 4, 2, 1, 1]
    assert all(each >= 4096 for slots, each in plans if slots > 1)
    assert plans[0][1] > plans[1][1]
    assert plans[-1][1] < 4096


def _fit(available_gib: float):
    return fit(header(), memory(available_gib))


def test_fewer_slots_say_why() -> None:
    assert (
        _fit(6.5).why_parallel
        == "1 request answered at the same time; with more, each had less than 4096 tokens"
    )


@pytest.mark.parametrize("available_gib", [6.6, 7, 8, 9, 12, 16, 24, 60])
def test_the_daemon_would_let_it_through(available_gib: float) -> None:
    model, there = header(), memory(available_gib)
    start = fit(model, there)
    spec = ModelSpec(
        name="m",
        path="/m",
        context_size=start.context_size,
        threads=None,
        batch_size=BATCH,
        parallel=start.parallel,
        gpu_layers=0,
        args=(),
        env={},
        max_tokens=None,
        cache_ram_mb=start.limit_mb // CACHE_RAM_SHARE,
    )
    free = MIN_FREE_MB * MIB
    room = Room(limit=start.limit_mb * MIB, total=there.total - free, available=there.available - free)
    assert decide(spec, need(spec, model), room) is None
    larger = replace(spec, context_size=spec.context_size * 2)
    if start.context_size // start.parallel < 16_384:  # and there is no room for much more
        assert decide(larger, need(larger, model), room) is not None


def test_the_limit_is_not_below_the_default_where_there_is_room() -> None:
    assert fit(header(weights=4 * MIB, layers=1, trained=512), memory(60)).limit_mb == LIMIT_MB
    assert fit(header(weights=4 * MIB, layers=1, trained=512), memory(1)).limit_mb == 1024 - MIN_FREE_MB


def test_a_machine_that_tells_nothing_is_taken_to_have_the_default() -> None:
    start = fit(header(weights=4 * MIB, layers=1, trained=512), None)
    assert start.limit_mb == LIMIT_MB
    assert "nobody can tell" in start.why_limit


@pytest.mark.parametrize("available_gib", [0.1, 2, 5])
def test_what_does_not_fit_at_all_is_refused_with_the_numbers(available_gib: float) -> None:
    with pytest.raises(
        InstanceError, match=r"even with one slot of 256 tokens, and \d+ of the machine's 65536 MiB"
    ):
        _fit(available_gib)
