"""Scorers behind an OpenAI-compatible server, here a fake one in this process that can fail in every way."""

import base64
import io
import json
import math
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from r1jax.errors import UsageError
from r1jax.reward import RewardService
from r1jax.reward.http import HTTPScorer, level_logprob
from r1jax.reward.levels import LEVELS
from r1jax.reward.scorer import score_safely

pytestmark = pytest.mark.timeout(60)
KEY = "sk-very-secret"


def answer(image):
    """What a model might say: the brighter, the better. 'Ġ' tokens and others stand among the level words."""
    brightness = image.mean() / 255
    levels = {word: -4.0 * abs(brightness - (4 - i) / 4) for i, word in enumerate(LEVELS)}
    named = [{"token": token, "logprob": value} for token, value in {" the": -0.1, **levels}.items()]
    return {"choices": [{"logprobs": {"content": [{"token": " the", "top_logprobs": named}]}}]}


def expected(image):
    logits = np.array([-4.0 * abs(image.mean() / 255 - (4 - i) / 4) for i in range(5)])
    share = np.exp(logits) / np.exp(logits).sum()
    return float(share @ [5, 4, 3, 2, 1])


class Fake(ThreadingHTTPServer):
    """Answers with `faults` one after another, then as a model does."""

    daemon_threads = True

    def __init__(self, *faults):
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults, self.requests, self.connections = list(faults), [], 0
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def process_request(self, request, client_address):
        self.connections += 1
        super().process_request(request, client_address)

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
        good = json.dumps(answer(image)).encode()
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
        elif fault == "no levels":
            text = json.dumps({"choices": [{"logprobs": {"content": [{"top_logprobs": [{"token": "I", "logprob": 0}]}]}}]})
            text, claimed = text.encode(), len(text)
        elif fault:
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


def images(num, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (num, 1, 1, 3), np.uint8) + np.zeros((num, 9, 7, 3), np.uint8)


def built(server, **options):
    return HTTPScorer("q-sit", **{"endpoints": server.url, "timeout_s": 10, "backoff_s": 0.01, **options})


def test_scores_and_what_is_sent():
    batch = images(6)
    with Fake() as server:
        scorer = built(server, max_in_flight=3)
        np.testing.assert_allclose(scorer.score(batch), [expected(image) for image in batch], atol=1e-6)
        path, headers, request = server.requests[0]
        assert path == "/v1/chat/completions" and "Authorization" not in headers
        assert request["max_tokens"] == 1 and request["temperature"] == 0 and request["top_logprobs"] == 20
        assert request["messages"][1] == {"role": "assistant", "content": "The quality of the image is"}
        assert request["continue_final_message"] and not request["add_generation_prompt"]
        assert request["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
        assert server.most_under_way <= 3
        scorer.score(images(6, seed=1))
        assert server.connections <= 3  # kept open


@pytest.mark.parametrize("fault", [500, 503, 429, "garbage", "half"])
def test_a_passing_fault_is_tried_again(fault):
    with Fake(fault) as server:
        start = time.monotonic()
        np.testing.assert_allclose(built(server).score(images(1)), [expected(images(1)[0])], atol=1e-6)
        assert len(server.requests) == 2
        assert fault != 429 or time.monotonic() - start >= 0.3  # what the server asked for


@pytest.mark.parametrize("fault", [500, 429, "garbage", "half", "hang", "drip", 400, "no levels"])
def test_a_lasting_fault_costs_its_image_only(fault, capsys):
    with Fake(*[fault] * 3) as server:
        scorer = built(server, retries=2, timeout_s=3 if fault in ("hang", "drip") else 20, max_in_flight=1)
        start = time.monotonic()
        bad = scorer.score(images(1))
        assert time.monotonic() - start < 15
        assert math.isnan(bad[0])
        scores, problem = score_safely(scorer, images(1) * 0 + 255)
        if fault in (400, "no levels"):
            assert len(server.requests) == 2  # another try would not help
        server.faults.clear()
        np.testing.assert_allclose(scorer.score(images(2)), [expected(image) for image in images(2)], atol=1e-6)
    assert "no score" in capsys.readouterr().out
    if math.isnan(scores[0]):
        assert scorer.last_problem in problem and "\n" not in problem


def test_a_request_goes_on_to_the_next_server():
    with Fake(*[500] * 99) as broken, Fake() as working:
        scorer = built(working, endpoints=[broken.url, working.url, "http://127.0.0.1:1/v1"])
        batch = images(6)
        np.testing.assert_allclose(scorer.score(batch), [expected(image) for image in batch], atol=1e-6)
        assert broken.requests and working.requests


def test_the_key_is_sent_and_never_told(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Fake(*[401] * 9) as server:
        options = {"model": "q-sit", "endpoints": server.url, "timeout_s": 5}
        with RewardService("http", timeout_s=10, options=options, log_path=tmp_path / "log") as service:
            assert math.isnan(service.score(images(1))[0])
            stats = service.stats()
        assert server.requests[0][1]["Authorization"] == f"Bearer {KEY}"
    log = (tmp_path / "log").read_text()
    assert "status 401: bad Bearer ***" in log and "status 401" in stats["last_error"]
    for told in (log, str(stats), service.name, service.version, *capsys.readouterr()):
        assert KEY not in told


def test_a_word_of_several_tokens_counts_by_its_longest_beginning():
    levels = (" excellent", " good", " poor", " possible")
    found = {" excell": -1.0, " ex": -0.5, " ": -0.1, " po": -2.0, " good": -3.0}
    assert [level_logprob(level, found, levels) for level in levels] == [-1.0, -3.0, -math.inf, -math.inf]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"endpoints": "gpu1:8000"}, "'gpu1:8000' is no URL"),
        ({"endpoints": "http://me:pw@gpu1"}, "no passwords in the URL"),
        ({"endpoints": []}, "too little"),
        ({"max_in_flight": 0}, "too little"),
    ],
)
def test_wrong_options_are_one_line(options, line):
    with pytest.raises(UsageError, match=line):
        HTTPScorer("m", **options)


def test_the_version_follows_the_question():
    assert HTTPScorer("m").version != HTTPScorer("m", prompt="Good?").version
    assert HTTPScorer("m").version == HTTPScorer("m", endpoints="http://elsewhere:1").version
    assert HTTPScorer("m").version != HTTPScorer("m", version="2").version
