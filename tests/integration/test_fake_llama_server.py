"""The stand-in llama-server does what it is asked to: each switch, seen from outside on a real port."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import rawhttp
from tests.support.fake_llama_server import write_wrapper

PROGRAM = Path(__file__).parents[1] / "support" / "fake_llama_server.py"
CHAT = "/v1/chat/completions"
WAIT_S = 3.0


class Fake:
    """One running fake with its stderr in a file."""

    def __init__(self, folder: Path, flags: list[str], environ: dict[str, str]) -> None:
        model = folder / "model.gguf"
        model.write_bytes(b"GGUF")
        self.port = free_port()
        self.log_path = folder / f"stderr-{self.port}"
        command = [
            sys.executable,
            "-I",
            "-S",
            str(PROGRAM),
            "-m",
            str(model),
            "--port",
            str(self.port),
            *flags,
        ]
        base = {"PATH": os.environ["PATH"]}
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(command, env=base | environ, stderr=log, start_new_session=True)
        self.pid = self.process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < end, self.log
            time.sleep(0.005)

    def until_ready(self) -> "Fake":
        self.until(lambda: "listening on" in self.log or self.process.poll() is not None)
        assert self.process.poll() is None, self.log
        return self

    def ask(
        self, path: str = CHAT, body: dict[str, object] | None = None, **wishes: object
    ) -> rawhttp.Response:
        return rawhttp.ask(self.port, "POST", path, self.body(body or {}, wishes))

    def stream(self, **wishes: object) -> rawhttp.Response:
        return self.ask(body={"stream": True}, **wishes)

    def get(self, path: str) -> rawhttp.Response:
        return rawhttp.ask(self.port, "GET", path)

    def metric(self, name: str) -> float:
        lines = self.get("/metrics").body.decode().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"llamacpp:{name} "))

    def send(
        self, sock: socket.socket, body: dict[str, object] | None = None, **wishes: object
    ) -> rawhttp.Reader:
        sock.sendall(rawhttp.request("POST", CHAT, self.body(body or {}, wishes)))
        return rawhttp.Reader(sock)

    @staticmethod
    def body(body: dict[str, object], wishes: dict[str, object]) -> dict[str, object]:
        messages = {"prompt": "hi", "messages": [{"role": "user", "content": "hi"}]}
        return messages | body | ({"fake": wishes} if wishes else {})

    def ends_with(self, code: int) -> None:
        assert self.process.wait(WAIT_S) == code, self.log


Start = Callable[..., Fake]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def words(answer: rawhttp.Response) -> str:
    """The text of a streamed chat answer."""
    events = [json.loads(event) for event in answer.events() if event != "[DONE]"]
    return "".join(e["choices"][0]["delta"].get("content") or "" for e in events if e.get("choices"))


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Start]:
    """Starts fakes (``launch("--flag", load_s=1)``) and leaves none behind."""
    running: list[Fake] = []

    def start(*flags: str, environ: dict[str, str] | None = None, **switches: object) -> Fake:
        env = {f"FAKE_{name.upper()}": str(value) for name, value in switches.items()}
        running.append(Fake(tmp_path, list(flags), env | (environ or {})))
        return running[-1]

    yield start
    for fake in running:
        try:
            os.killpg(fake.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        fake.process.wait()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fake]:
    """One fake for all that needs only per-request wishes."""
    fake = Fake(
        tmp_path_factory.mktemp("fake"), ["--alias", "demo", "--metrics", "--embeddings", "-np", "2"], {}
    )
    fake.until_ready()
    yield fake
    fake.process.kill()
    fake.process.wait()


# -- command line


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(PROGRAM), *flags], capture_output=True, text=True, check=False)


def test_help_lists_the_flags_a_supervisor_uses() -> None:
    done = run("--help")
    wanted = (
        "--model --alias --host --port --ctx-size --parallel --threads --batch-size -ub --gpu-layers --threads-http "
        "--cache-ram --metrics --no-ui --offline --sse-ping-interval --api-key --embeddings --pooling --n-predict "
        "--jinja --slot-save-path --load-mode"
    )
    assert done.returncode == 0
    assert [flag for flag in wanted.split() if flag not in done.stdout] == []


def test_version_goes_to_stderr() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("version: 9.9.9-fake (build 1, commit fake)\n")


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--mlock"], "error: invalid argument: --mlock"),
        (["-c", "many"], 'error while handling argument "-c": stoi'),
        (["-c"], 'error while handling argument "-c": expected value for argument'),
    ],
)
def test_bad_flags_leave_with_1(flags: list[str], line: str) -> None:
    done = run(*flags)
    assert (done.returncode, done.stderr.splitlines()[0]) == (1, line)


def test_shebang_and_wrapper_run(tmp_path: Path, launch: Start) -> None:
    wrapper = write_wrapper(tmp_path / "llama-server", load_exit=3, load_message="it's no good")
    for program in (str(PROGRAM), wrapper):
        done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
        assert "9.9.9-fake" in done.stderr
    done = subprocess.run([wrapper, "--port", "0"], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "it's no good\n" in done.stderr


# -- starting


def test_taken_port_is_told_and_leaves_with_1(launch: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("--port", str(port))
    assert done.returncode == 1
    assert f"start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: {port}" in done.stderr
    assert "exiting due to HTTP server error" in done.stderr


def test_missing_model_leaves_with_1() -> None:
    done = run("-m", "/no/such.gguf", "--port", "0")
    assert done.returncode == 1
    assert "failed to open GGUF file '/no/such.gguf' (No such file or directory)" in done.stderr


def test_misspelt_switch_is_an_error(launch: Start, shared: Fake) -> None:
    launch(load_secs=1).ends_with(1)
    assert shared.ask(hangs="request").status == 400


def test_loading_answers_503_everywhere_then_200(launch: Start) -> None:
    fake = launch(load_s=0.4)
    fake.until(lambda: "loading model" in fake.log)
    for path in ("/health", "/nothing"):
        answer = fake.get(path)
        error = {"message": "Loading model", "type": "unavailable_error", "code": 503}
        assert (answer.status, answer.json()) == (503, {"error": error})
    fake.until_ready()
    assert fake.get("/health").body == b'{"status":"ok"}'


def test_load_exit_says_why(launch: Start) -> None:
    fake = launch(load_s=0.05, load_exit=7, load_message="no memory for you")
    fake.ends_with(7)
    assert "no memory for you\n" in fake.log
    assert "exiting due to model loading error" in fake.log


def test_key_is_wanted_except_for_health(launch: Start) -> None:
    fake = launch(environ={"LLAMA_API_KEY": "k1"}).until_ready()
    assert [fake.get("/health").status, fake.get("/v1/models").status, fake.ask().status] == [200, 401, 401]
    headers = {"Authorization": "Bearer k1"}
    assert rawhttp.ask(fake.port, "GET", "/v1/models", headers=headers).status == 200


def test_listens_within_100_ms(launch: Start) -> None:
    times: list[float] = []
    for _ in range(3):
        begun = time.monotonic()
        fake = launch()
        fake.until(lambda fake=fake: "listening on" in fake.log)
        times.append(time.monotonic() - begun)
    assert min(times) < 0.1


# -- signals


def test_sigterm_while_loading_kills_by_default(launch: Start) -> None:
    fake = launch(load_s=5)
    fake.until(lambda: "loading model" in fake.log)
    fake.process.terminate()
    fake.ends_with(-signal.SIGTERM)


def test_sigterm_when_idle_exits_0(launch: Start) -> None:
    fake = launch().until_ready()
    with rawhttp.connect(fake.port) as idle:
        fake.send(idle).response()
        fake.process.terminate()
        fake.ends_with(0)


@pytest.mark.parametrize("stream", [True, False])
def test_sigterm_in_flight_hangs_until_the_client_leaves(launch: Start, stream: bool) -> None:
    fake = launch().until_ready()
    with rawhttp.connect(fake.port) as sock:
        fake.send(sock, {"stream": stream, "max_tokens": 1000}, token_delay_s=0.02)
        time.sleep(0.1)
        fake.process.terminate()
        fake.until(lambda: refused(fake.port))
        time.sleep(0.2)
        assert fake.process.poll() is None
    fake.ends_with(0)


def test_second_sigterm_exits_1(launch: Start) -> None:
    fake = launch().until_ready()
    with rawhttp.connect(fake.port) as sock:
        fake.send(sock, {"max_tokens": 1000}, token_delay_s=0.02)
        time.sleep(0.1)
        fake.process.terminate()
        fake.until(lambda: refused(fake.port))
        fake.process.terminate()
        fake.ends_with(1)


def test_ignore_sigterm(launch: Start) -> None:
    fake = launch(ignore_sigterm=1).until_ready()
    fake.process.terminate()
    time.sleep(0.1)
    assert fake.get("/health").status == 200


def refused(port: int) -> bool:
    try:
        rawhttp.connect(port).close()
    except (ConnectionRefusedError, ConnectionResetError):  # the latter while the listener is closing
        return True
    return False


# -- dying


@pytest.mark.parametrize("at", ["load", "ready"])
def test_crash_by_itself(launch: Start, at: str) -> None:
    launch(crash_signal="SIGSEGV", crash_at=at).ends_with(-signal.SIGSEGV)


@pytest.mark.parametrize(
    ("at", "name", "tokens"),
    [("request", "SIGKILL", -1), ("first_byte", "SIGABRT", 0), ("chunk:3", "SIGSEGV", 3)],
)
def test_crash_in_a_request(launch: Start, at: str, name: str, tokens: int) -> None:
    fake = launch().until_ready()
    if tokens < 0:
        with pytest.raises(rawhttp.ClosedError):
            fake.stream(crash_signal=name, crash_at=at)
    else:
        answer = fake.stream(crash_signal=name, crash_at=at)
        assert not answer.complete
        assert len(words(answer).split()) == tokens
    fake.ends_with(-getattr(signal, name))


def test_exits_by_itself_after_ready(launch: Start) -> None:
    fake = launch(exit_after_ready_s=0.1, exit_code=4).until_ready()
    fake.ends_with(4)


def test_fault_runs_spare_the_later_generations(launch: Start, tmp_path: Path) -> None:
    switches = {"counter": tmp_path / "runs", "fault_runs": 1, "crash_signal": "SIGABRT", "crash_at": "ready"}
    launch(**switches).ends_with(-signal.SIGABRT)
    assert launch(**switches).until_ready().ask().status == 200


def test_fork_at_start_leaves_an_orphan_serving(launch: Start) -> None:
    fake = launch(fork_at_start=1)
    fake.ends_with(0)
    fake.until(lambda: "listening on" in fake.log)
    assert fake.get("/health").status == 200


def test_grandchild_in_the_group_survives_sigterm(launch: Start) -> None:
    fake = launch(spawn_grandchild=1).until_ready()
    pid = int(fake.log.split("spawned grandchild ")[1].split()[0])
    assert os.getpgid(pid) == fake.pid
    fake.until(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n")
    os.killpg(fake.pid, signal.SIGTERM)
    fake.ends_with(0)
    time.sleep(0.05)
    os.kill(pid, 0)


# -- hanging


@pytest.mark.parametrize(
    ("hang", "silent", "answering"),
    [
        ("request", [CHAT], ["/health", "/metrics"]),
        ("all", [CHAT, "/health", "/props"], []),
        ("health", ["/health"], ["/props"]),
        ("loop", [CHAT, "/metrics", "/slots"], ["/health"]),
    ],
)
def test_hang_by_control_file(
    launch: Start, tmp_path: Path, hang: str, silent: list[str], answering: list[str]
) -> None:
    control = tmp_path / "control.json"
    fake = launch("--metrics", environ={"FAKE_CONTROL": str(control)}).until_ready()
    assert fake.ask().status == 200
    control.write_text(json.dumps({"hang": hang}))
    for path in silent:
        with rawhttp.connect(fake.port, 0.05) as sock:
            method = "POST" if path == CHAT else "GET"
            sock.sendall(rawhttp.request(method, path, fake.body({}, {}) if method == "POST" else None))
            with pytest.raises(TimeoutError):
                rawhttp.Reader(sock).response()
    assert [fake.get(path).status for path in answering] == [200] * len(answering)
    control.write_text("{}")
    assert fake.ask().status == 200


def test_token_hang_starts_the_answer_and_freezes_the_counters(shared: Fake) -> None:
    with rawhttp.connect(shared.port) as sock:
        hung = {"hang": "health_ok_tokens_hang", "hang_after": 2}
        reader = shared.send(sock, {"stream": True}, **hung)
        reader.head()
        assert len([reader.chunk() for _ in range(3)]) == 3
        before = shared.metric("n_decode_total")
        time.sleep(0.05)
        assert shared.metric("requests_processing") == 1
        assert shared.metric("n_decode_total") == before
    shared.until(lambda: shared.metric("requests_processing") == 0)


def test_pings_fill_a_silence(shared: Fake) -> None:
    answer = shared.ask(
        body={"stream": True, "sse_ping_interval": 0.05, "max_tokens": 1}, first_token_delay_s=0.3
    )
    assert answer.chunks.count(b":\n\n") >= 3


def test_a_slow_prompt_shows_progress(shared: Fake) -> None:
    answer = shared.ask(body={"stream": True, "return_progress": True}, first_token_delay_s=0.3)
    progress = [json.loads(e)["prompt_progress"] for e in answer.events() if "prompt_progress" in e]
    assert [one["processed"] for one in progress] == [1, 2, 3]


# -- answers


def test_text_follows_from_the_prompt_and_is_continued_exactly(shared: Fake) -> None:
    whole = shared.ask(body={"max_tokens": 10}).json()["choices"][0]["message"]["content"]
    assert words(shared.ask(body={"max_tokens": 10, "stream": True})) == whole
    parts = whole.split(" ")
    partial = " ".join(parts[:4])
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": partial}]
    resume = {"messages": messages, "max_tokens": 6, "stream": True}
    flags = {"continue_final_message": True, "add_generation_prompt": False}
    assert partial + words(shared.ask(body=resume | flags)) == whole
    assert words(shared.ask(body=resume)) == whole
    messages[1]["content"] = partial[:-1]
    assert partial[:-1] + words(shared.ask(body=resume | flags)) != whole


@pytest.mark.parametrize(("path", "field"), [("/v1/completions", "text"), ("/completion", "content")])
def test_other_completions(shared: Fake, path: str, field: str) -> None:
    answer = shared.ask(path, {"max_tokens": 3}).json()
    text = answer["choices"][0][field] if "choices" in answer else answer[field]
    streamed = shared.ask(path, {"max_tokens": 3, "stream": True})
    events = [json.loads(event) for event in streamed.events() if event != "[DONE]"]
    assert (
        "".join(event["choices"][0][field] if "choices" in event else event[field] for event in events)
        == text
    )
    assert streamed.complete
    assert len(streamed.chunks) == (5 if path == "/v1/completions" else 4)


def test_other_routes(shared: Fake) -> None:
    assert shared.ask("/tokenize", {"content": "a b c"}).json()["tokens"].__len__() == 3
    assert shared.ask("/apply-template").json()["prompt"].endswith("<|im_start|>assistant\n")
    assert len(shared.ask("/v1/embeddings", {"input": ["a", "b"]}).json()["data"]) == 2
    assert shared.get("/props").json()["total_slots"] == 2
    assert shared.get("/v1/models").json()["data"][0]["id"] == "demo"
    assert len(shared.get("/slots").json()) == 2
    missing = {"message": "File Not Found", "type": "not_found_error", "code": 404}
    assert (shared.get("/nope").status, shared.get("/nope").json()["error"]) == (404, missing)
    assert shared.ask(body={"messages": None}).status == 400
    head = rawhttp.ask(shared.port, "HEAD", "/health")
    assert (head.status, head.header("content-length"), head.body) == (200, "15", b"")


def test_echo_tells_what_arrived(shared: Fake) -> None:
    raw = rawhttp.request(
        "PUT", "/echo?a=1", b"5\r\nhello\r\n0\r\n\r\n", {"Transfer-Encoding": "chunked", "X-A": "1"}
    )
    with rawhttp.connect(shared.port) as sock:
        sock.sendall(raw)
        seen = rawhttp.Reader(sock).response().json()
    assert (seen["method"], seen["path"], seen["body_bytes"]) == ("PUT", "/echo?a=1", 5)
    assert ["X-A", "1"] in seen["headers"]
    assert seen["sha256"].startswith("2cf24dba")


def test_keep_alive_ends_with_the_hundredth_request(shared: Fake) -> None:
    with rawhttp.connect(shared.port) as sock:
        reader = rawhttp.Reader(sock)
        kept: list[str | None] = []
        for _ in range(100):
            sock.sendall(rawhttp.request("GET", "/health"))
            kept.append(reader.response().header("connection"))
        assert kept == [None] * 99 + ["close"]
        assert reader.is_closed()


def test_requests_beyond_the_slots_wait(shared: Fake) -> None:
    with (
        rawhttp.connect(shared.port) as a,
        rawhttp.connect(shared.port) as b,
        rawhttp.connect(shared.port, 0.1) as c,
    ):
        readers = [shared.send(sock, {"stream": True}, token_delay_s=0.03) for sock in (a, b)]
        [reader.head() for reader in readers]
        waiting = shared.send(c, {"stream": True})
        with pytest.raises(TimeoutError):
            waiting.head()
        assert shared.metric("requests_deferred") == 1
        c.settimeout(WAIT_S)
        assert waiting.response().complete


def test_a_closed_client_ends_the_generation(shared: Fake) -> None:
    with rawhttp.connect(shared.port) as sock:
        shared.send(sock, {"stream": True, "max_tokens": 1000}, token_delay_s=0.5).head()
        assert shared.metric("requests_processing") == 1
    begun = time.monotonic()
    shared.until(lambda: shared.metric("requests_processing") == 0)
    assert time.monotonic() - begun < 0.2


@pytest.mark.parametrize(
    ("cut", "tokens", "was_reset"),
    [("mid_chunk", 1, False), ("before_last_chunk", 8, False), ("rst", 1, True)],
)
def test_a_cut_stream_is_incomplete(shared: Fake, cut: str, tokens: int, was_reset: bool) -> None:
    answer = shared.stream(cut=cut)
    assert (answer.complete, answer.was_reset) == (False, was_reset)
    assert sum(b'"content":"w' in one or b'"content":" w' in one for one in answer.chunks) == tokens


@pytest.mark.parametrize("cut", ["content_length_short", "rst"])
def test_a_cut_answer_is_shorter_than_promised(shared: Fake, cut: str) -> None:
    answer = shared.ask(cut=cut)
    assert not answer.complete
    assert 0 < len(answer.body) < int(answer.header("content-length") or 0) or answer.was_reset


def test_cut_before_the_head(shared: Fake) -> None:
    with pytest.raises(rawhttp.ClosedError) as caught:
        shared.ask(cut="before_head")
    assert caught.value.received == b""


def test_garbage(shared: Fake) -> None:
    with pytest.raises(rawhttp.ClosedError) as caught, rawhttp.connect(shared.port) as sock:
        reader = shared.send(sock, garbage="long_line")
        reader.head()
    assert len(caught.value.received) > 8 << 20
    with rawhttp.connect(shared.port) as sock:
        shared.send(sock, garbage="not_http")
        assert sock.recv(100).startswith(b"SSH-2.0")
    lengths = [name for name, _ in shared.ask(garbage="two_lengths").headers if name == "Content-Length"]
    assert len(lengths) == 2


def test_extra_bytes_follow_the_answer(shared: Fake) -> None:
    with rawhttp.connect(shared.port) as sock:
        reader = shared.send(sock, extra_bytes=42)
        assert reader.response().complete
        assert reader.response().body == b"EVIL"


def test_status_and_warmup(shared: Fake, launch: Start) -> None:
    assert shared.ask(status=502).status == 502
    fake = launch(warmup_fail_n=2).until_ready()
    assert [fake.ask().status for _ in range(3)] == [500, 500, 200]


def test_framings(shared: Fake) -> None:
    closed = shared.ask(connection_close=True)
    assert (closed.header("connection"), closed.complete) == ("close", True)
    for body in ({}, {"stream": True}):
        answer = shared.ask(body=body, eof_body=True)
        assert (answer.header("content-length"), answer.header("transfer-encoding")) == (None, None)
        assert answer.complete
    assert len(shared.ask(big_body=300_000).body) == 300_000
    assert len(shared.ask(body={"stream": True}, big_body=300_000).body) == 300_000
    assert shared.ask(body={"stream": True, "max_tokens": 1}, bytewise=True).complete


def test_streams_that_end_wrong(shared: Fake) -> None:
    answer = shared.stream(no_done=True)
    assert answer.complete
    assert "[DONE]" not in answer.events()
    answer = shared.stream(error_event=2)
    assert answer.complete
    assert "Context size" in answer.events()[-1]
    assert "tool_calls" in shared.stream(tool_call=True).events()[1]


def test_delays(shared: Fake) -> None:
    begun = time.monotonic()
    shared.ask(body={"max_tokens": 3}, token_delay_s=0.05)
    assert 0.15 <= time.monotonic() - begun < 0.4


# -- the rest


def test_refuse_closes_and_reopens_the_listener(launch: Start, tmp_path: Path) -> None:
    control = tmp_path / "control.json"
    fake = launch(environ={"FAKE_CONTROL": str(control)}).until_ready()
    control.write_text('{"refuse": true}')
    fake.until(lambda: refused(fake.port))
    assert fake.process.poll() is None
    control.write_text("{}")
    fake.until(lambda: not refused(fake.port))


def test_logs_and_memory(launch: Start) -> None:
    fake = launch(log_flood=200_000, log_line_bytes=100_000, rss_bytes=50_000_000).until_ready()
    fake.until(lambda: len(fake.log) > 300_000)
    assert max(len(line) for line in fake.log.splitlines()) >= 99_999
    pages = int(Path(f"/proc/{fake.pid}/statm").read_text().split()[1])
    assert pages * os.sysconf("SC_PAGE_SIZE") > 50_000_000
