"""The pure parts of `make chaos`: what comes next, what an answer was worth, and what the report makes of it."""

import json
from collections import Counter
from itertools import islice

import pytest

from supervisor.proc.hang import KILLS
from tests.chaos.plan import PAUSE_S, turns
from tests.chaos.report import LEAK_BYTES, LEAK_DESCRIPTORS, Footprint, Leaks, Report, leaks, quantile, total
from tests.chaos.run import FAULTS
from tests.chaos.verdict import CUT, LOST, WHOLE, Excuses, judge
from tests.support.rawhttp import Response

BEFORE = Footprint(rss_bytes=50 << 20, descriptors=30, threads=7, children=1)
DONE = b"data: {}\n\ndata: [DONE]\n\n"


# ---- the plan


def test_the_same_seed_gives_the_same_faults_and_another_one_others() -> None:
    limits: dict[str, int | None] = dict.fromkeys("abcdefgh")
    assert list(islice(turns(7, limits), 40)) == list(islice(turns(7, limits), 40))
    one, other = ([turn.fault for turn in islice(turns(seed, limits), 40)] for seed in (7, 8))
    assert one != other


def test_each_fault_comes_once_before_any_comes_again() -> None:
    limits: dict[str, int | None] = dict.fromkeys("abcdefgh")
    some = list(islice(turns(1, limits), 16))
    assert {turn.fault for turn in some[:8]} == {turn.fault for turn in some[8:]} == set("abcdefgh")
    assert all(PAUSE_S[0] <= turn.pause_s <= PAUSE_S[1] for turn in some)


def test_a_limited_fault_comes_so_often_and_no_more() -> None:
    count = Counter(turn.fault for turn in islice(turns(1, {"any": None, "twice": 2}), 50))
    assert count == {"any": 48, "twice": 2}
    assert len(list(turns(1, {"once": 1}))) == 1


def test_every_fault_names_its_rows_and_no_name_is_given_twice() -> None:
    assert len(FAULTS) >= 30
    assert all(fault.rows for fault in FAULTS.values())


def test_no_more_hangs_than_the_daemon_kills_for() -> None:
    assert sum(FAULTS[name].limit or KILLS + 1 for name in ("SIGSTOP", "SIGTERM")) <= KILLS


# ---- an answer


def answer(
    status: int = 200, body: bytes = b"{}", *, complete: bool = True, retry_after: bool = False
) -> Response:
    return Response(status, [("Retry-After", "1")] if retry_after else [], body, complete)


def error(**fields: object) -> bytes:
    return json.dumps({"error": fields}).encode()


@pytest.mark.parametrize(
    ("reply", "stream", "kind"),
    [
        (answer(), False, "whole"),
        (answer(complete=False), False, "broken"),
        (answer(body=b'{"choices":'), False, "torn"),
        (answer(body=DONE), True, "whole"),
        (answer(body=b"data: {}\n\n", complete=False), True, "cut"),
        (answer(body=b"data: {}\n\n"), True, "torn"),
        (answer(body=DONE, complete=False), True, "broken"),
        (answer(500, b"oh"), False, "failed"),
        (answer(503, b"oh"), True, "failed"),
        (answer(503, error(source="llmsup", code="queue_full")), False, "failed"),
        (answer(503, error(source="upstream", code="x"), retry_after=True), False, "failed"),
        (answer(503, error(source="llmsup", code="queue_full"), retry_after=True), False, "refused"),
        (answer(422, error(source="llmsup", code="request_quarantined")), True, "quarantined"),
        (answer(403, error(source="llmsup", code="client_banned")), True, "quarantined"),
        (answer(422, error(source="llmsup", code="bad_request")), True, "failed"),
        (answer(502, error(source="llmsup", code="upstream_failed"), retry_after=True), True, "failed"),
    ],
)
def test_what_an_answer_was_worth(reply: Response, stream: bool, kind: str) -> None:
    assert judge(reply, stream=stream).kind == kind


def test_only_whole_answers_and_honest_cuts_are_not_lost() -> None:
    assert WHOLE.kind not in LOST
    assert CUT.kind not in LOST
    assert {"failed", "torn", "broken", "refused", "quarantined", "unreachable"} == LOST


def test_an_outcome_is_excused_only_by_its_kind_and_while_the_fault_was_on() -> None:
    excuses = Excuses()
    excuses.open(frozenset({"refused"}), 10.0)
    assert excuses.cover("refused", 9.0, 12.0)
    excuses.close(20.0)
    assert excuses.cover("refused", 19.0, 25.0)
    assert not excuses.cover("failed", 12.0, 13.0)
    assert not excuses.cover("refused", 20.1, 25.0)
    assert not excuses.cover("refused", 5.0, 9.9)


# ---- the report


def test_what_stays_within_bounds_is_no_leak() -> None:
    after = Footprint(BEFORE.rss_bytes + LEAK_BYTES, BEFORE.descriptors + LEAK_DESCRIPTORS, 9, 1)
    assert not leaks(BEFORE, after)


@pytest.mark.parametrize(
    ("after", "leaked"),
    [
        (Footprint(BEFORE.rss_bytes, 30, 7, 2), Leaks(processes=1)),
        (Footprint(BEFORE.rss_bytes, 35, 7, 1), Leaks(descriptors=5)),
        (
            Footprint(BEFORE.rss_bytes + LEAK_BYTES + 1, 30, 7, 1),
            Leaks(memory_bytes=LEAK_BYTES + 1),
        ),
    ],
)
def test_what_grows_beyond_them_is_one(after: Footprint, leaked: Leaks) -> None:
    assert leaks(BEFORE, after) == leaked
    assert leaked


def test_descriptors_that_clients_may_hold_are_no_leak() -> None:
    after = Footprint(BEFORE.rss_bytes, 30 + LEAK_DESCRIPTORS + 12, 7, 1)
    assert leaks(BEFORE, after)
    assert not leaks(BEFORE, after, busy=12)


def test_a_request_without_a_client_is_a_leak() -> None:
    assert leaks(BEFORE, BEFORE, requests=1) == Leaks(requests=1)


def test_leaks_of_several_daemons_add_up() -> None:
    assert total([Leaks(processes=1), Leaks(processes=1, requests=2)]) == Leaks(processes=2, requests=2)
    assert not total([])


def test_quantiles() -> None:
    assert quantile([], 0.99) == 0.0
    assert quantile([3.0], 0.99) == 3.0
    assert quantile([float(n) for n in range(100)], 0.99) == 99.0
    assert quantile([float(n) for n in range(200)], 0.99) == 198.0


def report(**changes: object) -> Report:
    good = {
        "seed": 4,
        "seconds": 300.0,
        "clients": 6,
        "faults": {"SIGKILL": 3, "SIGHUP": 1},
        "rows": [1, 29],
        "skipped": {"out of memory": "no cgroup"},
        "missed": [],
        "unexpected": [],
        "requests": {"whole": 100, "cut": 2},
        "lost": 0,
        "failures": [],
        "slowest_answer_s": 1.5,
        "slowest_answer": "whole, at 7.0 s, SIGKILL .. SIGKILL",
        "recoveries": {"SIGKILL": [0.1, 0.2, 0.3]},
        "lives": [(BEFORE, BEFORE)],
    }
    return Report(**(good | changes))  # type: ignore[arg-type]  # a table of keywords


def test_a_good_run_passes_and_says_what_was_done() -> None:
    one = report()
    assert one.passed
    text = one.text()
    assert text.endswith("passed")
    for words in (
        "seed 4",
        "4 faults of 2 kinds",
        "100 whole",
        "lost: 0",
        "skipped: out of memory: no cgroup",
    ):
        assert words in text
    assert one.as_dict()["recoveries"]["all"] == {"count": 3, "p50_s": 0.2, "p99_s": 0.3, "max_s": 0.3}
    assert json.loads(json.dumps(one.as_dict()))["passed"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lost": 1, "failures": ["at 7.0 s: failed: 502"]}, "LOST: at 7.0 s: failed: 502"),
        ({"leaked": Leaks(processes=1)}, "leaked: 1 processes"),
        ({"unexpected": ["SIGSTOP: hung, not killed"]}, "UNEXPECTED: SIGSTOP: hung, not killed"),
    ],
)
def test_a_bad_run_fails_and_names_the_seed_and_what_was_lost(changes: dict[str, object], words: str) -> None:
    one = report(**changes)
    assert not one.passed
    assert words in one.text()
    assert "--seed 4" in one.text().splitlines()[-1]
