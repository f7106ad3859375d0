"""Who is told of requests is told of each once, however it ends, and cannot hurt any."""

import pytest
import structlog

from supervisor.errors import Conflict
from supervisor.proxy.inflight import LEFT
from tests.integration.proxy.test_queueing import fill
from tests.support.proxyrig import until


def listen(rig) -> list[tuple[str, int, int]]:
    """Path, status and tries of every request that ends from now on."""
    told: list[tuple[str, int, int]] = []

    def tell(exchange, now):
        assert exchange.received_at <= now
        told.append((exchange.path.decode(), exchange.status, exchange.attempts))

    rig.pipeline.tell = (tell,)
    return told


def test_an_answer_a_refusal_and_one_of_our_own(rig, upstream):
    told = listen(rig)
    client = rig.connect()
    assert client.ask("/echo").status == 200
    assert client.ask("/slots").status == 403
    client.get("/health")
    assert client.answer().status == 200
    until(lambda: len(told) == 3, "all are told of")
    assert told == [("/echo", 200, 1), ("/slots", 403, 0), ("/health", 200, 0)]


def test_who_leaves_and_who_is_cancelled(rig, upstream):
    told = listen(rig)
    leaving, cancelled = fill(rig, upstream, 2)
    leaving.close()
    until(lambda: told, "the first is told of")
    assert told == [("/gated", LEFT, 1)]
    (row,) = rig.call(lambda: list(rig.pipeline.in_flight.rows))
    with structlog.testing.capture_logs() as lines:
        assert rig.call(lambda: rig.pipeline.cancel_by_id(row.id)) == 1
    until(lambda: len(told) == 2, "the second is told of")
    assert cancelled.answer().status == 503
    assert told[1:] == [("/gated", 503, 1)]
    assert [(line["event"], line["trace_id"]) for line in lines] == [
        ("request cancelled", row.trace[3:35].decode())
    ]


def test_a_connection_that_breaks_is_told_of_once_with_its_tries(make_rig, upstream):
    rig = make_rig()
    told = listen(rig)
    assert rig.ask("/echo").status == 200
    rig.state("STARTING")
    waiting = rig.connect()
    waiting.post("/echo")
    until(lambda: rig.waiting() == 1, "it waits")
    waiting.close()
    until(lambda: len(told) == 2, "it is told of")
    assert told == [("/echo", 200, 1), ("/echo", LEFT, 0)]


def test_a_defect_of_whoever_is_told_costs_nobody_the_answer(rig, upstream):
    def broken(exchange, now):
        raise ZeroDivisionError

    rig.pipeline.tell = (broken,)
    client = rig.connect()
    with structlog.testing.capture_logs() as lines:
        assert [client.ask("/echo").status for _ in range(3)] == [200] * 3
        until(lambda: len(lines) == 3, "all is said")
    assert [line["event"] for line in lines] == ["request not accounted for"] * 3


def test_of_several_requests_with_one_id_none_is_ended_unless_it_is_said_which(rig, upstream):
    clients = [rig.connect() for _ in range(3)]
    for client, name in zip(clients, ("mine", "mine", "other"), strict=True):
        client.post("/gated", headers={"X-Request-ID": name})
    until(lambda: len(upstream.begun) == 3, "all are inside")
    rows = rig.call(lambda: sorted(rig.pipeline.in_flight.rows, key=lambda row: row.number))
    alike = [row.number for row in rows if row.id == b"mine"]
    with pytest.raises(Conflict, match=f"2 requests have the id 'mine' .*{alike[0]} of .*{alike[1]} of"):
        rig.call(lambda: rig.pipeline.cancel_by_id(b"mine"))
    assert rig.call(lambda: rig.pipeline.cancel_by_id(b"mine", rows[-1].number)) == 0
    assert rig.call(lambda: rig.pipeline.cancel_by_id(b"mine", alike[1])) == 1
    left = rig.call(lambda: {row.number for row in rig.pipeline.in_flight.rows})
    assert left == {row.number for row in rows} - {alike[1]}
    assert rig.call(lambda: rig.pipeline.cancel_by_id(b"mine")) == 1  # now it is one
