"""What each stage decides about a request and how long it takes, as lines of the log: while its level is debug.

Wrapped around the stages only then; at other times they are called as they are, and this costs nothing.
"""

import time
from collections.abc import Callable

import structlog

from supervisor.proxy.decision import Answer, Decision
from supervisor.proxy.inflight import Exchange

log: structlog.stdlib.BoundLogger = structlog.get_logger("stages")

Decide = Callable[[Exchange], Decision]


def told(number: int, question: str, decide: Decide) -> Decide:
    """The stage, saying what it has said."""

    def traced(exchange: Exchange) -> Decision:
        begun = time.perf_counter_ns()
        try:
            decision = decide(exchange)
        except Exception as error:
            _say(
                exchange, number, question, begun, f"refused: {getattr(error, 'code', type(error).__name__)}"
            )
            raise
        _say(exchange, number, question, begun, _outcome(exchange, number, decision))
        return decision

    return traced


def _outcome(exchange: Exchange, number: int, decision: Decision) -> str:
    if isinstance(decision, Answer):
        return f"answered: {decision.status}"
    if decision is not None:
        return "waits"
    return _FOUND[number](exchange)


def _model(exchange: Exchange) -> str:
    return (
        f"{exchange.gate.view.name}{'' if exchange.needs_slot else ', without a slot'}"
        if exchange.gate
        else ""
    )


# What a stage that lets a request go on has found out, or set.
_FOUND: dict[int, Callable[[Exchange], str]] = {
    1: lambda one: f"{one.method.decode()} {one.path.decode('latin-1')}, {len(one.body)} bytes",
    2: lambda one: f"{one.client.name}, pool {one.client.pool}",
    3: _model,
    4: lambda _: "admitted",
    5: lambda _: "no",
    6: lambda _: "its own, now",
    7: lambda one: f"generation {one.sent_to}" if one.sent_at else f"a new one, to generation {one.sent_to}",
}


def _say(exchange: Exchange, number: int, question: str, begun: int, outcome: str) -> None:
    took_us = (time.perf_counter_ns() - begun) // 1000
    log.debug("stage", **exchange.names, stage=number, question=question, outcome=outcome, took_us=took_us)


def ended(exchange: Exchange, now: float) -> None:
    """The last line about a request: how its answer went."""
    log.debug(
        "stage",
        **exchange.names,
        stage=8,
        question="stream it back",
        outcome=f"over: {exchange.status}",
        attempts=exchange.attempts,
        waited_ms=round(exchange.waited_s * 1000, 3),
        first_token_ms=_ms(exchange, exchange.first_token_at),
        total_ms=_ms(exchange, now),
    )


def _ms(exchange: Exchange, at: float) -> float | None:
    return round((at - exchange.received_at) * 1000, 3) if at else None
