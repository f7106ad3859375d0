"""What becomes an event, and what does not."""

from dataclasses import replace

from supervisor.control.chronicle import Chronicle
from supervisor.control.eventlog import EventLog
from tests.support.clock import FakeClock
from tests.unit.control.test_status import DEMO, READY


def chronicle() -> Chronicle:
    found = Chronicle(EventLog("life"), FakeClock())
    found.begin({DEMO: READY})
    return found


def test_what_is_so_at_the_beginning_is_no_event() -> None:
    told = chronicle()
    told.on_view(READY)
    told.on_view(replace(READY, checks=5))
    assert told.log.newest == 0


def test_a_death_comes_before_the_state_it_brings() -> None:
    told = chronicle()
    assert READY.last_death is not None
    death = replace(READY.last_death, generation=3, cause="segfault", evidence="signal 11", then="again")
    told.on_view(replace(READY, state="STARTING", last_death=death))
    first, second = told.log.last(2)
    assert (first.kind, second.kind) == ("death", "state")
    assert first.data["model"] == "demo"
    assert (first.data["cause"], first.data["evidence"], first.data["then"]) == (
        "segfault",
        "signal 11",
        "again",
    )
    assert second.data["before"] == "READY"
    assert second.data["state"] == "STARTING"


def test_the_same_death_is_told_once() -> None:
    told = chronicle()
    death = replace(READY.last_death, generation=3)  # type: ignore[type-var]  it has one
    told.on_view(replace(READY, last_death=death))
    told.on_view(replace(READY, last_death=death, checks=1))
    assert [event.kind for event in told.log.last(9)] == ["death"]


def test_the_other_kinds() -> None:
    told = chronicle()
    told.reloaded({"applied": ["log.level"]})
    told.config_refused("line 3")
    told.action("restart", "demo")
    told.rate_limited("user:a", "60r/m", 3)
    told.client_banned("user:a", 3600.0)
    assert [(event.kind, dict(event.data)) for event in told.log.last(9)] == [
        ("reload", {"applied": ["log.level"]}),
        ("config_error", {"message": "line 3"}),
        ("action", {"verb": "restart", "subject": "demo"}),
        ("rate_limit", {"client": "user:a", "limit": "60r/m", "refused": 3}),
        ("client_banned", {"client": "user:a", "seconds": 3600.0}),
    ]


def test_one_that_was_removed_and_comes_back_is_new() -> None:
    told = chronicle()
    told.forget(DEMO)
    told.on_view(READY)
    assert told.log.last(1)[0].data["before"] is None
