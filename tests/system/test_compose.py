"""The compose stack from outside, as a shop, a customer and an operator meet it.

Starting it takes minutes, so it runs only when this folder is named: `make system`.
"""

import base64
import hashlib
import hmac
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SAMPLES = ROOT / "deploy/src/afterglow/demo_files"
SERVICES = {"order-events": 9001, "tracking": 9002, "notifier": 9004}
UP_SECONDS = 300
MAIL_SECONDS = 60
QUIET_SECONDS = 3


def run(*command: str | Path, timeout: float = 120) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-40:])
        raise AssertionError(f"{' '.join(map(str, command))}: exit {done.returncode}\n{tail}")
    return done.stdout


def until(what: str, probe: Callable[[], Any], seconds: float = MAIL_SECONDS) -> None:
    """Ask until the answer is a yes; whoever is not there yet is asked again."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if probe():
                return
        except (AssertionError, httpx2.TransportError) as error:
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}: not after {seconds:g} s") from error
        assert time.monotonic() < deadline, f"{what}: not after {seconds:g} s"
        time.sleep(0.3)


class Stack:
    """One running copy of docker-compose.yml, under a project name and ports of its own."""

    def __init__(self, project: str) -> None:
        files = (ROOT / "docker-compose.yml", HERE / "free-ports.yml")
        self._compose = ("docker", "compose", "-p", project, *(a for f in files for a in ("-f", f)))

    def compose(self, *arguments: str, timeout: float = 120) -> str:
        return run(*self._compose, *arguments, timeout=timeout)

    def up(self) -> None:
        command = ("up", "--build", "--pull", "never", "--wait", "--wait-timeout", str(UP_SECONDS))
        try:
            self.compose(*command, timeout=2 * UP_SECONDS)
        except AssertionError as error:
            error.add_note(self.compose("logs", "--tail", "15", *SERVICES, "first-start"))
            raise

    def down(self) -> None:
        self.compose("down", "-v", "--remove-orphans", "--timeout", "20", timeout=180)

    def url(self, service: str, port: int) -> str:
        """Where this port is published now; a restarted container gets another one."""
        return f"http://{self.compose('port', service, str(port)).strip()}"

    def container(self, service: str) -> dict[str, Any]:
        found = self.compose("ps", "-aq", service).split()
        [inspected] = json.loads(run("docker", "inspect", *found))
        return dict(inspected)

    def inside(self, service: str, *command: str) -> str:
        return self.compose("exec", "-T", service, *command).strip()

    def secret(self, name: str) -> str:
        return self.inside("order-events", "cat", f"/config/secrets/{name}")

    def post_order(self, email: str) -> httpx2.Response:
        order_id = f"o-{uuid4().hex[:10]}"
        data = json.loads((SAMPLES / "order.json").read_text())
        stamp = datetime.now(UTC).isoformat()
        data |= {"order_id": order_id, "number": f"#{order_id}", "placed_at": stamp}
        data["customer"]["email"] = email
        return httpx2.post(
            f"{self.url('order-events', 8001)}/v1/events/order.placed.v1",
            json=data,
            headers={"Authorization": f"Bearer {self.secret('api_key')}"},
            timeout=20,
        )

    def post_webhook(self, body: bytes, signature: str) -> httpx2.Response:
        headers = {
            "Content-Type": "application/json",
            "X-Shopify-Topic": "orders/create",
            "X-Shopify-Shop-Domain": "leaf-and-kettle.myshopify.com",
            "X-Shopify-API-Version": "2026-10",
            "X-Shopify-Webhook-Id": uuid4().hex,
            "X-Shopify-Event-Id": "system-test",
            "X-Shopify-Hmac-Sha256": signature,
        }
        url = f"{self.url('order-events', 8001)}/webhooks/demo/shopify"
        return httpx2.post(url, content=body, headers=headers, timeout=20)

    def mails(self, email: str) -> list[dict[str, Any]]:
        answer = httpx2.get(f"{self.url('maildev', 1080)}/email", timeout=20).json()
        return [mail for mail in answer if email in {to["address"] for to in mail["to"]}]

    def only_mail(self, email: str) -> dict[str, Any]:
        """Wait for the mail, and a little longer for a second one that must not come."""
        until(f"mail to {email}", lambda: self.mails(email))
        time.sleep(QUIET_SECONDS)
        [mail] = self.mails(email)
        return mail

    def prometheus(self, path: str, **query: str) -> Any:
        url = f"{self.url('prometheus', 9090)}/api/v1/{path}"
        return httpx2.get(url, params=query, timeout=20).raise_for_status().json()["data"]


def needed_images() -> list[str]:
    """What is neither built here nor there: compose would fetch it without asking."""
    config = json.loads(
        run("docker", "compose", "-f", ROOT / "docker-compose.yml", "config", "--format", "json")
    )
    services = config["services"].values()
    built = {s["image"] for s in services if "build" in s}
    named = {s["image"] for s in services} - built
    dockerfile = (ROOT / "deploy/Dockerfile").read_text()
    bases = re.findall(r"^(?:FROM |# syntax=)([a-z0-9./-]+:[\w.-]+)", dockerfile, re.MULTILINE)
    probe = ["docker", "image", "inspect"]
    return sorted(
        name
        for name in named | set(bases)
        if subprocess.run([*probe, name], capture_output=True, check=False, timeout=20).returncode
    )


@pytest.fixture(scope="module")
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    asked = [Path(argument.split("::")[0]).resolve() for argument in request.config.args]
    if not any(path == HERE or HERE in path.parents for path in asked):
        pytest.skip("the compose stack takes minutes: `make system` runs it")
    if shutil.which("docker") is None:
        pytest.skip("no Docker: the program is not installed")
    for probe in (["docker", "info"], ["docker", "compose", "version"]):
        if subprocess.run(probe, capture_output=True, check=False, timeout=20).returncode:
            pytest.skip(f"no Docker: `{' '.join(probe)}` fails")
    if missing := needed_images():
        pytest.skip(f"images are not here, `docker pull` brings them: {', '.join(missing)}")
    stack = Stack("afterglow-system-test")
    stack.down()  # what a run that was killed left behind
    try:
        stack.up()
        yield stack
    finally:
        stack.down()


def address() -> str:
    return f"ana.{uuid4().hex[:8]}@example.com"


def test_an_order_becomes_one_mail(stack: Stack) -> None:
    email = address()
    answer = stack.post_order(email)
    assert answer.status_code == 202, answer.text
    mail = stack.only_mail(email)
    assert mail["headers"]["x-afterglow-kind"] == "order_confirmed"
    for said in (mail["text"], mail["html"]):
        assert "Ana" in said
        assert "Kyusu teapot" in said
        assert "68.90" in said


def test_a_signed_webhook_told_five_times_becomes_one_mail(stack: Stack) -> None:
    email = address()
    data = json.loads((SAMPLES / "shopify_order.json").read_text())
    stamp = datetime.now(UTC).isoformat(timespec="seconds")
    data |= {"id": uuid4().int % 10**12, "name": "#S-1", "email": email, "contact_email": email}
    data |= dict.fromkeys(("created_at", "processed_at", "updated_at"), stamp)
    data["customer"]["email"] = email
    body = json.dumps(data).encode()
    digest = hmac.new(stack.secret("shopify").encode(), body, hashlib.sha256).digest()
    signature = base64.b64encode(digest).decode()
    assert [stack.post_webhook(body, signature).status_code for _ in range(5)] == [202] * 5
    assert stack.post_webhook(body.replace(b"paid", b"raid", 1), signature).status_code == 401
    assert "#S-1" in stack.only_mail(email)["subject"]


def test_prometheus_reaches_every_service_and_has_its_metrics(stack: Stack) -> None:
    stack.post_order(address())

    def all_up() -> bool:
        targets = stack.prometheus("targets")["activeTargets"]
        return {t["labels"]["job"] for t in targets if t["health"] == "up"} >= set(SERVICES)

    def counted() -> set[str]:
        found = stack.prometheus("query", query='{__name__=~"afterglow_.+"} > 0')["result"]
        names = {series["metric"]["__name__"] for series in found}
        wanted = {"afterglow_events_accepted_total", "afterglow_messages_total"}
        return names if wanted <= names else set()

    until("all targets up", all_up)
    until("metrics of both services", counted)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_runs_without_rights(stack: Stack, service: str) -> None:
    host = stack.container(service)["HostConfig"]
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert host["Memory"] > 0
    assert stack.inside(service, "id", "-u") == "10001"
    for folder in ("/app", "/config", "/opt/venv"):
        tried = stack.inside(service, "sh", "-c", f"touch {folder}/x 2>&1 || echo refused")
        assert tried.endswith("refused")


def test_what_docker_shows_of_containers_and_images_holds_no_secret(stack: Stack) -> None:
    names = ("api_key", "operator_keys", "link_keys", "shopify", "woocommerce", "postgres_password")
    secrets = [stack.secret(name) for name in names]
    assert min(map(len, secrets)) >= 32
    assert len(set(secrets)) == len(secrets)
    containers = stack.compose("ps", "-aq").split()
    images = [f"afterglow-{service}" for service in SERVICES]
    shown = run("docker", "inspect", *containers, *images)
    shown += stack.compose("config") + stack.compose("logs", "--no-color")
    assert [n for n, secret in zip(names, secrets, strict=True) if secret in shown] == []
    for service in (*SERVICES, "postgres"):
        given = {v.partition("=")[0] for v in stack.container(service)["Config"]["Env"]}
        assert not given & {"DATABASE_URL", "OPERATOR_KEYS", "LINK_KEYS", "POSTGRES_PASSWORD"}


def test_every_port_is_published_on_the_loopback_address_only() -> None:
    found = re.findall(r"ports: (\[.*\])", (ROOT / "docker-compose.yml").read_text())
    ports = [port for line in found for port in json.loads(line)]
    assert len(ports) == 7
    assert [p for p in ports if not re.fullmatch(r"127\.0\.0\.1:(\d+):\1", p)] == []


def test_a_second_start_keeps_the_secrets(stack: Stack) -> None:
    before = stack.secret("api_key"), stack.secret("database_url")
    stack.compose("run", "--rm", "first-start")
    assert (stack.secret("api_key"), stack.secret("database_url")) == before


@pytest.mark.parametrize("service", SERVICES)
def test_a_killed_service_comes_back_and_works(stack: Stack, service: str) -> None:
    starts = stack.container(service)["RestartCount"]
    with suppress(AssertionError):  # the container ends before the command that ends it
        stack.inside(service, "sh", "-c", "kill -9 -1")
    email = address()
    until("an accepted order", lambda: stack.post_order(email).status_code == 202)
    stack.only_mail(email)
    assert stack.container(service)["RestartCount"] > starts


def test_orders_are_taken_while_kafka_is_away_and_mailed_when_it_is_back(stack: Stack) -> None:
    stack.compose("stop", "kafka")
    emails = [address() for _ in range(3)]
    assert [stack.post_order(email).status_code for email in emails] == [202] * 3
    time.sleep(QUIET_SECONDS)
    assert [mail for email in emails for mail in stack.mails(email)] == []
    ready = httpx2.get(f"{stack.url('order-events', 9001)}/readyz", timeout=20)
    assert (ready.status_code, ready.json()["bus"]) == (200, "unreachable")
    stack.compose("start", "kafka")
    for email in emails:
        until(f"mail to {email}", lambda email=email: stack.mails(email), 2 * MAIL_SECONDS)
    for email in emails:
        stack.only_mail(email)
