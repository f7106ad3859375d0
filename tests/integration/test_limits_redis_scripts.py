"""The scripts of the shared store, in a real Redis, beside the limiter in memory: the same verdicts at the same times.

The scripts know no other time than Redis's own. They answer with it, and the oracle is told that.
"""

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from supervisor.ratelimit import store_script
from supervisor.ratelimit.gcra import Rate
from supervisor.ratelimit.limiter import Grant, Limiter, standings
from supervisor.ratelimit.pools import DAY_NS, MINUTE_NS, Limit, Pool, Unit
from tests.support.redis_server import RedisServer

LEASE_US = 30_000_000
US = 1000
LIFETIME_NS = 10**18  # 31 years
HALF_A_YEAR_US = 2**44  # a debt that is kept in full, thirty times over


@pytest.fixture(scope="module")
def server():
    with RedisServer() as it, it.client() as client:
        yield client


class Scripts:
    """Asks Redis what the limiter in memory is asked. ``clocked``: by a clock that `at` sets, written into the scripts
    in the place of Redis's own.
    """

    def __init__(self, client, pools, shared, *, clocked=False):
        self.client = client
        self.client.flushdb()
        self.pools = pools
        self.shared = shared
        self.decide, self.finish, self.renew = [
            client.register_script(self.source(name, clocked)) for name in store_script.NAMES
        ]
        self.leases = 0
        self.lease_us = 2**49 if clocked else LEASE_US  # the time jumps

    @staticmethod
    def source(name, clocked):
        source = store_script.source(name)
        assert source.count("redis.call('TIME')") == 1
        return (
            source.replace("redis.call('TIME')", "redis.call('HMGET', 'clock', 's', 'us')")
            if clocked
            else source
        )

    def at(self, now_us):
        self.client.hset("clock", mapping=dict(zip(("s", "us"), divmod(now_us, 10**6), strict=True)))

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
        words = [lease, self.lease_us, *[store_script.charge(one, tokens) for one in pools]]
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
    server.set(scripts.places("ann", "plain")[0].tats, f"tpd 7 86400000000 {2**52 - 1} 6")
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


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(limits, limits, st.lists(st.integers(0, 2 * 10**9), max_size=5))
def test_under_other_limits_what_was_used_stays_used(server, before, after, requests):
    """As `Limiter.configure` has it; where a rate has changed, to the microsecond."""
    after = [one for one in after if one.rate.window_ns >= MINUTE_NS]  # of which a microsecond is no part
    after = [one for one in after if all(one.unit is old.unit for old in before if old.name == one.name)]
    pools = {"plain": Pool("plain", tuple(before))}
    scripts = Scripts(server, pools, {})
    oracle = Limiter({"anonymous": Pool("anonymous"), **pools})
    for tokens in requests:
        _, verdict = scripts.admit("ann", "plain", tokens)
        oracle.admit("ann", "plain", tokens, verdict.now_ns)
    pools["plain"] = Pool("plain", tuple(after))
    oracle.configure({"anonymous": Pool("anonymous"), **pools})
    _, verdict = scripts.admit("ann", "plain", 0)
    assume(verdict.admitted == isinstance(oracle.admit("ann", "plain", 0, verdict.now_ns), Grant))
    told = oracle.standings("ann", "plain", verdict.now_ns)
    found = standings(verdict.accounts[0], verdict.now_ns)
    assert [one.limit for one in found] == [one.limit for one in told]
    for ours, theirs in zip(found, told, strict=True):
        one_us = -(-ours.limit.rate.quota * US // ours.limit.rate.window_ns)
        assert abs(ours.remaining - theirs.remaining) <= 2 * one_us
        if min(ours.reset_ns, theirs.reset_ns) > LIFETIME_NS:  # it may be cut
            continue
        if (ours.remaining > 0) == (theirs.remaining > 0):
            assert abs(ours.reset_ns - theirs.reset_ns) <= 2 * US


BEGIN_US = 1_795_000_000_000_000
jumps = st.one_of(st.sampled_from(["refused", "refused less 1", "1 us"]), st.integers(0, 10**8))
clocked_steps = st.one_of(
    st.tuples(st.just("admit"), st.one_of(st.integers(0, 3), st.integers(0, 2 * 10**9)), jumps),
    st.tuples(st.just("settle"), st.integers(0, 10**6), jumps),
    st.tuples(st.just("refund"), st.just(0), jumps),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(a_pool("plain"), st.lists(clocked_steps, max_size=25))
def test_the_first_microsecond_at_which_it_is_admitted_is_the_same(server, plain, sequence):
    pools = {"plain": plain}
    scripts = Scripts(server, pools, {}, clocked=True)
    oracle = Limiter({"anonymous": Pool("anonymous"), **pools})
    running, now_us, wait_us = [], BEGIN_US, 1
    for kind, number, jump in sequence:
        now_us += (
            jump
            if isinstance(jump, int)
            else {"refused": wait_us, "refused less 1": wait_us - 1, "1 us": 1}[jump]
        )
        scripts.at(now_us)
        if kind == "admit":
            lease, verdict = scripts.admit("ann", "plain", number)
            assert verdict.now_ns == now_us * US
            expected = oracle.admit("ann", "plain", number, verdict.now_ns)
            assert verdict.admitted == isinstance(expected, Grant)
            if isinstance(expected, Grant):
                running.append((lease, number, expected))
            else:
                assert store_script.refusal(verdict.accounts, number, verdict.now_ns) == expected
                wait_us = -(-expected.wait_ns // US)
                if wait_us > 10**12:
                    wait_us = 1
        elif running:
            lease, reserved, grant = running.pop(0)
            if kind == "settle":
                used = bounded(number, [plain])
                known, _ = scripts.settle(lease, "ann", "plain", reserved, used)
                grant.settle(used, now_us * US)
            else:
                known, _ = scripts.refund(lease, "ann", "plain", reserved)
                grant.refund(now_us * US)
            assert known


@pytest.mark.parametrize("part", range(7))
def test_parts_are_carried_into_microseconds(server, part):
    scripts = Scripts(
        server, {"plain": Pool("plain", (Limit("tpd", Unit.TOKENS, Rate(7, DAY_NS)),))}, {}, clocked=True
    )
    scripts.at(BEGIN_US)
    server.set(scripts.places("ann", "plain")[0].tats, f"tpd 7 86400000000 {BEGIN_US + 5} {part}")
    for tokens in (1, 2, 3):
        _, verdict = scripts.admit("ann", "plain", tokens)
        assert verdict.admitted
    assert verdict.accounts[0].tats == [((BEGIN_US + 5) * 7 + part + 6 * 86_400_000_000) * US]


def test_more_given_back_than_there_is_leaves_a_full_bucket(server):
    scripts = Scripts(server, {"plain": Pool("plain", (Limit("rpd", Unit.REQUESTS, Rate(10, DAY_NS)),))}, {})
    lease, _ = scripts.admit("ann", "plain", 0)
    (place,) = scripts.places("ann", "plain")
    server.delete(place.tats)  # forgotten, or lost
    assert scripts.refund(lease, "ann", "plain", 0)[0]
    assert server.get(place.tats) == "rpd 10 86400000000 0 0"
    assert server.pttl(place.tats) <= 1000


@pytest.mark.parametrize("quota", [1, 2, 7, 60])
def test_refused_until_the_last_microsecond_and_not_for_longer(server, quota):
    pools = {"plain": Pool("plain", (Limit("rpm", Unit.REQUESTS, Rate(quota, MINUTE_NS)),))}
    scripts = Scripts(server, pools, {}, clocked=True)
    scripts.at(BEGIN_US)
    assert all(scripts.admit("ann", "plain", 0)[1].admitted for _ in range(quota))
    _, refused = scripts.admit("ann", "plain", 0)
    wait_us = -(-store_script.refusal(refused.accounts, 0, refused.now_ns).wait_ns // US)
    assert wait_us == -(-MINUTE_NS // US // quota)
    scripts.at(BEGIN_US + wait_us - 1)
    assert not scripts.admit("ann", "plain", 0)[1].admitted
    scripts.at(BEGIN_US + wait_us)
    assert scripts.admit("ann", "plain", 0)[1].admitted
