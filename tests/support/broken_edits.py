"""Edits of a good configuration that must be refused: what people, editors and templates do to a YAML file.

Each turns the text of `BASE` (or of a file that has the same lines) into one that is wrong, and says where: the line
and column of the refusal, counted from 1, and what is said there.
"""

from collections.abc import Callable
from dataclasses import dataclass

# Sections that an edit may touch; a test puts its own models and addresses around them.
BASE = """\
proxy:
  queue_size: 100
  queue_timeout_s: 60
  request_timeout_s: 60
  continue_after_crash: true
retry:
  max_retries: 3
  delay_ms: 1000
memory:
  limit_mb: 2048
log:
  level: info
"""


@dataclass(frozen=True, slots=True)
class Edit:
    """``line`` and ``column`` count within `BASE`; 0 for what is about no line of it."""

    name: str
    change: Callable[[str], str]
    line: int
    column: int
    said: str


def _put(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert text.count(old) == 1, old
        return text.replace(old, new)

    return change


EDITS = (
    Edit(
        "misspelt key", _put("queue_size:", "queue_sise:"), 2, 3, "unknown key (did you mean 'queue_size'?)"
    ),
    Edit("misspelt section", _put("retry:", "retrys:"), 6, 1, "unknown key (did you mean 'retry'?)"),
    Edit(
        "key in the wrong section",
        _put("retry:\n", "retry:\n  queue_size: 5\n"),
        7,
        3,
        "unknown key here (did you mean 'proxy.queue_size'?)",
    ),
    Edit(
        "duplicate key",
        _put("  queue_timeout_s: 60\n", "  queue_timeout_s: 60\n  queue_size: 5\n"),
        4,
        3,
        "duplicate key; it is set already in line",
    ),
    Edit("duplicate section", _put("log:\n", "retry: {}\nlog:\n"), 11, 1, "duplicate key"),
    Edit("quoted number", _put("size: 100", "size: '100'"), 2, 15, "take the quotes away"),
    Edit("a word for a number", _put("size: 100", "size: many"), 2, 15, "expected a whole number"),
    Edit("negative", _put("size: 100", "size: -1"), 2, 15, "expected at least 0, found the number -1"),
    Edit("fraction", _put("size: 100", "size: 1.5"), 2, 15, "expected a whole number"),
    Edit("octal", _put("size: 100", "size: 010"), 2, 15, "found the text '010'"),
    Edit(
        "sexagesimal", _put("timeout_s: 60\n  req", "timeout_s: 1:30\n  req"), 3, 20, "found the text '1:30'"
    ),
    Edit("infinity", _put("timeout_s: 60\n  req", "timeout_s: .inf\n  req"), 3, 20, "found the text '.inf'"),
    Edit(
        "YAML 1.1 truth",
        _put("crash: true", "crash: yes"),
        5,
        25,
        "expected true or false, found the text 'yes'",
    ),
    Edit("wrong unit", _put("limit_mb: 2048", "limit_mb: 90s"), 10, 13, "this is a duration"),
    Edit("unit in lower case", _put("limit_mb: 2048", "limit_mb: 2gb"), 10, 13, "did you mean 2GiB?"),
    Edit("too long", _put("timeout_s: 60\n  req", "timeout_s: 30d\n  req"), 3, 20, "expected at most 604800"),
    Edit("unknown choice", _put("level: info", "level: warn"), 12, 10, "did you mean 'warning'?"),
    Edit(
        "a list for a section",
        _put("log:\n  level: info\n", "log: [level, info]\n"),
        11,
        6,
        "expected a section",
    ),
    Edit(
        "a value for a section",
        _put("memory:\n  limit_mb: 2048\n", "memory: 2048\n"),
        9,
        9,
        "expected a section",
    ),
    Edit("nothing for a number", _put("size: 100", "size:"), 2, 14, "found nothing (null)"),
    Edit("tab", _put("  queue_size", "\tqueue_size"), 2, 1, "a tab; indent with spaces"),
    Edit("wrong indentation", _put("  queue_timeout_s", "   queue_timeout_s"), 3, 19, "not valid YAML"),
    Edit(
        "no space behind the colon",
        _put("queue_size: 100", "queue_size:100"),
        2,
        14,
        "a space is missing behind the colon",
    ),
    Edit("open quote", _put("level: info", "level: 'info"), 12, 10, "not valid YAML"),
    Edit("open bracket", _put("max_retries: 3", "max_retries: [3"), 8, 11, "flow sequence, begun in line"),
    Edit(
        "anchor and alias", _put("size: 100", "size: &n 100"), 2, 15, "anchors and aliases are not supported"
    ),
    Edit("alias bomb", _put("log:\n", "bomb: [*a, *a, *a]\nlog:\n"), 11, 8, "write the value out"),
    Edit("tag", _put("size: 100", "size: !!int 100"), 2, 15, "tags are not supported"),
    Edit("second document", _put("log:\n", "---\nlog:\n"), 11, 1, "a second document (---)"),
    Edit("control character", _put("level: info", "level: in\x07fo"), 12, 12, "is not allowed in YAML"),
    Edit("conflict markers", _put("retry:\n", "<<<<<<< HEAD\nretry:\n"), 6, 1, "not valid YAML"),
    Edit("half a template", _put("size: 100", "size: {{ size }}"), 2, 16, "expected a plain key"),
)
