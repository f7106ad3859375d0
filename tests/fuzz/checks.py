"""What must hold for any bytes whatsoever; `check` is the whole of it. AssertionError: it does not hold."""

import json
import re
from collections.abc import Iterable

from supervisor.proxy.headers import MAX_HEAD_BYTES
from supervisor.proxy.wire import ClientConnection
from tests.fuzz.differences import LAXER, STRICTER, reason
from tests.fuzz.paper import MAX_BODY_BYTES, Served, cut, read_by_h11, served

READ_BYTES = 256 * 1024  # the largest read of either event loop
_ANSWER = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n")


def check(raw: bytes, places: Iterable[int] = ()) -> None:
    """Bytes in one piece, cut at ``places``, and as h11 reads them."""
    whole = served([raw], within_bounds)
    answered_once_each(whole)
    assert served(cut(raw, places), within_bounds) == whole, "it depends on where the bytes are cut"
    agrees_with_h11(raw, whole)


def within_bounds(connection: ClientConnection) -> None:
    """What is kept of an unfinished request; a finished one is the pipeline's."""
    assert connection._body_size <= MAX_BODY_BYTES + READ_BYTES
    assert sum(map(len, connection._body)) == connection._body_size
    assert len(connection._url) <= MAX_HEAD_BYTES + READ_BYTES
    assert sum(len(n) + len(v) for n, v in connection._fields) <= MAX_HEAD_BYTES + READ_BYTES


def answered_once_each(it: Served) -> None:
    """One answer a request and in order, then at most one refusal, and that is the end."""
    left, finals = it.written, []
    while left:
        head = _ANSWER.match(left)
        assert head is not None, left[:200]
        length = re.search(rb"\r\nContent-Length: (\d+)", head[0])
        to_head = len(finals) < len(it.asked) and it.asked[len(finals)][0] == b"HEAD"
        size = 0 if length is None or to_head else int(length[1])
        body, left = left[head.end() : head.end() + size], left[head.end() + size :]
        if head[1] != b"100":
            finals.append((int(head[1]), body))
    good, bad = finals[: len(it.asked)], finals[len(it.asked) :]
    for number, ((status, body), (method, _, _)) in enumerate(zip(good, it.asked, strict=True), 1):
        assert (status, body) == (200, b"" if method == b"HEAD" else b"%d" % number)
    assert len(bad) <= 1, "refused twice"
    if bad:
        assert it.closed
        assert bad[0][0] in {400, 413, 431}
        assert json.loads(bad[0][1])["error"]["source"] == "llmsup"


def agrees_with_h11(raw: bytes, ours: Served) -> None:
    """Both read the same requests; where one reads more than the other, the reason is a known one."""
    theirs = read_by_h11(raw)
    both = min(len(ours.asked), len(theirs.asked))
    assert ours.asked[:both] == theirs.asked[:both]
    if len(ours.asked) > both:
        assert reason(raw, LAXER) is not None, f"h11 refuses what is taken here: {theirs.objection}"
    elif len(theirs.asked) > both:
        assert reason(raw, STRICTER) is not None, "h11 takes what is refused here"
