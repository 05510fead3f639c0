"""What one shop may say about itself in shops.toml; an unknown key is an error that names it.

All times of day are in the shop's time zone, all money is in minor units of the stated currency.
"""

import re
from collections.abc import Mapping
from datetime import date, time
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from shared.calendars import WorkingDays
from shared.defaults import DEFAULT_SECRETS
from shared.shops.delays import Delays

Mode = Literal["shadow", "allowlist", "live"]
Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WebhookSource = Literal[
    "shopify", "woocommerce",
    "aftership", "easypost", "shippo", "seventeentrack", "shipengine", "sendcloud",
    "ses", "postmark", "sendgrid", "mailgun", "twilio",
]  # fmt: skip
ProviderName = Literal[
    "aftership", "easypost", "shippo", "seventeentrack", "shipengine", "sendcloud",
    "ses", "postmark", "sendgrid", "mailgun", "twilio", "vonage",
]  # fmt: skip
Kind = Literal[
    "order_confirmed", "order_preparing", "order_delayed", "order_shipped",
    "out_for_delivery", "ready_for_pickup", "delivery_attempted",
    "shipment_delayed", "delay_over", "delay_update", "case_update", "shipment_problem", "delivered",
    "order_cancelled", "order_refunded", "return_requested", "return_received",
    "survey", "survey_reminder", "how_to", "review_request", "thank_you_offer", "replenishment",
    "referral_invite", "complaint_received", "apology", "compensation", "resolution_check",
    "staff_alert",
]  # fmt: skip
ADDRESS_CHARS_MAX = 254
KINDS: tuple[Kind, ...] = get_args(Kind)

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_MAILBOX = re.compile(
    r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+"
    r"[A-Za-z][A-Za-z0-9-]*[A-Za-z0-9]"
)
_URL = re.compile(r"(?:https://|http://(?:localhost|127\.0\.0\.1)(?=[:/]|$))[^\s<>\"'\\@]+")


def _one_line(text: str) -> str:
    if not text.strip() or _CONTROL.search(text):
        raise ValueError("must be one line of text")
    return text


def _mailbox(text: str) -> str:
    if len(text) > ADDRESS_CHARS_MAX or not _MAILBOX.fullmatch(text):
        raise ValueError("must be one plain e-mail address")
    return text


def _url(text: str) -> str:
    if not _URL.fullmatch(text):
        raise ValueError("must be an https:// address (http:// only on this machine)")
    return text


def _wrap(value: Any) -> Any:
    return {"*": value} if isinstance(value, str) else value


def _resolve(value: Any, info: ValidationInfo) -> SecretStr:
    """Fetch the secret that `env:NAME` or `file:PATH` names; the shop file itself holds none."""
    context: Mapping[str, Any] = info.context or {}
    scheme, _, name = value.partition(":") if isinstance(value, str) else ("", "", "")
    if scheme == "env" and name:
        secret, where = context.get("env", {}).get(name), f"environment variable {name}"
    elif scheme == "file" and name:
        path = Path(context.get("folder", ".")) / name
        try:
            secret, where = path.read_text(encoding="utf-8").strip(), f"file {name}"
        except (OSError, UnicodeDecodeError):
            raise ValueError(f"file {name} cannot be read") from None
    else:
        raise ValueError("must be env:NAME or file:PATH, never the secret itself")
    if secret is None:
        raise ValueError(f"{where} is not set")
    if not secret:
        raise ValueError(f"{where} is empty")
    if secret.lower() in DEFAULT_SECRETS:
        raise ValueError(f"{where} holds a default that everybody knows")
    return SecretStr(secret)


Line = Annotated[str, Field(max_length=300), AfterValidator(_one_line)]
Mailbox = Annotated[str, AfterValidator(_mailbox)]
Url = Annotated[str, Field(max_length=500), AfterValidator(_url)]
Texts = Annotated[
    dict[Annotated[str, Field(pattern=r"^(\*|[a-z]{2})$")], Line], BeforeValidator(_wrap)
]
Secret = Annotated[SecretStr, BeforeValidator(_resolve)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
WooStatus = Annotated[
    str,
    Field(pattern=r"^[a-z0-9_-]{1,40}$"),
    AfterValidator(lambda status: status.removeprefix("wc-")),
]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
Days = Annotated[float, Field(ge=0, le=730)]


def in_language(texts: Mapping[str, str] | None, language: str) -> str | None:
    """The text for a two-letter language, else the one written for all ("*"), else None."""
    return (texts or {}).get(language) or (texts or {}).get("*")


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Sender(_Table):
    """Whom the customer sees in the From line."""

    name: Line
    address: Mailbox


class Returns(_Table):
    """Where returns are explained and within how many days after delivery they are taken."""

    url: Url | None = None
    days: int | None = Field(default=None, ge=0, le=730)


class Support(_Table):
    """How a customer reaches the shop; what is absent is left out of every message."""

    phone: Line | None = None
    mail: Mailbox | None = None
    hours: Texts | None = None
    reply_time: Texts | None = None
    faq: Url | None = None
    chat: Url | None = None
    messenger: Url | None = None
    stores: Url | None = None
    social: dict[str, Url] = Field(default_factory=dict)
    returns: Returns | None = None
    warranty: Texts | None = None


class Brand(_Table):
    """How messages and pages look."""

    color: str = Field(default="#1f2937", pattern=r"^#[0-9a-fA-F]{6}$")
    logo: Url | None = None
    logo_width: int = Field(default=160, ge=16, le=600)
    site: Url | None = None
    imprint: Line | None = None


class Webhook(_Table):
    """The secrets one source signs with: two while one is rotated.

    Where a source does not sign (Shippo until it is asked to, ShipEngine), a secret `token:…` of at least
    16 more characters is taken instead from the webhook's address, `?token=…`. ShipEngine signs with its
    own key: the secret is then a `file:` with the JWK Set or the PEM public key that it publishes.
    """

    secrets: tuple[Secret, ...]

    @field_validator("secrets")
    @classmethod
    def _one_or_two(cls, secrets: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if len(secrets) not in {1, 2}:
            raise ValueError("needs one secret, or two while one is rotated")
        return secrets


class Provider(_Table):
    """An account at a carrier, mail or SMS service."""

    key: Secret
    account: Line | None = None
    sender: Line | None = None


class Calendar(_Table):
    """When parcels leave and travel.

    An order before `cut_off` on a working day starts that day, any other the next; it leaves
    `handling_days` working days later. `holidays` is a country, with a region as in "DE-BY".
    """

    weekdays: tuple[Weekday, ...] = Field(default=("mon", "tue", "wed", "thu", "fri"), min_length=1)
    holidays: str | None = Field(default=None, pattern=r"^[A-Z]{2}(-[A-Z0-9]{1,3})?$")
    closed: tuple[date, ...] = ()
    cut_off: time | None = None
    handling_days: int = Field(default=0, ge=0, le=60)

    @cached_property
    def weekday_numbers(self) -> frozenset[int]:
        """The working weekdays as `date.weekday()` counts them, Monday 0."""
        return frozenset(get_args(Weekday).index(day) for day in self.weekdays)

    def working_days(self, *countries: str | None) -> WorkingDays:
        """Return the days on which parcels move, without the public holidays of these countries either."""
        named = {c for c in (self.holidays, *countries) if c}
        return WorkingDays(self.weekday_numbers, tuple(sorted(named)), frozenset(self.closed))


_MONDAY_TO_FRIDAY: Final = Calendar()


class Promise(_Table):
    """Working days under way, from–to, for a shipping method and destinations ("*": any)."""

    method: str = "*"
    countries: tuple[Annotated[str, Field(pattern=r"^([A-Z]{2}|\*)$")], ...] = ("*",)
    days: tuple[Annotated[int, Field(ge=0, le=120)], Annotated[int, Field(ge=0, le=120)]]
    calendar: str = "default"

    @field_validator("days")
    @classmethod
    def _ordered(cls, days: tuple[int, int]) -> tuple[int, int]:
        if days[0] > days[1]:
            raise ValueError("the first number must not be over the second")
        return days

    def covers(self, method: str | None, country: str | None) -> bool:
        """Whether this line speaks of a parcel sent so and thither; upper and lower case are equal."""
        fits = fnmatchcase((method or "").lower(), self.method.lower())
        return fits and ("*" in self.countries or (country or "").upper() in self.countries)


class QuietHours(_Table):
    """The part of a day without texts and optional mail; it may pass midnight."""

    start: time
    end: time

    def covers(self, local: time) -> bool:
        """Whether a time of day in the shop's (or customer's) zone is quiet."""
        if self.start <= self.end:
            return self.start <= local < self.end
        return local >= self.start or local < self.end


class Followups(_Table):
    """Days after the last parcel (the reminder: after the survey) until each is asked for."""

    survey: Days = 2
    survey_reminder: Days = 3
    how_to: Days = 3
    review_request: Days = 10
    thank_you_offer: Days = 14
    referral_invite: Days = 30


class CompensationRule(_Table):
    """What the shop gives by itself in one situation; without `approval` nobody is asked first."""

    when: Literal["late", "lost", "damaged", "wrong_item", "low_score", "complaint"]
    kind: Literal["voucher", "refund", "points", "free_shipping"]
    days_late: int = Field(default=0, ge=0, le=120)
    amount: int | None = Field(default=None, gt=0)
    percent: int | None = Field(default=None, gt=0, le=100)
    valid_days: int | None = Field(default=None, ge=1, le=730)
    approval: bool = True

    @model_validator(mode="after")
    def _one_measure(self) -> Self:
        wanted = 0 if self.kind == "free_shipping" else 1
        if (self.amount is not None) + (self.percent is not None) != wanted:
            raise ValueError("needs amount or percent, one of them (free_shipping: neither)")
        return self


class Compensation(_Table):
    """The rules, first fit first, and the caps in minor units; without caps no rule may stand."""

    currency: Currency
    cap_per_order: int = Field(ge=0)
    cap_per_customer_year: int = Field(ge=0)
    cap_per_day: int = Field(ge=0)
    rules: tuple[CompensationRule, ...] = ()


class WooCommerce(_Table):
    """Which order statuses of this shop mean that packing began; "wc-" in front makes no difference."""

    preparing: tuple[WooStatus, ...] = ()


class Shop(_Table):
    """One tenant. A new one starts in shadow: everything is journalled, nothing is sent."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")
    name: Line
    mode: Mode = "shadow"
    live_from: AwareDatetime | None = None
    sender: Sender
    reply_to: Mailbox
    staff: tuple[Mailbox, ...] = ()
    allowlist: tuple[Line, ...] = ()
    locale: str = Field(default="en", pattern=r"^[a-z]{2}(-[A-Z]{2})?$")
    time_zone: str = "UTC"
    support: Support = Field(default_factory=Support)
    brand: Brand = Field(default_factory=Brand)
    card_name: Line | None = None

    api_keys: tuple[Sha256, ...] = ()
    sources: tuple[Line, ...] = ()
    webhooks: dict[WebhookSource, Webhook] = Field(default_factory=dict)
    providers: dict[ProviderName, Provider] = Field(default_factory=dict)
    woocommerce: WooCommerce = Field(default_factory=WooCommerce)

    calendars: dict[str, Calendar] = Field(default_factory=dict)
    promises: tuple[Promise, ...] = ()
    assume_delivered_days: int | None = Field(default=None, ge=1, le=120)
    delays: Delays = Field(default_factory=Delays)

    quiet_hours: QuietHours | None = None
    kinds_off: frozenset[Kind] = frozenset()
    sms_kinds: frozenset[Kind] = frozenset()
    followups: Followups = Field(default_factory=Followups)
    survey_basis: Literal["consent", "legitimate_interest"] = "consent"
    compensation: Compensation | None = None

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("is no IANA time zone, such as Europe/Ljubljana") from None
        return name

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.mode != "shadow" and self.live_from is None:
            raise ValueError(f"mode {self.mode} needs live_from: older facts send nothing")
        if self.mode == "allowlist" and not self.allowlist:
            raise ValueError("mode allowlist needs allowlist")
        unknown = {p.calendar for p in self.promises} - {"default", *self.calendars}
        if unknown:
            raise ValueError(f"promises name a calendar that is not there: {min(unknown)}")
        named = {
            "delays": self.delays,
            **{f"delays.carriers.{name}": own for name, own in self.delays.carriers.items()},
        }
        for where, rules in named.items():
            if rules.calendar not in {None, "default", *self.calendars}:
                raise ValueError(
                    f"{where}.calendar names a calendar that is not there: {rules.calendar}"
                )
        return self

    @cached_property
    def zone(self) -> ZoneInfo:
        """The shop's time zone."""
        return ZoneInfo(self.time_zone)

    def may_reach(self, contact: str) -> bool:
        """Whether the mode lets anything out to this e-mail address or phone number."""
        if self.mode != "allowlist":
            return self.mode == "live"
        return any(fnmatchcase(contact.lower(), p.lower()) for p in self.allowlist)

    def writes(self, kind: Kind) -> bool:
        """Whether messages of a kind can leave at all; who of its customers gets one is another question."""
        return self.mode != "shadow" and kind not in self.kinds_off

    def webhook_secrets(self, source: WebhookSource) -> list[bytes]:
        """The active secrets of a source; none means that this shop does not take its webhooks."""
        webhook = self.webhooks.get(source)
        return [s.get_secret_value().encode() for s in webhook.secrets] if webhook else []

    def promise(self, method: str | None, country: str | None) -> Promise | None:
        """The first promise that speaks of this shipping method and destination."""
        return next((p for p in self.promises if p.covers(method, country)), None)

    def calendar(self, name: str) -> Calendar:
        """A calendar by name; "default" is Monday to Friday where the shop states none."""
        return self.calendars.get(name, _MONDAY_TO_FRIDAY)
