"""`Continuation`: the bytes of one stream, over as many generations as it takes."""

from dataclasses import dataclass

from supervisor.proxy.continuation import sse
from supervisor.proxy.continuation.answer import Answer
from supervisor.proxy.continuation.asked import MALFORMED, Asked, CannotContinue
from supervisor.proxy.continuation.chat import ChatAnswer
from supervisor.proxy.continuation.completions import NativeAnswer, TextAnswer
from supervisor.proxy.continuation.messages import MessagesAnswer
from supervisor.proxy.continuation.responses import ResponsesAnswer

# /infill is not here: its prompt ends behind the suffix, where text cannot be put by a client.
_DIALECTS: dict[bytes, type[Answer]] = {
    b"/chat/completions": ChatAnswer,
    b"/v1/chat/completions": ChatAnswer,
    b"/v1/completions": TextAnswer,
    b"/completion": NativeAnswer,
    b"/completions": NativeAnswer,
    b"/v1/messages": MessagesAnswer,
    b"/responses": ResponsesAnswer,
    b"/v1/responses": ResponsesAnswer,
}
CONTINUABLE = frozenset(_DIALECTS)
MARK = b": llmsup-continued\n\n"


@dataclass(frozen=True, slots=True)
class Resume:
    """What the new generation is asked: POST, JSON."""

    target: bytes
    body: bytes


class Continuation:
    """One answer whose generation died. Nothing here waits or writes."""

    __slots__ = ("_answer", "_asked", "_failed", "_marked", "_rest", "broken")

    def __init__(self, path: bytes, body: bytes, sent: bytes) -> None:
        """``path``, ``body``: of the client's request, without query. ``sent``: the events the client has.

        Raises CannotContinue.
        """
        dialect = _DIALECTS.get(path)
        if dialect is None:
            raise CannotContinue("streams of this path cannot be continued")
        self._asked = Asked(path, body)
        self._answer = dialect(self._asked)
        self._rest = b""
        self._failed = False
        self._marked = True
        self.broken: str | None = (
            None  # why the new generation's events were no use; from then on none is passed
        )
        blocks, rest = sse.split(sent)
        if rest:
            raise CannotContinue("the stream was cut within an event")
        try:
            for block in blocks:
                event = sse.read(block)
                if _is_error(event):
                    raise CannotContinue("the answer had failed before")
                self._answer.heard(event)
        except MALFORMED as exc:
            raise CannotContinue("what was sent so far is not understood") from exc

    @property
    def finished(self) -> bool:
        """The client has got the last event: nothing to resume, only the clean end is missing."""
        return self._answer.finished

    def resume(self) -> Resume:
        """What to ask now; again after another death. Raises CannotContinue."""
        if self.broken is not None:
            raise CannotContinue(self.broken)
        if self._failed:
            raise CannotContinue("the answer had failed before")
        self._rest = b""
        try:
            body = self._answer.request()
        except MALFORMED as exc:
            raise CannotContinue("the request is not understood") from exc
        self._marked = False
        return Resume(self._asked.target, body)

    def feed(self, data: bytes) -> bytes:
        """Bytes of the new generation in, whole events for the client out. Raises nothing: see ``broken``."""
        out: list[bytes] = []
        if not self._marked:
            self._marked = True
            out.append(MARK)
        blocks, self._rest = sse.split(self._rest + data)
        for block in blocks:
            if self.broken is not None or self._failed:
                break
            try:
                out.append(self._pass(sse.read(block)))
            except MALFORMED as exc:
                self.broken = f"the new generation's events are not understood ({type(exc).__name__}: {exc})"
        return b"".join(out)

    def end(self) -> bool:
        """The new generation's stream ended cleanly: was the answer whole?"""
        return self._answer.finished and not self._failed and self.broken is None and not self._rest

    def _pass(self, event: sse.Event) -> bytes:
        if _is_error(event):
            self._failed = True
            return event.raw
        answer = self._answer
        if event.data is None:
            answer.heard(event)
            return event.raw
        data = answer.rewritten(event)
        if data is None:
            return b""
        answer.heard(sse.Event(b"", event.name, data))
        return sse.write(event.name, data)


def _is_error(event: sse.Event) -> bool:
    return event.name == "error" or (event.data is not None and "error" in event.data)
