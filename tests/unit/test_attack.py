"""The pure parts of `make attack`: the attackers there are, and what the report makes of an attack."""

import json
import random
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from tests.attack.arsenal import ATTACKERS
from tests.attack.attacker import Assault, addresses
from tests.attack.honest import people
from tests.attack.report import PEAK_BYTES, Report
from tests.chaos.report import Footprint
from tests.support.attacks import ROWS

BEFORE = Footprint(rss_bytes=60 << 20, descriptors=20, threads=7, children=1)


# ---- the attackers


def test_every_attacker_names_its_rows_and_no_name_is_given_twice() -> None:
    assert len(ATTACKERS) >= 25
    assert all(set(attacker.rows) <= set(ROWS) for attacker in ATTACKERS.values())


def test_honest_clients_are_at_addresses_of_their_own() -> None:
    taken = {address for number in range(1, len(ATTACKERS) + 1) for address in addresses(number)}
    honest = [person.address for person in people("a", "b")]
    assert len(taken) == 3 * len(ATTACKERS)
    assert not taken & set(honest)
    assert len(set(honest)) == 3


class Recorder(Assault):
    """Sends nothing; keeps what would have been sent."""

    __slots__ = ("sent",)

    def send(self, data: bytes, *, timeout_s: float = 0.0) -> None:
        self.sent = [*getattr(self, "sent", []), data]


def strikes(name: str, seed: int) -> list[bytes]:
    assault = Recorder(1, addresses(1), random.Random(seed), threading.Event())
    for _ in range(3):
        ATTACKERS[name].act(assault)
        assault.strikes += 1
    return list(assault.sent)


CONNECTING = {"slow", "silent", "readers"}  # these need a daemon


@pytest.mark.parametrize("name", [name for name in ATTACKERS if name.split()[0] not in CONNECTING])
def test_the_same_seed_gives_the_same_strikes(name: str) -> None:
    assert strikes(name, 7) == strikes(name, 7)


def test_another_seed_gives_other_strikes_and_each_differs_from_the_last() -> None:
    name = "poison: grammar depth"
    assert strikes(name, 7) != strikes(name, 8)
    assert len(set(strikes(name, 7))) == 3


# ---- the report


def report(**changes: Any) -> Report:
    good: dict[str, Any] = {
        "seed": 4,
        "seconds": 120.0,
        "strikes": {"framing": {"400": 90, "closed": 3}, "wrong keys": {"401": 7}},
        "quiet": {"a": [0.1, 0.1, 0.1], "b": [0.2]},
        "attacked": {"a": [0.1, 0.19, 0.25], "b": [0.3]},
        "failed": [],
        "wrong": [],
        "doors": 0,
        "crashes": 0,
        "restarts_s": [],
        "status_s": 0.01,
        "peak_bytes": 100 << 20,
        "before": BEFORE,
        "after": BEFORE,
        "left": 0,
        "alive": True,
    }
    return Report(**(good | changes))


def test_an_attack_that_changed_nothing_is_held_and_told() -> None:
    one = report()
    assert one.passed
    text = one.text()
    assert text.endswith("held")
    for words in ("seed 4", "2 attackers", "90 400", "framing", "60 -> 60 MiB"):
        assert words in text
    assert json.loads(json.dumps(one.as_dict()))["passed"]


WRONG: dict[str, tuple[Mapping[str, Any], str]] = {
    "slower than twice": ({"attacked": {"a": [0.21] * 3, "b": [0.3]}}, "the client a waits 0.210 s"),
    "no answer at all": ({"attacked": {"a": [0.1]}}, "the client b got no answer"),
    "an honest request failed": ({"failed": ["at 3 s: 503"]}, "at 3 s: 503"),
    "a state the model must not have": ({"wrong": ["the model is FAILED"]}, "the model is FAILED"),
    "status is slow": ({"status_s": 2.5}, "status took 2.5 s"),
    "too much memory": ({"peak_bytes": PEAK_BYTES + (1 << 20)}, "had 151 MiB"),
    "grown": ({"after": Footprint(160 << 20, 20, 7, 1)}, "not as before"),
    "descriptors left": ({"after": Footprint(60 << 20, 90, 7, 1)}, "descriptors=70"),
    "two children": ({"after": Footprint(60 << 20, 20, 7, 2)}, "processes=1"),
    "requests left": ({"left": 2}, "requests=2"),
    "no answer afterwards": ({"alive": False}, "does not answer"),
    "an attacker that did nothing": ({"strikes": {"framing": {}}}, "framing never struck"),
    "nobody attacked": ({"strikes": {}}, "nobody attacked"),
    "never quiet": ({"quiet": {"a": [], "b": [0.2]}}, "a was not asked for"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_broken_is_named_with_the_seed(name: str) -> None:
    changes, words = WRONG[name]
    one = report(**changes)
    assert not one.passed
    assert words in one.text()
    assert "--seed 4" in one.text().splitlines()[-1]


def test_each_closed_door_may_cost_one_restart() -> None:
    slower = {"a": [0.6] * 3, "b": [0.3]}
    assert not report(attacked=slower, restarts_s=[0.3, 0.2], doors=0).passed
    assert report(attacked=slower, restarts_s=[0.3, 0.2], doors=2).passed
