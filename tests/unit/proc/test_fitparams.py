import signal
import threading
import time
from pathlib import Path

import pytest

from supervisor.proc.fitparams import DeviceMemory, Opinion, ask, beside, read


def tool(folder, script):
    path = folder / "llama-fit-params"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_a_line_for_each_device():
    opinion = read("CUDA0 3000 100 50 \nVulkan Device 1 2 3 4\nHost 201 192 22 \n")
    assert opinion.devices == (
        DeviceMemory("CUDA0", 3000, 100, 50),
        DeviceMemory("Vulkan Device 1", 2, 3, 4),
        DeviceMemory("Host", 201, 192, 22),
    )
    assert opinion.total_mib == 3150 + 9 + 415
    assert opinion.reason == ""


@pytest.mark.parametrize(
    "text", ["", "-c 4096 -ngl 99\n", "Host 1 2\n", "Host one 2 3\n", f"Host {'9' * 40} 1 1\n"]
)
def test_no_line_is_no_opinion(text):
    opinion = read(text)
    assert (opinion.devices, opinion.total_mib) == (None, None)
    assert "printed no line of memory" in opinion.reason


def test_it_is_asked_in_its_own_words(tmp_path):
    path = tool(tmp_path, f'printf "%s\\n" "$@" > {tmp_path}/args; echo "Host 1 2 3"; echo noise >&2')
    opinion = ask(
        path,
        Path("m odel.gguf"),
        context_size=4096,
        parallel=2,
        cache_type_k="q8_0",
        ubatch=256,
        gpu_layers=7,
    )
    assert opinion == Opinion((DeviceMemory("Host", 1, 2, 3),))
    given = (tmp_path / "args").read_text().split("\n")
    assert given == [
        *("-m", "m odel.gguf", "-c", "4096", "-np", "2", "-ub", "256"),
        *("-ctk", "q8_0", "-ctv", "f16", "-ngl", "7", "--fit-print", "on", ""),
    ]


def test_no_variable_changes_the_answer(tmp_path):
    path = tool(tmp_path, 'echo "Host ${LLAMA_ARG_CTX_SIZE:-1} ${GGML_NO_BACKTRACE} ${KEPT}"')
    environ = {"LLAMA_ARG_CTX_SIZE": "99", "KEPT": "5", "PATH": "/bin:/usr/bin"}
    opinion = ask(path, Path("m"), context_size=1, parallel=1, environ=environ)
    assert opinion.devices == (DeviceMemory("Host", 1, 1, 5),)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (
            "echo 'error: invalid argument: -np' >&2; echo >&2; exit 1",
            "ended with status 1: error: invalid argument: -np",
        ),
        ("exit 134", "ended with status 134"),
        (f"kill -{signal.SIGABRT.value} $$", f"ended with signal {signal.SIGABRT.value}"),
        ("exit 0", "printed no line of memory: ''"),
        ("printf '\\377\\376 binary'", "printed no line of memory"),
    ],
)
def test_a_failure_is_a_reason(tmp_path, script, reason):
    opinion = ask(tool(tmp_path, script), Path("m"), context_size=1, parallel=1)
    assert opinion.devices is None
    assert reason in opinion.reason


def test_a_tool_that_cannot_be_run(tmp_path):
    def reason(path):
        opinion = ask(path, Path("m"), context_size=1, parallel=1)
        assert opinion.devices is None
        return opinion.reason

    assert reason(tmp_path / "none").endswith("does not exist")
    (tmp_path / "text").write_text("hello")
    assert "cannot be run: [Errno 13]" in reason(tmp_path / "text")
    (tmp_path / "text").chmod(0o755)
    assert "cannot be run: [Errno 8]" in reason(tmp_path / "text")
    assert "cannot be run" in reason(Path("zero\0byte"))
    assert "cannot be run" in ask(tool(tmp_path, ""), Path("zero\0"), context_size=1, parallel=1).reason


def test_a_late_answer_is_not_waited_for_in_any_thread(tmp_path):
    path = tool(tmp_path, "exec sleep 30")
    opinions = []

    def work():
        opinions.append(ask(path, Path("m"), context_size=1, parallel=1, timeout_s=0.2))

    threads = [threading.Thread(target=work) for _ in range(4)]
    before = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - before < 5
    assert {opinion.reason for opinion in opinions} == {f"{path} gave no answer in 0.2 s"}


def test_it_lies_beside_the_server():
    assert beside(Path("/x/bin/llama-server")) == Path("/x/bin/llama-fit-params")
