"""One document over HTTP, in a bounded time and of a bounded size, whatever the other end does.

The standard library's own time-out is for each read: who drips a byte a second would keep it for ever. So the whole has
a deadline, at which the connection is shut down under it, and its thread ends. Why not an HTTP client of asyncio: the
library's has proxies (``HTTPS_PROXY``) and the system's certificates, and costs no dependency.
"""

import asyncio
import contextlib
import functools
import http.client
import socket
import urllib.request
from collections.abc import Callable
from typing import Any, Final

from herenow.version import VERSION

USER_AGENT: Final = f"herenow/{VERSION}"
"""Some identity providers, and what stands before them, refuse who names none, or Python's own."""


class FetchFailed(Exception):
    """There is no document; the sentence says why."""


async def fetch(url: str, *, within_s: float, most: int, is_allowed: Callable[[str], bool]) -> bytes:
    """Return what is at an address.

    Args:
        url: where it is.
        within_s: seconds until it must all be there.
        most: bytes that it may have.
        is_allowed: whether a redirect may lead to an address.

    Raises:
        FetchFailed: it is not there, too slow, too large, or elsewhere.
    """
    get = _Get(url, within_s, most, is_allowed)
    try:
        async with asyncio.timeout(within_s):
            return await asyncio.to_thread(get.run)
    except TimeoutError as error:
        raise FetchFailed(f"it was not there within {within_s:g} s") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise FetchFailed(str(error) or type(error).__name__) from error
    finally:
        get.end()


class _Get:
    """One request, in a thread of its own, that can be ended from outside."""

    def __init__(self, url: str, within_s: float, most: int, is_allowed: Callable[[str], bool]) -> None:
        self._request = urllib.request.Request(url, headers={"User-Agent": USER_AGENT, "Accept": "application/json"})
        self._within_s = within_s
        self._most = most
        self._opener = urllib.request.build_opener(_Http(self._connect), _Https(self._connect), _Redirects(is_allowed))
        self._sockets: list[socket.socket] = []
        self._ended = False

    def run(self) -> bytes:
        with self._opener.open(self._request, timeout=self._within_s) as answer:
            body: bytes = answer.read(self._most + 1)
        if len(body) > self._most:
            raise FetchFailed(f"it has more than {self._most:,} bytes")
        return body

    def end(self) -> None:
        """Cut what is under way: the thread's read returns at once."""
        self._ended = True
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._sockets.clear()

    def _connect(self, *args: Any, **kwargs: Any) -> socket.socket:
        made = socket.create_connection(*args, **kwargs)
        # A second descriptor of the same connection: TLS takes the first one over, and closes it when it likes.
        self._sockets.append(made.dup())
        if self._ended:  # while it was being connected
            self.end()
        return made


class _Http(urllib.request.HTTPHandler):
    """Makes connections in our way; so does the next."""

    def __init__(self, connect: Callable[..., socket.socket]) -> None:
        super().__init__()
        self._connect = connect

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(functools.partial(_made, http.client.HTTPConnection, self._connect), req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, connect: Callable[..., socket.socket]) -> None:
        super().__init__()
        self._connect = connect

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(functools.partial(_made, http.client.HTTPSConnection, self._connect), req)


def _made(
    kind: type[http.client.HTTPConnection], connect: Callable[..., socket.socket], host: str, **options: Any
) -> http.client.HTTPConnection:
    connection = kind(host, **options)
    connection._create_connection = connect  # type: ignore[attr-defined]  # the library's own way in, for its tests
    return connection


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows those that lead to where the first address might have been: not from TLS to an open line."""

    def __init__(self, is_allowed: Callable[[str], bool]) -> None:
        self._is_allowed = is_allowed

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not self._is_allowed(newurl):
            raise FetchFailed(f"it leads to {newurl.partition('?')[0][:200]}, which is not safe")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
