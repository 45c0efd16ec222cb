"""A local HTTP server of files that knows byte ranges and can misbehave."""

import contextlib
import http.server
import threading
import time
from collections.abc import Iterator

import pytest


class FileServer:
    """Serves `files` (path -> bytes); counts requests.

    Attributes:
      cut: how many bytes to send before the connection is dropped, for each request to come; None sends all.
      ranges: whether it honours Range. pause_s: wait after each 64 KiB. statuses: codes to answer the next requests with.
      logins: the Authorization header of each request.
    """

    def __init__(self, files: dict[str, bytes]):
        self.files, self.requests = files, []
        self.cut: list[int | None] = []
        self.statuses: list[int] = []
        self.logins: list[str | None] = []
        self.ranges, self.pause_s = True, 0.0
        self.url = ""


@contextlib.contextmanager
def serve_files(files: dict[str, bytes]) -> Iterator[FileServer]:
    state = FileServer(files)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = self.headers.get("Range")
            state.requests.append((self.path, wanted))
            state.logins.append(self.headers.get("Authorization"))
            if state.statuses:
                return self.send_error(state.statuses.pop(0))
            if self.path not in state.files:
                return self.send_error(404)
            body, start = state.files[self.path], 0
            if wanted and state.ranges:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
                if start >= len(body):
                    return self.send_error(416)
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            limit = state.cut.pop(0) if state.cut else None
            self.send_slowly(body[start:] if limit is None else body[start : start + limit])

        def send_slowly(self, body: bytes) -> None:
            with contextlib.suppress(ConnectionError):
                for at in range(0, len(body), 1 << 16):
                    self.wfile.write(body[at : at + (1 << 16)])
                    time.sleep(state.pause_s)

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def serve():
    """`with serve({"/path": b"content"}) as server`."""
    return serve_files
