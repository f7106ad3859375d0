"""Who is admitted, to the nanosecond; what a refusal costs (nothing); what is kept of whom."""

import itertools
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.ratelimit import limiter as module
from supervisor.ratelimit.gcra import SECOND_NS
from supervisor.ratelimit.limiter import Grant, Limiter, Refused, Standing
from supervisor.ratelimit.pools import DAY_NS, HOUR_NS, MINUTE_NS, Limit, Pool, Unit, pool

NOW = 10**15 + 1


def limiter(shared=None, **limits):
    pools = {"anonymous": pool("anonymous", **limits), "gold": pool("gold", requests_per_minute=1)}
    return Limiter(pools, shared={"anonymous": pool("anonymous", shared=True, **shared)} if shared else None)


def admitted(answer):
    assert isinstance(answer, Grant), answer
    return answer


def serve(subject, client, now, tokens=0, pool_name="anonymous"):
    answer = subject.admit(client, pool_name, tokens, now)
    if isinstance(answer, Grant):
        answer.settle(None, now)
    return answer


def test_sixty_in_a_minute_then_none_while_another_client_is_untouched():
    subject = limiter(requests_per_minute=60)
    for _ in range(60):
        admitted(serve(subject, "a", NOW))
    assert serve(subject, "a", NOW) == Refused(SECOND_NS, "rpm", shared=False)
    assert isinstance(serve(subject, "a", NOW + SECOND_NS - 1), Refused)
    admitted(serve(subject, "b", NOW))
    admitted(serve(subject, "a", NOW + SECOND_NS))
    assert serve(subject, "a", NOW + SECOND_NS) == Refused(SECOND_NS, "rpm", shared=False)


def test_a_burst_after_idle():
    subject = limiter(requests_per_minute=60)
    for now in (NOW, NOW + MINUTE_NS):
        answers = [serve(subject, "a", now) for _ in range(61)]
        assert [isinstance(answer, Grant) for answer in answers] == [True] * 60 + [False]


def test_the_hour_limit():
    subject = limiter(requests_per_minute=60, requests_per_hour=100)
    for number in range(102):  # two of them came back meanwhile, one each 36 seconds
        admitted(serve(subject, "a", NOW + number * SECOND_NS))
    late = NOW + 101 * SECOND_NS
    assert serve(subject, "a", late) == Refused(7 * SECOND_NS, "rph", shared=False)
    assert isinstance(serve(subject, "a", late + 7 * SECOND_NS - 1), Refused)
    admitted(serve(subject, "a", late + 7 * SECOND_NS))


def test_a_refused_request_costs_nothing_in_any_bucket():
    subject = limiter(requests_per_minute=60, requests_per_hour=2, tokens_per_minute=100)
    for _ in range(2):
        admitted(serve(subject, "a", NOW, tokens=10))
    before = subject.standings("a", "anonymous", NOW)
    for _ in range(50):
        assert serve(subject, "a", NOW, tokens=10).limit == "rph"
    assert subject.standings("a", "anonymous", NOW) == before
    assert [one.remaining for one in before] == [58, 0, 80]


def test_as_many_at_once_as_the_pool_allows():
    subject = limiter(concurrent=2)
    first, _ = (admitted(subject.admit("a", "anonymous", 0, NOW)) for _ in range(2))
    assert subject.admit("a", "anonymous", 0, NOW) == Refused(SECOND_NS, "concurrent", shared=False)
    admitted(subject.admit("b", "anonymous", 0, NOW))
    first.settle(None, NOW)
    first.settle(None, NOW)  # an end that is told twice frees one place
    first.refund(NOW)
    admitted(subject.admit("a", "anonymous", 0, NOW))
    assert isinstance(subject.admit("a", "anonymous", 0, NOW), Refused)


def test_tokens_are_reserved_and_settled():
    subject = limiter(tokens_per_minute=6000)
    grant = admitted(subject.admit("a", "anonymous", 4000, NOW))
    assert subject.admit("a", "anonymous", 4000, NOW) == Refused(20 * SECOND_NS, "tpm", shared=False)
    grant.settle(1000, NOW)
    assert grant.standings(NOW)[0].remaining == 5000
    grant = admitted(subject.admit("a", "anonymous", 4000, NOW))
    grant.settle(7000, NOW)  # more than there was: a debt
    assert subject.admit("a", "anonymous", 100, NOW).wait_ns == 21 * SECOND_NS


def test_more_tokens_than_a_bucket_holds_are_served_and_owed():
    subject = limiter(tokens_per_minute=100)
    grant = admitted(subject.admit("a", "anonymous", 5000, NOW))
    assert grant.standings(NOW)[0].remaining == 0
    grant.settle(150, NOW)
    assert subject.admit("a", "anonymous", 100, NOW).wait_ns == 90 * SECOND_NS


def test_more_than_was_reserved_is_taken_when_it_is_settled():
    subject = limiter(tokens_per_minute=100)
    grant = admitted(subject.admit("a", "anonymous", 10, NOW))
    grant.settle(60, NOW + MINUTE_NS)  # the bucket is full again by then
    assert grant.standings(NOW + MINUTE_NS)[0].remaining == 50


def test_tokens_of_a_day():
    subject = limiter(tokens_per_day=86_400)
    admitted(serve(subject, "a", NOW, tokens=86_400))
    assert serve(subject, "a", NOW, tokens=5) == Refused(5 * SECOND_NS, "tpd", shared=False)
    admitted(serve(subject, "a", NOW + DAY_NS, tokens=86_400))


def test_a_request_that_died_unserved_is_refunded():
    limits = {"requests_per_minute": 1, "tokens_per_minute": 100, "concurrent": 1}
    subject = limiter(limits, **limits)
    for _ in range(20):
        admitted(subject.admit("a", "anonymous", 100, NOW)).refund(NOW)
    whole = [(one.remaining, one.reset_ns) for one in subject.standings("a", "anonymous", NOW)]
    assert whole == [(1, 0), (100, 0), (1, 0), (100, 0)]


def test_the_pool_has_a_bucket_in_common_beside_each_address_own():
    subject = limiter({"requests_per_minute": 5, "concurrent": 4}, requests_per_minute=3)
    for _ in range(3):
        admitted(serve(subject, "a", NOW))
    assert serve(subject, "a", NOW) == Refused(20 * SECOND_NS, "rpm", shared=False)
    for _ in range(2):
        admitted(serve(subject, "b", NOW))
    assert serve(subject, "b", NOW) == Refused(12 * SECOND_NS, "all-rpm", shared=True)
    left = {one.limit.name: one.remaining for one in subject.standings("b", "anonymous", NOW)}
    assert left == {"rpm": 1, "all-rpm": 0}
    admitted(serve(subject, "k", NOW, pool_name="gold"))  # another pool has no part in it


def test_the_pool_is_full_at_once():
    subject = limiter({"concurrent": 2})
    grants = [admitted(subject.admit(client, "anonymous", 0, NOW)) for client in "ab"]
    assert subject.admit("c", "anonymous", 0, NOW) == Refused(SECOND_NS, "concurrent", shared=True)
    grants[0].refund(NOW)
    admitted(subject.admit("c", "anonymous", 0, NOW))


def test_a_client_of_another_pool_starts_anew_and_an_unknown_pool_is_the_default_one():
    subject = limiter(requests_per_minute=2)
    admitted(serve(subject, "a", NOW, pool_name="gold"))
    assert isinstance(serve(subject, "a", NOW, pool_name="gold"), Refused)
    for _ in range(2):
        admitted(serve(subject, "a", NOW, pool_name="nobody's"))
    assert isinstance(serve(subject, "a", NOW), Refused)


def test_standings_tell_when_the_limit_is_whole_or_the_next_unit_is_there():
    subject = limiter(requests_per_minute=2)
    admitted(serve(subject, "a", NOW))
    (limit,) = pool("anonymous", requests_per_minute=2).limits
    assert subject.standings("a", "anonymous", NOW) == [Standing(limit, 1, 30 * SECOND_NS)]
    admitted(serve(subject, "a", NOW))
    assert subject.standings("a", "anonymous", NOW + 1) == [Standing(limit, 0, 30 * SECOND_NS - 1)]


events = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 30), st.integers(0, 20 * SECOND_NS)), max_size=80
)


@given(events)
def test_no_window_ever_holds_more_than_twice_the_quota_and_no_refusal_waits_in_vain(asked):
    subject = limiter({"requests_per_minute": 8}, requests_per_minute=5, tokens_per_minute=60)
    now, served = NOW, []
    for client, tokens, later in asked:
        now += later
        answer = serve(subject, client, now, tokens)
        if isinstance(answer, Grant):
            served.append((now, client, tokens))
            continue
        then = now + answer.wait_ns
        twin = limiter({"requests_per_minute": 8}, requests_per_minute=5, tokens_per_minute=60)
        for at, who, spent in served:
            serve(twin, who, at, spent)
        assert isinstance(serve(twin, client, then - 1, tokens), Refused)
        admitted(serve(twin, client, then, tokens))
    for at, client, _ in served:
        window = [row for row in served if at <= row[0] < at + MINUTE_NS]
        assert len(window) < 16
        assert len([row for row in window if row[1] == client]) < 10


def test_who_has_no_limits_is_not_known_and_has_nothing_to_end():
    subject = limiter()
    grant = admitted(subject.admit("a", "anonymous", 5, NOW))
    assert grant.over
    for _ in range(2):
        grant.settle(7, NOW)
        grant.refund(NOW)
    assert grant.standings(NOW) == subject.standings("a", "anonymous", NOW) == []
    assert len(subject) == 0


# ---- other limits while running


def test_what_was_used_stays_used_under_other_quotas_and_a_new_limit_begins_full():
    subject = limiter({"requests_per_minute": 100}, requests_per_minute=60, tokens_per_minute=500)
    for _ in range(20):
        admitted(serve(subject, "a", NOW, tokens=10))
    subject.configure(
        {"anonymous": pool("anonymous", requests_per_minute=30, requests_per_hour=90, tokens_per_minute=800)},
        {"anonymous": pool("anonymous", requests_per_minute=25, shared=True)},
    )
    left = {one.limit.name: one.remaining for one in subject.standings("a", "anonymous", NOW)}
    assert left == {"rpm": 10, "rph": 90, "tpm": 600, "all-rpm": 5}
    for _ in range(5):
        admitted(serve(subject, "a", NOW))
    assert serve(subject, "b", NOW).limit == "all-rpm"


def test_what_is_over_a_smaller_quota_is_waited_for():
    subject = limiter(requests_per_minute=60)
    for _ in range(50):
        admitted(serve(subject, "a", NOW))
    subject.configure({"anonymous": pool("anonymous", requests_per_minute=30)})
    assert serve(subject, "a", NOW) == Refused(21 * 2 * SECOND_NS, "rpm", shared=False)


def test_who_is_in_flight_keeps_the_place_and_ends_as_it_was_charged():
    subject = limiter({"concurrent": 9}, concurrent=5, tokens_per_minute=100)
    grants = [admitted(subject.admit("a", "anonymous", 50, NOW))]
    subject.configure({"anonymous": pool("anonymous", concurrent=2, tokens_per_minute=10_000)})
    grants.append(admitted(subject.admit("a", "anonymous", 0, NOW)))
    assert subject.admit("a", "anonymous", 0, NOW).limit == "concurrent"
    grants[0].settle(70, NOW)
    admitted(subject.admit("a", "anonymous", 0, NOW))
    assert subject.standings("a", "anonymous", NOW)[0].remaining == 10_000 - 70


@pytest.mark.parametrize(("end", "left"), [("settle", 10_000 - 150), ("refund", 10_000)])
def test_more_tokens_than_the_bucket_held_then(end, left):
    subject = limiter(tokens_per_minute=100, requests_per_minute=10)
    grant = admitted(subject.admit("a", "anonymous", 5000, NOW))  # charged 100
    subject.configure({"anonymous": pool("anonymous", tokens_per_minute=10_000, requests_per_hour=10)})
    assert {one.remaining for one in subject.standings("a", "anonymous", NOW)} == {10_000 - 100, 10}
    if end == "settle":
        grant.settle(150, NOW)
    else:
        grant.refund(NOW)
    assert [one.remaining for one in grant.standings(NOW)] == [10, left]


def test_a_request_gives_nothing_back_to_a_limit_that_it_was_never_charged_for():
    subject = limiter(requests_per_minute=10)
    early = admitted(subject.admit("a", "anonymous", 0, NOW))
    subject.configure({"anonymous": pool("anonymous", requests_per_minute=10, requests_per_hour=10)})
    admitted(serve(subject, "a", NOW))
    early.refund(NOW)
    assert [one.remaining for one in subject.standings("a", "anonymous", NOW)] == [9, 9]


def test_a_limit_of_another_unit_is_another_limit():
    rate = pool("p", requests_per_minute=10).limits[0].rate
    subject = Limiter({"p": Pool("p", (Limit("rate", Unit.REQUESTS, rate),))}, default="p")
    admitted(serve(subject, "a", NOW, pool_name="p"))
    subject.configure({"p": Pool("p", (Limit("rate", Unit.TOKENS, rate),))})
    assert subject.standings("a", "p", NOW)[0].remaining == 10


def test_limits_that_come_and_go():
    subject = limiter({"requests_per_minute": 1}, requests_per_minute=1)
    admitted(serve(subject, "a", NOW))
    subject.configure({"anonymous": pool("anonymous")})
    for _ in range(9):
        admitted(serve(subject, "a", NOW))
    subject.configure(
        {"anonymous": pool("anonymous", requests_per_minute=1)},
        {"anonymous": pool("anonymous", requests_per_minute=1, shared=True)},
    )
    assert serve(subject, "a", NOW).limit == "rpm"  # what it had used before
    admitted(serve(subject, "b", NOW))  # what all had used went with the bucket of all


def test_no_default_pool_and_nothing_is_changed():
    subject = limiter(requests_per_minute=1)
    with pytest.raises(KeyError):
        subject.configure({"gold": pool("gold")})
    admitted(serve(subject, "a", NOW))
    assert isinstance(serve(subject, "a", NOW), Refused)


# ---- what is kept


def test_the_idle_that_owe_nothing_are_forgotten_and_no_verdict_changes():
    subject = limiter(requests_per_minute=60, requests_per_hour=2)
    serve(subject, "once", NOW)
    for _ in range(2):
        serve(subject, "spent", NOW)
    held = admitted(subject.admit("busy", "anonymous", 0, NOW))
    assert subject.cleanup(NOW) == 0
    assert subject.cleanup(NOW + 299 * SECOND_NS) == 0
    half = NOW + HOUR_NS // 2
    assert subject.cleanup(half) == 1  # what "once" had taken is back to the nanosecond
    assert len(subject) == 2
    assert isinstance(serve(subject, "spent", half - 1), Refused)
    held.settle(None, half)
    assert subject.cleanup(half + 700 * SECOND_NS) == 1  # "busy"
    assert subject.cleanup(half + HOUR_NS) == 1
    assert len(subject) == 0


def test_cleanup_keeps_its_interval():
    subject = limiter(requests_per_minute=60)
    subject.cleanup(NOW)
    serve(subject, "a", NOW - HOUR_NS)
    assert subject.cleanup(NOW + 300 * SECOND_NS - 1) == 0
    assert subject.cleanup(NOW + 300 * SECOND_NS) == 1


def test_a_long_list_is_cleaned_in_slices(monkeypatch):
    monkeypatch.setattr(module, "SLICE", 10)
    subject = limiter(requests_per_minute=60)
    for number in range(25):
        serve(subject, f"ip:{number}", NOW)
    later = NOW + HOUR_NS
    assert [subject.cleanup(later) for _ in range(4)] == [10, 10, 5, 0]


def test_above_the_cap_the_one_seen_longest_ago_goes():
    subject = Limiter({"anonymous": pool("anonymous", requests_per_minute=1)}, max_accounts=3)
    for client in "abc":
        admitted(serve(subject, client, NOW))
    admitted(serve(subject, "a", NOW + MINUTE_NS))
    admitted(serve(subject, "d", NOW + MINUTE_NS))
    assert len(subject) == 3
    assert isinstance(serve(subject, "a", NOW + MINUTE_NS), Refused)
    assert isinstance(serve(subject, "c", NOW), Refused)
    admitted(serve(subject, "b", NOW))


def test_a_refused_stranger_is_not_kept():
    subject = limiter({"requests_per_minute": 1}, requests_per_minute=5)
    admitted(serve(subject, "a", NOW))
    for number in range(100):
        assert isinstance(serve(subject, f"forged:{number}", NOW), Refused)
    assert len(subject) == 1


@pytest.mark.slow
def test_a_million_clients_stay_under_100_mb_and_are_gone_after_cleanup():
    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    if sys.platform != "linux":
        pytest.skip("reads /proc")
    subject = limiter(requests_per_minute=60, requests_per_hour=1000, concurrent=4)
    before = resident()
    for number in range(1_000_000):
        serve(subject, f"ip:2001:db8:{number:x}::/64", NOW + number)
    assert resident() - before < 100e6
    later = NOW + HOUR_NS
    cleaned = itertools.takewhile(bool, (subject.cleanup(later) for _ in range(1000)))
    assert sum(cleaned) == module.MAX_ACCOUNTS
    assert len(subject) == 0
    assert resident() - before < 20e6
