from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from supervisor.errors import ConfigError
from supervisor.reload import Reloader
from supervisor.settings.load import load
from supervisor.tls import tls_of
from tests.support import certs

pytestmark = pytest.mark.anyio

GOOD = "models: {demo: {path: /m.gguf}}\n"


class Rig:
    def __init__(self, file: Path) -> None:
        self.file = file
        self.file.write_text(GOOD)
        self.told: list[str] = []
        self.levels: list[str] = []
        self.reloader = Reloader(load(file, {}), {}, notifier=self._notifier(), set_level=self.levels.append)

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
    assert answer == {"config": str(rig.file), "applied": [], "at_next_start": []}
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
    settings = load(rig.file, {})
    reloader = Reloader(
        settings, {}, notifier=rig._notifier(), set_level=rig.levels.append, tls=tls_of(settings.settings)
    )
    assert (await reloader.reload())["applied"] == []
    rig.file.write_text(f"{GOOD}log: {{level: debug}}\ntls: {{cert_file: {two.cert}, key_file: {one.key}}}\n")
    with pytest.raises(ConfigError, match="not the key of the certificate"):
        await reloader.reload()
    assert rig.levels == []
    rig.file.write_text(f"{GOOD}log: {{level: debug}}\ntls: {{cert_file: {two.cert}, key_file: {two.key}}}\n")
    answer = await reloader.reload()
    assert (answer["applied"], answer["at_next_start"]) == (["log.level", "tls"], [])
    assert rig.levels == ["debug"]


async def test_switching_tls_on_waits_for_the_next_start(rig: Rig, tmp_path: Path):
    files = certs.make(tmp_path, "one")
    rig.file.write_text(f"{GOOD}tls: {{cert_file: {files.cert}, key_file: {files.key}}}\n")
    answer = await rig.reloader.reload()
    assert answer["applied"] == []
    assert answer["at_next_start"] == ["tls.cert_file", "tls.key_file"]
