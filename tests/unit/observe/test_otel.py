"""Whether there are spans, and where they belong; tests/integration/test_otel.py sends them."""

import sys

import pytest
from structlog.testing import capture_logs

from supervisor.observe.otel import Trace, spans, wanted

SOMEWHERE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, False),
        (SOMEWHERE, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        (SOMEWHERE | {"OTEL_SDK_DISABLED": "True"}, False),
        (SOMEWHERE | {"OTEL_SDK_DISABLED": "false"}, True),
    ],
)
def test_spans_are_wanted_where_the_standard_variables_name_a_collector(
    environ: dict[str, str], expected: bool
) -> None:
    assert wanted(environ) is expected


def test_without_a_collector_the_packages_are_not_even_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace.export", None)
    with capture_logs() as lines:
        assert spans({}, "1") is None
    assert lines == []


def test_without_the_packages_it_is_said_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with capture_logs() as lines:
        assert spans(SOMEWHERE, "1") is None
    (line,) = lines
    assert line["hint"] == "pip install 'llmsup[otel]'"


@pytest.mark.parametrize(("received", "parent"), [(True, 0x0123456789ABCDEF), (False, None)])
def test_a_trace_that_we_have_begun_has_no_parent(received: bool, parent: int | None) -> None:
    traceparent = b"00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
    assert Trace.of(traceparent, received=received) == Trace(0x0123456789ABCDEF0123456789ABCDEF, parent, True)
