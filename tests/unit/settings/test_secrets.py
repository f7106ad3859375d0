"""`${VAR}` and `file:`: which keys know them, what is wrong with them, and that no value is ever told."""

import os
from pathlib import Path

import pytest

from supervisor.settings.load import Loaded, load
from supervisor.settings.notices import notices
from supervisor.settings.problems import SettingsError
from supervisor.settings.secrets import MAX_FILE_BYTES
from supervisor.settings.show import shown

VALUE = "hunter2-and-some-more"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "m.gguf").touch()
    return tmp_path / "c.yaml"


def loaded(file: Path, env: str, extra: str = "", **environ: str) -> Loaded:
    file.write_text(f"models:\n  demo:\n    path: m.gguf\n    env:\n      X: {env}\n{extra}")
    return load(file, environ)


def value(file: Path, env: str, **environ: str) -> str:
    return loaded(file, env, **environ).settings.models["demo"].env["X"]


def secret(file: Path, content: bytes, mode: int = 0o600) -> Path:
    path = file.parent / "secret"
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("${A}", VALUE),
        ("'Bearer ${A}'", f"Bearer {VALUE}"),
        ("${A}${B}", VALUE),
        ("5$$", "5$"),
        ("$${A}", "${A}"),
        ("$A", "$A"),
        ("a$", "a$"),
        ("file:///etc/x", "file:///etc/x"),
        ('"${A}"', VALUE),
    ],
)
def test_variables(file: Path, text: str, read: str) -> None:
    assert value(file, text, A=VALUE, B="") == read


def test_what_a_variable_holds_is_not_looked_into(file: Path) -> None:
    assert value(file, "${A}", A="${B} file:x $$") == "${B} file:x $$"


@pytest.mark.parametrize(
    ("content", "read"),
    [
        (b"s", "s"),
        (b"s\n", "s"),
        (b"s\r\n", "s"),
        (b"s\n\n", "s\n"),
        (b" s ", " s "),
        (b"", ""),
        (b"$$\n", "$$"),
    ],
)
def test_a_file_is_taken_whole_less_one_newline(file: Path, content: bytes, read: str) -> None:
    secret(file, content)
    assert value(file, "file:secret") == read


def test_the_file_is_looked_for_where_relative_paths_begin(file: Path) -> None:
    path = secret(file, b"s")
    assert value(file, f"file:{path}") == value(file, "'file: secret'") == "s"
    (file.parent / "config").mkdir()
    assert value(file.parent / "config/c.yaml", "file:secret") == "s"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("${GONE}", "the variable GONE is not set in llmsup's environment"),
        ("${}", "expected ${NAME}, found '${}' (a dollar sign itself is written $$)"),
        ("${A:-b}", "expected ${NAME}, found '${A:-b}' (a dollar sign itself is written $$)"),
        ("${A", "expected ${NAME}, found '${A' (a dollar sign itself is written $$)"),
        ("file:gone", "{folder}/gone cannot be read: No such file or directory"),
        ("file:.", "{folder} cannot be read: Is a directory"),
        ("file:fifo", "{folder}/fifo is not a regular file"),
        ("file:large", "{folder}/large is larger than 64 KiB: that is no secret"),
        ("file:binary", "{folder}/binary is not UTF-8 text"),
        ("file:nul", "must not contain a NUL character, found the text 'file:nul'"),
        ("'file:'", "must not be empty"),
    ],
)
def test_what_cannot_be_had_is_an_error_with_its_place(file: Path, text: str, said: str) -> None:
    folder = file.parent
    os.mkfifo(folder / "fifo")
    (folder / "large").write_bytes(b"x" * (MAX_FILE_BYTES + 1))
    (folder / "binary").write_bytes(b"\xff" + VALUE.encode())
    (folder / "nul").write_bytes(b"\0" + VALUE.encode())
    with pytest.raises(SettingsError) as caught:
        loaded(file, text, A=VALUE)
    assert str(caught.value) == f"{file}:5:10: models.demo.env.X: {said.replace('{folder}', str(folder))}"


def test_the_largest_file_is_taken(file: Path) -> None:
    secret(file, b"x" * MAX_FILE_BYTES)
    assert len(value(file, "file:secret")) == MAX_FILE_BYTES


def test_the_stores_address_may_hold_a_password(file: Path) -> None:
    got = loaded(file, "a", "limits: {store: 'redis://:${PW}@h:6379/0'}\n", PW=VALUE)
    assert got.settings.limits.store == f"redis://:{VALUE}@h:6379/0"


def test_a_wrong_address_is_shown_as_it_was_written(file: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        loaded(file, "a", "limits: {store: '${URL}'}\n", URL=f"http://{VALUE}")
    assert str(caught.value).endswith(
        "6:17: limits.store: expected memory or redis://HOST:PORT/DB, found the text '${URL}'"
    )
    with pytest.raises(SettingsError) as caught:
        loaded(file, "a", "limits: {store: '${URL}'}\n")
    assert len(caught.value.problems) == 1


def test_other_keys_do_not_know_them(file: Path) -> None:
    got = loaded(
        file, "a", "llama_server: {binary: '${A}'}\nlog: {dir: 'file:x'}\n", A=VALUE, LLM_MODEL_PATH="$$/${A}"
    )
    assert got.settings.llama_server.binary == "${A}"
    assert got.settings.log.dir == file.parent / "file:x"
    assert got.settings.models["demo"].path == file.parent / "$$/${A}"
    assert {notice.key: notice.message for notice in notices(got)}["llama_server.binary"].startswith(
        "${...} is taken as it stands"
    )


def test_arguments_go_to_llama_server_verbatim_and_nothing_is_said(file: Path) -> None:
    file.write_text("models: {demo: {path: m.gguf, args: ['--chat-template', '${A} $$']}}\n")
    got = load(file, {"A": VALUE})
    assert got.settings.models["demo"].args == ["--chat-template", "${A} $$"]
    assert list(notices(got)) == []


def test_the_environments_own_values(file: Path) -> None:
    """A child's variable set by one of ours is taken as it is; other keys read as in the file."""
    got = loaded(
        file,
        "a",
        A=VALUE,
        LLMSUP__MODELS__DEMO__ENV__Y="${A}",
        LLMSUP__LIMITS__STORE="redis://:${A}@h",
    ).settings
    assert got.models["demo"].env["Y"] == "${A}"
    assert got.limits.store == f"redis://:{VALUE}@h"


@pytest.mark.parametrize(("mode", "said"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)])
def test_a_file_that_others_may_read_is_a_notice(file: Path, mode: int, said: bool) -> None:
    path = secret(file, VALUE.encode(), mode)
    found = [notice for notice in notices(loaded(file, "file:secret")) if notice.key == "models.demo.env.X"]
    assert [notice.message for notice in found] == (
        [f"others than its owner may use {path} (mode {mode:o}): chmod 600 {path}"] if said else []
    )


def test_the_model_knows_which_of_its_variables_are_secret(file: Path) -> None:
    model = loaded(file, "${A}\n      Y: plain", A=VALUE).settings.models["demo"]
    assert model.env == {"X": VALUE, "Y": "plain"}
    assert model.secret_env == {"X"}


@pytest.mark.parametrize("text", ["${A}", "file:secret", "pre-${A}"])
def test_no_listing_tells_the_value(file: Path, text: str) -> None:
    secret(file, VALUE.encode())
    listing = shown(loaded(file, text, A=VALUE))
    assert listing["models.demo.env.X"].value == text
    assert listing["models.demo.env.X"].secret
    assert VALUE not in str(listing)
