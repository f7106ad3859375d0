"""Whatever clients, models, their files and llama-server say, no verb lets it command the terminal."""

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.cli.main import VERBS
from tests.support import gguf
from tests.support.daemon import DaemonUnderTest
from tests.support.terminal import Terminal

# A title, a bell, the clipboard, a screen wiped, a background colour, C1's CSI, text turned round, a line of YAML's.
EVIL = "x\x1b]0;pwned\x07\x1b]52;c;cm0=\x07\x1b[2J\x1b[41m\x9b41m\u202e\u2066\u2028y"
RAW = ("\x1b]", "\x07", "\x1b[41m", "\x9b", "\u202e", "\u2066", "\u2028")
SHOWN = "\\x1b]0;pwned\\x07"

# Each verb, with what makes it show others' words: mostly an argument, as a shell's * would give a file's name.
CALLS: dict[str, list[list[str]]] = {
    "run": [["run"]],
    "start": [["start"]],
    "restart": [["restart", EVIL]],
    "reload": [["reload"]],
    "models": [["models"]],
    "load": [["load", EVIL]],
    "unload": [["unload", EVIL]],
    "status": [["status"]],
    "top": [["top", "--count", "1"]],
    "requests": [["requests"]],
    "cancel": [["cancel", EVIL]],
    "logs": [["logs"], ["logs", EVIL], ["logs", "--daemon", "-n", "1000"]],
    "why": [["why"], ["why", EVIL]],
    "chat": [["chat", "--max-tokens", "1", EVIL]],
    "doctor": [["doctor"], ["doctor", "--model", EVIL]],
    "diagnose": [["diagnose", EVIL]],
    "build": [["build", "--source", f"/{EVIL}"]],
    "keys": [["keys", "list"], ["keys", "create", EVIL], ["keys", "revoke", EVIL]],
    "config": [
        ["config", "show"],
        ["config", "check", EVIL],
        ["config", "show", EVIL],
        ["config", "init", EVIL],
    ],
    "install": [["install", "--systemd", "--print"], ["install", EVIL]],
    "completion": [["completion", "bash"]],
    "stop": [["stop", EVIL]],
}
SHOW_IT = {
    "restart",
    "load",
    "unload",
    "cancel",
    "logs",
    "why",
    "doctor",
    "diagnose",
    "keys",
    "models",
    "config",
}


@pytest.fixture(scope="module")
def attacked() -> Iterator[DaemonUnderTest]:
    """A daemon whose model, llama-server, clients and last death are all hostile."""
    architecture = EVIL.encode()
    keys = [gguf.key("general.architecture", gguf.STRING, architecture)]
    keys += [gguf.key(architecture + b".context_length", gguf.U32, 512)]
    daemon = DaemonUnderTest(fake={"load_message": EVIL, "token_delay_s": 0.02})
    daemon.model_path = daemon.folder / f"{EVIL}.gguf"
    daemon.model_path.write_bytes(gguf.header(keys, [gguf.tensor("a", (16,), 0, 0)]) + bytes(64))
    daemon.configure(models={"demo": {**daemon._model("demo", {}), "aliases": []}})
    with daemon:
        daemon.run()
        daemon.wait_ready()
        daemon.wait_next(daemon.kill_child(11))
        with daemon.streaming(EVIL, max_tokens=100_000, user=EVIL):
            yield daemon


def assert_harmless(said: str) -> None:
    for raw in RAW:
        assert raw not in said, said[max(0, said.index(raw) - 200) : said.index(raw) + 100]


def test_all_verbs_are_here() -> None:
    assert set(CALLS) == set(VERBS)


@pytest.mark.parametrize("verb", CALLS)
def test_no_word_of_others_commands_the_terminal(attacked: DaemonUnderTest, verb: str) -> None:
    seen = ""
    for call in CALLS[verb]:
        with Terminal(attacked.command(*call), attacked.environ, columns=1000, lines=50) as terminal:
            terminal.until_ended()
        assert_harmless(terminal.said)
        seen += terminal.said
        if verb != "logs":  # whose bytes a pipe gets as they are
            done = attacked.cli(*call)
            assert "\x1b" not in done.stdout + done.stderr
            assert_harmless(done.stdout + done.stderr)
            seen += done.stdout + done.stderr  # where no table breaks it in two
    if verb in SHOW_IT:
        assert SHOWN in seen


def test_a_pipe_gets_the_log_as_it_was_written(attacked: DaemonUnderTest) -> None:
    assert EVIL in attacked.cli("logs", "-n", "1000").stdout


@contextlib.contextmanager
def answering(events: list[bytes], status: int = 200) -> Iterator[int]:
    """A server on a free port that says these to everybody."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(status)
            self.end_headers()
            for event in events:
                self.wfile.write(event)

        def log_message(self, *_: object) -> None:
            """It is not told."""

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("status", [200, 500])
def test_what_a_model_says_in_chat_is_text_with_its_lines(tmp_path: Path, status: int) -> None:
    text = f"one\n\ttwo 👩‍👧 {EVIL}"
    event = {"choices": [{"delta": {"content": text}}]}
    error = {"error": {"message": text}}
    events = [
        b"data: " + json.dumps(event).encode() + b"\n\n",
        b"data: " + json.dumps(error).encode() + b"\n\n",
    ]
    said_by_server = events if status == 200 else [json.dumps(error).encode()]
    with answering(said_by_server, status) as port, DaemonUnderTest() as daemon:
        daemon.port = port
        daemon.configure()
        with Terminal(daemon.command("chat", "hi"), daemon.environ, columns=400) as terminal:
            assert terminal.until_ended() == 1
        piped = daemon.cli("chat", "hi")
    for said in (terminal.said, piped.stdout + piped.stderr):
        assert_harmless(said)
        assert SHOWN in said
        assert "two 👩‍👧 " in said
    assert "one\r\n\ttwo" in terminal.said
