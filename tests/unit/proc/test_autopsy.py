import signal
from datetime import UTC, datetime

import pytest

from supervisor.events import Endpoint
from supervisor.proc.autopsy import cause_of, death, end_of
from supervisor.proc.backoff import End
from supervisor.proc.causes import Cause, ExitStatus
from tests.support.proc import FakeRun

AT = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def run():
    it = FakeRun(3, Endpoint("127.0.0.1", 9000, "key"), 100.0, lambda: None)
    it.status = ExitStatus(signal=signal.SIGSEGV)
    return it


def test_evidence_explains_what_we_ended_for_a_fault(run):
    run.ordered = "stalled"
    assert cause_of(run, run.status, [], "nothing moved").detail == "nothing moved"


@pytest.mark.parametrize("ordered", [None, "stopped", "restarted"])
def test_evidence_that_came_too_late_explains_nothing(run, ordered):
    run.ordered = ordered
    cause = cause_of(run, run.status, ["error: invalid argument: -x"], "nothing moved")
    assert "nothing moved" not in cause.detail
    assert cause.permanent == (ordered is None)


@pytest.mark.parametrize(
    ("cause", "loading", "serving"),
    [
        (Cause("bad_flag", "", permanent=True), End(permanent=True), End(was_ready=True)),
        (Cause("port_in_use", ""), End(port_clash=True), End(was_ready=True)),
        (
            Cause("killed", ""),
            End(killed_from_outside=True),
            End(killed_from_outside=True, was_ready=True),
        ),
    ],
)
def test_a_cause_weighs_differently_before_and_after_ready(run, cause, loading, serving):
    assert end_of(run, cause, now=200.0, wanted=True) == loading
    run.ready_at = 101.0
    assert end_of(run, cause, now=200.0, wanted=True) == serving


@pytest.mark.parametrize(
    ("ready_at", "now", "stable"), [(101, 220.9, False), (101, 221, True), (200, 399, False)]
)
def test_stable_counts_from_ready(run, ready_at, now, stable):
    run.ready_at = ready_at
    assert end_of(run, Cause("segfault", ""), now=now, wanted=True).stable is stable


def test_wishes(run):
    run.ordered = "restarted"
    assert end_of(run, Cause("restarted", ""), now=1, wanted=False) == End(wished=True, replaced=True)


def test_what_is_written_down(run):
    told = death(run, Cause("segfault", "crashed"), 3, at=AT, now=107.25).as_dict()
    assert told == {
        "at": "2030-01-01T00:00:00.000+00:00",
        "cause": "segfault",
        "signal": "SIGSEGV",
        "exit_code": None,
        "uptime_s": 7.25,
        "detail": "crashed",
    }


def test_a_generation_that_never_was(run):
    told = death(None, Cause("model_missing", "gone", permanent=True), 4, at=AT, now=0.0)
    assert (told.uptime_s, told.signal, told.exit_code, told.permanent) == (0.0, None, None, True)
