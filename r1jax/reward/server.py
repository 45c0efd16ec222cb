"""`r1jax serve-scorer`: a scorer as a process of its own, on this host or another, asked over HTTP.

    POST /score     images in, {"scores": [...], "name": ..., "version": ..., "problem": ...} out; a missing score is null
                    application/octet-stream: uint8 RGB with the header X-Image-Shape: B,H,W,3
                    image/png: one image
    GET  /healthz   {"status": "ok", "name": ..., "version": ...}
    GET  /metrics   counts and latencies, for Prometheus

No pickle. Bearer token where one is set, and always off loopback; bodies have a limit.
"""

import contextlib
import hmac
import io
import ipaddress
import json
import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from jaxtyping import UInt8

from r1jax.errors import ImageError, R1JaxError, UsageError
from r1jax.reward.service import RewardService

logger = logging.getLogger(__name__)

TOKEN_ENV = "R1JAX_SCORER_TOKEN"
SHAPE_HEADER = "X-Image-Shape"
_MAX_CONNECTIONS = 128


class ScoreServer(ThreadingHTTPServer):
    """Serves a reward service until `stop`.

    Args:
      service: scores the images; the caller closes it.
      host, port: where to listen; port 0 takes a free one (`server_port`).
      token: what clients must send as `Authorization: Bearer TOKEN`; "" asks for none.
      max_bytes: most bytes of one request, and of the pixels of a PNG.

    Raises:
      UsageError: a host that others can reach, and no token.
      R1JaxError: the port is taken.
    """

    daemon_threads = True
    request_queue_size = _MAX_CONNECTIONS

    def __init__(
        self, service: RewardService, host: str = "127.0.0.1", port: int = 8400, token: str = "", max_bytes: int = 64 << 20
    ):
        if not token and not _is_loopback(host):
            raise UsageError(f"--host {host}: others can reach it; put a token into the variable {TOKEN_ENV} first")
        self.service, self.token, self.max_bytes = service, token, max_bytes
        self.codes: dict[int, int] = {}
        self._slots = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        self._condition = threading.Condition()
        self._under_way = 0
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise R1JaxError(f"cannot listen on {host}:{port}: {error.strerror}") from None

    @contextlib.contextmanager
    def one_request(self) -> Iterator[None]:
        """Counts a request as under way."""
        with self._condition:
            self._under_way += 1
        try:
            yield
        finally:
            with self._condition:
                self._under_way -= 1
                self._condition.notify_all()

    def count(self, code: int) -> None:
        """Counts an answer."""
        with self._condition:
            self.codes[code] = self.codes.get(code, 0) + 1

    def stop(self, patience_s: float = 30.0) -> None:
        """Accepts no more, lets requests under way end, and frees the port."""
        self.shutdown()
        deadline = time.monotonic() + patience_s
        with self._condition:
            self._condition.wait_for(lambda: not self._under_way, max(0.0, deadline - time.monotonic()))
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Refuses a connection beyond the limit instead of starting one more thread."""
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of ours."""
        logger.info("a connection broke", exc_info=True)


class _Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, code: int, message: str):
        super().__init__(message)
        self.code = code


class _Handler(BaseHTTPRequestHandler):
    server: ScoreServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "r1jax", ""
    timeout = 60.0  # of a client that sends nothing

    def do_GET(self) -> None:
        self._answer({"/healthz": self._health, "/metrics": self._metrics})

    def do_POST(self) -> None:
        self._answer({"/score": self._score})

    def _answer(self, routes: dict[str, Callable[[], tuple[str, bytes]]]) -> None:
        with self.server.one_request():
            code, kind = 200, "application/json"
            try:
                path = self.path.partition("?")[0]
                if path not in routes:
                    raise _Refused(404, f"no {self.command} {path}; there are POST /score, GET /healthz, GET /metrics")
                if path != "/healthz":
                    self._check_token()
                kind, body = routes[path]()
            except _Refused as refused:
                code, body = refused.code, json.dumps({"error": str(refused)}).encode()
                self.close_connection = True  # the body may be unread
            self.server.count(code)
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)

    def _check_token(self) -> None:
        given = self.headers.get("Authorization", "")
        if self.server.token and not hmac.compare_digest(given.encode(), f"Bearer {self.server.token}".encode()):
            raise _Refused(401, "want the header Authorization: Bearer TOKEN")

    def _health(self) -> tuple[str, bytes]:
        service = self.server.service
        return "application/json", json.dumps(
            {"status": "ok", "name": service.name, "version": service.version}
        ).encode()

    def _metrics(self) -> tuple[str, bytes]:
        return "text/plain; version=0.0.4", metrics_text(self.server.service.stats(), self.server.codes).encode()

    def _score(self) -> tuple[str, bytes]:
        images, service = self._images(), self.server.service
        found, problem = service.score_and_tell(images)
        scores = [float(score) if math.isfinite(score) else None for score in found]
        answer = {"scores": scores, "name": service.name, "version": service.version, "problem": problem}
        return "application/json", json.dumps(answer).encode()

    def _images(self) -> UInt8[np.ndarray, "b h w 3"]:
        body, kind = self._body(), self.headers.get("Content-Type", "").partition(";")[0].strip()
        if kind == "application/octet-stream":
            return _raw_images(body, self.headers.get(SHAPE_HEADER, ""))
        if kind == "image/png":
            return _png_image(body, self.server.max_bytes)
        raise _Refused(415, f"Content-Type {kind!r}: want application/octet-stream with {SHAPE_HEADER}, or image/png")

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit():
            raise _Refused(411, "want a Content-Length")
        if int(length) > self.server.max_bytes:
            raise _Refused(413, f"{length} bytes; the limit is {self.server.max_bytes}")
        body = self.rfile.read(int(length))
        if len(body) != int(length):
            raise _Refused(400, f"half a body: {len(body)} of {length} bytes")
        return body

    def log_message(self, format: str, *args: Any) -> None:
        logger.info(format, *args)


def _raw_images(body: bytes, shape_text: str) -> UInt8[np.ndarray, "b h w 3"]:
    try:
        shape = tuple(int(part) for part in shape_text.split(","))
    except ValueError:
        shape = ()
    if len(shape) != 4 or shape[3] != 3 or min(shape) < 1 or math.prod(shape) != len(body):
        raise _Refused(400, f"{SHAPE_HEADER} {shape_text!r} does not fit {len(body)} bytes; want B,H,W,3")
    return np.frombuffer(body, np.uint8).reshape(shape)


def _png_image(body: bytes, max_bytes: int) -> UInt8[np.ndarray, "1 h w 3"]:
    from r1jax.images.decode import Undecodable, decode

    if not body.startswith(b"\x89PNG\r\n\x1a\n"):
        raise _Refused(400, "the body is no PNG")
    width, height = int.from_bytes(body[16:20]), int.from_bytes(body[20:24])  # of the header, before anything is decoded
    if 3 * width * height > max_bytes:
        raise _Refused(413, f"{width}x{height} pixels are more than {max_bytes} bytes, the limit")
    try:
        return decode(io.BytesIO(body)).pixels[None]
    except (Undecodable, ImageError, OSError, ValueError, SyntaxError) as error:
        raise _Refused(400, f"the body is no readable PNG ({error})") from None


def metrics_text(stats: dict[str, float | int | str], codes: dict[int, int]) -> str:
    """Returns a service's statistics in Prometheus' text format."""
    lines = []
    for name in ("requests", "hits", "scored", "failed", "refused", "restarts"):
        lines += [f"# TYPE r1jax_scorer_{name}_total counter", f"r1jax_scorer_{name}_total {stats[name]}"]
    lines += ["# TYPE r1jax_scorer_busy_seconds_total counter", f"r1jax_scorer_busy_seconds_total {stats['busy_s']}"]
    lines += ["# TYPE r1jax_scorer_latency_seconds gauge"]
    for quantile, name in ((0.5, "latency_p50_s"), (0.95, "latency_p95_s")):
        value = float(stats[name])
        lines += [f'r1jax_scorer_latency_seconds{{quantile="{quantile}"}} {value if math.isfinite(value) else "NaN"}']
    lines += ["# TYPE r1jax_scorer_http_responses_total counter"]
    lines += [f'r1jax_scorer_http_responses_total{{code="{code}"}} {count}' for code, count in sorted(codes.items())]
    return "\n".join(lines) + "\n"


def serve(server: ScoreServer, ready: Callable[[str], None]) -> None:
    """Serves until SIGINT or SIGTERM, then ends cleanly; `ready` is told the URL."""
    stopping = threading.Event()
    before = {number: signal.signal(number, lambda *_: stopping.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    thread = threading.Thread(target=server.serve_forever, name="r1jax-score-server", daemon=True)
    thread.start()
    try:
        host = str(server.server_address[0])
        ready(f"http://{f'[{host}]' if ':' in host else host}:{server.server_port}")
        stopping.wait()
    finally:
        server.stop()
        for number, handler in before.items():
            signal.signal(number, handler)


def token_from_environment() -> str:
    """Returns the token that clients must send; "" for none."""
    return os.environ.get(TOKEN_ENV, "")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
