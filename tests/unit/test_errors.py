"""The tree drawn in the docstring is the tree there is, and its numbers are the contract's."""

import re
from collections.abc import Iterator

import pytest

from supervisor import errors
from supervisor.errors import LlmsupError

# CONTRACT, "Every error": those codes that this version can answer with.
STATUSES = {
    "bad_request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "model_not_found": 404,
    "request_timeout": 408,
    "body_too_large": 413,
    "headers_too_large": 431,
    "upstream_failed": 502,
    "upstream_crashed": 502,
    "queue_full": 503,
    "queue_timeout": 503,
    "model_loading": 503,
    "model_unavailable": 503,
    "upstream_timeout": 504,
}
EXIT_CODES = {"NotRunning": 3, "PermissionDenied": 4, "TimedOut": 5, "ConfigError": 6, "Conflict": 7}


def family(kind: type[LlmsupError]) -> Iterator[type[LlmsupError]]:
    """The class and its descendants in this module, in the order of their definition."""
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from family(child)


CLASSES = tuple(family(LlmsupError))


def drawn() -> dict[str, tuple[str, str]]:
    """Name -> (parent's name, what is said of it), from the docstring."""
    tree: dict[str, tuple[str, str]] = {}
    stack: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"([ │├└─]*)([A-Z]\w+)( {2,}.*)?$", line)
        if found is None or not line.startswith("    "):
            continue
        depth, name = len(found[1]), found[2]
        while stack and stack[-1][0] >= depth:
            stack.pop()
        tree[name] = (stack[-1][1] if stack else "", found[3] or "")
        stack.append((depth, name))
    return tree


def test_the_drawing_shows_every_class_under_its_parent() -> None:
    real = {kind.__name__: kind.__mro__[1].__name__ for kind in CLASSES} | {"LlmsupError": ""}
    assert {name: parent for name, (parent, _) in drawn().items()} == real


def test_the_drawing_shows_status_code_and_exit_code() -> None:
    for kind in CLASSES:
        said = drawn()[kind.__name__][1]
        if found := re.search(r"(\d{3}) (\w+)", said):
            assert (kind.status, kind.code) == (int(found[1]), found[2]), kind
        if found := re.search(r"exit +(\d)", said):
            assert kind.exit_code == int(found[1]), kind


@pytest.mark.parametrize(("code", "status"), STATUSES.items())
def test_the_contracts_codes_have_their_status(code: str, status: int) -> None:
    assert {kind.status for kind in CLASSES if kind.code == code} == {status}


def test_exit_codes_are_the_contracts() -> None:
    odd = {kind.__name__: kind.exit_code for kind in CLASSES if kind.exit_code != 1}
    assert odd == EXIT_CODES


def test_an_error_is_one_line_of_what_and_what_to_do() -> None:
    assert str(errors.NotRunning("llmsup is not running")) == (
        "llmsup is not running (start it with: llmsup start)"
    )
    assert str(errors.NotRunning("gone", hint="look")) == "gone (look)"
    assert str(errors.BadRequest("no")) == "no"
