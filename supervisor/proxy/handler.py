"""What the two sides of a client's connection know of each other: the wire, and what it hands requests to."""

from collections.abc import Callable
from enum import IntFlag
from typing import TYPE_CHECKING, Protocol

from supervisor.errors import LlmsupError
from supervisor.proxy.heads import Heads
from supervisor.proxy.inflight import Exchange
from supervisor.proxy.upload import BodyBudget

if TYPE_CHECKING:
    from supervisor.proxy.wire import ClientConnection


class Hold(IntFlag):
    """Why a client is not being read from; reading goes on when all are clear."""

    PIPELINE = 1
    BUDGET = 2
    TURN = 8  # a piece of a large body has been read: others are looked at before the next one
    OUTPUT = 4  # it does not read what we answer: more requests would only mean more answers


class Handler(Protocol):
    """What the wire hands requests to; `Pipeline` is the one there is.

    ``now`` is the monotonic time of the latest sweep: exact to a second, which is what limits need here.
    """

    max_body_bytes: int
    budget: BodyBudget
    heads: Heads
    now: float
    connections: "set[ClientConnection]"
    max_connections: int

    def soon(self, work: Callable[[], None]) -> None:
        """Call it when others have had their turn."""

    def refusal(self, peer: str, error: LlmsupError) -> bytes:
        """The whole answer to what never became a request."""

    def make_room(self, newcomer: "ClientConnection") -> None:
        """There are more connections than the limit: close some idle ones, or refuse the newcomer."""

    def look(self, exchange: Exchange) -> LlmsupError | None:
        """Its head has come, and its body has not: why it will be refused whatever that is, if it will."""

    def turn_away(self, exchange: Exchange, error: LlmsupError) -> None:
        """Answer it with what `look` has said."""

    def spared(self, exchange: Exchange) -> LlmsupError | None:
        """It came over a place that is kept for health checks and keys: why it is not for those, if it is not."""

    def begin_spare(self, exchange: Exchange) -> None:
        """As `begin`, of what came over such a place."""

    def begin(self, exchange: Exchange) -> None:
        """The request is complete and it is its turn to be answered."""

    def cancel(self, exchange: Exchange) -> None:
        """Its client has left."""

    def end(self, exchange: Exchange) -> None:
        """It has been answered, or given up."""
