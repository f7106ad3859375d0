"""A streamed answer goes on after llama-server died in the middle of it.

Pure: bytes in, bytes out. What the client has got is read only now, after the death; it becomes a request
that asks the new generation for the rest, and the rest becomes events that fit behind what was sent.
"""

from supervisor.proxy.continuation.asked import CannotContinue
from supervisor.proxy.continuation.stream import CONTINUABLE, Continuation, Resume

__all__ = ["CONTINUABLE", "CannotContinue", "Continuation", "Resume"]
