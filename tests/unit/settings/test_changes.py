from pathlib import Path

import yaml

from supervisor.settings.changes import changed
from supervisor.settings.load import load
from supervisor.settings.schema import Settings

BASE = {"models": {"demo": {"path": "/m.gguf"}}}


def settings(tmp_path: Path, **sections: object) -> Settings:
    file = tmp_path / "llmsup.yaml"
    file.write_text(yaml.safe_dump(BASE | sections))
    return load(file, {}).settings


def test_nothing(tmp_path: Path):
    assert changed(settings(tmp_path), settings(tmp_path, log={"level": "info"})) == ()


def test_each_key_by_name(tmp_path: Path):
    new = settings(
        tmp_path,
        log={"level": "debug"},
        proxy={"queue_size": 7, "trusted_proxies": []},
        models={"demo": {"path": "/m.gguf", "parallel": 2}},
    )
    assert changed(settings(tmp_path), new) == (
        "log.level",
        "models.demo.parallel",
        "proxy.queue_size",
        "proxy.trusted_proxies",
    )


def test_models_that_come_and_go_are_one_key_each(tmp_path: Path):
    new = settings(tmp_path, models={"fresh": {"path": "/n.gguf"}})
    found = changed(settings(tmp_path), new)
    assert {"models.fresh", "models.demo", "default_model"} <= set(found)
    assert not any(key.startswith("models.fresh.") for key in found)
