"""structlog set up once, by the composition root: JSON lines, or colours where a person looks.

One entry goes to several places: stderr (when the daemon is in the foreground), llmsup.log, and
llmsup-errors.log what is an error. llmsup-metrics.log gets its lines from `control.figures`, and llmsup-access.log from `proxy.accesslog`.
"""

import io
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor

from supervisor.observe import redact
from supervisor.observe.logfile import LogFile
from supervisor.printable import lines

GENERAL, ERRORS, METRICS = "llmsup.log", "llmsup-errors.log", "llmsup-metrics.log"
ACCESS = "llmsup-access.log"


class DaemonLogs:
    """The daemon's own files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.general = LogFile(folder / GENERAL)
        self.errors = LogFile(folder / ERRORS)
        self.metrics = LogFile(folder / METRICS)
        self.access = LogFile(folder / ACCESS)
        self.all = (self.general, self.errors, self.metrics, self.access)

    def close(self) -> None:
        for file in self.all:
            file.close()


@dataclass(frozen=True, slots=True)
class _Sink:
    """One place where entries go, in which shape, from which level on."""

    render: Processor
    write: Callable[[str], None]
    levels: frozenset[str] | None = None  # None: all


def configure(
    *,
    level: str,
    style: str,
    stream: TextIO | None = None,
    files: DaemonLogs | None = None,
    background: bool = False,
) -> None:
    """``style``: "json", "console", or "auto" (console on a terminal, JSON elsewhere).

    ``stream``: instead of stderr. ``background``: to the files only, for nobody reads the stream.
    """
    sinks = []
    out: TextIO | None = sys.stderr if stream is None else stream  # None: closed before Python began
    if out is not None and not background:
        terminal = out.isatty()
        console = style == "console" or (style == "auto" and terminal)
        sinks.append(_Sink(_renderer(console=console, colours=terminal), _Survivor(out).write))
    if files is not None:
        render = _renderer(console=style == "console", colours=False)
        sinks.append(_Sink(render, _liner(files.general)))
        sinks.append(_Sink(render, _liner(files.errors), frozenset({"error", "critical"})))
    threshold = getattr(logging, level.upper())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _deliver_to(sinks),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=lambda *_: None,
    )
    if files is not None:
        _bridge(threshold)


def set_level(level: str) -> None:
    """From now on, in a running daemon; where the lines go stays as it was."""
    threshold = getattr(logging, level.upper())
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(threshold))
    for handler in logging.getLogger().handlers:  # what `_bridge` put there
        handler.setLevel(max(threshold, logging.WARNING))


def _renderer(*, console: bool, colours: bool) -> Processor:
    """Tracebacks without local variables: those hold what nobody wanted to say."""
    if console:
        paint = structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=_traceback)

        def draw(logger: Any, name: str, entry: EventDict) -> str:
            """Clients' and models' words command no terminal."""
            safe = {key: lines(value) if isinstance(value, str) else value for key, value in entry.items()}
            return paint(logger, name, safe)

        return draw
    trace = structlog.processors.ExceptionRenderer(
        structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    )
    to_json = structlog.processors.JSONRenderer(default=repr)

    def render(logger: Any, name: str, entry: EventDict) -> str | bytes:
        return to_json(logger, name, trace(logger, name, entry))

    return render


def _traceback(out: TextIO, failure: Any) -> None:
    words = io.StringIO()
    structlog.dev.plain_traceback(words, failure)
    out.write(lines(words.getvalue()))


def _deliver_to(sinks: list[_Sink]) -> Processor:
    """The last processor: each sink gets its own rendering, and nothing is left to do for structlog."""

    def deliver(logger: Any, name: str, entry: EventDict) -> Mapping[str, Any]:
        entry = redact.values(entry)
        for sink in sinks:
            if sink.levels is None or entry["level"] in sink.levels:
                sink.write(redact.text(str(sink.render(logger, name, dict(entry)))))
        raise structlog.DropEvent

    return deliver


def _liner(file: LogFile) -> Callable[[str], None]:
    return lambda line: file.put(line.encode(errors="replace") + b"\n")


def _bridge(threshold: int) -> None:
    """What libraries and asyncio say by the standard library's logging comes here too: else it goes to stderr,
    which nobody reads and nothing bounds."""

    class Bridge(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            structlog.get_logger().log(
                record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info or None
            )

    root = logging.getLogger()
    root.handlers[:] = [Bridge(max(threshold, logging.WARNING))]


class _Survivor:
    """A stream whose reader may leave, or whose disk may fill, without taking the daemon along."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, line: str) -> None:
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # EPIPE, ENOSPC, closed
            pass
