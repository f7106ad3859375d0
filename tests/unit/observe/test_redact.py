"""No secret gets into a log, and ordinary words do."""

import pytest

from supervisor.observe import redact


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Authorization: Bearer abc.def-ghi next", "Authorization: Bearer *** next"),
        ('{"h":"bearer abcdef"}', '{"h":"bearer ***"}'),
        ("key sk-abcdefghijklmnop1234.", "key ***."),
        ("hf_abcdefghijklmnopqrst", "***"),
        ("lls_0123456789", "***"),
        (f"key llmsup_0123abcd_{'s' * 40}-_s.", "key ***."),
        ("llama-server --api-key secret -c 1", "llama-server --api-key *** -c 1"),
        ("HF_TOKEN=abc", "HF_TOKEN=***"),
    ],
)
def test_what_looks_like_a_secret_is_masked(said: str, shown: str) -> None:
    assert redact.text(said) == shown
    assert redact.output(said.encode(), ()) == shown.encode()


@pytest.mark.parametrize(
    "said",
    [
        "task-0123456789abcdefgh",
        "disk-full",
        "hf_download",
        "--api-key-file",
        "12 tokens",
        "sk-1",
        "llmsup_queue_depth",
    ],
)
def test_ordinary_words_stay(said: str) -> None:
    assert redact.text(said) == said
    assert redact.output(said.encode(), ()) == said.encode()


@pytest.mark.parametrize(
    "name", ["api_key", "x-api-key", "Authorization", "HF_TOKEN", "LLAMA_API_KEY", "password", "apikey"]
)
def test_names_of_secrets(name: str) -> None:
    assert redact.is_secret_name(name)


@pytest.mark.parametrize("name", ["key", "max_tokens", "tokens_per_minute", "tokenizer", "PATH", "keyboard"])
def test_other_names(name: str) -> None:
    assert not redact.is_secret_name(name)


def test_values_are_masked_however_deep() -> None:
    entry = {"event": "x", "api_key": "1", "in": [{"token": "2", "port": 3}], "token": None}
    assert redact.values(entry) == {
        "event": "x",
        "api_key": "***",
        "in": [{"token": "***", "port": 3}],
        "token": None,
    }


def test_the_secrets_of_an_environment_longest_first() -> None:
    environment = {
        "HF_TOKEN": "12345678",
        "LLAMA_API_KEY": "123456789",
        "PATH": "/a/long/one",
        "A_TOKEN": "1",
    }
    assert redact.secrets_in(environment) == (b"123456789", b"12345678")
    assert redact.secrets_in({"PLAIN": "87654321", "OTHER": "87654322"}, {"PLAIN"}) == (b"87654321",)


def test_a_secret_that_begins_like_another_leaves_no_rest() -> None:
    assert redact.output(b"a 123456789 b", (b"123456789", b"12345678")) == b"a *** b"
