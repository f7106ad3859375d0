"""Writes GGUF v3 files with nothing but the standard library.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (little endian, data aligned to 32 bytes).
Invariant: the target path only ever holds a complete file; work in progress has another name.
"""

import hashlib
import os
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

Value = bool | int | float | str | Sequence[str] | Sequence[int]

VERSION = 3
ALIGNMENT_BYTES = 32  # GGUF's default; another would have to be written as general.alignment
PUBLIC_READ = 0o644  # mkstemp makes private files; the server may run under another account


class TensorType(IntEnum):
    """The ggml types used here, by their number in the file."""

    F32 = 0
    F16 = 1

    @property
    def item_bytes(self) -> int:
        return 4 if self is TensorType.F32 else 2


class ValueType(IntEnum):
    """GGUF's metadata types, by their number in the file."""

    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor; `shape` is in ggml's order (row length first).

    `make` is called when it is written, so that only one tensor at a time is in memory.
    """

    name: str
    shape: tuple[int, ...]
    kind: TensorType
    make: Callable[[], bytes]

    @property
    def size_bytes(self) -> int:
        items = 1
        for length in self.shape:
            items *= length
        return items * self.kind.item_bytes


def save(path: Path, metadata: Mapping[str, Value], tensors: Sequence[Tensor]) -> str:
    """Write the file in one step that is seen from outside, and return its SHA-256 in hex.

    Raises OSError (folder missing or not writable, disk full); the target is then as it was.
    """
    descriptor, unfinished = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    digest = hashlib.sha256()
    try:
        with os.fdopen(descriptor, "wb") as file:
            for piece in _pieces(metadata, tensors):
                digest.update(piece)
                file.write(piece)
            file.flush()
            os.fchmod(file.fileno(), PUBLIC_READ)
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:  # also on Ctrl-C: leave no rubbish next to the models
        os.unlink(unfinished)
        raise
    _sync_folder(path.parent)
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _pieces(metadata: Mapping[str, Value], tensors: Sequence[Tensor]) -> Iterator[bytes]:
    header = [b"GGUF", struct.pack("<IQQ", VERSION, len(tensors), len(metadata))]
    header += [_string(key) + _typed(value) for key, value in metadata.items()]
    offset = 0
    for tensor in tensors:
        lengths = struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape)
        header.append(_string(tensor.name) + struct.pack("<I", len(tensor.shape)) + lengths)
        header.append(struct.pack("<IQ", tensor.kind, offset))
        offset += tensor.size_bytes + _padding(tensor.size_bytes)
    whole = b"".join(header)
    yield whole + bytes(_padding(len(whole)))
    for tensor in tensors:
        data = tensor.make()
        if len(data) != tensor.size_bytes:
            raise ValueError(f"{tensor.name}: {len(data)} bytes made, {tensor.size_bytes} declared")
        yield data
        yield bytes(_padding(len(data)))


def _padding(length: int) -> int:
    return -length % ALIGNMENT_BYTES


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _typed(value: Value) -> bytes:
    """Type number, then the value. Lists are never empty and hold one type."""
    if isinstance(value, str | bool | int | float):
        kind, raw = _scalar(value)
        return struct.pack("<I", kind) + raw
    items = [(ValueType.INT32, struct.pack("<i", v)) if isinstance(v, int) else _scalar(v) for v in value]
    head = struct.pack("<IIQ", ValueType.ARRAY, items[0][0], len(items))
    return head + b"".join(raw for _, raw in items)


def _scalar(value: str | bool | float) -> tuple[ValueType, bytes]:
    if isinstance(value, str):
        return ValueType.STRING, _string(value)
    if isinstance(value, bool):  # before int: bool is one
        return ValueType.BOOL, struct.pack("<?", value)
    if isinstance(value, int):
        return ValueType.UINT32, struct.pack("<I", value)
    return ValueType.FLOAT32, struct.pack("<f", value)
