"""Scorers behind an OpenAI-compatible server, here a fake one in this process that can fail in every way."""

import math
import pathlib
import sys
import time

import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from fake_server import Fake

from r1jax.errors import UsageError
from r1jax.reward import RewardService
from r1jax.reward.http import HTTPScorer, level_logprob
from r1jax.reward.scorer import score_safely

pytestmark = pytest.mark.timeout(60)
KEY = "sk-very-secret"


def expected(image):
    logits = np.array([-4.0 * abs(image.mean() / 255 - (4 - i) / 4) for i in range(5)])
    share = np.exp(logits) / np.exp(logits).sum()
    return float(share @ [5, 4, 3, 2, 1])


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


def test_a_kept_connection_that_the_server_closed_is_no_failed_attempt():
    with Fake() as server:
        scorer = built(server, max_in_flight=3, retries=0)
        scorer.score(images(6))
        server.hang_up()
        before = server.connections
        np.testing.assert_allclose(scorer.score(images(1)), [expected(images(1)[0])], atol=1e-6)
        assert server.connections == before + 1
        server.hang_up()
        server.faults.append("half")  # a fresh connection that breaks is one
        assert math.isnan(scorer.score(images(1))[0])


@pytest.mark.parametrize("fault", [500, 429, "garbage", "half", "hang", "drip", 400, {"I": 0.0}])
def test_a_lasting_fault_costs_its_image_only(fault, capsys):
    with Fake(*[fault] * 3) as server:
        scorer = built(server, retries=2, timeout_s=3 if fault in ("hang", "drip") else 20, max_in_flight=1)
        start = time.monotonic()
        bad = scorer.score(images(1))
        assert time.monotonic() - start < 15
        assert math.isnan(bad[0])
        scores, problem = score_safely(scorer, images(1) * 0 + 255)
        if fault in (400, {"I": 0.0}):
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


def test_white_space_that_a_server_leaves_out_does_not_matter():
    found = {"good": -1.0, "excell": -2.0, " fair": -3.0, "fair": -9.0}
    levels = (" excellent", " good", " fair")
    assert [level_logprob(level, found, levels) for level in levels] == [-2.0, -1.0, -3.0]
    assert level_logprob("Good", {" Good": -1.0}, ("Good", "Bad")) == -1.0


@pytest.mark.parametrize(
    ("levels", "line"),
    [
        ((" excellent", " excessive"), "several level words begin with the token ' exc'"),
        ((" bright", " dark"), "no level word is among the likeliest tokens"),
    ],
)
def test_levels_that_an_answer_cannot_tell_apart_are_a_missing_score(levels, line):
    with Fake({" excellent": -3.0, " exc": -1.0}) as server:
        scorer = built(server, levels=levels, weights=(2, 1), retries=3)
        assert math.isnan(scorer.score(images(1))[0]) and line in scorer.last_problem
        assert len(server.requests) == 1


def test_a_server_without_log_probabilities_is_said_at_once():
    with Fake({}) as server:
        scorer = built(server, retries=3)
        assert math.isnan(scorer.score(images(1))[0])
        assert "this server gives no log-probabilities" in scorer.last_problem and len(server.requests) == 1


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
