"""Spans to an OpenTelemetry collector: the extra llmsup[otel], where `OTEL_EXPORTER_OTLP_ENDPOINT` names one.

The standard environment variables say where to, as whom and how (`OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER`,
`OTEL_EXPORTER_OTLP_HEADERS`, ...). Sending is done by the SDK in a thread of its own, behind a bounded queue; a collector that
is away costs spans and nothing else. The SDK takes some 100 us to make a span, three times what a request costs: so that too
is done in a thread, from what is known once a request is over. What is too much for it is dropped.
"""

import queue
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

log: structlog.stdlib.BoundLogger = structlog.get_logger("otel")

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
DISABLED = "OTEL_SDK_DISABLED"
SERVICE = "llmsup"
QUEUED_MAX = 4096
CLOSE_S = 1.0
_SAMPLED = 1


@dataclass(frozen=True, slots=True)
class Trace:
    """Where a span belongs. ``parent``: another's span, of whoever has asked; None: it is the first of its trace."""

    trace_id: int
    parent: int | None
    sampled: bool

    @classmethod
    def of(cls, traceparent: bytes, *, received: bool) -> "Trace":
        """``traceparent``: valid, version 00. ``received``: from outside; else we have made it for this very span."""
        _, trace, parent, flags = traceparent.split(b"-")
        return cls(int(trace, 16), int(parent, 16) if received else None, bool(int(flags, 16) & _SAMPLED))


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What becomes a span. Times in nanoseconds since 1970; ``failed``: why, if our side is to blame."""

    name: str
    trace: Trace
    began_ns: int
    ended_ns: int
    attributes: Mapping[str, Any]
    failed: str | None


def wanted(environ: Mapping[str, str]) -> bool:
    """Whether somebody is to get spans."""
    return any(environ.get(name) for name in ENDPOINTS) and environ.get(DISABLED, "").lower() != "true"


def spans(environ: Mapping[str, str], version: str) -> "Spans | None":
    """None: nobody wants them, or the packages are not there, which is said."""
    if not wanted(environ):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as missing:
        log.warning("no traces", why=str(missing), hint="pip install 'llmsup[otel]'")
        return None
    return Spans(BatchSpanProcessor(OTLPSpanExporter()), version)


class Spans:
    """``processor``: what finished spans go to. ``dropped``: those that were too many."""

    def __init__(self, processor: "SpanProcessor", version: str) -> None:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

        class Ids(RandomIdGenerator):
            """The id of a trace that begins here is known already: the log and the child have it."""

            trace_id = 0

            def generate_trace_id(self) -> int:
                return self.trace_id

        self._api = trace
        self._ids = Ids()
        own = Resource.create({SERVICE_VERSION: version})
        if own.attributes.get(SERVICE_NAME, "").__str__().startswith("unknown_service"):
            own = own.merge(Resource({SERVICE_NAME: SERVICE}))
        self._provider = TracerProvider(resource=own, id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer(SERVICE, version)
        self.dropped = 0
        self._queue: queue.SimpleQueue[Finished | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="otel-spans", daemon=True)
        self._thread.start()

    def add(self, one: Finished) -> None:
        """From any thread; waits for nothing."""
        if self._queue.qsize() < QUEUED_MAX:
            self._queue.put(one)
        else:
            self.dropped += 1

    def _run(self) -> None:
        while (one := self._queue.get()) is not None:
            try:
                self._make(one)
            except Exception:  # one that cannot be made is not worth the others
                log.exception("no span", name=one.name)

    def _make(self, one: Finished) -> None:
        api = self._api
        trace = one.trace
        self._ids.trace_id = trace.trace_id
        context = api.set_span_in_context(api.INVALID_SPAN)
        if trace.parent is not None:
            flags = api.TraceFlags(_SAMPLED if trace.sampled else 0)
            asking = api.SpanContext(trace.trace_id, trace.parent, is_remote=True, trace_flags=flags)
            context = api.set_span_in_context(api.NonRecordingSpan(asking))
        span = self._tracer.start_span(
            one.name, context, kind=api.SpanKind.SERVER, attributes=one.attributes, start_time=one.began_ns
        )
        if one.failed is not None:
            span.set_status(api.Status(api.StatusCode.ERROR, one.failed))
        span.end(one.ended_ns)

    def close(self) -> None:
        """Send what is left; the SDK's own deadlines hold."""
        self._queue.put(None)
        self._thread.join(CLOSE_S)
        self._provider.shutdown()
