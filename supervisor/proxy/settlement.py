"""What a request is charged in the end: the tokens it took, and where nobody told, those it may have taken.

An answer tells what it took (`usage`), or is counted as it flows, or it does not: of chosen fields only
(``response_fields``), several answers of which one is told of, another route's form. What is not told is charged at its worst case;
else whoever hides it would have it for an estimate.
"""

from supervisor.proxy import request_bounds, sequences
from supervisor.proxy.inflight import LEFT, Exchange
from supervisor.ratelimit.tokens import prompt_of, worst

WRITING = sequences.WRITING | {b"/v1/audio/transcriptions"}


def taken(exchange: Exchange) -> int | None:
    """Of one that was sent to llama-server. None: what it was estimated at.

    1. It says so, of each of its answers.
    2. It says so of one of several, and the others have been counted as they came.
    3. It was left or cut in the middle, and counted up to there.
    4. It is an error, which is an answer of no tokens.
    5. Nothing was heard of its answer: it was left before, or it is on a route that writes nothing.
    6. It was answered, and does not say.
    """
    usage, count = exchange.usage, exchange.demand.sequences
    prompt = prompt_of(len(exchange.body))
    if usage is not None:
        if exchange.demand.reads_only or usage.answers >= count:
            return (usage.prompt or prompt) + usage.completion  # 0: it was not told
        if exchange.produced:
            return prompt + max(usage.completion, exchange.produced)
    elif exchange.produced:
        return prompt + exchange.produced
    if exchange.status >= 400 and exchange.status != LEFT:
        return 0
    unheard = exchange.status == LEFT and not exchange.answering
    if unheard or exchange.path not in WRITING or exchange.gate is None:
        return None
    cap = request_bounds.cap(exchange.asked or {})
    return worst(prompt, cap, exchange.gate.view.context_size, count)
