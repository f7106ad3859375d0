"""What a stage may say instead of nothing ("go on"). Rejections are raised, as `LlmsupError`."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer is known already: a JSON body with its status."""

    status: int
    body: bytes


class Wait:
    """The request has been put in a queue, whose owner will send it."""


WAIT = Wait()
Decision = Answer | Wait | None
