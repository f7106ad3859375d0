"""The schema for editors agrees with the reader: what one takes the other takes, as far as a schema can say it."""

from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from supervisor.settings import yamlio
from supervisor.settings.jsonschema import comments, schema
from supervisor.settings.load import load
from supervisor.settings.problems import SettingsError

ROOT = Path(__file__).parents[3]
MODEL = "models: {demo: {path: m.gguf}}\n"


def valid(text: str) -> bool:
    data: Any = yamlio.parse(text.encode(), "f").data
    return bool(jsonschema_rs.validator_for(schema()).is_valid(data))


def reads(folder: Path, text: str) -> bool:
    file = folder / "c.yaml"
    file.write_text(text)
    try:
        load(file, {})
    except SettingsError:
        return False
    return True


def test_it_is_a_schema() -> None:
    jsonschema_rs.meta.validate(schema())


@pytest.mark.parametrize("name", ["llmsup.yaml", "minimal.yaml"])
def test_the_examples_are_valid(name: str) -> None:
    assert valid((ROOT / "config" / name).read_text())


GOOD = [
    "",
    "proxy:\n",
    "memory: {limit_mb: 2GiB}",
    "memory: {limit_mb: 4096}",
    "proxy: {queue_timeout_s: 1h30m, drain_timeout_s: 0}",
    "retry: {delay_ms: 250ms, retryable: [ECONNREFUSED, 503]}",
    "state_dir: null",
    "limits: {store: 'redis://h:1/0', pools: {gold: {weight: 2, shared: null}, user: {concurrent: null}}}",
    "tls:\n",
    "reload: {watch: false}",
]
BAD = [
    "proxy: {queue_sise: 1}",
    "proxy: {queue_size: '1'}",
    "proxy: {queue_size: -1}",
    "proxy: {continue_after_crash: no}",
    "proxy: {queue_timeout_s: 12:30}",
    "proxy: {queue_timeout_s: 0}",
    "proxy: {queue_timeout_s: 2GiB}",
    "memory: {limit_mb: 90s}",
    "memory: {limit_mb: 2gb}",
    "log: {level: warn}",
    "log: []",
    "zzz: 1",
    "limits: {pools: {user: {wieght: 1}}}",
]


@pytest.mark.parametrize("section", GOOD)
def test_both_take_what_is_good(tmp_path: Path, section: str) -> None:
    assert reads(tmp_path, MODEL + section)
    assert valid(MODEL + section)


@pytest.mark.parametrize("section", BAD)
def test_both_refuse_what_is_not(tmp_path: Path, section: str) -> None:
    assert not reads(tmp_path, MODEL + section)
    assert not valid(MODEL + section)


def test_a_model_needs_a_path() -> None:
    assert not valid("models: {demo: {}}")
    assert not valid("{}")


def described(section: str) -> dict[str, str | None]:
    made = schema()
    node = made["$defs"][section] if section else made
    return {key: one.get("description") for key, one in node["properties"].items()}


def test_every_key_says_what_it_is() -> None:
    for section in ("", *schema()["$defs"]):
        for key, words in described(section).items():
            assert words, f"{section}.{key}: no comment behind it in config/llmsup.yaml"


def test_what_it_says_is_the_examples_comment() -> None:
    assert (
        described("Proxy")["queue_size"]
        == "requests that may wait for a slot; the next one gets 503 queue_full"
    )
    assert described("Pool")["concurrent"] == "requests at the same time; null: unlimited"
    assert described("Cors")["max_age_s"] == "how long browsers may remember the answer"
    assert described("Model")["path"] == "the GGUF file; the one required key"


def test_comments_of_an_example() -> None:
    text = "a: 1  # first\nb:  # second\n  a: '#'\nmodels:\n  x: {}  # third\n"
    assert comments(text) == {
        ("a",): "first",
        ("b",): "second",
        ("models", "NAME"): "third",
        ("x",): "third",
    }
