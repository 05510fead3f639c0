"""An order as a person reads it: where it stands, its parcels, its delays, what she was told and why not.

Made of what the services answer about it. Any of them may be missing, older or newer than this program,
so what is not there is left out. Times are UTC; a bare date stands where only the day is known.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shared.languages.brand import clean

_PLAIN_WIDTH: Final = 160  # of a file or a pipe, which has no edge of its own
_SECONDS: Final = len("2026-11-23T06:52:10")
_DATE: Final = len("2026-11-23")
_VERSION_CHARS: Final = len(".v1")
_GOOD: Final = frozenset({"sent", "delivered", "accepted", "replayed"})
_BAD: Final = frozenset({
    "bounced", "cancelled", "exception", "expired", "failed", "quarantined", "returned", "unknown",
})  # fmt: skip
_TROUBLE: Final = {
    "account_refused": "the account is not paid for or closed",
    "carrier_unknown": "the aggregator knows no carrier of this name, and finds none for this number",
    "certificate": "the aggregator's address has no valid certificate",
    "key_refused": "the key in shops.toml is refused",
    "rate_limited": "too many calls for this account",
}
_BECAUSE: Final = {
    "cancelled": "it is cancelled",
    "delivered": "it is delivered",
    "history": "it is older than the shop's live_from",
    "misses_used_up": "we were wrong about it as often as is bearable; only what the carrier says is told",
    "mute_carrier": "this carrier scans too little for its silence to mean anything",
    "no_number": "it has no tracking number, so nobody will ever scan it",
    "no_promise": "nobody promised a day, so what is not sent cannot be late",
    "not_paid": "it is not paid yet",
    "not_placed": "the order is not known to be placed",
    "nothing_in_danger": "as things stand it comes in time",
    "nothing_open": "everything has arrived, was cancelled or refunded",
    "ready_for_pickup": "it lies ready where the customer fetches it",
    "returned": "it is back at the shop",
    "waits_for_staff": "we wrote as often as we do without news: somebody of the shop must look at it",
    "withdrawn": "the shop took it back: it does not exist",
}
"""Why nothing is told of a delay until something happens, in tracking's words and in plain ones."""
_OF_THE_FACT: Final = frozenset({"type", "at", "id", "precision", "subject", "detected"})

Fields = Mapping[str, Any]


def page_console() -> Console:
    """Return a console for pages: as wide as the terminal, or wide and plain when it is none."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_PLAIN_WIDTH)


def print_order(answers: Mapping[str, Fields], console: Console) -> None:
    """Print an order from the answers of the services that know it, by their names."""
    order, tracking = answers.get("order-events", {}), answers.get("tracking", {})
    notifier = answers.get("notifier", {})
    _print_head(answers, console)
    for parcel in _rows(tracking.get("parcels")):
        _print_parcel(parcel, console)
    _print_delays(tracking, console)
    _table(
        console,
        "Messages",
        ("due", "kind", "about", "by", "state", "reason", "tries", "answer"),
        (
            (_time(m.get("due_at")), m.get("kind"), m.get("subject"), _by(m),
             m.get("state"), m.get("reason"), m.get("attempts"), m.get("reply"))
            for m in sorted(_rows(notifier.get("messages")), key=lambda m: str(m.get("due_at")))
        ),
        notifier.get("silent") or ("none" if notifier else None),
    )  # fmt: skip
    _table(
        console,
        "Webhooks",
        ("received", "by", "id", "source", "topic", "outcome", "reason", "delivery"),
        (
            (_time(w.get("received_at")), service, w.get("id"), w.get("source"), w.get("topic"),
             w.get("outcome"), w.get("reason"), w.get("delivery_id"))
            for service, answer in (("order-events", order), ("tracking", tracking))
            for w in _rows(answer.get("webhooks"))
        ),
        "none",
    )  # fmt: skip
    _print_events(answers, console)


def _print_head(answers: Mapping[str, Fields], console: Console) -> None:
    known, tracked = answers.get("order-events", {}), answers.get("tracking", {})
    order = _fields(known.get("order")) or _fields(tracked.get("order"))
    state, seen = _fields(known.get("state")), _fields(tracked.get("state"))
    ids = next((a for a in answers.values() if a.get("order_id")), {})
    customer, to = _fields(order.get("customer")), _fields(order.get("ship_to"))
    promise = _fields(seen.get("promise")) or _fields(order.get("promise"))
    erased = next((e for a in answers.values() if (e := a.get("erased_at"))), None)
    number = order.get("number") or ids.get("order_id")
    _head(
        console, f"Order {_text(number)} of {_text(ids.get('shop'))}", str(state.get("stage", ""))
    )
    pages = _rows(tracked.get("pages"))
    _pairs(
        console,
        {
            "id": ids.get("order_id"),
            "placed": _time(order.get("placed_at")),
            "payment": order.get("payment"),
            "customer": _joined(
                customer.get("name"), customer.get("email"), customer.get("locale")
            ),
            "ships to": _joined(to.get("city"), to.get("country") or order.get("country")),
            "method": order.get("shipping_method") or order.get("method"),
            "promised": _promised(promise),
            "cancelled": "yes" if state.get("cancelled") or seen.get("cancelled") else None,
            "items": _items(order, _fields(seen.get("open"))),
            "history": known.get("history"),
            "erased": _time(erased),
            "page": _page(pages[0]) if pages else None,
            "looked at": _time(tracked.get("check_at")) and f"again {_time(tracked['check_at'])}",
        },
    )


def _promised(promise: Fields) -> str:
    """Say which days were promised, and by whom."""
    source = promise.get("source")
    by = "by the method's line in shops.toml" if source == "method" else source
    return _joined(days, by) if (days := _range(promise)) else ""


def _items(order: Fields, open_: Fields) -> str:
    """Name what was ordered; of a line that was partly cancelled or refunded, what is left of it."""
    lines = _rows(order.get("items")) or _rows(order.get("lines"))
    left = ((open_.get(str(e.get("line_id"))) or e.get("quantity"), e.get("name")) for e in lines)
    return ", ".join(f"{_text(quantity)} × {_text(name)}" for quantity, name in left)


def _print_parcel(parcel: Fields, console: Console) -> None:
    stated = _fields(parcel.get("stated"))
    state = "withdrawn" if parcel.get("withdrawn") else _text(parcel.get("state"))
    _head(console, f"Parcel {_text(parcel.get('shipment_id'))}", state)
    action = "somebody must act" if parcel.get("action_required") else None
    since = _time(parcel.get("since"), day=bool(parcel.get("since_day")))
    delivered = _time(parcel.get("delivered_at"), day=bool(parcel.get("delivered_day")))
    _pairs(
        console,
        {
            "sent": _time(parcel.get("shipped_at")),
            "by": _joined(stated.get("carrier"), stated.get("tracking_number")),
            "state": since and f"{state} since {_joined(since, parcel.get('reason'), action)}",
            "expected": _range(_fields(parcel.get("eta"))),
            "delivered": delivered if state != "delivered" else None,
            "revoked": parcel.get("revoked_at")
            and _joined(_time(parcel["revoked_at"]), parcel.get("revoked_reason")),
            "attempts": parcel.get("attempts") or None,
        },
    )
    for one in _rows(parcel.get("watching")):
        if line := _watching(one):
            _pairs(console, {"watched": line}, "red" if one.get("trouble") else None)
    _table(
        console,
        "",
        ("happened", "state", "reason", "place", "source", "its words", "expected", "received"),
        (
            (_time(s.get("at"), day=s.get("precision") == "day"), s.get("state"), s.get("reason"),
             s.get("place"), s.get("source"), s.get("raw"),
             _range({"from": s.get("eta_from"), "to": s.get("eta_to")}), _time(s.get("received")))
            for s in _rows(parcel.get("scans"))
        ),
        "no scan yet",
    )  # fmt: skip


def _watching(one: Fields) -> str | None:
    """Say who follows a number, and what is wrong; None where nobody was ever asked to."""
    trouble, failures, next_at = one.get("trouble"), one.get("attempts"), one.get("next_at")
    registered = one.get("registered_at")
    if not (one.get("provider") or registered or trouble):
        return None
    again = f"next look {_time(next_at)}" if next_at else "no longer looked at"
    if trouble:
        meant = _TROUBLE.get(str(trouble))
        what = f"TROUBLE: {_text(trouble)}" + (f" ({meant})" if meant else "")
        tries = f"failed {failures} time(s) in a row"
        return _joined(one.get("provider"), one.get("ref"), what, tries, again)
    since = f"registered {_time(registered)}" if registered else "not registered yet"
    return _joined(one.get("provider"), one.get("ref"), since, again)


def _print_delays(tracking: Fields, console: Console) -> None:
    episodes = _fields(tracking.get("episodes"))
    _table(
        console,
        "Delays",
        ("told", "of", "no.", "cause", "was", "now", "is", "next contact"),
        (
            (_time(e.get("at")), subject or "the order", e.get("n"), e.get("cause"),
             _days(e.get("old")), _days(e.get("new")), "open" if e.get("open") else "over",
             _time(e.get("contact")) or ("none planned" if e.get("open") else None))
            for subject, e in episodes.items() if isinstance(e, Mapping)
        ),
        "none" if tracking else None,
    )  # fmt: skip
    _table(
        console,
        "Delay watch",
        ("of", "due", "what comes next, if nothing else happens"),
        (
            (one.get("shipment_id") or "the order", _due(one), _next_words(one))
            for one in _rows(tracking.get("delays"))
        ),
        None,
    )
    _table(
        console,
        "Wishes of the customer",
        ("said", "of", "wish", "words"),
        (
            (_time(c.get("at")), c.get("shipment") or "the order", c.get("wish"),
             "in its customer.choice.v1" if c.get("words") else None)
            for c in _rows(tracking.get("choices"))
        ),
        None,
    )  # fmt: skip


def _due(one: Fields) -> str:
    usual = "" if one.get("promised") else ", by what is usual; nobody promised it"
    return f"{_time(one['due'])}{usual}" if one.get("due") else ""


def _next_words(one: Fields) -> str:
    """Say when the customer is written to next about a delay, or why she is not."""
    alarm, contact, why = (_text(one.get(n)) for n in ("next_alarm", "next_contact_at", "because"))
    said = []
    if alarm:
        said.append(f"{_time(one.get('next_alarm_at'))} called late: {alarm}")
    if contact:
        said.append(f"{_time(contact)} we write again, as we said")
    if why:
        meant = _BECAUSE.get(why)
        said.append(f"nothing: {why}" + (f" ({meant})" if meant else ""))
    return "; ".join(said)


def _print_events(answers: Mapping[str, Fields], console: Console) -> None:
    """Print all that any service knows to have happened, once; scans stand with their parcels."""
    facts = {
        str(fact.get("id")): fact
        for answer in answers.values()
        for fact in _rows(answer.get("facts"))
    }
    _table(
        console,
        "Events",
        ("happened", "what", "of", "details"),
        (
            (_time(f.get("at"), day=f.get("precision") == "day"),
             str(f.get("type", ""))[:-_VERSION_CHARS], f.get("subject"),
             ", ".join(f"{k} {_detail(v)}" for k, v in f.items() if k not in _OF_THE_FACT))
            for f in sorted(facts.values(), key=lambda f: str(f.get("at")))
        ),
        None,
    )  # fmt: skip


# ---------------------------------------------------------------- on paper


def _head(console: Console, title: str, state: str) -> None:
    line = [(title, "bold"), (f"  {state}", _style(state) or "")]
    console.print()
    console.print(Text.assemble(*(line if state else line[:1])))


def _pairs(console: Console, pairs: Mapping[str, Any], style: str | None = None) -> None:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(min_width=10, no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    for name, value in pairs.items():
        if value is not None and value != "":
            grid.add_row(Text(f"  {name}"), Text(_text(value), style=style or ""))
    console.print(grid)


def _table(
    console: Console,
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    otherwise: str | None,
) -> None:
    """Print rows without the columns in which nothing stands; without a row: `otherwise`, if given."""
    listed = [[_text(value) for value in row] for row in rows]
    if not listed and otherwise is None:
        return
    if title:
        _head(console, title, "")
    if not listed:
        console.print(Text(f"  {_text(otherwise)}"))
        return
    shown = [place for place in range(len(columns)) if any(row[place] for row in listed)]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("")
    for place in shown:
        table.add_column(columns[place], overflow="fold")
    for row in listed:
        table.add_row("", *(Text(row[place], style=_style(row[place]) or "") for place in shown))
    console.print(table)


def _style(word: str) -> str | None:
    if word in _GOOD:
        return "green"
    return (
        "red" if word in _BAD else "yellow" if word in {"open", "delayed", "suppressed"} else None
    )


# ---------------------------------------------------------------- words


def _rows(value: Any) -> list[Fields]:
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, list) else []


def _fields(value: Any) -> Fields:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str:
    """Return one line that a terminal may show: whatever a customer or a carrier wrote moves no cursor."""
    if value is None:
        return ""
    return clean(value if isinstance(value, str) else orjson.dumps(value, default=str).decode())


def _joined(*values: Any) -> str:
    return ", ".join(found for value in values if (found := _text(value)))


def _time(value: Any, *, day: bool = False) -> str:
    """Return a time as `2026-11-23 06:52:10`; with `day` only the date is known."""
    written = _text(value)
    return written[:_DATE] if day else written[:_SECONDS].replace("T", " ")


def _range(fields: Fields) -> str:
    return _between(fields.get("from"), fields.get("to"))


def _days(value: Any) -> str:
    return _between(*value) if isinstance(value, list) and len(value) == 2 else ""  # noqa: PLR2004


def _between(first: Any, last: Any) -> str:
    begin, end = _time(first), _time(last)
    return " – ".join(dict.fromkeys(part for part in (begin, end) if part))


def _by(message: Fields) -> str:
    role = message.get("role")
    return _text(message.get("channel")) + (f" to {_text(role)}" if role != "buyer" else "")


def _detail(value: Any) -> str:
    written = _text(value)
    return _time(written) if written[_DATE : _DATE + 1] == "T" else written


def _page(page: Fields) -> str:
    until = _time(page.get("expires_at"))
    opens = "opens" if page.get("opens") else "opens no more"
    return f"{opens}, until {until}" if until else opens
