"""A scorer that `r1jax serve-scorer` serves in another process or on another host."""

import json
import os
import time

import numpy as np
from jaxtyping import Float32, UInt8

from r1jax.errors import R1JaxError
from r1jax.reward.http_client import Endpoint, RequestFailed
from r1jax.reward.scorer import register_scorer
from r1jax.reward.server import SHAPE_HEADER, TOKEN_ENV

_MAX_REQUEST = 16 << 20  # bytes of images in one request; the server's limit is larger


@register_scorer("remote")
class RemoteScorer:
    """Asks a scoring server; its name and version are the served scorer's, so that both share cached scores.

    Args:
      url: http://HOST:PORT.
      token_env: environment variable with the server's token, if it wants one.
      timeout_s: for one call of `score`, repetitions included; keep it below reward.timeout_s.
      retries: how often a request is repeated that met 429, 5xx or a broken connection.
      backoff_s: wait before the first repetition; it doubles each time.

    Raises:
      R1JaxError: the server does not answer.
      UsageError: the URL is none.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8400",
        token_env: str = TOKEN_ENV,
        timeout_s: float = 50.0,
        retries: int = 4,
        backoff_s: float = 0.5,
    ):
        self._endpoint, self.last_problem = Endpoint(url, "url"), ""
        self._timeout_s, self._retries, self._backoff_s = timeout_s, retries, backoff_s
        token = os.environ.get(token_env, "")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            answer = self._request("GET", "/healthz", b"", {}, time.monotonic() + timeout_s)
            health = json.loads(answer)
            self.name, self.version = str(health["name"]), str(health["version"])
        except (RequestFailed, ValueError, KeyError, TypeError) as error:
            raise R1JaxError(f"no scoring server answers ({error}); start one with: r1jax serve-scorer") from None

    def score(self, images: UInt8[np.ndarray, "b h w 3"]) -> Float32[np.ndarray, " b"]:
        """Returns the served scorer's scores; NaN where it had none or no answer came, and `last_problem` says why.

        Raises:
          R1JaxError: the server serves another scorer now, or other weights: scores of two must not be mixed.
        """
        deadline, self.last_problem = time.monotonic() + self._timeout_s, ""
        at_once = max(1, _MAX_REQUEST // max(1, images[:1].nbytes))
        parts = [self._part(images[i : i + at_once], deadline) for i in range(0, len(images), at_once)]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def _part(self, images: UInt8[np.ndarray, "b h w 3"], deadline: float) -> Float32[np.ndarray, " b"]:
        shape = ",".join(map(str, images.shape))
        headers = {"Content-Type": "application/octet-stream", SHAPE_HEADER: shape}
        try:
            answer = self._request("POST", "/score", np.ascontiguousarray(images).tobytes(), headers, deadline)
            told = json.loads(answer)
            scores = np.array([np.nan if score is None else score for score in told["scores"]], np.float32)
            if scores.shape != (len(images),):
                raise ValueError(f"{scores.shape} scores for {len(images)} images")
            served = str(told["name"]), str(told["version"])
        except (RequestFailed, ValueError, KeyError, TypeError) as error:
            self.last_problem = f"scoring server: {error}"
            print(f"no score: {self.last_problem}", flush=True)
            return np.full(len(images), np.nan, np.float32)
        if served != (self.name, self.version):
            before, now = f"{self.name} {self.version}", " ".join(served)
            raise R1JaxError(f"{self._endpoint.url}: the scorer changed while it ran: {before} before, {now} now")
        self.last_problem = str(told.get("problem", "")) or self.last_problem
        return scores

    def _request(self, method: str, path: str, body: bytes, headers: dict[str, str], deadline: float) -> bytes:
        for attempt in range(self._retries + 1):
            try:
                return self._endpoint.request(method, path, body, {**headers, **self._headers}, deadline)
            except RequestFailed as failed:
                wait_s = max(failed.wait_s, self._backoff_s * 2**attempt)
                if not failed.again or attempt == self._retries or time.monotonic() + wait_s >= deadline:
                    raise
                time.sleep(wait_s)
        raise AssertionError("unreachable")
