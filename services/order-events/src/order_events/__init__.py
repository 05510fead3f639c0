"""order-events: what shops say about orders comes in, clean order events go out.

In: POST /v1/events, POST /webhooks/{shop}/{shopify,woocommerce}, topic `orders.inbound`.
Out: topics `orders` and `scans`.
Tables (schema order_events): orders, idempotency, webhooks, erased; outbox, inbox, dead_event, timer.
Promise: a 2xx means that what was sent is committed; the bus may be away for an hour.
"""
