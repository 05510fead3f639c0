"""What shops do in a run: orders told in all the ways there are, in any order, and more than once.

Every request is repeated, with the same ids, until it is answered; what was acknowledged is written
down at once. Which order does what depends on the seed and its number only.
"""

import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
from tests.chaos.parcels import LATELY, Carriers
from tests.chaos.posts import Journey, Post, Shop

from shared.clock import now

FILES = Path(__file__).parents[2] / "deploy/src/afterglow/demo_files"
ANSWER_SECONDS = 15.0
WORKERS = 48
WALK_PER_SECOND = 30.0
SHIPPED = "s"  # how the ids of orders that are shipped end


@dataclass(frozen=True, slots=True)
class Taste:
    """How often orders do what. Shares of 1."""

    batch: float = 0.10  # of journeys, each with many orders
    bare: float = 0.15
    shopify: float = 0.2
    woocommerce: float = 0.2
    again: float = 0.25  # told more than once
    cancelled: float = 0.2
    cancel_first: float = 0.25  # of the cancelled: the cancellation is told before the order
    cancel_pause: float = 0.6  # seconds at most between the two
    updated: float = 0.1
    shipped: float = 0.3  # of those not told in batches: its parcels leave and are scanned
    shipped_cancelled: float = 0.08  # of the shipped
    promised: tuple[float, float] = (0.5, 0.03)  # of those told by API: of the shipped, of others


def address(order_id: str) -> str:
    """Return whom the mail about an order is for."""
    return f"c{order_id}@customer.example"


class Tales:
    """Makes journeys; the same seed and number always make the same one, but for the time."""

    def __init__(self, shop: Shop, seed: int, taste: Taste) -> None:
        self.shop = shop
        self.seed = seed
        self.taste = taste
        self.carriers = Carriers(shop)
        self._order = json.loads((FILES / "order.json").read_bytes())
        self._shopify = json.loads((FILES / "shopify_order.json").read_bytes())

    def journey(self, number: int) -> Journey:
        dice = random.Random(f"{self.seed}/{number}")
        taste, roll = self.taste, dice.random()
        for share, make in (
            (taste.batch, self._batch),
            (taste.bare, self._bare),
            (taste.shopify, self._from_shopify),
            (taste.woocommerce, self._from_woocommerce),
        ):
            if roll < share:
                return make(number, dice)
            roll -= share
        return self._single(number, dice)

    # ------------------------------------------------------------ API

    def _data(self, order_id: str, at: datetime) -> dict[str, Any]:
        data = json.loads(json.dumps(self._order))
        data |= {"order_id": order_id, "number": f"#{order_id}", "placed_at": at.isoformat()}
        data["customer"]["email"] = address(order_id)
        if self._is_promised(order_id):
            first, last = (at.date() + timedelta(days=days) for days in (3, 5))
            data["promise"] = {"from": str(first), "to": str(last), "source": "shop"}
        return dict(data)

    def _is_promised(self, order_id: str) -> bool:
        """Tell whether the shop promises a day; every statement of the order says the same."""
        shipped, others = self.taste.promised
        share = shipped if order_id.endswith(SHIPPED) else others
        return random.Random(f"promise/{order_id}").random() < share

    def _placed(self, order_id: str, at: datetime, tag: str = "1") -> Post:
        event = self.shop.event("order.placed.v1", order_id, at, self._data(order_id, at), tag)
        return self.shop.post("structured", event, owed=True)

    def _cancelled(self, order_id: str, at: datetime) -> Post:
        data = {"order_id": order_id, "reason": "customer"}
        event = self.shop.event("order.cancelled.v1", order_id, at, data, "1")
        return self.shop.post("cancelled", event, owed=False)

    def _updated(self, order_id: str, at: datetime) -> Post:
        data = self._data(order_id, at) | {"revision": (at + timedelta(seconds=1)).isoformat()}
        event = self.shop.event("order.updated.v1", order_id, at, data, "1")
        return self.shop.post("updated", event, owed=False)

    def _bare_placed(self, order_id: str, at: datetime) -> Post:
        body = json.dumps(self._data(order_id, at)).encode()
        headers = {
            "Content-Type": "application/json",
            "CE-Time": at.isoformat(),
        } | self.shop.bearer()
        key = self.shop.key(order_id)
        return Post("bare", "/v1/events/order.placed.v1", headers, body, (key,), (key,))

    def _single(self, number: int, dice: random.Random) -> Journey:
        shipped = dice.random() < self.taste.shipped
        order_id = f"a{number}{SHIPPED if shipped else ''}"
        at = now() - LATELY if shipped else now()
        return self._story(order_id, self._placed(order_id, at), at, dice, shipped=shipped)

    def _bare(self, number: int, dice: random.Random) -> Journey:
        shipped = dice.random() < self.taste.shipped
        order_id = f"b{number}{SHIPPED if shipped else ''}"
        at = now() - LATELY if shipped else now()
        return self._story(order_id, self._bare_placed(order_id, at), at, dice, shipped=shipped)

    def _story(
        self, order_id: str, placed: Post, at: datetime, dice: random.Random, *, shipped: bool
    ) -> Journey:
        """Tell an order by API: perhaps again in other ways, updated, shipped, cancelled."""
        rounds, pauses = [[placed]], [0.0]
        if dice.random() < self.taste.again:
            again = [placed, self._placed(order_id, at, "2"), self._bare_placed(order_id, at)]
            if dice.random() < 0.5:
                rounds[0] += again
            else:
                rounds.append(again)
                pauses.append(dice.random())
        if dice.random() < self.taste.updated:
            rounds.append([self._updated(order_id, at)])
            pauses.append(dice.random() * 0.3)
        journey = Journey(1, rounds, pauses)
        if shipped:
            self.carriers.by_api(journey, order_id, at, dice, lines=True)
        if dice.random() < self._cancelled_share(shipped=shipped):
            cancel = [self._cancelled(order_id, at + timedelta(milliseconds=5))]
            first = dice.random() < self.taste.cancel_first
            rounds.insert(0 if first else len(rounds), cancel)
            pauses.append(dice.random() * self.taste.cancel_pause)
        return journey

    def _cancelled_share(self, *, shipped: bool) -> float:
        return self.taste.shipped_cancelled if shipped else self.taste.cancelled

    def _batch(self, number: int, dice: random.Random) -> Journey:
        at, ids = now(), [f"m{number}-{n}" for n in range(dice.randint(2, 20))]
        events = [self.shop.event("order.placed.v1", i, at, self._data(i, at), "1") for i in ids]
        cancelled = [i for i in ids if dice.random() < self.taste.cancelled]
        events += [
            self.shop.event("order.cancelled.v1", i, at, {"order_id": i, "reason": None}, "1")
            for i in cancelled
        ]
        dice.shuffle(events)
        headers = {"Content-Type": "application/cloudevents-batch+json"} | self.shop.bearer()
        keys = tuple(self.shop.key(i) for i in ids)
        body = json.dumps(events).encode()
        post = Post("batch", "/v1/events", headers, body, keys, keys)
        rounds = [[post, post] if dice.random() < self.taste.again else [post]]
        return Journey(len(ids), rounds, [0.0])

    # ------------------------------------------------------------ platforms

    def _from_shopify(self, number: int, dice: random.Random) -> Journey:
        order_id, shipped = str(self.shop.base + number), dice.random() < self.taste.shipped
        at = now() - LATELY if shipped else now()
        order = json.loads(json.dumps(self._shopify))
        stamp, mail = at.isoformat(timespec="seconds"), address(order_id)
        order |= {"id": int(order_id), "name": f"#S{number}", "email": mail, "contact_email": mail}
        order |= {"admin_graphql_api_id": f"gid://shopify/Order/{order_id}"}
        order |= dict.fromkeys(("created_at", "processed_at", "updated_at"), stamp)
        order["customer"]["email"] = mail

        def post(topic: str, body: dict[str, Any], *, owed: bool) -> Post:
            headers = {"X-Shopify-Topic": topic, "X-Shopify-Event-Id": f"{order_id}-{topic}"}
            told = self.shop.signed("shopify", json.dumps(body).encode(), headers)
            key = self.shop.key(order_id)
            return Post(f"shopify {topic}", *told, (key,), (key,) if owed else ())

        placed = post("orders/create", order, owed=True)
        later = (at + timedelta(seconds=1)).isoformat(timespec="seconds")
        gone = {"cancelled_at": later, "cancel_reason": "customer", "updated_at": later}
        cancelled = post("orders/cancelled", order | gone, owed=False)
        changed = post("orders/updated", order | {"updated_at": later, "note": "x"}, owed=False)
        share = self._cancelled_share(shipped=shipped)
        journey = self._told(order_id, at, placed, [changed], cancelled, dice, share)
        if shipped:
            self.carriers.by_shopify(journey, order_id, at, dice, order)
        return journey

    def _from_woocommerce(self, number: int, dice: random.Random) -> Journey:
        shipped = dice.random() < self.taste.shipped
        order_id, at = str(self.shop.base + 500_000_000 + number), now()
        at = at - LATELY if shipped else at
        stamp = at.replace(tzinfo=None).isoformat(timespec="seconds")
        names = ("date_created_gmt", "date_paid_gmt", "date_modified_gmt")
        person = {"first_name": "Maja", "last_name": "Kranjc", "email": address(order_id)}
        person |= {
            "address_1": "Prešernova 4",
            "city": "Maribor",
            "postcode": "2000",
            "country": "SI",
        }
        line = {"id": 1, "name": "Sencha", "sku": "TEA-5", "quantity": 2, "subtotal": "25.00"}
        order = {"id": int(order_id), "number": f"W{number}", "status": "processing"}
        order |= {"currency": "EUR", "total": "29.90", "shipping_total": "4.90", "total_tax": "0"}
        order |= {"billing": person, "shipping": person, "line_items": [line], "refunds": []}
        order |= {"payment_method": "stripe", **dict.fromkeys(names, stamp)}

        def post(topic: str, body: dict[str, Any], *, owed: bool) -> Post:
            headers = {
                "X-WC-Webhook-Topic": topic,
                "X-WC-Webhook-Delivery-ID": f"{order_id}{topic}",
            }
            told = self.shop.signed("woocommerce", json.dumps(body).encode(), headers)
            key = self.shop.key(order_id)
            return Post(f"woocommerce {topic}", *told, (key,), (key,) if owed else ())

        placed = post("order.created", order, owed=True)
        gone = order | {"status": "cancelled"}
        cancelled = post("order.updated", gone, owed=False)
        changed = post("order.updated", order | {"status": "completed"}, owed=False)
        share = self._cancelled_share(shipped=shipped)
        journey = self._told(order_id, at, placed, [changed], cancelled, dice, share)
        if shipped:
            self.carriers.by_api(journey, order_id, at, dice, lines=False)
        return journey

    def _told(
        self,
        order_id: str,
        at: datetime,
        placed: Post,
        changes: list[Post],
        cancelled: Post,
        dice: random.Random,
        cancelled_share: float,
    ) -> Journey:
        """Tell an order by webhook: perhaps five times, by API as well, changed, cancelled after."""
        rounds, pauses = [[placed]], [0.0]
        if dice.random() < self.taste.again:
            rounds.append([placed, placed, self._placed(order_id, at)])
            pauses.append(dice.random() * 0.5)
        if dice.random() < self.taste.updated:
            rounds.append(changes)
            pauses.append(dice.random() * 0.3)
        if dice.random() < cancelled_share:
            rounds.append([cancelled])
            pauses.append(dice.random() * self.taste.cancel_pause)
        return Journey(1, rounds, pauses)


class Load:
    """Posts journeys to whichever server answers, and writes down what was acknowledged."""

    def __init__(
        self,
        tales: Tales,
        servers: Mapping[str, Sequence[str]],
        log: Path,
        *,
        orders: int,
        per_second: float,
    ) -> None:
        self.tales = tales
        self.servers = servers
        self.orders = orders
        self.per_second = per_second
        self.told = 0
        self.counts: Counter[str] = Counter()
        self.ended = False
        self.hurry = asyncio.Event()  # no new journeys
        self.over = asyncio.Event()  # no more repeating either
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._unsynced = False
        self._number = 0
        self._began = self._walked = 0.0

    async def run(self) -> None:
        """Tell orders until `hurry`, at a walk once all that were asked for are told."""
        self._began = time.monotonic()
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS, sock_connect=2)
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(timeout=timeout, connector=connector) as session,
            asyncio.TaskGroup() as group,
        ):
            sync = group.create_task(self._sync())
            async with asyncio.TaskGroup() as workers:
                for _ in range(WORKERS):
                    workers.create_task(self._work(session))
            sync.cancel()
        os.fsync(self._log)
        os.close(self._log)
        self.ended = True

    async def _sync(self) -> None:
        while True:
            await asyncio.sleep(0.2)
            if self._unsynced:
                self._unsynced = False
                await asyncio.to_thread(os.fsync, self._log)

    async def _work(self, session: aiohttp.ClientSession) -> None:
        while not self.hurry.is_set():
            early = self._due() - time.monotonic()
            if early > 0:
                await asyncio.sleep(min(early, 0.2))
                continue
            self._number += 1
            journey = self.tales.journey(self._number)
            self.told += journey.orders
            await self._live(session, journey)

    def _due(self) -> float:
        """Return when the next order is to be told."""
        if self.told < self.orders or not self.orders:
            return self._began + self.told / self.per_second
        if not self._walked:
            self._walked = time.monotonic()
        return self._walked + (self.told - self.orders) / min(self.per_second, WALK_PER_SECOND)

    async def _live(self, session: aiohttp.ClientSession, journey: Journey) -> None:
        for number, posts in enumerate(journey.rounds):
            if number < len(journey.pauses) and journey.pauses[number]:
                await asyncio.sleep(journey.pauses[number])
            async with asyncio.TaskGroup() as group:
                for post in posts:
                    group.create_task(self._send(session, post))

    async def _send(self, session: aiohttp.ClientSession, post: Post) -> None:
        servers = self.servers[post.to]
        server = random.randrange(len(servers))
        while not self.over.is_set():
            url = servers[server % len(servers)] + post.path
            server += 1
            try:
                async with session.post(url, data=post.body, headers=post.headers) as answer:
                    text = await answer.text()
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                self.counts[type(error).__name__] += 1
                await asyncio.sleep(0.25)
                continue
            self.counts[str(answer.status)] += 1
            if answer.status == 503:
                await asyncio.sleep(0.2)
                continue
            self._note(post, answer.status, text)
            if answer.status < 500:
                return
            await asyncio.sleep(0.2)
        self.counts["given up"] += 1

    def _note(self, post: Post, status: int, text: str) -> None:
        line: dict[str, Any] = {
            "at": time.time(), "way": post.way, "status": status, "orders": post.orders,
        }  # fmt: skip
        if status == 202:
            line |= {"ids": json.loads(text).get("ids", []), "owed": post.owed, "to": post.to}
            line |= {"shipped": post.shipped, "scanned": post.scanned}
        else:
            line["body"] = text[:300]
        os.write(self._log, json.dumps(line).encode() + b"\n")
        self._unsynced = True


def read_log(path: Path, each: Callable[[dict[str, Any]], None]) -> None:
    """Give every line of the API log to `each`."""
    with path.open() as lines:
        for line in lines:
            each(json.loads(line))
