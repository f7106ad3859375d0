"""Spans to an OpenTelemetry collector: the extra llmsup[otel], where `OTEL_EXPORTER_OTLP_ENDPOINT` names one.

The standard environment variables say where to, as whom and how (`OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER`,
`OTEL_EXPORTER_OTLP_HEADERS`, ...). Sending is done by the SDK in a thread of its own, behind a bounded queue; a collector that
is away costs spans and nothing else. A span is made when all about it is known, from its times.
"""

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
    """``processor``: what finished spans go to."""

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

    def add(
        self,
        name: str,
        trace: Trace,
        *,
        began_ns: int,
        ended_ns: int,
        attributes: Mapping[str, Any],
        failed: str | None,
    ) -> None:
        """One span, over. Times in nanoseconds since 1970; ``failed``: why, if our side is to blame."""
        api = self._api
        self._ids.trace_id = trace.trace_id
        context = api.set_span_in_context(api.INVALID_SPAN)
        if trace.parent is not None:
            flags = api.TraceFlags(_SAMPLED if trace.sampled else 0)
            asking = api.SpanContext(trace.trace_id, trace.parent, is_remote=True, trace_flags=flags)
            context = api.set_span_in_context(api.NonRecordingSpan(asking))
        span = self._tracer.start_span(
            name, context, kind=api.SpanKind.SERVER, attributes=attributes, start_time=began_ns
        )
        if failed is not None:
            span.set_status(api.Status(api.StatusCode.ERROR, failed))
        span.end(ended_ns)

    def close(self) -> None:
        """Send what is left; the SDK's own deadlines hold."""
        self._provider.shutdown()
