"""One line of JSON for each request."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from supervisor.proxy.accesslog import (
    CLIENTS_MAX,
    FLUSH_LINES,
    OTHERS,
    PATH_MAX_BYTES,
    REFUSALS,
    REFUSALS_OF_ONE,
    AccessLog,
)
from supervisor.proxy.inflight import Client
from tests.support.finished import exchange, of_key

AT_NS = 1_767_225_599_999_000_000  # the last millisecond of a year


class Log:
    """An access log, what it was to do later, and what it has written."""

    def __init__(self) -> None:
        self.blocks: list[bytes] = []
        self.later: list[Callable[[], None]] = []
        self.log = AccessLog(self.blocks.append, lambda _, work: self.later.append(work), lambda: AT_NS)

    def tell(self, *rows: Any) -> list[dict[str, Any]]:
        for row in rows:
            self.log.tell(row, 100.5)
        self.log.flush()
        return [json.loads(line) for block in self.blocks for line in block.splitlines()]


def test_a_line_has_all_there_is_to_say() -> None:
    row = exchange(waited_s=0.25, first_token_at=100.125, attempts=3, continued=1, client=of_key("ci"))
    assert Log().tell(row) == [
        {
            "event": "request",
            "logger": "access",
            "level": "info",
            "timestamp": "2025-12-31T23:59:59.999Z",
            "request_id": "abc-1",
            "trace_id": "0123456789abcdef0123456789abcdef",
            "client": "key:ci",
            "pool": "user",
            "key": "ci",
            "method": "POST",
            "path": "/v1/chat/completions",
            "model": "demo",
            "status": 200,
            "prompt_tokens": 10,
            "completion_tokens": 20,
            "cached_tokens": 5,
            "queue_s": 0.25,
            "first_token_s": 0.125,
            "total_s": 0.5,
            "retries": 2,
            "continued": 1,
        }
    ]


def test_what_is_not_known_is_null() -> None:
    (line,) = Log().tell(exchange(gate=None, usage=None, attempts=0, status=401))
    unknown = ("key", "model", "prompt_tokens", "completion_tokens", "cached_tokens", "first_token_s")
    assert {line[name] for name in unknown} == {None}
    assert line["retries"] == 0


@pytest.mark.parametrize("text", ['"', "\\", "\x7f", "a\u00e9", "%s %d", '","status":200,"x":"'])
def test_whatever_a_client_writes_stays_within_its_quotes(text: str) -> None:
    raw = text.encode("latin-1")
    row = exchange(b"/" + raw, id=raw, client=Client(text, b""))
    (line,) = Log().tell(row)
    assert (line["path"], line["request_id"], line["client"]) == ("/" + text, text, text)
    assert line["status"] == 200


@pytest.mark.parametrize(
    ("path", "status", "told"),
    [(b"/health", 200, 0), (b"/metrics", 200, 0), (b"/health", 503, 1), (b"/v1/models", 200, 1)],
)
def test_machines_that_ask_all_day_are_told_of_when_it_goes_wrong(
    path: bytes, status: int, told: int
) -> None:
    assert len(Log().tell(exchange(path, status=status))) == told


def test_lines_are_handed_over_together_soon() -> None:
    log = Log()
    for _ in range(3):
        log.log.tell(exchange(), 100.5)
    assert (log.blocks, len(log.later)) == ([], 1)
    log.later[0]()
    assert [block.count(b"\n") for block in log.blocks] == [3]


def test_many_are_handed_over_at_once() -> None:
    log = Log()
    for _ in range(FLUSH_LINES):
        log.log.tell(exchange(), 100.5)
    assert [block.count(b"\n") for block in log.blocks] == [FLUSH_LINES]
    log.later[0]()
    assert len(log.blocks) == 1


def test_a_long_path_is_cut_and_shows_it() -> None:
    (line,) = Log().tell(exchange(b"/" + b"a" * 7000))
    assert line["path"] == "/" + "a" * (PATH_MAX_BYTES - 4) + "..."


def refused(client: str) -> Any:
    return exchange(b"/" + b"a" * 7000, unserved=True, status=429, client=Client(client, b""))


def test_refusals_beyond_some_in_a_second_are_summed_up_and_others_are_told() -> None:
    log = Log()
    told = log.tell(*[refused("user:one") for _ in range(100)], refused("user:two"), exchange())
    assert [line["client"] for line in told].count("user:one") == REFUSALS_OF_ONE
    assert [line["client"] for line in told].count("user:two") == 1
    assert told[-1]["status"] == 200
    log.blocks.clear()
    for work in log.later:
        work()
    (left_out,) = log.tell()
    assert left_out == {
        "event": "requests_left_out",
        "logger": "access",
        "level": "info",
        "timestamp": "2025-12-31T23:59:59.999Z",
        "client": "user:one",
        "count": 100 - REFUSALS_OF_ONE,
    }


def test_a_flood_of_names_has_so_many_lines_in_a_second() -> None:
    log = Log()
    log.tell(*[refused(f"user:{number}") for number in range(1000)])
    log.log.close()
    lines = [json.loads(line) for block in log.blocks for line in block.splitlines()]
    full = [line for line in lines if line["event"] == "request"]
    summed = {line["client"]: line["count"] for line in lines if line["event"] == "requests_left_out"}
    assert len(full) == REFUSALS
    assert len(summed) == CLIENTS_MAX + 1
    assert sum(summed.values()) == 1000 - REFUSALS
    assert summed[OTHERS] == 1000 - REFUSALS - CLIENTS_MAX


def test_what_was_served_is_always_told() -> None:
    assert len(Log().tell(*[exchange(status=404) for _ in range(500)])) == 500


def test_the_next_second_tells_again() -> None:
    log = Log()
    for second in (100.5, 101.5):
        for _ in range(20):
            log.log.tell(refused("user:one"), second)
    log.log.flush()
    assert sum(len(block.splitlines()) for block in log.blocks) == 2 * REFUSALS_OF_ONE
