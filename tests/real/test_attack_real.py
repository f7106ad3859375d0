"""A short attack on the real binary (`make attack` is the long one): nobody's answer fails, and all is as before."""

import pytest

from tests.attack.arsenal import ATTACKERS
from tests.attack.run import run

pytestmark = pytest.mark.real

SECONDS = 12.0  # with the quiet time before it and the calm after it, 20 s in all
SLOWER = 100.0  # not judged here, where other tests run beside this one: speed is measured by `make attack`

# With these all places are taken at once, and one without a key may be turned away before room is made.
NOT_HERE = frozenset({"slow heads", "slow bodies"})


def test_honest_clients_are_served_while_strangers_attack(llama_server_binary: object) -> None:
    names = [name for name in ATTACKERS if name not in NOT_HERE]
    report = run(1, SECONDS, names, slower=SLOWER)
    assert report.passed, report.text()
    assert set(report.strikes) == set(names)
