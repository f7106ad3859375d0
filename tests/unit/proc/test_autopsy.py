import signal
from datetime import UTC, datetime

import pytest

from supervisor.events import Endpoint
from supervisor.proc.autopsy import Findings, cause_of, death, end_of, what_next
from supervisor.proc.backoff import End, Judgement, Record
from supervisor.proc.causes import Cause, ExitStatus
from supervisor.proc.state import Event, State
from supervisor.types import Generation, ModelName
from tests.support.proc import FakeRun

DEMO = ModelName("demo")
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
    told = death(
        Findings(DEMO, Generation(3), State.READY, run), Cause("segfault", "crashed"), at=AT, now=107.25
    ).as_dict()
    assert told == {
        "at": "2030-01-01T00:00:00.000+00:00",
        "cause": "segfault",
        "signal": "SIGSEGV",
        "exit_code": None,
        "uptime_s": 7.25,
        "detail": "crashed",
    }


def test_a_generation_that_never_was(run):
    told = death(
        Findings(DEMO, Generation(4), State.STARTING),
        Cause("model_missing", "gone", permanent=True),
        at=AT,
        now=0.0,
    )
    assert (told.uptime_s, told.signal, told.exit_code, told.permanent) == (0.0, None, None, True)


def test_what_is_kept_for_why(run):
    findings = Findings(DEMO, Generation(3), State.DRAINING, run, ("one", "two"), 5 << 20)
    told = death(findings, Cause("aborted", "GGML_ASSERT", evidence="GGML_ASSERT(x)"), at=AT, now=107.0)
    assert (told.model, told.generation, told.phase) == ("demo", 3, "draining")
    assert (told.evidence, told.lines, told.rss_bytes) == ("GGML_ASSERT(x)", ("one", "two"), 5 << 20)


KERNEL = "the kernel's oom_kill counter of our cgroup went from 3 to 4"


def test_a_kill_by_a_kernel_short_of_memory_is_no_kill_from_outside(run):
    cause = cause_of(run, ExitStatus(signal=signal.SIGKILL), [], "", KERNEL)
    assert (cause.name, cause.permanent, cause.evidence) == ("out_of_memory", False, KERNEL)
    assert KERNEL in cause.detail


@pytest.mark.parametrize(
    ("ordered", "status", "expected"),
    [
        ("hung", ExitStatus(signal=signal.SIGKILL), "hung"),
        (None, ExitStatus(signal=signal.SIGSEGV), "segfault"),
    ],
)
def test_the_counter_explains_only_kills_that_nobody_here_sent(run, ordered, status, expected):
    run.ordered = ordered
    assert cause_of(run, status, [], "", KERNEL).name == expected


@pytest.mark.parametrize(
    ("judgement", "said"),
    [
        (Judgement(Event.GONE_WANTED, Record()), "as wished"),
        (Judgement(Event.GONE_RETRY, Record()), "at once, with the P"),
        (Judgement(Event.GONE_BACKOFF, Record(), 2.34), "waited 2.3 s before the next try, with the P"),
        (Judgement(Event.GONE_CRASHLOOP, Record(), 312.0), "waited 312 s"),
        (Judgement(Event.GONE_FAILED, Record()), "gave up until"),
    ],
)
def test_what_llmsup_did_next_in_words(judgement, said):
    assert said in what_next(judgement, "P")
