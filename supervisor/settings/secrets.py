"""Values that are not written in the file itself: `${VAR}` from the environment, `file:PATH` from another file.

Only the keys of `SECRET_KEYS` know them. Everywhere else a dollar sign is a dollar sign: `args` go to llama-server
verbatim, and any key can be set by LLMSUP__SECTION__KEY. What was read is remembered as it was written, so that
no message and no listing ever needs the value.

    HF_TOKEN: ${HF_TOKEN}              the variable; it must be set
    HF_TOKEN: file:/run/secrets/hf     the whole file, less one newline at its end
    store: rediss://:${PASSWORD}@cache:6379/0
    PRICE: 5$$                         5$; a single dollar sign before anything but a brace stays one too
"""

import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from supervisor.settings import paths
from supervisor.settings.problems import Place, Problem, dotted, printable
from supervisor.settings.yamlio import Document
from supervisor.types import KIB

SECRET_KEYS: tuple[tuple[str, ...], ...] = (("models", "*", "env", "*"), ("limits", "store"))
MAX_FILE_BYTES = 64 * KIB  # a key or a certificate has a few; more is another file
OWNER_ONLY = 0o600

ELSEWHERE = (
    "${...} is taken as it stands: only models.NAME.env and limits.store know it; other keys can be set by "
    "LLMSUP__SECTION__KEY"
)
_FILE = "file:"
_VARIABLE = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)\}|(?P<wrong>\{[^}]*\}?))")


def resolve(document: Document, environ: Mapping[str, str], at: paths.Where) -> None:
    """Put the values in place, in `document`; what cannot be had is added to its problems."""
    for path in _elsewhere(document.data, ()):
        place = document.values.get(path, Place(document.file))
        document.notices.append(Problem(place, dotted(path), ELSEWHERE))
    for path, section in _places(document.data):
        key = path[-1]
        text = section[key]
        place = document.values.get(path, Place(document.file))
        if place.line is None and path[0] == "models":
            continue  # LLMSUP__MODELS__X__ENV__Y: taken as it is
        try:
            value = _value(text, environ, at)
        except ValueError as error:
            document.problems.append(Problem(place, dotted(path), str(error)))
            del section[key]  # one mistake, one line
            continue
        if value == text:
            continue
        document.written[path] = text
        section[key] = value
        if text.startswith(_FILE) and (notice := _open_to_others(_file_of(text, at))):
            document.notices.append(Problem(place, dotted(path), notice))


def _elsewhere(data: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The texts that mention a `${VAR}` nobody will replace. Not in `args`, where that may be a template's."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _elsewhere(value, (*path, key))
    elif isinstance(data, str) and _mentions_variable(data) and not _is_secret(path):
        yield path


def _mentions_variable(text: str) -> bool:
    return any(found["name"] for found in _VARIABLE.finditer(text))


def _is_secret(path: tuple[str, ...]) -> bool:
    return any(
        len(path) == len(pattern) and all(want in {"*", key} for want, key in zip(pattern, path, strict=True))
        for pattern in SECRET_KEYS
    )


def _places(data: Any) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Each text that one of SECRET_KEYS holds, with the section it is in."""
    for pattern in SECRET_KEYS:
        yield from _matches(data, pattern, ())


def _matches(
    section: Any, pattern: tuple[str, ...], path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    if not isinstance(section, dict):
        return
    key, rest = pattern[0], pattern[1:]
    for name in list(section) if key == "*" else [key]:
        if name not in section:
            continue
        if rest:
            yield from _matches(section[name], rest, (*path, name))
        elif isinstance(section[name], str):
            yield (*path, name), section


def _value(text: str, environ: Mapping[str, str], at: paths.Where) -> str:
    """Raises ValueError with what is wrong; never with the value."""
    if text.startswith(_FILE) and not text.startswith("file://"):  # that is an address, not ours
        return _from_file(_file_of(text, at))

    def one(found: re.Match[str]) -> str:
        if found["dollar"]:
            return "$"
        if (name := found["name"]) is None:
            raise ValueError(
                f"expected ${{NAME}}, found '{printable('$' + found['wrong'])}' (a dollar sign itself is written $$)"
            )
        if name not in environ:
            raise ValueError(f"the variable {name} is not set in llmsup's environment")
        return environ[name]

    return _VARIABLE.sub(one, text)


def _file_of(text: str, at: paths.Where) -> Path:
    return paths.resolve(text.removeprefix(_FILE).strip(), at)


def _from_file(path: Path) -> str:
    try:
        # Non-blocking, because opening a FIFO for reading waits for a writer.
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError(f"{path} is not a regular file")
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if len(raw) > MAX_FILE_BYTES:
        raise ValueError(f"{path} is larger than {MAX_FILE_BYTES // KIB} KiB: that is no secret")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text") from None
    return text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text


def _open_to_others(path: Path) -> str:
    """In words; "" for a file that is its owner's only."""
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
    except OSError:
        return ""  # it has just been read; whatever happened to it since
    if mode & ~OWNER_ONLY & 0o077:
        return f"others than its owner may use {path} (mode {mode:o}): chmod 600 {path}"
    return ""
