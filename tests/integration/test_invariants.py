"""The look at the invariants sees what it is there for."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from supervisor.proc.children import home_of
from supervisor.proc.command import MARKER
from tests.support import invariants
from tests.support.daemon import DaemonUnderTest, running


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[DaemonUnderTest]:
    with running() as daemon, monkeypatch.context() as patch:
        patch.setattr(invariants, "SETTLE_S", 0.3)
        yield daemon


def check(daemon: DaemonUnderTest) -> None:
    assert daemon.baseline is not None
    daemon.baseline.check(daemon)


def test_a_request_that_has_not_ended(daemon: DaemonUnderTest) -> None:
    with (
        daemon.streaming(max_tokens=1000, fake={"token_delay_s": 0.05}),
        pytest.raises(AssertionError, match=r"requests have not ended: .*'in_flight': 1"),
    ):
        check(daemon)


def test_a_second_tree(daemon: DaemonUnderTest) -> None:
    marker = f"{home_of(daemon.run_dir.path)}:1:demo:99"
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(command, env=daemon.environ | {MARKER: marker}) as second:
        try:
            with pytest.raises(AssertionError, match="not one tree for each instance: demo"):
                check(daemon)
        finally:
            second.kill()


def test_a_size_that_has_grown(daemon: DaemonUnderTest) -> None:
    for name in ("fds", "threads", "rss_bytes"):
        assert daemon.baseline is not None
        facts = {one: getattr(daemon.baseline, one) for one in ("pid", "fds", "threads", "rss_bytes")}
        smaller = invariants.Baseline(**facts | {name: -(1 << 40)})
        with pytest.raises(AssertionError, match="at most -"):
            smaller.check(daemon)
