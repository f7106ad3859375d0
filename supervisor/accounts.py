"""Who is told of each request that has ended: the access log, an OpenTelemetry collector, the log at level debug."""

import asyncio
import threading
from collections.abc import Callable, Mapping

from supervisor import __version__
from supervisor.observe import otel
from supervisor.observe.logging import set_level
from supervisor.proxy.accesslog import AccessLog
from supervisor.proxy.pipeline import Pipeline
from supervisor.proxy.spans import RequestSpans
from supervisor.reload import Applier, Commit, log_level
from supervisor.settings.schema import Settings

CLOSE_S = 2.0


def _later(seconds: float, work: Callable[[], None]) -> object:
    return asyncio.get_running_loop().call_later(seconds, work)


class Accounts:
    """``put``: takes lines of the access log."""

    def __init__(
        self, pipeline: Pipeline, put: Callable[[bytes], None], settings: Settings, environ: Mapping[str, str]
    ) -> None:
        self._pipeline = pipeline
        self._access = AccessLog(put, _later)
        self._collector = otel.spans(environ, __version__)
        self._spans = RequestSpans(self._collector) if self._collector is not None else None
        self._take_access(on=settings.log.access)
        self._pipeline.trace(on=settings.log.level == "debug")

    def appliers(self) -> list[Applier]:
        """A living daemon takes up both keys."""
        return [Applier(("log.access",), self._prepare_access), log_level(self._take_level)]

    def _prepare_access(self, settings: Settings) -> Commit:
        return lambda: self._take_access(on=settings.log.access)

    def _take_access(self, *, on: bool) -> None:
        access = (self._access.tell,) if on else ()
        self._pipeline.tell = access if self._spans is None else (*access, self._spans.tell)

    def _take_level(self, level: str) -> None:
        set_level(level)
        self._pipeline.trace(on=level == "debug")

    async def close(self) -> None:
        """The last lines and spans."""
        self._access.close()
        if self._collector is not None:
            sending = threading.Thread(target=self._collector.close, name="otel-close", daemon=True)
            sending.start()
            await asyncio.to_thread(sending.join, CLOSE_S)  # a collector that is away must not keep us
