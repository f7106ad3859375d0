"""What systemd is told of the daemon (sd_notify(3)), and the proof of life before each of its watchdog's pings.

Datagrams of ``NAME=value`` lines to the UNIX socket named by ``$NOTIFY_SOCKET``. Without that variable, as from a
shell, all of this does nothing. Telling never fails and never waits: nobody's service stops for want of a listener.
"""

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping, MutableMapping

import structlog

from supervisor.clock import Clock

log: structlog.stdlib.BoundLogger = structlog.get_logger("systemd")

PINGS_PER_LIMIT = 3  # one may be lost, one late
MAX_LAG_S = 5.0  # a loop that wakes later than this serves nobody in time
STATUS_CHARS = 200


class Notifier:
    """``address``: a path, or a name in the abstract name space after "@"; None: nobody listens."""

    def __init__(self, address: str | None = None, watchdog_s: float | None = None) -> None:
        self.watchdog_s = watchdog_s if address else None
        self._address = f"\0{address[1:]}" if address and address.startswith("@") else address
        self._said = ""

    @classmethod
    def taken_from(cls, environ: MutableMapping[str, str]) -> "Notifier":
        """The one the variables ask for. They are removed: a child of ours must not speak for us."""
        address = environ.pop("NOTIFY_SOCKET", "")
        limit, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        usable = address.startswith(("/", "@")) and len(address) > 1
        ours = limit.isascii() and limit.isdigit() and int(limit) > 0 and pid in {"", str(os.getpid())}
        return cls(address if usable else None, int(limit) / 1e6 if ours else None)

    def ready(self) -> None:
        """The port is bound and the control socket answers; not: the models are loaded."""
        self._tell("READY=1")

    def reloading(self) -> None:
        """To be followed by `ready`, however it went."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._tell("STOPPING=1", "STATUS=finishing what is in flight")

    def status(self, text: str) -> None:
        """One line for `systemctl status`; told when it has changed."""
        line = " ".join(text.split())[:STATUS_CHARS]
        if line != self._said:
            self._said = line
            self._tell(f"STATUS={line}")

    def alive(self) -> None:
        self._tell("WATCHDOG=1")

    def _tell(self, *lines: str) -> None:
        if self._address is None:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto("\n".join(lines).encode(), self._address)


async def keep_alive(notifier: Notifier, clock: Clock, proofs: Mapping[str, Callable[[], bool]]) -> None:
    """For as long as systemd wants it: a ping when the loop was on time and every proof holds, else none.

    Never from a thread: that would speak for a loop which stands still.
    """
    if notifier.watchdog_s is None:
        return
    pause = notifier.watchdog_s / PINGS_PER_LIMIT
    while True:
        due = clock.now() + pause
        await clock.sleep(pause)
        lag = clock.now() - due
        missing = [name for name, holds in proofs.items() if not holds()]
        if lag > MAX_LAG_S:
            missing.append("timely loop")
        if missing:
            log.error("no ping to the watchdog", without=missing, lag_s=round(lag, 1))
        else:
            notifier.alive()
