"""HTTP for scorers behind a server: kept connections, one deadline for everything, errors that say whether to try again.

The standard library only. Nothing here logs a header, and no message contains a secret.
"""

import contextlib
import http.client
import queue
import socket
import ssl
import time
import urllib.parse
import weakref
from collections.abc import Mapping

from r1jax.errors import UsageError

_MAX_BODY = 16 << 20  # bytes of an answer


class RequestFailed(Exception):
    """A request brought no usable answer.

    Attributes:
      again: whether the same request may succeed later.
      wait_s: how long the server asked to wait; 0 if it did not say.
    """

    def __init__(self, message: str, again: bool, wait_s: float = 0.0):
        super().__init__(message)
        self.again, self.wait_s = again, wait_s


class Endpoint:
    """One server, with connections that are kept open between requests. Thread-safe.

    Args:
      url: http://HOST:PORT/PREFIX.
      field: what the URL is called in messages.

    Raises:
      UsageError: the URL is none, or has a password in it.
    """

    def __init__(self, url: str, field: str):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{field}: {url!r} is no URL; want http://HOST:PORT")
        if parts.username or parts.password:
            raise UsageError(f"{field}: no passwords in the URL; put the key into an environment variable")
        self.url, self._prefix = url.rstrip("/"), parts.path.rstrip("/")
        self._host, self._port, self._tls = parts.hostname, parts.port, parts.scheme == "https"
        self._idle: queue.LifoQueue[http.client.HTTPConnection] = queue.LifoQueue()
        weakref.finalize(self, _close_all, self._idle)

    def request(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str], deadline: float
    ) -> bytes:
        """Returns the body of a 200 answer that is complete before `deadline` (`time.monotonic()` seconds).

        Raises:
          RequestFailed: anything else.
        """
        connection = self._connection()
        kept = connection.sock is not None
        try:
            try:
                answer = self._ask(connection, method, path, body, headers, deadline)
            except (ConnectionError, ssl.SSLError):
                if not kept:
                    raise
                # The server hung up while it was idle, so others as well: that is no failed attempt. It connects anew.
                connection.close()
                _close_all(self._idle)
                answer = self._ask(connection, method, path, body, headers, deadline)
            text = _read(answer, connection, deadline)
        except RequestFailed:
            connection.close()
            raise
        except (OSError, http.client.HTTPException, ssl.SSLError) as error:
            connection.close()
            kind = "timed out" if isinstance(error, TimeoutError | socket.timeout) else type(error).__name__
            raise RequestFailed(f"{self.url}: {kind}", again=True) from None
        if answer.will_close:
            connection.close()
        else:
            self._idle.put(connection)
        if answer.status != 200:
            again = answer.status in (408, 409, 425, 429) or answer.status >= 500
            raise RequestFailed(f"{self.url}: status {answer.status}{_said(text)}", again, _retry_after(answer))
        return text

    def _ask(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        deadline: float,
    ) -> http.client.HTTPResponse:
        """Sends a request and returns the answer, its body unread."""
        connection.timeout = _left(deadline)
        if connection.sock:
            connection.sock.settimeout(connection.timeout)
        connection.request(method, self._prefix + path, body, dict(headers))
        return connection.getresponse()

    def _connection(self) -> http.client.HTTPConnection:
        with contextlib.suppress(queue.Empty):
            return self._idle.get_nowait()
        kind = http.client.HTTPSConnection if self._tls else http.client.HTTPConnection
        return kind(self._host, self._port)


def _close_all(idle: "queue.LifoQueue[http.client.HTTPConnection]") -> None:
    with contextlib.suppress(queue.Empty):
        while True:
            idle.get_nowait().close()


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _read(answer: http.client.HTTPResponse, connection: http.client.HTTPConnection, deadline: float) -> bytes:
    """Reads the body, however slowly it comes, to the deadline; half a body is an error."""
    expected, parts, size = answer.length, [], 0
    while part := answer.read1(1 << 16):
        parts.append(part)
        size += len(part)
        if size > _MAX_BODY:
            raise RequestFailed(f"the answer has more than {_MAX_BODY >> 20} MiB", again=False)
        if connection.sock:
            connection.sock.settimeout(_left(deadline))
    if expected is not None and size < expected:
        raise RequestFailed(f"half an answer: {size} of {expected} bytes", again=True)
    answer.close()  # only then can the connection carry another request
    return b"".join(parts)


def _said(text: bytes) -> str:
    line = " ".join(text[:200].decode(errors="replace").split())
    return f": {line}" if line else ""


def _retry_after(answer: http.client.HTTPResponse) -> float:
    try:
        return max(0.0, float(answer.headers.get("Retry-After", "0")))
    except ValueError:  # a date
        return 0.0
