"""All attackers there are, by name."""

from tests.attack import bombs, framing, identities, poison, slow
from tests.attack.attacker import Attacker

ATTACKERS: dict[str, Attacker] = {
    attacker.name: attacker
    for module in (poison, slow, bombs, identities, framing)
    for attacker in module.ATTACKERS
}
