"""The ring of events: numbered, bounded, resumable."""

from datetime import UTC, datetime

import pytest

from supervisor.control.eventlog import KINDS, EventLog

AT = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)


def filled(count: int, *, kept: int = 1000) -> EventLog:
    log = EventLog("life", kept=kept)
    for number in range(1, count + 1):
        log.add("state", AT, {"number": number})
    return log


def test_events_are_numbered_from_one_and_say_whose_life() -> None:
    log = filled(0)
    event = log.add("death", AT, {"model": "demo"})
    assert (event.id, event.number, log.newest) == ("life-1", 1, 1)
    assert event.as_dict() == {
        "id": "life-1",
        "kind": "death",
        "at": "2026-01-02T03:04:05.678+00:00",
        "data": {"model": "demo"},
    }


def test_a_kind_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match="party"):
        filled(0).add("party", AT, {})
    assert all(KINDS.values())


def test_after_gives_what_is_newer_in_order() -> None:
    fresh, missed = filled(5).after(3)
    assert [event.number for event in fresh] == [4, 5]
    assert missed == 0
    assert filled(5).after(5) == ([], 0)


def test_the_oldest_are_forgotten_and_the_gap_is_told() -> None:
    log = filled(10, kept=4)
    fresh, missed = log.after(2)
    assert [event.number for event in fresh] == [7, 8, 9, 10]
    assert missed == 4  # 3 to 6
    assert log.after(6)[1] == 0


@pytest.mark.parametrize(("count", "numbers"), [(0, []), (2, [4, 5]), (9, [1, 2, 3, 4, 5])])
def test_the_last_so_many(count: int, numbers: list[int]) -> None:
    assert [event.number for event in filled(5).last(count)] == numbers


@pytest.mark.parametrize(
    ("seen", "number"),
    [
        ("life-3", 3),
        ("life-99", 5),  # it cannot have been seen
        ("other-3", 0),
        ("life-", 0),
        ("life-x", 0),
        ("life-²", 0),
        ("life-" + "9" * 30, 0),
        ("", 0),
    ],
)
def test_where_a_reader_goes_on(seen: str, number: int) -> None:
    assert filled(5).number_of(seen) == number


def test_listeners_hear_of_each_event() -> None:
    log, heard = filled(0), []
    log.subscribe(lambda: heard.append(log.newest))
    log.add("state", AT, {})
    log.add("state", AT, {})
    assert heard == [1, 2]
