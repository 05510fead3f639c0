"""The HTTP side of tracking: scans in, the customer's page, what operators ask."""

from tracking.api.ingest import public_routes
from tracking.api.operators import internal_routes

__all__ = ["internal_routes", "public_routes"]
