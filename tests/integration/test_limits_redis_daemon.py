"""Two whole daemons on one Redis: together they admit what one would, and no request fails when Redis does."""

import threading
from concurrent.futures import ThreadPoolExecutor

from tests.support.daemon import DaemonUnderTest, until
from tests.support.redis_server import RedisServer

HOURLY = 40  # one comes back each 90 s


def daemon(redis, on_failure="local", **limits):
    pool = {"requests_per_minute": None, "requests_per_hour": None, "concurrent": None} | limits
    store = {"store": redis.url, "on_store_failure": on_failure}
    return DaemonUnderTest(limits=store | {"pools": {"anonymous": pool}})


def start(*daemons):
    for one in daemons:
        one.run()
        one.wait_ready()


def log_of(one):
    return (one.state_dir / "logs" / "llmsup.log").read_text()


def test_two_daemons_admit_exactly_what_one_would():
    with (
        RedisServer(requirepass="open-sesame") as redis,
        daemon(redis, requests_per_hour=HOURLY) as one,
        daemon(redis, requests_per_hour=HOURLY) as two,
    ):
        start(one, two)
        with ThreadPoolExecutor(8) as threads:
            asked = [threads.submit(each.chat) for _ in range(HOURLY) for each in (one, two)]
            answers = [future.result() for future in asked]
        found = [answer.status for answer in answers]
        assert set(found) == {200, 429}
        assert found.count(200) == HOURLY
        admitted = [
            answer.header("x-ratelimit-remaining-requests") for answer in answers if answer.status == 200
        ]
        assert sorted(map(int, admitted)) == list(range(HOURLY))  # each was told what was left, over both
        refused = one.chat()
        assert refused.status == 429
        assert int(refused.header("retry-after")) > 0
        assert '"rph";r=0;t=' in refused.header("ratelimit")
        assert "sesame" not in log_of(one) + log_of(two)


def test_redis_killed_and_restarted_under_load_fails_no_request():
    with RedisServer() as redis, daemon(redis, requests_per_hour=10**6) as one:
        start(one)
        found, ended = [], threading.Event()

        def ask():
            while not ended.is_set():
                found.append(one.chat().status)

        def ten_more(what):
            so_far = len(found)
            until(lambda: len(found) >= so_far + 10, what)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            for number in (1, 2):
                ten_more("requests with Redis")
                redis.kill()
                ten_more("requests without Redis")
                redis.start()
                until(
                    lambda times=number: log_of(one).count("the store of limits is back") == times,
                    "it is back",
                )
        finally:
            ended.set()
            for thread in threads:
                thread.join()
        assert set(found) == {200}
        assert log_of(one).count("the store of limits is away") == 2


def test_deny_answers_that_nobody_knows():
    with RedisServer() as redis, daemon(redis, "deny", requests_per_hour=10**6) as one:
        start(one)
        assert one.chat().status == 200
        redis.kill()
        until(lambda: "the store of limits is away" in log_of(one), "the outage is noticed")
        answer = one.chat()
        assert answer.status == 503
        assert answer.json()["error"]["code"] == "limits_unavailable"
        assert int(answer.header("retry-after")) >= 1
        redis.start()
        until(lambda: one.chat().status == 200, "it is back")
