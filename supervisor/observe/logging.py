"""structlog set up once, by the composition root: JSON lines, or colours where a person looks."""

import logging
import sys
from typing import TextIO

import structlog


def configure(*, level: str, style: str, stream: TextIO | None = None) -> None:
    """``style``: "json", "console", or "auto" (console on a terminal, JSON elsewhere)."""
    out: TextIO | None = sys.stderr if stream is None else stream  # None: closed before Python began
    terminal = out is not None and out.isatty()
    console = style == "console" or (style == "auto" and terminal)
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=terminal) if console else structlog.processors.JSONRenderer()
    )
    exceptions = [] if console else [structlog.processors.dict_tracebacks]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *exceptions,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=lambda *_: _Survivor(out),
    )


class _Survivor:
    """Where lines go: a stream whose reader may leave, or whose disk may fill, without taking the daemon along."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # EPIPE, ENOSPC, closed
            pass

    log = debug = info = warn = warning = error = critical = exception = fatal = failure = err = msg
