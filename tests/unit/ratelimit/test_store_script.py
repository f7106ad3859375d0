"""What the scripts are told and what their answers mean; that it agrees with Redis is tests/integration's business."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.ratelimit import store_script
from supervisor.ratelimit.account import Account
from supervisor.ratelimit.gcra import SECOND_NS, Rate
from supervisor.ratelimit.limiter import Refused, standings
from supervisor.ratelimit.pools import DAY_NS, Limit, Pool, Unit, pool

NOW = 10**18  # ns
GOLD = pool("gold", requests_per_minute=60, tokens_per_day=1000, concurrent=3)
ALL_GOLD = pool("gold", requests_per_hour=7, shared=True)


def slot_of(key):
    """The part that decides about the place in a cluster."""
    return re.search(r"\{(.+?)\}", key)[1]


def limits_in(words):
    """For each: its name, then integers."""
    found = words.split()
    return [(found[at], *map(int, found[at + 1 : at + 5])) for at in range(0, len(found), 5)]


# ---- keys


@pytest.mark.parametrize("client", ["ann", "{x}", "a}b{c", "c" * 200, "with spaces\n", "\udcff"])
def test_all_keys_of_one_decision_have_one_place_in_a_cluster(client):
    keys = store_script.keys([store_script.own_place(GOLD, client), store_script.shared_place(ALL_GOLD)])
    assert len(set(keys)) == 4
    assert {slot_of(key) for key in keys} == {"gold"}


def test_no_two_clients_have_one_key():
    long = "c" * 200
    hashed = store_script.own_place(GOLD, long).leases.rpartition(":")[2]
    clients = ["ann", "all", long, long + "c", hashed, f"h:{hashed}", "c:ann", "ann:lease"]
    keys = store_script.keys([store_script.own_place(GOLD, client) for client in clients])
    assert len({*keys, *store_script.keys([store_script.shared_place(GOLD)])}) == 2 * len(clients) + 2


def test_keys_are_short_whatever_the_client_is_called():
    assert max(map(len, store_script.keys([store_script.own_place(GOLD, "c" * 10_000)]))) < 120


def test_other_limits_have_the_same_accounts():
    changed = store_script.own_place(pool("gold", requests_per_minute=61), "ann")
    place = store_script.own_place(GOLD, "ann")
    assert (changed.tats, changed.leases) == (place.tats, place.leases)


def test_limits_that_cannot_be_kept_exactly():
    store_script.check(GOLD)
    for rate in (Rate(1, 1), Rate(10**9 + 1, DAY_NS)):
        with pytest.raises(ValueError, match="pool gold: odd"):
            store_script.check(Pool("gold", (Limit("odd", Unit.TOKENS, rate),)))


# ---- what is said


def test_what_a_request_costs():
    concurrent, _, limits = store_script.charge(GOLD, 10).partition(" ")
    assert concurrent == "3"
    assert limits_in(limits) == [
        ("rpm", 60, 60_000_000, 1_000_000, 0),
        ("tpd", 1000, 86_400_000_000, 864_000_000, 0),
    ]
    assert store_script.charge(GOLD, 5000).endswith(" 86400000000 0")  # the whole bucket
    assert store_script.charge(ALL_GOLD, 1) == "-1 all-rph 7 3600000000 514285714 2"


quotas = st.integers(1, store_script.MAX_QUOTA)
windows_us = st.integers(1, DAY_NS // 1000)
token_counts = st.integers(0, 10**12)


@given(quotas, windows_us, token_counts, st.one_of(st.none(), token_counts))
def test_nothing_is_rounded(quota, window_us, reserved, used):
    one = Pool("one", (Limit("tpd", Unit.TOKENS, Rate(quota, window_us * 1000)),))
    taken = min(reserved, quota)
    said = [
        (store_script.charge(one, reserved).partition(" ")[2], taken),
        (store_script.settlement(one, reserved, used), 0 if used is None else used - taken),
        (store_script.refund(one, reserved), -taken),
    ]
    for words, quantity in said:
        ((_, its_quota, its_window_us, us, part),) = limits_in(words)
        assert its_window_us == window_us
        assert its_quota == quota
        assert 0 <= part < quota
        if us < store_script.FARTHEST_US:
            assert us * quota + part == quantity * window_us
        else:
            assert quantity * window_us >= us * quota
        assert us <= store_script.FARTHEST_US


def test_no_sum_in_the_scripts_reaches_what_a_double_cannot_hold():
    assert "local LAST = 2^52" in store_script.source("decide")
    assert 2**52 + store_script.FARTHEST_US + 1 < 2**53
    assert 2 * store_script.MAX_QUOTA < 2**53


def test_only_tokens_are_settled():
    def added(words):
        return [limit[3:] for limit in limits_in(words)]

    assert added(store_script.settlement(GOLD, 10, 110)) == [(0, 0), (8_640_000_000, 0)]
    assert added(store_script.settlement(GOLD, 10, None)) == [(0, 0), (0, 0)]
    assert added(store_script.refund(GOLD, 10)) == [(-1_000_000, 0), (-864_000_000, 0)]


# ---- what is answered


def test_an_answer_is_read():
    answer = b"1 1000000000000007 2 1000000000000100 5 3 0 0 1000000000000001 6"
    found = store_script.decided(answer, [GOLD, ALL_GOLD])
    assert (found.admitted, found.now_ns) == (True, 1000000000000007_000)
    own, shared = found.accounts
    assert (own.in_flight, shared.in_flight) == (2, 0)
    assert own.tats == [(1000000000000100 * 60 + 5) * 1000, 3 * 1000 * 1000]
    assert shared.tats == [(1000000000000001 * 7 + 6) * 1000]


@pytest.mark.parametrize("answer", [b"", b"1", b"1 5", b"1 5 0 1", b"1 5 0 1 2 3", b"x"])
def test_half_an_answer_is_none(answer):
    with pytest.raises(ValueError):
        store_script.decided(answer, [GOLD])


def account(of, *, waits_s=0, in_flight=0):
    """One whose first limit admits one more request after ``waits_s``."""
    it = Account(of)
    it.in_flight = in_flight
    if waits_s:
        rate = of.limits[0].rate
        it.tats[0] = (NOW + waits_s * SECOND_NS + rate.window_ns) * rate.quota - rate.window_ns
    return it


@pytest.mark.parametrize(
    ("own", "shared", "expected"),
    [
        ({}, {}, None),
        ({"waits_s": 5}, {}, Refused(5 * SECOND_NS, "rpm", shared=False)),
        ({"waits_s": 5}, {"waits_s": 6}, Refused(6 * SECOND_NS, "all-rph", shared=True)),
        ({"waits_s": 5}, {"waits_s": 5}, Refused(5 * SECOND_NS, "rpm", shared=False)),
        ({"waits_s": 5, "in_flight": 3}, {}, Refused(5 * SECOND_NS, "rpm", shared=False)),
        ({"in_flight": 3}, {}, Refused(SECOND_NS, "concurrent", shared=False)),
        ({"in_flight": 3}, {"waits_s": 5}, Refused(5 * SECOND_NS, "all-rph", shared=True)),
        ({"in_flight": 2}, {"in_flight": 9}, None),
    ],
)
def test_why_it_is_refused(own, shared, expected):
    accounts = [account(GOLD, **own), account(ALL_GOLD, **shared)]
    assert store_script.refusal(accounts, 1, NOW) == expected


def test_what_all_share_may_be_crowded_too():
    crowded = account(pool("gold", concurrent=2, shared=True), in_flight=2)
    assert store_script.refusal([account(GOLD), crowded], 1, NOW) == Refused(
        SECOND_NS, "concurrent", shared=True
    )


def test_accounts_are_moved_to_our_clock_as_they_are():
    answer = b"0 1000000000 0 1000000500 5 0 0"
    theirs, ours = (store_script.decided(answer, [GOLD]) for _ in range(2))
    ours.move(12_345_678_901)
    assert ours.now_ns == 12_345_678_901
    assert standings(ours.accounts[0], ours.now_ns) == standings(theirs.accounts[0], theirs.now_ns)
    assert ours.accounts[0].tats[1] == 0  # full of old, and no clock is before 0
