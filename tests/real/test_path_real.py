"""The request path on the real llama-server: answers that outlive it, requests that kill it, clients that leave."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import continuity
from tests.support import demo_model as demo_model_maker
from tests.support import rawhttp
from tests.support.daemon import CHAT, DaemonUnderTest, answer_of, chat_body, running, until

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]

# So deep that the parser of grammars runs out of stack; a string of 400 kB, and good JSON.
POISON = {"prompt": "a", "n_predict": 4, "grammar": f'root ::= {"(" * 200_000}"a"{")" * 200_000}'}
FREED_S = 2.0


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo_model_maker.make(tmp_path_factory.mktemp("endless") / "endless.gguf", "--endless")


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 MB, endless: some hundred tokens a second."""
    return demo_model_maker.make(
        tmp_path_factory.mktemp("slow") / "slow.gguf", "--size-mb", "100", "--endless"
    )


@pytest.mark.fault(2, 3, 4)
@pytest.mark.parametrize("clients", [4, 16])
def test_whatever_dies_every_answer_is_the_one_that_was_due(
    llama_server_binary: Path, endless: Path, clients: int
) -> None:
    models = {"demo": {"args": continuity.EXACT}}
    with running(binary=llama_server_binary, model_path=endless, models=models) as daemon:
        report = continuity.run(daemon, clients=clients, seconds=8.0, pause_s=0.8)
        assert report.kills >= 3
        assert report.counts["continued"] > 0, report
        assert not report.wrong, report.wrong
        daemon.wait_ready()


@pytest.mark.fault(3)
def test_a_stream_may_be_turned_off_from_going_on(llama_server_binary: Path, slow_model: Path) -> None:
    with (
        running(
            binary=llama_server_binary, model_path=slow_model, proxy={"continue_after_crash": False}
        ) as daemon,
        daemon.streaming(max_tokens=2000) as reader,
    ):
        daemon.kill_child()
        while reader.chunk() is not None:
            pass
        daemon.wait_next(1)


@pytest.mark.fault(9)
def test_what_is_known_to_kill_never_gets_there_and_nobody_notices(
    llama_server_binary: Path, endless: Path
) -> None:
    """What is not known is found by its crashes: see `test_bans_real`."""
    with running(binary=llama_server_binary, model_path=endless) as daemon:
        replies: list[rawhttp.Response] = []
        others = [
            threading.Thread(
                target=lambda n=n: replies.append(daemon.chat(f"story {n}", max_tokens=300, timeout_s=60.0))
            )
            for n in range(3)
        ]
        for other in others:
            other.start()
        refused = daemon.ask("POST", "/completion", POISON, timeout_s=60.0)
        assert (refused.status, refused.json()["error"]["code"]) == (400, "bad_request")
        assert "grammar" in refused.json()["error"]["message"]
        for other in others:
            other.join()
        assert [reply.status for reply in replies] == [200] * 3
        assert daemon.model()["generation"] == 1


# ---- clients that leave


@pytest.fixture
def slow(llama_server_binary: Path, slow_model: Path) -> Iterator[DaemonUnderTest]:
    """Two slots; answers take half a minute."""
    demo = {"parallel": 2, "context_size": 16384, "batch_size": 256}
    with running(binary=llama_server_binary, model_path=slow_model, models={"demo": demo}) as daemon:
        yield daemon


def leave(daemon: DaemonUnderTest, path: str, body: dict[str, Any], after_s: float) -> None:
    with rawhttp.connect(daemon.port) as sock:
        sock.sendall(rawhttp.request("POST", path, body))
        deadline = time.monotonic() + after_s
        with contextlib.suppress(TimeoutError):
            while (left := deadline - time.monotonic()) > 0:
                sock.settimeout(left)
                sock.recv(65536)
        sock.shutdown(socket.SHUT_RDWR)


def processing(daemon: DaemonUnderTest) -> int:
    """How many requests llama-server works at, by its own word."""
    port = daemon.model()["port"]
    key = _key(daemon)
    text = rawhttp.ask(port, "GET", "/metrics", None, {"Authorization": f"Bearer {key}"}).body.decode()
    line = next(line for line in text.splitlines() if line.startswith("llamacpp:requests_processing "))
    return int(float(line.split()[1]))


def _key(daemon: DaemonUnderTest) -> str:
    environ = Path(f"/proc/{daemon.child_pid}/environ").read_bytes().split(b"\0")
    return next(
        item.removeprefix(b"LLAMA_API_KEY=").decode()
        for item in environ
        if item.startswith(b"LLAMA_API_KEY=")
    )


LONG = "word " * 6000
FORMS = {
    "chat": (CHAT, chat_body("go on", max_tokens=4000)),
    "chat streamed": (CHAT, chat_body("go on", max_tokens=4000, stream=True)),
    "completion": ("/completion", {"prompt": "go on", "n_predict": 4000}),
    "messages": ("/v1/messages", chat_body("go on", max_tokens=4000)),
    "responses": ("/v1/responses", {"input": "go on", "max_output_tokens": 4000}),
    "in prefill": (CHAT, chat_body(LONG, max_tokens=4000)),
}


@pytest.mark.fault(39)
@pytest.mark.parametrize("form", FORMS)
def test_who_leaves_frees_the_slot_while_others_run(slow: DaemonUnderTest, form: str) -> None:
    path, body = FORMS[form]
    with slow.streaming("somebody else", max_tokens=4000) as other:
        leave(slow, path, body, after_s=0.5)
        begun = time.monotonic()
        until(lambda: slow.status()["requests"]["in_flight"] == 1, "the row is gone", FREED_S)
        until(lambda: processing(slow) == 1, "generation has stopped", FREED_S)
        assert time.monotonic() - begun < FREED_S + 1.0
        assert other.chunk(), "the other one goes on"


@pytest.mark.fault(39)
def test_who_leaves_the_queue_is_never_asked_for(slow: DaemonUnderTest) -> None:
    with slow.streaming("one", max_tokens=4000), slow.streaming("two", max_tokens=4000):
        leave(slow, CHAT, chat_body("three"), after_s=0.3)
        until(lambda: slow.status()["requests"]["queued"] == 0, "it has left the queue", FREED_S)
        assert processing(slow) == 2


def test_an_operator_sees_requests_and_cancels_one(slow: DaemonUnderTest) -> None:
    asked = rawhttp.request("POST", CHAT, chat_body("a", max_tokens=4000), {"X-Request-Id": "mine-1"})
    with rawhttp.connect(slow.port, 30.0) as sock, slow.streaming("b", max_tokens=4000) as streamed:
        sock.sendall(asked)
        until(lambda: len(_requests(slow)) == 2, "both are listed")
        rows = {row["id"]: row for row in _requests(slow)}
        assert rows["mine-1"]["phase"] == "asked"
        stream_id = next(name for name in rows if name != "mine-1")
        until(lambda: {r["id"]: r["phase"] for r in _requests(slow)}[stream_id] == "answering", "it answers")
        assert slow.cli("cancel", "mine-1").returncode == 0
        told = rawhttp.Reader(sock).response()
        assert (told.status, told.json()["error"]["code"]) == (503, "request_cancelled")
        assert slow.cli("cancel", stream_id).returncode == 0
        events = b""
        while (chunk := streamed.chunk()) is not None:
            events = chunk
        assert b"request_cancelled" in events
        until(lambda: processing(slow) == 0, "both slots are free", FREED_S)
        unknown = slow.cli("cancel", "mine-1")
        assert unknown.returncode == 1
        assert "mine-1" in unknown.stderr


def _requests(daemon: DaemonUnderTest) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(daemon.cli("requests", "--json").stdout)
    return rows


def test_an_answer_asked_in_one_piece_says_nothing_of_how_it_was_had(slow: DaemonUnderTest) -> None:
    reply = slow.chat("Hello", max_tokens=8)
    assert reply.header("content-type") == "application/json; charset=utf-8"
    assert answer_of(reply)
    assert reply.header("transfer-encoding") is None
