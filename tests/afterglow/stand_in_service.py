"""A service for the runner's tests: answers /readyz on both ports and does as it is told.

STAND_IN=refuses ends at once, STAND_IN=misconfigured for good; STAND_IN=stubborn ignores SIGTERM. POST /crash ends it with code 3.
"""

# ruff: noqa: T201, TID251, A002 - a process of its own, spoken to by its environment
import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        told = {name: os.environ.get(name) for name in ("DATABASE_URL", "BUS_URL", "HTTP_PORT")}
        body = json.dumps({**told, "pid": os.getpid()}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        os._exit(3)

    def log_message(self, format: str, *args: object) -> None:
        pass


def main() -> None:
    how = os.environ.get("STAND_IN", "")
    if how in {"refuses", "misconfigured"}:
        print("OPERATOR_KEYS is not set")
        sys.exit(os.EX_CONFIG if how == "misconfigured" else 1)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, signal.SIG_IGN if how == "stubborn" else lambda *_: stop.set())
    for port in ("HTTP_PORT", "INTERNAL_PORT"):
        server = ThreadingHTTPServer(("127.0.0.1", int(os.environ[port])), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print("stand-in is up")
    stop.wait()
    print("stand-in stops")


if __name__ == "__main__":
    main()
