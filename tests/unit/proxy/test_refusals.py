"""`proxy.refusals`: the words and figures of those who cannot wait, or have waited in vain."""

import pytest

from supervisor.errors import ModelLoading, ModelUnavailable, QueueTimeout
from supervisor.proxy import refusals
from tests.support.proxyrig import view


def told(error):
    return error.status, error.code, error.message, error.retry_after_s


def test_a_full_queue_says_when_to_come_back():
    assert told(refusals.queue_full(7, 2.5)) == (503, "queue_full", "7 requests wait already", 2.5)
    assert refusals.queue_full(7, None).retry_after_s == 1.0


def test_who_makes_room_is_told_why():
    error = refusals.displaced()
    assert (error.status, error.code, error.retry_after_s) == (503, "queue_full", 1.0)
    assert error.hint == "ask for less at a time"


def test_too_long_a_wait_is_told_before_it_begins():
    error = refusals.too_long(90.4)
    assert isinstance(error, QueueTimeout)
    assert error.retry_after_s == 90.4
    assert "about 90 s" in error.message


@pytest.mark.parametrize(
    ("seen", "in_doubt", "expected"),
    [
        (view("LOADING"), False, ModelLoading),
        (view("LOADING"), True, ModelLoading),
        (view("READY", port=1, suspect="it stands still"), False, ModelUnavailable),
        (view("READY", port=1), True, ModelUnavailable),
        (view("READY", port=1), False, QueueTimeout),
    ],
)  # fmt: skip
def test_who_waited_in_vain_is_told_what_for(seen, in_doubt, expected):
    error = refusals.too_late(seen, 61.2, in_doubt=in_doubt, expected_s=12.0)
    assert type(error) is expected
    assert error.message.startswith("waited 61 s")
    assert error.retry_after_s == (12.0 if expected is QueueTimeout else 5.0)


def test_without_a_forecast_there_is_a_time_all_the_same():
    assert refusals.too_late(view("READY", port=1), 61, in_doubt=False, expected_s=None).retry_after_s == 5.0
