"""The configuration as it may be shown."""

from pathlib import Path
from typing import Any

import pytest

from supervisor.control.effective import effective
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
    ("store", "told"),
    [
        ("redis://user:geheim@host/0", "redis://***@host/0"),
        ("redis://:geheim@host/0", "redis://***@host/0"),
        ("redis://host:6379/0", "redis://host:6379/0"),
    ],
)
def test_no_password_of_an_address(tmp_path: Path, store: str, told: str) -> None:
    assert shown(tmp_path, {"LLMSUP__LIMITS__STORE": store})["limits.store"]["value"] == told


def test_what_the_environment_gives_a_child_is_nobodys_to_see(tmp_path: Path) -> None:
    settings = shown(tmp_path, {"LLMSUP__MODELS__DEMO__ENV__PLAIN": "hunter2"})
    assert settings["models.demo.env.PLAIN"]["value"] == "***"
    assert "hunter2" not in str(settings)


def test_what_came_from_elsewhere_is_shown_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "llmsup.yaml"
    path.write_text(TEXT.format(folder=tmp_path).replace('"value"', '"${SOURCE}"'))
    document = effective(load(path, {"SOURCE": "geheimnis"}))
    assert "geheimnis" not in str(document)
    values = {one["key"]: one["value"] for one in document["settings"]}
    assert values["models.demo.env.PLAIN"] == "${SOURCE}"
