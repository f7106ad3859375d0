"""Which configuration file, and the few of its values that commands need before (or without) the daemon.

Cheap: no pydantic, so that `llmsup status` answers in under 200 ms. The values are those `load` would give whenever
`load` succeeds; where it would not, the defaults, so that `status` and `stop` work under a broken file.
"""

import contextlib
import os
import re
import shlex
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supervisor import secure_path
from supervisor.errors import ConfigError
from supervisor.settings import env, paths, yamlio
from supervisor.settings.problems import Place, Problem, SettingsError

LOCAL_CONFIG = Path("config/llmsup.yaml")
SYSTEM_CONFIG = Path("/etc/llmsup/llmsup.yaml")
HOW_TO_START = (
    "write one (config/minimal.yaml in the source tree is one to copy) and name it: llmsup --config FILE"
)


SCANNED_BYTES = 1 << 20
_ESSENTIAL_LINE = re.compile(r"^(state_dir|listen):[ \t]+(.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Essentials:
    """What `start`, `stop`, `status` and `chat` need to find a daemon."""

    state_dir: Path
    listen: str
    tls_cert: Path | None = None  # None: plain HTTP


def find_config(option: str | None, environ: Mapping[str, str], cwd: Path) -> Path:
    """The configuration file: `option` (--config), else $LLMSUP_CONFIG, else the two usual places.

    A file asked for by name is not replaced by another. One that was found decides what runs as this user, so it must
    be theirs: whoever may write to the current folder could have put it there. Raises ConfigError naming every place
    that was looked at, or what is wrong with the one that was found.
    """
    asked = [("--config", option)] if option else [("$LLMSUP_CONFIG", environ.get("LLMSUP_CONFIG", ""))]
    for origin, text in asked:
        if text:
            path = cwd / Path(text).expanduser() if text.startswith("~") else cwd / text
            if os.path.lexists(path):
                return path
            raise ConfigError(
                f"no configuration file: {origin} names {path}, which does not exist", hint=HOW_TO_START
            )
    for path in (cwd / LOCAL_CONFIG, SYSTEM_CONFIG):
        if os.path.lexists(path):
            _refuse_weak(path)
            return path
    places = f"looked for --config, $LLMSUP_CONFIG, {cwd / LOCAL_CONFIG}, {SYSTEM_CONFIG}"
    raise ConfigError(f"no configuration file: {places}", hint=HOW_TO_START)


def is_named(option: str | None, environ: Mapping[str, str]) -> bool:
    """Whether somebody has asked for this very configuration, as opposed to one that lay there."""
    return bool(option or environ.get("LLMSUP_CONFIG"))


def _refuse_weak(path: Path) -> None:
    weak = secure_path.weakness(path)
    if weak is not None:
        raise ConfigError(
            f"{path} lies here but is not used, as others could have written it: {weak}",
            hint=f"{weak.remedy}; or, to use it as it is, name it: llmsup --config {shlex.quote(str(path))}",
        )


def read_bytes(path: Path) -> bytes:
    """The file's bytes, one more than yamlio.MAX_BYTES at most; raises SettingsError when it cannot be read."""
    try:
        # Non-blocking, because opening a FIFO for reading waits for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISDIR(mode):
                raise _unreadable(path, "is a directory, expected a YAML file")
            if not stat.S_ISREG(mode):
                raise _unreadable(path, "is not a regular file, expected a YAML file")
            return file.read(yamlio.MAX_BYTES + 1)
    except FileNotFoundError:
        raise _unreadable(path, "no such file", hint=HOW_TO_START) from None
    except IsADirectoryError:
        raise _unreadable(path, "is a directory, expected a YAML file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else None
        raise _unreadable(path, f"cannot be read: {reason or error}") from None


def _unreadable(path: Path, message: str, *, hint: str | None = None) -> SettingsError:
    return SettingsError(str(path), [Problem(Place(str(path)), "", message)], hint=hint)


def essentials(path: Path, environ: Mapping[str, str]) -> Essentials:
    """state_dir and listen as `load(path, environ)` would have them; never raises for what the file holds.

    A file that an edit has broken still says where its daemon is: its lines are looked through for these two.
    """
    document = yamlio.Document(str(path))
    text = b""
    try:
        text = read_bytes(path)
        document = yamlio.parse(text, str(path))
    except SettingsError:  # the daemon and `config check` report it; the environment still counts
        document.data = _legible_lines(text)
    env.apply(document, environ)
    data = document.data if isinstance(document.data, dict) else {}
    at = paths.where(path, environ)
    return Essentials(
        state_dir=_state_dir(data.get("state_dir"), at),
        listen=_listen(data.get("listen")),
        tls_cert=_tls_cert(data.get("tls"), at),
    )


def _legible_lines(text: bytes) -> dict[str, str]:
    """Top-level ``key: value`` lines of what is no YAML as a whole."""
    found: dict[str, str] = {}
    for line in _ESSENTIAL_LINE.finditer(text[:SCANNED_BYTES].decode("utf-8", "replace")):
        with contextlib.suppress(SettingsError):
            value = yamlio.parse(line[2].encode(), "").data
            if isinstance(value, str):
                found.setdefault(line[1], value)
    return found


def runtime_dir(path: Path, environ: Mapping[str, str]) -> Path:
    """The resolved state_dir."""
    return essentials(path, environ).state_dir


def _state_dir(value: Any, at: paths.Where) -> Path:
    if isinstance(value, str):
        try:
            return paths.resolve(value, at)
        except ValueError:
            pass
    return paths.default_state_dir(at.environ)


def _tls_cert(section: Any, at: paths.Where) -> Path | None:
    value = section.get("cert_file") if isinstance(section, dict) else None
    if isinstance(value, str):
        try:
            return paths.resolve(value, at)
        except ValueError:
            pass
    return None


def _listen(value: Any) -> str:
    if isinstance(value, str):
        try:
            paths.split_listen(value)
            return value
        except ValueError:
            pass
    return paths.DEFAULT_LISTEN
