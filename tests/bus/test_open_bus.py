"""BUS_URL decides which bus is used; nothing else does."""

import pytest

from shared.bus import open_bus
from shared.bus.kafka import KafkaBus
from shared.bus.postgres import PostgresBus
from shared.errors import AfterglowError
from shared.settings import Settings
from shared.store import Database

DB = Database("postgresql://127.0.0.1/none", "public")


def settings(bus_url: str) -> Settings:
    return Settings.model_validate(
        {
            "database_url": "postgresql://127.0.0.1/none",
            "bus_url": bus_url,
            "operator_keys": "0123456789abcdefghij",
            "link_keys": "0123456789abcdefghij",
        }
    )


@pytest.mark.parametrize(
    "url", ["kafka://127.0.0.1:9092", "kafka://one:9092,two:9092", "one:9092,two:9092"]
)
def test_a_kafka_address_opens_the_kafka_bus(url: str) -> None:
    assert isinstance(open_bus(settings(url), DB), KafkaBus)


@pytest.mark.parametrize("url", ["postgres:", "postgres://", "postgresql:"])
def test_postgres_opens_the_bus_in_the_database(url: str) -> None:
    assert isinstance(open_bus(settings(url), DB), PostgresBus)


@pytest.mark.parametrize("url", ["kafka://", "one", "amqp://127.0.0.1", "memory:"])
def test_any_other_address_is_refused(url: str) -> None:
    with pytest.raises(AfterglowError, match="BUS_URL"):
        open_bus(settings(url), DB)
