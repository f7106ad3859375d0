"""Busy in vain: told to people after minutes, cleared by any result, and never a reason to end anything."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.proc.hang import SPIN_MIN_S, Counters, Inquiry, Look, Spin, Standing
from tests.support.proc import stage

LIMIT_S = 60.0
RESULTS = ("byte", "counter")


class Child:
    """One with requests inside that uses the processor, second by second."""

    def __init__(self, limit_s=LIMIT_S, *, in_flight=1, mute=False, busy=True):
        self.spin = Spin(limit_s)
        self.now, self.byte_at, self.cpu_s = 100.0, 100.0, 0.0
        self.in_flight, self.mute, self.busy = in_flight, mute, busy
        self.counters = Counters(5, 5, 5)
        self.asked = 0

    def second(self, *results, step_s=1.0):
        self.now += step_s
        self.cpu_s += step_s * self.busy
        if "byte" in results:
            self.byte_at = self.now
        if "counter" in results:
            self.counters = dataclasses.replace(self.counters, decodes=self.counters.decodes + 1)
        asked = self.spin.wants_counters(self.now)
        self.asked += asked
        return self.spin.see(self.look(asked))

    def look(self, asked):
        return Look(
            at=self.now,
            state="R" if self.busy else "S",
            cpu_s=self.cpu_s,
            major_faults=0,
            standing=Standing(self.in_flight, self.now - self.byte_at),
            asked=asked,
            counters=self.counters if asked and not self.mute else None,
        )

    def passes(self, seconds, *results):
        return [self.second(*results) for _ in range(seconds)]

    def told_after(self, within_s=2000):
        return next((second for second in range(1, within_s) if self.second()), None)


@pytest.mark.parametrize(("limit_s", "patience_s"), [(1.0, SPIN_MIN_S), (60.0, 300.0), (300.0, 1500.0)])
def test_after_five_minutes_or_five_times_the_limit_it_is_told(limit_s, patience_s):
    assert patience_s <= Child(limit_s).told_after() <= patience_s + 2


@pytest.mark.parametrize(
    ("mute", "words"), [(False, "its counters stand still"), (True, "no answer from /metrics")]
)
def test_it_says_which_of_the_two_it_is(mute, words):
    child = Child(mute=mute, in_flight=3)
    child.passes(310)
    why = child.second()
    assert words in why
    assert why.startswith("busy for 5 min without any result: 3 requests inside")
    assert set(child.passes(600)) == {why}, "said once, not anew each second"


@pytest.mark.parametrize("result", RESULTS)
def test_any_result_clears_it_and_begins_anew(result):
    child = Child()
    assert child.told_after()
    assert "" in child.passes(60, result)
    assert set(child.passes(290)) == {""}
    assert child.told_after() is not None


@pytest.mark.parametrize("result", RESULTS)
def test_rare_results_are_results(result):
    """One long batch after the other, or a token every four minutes."""
    child = Child()
    for _ in range(20):
        assert set(child.passes(240) + child.passes(1, result)) == {""}


def test_one_that_has_nothing_to_do_or_does_nothing_does_not_spin():
    assert Child(in_flight=0).told_after() is None
    assert Child(busy=False).told_after() is None  # that is a hang, and looked after


def test_a_standstill_of_our_own_is_not_held_against_it():
    child = Child()
    child.passes(299)
    assert child.second(step_s=3600.0) == ""
    assert set(child.passes(290)) == {""}


def test_the_counters_are_asked_for_rarely_and_only_in_the_second_half():
    child = Child()
    child.passes(149)
    assert child.asked == 0
    child.passes(151)
    assert 3 <= child.asked <= 4
    assert Child(in_flight=0).passes(1000)
    assert child.spin.patience_s == 300.0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 145), st.sampled_from(RESULTS)), max_size=60))
def test_whatever_gets_on_every_two_minutes_is_never_suspected(steps):
    child = Child()
    for seconds, result in steps:
        assert set(child.passes(seconds) + child.passes(1, result)) == {""}


@pytest.mark.anyio
async def test_people_are_told_and_nothing_else_happens(monkeypatch):
    async with stage(monkeypatch, silence_s=10.0) as on:
        await on.start()
        for second in range(320):
            on.traffic.standing_now = Standing(2, float(second))
            on.run.vitals = dataclasses.replace(on.run.vitals, cpu_s=second * 0.9, state="R")
            await on.clock.advance(1)
        assert "busy for 5 min without any result: 2 requests inside" in on.view.spins
        assert (on.view.state, on.view.generation, on.view.suspect, on.view.ready) == ("READY", 1, None, True)
        assert (on.prober.canaries, on.run.signals) == (0, [])
        assert len([view for view in on.views if view.spins]) == 1
        on.traffic.standing_now = Standing(2, 0.0)
        await on.clock.advance(2)
        assert on.view.spins is None
        on.run.die(signal=9)
        await on.clock.settle()
        assert (on.view.generation, on.view.spins) == (2, None)


def test_a_spin_is_never_confirmed_as_a_hang():
    child, inquiry = Child(), Inquiry(LIMIT_S)
    for _ in range(3600):
        child.second()
        look = child.look(child.spin.wants_counters(child.now) or inquiry.wants_counters(child.now))
        assert inquiry.see(look).text == ""
    assert child.second()
