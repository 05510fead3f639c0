"""The platform library: what every Afterglow service needs and no service owns.

It knows no service. What only one service needs stays in that service. Imports point down:
service > relay, consumer > bus > store > security, shops > observability > events, facts, settings,
failpoints, clock, errors.
"""
