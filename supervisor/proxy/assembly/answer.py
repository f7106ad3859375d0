"""One streamed answer, collected and then taken together."""

from collections.abc import Callable
from typing import Any

from supervisor.proxy.assembly import chat, messages, responses, text
from supervisor.proxy.assembly.ask import FORMS, Form
from supervisor.proxy.assembly.events import error_of, payloads
from supervisor.proxy.assembly.faults import TooLong, Unknown
from supervisor.types import MIB

MAX_STREAM_BYTES = 64 * MIB  # over 100,000 tokens at some 600 bytes of event each

_ASSEMBLE: dict[Form, Callable[[list[str], dict[str, Any]], str]] = {
    Form.NATIVE: text.native,
    Form.TEXT: text.openai,
    Form.CHAT: chat.assemble,
    Form.MESSAGES: messages.assemble,
    Form.RESPONSES: responses.assemble,
}


class Assembly:
    """What a stream has brought so far. `parsed` is the request as the client sent it."""

    def __init__(self, path: bytes, parsed: dict[str, Any]) -> None:
        self._form = FORMS[path]
        self._parsed = parsed
        self._parts: list[bytes] = []
        self._size = 0

    def __repr__(self) -> str:
        return f"<Assembly {self._form.value}: {self._size} bytes in {len(self._parts)} parts>"

    def add(self, data: bytes) -> None:
        """Take de-chunked bytes as they come, split anywhere.

        Raises:
            TooLong: more than MAX_STREAM_BYTES in all.
        """
        self._size += len(data)
        if self._size > MAX_STREAM_BYTES:
            self._parts.clear()
            raise TooLong(f"the streamed answer exceeds {MAX_STREAM_BYTES} bytes")
        self._parts.append(data)

    def result(self) -> tuple[int, bytes]:
        """After the clean end: status and JSON body as llama-server would have answered unstreamed.

        Raises:
            Incomplete: the stream ended before the answer did.
            Unsure: the stream cannot be shown to hold everything: ask again, unstreamed.
            Unknown: nor will any other stream of this llama-server.
        """
        events = payloads(b"".join(self._parts))
        if error := error_of(events[-1]):
            return error
        try:
            return 200, _ASSEMBLE[self._form](events, self._parsed).encode()
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise Unknown(f"an event of unknown form: {error!r}") from error
