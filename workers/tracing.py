"""OpenTelemetry: one trace per run, from the caller that enqueued it to its end.

`enqueue_run` is a span of its caller's trace, and its place is kept with the run. Each attempt is a span under it,
whichever worker follows, each adoption and each reap as well; and the work itself gets its trace context in
`TRACEPARENT`. Without the extra `tracing`, or where nobody collects spans, all of this does nothing.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from uuid import UUID

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from reprieve.models.judging import Suspect
from reprieve.models.work import Work

logger = logging.getLogger(__name__)

#: Where spans go, as OpenTelemetry names it; nothing is collected here while neither is set.
DESTINATIONS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

_tracer = trace.get_tracer("reprieve")


def set_up() -> None:
    """Collect this process's spans and send them, if a destination is set and nobody has seen to it before."""
    if not any(os.environ.get(name) for name in DESTINATIONS):
        return
    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        logger.error(
            "%s is set, but traces need the extra: pip install 'reprieve[tracing]'.", " or ".join(DESTINATIONS)
        )
        return
    own = {"service.name": os.environ.get("OTEL_SERVICE_NAME", "reprieve"), "service.version": version("reprieve")}
    provider = TracerProvider(resource=Resource.create(own))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def caller_of(headers: Mapping[str, str]) -> Context:
    """The place of a caller that says it in its headers (W3C Trace Context)."""
    return propagate.extract(headers)


@contextmanager
def enqueueing(adapters: Iterable[str], caller: Context | None = None) -> Iterator[Span]:
    """The span in which runs are asked for."""
    attributes = {"reprieve.adapter": ", ".join(sorted(adapters))}
    with _tracer.start_as_current_span("enqueue run", caller, SpanKind.PRODUCER, attributes) as span:
        yield span


def enqueued(span: Span, run_ids: Sequence[UUID]) -> None:
    """Name the one run of that span, or the number of its runs."""
    if len(run_ids) == 1:
        span.set_attribute("reprieve.run_id", str(run_ids[0]))
    else:
        span.set_attribute("reprieve.runs", len(run_ids))


def place() -> str | None:
    """Where we are, as a W3C `traceparent`; None where nobody collects spans."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier.get("traceparent")


@contextmanager
def following(work: Work, name: str) -> Iterator[tuple[Work, Span]]:
    """The span of a worker that follows an attempt, and the work, which gets the span as its parent."""
    attributes = _names(work.run_id, work.attempt, work.adapter)
    with _tracer.start_as_current_span(name, _under(work.trace_parent), SpanKind.CONSUMER, attributes) as span:
        yield replace(work, trace_parent=place()), span


def came_to(span: Span, result: str) -> None:
    """Note what came of it; anything but success is an error."""
    span.set_attribute("reprieve.result", result)
    if result not in ("succeeded", "released", "superseded"):
        span.set_status(Status(StatusCode.ERROR, result))


def is_on() -> bool:
    """Whether this process collects spans."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def reaped(suspect: Suspect, code: str, trace_parent: str | None) -> None:
    """A span of the silence for which an attempt was reaped, from its last proof of life until now."""
    began = int(suspect.updated_at.timestamp() * 1e9)
    attributes = _names(suspect.run_id, suspect.attempt, suspect.adapter)
    span = _tracer.start_span("reap", _under(trace_parent), SpanKind.INTERNAL, attributes, start_time=began)
    came_to(span, code)
    span.end()


def _under(trace_parent: str | None) -> Context:
    """A context of its own: the message that brought a run here is a hint, and nobody's parent."""
    carrier = {"traceparent": trace_parent} if trace_parent else {}
    return propagate.extract(carrier, Context())


def _names(run_id: UUID, attempt: int, adapter: str) -> dict[str, str | int]:
    return {"reprieve.run_id": str(run_id), "reprieve.attempt": attempt, "reprieve.adapter": adapter}
