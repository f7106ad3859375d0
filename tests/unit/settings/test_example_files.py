"""config/*.yaml are documentation that is run: complete, true to the defaults, valid."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from supervisor.settings import explain, yamlio
from supervisor.settings.load import load
from supervisor.settings.notices import notices
from supervisor.settings.schema import Settings

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "config/llmsup.yaml"
DEMO = {
    "context_size": 4096,
    "threads": 2,
    "batch_size": 256,
    "parallel": 4,
    "gpu_layers": 0,
    "port": 0,
    "startup_stall_s": 60,
}


def keys(value: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Dotted keys with NAME for what the operator names."""
    for key, item in value.items() if isinstance(value, dict) else ():
        here = (*path, "NAME" if path in {("models",), ("limits", "pools")} else key)
        yield ".".join(here)
        yield from keys(item, here)


def test_the_example_has_every_key_and_only_those() -> None:
    written = set(keys(yamlio.parse(EXAMPLE.read_bytes(), "f").data))
    assert written - {"models.NAME", "limits.pools.NAME"} == set(explain._all_keys())


def test_the_example_shows_the_defaults() -> None:
    got = load(EXAMPLE, {"XDG_STATE_HOME": "/xdg"}).settings
    bare = Settings.model_validate({"state_dir": "/xdg/llmsup", "models": got.models})
    assert got == bare


def test_the_demo_model_is_the_contracts() -> None:
    demo = load(EXAMPLE, {}).settings.models["demo"]
    assert {key: getattr(demo, key) for key in DEMO} == DEMO
    assert demo.path == ROOT / "models/demo.gguf"
    assert demo.safe_profile.model_dump() == {"context_size": 2048, "batch_size": 128, "threads": 2}
    assert (demo.args, demo.env) == ([], {})


def test_every_key_of_the_example_has_a_comment() -> None:
    seen: set[str] = set()
    for line in EXAMPLE.read_text().splitlines():
        key = line.split("#")[0].strip().split(":")[0]
        if key and "#" not in line:
            assert key in seen or line.rstrip().endswith(":"), (
                line
            )  # explained at its first mention, or a section
        seen.add(key)


def test_minimal_is_valid() -> None:
    assert load(ROOT / "config/minimal.yaml", {}).settings.default_model == "my-model"


def test_what_has_no_effect_is_said(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("models: {a: {path: gone, max_history: 3}, b: {path: .}}\ndefault_model: a\n")
    assert [notice.key for notice in notices(load(file, {}))] == [
        "models.a.path",
        "models.a.max_history",
        "models.b.path",
    ]
