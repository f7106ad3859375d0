"""Query parameters are read strictly."""

from typing import Any

import pytest

from supervisor.control import parameters
from supervisor.errors import BadRequest

KNOWN = (
    parameters.text("id", "whose", required=True),
    parameters.flag("now", "at once"),
    parameters.count("n", "so many", default=7, most=100),
    parameters.choice("of", "which", "model", "daemon"),
)


def read(*given: tuple[str, str]) -> dict[str, Any]:
    return parameters.read(KNOWN, given)


def test_defaults_fill_what_is_not_said() -> None:
    assert read(("id", "x")) == {"id": "x", "now": False, "n": 7, "of": "model"}


def test_everything_said() -> None:
    given = [("id", "x"), ("now", "1"), ("n", "100"), ("of", "daemon")]
    assert read(*given) == {"id": "x", "now": True, "n": 100, "of": "daemon"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "id is missing"),
        ([("id", "")], "id is ''"),
        ([("id", "x"), ("id", "y")], "given twice"),
        ([("id", "x"), ("nwo", "1")], "'nwo'"),
        ([("id", "x"), ("now", "maybe")], "now is 'maybe'"),
        ([("id", "x"), ("n", "101")], "n is '101'"),
        ([("id", "x"), ("n", "-1")], "n is '-1'"),
        ([("id", "x"), ("n", "1_0")], "n is '1_0'"),
        ([("id", "x"), ("n", "٣")], "n is '٣'"),
        ([("id", "x"), ("of", "me")], "of is 'me'"),
    ],
)
def test_what_is_refused(given: list[tuple[str, str]], said: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read(*given)
    assert said in str(caught.value)
    assert caught.value.exit_code == 2
