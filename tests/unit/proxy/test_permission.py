"""`proxy.permission`: what a key does not allow is refused before it is counted."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from supervisor.errors import Forbidden
from supervisor.keys.key import Key, Scope
from supervisor.proxy import permission
from supervisor.proxy.headers import read_request
from supervisor.proxy.inflight import Client, Exchange

FIELDS = read_request((), small=True)


def key(*scopes: Scope, models: frozenset[str] | None = None) -> Key:
    return Key(
        id="0123abcd",
        name="ci",
        digest=b"",
        created=datetime(2026, 5, 1, tzinfo=UTC),
        scopes=frozenset(scopes or {Scope.INFERENCE}),
        models=models,
    )


def decided(key: Key | None, path: bytes = b"/completion", method: bytes = b"POST", model: str = "a") -> int:
    """How often the limits were asked."""
    exchange = Exchange(None, method, path, FIELDS, "127.0.0.1")
    exchange.path = path
    exchange.client = Client("c", b"c", "user", key)
    exchange.gate = SimpleNamespace(view=SimpleNamespace(name=model))
    asked: list[Exchange] = []
    permission.before(asked.append)(exchange)
    return len(asked)


def test_without_a_key_only_the_limits_are_asked():
    assert decided(None) == 1


def test_a_key_is_for_all_models_or_for_those_it_names():
    assert decided(key(), model="b") == 1
    assert decided(key(models=frozenset({"a", "b"})), model="b") == 1
    with pytest.raises(Forbidden, match="not for the model 'c'"):
        decided(key(models=frozenset({"a", "b"})), model="c")


def test_a_key_for_administration_only_asks_nothing_else():
    with pytest.raises(Forbidden, match="not for inference"):
        decided(key(Scope.ADMIN))
    assert decided(key(Scope.ADMIN), b"/slots", b"GET") == 1
    assert decided(key(Scope.ADMIN), b"/props", b"POST") == 1
    with pytest.raises(Forbidden):
        decided(key(Scope.ADMIN), b"/props", b"GET")
    assert decided(key(Scope.ADMIN, Scope.INFERENCE)) == 1


@pytest.mark.parametrize("path", [b"/health", b"/v1/models"])
def test_what_we_answer_ourselves_is_for_every_key(path):
    assert decided(key(Scope.ADMIN, models=frozenset({"b"})), path, b"GET") == 1
