"""Spans of requests for OpenTelemetry, where it is installed and an address is configured.

    OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318 tunewise serve ...     (the extra `traces`)

All further settings are OpenTelemetry's own variables; spans go by OTLP over HTTP. Prompts, answers
and keys are in no span, nor is what an exception says, since it may quote them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from tunewise.errors import ConfigError

PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
SPOKEN = "http/protobuf"
ADDRESSES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class Span:
    """One span; this one goes nowhere."""

    def note(self, name: str, facts: Mapping[str, Any], *, failed: bool) -> None:
        """Tell what it turned out to be.

        Args:
            name: instead of the one it began with.
            facts: attributes.
            failed: whether something went wrong on this side.
        """


class Tracer:
    """Makes spans; this one makes none."""

    def span(self, name: str, headers: Mapping[str, str]) -> AbstractContextManager[Span]:
        """A span while the context lasts.

        Args:
            name: what is done, until more is known.
            headers: of the request; a `traceparent` among them makes the caller's span its parent.
        """
        return contextlib.nullcontext(Span())

    def close(self) -> None:
        """Send what is left."""


class _Recorded(Span):
    def __init__(self, span: Any) -> None:
        self._span = span

    def note(self, name: str, facts: Mapping[str, Any], *, failed: bool) -> None:
        from opentelemetry.trace import StatusCode

        self._span.update_name(name)
        self._span.set_attributes(dict(facts))
        if failed:
            self._span.set_status(StatusCode.ERROR)


class RecordingTracer(Tracer):
    """Sends spans to a collector.

    Args:
        exporter: where to; None for OTLP over HTTP with OpenTelemetry's own settings.

    Raises:
        ConfigError: the extra `traces` is not installed.
    """

    def __init__(self, exporter: Any = None) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import SERVICE_NAME, Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace import SpanKind
            from opentelemetry.trace.propagation.tracecontext import (
                TraceContextTextMapPropagator,
            )
        except ImportError as error:
            raise ConfigError(
                "traces are asked for, but OpenTelemetry is not installed",
                found=str(error),
                fix="pip install 'tunewise[traces]', or unset OTEL_EXPORTER_OTLP_ENDPOINT",
            ) from error
        # What OpenTelemetry's variables say comes behind, and so before.
        named = Resource({SERVICE_NAME: "tunewise"}).merge(_of_environment(Resource))
        self._provider = TracerProvider(resource=named)
        self._provider.add_span_processor(
            BatchSpanProcessor(OTLPSpanExporter() if exporter is None else exporter)
        )
        self._tracer, self._kind = self._provider.get_tracer("tunewise.serve"), SpanKind.SERVER
        self._propagator = TraceContextTextMapPropagator()

    @contextlib.contextmanager
    def span(self, name: str, headers: Mapping[str, str]) -> Any:
        """See `Tracer.span`."""
        parent = self._propagator.extract(dict(headers))
        with self._tracer.start_as_current_span(
            name,
            context=parent,
            kind=self._kind,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            yield _Recorded(span)

    def close(self) -> None:
        """See `Tracer.close`."""
        self._provider.shutdown()


def tracer_from_environment() -> Tracer:
    """A tracer that sends spans where an address is set, else one that does nothing.

    Raises:
        ConfigError: an address is set but the extra `traces` is not installed, or another protocol
            is asked for.
    """
    if not any(os.environ.get(name) for name in ADDRESSES):
        return Tracer()
    for name in PROTOCOLS:
        asked = os.environ.get(name)
        if asked and asked != SPOKEN:
            raise ConfigError(
                "spans are sent by one protocol only",
                found=f"{name}={asked}",
                expected=SPOKEN,
                fix=f"unset {name}, and give the collector's port for HTTP (4318 as a rule)",
            )
    return RecordingTracer()


def _of_environment(resource: Any) -> Any:
    """OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES, without the library's own default name."""
    from opentelemetry.sdk.resources import SERVICE_NAME

    found = resource.create()
    told = dict(found.attributes)
    if str(told.get(SERVICE_NAME, "")).startswith("unknown_service"):
        del told[SERVICE_NAME]
    return resource(told, found.schema_url)
