"""The scripts of the shared store, in a real Redis, beside the limiter in memory: the same verdicts at the same times.

The scripts know no other time than Redis's own. They answer with it, and the oracle is told that.
"""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor.ratelimit import store_script
from supervisor.ratelimit.gcra import Rate
from supervisor.ratelimit.limiter import Grant, Limiter, standings
from supervisor.ratelimit.pools import DAY_NS, Limit, Pool, Unit
from tests.support.redis_server import RedisServer

LEASE_US = 30_000_000
US = 1000
HALF_A_YEAR_US = 2**44  # a debt that is kept in full, thirty times over


@pytest.fixture(scope="module")
def server():
    with RedisServer() as it, it.client() as client:
        yield client


class Scripts:
    """Asks Redis what the limiter in memory is asked."""

    def __init__(self, client, pools, shared):
        self.client = client
        self.client.flushdb()
        self.pools = pools
        self.shared = shared
        self.decide, self.finish, self.renew = [
            client.register_script(store_script.source(name)) for name in store_script.NAMES
        ]
        self.leases = 0

    def places(self, client, pool):
        places = [store_script.own_place(self.pools[pool], client)]
        if pool in self.shared:
            places.append(store_script.shared_place(self.shared[pool]))
        return places

    def admit(self, client, pool, tokens):
        places = self.places(client, pool)
        pools = [place.pool for place in places]
        self.leases += 1
        lease = f"lease-{self.leases}"
        words = [lease, LEASE_US, *[store_script.charge(one, tokens) for one in pools]]
        answer = self.decide(keys=store_script.keys(places), args=words)
        return lease, store_script.decided(answer.encode(), pools)

    def end(self, lease, client, pool, words):
        """``words``: for one pool."""
        places = self.places(client, pool)
        answer = self.finish(
            keys=store_script.keys(places), args=[lease, *[words(place.pool) for place in places]]
        )
        done, now_us = map(int, answer.split())
        return done == 1, now_us * US

    def settle(self, lease, client, pool, tokens, used):
        return self.end(lease, client, pool, lambda one: store_script.settlement(one, tokens, used))

    def refund(self, lease, client, pool, tokens):
        return self.end(lease, client, pool, lambda one: store_script.refund(one, tokens))


quotas = st.one_of(st.integers(1, 12), st.integers(1, 10**9))
windows = st.one_of(
    st.integers(1, 20_000),  # us: buckets that refill while the test runs
    st.sampled_from([60 * 10**6, 3600 * 10**6, 86_400 * 10**6]),
)
rates = st.builds(lambda quota, window_us: Rate(quota, window_us * US), quotas, windows)
limits = st.lists(
    st.builds(Limit, st.sampled_from(["one", "two", "three"]), st.sampled_from(Unit), rates),
    max_size=3,
    unique_by=lambda limit: limit.name,
)


def a_pool(name):
    return st.builds(Pool, st.just(name), limits.map(tuple), st.one_of(st.none(), st.integers(1, 3)))


steps = st.one_of(
    st.tuples(
        st.just("admit"),
        st.sampled_from(["ann", "bob", "c" * 200]),
        st.sampled_from(["plain", "both"]),
        st.one_of(st.integers(0, 20), st.integers(0, 2 * 10**9)),
    ),
    st.tuples(st.just("settle"), st.integers(0, 9), st.one_of(st.none(), st.integers(0, 3 * 10**9))),
    st.tuples(st.just("refund"), st.integers(0, 9)),
)


def bounded(used, pools):
    """No more than half a year's worth of any limit, so that no debt is cut off."""
    terms = [terms for pool in pools for terms in pool.terms]
    return min(
        [
            used,
            *[HALF_A_YEAR_US * US * quota // window_ns for quota, window_ns, of_tokens in terms if of_tokens],
        ]
    )


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(a_pool("plain"), a_pool("both"), a_pool("both"), st.lists(steps, max_size=30))
def test_every_verdict_is_the_one_in_memory(server, plain, both, all_of_both, sequence):
    pools, shared = {"plain": plain, "both": both}, {"both": all_of_both}
    scripts = Scripts(server, pools, shared)
    oracle = Limiter({"anonymous": Pool("anonymous"), **pools}, shared=shared)
    running = []
    for step in sequence:
        if step[0] == "admit":
            _, name, pool, tokens = step
            client = f"{name} of {pool}"  # an account in Redis belongs to a client in a pool
            lease, verdict = scripts.admit(client, pool, tokens)
            expected = oracle.admit(client, pool, tokens, verdict.now_ns)
            assert verdict.admitted == isinstance(expected, Grant)
            if isinstance(expected, Grant):
                running.append((lease, client, pool, tokens, expected))
                told = expected.standings(verdict.now_ns)
            else:
                assert store_script.refusal(verdict.accounts, tokens, verdict.now_ns) == expected
                told = oracle.standings(client, pool, verdict.now_ns)
            found = [one for account in verdict.accounts for one in standings(account, verdict.now_ns)]
            assert found == told
        elif running:
            lease, client, pool, tokens, grant = running.pop(step[1] % len(running))
            if step[0] == "settle":
                used = step[2] and bounded(step[2], [place.pool for place in scripts.places(client, pool)])
                known, now_ns = scripts.settle(lease, client, pool, tokens, used)
                grant.settle(used, now_ns)
            else:
                known, now_ns = scripts.refund(lease, client, pool, tokens)
                grant.refund(now_ns)
            assert known
    server.flushdb()


def test_a_debt_for_longer_than_anybody_lives_is_cut_and_stays_a_number(server):
    limit = Limit("tpd", Unit.TOKENS, Rate(7, DAY_NS))
    scripts = Scripts(server, {"plain": Pool("plain", (limit,))}, {})
    for _ in range(5):  # each adds as much as one settlement can
        lease, verdict = scripts.admit("ann", "plain", 0)
        if not verdict.admitted:
            break
        scripts.settle(lease, "ann", "plain", 0, 10**18)
    assert not verdict.admitted
    owed_us = verdict.accounts[0].tats[0] // (7 * US)
    assert verdict.now_ns // US + 2**49 < owed_us <= 2**52
    server.set(scripts.places("ann", "plain")[0].tats, f"{2**52 - 1} 6")
    lease, verdict = scripts.admit("ann", "plain", 7)
    assert verdict.accounts[0].tats == [((2**52 - 1) * 7 + 6) * US]
    assert store_script.refusal(verdict.accounts, 7, verdict.now_ns).wait_ns > 10**18


def test_finishing_twice_is_finishing_once(server):
    limit = Limit("rpd", Unit.REQUESTS, Rate(10, DAY_NS))
    scripts = Scripts(server, {"plain": Pool("plain", (limit,))}, {})
    lease, _ = scripts.admit("ann", "plain", 0)
    scripts.admit("ann", "plain", 0)
    assert [scripts.refund(lease, "ann", "plain", 0)[0] for _ in range(3)] == [True, False, False]
    _, verdict = scripts.admit("ann", "plain", 0)
    assert [one.remaining for one in standings(verdict.accounts[0], verdict.now_ns)] == [8]


def test_a_lease_that_ended_stops_counting_unless_it_is_renewed(server):
    scripts = Scripts(server, {"plain": Pool("plain", (), 1)}, {})
    (place,) = scripts.places("ann", "plain")
    _, first = scripts.admit("ann", "plain", 0)
    assert first.admitted
    assert not scripts.admit("ann", "plain", 0)[1].admitted
    server.zadd(place.leases, {"lease-1": first.now_ns // US})  # as if it had just ended
    assert scripts.renew(keys=[place.leases], args=[LEASE_US, "lease-1"]).split()[0] == "1"
    assert not scripts.admit("ann", "plain", 0)[1].admitted
    server.zadd(place.leases, {"lease-1": first.now_ns // US})
    assert scripts.admit("ann", "plain", 0)[1].admitted
    assert server.zcard(place.leases) == 1  # the old one is gone
