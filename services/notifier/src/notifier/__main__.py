"""Run the service: `python -m notifier`."""

from notifier.app import create_app
from notifier.settings import Settings
from shared import service
from shared.settings import load


def main() -> None:
    """Start from the environment; ends with one clear line when a setting is wrong."""
    settings = load(Settings)
    service.main("notifier", settings, lambda: create_app(settings))


if __name__ == "__main__":
    main()
