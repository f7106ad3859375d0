"""Every request of the set, asked of llama-server itself and through llmsup: the same answer twice."""

import json
from collections import Counter
from collections.abc import Callable

import pytest

from tests.real.conformance import chat_cases, other_cases, text_cases, wire_cases
from tests.real.conformance.case import Case
from tests.real.conformance.compare import shown
from tests.real.conformance.differences import ANSWERS, OPEN
from tests.support import rawhttp
from tests.support.doors import Doors

pytestmark = pytest.mark.real

AT_LEAST = 150
TIMEOUT_S = 20.0
CASES = [case for module in (chat_cases, text_cases, other_cases, wire_cases) for case in module.cases()]


def _parameter(case: Case) -> object:
    marks = [pytest.mark.xfail(strict=True, reason=OPEN[case.id])] if case.id in OPEN else []
    return pytest.param(case, id=case.id, marks=marks)


def _decoded(body: bytes) -> object:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode()


def _ask(port: int, case: Case, doors: Doors) -> rawhttp.Response:
    with rawhttp.connect(port, TIMEOUT_S) as sock:
        sock.sendall(case.wire(doors.child_key))
        return rawhttp.Reader(sock).response(head_only=case.method == "HEAD")


@pytest.mark.parametrize("case", [_parameter(case) for case in CASES])
def test_through_llmsup_as_directly(doors_of: Callable[[str], Doors], case: Case) -> None:
    doors = doors_of(case.server)
    direct, ours = (_ask(port, case, doors) for port in (doors.child_port, doors.daemon.port))
    assert direct.status == case.status, direct.body[:500]
    if case.differs is None:
        assert shown(ours) == shown(direct)
        return
    row = ANSWERS[case.differs]
    assert ours.status == row.status, ours.body[:500]
    assert row.holds(_decoded(ours.body)), ours.body[:500]


def test_the_set_is_large_and_each_request_has_a_name() -> None:
    assert len(CASES) >= AT_LEAST
    assert not [name for name, count in Counter(case.id for case in CASES).items() if count > 1]


def test_no_difference_is_listed_that_no_request_shows() -> None:
    assert {case.differs for case in CASES} - {None} == set(ANSWERS)
    assert {case.id for case in CASES} >= set(OPEN)
