"""FAULTS 33: a child that makes all of them exceed the limit is replaced at a quiet moment."""

from supervisor.types import MIB
from tests.support.daemon import running


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
