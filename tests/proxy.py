"""A real HTTP proxy before a real server, that slows, loses and refuses what passes through it."""

import http.client
import itertools
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

Fault = Literal["", "500", "lost"]  # none; not passed on; passed on, and its answer lost


class Proxy(ThreadingHTTPServer):
    """Passes requests on to 127.0.0.1:`port`.

    Args:
        fault: what becomes of the n-th request; those of /health always pass.
    """

    daemon_threads = True

    def __init__(self, port: int, fault: Callable[[int], Fault] = lambda number: "") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self.server_address[1]}"
        self.port, self.fault = port, fault
        self.delay = 0.0  # seconds before a request is passed on
        self.opened = threading.Event()  # requests wait for it
        self.opened.set()
        self.wanted: set[str] = set()  # values of Authorization that are let in; empty: all
        self.number = itertools.count(1)
        self.faults: list[Fault] = []  # what became of the requests
        self.asked = 0

    def __enter__(self) -> "Proxy":
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.opened.set()
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Proxy

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/health":
            return self.answer(200, b"OK")
        proxy = self.server
        proxy.asked += 1
        if proxy.wanted and self.headers.get("Authorization") not in proxy.wanted:
            return self.answer(401, b"who are you?")
        proxy.opened.wait()
        time.sleep(proxy.delay)
        fault = proxy.fault(next(proxy.number))
        proxy.faults.append(fault)
        if fault == "500":
            return self.answer(500, b"no")
        server = http.client.HTTPConnection("127.0.0.1", proxy.port)
        headers = {name: value for name, value in self.headers.items() if name != "Authorization"}
        server.request(self.command, self.path, body, headers)
        answer = server.getresponse()
        content = answer.read()
        server.close()
        if fault == "lost":
            return self.answer(500, b"what was done is not told")
        self.answer(answer.status, content, answer.headers.get("Content-Type"))

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def answer(self, status: int, content: bytes, kind: str | None = None) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind or "text/plain")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except (BrokenPipeError, ConnectionResetError):  # nobody waits for it any more
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass
