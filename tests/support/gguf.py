"""GGUF files for tests, byte by byte."""

import struct
from typing import Any

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMATS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?"}
FORMATS |= {U64: "Q", I64: "q", F64: "d"}
Q4_K, F16 = 12, 1


def text(value: str | bytes) -> bytes:
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def scalar(kind: int, value: Any) -> bytes:
    return text(value) if kind == STRING else struct.pack("<" + FORMATS[kind], value)


def array(kind: int, values: Any) -> tuple[int, bytes]:
    return ARRAY, struct.pack("<IQ", kind, len(values)) + b"".join(scalar(kind, value) for value in values)


def key(name: str | bytes, kind: int, value: Any) -> bytes:
    return text(name) + struct.pack("<I", kind) + (value if kind == ARRAY else scalar(kind, value))


def tensor(name: str | bytes, shape: Any, kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def header(
    keys: Any = (), tensors: Any = (), *, version: int = 3, counts: Any = None, align: int = 32
) -> bytes:
    raw = b"GGUF" + struct.pack("<IQQ", version, *(counts or (len(tensors), len(keys)))) + b"".join(keys)
    raw += b"".join(tensors)
    return raw + bytes(-len(raw) % align)


MINIMAL = header()  # valid, and of no model: what a fake llama-server is given

LLAMA = (
    key("general.architecture", STRING, "llama"),
    key("general.name", STRING, "Tiny"),
    key("general.file_type", U32, 15),
    key("llama.context_length", U32, 4096),
    key("llama.embedding_length", U64, 64),
    key("llama.block_count", U16, 2),
    key("llama.attention.head_count", U32, 8),
    key("llama.attention.head_count_kv", *array(I32, [4, 2])),
    key("llama.attention.key_length", U32, 32),
    key("llama.attention.value_length", U32, 16),
    key("llama.attention.sliding_window", U32, 512),
    key("llama.expert_count", U8, 4),
    key("tokenizer.ggml.tokens", *array(STRING, ["a", "b", "", "dd"])),
    key("tokenizer.ggml.scores", *array(F32, [0.5] * 2000)),
    key("tokenizer.chat_template", STRING, "x" * 5000),
)
TENSORS = (
    tensor("token_embd.weight", (256, 3), Q4_K, 0),  # 3 * 144 bytes, then padding to 448
    tensor("output_norm.weight", (10,), 0, 448),
)
WHOLE = header(LLAMA, TENSORS)
START = len(WHOLE)
WHOLE += bytes(448 + 40)


def model(*, vocabulary: int = 100, context: int = 8192, wide: int = 64) -> bytes:
    """A llama of two layers with `2 * 8 * 32 * 2 * 2` bytes of KV cache for a token: no weights to speak of."""
    own = {
        "context_length": context,
        "embedding_length": 8 * wide,
        "block_count": 2,
        "feed_forward_length": wide,
    }
    keys = [
        key("general.architecture", STRING, "llama"),
        *(key(f"llama.{name}", U32, value) for name, value in own.items()),
        key("llama.attention.head_count", U32, 8),
        key("llama.attention.head_count_kv", U32, 8),
        key("llama.attention.key_length", U32, 32),
        key("llama.attention.value_length", U32, 32),
        key("tokenizer.ggml.tokens", *array(STRING, ["w"] * vocabulary)),
    ]
    return header(keys, [tensor("output_norm.weight", (16,), 0, 0)]) + bytes(64)
