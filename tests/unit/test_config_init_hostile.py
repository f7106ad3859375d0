"""`llmsup config init` on model files of strangers: whatever they and their names hold, no key is added to the file."""

import os
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import example, given, settings
from hypothesis import strategies as st

from supervisor.cli.config import command
from supervisor.cli.config_init import name_of
from supervisor.errors import ConfigError, LlmsupError
from supervisor.proc import machine
from supervisor.settings import yamlio
from supervisor.types import GIB
from tests.support import gguf

KEYS = {"listen", "models", "memory"}
MODEL_KEYS = {"path", "context_size", "parallel", "threads", "gpu_layers", "safe_profile"}
INJECTED = "dashboard: {open_on_loopback: true}"
BREAKS = ("\n", "\r", "\r\n", "\x85", "\u2028", "\u2029", "\x0b", "\x0c")


@pytest.fixture(autouse=True)
def _eight_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "memory", lambda: machine.Memory(16 * GIB, 8 * GIB))


def model(architecture: bytes, name: bytes = b"x") -> bytes:
    own = {"context_length": 4096, "embedding_length": 64, "block_count": 1}
    own |= {"attention.head_count": 4, "attention.head_count_kv": 4}
    keys = [
        gguf.key("general.architecture", gguf.STRING, architecture),
        gguf.key("general.name", gguf.STRING, name),
        gguf.key("tokenizer.chat_template", gguf.STRING, name),
        *(gguf.key(architecture + b"." + key.encode(), gguf.U32, value) for key, value in own.items()),
    ]
    return gguf.header(keys, [gguf.tensor("output_norm.weight", (16,), 0, 0)]) + bytes(64)


def init(path: Path, output: Path) -> Result:
    return CliRunner().invoke(command, ["init", str(path), "-o", str(output)])


def written(output: Path) -> object:
    document = yamlio.parse(output.read_bytes(), "f")
    assert document.problems == []
    assert output.read_bytes().isascii() or "\u2028" not in output.read_text()
    return document.data


def assert_only_what_is_meant(data: object, path: Path) -> None:
    assert isinstance(data, dict)
    assert set(data) == KEYS
    ((name, one),) = data["models"].items()
    assert name == name_of(str(path))
    assert set(one) == MODEL_KEYS
    assert one["path"] == str(path)
    assert set(data["memory"]) == {"limit_mb", "min_free_mb"}


@pytest.mark.parametrize("line_break", BREAKS)
def test_an_architecture_with_line_breaks_adds_no_key(tmp_path: Path, line_break: str) -> None:
    path, output = tmp_path / "m.gguf", tmp_path / "c.yaml"
    path.write_bytes(model(f"llama).{line_break}{INJECTED}{line_break}# (".encode()))
    result = init(path, output)
    assert result.exit_code == 0, result.output
    assert_only_what_is_meant(written(output), path)


@pytest.mark.parametrize("line_break", BREAKS)
def test_a_file_name_with_line_breaks_adds_no_key(tmp_path: Path, line_break: str) -> None:
    path, output = tmp_path / f"m{line_break}{INJECTED} #.gguf", tmp_path / "c.yaml"
    path.write_bytes(model(b"llama"))
    result = init(path, output)
    assert result.exit_code == 0, result.output
    assert_only_what_is_meant(written(output), path)


def test_a_name_that_no_configuration_can_hold_is_refused(tmp_path: Path) -> None:
    path, output = Path(os.fsdecode(os.fsencode(tmp_path) + b"/m\xff.gguf")), tmp_path / "c.yaml"
    path.write_bytes(model(b"llama"))
    result = init(path, output)
    assert isinstance(result.exception, ConfigError)
    assert "rename" in (result.exception.hint or "")
    assert "\\udcff" in str(result.exception)
    assert not output.exists()


ANY_BYTES = st.one_of(
    st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")), st.binary(max_size=60)
)
FILE_NAMES = st.one_of(
    st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")), st.binary(max_size=60)
)


@settings(max_examples=150, deadline=None)
@given(architecture=ANY_BYTES, name=ANY_BYTES, file_name=FILE_NAMES)
@example(architecture=f"a\n{INJECTED}\n#".encode(), name=b"\n", file_name=f"b\u2028{INJECTED}".encode())
def test_whatever_a_model_says_the_file_holds_what_is_meant_or_is_not_written(
    architecture: bytes, name: bytes, file_name: bytes
) -> None:
    file_name = file_name.replace(b"/", b"").replace(b"\0", b"")[:200] + b".gguf"
    with tempfile.TemporaryDirectory() as folder:
        path, output = Path(os.fsdecode(os.path.join(os.fsencode(folder), file_name))), Path(folder, "c.yaml")
        path.write_bytes(model(architecture, name))
        result = init(path, output)
        if result.exit_code == 0:
            assert_only_what_is_meant(written(output), path)
        else:
            assert isinstance(result.exception, LlmsupError), result.exception
            assert not output.exists()
