"""Who is refused without asking Redis: for as long as Redis would, and never for longer."""

import pytest

from supervisor.ratelimit import store_refusals
from supervisor.ratelimit.account import Account
from supervisor.ratelimit.gcra import SECOND_NS
from supervisor.ratelimit.limiter import Refused
from supervisor.ratelimit.pools import MINUTE_NS, pool
from supervisor.ratelimit.store_refusals import MAX_AGE_NS, Refusals
from supervisor.ratelimit.store_script import Decided

NOW = 10**12
POOL = pool("gold", requests_per_minute=60, tokens_per_minute=1000, concurrent=1)


def refused(*, wait_ns=SECOND_NS, tokens_used=0, in_flight=0, at_ns=NOW):
    """Redis has no request left for ``wait_ns``, and has given out so many tokens."""
    account = Account(POOL)
    account.in_flight = in_flight
    account.tats = [
        (NOW + wait_ns + MINUTE_NS) * 60 - MINUTE_NS,
        NOW * 1000 + tokens_used * MINUTE_NS,
    ]
    return Decided(False, at_ns, (account,))


@pytest.fixture
def subject():
    return Refusals()


def find(subject, after_ns, tokens=0, client="ann"):
    return subject.find(client, "gold", tokens, NOW + after_ns)


def test_the_wait_gets_shorter_until_it_is_over(subject):
    subject.keep("ann", "gold", refused(wait_ns=SECOND_NS // 2))
    assert find(subject, 0) == Refused(SECOND_NS // 2, "rpm", shared=False)
    assert find(subject, SECOND_NS // 2 - 1) == Refused(1, "rpm", shared=False)
    assert find(subject, SECOND_NS // 2) is None


def test_who_was_not_refused_is_not(subject):
    subject.keep("ann", "gold", refused())
    assert find(subject, 0, client="bob") is None
    assert subject.find("ann", "silver", 0, NOW) is None


def test_a_smaller_request_may_fit(subject):
    subject.keep("ann", "gold", refused(wait_ns=0, tokens_used=900))
    assert find(subject, 0, tokens=100) is None
    assert find(subject, 0, tokens=101) == Refused(MINUTE_NS // 1000, "tpm", shared=False)


def test_whether_a_request_has_ended_is_asked_each_time(subject):
    subject.keep("ann", "gold", refused(wait_ns=0, in_flight=1))
    assert find(subject, 0) is None
    assert subject.standings("ann", "gold", NOW)


def test_a_long_wait_is_asked_about_once_a_second(subject):
    subject.keep("ann", "gold", refused(wait_ns=30 * SECOND_NS))
    assert find(subject, MAX_AGE_NS) is not None
    assert find(subject, MAX_AGE_NS + 1) is None


def test_what_is_given_back_makes_it_ask(subject):
    subject.keep("ann", "gold", refused())
    subject.forget("ann", "gold")
    subject.forget("ann", "gold")
    assert find(subject, 0) is None


def test_the_newest_answer_counts(subject):
    subject.keep("ann", "gold", refused(wait_ns=SECOND_NS))
    subject.keep("ann", "gold", refused(wait_ns=2 * SECOND_NS))
    assert find(subject, 0).wait_ns == 2 * SECOND_NS


def test_how_the_limits_stand_now(subject):
    subject.keep("ann", "gold", refused(wait_ns=SECOND_NS))
    requests, tokens = subject.standings("ann", "gold", NOW + SECOND_NS // 4)
    assert (requests.remaining, requests.reset_ns) == (0, SECOND_NS * 3 // 4)
    assert (tokens.remaining, tokens.reset_ns) == (1000, 0)
    assert subject.standings("bob", "gold", NOW) == []


def test_a_flood_of_forged_names_pushes_out_the_oldest(subject, monkeypatch):
    monkeypatch.setattr(store_refusals, "MAX_KEPT", 2)
    for number, client in enumerate(["ann", "bob", "ann", "cid"]):
        subject.keep(client, "gold", refused(at_ns=NOW + number))
    assert repr(subject) == "<Refusals of 2 clients>"
    assert [client for client in ("ann", "bob", "cid") if find(subject, 4, client=client)] == ["ann", "cid"]
