"""Heads of requests that have been read before. Pure.

A client's requests differ in their bodies, and their heads in one number. What llhttp and `headers` have made of a head is
remembered under its bytes without that number, and a request that came whole in one read and has a known head is
not read again: 5 microseconds of 16. Everything else takes the usual way; so does, for ever, what was refused
there, as only what was taken is learnt.
"""

import re
from dataclasses import dataclass

from supervisor.proxy.headers import RequestFields

MAX_HEADS = 512
MAX_HEAD_BYTES = 2048
MAX_BODY_BYTES = 32 * 1024  # larger ones are counted, and their reading costs more than their head
# At the beginning of a line and in one spelling: nothing else in a head that was taken can read so.
_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ([0-9]{1,6})(?=\r\n)")
_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class KnownHead:
    method: bytes
    target: bytes
    fields: RequestFields  # its `length` is that of the first one


class Heads:
    def __init__(self) -> None:
        self._known: dict[bytes, KnownHead] = {}

    def __repr__(self) -> str:
        return f"<Heads {len(self._known)}>"

    def recall(self, data: bytes) -> tuple[KnownHead, bytes] | None:
        """The head and the body, if ``data`` is exactly one request with a known head."""
        taken = _apart(data)
        if taken is None:
            return None
        key, body = taken
        known = self._known.get(key)
        return None if known is None else (known, body)

    def learn(self, data: bytes, head: KnownHead, body: bytes) -> None:
        """``data`` was read as this one request, whose connection stays open."""
        fields = head.fields
        # A name or a trace of its own: no other request will have this head.
        if fields.chunked or fields.expect_continue or fields.request_id is not None or fields.trace:
            return
        taken = _apart(data)
        if taken is None or taken[1] != body:
            return
        has_length = len(_LENGTH.findall(data, 0, len(data) - len(body))) == 1
        if has_length == (fields.length is not None):
            self._known[taken[0]] = head
            if len(self._known) > MAX_HEADS:  # else whoever came first would keep all others out for ever
                del self._known[next(iter(self._known))]


def _apart(data: bytes) -> tuple[bytes, bytes] | None:
    """The head without its length, and the body; None: this is not one whole request, or not a small one."""
    end = data.find(_END, 0, MAX_HEAD_BYTES)
    if end < 0:
        return None
    body = data[end + 4 :]
    found = _LENGTH.search(data, 0, end + 2)
    if found is None:
        return None if body else (data[:end], body)
    start, stop = found.span(1)
    if int(data[start:stop]) != len(body) or len(body) > MAX_BODY_BYTES:
        return None
    return data[:start] + data[stop:end], body
