"""Requests that two readers could understand differently: none may reach llama-server as another one than it was."""

from tests.attack.attacker import Assault, Attacker

BODY = b'{"content":"a"}'
POST = b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNK = b"%x\r\n%s\r\n" % (len(BODY), BODY)
SMUGGLED = b"GET /slots HTTP/1.1\r\nHost: localhost\r\n\r\n"
SHAPES = (
    POST + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNK + b"0\r\n\r\n" + SMUGGLED,
    POST + LENGTH + LENGTH + b"\r\n" + BODY + SMUGGLED,
    POST + b"Content-Length: 5\r\n" + LENGTH + b"\r\n" + BODY + SMUGGLED,
    POST + b"Content-Length: +15\r\n\r\n" + BODY + SMUGGLED,
    POST + b"Content-Length: 1_5\r\n\r\n" + BODY + SMUGGLED,
    POST + b"Content-Length: 18446744073709551631\r\n\r\n" + BODY + SMUGGLED,
    POST + b"Content-Length : 15\r\n\r\n" + BODY + SMUGGLED,
    POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n" + CHUNK + b"0\r\n\r\n" + SMUGGLED,
    POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNK + b"0\r\n\r\n" + SMUGGLED,
    POST + b"Transfer-Encoding: chunked, identity\r\n\r\n" + CHUNK + b"0\r\n\r\n" + SMUGGLED,
    POST + b"Transfer_Encoding: chunked\r\n" + LENGTH + b"\r\n" + BODY + SMUGGLED,
    CHUNKED + b"0x%x\r\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n" + SMUGGLED,
    CHUNKED + b" %x\r\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n" + SMUGGLED,
    CHUNKED + b"%x;a\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n" + SMUGGLED,
    CHUNKED + b"%x\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n" + SMUGGLED,
    CHUNKED + b"fffffffffffffffff\r\n" + BODY + b"\r\n0\r\n\r\n" + SMUGGLED,
    CHUNKED + CHUNK + b"0\n\n" + SMUGGLED,
    CHUNKED + CHUNK + b"0\r\nX-User-ID: root\r\nContent-Length: 35\r\n\r\n" + SMUGGLED,
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: other\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b: c\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: a\rY: b\r\n\r\n",
    b"GET /health\r\n\r\n",
    b"GET http://u:p@evil/slots HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /slots HTTP/1.1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"CONNECT evil:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    SMUGGLED * 40,
    b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
)
ANSWER_S = 5.0  # some of them are not whole


def shapes(assault: Assault) -> None:
    shape = assault.dice.choice(SHAPES)
    cut = assault.dice.random() < 0.1
    assault.send(shape[: assault.dice.randrange(1, len(shape))] if cut else shape, timeout_s=ANSWER_S)


ATTACKERS = [Attacker("framing", (), shapes, 0.1, workers=2)]
