"""Files from memory, and those that the browser has already."""

from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.proxy.headers import read_request
from supervisor.proxy.inflight import Exchange
from supervisor.proxy.static import StaticFile, StaticFiles

FILES = StaticFiles({b"assets/a.js": StaticFile(b"text/javascript", b"let a;", b'"tag"')}, b"X-A: 1\r\n")


def asking(*fields: tuple[bytes, bytes]) -> Any:
    connection: Any = SimpleNamespace()
    return Exchange(connection, b"GET", b"/", read_request(fields, small=True), "")


def test_a_file_with_its_kind_and_tag() -> None:
    row = asking()
    answer = FILES.answer(row, b"assets/a.js")
    assert answer is not None
    assert (answer.status, answer.body, answer.kind) == (200, b"let a;", b"text/javascript")
    assert row.lines == b'ETag: "tag"\r\nX-A: 1\r\n'


@pytest.mark.parametrize(
    ("said", "status"), [(b'"tag"', 304), (b'"other", W/"tag"', 304), (b'"other"', 200), (b"tag", 200)]
)
def test_what_the_browser_has_is_not_sent_again(said: bytes, status: int) -> None:
    answer = FILES.answer(asking((b"If-None-Match", said)), b"assets/a.js")
    assert answer is not None
    assert answer.status == status
    assert bool(answer.body) is (status == 200)


@pytest.mark.parametrize("name", [b"", b"a.js", b"assets/", b"assets/../assets/a.js"])
def test_nothing_else(name: bytes) -> None:
    row = asking()
    assert FILES.answer(row, name) is None
    assert row.lines == b""
