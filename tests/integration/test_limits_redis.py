"""Two daemons' limiters on one Redis, a real one: what they admit together, and what becomes of requests without it."""

import asyncio
import itertools
import json
import time

import pytest
from structlog.testing import capture_logs

from supervisor.clock import SystemClock
from supervisor.errors import ConfigError
from supervisor.ratelimit import store_line, store_script
from supervisor.ratelimit.gcra import SECOND_NS, Rate
from supervisor.ratelimit.limiter import FREE, Grant, Limiter, Refused
from supervisor.ratelimit.limiter import standings as limiter_standings
from supervisor.ratelimit.pools import DAY_NS, Limit, Pool, Unit
from supervisor.ratelimit.store_redis import SharedGrant, SharedLimiter, Unavailable
from tests.support import certs
from tests.support.proc import eventually
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.anyio

PATIENT_S = 20.0  # a deadline that a busy machine keeps
HEALED_S = 15.0


def daily(quota, unit=Unit.REQUESTS, name="rpd"):
    """Nothing comes back while a test runs: one in 24 h / quota."""
    return Limit(name, unit, Rate(quota, DAY_NS))


def now_ns():
    return time.monotonic_ns()


class Daemon:
    """A `SharedLimiter` at work."""

    def __init__(self, url, *limits, shared=None, concurrent=None, **options):
        pools = {"anonymous": Pool("anonymous", limits, concurrent)}
        all_together = {"anonymous": shared} if shared else None
        options = {"on_failure": "local", "deadline_s": PATIENT_S, "name": "a"} | options
        self.local = Limiter(pools, shared=all_together)
        self.limiter = SharedLimiter(
            url, pools, shared=all_together, local=self.local, clock=SystemClock(), **options
        )

    async def __aenter__(self):
        self._keeper = asyncio.create_task(self.limiter.keep())
        return self.limiter

    async def die(self):
        """Without a word to Redis."""
        self._keeper.cancel()
        await asyncio.wait([self._keeper])

    async def __aexit__(self, *_):
        await self.limiter.close()
        await self.die()


@pytest.fixture
def redis():
    with RedisServer() as server:
        yield server


def is_in(limiter, state):
    return lambda: limiter.status["state"] == state


async def connected(*limiters):
    for limiter in limiters:
        await eventually(is_in(limiter, "connected"), HEALED_S)


async def away(limiter):
    await eventually(is_in(limiter, "away"), HEALED_S)


async def settled(*limiters):
    """Redis has been told everything."""
    for limiter in limiters:
        await eventually(lambda one=limiter: one.status["unsent"] == 0, HEALED_S)


# ---- together


async def test_two_daemons_admit_exactly_what_one_would(redis):
    quota, askers, each = 300, 16, 30
    async with Daemon(redis.url, daily(quota)) as one, Daemon(redis.url, daily(quota)) as two:
        verdicts = []

        async def ask(limiter):
            verdicts.extend([await limiter.admit("ann", "anonymous", 1) for _ in range(each)])

        await asyncio.gather(*[ask(limiter) for limiter in (one, two) for _ in range(askers)])
        assert len(verdicts) == 2 * askers * each
        assert sum(isinstance(verdict, SharedGrant) for verdict in verdicts) == quota
        refused = [verdict for verdict in verdicts if not isinstance(verdict, SharedGrant)]
        assert {(verdict.limit, verdict.shared) for verdict in refused} == {("rpd", False)}
        assert isinstance(await two.admit("bob", "anonymous", 1), SharedGrant)


async def test_the_bucket_of_all_is_exact_too_and_whose_it_was_is_said(redis):
    shared = Pool("anonymous", (daily(100, name="all-rpd"),))
    async with (
        Daemon(redis.url, daily(80), shared=shared) as one,
        Daemon(redis.url, daily(80), shared=shared) as two,
    ):
        asked = [
            limiter.admit(f"client {number % 3}", "anonymous", 1)
            for number in range(100)
            for limiter in (one, two)
        ]
        verdicts = await asyncio.gather(*asked)
        assert sum(isinstance(verdict, SharedGrant) for verdict in verdicts) == 100
        assert {(one.limit, one.shared) for one in verdicts if isinstance(one, Refused)} == {
            ("all-rpd", True)
        }


async def test_concurrent_requests_are_counted_over_both(redis):
    async with Daemon(redis.url, concurrent=3) as one, Daemon(redis.url, concurrent=3) as two:
        verdicts = [await limiter.admit("ann", "anonymous", 1) for limiter in (one, two, one, two)]
        assert verdicts[3] == Refused(SECOND_NS, "concurrent", shared=False)
        verdicts[0].settle(None, now_ns())
        await settled(one)
        assert isinstance(await two.admit("ann", "anonymous", 1), SharedGrant)
        assert isinstance(await one.admit("ann", "anonymous", 1), Refused)


async def test_tokens_are_settled_and_refunded_for_both(redis):
    limits = [daily(1000, Unit.TOKENS, "tpd")]
    async with Daemon(redis.url, *limits) as one, Daemon(redis.url, *limits) as two:
        first = await one.admit("ann", "anonymous", 600)
        assert [standing.remaining for standing in first.standings(now_ns())] == [400]
        assert isinstance(await two.admit("ann", "anonymous", 600), Refused)
        assert [standing.remaining for standing in two.standings("ann", "anonymous", now_ns())] == [400]
        first.settle(100, now_ns())
        first.settle(0, now_ns())  # it was over
        assert [standing.remaining for standing in first.standings(now_ns())] == [900]
        await settled(one)
        second = await one.admit("ann", "anonymous", 600)
        assert [standing.remaining for standing in second.standings(now_ns())] == [300]
        second.refund(now_ns())
        second.refund(now_ns())
        await settled(one)
        third = await one.admit("ann", "anonymous", 0)
        assert [standing.remaining for standing in third.standings(now_ns())] == [900]
        third.settle(5000, now_ns())  # a debt
        await settled(one)
        assert isinstance(await one.admit("ann", "anonymous", 0), Refused)


async def test_a_refused_request_costs_nothing(redis):
    limits = [daily(10), daily(100, Unit.TOKENS, "tpd")]
    async with Daemon(redis.url, *limits, concurrent=5) as one:
        grant = await one.admit("ann", "anonymous", 90)
        with redis.client() as client:
            before = client.info("stats")["total_error_replies"], client.dbsize()
            assert (await one.admit("ann", "anonymous", 50)).limit == "tpd"
            assert (client.info("stats")["total_error_replies"], client.dbsize()) == before
        last = await one.admit("ann", "anonymous", 10)
        assert [standing.remaining for standing in last.standings(now_ns())] == [8, 0]
        assert not grant.over


async def test_a_cancelled_question_is_not_charged(redis):
    async with Daemon(redis.url, daily(1)) as one:
        await connected(one)
        question = one.ask("ann", "anonymous", 1)
        question.cancel()
        assert isinstance(await one.admit("bob", "anonymous", 1), SharedGrant)  # asked after it
        await settled(one)
        assert isinstance(await one.admit("ann", "anonymous", 1), SharedGrant)


async def test_whoever_was_refused_is_refused_again_without_a_call(redis):
    async with Daemon(redis.url, daily(1)) as one:
        grant = await one.admit("ann", "anonymous", 1)
        first = await one.admit("ann", "anonymous", 1)
        with redis.client() as client:
            calls = client.info("commandstats")["cmdstat_evalsha"]["calls"]
            again = [await one.admit("ann", "anonymous", 1) for _ in range(100)]
            spared = 100 - (client.info("commandstats")["cmdstat_evalsha"]["calls"] - calls)
        assert spared >= 95  # it is asked again after a second, however slow the machine
        assert all(isinstance(one, Refused) and one.limit == "rpd" for one in again)
        assert again[-1].wait_ns < first.wait_ns  # and told how long it is from now
        grant.refund(now_ns())  # our own corrections count at once
        assert isinstance(await one.admit("ann", "anonymous", 1), SharedGrant)


async def test_a_pool_without_limits_costs_no_call(redis):
    async with Daemon(redis.url) as one:
        assert await one.admit("ann", "anonymous", 1) is FREE
        one.configure({"anonymous": Pool("anonymous", (daily(1),))})
        verdicts = [await one.admit("ann", "anonymous", 1) for _ in range(2)]
        assert [type(verdict) for verdict in verdicts] == [SharedGrant, Refused]
        with pytest.raises(ConfigError):
            one.configure({"anonymous": Pool("anonymous", (Limit("odd", Unit.TOKENS, Rate(1, 1)),))})
        with pytest.raises(KeyError):
            one.configure({})
        assert isinstance(await one.admit("ann", "a pool that is gone", 1), Refused)  # nothing has changed


async def test_a_grant_stands_as_one_of_memory_does(redis):
    """What writes header lines reads the client's own account, by our clock."""
    async with Daemon(redis.url, daily(10)) as one:
        grant = await one.admit("ann", "anonymous", 1)
        (standing,) = limiter_standings(grant.own, now_ns())
        assert (standing.remaining, standing.limit.name) == (9, "rpd")
        assert DAY_NS // 10 - 60 * SECOND_NS < standing.reset_ns <= DAY_NS // 10
        assert grant.own.in_flight <= 1


# ---- leases


async def test_the_requests_of_a_dead_daemon_stop_counting(redis):
    dead = Daemon(redis.url, concurrent=1, lease_s=0.6)
    limiter = await dead.__aenter__()
    assert isinstance(await limiter.admit("ann", "anonymous", 1), SharedGrant)
    async with Daemon(redis.url, concurrent=1, lease_s=0.6) as other:
        await asyncio.sleep(1.5)  # while it lives it renews
        assert isinstance(await other.admit("ann", "anonymous", 1), Refused)
        await dead.die()
        began = time.monotonic()
        while isinstance(await other.admit("ann", "anonymous", 1), Refused):
            assert time.monotonic() - began < HEALED_S
            await asyncio.sleep(0.02)


async def test_running_requests_count_again_after_redis_lost_everything(redis):
    async with Daemon(redis.url, concurrent=1) as one, Daemon(redis.url, concurrent=1) as two:
        grant = await one.admit("ann", "anonymous", 1)
        redis.kill()
        await away(one)
        redis.start()
        await connected(one, two)
        await settled(one)
        assert isinstance(await two.admit("ann", "anonymous", 1), Refused)
        grant.settle(None, now_ns())
        await settled(one)
        assert isinstance(await two.admit("ann", "anonymous", 1), SharedGrant)


async def test_nothing_stays_in_redis_for_ever(redis):
    shared = Pool("anonymous", (daily(10**6, name="all-rpd"),))
    minute = Limit("rpm", Unit.REQUESTS, Rate(60, 60 * SECOND_NS))
    async with Daemon(redis.url, minute, shared=shared, concurrent=2, lease_s=3) as one:
        grants = await asyncio.gather(
            *[one.admit(f"forged {number}", "anonymous", 1) for number in range(500)]
        )
        with redis.client() as client:
            kept = {key: client.pttl(key) for key in client.keys("*")}
            assert len(kept) >= 1000
            together = kept.pop(store_script.shared_place(shared).tats)
            assert 0 < together <= 60_000  # 500 of a million a day
            assert all(0 < ttl <= 5000 for ttl in kept.values()), kept  # one in a minute is back in a second
            for grant in grants:
                grant.settle(None, now_ns())
            await eventually(lambda: client.dbsize() <= 2, 10)  # the probe's, and what all share


# ---- without Redis


@pytest.mark.parametrize("on_failure", ["local", "allow"])
async def test_killed_and_restarted_under_load_no_request_fails(redis, on_failure):
    ended, slowest = False, 0.0
    kinds = set()

    async def ask(limiter, client):
        nonlocal slowest
        while not ended:
            began = time.monotonic()
            verdict = await limiter.admit(client, "anonymous", 10)
            slowest = max(slowest, time.monotonic() - began)
            kinds.add(type(verdict))
            assert isinstance(verdict, SharedGrant | Grant), verdict
            await asyncio.sleep(0.001)
            verdict.settle(8, now_ns())

    limits = [daily(10**9), daily(10**9, Unit.TOKENS, "tpd")]
    options = {"on_failure": on_failure, "deadline_s": 1.0}
    with capture_logs() as logs:
        async with Daemon(redis.url, *limits, **options) as one, Daemon(redis.url, *limits, **options) as two:
            await connected(one, two)
            async with asyncio.TaskGroup() as group:
                for limiter, number in itertools.product((one, two), range(8)):
                    group.create_task(ask(limiter, f"client {number}"))
                for _ in range(2):
                    await asyncio.sleep(0.3)
                    redis.kill()
                    await away(one)
                    await asyncio.sleep(0.3)
                    redis.start()
                    await connected(one, two)
                ended = True
            assert kinds == {SharedGrant, Grant}
            await settled(one, two)
    assert slowest < 5
    for word in ("away", "back"):
        assert len([line for line in logs if f"is {word}" in line["event"]]) == 4  # two daemons, two outages


async def test_a_hanging_redis_is_away_after_the_deadline_and_then_nobody_waits(redis):
    async with Daemon(redis.url, daily(5), deadline_s=0.25) as one:
        await connected(one)
        assert isinstance(await one.admit("ann", "anonymous", 1), SharedGrant)
        redis.stop()
        began = time.monotonic()
        verdicts = await asyncio.gather(*[one.admit("ann", "anonymous", 1) for _ in range(3)])
        assert 0.2 <= time.monotonic() - began < 2
        assert all(type(verdict) is Grant for verdict in verdicts)
        assert one.status["reason"] == "no answer within 0.25 s"
        began = time.monotonic()
        for _ in range(100):
            assert not isinstance(await one.admit("bob", "anonymous", 1), SharedGrant)
        assert time.monotonic() - began < 0.2  # none of them waited
        redis.go_on()
        await connected(one)
        await eventually(lambda: one.status["unsent"] == 0, HEALED_S)
        last = await one.admit("ann", "anonymous", 1)
        # The three were in its queue and are charged when it goes on; they are taken back.
        assert [standing.remaining for standing in last.standings(now_ns())] == [3]


async def test_a_redis_that_hangs_from_the_beginning_costs_one_deadline(redis):
    redis.stop()
    async with Daemon(redis.url, daily(5), deadline_s=0.25) as one:
        began = time.monotonic()
        assert type(await one.admit("ann", "anonymous", 1)) is Grant
        assert time.monotonic() - began < 1.5
        redis.go_on()
        await connected(one)


async def test_deny_says_that_nobody_knows(redis):
    async with Daemon(redis.url, daily(5), on_failure="deny") as one:
        await connected(one)
        redis.kill()
        await away(one)
        verdict = await one.admit("ann", "anonymous", 1)
        assert isinstance(verdict, Unavailable)
        assert verdict.retry_after_s >= 1
        assert verdict.reason


async def test_local_limits_hold_meanwhile():
    with RedisServer() as gone:
        gone.kill()
        async with Daemon(gone.url, daily(2)) as one:
            await away(one)
            verdicts = [await one.admit("ann", "anonymous", 1) for _ in range(3)]
            assert [type(verdict) for verdict in verdicts] == [Grant, Grant, Refused]
            assert [standing.remaining for standing in one.standings("ann", "anonymous", now_ns())] == [0]


async def test_all_data_and_scripts_flushed_under_load(redis):
    async with Daemon(redis.url, daily(10**9)) as one:
        with redis.client() as client:
            for _ in range(5):
                asked = [one.admit("ann", "anonymous", 1) for _ in range(50)]
                client.flushall()
                client.script_flush()
                verdicts = await asyncio.gather(*asked)
                assert all(isinstance(verdict, SharedGrant) for verdict in verdicts)
        assert one.status["state"] == "connected"


async def test_the_password_is_used_and_never_shown(capsys):
    with RedisServer(requirepass="open-sesame") as server, capture_logs() as logs:
        async with Daemon(server.url, daily(5)) as one:
            assert isinstance(await one.admit("ann", "anonymous", 1), SharedGrant)
            shown = [repr(one), json.dumps(one.status)]
        async with Daemon(server.url.replace("sesame", "barley"), daily(5)) as one:
            await eventually(
                lambda: "WRONGPASS" in (one.status["reason"] or "") or one.status["reason"], HEALED_S
            )
            await away(one)
            assert "NOAUTH: invalid username-password pair" in one.status["reason"]
            assert type(await one.admit("ann", "anonymous", 1)) is Grant
            shown += [repr(one), json.dumps(one.status)]
    assert len([line for line in logs if "is away" in line["event"]]) == 1
    assert not any(
        "sesame" in text or "barley" in text for text in [*shown, json.dumps(logs), *capsys.readouterr()]
    )


async def test_tls_is_used_and_the_certificate_is_checked(tmp_path):
    files = certs.make(tmp_path, "redis")
    with RedisServer(tls=files, requirepass="open-sesame") as server:
        async with Daemon(server.url, daily(5)) as one:
            assert isinstance(await one.admit("ann", "anonymous", 1), SharedGrant)
        stranger = certs.make(tmp_path, "stranger")
        async with Daemon(server.url.replace(str(files.cert), str(stranger.cert)), daily(5)) as one:
            await away(one)
            assert "CERTIFICATE_VERIFY_FAILED" in one.status["reason"]
            assert type(await one.admit("ann", "anonymous", 1)) is Grant


@pytest.mark.parametrize(
    ("directive", "broken", "whole", "reason"),
    [
        ("maxmemory", "1", "0", "OOM"),
        ("min-replicas-to-write", "1", "0", "NOREPLICAS"),
    ],
)
async def test_a_redis_that_cannot_serve_is_away_and_says_why(redis, directive, broken, whole, reason):
    async with Daemon(redis.url, daily(5)) as one:
        await connected(one)
        with redis.client() as client, capture_logs() as logs:
            client.config_set(directive, broken)
            assert type(await one.admit("ann", "anonymous", 1)) is Grant
            await asyncio.sleep(0.7)  # it is tried again meanwhile, and is not believed to be back
            assert one.status["state"] == "away"
            assert reason in one.status["reason"]
            assert len(logs) == 1
            client.config_set(directive, whole)
            await connected(one)
        assert isinstance(await one.admit("ann", "anonymous", 1), SharedGrant)
        assert [line["log_level"] for line in logs] == ["warning", "warning"]


async def test_a_replica_is_away(redis):
    async with Daemon(redis.url, daily(5)) as one:
        await connected(one)
        with redis.client() as client:
            client.replicaof("127.0.0.1", "1")
            assert type(await one.admit("ann", "anonymous", 1)) is Grant
            assert one.status["reason"].split(":")[0] in {"READONLY", "MASTERDOWN"}
            client.replicaof("no", "one")
        await connected(one)


async def test_a_key_that_is_somebody_elses_spoils_one_client_only(redis):
    limits = [daily(5)]
    place = store_script.own_place(Pool("anonymous", tuple(limits)), "ann")
    with redis.client() as client, capture_logs() as logs:
        client.lpush(place.tats, "not ours")
        async with Daemon(redis.url, *limits) as one:
            await connected(one)
            for _ in range(3):
                assert type(await one.admit("ann", "anonymous", 1)) is Grant
                assert isinstance(await one.admit("bob", "anonymous", 1), SharedGrant)
    assert len([line for line in logs if line["log_level"] == "error"]) == 1


async def test_more_is_posted_than_is_kept(redis, monkeypatch):
    monkeypatch.setattr(store_line, "MAX_POSTS", 3)
    async with Daemon(redis.url, daily(100)) as one:
        grants = [await one.admit("ann", "anonymous", 1) for _ in range(5)]
        redis.kill()
        await away(one)
        for grant in grants:
            grant.refund(now_ns())
        assert (one.status["unsent"], one.status["dropped"]) == (3, 2)


async def test_closing_sends_what_is_posted(redis):
    async with Daemon(redis.url, daily(1000)) as one:
        grants = await asyncio.gather(*[one.admit("ann", "anonymous", 1) for _ in range(600)])
        for grant in grants:  # more than go out at once
            grant.refund(now_ns())
    async with Daemon(redis.url, daily(1000)) as two:
        grant = await two.admit("ann", "anonymous", 1)
        assert [standing.remaining for standing in grant.standings(now_ns())] == [999]


# ---- what it is made of


def test_without_redis_py_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "redis.asyncio", None)
    with pytest.raises(ConfigError, match="redis is not installed") as raised:
        Daemon("redis://:secret@127.0.0.1:1/0", daily(1))
    assert "llmsup[redis]" in raised.value.hint
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("url", ["redis://:secret@127.0.0.1/0?flavour=1", "redis://:secret@h/0?db=x"])
def test_options_that_redis_py_does_not_know(url):
    with pytest.raises(ConfigError) as raised:
        Daemon(url, daily(1))
    assert "secret" not in str(raised.value)


def test_limits_that_redis_cannot_keep_exactly():
    with pytest.raises(ConfigError, match="odd cannot be kept"):
        Daemon("redis://127.0.0.1/0", Limit("odd", Unit.REQUESTS, Rate(1, 1500)))
