"""FAULTS 9: a request that kills llama-server is found, its sender is shut out, and nobody else is worse off."""

import json
import signal

import pytest

from tests.support import rawhttp
from tests.support.daemon import CHAT, DaemonUnderTest, chat_body, running, until

BEHIND = {"trusted_proxies": ["127.0.0.1"]}  # so that each has an address of its own
EVE, BOB = "192.0.2.66", "192.0.2.7"
SAFE = {"demo": {"safe_profile": {"context_size": 1024}}}


def ask(daemon: DaemonUnderTest, who: str, text: str, **body: object) -> rawhttp.Response:
    return daemon.ask("POST", CHAT, chat_body(text, **body), timeout_s=60.0, **{"X-Forwarded-For": who})


def poison(daemon: DaemonUnderTest, text: str, who: str = EVE, how: str = "SIGSEGV") -> tuple[int, str]:
    reply = ask(daemon, who, text, fake={"crash_signal": how})
    return reply.status, reply.json()["error"]["code"]


@pytest.mark.fault(9)
def test_three_that_differ_by_a_byte_close_the_door_of_their_sender_and_take_nothing_from_the_model() -> None:
    with running(proxy=BEHIND, models=SAFE) as daemon:
        assert poison(daemon, "p0") == (422, "request_quarantined")
        assert poison(daemon, "p1") == (403, "client_banned")
        one = daemon.wait_ready()
        assert (one["generation"], one["degraded"]) == (4, None)
        refused = ask(daemon, EVE, "p2", fake={"crash_signal": "SIGSEGV"})
        assert (refused.status, refused.json()["error"]["code"]) == (403, "client_banned")
        assert 3500 < int(refused.header("retry-after") or 0) < 2 * 3600
        assert ask(daemon, EVE, "a question like any other").status == 403
        assert ask(daemon, BOB, "hello").status == 200
        assert poison(daemon, "p0", who=BOB) == (422, "request_quarantined"), "known, whoever asks"
        assert daemon.model()["generation"] == 4
        (banned,) = daemon.status()["bans"]
        assert banned["client"] == f"ip:{EVE}"
        for verb in ("status", "why"):
            assert f"banned: ip:{EVE} for 59 min" in daemon.cli(verb).stdout
        assert "request inside" in daemon.cli("why").stdout
        assert daemon.cli("restart").returncode == 0
        assert daemon.status()["bans"] == []
        assert ask(daemon, EVE, "a question like any other").status == 200


@pytest.mark.parametrize("how", ["SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL"])
def test_whichever_way_it_is_brought_down_it_is_found(how: str) -> None:
    with running(proxy=BEHIND) as daemon:
        assert poison(daemon, "p0", how=how) == (422, "request_quarantined")
        assert poison(daemon, "p1", how=how) == (403, "client_banned")
        assert ask(daemon, BOB, "hello").status == 200


def test_however_many_clients_send_poison_the_model_is_never_given_up() -> None:
    with running(proxy=BEHIND, models=SAFE) as daemon:
        for number in range(4):
            assert poison(daemon, f"p{number}", who=f"198.51.100.{number}") == (422, "request_quarantined")
            assert ask(daemon, BOB, "hello").status == 200
            one = daemon.wait_ready()
            assert one["degraded"] is None
            assert poison(daemon, f"x{number}", who=f"203.0.113.{number}") == (422, "request_quarantined")
        assert {one["cause"] for one in json.loads(daemon.cli("why", "--json").stdout)["deaths"]} == {
            "segfault"
        }
        assert daemon.wait_ready()["state"] == "READY"


def test_who_hangs_up_at_once_is_found_as_well() -> None:
    with running(proxy=BEHIND, fake={"token_delay_s": 0.05}) as daemon:
        for number in range(4):
            generation = daemon.wait_ready()["generation"]
            body = json.dumps(chat_body(f"p{number}", max_tokens=400, stream=True)).encode()
            with rawhttp.connect(daemon.port) as sock:
                sock.sendall(
                    b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Forwarded-For: %b\r\n"
                    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                    % (EVE.encode(), len(body), body)
                )
                until(lambda: daemon.model()["slots"]["busy"], "it is inside")
            until(lambda: not daemon.model()["slots"]["busy"], "it has left")
            daemon.kill_child(signal.SIGSEGV)
            daemon.wait_next(generation)
        assert [one["client"] for one in daemon.status()["bans"]] == [f"ip:{EVE}"]
        assert ask(daemon, BOB, "hello").status == 200


def test_its_requests_count_for_their_sender() -> None:
    pool = {"requests_per_minute": 1000, "requests_per_hour": 1000, "concurrent": 4, "shared": None}
    with running(proxy=BEHIND, limits={"pools": {"anonymous": pool}}) as daemon:

        def left() -> int:
            reply = ask(daemon, EVE, "p0", fake={"crash_signal": "SIGSEGV"})
            return int(reply.header("x-ratelimit-remaining-requests"))

        assert [left() for _ in range(3)] == [999, 998, 997]
