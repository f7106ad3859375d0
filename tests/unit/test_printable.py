"""Strangers' text on a terminal: nothing in it is obeyed, and what people write stays as it is."""

import unicodedata

import pytest

from supervisor.printable import lines, one_line

TEXT = "naïve Ünïcode, 日本語, עברית, 👨‍👩‍👧, a\u00a0b, tab\there\nnext line"


def test_what_people_write_stays() -> None:
    assert lines(TEXT) == TEXT


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", "\\x1b[2J"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("\x7f\x08\r", "\\x7f\\x08\\r"),
        ("a\u202eb\u2066c", "a\\u202eb\\u2066c"),
        ("a\u2028b\x85c", "a\\u2028b\\x85c"),
        ("\udcff", "\\udcff"),
    ],
)
def test_what_a_terminal_would_obey_is_shown(text: str, shown: str) -> None:
    assert lines(text) == shown
    assert one_line(text) == shown


def test_no_control_character_passes() -> None:
    for number in range(0x110000):
        character = chr(number)
        bidi = unicodedata.bidirectional(character) in {
            "LRE",
            "RLE",
            "LRO",
            "RLO",
            "PDF",
            "LRI",
            "RLI",
            "FSI",
            "PDI",
        }
        if unicodedata.category(character) in {"Cc", "Zl", "Zp", "Cs"} or bidi:
            assert lines(character) != character or character in "\n\t"
            assert one_line(character) != character


def test_one_line_is_one_line_and_no_longer_than_it_may() -> None:
    assert one_line("a\nb\tc") == "a\\nb\\tc"
    assert one_line("x" * 9, 8) == "xxxxx..."
    assert one_line("\n" * 8, 8) == "\\n\\n\\..."
    assert one_line("x" * 8, 8) == "x" * 8
