"""Each line as the pinned llama-server wrote it (LLAMA_SERVER (d))."""

import signal

import pytest

from supervisor.proc.causes import CRASHES, NAMES, ExitStatus, classify, crashed

STAMP = "0.00.020.113 E "
LAST_TWO = (
    f"{STAMP}srv    load_model: failed to load model, '/m/x.gguf'",
    f"{STAMP}srv  llama_server: exiting due to model loading error",
)
NOT_SUPPORTED = "this GGUF file is version 99 but this software only supports up to version 3"
OUT_OF_BOUNDS = "tensor 'X' data is not within the file bounds, model is corrupted or incomplete"


@pytest.mark.parametrize(
    ("line", "name", "permanent"),
    [
        (
            "gguf_init_from_file: failed to open GGUF file '/m/x.gguf' (No such file or directory)",
            "model_missing",
            True,
        ),
        (
            "gguf_init_from_file: failed to open GGUF file '/m/x.gguf' (Permission denied)",
            "model_unreadable",
            True,
        ),
        ("llama_model_loader: failed to load model from /m", "model_unreadable", True),
        ("gguf_init_from_reader: failed to read magic", "model_corrupt", True),
        (
            "gguf_init_from_reader: invalid magic characters: 'XXXX', expected 'GGUF'",
            "model_corrupt",
            True,
        ),
        (NOT_SUPPORTED, "model_unsupported", True),
        ("gguf_init_from_reader: failed to read key-value pairs", "model_corrupt", True),
        (f"error loading model: {OUT_OF_BOUNDS}", "model_corrupt", True),
        ("error loading model: unknown model architecture: 'nosucharch'", "model_unsupported", True),
        ("found tensors with invalid data", "model_corrupt", True),
        ("error loading model: mmap failed: Cannot allocate memory", "out_of_memory", False),
        (
            "ggml_aligned_malloc: insufficient memory (attempted to allocate 1590.44 MB)",
            "out_of_memory",
            False,
        ),
        ("unable to allocate CPU buffer", "out_of_memory", False),
        (
            "failed to initialize the context: failed to allocate buffer for kv cache",
            "out_of_memory",
            False,
        ),
        ("failed to allocate compute pp buffers", "out_of_memory", False),
        ("Failed to load CLIP model from /m/mmproj.gguf", "load_failed", False),
        ("llama_adapter_lora_init: failed to open /m/lora.gguf", "load_failed", False),
    ],
)
def test_a_failed_load_is_named_by_its_reason_not_by_its_last_line(line, name, permanent):
    tail = [f"{STAMP}srv  llama_server: loading model", STAMP + line, *LAST_TWO]
    cause = classify(ExitStatus(code=1), tail)
    assert (cause.name, cause.permanent) == (name, permanent)
    assert not cause.detail.startswith("0.00")


@pytest.mark.parametrize(
    ("lines", "name", "permanent"),
    [
        (
            [
                "srv         start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 8081",
                "srv  llama_server: exiting due to HTTP server error",
            ],
            "port_in_use",
            False,
        ),
        (["error: invalid argument: --mlock"], "bad_flag", True),
        (['error while handling argument "-c": stoi', "", "usage:", "-c N"], "bad_flag", True),
        (['error while handling environment variable "LLAMA_ARG_CTX_SIZE": stoi'], "bad_flag", True),
        (["error: the supplied chat template is not supported: nonsense"], "bad_flag", True),
        ([LAST_TWO[1]], "load_failed", False),
    ],
)
def test_other_failed_starts(lines, name, permanent):
    cause = classify(ExitStatus(code=1), lines)
    assert (cause.name, cause.permanent) == (name, permanent)


@pytest.mark.parametrize(
    "line",
    [
        "/src/llama-context.cpp:1234: GGML_ASSERT(n_batch > 0) failed",
        "terminate called after throwing an instance of 'std::runtime_error'",
        "ggml-rpc.cpp:547: Failed to connect to 127.0.0.1:50052",
        "ggml-rpc.cpp:566: Remote RPC server crashed or returned malformed response",
        "server-context.cpp:947: failed to reload model after sleeping",
    ],
)
def test_an_abort_may_pass(line):
    cause = classify(ExitStatus(signal=signal.SIGABRT), [line])
    assert (cause.name, cause.permanent) == ("aborted", False)


def test_an_abort_for_want_of_memory_is_told_from_the_others():
    said = ["terminate called after throwing an instance of 'std::bad_alloc'", "  what():  std::bad_alloc"]
    mangled = ["terminate called after throwing an instance of 'St9bad_alloc'"]
    for lines in (said, mangled):
        assert classify(ExitStatus(signal=signal.SIGABRT), lines).name == "out_of_memory"
    refused = ["srv  send_error: Failed to initialize samplers: std::bad_alloc"]  # a request's; it went on
    assert classify(ExitStatus(signal=signal.SIGKILL), refused).name == "killed"


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (signal.SIGKILL, "killed"),
        (signal.SIGSEGV, "segfault"),
        (signal.SIGBUS, "bus_error"),
        (signal.SIGILL, "illegal_instruction"),
        (signal.SIGABRT, "aborted"),
        (signal.SIGHUP, "signalled"),
        (40, "signalled"),
    ],
)
def test_a_silent_death_is_named_by_its_signal(number, name):
    cause = classify(ExitStatus(signal=number), ["all slots are idle"])
    assert (cause.name, cause.permanent) == (name, False)


def test_an_unknown_end_quotes_the_last_words_without_their_stamp():
    tail = ["0.12.345.678 I srv  operator(): cleaning up before exit...", "", "  "]
    assert classify(ExitStatus(code=0), tail).detail.endswith(
        "last words: srv  operator(): cleaning up before exit..."
    )
    assert classify(ExitStatus(code=3), []).detail == "exit code 3; last words: it said nothing"


def test_what_we_ended_is_never_a_crash():
    cause = classify(ExitStatus(signal=signal.SIGKILL), ["failed to read magic"], ordered="stalled")
    assert (cause.name, cause.permanent) == ("stalled", False)
    assert "SIGKILL" in cause.detail


def test_a_long_line_is_cut():
    assert len(classify(ExitStatus(code=1), ["failed to read magic" + "x" * 10_000]).detail) == 300


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (ExitStatus(code=0), "exit code 0"),
        (ExitStatus(signal=9), "SIGKILL"),
        (ExitStatus(signal=40), "signal 40"),
    ],
)
def test_a_status_prints_itself(status, text):
    assert str(status) == text


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_was_written_before_a_signal_from_outside_is_about_something_else(
    number: signal.Signals,
) -> None:
    cause = classify(ExitStatus(signal=number), ["ggml: out of memory", "failed to load model"])
    assert cause.name in {"killed", "signalled"}
    assert classify(ExitStatus(signal=signal.SIGABRT), ["CUDA error: out of memory"]).name == "out_of_memory"


FORGED = [
    "init: unable to init sampler 'insufficient memory'",
    "parse: error parsing grammar: failed to read magic GGML_ASSERT terminate called",
    "srv  log: error: invalid argument: couldn't bind HTTP server socket",
]


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (ExitStatus(signal=signal.SIGSEGV), "segfault"),
        (ExitStatus(signal=signal.SIGABRT), "aborted"),
        (ExitStatus(signal=signal.SIGBUS), "bus_error"),
        (ExitStatus(signal=signal.SIGFPE), "arithmetic_error"),
        (ExitStatus(signal=signal.SIGKILL), "killed"),
        (ExitStatus(code=1), "exited"),
    ],
)
def test_of_one_that_has_served_no_word_is_believed(status: ExitStatus, name: str) -> None:
    cause = classify(status, FORGED, served=True)
    assert (cause.name, cause.permanent, cause.evidence) == (name, False, "")
    assert not any(line in cause.detail for line in FORGED)


def test_the_words_of_a_model_file_are_not_the_loaders() -> None:
    named = "llama_model_loader: - kv   1: general.name str = failed to read magic"
    assert classify(ExitStatus(signal=signal.SIGSEGV), [named]).name == "segfault"


@pytest.mark.parametrize(
    ("cause", "code", "can"),
    [
        ("segfault", None, True),
        ("exited", 1, True),
        ("exited", 0, False),
        ("killed", None, False),
        ("hung", None, False),
    ],
)
def test_of_what_a_request_can_be_the_cause(cause: str, code: int | None, can: bool) -> None:
    assert crashed(cause, code) is can


def test_whatever_a_request_can_cause_can_be_said() -> None:
    assert CRASHES <= NAMES
