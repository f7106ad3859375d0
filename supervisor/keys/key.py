"""What an API key is, and the document they are kept in. Pure.

    llmsup_1f0c9a3e_<43 characters: 256 random bits>
           the id   the secret

Kept is the SHA-256 of the whole text. A slow hash is for what people choose; 256 random bits cannot be
guessed from it. The id finds the record, and tells keys apart wherever they are spoken of.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

SCHEMA = 1
PREFIX = b"llmsup_"
SECRET_BYTES = 32
ID_BYTES = 4
_TOKEN = re.compile(rb"llmsup_([0-9a-f]{8})_[A-Za-z0-9_-]{43}\Z")
_ID = re.compile(r"[0-9a-f]{8}\Z")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_SPAN = re.compile(r"([1-9][0-9]{0,5})([smhdw])\Z")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Scope(StrEnum):
    """What a key is good for."""

    INFERENCE = "inference"  # everything ordinary
    ADMIN = "admin"  # the routes that change the server or reveal other clients' work
    METRICS = "metrics"  # /metrics, and nothing else


@dataclass(frozen=True, slots=True)
class Presented:
    """What a client has shown: a text that is, or pretends to be, a key of ours. Without the secret."""

    id: str  # "" where it is not even made like one
    digest: bytes


@dataclass(frozen=True, slots=True)
class Key:
    """``pool`` and ``models``: None where the key does not say."""

    id: str
    name: str
    digest: bytes = field(repr=False)
    created: datetime
    scopes: frozenset[Scope] = frozenset({Scope.INFERENCE})
    pool: str | None = None
    expires: datetime | None = None
    models: frozenset[str] | None = None

    def expired(self, now: datetime) -> bool:
        return self.expires is not None and now >= self.expires

    def told(self) -> dict[str, Any]:
        """Everything but the hash: for `list`."""
        return {
            "id": self.id,
            "name": self.name,
            "scopes": sorted(self.scopes),
            "pool": self.pool,
            "models": sorted(self.models) if self.models is not None else None,
            "created": self.created.isoformat(),
            "expires": self.expires.isoformat() if self.expires is not None else None,
        }


def token(key_id: str, secret: str) -> str:
    """The text that the client is given."""
    return f"{PREFIX.decode()}{key_id}_{secret}"


def digest(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()


def presented(text: bytes) -> Presented | None:
    """None: it is nobody's of ours (SDKs always send something)."""
    if not text.startswith(PREFIX):
        return None
    made = _TOKEN.match(text)
    return Presented(made[1].decode() if made is not None else "", digest(text))


def matches(key: Key, shown: Presented) -> bool:
    """Compared in constant time: how long a refusal takes tells nothing about the hash."""
    return hmac.compare_digest(key.digest, shown.digest)


def check_name(name: str) -> str:
    """Raises ValueError with what was expected."""
    if not _NAME.match(name):
        raise ValueError("expected a letter or digit, then up to 63 of A-Z a-z 0-9 . _ -")
    if _ID.match(name):
        raise ValueError("eight hexadecimal digits are a key's id; choose another name")
    return name


def span(text: str) -> timedelta:
    """``90d``, ``12h``; raises ValueError with what was expected."""
    found = _SPAN.match(text)
    if found is None:
        raise ValueError("expected a number and a unit, for example 90d (s, m, h, d or w)")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


# ---- the document


def dump(keys: Iterable[Key]) -> bytes:
    rows = [key.told() | {"sha256": key.digest.hex()} for key in keys]
    return json.dumps({"schema": SCHEMA, "keys": rows}, indent=1).encode("ascii") + b"\n"


def parse(data: bytes) -> tuple[Key, ...]:
    """In the order of their making.

    Raises:
        ValueError: it is not a document of this schema, as a whole.
    """
    try:
        document = json.loads(data)
        if document["schema"] != SCHEMA:
            raise ValueError("it is of another version of llmsup")
        keys = tuple(_key(row) for row in document["keys"])
    except (KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise ValueError(f"not a list of keys: {type(exc).__name__} {exc}") from None
    for of in ("id", "name"):
        if len({getattr(key, of) for key in keys}) < len(keys):
            raise ValueError(f"two keys have one {of}")
    return keys


def _key(row: dict[str, Any]) -> Key:
    key = Key(
        id=row["id"],
        name=check_name(row["name"]),
        digest=bytes.fromhex(row["sha256"]),
        created=datetime.fromisoformat(row["created"]),
        scopes=frozenset(Scope(scope) for scope in _texts(row["scopes"])),
        pool=row["pool"],
        expires=datetime.fromisoformat(row["expires"]) if row["expires"] is not None else None,
        models=frozenset(_texts(row["models"])) if row["models"] is not None else None,
    )
    times = [key.created, *([key.expires] if key.expires is not None else [])]
    if any(time.tzinfo is None for time in times):
        raise ValueError("a time without its zone")
    if not _ID.match(key.id) or len(key.digest) != hashlib.sha256().digest_size or not key.scopes:
        raise ValueError(f"key {key.name!r} is not complete")
    if key.pool is not None and not _NAME.match(key.pool):
        raise ValueError(f"key {key.name!r} has a pool without a proper name")
    return key


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TypeError("expected a list of texts")
    return value
