"""From views to restarts and recoveries."""

from dataclasses import replace
from datetime import UTC, datetime

from supervisor.events import Death, InstanceView
from supervisor.observe.metrics_instances import UNKNOWN, Recoveries
from supervisor.types import Generation
from tests.support.proxyrig import view


def dead(generation: int, cause: str = "segfault") -> Death:
    return Death(datetime.now(UTC), Generation(generation), cause, None, 1, 1.0, "")


def told(*steps: tuple[float, InstanceView]) -> Recoveries:
    recoveries = Recoveries()
    for at, one in steps:
        recoveries.on_view(one, at)
    return recoveries


READY = view("READY", generation=1)


def again(generation: int, death: Death, restarts: int) -> InstanceView:
    return replace(view("READY", generation=generation, last_death=death), restarts=restarts)


def test_a_death_is_over_when_the_model_is_ready_again() -> None:
    death = dead(1)
    starting = view("STARTING", generation=2, last_death=death)
    recoveries = told((10.0, READY), (20.0, starting), (20.5, again(2, death, 1)))
    assert (sum(recoveries.took.counts), recoveries.took.sum) == (1, 0.5)
    assert recoveries.restarts == {("demo", "segfault"): 1}


def test_it_counts_from_where_it_was_seen_to_serve_no_more_though_the_death_is_told_later() -> None:
    death = dead(1)
    recoveries = told(
        (10.0, READY),
        (20.0, view("STOPPING", generation=1)),
        (21.0, view("STARTING", generation=2, last_death=death)),
        (22.0, again(2, death, 1)),
    )
    assert recoveries.took.sum == 2.0


def test_a_standby_takes_over_in_no_time() -> None:
    recoveries = told((10.0, READY), (20.0, again(2, dead(1), 0)))
    assert (sum(recoveries.took.counts), recoveries.took.sum) == (1, 0.0)


def test_a_restart_by_wish_is_no_recovery() -> None:
    recoveries = told((10.0, READY), (20.0, view("DRAINING")), (21.0, view("READY", generation=2)))
    assert sum(recoveries.took.counts) == 0


def test_who_was_stopped_after_a_death_comes_back_when_somebody_wishes() -> None:
    death = dead(1)
    recoveries = told(
        (10.0, READY),
        (20.0, view("BACKOFF", last_death=death)),
        (21.0, view("STOPPED", last_death=death, wanted=False)),
        (99.0, view("READY", generation=2, last_death=death)),
    )
    assert sum(recoveries.took.counts) == 0


def test_a_death_of_the_other_llama_server_is_no_outage() -> None:
    recoveries = told((10.0, READY), (20.0, view("READY", generation=1, last_death=dead(0))))
    assert sum(recoveries.took.counts) == 0


def test_a_first_start_that_dies_is_a_restart_and_no_recovery() -> None:
    death = dead(1, "out_of_memory")
    recoveries = told((10.0, view("LOADING", generation=1)), (11.0, again(2, death, 1)))
    assert sum(recoveries.took.counts) == 0
    assert recoveries.restarts == {("demo", "out_of_memory"): 1}


def test_several_restarts_at_once_and_one_without_a_death_are_counted() -> None:
    recoveries = told((1.0, replace(READY, restarts=2)))
    assert recoveries.restarts == {("demo", UNKNOWN): 2}


def test_of_a_removed_model_nothing_is_kept() -> None:
    death = dead(1)
    recoveries = told((10.0, READY), (20.0, again(2, death, 1)))
    recoveries.forget(READY.name)
    assert (recoveries.restarts, recoveries._seen) == ({}, {})
