"""An event stream as its client has it, kept so that another generation can go on where one died.

Only whole events are passed on: a block that ends inside one is held back up to its end, so that a cut
always falls between two events. What has been passed on is kept, packed in pieces, and parsed only after a
death (`continuation`). Too long an answer is not kept any more; it then ends honestly.
"""

import re
import zlib

from httptools import HttpResponseParser

from supervisor.errors import LlmsupError
from supervisor.proxy import answers
from supervisor.proxy.continuation import CannotContinue, Continuation
from supervisor.proxy.inflight import Exchange
from supervisor.types import KIB, MIB

# An event's empty line and then the end of its chunk. In JSON a line break is escaped, so nothing else reads so.
EVENT_END = b"\n\n\r\n"
PROGRESS = b'"prompt_progress":{'  # no text reads so: its quotes would be escaped
LAST_CHUNK = b"0\r\n\r\n"
# What llhttp wants to see before chunks.
CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SEAM = b": llmsup-continued\n\n"
PACK_BYTES = 32 * KIB  # events of one stream resemble each other: packed they are a twentieth, 10 ns a byte
KEPT_BYTES = 32 * MIB  # about 100,000 tokens
HELD_BYTES = 8 * MIB  # of one event
# How the last event of a stream begins. The native format has none of its own: its last event says "stop":true,
# which no text can contain, as its quotes would be escaped.
_ENDS = (
    b"data: [DONE]",
    b"event: message_stop",
    b"event: response.completed",
    b"event: response.incomplete",
    b"event: response.failed",
    b"event: error",
    b'data: {"error"',
)
_PROGRESS_MEMBER = re.compile(rb',"prompt_progress":\{[^{}]*\}')
_ONLY_PROGRESS = re.compile(rb'\A[0-9a-f]+\r\ndata: [^\n]*(?:"content":(?:null|"")|"text":"")[^\n]*\Z')
_NATIVE_END = b'"stop":true'


class Kept:
    """Blocks of bytes, packed once there are many. ``lost``: there were too many."""

    __slots__ = ("_blocks", "_packed", "_size", "_total", "lost")

    def __init__(self) -> None:
        self._blocks: list[bytes] = []
        self._packed: list[bytes] = []
        self._size = 0  # of the blocks
        self._total = 0
        self.lost = False

    def add(self, block: bytes) -> None:
        self._blocks.append(block)
        self._size += len(block)
        if self._size >= PACK_BYTES:
            self._pack()

    def _pack(self) -> None:
        self._total += self._size
        if self._total > KEPT_BYTES:
            self.lose()
        if not self.lost:
            self._packed.append(zlib.compress(b"".join(self._blocks), 1))
        self._blocks, self._size = [], 0

    def lose(self) -> None:
        self.lost = True
        self._packed = []

    def bytes(self) -> bytes:
        return b"".join([*map(zlib.decompress, self._packed), *self._blocks])


class _Undone:
    """llhttp's callback for chunks that are undone."""

    __slots__ = ("pieces",)

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def on_body(self, body: bytes) -> None:
        self.pieces.append(body)


def dechunked(data: bytes) -> bytes:
    """The content of whole chunks."""
    undone = _Undone()
    HttpResponseParser(undone).feed_data(CHUNKED_HEAD + data)
    return b"".join(undone.pieces)


def says_end(block: bytes) -> bool:
    """Whether the last event of a block of whole chunks is one that ends a stream. A chunk may hold several."""
    before, _, event = block.removesuffix(EVENT_END).rpartition(b"\n\n")
    if event.startswith(b"\r\n"):  # the end of the chunk before
        event = event[2:].partition(b"\r\n")[2]
    elif not before:
        event = event.partition(b"\r\n")[2]
    return event.startswith(_ENDS) or (event.startswith(b"data: {") and _NATIVE_END in event)


def _without_progress(chunk: bytes) -> bytes:
    """Nothing, where it says nothing else (it says the role again with the first token); else only without it."""
    if PROGRESS not in chunk or _ONLY_PROGRESS.search(chunk):
        return chunk if PROGRESS not in chunk else b""
    content = _PROGRESS_MEMBER.sub(b"", chunk.partition(b"\r\n")[2])
    return b"%x\r\n%b" % (len(content) + 2, content)


class ClientStream:
    """One answer in events, to a client that takes chunks. Survives the connections it comes from."""

    __slots__ = ("_continuation", "_exchange", "_held", "_in_prompt", "_kept", "_last", "_write")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._write = exchange.connection.write
        self._kept = Kept()
        self._held = b""
        self._in_prompt = exchange.outgoing is not None
        self._last = b""  # block: whole chunks of whole events
        self._continuation: Continuation | None = None

    def __repr__(self) -> str:
        return f"<ClientStream of {self._exchange.id.decode()}{', continued' if self._continuation else ''}>"

    # ---- from the first generation: chunks go through as they are

    def pass_on(self, data: bytes) -> None:
        if self._held:
            data, self._held = self._held + data, b""
        if not data.endswith(EVENT_END):
            data = self._hold(data)
            if not data:
                return
        if self._in_prompt:
            data = self._without_progress(data)
            if not data:
                return
        self._last = data
        self._write(data)
        if not self._kept.lost:
            self._kept.add(data)

    def _without_progress(self, data: bytes) -> bytes:
        """We have asked how far the prompt is, so that leaving is noticed; the client has not."""
        if PROGRESS not in data:
            self._in_prompt = b"data: " not in data  # a ping says nothing
            return data
        *chunks, rest = data.split(EVENT_END)
        return b"".join(chunk + EVENT_END for chunk in map(_without_progress, chunks) if chunk) + rest

    def _hold(self, data: bytes) -> bytes:
        """Keep back the beginning of an event; returns what is whole."""
        if self._kept.lost:
            return data
        end = data.rfind(EVENT_END) + len(EVENT_END)
        if end < len(EVENT_END):
            end = 0
        self._held = data[end:]
        if len(self._held) > HELD_BYTES:
            self._kept.lose()
            self._held, end = b"", len(data)
        return data[:end]

    def ends(self, data: bytes) -> bool:
        """The bytes with the last chunk have come: pass them on if the stream is whole. False: it is not."""
        data, self._held = self._held + data, b""
        if self._in_prompt:
            data = self._without_progress(data)
        events = data.removesuffix(LAST_CHUNK)
        if events.endswith(EVENT_END):
            self._last = events
        if not says_end(self._last) and not self._kept.lost:
            if events is not data and events.endswith(EVENT_END):
                self.pass_on(events)
            return False
        self._write(data)
        return True

    # ---- after a death

    def resume(self) -> bool:
        """Compose the question to the next generation. False: all has been said, the clean end aside.

        Raises:
            CannotContinue: what follows could not be right.
        """
        exchange = self._exchange
        self._held = b""
        if self._continuation is None:
            if self._kept.lost:
                raise CannotContinue("too much of it has been sent to be kept")
            self._continuation = Continuation(exchange.path, exchange.body, dechunked(self._kept.bytes()))
            self._kept = Kept()
        if self._continuation.finished:
            return False
        resume = self._continuation.resume()
        exchange.continued += 1
        exchange.outgoing, exchange.outgoing_target = resume.body, resume.target
        return True

    # ---- from a later generation: events, in chunks of ours

    def splice(self, data: bytes) -> None:
        assert self._continuation is not None  # noqa: S101  `resume` made it
        events = self._continuation.feed(data)
        if events:
            self._exchange.count(events)
            if events != SEAM:
                self._exchange.attempts = 1  # it got on: what may die next is another death
                assert self._exchange.gate is not None  # noqa: S101  it has been sent somewhere
                self._exchange.gate.progressed()
            self._write(b"%x\r\n%b\r\n" % (len(events), events))

    @property
    def broken(self) -> str | None:
        """Why what the later generation says cannot be used, if so."""
        return None if self._continuation is None else self._continuation.broken

    def spliced(self) -> bool:
        """The later generation's answer has ended cleanly, and so does the client's. False: it is not whole."""
        assert self._continuation is not None  # noqa: S101  `resume` made it
        if not self._continuation.end():
            return False
        self._write(LAST_CHUNK)
        return True

    # ---- the end

    def close(self) -> None:
        """Whole: say so."""
        self._write(LAST_CHUNK)
        self._exchange.connection.finish(self._exchange)

    def cut(self, error: LlmsupError) -> None:
        """It will not be completed, and must not look finished."""
        self._exchange.status = error.status
        event = answers.event_stream_error(error, self._exchange.id)
        self._write(b"%x\r\n%b\r\n" % (len(event), event))
        self._exchange.connection.truncate(self._exchange, framed=True)
