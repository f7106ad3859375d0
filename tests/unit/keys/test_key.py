"""`keys.key`: what a key looks like, and what of it is kept."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.keys import key as keys
from supervisor.keys.key import Key, Scope

SECRET = "s" * 43
TEXT = keys.token("0123abcd", SECRET)
NOW = datetime(2026, 5, 1, tzinfo=UTC)
KEY = Key(id="0123abcd", name="ci", digest=keys.digest(TEXT.encode()), created=NOW)
FULL = replace(
    KEY,
    id="fedcba98",
    name="ops",
    scopes=frozenset(Scope),
    pool="batch",
    expires=NOW + timedelta(days=90),
    models=frozenset({"a", "b"}),
)


def test_a_key_of_ours_is_recognised_and_matches():
    shown = keys.presented(TEXT.encode())
    assert shown is not None
    assert shown.id == "0123abcd"
    assert keys.matches(KEY, shown)


@pytest.mark.parametrize(
    "foreign", [b"", b"sk-none", b"LLMSUP_0123abcd", b"Bearer x", b"llmsu", b"xllmsup_1"]
)
def test_foreign_tokens_are_nobodys(foreign):
    assert keys.presented(foreign) is None


@pytest.mark.parametrize(
    "text",
    [
        b"llmsup_",
        b"llmsup_0123abcd_",
        b"llmsup_0123ABCD_" + b"s" * 43,
        b"llmsup_0123abcd_" + b"s" * 42,
        b"llmsup_0123abcd_" + b"s" * 44,
        b"llmsup_0123abcd_" + b"s" * 43 + b"\n",
        b"llmsup_0123abcd_" + b"\xff" * 43,
    ],
)
def test_what_only_begins_like_one_is_ours_and_no_key(text):
    shown = keys.presented(text)
    assert shown is not None
    assert shown.id == ""


def test_the_same_id_with_another_secret_does_not_match():
    shown = keys.presented(keys.token(KEY.id, "t" * 43).encode())
    assert shown is not None
    assert shown.id == KEY.id
    assert not keys.matches(KEY, shown)


def test_hashes_are_compared_in_constant_time(monkeypatch):
    compared = []
    monkeypatch.setattr(keys.hmac, "compare_digest", lambda *both: compared.append(both) or True)
    shown = keys.presented(TEXT.encode())
    assert keys.matches(KEY, shown)
    assert compared == [(KEY.digest, shown.digest)]


@pytest.mark.fault(55)
def test_neither_secret_nor_hash_shows_in_a_key_that_is_printed():
    shown = keys.presented(TEXT.encode())
    for thing in (repr(KEY), repr(KEY.told()), repr(shown), keys.dump([KEY]).decode()):
        assert SECRET not in thing
    assert repr(KEY.digest) not in repr(KEY)
    assert KEY.digest.hex() not in json.dumps(KEY.told())


def test_an_expired_key_is_expired_from_its_moment_on():
    assert not FULL.expired(NOW + timedelta(days=90, microseconds=-1))
    assert FULL.expired(NOW + timedelta(days=90))
    assert not KEY.expired(datetime.max.replace(tzinfo=UTC))


def test_the_document_is_read_as_it_was_written():
    assert keys.parse(keys.dump([KEY, FULL])) == (KEY, FULL)
    assert keys.parse(keys.dump([])) == ()


def changed(**values: object) -> bytes:
    document = json.loads(keys.dump([KEY]))
    document["keys"][0] |= values
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    "values",
    [
        {"id": "xyz"},
        {"id": 1},
        {"name": ""},
        {"name": "0123abcd"},
        {"sha256": "00"},
        {"sha256": "no hex"},
        {"scopes": []},
        {"scopes": ["everything"]},
        {"scopes": "inference"},
        {"created": "2026-05-01T00:00:00"},
        {"expires": "never"},
        {"expires": 5},
        {"models": "a"},
        {"models": [1]},
        {"pool": 3},
        {"pool": "\r\nx: y"},
    ],
)
def test_a_document_with_one_wrong_value_is_refused_as_a_whole(values):
    with pytest.raises(ValueError):
        keys.parse(changed(**values))


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"{}", b'{"schema": 1}', b'{"schema": 2, "keys": []}', b'{"schema": 1, "keys": [5]}'],
)
def test_what_is_no_document_is_refused(data):
    with pytest.raises(ValueError):
        keys.parse(data)


@pytest.mark.parametrize("twin", [replace(FULL, id=KEY.id), replace(FULL, name=KEY.name)])
def test_two_keys_of_one_id_or_name_are_refused(twin):
    with pytest.raises(ValueError, match="two keys"):
        keys.parse(keys.dump([KEY, twin]))


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(data):
    try:
        keys.parse(data)
    except ValueError:
        pass
    keys.presented(data)


@pytest.mark.parametrize(
    ("text", "meant"),
    [("90d", timedelta(days=90)), ("1s", timedelta(seconds=1)), ("2w", timedelta(weeks=2))],
)
def test_spans(text, meant):
    assert keys.span(text) == meant


@pytest.mark.parametrize("text", ["", "d", "90", "0d", "-1d", "1.5h", "90D", "1d ", "\u0661d", "9999999d"])
def test_other_spans_are_refused(text):
    with pytest.raises(ValueError, match="expected"):
        keys.span(text)


@pytest.mark.parametrize("name", ["", "-x", "a b", "a\n", "a:b", "x" * 65, "deadbeef", "caf\xe9"])
def test_names_that_are_refused(name):
    with pytest.raises(ValueError):
        keys.check_name(name)
