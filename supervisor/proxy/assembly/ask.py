"""May a request be asked as a stream, and with which body? Pure.

The rewrite is textual: members are added behind the last one, since llama-server takes the last of equal
keys (proven on the real binary). A body of megabytes is copied once, not parsed.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Form(Enum):
    """The shapes of answers llama-server has for generated text."""

    NATIVE = "native"
    TEXT = "text"
    CHAT = "chat"
    MESSAGES = "messages"
    RESPONSES = "responses"


FORMS = {
    b"/completion": Form.NATIVE,
    b"/completions": Form.NATIVE,
    b"/infill": Form.NATIVE,
    b"/v1/completions": Form.TEXT,
    b"/chat/completions": Form.CHAT,
    b"/v1/chat/completions": Form.CHAT,
    b"/v1/messages": Form.MESSAGES,
    b"/responses": Form.RESPONSES,
    b"/v1/responses": Form.RESPONSES,
}

_STREAM = b',"stream":true'
_COUNT = b',"timings_per_token":true'  # how many tokens an event stands for: shows that none is missing
ADDED = {
    Form.NATIVE: _STREAM,
    Form.TEXT: _STREAM + _COUNT,
    Form.CHAT: _STREAM + _COUNT + b',"stream_options":{"include_usage":true}',
    Form.MESSAGES: _STREAM,
    Form.RESPONSES: _STREAM + _COUNT,
}
# An event for each batch of the prompt: only when it has something to write does llama-server see, while others
# run, that its client has left. They go no further than here.
_PROGRESS = b',"return_progress":true'
_NO_PROGRESS = b',"return_progress":false'
_TELLS_PROGRESS = frozenset((Form.NATIVE, Form.TEXT, Form.CHAT))  # in events of their own
_OBJECT = re.compile(rb"[ \t\r\n]*\{")

_ALL = frozenset(Form)
_CHATS = frozenset((Form.CHAT, Form.RESPONSES))
_TEXTS = frozenset((Form.NATIVE, Form.TEXT))
_BUT_MESSAGES = _ALL - {Form.MESSAGES}  # whose options are a fixed few


@dataclass(frozen=True, slots=True)
class Exempt:
    """What is asked as it is: the forms it concerns, when, and why a stream would not do."""

    forms: frozenset[Form]
    when: Callable[[dict[str, Any]], object]
    why: str


def _given(name: str) -> Callable[[dict[str, Any]], object]:
    """When the option is there and says more than no."""
    return lambda parsed: parsed.get(name)


def _not_boolean(name: str) -> Callable[[dict[str, Any]], object]:
    """When the option is there and of a type llama-server refuses: what is added must not hide that."""
    return lambda parsed: not isinstance(parsed.get(name), bool | None)


def _odd_stream_options(parsed: dict[str, Any]) -> bool:
    options = parsed.get("stream_options")
    return isinstance(options, dict) and not isinstance(options.get("include_usage"), bool | None)


def _several(parsed: dict[str, Any]) -> bool:
    return any(parsed.get(name) not in (None, 1) for name in ("n", "n_cmpl"))


def _probabilities(parsed: dict[str, Any]) -> object:
    return parsed.get("n_probs") or parsed.get("logprobs") or parsed.get("top_logprobs")


EXEMPT = (
    Exempt(_ALL, _given("stream"), "is a stream already"),
    Exempt(_ALL, _not_boolean("stream"), "an error to be told as it is"),
    Exempt(_BUT_MESSAGES, _not_boolean("timings_per_token"), "an error to be told as it is"),
    Exempt(_BUT_MESSAGES, _not_boolean("return_progress"), "an error to be told as it is"),
    Exempt(_BUT_MESSAGES, _odd_stream_options, "an error to be told as it is"),
    Exempt(_BUT_MESSAGES, _given("verbose"), "__verbose holds the unparsed text, which is not streamed"),
    Exempt(_BUT_MESSAGES, _given("n_indent"), "the last line is cut off after it was streamed"),
    Exempt(
        _BUT_MESSAGES,
        lambda parsed: parsed.get("reasoning_format") == "deepseek-legacy",
        "by its documentation reasoning is put into the content of streams only (not seen in 0.5.0)",
    ),
    Exempt(_CHATS, _given("continue_final_message"), "a stream leaves out the text that is being continued"),
    Exempt(
        _CHATS,
        _probabilities,
        "probabilities of tokens without visible text (the end, tags) are not streamed",
    ),
    Exempt(
        _TEXTS,
        lambda parsed: _probabilities(parsed) and parsed.get("stop"),
        "the probabilities of a stop string's tokens are cut off unstreamed, and how many that are is not told",
    ),
    Exempt(
        frozenset((Form.NATIVE,)),
        _given("return_tokens"),
        "of characters of several tokens only the last is streamed",
    ),
    Exempt(
        frozenset((Form.NATIVE,)),
        _given("response_fields"),
        "the last event may lack what tells it is the last",
    ),
    Exempt(frozenset((Form.RESPONSES,)), _several, "the events do not tell to which response they belong"),
)


# What any of these looks at. Few requests have one of them, and the others need not be led past every row.
CONSIDERED = frozenset(
    [
        "stream",
        "timings_per_token",
        "return_progress",
        "stream_options",
        "verbose",
        "n_indent",
        "reasoning_format",
        "continue_final_message",
        "n_probs",
        "logprobs",
        "top_logprobs",
        "return_tokens",
        "response_fields",
        "n",
        "n_cmpl",
    ]
)


def why_not(form: Form, parsed: dict[str, Any]) -> str | None:
    """Why this request is asked as it is; None if it may be asked as a stream."""
    if CONSIDERED.isdisjoint(parsed):
        return None
    return next((row.why for row in EXEMPT if form in row.forms and row.when(parsed)), None)


def as_stream(path: bytes, body: bytes, parsed: dict[str, Any]) -> bytes | None:
    """The body that asks for the same answer as a stream; None where it is to be asked as it is.

    `parsed` is the decoded JSON of `body`.
    """
    form = FORMS.get(path)
    if form is None or not parsed or why_not(form, parsed):
        return None
    progress = _NO_PROGRESS if parsed.get("return_progress") else b""
    return _with(body, ADDED[form] + (_PROGRESS if _tells_progress(form, parsed) else progress))


def with_progress(path: bytes, body: bytes, parsed: dict[str, Any]) -> bytes | None:
    """The body of a stream that tells of its prompt, where its client has not asked for that; None: as it is."""
    asked = parsed.get("return_progress") not in (None, False)
    return None if asked or not _tells_progress(FORMS.get(path), parsed) else _with(body, _PROGRESS)


def _tells_progress(form: Form | None, parsed: dict[str, Any]) -> bool:
    """Whether what is told of the prompt stands apart from the answer: not where there are several answers, and
    not where text is there before the first token (a message to be continued, a tag that the template opens).
    """
    if form not in _TELLS_PROGRESS:
        return False
    if not CONSIDERED.isdisjoint(parsed) and (_several(parsed) or parsed.get("reasoning_format") is not None):
        return False
    messages = parsed.get("messages")
    if isinstance(messages, list):
        last = messages[-1] if messages else None
        return not (isinstance(last, dict) and last.get("role") == "assistant")
    prompt = parsed.get("prompt")
    return not isinstance(prompt, list) or all(isinstance(one, int) for one in prompt)


def _with(body: bytes, members: bytes) -> bytes | None:
    """The same object with more members; None where it is not plainly one."""
    end = body.rfind(b"}")
    if end < 0 or body[end + 1 :].strip(b" \t\r\n") or not _OBJECT.match(body):
        return None  # a byte order mark or another encoding: llama-server's to judge
    return b"".join((memoryview(body)[:end], members, b"}"))  # one copy, not two: it may be large
