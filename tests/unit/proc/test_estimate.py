import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.errors import ConfigError
from supervisor.proc import estimate as estimating
from supervisor.proc.estimate import BASE_BYTES, CELLS, Plan
from supervisor.proc.gguf import Header, Skipped
from supervisor.types import GIB, MIB


# A model of the size of Llama 3 8B: 32 layers, 8 KV heads of 128.
def estimate(header, **options):
    return estimating.estimate(header, Plan(**options))


def largest_context(header, budget_bytes, **options):
    return estimating.largest_context(header, budget_bytes, Plan(context_size=0, **options))


LLAMA = {
    "context_length": 131_072,
    "embedding_length": 4096,
    "block_count": 32,
    "feed_forward_length": 14_336,
    "attention.head_count": 32,
    "attention.head_count_kv": 8,
}
GEMMA = {
    "context_length": 32_768,
    "embedding_length": 512,
    "block_count": 12,
    "attention.head_count": 8,
    "attention.head_count_kv": 4,
    "attention.key_length": 64,
    "attention.value_length": 64,
    "attention.sliding_window": 1024,
}


def model(architecture="llama", own=LLAMA, *, without=(), **more):
    own = {**own, **{name.replace("__", "."): value for name, value in more.items()}}
    metadata = {"general.architecture": architecture, "tokenizer.ggml.tokens": Skipped(128_256)}
    metadata |= {f"{architecture}.{name}": value for name, value in own.items() if name not in without}
    return Header(
        version=3,
        metadata=metadata,
        file_bytes=GIB + 1000,
        header_bytes=1000,
        tensor_count=291,
        tensor_bytes=GIB,
        tensors_end=GIB + 1000,
        missing_bytes=0,
        truncation="",
        type_bytes={"q4_K": GIB},
    )


def kv(header, context_size=8192, parallel=1, **options):
    """Elements of the cache, when it is f16."""
    return estimate(header, context_size=context_size, parallel=parallel, **options).kv_bytes // 2


TOKEN = 32 * 2 * 8 * 128  # elements of K and V in all layers


def test_the_parts_and_their_sum():
    told = estimate(model(), context_size=8192, parallel=1, cache_ram_mb=100)
    assert told.weights_bytes == GIB
    assert told.kv_bytes == 8192 * TOKEN * 2 == GIB
    assert told.overhead_bytes == BASE_BYTES + 100 * MIB
    assert told.total_bytes == 2 * GIB + told.compute_bytes + told.overhead_bytes
    assert 100 * MIB < told.compute_bytes < 150 * MIB  # llama-fit-params: 266, 250 of them for all logits
    assert (told.exact, told.notes) == (True, ())
    assert str(told) == "2296 MiB (weights 1024, KV cache 1024, computing 124, the rest 124)"


@pytest.mark.parametrize(
    ("context_size", "parallel", "unified", "cells"),
    [
        (4096, 1, False, 4096),
        (4097, 1, False, 4352),
        (1, 1, False, 256),
        (8192, 4, False, 8192),
        (1000, 3, False, 3 * 512),  # 1024 / 3 = 341, padded for each
        (300, 8, False, 8 * 256),
        (300, 8, True, 512),
        (0, 1, False, 131_072),
        (0, 2, False, 2 * 131_072),  # -fit on gives each slot the whole
        (0, 2, True, 131_072),
        (8192, 0, False, 8192),
    ],
)
def test_cells(context_size, parallel, unified, cells):
    assert kv(model(), context_size, parallel, unified=unified) == cells * TOKEN


@pytest.mark.parametrize(
    ("name", "block_bytes"),
    [
        ("f32", 128),
        ("f16", 64),
        ("bf16", 64),
        ("q8_0", 34),
        ("q5_1", 24),
        ("q5_0", 22),
        ("q4_1", 20),
        ("q4_0", 18),
    ],
)
def test_cache_types(name, block_bytes):
    keys = estimate(model(), context_size=256, parallel=1, cache_type_k=name)
    values = estimate(model(), context_size=256, parallel=1, cache_type_v=name)
    assert keys.kv_bytes == values.kv_bytes == 256 * TOKEN // 2 * (block_bytes + 64) // 32


def test_cache_types_nobody_knows():
    with pytest.raises(ConfigError, match="--cache-type-k q3_K: llama-server knows f32, f16"):
        estimate(model(), context_size=256, parallel=1, cache_type_k="q3_K")
    with pytest.raises(ConfigError, match="--cache-type-v F16"):
        largest_context(model(), GIB, parallel=1, cache_type_v="F16")
    odd = estimate(model(attention__key_length=20), context_size=256, parallel=1, cache_type_k="q8_0")
    assert not estimate(
        model(attention__head_count_kv=1, attention__key_length=20),
        context_size=256,
        parallel=1,
        cache_type_k="q8_0",
    ).exact
    assert odd.exact  # 8 heads of 20 are whole blocks of 32


def test_lengths_and_heads():
    assert kv(model(attention__key_length=192), 256) == 256 * 32 * 8 * (192 + 128)
    assert kv(model(without=["attention.head_count_kv"]), 256) == 256 * 32 * 2 * 32 * 128
    per_layer = model(attention__head_count_kv=(8, 0) * 16, attention__head_count=(32,) * 32)
    assert kv(per_layer, 256) == 256 * TOKEN // 2
    assert kv(model(nextn_predict_layers=2), 256) == 256 * TOKEN // 32 * 30


GEMMA_LAYER = 2 * 4 * 64


@pytest.mark.parametrize(
    ("architecture", "more", "windowed"),
    [
        ("gemma3", {}, 10),  # one in six is full
        ("gemma2", {}, 6),
        ("gemma3n", {}, 10),
        ("cohere2moe", {}, 9),
        ("gpt-oss", {}, 6),
        ("plamo3", {}, 11),
        ("gemma3", {"attention__sliding_window_pattern": 3}, 8),
        ("gemma3", {"attention__sliding_window_pattern": 1}, 0),
        ("gemma3", {"attention__sliding_window_pattern": 0}, 12),
        ("gemma3", {"attention__sliding_window_pattern": (True,) * 5 + (False,) * 7}, 5),
        ("gemma4", {"attention__sliding_window_pattern": (1, 0) * 6}, 6),
        ("gemma4", {}, 0),
        ("gemma3", {"attention__sliding_window": 0}, 0),
        ("exaone4", {}, 0),  # only its model of 64 layers
        ("phi3", {}, 0),
    ],
)
def test_sliding_windows(architecture, more, windowed):
    header = model(architecture, GEMMA, **more)
    told = estimate(header, context_size=32_768, parallel=1)
    cells = windowed * (1024 + 512) + (12 - windowed) * 32_768
    assert told.kv_bytes // 2 == cells * GEMMA_LAYER
    assert told.exact
    assert bool(told.notes) == bool(windowed)  # checkpoints


def test_windows_of_several_slots():
    header = model("gemma3", GEMMA)
    assert kv(header, 32_768, 4) == 4 * (10 * 1536 + 2 * 8192) * GEMMA_LAYER
    assert kv(header, 32_768, 4, unified=True) == (10 * (4 * 1024 + 512) + 2 * 32_768) * GEMMA_LAYER
    assert kv(header, 32_768, 1, ubatch=128) == (10 * 1280 + 2 * 32_768) * GEMMA_LAYER
    assert kv(header, 512, 1) == 12 * 512 * GEMMA_LAYER
    small = model("gemma3", GEMMA, attention__key_length_swa=32, attention__value_length_swa=32)
    assert kv(small, 32_768) == (10 * 1536 // 2 + 2 * 32_768) * GEMMA_LAYER


@pytest.mark.parametrize(("named", "window"), [(100, 8192), (None, 8192), (0, None)])
def test_llama4_has_a_window_of_its_own(named, window):
    header = model("llama4", GEMMA, attention__sliding_window=named)
    cells = 12 * 32_768 if window is None else 3 * 32_768 + 9 * (window + 512)
    assert kv(header, 32_768) == cells * GEMMA_LAYER


def test_shared_layers_have_no_cache():
    shared = model(
        "gemma4", GEMMA, attention__shared_kv_layers=4, attention__sliding_window_pattern=(0,) * 12
    )
    assert kv(shared) == 8192 * 8 * GEMMA_LAYER


@pytest.mark.parametrize(
    ("header", "word"),
    [
        (model("mamba", LLAMA, ssm__conv_kernel=4, ssm__inner_size=64, ssm__state_size=16), "recurrent"),
        (model("qwen3next"), "recurrent"),
        (model("deepseek2", attention__key_length_mla=192, attention__value_length_mla=128), "MLA"),
        (model("deepseek32"), "keeps more or less"),
        (model("brandnew", attention__sliding_window=512), "sliding window"),
        (model(without=["block_count"]), "lacks the layers"),
        (model(without=["attention.head_count"]), "lacks the layers"),
        (model(block_count=2**32 - 1), "lacks the layers"),
    ],
)
def test_what_is_not_exact_says_why(header, word):
    told = estimate(header, context_size=4096, parallel=1)
    assert not told.exact
    assert word in told.notes[0]
    assert str(told).startswith("about ")


def test_recurrent_state():
    header = model("mamba", LLAMA, ssm__conv_kernel=4, ssm__inner_size=64, ssm__state_size=16)
    assert estimate(header, context_size=4096, parallel=3).kv_bytes == 3 * 32 * 4 * (3 * 64 + 64 * 16)
    assert kv(model("qwen3next"), 256) == 256 * TOKEN // 4
    rwkv = estimate(model("rwkv7", LLAMA, wkv__head_size=64), context_size=4096, parallel=1)
    assert rwkv.kv_bytes == 32 * 4 * 4096 * (2 + 64)
    kda = estimate(
        model("kimi-linear", LLAMA, kda__head_dim=8, attention__head_count_kv=0), context_size=1, parallel=1
    )
    assert kda.kv_bytes == 32 * 4 * 32 * 8 * 8
    assert kv(model("bert")) == 0


def test_latent_attention_keeps_keys_only():
    mla = {"attention.key_length_mla": 192, "attention.value_length_mla": 128, "attention.key_length": 576}
    header = model("deepseek2", LLAMA | mla | {"attention.head_count_kv": 1})
    assert kv(header, 256) == 256 * 32 * 576


def test_notes():
    notes = estimate(model(), context_size=256, parallel=1, gpu_layers=99, cache_ram_mb=-1).notes
    assert [note.split()[0] for note in notes] == ["host", "the"]
    assert not estimate(model(without=["context_length"]), context_size=0, parallel=1).exact


def test_compute_grows_with_what_is_widest():
    def compute(header, **options):
        return estimate(header, **{"context_size": 8192, "parallel": 1, **options}).compute_bytes

    assert compute(model(feed_forward_length=40_000)) > 1.5 * compute(model())
    assert compute(model(feed_forward_length=(100, 40_000))) == compute(model(feed_forward_length=40_000))
    assert compute(model(), ubatch=2048) > 3.9 * compute(model())
    assert compute(model(), parallel=64, context_size=64 * 8192) > compute(model()) + 64 * 128_256 * 3
    experts = {"expert_used_count": 8, "expert_feed_forward_length": 6000}
    assert compute(model(own=LLAMA | experts)) > 2 * compute(model())


# -------------------------------------------------------------------------------- largest context


@given(
    budget=st.integers(0, 40 * GIB),
    parallel=st.integers(1, 9),
    unified=st.booleans(),
    own=st.sampled_from([LLAMA, GEMMA]),
)
def test_the_largest_context_is_the_edge(budget, parallel, unified, own):
    header = model("gemma3", own)
    options = {"parallel": parallel, "unified": unified, "ubatch": 256}
    found = largest_context(header, budget, **options)
    most = header.context_length * (1 if unified else parallel)
    assert found % CELLS == 0
    assert 0 <= found <= most
    if found:
        assert estimate(header, context_size=found, **options).total_bytes <= budget
    if found + CELLS <= most:
        assert estimate(header, context_size=found + CELLS, **options).total_bytes > budget


def test_ends_of_the_largest_context():
    assert largest_context(model(), 0, parallel=1) == 0
    assert largest_context(model(), 1 << 60, parallel=2) == 2 * 131_072
    assert largest_context(model(context_length=100), 1 << 60, parallel=1) == 0
    assert largest_context(model(without=["context_length"]), 1 << 60, parallel=1) == 4096


NUMBER = st.sampled_from(
    [None, 0, 1, 7, 64, 512, 4096, 2**31, 2**32 - 1, (), (1, 2), (2**32 - 1,) * 600, "x", 1.5]
)


@given(
    architecture=st.sampled_from(
        ["llama", "gemma3", "gemma4", "llama4", "mamba", "qwen35", "kimi-linear", "bert", ""]
    ),
    values=st.dictionaries(
        st.sampled_from(
            [
                *GEMMA,
                "attention.sliding_window_pattern",
                "nextn_predict_layers",
                "full_attention_interval",
                "attention.shared_kv_layers",
                "expert_used_count",
                "wkv.head_size",
                "ssm.inner_size",
                "feed_forward_length",
            ]
        ),
        NUMBER,
    ),
    context_size=st.sampled_from([-5, 0, 1, 4096, 2**62]),
    parallel=st.sampled_from([-1, 0, 1, 300, 2**40]),
    unified=st.booleans(),
)
def test_no_header_breaks_it(architecture, values, context_size, parallel, unified):
    header = model(architecture, values)
    told = estimate(header, context_size=context_size, parallel=parallel, unified=unified)
    assert min(told.weights_bytes, told.kv_bytes, told.compute_bytes, told.overhead_bytes) >= 0
    assert str(told)
    assert largest_context(header, 8 * GIB, parallel=parallel, unified=unified) >= 0
