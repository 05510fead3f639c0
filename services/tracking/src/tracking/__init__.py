"""tracking: where every parcel is, whether it will be late, and the page that tells the customer.

In: POST /v1/scans, POST /webhooks/{shop}/{aftership,easypost,shippo,seventeentrack,shipengine,sendcloud},
topics `orders` and `scans`. Out: topics `shipments` and `deliveries`; page /t/{token}.
Tables (schema tracking): orders, parcel, track, page, profile, webhooks; outbox, inbox, dead_event.
Promise: a 2xx means that a scan is committed and folded in; a late parcel is found by a rule, not by a customer.
"""
