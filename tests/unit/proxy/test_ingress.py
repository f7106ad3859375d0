"""`proxy.ingress`: the target in one form, and the routes that are for administrators only."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.errors import BadRequest, Forbidden, LlmsupError
from supervisor.proxy import ingress
from supervisor.proxy.headers import read_request
from supervisor.proxy.inflight import Exchange

FIELDS = read_request((), small=True)


def exchange(target: bytes, method: bytes = b"GET") -> Exchange:
    return Exchange(None, method, target, FIELDS, "127.0.0.1")


def checked(target: bytes, method: bytes = b"GET") -> Exchange:
    asked = exchange(target, method)
    ingress.check(asked)
    return asked


@pytest.mark.parametrize(
    ("target", "sent", "path"),
    [
        (b"/", b"/", b"/"),
        (b"/a?b=/slots", b"/a?b=/slots", b"/a"),
        (b"/%61?%62", b"/%61?%62", b"/a"),
        (b"//a//b", b"//a//b", b"/a//b"),
        (b"/a?u=%u0041", b"/a?u=%u0041", b"/a"),
        (b"/100%", b"/100%", b"/100%"),
        (b"*", b"*", b"*"),
        (b"http://other/a?b", b"/a?b", b"/a"),
        (b"HTTPS://other:8000", b"/", b"/"),
    ],
)
def test_targets_become_paths(target, sent, path):
    asked = checked(target, b"OPTIONS" if target == b"*" else b"GET")
    assert (asked.target, asked.path) == (sent, path)


@pytest.mark.parametrize(
    "target", [b"", b"a", b"ftp://h/", b"h:443", b"://x", b"/a#b", b"/%u0073lots", b"/%75%u0030"]
)
def test_other_targets_are_refused(target):
    with pytest.raises(BadRequest):
        checked(target)


@pytest.mark.parametrize("method", [b"CONNECT", b"TRACE"])
def test_methods_that_mean_nothing_here_are_refused(method):
    with pytest.raises(BadRequest):
        checked(b"/", method)


@pytest.mark.parametrize(
    ("method", "path", "admin"),
    [
        (b"GET", b"/slots", True),
        (b"POST", b"/slots/3", True),
        (b"GET", b"/metrics", True),
        (b"GET", b"/v1/stream", True),
        (b"GET", b"/props", False),
        (b"HEAD", b"/props", False),
        (b"OPTIONS", b"/props", False),
        (b"POST", b"/props", True),
        (b"DELETE", b"/props", True),
        (b"GET", b"/lora-adapters", False),
        (b"POST", b"/lora-adapters", True),
        (b"GET", b"/models", False),
        (b"DELETE", b"/models", True),
        (b"POST", b"/models/load", True),
        (b"GET", b"/v1/models", False),
        (b"POST", b"/v1/chat/completions", False),
    ],
)
def test_admin_routes_by_method(method, path, admin):
    if admin:
        with pytest.raises(Forbidden):
            checked(path, method)
    else:
        assert checked(path, method).path == path


def as_llama_server_reads(target: bytes) -> bytes:
    """cpp-httplib 0.x: cut at ``#``, then at ``?``, then decode, %uXXXX included."""
    path, out, i = target.partition(b"#")[0].partition(b"?")[0], b"", 0
    while i < len(path):
        for mark, width in ((b"%u", 4), (b"%", 2)):
            digits = path[i + len(mark) : i + len(mark) + width]
            if (
                path.startswith(mark, i)
                and len(digits) == width
                and all(d in b"0123456789abcdefABCDEF" for d in digits)
            ):
                code = int(digits, 16)
                out += chr(code).encode("utf-8", "surrogatepass") if width == 4 else bytes([code])
                i += len(mark) + width
                break
        else:
            out += path[i : i + 1]
            i += 1
    return out


SPELLINGS = [lambda c: c, lambda c: f"%{ord(c):02x}", lambda c: f"%{ord(c):02X}", lambda c: f"%u{ord(c):04x}"]


@given(
    st.sampled_from(
        ["/slots", "/props", "/lora-adapters", "/metrics", "/v1/stream", "/models/load", "/cors-proxy"]
    ),
    st.lists(st.sampled_from(SPELLINGS), min_size=14, max_size=14),
    st.sampled_from(["", "?x", "#x", "?a#b", "/", "%00"]),
    st.sampled_from(["", "http://h", "https://h:1"]),
)
def test_no_spelling_of_an_admin_route_reaches_llama_server(route, ways, end, start):
    target = start + "/" + "".join(way(c) for way, c in zip(ways, route[1:], strict=False)) + end
    asked = exchange(target.encode(), b"POST")
    try:
        ingress.check(asked)
    except LlmsupError:
        return
    assert as_llama_server_reads(asked.target) != route.encode()


@given(st.text(min_size=1, max_size=20))
def test_an_ordinary_path_is_read_as_llama_server_reads_it(text):
    target = b"/x" + quote(text).encode()
    assert checked(target).path == as_llama_server_reads(target)
