"""Spans for OpenTelemetry: one for each request, child of the caller's, without texts or keys."""

from __future__ import annotations

import gzip
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from tests.serve.http.conftest import Build, House
from tests.serve.http.test_faults import until

from tunewise.errors import ConfigError
from tunewise.serve.http.traces import RecordingTracer, Tracer, tracer_from_environment

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def spans_of(house: House, exporter: InMemorySpanExporter, count: int) -> tuple[ReadableSpan, ...]:
    """So many spans; a span ends behind its answer."""

    def there() -> bool:
        house.service.tracer._provider.force_flush()
        return len(exporter.get_finished_spans()) >= count

    until(there)
    return exporter.get_finished_spans()


def test_a_request_is_a_span_of_its_caller(build: Build, listen: Callable[[House], House]) -> None:
    exporter = InMemorySpanExporter()
    house = build()
    house.service.tracer = RecordingTracer(exporter)
    house = listen(house)
    house.publish("acme", "tickets", "acme one")
    with house.client() as client:
        body = {"model": "acme/tickets", "prompt": "my secret"}
        client.post("/v1/completions", json=body, headers={"traceparent": PARENT})
        client.get("/v1/models/acme/nothing")
    first, second = spans_of(house, exporter, 2)
    assert f"{first.context.trace_id:032x}" == PARENT.split("-")[1]
    assert f"{first.parent.span_id:016x}" == PARENT.split("-")[2]
    assert first.attributes["http.route"] == "/v1/completions"
    assert first.attributes["tunewise.model"] == "acme/tickets@1"
    assert first.attributes["tunewise.completion_tokens"] > 0
    assert (first.name, first.kind) == ("POST /v1/completions", SpanKind.SERVER)
    assert first.status.status_code is StatusCode.UNSET
    assert second.name == "GET /v1/models/{model:path}"
    assert second.attributes["http.response.status_code"] == 404
    assert second.attributes["tunewise.code"] == "model_not_found"
    # Who asks for what is not there has not met a fault of the server's.
    assert second.status.status_code is StatusCode.UNSET
    told = first.to_json() + second.to_json()
    assert "my secret" not in told
    assert house.keys["acme"] not in told


def test_spans_are_made_where_an_address_is_set_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", raising=False)
    assert type(tracer_from_environment()) is Tracer
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    tracer = tracer_from_environment()
    assert type(tracer) is RecordingTracer
    tracer.close()


def test_a_fault_is_told_without_its_words(
    build: Build, listen: Callable[[House], House], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("choked on: my secret prompt")

    exporter = InMemorySpanExporter()
    house = build()
    house.service.tracer = RecordingTracer(exporter)
    house = listen(house)
    house.publish("acme", "tickets", "acme one")
    monkeypatch.setattr(house.engine.__class__, "submit", broken)
    with house.client() as client:
        client.post("/v1/completions", json={"model": "acme/tickets", "prompt": "x"})
    (span,) = spans_of(house, exporter, 1)
    assert span.status.status_code is StatusCode.ERROR
    assert "secret" not in span.to_json()


def resource_of(tracer: RecordingTracer, exporter: InMemorySpanExporter) -> dict[str, object]:
    with tracer.span("x", {}):
        pass
    tracer.close()
    (span,) = exporter.get_finished_spans()
    assert isinstance(span, ReadableSpan)
    return dict(span.resource.attributes)


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({}, "tunewise"),
        ({"OTEL_SERVICE_NAME": "answers"}, "answers"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=answers,zone=a"}, "answers"),
    ],
)
def test_opentelemetrys_own_variables_count(
    variables: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"):
        monkeypatch.delenv(each, raising=False)
    for each, value in variables.items():
        monkeypatch.setenv(each, value)
    exporter = InMemorySpanExporter()
    found = resource_of(RecordingTracer(exporter), exporter)
    assert found["service.name"] == name
    assert ("zone" in found) == ("OTEL_RESOURCE_ATTRIBUTES" in variables)


@pytest.mark.parametrize(
    "variable", ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"]
)
def test_a_protocol_that_is_not_spoken_is_refused(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv(variable, "grpc")
    with pytest.raises(ConfigError, match="one protocol") as caught:
        tracer_from_environment()
    assert f"{variable}=grpc" in caught.value.found
    monkeypatch.setenv(variable, "http/protobuf")
    tracer_from_environment().close()
    # Without an address nothing is sent, by no protocol.
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT")
    monkeypatch.setenv(variable, "grpc")
    assert type(tracer_from_environment()) is Tracer


class Collector(ThreadingHTTPServer):
    """Takes spans as they go over the wire.

    Attributes:
        bodies: what came, as bytes.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Taking)
        self.bodies: list[bytes] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def spans(self) -> list[tuple[str, dict[str, Any]]]:
        """Name and attributes of every span."""
        found = []
        for body in self.bodies:
            for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for span in [span for each in of_resource.scope_spans for span in each.spans]:
                    facts = {each.key: value_of(each.value) for each in span.attributes}
                    found.append((span.name, facts))
        return found


class Taking(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        packed = self.headers.get("content-encoding") == "gzip"
        self.server.bodies.append(gzip.decompress(body) if packed else body)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing: the test reads what came."""


def value_of(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def test_spans_go_over_the_wire_with_tenant_adaptation_and_tokens_and_no_text(
    build: Build,
    listen: Callable[[House], House],
    collector: Collector,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    house = build()
    house.service.tracer = tracer_from_environment()
    ended = InMemorySpanExporter()
    house.service.tracer._provider.add_span_processor(SimpleSpanProcessor(ended))
    house = listen(house)
    house.publish("acme", "tickets", "acme one")
    house.publish("acme", "labels", "acme labels", "bad", "good")
    wrong = house.keys["acme"][:-1] + ("A" if house.keys["acme"][-1] != "A" else "B")
    text = {"prompt": "my secret", "user": "my secret"}
    with house.client() as client:
        client.post("/v1/completions", json={"model": "acme/tickets", **text})
        client.post("/v1/completions", json={"model": "acme/tickets", "stream": True, **text})
        client.post("/v1/classify", json={"model": "acme/labels", "input": ["my secret"] * 2})
        client.post("/v1/completions", json={"model": "my secret", **text})
        client.post("/v1/completions", json={"model": "acme/tickets", "my secret": 1})
        client.get("/v1/my%20secret?my=secret")
    with house.client(key=wrong) as client:
        client.get("/v1/models")
    # A span ends behind the last byte of its answer, which may be read before.
    until(lambda: len(ended.get_finished_spans()) == 7)
    house.service.tracer.close()
    spans = collector.spans()
    assert len(spans) == 7
    answered = [facts for _, facts in spans if facts.get("tunewise.completion_tokens")]
    assert [facts["tunewise.model"] for facts in answered] == ["acme/tickets@1"] * 2
    for facts in answered:
        assert facts["tunewise.tenant"] == "acme"
        assert facts["tunewise.prompt_tokens"] > 0
    classified = next(facts for name, facts in spans if name == "POST /v1/classify")
    assert classified["tunewise.model"] == "acme/labels@1"
    assert classified["tunewise.prompt_tokens"] > 0
    refused = next(facts for _, facts in spans if facts["http.response.status_code"] == 401)
    assert refused["tunewise.tenant"] == ""
    whole = b"".join(collector.bodies)
    for told in ("my secret", "my%20secret", "my=secret", *house.keys.values(), wrong):
        assert told.encode() not in whole


def test_a_collector_that_does_not_answer_holds_nothing_up(
    build: Build,
    listen: Callable[[House], House],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and says nothing
        monkeypatch.setenv(
            "OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}"
        )
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=collectors-own-key")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        house = build()
        house.service.tracer = tracer_from_environment()
        house = listen(house)
        house.publish("acme", "tickets", "acme one")
        with house.client() as client, caplog.at_level(logging.DEBUG):
            for _ in range(20):
                began = time.monotonic()
                answer = client.post(
                    "/v1/completions", json={"model": "acme/tickets", "prompt": "x"}
                )
                assert answer.status_code == 200
                assert time.monotonic() - began < 5
        began = time.monotonic()
        house.service.tracer.close()
        assert time.monotonic() - began < 30
    assert "collectors-own-key" not in caplog.text
