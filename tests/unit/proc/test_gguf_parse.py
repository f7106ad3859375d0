import struct
import time
import tracemalloc
from io import BytesIO

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from supervisor.proc import gguf_parse as gguf
from supervisor.proc.gguf import GgufError, Skipped, parse, read_header
from supervisor.types import MIB
from tests.support.gguf import (
    ARRAY,
    BOOL,
    F16,
    F32,
    I32,
    LLAMA,
    Q4_K,
    START,
    STRING,
    TENSORS,
    U8,
    U32,
    U64,
    WHOLE,
    array,
    header,
    key,
    tensor,
    text,
)


def read(raw):
    return parse(BytesIO(raw), len(raw), "m.gguf")


def refused(raw):
    with pytest.raises(GgufError) as caught:
        read(raw)
    assert caught.value.message.startswith("m.gguf")
    return caught.value.kind, caught.value.message


def test_a_header_is_read():
    found = read(WHOLE)
    assert (found.version, found.architecture, found.name) == (3, "llama", "Tiny")
    assert (found.context_length, found.embedding_length, found.block_count) == (4096, 64, 2)
    assert (found.head_count, found.head_count_kv) == (8, (4, 2))
    assert (found.key_length, found.value_length, found.sliding_window) == (32, 16, 512)
    assert (found.expert_count, found.vocab_size, found.split_count) == (4, 4, 1)
    assert found.has_chat_template
    assert found.quantisation == "Q4_K_M"
    assert (found.file_bytes, found.header_bytes, found.tensor_count) == (len(WHOLE), START, 2)
    assert (found.tensor_bytes, found.tensors_end) == (432 + 40, len(WHOLE))
    assert (found.missing_bytes, found.truncation) == (0, "")
    assert found.type_bytes == {"q4_K": 432, "f32": 40}
    assert found.metadata["tokenizer.ggml.scores"] == Skipped(2000)
    assert found.metadata["tokenizer.chat_template"] == Skipped(5000)
    assert str(found) == "llama, Q4_K_M, 0.0 MiB, 2 tensors"


def test_version_2_is_laid_out_the_same():
    assert read(header(LLAMA, version=2)).version == 2


def test_what_is_not_said_is_none():
    found = read(header([key("general.architecture", STRING, "x")]))
    assert found.context_length is found.head_count is found.head_count_kv is found.vocab_size is None
    assert (found.name, found.quantisation, found.has_chat_template) == ("", "", False)
    assert (found.tensor_bytes, found.tensors_end) == (0, found.header_bytes)
    assert not read(header()).architecture


@pytest.mark.parametrize(
    ("kind", "value"),
    [(STRING, "2"), (F32, 2.0), (BOOL, True), (I32, -1), (U64, 1 << 32), (ARRAY, array(F32, [1.0])[1])],
)
def test_a_number_of_another_kind_is_none(kind, value):
    found = read(header([key("general.architecture", STRING, "a"), key("a.block_count", kind, value)]))
    assert found.block_count is None


def test_quantisation_of_a_guessed_and_an_unknown_file_type():
    assert read(header([key("general.file_type", U32, 1024 + 7)])).quantisation == "Q8_0"
    assert read(header([key("general.file_type", U32, 5)])).quantisation == ""
    no_type = header([], TENSORS) + bytes(488)
    assert read(no_type).quantisation == "q4_K"


def test_a_tensor_type_of_tomorrow_leaves_the_sum_to_the_file():
    raw = header([], [tensor("a", (32,), 99, 0), tensor("b", (4,), 0, 4096)])
    found = read(raw + bytes(4096 + 16))
    assert found.tensor_bytes == 4096 + 16
    assert found.type_bytes == {"type 99": 0, "f32": 16}


# -------------------------------------------------------------------------------------- truncation


def test_every_shorter_file_is_refused():
    for size in range(1, START - 31):
        kind, message = refused(WHOLE[:size])
        assert kind == "truncated", message
        assert f"the file ends at {size}" in message
    assert all(read(WHOLE[:size]).missing_bytes == len(WHOLE) - size for size in range(START, len(WHOLE)))


def test_a_file_that_shrinks_while_it_is_read():
    with pytest.raises(GgufError, match="became shorter"):
        parse(BytesIO(WHOLE[:100]), len(WHOLE), "m.gguf")
    long = header([key("t", *array(STRING, ["x" * 100] * 50))])
    with pytest.raises(GgufError, match=r"damaged|truncated"):
        parse(BytesIO(long[:1000]), len(long), "m.gguf")


# ---------------------------------------------------------------------------------- what is damaged


@pytest.mark.parametrize(
    ("raw", "kind", "words"),
    [
        (b"", "empty", "is empty"),
        (b"PK\3\4....", "not_gguf", r"begins with b'PK\x03\x04'"),
        (b"GG", "truncated", "the version takes 4 bytes"),
        (header(version=1), "unsupported_version", "of version 1; versions 2 and 3 are supported"),
        (header(version=99), "unsupported_version", "of version 99"),
        (header(version=0), "unsupported_version", "of version 0"),
        (header(version=3 << 24), "unsupported_version", "big-endian"),
        (header(counts=(0, 2**64 - 1)), "corrupt", "18446744073709551615 metadata keys are claimed"),
        (header(counts=(2**64 - 1, 0)), "corrupt", "18446744073709551615 tensors are claimed"),
        (header([struct.pack("<Q", 2**64 - 1)]), "corrupt", "at most 65535 are believed"),
        (header([key("", U8, 1)]), "corrupt", "is empty"),
        (header([key("a", U8, 1), key("a", U8, 1)]), "corrupt", "'a' is there twice"),
        (header([text("a") + struct.pack("<I", 13)]), "corrupt", "has type 13"),
        (header([text("a") + struct.pack("<IIQ", ARRAY, ARRAY, 1)]), "corrupt", "has type 9"),
        (
            header([text("a") + struct.pack("<IIQ", ARRAY, U8, 2**64 - 1)]),
            "corrupt",
            "elements of metadata 'a'",
        ),
        (header([text("a") + struct.pack("<IIQ", ARRAY, U64, 2**30)]), "truncated", "takes 8589934592 bytes"),
        (
            header([text("a") + struct.pack("<IIQ", ARRAY, STRING, 2**22)]),
            "truncated",
            "takes 33554432 bytes",
        ),
        (header([text("a") + struct.pack("<IIQ", ARRAY, STRING, 2**30)]), "corrupt", "at most 4194304"),
        (header([text("a") + struct.pack("<IQ", STRING, 2**64 - 1)]), "corrupt", "bytes of metadata 'a'"),
        (header([text("a") + struct.pack("<IQ", STRING, 2**29)]), "truncated", "takes 536870912 bytes"),
        (header([text("a") + struct.pack("<IIQQ", ARRAY, STRING, 1, 2**63)]), "corrupt", "a string of"),
        (header([text("a") + struct.pack("<IIQQ", ARRAY, STRING, 1, 999)]), "truncated", "takes 1007 bytes"),
        (header([key("general.alignment", U32, 24)]), "corrupt", "no power of two: 24"),
        (header([key("general.alignment", STRING, "x")]), "corrupt", "no power of two: x"),
        (header([], [tensor("n" * 64, (1,), 0, 0)]), "corrupt", "at most 63"),
        (header([], [text("t") + struct.pack("<I", 5)]), "corrupt", "'t' has 5 dimensions"),
        (header([], [tensor("t", (2**63, 1), 0, 0)]), "corrupt", "elements of tensor 1 of 1"),
        (header([], [tensor("t", (2**40, 2**40, 2**40), 0, 0)]), "corrupt", "takes"),
        (header([], [tensor("t", (100,), Q4_K, 0)]), "corrupt", "rows of 100 are no q4_K blocks of 256"),
        (header([], [tensor("t", (8,), 0, 32)]), "corrupt", "begins at offset 32 instead of 0"),
        (header([], [tensor("t", (8,), 0, 0)] * 2), "corrupt", "tensor 't' is there twice"),
    ],
)
def test_what_is_wrong_is_said(raw, kind, words):
    found, message = refused(raw)
    assert found == kind, message
    assert words in message


def test_metadata_without_end_is_refused_before_it_fills_the_memory():
    raw = header([key(f"{number:04}" + "k" * 60_000, U8, 1) for number in range(100)])
    assert refused(raw)[1].endswith("metadata keys fill 4 MiB")


def test_no_control_character_reaches_the_terminal():
    message = refused(header([], [tensor("\x1b[31mred\x00", (3,), Q4_K, 0)]))[1]
    assert message.isprintable()


def test_alignment_is_the_file_s():
    raw = header(
        [key("general.alignment", U32, 256)], [tensor("a", (4,), 0, 0), tensor("b", (4,), 0, 256)], align=256
    )
    assert read(raw + bytes(272)).tensors_end == len(raw) + 272


# ------------------------------------------------------------------------------------------- fuzz

SMALL = header(
    [*LLAMA[:13], key("t", *array(STRING, ["word"] * 20))],
    [tensor(f"blk.{number}", (64, 2), F16, 256 * number) for number in range(3)],
) + bytes(3 * 256)
HUGE = [0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 32, 2**64 - 1]


def survive(raw):
    """Either a header or a GgufError, in little time."""
    before, message = time.perf_counter(), ""
    try:
        found = parse(BytesIO(raw), len(raw), "m.gguf")
    except GgufError as error:
        message = error.message
    else:
        assert found.missing_bytes == max(0, found.tensors_end - len(raw))
        for name in dir(type(found)):
            getattr(found, name)
        str(found)
    assert message.isprintable()
    assert time.perf_counter() - before < 1


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_random_bytes(raw):
    survive(raw)
    survive(b"GGUF\3\0\0\0" + raw)


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.binary(min_size=1, max_size=8)), max_size=6),
    st.integers(0, len(SMALL)),
)
def test_mutations_and_cuts_of_a_valid_header(patches, cut):
    raw = bytearray(SMALL)
    for at, patch in patches:
        raw[at : at + len(patch)] = patch
    survive(bytes(raw))
    survive(bytes(raw[:cut]))


@settings(max_examples=500, deadline=None)
@given(st.integers(4, len(SMALL) - 800), st.sampled_from(HUGE), st.sampled_from(["<Q", "<I"]))
@example(8, 2**64 - 1, "<Q")
def test_absurd_numbers_anywhere(at, value, layout):
    patch = struct.pack(layout, value & (2 ** (8 * struct.calcsize(layout)) - 1))
    survive(SMALL[:at] + patch + SMALL[at + len(patch) :])


def gigantic(path, raw, size=64 * MIB):
    """A file that goes on with zeros, which take no room on the disk."""
    with path.open("wb") as file:
        file.write(raw)
        file.truncate(size)
    return path


def greedy():
    """Headers that claim as much as is believed, over zeros without end."""
    strings = text("a") + struct.pack("<IIQ", ARRAY, STRING, gguf.MAX_STRINGS)
    keys = [key(f"{number:06}" + "🦙" * 20, *array(U8, [1] * 1024)) for number in range(200)]
    names = [tensor("🦙" + f"{number:059}", (), 100 + number, 0) for number in range(gguf.MAX_TENSORS)]
    texts = [key(f"{number}", STRING, "🦙" + "x" * 4000) for number in range(500)]
    return {
        "strings": header([strings], counts=(0, 1)),
        "array": header([text("a") + struct.pack("<IIQ", ARRAY, U8, 2**25)], counts=(0, 1)),
        "keys": header(keys),
        "texts": header(texts),
        "tensors": header([], names),
        "key": header([struct.pack("<Q", 65_535)], counts=(0, gguf.MAX_KEYS)),
    }


@pytest.mark.parametrize("which", ["strings", "array", "keys", "texts", "tensors", "key"])
def test_memory_and_time_are_bounded(tmp_path, which):
    path = gigantic(tmp_path / "m.gguf", greedy()[which])
    before = time.process_time()
    try_to_read(path)
    assert time.process_time() - before < 3  # 0.5 s here at most
    if which == "strings":
        return  # tracing four million of them takes too long; it holds one window at a time
    tracemalloc.start()
    try:
        try_to_read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 * MIB


def try_to_read(path):
    try:
        read_header(path, allow_truncated=True)
    except GgufError:
        pass
