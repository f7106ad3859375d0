"""Waiting for what a model is asked to become, as the daemon's status tells it; a spinner on a terminal meanwhile."""

import sys
import time
from collections.abc import Callable
from typing import Any

from supervisor.cli import output
from supervisor.control.client import ControlClient
from supervisor.errors import LlmsupError, TimedOut

POLL_S = 0.05
SPIN_AFTER_S = 0.3
SPINNER = "|/-\\"


def model(client: ControlClient, name: str) -> dict[str, Any]:
    """Its part of the status."""
    return next(one for one in client.get("/status")["models"] if one["name"] == name)


def until(
    client: ControlClient,
    name: str,
    reached: Callable[[dict[str, Any]], bool],
    *,
    timeout_s: float,
    what: str,
) -> dict[str, Any]:
    """The model's status once ``reached`` is true of it, which may raise. ``what``: "ready", as the timeout says it.

    Raises:
        TimedOut: it was not reached in time; the daemon goes on with it.
    """
    begun, turn, shown = time.monotonic(), 0, False
    try:
        while (waited_s := time.monotonic() - begun) < timeout_s:
            now = model(client, name)
            if reached(now):
                return now
            turn += 1
            if sys.stderr.isatty() and waited_s > SPIN_AFTER_S:
                shown = True
                output.spin(f"{SPINNER[turn % 4]} {name} is {now['state']:<10} {waited_s:.0f} s")
            time.sleep(POLL_S)
    finally:
        if shown:
            output.clear()
    raise TimedOut(f"{name} was not {what} within {timeout_s:g} s", hint="see: llmsup status")


def raise_if_failed(now: dict[str, Any]) -> None:
    if now["state"] in {"FAILED", "CRASHLOOP", "UNKILLABLE"}:
        death = now["last_death"] or {"cause": "unknown", "detail": ""}
        raise LlmsupError(
            f"{now['name']} is {now['state']}: {death['cause']}: {death['detail']}",
            hint=f"see: llmsup why {now['name']}",
        )
