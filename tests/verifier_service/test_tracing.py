"""Traces: what a request sets in motion is one trace, from the caller's span to each completion."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.verifier_service.service_process import start_service
from verifier_service.client import Client
from verifier_service.schemas import Item

collector = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
sdk = pytest.importorskip("opentelemetry.sdk.trace")
pytest.importorskip("opentelemetry.exporter.otlp.proto.http")


@pytest.fixture
def received() -> Iterator[tuple[str, list[Any]]]:
    """An OTLP collector: its address, and the spans that it was sent."""
    spans: list[Any] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            request = collector.ExportTraceServiceRequest.FromString(body)
            for resource in request.resource_spans:
                spans.extend(span for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_arguments: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", spans
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_request_is_one_trace(
    tmp_path: Path, plugin: Path, received: tuple[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, spans = received
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    service = start_service(tmp_path, plugin, workers=1)
    tracer = sdk.TracerProvider().get_tracer("test")
    with tracer.start_as_current_span("training step") as step, Client(service.url) as client:
        client.score([Item(task={"kind": "echo", "want": "yes"}, completions=["yes", "no"])])
    assert service.stop() == 0
    ours = [span for span in spans if span.trace_id == step.get_span_context().trace_id.to_bytes(16, "big")]
    (request,) = [span for span in ours if span.name == "POST /v1/score"]
    (chunk,) = [span for span in ours if span.name == "chunk"]
    completions = [span for span in ours if span.name == "echo"]
    assert request.parent_span_id == step.get_span_context().span_id.to_bytes(8, "big")
    assert chunk.parent_span_id == request.span_id
    assert [span.parent_span_id for span in completions] == [chunk.span_id] * 2
