"""Secrets taken out of what is logged: by the name they go under, by their look, by knowing them.

Names and looks serve the daemon's own log. A child's output is searched for the values it was started with, and
for looks only where one of their marks occurs: it may come by the gigabyte.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

MASK = "***"
SHORTEST = 8  # what is shorter is no secret, and masking every "1" would make a log unreadable
LONGEST_BYTES = 4096  # no secret known to us is longer (the tokens of some clouds have 2 KiB): so much may hide across a cut

_NAME = r"(?:api[_-]?key|access[_-]?key|secret[_-]?key|authorization|password|passwd|secret|token)"
_SECRET_NAME = re.compile(rf"(?:^|.*[_-]){_NAME}", re.IGNORECASE)
# 1 words before a value that is secret, 2 values that say by their beginning what they are
_LOOKS = (
    r"(?P<word>\bBearer[ \t]+|--api-key[ =]+|\b(?:HF_TOKEN|HUGGING_FACE_HUB_TOKEN|LLAMA_API_KEY)[ \t]*[=:][ \t]*)"
    r"[^\s\"',;]+"
    r"|\b(?:sk-[A-Za-z0-9_-]{16,}|hf_[A-Za-z0-9]{16,}|lls_[A-Za-z0-9_-]{8,}"
    r"|llmsup_[0-9a-f]{8}_[A-Za-z0-9_-]{8,})"
)
_LOOKS_TEXT = re.compile(_LOOKS, re.IGNORECASE)
_LOOKS_BYTES = re.compile(_LOOKS.encode(), re.IGNORECASE)
# One of them is in whatever the expression finds in a child's output. Looking for a fixed word costs next to nothing.
_MARKS = (b"earer ", b"--api-key", b"HF_TOKEN", b"HUB_TOKEN", b"API_KEY", b"sk-", b"hf_", b"lls_", b"llmsup_")


def is_secret_name(name: str) -> bool:
    """HF_TOKEN, api_key, x-api-key, Authorization; not max_tokens."""
    return _SECRET_NAME.fullmatch(name) is not None


def text(line: str) -> str:
    """With everything that looks like a secret masked."""
    return _LOOKS_TEXT.sub(lambda found: f"{found['word'] or ''}{MASK}", line)


def values(entry: Mapping[str, Any]) -> dict[str, Any]:
    """With the values of secret names masked, however deep."""
    return {
        name: MASK if isinstance(value, str | bytes) and is_secret_name(str(name)) else _inside(value)
        for name, value in entry.items()
    }


def _inside(value: Any) -> Any:
    if isinstance(value, Mapping):
        return values(value)
    if isinstance(value, list):
        return [_inside(item) for item in value]
    return value  # exc_info is a tuple, and is not looked into here


def secrets_in(environment: Mapping[str, str], named: Collection[str] = ()) -> tuple[bytes, ...]:
    """The secret values of an environment, longest first: one may be the beginning of another.

    ``named``: variables known to hold one, whatever they are called.
    """
    found = {
        value.encode(errors="surrogateescape")
        for name, value in environment.items()
        if (name in named or is_secret_name(name)) and len(value) >= SHORTEST
    }
    return tuple(sorted(found, key=len, reverse=True))


def output(data: bytes, secrets: Iterable[bytes]) -> bytes:
    """A piece of a child's output without the secrets it knows, or what looks like one."""
    for secret in secrets:
        if secret in data:
            data = data.replace(secret, MASK.encode())
    if any(mark in data for mark in _MARKS):
        data = _LOOKS_BYTES.sub(lambda found: (found["word"] or b"") + MASK.encode(), data)
    return data
