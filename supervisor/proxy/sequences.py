"""How many sequences a request makes llama-server work on: each takes a slot of its own, whatever the request's number.

A list of prompts is as many, times the choices asked of each (``n``); embeddings and ranks are one for each input.
What is one prompt to llama-server (`tokenize_input_prompts`): a text, and any list with a number in it, for that is
tokens, mixed with text or not.
"""

from collections.abc import Mapping
from typing import Any

_CHOICES = ("n_cmpl", "n")  # in the order in which llama-server looks for them; null is not there
NAMES = frozenset(
    [*_CHOICES, "input", "content", "documents", "texts"]
)  # what is looked at here, beside the prompt
_FAR = 2**63  # beyond every number that llama-server takes
_EMBEDDINGS = frozenset(b"/embedding /embeddings /v1/embeddings".split())
_RANKS = frozenset(b"/rerank /reranking /v1/rerank /v1/reranking".split())
READ_ONLY = _EMBEDDINGS | _RANKS  # what is asked is read, and nothing is written
_WITH_PROMPTS = frozenset(b"/completion /completions /v1/completions /infill".split())
WRITING = _WITH_PROMPTS | frozenset(
    b"/chat/completions /v1/chat/completions /responses /v1/responses /v1/messages".split()
)

# Answered by llama-server's HTTP threads without inference: they need no slot.
SLOTLESS = frozenset(
    b"/tokenize /detokenize /apply-template /props /lora-adapters /v1/messages/count_tokens "
    b"/messages/count_tokens /v1/chat/completions/input_tokens /chat/completions/input_tokens "
    b"/v1/responses/input_tokens /responses/input_tokens /v1/chat/completions/control".split()
)


def of(path: bytes, asked: Mapping[str, Any]) -> int:
    """At least 1; ``asked``: the body, as it was sent."""
    if path in WRITING:
        prompts = _parts(asked.get("prompt")) if path in _WITH_PROMPTS else 1
        return prompts * _choices(asked)
    if path in _EMBEDDINGS:
        return _parts(asked["input"] if "input" in asked else asked.get("content"))
    if path in _RANKS:
        documents = asked.get("documents")
        return _parts(asked.get("texts") if documents is None else documents)
    return 1


def whole(number: float) -> int:
    """Without its fraction; what is infinite is very large."""
    return int(max(-_FAR, min(number, _FAR)))


def _choices(asked: Mapping[str, Any]) -> int:
    for name in _CHOICES:
        value = asked.get(name)
        if value is not None:
            return max(1, whole(value)) if isinstance(value, int | float) else 1
    return 1


def _parts(value: object) -> int:
    """Of a list of prompts each; a single one otherwise."""
    if not isinstance(value, list) or len(value) <= 1:
        return 1
    return 1 if any(type(one) is int or type(one) is float for one in value) else len(value)
