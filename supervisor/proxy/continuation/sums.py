"""Usage and timings of an answer made by several generations, as if one had made it.

The text sent so far is prompt to a new generation. What it counts is therefore moved from prompt to
completion; the sum stays. Work done twice (the prompt) is not counted twice.
"""

from dataclasses import dataclass

from supervisor.proxy.continuation.asked import Json


@dataclass(frozen=True, slots=True)
class UsageNames:
    """What a dialect calls the fields of its usage."""

    prompt: str
    completion: str
    details: str


OPENAI = UsageNames("prompt_tokens", "completion_tokens", "prompt_tokens_details")
RESPONSES = UsageNames("input_tokens", "output_tokens", "input_tokens_details")


def usage(new: Json, sent_tokens: int, *, ending: bool, names: UsageNames) -> Json:
    """``new`` with the tokens sent before; ``ending``: its own were thrown away."""
    completion = sent_tokens if ending else sent_tokens + new[names.completion]
    prompt = max(0, new[names.prompt] - sent_tokens)
    summed = {**new, names.completion: completion, names.prompt: prompt, "total_tokens": prompt + completion}
    details = new.get(names.details)
    if details:
        summed[names.details] = {**details, "cached_tokens": min(prompt, details["cached_tokens"])}
    return summed


def timings(old: Json | None, new: Json, *, ending: bool) -> Json:
    """The prompt's from ``old``, tokens and time of both.

    Without ``old`` (they are sent with each token only where asked for) nobody knows how long the first
    part took: then the new generation's stay, which agree with themselves.
    """
    if old is None:
        return new
    if ending:
        return old
    tokens = old["predicted_n"] + new["predicted_n"]
    spent_ms = old["predicted_ms"] + new["predicted_ms"]
    per_token_ms = spent_ms / max(1, tokens - 1)  # the first token belongs to the prompt
    summed = {
        **old,
        "predicted_n": tokens,
        "predicted_ms": spent_ms,
        "predicted_per_token_ms": per_token_ms,
        "predicted_per_second": 1000.0 / per_token_ms if per_token_ms else 0.0,
    }
    for name in ("draft_n", "draft_n_accepted"):
        if name in old or name in new:
            summed[name] = old.get(name, 0) + new.get(name, 0)
    return summed
