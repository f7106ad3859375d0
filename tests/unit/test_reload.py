from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from supervisor.errors import ConfigError
from supervisor.reload import Applier, Reloader, certificates, log_level
from supervisor.settings.load import load
from supervisor.settings.schema import Settings
from supervisor.tls import tls_of
from tests.support import certs
from tests.support.clock import FakeClock

pytestmark = pytest.mark.anyio

GOOD = "models: {demo: {path: /m.gguf}}\n"


class Rig:
    def __init__(self, file: Path) -> None:
        self.file = file
        self.file.write_text(GOOD)
        self.told: list[str] = []
        self.levels: list[str] = []
        self.refusals: list[str] = []
        self.clock = FakeClock()
        self.reloader = self.with_appliers(log_level(self.levels.append))

    def with_appliers(self, *appliers: Applier) -> Reloader:
        """A reloader for the file as it is now."""
        return Reloader(
            load(self.file, {}),
            {},
            notifier=self._notifier(),
            appliers=appliers,
            clock=self.clock,
            on_refusal=self.refusals.append,
        )

    def write(self, *sections: str) -> None:
        self.file.write_text("\n".join((GOOD, *sections)))

    def _notifier(self) -> Any:
        told = self.told

        class Ears:
            def __getattr__(self, name: str) -> Callable[[], None]:
                return lambda: told.append(name)

        return Ears()


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path / "llmsup.yaml")


async def test_an_unchanged_file_changes_nothing(rig: Rig):
    answer = await rig.reloader.reload()
    assert answer == {
        "config": str(rig.file),
        "applied": [],
        "at_next_start": [],
        "changes": [],
        "last": None,
    }
    assert rig.levels == []
    assert rig.told == ["reloading", "ready"]


async def test_the_log_level_changes_at_once_and_back(rig: Rig):
    rig.file.write_text(f"{GOOD}log: {{level: debug}}\n")
    assert (await rig.reloader.reload())["applied"] == ["log.level"]
    assert (await rig.reloader.reload())["applied"] == []
    rig.file.write_text(GOOD)
    answer = await rig.reloader.reload()
    assert (answer["applied"], answer["at_next_start"]) == (["log.level"], [])
    assert rig.levels == ["debug", "info"]


async def test_other_keys_wait_and_are_named_each_time(rig: Rig):
    rig.file.write_text(f"{GOOD}proxy: {{queue_size: 7}}\n")
    for _ in range(2):
        assert (await rig.reloader.reload())["at_next_start"] == ["proxy.queue_size"]


async def test_a_broken_file_is_refused_with_its_place_and_systemd_is_told_all_the_same(rig: Rig):
    rig.file.write_text(f"{GOOD}log: {{level: debug}}\nproxy: {{queue_size: -1}}\n")
    with pytest.raises(ConfigError, match=r"llmsup\.yaml:3:\d+: proxy\.queue_size"):
        await rig.reloader.reload()
    assert rig.levels == []
    assert rig.told == ["reloading", "ready"]


async def test_a_hangup_with_a_broken_or_missing_file_ends_nothing(rig: Rig):
    rig.file.unlink()
    rig.reloader.hang_up()
    task = rig.reloader._hangup
    assert task is not None
    await task
    assert rig.told == ["reloading", "ready"]


async def test_a_broken_certificate_leaves_all_as_it_was(rig: Rig, tmp_path: Path):
    one, two = certs.make(tmp_path, "one"), certs.make(tmp_path, "two")
    rig.file.write_text(f"{GOOD}tls: {{cert_file: {one.cert}, key_file: {one.key}}}\n")
    tls = tls_of(load(rig.file, {}).settings)
    assert tls is not None
    reloader = rig.with_appliers(log_level(rig.levels.append), certificates(tls))
    assert (await reloader.reload())["applied"] == []
    rig.file.write_text(f"{GOOD}log: {{level: debug}}\ntls: {{cert_file: {two.cert}, key_file: {one.key}}}\n")
    with pytest.raises(ConfigError, match="not the key of the certificate"):
        await reloader.reload()
    assert rig.levels == []
    rig.file.write_text(f"{GOOD}log: {{level: debug}}\ntls: {{cert_file: {two.cert}, key_file: {two.key}}}\n")
    answer = await reloader.reload()
    assert (answer["applied"], answer["at_next_start"]) == (
        ["log.level", "tls.cert_file", "tls.key_file"],
        [],
    )
    assert rig.levels == ["debug"]


async def test_switching_tls_on_waits_for_the_next_start(rig: Rig, tmp_path: Path):
    files = certs.make(tmp_path, "one")
    rig.file.write_text(f"{GOOD}tls: {{cert_file: {files.cert}, key_file: {files.key}}}\n")
    answer = await rig.reloader.reload()
    assert answer["applied"] == []
    assert answer["at_next_start"] == ["tls.cert_file", "tls.key_file"]


async def test_a_new_certificate_under_the_old_names_is_taken_up(rig: Rig, tmp_path: Path):
    one, two = certs.make(tmp_path, "one"), certs.make(tmp_path, "two")
    rig.write(f"tls: {{cert_file: {one.cert}, key_file: {one.key}}}")
    tls = tls_of(load(rig.file, {}).settings)
    assert tls is not None
    reloader = rig.with_appliers(certificates(tls))
    one.cert.write_bytes(two.cert.read_bytes())
    one.key.write_bytes(two.key.read_bytes())
    answer = await reloader.reload()
    assert (answer["applied"], answer["changes"]) == (["tls"], [])
    assert (await reloader.reload())["applied"] == []
    rig.write()
    answer = await reloader.reload()
    assert answer["at_next_start"] == ["tls.cert_file", "tls.key_file"]


# ---- appliers


class Taker:
    """An applier that writes down what it is asked."""

    def __init__(self, *keys: str) -> None:
        self.prepared: list[Settings] = []
        self.committed: list[Settings] = []
        self.refusal: Exception | None = None
        self.defect: Exception | None = None
        self.able = True
        self.applier = Applier(keys, self.prepare)

    def prepare(self, settings: Settings) -> Callable[[], None] | None:
        self.prepared.append(settings)
        if self.refusal is not None:
            raise self.refusal
        return (lambda: self._commit(settings)) if self.able else None

    def _commit(self, settings: Settings) -> None:
        if self.defect is not None:
            raise self.defect
        self.committed.append(settings)


async def test_only_whose_keys_have_changed_is_asked_and_once(rig: Rig):
    limits, retry = Taker("limits", "proxy.queue_size"), Taker("retry")
    reloader = rig.with_appliers(limits.applier, retry.applier)
    rig.write("proxy: {queue_size: 7, queue_timeout_s: 7}")
    answer = await reloader.reload()
    assert [settings.proxy.queue_size for settings in limits.committed] == [7]
    assert retry.prepared == []
    assert answer["applied"] == ["proxy.queue_size"]
    assert answer["at_next_start"] == ["proxy.queue_timeout_s"] == list(reloader.pending)
    assert answer["changes"] == [
        {"key": "proxy.queue_size", "old": "100", "new": "7", "effect": "at once"},
        {"key": "proxy.queue_timeout_s", "old": "60", "new": "7", "effect": "next start of llmsup"},
    ]
    assert (await reloader.reload())["applied"] == []
    assert len(limits.prepared) == 1


async def test_one_that_refuses_refuses_for_all(rig: Rig):
    one, two = Taker("limits"), Taker("retry")
    reloader = rig.with_appliers(one.applier, two.applier)
    before = reloader.current
    rig.write("limits: {store: 'redis://h/0'}", "retry: {max_retries: 1}")
    two.refusal = ConfigError("not so")
    with pytest.raises(ConfigError, match="not so"):
        await reloader.reload()
    assert (one.committed, two.committed) == ([], [])
    assert reloader.current is before
    assert reloader.refused is not None
    two.refusal = None
    assert (await reloader.reload())["applied"] == ["limits.store", "retry.max_retries"]
    assert reloader.refused is None


async def test_what_cannot_be_taken_up_waits_and_is_offered_again(rig: Rig):
    taker = Taker("limits")
    reloader = rig.with_appliers(taker.applier)
    rig.write("limits: {store: 'redis://h/0'}")
    taker.able = False
    assert (await reloader.reload())["at_next_start"] == ["limits.store"]
    taker.able = True
    assert (await reloader.reload())["applied"] == ["limits.store"]
    assert reloader.pending == ()


async def test_a_defect_of_one_leaves_the_others_and_says_what_waits(rig: Rig):
    one, two = Taker("limits"), Taker("retry")
    reloader = rig.with_appliers(one.applier, two.applier)
    rig.write("limits: {store: 'redis://h/0'}", "retry: {max_retries: 1}")
    one.defect = RuntimeError("a bug")
    answer = await reloader.reload()
    assert (answer["applied"], answer["at_next_start"]) == (["retry.max_retries"], ["limits.store"])
    assert len(two.committed) == 1


async def test_the_answer_after_a_save_says_what_it_did(rig: Rig):
    rig.write("log: {level: debug}")
    await rig.reloader.reload(saved=True)
    answer = await rig.reloader.reload()
    assert answer["applied"] == []
    assert answer["last"] == {"at": rig.clock.wall().isoformat(timespec="seconds"), "applied": ["log.level"]}


async def test_a_preview_takes_nothing_up(rig: Rig):
    taker = Taker("retry")
    reloader = rig.with_appliers(taker.applier)
    before = reloader.current
    rig.write("retry: {max_retries: 1}", "log: {level: debug}")
    answer = await reloader.preview()
    assert (answer["applied"], answer["at_next_start"]) == ([], ["log.level"])
    assert [(one["key"], one["effect"]) for one in answer["changes"]] == [  # type: ignore[attr-defined]  # plain JSON
        ("retry.max_retries", "at once"),
        ("log.level", "next start of llmsup"),
    ]
    assert (taker.committed, reloader.current, reloader.pending) == ([], before, ())
    rig.write("retry: {max_retries: x}")
    with pytest.raises(ConfigError):
        await reloader.preview()
    assert reloader.refused is None


async def test_what_was_saved_before_the_watch_began_is_taken_up(rig: Rig):
    await rig.reloader.catch_up()
    assert rig.told == []  # nothing to say, to systemd neither
    rig.write("log: {level: debug}")
    await rig.reloader.catch_up()
    assert rig.levels == ["debug"]
    rig.write("log: {level: x}")
    await rig.reloader.catch_up()
    assert rig.reloader.refused is not None
    assert len(rig.refusals) == 1


# ---- refused edits


async def test_a_refused_edit_is_kept_until_it_is_mended(rig: Rig):
    begun = rig.clock.wall().isoformat(timespec="seconds")
    rig.write("retry: {max_retires: 1}")
    for _ in range(2):
        with pytest.raises(ConfigError):
            await rig.reloader.reload(saved=True)
        await rig.clock.advance(60.0)
    refused = rig.reloader.refused
    assert refused is not None
    assert refused.as_dict() == {
        "message": f"{rig.file}:3:9: retry.max_retires: unknown key (did you mean 'max_retries'?)",
        "since": begun,
    }
    assert len(rig.refusals) == 1  # the same mistake, saved again, is said once
    with pytest.raises(ConfigError):
        await rig.reloader.reload()  # but whoever asks is told
    assert len(rig.refusals) == 2
    rig.write("retry: {max_retries: x}")
    with pytest.raises(ConfigError):
        await rig.reloader.reload(saved=True)
    assert len(rig.refusals) == 3
    rig.write()
    await rig.reloader.reload(saved=True)
    assert rig.reloader.refused is None


@pytest.mark.parametrize("saved", [True, False])
async def test_what_others_could_have_written_is_not_taken_up(rig: Rig, saved: bool):
    rig.file.chmod(0o666)
    assert (await rig.reloader.reload(saved=saved))["applied"] == []  # nothing of it is new
    assert rig.reloader.refused is None
    rig.file.write_text(f"{GOOD}log: {{level: debug}}\n")
    with pytest.raises(
        ConfigError, match=rf"others could have written it: {rig.file} may be written by everybody"
    ):
        await rig.reloader.reload(saved=saved)
    assert rig.levels == []
    assert rig.reloader.refused is not None
    assert f"chmod go-w {rig.file}" in rig.reloader.refused.error
    rig.file.chmod(0o644)
    assert (await rig.reloader.reload())["applied"] == ["log.level"]
    assert rig.reloader.refused is None


async def test_a_folder_that_others_may_write_is_the_same(rig: Rig):
    rig.file.parent.chmod(0o777)
    rig.file.write_text(f"{GOOD}log: {{level: debug}}\n")
    with pytest.raises(ConfigError, match="others could have written it"):
        await rig.reloader.reload()
    with pytest.raises(ConfigError, match="others could have written it"):
        await rig.reloader.preview()
    assert rig.levels == []
