"""Limits on the wire: who is refused, from which nanosecond on again, and what the answer says of it."""

import time

import pytest

from supervisor.clock import SystemClock
from supervisor.ratelimit.gcra import SECOND_NS
from supervisor.ratelimit.pools import HOUR_NS, MINUTE_NS, pool
from tests.support.proxyrig import until

USER = {"X-User-ID": "ann"}
OTHER = {"X-User-ID": "bob"}


class StoppedClock(SystemClock):
    """Limits see only the time they are told; deadlines and connections see the real one."""

    def __init__(self) -> None:
        self.ns = time.monotonic_ns()

    def now_ns(self) -> int:
        return self.ns


@pytest.fixture
def clock():
    return StoppedClock()


@pytest.fixture
def limited(make_rig, clock):
    """A rig with these limits for users, and for everybody else their own."""

    def make(*, shared=None, anonymous=None, slots=4, **limits):
        pools = {"anonymous": pool("anonymous", **anonymous or {}), "user": pool("user", **limits)}
        return make_rig(pools=pools, shared=shared, clock=clock, slots=slots)

    return make


def statuses(client, count, headers=USER):
    return [client.ask("/echo", headers=headers).status for _ in range(count)]


def code(answer):
    return answer.json()["error"]["code"]


def test_60_a_minute_and_then_none_while_another_is_untouched(limited, clock):
    rig = limited(requests_per_minute=60)
    client = rig.connect()
    assert statuses(client, 61) == [200] * 60 + [429]
    assert statuses(client, 60, OTHER) == [200] * 60
    clock.ns += SECOND_NS - 1
    assert statuses(client, 1) == [429]
    clock.ns += 1  # to the nanosecond: a sixtieth of a minute is over
    assert statuses(client, 2) == [200, 429]


def test_a_burst_after_idleness_is_the_whole_quota_and_no_more(limited, clock):
    rig = limited(requests_per_minute=10)
    client = rig.connect()
    assert statuses(client, 11) == [200] * 10 + [429]
    clock.ns += 50 * MINUTE_NS
    assert statuses(client, 11) == [200] * 10 + [429]


def test_the_hour_counts_beside_the_minute(limited, clock):
    rig = limited(requests_per_minute=5, requests_per_hour=12)
    client = rig.connect()
    got = []
    for _ in range(3):
        got += statuses(client, 5)
        clock.ns += MINUTE_NS
    # 12, and what three minutes of an hour give back meanwhile: 12 * 2 / 60 of one is none yet.
    assert got == [200] * 12 + [429] * 3
    clock.ns += HOUR_NS
    assert statuses(client, 5) == [200] * 5


def test_requests_at_once(limited, upstream):
    rig = limited(concurrent=2)
    inside = [rig.connect() for _ in range(2)]
    for client in inside:
        client.post("/gated", headers=USER)
    until(lambda: len(upstream.arrived) == 2, "two are inside")
    third = rig.connect()
    refused = third.ask("/echo", headers=USER)
    assert (refused.status, code(refused)) == (429, "concurrency_limit_exceeded")
    assert refused.header("retry-after") is not None
    assert third.ask("/echo", headers=OTHER).status == 200
    upstream.go_on.set()
    assert [client.answer().status for client in inside] == [200, 200]
    assert third.ask("/echo", headers=USER).status == 200


def test_who_leaves_is_not_counted_any_more(limited, upstream):
    rig = limited(concurrent=1)
    client = rig.connect()
    client.post("/gated", headers=USER)
    until(lambda: len(upstream.arrived) == 1, "it is inside")
    client.close()
    until(lambda: rig.in_flight() == 0, "its end was noticed")
    upstream.go_on.set()
    assert rig.ask("/echo", headers=USER).status == 200


def test_what_died_unserved_is_given_back(limited):
    rig = limited(requests_per_minute=2)
    rig.state("FAILED", wanted=False)
    client = rig.connect()
    assert statuses(client, 5) == [503] * 5  # not one of them was a request served


def test_one_bucket_for_all_who_are_known_by_address_only(limited, clock):
    both = {"anonymous": pool("anonymous", requests_per_minute=3, shared=True)}
    rig = limited(anonymous={"requests_per_minute": 2}, shared=both)
    client = rig.connect()
    first, second = {"X-Forwarded-For": "192.0.2.1"}, {"X-Forwarded-For": "192.0.2.2"}
    assert statuses(client, 3, first) == [200, 200, 429]
    assert statuses(client, 2, second) == [200, 429]
    refused = client.ask("/echo", headers=second)
    assert '"all-rpm"' in refused.header("ratelimit")
    assert statuses(client, 1) == [200]  # a named user is not one of them


def test_headers_say_what_is_left(limited, clock):
    rig = limited(requests_per_minute=60, requests_per_hour=1000)
    client = rig.connect()
    answer = client.ask("/echo", headers=USER)
    assert answer.header("ratelimit-policy") == '"rpm";q=60;w=60, "rph";q=1000;w=3600'
    assert answer.header("ratelimit") == '"rpm";r=59;t=1, "rph";r=999;t=4'
    assert answer.header("x-ratelimit-limit-requests") == "60"
    assert answer.header("x-ratelimit-remaining-requests") == "59"
    assert answer.header("x-ratelimit-reset-requests") == "1s"
    client.get("/health", USER)
    assert client.answer().header("ratelimit") is None
    statuses(client, 59)
    refused = client.ask("/echo", headers=USER)
    assert refused.header("ratelimit").startswith('"rpm";r=0;t=1')
    assert refused.header("x-ratelimit-remaining-requests") == "0"
    assert 1000 <= int(refused.header("retry-after-ms")) <= 1100
    assert refused.header("x-should-retry") is None


def test_a_wait_that_no_sdk_obeys_is_said_to_be_one(limited, clock):
    rig = limited(requests_per_hour=1)
    client = rig.connect()
    assert statuses(client, 1) == [200]
    refused = client.ask("/echo", headers=USER)
    assert refused.header("x-should-retry") == "false"
    assert int(refused.header("retry-after")) >= 3600


def test_a_refused_request_costs_nothing(limited, clock):
    rig = limited(requests_per_minute=1, requests_per_hour=100)
    client = rig.connect()
    assert statuses(client, 50) == [200] + [429] * 49
    clock.ns += MINUTE_NS
    assert client.ask("/echo", headers=USER).header("ratelimit").split(", ")[1].startswith('"rph";r=99')


# ---- tokens


def left(answer):
    return int(answer.header("x-ratelimit-remaining-tokens"))


@pytest.mark.parametrize("stream", [0, 1])
def test_tokens_are_reserved_by_an_estimate_and_settled_by_what_was_used(limited, clock, stream):
    rig = limited(tokens_per_minute=6000)
    client = rig.connect()
    first = client.ask(f"/used?prompt=100&completion=900&stream={stream}", b"sixteen bytes...", USER)
    assert left(first) == 6000 - (4 + 256)  # a quarter of its bytes, and an answer's length for a start
    until(lambda: rig.in_flight() == 0, "it is settled")
    second = client.ask("/used", b"sixteen bytes...", USER)
    assert left(second) == 6000 - 1000 - (4 + 256 + (900 - 256) // 16)  # and the length is learned


def test_tokens_run_out_and_come_back(limited, clock):
    rig = limited(tokens_per_minute=600)
    client = rig.connect()
    assert (
        client.ask("/used?prompt=1000&completion=500", b"{}", USER).status == 200
    )  # more than there is: a debt
    until(lambda: rig.in_flight() == 0, "it is settled")
    refused = client.ask("/used", b"{}", USER)
    assert (refused.status, code(refused)) == (429, "rate_limit_exceeded")
    assert left(refused) == 0
    wait_ms = int(refused.header("retry-after-ms"))
    assert 90_000 < wait_ms < 140_000  # 900 tokens of debt, and this request's own, at 10 a second
    assert client.ask("/used", b"{}", OTHER).status == 200
    clock.ns += 140 * SECOND_NS
    assert client.ask("/used", b"{}", USER).status == 200


def test_an_answer_that_is_an_error_costs_a_request_and_no_tokens(limited, clock):
    rig = limited(requests_per_hour=100, tokens_per_minute=6000)
    client = rig.connect()
    failed = client.ask("/server_error", b"sixteen bytes...", USER)
    assert (failed.status, left(failed)) == (500, 6000 - 260)
    until(lambda: rig.in_flight() == 0, "it is settled")
    second = client.ask("/used", b"sixteen bytes...", USER)
    assert left(second) == 6000 - 260
    assert second.header("x-ratelimit-remaining-requests") == "98"


def test_tokens_of_a_request_that_died_unserved_are_given_back(limited):
    rig = limited(tokens_per_minute=1000)
    rig.state("FAILED", wanted=False)
    client = rig.connect()
    got = [client.ask("/used", b"{}", USER) for _ in range(8)]
    assert [answer.status for answer in got] == [503] * 8
    assert len({left(answer) for answer in got}) == 1
