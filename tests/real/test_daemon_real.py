"""The whole daemon on the real llama-server and the demo model."""

import http.client
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support import demo_model as demo_model_maker
from tests.support import rawhttp
from tests.support.daemon import (
    CHAT,
    GONE_S,
    DaemonUnderTest,
    answer_of,
    chat_body,
    free_port,
    running,
    until,
)

pytestmark = pytest.mark.real

EMBEDDING = ["--embeddings", "--pooling", "mean"]
TURN = [{"role": "user", "content": "Hello!"}]
GREEDY = {"temperature": 0, "seed": 1, "cache_prompt": False}
# Every way to ask, for a short answer: (method, path, body).
ENDPOINTS: tuple[tuple[str, str, dict[str, Any] | None], ...] = (
    ("POST", "/v1/chat/completions", {"messages": TURN, "max_tokens": 8, **GREEDY}),
    ("POST", "/chat/completions", {"messages": TURN, "max_tokens": 8, **GREEDY}),
    ("POST", "/completion", {"prompt": "Once", "n_predict": 8, **GREEDY}),
    ("POST", "/v1/completions", {"prompt": "Once", "max_tokens": 8, **GREEDY}),
    ("POST", "/v1/embeddings", {"input": "the cat"}),
    ("POST", "/infill", {"input_prefix": "The cat", "input_suffix": " again.", "n_predict": 8, **GREEDY}),
    ("POST", "/v1/messages", {"messages": TURN, "max_tokens": 8, **GREEDY}),
    ("POST", "/v1/messages/count_tokens", {"messages": TURN}),
    ("POST", "/v1/responses", {"input": "Hello!", "max_output_tokens": 8, **GREEDY}),
    ("POST", "/tokenize", {"content": "the cat"}),
    ("POST", "/detokenize", {"tokens": [1, 2, 3]}),
    ("POST", "/apply-template", {"messages": TURN}),
    ("GET", "/props", None),
    ("GET", "/nonesuch", None),
)


@pytest.fixture(scope="module")
def real(llama_server_binary: Path, demo_model: Path) -> Iterator[DaemonUnderTest]:
    """One daemon for the tests that leave it as it was."""
    with running(
        binary=llama_server_binary, model_path=demo_model, models={"demo": {"args": EMBEDDING}}
    ) as daemon:
        yield daemon


@pytest.fixture
def fresh(llama_server_binary: Path, demo_model: Path) -> Iterator[DaemonUnderTest]:
    with running(binary=llama_server_binary, model_path=demo_model) as daemon:
        yield daemon


# ---- the day of an operator


def test_start_chat_status_stop(llama_server_binary: Path, demo_model: Path) -> None:
    """What `make run` does, and then the end."""
    with DaemonUnderTest(binary=llama_server_binary, model_path=demo_model) as daemon:
        started = daemon.cli("start")
        assert (started.returncode, started.stderr) == (0, "")
        assert f"llmsup is ready: http://127.0.0.1:{daemon.port}" in started.stdout
        asked = daemon.cli("chat", "Tell me a story")
        assert (asked.returncode, asked.stderr) == (0, "")
        assert len(asked.stdout.split()) > 5
        state = json.loads(daemon.cli("status", "--json").stdout)
        assert state["models"][0]["state"] == "READY"
        assert state["models"][0]["rss_bytes"] > 1 << 20
        assert "model loaded" in daemon.cli("logs", "-n", "1000").stdout
        assert daemon.cli("restart").returncode == 0
        begun = time.monotonic()
        stopped = daemon.cli("stop")
        assert (stopped.returncode, stopped.stderr) == (0, "")
        assert not daemon.alive()
        assert time.monotonic() - begun < 5
        assert "exit code 0" in daemon.log()  # llama-server went by itself, not by force


# ---- deaths


@pytest.mark.fault(2)
def test_a_hundred_chats_with_a_kill_in_their_middle_are_a_hundred_answers(fresh: DaemonUnderTest) -> None:
    statuses = []
    for turn in range(100):
        if turn == 50:
            fresh.kill_child()
        statuses.append(fresh.chat(f"Number {turn}", max_tokens=8).status)
    assert statuses == [200] * 100
    assert fresh.model()["last_death"]["cause"] == "killed"
    assert fresh.status()["requests"]["failed"] == 0


@pytest.mark.fault(1, 2)
def test_after_kill_9_it_answers_again(fresh: DaemonUnderTest, capsys: pytest.CaptureFixture[str]) -> None:
    times = []
    for _ in range(10):
        os.kill(fresh.child_pid, signal.SIGKILL)
        begun = time.monotonic()
        assert fresh.chat(max_tokens=1).status == 200
        times.append(time.monotonic() - begun)
    times.sort()
    with capsys.disabled():
        print(
            f"\nrecovery, kill -9 to an answer: median {times[5] * 1000:.0f} ms, worst {times[-1] * 1000:.0f} ms"
        )


@pytest.mark.fault(23)
def test_no_llama_server_outlives_a_killed_daemon(fresh: DaemonUnderTest) -> None:
    assert fresh.process is not None
    fresh.expected_exit = -signal.SIGKILL
    assert len(fresh.children_alive()) == 1
    fresh.process.kill()
    until(lambda: not fresh.alive(), "all gone", GONE_S)


@pytest.mark.fault(3)
def test_a_stream_that_could_not_go_on_rightly_never_looks_finished(fresh: DaemonUnderTest) -> None:
    with fresh.streaming("Tell me a story", max_tokens=2000, ignore_eos=True, logprobs=True) as reader:
        fresh.kill_child()
        text = b""
        while piece := reader.chunk():
            text += piece
    assert piece is None  # cut, not ended
    assert b'"code": "upstream_crashed"' in text
    assert b"[DONE]" not in text


# ---- what passes through


def test_a_stream_passes_piece_by_piece(real: DaemonUnderTest) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", real.port, timeout=10)
    connection.request("POST", CHAT, json.dumps(chat_body("Hello!", stream=True, max_tokens=60)))
    answer = connection.getresponse()
    assert answer.getheader("content-type") == "text/event-stream"
    pieces = []
    while piece := answer.read1(1 << 16):
        pieces.append(piece)
    connection.close()
    assert len(pieces) >= 5
    assert b"".join(pieces).endswith(b"data: [DONE]\n\n")


@pytest.fixture(scope="module")
def direct(
    llama_server_binary: Path, demo_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[int]:
    """The port of a llama-server without llmsup."""
    port = free_port()
    log = tmp_path_factory.mktemp("direct") / "log"
    command = [llama_server_binary, "-m", demo_model, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--alias", "demo", "-c", "4096", "-np", "4", "-t", "1", "--no-ui", "--metrics", *EMBEDDING]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        until(lambda: process.poll() is None and _healthy(port), "direct llama-server is ready")
        yield port
    finally:
        process.kill()
        process.wait()


def _healthy(port: int) -> bool:
    try:
        return rawhttp.ask(port, "GET", "/health").status == 200
    except ConnectionError:
        return False


@pytest.mark.parametrize(("method", "path", "body"), ENDPOINTS, ids=[path for _, path, _ in ENDPOINTS])
def test_every_endpoint_answers_as_without_llmsup(
    real: DaemonUnderTest, direct: int, method: str, path: str, body: dict[str, Any] | None
) -> None:
    ours = real.ask(method, path, body)
    theirs = rawhttp.ask(direct, method, path, body)
    assert ours.status == theirs.status, ours.body
    assert ours.header("content-type") == theirs.header("content-type")
    assert shape(ours.json()) == shape(theirs.json())
    if path != "/nonesuch":
        assert ours.status == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/completion", "/v1/messages"])
def test_every_stream_has_the_events_it_has_without_llmsup(
    real: DaemonUnderTest, direct: int, path: str
) -> None:
    body = next(body for _, known, body in ENDPOINTS if known == path)
    assert body is not None
    ours = real.ask("POST", path, body | {"stream": True})
    theirs = rawhttp.ask(direct, "POST", path, body | {"stream": True})
    assert ours.complete
    assert theirs.complete
    assert events_shape(ours) == events_shape(theirs)


def shape(value: Any) -> Any:
    """The same for two answers of the same form: keys and types, without what is said."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value[:1]]
    return "number" if isinstance(value, int | float) else type(value).__name__


def events_shape(answer: rawhttp.Response) -> list[Any]:
    return [event if event == "[DONE]" else shape(json.loads(event)) for event in answer.events()]


# ---- clients and secrets


def test_a_client_that_leaves_in_mid_stream_frees_its_slot(llama_server_binary: Path, tmp_path: Path) -> None:
    endless = demo_model_maker.make(tmp_path / "endless.gguf", "--endless")
    with running(
        binary=llama_server_binary,
        model_path=endless,
        models={"demo": {"parallel": 1, "context_size": 16384}},
    ) as daemon:
        for _ in range(3):
            with daemon.streaming("Hello", max_tokens=15_000):
                assert daemon.model()["slots"]["busy"] == 1
            # The one slot: an answer now means that the other generation has really stopped.
            assert daemon.chat(max_tokens=1, timeout_s=2.0).status == 200
        until(lambda: daemon.model()["slots"]["busy"] == 0, "no slot is busy", GONE_S)
        assert daemon.status()["requests"]["in_flight"] == 0


def test_the_childs_port_asks_for_a_key_that_shows_nowhere(real: DaemonUnderTest) -> None:
    one = real.model()
    for path in ("/v1/chat/completions", "/completion", "/tokenize"):
        assert rawhttp.ask(one["port"], "POST", path, chat_body("Hello")).status == 401
    assert rawhttp.ask(one["port"], "GET", "/slots").status == 401
    child = psutil.Process(one["pid"])
    key = child.environ()["LLAMA_API_KEY"]
    assert len(key) >= 32
    assert key not in " ".join(child.cmdline())
    assert key not in json.dumps(real.status())
    logs = [path.read_text(errors="replace") for path in (real.state_dir / "logs").iterdir()]
    assert key not in "".join([*logs, real.log()])
    assert key.encode() not in real.ask("GET", "/props").body
    assert real.ask("GET", "/slots").status == 403  # other clients' work is not for everybody


# ---- what cannot start


def _broken(kind: str, demo: Path, out: Path) -> Path:
    if kind == "another architecture":
        return demo_model_maker.make(out, "--arch", "nosuch")
    whole = demo.read_bytes()
    out.write_bytes(
        {
            "one byte short": whole[:-1],
            "cut in the head": whole[:2000],
            "foreign": b"PK\x03\x04" + whole[4:],
            "of a later version": whole[:4] + b"\x63\0\0\0" + whole[8:],
            "empty": b"",
        }[kind]
    )
    return out


@pytest.mark.fault(7)
@pytest.mark.parametrize(
    ("kind", "cause", "words"),
    [
        ("one byte short", "model_corrupt", "the file is truncated by 1 bytes"),
        ("cut in the head", "model_corrupt", "is truncated in its header"),
        ("foreign", "model_corrupt", "not a GGUF file"),
        ("of a later version", "model_unsupported", "version 99"),
        ("empty", "model_corrupt", "is empty"),
        ("another architecture", "model_unsupported", "unknown model architecture: 'nosuch'"),
    ],
)
def test_a_model_that_cannot_load_fails_at_once_in_words(
    llama_server_binary: Path, demo_model: Path, tmp_path: Path, kind: str, cause: str, words: str
) -> None:
    model = _broken(kind, demo_model, tmp_path / "model.gguf")
    with DaemonUnderTest(binary=llama_server_binary, model_path=model) as daemon:
        started = daemon.cli("start")
        assert started.returncode == 1
        assert words in started.stderr
        one = daemon.model()
        assert (one["state"], one["generation"], one["last_death"]["cause"]) == ("FAILED", 1, cause)
        assert daemon.ask("GET", "/health").status == 500


@pytest.mark.fault(7)
def test_an_unknown_flag_is_named(llama_server_binary: Path, demo_model: Path) -> None:
    models = {"demo": {"args": ["--mlock"]}}
    with DaemonUnderTest(binary=llama_server_binary, model_path=demo_model, models=models) as daemon:
        daemon.run()
        one = daemon.wait_for(lambda one: one["state"] == "FAILED", "FAILED")
        assert one["last_death"]["cause"] == "bad_flag"
        assert "--mlock" in one["last_death"]["detail"]


@pytest.mark.fault(18)
def test_a_busy_port_gives_the_next(llama_server_binary: Path, demo_model: Path) -> None:
    with rawhttp.socket.socket() as squatter:
        port = free_port()
        squatter.bind(("127.0.0.1", port))
        squatter.listen()
        with running(
            binary=llama_server_binary, model_path=demo_model, models={"demo": {"port": port}}
        ) as daemon:
            one = daemon.model()
            assert (one["port"] > port, one["restarts"]) == (True, 0)
            assert answer_of(daemon.chat(max_tokens=8))
