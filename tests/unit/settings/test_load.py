"""File and environment to settings; every mistake at once, each with its place."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor.errors import ConfigError
from supervisor.settings.load import Loaded, load
from supervisor.settings.problems import SettingsError

MODEL = "models: {demo: {path: m.gguf}}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "llmsup.yaml"


def loaded(file: Path, text: str, **environ: str) -> Loaded:
    file.write_text(text)
    return load(file, environ)


def lines(file: Path, text: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(file, text, **environ)
    assert caught.value.exit_code == 6
    return str(caught.value).replace(str(file), "F").splitlines()


def test_one_error_is_one_line(file: Path) -> None:
    text = "models:\n  demo:\n    path: x\n    paralel: 4\n"
    assert lines(file, text) == ["F:4:5: models.demo.paralel: unknown key (did you mean 'parallel'?)"]


def test_all_errors_at_once_from_top_to_bottom(file: Path) -> None:
    text = (
        "default_model: dmeo\nlisten: 8005\nmodels:\n  demo: {path: 5, threads: '2', env: {A: 1}}\n  demo: {}\n"
        "proxy: {queue_timeout_s: 12:30, continue_after_crash: no, queue_size: -1}\nqueue_size: 5\nzzz: 1\n"
        "log: {level: warn}\n"
    )
    found = lines(file, text, LLMSUP__PROXY__QUEU_SIZE="1", LLM_MAX_TOKENS="many")
    assert found[0] == "F: 13 errors"
    assert found[1:10] == [
        "F:1:16: default_model: no such model (did you mean 'demo'?), found the text 'dmeo'",
        "F:2:9: listen: expected text, found the number 8005 (put it in quotes)",
        "F:4:16: models.demo.path: expected a path, found the number 5",
        "F:4:28: models.demo.threads: expected a whole number, found the text '2' (take the quotes away)",
        "F:4:42: models.demo.env.A: expected text, found the number 1 (put it in quotes)",
        "F:5:3: models.demo: duplicate key; it is set already in line 4",
        "F:6:26: proxy.queue_timeout_s: expected a number of seconds or a duration such as 90s or 1h30m, found the text '12:30'",
        "F:6:55: proxy.continue_after_crash: expected true or false, found the text 'no'",
        "F:6:71: proxy.queue_size: expected at least 0, found the number -1",
    ]
    assert found[10] == "F:7:1: queue_size: unknown key here (did you mean 'proxy.queue_size'?)"
    assert found[11].startswith("F:8:1: zzz: unknown key 'zzz'; expected one of listen, ")
    assert found[12].endswith("found the text 'warn' (did you mean 'warning'?)")
    assert found[13:] == [
        "env LLMSUP__PROXY__QUEU_SIZE: proxy.queu_size: unknown key (did you mean 'queue_size'?)",
    ]  # LLM_MAX_TOKENS has no default model to go to: that is the first error


def test_errors_of_the_environment_name_the_variable(file: Path) -> None:
    assert lines(file, MODEL, LLM_MAX_TOKENS="many") == [
        "env LLM_MAX_TOKENS: models.demo.max_tokens: expected a whole number, found the text 'many'"
    ]
    assert lines(file, MODEL, LLMSUP__LOG="{level: [1]}")[0].startswith(
        "env LLMSUP__LOG: log.level: expected one of"
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "F:1:1: models: required, but not set"),
        ("models: {}", "F:1:9: models: expected at least 1 entry, found a section (KEY: VALUE)"),
        ("models: {demo: {}}", "F:1:10: models.demo.path: required, but not set"),
        ("- a\n", "F:1:1: expected a section (KEY: VALUE), found a list of 1"),
        ("models: {a: {path: x}, b: {path: x}}", "F:1:1: default_model: required with more than one model"),
        ("models: {a b: {path: x}}", "F:1:10: models.a b: expected a model's name"),
        (
            MODEL + "limits: {store: 'redis://u:secret@h/x'}",
            "F:2:17: limits.store: expected memory or redis://",
        ),
        (MODEL + "proxy: 3", "F:2:8: proxy: expected a section"),
        (MODEL + "<<: {}", "F:2:1: <<: unknown key '<<'"),
    ],
)
def test_mistakes_and_their_places(file: Path, text: str, line: str) -> None:
    found = lines(file, text)
    assert len(found) == 1
    assert found[0].startswith(line)
    assert "secret" not in found[0]


def test_sources_tell_where_each_value_came_from(file: Path) -> None:
    got = loaded(
        file, MODEL + "proxy:\n  queue_size: 7\n", LLM_CONTEXT_SIZE="99", LLMSUP__LOG="{level: debug}"
    )
    assert got.sources["proxy.queue_size"] == f"{file}:3"
    assert got.sources["proxy.queue_timeout_s"] == "default"
    assert got.sources["models.demo.context_size"] == "env LLM_CONTEXT_SIZE"
    assert got.sources["log.level"] == "env LLMSUP__LOG"
    assert got.sources["log.format"] == "default"
    assert got.settings.models["demo"].context_size == 99
    assert got.path == file


def test_relative_paths_start_at_the_files_folder(file: Path) -> None:
    text = (
        "models: {demo: {path: m/x.gguf}}\nstate_dir: s\nlog: {dir: ../l}\nllama_server: {binary: ./bin/ls}\n"
    )
    got = loaded(file, text).settings
    folder = file.parent
    assert got.models["demo"].path == folder / "m/x.gguf"
    assert got.state_dir == folder / "s"
    assert got.log.dir == folder.parent / "l"
    assert got.llama_server.binary == str(folder / "bin/ls")


def test_relative_paths_start_above_a_folder_called_config(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    got = loaded(tmp_path / "config/llmsup.yaml", MODEL).settings
    assert got.models["demo"].path == tmp_path / "m.gguf"


def test_a_model_only_the_current_directory_has_is_taken(
    file: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path_factory.mktemp("here")
    (here / "m.gguf").touch()
    monkeypatch.chdir(here)
    assert loaded(file, MODEL).settings.models["demo"].path == here / "m.gguf"
    (file.parent / "m.gguf").touch()
    assert loaded(file, MODEL).settings.models["demo"].path == file.parent / "m.gguf"


def test_home_expands(file: Path) -> None:
    got = loaded(file, "models: {demo: {path: ~/m.gguf}}", HOME="/home/x")
    assert got.settings.models["demo"].path == Path("/home/x/m.gguf")


def test_a_path_need_not_be_utf8(file: Path) -> None:
    got = loaded(file, MODEL, LLM_MODEL_PATH=os.fsdecode(b"/m/\xff.gguf"))
    assert os.fsencode(got.settings.models["demo"].path) == b"/m/\xff.gguf"


def test_missing_file_says_what_to_do(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file \(.*--config FILE"):
        load(file, {})


def test_folder_fifo_and_unreadable_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, words in [
        (tmp_path, "is a directory"),
        (tmp_path / "fifo", "not a regular file"),
        (Path("a\0b"), "cannot be read"),
    ]:
        with pytest.raises(ConfigError, match=words):
            load(path, {})


def test_a_large_file_is_not_read_to_its_end(file: Path) -> None:
    with file.open("wb") as out:
        out.truncate(100 * 2**20)
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        load(file, {})


WORDS = (
    "models demo path x listen proxy limits pools args env 4 -1 1e999 null no &a *a !!int !t << ? | > --- ... "
    "${A} ${ $$ file:x file:. store 2GiB 90s 1h-5s queue_timeout_s limit_mb"
)
MARKS = (
    ": ",
    ":\n  ",
    ":\n    ",
    "\n",
    "\n  ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    ", ",
    '"',
    "'",
    "\t",
    "# ",
    '"\\ud800"',
    "\0",
    "é",
    "~",
    "%",
)
YAMLISH = st.lists(st.sampled_from((*WORDS.split(), *MARKS)), max_size=40).map("".join)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    raw=st.one_of(
        st.binary(max_size=100), YAMLISH.map(str.encode), YAMLISH.map(lambda text: (MODEL + text).encode())
    )
)
def test_whatever_the_bytes_settings_or_one_kind_of_error(file: Path, raw: bytes) -> None:
    file.write_bytes(raw)
    try:
        load(file, {})
    except SettingsError as error:
        str(error).encode()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(
        ["LISTEN", "MODELS", "MODELS__DEMO", "MODELS__DEMO__ARGS", "PROXY__QUEUE_SIZE", "STATE_DIR"]
    ),
    text=YAMLISH,
)
def test_whatever_the_variable_settings_or_one_kind_of_error(file: Path, name: str, text: str) -> None:
    try:
        loaded(file, MODEL, **{f"LLMSUP__{name}": text})
    except SettingsError as error:
        str(error).encode()


@pytest.mark.parametrize(
    ("models", "places"),
    [
        ("  a: {path: x, aliases: [b]}\n  b: {path: x}\n", ["F:2:26: models.a.aliases[0]"]),
        (
            "  a: {path: x, aliases: [c]}\n  b: {path: x, aliases: [d, c]}\n",
            ["F:2:26: models.a.aliases[0]", "F:3:29: models.b.aliases[1]"],
        ),
        ("  a: {path: x, aliases: [a]}\n", ["F:2:26: models.a.aliases[0]"]),
    ],
)
def test_a_name_that_leads_to_two_models_is_shown_where_it_stands(
    file: Path, models: str, places: list[str]
) -> None:
    found = lines(file, f"models:\n{models}default_model: a\n")
    told = [line for line in found if "each leads to one model" in line]
    assert [line.partition(": another")[0] for line in told] == places


def test_aliases_of_models_built_without_a_file_are_looked_at_too() -> None:
    from pydantic import ValidationError

    from supervisor.settings.schema import Settings

    models = {"a": {"path": "/x", "aliases": ["c"]}, "b": {"path": "/x", "aliases": ["c"]}}
    with pytest.raises(ValidationError, match="the name 'c' is given twice"):
        Settings.model_validate({"models": models, "default_model": "a"})
