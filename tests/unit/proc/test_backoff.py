import pytest

from supervisor.events import Inside
from supervisor.proc.backoff import PORT_TRIES, End, Record, delay_s, judge, stable_after_s
from supervisor.proc.state import Event


@pytest.mark.fault(5)
def test_unstable_runs_wait_1_2_4_8_16_seconds_then_five_minutes():
    record, seen = Record(), []
    for _ in range(7):
        judgement = judge(End(), record, 0.0)
        record = judgement.record
        seen.append((judgement.event, judgement.delay_s))
    assert seen == [
        *((Event.GONE_BACKOFF, delay) for delay in (1.0, 2.0, 4.0, 8.0, 16.0)),
        *[(Event.GONE_CRASHLOOP, 300.0)] * 2,
    ]


@pytest.mark.fault(5)
@pytest.mark.parametrize(
    ("runs", "least"), [(1, 1), (2, 2), (5, 16), (6, 32), (7, 60), (8, 60), (10_000, 60)]
)
def test_the_delay_doubles_up_to_its_cap_and_jitters_only_upwards(runs, least):
    assert delay_s(runs, 0.0) == least
    assert delay_s(runs, 0.5) == least * 1.125
    assert least < delay_s(runs, 0.999999) < least * 1.25


def test_the_crash_loop_jitters_too():
    assert judge(End(), Record(5), 1.0).delay_s == 375.0


@pytest.mark.fault(6)
@pytest.mark.parametrize(("load_s", "stable_s"), [(0.0, 120.0), (60.0, 120.0), (61.0, 122.0), (240.0, 480.0)])
def test_stable_is_two_minutes_or_twice_the_load_time(load_s, stable_s):
    assert stable_after_s(load_s) == stable_s


@pytest.mark.fault(6)
def test_a_run_that_was_ready_but_not_stable_counts():
    judgement = judge(End(was_ready=True), Record(2), 0.0)
    assert judgement == (judge(End(), Record(2), 0.0))
    assert judgement.record == Record(3)


def test_a_stable_run_that_dies_is_started_at_once_and_its_past_forgiven():
    judgement = judge(End(was_ready=True, stable=True), Record(4), 0.9)
    assert (judgement.event, judgement.record, judgement.delay_s) == (Event.GONE_RETRY, Record(), 0.0)


def test_a_kill_from_outside_after_ready_is_not_held_against_it():
    judgement = judge(End(was_ready=True, killed_from_outside=True), Record(3, 2), 0.0)
    assert (judgement.event, judgement.record) == (Event.GONE_RETRY, Record(3))


def test_a_kill_from_outside_while_loading_counts():
    assert judge(End(killed_from_outside=True), Record(), 0.0).event is Event.GONE_BACKOFF


def test_a_port_clash_is_not_counted_but_does_not_go_on_for_ever():
    record = Record(3)
    for n in range(1, PORT_TRIES + 1):
        judgement = judge(End(port_clash=True), record, 0.0)
        record = judgement.record
        assert (judgement.event, record) == (Event.GONE_RETRY, Record(3, n))
    judgement = judge(End(port_clash=True), record, 0.0)
    assert (judgement.event, judgement.record) == (Event.GONE_BACKOFF, Record(4))


@pytest.mark.parametrize(
    "other", [{"permanent": True}, {"port_clash": True}, {"stable": True, "was_ready": True}]
)
def test_a_wish_for_down_outweighs_everything(other):
    assert judge(End(wished=True, replaced=True, **other), Record(5), 0.0).event is Event.GONE_WANTED


def test_a_replaced_run_is_followed_at_once_and_the_record_stays():
    assert judge(End(replaced=True), Record(5), 0.0) == judge(End(replaced=True), Record(5), 0.9)
    assert judge(End(replaced=True), Record(5), 0.0).event is Event.GONE_RETRY


ALONE = Inside(1, 1)


def test_with_requests_inside_it_is_back_at_once_then_soon_and_for_ever():
    record, seen = Record(), []
    for _ in range(8):
        judgement = judge(End(was_ready=True, inside=ALONE), record, 0.0)
        record = judgement.record
        seen.append((judgement.event, judgement.delay_s))
    assert seen == [
        (Event.GONE_RETRY, 0.0),
        *((Event.GONE_BACKOFF, delay) for delay in (0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)),
    ]
    assert record == Record(blamed_runs=8)


def test_ends_of_both_kinds_are_counted_apart():
    record = judge(End(was_ready=True, inside=ALONE), Record(5, blamed_runs=3), 0.0).record
    assert record == Record(5, blamed_runs=4)
    judgement = judge(End(was_ready=True), record, 0.0)
    assert (judgement.event, judgement.record) == (Event.GONE_CRASHLOOP, Record(6, blamed_runs=4))


def test_nobody_is_inside_before_ready():
    assert judge(End(inside=ALONE), Record(5), 0.0).event is Event.GONE_CRASHLOOP


def test_a_permanent_cause_is_for_good():
    assert judge(End(permanent=True), Record(), 0.0).event is Event.GONE_FAILED
