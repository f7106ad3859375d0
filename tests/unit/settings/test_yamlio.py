"""YAML with positions: what is read, what is refused, and where."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from supervisor.settings import yamlio
from supervisor.settings.problems import SettingsError


def parse(text: str) -> yamlio.Document:
    return yamlio.parse(text.encode(), "f.yaml")


def refusal(raw: bytes) -> str:
    with pytest.raises(SettingsError) as caught:
        yamlio.parse(raw, "f.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4", 4),
        ("-4", -4),
        ("4.5", 4.5),
        ("1e3", 1000.0),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        *(
            (text, text)
            for text in (
                "no",
                "on",
                "yes",
                "off",
                "012",
                "0x10",
                "12:30",
                "1_000",
                ".inf",
                ".nan",
                "2026-01-01",
                ".",
                "-",
                "e5",
            )
        ),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_plain_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    assert yamlio.scalar(text) == value
    assert type(yamlio.scalar(text)) is type(value)


def test_quoted_is_text() -> None:
    assert parse("a: '4'\nb: \"null\"\nc: |\n  5\n").data == {"a": "4", "b": "null", "c": "5\n"}


def test_every_key_and_value_has_its_place() -> None:
    document = parse("a:\n  b: [1, 2]\n")
    assert document.data == {"a": {"b": [1, 2]}}
    assert str(document.keys["a", "b"]) == "f.yaml:2:3"
    assert str(document.values["a", "b", 1]) == "f.yaml:2:10"


def test_a_duplicate_key_is_a_problem_and_the_first_stays() -> None:
    document = parse("a: 1\nb: 2\na: {x: [1]}\nb: 3\n")
    assert document.data == {"a": 1, "b": 2}
    assert [str(p) for p in document.problems] == [
        "f.yaml:3:1: a: duplicate key; it is set already in line 1",
        "f.yaml:4:1: b: duplicate key; it is set already in line 2",
    ]
    assert document.keys["a",].line == 1


def test_aliases_anchors_and_tags_are_problems() -> None:
    document = parse("a: &x [1]\nb: *x\nc: !!python/object:os.system ls\n<<: {d: 1}\n")
    assert [p.place.line for p in document.problems] == [1, 2, 3]
    assert document.data["<<"] == {"d": 1}  # no merging: an unknown key like any other


def test_an_alias_bomb_is_refused_without_being_expanded() -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(12)
    )
    assert len(parse(bomb).problems) > 100


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"a:\n\tb: 1\n", "f.yaml:2:1: a tab; indent with spaces"),
        (b"a: 1\nb: \xff\n", "f.yaml:2:4: not UTF-8 text: the byte 0xff"),
        (b"a: 1\nb: \x00\n", "f.yaml:2:4: the character '\\x00' is not allowed in YAML"),
        (b"a: 1\n---\nb: 2\n", "f.yaml:2:1: a second document (---); expected one"),
        (b"? [1]\n: 2\n", "f.yaml:1:3: expected a plain key before the colon"),
        (b"[" * 100_000, f"f.yaml:1:{yamlio.MAX_DEPTH + 2}: nested deeper"),
        (
            b"a: 1\na: " + b"[" * 100_000,
            f"f.yaml:2:{yamlio.MAX_DEPTH + 4}: nested deeper",
        ),  # in what is skipped
        (b"a: 1\n" * 100_000, "more than 20000 keys and values"),
        (b"a: [1,\nb: 2", "f.yaml:3:1: not valid YAML"),
        (b"#" * (yamlio.MAX_BYTES + 1), "f.yaml: larger than 1 MiB"),
        (b"[" + b"1," * yamlio.MAX_VALUES + b"]", "more than 20000 keys and values"),
    ],
)
def test_unreadable_is_refused_with_its_place(raw: bytes, message: str) -> None:
    assert message in refusal(raw)


def test_the_limits_of_work_leave_room() -> None:
    assert parse("\ufeffa: 1").data == {"a": 1}
    assert parse("").data is None
    assert len(parse("[" + "1," * 10_000 + "]").data) == 10_000


@pytest.mark.parametrize("loader", [yaml.SafeLoader, yamlio._Loader])
def test_both_of_pyyamls_parsers_read_the_same(loader: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamlio, "_Loader", loader)
    document = parse("a: {b: no, c: ['x', 012]} # why\n")
    assert document.data == {"a": {"b": "no", "c": ["x", "012"]}}
    assert str(document.values["a", "c", 1]) == "f.yaml:1:21"
    assert "a tab" in refusal(b"a:\n\tb: 1\n")


@pytest.mark.parametrize("loader", [yaml.SafeLoader, yamlio._Loader])
@pytest.mark.parametrize(
    ("raw", "place", "words"),
    [
        (b"a: 1\nb: 'x\nc: 2\n", "2:4", "unexpected end of stream while scanning a quoted scalar"),
        (b"a: 1\n<<<<<<< HEAD\nb: 2\n", "2:1", "while scanning a simple key"),
        (b"a: [1\nb: 2\n", "2:2", "while parsing a flow sequence, begun in line 1"),
        (b"a: 1\nb:2\nc: 3\n", "2:3", "a space is missing behind the colon"),
        (b"a: 1\n  b: 3\n", "2:4", "mapping values are not allowed"),
    ],
)
def test_it_is_said_where_a_person_would_look(
    loader: type, raw: bytes, place: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yamlio, "_Loader", loader)
    said = refusal(raw)
    assert said.startswith(f"f.yaml:{place}: ")
    assert words in said


def test_half_a_surrogate_pair_is_a_problem_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamlio, "_Loader", yaml.SafeLoader)  # libyaml refuses it by itself
    document = parse('a: "\\ud800"\n')
    assert "surrogate" in str(document.problems[0])
    str(document.problems[0]).encode()


@given(st.binary(max_size=200))
def test_any_bytes_parse_or_are_refused(raw: bytes) -> None:
    try:
        yamlio.parse(raw, "f.yaml")
    except SettingsError as error:
        str(error).encode()
