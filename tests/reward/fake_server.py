"""An OpenAI-compatible server that can fail in every way."""

import base64
import contextlib
import io
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

from r1jax.reward.levels import LEVELS


def answer(image):
    """What a model might say: the brighter, the better. Other tokens stand among the level words."""
    brightness = image.mean() / 255
    levels = {word: -4.0 * abs(brightness - (4 - i) / 4) for i, word in enumerate(LEVELS)}
    return completion({" the": -0.1, **levels})


def completion(found):
    """A chat completion that names the log-probabilities `found`; none at all if it is empty."""
    named = [{"token": token, "logprob": value} for token, value in found.items()]
    logprobs = {"content": [{"token": " the", "top_logprobs": named}]} if found else None
    return json.dumps({"choices": [{"message": {"content": " the"}, "logprobs": logprobs}]}).encode()


class Fake(ThreadingHTTPServer):
    """Answers with `faults` one after another, then as a model does, but for images of which `fault_of` tells a fault.

    A fault is a status, a name of `Handler.do_POST`, or the log-probabilities to answer with.
    """

    daemon_threads = True

    def __init__(self, *faults, fault_of=lambda image: None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.fault_of = fault_of
        self.faults, self.requests, self.connections = list(faults), [], 0
        self.sockets = []
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def process_request(self, request, client_address):
        self.connections += 1
        self.sockets.append(request)
        super().process_request(request, client_address)

    def hang_up(self):
        """Closes all connections, as a server does with those that were idle for long."""
        for opened in self.sockets:
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
        self.sockets.clear()

    def handle_error(self, request, client_address):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        server, body = self.server, self.rfile.read(int(self.headers["Content-Length"]))
        with server.lock:
            server.requests.append((self.path, dict(self.headers), json.loads(body)))
            fault = server.faults.pop(0) if server.faults else None
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
        time.sleep(0.01)
        url = json.loads(body)["messages"][0]["content"][0]["image_url"]["url"]
        image = np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))
        fault = server.fault_of(image) if fault is None else fault
        good = answer(image)
        status, text, claimed = 200, good, len(good)
        if fault == "hang":
            time.sleep(30)
        elif fault == "drip":
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            for _ in range(300):
                self.wfile.write(b" ")
                time.sleep(0.1)
        elif fault == "half":
            text = good[: len(good) // 2]
            self.close_connection = True
        elif fault == "garbage":
            text, claimed = b"<html>\xff", 7
        elif isinstance(fault, dict):
            text = completion(fault)
            claimed = len(text)
        elif fault is not None:
            status, text = fault, f"bad {self.headers.get('Authorization')}".encode()
            claimed = len(text)
        with server.lock:
            server.under_way -= 1
        self.send_response(status)
        self.send_header("Content-Length", str(claimed))
        if status == 429:
            self.send_header("Retry-After", "0.3")
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args):
        pass
