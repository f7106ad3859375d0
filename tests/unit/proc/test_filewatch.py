import asyncio

import pytest

from supervisor.proc.filewatch import POLL_S, stamp, until_changed
from tests.support.clock import FakeClock

pytestmark = pytest.mark.anyio
OLD, NEW, NEWER = (1, 10, 100, 100), (2, 10, 100, 100), (2, 20, 200, 200)


@pytest.fixture
async def watched():
    """The files as the watcher sees them, one look each; the last stays."""

    class Watched:
        def __init__(self):
            self.clock = FakeClock()
            self.looks = []
            self.seen = 0

        async def look(self):
            self.seen += 1
            now = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
            if isinstance(now, Exception):
                raise now
            return now

        async def polls_until_changed(self, was, *looks, most=20):
            """How many looks it took, or None."""
            self.looks = list(looks)
            task = asyncio.create_task(until_changed(self.look, was, self.clock))
            await self.clock.advance(POLL_S * most + 0.1)
            done = task.done()
            task.cancel()
            return self.seen if done else None

    return Watched()


@pytest.mark.parametrize(
    ("was", "looks", "taken"),
    [
        ((OLD, OLD), [(OLD, OLD)], None),
        ((OLD, OLD), [(NEW, OLD)], 2),  # seen, and still the same
        ((OLD, OLD), [(OLD, NEW)], 2),  # the binary
        ((OLD, OLD), [(OLD, OLD), (NEW, OLD), (NEWER, OLD)], 4),  # still being written at the second look
        ((OLD, OLD), [(None, OLD)], None),  # gone is no repair
        ((None, OLD), [(None, OLD), (NEW, OLD)], 3),
        ((OLD, None), [(NEW, None)], None),  # a new model without a binary
        ((OLD, OLD), [(None, OLD), (OLD, OLD)], None),  # taken away and put back
        ((OLD, OLD), [RuntimeError("can't start new thread"), (NEW, OLD)], 3),
        ((), [()], None),
    ],
)
async def test_another_file_is_noticed_once_it_is_whole(watched, was, looks, taken):
    assert await watched.polls_until_changed(was, *looks) == taken


def test_a_stamp_tells_files_apart(tmp_path):
    path = tmp_path / "model.gguf"
    assert stamp(path) is None
    path.write_bytes(b"one")
    first = stamp(path)
    assert first == stamp(path)
    (tmp_path / "new").write_bytes(b"two")
    (tmp_path / "new").replace(path)
    assert stamp(path) != first
    (tmp_path / "link").symlink_to(path)
    assert stamp(tmp_path / "link") == stamp(path)
    before = stamp(path)
    path.chmod(0o600)
    path.chmod(0o640)
    assert stamp(path) != before  # permissions are a repair
    assert stamp(tmp_path / "a\0b") is None
