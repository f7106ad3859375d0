"""Sizes and durations with their units: what each key's number becomes, and what is said of the others."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import PydanticCustomError

from supervisor.settings import explain
from supervisor.settings.load import load
from supervisor.settings.problems import SettingsError
from supervisor.settings.schema import Settings
from supervisor.settings.units import (
    DURATION_PATTERN,
    IN_BYTES,
    IN_MIB,
    IN_MS,
    IN_SECONDS,
    SIZE_PATTERN,
    Unit,
)

MODEL = "models: {demo: {path: m.gguf}}\n"


@pytest.mark.parametrize(
    ("unit", "text", "number"),
    [
        (IN_SECONDS, "90s", 90),
        (IN_SECONDS, "5m", 300),
        (IN_SECONDS, "1h30m", 5400),
        (IN_SECONDS, "1h 30m", 5400),
        (IN_SECONDS, "1.5h", 5400),
        (IN_SECONDS, "2d", 172_800),
        (IN_SECONDS, "3000ms", 3),
        (IN_SECONDS, "59s1000ms", 60),
        (IN_MS, "250ms", 250),
        (IN_MS, "1.5s", 1500),
        (IN_MS, "1m", 60_000),
        (IN_MIB, "512MiB", 512),
        (IN_MIB, "2GiB", 2048),
        (IN_MIB, "1.5GiB", 1536),
        (IN_MIB, "1 TiB", 1 << 20),
        (IN_MIB, "2048KiB", 2),
        (IN_BYTES, "32MiB", 32 << 20),
        (IN_BYTES, "1.5KiB", 1536),
        (IN_BYTES, "100B", 100),
    ],
)
def test_a_text_with_a_unit_is_the_keys_number(unit: Unit, text: str, number: int) -> None:
    read = unit.parse(text, whole=True)
    assert (read, type(read)) == (number, int)
    read = unit.parse(text, whole=False)
    assert (read, type(read)) == (number, float)


def refusal(unit: Unit, text: str, *, whole: bool = True) -> tuple[str, str]:
    with pytest.raises(PydanticCustomError) as caught:
        unit.parse(text, whole=whole)
    context = caught.value.context
    assert context is not None
    return context["expected"], context["hint"]


@pytest.mark.parametrize(
    ("unit", "text", "hint"),
    [
        (IN_MIB, "2gib", "did you mean 2GiB?"),
        (IN_MIB, "2gb", "did you mean 2GiB?"),
        (IN_MIB, "2GB", "did you mean 2GiB?"),
        (IN_MIB, "2G", "did you mean 2GiB?"),
        (IN_BYTES, "512k", "did you mean 512KiB?"),
        (IN_BYTES, "100b", "did you mean 100B?"),
        (IN_MIB, "90s", "this is a duration"),
        (IN_SECONDS, "2GiB", "this is a size"),
        (IN_MS, "1kb", "this is a size"),
        (IN_SECONDS, "5min", "did you mean 5m?"),
        (IN_SECONDS, "90S", "did you mean 90s?"),
        (IN_SECONDS, "1hour30minutes", "did you mean 1h30m?"),
        (IN_SECONDS, "-5s", "a minus makes no sense here"),
        (IN_MIB, "-2GiB", "a minus makes no sense here"),
        (IN_SECONDS, "90", "take the quotes away"),
        (IN_SECONDS, "12:30", ""),
        (IN_SECONDS, "", ""),
        (IN_SECONDS, "s", ""),
        (IN_SECONDS, "30m1h", ""),
        (IN_SECONDS, "1h1h", ""),
        (IN_SECONDS, "1h ", ""),
        (IN_SECONDS, "1e3s", ""),
        (IN_SECONDS, "٣s", ""),
        (IN_SECONDS, "100us", ""),
        (IN_MIB, "2GiB1MiB", ""),
        (IN_MIB, "1/2GiB", ""),
    ],
)
def test_what_cannot_be_read_says_what_was_expected_and_meant(unit: Unit, text: str, hint: str) -> None:
    expected, said = refusal(unit, text, whole=False)
    assert expected == f"{unit.name} or {unit.example}"
    assert said == hint


@pytest.mark.parametrize(
    ("unit", "text", "expected"),
    [
        (IN_SECONDS, "250ms", "whole seconds"),
        (IN_MS, "0.1ms", "whole milliseconds"),
        (IN_MIB, "512KiB", "whole MiB"),
        (IN_MIB, "1.000001GiB", "whole MiB"),
        (IN_BYTES, "0.5B", "whole bytes"),
    ],
)
def test_nothing_is_rounded(unit: Unit, text: str, expected: str) -> None:
    assert refusal(unit, text) == (expected, "")


def test_a_fraction_of_a_second_is_fine_where_the_key_takes_one() -> None:
    assert IN_SECONDS.parse("250ms", whole=False) == 0.25


def message(tmp_path: Path, section: str) -> str:
    file = tmp_path / "c.yaml"
    file.write_text(MODEL + section)
    with pytest.raises(SettingsError) as caught:
        load(file, {})
    return str(caught.value).removeprefix(f"{file}:")


def test_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        f"{MODEL}memory: {{limit_mb: 2GiB}}\nproxy: {{request_timeout_s: 1m30s, max_body_bytes: 1MiB, queue_timeout_s: 7}}\n"
        "retry: {delay_ms: 0.25s}\n"
    )
    got = load(file, {"LLMSUP__PROXY__DRAIN_TIMEOUT_S": "250ms"}).settings
    assert (got.memory.limit_mb, got.proxy.max_body_bytes, got.retry.delay_ms) == (2048, 1 << 20, 250)
    assert (got.proxy.request_timeout_s, got.proxy.queue_timeout_s, got.proxy.drain_timeout_s) == (
        90,
        7,
        0.25,
    )


@pytest.mark.parametrize(
    ("section", "said"),
    [
        (
            "memory: {limit_mb: 2gb}",
            (
                "2:20: memory.limit_mb: expected a number of MiB or a size such as 512MiB or 2GiB, "
                "found the text '2gb' (did you mean 2GiB?)"
            ),
        ),
        (
            "proxy: {queue_timeout_s: 8d}",
            "2:26: proxy.queue_timeout_s: expected at most 604800, found the text '8d' (691200)",
        ),
        (
            "proxy: {queue_timeout_s: 0s}",
            "2:26: proxy.queue_timeout_s: expected more than 0, found the text '0s' (0)",
        ),
        (
            "proxy: {cors: {max_age_s: 1500ms}}",
            "2:27: proxy.cors.max_age_s: expected whole seconds, found the text '1500ms'",
        ),
    ],
)
def test_a_wrong_one_has_its_place_and_is_shown_as_written(tmp_path: Path, section: str, said: str) -> None:
    assert message(tmp_path, section) == said


def measured(
    schema: dict[str, Any], node: dict[str, Any], path: str = ""
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each key with a unit in its name, and its part of the JSON Schema."""
    node = schema["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node
    for one in [*node.get("anyOf", ()), node.get("additionalProperties")]:
        if isinstance(one, dict):
            yield from measured(schema, one, path)
    for key, value in node.get("properties", {}).items():
        if re.search(r"_(s|ms|mb|bytes)$", key):
            yield f"{path}.{key}", value
        yield from measured(schema, value, f"{path}.{key}")


def test_every_key_with_a_unit_in_its_name_takes_a_text_and_the_schema_says_so() -> None:
    schema = Settings.model_json_schema()
    found = dict(measured(schema, schema))
    assert {
        ".memory.limit_mb",
        ".proxy.queue_timeout_s",
        ".models.startup_stall_s",
        ".retry.delay_ms",
    } <= set(found)
    for key, node in found.items():
        size = key.endswith(("_mb", "_bytes"))
        said = json.dumps(node)
        assert json.dumps(SIZE_PATTERN if size else DURATION_PATTERN) in said, key
        assert '"number"' in said or '"integer"' in said, key
    assert {key.rpartition(".")[2] for key in found} == {
        key.rpartition(".")[2] for key in explain._all_keys() if re.search(r"_(s|ms|mb|bytes)$", key)
    }


@pytest.mark.parametrize("text", ["90s", "1h30m", "250ms", "", "90", "5min", "1h ", " ", "ms"])
def test_the_schemas_pattern_agrees_with_the_reader(text: str) -> None:
    try:
        IN_SECONDS.parse(text, whole=False)
        reads = True
    except PydanticCustomError:
        reads = False
    assert (re.search(DURATION_PATTERN, text) is not None) == reads
