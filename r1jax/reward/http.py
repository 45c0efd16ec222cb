"""Scorers behind an OpenAI-compatible server (vLLM, SGLang): chat completions with log-probabilities.

One token is asked for, and the score is read from the log-probabilities of the level words (`r1jax.reward.levels`), so that
it does not depend on sampling. Images travel as PNG: a JPEG would erase what the agent should learn to remove.

`transformers serve` takes no part: up to 5.23 it returns no log-probabilities. `r1jax serve-scorer` serves its models.
"""

import base64
import hashlib
import io
import itertools
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from r1jax.errors import UsageError
from r1jax.reward import levels as words
from r1jax.reward.http_client import Endpoint, RequestFailed
from r1jax.reward.levels import Rating
from r1jax.reward.scorer import register_scorer

# vLLM and SGLang then go on with the last message instead of beginning another.
_CONTINUE: dict[str, Any] = {"add_generation_prompt": False, "continue_final_message": True}
_NEGLIGIBLE = 0.01  # of the likeliest level word's probability


@register_scorer("http")
class HTTPScorer:
    """Rates images by a model behind one or several servers.

    Args:
      model: its name at the server.
      endpoints: base URLs, such as http://gpu1:8000/v1. Requests go to them in turn, a repeated one to the next.
      prompt, prefix, levels, weights: see `Rating`.
      key_env: environment variable that holds the key, if the server wants one. The key is never logged.
      max_in_flight: most requests under way at once, all servers together.
      timeout_s: for one call of `score`, repetitions included; keep it below reward.timeout_s.
      retries: how often a request is repeated that met 429, 5xx, a broken connection or half an answer.
      backoff_s: wait before the first repetition; it doubles each time. A longer Retry-After is obeyed.
      top_logprobs: how many of the likeliest tokens the server names; a level that is not among them counts as 0.
      extra: fields to add to the request; None removes one.
      version: what to change when the server gets other weights under the same name: it is part of the cache's key.

    Raises:
      UsageError: an argument has no meaning.
    """

    def __init__(
        self,
        model: str,
        endpoints: str | Sequence[str] = ("http://127.0.0.1:8000/v1",),
        prompt: str = words.QUESTION,
        prefix: str = words.ANSWER,
        levels: Sequence[str] = words.LEVELS,
        weights: Sequence[float] = words.WEIGHTS,
        key_env: str = "OPENAI_API_KEY",
        max_in_flight: int = 16,
        timeout_s: float = 50.0,
        retries: int = 4,
        backoff_s: float = 0.5,
        top_logprobs: int = 20,
        extra: Mapping[str, Any] | None = None,
        version: str = "",
    ):
        self.rating = Rating(prompt, prefix, tuple(levels), tuple(weights))
        urls = [endpoints] if isinstance(endpoints, str) else list(endpoints)
        if not urls or max_in_flight < 1 or timeout_s <= 0 or retries < 0:
            raise UsageError(f"endpoints={urls}, max_in_flight={max_in_flight}, timeout_s={timeout_s}: too little")
        self._endpoints = [Endpoint(url, "endpoints") for url in urls]
        self._turn = itertools.count()
        self._key = os.environ.get(key_env, "")
        self._pool = ThreadPoolExecutor(max_in_flight, thread_name_prefix="r1jax-http-scorer")
        self._timeout_s, self._retries, self._backoff_s = timeout_s, retries, backoff_s
        self._fields: dict[str, Any] = {"model": model, "max_tokens": 1, "temperature": 0}
        self._fields |= {"logprobs": True, "top_logprobs": top_logprobs} | _CONTINUE | dict(extra or {})
        self.last_problem = ""
        self.name = model
        what = json.dumps([prompt, prefix, levels, weights, self._fields], default=str)
        self.version = version + hashlib.sha256(what.encode()).hexdigest()[:12]

    def score(self, images: UInt8[np.ndarray, "b h w 3"]) -> Float32[np.ndarray, " b"]:
        """Returns one score an image; NaN where no server gave one, and `last_problem` says why."""
        deadline = time.monotonic() + self._timeout_s
        return np.array(list(self._pool.map(lambda image: self._score_one(image, deadline), images)), np.float32)

    def _score_one(self, image: UInt8[np.ndarray, "h w 3"], deadline: float) -> float:
        body = json.dumps(self._request(image)).encode()
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        first = next(self._turn)
        for attempt in range(self._retries + 1):
            endpoint = self._endpoints[(first + attempt) % len(self._endpoints)]
            try:
                answer = endpoint.request("POST", "/chat/completions", body, headers, deadline)
                return float(self.rating.score(self._logits(answer, endpoint.url)[None])[0])
            except RequestFailed as failed:
                wait_s = max(failed.wait_s, self._backoff_s * 2**attempt)
                if not failed.again or attempt == self._retries or time.monotonic() + wait_s >= deadline:
                    return self._missing(str(failed))
                time.sleep(wait_s)
        raise AssertionError("unreachable")

    def _missing(self, problem: str) -> float:
        self.last_problem = problem.replace(self._key, "***") if self._key else problem
        print(f"no score: {self.last_problem}", flush=True)
        return math.nan

    def _request(self, image: UInt8[np.ndarray, "h w 3"]) -> dict[str, Any]:
        png = io.BytesIO()
        Image.fromarray(image).save(png, "PNG", compress_level=1)
        url = "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": self.rating.prompt}]
        messages = [{"role": "user", "content": content}, {"role": "assistant", "content": self.rating.prefix}]
        fields = {**self._fields, "messages": messages}
        return {name: value for name, value in fields.items() if value is not None}

    def _logits(self, answer: bytes, url: str) -> np.ndarray:
        """Returns the log-probability of each level, -inf for one that is not named."""
        try:
            told = json.loads(answer)["choices"][0]["logprobs"]
            named = told["content"][0]["top_logprobs"] if told else None
            found = {str(entry["token"]): float(entry["logprob"]) for entry in named or ()}
        except (ValueError, KeyError, IndexError, TypeError):
            raise RequestFailed(f"{url}: the answer is no chat completion with log-probabilities", again=True) from None
        if named is None:
            raise RequestFailed(f"{url}: this server gives no log-probabilities; vLLM and SGLang do", again=False)
        logits = np.array([level_logprob(level, found, self.rating.levels) for level in self.rating.levels])
        if not np.isfinite(logits.max()):
            raise RequestFailed(f"{url}: no level word is among the likeliest tokens ({_likeliest(found)})", again=False)
        if shared := _undecided(found, self.rating.levels, logits.max()):
            raise RequestFailed(f"{url}: several level words begin with the token {shared!r}; choose others", again=False)
        return logits


def level_logprob(level: str, found: Mapping[str, float], levels: Sequence[str]) -> float:
    """Returns the log-probability of a level word: of the word itself, else of its longest beginning that is its alone.

    White space before a word counts only where the word is named with it: some tokenizers keep none when they decode one
    token, and some chat templates cut it off the begun answer.
    """
    if level in found:
        return found[level]
    own = [token for token in found if _begun_by(token, levels) == [level]]
    return found[max(own, key=lambda token: len(token.lstrip()))] if own else -math.inf


def _begun_by(token: str, levels: Sequence[str]) -> list[str]:
    """Returns the level words that a token begins; none for white space."""
    start = token.lstrip()
    return [level for level in levels if start and level.lstrip().startswith(start)]


def _undecided(found: Mapping[str, float], levels: Sequence[str], best: float) -> str:
    """Returns a token that begins several level words and is likely enough to matter, or ""."""
    matters = best + math.log(_NEGLIGIBLE)
    shared = [t for t in found if t not in levels and len(_begun_by(t, levels)) > 1 and found[t] > matters]
    return max(shared, key=lambda token: found[token], default="")


def _likeliest(found: Mapping[str, float]) -> str:
    return ", ".join(repr(token) for token in sorted(found, key=lambda token: -found[token])[:5])
