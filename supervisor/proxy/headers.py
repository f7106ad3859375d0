"""Header fields of both directions: which are ours, which go on, what frames the body. Pure.

Both readers are memoised, since a client sends the same fields again and again and llama-server's
answers differ in their length only: a hit costs 0.6 microseconds instead of 6. Fields too large to be
worth remembering bypass the memory.

Framing follows RFC 9112 section 6, strictly: what two readers could understand differently is refused.
"""

import re
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

from supervisor.errors import BadRequest, BodyTooLarge, HeadersTooLarge, UpstreamFailed
from supervisor.keys.key import Presented, presented
from supervisor.proxy.forwarded import nearest, shortened
from supervisor.types import KIB

Fields = tuple[tuple[bytes, bytes], ...]

MAX_HEAD_BYTES = 64 * KIB
MAX_FIELDS = 100  # llama-server's own limit (cpp-httplib); more would be its 400 without a body
MAX_LINE_BYTES = 8 * KIB - 256  # likewise, less the name and what we add
MEMO_BYTES = 4 * KIB
MEMO_ENTRIES = 512
MEMO_FIELDS = 40  # more than any client's; each costs 150 bytes to remember beside its own
MEMO_ANSWER_BYTES, MEMO_ANSWERS = 1 * KIB, 1024
ID_MAX_BYTES = 128

# Never passed on, and of no interest to us either. X-Conversation-Id would detach the generation
# from its connection, so that a client's leaving would not end it (LLAMA_SERVER 0.14). Which pages may
# ask across origins is decided here (`cors`), so the child is not told that one does.
_DROPPED = frozenset(
    b"keep-alive proxy-connection proxy-authorization proxy-authenticate te trailer http2-settings host "
    b"authorization x-api-key content-length transfer-encoding expect connection upgrade "
    b"x-conversation-id x-request-id x-user-id x-session-id x-forwarded-for x-forwarded-host "
    b"x-forwarded-proto forwarded x-real-ip cookie traceparent origin "
    b"access-control-request-method access-control-request-headers x-llmsup-priority x-llmsup-csrf".split()
)
_LISTS = frozenset(
    {b"x-forwarded-for", b"forwarded", b"traceparent", b"origin", b"access-control-request-headers"}
)  # of two traceparents or origins, neither is valid
# What only somebody in between writes.
_PROXIES = frozenset(b"x-forwarded-for x-forwarded-host x-forwarded-proto forwarded x-real-ip".split())
_CORS = b"access-control-"
_FIELD_EXTRA_BYTES = 4  # colon, space, line end
_ID = re.compile(rb"[\x21-\x7e]{1,128}\Z")
_DIGITS = re.compile(rb"[0-9]{1,18}\Z")
# W3C Trace Context, level 1, 3.2: version ff and zero ids are invalid; a later version may have more behind it.
_TRACEPARENT = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?\Z"
)
_SAMPLED = 1
# A name or address and a port (RFC 9110, 7.2; RFC 3986, 3.2.2), of any length that DNS allows; empty where the target names none.
_HOST = re.compile(
    rb"(?:\[[0-9A-Za-z:.~_-]{2,64}\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2}){0,255})(?::[0-9]{0,5})?\Z"
)


@dataclass(frozen=True, slots=True)
class RequestFields:
    """A request's header fields, understood. ``passed``: the lines that go on to llama-server.

    ``trace`` is the client's trace context in the form of version 00; None: it has none that is valid.
    """

    passed: bytes
    length: int | None
    chunked: bool
    expect_continue: bool
    hosts: int
    request_id: bytes | None
    user_id: bytes | None
    session_id: bytes | None
    forwarded_for: bytes | None
    forwarded: bytes | None
    key: Presented | None  # what looks like a key of ours; foreign ones are nobody's
    trace: bytes | None
    origin: bytes | None
    asks_method: bytes | None  # of a preflight (`cors`)
    asks_headers: bytes | None
    batch: bool = False  # it can wait for those that cannot
    host: bytes | None = None
    cookie: bytes | None = None
    site: bytes | None = None  # Sec-Fetch-Site: where a browser says that the asking page is from
    proxied: bool = False  # somebody has passed it on
    csrf: bytes | None = None  # what only a page of ours knows (`sessions`)


def read_request(fields: Fields, *, small: bool) -> RequestFields:
    """Understand a request's fields; ``small``: they are known to fit in MEMO_BYTES.

    Raises:
        BadRequest: ambiguous or unknown framing.
        HeadersTooLarge: too many fields, or one too long for llama-server.
    """
    if len(fields) > MAX_FIELDS:
        raise HeadersTooLarge(f"more than {MAX_FIELDS} header fields")
    if small and len(fields) <= MEMO_FIELDS:
        return _remembered_request(fields)
    if sum(len(name) + len(value) + _FIELD_EXTRA_BYTES for name, value in fields) > MAX_HEAD_BYTES:
        raise HeadersTooLarge(f"more than {MAX_HEAD_BYTES} bytes of header")  # came in one read
    return _read_request(fields)


def _read_request(fields: Fields) -> RequestFields:
    length: int | None = None
    chunked = expect = False
    hosts = 0
    host: bytes | None = None
    nominated: set[bytes] = set()
    ours: dict[bytes, bytes] = {}
    passed: list[tuple[bytes, bytes, bytes]] = []
    for name, padded in fields:
        lower, value = (
            name.lower(),
            padded.strip(b" \t"),
        )  # not part of a value (RFC 9110, 5.5); llhttp leaves it
        if len(value) > MAX_LINE_BYTES:
            raise HeadersTooLarge(
                f"header field {name.decode('latin-1')!r} is longer than {MAX_LINE_BYTES} bytes"
            )
        if lower not in _DROPPED:
            passed.append((lower, name, value))
        elif lower == b"content-length":
            if length is not None or not _DIGITS.match(value):
                raise BadRequest("Content-Length must be one decimal number, given once")
            length = int(value)
        elif lower == b"transfer-encoding":
            if chunked or value.lower() != b"chunked":
                raise BadRequest("the only Transfer-Encoding understood is chunked, given once")
            chunked = True
        elif lower == b"expect":
            expect = value.lower() == b"100-continue"
        elif lower == b"host":
            hosts += 1
            host = value
            if not _HOST.match(value):
                raise BadRequest("the Host header must have the form host[:port]")
        elif lower == b"connection":
            nominated.update(part.strip() for part in value.lower().split(b","))
        elif lower in ours and lower in _LISTS:  # several lines are one list (RFC 9110, 5.3)
            ours[lower] += b"," + value
        else:
            ours[lower] = value
    if chunked and length is not None:
        raise BadRequest("Content-Length together with Transfer-Encoding")
    request_id = ours.get(b"x-request-id")
    trace = _trace(ours.get(b"traceparent"))
    if trace is None:
        nominated.add(b"tracestate")  # means nothing without its traceparent
    return RequestFields(
        passed=b"".join(b"%b: %b\r\n" % (n, v) for lower, n, v in passed if lower not in nominated),
        length=length,
        chunked=chunked,
        expect_continue=expect,
        hosts=hosts,
        request_id=request_id if request_id is not None and _ID.match(request_id) else None,
        user_id=shortened(ours.get(b"x-user-id")),
        session_id=shortened(ours.get(b"x-session-id")),
        forwarded_for=nearest(ours.get(b"x-forwarded-for")),
        forwarded=nearest(ours.get(b"forwarded")),
        key=_key(ours.get(b"authorization"), ours.get(b"x-api-key")),
        trace=trace,
        origin=ours.get(b"origin"),
        asks_method=ours.get(b"access-control-request-method"),
        asks_headers=ours.get(b"access-control-request-headers"),
        batch=ours.get(b"x-llmsup-priority", b"").lower() == b"batch",
        host=host,
        cookie=ours.get(b"cookie"),
        site=_first(passed, b"sec-fetch-site"),
        csrf=ours.get(b"x-llmsup-csrf"),
        proxied=not _PROXIES.isdisjoint(ours) or _first(passed, b"via") is not None,
    )


def _first(passed: list[tuple[bytes, bytes, bytes]], wanted: bytes) -> bytes | None:
    return next((value for lower, _, value in passed if lower == wanted), None)


def _key(authorization: bytes | None, api_key: bytes | None) -> Presented | None:
    """The first of the two that is ours: ``Authorization: Bearer`` (OpenAI's way), ``x-api-key`` (Anthropic's)."""
    scheme, _, token = (authorization or b"").partition(b" ")
    found = presented(token.strip()) if scheme.lower() == b"bearer" else None
    return found or (presented(api_key) if api_key else None)


def _trace(value: bytes | None) -> bytes | None:
    """A valid ``traceparent`` as version 00 writes it (Trace Context, 4.3); two lines, joined, are none."""
    match = _TRACEPARENT.match(value) if value is not None else None
    if match is None or (match[1] == b"00" and match[5] is not None):
        return None
    if match[1] == b"00":
        return match[0]
    return b"00-%b-%b-%02x" % (match[2], match[3], int(match[4], 16) & _SAMPLED)


_remembered_request = lru_cache(MEMO_ENTRIES)(_read_request)


def check(fields: RequestFields, version: str, target: bytes, max_body_bytes: int) -> None:
    """What depends on more than the fields themselves.

    Raises:
        BadRequest: the version is not ours, or the fields do not go with it.
        HeadersTooLarge: the target is too long for llama-server.
        BodyTooLarge: more is announced than is taken.
    """
    if version == "1.1":
        if fields.hosts != 1:
            raise BadRequest("HTTP/1.1 needs one Host header")
    elif version != "1.0":
        raise BadRequest(f"HTTP/{version} is not spoken here")
    elif fields.chunked:
        raise BadRequest("HTTP/1.0 knows no Transfer-Encoding")
    elif fields.hosts > 1:
        raise BadRequest("more than one Host header")
    if len(target) > MAX_LINE_BYTES:
        raise HeadersTooLarge(f"the request target is longer than {MAX_LINE_BYTES} bytes")
    if fields.length is not None and fields.length > max_body_bytes:
        raise BodyTooLarge(f"the body has {fields.length} bytes; at most {max_body_bytes} are taken")


class Framing(IntEnum):
    """How the end of an answer's body is found."""

    LENGTH = 1
    CHUNKED = 2
    UNTIL_CLOSE = 3


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """An upstream answer's head, understood and cleaned: ``lines`` begins with the status line and
    lacks hop-by-hop fields and the final empty line; ``unframed`` lacks its framing fields too.
    """

    status: int
    lines: bytes
    unframed: bytes
    framing: Framing
    length: int
    keep: bool
    event_stream: bool


# The reason and values have no control characters (RFC 9112, 4; RFC 9110, 5.5), names are tokens (5.6.2): what a
# child that somebody has got hold of writes must not reach a terminal, or be two lines to somebody else.
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*)?\Z")
_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t\x20-\x7e\x80-\xff]*)\Z")
# llama-server allows every page of every origin: those lines stop here too, `cors` writes ours.
_RESPONSE_DROPPED = frozenset(
    b"connection keep-alive proxy-connection te trailer upgrade proxy-authenticate "
    # ours to say
    b"x-request-id retry-after retry-after-ms traceparent www-authenticate "
    # what a browser keeps for the whole host, its other ports and pages of ours included
    b"set-cookie set-cookie2 strict-transport-security public-key-pins alt-svc clear-site-data "
    b"service-worker-allowed nel report-to reporting-endpoints".split()
)
_OURS = (_CORS, b"x-llmsup-", b"ratelimit", b"x-ratelimit-", b"anthropic-ratelimit-")


def read_response(head: bytes) -> ResponseHead:
    """Understand an answer's head (without the empty line).

    Raises:
        UpstreamFailed: it is not HTTP/1.x, or its framing is contradictory.
    """
    return _remembered_response(head) if len(head) <= MEMO_ANSWER_BYTES else _read_response(head)


def _read_response(head: bytes) -> ResponseHead:
    first, *rest = head.split(b"\r\n")
    match = _STATUS.match(first)
    if match is None:
        raise UpstreamFailed("llama-server's answer is not HTTP/1.x")
    keep = match[1] == b"1"
    lengths: set[bytes] = set()
    codings: list[bytes] = []
    kind = b""
    lines, framing_lines = [first], []
    for line in rest:
        parts = _LINE.match(line)
        if parts is None:
            raise UpstreamFailed("llama-server's answer has a broken header line")
        lower, value = parts[1].lower(), parts[2].strip(b" \t")
        if lower == b"connection":
            keep = keep and b"close" not in value.lower()
        elif lower == b"content-length":
            lengths.add(value)
        elif lower == b"transfer-encoding":
            codings.append(value.lower())
        elif lower not in _RESPONSE_DROPPED and not lower.startswith(_OURS):
            kind = value if lower == b"content-type" else kind
            lines.append(line)
    framing, length = _framing(lengths, codings)
    if framing is Framing.CHUNKED:
        framing_lines = [b"Transfer-Encoding: chunked"]
    elif framing is Framing.LENGTH:
        framing_lines = [b"Content-Length: %d" % length]
    return ResponseHead(
        status=int(match[2]),
        lines=b"\r\n".join(lines + framing_lines),
        unframed=b"\r\n".join(lines),
        framing=framing,
        length=length,
        keep=keep and framing is not Framing.UNTIL_CLOSE,
        event_stream=kind.lower().startswith(b"text/event-stream"),
    )


def _framing(lengths: set[bytes], codings: list[bytes]) -> tuple[Framing, int]:
    if codings:
        if codings != [b"chunked"] or lengths:
            raise UpstreamFailed("llama-server's answer has contradictory framing")
        return Framing.CHUNKED, 0
    if not lengths:
        return Framing.UNTIL_CLOSE, 0
    text = lengths.pop()
    if lengths or not _DIGITS.match(text):
        raise UpstreamFailed("llama-server's answer has contradictory lengths")
    return Framing.LENGTH, int(text)


_remembered_response = lru_cache(MEMO_ANSWERS)(_read_response)
