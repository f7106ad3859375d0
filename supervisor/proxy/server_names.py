"""Under which names this server may be asked (nginx: `server_name`, Django: `ALLOWED_HOSTS`). Pure.

A page whose DNS name means this machine today ("DNS rebinding") is at home here as far as its browser knows: only the name
in Host tells it from a page of ours. An address is never such a name: who wrote it into the address bar meant this machine.
"""

import ipaddress
from collections.abc import Iterable

ANY = "*"
LOCAL = "localhost"  # browsers take it, and what ends in it, to this machine without asking anybody (RFC 6761, 6.3)
# Names that clients may choose, so both are bounded; longer ones than DNS has (RFC 1035, 2.3.4) are read each time.
MEMO_ENTRIES = 256
MEMO_BYTES = 255 + len(":65535")


class ServerNames:
    """``configured``: exact names, ``*.example.com`` for all below one, `ANY` for every name there is."""

    def __init__(self, configured: Iterable[str] = ()) -> None:
        names = [name.lower() for name in configured]
        self._any = ANY in names
        self._exact = frozenset(name for name in names if not name.startswith("*"))
        self._below = (f".{LOCAL}", *(name[1:] for name in names if name.startswith("*.")))
        self.seen: set[bytes] = (
            set()
        )  # Host fields that are known to be good: what a usual request is asked for

    def __repr__(self) -> str:
        return f"<ServerNames {', '.join(sorted(self._exact)) or 'of loopback only'}>"

    def know(self, host: bytes | None) -> bool:
        """Whether that field's name is one of ours, or an address; its port is not looked at, as it may be forwarded."""
        if host is None:
            return False
        if host in self.seen:
            return True
        known = self._is_own(name_of(host))
        if known and len(host) <= MEMO_BYTES and len(self.seen) < MEMO_ENTRIES:
            self.seen.add(host)
        return known

    def _is_own(self, name: str) -> bool:
        if self._any or name == LOCAL or name in self._exact or name.endswith(self._below):
            return bool(name)
        return is_address(name)


def name_of(host: bytes) -> str:
    """The name in a Host field: no port, brackets, letter case or final dot; empty: there is none."""
    text = host.decode("latin-1").lower()
    if text.startswith("["):
        inner, closed, port = text[1:].partition("]")
        return inner if closed and (not port or port.startswith(":")) else ""
    name, _, port = text.partition(":")
    return name.removesuffix(".") if port.isascii() and (not port or port.isdigit()) else ""


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_public(name: str) -> bool:
    """Whether it may be a name of DNS that anybody can have; those without a dot nobody can register."""
    return "." in name
