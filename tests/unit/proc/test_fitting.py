import pytest

from supervisor.proc.fitting import Room, decide, need
from supervisor.types import GIB, MIB
from tests.support.proc import spec
from tests.unit.proc.test_estimate import model

# Llama 3 8B's shape with 1 GiB of weights: 128 KiB of KV cache a token, so 1 GiB at 8192.
EIGHT = {"context_size": 8192, "parallel": 1, "cache_ram_mb": 0}


def asked(**changes):
    return spec(**{**EIGHT, **changes})


def verdict(room, header=None, **changes):
    one = asked(**changes)
    return decide(one, need(one, header or model()), room)


def test_what_fits_is_let_through():
    assert verdict(Room(limit=3 * GIB)) is None
    assert verdict(Room(limit=3 * GIB, total=3 * GIB, available=3 * GIB, others=GIB // 2)) is None


@pytest.mark.fault(35)
def test_above_the_limit_is_for_good_with_the_numbers_and_what_would_fit():
    cause = verdict(Room(limit=2 * GIB))
    assert (cause.name, cause.permanent) == ("does_not_fit", True)
    assert cause.detail.startswith("/models/demo.gguf with context_size 8192 takes ")
    assert "(weights 1024, KV cache 1024, computing " in cause.detail
    assert "; memory.limit_mb is 2048; context_size " in cause.detail
    fits = int(cause.detail.split()[-3])
    assert fits % 256 == 0
    assert verdict(Room(limit=2 * GIB), context_size=fits) is None
    assert verdict(Room(limit=2 * GIB), context_size=fits + 256) is not None


def test_more_than_the_machine_has_is_for_good_and_more_than_is_free_now_is_not():
    cause = verdict(Room(limit=9 * GIB, total=2 * GIB, available=2 * GIB))
    assert cause.permanent
    assert "this machine (or its cgroup) has 2048 MiB beyond memory.min_free_mb" in cause.detail
    cause = verdict(Room(limit=9 * GIB, total=9 * GIB, available=2 * GIB))
    assert not cause.permanent
    assert "2048 MiB are free now beyond memory.min_free_mb; context_size " in cause.detail


def test_other_models_count_toward_the_limit():
    assert verdict(Room(limit=4 * GIB, others=GIB)) is None
    cause = verdict(Room(limit=4 * GIB, others=2 * GIB))
    assert not cause.permanent
    assert "memory.limit_mb is 4096, of which the other models hold 2048 MiB" in cause.detail


def test_when_only_the_weights_are_too_much_it_is_said():
    cause = verdict(Room(limit=GIB), context_size=512)
    assert "it is its weights that do not fit (mapped from the file, 1024 MiB; all else takes" in cause.detail
    assert cause.detail.endswith("take a smaller quantisation")
    assert verdict(Room(limit=10 * MIB)).detail.endswith("no context_size would fit")


def test_the_prompt_cache_counts_toward_the_limit_only():
    room = Room(limit=4 * GIB, total=9 * GIB, available=int(2.5 * GIB))
    assert verdict(room, cache_ram_mb=1024) is None
    cause = verdict(room, cache_ram_mb=3000)
    assert ", 3000 MiB of it for the prompt cache; memory.limit_mb is 4096;" in cause.detail


def test_layers_on_a_gpu_are_not_the_host_s():
    assert verdict(Room(limit=GIB), gpu_layers=99) is None
    cause = verdict(Room(limit=GIB), gpu_layers=11)
    assert "(weights 683, KV cache 683," in cause.detail


@pytest.mark.parametrize(
    ("args", "fits"),
    [
        ((), False),
        (("-ctk", "q4_0", "--cache-type-v", "q4_0"), True),
        (("-c", "1024"), True),
        (("-c", "1024", "-c", "16384"), False),  # the last counts
        (("-c", "many"), False),
        (("-ngl", "99"), True),
        (("-c",), False),
    ],
)
def test_args_change_the_estimate(args, fits):
    assert (verdict(Room(limit=2 * GIB), args=args) is None) == fits


def test_a_guess_refuses_nobody():
    strange = model("deepseek32", attention__key_length_mla=1, attention__value_length_mla=1)
    assert not need(asked(), strange).estimate.exact
    assert verdict(Room(limit=2 * GIB), strange, context_size=131072) is None
    assert verdict(Room(limit=GIB), strange) is not None  # weights and the process are sure
