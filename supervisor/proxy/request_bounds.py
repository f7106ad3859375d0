"""What a body may ask for: parameters, lists and members that cost llama-server memory or time that no limit knows of.

Measured on llama.cpp 0.5.0-dev, two cores: ``repeat_last_n`` of 2^31 takes 8 GiB and stands still for 48 s; an object of
100,000 members takes more than a minute, for each is compared with all before it; 10,000 messages take 5 s and
100,000 more than a minute; 10,000 samplers of a window of 4096 take 350 MiB; a million biases take 500 MiB; what
`n_probs` tells takes 1.1 KiB for each token and candidate; a megabyte to /tokenize takes 60 MiB and 0.4 s. What the
server clamps by itself (``top_k``, ``n_predict``) is not looked at.

What is bounded by the model, which is not known yet, is returned (`Demand`) and judged when it is (`Demand.check`).
Most requests have nothing to judge, and share one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from supervisor.errors import BadRequest, BodyTooLarge
from supervisor.proxy import grammar_bounds, schema_bounds, sequences
from supervisor.types import KIB, MIB

MAX_MEMBERS = 4096  # of any object: 0.1 s; tokens with a bias of their own may be as many
MAX_MESSAGES = 4096  # 0.9 s; so many have never a place in a context
MAX_PARTS = 100_000  # of messages all together: 0.6 s
MAX_INPUTS = 2048  # of embeddings and ranks: as OpenAI
# Lists of parameters, and what of them has a use.
MAX_ITEMS = {
    "stop": 256,
    "samplers": 64,
    "dry_sequence_breakers": 64,
    "preserved_tokens": 1024,
    "grammar_triggers": 64,
    "lora": 64,
    "response_fields": 256,
    "tools": 1024,
    "functions": 1024,
    "logit_bias": 65_536,
    "message_delimiters": 64,
    "reasoning_budget_end_tags": 64,
    "input_extra": 1024,
}
MAX_ITEM_CHARS = 64 * KIB  # of all texts of one of those lists together; with a share of each for a name
# Windows over the text so far; -1 is the whole context, or none.
WINDOWS = frozenset(
    [
        "repeat_last_n",
        "dry_penalty_last_n",
        "dry_allowed_length",
        "n_keep",
        "n_discard",
        "n_indent",
        "n_cache_reuse",
        "min_keep",
    ]
)
LEAST_WINDOW = 32_768  # may always be asked for: 16 MiB with all samplers there may be
PROBABILITIES = ("n_probs", "logprobs", "top_logprobs")
LEAST_PROBABILITIES = 20  # may always be asked for: the most of OpenAI
MAX_CANDIDATES = 131_072  # times tokens: 140 MiB
TEXT_BYTES = 1 * MIB  # may always be sent
BYTES_PER_TOKEN = 32  # more than words and code ever have: what is longer has no place in the context
# What is counted, or written anew, without a slot: as large as a context, no larger.
COUNTING = frozenset(b"/tokenize /detokenize /apply-template".split())
# Of these everything is counted in elements that are never more than the bytes they take.
_SMALL = 2 * MAX_MEMBERS
# Written by llama-server itself between its parts; from outside they reach code that trusts them.
_INTERNAL = frozenset(["chat_parser", "grammar_type"])
_WORD_TRIGGERS = frozenset(
    {0, 1}
)  # COMMON_GRAMMAR_TRIGGER_TYPE_TOKEN, _WORD; the others are regular expressions


@dataclass(frozen=True, slots=True)
class Demand:
    """What is judged by the model. ``window``: the largest, and its ``name``; ``text_bytes``: 0 where there are few."""

    sequences: int = 1
    name: str = ""
    window: int = 0
    probabilities: int = 0
    answer: int | None = None  # tokens of it at most; None: as many as there is room for
    text_bytes: int = 0
    reads_only: bool = False

    def leases(self, slots: int, concurrent: int) -> int:
        """How many slots it takes: one for each of its answers, and of many inputs all that one may have."""
        return min(self.sequences, slots, concurrent)

    def check(self, *, context_size: int, slots: int) -> None:
        """``context_size``: of all ``slots`` together, in tokens.

        Raises:
            BadRequest: a parameter is too large, or there are more answers than slots.
            BodyTooLarge: so long a text has no place in the context.
        """
        if self.sequences > slots and not self.reads_only:
            raise BadRequest(
                f"the request asks for {self.sequences} answers at once, and the model has {slots} slots",
                hint="ask in several requests",
            )
        window = max(LEAST_WINDOW, context_size)
        if self.window > window:
            raise _too_large(self.name, self.window, window)
        tokens = context_size if self.answer is None else min(self.answer, context_size)
        most = max(LEAST_PROBABILITIES, MAX_CANDIDATES // max(1, tokens * self.sequences))
        if self.probabilities > most:
            raise BadRequest(
                f"probabilities of {self.probabilities} candidates for each of up to {tokens} tokens are too many; "
                f"the most is {most}",
                hint="ask for fewer, or set max_tokens",
            )
        text = max(TEXT_BYTES, BYTES_PER_TOKEN * context_size)
        if self.text_bytes > text:
            raise BodyTooLarge(
                f"{self.text_bytes} bytes of text have no place in a context of {context_size} tokens; "
                f"the most that is taken is {text}",
                hint="send less, or in parts",
            )


ORDINARY = Demand()


@dataclass(frozen=True, slots=True)
class Texts:
    """Where long texts were left out of a body: ``whole`` is what a value stands for, ``size`` its length, about."""

    whole: Callable[[str], str]
    size: Callable[[str], int]


AS_THEY_ARE = Texts(str, len)


def check(
    path: bytes,
    asked: Mapping[str, Any],
    *,
    body_bytes: int,
    texts: Texts = AS_THEY_ARE,
) -> Demand:
    """Look at a body, understood.

    It needs all members of ``asked``, but not their texts: only those of `grammar` and of patterns in schemas are read.

    Raises:
        BadRequest: something is asked for that no limit knows of, named with what is possible.
    """
    if body_bytes <= _SMALL and _LOOKED_AT.isdisjoint(asked) and type(asked.get("prompt")) is not list:
        return ORDINARY  # most requests
    if body_bytes > _SMALL:
        _check_members(asked)
    else:
        _check_names(asked)
    _check_lists(asked, texts.size)
    grammar = asked.get("grammar")
    if isinstance(grammar, str) and grammar:
        grammar_bounds.check_grammar(texts.whole(grammar))
    if not schema_bounds.NAMES.isdisjoint(asked):
        schema_bounds.check(asked, texts.whole)
    return _demand(path, asked, body_bytes, texts.size)


def _demand(path: bytes, asked: Mapping[str, Any], body_bytes: int, size: Callable[[str], int]) -> Demand:
    count = sequences.of(path, asked)
    text_bytes = 0
    if body_bytes > TEXT_BYTES:
        text_bytes = body_bytes if path in COUNTING else _text_bytes(path, asked, size)
    if count == 1 and not text_bytes and _MODELS.isdisjoint(asked):
        return ORDINARY
    reads_only = path in sequences.READ_ONLY
    if reads_only and count > MAX_INPUTS:
        raise BadRequest(
            f"{count} inputs in one request; the most is {MAX_INPUTS}", hint="ask in several requests"
        )
    name, window = max(((one, _number(one, asked.get(one))) for one in WINDOWS), key=lambda pair: pair[1])
    return Demand(
        sequences=count,
        name=name,
        window=window,
        probabilities=max(_number(one, asked.get(one)) for one in PROBABILITIES),
        answer=cap(asked),
        text_bytes=text_bytes,
        reads_only=reads_only,
    )


def _text_bytes(path: bytes, asked: Mapping[str, Any], size: Callable[[str], int]) -> int:
    """Of what must find a place in one context: images and the like aside, and of inputs the longest."""
    parts = (
        [
            _size(one, size)
            for name in ("input", "content", "documents", "texts")
            for one in _list(asked.get(name))
        ]
        if path in sequences.READ_ONLY
        else []
    )
    if parts:
        return max(parts)
    return sum(
        _size(asked.get(name), size) for name in ("prompt", "messages", "system", "input", "instructions")
    )


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _size(value: object, size: Callable[[str], int]) -> int:
    """Of the texts in a prompt, a message or a part of one, or in a list of them."""
    if isinstance(value, str):
        return size(value)
    if isinstance(value, list):
        return sum(_size(one, size) for one in value if isinstance(one, str | dict | list))
    if isinstance(value, dict):
        return sum(_size(value.get(name), size) for name in ("content", "text", "prompt_string"))
    return 0


_MODELS = WINDOWS.union(PROBABILITIES)
# All that a small body can have which is looked at here; for so many messages or members it is too small.
_LOOKED_AT = _MODELS | _INTERNAL | MAX_ITEMS.keys() | schema_bounds.NAMES | sequences.NAMES | {"grammar"}
# What a body may call its cap on generated tokens, in the dialects there are.
CAPS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict")


def cap(asked: Mapping[str, Any]) -> int | None:
    """Tokens of one answer at most, as the request has it; None: as many as there is room for.

    Of several caps the highest: which of them counts depends on the route.
    """
    caps = [sequences.whole(asked[name]) for name in CAPS if isinstance(asked.get(name), int | float)]
    return max(caps) if caps and min(caps) >= 0 else None


def _number(name: str, value: object) -> int:
    """A count as llama-server would read it: a fraction is cut off, true is 1. Raises BadRequest: below -1, which wraps."""
    if not isinstance(value, int | float):
        return 0  # null, or refused by llama-server
    number = sequences.whole(value)
    if number < -1:
        raise BadRequest(f"{name} is {number}; the least is -1", hint="leave it out for the default")
    return number


def _check_names(asked: Mapping[str, Any]) -> None:
    if not _INTERNAL.isdisjoint(asked):
        name = min(_INTERNAL.intersection(asked))
        raise BadRequest(f"{name} is not for clients", hint="leave it out")


def _check_members(asked: Mapping[str, Any]) -> None:
    """Of all objects there are, however deep."""
    _check_names(asked)
    parts = 0
    to_see: list[Any] = [asked]
    while to_see:
        node = to_see.pop()
        if isinstance(node, dict):
            if len(node) > MAX_MEMBERS:
                raise BadRequest(
                    f"an object in the body has {len(node)} members; the most is {MAX_MEMBERS}",
                    hint="llama-server compares each with all others; use a list",
                )
            nodes = [one for one in node.values() if isinstance(one, dict | list)]
        else:
            nodes = [one for one in node if isinstance(one, dict | list)]
        parts += len(nodes)
        if parts > MAX_PARTS:
            raise BadRequest(
                f"the body has more than {MAX_PARTS} lists and objects", hint="ask in several requests"
            )
        to_see += nodes


def _check_lists(asked: Mapping[str, Any], size: Callable[[str], int]) -> None:
    messages = asked.get("messages")
    if isinstance(messages, list) and len(messages) > MAX_MESSAGES:
        raise _too_many("messages", len(messages), MAX_MESSAGES)
    for name in MAX_ITEMS.keys() & asked.keys():
        value = asked[name]
        most = MAX_ITEMS[name]
        if isinstance(value, list | dict) or (name == "samplers" and isinstance(value, str)):
            if len(value) > most:
                raise _too_many(name, len(value), most)
            if sum(size(one) for one in value if isinstance(one, str)) > MAX_ITEM_CHARS:
                raise BadRequest(
                    f"the texts of {name} have more than {MAX_ITEM_CHARS} characters", hint="send fewer"
                )
    triggers = asked.get("grammar_triggers")
    if isinstance(triggers, list):
        for one in triggers:
            kind = one.get("type") if isinstance(one, dict) else None
            if type(kind) is not int or kind not in _WORD_TRIGGERS:  # a list has no place in a set
                raise BadRequest(
                    "grammar_triggers may be tokens and words (type 0 and 1) only",
                    hint="a regular expression can keep llama-server busy for ever",
                )


def _too_large(name: str, value: int, most: int) -> BadRequest:
    return BadRequest(
        f"{name} is {value}; the most is {most}", hint="leave it out, or -1 for the whole context"
    )


def _too_many(name: str, count: int, most: int) -> BadRequest:
    return BadRequest(f"{name} has {count} items; the most is {most}", hint="send fewer")
