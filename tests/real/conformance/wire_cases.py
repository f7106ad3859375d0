"""Methods, framing and spellings: what is odd about the request rather than about the question."""

import json
from collections.abc import Iterator

from tests.real.conformance.case import Case, both
from tests.real.conformance.chat_cases import ANTHROPIC, BASE, CHAT, INPUT, MESSAGES, RESPONSES
from tests.real.conformance.text_cases import INFILL, INFILL_BASE, NATIVE, NATIVE_BASE, TEXT, TEXT_BASE

TOKENIZE = "/tokenize"
MIB = 1 << 20

# Bodies of one chat, spelt as a client's library might.
_INNER = json.dumps(BASE)[1:-1].encode()
SPELLINGS = {
    "space-around": b" \t\r\n{" + _INNER + b"}\n\n ",
    "space-within": json.dumps(BASE, indent="\t").replace(":", " :\r\n").encode(),
    "key-twice": b"{" + _INNER + b',"max_tokens":3}',
    "key-twice-escaped": b"{" + _INNER + b',"max\\u005ftokens":3}',
    "keys-escaped": b"{" + _INNER.replace(b'"messages"', b'"\\u006dess\\u0061ges"') + b"}",
    "stream-escaped": b"{" + _INNER + b',"\\u0073tream":true}',
    "stream-twice-off": b'{"stream":true,' + _INNER + b',"stream":false}',
    "stream-twice-on": b'{"stream":false,' + _INNER + b',"stream":true}',
    "stream-null": b'{"stream":null,' + _INNER + b"}",
    "stream-in-a-string": b'{"user":"\\"stream\\":true",' + _INNER + b"}",
    "solidus-escaped": b'{"user":"a\\/b",' + _INNER + b"}",
    "surrogates": b"{" + _INNER.replace(b"Hello", b"\\ud83d\\ude42 \\u0000") + b"}",
    "unescaped-unicode": b"{" + _INNER.replace(b"Hello", "日本 é 🙂 \u2028".encode()) + b"}",
    "delete-character": b"{" + _INNER.replace(b"Hello", b"\x7f") + b"}",
    "numbers-with-exponent": b'{"top_p":9.5e-1,"min_p":0.0,"top_k":4E1,' + _INNER + b"}",
    "long-number": b'{"top_p":0.' + b"9" * 400 + b"," + _INNER + b"}",
    "big-integer": b'{"user":123456789012345678901234567890,' + _INNER + b"}",
    "nested": b'{"user":' + b"[" * 150 + b"]" * 150 + b"," + _INNER + b"}",
    "byte-order-mark": b"\xef\xbb\xbf{" + _INNER + b"}",
    "long-unused-text": b'{"user":"' + b"x" * (MIB - 64) + b'",' + _INNER + b"}",
}
STREAM_NOT_BOOLEAN = (b"0", b"1", b'"true"', b"[]")
BROKEN = {
    "not-json": b"hello",
    "empty": b"",
    "cut": b"{" + _INNER,
    "comma-too-many": b"{" + _INNER + b",}",
    "two-values": b"{" + _INNER + b"}{}",
    "single-quotes": b"{'messages': []}",
    "nan": b'{"temperature":NaN,' + _INNER + b"}",
    "not-utf-8": b'{"user":"\xff\xfe",' + _INNER + b"}",
    "half-a-surrogate": b'{"user":"\\ud83d",' + _INNER + b"}",
    "line-break-in-a-string": b'{"user":"a\nb",' + _INNER + b"}",
    "zero-byte": b'{"user":"a\x00b",' + _INNER + b"}",
}
NOT_OBJECTS = {"array": b"[]", "string": b'"hello"', "number": b"5", "null": b"null"}

_PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n\x00\xff\r\n--b--\r\n'
FORMS = (
    ("multipart", "multipart/form-data; boundary=b", _PART),
    ("form", "application/x-www-form-urlencoded", b"model=demo&file=%00"),
)


def cases() -> Iterator[Case]:
    for name, body in SPELLINGS.items():
        yield Case(id=f"json/{name}", path=CHAT, body=body)
    for value in STREAM_NOT_BOOLEAN:
        body = b'{"stream":' + value + b"," + _INNER + b"}"
        yield Case(id=f"json/stream-is-{value.decode()}", path=CHAT, body=body, status=400)
    for path in (CHAT, TEXT, NATIVE, TOKENIZE):
        yield Case(id=f"json/broken/at{path}", path=path, body=b'{"a":', status=500, differs="invalid JSON")
    for name, body in BROKEN.items():
        yield Case(id=f"json/broken/{name}", path=CHAT, body=body, status=500, differs="invalid JSON")
    for name, body in NOT_OBJECTS.items():
        yield Case(id=f"json/not-an-object/{name}", path=CHAT, body=body, status=400, differs="not an object")
    for path, base in (
        (CHAT, BASE),
        (NATIVE, NATIVE_BASE),
        (TEXT, TEXT_BASE),
        (MESSAGES, ANTHROPIC),
        (RESPONSES, INPUT),
        (INFILL, INFILL_BASE),
    ):
        inner = json.dumps(base)[1:-1].encode()
        for name, body in (
            ("off", b'{"stream":true,' + inner + b',"stream":false}\n'),
            ("on", b'{"stream":false,' + inner + b',"stream":true }'),
            ("braces", b'{"user":"}{\\"}",' + inner + b',"x":{"y":[{}]} } '),
        ):
            yield Case(id=f"json/stream-{name}/at{path}", path=path, body=body)
        status = 500 if path in {MESSAGES, INFILL} else 400
        yield Case(id=f"json/empty-object/at{path}", path=path, body=b"{ }", status=status)
    yield Case(id="json/not-an-object/to-tokenize", path=TOKENIZE, body=[], differs="not an object")
    deep = b'{"user":' + b"[" * 300 + b"]" * 300 + b"," + _INNER + b"}"
    yield Case(id="json/too-deep", path=CHAT, body=deep, differs="too deep")
    yield from _framing()
    yield from _methods()
    yield from _ours()


def _framing() -> Iterator[Case]:
    yield from both("wire/chunked-request", CHAT, BASE, chunked=True)
    yield Case(id="wire/http10", path=TEXT, body=TEXT_BASE, http10=True)
    yield Case(
        id="wire/http10-keep", path=TEXT, body=TEXT_BASE, http10=True, headers=[("Connection", "keep-alive")]
    )
    yield from both("wire/query", CHAT + "?a=b&model=x", BASE)
    yield from both("wire/encoded-path", "/v1/chat/%63ompletions", BASE)
    yield from both("wire/expect", NATIVE, NATIVE_BASE, headers=[("Expect", "100-continue")])
    yield from both("wire/accept-encoding", NATIVE, NATIVE_BASE, headers=[("Accept-Encoding", "gzip, br")])
    yield from both(
        "wire/origin", NATIVE, NATIVE_BASE, headers=[("Origin", "http://example.com")], differs="origin"
    )
    yield from both("wire/conversation", CHAT, BASE, headers=[("X-Conversation-Id", "mine")])
    yield from both("wire/encoded-body", CHAT, BASE, headers=[("Content-Encoding", "gzip")], status=415)
    yield from both("wire/identity", CHAT, BASE, headers=[("Content-Encoding", "identity")])
    yield Case(id="wire/double-slash", path="//v1/chat/completions", body=BASE, status=404)
    yield Case(id="wire/other-key", path=TOKENIZE, body={"content": "a"}, headers=[("X-Api-Key", "other")])
    for kind in ("text/plain", "application/json; charset=utf-8", "application/octet-stream"):
        yield Case(
            id=f"wire/type-{kind.partition(';')[0]}",
            path=CHAT,
            body=BASE,
            headers=[("Content-Type", kind)],
        )
    body = json.dumps({"content": "a " * (5 * MIB)}).encode()  # 10 MiB, within the limits of both
    yield Case(id="wire/large-body", path="/v1/messages/count_tokens", body=body, status=500)
    for name, kind, body in FORMS:
        yield Case(
            id=f"wire/{name}",
            path="/v1/audio/transcriptions",
            body=body,
            headers=[("Content-Type", kind)],
            status=501,
        )
    form = [("Content-Type", "application/x-www-form-urlencoded")]  # as curl calls what -d sends
    large = b'{"content":"a"' + b" " * (2 * MIB) + b"}"  # llama-server takes smaller forms only
    yield Case(id="wire/form-for-json", path=TOKENIZE, body={"content": "a"}, headers=form)
    yield Case(
        id="wire/form-too-large", path=TOKENIZE, body=large, headers=form, status=413, differs="too large"
    )
    yield Case(id="wire/not-json-nowhere", path="/nonesuch", body=b"hello", status=404)


def _methods() -> Iterator[Case]:
    for path, status in (("/props", 200), ("/nonesuch", 404), (CHAT, 404)):
        yield Case(id=f"method/HEAD{path}", method="HEAD", path=path, status=status)
    for path in ("/props", CHAT, "/nonesuch"):
        yield Case(id=f"method/OPTIONS{path}", method="OPTIONS", path=path)
    yield Case(
        id="method/OPTIONS-preflight",
        method="OPTIONS",
        path=CHAT,
        headers=[("Origin", "http://example.com"), ("Access-Control-Request-Method", "POST")],
        differs="origin",
    )
    for method in ("PUT", "PATCH", "DELETE"):
        yield Case(id=f"method/{method}", method=method, path=CHAT, body=BASE, status=404)
    yield Case(id="method/GET-generation", method="GET", path=NATIVE, status=404)
    yield Case(id="method/POST-nowhere", path="/nonesuch", body={}, status=404)
    yield Case(id="admin/DELETE/props", method="DELETE", path="/props", status=404, differs="admin")


def _ours() -> Iterator[Case]:
    """What is meant to differ; the rows are in `differences`."""
    for path, status in (("/slots", 200), ("/%73lots", 200), ("/v1/stream", 400)):
        yield Case(id=f"admin{path}", method="GET", path=path, status=status, differs="admin")
    for path, status in (("/props", 501), ("/lora-adapters", 200), ("/slots/0?action=erase", 501)):
        yield Case(id=f"admin/post{path}", path=path, body=[], status=status, differs="admin")
    for path in ("/tools", "/cors-proxy"):
        yield Case(id=f"admin{path}", method="GET", path=path, status=403, differs="admin")
    for path in ("/health", "/v1/health"):
        yield Case(id=f"ours{path}", method="GET", path=path, differs="health")
    yield Case(id="ours/metrics", method="GET", path="/metrics", differs="metrics")
    for path in ("/models", "/v1/models"):
        yield Case(id=f"ours{path}", method="GET", path=path, differs="models")
    for method in ("TRACE", "CONNECT"):
        yield Case(id=f"ours/{method}", method=method, path="/props", status=400, differs="method")
    yield Case(id="ours/fragment", method="GET", path="/props#a", differs="fragment")
    yield Case(id="ours/u-escape", method="GET", path="/%u0070rops", differs="u-escape")
    stream = {**TEXT_BASE, "stream": True}
    yield Case(id="ours/http10-stream", path=TEXT, body=stream, http10=True, differs="HTTP/1.0")
    body = b'{"content":"a"' + b" " * (33 * MIB) + b"}"
    yield Case(id="ours/too-large", path=TOKENIZE, body=body, differs="too large")
