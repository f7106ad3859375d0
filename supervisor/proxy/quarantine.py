"""Requests that have killed llama-server twice, known by a fingerprint of what they ask. Pure.

Some bodies are poison in this version of it (LLAMA_SERVER 0.8): a deeply nested grammar is a segmentation
fault, and everybody's answer dies with it. Who was not alone when it killed is known for its own client only: an
innocent question must not be refused to everybody because of what was beside it. Bounded, oldest out first; a
restart of llmsup forgets, and so does an operator's restart of a model.
"""

import hashlib
from collections import OrderedDict

MAX_ENTRIES = 1000
KEPT_S = 3600.0  # then one more try is due: the binary may be another, or the memory be enough


def fingerprint(path: bytes, body: bytes) -> bytes:
    """The same for the same question, whoever asks; 16 bytes of BLAKE2b."""
    return hashlib.blake2b(body, digest_size=16, key=path[:64]).digest()


class Quarantine:
    """Times are monotonic seconds, given by the caller. ``until``: by fingerprint; to be read only."""

    def __init__(self) -> None:
        self.until: OrderedDict[bytes, float] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Quarantine {len(self.until)}>"

    def __len__(self) -> int:
        return len(self.until)

    def add(self, known: bytes, now: float, client: str = "") -> None:
        """``known``: its fingerprint; ``client``: whose it is, "" for everybody's."""
        self.until[_of_client(known, client)] = now + KEPT_S
        if len(self.until) > MAX_ENTRIES:
            self.until.popitem(last=False)

    def clear(self) -> None:
        self.until.clear()

    def holds(self, path: bytes, body: bytes, now: float, client: str = "") -> bool:
        """Costs nothing while there is nothing in it."""
        if not self.until:
            return False
        known = fingerprint(path, body)
        return self._has(known, now) or (client != "" and self._has(_of_client(known, client), now))

    def _has(self, known: bytes, now: float) -> bool:
        until = self.until.get(known)
        if until is None:
            return False
        if until <= now:
            del self.until[known]
            return False
        return True


def _of_client(known: bytes, client: str) -> bytes:
    return hashlib.blake2b(known, digest_size=16, key=client.encode()[:64]).digest() if client else known
