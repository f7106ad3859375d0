"""The configuration as it may be shown."""

from pathlib import Path
from typing import Any

import pytest

from supervisor.control.effective import effective, masked
from supervisor.settings.load import load

TEXT = """
state_dir: {folder}/s
models:
  demo:
    path: {folder}/m.gguf
    args: ["--api-key", "hunter2hunter2", "--flash-attn", "on"]
    env: {{HF_TOKEN: "abc", PLAIN: "value"}}
"""


def shown(tmp_path: Path, environ: dict[str, str]) -> dict[str, dict[str, Any]]:
    path = tmp_path / "llmsup.yaml"
    path.write_text(TEXT.format(folder=tmp_path))
    document = effective(load(path, environ))
    assert document["path"] == str(path)
    return {one["key"]: one for one in document["settings"]}


def test_every_value_with_its_origin(tmp_path: Path) -> None:
    settings = shown(tmp_path, {"LLMSUP__PROXY__QUEUE_SIZE": "5"})
    assert settings["proxy.queue_size"]["value"] == 5
    assert settings["proxy.queue_size"]["source"] == "env LLMSUP__PROXY__QUEUE_SIZE"
    assert settings["state_dir"]["value"] == f"{tmp_path}/s"
    assert settings["state_dir"]["source"].endswith("llmsup.yaml:2")
    assert settings["proxy.queue_timeout_s"]["source"] == "default"


def test_secrets_are_masked(tmp_path: Path) -> None:
    settings = shown(tmp_path, {})
    assert settings["models.demo.env.HF_TOKEN"]["value"] == "***"
    assert settings["models.demo.env.PLAIN"]["value"] == "value"
    assert settings["models.demo.args"]["value"] == ["--api-key", "***", "--flash-attn", "on"]
    assert "hunter2" not in str(settings)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("redis://user:geheim@host/0", "redis://user:***@host/0"),
        ("redis://:geheim@host/0", "redis://:***@host/0"),
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("http://127.0.0.1:8005/a@b", "http://127.0.0.1:8005/a@b"),
        (["--api-key=geheim123"], ["--api-key=***"]),
        (None, None),
        (4, 4),
    ],
)
def test_what_looks_like_a_secret(value: object, told: object) -> None:
    assert masked(("limits", "store"), value) == told


def test_what_came_from_elsewhere_is_shown_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "llmsup.yaml"
    path.write_text(TEXT.format(folder=tmp_path).replace('"value"', '"${SOURCE}"'))
    document = effective(load(path, {"SOURCE": "geheimnis"}))
    assert "geheimnis" not in str(document)
    values = {one["key"]: one["value"] for one in document["settings"]}
    assert values["models.demo.env.PLAIN"] == "${SOURCE}"
