"""curl against the port, and against llama-server itself: what it prints is the same."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.conformance.compare import events, normalised
from tests.support.daemon import CHAT, chat_body, running
from tests.support.doors import Doors

CURL = shutil.which("curl")
pytestmark = [pytest.mark.real, pytest.mark.skipif(CURL is None, reason="there is no curl here")]

GREEDY = {"temperature": 0, "seed": 7, "max_tokens": 16}
CHAT_JSON = json.dumps(chat_body("Hello!", **GREEDY))
STREAM_JSON = json.dumps(chat_body("Hello!", stream=True, stream_options={"include_usage": True}, **GREEDY))
HTTP_ERROR = 22  # curl's exit code for --fail
MIB = 1 << 20


@pytest.fixture(scope="module")
def doors(llama_server_binary: Path, demo_model: Path) -> Iterator[Doors]:
    models = {"demo": {"args": ["--no-cache-prompt"]}}
    with running(binary=llama_server_binary, model_path=demo_model, models=models) as daemon:
        yield Doors.of(daemon)


def curl(*arguments: str, fails: int = 0) -> str:
    """What it prints; its exit code is ``fails``."""
    command = [str(CURL), "-sS", "--max-time", "20", "--noproxy", "*", *arguments]
    done = subprocess.run(command, capture_output=True, timeout=30, check=False)
    assert done.returncode == fails, done.stderr.decode()
    return done.stdout.decode()


def both(doors: Doors, path: str, *options: str, fails: int = 0) -> tuple[str, str]:
    """Printed for llama-server itself, and for llmsup."""
    key = ("-H", f"Authorization: Bearer {doors.child_key}")
    direct = curl(*options, *key, f"http://127.0.0.1:{doors.child_port}{path}", fails=fails)
    return direct, curl(*options, f"http://127.0.0.1:{doors.daemon.port}{path}", fails=fails)


def test_a_chat(doors: Doors) -> None:
    direct, ours = both(doors, CHAT, "-d", CHAT_JSON)  # as a form, which is what -d says it is
    assert normalised(ours) == normalised(direct)
    assert json.loads(ours)["choices"][0]["message"]["content"]


def test_a_chat_as_json(doors: Doors) -> None:
    direct, ours = both(doors, CHAT, "--json", CHAT_JSON)
    assert normalised(ours) == normalised(direct)


def test_a_stream_unbuffered(doors: Doors) -> None:
    direct, ours = both(doors, CHAT, "-N", "-d", STREAM_JSON)
    assert ours.endswith("data: [DONE]\n\n")
    assert normalised("\n".join(events(ours))) == normalised("\n".join(events(direct)))


def test_a_stream_comes_as_it_is_made() -> None:
    """The fake makes a token, then waits for the next one as long as nothing lets it go on."""
    with running(fake={"hang": "health_ok_tokens_hang", "hang_after": 2}) as daemon:
        url = f"http://127.0.0.1:{daemon.port}{CHAT}"
        command = [str(CURL), "-sSN", "--noproxy", "*", "-d", STREAM_JSON, url]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            try:
                first = next(line for line in process.stdout if line.startswith(b"data: "))
                assert process.poll() is None  # it has printed, and waits for more
                assert json.loads(first[6:])["object"] == "chat.completion.chunk"
            finally:
                process.kill()
        daemon.wait_for(lambda one: one["slots"]["busy"] == 0, "the slot is free")


def test_a_large_body_waits_for_continue(doors: Doors, tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_text(
        json.dumps({"content": "the cat " * (MIB // 10)})
    )  # what is beyond 1 MiB no context holds
    # With -i the interim answer is printed too, and then the final one.
    json_type = ("-H", "Content-Type: application/json")  # forms must be small
    options = (
        *json_type,
        "-i",
        "-H",
        "Expect: 100-continue",
        "--expect100-timeout",
        "20",
        "--data-binary",
        f"@{body}",
    )
    direct, ours = both(doors, "/tokenize", *options)
    assert ours.startswith("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    tokens = json.loads(ours.rpartition("\r\n\r\n")[2])["tokens"]
    assert len(tokens) > MIB // 10
    assert tokens == json.loads(direct.rpartition("\r\n\r\n")[2])["tokens"]


@pytest.mark.parametrize("path", ["/props", "/nonesuch", CHAT])
def test_head(doors: Doors, path: str) -> None:
    """-I fails where a body follows, and waits where its end is not found."""
    direct, ours = both(doors, path, "-I")
    assert ours.splitlines()[0] == direct.splitlines()[0]
    assert _field(ours, "content-length") == _field(direct, "content-length")
    assert _field(ours, "content-type") == _field(direct, "content-type")


def _field(head: str, name: str) -> list[str]:
    return [line for line in head.splitlines() if line.lower().startswith(name + ":")]


def test_one_connection_for_several_urls(doors: Doors) -> None:
    port = doors.daemon.port
    urls = [f"http://127.0.0.1:{port}{path}" for path in ("/props", CHAT, "/nonesuch", "/health")]
    printed = curl("-d", CHAT_JSON, "-w", r"\n%{num_connects} %{http_code}\n", *urls[1:3], *urls[1:2])
    connects = [line for line in printed.splitlines() if line[:2] in {"0 ", "1 "}]
    assert connects == ["1 200", "0 404", "0 200"]
    printed = curl("-w", r"\n%{num_connects} %{http_code}\n", urls[0], urls[3], urls[2])
    connects = [line for line in printed.splitlines() if line[:2] in {"0 ", "1 "}]
    assert connects == ["1 200", "0 200", "0 404"]


def test_errors_are_told_by_the_exit_code(doors: Doors) -> None:
    direct, ours = both(doors, CHAT, "--fail-with-body", "-d", '{"messages": 5}', fails=HTTP_ERROR)
    assert ours == direct
    ours = curl(
        "--fail-with-body", "-d", "{", f"http://127.0.0.1:{doors.daemon.port}{CHAT}", fails=HTTP_ERROR
    )
    assert json.loads(ours)["error"]["code"] == "bad_request"


@pytest.mark.parametrize("option", ["--http1.0", "--http2", "--compressed", "--tr-encoding"])
def test_other_ways_to_speak(doors: Doors, option: str) -> None:
    """HTTP/1.0, a wish to be upgraded, compression asked for in both ways: none changes what is said."""
    if option == "--http2" and "HTTP2" not in curl("--version"):
        pytest.skip("this curl is built without HTTP/2")
    for body in (CHAT_JSON, STREAM_JSON):
        plain = curl("-d", body, f"http://127.0.0.1:{doors.daemon.port}{CHAT}")
        ours = curl(option, "-d", body, f"http://127.0.0.1:{doors.daemon.port}{CHAT}")
        assert normalised("\n".join(events(ours))) == normalised("\n".join(events(plain)))
