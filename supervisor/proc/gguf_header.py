"""What a GGUF header says of its model: the values, and the tables they are read with. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from supervisor.printable import one_line
from supervisor.types import MIB

MAX_COUNT = 0xFFFF_FFFF  # llama.cpp reads its sizes as 32 bits
SHOWN_CHARACTERS = 60  # of a name that the file gives; the real ones have up to 20
GUESSED = 1024  # LLAMA_FTYPE_GUESSED, a flag in general.file_type

Kind = Literal[
    "missing", "unreadable", "directory", "empty", "not_gguf", "unsupported_version", "truncated", "corrupt"
]
Value: TypeAlias = "bool | int | float | str | tuple[int | float, ...] | Skipped"
PerLayer = int | tuple[int, ...]

# number:name:elements a block:bytes a block (vendor/llama.cpp/ggml/src/ggml-common.h, the block_ structs)
_TENSOR_TABLE = """
    0:f32:1:4 1:f16:1:2 2:q4_0:32:18 3:q4_1:32:20 6:q5_0:32:22 7:q5_1:32:24 8:q8_0:32:34 9:q8_1:32:36
    10:q2_K:256:84 11:q3_K:256:110 12:q4_K:256:144 13:q5_K:256:176 14:q6_K:256:210 15:q8_K:256:292
    16:iq2_xxs:256:66 17:iq2_xs:256:74 18:iq3_xxs:256:98 19:iq1_s:256:50 20:iq4_nl:32:18 21:iq3_s:256:110
    22:iq2_s:256:82 23:iq4_xs:256:136 24:i8:1:1 25:i16:1:2 26:i32:1:4 27:i64:1:8 28:f64:1:8 29:iq1_m:256:56
    30:bf16:1:2 34:tq1_0:256:54 35:tq2_0:256:66 39:mxfp4:32:17 40:nvfp4:64:36 41:q1_0:128:18 42:q2_0:64:18
"""
TENSOR_TYPES = {
    int(number): (name, int(elements), int(size))
    for number, name, elements, size in (row.split(":") for row in _TENSOR_TABLE.split())
}
# enum llama_ftype (vendor/llama.cpp/include/llama.h) by number, without LLAMA_FTYPE_MOSTLY_; "-": not in use
_FILE_TYPES = """
    F32 F16 Q4_0 Q4_1 - - - Q8_0 Q5_0 Q5_1 Q2_K Q3_K_S Q3_K_M Q3_K_L Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K IQ2_XXS
    IQ2_XS Q2_K_S IQ3_XS IQ3_XXS IQ1_S IQ4_NL IQ3_S IQ3_M IQ2_S IQ2_M IQ4_XS IQ1_M BF16 - - - TQ1_0 TQ2_0
    MXFP4_MOE NVFP4 Q1_0 Q2_0
"""
FILE_TYPES = dict(enumerate(_FILE_TYPES.split()))


class GgufError(Exception):
    """``kind`` for programs, ``message`` for people, with the path and the numbers, on one line whatever the file holds."""

    def __init__(self, kind: Kind, message: str) -> None:
        message = one_line(message)
        super().__init__(message)
        self.kind: Kind = kind
        self.message = message


@dataclass(frozen=True, slots=True)
class Skipped:
    """A value that was passed over: so many elements of an array, or bytes of a string."""

    count: int


@dataclass(frozen=True, slots=True)
class _Number:
    """An attribute of Header: a number under the architecture's prefix, None when it is not there."""

    key: str

    def __get__(self, header: "Header", owner: object) -> int | None:
        return header.count(self.key)


@dataclass(frozen=True, slots=True)
class _PerLayer:
    """The same for what may be one number for all layers or one for each."""

    key: str

    def __get__(self, header: "Header", owner: object) -> PerLayer | None:
        return header.per_layer(self.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A model's header; of a split model, the sum over its parts and the first part's metadata."""

    version: int
    metadata: Mapping[str, Value]
    file_bytes: int
    header_bytes: int  # before the first tensor's data
    tensor_count: int
    tensor_bytes: int  # without padding between them; all that is no header when a type is unknown
    tensors_end: int  # where the last tensor ends; of a split model, the sum
    missing_bytes: int  # by how much the file ends before that
    truncation: str  # the same in words, "" when nothing is missing
    type_bytes: Mapping[str, int]  # bytes of each tensor type; a type unknown here counts 0
    parts: int = 1

    context_length = _Number("context_length")  # tokens it was trained with
    embedding_length = _Number("embedding_length")
    block_count = _Number("block_count")
    head_count = _PerLayer("attention.head_count")
    head_count_kv = _PerLayer("attention.head_count_kv")
    key_length = _Number("attention.key_length")
    value_length = _Number("attention.value_length")
    sliding_window = _Number("attention.sliding_window")
    expert_count = _Number("expert_count")

    def text(self, key: str) -> str:
        value = self.metadata.get(key)
        return value if isinstance(value, str) else ""

    def count(self, key: str, *, prefixed: bool = True) -> int | None:
        """A number of something: ``count("block_count")``; None where llama.cpp would accept none."""
        value = self.metadata.get(f"{self.architecture}.{key}" if prefixed else key)
        if isinstance(value, bool) or not isinstance(value, int):
            return None
        return value if 0 <= value <= MAX_COUNT else None

    def per_layer(self, key: str) -> PerLayer | None:
        value = self.metadata.get(f"{self.architecture}.{key}")
        if not isinstance(value, tuple):
            return self.count(key)
        whole = tuple(int(item) for item in value if isinstance(item, int) and 0 <= item <= MAX_COUNT)
        return whole if len(whole) == len(value) else None

    @property
    def architecture(self) -> str:
        return self.text("general.architecture")

    @property
    def name(self) -> str:
        return self.text("general.name")

    @property
    def quantisation(self) -> str:
        """llama.cpp's name of the file type ("Q4_K_M"), or of the tensor type with the most bytes."""
        number = self.count("general.file_type", prefixed=False)
        known = FILE_TYPES.get(number & ~GUESSED, "-") if number is not None else "-"
        return (
            known
            if known != "-"
            else max(self.type_bytes, key=lambda name: self.type_bytes[name], default="")
        )

    @property
    def vocab_size(self) -> int | None:
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        return tokens.count if isinstance(tokens, Skipped) else self.count("vocab_size")

    @property
    def has_chat_template(self) -> bool:
        return isinstance(self.metadata.get("tokenizer.chat_template"), str | Skipped)

    @property
    def split_count(self) -> int:
        return self.count("split.count", prefixed=False) or 1

    def __str__(self) -> str:
        size = f"{self.file_bytes / MIB:.1f} MiB" + (f" in {self.parts} parts" if self.parts > 1 else "")
        architecture = one_line(self.architecture, SHOWN_CHARACTERS)
        kind = f"{architecture or 'no architecture'}, {self.quantisation or 'no weights'}"
        return f"{kind}, {size}, {self.tensor_count} tensors"
