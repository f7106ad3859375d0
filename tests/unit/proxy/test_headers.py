"""`proxy.headers`: what frames a message, what goes on, what does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.errors import BadRequest, BodyTooLarge, HeadersTooLarge, UpstreamFailed
from supervisor.keys.key import presented
from supervisor.proxy import headers
from supervisor.proxy.headers import Framing, check, read_request, read_response

HOST = (b"Host", b"h")


def read(*fields: tuple[bytes, bytes], small: bool = True):
    return read_request(fields, small=small)


# ---- requests


def test_ordinary_fields_are_passed_as_they_were_written():
    fields = read(HOST, (b"X-One", b"1"), (b"content-TYPE", b"a/b"), (b"X-One", b"2"))
    assert fields.passed == b"X-One: 1\r\ncontent-TYPE: a/b\r\nX-One: 2\r\n"


@pytest.mark.parametrize("small", [True, False])
def test_the_memory_makes_no_difference(small):
    assert read(HOST, (b"A", b"1"), small=small) == read(HOST, (b"A", b"1"), small=not small)


@pytest.mark.parametrize("name", sorted(headers._DROPPED))
def test_dropped_fields_are_dropped_in_any_case(name):
    value = {b"content-length": b"0", b"transfer-encoding": b"chunked"}.get(name, b"v")
    for spelling in (name, name.upper(), name.title()):
        assert read((spelling, value)).passed == b""


def test_fields_named_by_connection_are_dropped():
    assert read(
        (b"Connection", b"close, X-Hop ,x-two"), (b"X-Hop", b"1"), (b"X-TWO", b"1"), (b"X", b"1")
    ).passed == (b"X: 1\r\n")


@pytest.mark.parametrize(("value", "length"), [(b"0", 0), (b"17", 17), (b"007", 7), (b"9" * 18, 10**18 - 1)])
def test_a_length_is_decimal_digits(value, length):
    assert read((b"Content-Length", value)).length == length


@pytest.mark.parametrize(
    "value", [b"", b"-1", b"+1", b"0x1", b"1_0", b"1,1", b"1 1", b"1.0", b"9" * 19, "\u0661".encode(), b"1\n"]
)
def test_anything_else_is_no_length(value):
    with pytest.raises(BadRequest):
        read((b"Content-Length", value))


@pytest.mark.parametrize(
    "fields",
    [
        [(b"Content-Length", b"1"), (b"content-length", b"1")],
        [(b"Content-Length", b"1"), (b"Transfer-Encoding", b"chunked")],
        [(b"Transfer-Encoding", b"chunked"), (b"Content-Length", b"1")],
        [(b"Transfer-Encoding", b"chunked"), (b"Transfer-Encoding", b"chunked")],
        [(b"Transfer-Encoding", b"gzip")],
        [(b"Transfer-Encoding", b"gzip, chunked")],
        [(b"Transfer-Encoding", b"")],
        [(b"Transfer-Encoding", b"chunked\x0b")],
    ],
)
def test_doubtful_framing_is_refused(fields):
    with pytest.raises(BadRequest):
        read(*fields)


def test_chunked_is_understood_in_any_case():
    assert read((b"TRANSFER-encoding", b"Chunked")).chunked


def test_white_space_round_a_value_is_not_of_it():
    fields = read((b"Content-Length", b"\t2 "), (b"Expect", b"100-Continue\t"), (b"X-User-ID", b" ann "))
    assert (fields.length, fields.expect_continue, fields.user_id) == (2, True, b"ann")
    assert read((b"Transfer-Encoding", b" chunked ")).chunked


@pytest.mark.parametrize(
    "host",
    [
        b"h",
        b"h:1",
        b"192.0.2.1:80",
        b"[::1]",
        b"[2001:db8::1]:8005",
        b"a_b.example",
        b"h:",
        b"",
        b"xn--a.example",
    ],
)
def test_a_host_is_a_name_or_an_address_with_or_without_a_port(host):
    assert read((b"Host", host)).host == host


@pytest.mark.parametrize(
    "host",
    [
        b"a b",
        b"u@h",
        b"http://h",
        b"h/p",
        b"h:x",
        b"h:123456",
        b"[::1",
        b"::1",
        b"a\xff",
        b"%zz",
        b"h:1:2",
        b"a" * 256,
    ],
)
def test_a_host_of_another_form_is_refused(host):
    with pytest.raises(BadRequest, match="host"):
        read((b"Host", host))


def test_hosts_are_counted():
    assert [read(*[HOST] * count).hosts for count in range(3)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("value", "kept"), [(b"a", True), (b"a" * 128, True), (b"a" * 129, False), (b"", False)]
)
def test_request_ids_of_a_fit_length_are_kept(value, kept):
    assert read((b"X-Request-ID", value)).request_id == (value if kept else None)


@given(st.binary(max_size=140))
def test_a_kept_request_id_is_safe_to_send_back(value):
    kept = read((b"x-request-id", value)).request_id
    assert kept is None or (kept == value.strip(b" \t") and all(0x21 <= byte <= 0x7E for byte in kept))


def test_several_forwarded_lines_are_one_list():
    assert read((b"X-Forwarded-For", b"a"), (b"x-forwarded-for", b"b")).forwarded_for == b"a,b"


def test_several_lines_of_the_standard_header_are_one_list_too():
    assert read((b"Forwarded", b"for=a"), (b"forwarded", b"for=b")).forwarded == b"for=a,for=b"


OURS = b"llmsup_0123abcd_" + b"s" * 43


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        (((b"Authorization", b"Bearer " + OURS),), True),
        (((b"authorization", b"BEARER  " + OURS),), True),
        (((b"X-Api-Key", OURS),), True),
        (((b"Authorization", b"Bearer sk-1"), (b"x-api-key", OURS)), True),
        (((b"Authorization", b"Basic " + OURS),), False),
        (((b"Authorization", OURS),), False),
        (((b"Authorization", b"Bearer sk-1"),), False),
        ((), False),
    ],
)
def test_a_key_of_ours_is_known_by_its_hash_and_foreign_ones_not_at_all(fields, shown):
    read_fields = read(*fields)
    assert (read_fields.key == presented(OURS)) is shown
    assert (read_fields.key is None) is not shown
    assert OURS not in read_fields.passed


def test_identity_fields_are_kept_for_us():
    fields = read((b"X-User-ID", b"u"), (b"X-Session-ID", b"s"))
    assert (fields.user_id, fields.session_id, fields.passed) == (b"u", b"s", b"")


TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_valid_trace_is_kept_with_its_state():
    fields = read((b"Traceparent", TRACE + b" "), (b"tracestate", b"a=1"), (b"Tracestate", b"b=2"))
    assert fields.trace == TRACE
    assert fields.passed == b"tracestate: a=1\r\nTracestate: b=2\r\n"


@pytest.mark.parametrize(
    "value",
    [
        b"",
        TRACE[:-1],
        TRACE + b"0",
        TRACE + b"-00",
        TRACE.upper(),
        b"ff" + TRACE[2:],
        b"0" + TRACE[2:],
        TRACE.replace(b"-", b"_"),
        b"00-" + b"0" * 32 + TRACE[35:],
        TRACE[:36] + b"0" * 16 + b"-01",
        TRACE[:-2] + b"0g",
        TRACE[:-1] + b"\xb2",
        b"cc" + TRACE[2:] + b".x",
    ],
)
def test_an_invalid_trace_is_none_and_its_state_stops_here(value):
    fields = read((b"traceparent", value), (b"tracestate", b"a=1"), (b"X", b"1"))
    assert fields.trace is None
    assert fields.passed == b"X: 1\r\n"


def test_a_state_without_its_trace_stops_here():
    assert read((b"tracestate", b"a=1")).passed == b""


def test_of_two_traces_neither_is_valid():
    assert read((b"traceparent", TRACE), (b"Traceparent", TRACE)).trace is None


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (b"cc" + TRACE[2:], TRACE),
        (b"01" + TRACE[2:] + b"-what-the-future-brings", TRACE),
        (b"01" + TRACE[2:-2] + b"fe", TRACE[:-2] + b"00"),
    ],
)
def test_of_a_later_version_what_this_one_knows_is_kept(value, kept):
    assert read((b"traceparent", value)).trace == kept


def test_many_fields_of_a_fit_length_may_be_too_much_together():
    fields = tuple((b"X-%d" % i, b"a" * 1000) for i in range(80))
    with pytest.raises(HeadersTooLarge):
        read_request(fields, small=False)
    assert read_request(fields[:60], small=False).passed


def test_an_origin_given_twice_is_none_that_is_allowed():
    assert read((b"Origin", b"http://a"), (b"Origin", b"http://b")).origin == b"http://a,http://b"


def test_too_many_or_too_long_fields_are_refused():
    with pytest.raises(HeadersTooLarge):
        read(*[(b"X", b"1")] * 101)
    with pytest.raises(HeadersTooLarge):
        read((b"X", b"1" * (headers.MAX_LINE_BYTES + 1)), small=False)
    assert read(*[(b"X", b"1")] * 100).passed.count(b"\r\n") == 100


@pytest.mark.parametrize(
    ("fields", "version", "error"),
    [
        ([HOST], "1.1", None),
        ([], "1.0", None),
        ([], "1.1", BadRequest),
        ([HOST, HOST], "1.1", BadRequest),
        ([HOST], "2.0", BadRequest),
        ([HOST], "1.2", BadRequest),
        ([HOST], "0.9", BadRequest),
        ([(b"Transfer-Encoding", b"chunked")], "1.0", BadRequest),
        ([HOST, (b"Content-Length", b"11")], "1.1", BodyTooLarge),
        ([HOST, (b"Content-Length", b"10")], "1.1", None),
    ],
)
def test_what_depends_on_more_than_the_fields(fields, version, error):
    understood = read(*fields)
    if error is None:
        check(understood, version, b"/", 10)
    else:
        with pytest.raises(error):
            check(understood, version, b"/", 10)


def test_a_target_too_long_for_llama_server_is_refused():
    check(read(HOST), "1.1", b"/" * headers.MAX_LINE_BYTES, 10)
    with pytest.raises(HeadersTooLarge):
        check(read(HOST), "1.1", b"/" * (headers.MAX_LINE_BYTES + 1), 10)


# ---- answers


def answer(*lines: bytes):
    return read_response(b"\r\n".join((b"HTTP/1.1 200 OK", *lines)))


def test_an_answer_with_a_length():
    head = answer(b"Content-Type: a/b", b"Content-Length: 5", b"Server: x")
    assert (head.status, head.framing, head.length, head.keep) == (200, Framing.LENGTH, 5, True)
    assert head.lines == b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nServer: x\r\nContent-Length: 5"
    assert head.unframed == b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nServer: x"


def test_a_chunked_event_stream():
    head = answer(b"content-type: TEXT/event-stream; charset=utf-8", b"Transfer-Encoding:  Chunked ")
    assert (head.framing, head.event_stream) == (Framing.CHUNKED, True)
    assert head.lines.endswith(b"\r\nTransfer-Encoding: chunked")


def test_an_answer_without_framing_ends_with_its_connection():
    assert (answer().framing, answer().keep) == (Framing.UNTIL_CLOSE, False)


@pytest.mark.parametrize(
    ("head", "keep"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: Close", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0", False),
    ],
)
def test_whether_the_connection_goes_on(head, keep):
    assert read_response(head).keep is keep


def test_hop_by_hop_fields_and_what_the_child_allows_other_origins_stop_here():
    hops = [b"Connection: x", b"Keep-Alive: timeout=5", b"Upgrade: h2c", b"TE: x", b"Trailer: y"]
    allows = [b"Access-Control-Allow-Origin: *", b"access-control-ALLOW-credentials: true"]
    assert answer(*hops, *allows).unframed == b"HTTP/1.1 200 OK"


def test_equal_lengths_are_one():
    head = answer(b"Content-Length: 5", b"content-length: 5")
    assert (head.length, head.lines.lower().count(b"content-length")) == (5, 1)


@pytest.mark.parametrize(
    "lines",
    [
        [b"Content-Length: 5", b"Content-Length: 6"],
        [b"Content-Length: 5, 5"],
        [b"Content-Length: -5"],
        [b"Content-Length:"],
        [b"Content-Length: 5", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: gzip, chunked"],
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
        [b"no colon"],
        [b" X: folded"],
        [b"X : 1"],
        [b": 1"],
        [b"X: a\nContent-Length: 5"],
        [b"X: a\rContent-Length: 5"],
    ],
)
def test_a_contradictory_answer_is_none(lines):
    with pytest.raises(UpstreamFailed):
        answer(*lines)


@pytest.mark.parametrize(
    "first",
    [b"", b"HTTP/1.1", b"HTTP/2 200 OK", b"HTTP/1.1 20 OK", b"HTTP/1.1 999 No", b"HTTP/1.1 2000", b"SSH-2.0"],
)
def test_what_is_not_http_is_no_answer(first):
    with pytest.raises(UpstreamFailed):
        read_response(first)


@pytest.mark.parametrize("first", [b"HTTP/1.1 200", b"HTTP/1.1 200 ", b"HTTP/1.0 404 Not There At All"])
def test_reasons_are_free(first):
    assert read_response(first).lines == first


def test_a_long_answer_head_is_understood_alike():
    lines = [b"X-%d: 1" % i for i in range(1000)]
    assert answer(*lines, b"Content-Length: 1").length == 1


# ---- a child that somebody has got hold of


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\x0bX\x00\x1b[31m\r\nContent-Length: 2",
        b"HTTP/1.1 200 \x7f\r\nContent-Length: 2",
        b"HTTP/1.1 200 OK\r\nX-A: a\x00b\r\nContent-Length: 2",
        b"HTTP/1.1 200 OK\r\nX-A: \x1b]0;pwned\x07\r\nContent-Length: 2",
        b"HTTP/1.1 200 OK\r\nX-A: a\x0bb\r\nContent-Length: 2",
        b"HTTP/1.1 200 OK\r\nX-\x00A: a\r\nContent-Length: 2",
        b"HTTP/1.1 200 OK\r\nX A: a\r\nContent-Length: 2",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding\x00: chunked\r\nContent-Length: 2",
    ],
)
def test_control_characters_in_a_head_are_no_answer(head):
    with pytest.raises(UpstreamFailed):
        read_response(head)


def test_what_is_ours_to_say_or_kept_by_browsers_stops_here():
    taken = (
        b"Set-Cookie: llmsup_session=evil; Path=/llmsup/\r\nStrict-Transport-Security: max-age=1\r\nX-Request-Id: fake\r\n"
        b"x-llmsup-client: key:fake\r\nRateLimit: x\r\nX-RateLimit-Limit-Requests: 1\r\nAlt-Svc: h3\r\nRetry-After: 9\r\n"
        b"anthropic-ratelimit-tokens-limit: 1\r\nClear-Site-Data: *\r\nService-Worker-Allowed: /\r\n"
    )
    head = b"HTTP/1.1 200 Fine \xe9\r\n" + taken + b"X-Other: \tcaf\xe9\r\nContent-Length: 2"
    assert read_response(head).lines == b"HTTP/1.1 200 Fine \xe9\r\nX-Other: \tcaf\xe9\r\nContent-Length: 2"
