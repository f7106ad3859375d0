"""FAULTS 33: a child that makes all of them exceed the limit is replaced at a quiet moment."""

import pytest

from supervisor.types import MIB
from tests.support.daemon import running, until


@pytest.mark.fault(33)
def test_a_child_that_has_grown_is_replaced_when_it_is_idle_and_why_says_so() -> None:
    with running(memory={"limit_mb": 160, "min_free_mb": 0}) as daemon:
        before = daemon.model()
        assert daemon.status()["memory"]["warning"] is None
        assert before["memory"]["anon_bytes"] > MIB
        assert daemon.chat(fake={"rss_bytes": 200 * MIB}).status == 200
        assert daemon.wait_next(before["generation"])
        death = daemon.model()["last_death"]
        assert death["cause"] == "recycled"
        assert "memory.limit_mb is 160 MiB; demo has grown by 2" in death["detail"]
        assert daemon.chat().status == 200
        assert "memory above the limit" in daemon.log()
        assert "recycled" in daemon.cli("why").stdout


def test_above_the_limit_for_good_is_said_by_status() -> None:
    """Most of it was there at READY: a replacement would not help, so people have to know."""
    with running(
        memory={"limit_mb": 160, "min_free_mb": 0}, models={"demo": {"fake": {"rss_bytes": 200 * MIB}}}
    ) as daemon:
        warning = until(lambda: daemon.status()["memory"]["warning"], "a warning")
        assert "none has grown since it was READY" in warning
        assert f"memory above the limit: {warning}" in daemon.cli("status").stdout
        assert daemon.chat().status == 200
