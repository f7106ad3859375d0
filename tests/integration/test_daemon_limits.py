"""Limits of a whole daemon: by default, by the pool of a key, and changed while requests run."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from tests.support import rawhttp
from tests.support.daemon import CHAT, NO_LIMIT, DaemonUnderTest, until

BODY = b'{"messages":[{"role":"user","content":"hi"}],"max_tokens":1}'


def ask(daemon, **headers):
    return rawhttp.ask(
        daemon.port, "POST", CHAT, BODY, [(k.replace("_", "-"), v) for k, v in headers.items()]
    )


def reload(daemon):
    done = subprocess.run(
        [sys.executable, "-m", "supervisor", "--config", str(daemon.config), "reload"],
        capture_output=True,
        text=True,
        env=daemon.environ,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_limits_of_the_contract_hold_where_nobody_wrote_any():
    with DaemonUnderTest() as daemon:
        daemon.configure(limits={})
        daemon.run()
        daemon.wait_ready()
        got = [ask(daemon, X_User_ID="ann") for _ in range(62)]
        assert [one.status for one in got[:60]] == [200] * 60
        assert 429 in {one.status for one in got[60:]}  # a second may have gone by, and given one back
        assert ask(daemon, X_User_ID="bob").status == 200
        assert got[0].header("ratelimit-policy") == '"rpm";q=60;w=60, "rph";q=1000;w=3600'


def test_limits_change_without_dropping_a_request_and_what_was_used_stays_used():
    pools = {"user": NO_LIMIT | {"requests_per_minute": 5}}
    with DaemonUnderTest(fake={"first_token_delay_s": 0.3}) as daemon:
        daemon.configure(limits={"pools": pools})
        daemon.run()
        daemon.wait_ready()
        assert [ask(daemon, X_User_ID="ann").status for _ in range(6)] == [200] * 5 + [429]
        with ThreadPoolExecutor(4) as pool:
            running = [pool.submit(ask, daemon, X_User_ID=f"other{n}") for n in range(4)]
            daemon.configure(
                limits={"pools": {"user": pools["user"] | {"requests_per_minute": 50}}},
                proxy={"queue_size": 7},
            )
            told = reload(daemon)
            assert [one.result().status for one in running] == [200] * 4
        assert "limits.pools.user.requests_per_minute" in told
        answer = ask(daemon, X_User_ID="ann")
        assert answer.status == 200
        assert answer.header("x-ratelimit-limit-requests") == "50"
        assert (
            40 <= int(answer.header("x-ratelimit-remaining-requests")) <= 46
        )  # of 50, five and this one are used


def test_who_is_refused_is_told_once_a_minute_in_the_log_and_no_more():
    with DaemonUnderTest() as daemon:
        daemon.configure(limits={"pools": {"user": NO_LIMIT | {"requests_per_hour": 1}}})
        daemon.run()
        daemon.wait_ready()
        statuses = [ask(daemon, X_User_ID="ann").status for _ in range(30)]
        assert statuses == [200] + [429] * 29
        assert "rate limited" not in daemon.log()


def test_a_key_has_the_limits_of_its_pool():
    pools = {"gold": NO_LIMIT | {"requests_per_hour": 3}}
    with DaemonUnderTest() as daemon:
        daemon.configure(limits={"pools": pools})
        done = subprocess.run(
            [sys.executable, "-m", "supervisor", "--config", str(daemon.config), "keys", "create", "ann", "--pool", "gold"],
            capture_output=True, text=True, env=daemon.environ, timeout=30, check=True,
        )  # fmt: skip
        key = next(word for word in done.stdout.split() if word.startswith("llmsup_"))
        daemon.run()
        daemon.wait_ready()
        until(lambda: ask(daemon, Authorization=f"Bearer {key}").status in {200, 429}, "the key is known")
        got = [ask(daemon, Authorization=f"Bearer {key}").status for _ in range(3)]
        assert got == [200, 200, 429]
