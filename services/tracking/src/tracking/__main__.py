"""Run the service: `python -m tracking`."""

from shared import service
from shared.settings import load
from tracking.app import create_app
from tracking.settings import Settings


def main() -> None:
    """Start from the environment; ends with one clear line when a setting is wrong."""
    settings = load(Settings)
    service.main("tracking", settings, lambda: create_app(settings))


if __name__ == "__main__":
    main()
