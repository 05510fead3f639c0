import asyncio
import email.policy
from email.message import EmailMessage

import pytest
from tests.bench import orders, report, scenarios
from tests.bench.sink import Memory, Session
from tests.bench.stack import faults

FOUND = {
    "tutorial": {"rate": 250.0, "ms": 3.5},
    "dispatcher": {"rate": 1600.0, "ms": 0.7, "rss_notifier": 90.0},
    "latency": {"rate": 100.0, "ms": 4.0, "p50_ms": 12.0, "commit_ms": 0.25},
}


def mail(n: int, total: int) -> bytes:
    said = " ".join([orders.number(n), orders.name(n), orders.money(total)])
    said += "".join(f"\n{title}" for _, title, _, _ in orders.ITEMS)
    message = EmailMessage(policy=email.policy.SMTP)
    message["Message-ID"] = f"<{n}@example.com>"
    message.set_content(said, cte="8bit")
    message.add_alternative(f"<p>{said}</p>", subtype="html", cte="8bit")
    return message.as_bytes()


def test_a_median_is_taken_of_every_number() -> None:
    rounds = {"raw": [{"rate": 1.0, "ms": 9.0}, {"rate": 2.0, "ms": 1.0}, {"rate": 9.0, "ms": 2.0}]}
    assert report.medians(rounds) == {"raw": {"rate": 2.0, "ms": 2.0}}


def test_a_target_is_judged_only_when_what_it_needs_ran() -> None:
    found = report.verdicts(FOUND)
    assert [v.value for v in found] == pytest.approx([0.2, 6.4, 12.0])
    assert [v.met for v in found] == [False, True, True]


def test_a_percentile_is_a_value_that_was_seen() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [scenarios._percentile(values, p) for p in (1, 50, 99, 100)] == [1.0, 50.0, 99.0, 100.0]
    assert scenarios._percentile([7.0], 50) == 7.0


def test_money_is_written_as_slovenian_does() -> None:
    assert [orders.money(m) for m in (5, 15220, 123456789)] == ["0,05", "152,20", "1.234.567,89"]


def test_a_message_about_another_total_is_found_out() -> None:
    assert orders.problems(mail(7, orders.total(7)), 7) == []
    assert len(orders.problems(mail(7, orders.total(8)), 7)) == 2


def test_a_missing_message_and_one_sent_twice_are_found_out() -> None:
    seen = [(0.0, 1, "<a>", 9), (0.0, 2, "<b>", 9)]
    assert faults({"seen": seen, "kept": []}, [1, 2]) == []
    assert faults({"seen": seen[:1], "kept": []}, [1, 2])
    assert len(faults({"seen": [*seen, seen[0]], "kept": []}, [1, 2])) == 2


class _Wire(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)


def test_the_sink_takes_a_message_however_it_is_cut_into_pieces() -> None:
    data = b"EHLO x\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<c5@example.com>\r\nDATA\r\nMessage-ID: <m>\r\n\r\nhi\r\n.\r\n"
    for size in (1, 3, 7, 1000):
        memory, wire = Memory(bytearray(8)), _Wire()
        session = Session(memory)
        session.connection_made(wire)
        for at in range(0, len(data), size):
            session.data_received(data[at : at + size])
        assert [entry[1:3] for entry in memory.seen] == [(5, "<m>")]
        assert wire.written.endswith(b"354 go on\r\n250 2.0.0 queued\r\n")
        assert memory.counter[:8] == (1).to_bytes(8, "little")
