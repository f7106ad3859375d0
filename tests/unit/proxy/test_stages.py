"""Level debug: every stage says what it said."""

import pytest
from structlog.testing import capture_logs

from supervisor.errors import BadRequest
from supervisor.proxy import stages
from supervisor.proxy.decision import WAIT, Answer, Decision
from tests.support.finished import exchange


@pytest.mark.parametrize(
    ("number", "decision", "outcome"),
    [
        (1, None, "POST /v1/chat/completions, 0 bytes"),
        (2, None, "anonymous, pool anonymous"),
        (3, None, "demo"),
        (4, None, "admitted"),
        (4, WAIT, "waits"),
        (5, None, "no"),
        (5, Answer(200, b""), "answered: 200"),
        (6, None, "its own, now"),
        (7, None, "generation 0"),
    ],
)
def test_a_stage_decides_as_without_and_says_so(number: int, decision: Decision, outcome: str) -> None:
    with capture_logs() as lines:
        assert stages.told(number, "?", lambda _: decision)(exchange()) is decision
    (line,) = lines
    assert line["took_us"] >= 0
    assert {name: line[name] for name in ("log_level", "request_id", "trace_id", "stage", "outcome")} == {
        "log_level": "debug",
        "request_id": "abc-1",
        "trace_id": "0123456789abcdef0123456789abcdef",
        "stage": number,
        "outcome": outcome,
    }


def test_a_refusal_is_told_and_raised() -> None:
    def refuse(_: object) -> None:
        raise BadRequest("no")

    with capture_logs() as lines, pytest.raises(BadRequest):
        stages.told(1, "?", refuse)(exchange())
    assert lines[0]["outcome"] == "refused: bad_request"


def test_the_last_line_says_how_it_went() -> None:
    with capture_logs() as lines:
        stages.ended(exchange(waited_s=0.5, first_token_at=100.25), 100.5)
    (line,) = lines
    assert (line["stage"], line["outcome"]) == (8, "over: 200")
    assert (line["waited_ms"], line["first_token_ms"], line["total_ms"]) == (500.0, 250.0, 500.0)
