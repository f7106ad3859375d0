"""How mistakes are printed: one line each, short, nothing a terminal would obey."""

import pytest

from supervisor.settings.problems import MAX_SHOWN, Place, Problem, SettingsError, describe, dotted


def test_the_file_from_top_to_bottom_then_the_environment() -> None:
    places = [Place("env A"), Place("f", 10, 1), Place("f", 9, 2), Place("f", 9, 1)]
    error = SettingsError("f", [Problem(place, "k", "m") for place in places])
    assert str(error).splitlines() == [
        "f: 4 errors",
        "f:9:1: k: m",
        "f:9:2: k: m",
        "f:10:1: k: m",
        "env A: k: m",
    ]


def test_many_are_cut() -> None:
    error = SettingsError("f", [Problem(Place("f", n, 1), "k", "m") for n in range(1, 100)])
    assert str(error).splitlines()[-1] == f"... and {99 - MAX_SHOWN} more"
    assert len(error.problems) == 99


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "nothing (null)"),
        (True, "true"),
        (1.5, "the number 1.5"),
        ([1], "a list of 1"),
        ({}, "a section (KEY: VALUE)"),
        ("a\x1b[31m\n", "the text 'a\\x1b[31m\\n'"),
        ("x" * 99, f"the text '{'x' * 57}...'"),
        ("redis://u:secret@h", "the text 'redis://***@h'"),
    ],
)
def test_values_in_words(value: object, words: str) -> None:
    assert describe(value) == words


def test_dotted() -> None:
    assert dotted(("a", "b\n", 0)) == "a.b\\n[0]"
