"""Rules for paths and addresses in the configuration; standard library only, so that `llmsup status` stays fast.

Both readers, the full one (`load`) and the cheap one (`locate`), use these, so they cannot disagree.
"""

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DEFAULT_LISTEN = "127.0.0.1:8005"
ROOT_STATE_DIR = Path("/var/lib/llmsup")
_HOSTNAME = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*"
)
_DIGITS_AND_DOTS = re.compile(r"[0-9.]+")


@dataclass(frozen=True, slots=True)
class Where:
    """What a relative path, `~` and a missing state_dir are resolved against."""

    base: Path  # absolute: the configuration file's folder, or its parent when that is named `config`
    cwd: Path
    environ: Mapping[str, str]


def where(config: Path, environ: Mapping[str, str]) -> Where:
    """The surroundings of the configuration file `config`; symbolic links are kept as the operator named them."""
    folder = Path(os.path.abspath(config)).parent
    return Where(base=folder.parent if folder.name == "config" else folder, cwd=Path.cwd(), environ=environ)


def resolve(text: str, at: Where, *, or_in_cwd: bool = False) -> Path:
    """`text` as an absolute path. `or_in_cwd`: the current directory's, when only that one exists.

    Raises ValueError when no path can be made of it.
    """
    if not text:
        raise ValueError("must not be empty")
    if "\0" in text:
        raise ValueError("must not contain a NUL character")
    text = _expand_home(text, at.environ)
    path = Path(os.path.abspath(at.base / text))
    if or_in_cwd and not os.path.lexists(path):
        here = Path(os.path.abspath(at.cwd / text))
        if os.path.lexists(here):
            return here
    return path


def _expand_home(text: str, environ: Mapping[str, str]) -> str:
    """`~` by the given environment (tests, systemd), `~user` by the password file."""
    home = environ.get("HOME")
    if home and (text == "~" or text.startswith("~/")):
        return home + text[1:]
    return os.path.expanduser(text)


def default_state_dir(environ: Mapping[str, str]) -> Path:
    """`$XDG_STATE_HOME/llmsup`, else `/var/lib/llmsup` for root, else `~/.local/state/llmsup`.

    The XDG Base Directory Specification 0.8 has a relative $XDG_STATE_HOME ignored.
    """
    xdg = environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(xdg):
        return Path(os.path.abspath(xdg)) / "llmsup"
    if os.geteuid() == 0:
        return ROOT_STATE_DIR
    return Path(os.path.abspath(_expand_home("~/.local/state/llmsup", environ)))


def split_listen(text: str) -> tuple[str, int]:
    """HOST and port of `HOST:PORT` or `[IPv6]:PORT`; raises ValueError with what was expected."""
    host, colon, port_text = text.rpartition(":")
    if not colon or not (port_text.isascii() and port_text.isdigit() and len(port_text) <= 5):
        raise ValueError("expected HOST:PORT, for example 127.0.0.1:8005")
    port = int(port_text)
    if port > 65535:
        raise ValueError("the port must be between 0 and 65535 (0: any free one)")
    if host.startswith("[") and host.endswith("]"):
        return _ipv6(host[1:-1]), port
    if ":" in host:
        raise ValueError("an IPv6 address needs brackets, for example [::1]:8005")
    if host in {"", "*"}:
        raise ValueError(f"the host is missing; for all interfaces write 0.0.0.0:{port}")
    if _DIGITS_AND_DOTS.fullmatch(host):
        _ipv4(host)
    elif not _HOSTNAME.fullmatch(host):
        raise ValueError("expected an IP address or a host name before the port")
    return host, port


def _ipv6(text: str) -> str:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        raise ValueError("expected an IPv6 address between the brackets") from None
    return text


def _ipv4(text: str) -> None:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        raise ValueError("expected an IPv4 address of four numbers from 0 to 255") from None
