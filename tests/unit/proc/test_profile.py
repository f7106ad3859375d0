"""One step down, once, and for memory or crashes only."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.events import Inside
from supervisor.proc.causes import NAMES, Cause
from supervisor.proc.profile import CRASHES_IN_A_ROW, Course, difference, lowered, turn
from tests.support.proc import spec

NORMAL = spec()
SAFE = spec(context_size=2048, batch_size=128)
MEMORY = Cause("out_of_memory", "unable to allocate 9 GiB")
CRASH, ABORT = Cause("segfault", "crashed"), Cause("aborted", "GGML_ASSERT")


def walk(*causes, stable=False, safe=SAFE):
    """The turns along a row of ends."""
    course, turns = Course(), []
    for cause in causes:
        turns.append(turn(course, cause, stable=stable, normal=NORMAL, safe=safe))
        course = turns[-1].course
    return turns


def test_the_safe_numbers_replace_the_normal_ones():
    assert lowered(NORMAL, context_size=2048, batch_size=128, threads=None) == SAFE
    assert lowered(NORMAL, context_size=None, batch_size=None, threads=1) == spec(threads=1)
    assert lowered(NORMAL, context_size=None, batch_size=None, threads=None) is None
    assert lowered(NORMAL, context_size=4096, batch_size=256, threads=2) is None


def test_the_difference_in_words():
    assert difference(NORMAL, SAFE) == "context_size 2048 instead of 4096, batch_size 128 instead of 256"
    assert difference(spec(threads=None), spec(threads=1)) == "threads 1 instead of all"


def test_out_of_memory_steps_down_at_once_and_gives_up_the_second_time():
    first, second = walk(MEMORY, MEMORY)
    assert first.stepped
    assert not first.exhausted
    assert first.course.because.startswith("safe profile (context_size 2048 instead of 4096")
    assert first.course.because.endswith("because it ran out of memory")
    assert second.exhausted == f"again with the safe profile ({difference(NORMAL, SAFE)}): {MEMORY.detail}"


def test_the_third_crash_in_a_row_steps_down():
    turns = walk(CRASH, ABORT, CRASH, CRASH)
    assert [it.stepped for it in turns] == [False, False, True, False]
    assert "crashed 3 times in a row" in turns[2].course.because
    assert turns[3].exhausted


@pytest.mark.parametrize("between", ["killed", "exited", "stalled", "load_failed"])
def test_anything_else_between_breaks_the_row(between):
    assert not any(it.stepped for it in walk(CRASH, CRASH, Cause(between, ""), CRASH, CRASH))


@pytest.mark.parametrize("between", ["spawn_failed", "port_in_use"])
def test_what_says_nothing_of_the_program_does_not(between):
    assert walk(CRASH, CRASH, Cause(between, ""), CRASH)[-1].stepped


def test_crashes_of_stable_runs_are_no_row():
    assert not any(it.stepped for it in walk(*[CRASH] * 9, stable=True))


def test_another_trouble_on_the_safe_profile_is_judged_as_usual():
    turns = walk(MEMORY, CRASH, CRASH, CRASH, Cause("killed", ""))
    assert not any(it.exhausted for it in turns)
    assert turns[-1].course.because


def test_a_stable_run_on_the_safe_profile_gets_another():
    course = walk(MEMORY)[0].course
    assert not turn(course, MEMORY, stable=True, normal=NORMAL, safe=SAFE).exhausted


def test_without_a_profile_nothing_changes():
    assert not any(it.stepped or it.exhausted for it in walk(MEMORY, MEMORY, *[CRASH] * 9, safe=None))


@given(st.lists(st.tuples(st.sampled_from(sorted(NAMES)), st.booleans()), max_size=30))
def test_at_most_one_step_and_never_back_by_itself(ends):
    course, steps = Course(), 0
    for name, stable in ends:
        before = course
        it = turn(course, Cause(name, ""), stable=stable, normal=NORMAL, safe=SAFE)
        course, steps = it.course, steps + it.stepped
        assert steps <= 1
        assert bool(course.because) == bool(steps)
        assert not it.exhausted or (before.because and not stable)
        assert course.because or course.crashes < CRASHES_IN_A_ROW


ONE, SEVERAL = Inside(3, 1), Inside(3, 2)


def served(course, cause, inside):
    return turn(course, cause, stable=False, normal=NORMAL, safe=SAFE, served=True, inside=inside)


@pytest.mark.parametrize(("cause", "inside"), [(CRASH, ONE), (CRASH, SEVERAL), (MEMORY, ONE)])
def test_what_a_request_may_have_done_is_held_against_nobody_else(cause, inside):
    course = Course()
    for _ in range(9):
        it = served(course, cause, inside)
        assert (it.course, it.stepped, it.exhausted) == (Course(), False, "")


def test_memory_short_with_several_inside_steps_down_the_second_time_and_never_gives_up():
    first = served(Course(), MEMORY, SEVERAL)
    second = served(first.course, MEMORY, SEVERAL)
    third = served(second.course, MEMORY, SEVERAL)
    assert [it.stepped for it in (first, second, third)] == [False, True, False]
    assert not third.exhausted


def test_one_that_serves_on_the_safe_profile_is_not_given_up_for_a_crash():
    course = walk(CRASH, CRASH, CRASH)[-1].course
    assert not served(course, CRASH, Inside()).exhausted
    assert served(walk(MEMORY)[-1].course, MEMORY, Inside()).exhausted
