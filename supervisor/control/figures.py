"""llmsup-metrics.log: once a minute, one line of JSON with the figures one asks for after the fact."""

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from supervisor.clock import Clock
from supervisor.observe.logfile import LogFile

log: structlog.stdlib.BoundLogger = structlog.get_logger("figures")

PERIOD_S = 60
SAMPLE_S = 1.0  # how often it is looked how late the loop is


class Figures:
    """``status``: the status document; ``file``: where the lines go."""

    def __init__(self, status: Callable[[], Mapping[str, Any]], file: LogFile, clock: Clock) -> None:
        self._status = status
        self._file = file
        self._clock = clock

    async def keep(self) -> None:
        """For ever: a line at the start, and one a minute."""
        lag_s = 0.0
        while True:
            try:
                line = figures(self._status(), at=self._clock.wall().isoformat(timespec="milliseconds"))
                self._file.put(json.dumps(line | {"loop_lag_s": round(lag_s, 4)}).encode() + b"\n")
            except Exception:  # figures are worth nobody's life
                log.exception("no figures")
            lag_s = await self._worst_lag()

    async def _worst_lag(self) -> float:
        """How late the loop came back to us, at worst, in a period."""
        worst = 0.0
        for _ in range(int(PERIOD_S / SAMPLE_S)):
            begun = self._clock.now()
            await self._clock.sleep(SAMPLE_S)
            worst = max(worst, self._clock.now() - begun - SAMPLE_S)
        return worst


def figures(status: Mapping[str, Any], *, at: str) -> dict[str, Any]:
    """What of the status is worth keeping, and what the process itself takes."""
    return {
        "time": at,
        "uptime_s": status["uptime_s"],
        "rss_bytes": status["memory"]["daemon_rss_bytes"],
        "cpu_s": round(time.process_time(), 3),
        "open_fds": _open_fds(),
        "threads": threading.active_count(),
        "requests": status["requests"],
        "models": {
            model["name"]: {
                "state": model["state"],
                "generation": model["generation"],
                "restarts": model["restarts"],
                "rss_bytes": model["rss_bytes"],
                "slots_busy": model["slots"]["busy"],
            }
            for model in status["models"]
        },
    }


def _open_fds() -> int | None:
    """None where the system does not say (/dev/fd is a link to /proc/self/fd on Linux)."""
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:
        return None
