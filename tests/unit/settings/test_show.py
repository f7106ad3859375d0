"""The listing of what is in force: complete, in YAML's words, and without secrets."""

from pathlib import Path

import pytest
import yaml

from supervisor.settings.load import load
from supervisor.settings.show import Shown, flow, shown


def listing(tmp_path: Path, text: str, **environ: str) -> dict[str, Shown]:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    return dict(shown(load(file, environ)))


def test_every_key_has_value_and_source(tmp_path: Path) -> None:
    found = listing(tmp_path, "models: {demo: {path: m.gguf}}\nlog:\n  level: debug\n", LLM_CONTEXT_SIZE="99")
    assert found["log.level"] == Shown("debug", f"{tmp_path}/c.yaml:3")
    assert found["models.demo.context_size"] == Shown(99, "env LLM_CONTEXT_SIZE")
    assert found["models.demo.path"].value == f"{tmp_path}/m.gguf"
    assert found["models.demo.env"].text == "{}"
    assert found["proxy.queue_timeout_s"].text == "60"


SECRETS = """
models:
  demo:
    path: m.gguf
    args: ["--api-key", "hunter2a", "--hf-token=hunter2b", "--flash-attn", "on", "--api-key"]
    env: {HF_TOKEN: hunter2c, DB_PASSWORD: hunter2d, CUDA_VISIBLE_DEVICES: "0", FROM: "x${V}"}
limits: {store: "redis://me:hunter2e@h/0"}
"""


def test_secrets_are_masked_and_the_rest_is_not(tmp_path: Path) -> None:
    found = listing(tmp_path, SECRETS, V="hunter2f", LLMSUP__MODELS__DEMO__ENV__ANY="hunter2g")
    assert "hunter2" not in str(found)
    assert found["models.demo.args"].value == [
        "--api-key",
        "***",
        "--hf-token=***",
        "--flash-attn",
        "on",
        "--api-key",
    ]
    assert {key.rpartition(".")[2]: one.text for key, one in found.items() if ".env." in key} == {
        "HF_TOKEN": "***",
        "DB_PASSWORD": "***",
        "CUDA_VISIBLE_DEVICES": '"0"',
        "FROM": "x${V}",
        "ANY": "***",
    }
    assert found["limits.store"].text == "redis://***@h/0"
    assert {key for key, one in found.items() if one.secret} == {
        "models.demo.args",
        "models.demo.env.HF_TOKEN",
        "models.demo.env.DB_PASSWORD",
        "models.demo.env.FROM",
        "models.demo.env.ANY",
        "limits.store",
    }


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        4,
        0.25,
        60.0,
        "",
        "text",
        "no",
        "12",
        "null",
        "a: b",
        "a #b",
        "*",
        "&a",
        "- a",
        "[::1]:8005",
        "ends:",
        "two words",
        "~/x",
        "é\n",
        "${A}",
        [],
        ["a", 1, "1"],
        {"a": {"b": [1]}, "c:": "d"},
        {},
    ],
)
def test_a_value_reads_back_as_itself(value: object) -> None:
    from supervisor.settings.yamlio import parse

    text = f"key: {flow(value)}\n"
    assert "\n" not in text[:-1]
    assert parse(text.encode(), "f").data == {"key": value}
    if value != "no":  # which YAML 1.1 takes for a truth value
        assert yaml.safe_load(text) == {"key": value}
