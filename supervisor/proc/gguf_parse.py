"""One GGUF file, from its first byte to where its weights begin; `gguf.read_header` is the way in.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, checked as ggml/src/gguf.cpp does.
Invariants: no length is believed before it is compared with the file's size and with a limit below; long
values are passed over, so that memory stays under 16 MiB and time is proportional to the header.
"""

import math
import struct
from typing import BinaryIO

from supervisor.proc.gguf_header import TENSOR_TYPES, GgufError, Header, Skipped, Value
from supervisor.types import GIB, KIB, MIB

MAX_HEADER_BYTES = 128 * MIB  # 260 000 tokens and 510 000 merges (gemma 3) take 20 MiB
MAX_KEYS = 16_384  # real files have 20 to 60
MAX_KEY_BYTES = 65_535  # the format's own limit
MAX_ITEMS = GIB  # of a string or an array: gguf.cpp's GGUF_MAX_STRING_LENGTH, GGUF_MAX_ARRAY_ELEMENTS
MAX_STRINGS = 1 << 22  # of all string arrays together: each costs 0.1 us; gemma 3 has 0.8 million
MAX_KEPT_BYTES = 4 * MIB  # of metadata held in memory, as Python counts it
KEPT_STRING_BYTES = 4 * KIB  # longer ones are chat templates and licences: that they exist is enough
KEPT_ITEMS = 1024  # per-layer arrays; llama.cpp has at most 512 layers (LLAMA_MAX_LAYERS)
MAX_TENSORS = 16_384  # 512 layers of 32 tensors
MAX_NAME_BYTES = 63  # GGML_MAX_NAME with its terminating zero
MAX_DIMENSIONS = 4  # GGML_MAX_DIMS
MAX_DATA_BYTES = 1 << 46  # 64 TiB: an end beyond is a damaged number, not a large model
DEFAULT_ALIGNMENT = 32
WINDOW_BYTES = 256 * KIB
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


def parse(file: BinaryIO, size: int, label: str) -> Header:
    """The header of one file of ``size`` bytes, open at its start; ``label`` begins every message.

    Raises:
        GgufError: as `read_header`, but missing weights are only told in the header's ``truncation``.
        OSError: reading failed.
    """
    cursor = _Cursor(file, size, label)
    version = _version(cursor)
    tensor_count = cursor.count(MAX_TENSORS, "tensors")
    metadata = _metadata(cursor, cursor.count(MAX_KEYS, "metadata keys"))
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise cursor.corrupt(f"general.alignment is no power of two: {str(alignment)[:40]}")
    tally = _Tally(cursor, alignment)
    for number in range(tensor_count):
        tally.add(*_tensor(cursor, f"tensor {number + 1} of {tensor_count}"))
    start = cursor.at + (-cursor.at % alignment if tensor_count else 0)
    end = start + tally.end
    missing = max(0, end - size)
    words = f"tensor {tally.last} ends at byte {end} of a file of {size} bytes"
    return Header(
        version=version,
        metadata=metadata,
        file_bytes=size,
        header_bytes=start,
        tensor_count=tensor_count,
        tensor_bytes=max(0, size - start) if tally.unknown else tally.bytes,
        tensors_end=end,
        missing_bytes=missing,
        truncation=f"{label}: {words}: the file is truncated by {missing} bytes" if missing else "",
        type_bytes=tally.types,
    )


class _Cursor:
    """Moves forward through the file; every step is checked against its end first."""

    def __init__(self, file: BinaryIO, size: int, label: str) -> None:
        self.file, self.size, self.label = file, size, label
        self.at = self.strings = 0

    def corrupt(self, what: str) -> GgufError:
        return GgufError("corrupt", f"{self.label} is damaged: {what}")

    def within(self, count: int, what: str) -> None:
        if count > self.size - self.at:
            needs = f"{what} takes {count} bytes from byte {self.at}, and the file ends at {self.size}"
            raise GgufError("truncated", f"{self.label} is truncated in its header: {needs}")
        if self.at + count > MAX_HEADER_BYTES:
            raise self.corrupt(f"{what} lies beyond {MAX_HEADER_BYTES // MIB} MiB of header")

    def take(self, count: int, what: str) -> bytes:
        self.within(count, what)
        data = self.file.read(count)
        if len(data) != count:
            raise GgufError("truncated", f"{self.label} became shorter while it was read")
        self.at += count
        return data

    def skip(self, count: int, what: str) -> None:
        self.within(count, what)
        self.at += count
        self.file.seek(self.at)

    def u32(self, what: str) -> int:
        return int.from_bytes(self.take(4, what), "little")

    def count(self, limit: int, what: str) -> int:
        """A 64-bit number of something that is not believed above ``limit``."""
        found = int.from_bytes(self.take(8, what), "little")
        if found > limit:
            raise self.corrupt(f"{found} {what} are claimed; at most {limit} are believed")
        return found

    def string(self, limit: int, what: str) -> str:
        return self.take(self.count(limit, f"bytes of {what}"), what).decode("utf-8", "replace")

    def skip_strings(self, count: int, what: str) -> None:
        """Pass over an array of strings, a window at a time."""
        self.strings += count
        if self.strings > MAX_STRINGS:
            raise self.corrupt(f"{what} makes it {self.strings} strings; at most {MAX_STRINGS} are believed")
        self.within(8 * count, what)
        unpack = struct.Struct("<Q").unpack_from
        while count:
            self.within(8, what)
            window = self.file.read(min(WINDOW_BYTES, self.size - self.at))
            at, last = 0, len(window) - 8
            while count and at <= last:
                at += 8 + unpack(window, at)[0]
                count -= 1
            if not 8 <= at <= MAX_ITEMS:  # the file became shorter; or a length that cannot be true
                raise self.corrupt(f"{what} holds a string of {at - 8} bytes")
            self.skip(at, what)


def _version(cursor: _Cursor) -> int:
    if cursor.size == 0:
        raise GgufError("empty", f"{cursor.label} is empty")
    magic = cursor.take(min(4, cursor.size), "the magic")
    if not b"GGUF".startswith(magic):
        raise GgufError("not_gguf", f"{cursor.label} is not a GGUF file: it begins with {magic!r}")
    version = cursor.u32("the version")
    if version in {2, 3}:
        return version
    what = f"of version {version}; versions 2 and 3 are supported"
    if version and version & 0xFFFF == 0:  # small when read from its other end: gguf.cpp's own test
        what = "big-endian, written for another kind of machine"
    raise GgufError("unsupported_version", f"{cursor.label} is {what}")


def _metadata(cursor: _Cursor, count: int) -> dict[str, Value]:
    found: dict[str, Value] = {}
    kept = 0
    for number in range(count):
        key = cursor.string(MAX_KEY_BYTES, f"metadata key {number + 1} of {count}")
        if not key or key in found:
            raise cursor.corrupt(f"metadata key {_shown(key)} is {'there twice' if key else 'empty'}")
        what = f"metadata {_shown(key)}"
        found[key] = value = _value(cursor, what)
        wide = (
            40 * len(value) if isinstance(value, tuple) else 4 * len(value) if isinstance(value, str) else 0
        )
        kept += 200 + 4 * len(key) + wide  # an entry; 40 bytes an integer, up to 4 a character
        if kept > MAX_KEPT_BYTES:
            raise cursor.corrupt(f"{number + 1} metadata keys fill {MAX_KEPT_BYTES // MIB} MiB")
    return found


def _value(cursor: _Cursor, what: str) -> Value:
    kind, count, is_array = cursor.u32(what), 1, False
    if kind == _ARRAY:
        kind, count, is_array = cursor.u32(what), cursor.count(MAX_ITEMS, f"elements of {what}"), True
    if kind == _STRING and is_array:
        cursor.skip_strings(count, what)
        return Skipped(count)
    if kind == _STRING:
        length = cursor.count(MAX_ITEMS, f"bytes of {what}")
        if length <= KEPT_STRING_BYTES:
            return cursor.take(length, what).decode("utf-8", "replace")
        cursor.skip(length, what)
        return Skipped(length)
    if kind not in _NUMBERS:  # among them arrays of arrays, which gguf.cpp refuses too
        raise cursor.corrupt(f"{what} has type {kind}, which llama.cpp does not read there")
    layout = "<" + _NUMBERS[kind]
    if count > KEPT_ITEMS:
        cursor.skip(count * struct.calcsize(layout), what)
        return Skipped(count)
    layout = f"<{count}{_NUMBERS[kind]}"
    items = struct.unpack(layout, cursor.take(struct.calcsize(layout), what))
    return items if is_array else items[0]


def _tensor(cursor: _Cursor, what: str) -> tuple[str, list[int], int, int]:
    """Name, shape, type and offset."""
    name = cursor.string(MAX_NAME_BYTES, f"the name of {what}")
    dimensions = cursor.u32(what)
    if dimensions > MAX_DIMENSIONS:
        raise cursor.corrupt(
            f"tensor {_shown(name)} has {dimensions} dimensions; {MAX_DIMENSIONS} are allowed"
        )
    shape = [cursor.count(MAX_DATA_BYTES, f"elements of {what}") for _ in range(dimensions)]
    return name, shape, cursor.u32(what), cursor.count(MAX_DATA_BYTES, f"bytes before {what}")


class _Tally:
    """Sums over the tensors, whose infos are not kept."""

    def __init__(self, cursor: _Cursor, alignment: int) -> None:
        self.cursor, self.alignment = cursor, alignment
        self.names: set[str] = set()
        self.types: dict[str, int] = {}
        self.bytes = self.end = 0
        self.last = ""
        self.unknown = False
        self.exact = True  # whether the next offset is known: not after a tensor of unknown size

    def add(self, name: str, shape: list[int], kind: int, offset: int) -> None:
        shown = _shown(name)
        if name in self.names:
            raise self.cursor.corrupt(f"tensor {shown} is there twice")
        self.names.add(name)
        expected = self.end + -self.end % self.alignment
        if offset < self.end or (self.exact and offset != expected):
            raise self.cursor.corrupt(f"tensor {shown} begins at offset {offset} instead of {expected}")
        type_name, block, size = TENSOR_TYPES.get(kind, (f"type {kind}", 1, 0))  # a newer llama.cpp's
        if shape and shape[0] % block:
            raise self.cursor.corrupt(
                f"tensor {shown}: rows of {shape[0]} are no {type_name} blocks of {block}"
            )
        length = math.prod(shape) // block * size
        if offset + length > MAX_DATA_BYTES:
            raise self.cursor.corrupt(f"tensor {shown} of shape {shape} takes {length} bytes")
        self.exact = kind in TENSOR_TYPES
        self.unknown |= not self.exact
        self.types[type_name] = self.types.get(type_name, 0) + length
        self.bytes += length
        self.end, self.last = offset + length, shown


def _shown(text: str) -> str:
    """Quoted and cut; `repr` leaves no control character to the terminal."""
    return repr(text if len(text) <= 80 else text[:79] + "…")
