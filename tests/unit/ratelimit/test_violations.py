"""One line for each client and minute."""

from supervisor.ratelimit.pools import MINUTE_NS
from supervisor.ratelimit.violations import MAX_CLIENTS, Violation, Violations


def test_a_minutes_refusals_of_a_client_are_one_sum():
    violations = Violations()
    for at in range(90):
        violations.add("ip:192.0.2.1", "rpm", at)
    violations.add("ip:192.0.2.2", "concurrent", 95)
    assert violations.due(MINUTE_NS - 1) == []
    assert violations.due(MINUTE_NS) == [
        Violation("ip:192.0.2.1", "rpm", 90),
        Violation("ip:192.0.2.2", "concurrent", 1),
    ]
    assert violations.due(10 * MINUTE_NS) == []
    violations.add("ip:192.0.2.1", "rpm", 10 * MINUTE_NS)  # the minute begins with it
    assert violations.due(11 * MINUTE_NS - 1) == []
    assert violations.due(11 * MINUTE_NS) == [Violation("ip:192.0.2.1", "rpm", 1)]


def test_a_flood_of_names_is_one_sum():
    violations = Violations()
    for number in range(MAX_CLIENTS + 500):
        violations.add(f"ip:{number}", "all-rpm", 0)
    told = violations.due(MINUTE_NS)
    assert len(told) == MAX_CLIENTS + 1
    assert told[0] == Violation(None, "all-rpm", 500)
