"""What is known of each carrier, per shop: kept as it is learned, and at hand while it is fresh."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from time import monotonic
from typing import Final

import orjson

from shared.store import Tx
from tracking.domain.model import Order
from tracking.domain.profile import Profile, Story
from tracking.store.orders import Key

FRESH_SECONDS: Final = 60.0
CARRIERS_MAX: Final = 200  # of one shop: their names are its own words


class Profiles:
    """The profiles of this process; what other replicas learn is seen within a minute."""

    def __init__(self) -> None:
        self._known: defaultdict[str, dict[str, Profile]] = defaultdict(dict)
        self._texts: dict[Key, str] = {}
        self._fresh_until: dict[str, float] = {}

    def of(self, shop: str) -> Mapping[str, Profile]:
        """Return a shop's profiles by carrier, as they were when loaded."""
        return self._known[shop]

    async def load(self, tx: Tx, orders: Iterable[Order]) -> None:
        """Have the profiles of these orders' shops at hand."""
        now = monotonic()
        stale = sorted(
            {o.shop for o in orders if self._fresh_until.get(o.shop, 0) < now},
        )
        if not stale:
            return
        rows = await tx.fetch(
            """select p.* from unnest($1::text[]) k(shop) cross join lateral (
                 select p.shop, p.carrier, p.body from profile p where p.shop = k.shop
                 order by p.carrier limit $2) p""",
            stale,
            CARRIERS_MAX,
        )
        for row in rows:
            key, text = (row["shop"], row["carrier"]), row["body"]
            if self._texts.get(key) != text:  # what it has worked out stays where nothing changed
                self._texts[key] = text
                self._known[key[0]][key[1]] = Profile.load(text)
        self._fresh_until |= dict.fromkeys(stale, now + FRESH_SECONDS)

    async def learn(self, tx: Tx, stories: Iterable[tuple[Key, Story]]) -> None:
        """Take parcels into the profiles of their shop and carrier."""
        told: defaultdict[Key, list[Story]] = defaultdict(list)
        for key, story in stories:
            told[key].append(story)
        await _make(tx, told)
        changed = {}
        for key, text in (await _lock(tx, told)).items():
            profile = Profile.load(text)
            for story in told[key]:
                profile.learn(story)
            changed[key] = orjson.dumps(profile.dump()).decode()
        await _write(tx, changed)


async def _lock(tx: Tx, keys: Collection[Key]) -> dict[Key, str]:
    wanted = sorted(keys)
    rows = await tx.fetch(
        """select p.* from unnest($1::text[], $2::text[]) k(shop, carrier) cross join lateral (
              select p.shop, p.carrier, p.body from profile p
              where p.shop = k.shop and p.carrier = k.carrier for update) p""",
        [shop for shop, _ in wanted],
        [carrier for _, carrier in wanted],
    )
    return {(row["shop"], row["carrier"]): row["body"] for row in rows}


async def _make(tx: Tx, keys: Collection[Key]) -> None:
    """Make the rows that are not there, so that they can be locked."""
    wanted = sorted(keys)
    await tx.execute(
        """insert into profile (shop, carrier)
           select * from unnest($1::text[], $2::text[]) on conflict do nothing""",
        [shop for shop, _ in wanted],
        [carrier for _, carrier in wanted],
    )


async def _write(tx: Tx, profiles: Mapping[Key, str]) -> None:
    rows = sorted(profiles.items())
    await tx.execute(
        """insert into profile (shop, carrier, body)
           select * from unnest($1::text[], $2::text[], $3::jsonb[])
           on conflict (shop, carrier) do update set body = excluded.body, updated_at = now()""",
        [shop for (shop, _), _ in rows],
        [carrier for (_, carrier), _ in rows],
        [body for _, body in rows],
    )
