"""The weights and metadata of the demo model.

How it speaks. The residual stream has one dimension for each token, then three for control, then the topic:

    [ one-hot of the current token | thinking, answering, fresh | topic ]

  * token_embd is the identity and output.weight the table of what may follow what: a bigram model, exact;
  * random attention and FFN weights write only to the topic, which shifts the choice between allowed words:
    so the text depends on the whole context (a mixed-up KV cache shows) and stays made of sentences;
  * two hand-made heads in the first layer end replies. The thinking head looks for an open <think>; the clock
    head for the start of the turn: while that is near ("fresh") the end is unlikely, later it is almost sure.

Nothing here depends on the machine: constants come from integers and IEEE square roots, and "random" weights
are the SHAKE-128 stream of their tensor's name.
"""

import hashlib
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import _demo_language as language
from _gguf_writer import Tensor, TensorType, Value

MB = 1_000_000
LAYER_MB = 25  # of the large variants
CONTEXT_TOKENS = 8192
LAYERS, HEADS, FFN = 2, 4, 64
HEAD_DIM = 32  # llama.cpp quantises the KV cache in blocks of 32
BLOCK = 32
TOPIC_MIN = 45
CONTROLS = 3
THINKING, ANSWERING, FRESH = range(CONTROLS)
RMS_EPSILON = 1e-6
ROPE_BASE = 10_000.0

# Logits. What is not allowed has 0; the distance is more than the topic's shifts ever make up for.
ALLOWED = 24.0
END = 34.0  # of an end that no control holds back
QUOTE = 26.5  # closes a JSON string under a grammar, where the end of the reply is not allowed
BLANK = -8.0  # of white space that is not allowed: keeps JSON under a grammar compact
NEVER = -40.0
HOLD_FRESH = 11.5  # how much a fresh turn holds the end back
HOLD_OTHER = 60.0  # how much thinking holds EOS back, and answering </think>

CONTROL_LEVEL = 0.25  # of a control dimension that is on; small, as all dimensions share one RMS norm
TOPIC_LEVEL = 0.2  # of what each block adds to the topic
TOPIC_TO_LOGITS = 6.0
ATTENTION_NOISE = 3.5  # large: heads then pick single tokens, and the choice changes at every position
FFN_NOISE = 4.0  # large: the topic is a short vector

# The hand-made heads score `near` * cos(angle * distance) for what they look for, and `else_` for the rest.
# RoPE pair 9 turns by 0.0056 rad a token: a usable clock, but back at the start every 1117 tokens, so that some
# turn of a long conversation would always seem near. Pair 13 (0.00056 rad) turns once in 11173 and rules those out.
# Pair 15 hardly turns within the context.
NEAR_PAIR, ONCE_PAIR, FAR_PAIR = 9, 13, 15
NEAR, ONCE = 40.0, 100.0
CLOCK_ELSE = 29.5  # reached by NEAR * cos about 90 tokens on, given some 100 competitors
CLOSED_BONUS = 6.0  # </think> outshines the <think> before it

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if THINKING and message['role'] == 'assistant' and message.reasoning_content %}"
    "{{ '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}{% endif %}"
    "{{ (message['content'] if message['content'] is string else '') + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}OPEN{% endif %}"
)
OPEN_THINK = "{% if enable_thinking is not defined or enable_thinking %}{{ '<think>\\n' }}{% endif %}"


@dataclass(frozen=True, slots=True)
class Variant:
    """What is made; the defaults are the embedded demo model."""

    layers: int = LAYERS
    ffn: int = FFN
    endless: bool = False
    thinking: bool = False
    arch: str = "llama"


@dataclass(frozen=True)
class Shape:
    """Tokens of the model and the layout of its residual stream."""

    merges: list[tuple[str, str]]
    tokens: list[str]
    plain: list[str]

    @cached_property
    def ids(self) -> dict[str, int]:
        return {text: i for i, text in enumerate(self.plain)}

    @property
    def control(self) -> int:
        return len(self.tokens)

    @property
    def topic(self) -> int:
        return self.control + CONTROLS

    @property
    def width(self) -> int:
        return -(-(self.topic + TOPIC_MIN) // BLOCK) * BLOCK


def make_shape() -> Shape:
    """Train the tokenizer and lay out the residual stream."""
    merges = language.train_merges(language.words())
    tokens = language.vocabulary(merges)
    return Shape(merges, tokens, [language.plain_text(token) for token in tokens])


# ----------------------------------------------------------------------------------------- weights


def noise(name: str, count: int, scale: float) -> bytes:
    """`count` f16 numbers, uniform over 256 steps in -scale..scale: the SHAKE-128 stream of `name`."""
    steps = [struct.pack("<e", (step - 127.5) / 127.5 * scale) for step in range(256)]
    raw = hashlib.shake_128(name.encode()).digest(count)
    halves = bytearray(2 * count)
    halves[0::2] = raw.translate(bytes(step[0] for step in steps))
    halves[1::2] = raw.translate(bytes(step[1] for step in steps))
    return bytes(halves)


def f16(values: list[float]) -> bytes:
    return struct.pack(f"<{len(values)}e", *values)


def norm(shape: Shape) -> bytes:
    """Weights that make RMSNorm divide by the length: a lone one-hot stays a one-hot."""
    return struct.pack("<f", 1 / math.sqrt(shape.width)) * shape.width


def embedding(shape: Shape) -> bytes:
    """The identity."""
    table = bytearray(2 * shape.width * len(shape.tokens))
    for i in range(len(shape.tokens)):
        at = 2 * (i * shape.width + i)
        table[at : at + 2] = f16([1.0])
    return bytes(table)


def head(shape: Shape, entries: dict[int, Callable[[str], float]]) -> bytes:
    """One hand-made head's rows of attn_q, attn_k or attn_v: row -> weight of each token (by its plain text)."""
    rest = [0.0] * (shape.width - len(shape.tokens))
    rows = [[0.0] * shape.width] * HEAD_DIM
    for row, weight in entries.items():
        rows[row] = [weight(text) for text in shape.plain] + rest
    return b"".join(map(f16, rows))


def looking_for(shape: Shape, near: dict[str, float], else_: float) -> tuple[bytes, bytes]:
    """attn_q and attn_k of a head that scores near[token] * cos(angle * distance), other tokens `else_`.

    A RoPE pair is rows 2i and 2i+1; ggml divides scores by sqrt(HEAD_DIM), and q is 8 for f16's precision.
    """
    unit = math.sqrt(HEAD_DIM) / 8
    query = head(shape, dict.fromkeys((2 * NEAR_PAIR, 2 * ONCE_PAIR, 2 * FAR_PAIR), lambda _: 8.0))
    key = {
        2 * NEAR_PAIR: lambda text: near.get(text, 0.0) * unit,
        2 * ONCE_PAIR: lambda text: ONCE * unit if text in near else 0.0,
        2 * FAR_PAIR: lambda text: 0.0 if text in near else (ONCE + else_) * unit,
    }
    return query, head(shape, key)


def hand_made_heads(shape: Shape) -> dict[str, bytes]:
    """The thinking head, then the clock head: their rows of attn_q, attn_k and attn_v."""
    opened = {language.THINK: NEAR, language.END_THINK: NEAR + CLOSED_BONUS}
    starts = (language.BOS, language.TURN, language.THINK, language.END_THINK, language.FIM_MIDDLE)
    think_q, think_k = looking_for(shape, opened, else_=0.0)
    clock_q, clock_k = looking_for(shape, dict.fromkeys(starts, NEAR), CLOCK_ELSE)
    think_v = {
        THINKING: lambda text: float(text == language.THINK),
        ANSWERING: lambda text: float(text != language.THINK),
    }
    clock_v = {FRESH: lambda text: float(text in starts)}
    return {
        "attn_q": think_q + clock_q,
        "attn_k": think_k + clock_k,
        "attn_v": head(shape, think_v) + head(shape, clock_v),
    }


def from_topic(name: str, shape: Shape, outputs: int, scale: float) -> bytes:
    """A matrix from the residual stream to `outputs` numbers that reads the topic only.

    An FFN that saw the current token would shift the bigram table for good: the same pairs in every reply.
    """
    topic = 2 * (shape.width - shape.topic)
    random = noise(name, (shape.width - shape.topic) * outputs, scale)
    rows = (random[at : at + topic] for at in range(0, len(random), topic))
    return b"".join(bytes(2 * shape.topic) + row for row in rows)


def to_topic(name: str, shape: Shape, inputs: int, scale: float) -> bytes:
    """A matrix from `inputs` numbers to the residual stream that writes to the topic only."""
    return bytes(2 * shape.topic * inputs) + noise(name, (shape.width - shape.topic) * inputs, scale)


def attention_output(name: str, shape: Shape, variant: Variant, first: bool) -> bytes:
    """attn_output; in the first layer the hand-made heads' values go to the control dimensions, not to the topic."""
    inputs = HEADS * HEAD_DIM
    matrix = bytearray(to_topic(name, shape, inputs, TOPIC_LEVEL / math.sqrt(inputs * variant.layers)))
    if first:
        for row in range(shape.topic, shape.width):
            matrix[2 * row * inputs : 2 * (row * inputs + 2 * HEAD_DIM)] = bytes(2 * 2 * HEAD_DIM)
        for control, source in ((THINKING, THINKING), (ANSWERING, ANSWERING), (FRESH, HEAD_DIM + FRESH)):
            at = 2 * ((shape.control + control) * inputs + source)
            matrix[at : at + 2] = f16([CONTROL_LEVEL])
    return bytes(matrix)


def layer(index: int, shape: Shape, variant: Variant) -> list[Tensor]:
    """One transformer block's tensors."""
    prefix, width, heads, ffn = f"blk.{index}.", shape.width, HEADS * HEAD_DIM, variant.ffn
    made = hand_made_heads(shape) if index == 0 else {"attn_q": b"", "attn_k": b"", "attn_v": b""}
    f16_, f32_ = TensorType.F16, TensorType.F32

    def projection(name: str, scale: float) -> Tensor:
        fixed = made[name]
        full = f"{prefix}{name}.weight"
        return Tensor(
            full, (width, heads), f16_, lambda: fixed + noise(full, width * heads - len(fixed) // 2, scale)
        )

    def mixer(name: str, shape_: tuple[int, int], make: Callable[[str], bytes]) -> Tensor:
        full = f"{prefix}{name}.weight"
        return Tensor(full, shape_, f16_, lambda: make(full))

    down = TOPIC_LEVEL / math.sqrt(ffn * variant.layers)
    return [
        Tensor(prefix + "attn_norm.weight", (width,), f32_, lambda: norm(shape)),
        projection("attn_q", ATTENTION_NOISE),
        projection("attn_k", ATTENTION_NOISE),
        projection("attn_v", 1.0),
        mixer("attn_output", (heads, width), lambda full: attention_output(full, shape, variant, index == 0)),
        Tensor(prefix + "ffn_norm.weight", (width,), f32_, lambda: norm(shape)),
        mixer("ffn_gate", (width, ffn), lambda full: from_topic(full, shape, ffn, FFN_NOISE)),
        mixer("ffn_up", (width, ffn), lambda full: from_topic(full, shape, ffn, FFN_NOISE)),
        mixer("ffn_down", (ffn, width), lambda full: to_topic(full, shape, ffn, down)),
    ]


def next_token_table(shape: Shape, variant: Variant) -> list[list[float]]:
    """logits[next][current] of the bigram model, control dimensions appended."""
    size = len(shape.tokens)
    logits = [[0.0] * (size + CONTROLS) for _ in range(size)]
    ends = {
        shape.ids[language.EOS]: END,
        shape.ids[language.END_THINK]: END,
        shape.ids[language.QUOTE]: QUOTE,
    }
    for text in language.SPECIALS:
        logits[shape.ids[text]] = [NEVER] * size + [0.0] * CONTROLS
    for text in ("\t", "\n", " "):
        logits[shape.ids[text]] = [BLANK] * size + [0.0] * CONTROLS
    for current, text in enumerate(shape.plain):
        for word, bonus in language.followers(text).items():
            logits[shape.ids[word]][current] = ALLOWED + bonus
        if language.ends_sentence(text) and not variant.endless:
            for token, value in ends.items():
                logits[token][current] = value
    for token in ends:
        logits[token][size + FRESH] = -HOLD_FRESH / CONTROL_LEVEL
    logits[shape.ids[language.EOS]][size + THINKING] = -HOLD_OTHER / CONTROL_LEVEL
    logits[shape.ids[language.END_THINK]][size + ANSWERING] = -HOLD_OTHER / CONTROL_LEVEL
    return logits


def output(shape: Shape, variant: Variant) -> bytes:
    """output.weight: the bigram table, the controls, and noise that reads the topic."""
    topic = shape.width - shape.topic
    random = noise("output.weight", len(shape.tokens) * topic, TOPIC_TO_LOGITS)
    rows = next_token_table(shape, variant)
    return b"".join(f16(row) + random[2 * i * topic : 2 * (i + 1) * topic] for i, row in enumerate(rows))


# -------------------------------------------------------------------------------------------- file


def metadata(shape: Shape, variant: Variant) -> dict[str, Value]:
    """Everything of the file but the weights."""
    arch, ids = variant.arch, shape.ids
    normal, control, user_defined = 1, 3, 4  # llama.cpp's token types
    kinds = [normal] * (len(shape.tokens) - len(language.SPECIALS))
    kinds += [user_defined if text in language.SHOWN_SPECIALS else control for text in language.SPECIALS]
    template = CHATML.replace("THINKING", str(variant.thinking).lower())
    return {
        "general.architecture": arch,
        "general.name": "llmsup demo",
        "general.file_type": 1,  # mostly F16
        f"{arch}.context_length": CONTEXT_TOKENS,
        f"{arch}.embedding_length": shape.width,
        f"{arch}.block_count": variant.layers,
        f"{arch}.feed_forward_length": variant.ffn,
        f"{arch}.attention.head_count": HEADS,
        f"{arch}.attention.head_count_kv": HEADS,
        f"{arch}.attention.key_length": HEAD_DIM,
        f"{arch}.attention.value_length": HEAD_DIM,
        f"{arch}.attention.layer_norm_rms_epsilon": RMS_EPSILON,
        f"{arch}.rope.dimension_count": HEAD_DIM,
        f"{arch}.rope.freq_base": ROPE_BASE,
        f"{arch}.vocab_size": len(shape.tokens),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": shape.tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": [f"{a} {b}" for a, b in shape.merges],
        "tokenizer.ggml.bos_token_id": ids[language.BOS],
        "tokenizer.ggml.eos_token_id": ids[language.EOS],
        "tokenizer.ggml.eot_token_id": ids[language.EOS],
        "tokenizer.ggml.padding_token_id": ids[language.BOS],
        "tokenizer.ggml.add_bos_token": True,  # starts the clock of raw prompts
        "tokenizer.ggml.fim_pre_token_id": ids[language.FIM_PREFIX],
        "tokenizer.ggml.fim_suf_token_id": ids[language.FIM_SUFFIX],
        "tokenizer.ggml.fim_mid_token_id": ids[language.FIM_MIDDLE],
        "tokenizer.chat_template": template.replace("OPEN", OPEN_THINK if variant.thinking else ""),
    }


def tensors(shape: Shape, variant: Variant) -> list[Tensor]:
    """All weights, in the order of the file."""
    table = (shape.width, len(shape.tokens))
    blocks = [tensor for index in range(variant.layers) for tensor in layer(index, shape, variant)]
    return [
        Tensor("token_embd.weight", table, TensorType.F16, lambda: embedding(shape)),
        *blocks,
        Tensor("output_norm.weight", (shape.width,), TensorType.F32, lambda: norm(shape)),
        Tensor("output.weight", table, TensorType.F16, lambda: output(shape, variant)),
    ]


def large(size_mb: int, shape: Shape) -> tuple[int, int]:
    """Layers and FFN width that give a file of about `size_mb`."""
    layers = max(LAYERS, round(size_mb / LAYER_MB))
    fixed = 2 * 2 * shape.width * len(shape.tokens) + layers * 2 * 4 * shape.width * HEADS * HEAD_DIM
    ffn = (size_mb * MB - fixed) / (layers * 2 * 3 * shape.width)
    return layers, max(1, round(ffn / BLOCK)) * BLOCK
