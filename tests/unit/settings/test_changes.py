"""Two configurations compared: by key, in words without secrets, with when it takes effect."""

from pathlib import Path
from typing import Any

import yaml

from supervisor.settings.changes import AT_ONCE, NEXT_START, Change, changed, diff, effect
from supervisor.settings.load import Loaded, load

BASE: dict[str, Any] = {"models": {"demo": {"path": "/m.gguf"}}}


def loaded(tmp_path: Path, environ: dict[str, str] | None = None, /, **sections: object) -> Loaded:
    file = tmp_path / "llmsup.yaml"
    file.write_text(yaml.safe_dump(BASE | sections, sort_keys=False))
    return load(file, environ or {})


def demo(**keys: object) -> dict[str, object]:
    return {"demo": {"path": "/m.gguf"} | keys}


def lines(old: Loaded, new: Loaded, *live: str) -> list[str]:
    return [line for change in diff(old, new, live) for line in change.lines()]


def test_nothing(tmp_path: Path) -> None:
    assert diff(loaded(tmp_path), loaded(tmp_path, log={"level": "info"})) == ()


def test_the_same_value_in_another_unit_is_no_change(tmp_path: Path) -> None:
    assert diff(loaded(tmp_path), loaded(tmp_path, memory={"limit_mb": "2GiB"})) == ()


def test_each_key_by_name(tmp_path: Path) -> None:
    new = loaded(
        tmp_path,
        log={"level": "debug"},
        proxy={"queue_size": 7, "trusted_proxies": ["10.0.0.1"]},
        models=demo(parallel=2),
    )
    assert changed(loaded(tmp_path).settings, new.settings) == (
        ("log", "level"),
        ("models", "demo", "parallel"),
        ("proxy", "queue_size"),
        ("proxy", "trusted_proxies"),
    )


def test_a_change_is_two_lines(tmp_path: Path) -> None:
    new = loaded(tmp_path, proxy={"queue_size": 7, "trusted_proxies": ["::1"]})
    assert lines(loaded(tmp_path), new) == [
        "- proxy.queue_size: 100",
        "+ proxy.queue_size: 7",
        "- proxy.trusted_proxies: []",
        '+ proxy.trusted_proxies: ["::1"]',
    ]


def test_models_that_come_and_go_are_one_key_each_and_show_what_was_written(tmp_path: Path) -> None:
    new = loaded(tmp_path, models={"fresh": {"path": "/n.gguf", "parallel": 2}})
    assert lines(loaded(tmp_path), new) == [
        "+ models.fresh: {path: /n.gguf, parallel: 2}",
        "- models.demo: {path: /m.gguf}",
        "- default_model: demo",
        "+ default_model: fresh",
    ]


def test_a_models_name_may_be_the_beginning_of_anothers(tmp_path: Path) -> None:
    both = {"a": {"path": "/a.gguf"}, "a.b": {"path": "/b.gguf"}}
    one = loaded(tmp_path, models={"a.b": both["a.b"]}, default_model="a.b")
    assert lines(one, loaded(tmp_path, models=both, default_model="a.b")) == ["+ models.a: {path: /a.gguf}"]


def test_a_section_in_place_of_nothing_shows_its_values(tmp_path: Path) -> None:
    none = {"pools": {"user": {"shared": None}}}
    shared = {"pools": {"user": {"shared": {"concurrent": 3}}}}
    assert lines(loaded(tmp_path, limits=none), loaded(tmp_path, limits=shared)) == [
        "- limits.pools.user.shared: null",
        "+ limits.pools.user.shared: {concurrent: 3}",
    ]


def test_secrets_are_not_told(tmp_path: Path) -> None:
    old = loaded(tmp_path, {"A": "one-secret"}, models=demo(env={"X": "${A}", "HF_TOKEN": "two-secret"}))
    new = loaded(
        tmp_path,
        {"A": "another-secret"},
        models=demo(env={"X": "${A}", "HF_TOKEN": "three-secret"}),
        limits={"store": "redis://u:four-secret@h/1"},
    )
    assert lines(old, new) == [
        "- models.demo.env.X: ${A}",
        "+ models.demo.env.X: ${A} (another value)",
        "- models.demo.env.HF_TOKEN: ***",
        "+ models.demo.env.HF_TOKEN: *** (another value)",
        "- limits.store: memory",
        "+ limits.store: redis://***@h/1",
    ]


def test_what_is_live_takes_effect_at_once_and_the_rest_at_the_next_start(tmp_path: Path) -> None:
    new = loaded(tmp_path, log={"level": "debug"}, retry={"max_retries": 1})
    assert [(one.key, one.effect) for one in diff(loaded(tmp_path), new, ("log.level", "limits"))] == [
        ("log.level", AT_ONCE),
        ("retry.max_retries", NEXT_START),
    ]


def test_of_a_model_most_keys_restart_it(tmp_path: Path) -> None:
    assert effect(("models", "demo", "threads"), ("models",)) == "restart of model demo"
    assert effect(("models", "demo", "env", "X"), ("models",)) == "restart of model demo"
    assert effect(("models", "demo", "aliases"), ("models",)) == AT_ONCE
    assert effect(("models", "fresh"), ("models",)) == AT_ONCE
    assert effect(("models", "demo", "threads"), ()) == NEXT_START
    assert effect(("models", "demo", "threads"), ("models.demo.parallel", "model")) == NEXT_START


def test_names_may_hold_dots() -> None:
    live = ("models.qwen-2.5",)
    assert effect(("models", "qwen-2.5", "threads"), live) == "restart of model qwen-2.5"
    assert effect(("models", "qwen-2", "threads"), live) == NEXT_START
    assert effect(("models", "qwen-2.5.1", "threads"), live) == NEXT_START


def test_a_change_as_json() -> None:
    assert Change("a", None, "1", AT_ONCE).as_dict() == {
        "key": "a",
        "old": None,
        "new": "1",
        "effect": "at once",
    }
