"""The parcel's story: it leaves, it will be late, we say so before she asks, it comes after all.

A day of the demo's shop takes seconds, so that the time at which we said we would write again comes while
one watches.
"""

import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import orjson

from afterglow.stage import ACCEPTED, Mail, Stage, check, check_status, template, visible
from shared.clock import now

_CARRIER = "Hermes"
_TRACK_LINK = re.compile(r"https?://\S+/t/[A-Za-z0-9_-]{22}")
_NUMBER_LENGTH = 12
_OK = 200


@dataclass(frozen=True, slots=True)
class Told:
    """What the story leaves to look at."""

    order_id: str
    number: str
    page: str


class ParcelStory:
    """One parcel, from the shop's door to the customer's."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._email = stage.address("nina")
        self._order_id = f"parcel-{stage.run}"
        self._number = f"#P-{stage.run}"
        self._tracking_number = f"AG{stage.run.upper():0>{_NUMBER_LENGTH}}SI"
        self._page = ""
        today = now().date()
        self._promised = _workday(today + timedelta(days=9)), _workday(today + timedelta(days=11))

    async def play(self) -> Told:
        """Play all acts; raises StoryFailed."""
        await self._leaves()
        await self._will_be_late()
        await self._word_is_kept()
        await self._comes_after_all()
        await self._is_delivered()
        return Told(self._order_id, self._number, self._page)

    async def _leaves(self) -> None:
        first, last = self._promised
        data = template("order.json")
        data |= {"order_id": self._order_id, "number": self._number, "placed_at": now().isoformat()}
        data |= {"promise": {"from": str(first), "to": str(last), "source": "shop"}}
        data["customer"] |= {"name": "Nina Kos", "email": self._email}
        await self._event("order.placed.v1", data)
        shipped = {
            "order_id": self._order_id,
            "shipment_id": f"{self._order_id}/1",
            "number_of_order": "1 of 1",
            "carrier": _CARRIER,
            "tracking_number": self._tracking_number,
            "items": [{"line_id": "1", "quantity": "2"}, {"line_id": "2", "quantity": "1"}],
            "final": "yes",
            "shipped_at": now().isoformat(),
        }
        await self._event("order.shipped.v1", shipped)
        mail = await self._mail("order_shipped")
        link = _TRACK_LINK.search(mail["text"] or "")
        check(link is not None, f"{self._number}: the dispatch mail has no tracking link")
        self._page = link.group() if link else ""
        await self._page_says("no carrier scan yet: the page shows the promise")

    async def _will_be_late(self) -> None:
        await self._scan("in_transit", "Ljubljana")
        late = _workday(self._promised[1] + timedelta(days=3))
        await self._easypost(late)
        self._stage.tell(f"the carrier now expects {late:%A}, as a signed EasyPost webhook: 202")
        await self._mail("shipment_delayed")
        page = await self._page_says("what is wrong, the new day, and a choice")
        check("<form" in page, "the page of a late parcel offers no choice")
        await self._choose("call_me")
        self._stage.tell("Nina asks to be called; the page shows it as requested")

    async def _word_is_kept(self) -> None:
        await self._mail("delay_update")
        self._stage.tell("no news, but we said we would write: we did")

    async def _comes_after_all(self) -> None:
        await self._scan("in_transit", "Maribor", self._promised[0])
        await self._mail("delay_over")
        await self._page_says("the delay is over")
        await self._scan("out_for_delivery", "Ljubljana")
        await self._mail("out_for_delivery")
        await self._page_says("out for delivery")

    async def _is_delivered(self) -> None:
        await self._scan("delivered", "Ljubljana", reason="neighbour")
        await self._mail("delivered")
        await self._page_says("delivered, and to whom")

    async def _event(self, type_: str, data: dict[str, Any]) -> None:
        await self._stage.event(type_, f"{self._order_id}-{type_}", now().isoformat(), data)

    async def _scan(
        self, state: str, place: str, eta: date | None = None, reason: str | None = None
    ) -> None:
        scan = {
            "carrier": _CARRIER,
            "tracking_number": self._tracking_number,
            "state": state,
            "reason": reason,
            "occurred_at": now().isoformat(),
            "place": place,
            "eta": {"to": f"{eta}T15:00:00Z"} if eta else None,
        }
        await self._stage.post("tracking", "/v1/scans", scan)
        self._stage.tell(f"scan “{state}”, {place}, posted to /v1/scans: 202")

    async def _easypost(self, eta: date) -> None:
        stage, at = self._stage, now().isoformat(timespec="seconds")
        tracker = {
            "object": "Tracker",
            "id": f"trk_{stage.run}",
            "tracking_code": self._tracking_number,
            "carrier": _CARRIER,
            "status": "in_transit",
            "status_detail": "arrived_at_facility",
            "est_delivery_date": f"{eta}T15:00:00Z",
            "updated_at": at,
            "tracking_details": [
                {
                    "object": "TrackingDetail",
                    "message": "Arrived at facility",
                    "status": "in_transit",
                    "status_detail": "arrived_at_facility",
                    "datetime": at,
                    "source": _CARRIER,
                    "tracking_location": {"city": "Graz", "country": "AT"},
                }
            ],
        }
        event = {
            "object": "Event",
            "id": f"evt_{stage.run}",
            "description": "tracker.updated",
            "result": tracker,
        }
        body = orjson.dumps(event)
        key = stage.connection["webhook_secrets"]["easypost"].encode()
        signature = hmac.new(key, body, hashlib.sha256).hexdigest()
        headers = {
            "Content-Type": "application/json",
            "X-Hmac-Signature": f"hmac-sha256-hex={signature}",
        }
        url = (
            f"{stage.connection['public']['tracking']}/webhooks/{stage.connection['shop']}/easypost"
        )
        async with stage.session.post(url, data=body, headers=headers) as answer:
            check_status(answer.status, ACCEPTED, f"the EasyPost webhook ({await answer.text()})")

    async def _mail(self, kind: str) -> Mail:
        mail = await self._stage.mail(self._email, kind, self._number)
        self._stage.tell(f"mail to Nina: “{mail['subject']}”")
        return mail

    async def _page_says(self, what: str) -> str:
        async with self._stage.session.get(self._page) as answer:
            check_status(answer.status, _OK, "the tracking page")
            page = await answer.text()
        check(self._number in visible(page), "the tracking page does not name the order")
        self._stage.tell(f"tracking page: {what}")
        return page

    async def _choose(self, choice: str) -> None:
        async with self._stage.session.get(self._page) as answer:
            page = await answer.text()
        form = next((f for f in re.findall(r"(?s)<form.*?</form>", page) if choice in f), None)
        check(form is not None, f"the page does not offer “{choice}”")
        fields = dict(re.findall(r'name="([^"]+)"[^>]*value="([^"]*)"', form or ""))
        fields["choice"] = choice
        async with self._stage.session.post(self._page, data=fields) as answer:
            check_status(answer.status, _OK, "the choice on the tracking page")


def _workday(day: date) -> date:
    """Return the first weekday from this day on."""
    while day.weekday() > 4:  # noqa: PLR2004 - Saturday, Sunday
        day += timedelta(days=1)
    return day
