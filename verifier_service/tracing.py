"""OpenTelemetry traces: request -> chunk -> completion. Off, and free, unless `OTEL_EXPORTER_OTLP_ENDPOINT` is set and
the `tracing` extra is installed.

A trace crosses processes as a W3C `traceparent`: from the client in its header, to the workers in the chunk's header.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from importlib import import_module
from typing import Any

_tracer: Any = None


def set_up(service: str) -> None:
    """Once a process, after its last fork."""
    global _tracer
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return
    resource = import_module("opentelemetry.sdk.resources").Resource.create({"service.name": service})
    provider = import_module("opentelemetry.sdk.trace").TracerProvider(resource=resource)
    exporter = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter").OTLPSpanExporter()
    provider.add_span_processor(import_module("opentelemetry.sdk.trace.export").BatchSpanProcessor(exporter))
    _tracer = provider.get_tracer("verifier_service")


@contextlib.contextmanager
def span(name: str, parent: str, **attributes: str | int | float) -> Iterator[str]:
    """A span under a `traceparent` (empty: a new trace); gives its own `traceparent`, empty where tracing is off."""
    if _tracer is None:
        yield ""
        return
    context = _w3c().extract({"traceparent": parent})
    with _tracer.start_as_current_span(name, context=context, attributes=attributes):
        carrier: dict[str, str] = {}
        _w3c().inject(carrier)
        yield carrier.get("traceparent", "")


def completed(name: str, parent: str, elapsed_s: float, **attributes: str | int | float) -> None:
    """A span of something that has just ended in another process."""
    if _tracer is None:
        return
    ended_ns = time.time_ns()
    started_ns = ended_ns - int(elapsed_s * 1e9)
    context = _w3c().extract({"traceparent": parent})
    _tracer.start_span(name, context=context, start_time=started_ns, attributes=attributes).end(ended_ns)


def _w3c() -> Any:
    return import_module("opentelemetry.trace.propagation.tracecontext").TraceContextTextMapPropagator()
