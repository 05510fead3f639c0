"""Run the service: `python -m order_events`."""

from order_events.app import create_app
from order_events.settings import Settings
from shared import service
from shared.settings import load


def main() -> None:
    """Start from the environment; ends with one clear line when a setting is wrong."""
    settings = load(Settings)
    service.main("order_events", settings, lambda: create_app(settings))


if __name__ == "__main__":
    main()
