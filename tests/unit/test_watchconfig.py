"""The configuration taken up when it is saved: what counts as a change, when, and what must be watched for it."""

import asyncio
import os
from collections.abc import AsyncGenerator, Collection
from pathlib import Path

import pytest

from supervisor import watchconfig
from supervisor.errors import ConfigError
from supervisor.watchconfig import ABSENT_S, ConfigWatch, Place, Seen, look, notified, trail
from tests.support.clock import FakeClock

pytestmark = pytest.mark.anyio

FILE = Path("/etc/llmsup/llmsup.yaml")


def saved(number: int) -> Seen:
    return str(FILE), (number, 100, number, number)


class Rig:
    """A watch whose events and looks are ours."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.there = saved(1)
        self.reloads: list[Seen] = []
        self.caught_up: list[Seen] = []
        self.refusal: Exception | None = None
        self.clock = FakeClock()
        self.watched: list[Collection[Place]] = []
        self.footing = frozenset({Place("/etc/llmsup", "llmsup.yaml", 7)})
        self.deaf = False
        self._events: asyncio.Queue[None] = asyncio.Queue()
        monkeypatch.setattr(watchconfig, "trail", lambda _: self.footing)
        monkeypatch.setattr(asyncio, "to_thread", self._at_once)
        self.watch = ConfigWatch(
            FILE,
            self._reload,
            self.clock,
            catch_up=self._catch_up,
            notified=self._notified,
            look=lambda _: self.there,
        )

    async def _catch_up(self) -> None:
        self.caught_up.append(self.there)

    @staticmethod
    async def _at_once(work, *args):
        return work(*args)

    async def _reload(self) -> None:
        self.reloads.append(self.there)
        if self.refusal is not None:
            raise self.refusal

    async def _notified(self, places: Collection[Place]) -> AsyncGenerator[None]:
        self.watched.append(places)
        if self.deaf:
            raise OSError(28, "OS file watch limit reached")
        while True:
            await self._events.get()
            yield

    async def event(self, there: Seen) -> None:
        self.there = there
        self._events.put_nowait(None)
        await self.clock.settle()


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch):
    rig = Rig(monkeypatch)
    keeping = asyncio.create_task(rig.watch.keep())
    await rig.clock.settle()
    yield rig
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_another_file_is_taken_up_once(rig: Rig) -> None:
    await rig.event(saved(2))
    await rig.event(saved(2))
    assert rig.reloads == [saved(2)]


async def test_what_was_saved_before_the_watch_began_is_caught_up_once(rig: Rig) -> None:
    assert rig.caught_up == [saved(1)]
    await rig.event(saved(2))
    assert len(rig.caught_up) == 1


async def test_an_event_without_a_change_is_none(rig: Rig) -> None:
    await rig.event(saved(1))
    assert rig.reloads == []


async def test_a_wrong_file_does_not_end_the_watch(rig: Rig) -> None:
    rig.refusal = ConfigError("wrong")
    await rig.event(saved(2))
    rig.refusal = None
    await rig.event(saved(3))
    assert rig.reloads == [saved(2), saved(3)]


async def test_a_file_that_is_gone_for_a_moment_is_no_mistake(rig: Rig) -> None:
    await rig.event(None)
    await rig.clock.advance(ABSENT_S / 2)
    assert rig.reloads == []
    rig.there = saved(2)
    await rig.clock.advance(ABSENT_S)
    assert rig.reloads == [saved(2)]


async def test_the_same_file_back_again_is_no_change(rig: Rig) -> None:
    await rig.event(None)
    rig.there = saved(1)
    await rig.clock.advance(2 * ABSENT_S)
    assert rig.reloads == []


async def test_a_file_that_stays_away_is_read_and_so_refused(rig: Rig) -> None:
    await rig.event(None)
    await rig.clock.advance(ABSENT_S - 0.3)
    assert rig.reloads == []
    await rig.clock.advance(0.6)
    assert rig.reloads == [None]
    await rig.event(None)  # said once
    await rig.clock.advance(2 * ABSENT_S)
    assert rig.reloads == [None]
    await rig.event(saved(2))
    assert rig.reloads == [None, saved(2)]


async def test_a_link_that_leads_elsewhere_is_watched_there(rig: Rig) -> None:
    rig.footing = frozenset({Place("/srv/conf", "llmsup.yaml", 8)})
    await rig.event(saved(2))
    assert rig.watched[-1] == rig.footing
    assert len(rig.watched) == 2
    await rig.event(saved(3))
    assert rig.reloads == [saved(2), saved(3)]


async def test_without_notifications_it_looks_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch)
    rig.deaf = True
    keeping = asyncio.create_task(rig.watch.keep())
    await rig.clock.settle()
    rig.there = saved(2)
    await rig.clock.advance(watchconfig.POLL_S)
    assert rig.reloads == [saved(2)]
    rig.deaf = False  # somebody gave watches back
    await rig.clock.advance(watchconfig.POLLS * watchconfig.POLL_S)
    assert len(rig.watched) == 2
    await rig.event(saved(3))
    assert rig.reloads == [saved(2), saved(3)]
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


# ---- what is there, and where


def test_an_empty_or_missing_file_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    assert look(file) is None
    file.touch()
    assert look(file) is None
    file.write_text("x")
    first = look(file)
    assert first is not None
    assert first[0] == str(file)
    file.chmod(0o600)  # it may be readable only now
    assert look(file) != first


def test_the_same_content_in_another_file_is_another_file(tmp_path: Path) -> None:
    """Links swapped between two files of equal size and time."""
    for name in ("a", "b"):
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (1, 1))
    link = tmp_path / "c.yaml"
    link.symlink_to("a")
    before = look(link)
    link.unlink()
    link.symlink_to("b")
    assert look(link) != before


def names(path: Path) -> set[tuple[str, str]]:
    return {(place.folder, place.name) for place in trail(path)}


def test_a_plain_file_is_watched_by_its_folder(tmp_path: Path) -> None:
    (place,) = trail(tmp_path / "c.yaml")  # it need not be there
    assert (place.folder, place.name, place.inode) == (str(tmp_path), "c.yaml", tmp_path.stat().st_ino)


def test_every_link_on_the_way_is_watched_as_kubernetes_makes_them(tmp_path: Path) -> None:
    (tmp_path / "..1").mkdir()
    (tmp_path / "..1/c.yaml").write_text("x")
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "c.yaml").symlink_to("..data/c.yaml")
    assert names(tmp_path / "c.yaml") == {
        (str(tmp_path), "c.yaml"),
        (str(tmp_path), "..data"),
        (str(tmp_path / "..1"), "c.yaml"),
    }


def test_links_to_folders_and_upwards(tmp_path: Path) -> None:
    (tmp_path / "real/deep").mkdir(parents=True)
    (tmp_path / "real/c.yaml").write_text("x")
    (tmp_path / "etc").symlink_to(tmp_path / "real/deep")
    (tmp_path / "real/deep/c.yaml").symlink_to("./../c.yaml")
    assert names(tmp_path / "etc/c.yaml") == {
        (str(tmp_path), "etc"),
        (str(tmp_path / "real/deep"), "c.yaml"),
        (str(tmp_path / "real"), "c.yaml"),
    }


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert names(tmp_path / "a") == {(str(tmp_path), "a"), (str(tmp_path), "b")}


def test_a_folder_made_anew_is_another(tmp_path: Path) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    before = trail(folder / "c.yaml")
    folder.rename(tmp_path / "old")
    folder.mkdir()
    assert trail(folder / "c.yaml") != before


async def test_the_kernel_tells_of_a_rename_onto_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("x")
    changes = notified(trail(file))
    coming = asyncio.ensure_future(anext(changes))
    try:
        async with asyncio.timeout(10):
            while not coming.done():  # until the kernel listens
                (tmp_path / "new").write_text("y")
                (tmp_path / "new").replace(file)
                await asyncio.wait({coming}, timeout=0.5)
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)
        await changes.aclose()
