"""`proxy.upstream` on paper: what the end of a connection to llama-server means for the answer that it carried."""

from types import SimpleNamespace
from typing import Any

from supervisor.proxy.headers import read_request
from supervisor.proxy.inflight import Exchange
from supervisor.proxy.upstream import Upstream


class Desk:
    """One connection with one exchange on it, and what became of that."""

    def __init__(self) -> None:
        self.said: list[str] = []
        connection = SimpleNamespace(
            write=lambda data: self.said.append(f"write {data!r}"),
            finish=lambda _: self.said.append("finish"),
            truncate=lambda _, **_framed: self.said.append("truncate"),
            stalled_since=None,
        )
        owner = SimpleNamespace(lost=lambda *_: self.said.append("lost"))
        pool: Any = SimpleNamespace(
            owner=owner, forget=lambda _: None, closed=True, crashed=lambda: OSError("died")
        )
        self.upstream = Upstream(pool)
        self.exchange = Exchange(connection, b"POST", b"/", read_request((), small=True), "")  # type: ignore[arg-type]  # of paper
        self.exchange.id = b"id"
        self.upstream.expect_answer(self.exchange)

    def continued(self) -> None:
        """Part of its answer has gone out, from an earlier generation."""
        self.exchange.answering = True
        stream: Any = SimpleNamespace(resume=lambda: True, broken=None)
        self.exchange.stream = stream


def test_a_second_death_before_the_head_of_what_follows_is_not_the_end_of_the_answer() -> None:
    desk = Desk()
    desk.continued()
    desk.upstream.connection_lost(None)  # closed cleanly: a process that is killed has its sockets closed
    assert desk.said == ["lost"]


def test_nor_is_one_in_the_middle_of_that_head() -> None:
    desk = Desk()
    desk.continued()
    desk.upstream.data_received(b"HTTP/1.1 200")
    desk.upstream.connection_lost(None)
    assert desk.said == ["lost"]


def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    desk = Desk()
    desk.upstream.data_received(b"HTTP/1.1 200 OK\r\n\r\nall of it")
    desk.upstream.connection_lost(None)
    assert desk.said[-1] == "finish"


def test_an_answer_that_had_not_begun_is_asked_for_again() -> None:
    desk = Desk()
    desk.upstream.connection_lost(None)
    assert desk.said == ["lost"]
