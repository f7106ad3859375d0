"""What a GGUF file, or all the parts of a split one, says of its model, without trusting a number in it.

Invariants: only headers are read, never the weights; every failure is a `GgufError`.
"""

import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from supervisor.proc.gguf_header import TENSOR_TYPES, GgufError, Header, Kind, PerLayer, Skipped
from supervisor.proc.gguf_parse import WINDOW_BYTES, parse

__all__ = ["TENSOR_TYPES", "GgufError", "Header", "Kind", "PerLayer", "Skipped", "parse", "read_header"]

MAX_PARTS = 512
_PART_NAME = re.compile(r"(?s)(.*)-(\d{5})-of-(\d{5})\.gguf")


def read_header(path: Path, *, allow_truncated: bool = False) -> Header:
    """The header of a model; of a split one (name-00001-of-00003.gguf), of all its parts.

    With ``allow_truncated`` a file whose weights are incomplete (a download that goes on) is no error;
    ``missing_bytes`` then tells. May block on a slow file system: call it in a thread.

    Raises:
        GgufError: with a kind and the reason; nothing else is ever raised.
    """
    header = _read_file(path)
    if header.split_count > 1:
        header = _whole(path, header)
    if header.truncation and not allow_truncated:
        raise GgufError("truncated", header.truncation)
    return header


def _whole(path: Path, first: Header) -> Header:
    """All parts as one, with the checks of llama_model_loader. Raises GgufError."""
    count = first.split_count
    named = _PART_NAME.fullmatch(path.name)
    if count > MAX_PARTS or not named or int(named[3]) != count:
        raise GgufError("corrupt", f"{path} is one of {count} parts, but not named -00001-of-{count:05}.gguf")
    names = [path.with_name(f"{named[1]}-{number:05}-of-{named[3]}.gguf") for number in range(1, count + 1)]
    if int(named[2]) != 1:
        raise GgufError("corrupt", f"{path} is not the first of {count} parts: llama-server wants {names[0]}")
    if absent := [name.name for name in names if not name.exists()]:
        raise GgufError("missing", f"{path} is one of {count} parts; not there: {', '.join(absent)}")
    parts = [first, *map(_read_file, names[1:])]
    for number, part in enumerate(parts):
        if (part.count("split.no", prefixed=False), part.split_count) != (number, count):
            raise GgufError(
                "corrupt", f"{names[number]} does not say that it is part {number + 1} of {count}"
            )
    whole = _joined(parts)
    declared = first.count("split.tensors.count", prefixed=False)
    if declared not in {None, whole.tensor_count}:
        raise GgufError(
            "corrupt", f"{path}: its parts hold {whole.tensor_count} tensors instead of {declared}"
        )
    return whole


def _joined(parts: Sequence[Header]) -> Header:
    def total(field: Callable[[Header], int]) -> int:
        return sum(map(field, parts))

    types = {name for part in parts for name in part.type_bytes}
    return replace(
        parts[0],
        file_bytes=total(lambda part: part.file_bytes),
        header_bytes=total(lambda part: part.header_bytes),
        tensor_count=total(lambda part: part.tensor_count),
        tensor_bytes=total(lambda part: part.tensor_bytes),
        tensors_end=total(lambda part: part.tensors_end),
        missing_bytes=total(lambda part: part.missing_bytes),
        truncation=next(filter(None, (part.truncation for part in parts)), ""),
        type_bytes={name: sum(part.type_bytes.get(name, 0) for part in parts) for name in types},
        parts=len(parts),
    )


def _read_file(path: Path) -> Header:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise GgufError("directory", f"{path} is a directory, not a GGUF file")
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its writer
            raise GgufError("unreadable", f"{path} is not a regular file")
        with path.open("rb", buffering=WINDOW_BYTES) as file:
            return parse(file, status.st_size, str(path))
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise GgufError("missing", f"{path} does not exist") from exc
    except OSError as exc:
        raise GgufError("unreadable", f"{path} cannot be read: {exc.strerror or exc}") from exc
    except ValueError as exc:  # a zero byte or a lone surrogate in the path
        raise GgufError("missing", f"{str(path)!r} is no path: {exc}") from exc
