"""Logs without personal data, and every metric the project exports.

No label ever carries an id, an address or a shop's free text. Labels' children are kept by the
callers that count often.
"""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import orjson
import structlog
from prometheus_client import Counter, Gauge, Histogram

_ADDRESS = re.compile(r"[^\s<>\"',;:=]{1,64}@[^\s<>\"',;]+")
_CREDENTIALS = re.compile(r"://[^/@\s]+@")

HTTP_REQUESTS = Counter(
    "afterglow_http_requests_total", "Requests answered.", ["service", "route", "status"]
)
WEBHOOKS = Counter(
    "afterglow_webhooks_total", "Webhook deliveries by what became of them.", ["source", "outcome"]
)
EVENTS_ACCEPTED = Counter(
    "afterglow_events_accepted_total", "Events made durable on request of a sender.", ["type"]
)
SCANS_UNMAPPED = Counter(
    "afterglow_scans_unmapped_total", "Scans whose status word has no state of ours.", ["source"]
)
SCANS = Counter(
    "afterglow_scans_total",
    "Scans taken, by who said them: new, duplicate, or kept for a parcel nobody has told us of yet.",
    ["source", "outcome"],
)
PARCELS = Gauge("afterglow_parcels", "Parcels under way, by state.", ["state"])
DELAYS_OPEN = Gauge(
    "afterglow_delay_episodes_open", "Delays that are not over.", ["cause", "carrier"]
)
DELAYS = Counter("afterglow_delays_total", "Delay episodes: opened, moved, recovered.", ["outcome"])
NOTICE_LEAD = Histogram(
    "afterglow_delay_notice_lead_hours",
    "From a delay's first notice to the end of the promised day; below zero: told too late.",
    ["cause"],
    buckets=(-48, -24, -12, -6, 0, 3, 6, 12, 24, 48, 96, 168),
)
NEXT_CONTACT = Counter(
    "afterglow_next_contact_total", "Stated next-contact times: kept or missed.", ["outcome"]
)
PROMISES = Counter(
    "afterglow_promises_total",
    "Promised days of delivered parcels: kept or missed.",
    ["carrier", "outcome"],
)
REGISTRATIONS = Counter(
    "afterglow_watch_calls_total",
    "Calls to aggregators, by what for (register, ask) and outcome.",
    ["provider", "call", "outcome"],
)
EVENTS_PUBLISHED = Counter(
    "afterglow_events_published_total", "Events handed to the bus.", ["service", "topic"]
)
EVENTS_CONSUMED = Counter(
    "afterglow_events_consumed_total",
    "Records read from the bus: applied, duplicate, unknown, dead.",
    ["service", "topic", "outcome"],
)
EVENT_TO_ACCEPTED = Histogram(
    "afterglow_event_to_accepted_seconds",
    "From the event's durable receipt to the mail server's acceptance of its message.",
    ["kind"],
    buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600),
)
JOURNAL = Gauge("afterglow_journal_messages", "Journal rows by state.", ["kind", "state"])
OUTBOX_AGE = Gauge(
    "afterglow_outbox_oldest_seconds", "Age of the oldest event the bus does not have.", ["service"]
)
CONSUMER_LAG = Gauge(
    "afterglow_consumer_lag_records", "Records behind the end of the topic.", ["service", "topic"]
)
DEAD_EVENTS = Gauge("afterglow_dead_events", "Dead events nobody has dealt with.", ["service"])
SMTP_OUTCOMES = Counter(
    "afterglow_smtp_outcomes_total", "Mail transactions by what the server answered.", ["outcome"]
)
MESSAGES = Counter(
    "afterglow_messages_total", "Messages by kind and final or holding state.", ["kind", "state"]
)
HISTORY_FACTS = Counter(
    "afterglow_history_facts_total", "Facts older than the shop's live_from: state only.", ["type"]
)
BREAKER_OPEN = Gauge("afterglow_route_open", "1 while a route is stopped.", ["route"])


def mask(text: str) -> str:
    """Hide what looks like an e-mail address or like credentials in a URL."""
    return _ADDRESS.sub("<address>", _CREDENTIALS.sub("://<credentials>@", text))


def _masked(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, str) and ("@" in value):
            event[key] = mask(value)
    return event


def _text(value: Any, **_: Any) -> str:
    return orjson.dumps(value, default=str).decode()


def configure_logs(service: str, level: str) -> None:
    """Write one JSON object per line to standard output, from structlog and from libraries alike."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _masked,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(serializer=_text),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    # While a broker is away its client writes thousands of lines a minute; the relay and the consumer
    # say the same once per attempt.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    logging.getLogger("asyncpg").setLevel(logging.ERROR)  # so does all that asks the database
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    logging.getLogger(service).setLevel(level.upper())
    logging.getLogger("shared").setLevel(level.upper())
    structlog.contextvars.bind_contextvars(service=service)
