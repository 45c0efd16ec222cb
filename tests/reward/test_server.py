"""`r1jax serve-scorer`: what it answers, what it refuses, how it ends; and training through it."""

import json
import os
import pathlib
import pickle
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest

from r1jax.errors import R1JaxError, UsageError
from r1jax.reward import RewardService, scorer
from r1jax.reward.remote import RemoteScorer
from r1jax.reward.server import TOKEN_ENV, ScoreServer

FILE = pathlib.Path(__file__).with_name("scorers.py")


@pytest.fixture
def serve():
    """Starts servers around scorers of scorers.py in this process; returns their URL."""
    opened = []

    def start(name="Brightness", token="", **options):
        service = RewardService(f"{FILE}:{name}", timeout_s=20, worker=False)
        server = ScoreServer(service, port=0, token=token, **options)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        opened.append((server, service))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, service in opened:
        server.stop()
        service.close()


def images(num, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num, 8, 6, 3), dtype=np.uint8)


def ask(url, body=None, **headers):
    """Returns (status, text)."""
    request = urllib.request.Request(url, data=body, headers={k.replace("_", "-"): v for k, v in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


RAW = {"Content_Type": "application/octet-stream"}


def test_the_client_gets_the_scorers_scores_name_and_version(serve):
    client = RemoteScorer(serve())
    batch = images(5)
    np.testing.assert_array_equal(client.score(batch), scorer(f"{FILE}:Brightness").score(batch))
    assert client.name == "Brightness" and client.version.startswith("0+")


def test_a_missing_score_stays_missing(serve):
    url = serve("NotANumber")
    batch = images(3)
    batch[1, 0, 0, 0], batch[0, 0, 0, 0], batch[2, 0, 0, 0] = 13, 0, 0
    scores = RemoteScorer(url).score(batch)
    assert np.isnan(scores).tolist() == [False, True, False]
    status, text = ask(f"{url}/score", batch[1:2].tobytes(), X_Image_Shape="1,8,6,3", **RAW)
    assert status == 200 and json.loads(text)["scores"] == [None] and "nan" in json.loads(text)["problem"]


def test_the_problem_is_that_of_the_call():
    wide = np.zeros((1, 200, 300, 3), np.uint8)
    with RewardService(f"{FILE}:NotANumber", timeout_s=20, worker=False, capacity_bytes=1 << 16) as service:
        assert np.isnan(service.score(np.full((1, 8, 8, 3), 13, np.uint8)))
        scores, problem = service.score_and_tell(wide)
        assert np.isnan(scores).all() and "no room" in problem and "nan" in service.stats()["last_error"]
        assert service.score_and_tell(wide[:, :9, :9])[1] == ""


def test_a_later_part_without_a_problem_does_not_hide_an_earlier_one(serve, monkeypatch):
    monkeypatch.setattr("r1jax.reward.remote._MAX_REQUEST", 1)  # one image at once
    client, batch = RemoteScorer(serve("NotANumber")), images(2)
    batch[:, 0, 0, 0] = 13, 0
    assert np.isnan(client.score(batch)).tolist() == [True, False] and "nan" in client.last_problem
    client.score(batch[1:])
    assert client.last_problem == ""


def test_png_health_and_metrics(serve, tmp_path):
    from r1jax.images.io import write_image

    url, image = serve(), images(1)[0]
    write_image(tmp_path / "a.png", image)
    status, text = ask(f"{url}/score", (tmp_path / "a.png").read_bytes(), Content_Type="image/png")
    assert status == 200
    np.testing.assert_allclose(json.loads(text)["scores"], scorer(f"{FILE}:Brightness").score(image[None]))
    status, text = ask(f"{url}/healthz")
    assert status == 200 and json.loads(text)["status"] == "ok" and json.loads(text)["name"] == "Brightness"
    ask(f"{url}/nothing")
    status, text = ask(f"{url}/metrics")
    lines = text.splitlines()
    assert "r1jax_scorer_requests_total 1" in lines and "r1jax_scorer_scored_total 1" in lines
    assert 'r1jax_scorer_http_responses_total{code="404"} 1' in lines
    assert any(line.startswith('r1jax_scorer_latency_seconds{quantile="0.95"} 0.') for line in lines)
    assert any(line.startswith("r1jax_scorer_busy_seconds_total ") for line in lines)


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/nothing", b"x", RAW, 404),
        ("/score", b"x" * 2000, {**RAW, "X_Image_Shape": "1,10,10,3"}, 413),
        ("/score", b"x" * 12, {**RAW, "X_Image_Shape": "1,2,2,4"}, 400),
        ("/score", b"x" * 12, {**RAW, "X_Image_Shape": "1,2,-2,-3"}, 400),
        ("/score", b"x" * 12, {**RAW, "X_Image_Shape": "many"}, 400),
        ("/score", b"x" * 12, RAW, 400),
        ("/score", b"x" * 12, {"Content_Type": "application/python-pickle"}, 415),
        ("/score", b"x" * 12, {"Content_Type": "image/png"}, 400),
        ("/score", b"\x89PNG\r\n\x1a\nxxxx", {"Content_Type": "image/png"}, 400),
    ],
)
def test_wrong_requests_are_refused_with_a_line(path, body, headers, status, serve):
    url = serve(max_bytes=1000)
    code, text = ask(url + path, body, **headers)
    assert code == status and "\n" not in json.loads(text)["error"]
    assert ask(f"{url}/healthz")[0] == 200  # and the server goes on


def raw_request(url, text):
    """Sends bytes and the end of the stream; returns all that comes back."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(text)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(4096), b""))


def test_half_a_body_and_one_of_unknown_length_are_refused(serve):
    url = serve(max_bytes=1000)
    head = b"POST /score HTTP/1.1\r\nContent-Type: application/octet-stream\r\nX-Image-Shape: 1,2,2,3\r\n"
    assert b" 400 " in raw_request(url, head + b"Content-Length: 12\r\n\r\nxxx").splitlines()[0]
    chunked = b"Transfer-Encoding: chunked\r\n\r\nc\r\nxxxxxxxxxxxx\r\n0\r\n\r\n"
    assert b" 411 " in raw_request(url, head + chunked).splitlines()[0]
    assert ask(f"{url}/score", b"x" * 12, X_Image_Shape="1,2,2,3", **RAW)[0] == 200


def test_a_small_png_that_announces_a_huge_image_is_refused(serve):
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    status, text = ask(f"{serve()}/score", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + header, Content_Type="image/png")
    assert status == 413 and "60000x60000 pixels" in json.loads(text)["error"]


class Planted:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["application/octet-stream", "image/png", "application/python-pickle", "application/json"])
def test_nothing_that_is_sent_is_unpickled(kind, serve, tmp_path):
    url, body = serve(), pickle.dumps(Planted(tmp_path / "planted"))
    body += bytes(-len(body) % 3)
    ask(f"{url}/score", body, Content_Type=kind, X_Image_Shape=f"1,1,{len(body) // 3},3")
    assert not (tmp_path / "planted").exists()
    pickle.loads(body)
    assert (tmp_path / "planted").exists()  # it would have been


def test_connections_beyond_the_limit_are_closed_and_the_rest_served(serve, monkeypatch):
    monkeypatch.setattr("r1jax.reward.server._MAX_CONNECTIONS", 2)
    url = serve()
    address = ("127.0.0.1", int(url.rpartition(":")[2]))
    with socket.create_connection(address, timeout=10), socket.create_connection(address, timeout=10):
        with socket.create_connection(address, timeout=10) as third:
            assert third.recv(100) == b""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:  # until both are noticed to be gone
        try:
            assert ask(f"{url}/healthz")[0] == 200
            return
        except OSError:
            time.sleep(0.05)
    pytest.fail("no connection is free")


def test_a_token_is_wanted_where_one_is_set(serve, monkeypatch):
    url = serve(token="open sesame")
    assert ask(f"{url}/metrics")[0] == 401 and ask(f"{url}/healthz")[0] == 200
    assert ask(f"{url}/score", b"x" * 12, X_Image_Shape="1,2,2,3", **RAW)[0] == 401
    assert ask(f"{url}/metrics", Authorization="Bearer wrong")[0] == 401
    assert ask(f"{url}/metrics", Authorization="Bearer open sesame")[0] == 200
    without = RemoteScorer(url)
    assert np.isnan(without.score(images(2))).all() and "status 401" in without.last_problem
    monkeypatch.setenv(TOKEN_ENV, "open sesame")
    assert np.isfinite(RemoteScorer(url).score(images(1))).all()


def test_a_server_that_serves_other_weights_now_is_an_error_and_no_score(tmp_path):
    with RewardService(f"{FILE}:Brightness", worker=False) as service:
        server = ScoreServer(service, port=0)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        client, first = RemoteScorer(url), service.version
        with RewardService("remote", worker=False, cache_dir=tmp_path, options={"url": url}) as training:
            assert np.isfinite(training.score(images(2))).all()
            service.version = "other weights"
            line = f"{url}: the scorer changed while it ran: Brightness {first} before, Brightness other weights now"
            with pytest.raises(R1JaxError) as caught:
                client.score(images(1, seed=1))
            assert str(caught.value) == line
            assert np.isnan(training.score(images(2, seed=1))).all() and line in training.stats()["last_error"]
            service.version = first
            assert np.isfinite(training.score(images(2, seed=2))).all()
        with RewardService("remote", worker=False, cache_dir=tmp_path, options={"url": url}) as again:
            again.score(np.concatenate([images(2), images(2, seed=1), images(2, seed=2)]))
            assert again.stats()["hits"] == 4  # nothing was kept of the other weights
        server.stop()


def test_off_loopback_a_token_is_a_must():
    with RewardService(f"{FILE}:Brightness", worker=False) as service:
        with pytest.raises(UsageError, match=f"put a token into the variable {TOKEN_ENV}"):
            ScoreServer(service, host="0.0.0.0", port=0)
        ScoreServer(service, host="0.0.0.0", port=0, token="open sesame").server_close()


def test_a_server_that_is_not_there_is_one_line():
    with pytest.raises(R1JaxError, match="start one with: r1jax serve-scorer"):
        RemoteScorer("http://127.0.0.1:1", retries=0)


@pytest.fixture
def started(tmp_path):
    """The command itself, in a process of its own."""
    processes = []

    def start(*arguments):
        command = [sys.executable, "-m", "r1jax", "serve-scorer", "--port", "0", "--json", *arguments]
        env = os.environ | {"JAX_PLATFORMS": "cpu"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
        processes.append(process)
        line = process.stdout.readline()
        assert line, process.stderr.read()
        return process, json.loads(line)["url"]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_the_command_serves_and_ends_cleanly(started):
    process, url = started("--scorer", f"{FILE}:Slow")
    assert url.startswith("http://127.0.0.1:")  # loopback, unless told otherwise
    client = RemoteScorer(url, backoff_s=0.05)
    got = []
    thread = threading.Thread(target=lambda: got.append(client.score(images(2))))
    thread.start()
    time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    thread.join(20)
    np.testing.assert_array_equal(got[0], scorer(f"{FILE}:Brightness").score(images(2)))
    assert process.wait(20) == 0
    assert process.stderr.read() == ""
    start = time.monotonic()
    assert np.isnan(client.score(images(2, seed=1))).all() and "ConnectionRefused" in client.last_problem
    assert time.monotonic() - start < 30


def test_training_through_the_server_equals_the_graph(started, tmp_path):
    from r1jax.config import Config, override
    from r1jax.training.loop import train

    _, url = started("--scorer", "lite", "--max-batch", "4")
    fields = {
        "env.toolbox": ("brighten", "clahe"), "env.horizon": 2, "data.crop": 32, "data.mixes": "dark",
        "agent.encoder": "pixels", "agent.hidden": (16,), "ppo.episodes": 4, "ppo.updates": 2, "eval.every": 0,
    }  # fmt: skip
    results = []
    for name, reward in {
        "graph": {"reward.mode": "graph"},
        "remote": {"reward.scorer": "remote", "reward.options.url": url, "reward.max_batch": 4},
    }.items():
        results.append(train(override(Config(), {**fields, **reward}), tmp_path / name, progress=False))
    graph, remote = results
    assert remote.history[-1]["missing_share"] == 0 and graph.history[0]["score_gain"] != 0
    for name, array in graph.agent.params.items():
        np.testing.assert_array_equal(remote.agent.params[name], array, err_msg=name)
