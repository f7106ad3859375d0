"""What an answer of llama-server really took, read from its bytes.

This runs for every answer, so nothing is parsed: the last ``"usage":{`` (or ``"timings":{``) of the last KiB is found and
its figures are read. What comes before may be anything, for no text reads so: a quote within a JSON string is escaped,
so ``"usage"`` with a bare quote on both sides is a name. The names that are not llama-server's own are those of a tool call's
arguments (/v1/messages writes them as objects), and there the true usage follows; the last one counts.

What is told depends on the endpoint. Unstreamed, all but /embedding and the TEI form of /rerank tell everything.
Streamed, the last KiB tells everything but for /v1/messages, whose prompt is counted in the first event (`Meter`
keeps it). Chat streams without ``include_usage`` have their figures in ``timings``, and so has the native format.
Of several choices only one is told of.
"""

import re
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from supervisor.types import KIB

TAIL_BYTES = KIB  # usage, an id, timings, [DONE] and the framing are some 650 bytes
# The last events of a stream are small and may come singly: figures, [DONE], the last chunk. The rest is for odd cuts.
_LAST_BLOCKS = 8
_HEAD_BYTES = KIB  # embeddings and ranks: usage comes after the model's name
_START_BYTES = 4 * KIB  # of message_start
_USAGE = b'"usage":{'
_TIMINGS = b'"timings":{'
_USAGE_BYTES = 200  # its five figures
_TIMINGS_BYTES = 400  # its nine, with all their digits
# As llama-server writes them today, a third of what looking for each name costs.
_OPENAI = re.compile(
    rb'"usage":\{"completion_tokens":(\d+),"prompt_tokens":(\d+),"total_tokens":\d+,'
    rb'"prompt_tokens_details":\{"cached_tokens":(\d+)'
)
_RESPONSES = re.compile(
    rb'"usage":\{"input_tokens":(\d+),"output_tokens":(\d+),"total_tokens":\d+,'
    rb'"input_tokens_details":\{"cached_tokens":(\d+)'
)
_PROMPT_ONLY = re.compile(rb'"usage":\{"prompt_tokens":(\d+),"total_tokens":\d+\}')
_TIMED = re.compile(
    rb'"timings":\{"cache_n":(\d+),"prompt_n":(\d+),"prompt_ms":[^,]++,"prompt_per_token_ms":[^,]++,'
    rb'"prompt_per_second":[^,]++,"predicted_n":(\d+)'
)
# In any order, for what another version may write.
_FIGURE = re.compile(
    rb'"(prompt_tokens|completion_tokens|input_tokens|output_tokens|cached_tokens|cache_read_input_tokens'
    rb'|cache_n|prompt_n|predicted_n)":(\d+)'
)
_LIST = b'{"model":'  # embeddings and ranks; no other answer begins so
_NATIVE = b'{"index":0,"content":'
_NATIVE_SEVERAL = b'[{"index":0,"content":'
_CHOICES = {b'{"choices":[{"f': b'},{"finish_reason":', b'{"choices":[{"t': b'},{"text":'}


class Usage(NamedTuple):
    """In tokens. ``prompt``: cached ones included, 0 where the bytes do not tell; ``cached``: of them, those that were in
    the cache; ``completion``: generated; ``answers``: of how many it tells, the others of several being taken as equal."""

    prompt: int
    completion: int
    cached: int = 0
    answers: int = 1


def of_body(body: bytes) -> Usage | None:
    """Of an unstreamed answer, whole or only its last block (embeddings and ranks: the first). None: it does not tell.

    Of several choices llama-server counts one: its completion is taken as often as there are choices.
    """
    if body.startswith(_NATIVE_SEVERAL):
        return _of_each(body)
    if body.startswith(_LIST):
        usual = _PROMPT_ONLY.search(body, 0, _HEAD_BYTES)
        return _usage(body, body.find(_USAGE, 0, _HEAD_BYTES)) if usual is None else Usage(int(usual[1]), 0)
    told = of_events(body)
    if told is None:
        return (
            _timings(body, body.rfind(_TIMINGS)) if body.startswith(_NATIVE) else None
        )  # probabilities come last
    another = _CHOICES.get(body[:15])
    if another is not None and another in body:
        return Usage(told.prompt, told.completion * (1 + body.count(another)), told.cached)
    return told


def of_events(tail: bytes) -> Usage | None:
    """Of an event stream, from its last KiB, framed in chunks or not. None: it does not tell."""
    at = tail.rfind(_USAGE, -TAIL_BYTES)
    return _timings(tail, tail.rfind(_TIMINGS, -TAIL_BYTES)) if at < 0 else _usage(tail, at)


def _usage(text: bytes, at: int) -> Usage | None:
    """From where usage begins; -1: it was not found."""
    if at < 0:
        return None
    if usual := _OPENAI.match(text, at):
        completion, prompt, cached = usual.groups()
        return Usage(int(prompt), int(completion), int(cached))
    if usual := _RESPONSES.match(text, at):
        prompt, completion, cached = usual.groups()
        return Usage(int(prompt), int(completion), int(cached))
    return _usage_in_any_order(text, at)


def _usage_in_any_order(text: bytes, at: int) -> Usage | None:
    figures = _figures(text, at, _USAGE_BYTES)
    if b"prompt_tokens" in figures:
        return Usage(
            figures[b"prompt_tokens"], figures.get(b"completion_tokens", 0), figures.get(b"cached_tokens", 0)
        )
    if b"output_tokens" not in figures:
        return None
    prompt = figures.get(b"input_tokens", 0)
    if b"cache_read_input_tokens" in figures:  # Anthropic counts these apart
        cached = figures[b"cache_read_input_tokens"]
        return Usage(prompt + cached, figures[b"output_tokens"], cached)
    return Usage(prompt, figures[b"output_tokens"], figures.get(b"cached_tokens", 0))


def _timings(text: bytes, at: int) -> Usage | None:
    """From where timings begin; -1: they were not found."""
    if at < 0:
        return None
    if usual := _TIMED.match(text, at):
        cache, rest, completion = map(int, usual.groups())
        return Usage(rest + cache, completion, cache)
    figures = _figures(text, at, _TIMINGS_BYTES)
    if b"predicted_n" not in figures:
        return None
    cached = figures.get(b"cache_n", 0)
    return Usage(figures.get(b"prompt_n", 0) + cached, figures[b"predicted_n"], cached)


def _figures(text: bytes, at: int, length: int) -> dict[bytes, int]:
    return {name: int(digits) for name, digits in _FIGURE.findall(text, at, at + length)}


def _of_each(body: bytes) -> Usage | None:
    """The native answer to several prompts: each has its timings."""
    sum_ = Usage(0, 0)
    found = 0
    at = -1
    while (at := body.find(_TIMINGS, at + 1)) >= 0:
        one = _timings(body, at)
        if one is not None:
            found += 1
            sum_ = Usage(
                sum_.prompt + one.prompt, sum_.completion + one.completion, sum_.cached + one.cached, found
            )
    return sum_ if sum_.completion else None


@dataclass(frozen=True, slots=True)
class _Marks:
    """What in an event says that it carries a token, and what that it carries none all the same."""

    token: bytes
    none: bytes


_PROGRESS = b'"prompt_progress":{'
_NATIVE_MARKS = _Marks(b'"stop":false', _PROGRESS)
_CHAT_MARKS = _Marks(b'"finish_reason":null', b'"content":null')  # the role, and the progress
_RESPONSES_MARKS = _Marks(b".delta\n", _PROGRESS)  # event: response.output_text.delta
_MESSAGES = b"/v1/messages"
_MARKS = {
    b"/v1/chat/completions": _CHAT_MARKS,
    b"/chat/completions": _CHAT_MARKS,
    b"/v1/completions": _Marks(b'"finish_reason":null', _PROGRESS),
    b"/v1/responses": _RESPONSES_MARKS,
    b"/responses": _RESPONSES_MARKS,
    _MESSAGES: _Marks(b"content_block_delta\n", b'"signature_delta"'),
}


class Meter:
    """One event stream, block by block as it is passed on.

    ``tokens``: how many have been counted so far, by the events that carry one. A little under the truth: an event
    holds more than one where a character, a stop string or a tool's name was incomplete.
    """

    __slots__ = ("_blocks", "_none", "_prompt", "_start", "_token", "tokens")

    def __init__(self, path: bytes) -> None:
        marks = _MARKS.get(path, _NATIVE_MARKS)
        self._token, self._none = marks.token, marks.none
        self._blocks: deque[bytes] = deque(maxlen=_LAST_BLOCKS)
        self._start: bytes | None = b"" if path == _MESSAGES else None  # until its usage has come
        self._prompt: Usage | None = None  # what it said
        self.tokens = 0

    def __repr__(self) -> str:
        return f"<Meter: {self.tokens} tokens>"

    def add(self, block: bytes) -> None:
        """The next block."""
        self._blocks.append(block)
        count = block.count(self._token)
        if count:
            self.tokens += count - block.count(self._none)
        if self._start is not None:
            self._begin(self._start + block)

    def _begin(self, start: bytes) -> None:
        """Look for the usage of message_start; nothing more of it is kept."""
        at = start.find(_USAGE)
        if at >= 0 and start.find(b"}", at) >= 0:
            self._start, self._prompt = None, _usage(start, at)
        else:
            self._start = start if len(start) < _START_BYTES else None

    def usage(self) -> Usage | None:
        """What the stream took, at its end. None: it did not tell (it was cut, or is none).

        Of several choices the last is told of; then what was counted is nearer.
        """
        told = of_events(b"".join(self._blocks))
        if told is None:
            return None
        prompt = self._prompt or told
        return Usage(prompt.prompt, max(told.completion, self.tokens), prompt.cached)
