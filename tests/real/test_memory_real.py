"""FAULTS 35 and the figures of memory, on the real binary."""

from pathlib import Path

import psutil
import pytest

from supervisor.types import MIB
from tests.support.daemon import DaemonUnderTest, running, until

pytestmark = pytest.mark.real
LIMIT_MB = 256


def test_its_share_of_memory_is_known_soon_and_no_more_than_it_has(
    llama_server_binary: Path, demo_model: Path
) -> None:
    with running(binary=llama_server_binary, model_path=demo_model) as daemon:
        pss = until(lambda: daemon.model()["memory"]["pss_bytes"], "asked for")
        kernel = psutil.Process(daemon.child_pid).memory_full_info()
        assert MIB < pss < kernel.rss + MIB
        assert abs(pss - kernel.pss) < 16 * MIB


@pytest.mark.fault(35)
def test_a_context_that_does_not_fit_gives_way_to_the_safe_profile(
    llama_server_binary: Path, demo_model: Path
) -> None:
    model = {"context_size": 4_000_000, "parallel": 1, "safe_profile": {"context_size": 1024}}
    with DaemonUnderTest(
        binary=llama_server_binary,
        model_path=demo_model,
        models={"demo": model},
        memory={"limit_mb": LIMIT_MB, "min_free_mb": 0},
    ) as daemon:
        daemon.run()
        one = daemon.wait_ready()
        assert "because as configured it does not fit" in one["degraded"]
        assert f"memory.limit_mb is {LIMIT_MB}" in one["degraded"]
        assert (one["generation"], one["last_death"]) == (1, None)
        assert psutil.Process(one["pid"]).memory_info().rss < LIMIT_MB * MIB
        assert daemon.chat(max_tokens=4).status == 200
