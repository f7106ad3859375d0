"""`llmsup chat` and its key: to this machine, or to where somebody has said; never to where a found file says."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest

from supervisor.cli import chat
from supervisor.cli.main import root
from supervisor.errors import LlmsupError

KEY = "llmsup_0badc0de_secret"


@contextmanager
def called_with(*arguments: str) -> Iterator[None]:
    with click.Context(root) as ctx:
        root.parse_args(ctx, [*arguments, "chat"])
        yield


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "config" / "llmsup.yaml"
    file.parent.mkdir()
    file.write_text("models: {demo: {path: m.gguf}}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LLMSUP_CONFIG", raising=False)
    monkeypatch.setenv(chat.KEY_VARIABLE, KEY)
    return file


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_sees_the_key(host: str) -> None:
    with called_with():
        assert chat._headers(host)["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    "host", ["evil.example", "192.168.1.5", "0.0.0.0", "localhost.evil.example", "127.0.0.1.nip.io"]
)
def test_another_host_of_a_found_configuration_does_not(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with called_with(), pytest.raises(LlmsupError, match="is not shown to") as caught:
        chat._headers(host)
    assert KEY not in str(caught.value)
    assert "llmsup --config" in caught.value.hint
    monkeypatch.delenv(chat.KEY_VARIABLE)
    with called_with():
        assert "Authorization" not in chat._headers(host)  # without a key there is nothing to show


def test_a_named_configuration_is_taken_at_its_word(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with called_with("--config", str(config)):
        assert chat._headers("llm.example")["Authorization"] == f"Bearer {KEY}"
    monkeypatch.setenv("LLMSUP_CONFIG", str(config))
    with called_with():
        assert chat._headers("llm.example")["Authorization"] == f"Bearer {KEY}"
