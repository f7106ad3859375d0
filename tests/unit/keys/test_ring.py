"""`keys.ring`: the keys in force; what cannot be believed lets nobody in."""

import asyncio
import contextlib
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from supervisor.keys import key as keys
from supervisor.keys import store
from supervisor.keys.key import Key
from supervisor.keys.ring import LOOK_EVERY_S, Keyring

NOW = datetime(2026, 5, 1, tzinfo=UTC)


class Wall:
    now = NOW

    def __call__(self) -> datetime:
        return self.now


def made(path: Path, name: str = "ci", expires: datetime | None = None) -> keys.Presented:
    text, _ = store.create(path, Key(id="", name=name, digest=b"", created=NOW, expires=expires))
    shown = keys.presented(text.encode())
    assert shown is not None
    return shown


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / store.FILE_NAME


def test_what_is_in_the_file_at_the_start_is_in_force(path):
    shown = made(path)
    ring = Keyring(path, Wall())
    assert ring.find(shown).name == "ci"
    assert ring.count == 1


def test_unknown_ids_other_secrets_and_half_keys_are_not_found(path):
    shown = made(path)
    ring = Keyring(path, Wall())
    assert ring.find(keys.presented(b"llmsup_")) is None
    assert ring.find(keys.Presented(shown.id, keys.digest(b"other"))) is None
    assert ring.find(keys.Presented("00000000", shown.digest)) is None


def test_a_key_ends_at_its_moment(path):
    wall = Wall()
    shown = made(path, expires=NOW + timedelta(days=1))
    ring = Keyring(path, wall)
    assert ring.find(shown) is not None
    wall.now = NOW + timedelta(days=1)
    assert ring.find(shown) is None


def test_a_reload_takes_up_new_keys_and_drops_revoked_ones(path):
    ring = Keyring(path, Wall())
    shown = made(path)
    assert ring.find(shown) is None
    assert asyncio.run(ring.reload()) == 1
    assert ring.find(shown) is not None
    store.revoke(path, "ci")
    assert asyncio.run(ring.reload()) == 0
    assert ring.find(shown) is None


def test_a_file_that_breaks_refuses_every_key_until_it_is_mended(path):
    shown = made(path)
    good = path.read_bytes()
    ring = Keyring(path, Wall())
    path.write_bytes(b"{")
    asyncio.run(ring.reload())
    assert ring.find(shown) is None
    assert "until then no key is accepted" in ring.error
    path.write_bytes(good)
    asyncio.run(ring.reload())
    assert ring.find(shown) is not None
    assert ring.error == ""


def test_a_file_that_is_removed_takes_its_keys_along(path):
    shown = made(path)
    ring = Keyring(path, Wall())
    path.unlink()
    asyncio.run(ring.reload())
    assert ring.find(shown) is None
    assert ring.error == ""


class Steps:
    """A clock whose sleeps are steps of the test; the last one ends the job."""

    def __init__(self, *steps: object) -> None:
        self.steps = list(steps)
        self.slept: list[float] = []

    def now(self) -> float:
        return 0.0

    def wall(self) -> datetime:
        return NOW

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if not self.steps:
            raise asyncio.CancelledError
        self.steps.pop(0)()


def kept(job: Awaitable[None]) -> None:
    async def run() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await job

    asyncio.run(run())


def test_a_changed_file_is_noticed_within_a_second_and_an_unchanged_one_not_read(path, monkeypatch):
    ring = Keyring(path, Wall())
    reads = []
    real = store.read
    monkeypatch.setattr(store, "read", lambda file, **how: reads.append(file) or real(file, **how))
    found: list[int] = []
    clock = Steps(lambda: None, lambda: made(path), lambda: found.append(ring.count), lambda: None)
    kept(ring.keep(clock))
    assert found == [1]
    assert len(reads) == 2  # the writer's own, and one of ours
    assert set(clock.slept) == {LOOK_EVERY_S}
    assert LOOK_EVERY_S <= 1


def test_a_broken_file_is_looked_at_again_and_complained_of_once(path, monkeypatch):
    made(path)
    path.write_bytes(b"{")
    said = []
    monkeypatch.setattr("supervisor.keys.ring.log.error", lambda *_, error: said.append(error))
    ring = Keyring(path, Wall())
    kept(ring.keep(Steps(lambda: None, lambda: None, path.unlink, lambda: None)))
    assert len(said) == 1
    assert ring.error == ""


def test_without_a_file_there_are_no_keys():
    ring = Keyring(None, Wall())
    assert asyncio.run(ring.reload()) == 0
    assert ring.find(keys.Presented("00000000", b"")) is None
