"""Looks in, verdicts out. `History` plays a child second by second."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.proc import hang
from supervisor.proc.hang import Canary, Counters, Finding, Inquiry, Look, Ration, Standing

LIMIT_S = 10.0
SIGNS = ("bytes", "cpu", "runnable", "faults", "counters")


class History:
    """A child with one request inside. Canaries are answered when ``answers`` says so."""

    def __init__(self, limit_s: float = LIMIT_S, *, in_flight: int = 1, idle_canaries: bool = True) -> None:
        self.inquiry = Inquiry(limit_s, idle_canaries=idle_canaries)
        self.now = 1000.0
        self.in_flight = in_flight
        self.state = "S"
        self.deaf = False
        self.answers = False
        self.unsent = False
        self.mute = False
        self.canaries = 0
        self._canary = Canary.ABSENT
        self._byte_at = self.now
        self._cpu_s, self._faults = 0.0, 0
        self._counters = Counters(0, 0, 0)
        self._second(())

    def _second(self, signs: tuple[str, ...], step_s: float = 1.0) -> hang.Verdict:
        self.now += step_s
        if "bytes" in signs:
            self._byte_at = self.now
        self._cpu_s += 0.5 if "cpu" in signs else 0.0
        self._faults += "faults" in signs
        if "counters" in signs:
            self._counters = dataclasses.replace(self._counters, decodes=self._counters.decodes + 1)
        asked = self.inquiry.wants_counters(self.now)
        verdict = self.inquiry.see(
            Look(
                at=self.now,
                state="R" if "runnable" in signs else self.state,
                cpu_s=self._cpu_s,
                major_faults=self._faults,
                standing=Standing(self.in_flight, self.now - self._byte_at),
                asked=asked,
                counters=self._counters if asked and not self.mute else None,
                canary=self._canary,
                deaf=self.deaf,
            )
        )
        self._tend()
        return verdict

    def _tend(self) -> None:
        if not self.inquiry.wants_canary:
            self._canary = Canary.ABSENT
        elif self._canary is Canary.ABSENT or self.unsent:
            self.canaries += 1
            self._canary = Canary.UNSENT if self.unsent else Canary.WAITING
        if self._canary is Canary.WAITING and self.answers:
            self._canary = Canary.ANSWERED

    def passes(self, seconds: int, *signs: str) -> list[hang.Verdict]:
        return [self._second(signs) for _ in range(seconds)]

    def until(self, finding: Finding, *signs: str, within_s: int = 200) -> tuple[int, hang.Verdict]:
        """Seconds until then."""
        for second in range(within_s):
            verdict = self._second(signs)
            if verdict.finding is finding:
                return second + 1, verdict
        raise AssertionError(f"no {finding} within {within_s} s")


def findings(verdicts: list[hang.Verdict]) -> set[Finding]:
    return {verdict.finding for verdict in verdicts}


@pytest.mark.fault(12, 13)
def test_stillness_is_suspect_after_the_limit_and_confirmed_by_two_canaries():
    child = History()
    seconds, verdict = child.until(Finding.SUSPECT)
    assert LIMIT_S <= seconds <= LIMIT_S + 2
    assert verdict.text.startswith("1 requests inside, and nothing has moved for 1")
    seconds, verdict = child.until(Finding.CONFIRMED)
    assert child.canaries == 2
    assert 2 * LIMIT_S + hang.CANARY_GAP_S <= seconds <= 2 * LIMIT_S + hang.CANARY_GAP_S + 2
    assert "2 one-token requests in a row stood still for 10 s each (state S, 1 in flight)" in verdict.text


@pytest.mark.fault(12)
@pytest.mark.parametrize("state", ["T", "t"])
@pytest.mark.parametrize("in_flight", [0, 1])
def test_a_stopped_process_is_suspect_at_the_second_look_and_confirmed_sooner(state, in_flight):
    child = History(60.0, in_flight=in_flight)
    child.state = state
    assert child.until(Finding.SUSPECT)[0] == 2
    seconds, verdict = child.until(Finding.CONFIRMED)
    assert seconds <= 2 * hang.STOPPED_CANARY_S + hang.CANARY_GAP_S + 1
    assert f"stopped (state {state})" in verdict.text


def test_one_look_at_a_stopped_process_says_nothing():
    child = History(in_flight=0)
    child.state = "T"
    child.passes(1)
    child.state = "S"
    assert findings(child.passes(30)) == {Finding.HEALTHY}


def test_one_that_goes_on_answers_the_canary_and_is_cleared():
    child = History(in_flight=0)
    child.state = "T"
    child.passes(9)
    child.state, child.answers = "S", True
    assert child.until(Finding.CLEARED)[0] <= 2
    assert findings(child.passes(60)) == {Finding.HEALTHY}


def test_a_deaf_one_is_suspect_without_requests():
    child = History(in_flight=0)
    child.deaf = True
    assert "nor /health" in child.until(Finding.CONFIRMED)[1].text


@pytest.mark.parametrize("sign", SIGNS)
def test_each_sign_of_progress_is_enough(sign):
    assert findings(History().passes(120, sign)) == {Finding.HEALTHY}


@pytest.mark.parametrize("sign", [sign for sign in SIGNS if sign != "bytes"])
def test_a_canary_waits_behind_work_that_goes_on(sign):
    child = History()
    child.until(Finding.SUSPECT)
    assert findings(child.passes(200, sign)) == {Finding.SUSPECT}
    assert child.canaries == 1
    child.answers = True
    child.passes(1, sign)
    assert findings(child.passes(1, sign)) == {Finding.CLEARED}


def test_a_byte_clears_at_once():
    child = History()
    child.until(Finding.SUSPECT)
    assert findings(child.passes(1, "bytes")) == {Finding.HEALTHY}
    assert not child.inquiry.wants_canary


def test_what_a_canary_costs_the_child_is_no_progress():
    """Its arrival and its end each move the counters and use the processor, once."""
    child = History()
    child.until(Finding.SUSPECT)
    for _ in range(60):
        sent = child.canaries
        verdict = child._second(())
        if child.canaries != sent or not child.inquiry.wants_canary:
            verdict = child._second(("cpu", "counters"))
        if verdict.finding is Finding.CONFIRMED:
            return
    raise AssertionError("never confirmed")


def test_a_canary_we_could_not_send_counts_for_nothing():
    child = History()
    child.unsent = True
    child.until(Finding.SUSPECT)
    assert findings(child.passes(200)) == {Finding.SUSPECT}


@pytest.mark.fault(27)
def test_after_we_stood_still_ourselves_nothing_is_known():
    child = History()
    child.until(Finding.SUSPECT)
    child.passes(int(LIMIT_S) - 1)
    assert child._second((), step_s=60.0).finding is Finding.HEALTHY
    assert findings(child.passes(int(LIMIT_S) - 1)) == {Finding.HEALTHY}


def test_an_idle_one_is_asked_after_ten_minutes_and_only_its_silence_is_suspect():
    child = History(in_flight=0)
    child.answers = True
    assert findings(child.passes(3000)) == {Finding.HEALTHY}
    assert child.canaries == 3000 // (hang.IDLE_CANARY_S + 2)
    child.answers = False
    assert "idle" in child.until(Finding.SUSPECT, within_s=700)[1].text
    child.until(Finding.CONFIRMED)


def test_one_that_may_sleep_is_not_woken():
    child = History(in_flight=0, idle_canaries=False)
    child.passes(3000)
    assert child.canaries == 0


def test_counters_are_asked_for_rarely_and_only_while_something_waits():
    idle = History(in_flight=0)
    assert not any(idle.inquiry.wants_counters(idle.now) or idle.passes(1)[0].text for _ in range(100))
    busy = History(60.0)
    asked = 0
    for _ in range(59):
        asked += busy.inquiry.wants_counters(busy.now + 1)
        busy.passes(1)
    assert asked == 2


def test_one_that_does_not_even_answer_metrics_is_no_exception():
    child = History()
    child.mute = True
    assert child.until(Finding.SUSPECT)[0] <= LIMIT_S + 2


def test_one_spared_is_asked_again_rarely_and_cleared_when_it_answers():
    child = History()
    child.until(Finding.CONFIRMED)
    for _ in range(3):
        child.inquiry.spare(child.now)
        assert child.until(Finding.CONFIRMED)[0] >= hang.SPARED_EVERY_S
    child.inquiry.spare(child.now)
    child.answers = True
    child.until(Finding.CLEARED, within_s=30)


# ---- for all histories

quiet_spells = st.lists(st.tuples(st.integers(0, int(LIMIT_S) - 2), st.sampled_from(SIGNS)), max_size=60)


@pytest.mark.fault(14)
@settings(max_examples=200, deadline=None)
@given(quiet_spells.filter(lambda spells: all(sign != "counters" for _, sign in spells)))
def test_progress_of_any_kind_within_every_limit_is_never_even_suspect(spells):
    child = History()
    for still, sign in spells:
        assert findings(child.passes(still)) <= {Finding.HEALTHY}
        assert findings(child.passes(1, sign)) == {Finding.HEALTHY}


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(SIGNS)), max_size=100), st.integers(0, 40))
def test_progress_within_every_canary_never_confirms(spells, still_before):
    """Whatever came before: canaries stand still for 10 s here, and counters are read every 2 s."""
    child = History()
    before = child.passes(still_before)
    if Finding.CONFIRMED in findings(before):
        return
    for still, sign in spells:
        assert Finding.CONFIRMED not in findings(child.passes(3, sign) + child.passes(still))


@pytest.mark.fault(13)
@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([*SIGNS, None]), max_size=60), st.floats(2.0, 120.0))
def test_whatever_came_before_a_hang_is_found_in_bounded_time(signs, limit_s):
    child = History(limit_s)
    for sign in signs:
        if child._second((sign,) if sign else ()).finding is Finding.CONFIRMED:
            return
    seconds, _ = child.until(Finding.CONFIRMED, within_s=400)
    assert seconds <= 1.5 * max(limit_s, 8.0) + hang.longest_trial_s(limit_s)


# How slow work shows: by which sign, after at most so many seconds without any, and whether a canary is answered meanwhile
# (a slot is free) or waits for all of it. Each stays within what a canary has patience for, which is the promise.
slow_work = st.fixed_dictionaries(
    {
        "sign": st.sampled_from(SIGNS),
        "every_s": st.integers(1, 4),
        "idle_s": st.integers(0, 90),
        "in_flight": st.integers(1, 8),
        "answers": st.booleans(),
        "lasts_s": st.integers(30, 900),
    }
)


@pytest.mark.fault(14)
@settings(max_examples=60, deadline=None)
@given(st.lists(slow_work, min_size=1, max_size=12), st.sampled_from([2.0, LIMIT_S, 60.0, 600.0]))
def test_an_hour_of_slow_prefills_and_decodes_kills_nobody(kinds, limit_s):
    """0 false kills: prefills on the processor, on a GPU (counters only), from a slow disk; slow streams; and idle
    spells between, however they follow each other.
    """
    child = History(limit_s)
    begun, turn = child.now, 0
    while child.now - begun < 3600:
        kind = kinds[turn % len(kinds)]
        turn += 1
        child.in_flight, child.answers = kind["in_flight"], kind["answers"]
        for second in range(kind["lasts_s"]):
            signs = (kind["sign"],) if second % kind["every_s"] == 0 else ()
            assert child.passes(1, *signs)[0].finding is not Finding.CONFIRMED
        child.in_flight, child.answers = 0, True
        assert Finding.CONFIRMED not in findings(child.passes(kind["idle_s"]))


@pytest.mark.fault(17)
def test_three_kills_in_a_quarter_of_an_hour():
    ration = Ration()
    assert [ration.take(now) for now in (0.0, 100.0, 200.0, 300.0, 899.0)] == [True, True, True, False, False]
    assert [ration.take(now) for now in (900.0, 901.0, 1000.0)] == [True, False, True]
    assert repr(ration) == "<Ration 3 of 3 taken>"
