"""What a stage may say instead of nothing ("go on"). Rejections are raised, as `LlmsupError`."""

from dataclasses import dataclass

from supervisor.proxy.answers import JSON


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer is known already: its status, its body and what that is."""

    status: int
    body: bytes
    kind: bytes = JSON


class Wait:
    """The request has been put in a queue, whose owner will send it."""


WAIT = Wait()
Decision = Answer | Wait | None
