"""From the configuration's numbers to the rates that are checked."""

from supervisor.ratelimit.gcra import SECOND_NS, Rate
from supervisor.ratelimit.pools import Limit, Pool, Unit, pool


def test_the_limits_in_their_order_and_none_for_null():
    made = pool(
        "user",
        requests_per_minute=60,
        requests_per_hour=1000,
        tokens_per_minute=5000,
        tokens_per_day=10**6,
        concurrent=4,
    )
    assert made.limits == (
        Limit("rpm", Unit.REQUESTS, Rate(60, 60 * SECOND_NS)),
        Limit("rph", Unit.REQUESTS, Rate(1000, 3600 * SECOND_NS)),
        Limit("tpm", Unit.TOKENS, Rate(5000, 60 * SECOND_NS)),
        Limit("tpd", Unit.TOKENS, Rate(10**6, 86_400 * SECOND_NS)),
    )
    assert made.concurrent == 4
    assert (pool("free").limits, pool("free").concurrent) == ((), None)


def test_a_shared_one_is_called_so():
    assert [limit.name for limit in pool("p", requests_per_minute=1, shared=True).limits] == ["all-rpm"]


def test_requests_come_before_tokens_and_a_pool_is_equal_only_to_itself():
    tokens, requests = (pool("p", **{name: 1}).limits[0] for name in ("tokens_per_day", "requests_per_hour"))
    assert Pool("p", (tokens, requests)).limits == (requests, tokens)
    assert pool("p") != pool("p")


def test_its_share_of_the_queue():
    made = pool("p", weight=3.0, batch=True)
    assert (made.weight, made.batch) == (3.0, True)
    assert (pool("p").weight, pool("p").batch) == (1.0, False)
