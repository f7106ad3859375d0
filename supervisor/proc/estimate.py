"""How much memory a model will take, told from its header before a process is spent on it. Pure.

The KV cache is llama.cpp's own arithmetic (src/llama-context.cpp, llama-kv-cache.cpp, llama-kv-cache-iswa.cpp,
and src/models/*.cpp for who has a sliding window); LLAMA_SERVER (k) and tests/real/test_estimate_real.py compare
it with the server's log. Compute buffers follow the graph's widest moment, good to about a fifth on CPUs.
Flash attention is assumed, which llama-server chooses by itself; without it they are many times larger.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from supervisor.errors import ConfigError
from supervisor.proc.gguf import TENSOR_TYPES, Header, PerLayer
from supervisor.types import MIB

CELLS = 256  # llama.cpp pads every context to whole multiples (GGML_PAD in llama-context.cpp)
BASE_BYTES = 24 * MIB  # the process itself: RSS of the demo model less its weights and caches
MAX_LAYERS = 512  # LLAMA_MAX_LAYERS: it refuses more
MAX_SLOTS = 256  # LLAMA_MAX_SEQ, likewise
UNTRAINED_TOKENS = 4096  # when neither the caller nor the header names a context
CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")  # common/arg.cpp
F32_BYTES, MASK_BYTES = 4, 2  # of an activation and of an attention mask's entry

_ROWS = {name: (block, size) for name, block, size in TENSOR_TYPES.values() if name in CACHE_TYPES}

# Architectures with sliding windows: of how many layers one is full, whether it is the first of them, and the
# window when the header names none (0: then there is none). A period of 0: the header must name the layers.
_WINDOWED: dict[str, tuple[int, bool, int]] = {
    "afmoe": (4, False, 0),
    "cohere2": (4, False, 0),
    "cohere2moe": (4, True, 0),
    "exaone-moe": (4, False, 128),
    "exaone4": (4, False, 4096),
    "gemma2": (2, False, 4096),
    "gemma3": (6, False, 0),
    "gemma3n": (5, False, 0),
    "gemma4": (0, False, 0),
    "gpt-oss": (2, False, 0),
    "granite_swa": (0, False, 0),
    "laguna": (4, True, 0),
    "llama4": (4, False, 8192),
    "maple": (0, False, 0),
    "mellum": (4, False, 0),
    "mimo2": (0, False, 0),
    "muse-glimmer": (4, False, 0),
    "olmo2": (4, False, 0),
    "plamo3": (8, False, 0),
    "smallthinker": (4, True, 0),
    "spark2_5": (0, False, 0),
    "step35": (0, False, 0),
}
_FIXED_WINDOW = {"llama4": 8192, "smallthinker": 4096}  # whatever the header says, unless it says 0
_IGNORED_WINDOW = frozenset({"phi3", "phimoe"})  # switched off in models/phi3.cpp


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NO_CACHE = _names("""
    bert modern-bert nomic-bert nomic-bert-moe neo-bert jina-bert-v2 jina-bert-v3 eurobert gemma-embedding
    wavtokenizer-dec dream llada llada-moe rnd1
""")
_RECURRENT = _names("mamba mamba2 rwkv6 rwkv6qwen2 rwkv7 arwkv7")
_HYBRID = _names("""
    jamba falcon-h1 plamo2 granitehybrid lfm2 lfm2moe nemotron_h nemotron_h_moe qwen3next kimi-linear bailingmoe3
    kimi-k3 glm5-next qwen35 qwen35moe qwen4exp deepseek4 minimax-01
""")
_PECULIAR = _names("""
    minimax-m3 glm-dsa deepseek32 hy_v4 dots3note dflash eagle3 gemma4-assistant nanbeige graniteswitch
    t5 t5encoder qwen3tts pockettts
""")  # caches of their own kind, or drafts that share another model's
_EVERY_FOURTH = frozenset({"qwen3next", "qwen35", "qwen35moe", "qwen4exp"})  # attention, when nothing is said


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a model is to be served, as far as its memory depends on it; each is an option of llama-server.

    ``context_size`` (-c) in tokens over all slots (``parallel``, -np), 0 for the model's own in each; ``ubatch`` in
    tokens, at most the batch size (-b); ``cache_ram_mb`` in MiB counts in full, as it fills up in time.
    """

    context_size: int
    parallel: int
    unified: bool = False
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    ubatch: int = 512
    gpu_layers: int = 0
    cache_ram_mb: int = 0


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes of host and device memory together. ``exact``: the KV cache is, to the byte."""

    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    overhead_bytes: int
    exact: bool
    notes: tuple[str, ...]

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_bytes + self.compute_bytes + self.overhead_bytes

    def __str__(self) -> str:
        sizes = (self.total_bytes, self.weights_bytes, self.kv_bytes, self.compute_bytes, self.overhead_bytes)
        total, weights, cache, computing, rest = (f"{size / MIB:.0f}" for size in sizes)
        parts = f"weights {weights}, KV cache {cache}, computing {computing}, the rest {rest}"
        return f"{'' if self.exact else 'about '}{total} MiB ({parts})"


@dataclass(frozen=True, slots=True)
class _Layer:
    """What one layer keeps of each token: elements of K and of V; ``windowed``: of the last tokens only."""

    keys: int
    values: int
    windowed: bool = False


@dataclass(slots=True)
class _Account:
    """What was found out on the way; a doubt means that the KV cache is not exact."""

    notes: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Context:
    """``streams`` caches of ``cells`` tokens, as llama-context.cpp divides -c among -np."""

    cells: int
    streams: int
    slots: int
    ubatch: int
    unified: bool

    def window_cells(self, window: int) -> int:
        return _padded(min(self.cells, window * (self.slots if self.unified else 1) + self.ubatch))


def estimate(header: Header, plan: Plan) -> Estimate:
    """The memory of a llama-server that serves the model so.

    Raises:
        ConfigError: a cache type that llama-server does not know.
    """
    account = _Account()
    rows = (_row(plan.cache_type_k, "k"), _row(plan.cache_type_v, "v"))
    context = _divided(header, plan, account)
    layers = _layers(header, account)
    kv_bytes = _kv(layers, _window(header), context, rows, account)
    kv_bytes += _state(header, layers, account) * context.slots
    if plan.gpu_layers:
        account.notes.append("host and device memory together; a device's compute buffers differ")
    if plan.cache_ram_mb < 0:
        account.notes.append("the prompt cache (--cache-ram) has no limit and is not counted")
    return Estimate(
        weights_bytes=header.tensor_bytes,
        kv_bytes=kv_bytes,
        compute_bytes=_compute(header, layers, context),
        overhead_bytes=BASE_BYTES + max(0, plan.cache_ram_mb) * MIB,
        exact=not account.doubts,
        notes=(*account.doubts, *account.notes),
    )


def largest_context(header: Header, budget_bytes: int, plan: Plan) -> int:
    """The largest -c, a multiple of 256, with which the plan is within the budget; 0 when none is.

    Never more than the model was trained for, in each slot. Raises ConfigError as `estimate` does.
    """
    trained = header.context_length or UNTRAINED_TOKENS
    most = trained * (1 if plan.unified else _slots(plan.parallel)) // CELLS
    sizes = range(CELLS, most * CELLS + 1, CELLS)

    def total_bytes(size: int) -> int:
        return estimate(header, replace(plan, context_size=size)).total_bytes

    return bisect_right(sizes, budget_bytes, key=total_bytes) * CELLS


def _slots(parallel: int) -> int:
    return min(max(1, parallel), MAX_SLOTS)


def _padded(tokens: int) -> int:
    return -(-tokens // CELLS) * CELLS


def _row(name: str, which: str) -> tuple[int, int]:
    if name not in _ROWS:
        known = ", ".join(CACHE_TYPES)
        raise ConfigError(f"--cache-type-{which} {name}: llama-server knows {known}")
    return _ROWS[name]


def _divided(header: Header, plan: Plan, account: _Account) -> _Context:
    slots = _slots(plan.parallel)
    streams = 1 if plan.unified else slots
    wanted = max(0, plan.context_size)
    if not wanted:  # common/fit.cpp, on by default, gives each stream the whole trained context
        wanted = (header.context_length or UNTRAINED_TOKENS) * streams
        if not header.context_length:
            account.doubts.append(
                f"the header names no context length; {UNTRAINED_TOKENS} tokens are assumed"
            )
    # the batch is cut to the context as it was asked for, before it is padded
    ubatch = min(max(1, plan.ubatch), wanted)
    return _Context(_padded(_padded(wanted) // streams), streams, slots, ubatch, plan.unified)


def _or(value: int | None, otherwise: int) -> int:
    return otherwise if value is None else value


def _at(value: PerLayer | None, layer: int) -> int:
    if isinstance(value, tuple):
        return value[layer] if layer < len(value) else 0
    return value or 0


def _trunk(header: Header) -> int:
    """Layers the model thinks with; those that predict further tokens get no cache."""
    every, extra = header.block_count or 0, header.count("nextn_predict_layers") or 0
    return every - extra if extra < every else every


def _layers(header: Header, account: _Account) -> list[_Layer]:
    """The layers that keep keys and values."""
    architecture, heads = header.architecture, header.head_count
    if architecture in _NO_CACHE | _RECURRENT:
        return []
    if not 0 < (header.block_count or 0) <= MAX_LAYERS or heads is None:
        account.doubts.append("the header lacks the layers or heads; the KV cache is not counted")
        return []
    if architecture in _PECULIAR:
        account.doubts.append(
            f"{architecture} keeps more or less than keys and values; only these are counted"
        )
    elif header.sliding_window and architecture not in {*_WINDOWED, *_IGNORED_WINDOW}:
        account.doubts.append("whether its sliding window saves memory is not known here; it is taken not to")
    mla = bool(header.count("attention.key_length_mla") and header.count("attention.value_length_mla"))
    if mla:
        account.doubts.append("latent attention (MLA): keys only are counted, indexers are not")
    kept = heads if header.head_count_kv is None else header.head_count_kv
    plain = (header.embedding_length or 0) // max(1, _at(heads, 0))
    full = (_or(header.key_length, plain), _or(header.value_length, plain))
    small = tuple(
        _or(header.count(f"attention.{what}_length_swa"), size)
        for what, size in zip(("key", "value"), full, strict=True)
    )
    found = []
    for number in range(_caching(header)):
        windowed = _is_windowed(header, number)
        keys, values = small if windowed else full
        found.append(
            _Layer(keys * _at(kept, number), 0 if mla else values * _at(kept, number), windowed)
            if _attends(header, number)
            else _Layer(0, 0)
        )
    return found


def _caching(header: Header) -> int:
    """Layers with a cache of their own: gemma 3n and 4 let the last ones read another's."""
    trunk = _trunk(header)
    if header.architecture == "gemma3n":
        return min(trunk, 20)
    if header.architecture == "gemma4":
        shared = header.count("attention.shared_kv_layers") or 0
        return max(0, min(trunk, (header.block_count or 0) - shared))
    return trunk


def _attends(header: Header, layer: int) -> bool:
    """Whether a layer of a hybrid is an attention layer; the others have no KV heads, or are counted off."""
    interval = header.count("full_attention_interval")
    if interval is None and header.architecture in _EVERY_FOURTH:
        interval = 4
    return header.architecture not in _HYBRID or not interval or layer % interval == interval - 1


def _window(header: Header) -> int:
    """Tokens a windowed layer looks back; 0: no layer is windowed."""
    architecture, named = header.architecture, header.sliding_window
    if architecture not in _WINDOWED or (architecture == "exaone4" and _trunk(header) != 64):
        return 0
    window = _WINDOWED[architecture][2] if named is None else named
    return _FIXED_WINDOW.get(architecture, window) if window else 0


def _is_windowed(header: Header, layer: int) -> bool:
    if not _window(header):
        return False
    pattern = header.metadata.get(f"{header.architecture}.attention.sliding_window_pattern")
    if isinstance(pattern, tuple):
        return layer < len(pattern) and bool(pattern[layer])
    period, full_first, _ = _WINDOWED[header.architecture]
    if isinstance(pattern, int):
        period = pattern
    elif not period:
        return False
    if not period:
        return True
    return layer % period != 0 if full_first else layer % period < period - 1


def _kv(
    layers: Sequence[_Layer],
    window: int,
    context: _Context,
    rows: tuple[tuple[int, int], tuple[int, int]],
    account: _Account,
) -> int:
    total = 0
    for layer in layers:
        cells = context.window_cells(window) if layer.windowed else context.cells
        for elements, (block, size) in zip((layer.keys, layer.values), rows, strict=True):
            if elements % block:
                account.doubts.append(
                    f"{elements} elements are no whole blocks of {block}: it will refuse to start"
                )
            total += cells * context.streams * -(-elements // block) * size
    if any(layer.windowed for layer in layers):
        account.notes.append("context checkpoints (--ctx-checkpoints) come on top as prompts arrive")
    account.doubts[:] = dict.fromkeys(account.doubts)
    return total


def _state(header: Header, layers: Sequence[_Layer], account: _Account) -> int:
    """Bytes a recurrent model keeps for each slot (llama-hparams.cpp: n_embd_r, n_embd_s), in f32."""
    architecture = header.architecture
    if architecture not in _RECURRENT | _HYBRID:
        return 0
    account.doubts.append("recurrent layers: their state is counted without checkpoints, about")
    width, heads = header.embedding_length or 0, _at(header.head_count, 0)
    conv, inner, state, groups = (
        header.count(f"ssm.{key}") or 0 for key in ("conv_kernel", "inner_size", "state_size", "group_count")
    )
    if wkv := header.count("wkv.head_size"):
        items = width * (_or(header.count("token_shift_count"), 2) + wkv)
    elif short := header.count("shortconv.l_cache"):
        items = width * (short - 1)
    elif kda := header.count("kda.head_dim"):
        items = heads * kda * (3 * max(0, conv - 1) + kda)
    else:
        items = max(0, conv - 1) * (inner + 2 * groups * state) + state * inner
    attending = 0 if architecture == "falcon-h1" else sum(1 for layer in layers if layer.keys)
    return max(0, min(MAX_LAYERS, _trunk(header)) - attending) * items * F32_BYTES


def _compute(header: Header, layers: Sequence[_Layer], context: _Context) -> int:
    """The graph at its widest: in the feed-forward, the attention or the output; and the masks."""
    width = header.embedding_length or 0
    used = _at(header.per_layer("expert_used_count"), 0)
    wide = max(_each(header.per_layer("feed_forward_length")))
    experts = 3 * used * max(_each(header.per_layer("expert_feed_forward_length"))) + used * width
    heads = max(_each(header.head_count))
    keys = max((layer.keys + layer.values for layer in layers), default=0)
    query = heads * _or(header.key_length, width // max(1, heads))
    feed_forward = max(3 * wide, experts) + 4 * width
    attention = 2 * query + keys + 3 * width
    logits = context.slots * (header.vocab_size or 0)
    output = 2 * width * context.ubatch + logits
    mask_cells = context.cells + (
        context.window_cells(_window(header)) if any(layer.windowed for layer in layers) else 0
    )
    widest = (
        max(context.ubatch * max(feed_forward, attention), output) + logits
    )  # and the answers' own buffer
    return widest * F32_BYTES + mask_cells * context.ubatch * MASK_BYTES


def _each(value: PerLayer | None) -> tuple[int, ...]:
    return (0, *value) if isinstance(value, tuple) else (value or 0,)
