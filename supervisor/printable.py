"""Text that others wrote (clients, models, their files, llama-server), made fit for a terminal and for one line. Pure.

A terminal obeys the C0 and C1 control characters (ECMA-48), and shows what stands between two bidirectional controls in
another order than it is read (Unicode UAX 9; CVE-2021-42574); U+2028 and U+2029 end lines for some readers and not for
others, YAML among the former. All of these are shown as Python would write them: ``\\x1b``, ``\\u202e``.
"""

import re

# Between words and inside of emoji other invisible characters are text (U+200D, U+00A0); these never are.
_CONTROL = (
    r"\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and newline, DEL, C1
    r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # Bidi_Control
    r"\u2028\u2029\ufff9-\ufffb"  # separators of lines and paragraphs, interlinear annotations
    r"\ud800-\udfff"  # half a pair: a byte of a file name that is no UTF-8
)
UNSAFE = re.compile(f"[{_CONTROL}]")
ELLIPSIS = "..."


def escaped(character: str) -> str:
    """As Python writes it: ``\\x1b``."""
    return repr(character)[1:-1]


def lines(text: str) -> str:
    """The text with its lines and tabs, and nothing else that a terminal obeys."""
    return UNSAFE.sub(lambda found: escaped(found[0]), text)


def one_line(text: str, width: int | None = None) -> str:
    """All of it on one line, whatever it holds; at most ``width`` characters of it, the cut marked."""
    shown = text if width is None else text[: width + 1]
    if not shown.isprintable():
        shown = "".join(char if char.isprintable() else escaped(char) for char in shown)
    return shown if width is None or len(shown) <= width else shown[: width - len(ELLIPSIS)] + ELLIPSIS
