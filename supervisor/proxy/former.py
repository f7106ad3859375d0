"""Generations that finish what they have while the next one serves: their connections, and what they hold of the slots."""

from supervisor.proxy.upstream import Pool
from supervisor.types import Generation


class Former:
    """Of one gate. ``leases``: requests with a slot that are still at one of them."""

    def __init__(self) -> None:
        self.leases = 0
        self._pools: dict[Generation, Pool] = {}

    def __repr__(self) -> str:
        return f"<Former {', '.join(map(str, self._pools)) or 'none'}: {self.leases} leases>"

    def add(self, generation: Generation, pool: Pool | None, leases: int) -> None:
        """The next one serves from now on. ``leases``: all that are held at this moment, none of which is the next one's."""
        self.leases = leases
        if pool is not None:
            self._pools[generation] = pool

    def close(self, generation: Generation) -> None:
        """It ends: whoever is still there is told by the loss of the connection, and is asked again elsewhere."""
        pool = self._pools.pop(generation, None)
        if pool is not None:
            pool.close()
