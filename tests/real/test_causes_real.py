"""FAULTS 1, 7 and 8 on the real llama-server: the causes are read from its own words."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import DaemonUnderTest, running, until

pytestmark = pytest.mark.real

# Room for the process with its threads, and for a cache of a thousand tokens, but not of half a million.
ADDRESS_SPACE_KIB = 1_000_000


def newest(daemon: DaemonUnderTest, cause: str) -> dict[str, Any]:
    """The newest death, once it is on the disk and has that cause."""

    def found() -> dict[str, Any] | None:
        deaths = json.loads(daemon.cli("why", "--json").stdout)["deaths"]
        return deaths[0] if deaths and deaths[0]["cause"] == cause else None

    return until(found, f"why says {cause}") or {}


@pytest.mark.fault(1)
def test_a_crash_a_kill_and_what_was_said_before(llama_server_binary: Path, demo_model: Path) -> None:
    with running(binary=llama_server_binary, model_path=demo_model) as daemon:
        daemon.wait_for(lambda one: one["uptime_s"] > 0.5, "its memory has been looked at")
        daemon.wait_next(daemon.kill_child(signal.SIGSEGV))
        told = newest(daemon, "segfault")
        assert (told["signal"], told["phase"]) == ("SIGSEGV", "ready")
        assert any("listening on" in line for line in told["lines"])
        assert told["rss_bytes"] > 1 << 20
        daemon.wait_next(daemon.kill_child())
        assert newest(daemon, "killed")["then"] == "started it again at once"


@pytest.mark.fault(8)
def test_out_of_memory_is_answered_with_the_safe_profile(
    llama_server_binary: Path, demo_model: Path, tmp_path: Path
) -> None:
    small = tmp_path / "llama-server"
    small.write_text(
        f'#!/bin/sh\nulimit -s 8192\nulimit -v {ADDRESS_SPACE_KIB}\nexec env MALLOC_ARENA_MAX=1 "{llama_server_binary}" "$@"\n'
    )
    small.chmod(0o755)
    model = {
        "context_size": 500_000,
        "parallel": 1,
        "safe_profile": {"context_size": 1024},
    }
    with DaemonUnderTest(binary=small, model_path=demo_model, models={"demo": model}) as daemon:
        daemon.run()
        one = daemon.wait_ready()
        assert "context_size 1024 instead of 500000" in one["degraded"]
        told = newest(daemon, "out_of_memory")
        assert told["phase"] == "loading"
        assert "memory" in told["evidence"] or "allocate" in told["evidence"]
        assert daemon.chat(max_tokens=4).status == 200


@pytest.mark.fault(7)
def test_a_model_cut_short_starts_once_it_is_whole(
    llama_server_binary: Path, demo_model: Path, tmp_path: Path
) -> None:
    path, whole = tmp_path / "cut.gguf", demo_model.read_bytes()
    path.write_bytes(whole[:-1])
    with DaemonUnderTest(binary=llama_server_binary, model_path=path) as daemon:
        daemon.run()
        daemon.wait_for(lambda one: one["state"] == "FAILED", "FAILED")
        assert newest(daemon, "model_corrupt")["then"].startswith("gave up")
        with path.open("ab") as file:
            file.write(whole[-1:])
        daemon.wait_ready()
